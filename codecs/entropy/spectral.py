"""Whole numbers of a stereo spectrum over time, each under a table that its neighbours in time and frequency choose.

Frames are coded from far apart to close together, as pictures between pictures: every eighth first, then those half
way, and so on, each seeing the nearest coded frames before and after it; of those, the first channel (mid) before the
second (side); of a channel every fourth bin, then those half way, then the odd ones. Of each such class a small network
reads the magnitudes around a bin and finds a table. All of it is whole numbers in float64, every sum below 2**53. No
torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigtok.codecs.spec import Extent

from .ans import TableReader, TableWriter
from .integer import interpolated
from .neighbours import FRACTION, LARGEST, WEIGHT, Whole, check_range, check_sums, magnitudes
from .tables import Tables

FARTHEST = 8  # frames from one to the next of those that are coded first
BAND = 16  # bins that share a bias
NEAR, WIDE = 2, 12  # bins to each side: one by one, and summed
CHANNELS = 2
_UNIT = 2.0 ** (FRACTION - 3)  # of a magnitude, which is in eighths


class Class(NamedTuple):
    """What is coded at once: frames ``start + n step``, bins ``first + n stride``, one channel.

    ``near`` are the offsets (channel, frames, bins) of the magnitudes that are known by then and looked at, ``wide``
    those (channel, frames) of whole neighbourhoods.
    """

    start: int
    step: int
    first: int
    stride: int
    channel: int
    near: tuple[tuple[int, int, int], ...]
    wide: tuple[tuple[int, int], ...]

    @property
    def inputs(self) -> int:
        """Numbers that its network reads."""
        return len(self.near) + len(self.wide)

    @property
    def place(self) -> tuple[slice, slice]:
        """Its frames and bins."""
        return slice(self.start, None, self.step), slice(self.first, None, self.stride)


def classes() -> tuple[Class, ...]:
    """All of them, in the order of coding."""
    around, found = range(-NEAR, NEAR + 1), []
    times = [(0, FARTHEST)] + [(step // 2, step) for step in (FARTHEST >> n for n in range(int(math.log2(FARTHEST))))]
    for place, (start, step) in enumerate(times):
        distance = step // 2 if place else 0
        beside = [(channel, sign * distance) for channel in range(CHANNELS) for sign in (-1, 1)] if distance else []
        for channel in range(CHANNELS):
            for first, stride, bins in ((0, 4, ()), (2, 4, (-6, -2, 2, 6)), (1, 2, (-3, -1, 1, 3))):
                near = [(each, frames, bin_) for each, frames in beside for bin_ in around]
                near += [(channel, 0, bin_) for bin_ in bins]
                near += [(0, 0, bin_) for bin_ in around] if channel else []
                found.append(Class(start, step, first, stride, channel, tuple(near), tuple(beside)))
    return tuple(found)


def gathered(padded: Any, summed: Any, each: Class, extent: tuple[int, int]) -> list[Any]:
    """The inputs of a class, one array ``[..., frames, bins]`` each.

    Args:
        padded: Magnitudes ``[..., C, frames + 16, bins + 24]``: 8 and 12 zeros around them.
        summed: Sums over ``WIDE`` bins to each side, of the same shape.
        each: The class.
        extent: Frames and bins, without padding.
    """

    def shifted(source: Any, channel: int, frames: int, bins: int) -> Any:
        first = (FARTHEST + each.start + frames, WIDE + each.first + bins)
        last = (FARTHEST + frames + extent[0], WIDE + bins + extent[1])
        return source[..., channel, first[0] : last[0] : each.step, first[1] : last[1] : each.stride]

    return [shifted(padded, *offset) for offset in each.near] + [shifted(summed, *offset, 0) for offset in each.wide]


@dataclass(frozen=True, eq=False)
class SpectralHead:
    """The network of one class: whole numbers as float64, weights with `WEIGHT` bits behind the point.

    Args:
        hidden: ``[H, I]``.
        hidden_bias: ``[H]``, with ``WEIGHT + FRACTION`` bits.
        out: ``[H]``.
        direct: ``[I]``, from the inputs to the result.
        bias: int64 ``[S, bands]`` by quality, with as many.

    Raises:
        ValueError: If a sum could be too large to be exact.
    """

    hidden: Whole
    hidden_bias: Whole
    out: Whole
    direct: Whole
    bias: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check the sums."""
        check_sums(self.hidden, self.hidden_bias)
        check_sums(np.concatenate((self.out, self.direct)), self.bias)

    def index(self, inputs: Whole, bands: NDArray[np.int64], quality: float | None, tables: int) -> NDArray[np.uint16]:
        """Tables ``[frames, bins]`` of inputs ``[I, frames, bins]``."""
        flat = inputs.reshape(len(inputs), math.prod(inputs.shape[1:]))
        found = np.zeros(flat.shape[1])
        if len(flat):
            hidden = self.hidden @ flat
            hidden += self.hidden_bias[:, None]
            hidden *= 2.0**-WEIGHT
            hidden = np.clip(np.floor(hidden, out=hidden), 0, LARGEST * 2**FRACTION, out=hidden)
            found += self.out @ hidden + self.direct @ flat
        grid = found.reshape(inputs.shape[1:])
        grid += interpolated(self.bias, quality)[bands] + 2.0 ** (WEIGHT + FRACTION - 1)
        grid *= 2.0 ** -(WEIGHT + FRACTION)
        return np.clip(np.floor(grid, out=grid), 0, tables - 1, out=grid).astype(np.uint16)


