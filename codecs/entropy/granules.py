"""Codes of several granularities: a context-coded map of who speaks where, then the codes that are there. No torch.

Granularities as in Control-GIC (arXiv 2406.00758), whose two masks are stored as they are; here the map is a tree over
each window, coarse to fine. A cell of codebook q, ``strides[q]`` positions, has a code (bit 0) or is split into cells
of codebook q + 1 (bit 1); cells of the last codebook have no bit. Cells lie in the picture: the first ones of a window,
and those that a cell is split into, stand in raster order, as square as their number allows and not higher than wide
(4 are 2 x 2, 2 are side by side). Bits go codebook after codebook, each in raster order over all windows. A bit's
context is its codebook and the states of the cells left, above and above right of it: none, or part of a coarser code
(0), a code (1), split (2). `binary` codes them; the codes that are there follow from the next byte on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from .binary import Decoder, encode
from .packing import pack, packed_bits, packed_bytes, unpack, width

ABSENT = -1  # where another granularity speaks
_CODE, _SPLIT = 1, 2  # states of a cell; 0 is none, or part of a code
_CONTEXTS = 27  # of a codebook: three states, three neighbours


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Where the codes of a payload lie: a run of the windows of a signal, in raster order.

    Args:
        strides: Positions per code of each codebook, coarse to fine, each a multiple of the next.
        queries: Positions per window, a multiple of the first stride.
        count: Windows of the payload.
        columns: Windows in a row of the picture; a payload of fewer, and sounds, are a single row.
        first: The column of the first window.
        axes: 2 of a picture, 1 of a sound.
    """

    strides: tuple[int | Fraction, ...]
    queries: int
    count: int
    columns: int
    first: int = 0
    axes: int = 2

    def __post_init__(self) -> None:
        """Raise ValueError unless codes are nested in windows."""
        steps = (self.queries, *self.strides)
        if any(stride != int(stride) or step % stride for step, stride in pairwise(steps)):
            raise ValueError(
                f"windows of {self.queries} positions and strides of several granularities are each a multiple of "
                f"the next, got {self.strides}"
            )

    @property
    def ratios(self) -> tuple[int, ...]:
        """Cells of the first codebook in a window, then cells of each next codebook in one of the last."""
        return tuple(int(step // stride) for step, stride in pairwise((self.queries, *self.strides)))

    @property
    def counts(self) -> tuple[int, ...]:
        """Cells of each codebook."""
        return tuple(self.count * self.queries // int(stride) for stride in self.strides)

    def part(self, start: int, count: int) -> Windows:
        """So many of them, from one on."""
        return replace(self, first=(self.first + start) % max(self.columns, 1), count=count)

    def least_bits(self, sizes: Sequence[int]) -> int:
        """Bits of the codes where the codebooks that cost least speak."""
        return self.counts[0] * self.cheapest(sizes)[0]

    def cheapest(self, sizes: Sequence[int]) -> list[int]:
        """Bits that a cell of each codebook costs at least, split or not."""
        least = [width(sizes[-1])]
        for size, ratio in zip(reversed(sizes[:-1]), reversed(self.ratios), strict=False):
            least.append(min(width(size), ratio * least[-1]))
        return least[::-1]


def map_bytes(present: Sequence[np.ndarray], windows: Windows) -> int:
    """Bytes of the map alone; ``present`` as for `payload_bytes`."""
    return len(_pack_map(present, windows))


def payload_bytes(present: Sequence[np.ndarray], sizes: Sequence[int], windows: Windows) -> int:
    """Bytes that `pack_granules` writes, whatever the codes are.

    Args:
        present: Per codebook, bool ``[N_q]``: whether its code is there; at every position of one codebook (trusted).
        sizes: Codes K of each codebook.
        windows: Where they lie.
    """
    return map_bytes(present, windows) + packed_bytes([int(there.sum()) for there in present], sizes)


def pack_granules(streams: Sequence[np.ndarray], sizes: Sequence[int], windows: Windows) -> bytes:
    """The map, then the codes that are there, codebook after codebook at a fixed width.

    Args:
        streams: Integers ``[N_q]`` per codebook, in ``0 .. sizes[q] - 1`` or -1; at every position one (trusted).
        sizes: Codes K of each codebook.
        windows: Where they lie.
    """
    present = [codes != ABSENT for codes in streams]
    codes = [stream[there] for stream, there in zip(streams, present, strict=True)]
    return _pack_map(present, windows) + pack(codes, sizes)


def unpack_granules(payload: bytes, sizes: Sequence[int], windows: Windows) -> tuple[np.ndarray, ...]:
    """What `pack_granules` was given, as int64 ``[N_q]``; codes may exceed their codebook, which the caller checks.

    Nothing larger than a small multiple of the payload is decoded before it is known to be there.

    Raises:
        ValueError: If the payload is too short or too long for its map, or not as `pack_granules` writes it.
    """
    present, size = _unpack_map(payload, sizes, windows)
    codes = unpack(payload[size:], [int(there.sum()) for there in present], sizes)
    streams = tuple(np.full(len(there), ABSENT, np.int64) for there in present)
    for stream, there, values in zip(streams, present, codes, strict=True):
        stream[there] = values
    return streams


# -- the map -----------------------------------------------------------------------------------------------


class _Level:
    """The cells of a codebook on a canvas with a border of nothing above and beside.

    Args:
        rows: Of each cell, in the order of the codes.
        columns: Of each cell.
        base: The first of its contexts.
    """

    def __init__(self, rows: np.ndarray, columns: np.ndarray, base: int) -> None:
        self.rows, self.columns, self.base = rows, columns, base
        self.pitch = int(columns.max(initial=0)) + 3
        self.places = (rows + 1) * self.pitch + columns + 1
        self.canvas = np.zeros((int(rows.max(initial=0)) + 2) * self.pitch, np.uint8)

    def split(self, ratio: int, axes: int, base: int) -> _Level:
        """The level below: every cell in ``ratio`` parts."""
        high, wide = _square(ratio, axes)
        part = np.arange(ratio)
        rows, columns = self.rows[:, None] * high + part // wide, self.columns[:, None] * wide + part % wide
        return _Level(rows.ravel(), columns.ravel(), base)

    def above(self, places: np.ndarray) -> np.ndarray:
        """The part of the contexts that the row above gives."""
        upper = places - self.pitch
        return self.base + 3 * self.canvas[upper].astype(np.int64) + self.canvas[upper + 1]

    def encode(self, opened: np.ndarray, splits: np.ndarray) -> tuple[list[int], list[int]]:
        """Bits and contexts of the cells that have one, in raster order."""
        places = self.places[opened]
        order = np.argsort(places)
        places, bits = places[order], splits[opened][order]
        self.canvas[places] = np.where(bits, _SPLIT, _CODE)
        contexts = 9 * self.canvas[places - 1].astype(np.int64) + self.above(places)
        return bits.astype(int).tolist(), contexts.tolist()

    def decode(self, opened: np.ndarray, decoder: Decoder) -> np.ndarray:
        """Which cells are split, bool ``[N]``, of those that have a bit."""
        places = np.sort(self.places[opened])
        self.canvas[places] = _CODE
        beside = 9 * self.canvas[places - 1].astype(np.int64)  # a bit at the left is counted by the decoder
        starts = np.flatnonzero(np.diff(places // self.pitch, prepend=-1))
        for start, end in pairwise((*starts.tolist(), len(places))):
            row, left = places[start:end], beside[start:end]
            bits = decoder.run((left + self.above(row)).tolist(), left.tolist())
            self.canvas[row] += np.array(bits, np.uint8)
        return self.canvas[self.places] == _SPLIT


def _levels(windows: Windows) -> Iterator[_Level]:
    """One level per codebook that has a bit."""
    single = windows.axes == 1 or windows.count < windows.columns
    slots = np.arange(windows.count) + (0 if single else windows.first)
    rows, columns = np.divmod(slots, max(windows.count, 1) if single else windows.columns)
    level = _Level(rows, columns, 0)
    for place, ratio in enumerate(windows.ratios[:-1]):
        level = level.split(ratio, windows.axes, _CONTEXTS * place)
        yield level


def _pack_map(present: Sequence[np.ndarray], windows: Windows) -> bytes:
    bits: list[int] = []
    contexts: list[int] = []
    opened = np.ones(windows.counts[0], bool)
    for level, there, ratio in zip(_levels(windows), present, windows.ratios[1:], strict=False):
        splits = opened & ~there
        for known, new in zip((bits, contexts), level.encode(opened, splits), strict=True):
            known += new
        opened = np.repeat(splits, ratio)
    return encode(bits, contexts, _CONTEXTS * len(windows.strides))


def _unpack_map(payload: bytes, sizes: Sequence[int], windows: Windows) -> tuple[list[np.ndarray], int]:
    """Per codebook, where it has codes, bool ``[N_q]``; and the bytes of the map."""
    cheapest, present, bits = windows.cheapest(sizes), [], 0
    _affordable(windows.least_bits(sizes), payload)
    decoder = Decoder(payload, _CONTEXTS * len(windows.strides))
    opened = np.ones(windows.counts[0], bool)
    for place, level in enumerate(_levels(windows)):
        splits = level.decode(opened, decoder)
        present.append(opened & ~splits)
        bits += packed_bits([int(present[-1].sum())], [sizes[place]])
        ratio = windows.ratios[place + 1]
        _affordable(bits + int(splits.sum()) * ratio * cheapest[place + 1], payload)
        opened = np.repeat(splits, ratio)
    return [*present, opened], decoder.end()


def _affordable(bits: int, payload: bytes) -> None:
    """Raise ValueError unless so many bits of codes can be in the payload: before anything is decoded or made."""
    if bits > 8 * len(payload):
        raise ValueError(f"the codes of its map take at least {bits} bits, got a payload of {len(payload)} bytes")


def _square(count: int, axes: int) -> tuple[int, int]:
    """Rows and columns of so many cells: as square as can be, not higher than wide; one row on one axis."""
    high = 1 if axes == 1 else max(side for side in range(1, math.isqrt(count) + 1) if count % side == 0)
    return high, count // high
