"""The payload of a file: codes of each coding to bytes and back. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np

from sigtok.codecs.entropy.adaptive import AdaptiveCoder
from sigtok.codecs.entropy.coder import EntropyCoder, Prior
from sigtok.codecs.entropy.granules import ABSENT, Windows, pack_granules, unpack_granules
from sigtok.codecs.entropy.packing import pack, packed_bytes, unpack

from .header import ADAPTIVE, PRIOR, BitstreamError, Header, Source, windows_of, within
from .spec import CodecSpec, Extent


@dataclass(frozen=True)
class Part:
    """What a payload holds.

    Args:
        counts: Codes of each codebook in use.
        grid: Positions along each axis: rows and columns where every position of a picture has its own codes.
        windows: Where codes of several granularities lie; None of all other codecs.
    """

    counts: tuple[int, ...]
    grid: Extent
    windows: Windows | None = None


def whole(header: Header) -> Part:
    """All of a signal.

    Raises:
        ValueError: If the codec's granularities are not nested in its windows.
    """
    spec, extent = header.spec, header.extent
    grid = spec.grid(extent) if on_grid(spec) else (spec.positions(extent),)
    return Part(spec.token_counts(extent), grid, windows_of(spec, extent))


def on_grid(spec: CodecSpec) -> bool:
    """Whether an entropy coder sees rows and columns; otherwise codes stand in a row."""
    return len(spec.hop) == 2 and spec.queries == 1 and set(spec.windows[0]) == {1}


def least_bytes(part: Part, header: Header) -> int:
    """Bytes of the payload: exactly at a fixed width, otherwise at least."""
    assert header.codebook_sizes is not None
    if header.coded:
        return 0
    if part.windows is not None:
        return -(-part.windows.least_bits(header.codebook_sizes) // 8)
    return packed_bytes(part.counts, header.codebook_sizes)


def coder_of(header: Header, coder: EntropyCoder | None) -> EntropyCoder | None:
    """The coder of a file: the one that is given, or the adaptive one, which needs no model; None if there is none.

    Raises:
        ValueError: If the adaptive coder has no contexts for such codebooks.
    """
    if header.coding != ADAPTIVE:
        return coder
    assert header.codebook_sizes is not None and header.strides is not None
    return AdaptiveCoder(header.codebook_sizes, header.strides)


def pack_codes(codes: tuple[np.ndarray, ...], part: Part, header: Header, coder: EntropyCoder | None) -> bytes:
    """The payload of checked codes.

    Raises:
        ValueError: If the coding needs a coder and there is none, or another than the header says.
    """
    assert header.codebook_sizes is not None
    if header.coding == PRIOR and (not isinstance(coder, Prior) or coder.fingerprint != header.prior):
        raise ValueError("codes of coding 4 are written with the prior of their header, got another or none")
    if header.coded:
        if coder is None:
            raise ValueError(f"codes of coding {header.coding} are written with their coder, got none; pass coder=")
        if not any(part.counts):
            return b""
        return coder.encode(codes, part.grid, header.rate.quality)
    if part.windows is not None:
        return pack_granules(codes, header.codebook_sizes, part.windows)
    return pack(codes, header.codebook_sizes)


def unpack_codes(
    data: Source, start: int, end: int, part: Part, header: Header, coder: EntropyCoder | None
) -> tuple[np.ndarray, ...]:
    """Codes of the payload between two offsets, each inside its codebook.

    Raises:
        BitstreamError: If there are no such codes, or the coding needs a coder and there is none.
    """
    assert header.codebook_sizes is not None
    payload, sizes = data[start:end], header.codebook_sizes
    try:
        streams = _unpack(payload, part, header, coder)
    except ValueError as error:
        raise BitstreamError(f"byte {max(start, end - 1)}: {error}") from None
    shapes = [codes.shape for codes in streams if codes.dtype == np.int64]
    if shapes != [(count,) for count in part.counts]:
        raise BitstreamError(f"byte {start}: codes are as many as {part.counts}, its coder gives {shapes}")
    least = 0 if part.windows is None else ABSENT
    for book, (codes, size) in enumerate(zip(streams, sizes, strict=True)):
        if len(codes):
            within(start, f"codes of codebook {book}", int(codes.min()), least, size - 1)
            within(start, f"codes of codebook {book}", int(codes.max()), least, size - 1)
    return streams


def _unpack(payload: bytes, part: Part, header: Header, coder: EntropyCoder | None) -> tuple[np.ndarray, ...]:
    assert header.codebook_sizes is not None
    if header.coded:
        if coder is None:
            raise ValueError(f"codes of coding {header.coding} are read with their coder, got none; pass coder=")
        if not any(part.counts):
            return unpack(payload, part.counts, header.codebook_sizes)
        return coder.decode(payload, part.grid, header.rate.quality)
    if part.windows is not None:
        return unpack_granules(payload, header.codebook_sizes, part.windows)
    return unpack(payload, part.counts, header.codebook_sizes)


def signed(codes: tuple[np.ndarray, ...], crc: int, digest: Any = None) -> int:
    """A CRC continued over codes as uint32, codebook after codebook, -1 as 2**32 - 1; a digest too."""
    for book in codes:
        values = book.astype("<u4").tobytes()
        crc = crc32(values, crc)
        if digest is not None:
            digest.update(values)
    return crc
