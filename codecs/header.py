"""What a file says (`Header`), holds (`Stream`) and may declare (`Limits`); its refusals. No torch."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sigtok.codecs.entropy.packing import unpack

from .spec import AXES, CodecSpec, Extent, Modality, Rate

VERSION, FIXED_WIDTH = 1, 0  # of the format; of the only coding
MODALITIES = {name: number for number, name in enumerate(AXES, 1)}  # audio 1, image 2, features 3
MODALITY_NAMES = {number: name for name, number in MODALITIES.items()}
MOST = 2**32 - 1


class BitstreamError(ValueError):
    """Bytes that are no `.sgt` file, damaged, over a limit or another model's; the message has the offset."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most that a file may declare; checked before anything is allocated.

    Args:
        samples: Samples per channel of audio, frames of features.
        pixels: Height x width of an image.
        side: Height or width of an image.
        sample_rate: Hz.
        channels: Signal channels of audio and images.
        features: Channels of features.
        codebooks: Codebooks.
        codebook_size: Codes of one codebook, up to 2**32.
        tokens: Codes in all.
        header_bytes: Size of a container's header.
        chunk_bytes: Payload of one chunk.
    """

    samples: int = 2**48
    pixels: int = 100_000_000
    side: int = 65_535
    sample_rate: int = 768_000
    channels: int = 64
    features: int = 65_536
    codebooks: int = 64
    codebook_size: int = 2**20
    tokens: int = 2**31
    header_bytes: int = 2**16
    chunk_bytes: int = 2**24


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about its codes.

    Args:
        modality: "audio", "image" or "features".
        extent: ``(samples,)``, ``(height, width)`` or ``(frames,)`` of the signal without padding.
        rate: The operating point, resolved.
        stream_id: 16 bytes; its first 4 when a packet was read without the model's.
        channels: Signal channels; like the next four, None for a packet read without its model's spec.
        sample_rate: Hz or frames per second, None for images.
        hop: Samples, pixels or frames per position, along each axis.
        codebook_sizes: Codes K of the codebooks in use.
        strides: Positions per token of the codebooks in use.
        extras: Further fields of a container, (type, bytes), kept as they are.
        profile: "packet" or "container"; None lets `bitstream.write` choose.
        chunk_positions: Positions per chunk of a container; None lets `bitstream.write` choose.
    """

    modality: Modality
    extent: Extent
    rate: Rate
    stream_id: bytes
    channels: int | None = None
    sample_rate: int | None = None
    hop: tuple[int, ...] | None = None
    codebook_sizes: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    extras: tuple[tuple[int, bytes], ...] = ()
    profile: Literal["packet", "container"] | None = None
    chunk_positions: int | None = None

    @classmethod
    def of(cls, spec: CodecSpec, rate: Rate | None, extent: Extent, stream_id: bytes) -> Header:
        """The header of a signal's codes at one rate of one model."""
        header = cls(modality=spec.modality, extent=extent, rate=spec.resolve(rate), stream_id=stream_id)
        return header.with_spec(spec)

    def with_spec(self, spec: CodecSpec) -> Header:
        """The same header with what the model knows."""
        books = self.rate.codebooks
        return replace(
            self,
            channels=spec.channels,
            sample_rate=spec.sample_rate,
            hop=spec.hop,
            codebook_sizes=spec.codebook_sizes[:books],
            strides=spec.strides[:books],
        )

    @property
    def spec(self) -> CodecSpec:
        """The model as far as its codes show it: the codebooks, window and queries in use.

        Raises:
            ValueError: For a packet that was read without its model's spec.
        """
        if self.hop is None or self.channels is None or self.codebook_sizes is None or self.strides is None:
            raise ValueError("a packet leaves out what its model knows, got no spec; read it with spec=")
        assert self.rate.window is not None and self.rate.queries is not None
        return CodecSpec(
            name="",
            modality=self.modality,
            channels=self.channels,
            sample_rate=self.sample_rate,
            hop=self.hop,
            codebook_sizes=self.codebook_sizes,
            strides=self.strides,
            windows=(self.rate.window,),
            queries=self.rate.queries,
            latent_dim=1,
        )


@dataclass(frozen=True, eq=False)
class Stream:
    """One signal's codes: a header and one int64 array ``[N_q]`` per codebook in use."""

    header: Header
    codes: tuple[np.ndarray, ...]

    def check(self) -> None:
        """Raise ValueError unless the codes are as many as the header promises, each inside its codebook."""
        spec, extent = self.header.spec, self.header.extent
        expected = [(count,) for count in spec.token_counts(extent)]
        shapes = [codes.shape for codes in self.codes if codes.dtype.kind in "iu"]
        if shapes != expected:
            raise ValueError(f"extent {extent} at {self.header.rate} has integers {expected}, got {shapes}")
        for book, (codes, size) in enumerate(zip(self.codes, spec.codebook_sizes, strict=True)):
            if len(bad := np.flatnonzero((codes < 0) | (codes >= size))):
                raise ValueError(
                    f"codebook {book} has codes 0 to {size - 1}, got {codes[bad[0]]} at position {bad[0]}; "
                    f"absent codes (-1) cannot be stored, send a lower Rate instead"
                )


# -- checks of bytes: each raises BitstreamError with the offset and both numbers -------------------------


def take(data: bytes, offset: int, size: int, what: str) -> bytes:
    """Bytes of the file, if they are there."""
    if offset + size > len(data):
        here = max(0, len(data) - offset)
        raise BitstreamError(f"byte {offset}: {what} has {size} bytes, got {here}; the file is cut short")
    return data[offset : offset + size]


def check_end(data: bytes, end: int) -> None:
    """The file has exactly the bytes that its header needs."""
    if len(data) < end:
        raise BitstreamError(f"byte {len(data)}: the file has {end} bytes by its header; it is cut short")
    if len(data) > end:
        raise BitstreamError(f"byte {end}: the file ends here by its header, {len(data) - end} bytes follow")


def within(offset: int, name: str, value: int, least: int, most: int) -> None:
    """A number is inside its range."""
    if not least <= value <= most:
        raise BitstreamError(f"byte {offset}: {name} may be {least} to {most}, got {value}")


def same(offset: int, name: str, value: object, expected: object) -> None:
    """A field is the one that follows from the others."""
    if value != expected:
        raise BitstreamError(f"byte {offset}: {name} should be {expected!r}, got {value!r}")


def same_fields(data: bytes, offset: int, layout: struct.Struct, names: tuple[str, ...], right: tuple) -> None:
    """All fields of a structure are the ones that follow from what was read before."""
    values = layout.unpack(take(data, offset, layout.size, names[0]))
    for name, value, expected in zip(names, values, right, strict=True):
        same(offset, name, value, expected)


def unpack_codes(data: bytes, start: int, end: int, header: Header, counts: Extent) -> tuple[np.ndarray, ...]:
    """Codes of the payload between two offsets, each inside its codebook."""
    assert header.codebook_sizes is not None
    try:
        streams = unpack(data[start:end], counts, header.codebook_sizes)
    except ValueError as error:
        raise BitstreamError(f"byte {end - 1}: {error}") from None
    for book, (codes, size) in enumerate(zip(streams, header.codebook_sizes, strict=True)):
        if len(codes):
            within(start, f"codes of codebook {book}", int(codes.max()), 0, size - 1)
    return streams


def code_bytes(codes: tuple[np.ndarray, ...]) -> bytes:
    """Codes as uint32, codebook after codebook: what CRCs and digests run over."""
    return b"".join(book.astype("<u4").tobytes() for book in codes)
