"""What a file says (`Header`), holds (`Stream`) and may declare (`Limits`); its refusals. No torch."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np

from sigtok.codecs.entropy.granules import ABSENT, Windows, pack_granules, unpack_granules
from sigtok.codecs.entropy.packing import pack, unpack

from .spec import AXES, CodecSpec, Extent, Modality, Rate

VERSION = 1  # of the format
FIXED_WIDTH, GRANULAR = 0, 1  # codings
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
        codes_per_byte: Codes of several granularities, absent ones too, per byte of the file.
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
    codes_per_byte: int = 512


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about its codes.

    Args:
        modality: "audio", "image" or "features".
        extent: ``(samples,)``, ``(height, width)`` or ``(frames,)`` of the signal without padding.
        rate: The operating point, resolved; without shares, which the codes have.
        stream_id: 16 bytes; its first 4 when a packet was read without the model's.
        granular: Whether codes of one codebook or another stand for a position (`CodecSpec.shares`).
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
    granular: bool = False
    channels: int | None = None
    sample_rate: int | None = None
    hop: tuple[int, ...] | None = None
    codebook_sizes: tuple[int, ...] | None = None
    strides: tuple[int | Fraction, ...] | None = None
    extras: tuple[tuple[int, bytes], ...] = ()
    profile: Literal["packet", "container"] | None = None
    chunk_positions: int | None = None

    @classmethod
    def of(cls, spec: CodecSpec, rate: Rate | None, extent: Extent, stream_id: bytes) -> Header:
        """The header of a signal's codes at one rate of one model."""
        rate = replace(spec.resolve(rate), shares=None)
        header = cls(modality=spec.modality, extent=extent, rate=rate, stream_id=stream_id)
        return header.with_spec(spec)

    def with_spec(self, spec: CodecSpec) -> Header:
        """The same header with what the model knows."""
        books = self.rate.codebooks
        return replace(
            self,
            granular=spec.granular,
            channels=spec.channels,
            sample_rate=spec.sample_rate,
            hop=spec.hop,
            codebook_sizes=spec.codebook_sizes[:books],
            strides=spec.strides[:books],
        )

    @property
    def coding(self) -> int:
        """How the payload is made: `FIXED_WIDTH` or `GRANULAR`."""
        return GRANULAR if self.granular else FIXED_WIDTH

    @property
    def spec(self) -> CodecSpec:
        """The model as far as its codes show it: codebooks, window and queries in use; of granularities, even shares.

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
            shares=(1 / len(self.strides),) * len(self.strides) if self.granular else (),
        )


@dataclass(frozen=True, eq=False)
class Stream:
    """One signal's codes: a header and one int64 array ``[N_q]`` per codebook in use."""

    header: Header
    codes: tuple[np.ndarray, ...]

    def check(self) -> None:
        """Raise ValueError unless the codes are as many as the header promises, each inside its codebook.

        Of several granularities, some may be absent (-1): at every position exactly one codebook has a code.
        """
        spec, extent = self.header.spec, self.header.extent
        expected = [(count,) for count in spec.token_counts(extent)]
        shapes = [codes.shape for codes in self.codes if codes.dtype.kind in "iu"]
        if shapes != expected:
            raise ValueError(f"extent {extent} at {self.header.rate} has integers {expected}, got {shapes}")
        for book, (codes, size) in enumerate(zip(self.codes, spec.codebook_sizes, strict=True)):
            least = ABSENT if spec.granular else 0
            if len(bad := np.flatnonzero((codes < least) | (codes >= size))):
                absent = "are -1" if spec.granular else "(-1) cannot be stored, send a lower Rate instead"
                raise ValueError(
                    f"codebook {book} has codes 0 to {size - 1}, got {codes[bad[0]]} at position {bad[0]}; "
                    f"absent codes {absent}"
                )
        windows = windows_of(spec, extent)
        if windows is not None:
            self._check_granularities(windows)

    def _check_granularities(self, windows: Windows) -> None:
        """Exactly one codebook speaks at every position."""
        pairs = zip(self.codes, windows.strides, strict=True)
        speaking = np.sum([np.repeat(codes != ABSENT, int(stride)) for codes, stride in pairs], axis=0)
        if len(bad := np.flatnonzero(speaking != 1)):
            place = bad[0]
            raise ValueError(
                f"one codebook has a code at every position, got {speaking[place]} of them at position {place}, of "
                f"window {place // windows.queries}; the others are -1"
            )


def windows_of(spec: CodecSpec, extent: Extent) -> Windows | None:
    """Where the codes of a signal lie; None unless the codec has several granularities.

    Raises:
        ValueError: If the codec's granularities are not nested in its windows.
    """
    if not spec.granular:
        return None
    grid = spec.grid(extent)
    return Windows(strides=spec.strides, queries=spec.queries, count=math.prod(grid), columns=grid[-1], axes=len(grid))


# -- checks of bytes: each raises BitstreamError with the offset and both numbers -------------------------


def take(data: bytes, offset: int, size: int, what: str) -> bytes:
    """Bytes of the file, if they are there."""
    if offset + size > len(data):
        here = max(0, len(data) - offset)
        raise BitstreamError(f"byte {offset}: {what} has {size} bytes, got {here}; the file is cut short")
    return data[offset : offset + size]


def check_length(data: bytes, end: int) -> None:
    """The file has at least the bytes that its header needs."""
    if len(data) < end:
        raise BitstreamError(f"byte {len(data)}: the file has {end} bytes by its header; it is cut short")


def check_end(data: bytes, end: int) -> None:
    """The file has exactly the bytes that its header needs."""
    check_length(data, end)
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


def pack_codes(codes: tuple[np.ndarray, ...], sizes: tuple[int, ...], windows: Windows | None) -> bytes:
    """The payload of checked codes."""
    return pack(codes, sizes) if windows is None else pack_granules(codes, sizes, windows)


def unpack_codes(
    data: bytes, start: int, end: int, header: Header, counts: tuple[int, ...], windows: Windows | None
) -> tuple[np.ndarray, ...]:
    """Codes of the payload between two offsets, each inside its codebook."""
    assert header.codebook_sizes is not None
    payload, sizes = data[start:end], header.codebook_sizes
    try:
        streams = unpack(payload, counts, sizes) if windows is None else unpack_granules(payload, sizes, windows)
    except ValueError as error:
        raise BitstreamError(f"byte {end - 1}: {error}") from None
    least = 0 if windows is None else ABSENT
    for book, (codes, size) in enumerate(zip(streams, sizes, strict=True)):
        if len(codes):
            within(start, f"codes of codebook {book}", int(codes.max()), least, size - 1)
    return streams


def code_bytes(codes: tuple[np.ndarray, ...]) -> bytes:
    """Codes as uint32, codebook after codebook, -1 as 2**32 - 1: what CRCs and digests run over."""
    return b"".join(book.astype("<u4").tobytes() for book in codes)
