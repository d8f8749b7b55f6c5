"""What a file says (`Header`), holds (`Stream`) and may declare (`Limits`); its refusals. No torch."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from sigtok.codecs.entropy.granules import ABSENT, Windows

from .spec import AXES, QUALITY_UNIT, CodecSpec, Extent, Modality, Rate

VERSION = 1  # of the format
FIXED_WIDTH, GRANULAR, OWN_TABLES, ADAPTIVE, PRIOR = range(5)  # codings
ENTROPY_CODED = (OWN_TABLES, ADAPTIVE, PRIOR)
WITH_CODER = (OWN_TABLES, PRIOR)  # written and read with a coder that the file does not bring
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
        codes_per_byte: Codes of several granularities, absent ones too, of adaptive contexts, and of priors, per byte
            of the file.
        own_codes_per_byte: Codes of the model's own tables, per byte of the file and of each chunk. One costs 0.0056
            bits or more, or nothing where it is certain; 8 codebooks, or 160 of which 146 are certain, stay below.
    """

    samples: int = 2**48
    pixels: int = 100_000_000
    side: int = 65_535
    sample_rate: int = 768_000
    channels: int = 64
    features: int = 65_536
    codebooks: int = 1024
    codebook_size: int = 2**20
    tokens: int = 2**31
    header_bytes: int = 2**16
    chunk_bytes: int = 2**24
    codes_per_byte: int = 512
    own_codes_per_byte: int = 2**14


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says about its codes.

    Args:
        modality: "audio", "image" or "features".
        extent: ``(samples,)``, ``(height, width)`` or ``(frames,)`` of the signal without padding.
        rate: The operating point, resolved; without shares, which the codes have.
        stream_id: 16 bytes; its first 4 when a packet was read without the model's.
        coding: How the payload is made: `FIXED_WIDTH`, `GRANULAR`, `OWN_TABLES`, `ADAPTIVE` or `PRIOR`.
        channels: Signal channels; like the next four, None for a packet read without its model's spec.
        sample_rate: Hz or frames per second, None for images.
        hop: Samples, pixels or frames per position, along each axis.
        codebook_sizes: Codes K of the codebooks in use.
        strides: Positions per token of the codebooks in use.
        extras: Further fields of a container, (type, bytes), kept as they are.
        profile: "packet" or "container"; None lets `bitstream.write` choose.
        chunk_positions: Positions per chunk of a container; None lets `bitstream.write` choose.
        streamed: Whether a container says its extent, along the first axis, behind its last chunk.
        prior: The fingerprint of the prior that codes it, of the coding `PRIOR` only.
    """

    modality: Modality
    extent: Extent
    rate: Rate
    stream_id: bytes
    coding: int = FIXED_WIDTH
    channels: int | None = None
    sample_rate: int | None = None
    hop: tuple[int, ...] | None = None
    codebook_sizes: tuple[int, ...] | None = None
    strides: tuple[int | Fraction, ...] | None = None
    extras: tuple[tuple[int, bytes], ...] = ()
    profile: Literal["packet", "container"] | None = None
    chunk_positions: int | None = None
    streamed: bool = False
    prior: int | None = None

    @classmethod
    def of(
        cls,
        spec: CodecSpec,
        rate: Rate | None,
        extent: Extent,
        stream_id: bytes,
        coding: int = FIXED_WIDTH,
        prior: int | None = None,
    ) -> Header:
        """The header of a signal's codes at one rate of one model; of several granularities, the coding is theirs."""
        rate = replace(spec.resolve(rate), shares=None)
        coding = GRANULAR if spec.granular else coding
        header = cls(modality=spec.modality, extent=extent, rate=rate, stream_id=stream_id, coding=coding, prior=prior)
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
    def granular(self) -> bool:
        """Whether codes of one codebook or another stand for a position (`CodecSpec.shares`)."""
        return self.coding == GRANULAR

    @property
    def coded(self) -> bool:
        """Whether an `EntropyCoder` makes the payload."""
        return self.coding in ENTROPY_CODED

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
        check_codes(self.codes, spec.codebook_sizes, windows_of(spec, extent))