class SpectralCoder:
    """An `EntropyCoder` of two codebooks, mid and side, whose positions are the bins of frame after frame.

    Args:
        size: Codes K of both codebooks; the code of 0 is ``K // 2``.
        bins: Of a frame.
        heads: The network of each of `classes`.
        tables: What the networks choose from.
    """

    def __init__(self, size: int, bins: int, heads: Sequence[SpectralHead], tables: Tables) -> None:
        self.centre, self.largest = size // 2, (size - 1) // 2
        self.bins, self.heads, self.tables = bins, tuple(heads), tables
        self.magnitudes = magnitudes(self.centre)

    def encode(self, codes: tuple[np.ndarray, ...], grid: Extent, quality: float | None) -> bytes:
        """The payload of codes ``[N]`` per codebook."""
        writer = TableWriter(self.tables)
        whole = np.stack(codes).reshape(CHANNELS, -1, self.bins) - self.centre
        for each, index in self._steps(whole, quality):
            writer.put(whole[each.channel][each.place].ravel(), index.ravel())
        return writer.payload()

    def decode(self, payload: bytes, grid: Extent, quality: float | None) -> tuple[np.ndarray, ...]:
        """The codes of a payload.

        Raises:
            ValueError: If the payload is not one that `encode` makes, or positions are not whole frames.
        """
        if math.prod(grid) % self.bins:
            raise ValueError(f"a frame has {self.bins} positions, got {math.prod(grid)} in all; the grid is another's")
        reader = TableReader(self.tables, payload)
        whole = np.zeros((CHANNELS, math.prod(grid) // self.bins, self.bins), np.int64)
        for each, index in self._steps(whole, quality):
            found = reader.get(index.ravel())
            check_range(found, self.centre, self.largest)
            whole[each.channel][each.place] = found.reshape(index.shape)
        reader.finish()
        return tuple(part.ravel() + self.centre for part in whole)

    def _steps(self, whole: np.ndarray, quality: float | None) -> Iterator[tuple[Class, NDArray[np.uint16]]]:
        """Each class and its tables, when `whole` holds what was before."""
        extent = whole.shape[1:]
        padded = np.zeros((CHANNELS, extent[0] + 2 * FARTHEST, extent[1] + 2 * WIDE))
        summed = np.zeros_like(padded)
        inner = np.s_[FARTHEST : FARTHEST + extent[0], WIDE : WIDE + extent[1]]
        for each, head in zip(classes(), self.heads, strict=True):
            frames, bins = each.place
            inputs = gathered(padded, summed, each, extent)
            shape = (len(range(*frames.indices(extent[0]))), len(range(*bins.indices(extent[1]))))
            stacked = np.stack(inputs) if inputs else np.zeros((0, *shape))
            yield each, head.index(stacked, np.arange(extent[1])[bins] // BAND, quality, len(self.tables))
            now = np.abs(whole[each.channel][each.place])
            padded[each.channel][inner][each.place] = self.magnitudes[now] * _UNIT
            if each.first == 1:  # the frames of this channel are whole by now
                rows = padded[each.channel][FARTHEST + each.start : FARTHEST + extent[0] : each.step]
                summed[each.channel][inner][frames] = window_sums(rows)


def window_sums(rows: Whole) -> Whole:
    """Sums over `WIDE` bins to each side, of padded rows ``[frames, bins + 24]``: whole numbers, so exactly."""
    sums = np.cumsum(np.pad(rows, ((0, 0), (1, 0))), axis=1)
    width = 2 * WIDE + 1
    return sums[:, width:] - sums[:, :-width]