def check_codes(streams: Sequence[np.ndarray], sizes: Sequence[int], windows: Windows | None) -> None:
    """Raise ValueError unless each code is inside its codebook; of several granularities, one at every position.

    Args:
        streams: Codes of each codebook, as many as there should be.
        sizes: Codes K of each codebook.
        windows: Of several granularities, where the codes lie.
    """
    least, absent = 0, "(-1) cannot be stored, send a lower Rate instead"
    if windows is not None:
        least, absent = ABSENT, "are -1"
    for book, (codes, size) in enumerate(zip(streams, sizes, strict=True)):
        if len(bad := np.flatnonzero((codes < least) | (codes >= size))):
            raise ValueError(
                f"codebook {book} has codes 0 to {size - 1}, got {codes[bad[0]]} at position {bad[0]}; "
                f"absent codes {absent}"
            )
    if windows is None:
        return
    pairs = zip(streams, windows.strides, strict=True)
    speaking = np.sum([np.repeat(codes != ABSENT, int(stride)) for codes, stride in pairs], axis=0)
    if len(bad := np.flatnonzero(speaking != 1)):
        place = bad[0]
        raise ValueError(
            f"one codebook has a code at every position, got {speaking[place]} of them at position {place}, of "
            f"window {place // windows.queries}; the others are -1"
        )


def sixteenths(rate: Rate) -> int:
    """The quality of a rate as files have it; 0 for none."""
    return 0 if rate.quality is None else round(rate.quality * QUALITY_UNIT)


def quality_of(sixteenths: int) -> float | None:
    """The quality of such a number."""
    return sixteenths / QUALITY_UNIT if sixteenths else None


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


@runtime_checkable
class Source(Protocol):
    """Bytes, or a file that gives them as bytes do."""

    def __getitem__(self, part: slice, /) -> bytes:
        """Those from ``part.start`` to ``part.stop``, fewer at the end."""


def codes_for(size: int, header: Header, limits: Limits) -> int:
    """The most codes that so many bytes may stand for, unless they have a fixed width."""
    return size * (limits.own_codes_per_byte if header.coding == OWN_TABLES else limits.codes_per_byte)


def take(data: Source, offset: int, size: int, what: str) -> bytes:
    """Bytes of the file, if they are there."""
    found = data[offset : offset + size]
    if len(found) < size:
        raise BitstreamError(f"byte {offset}: {what} has {size} bytes, got {len(found)}; the file is cut short")
    return found


def check_length(size: int, end: int) -> None:
    """A file of so many bytes has at least those that its header needs."""
    if size < end:
        raise BitstreamError(f"byte {size}: the file has {end} bytes by its header; it is cut short")


def check_end(size: int, end: int) -> None:
    """A file of so many bytes has exactly those that its header needs."""
    check_length(size, end)
    if size > end:
        raise BitstreamError(f"byte {end}: the file ends here by its header, {size - end} bytes follow")


def within(offset: int, name: str, value: int, least: int, most: int) -> None:
    """A number is inside its range."""
    if not least <= value <= most:
        raise BitstreamError(f"byte {offset}: {name} may be {least} to {most}, got {value}")


def same(offset: int, name: str, value: object, expected: object) -> None:
    """A field is the one that follows from the others."""
    if value != expected:
        raise BitstreamError(f"byte {offset}: {name} should be {expected!r}, got {value!r}")


def same_fields(data: Source, offset: int, layout: struct.Struct, names: tuple[str, ...], right: tuple) -> None:
    """All fields of a structure are the ones that follow from what was read before."""
    values = layout.unpack(take(data, offset, layout.size, names[0]))
    for name, value, expected in zip(names, values, right, strict=True):
        same(offset, name, value, expected)
