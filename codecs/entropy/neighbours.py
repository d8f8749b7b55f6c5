"""Whole numbers of a pyramid of bands, each under a table that its neighbours choose. No torch.

Groups of channels are coded from coarse to fine and from low to high frequencies; each in two passes over the squares
of a checkerboard (He et al., 2021, arXiv 2103.15306), the second of which sees the four neighbours of the first. What
was coded before is summed up in a state of a few numbers a position (channels conditioned on channels: Minnen and
Singh, 2020, arXiv 2007.08739), from which a small network finds a table. It reads magnitudes only, as numbers of these
bands have no mean: an adaptive form of what image coders call context modelling. All of it is whole numbers in float64,
every sum below 2**53: the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigtok.codecs.spec import Extent

from .ans import TableReader, TableWriter
from .integer import interpolated
from .tables import Tables

Whole = NDArray[np.float64]
OCTAVE = 8  # a magnitude's steps per factor of 2
FRACTION, WEIGHT = 6, 10  # bits behind the point: of states and hidden numbers, of weights
LARGEST = 2**14  # of states and hidden numbers, in whole ones


class Group(NamedTuple):
    """Channels that are coded together, at one resolution.

    Args:
        level: Its places are a lattice of step ``2 ** level``.
        parts: Slices of channels, rows and columns, one after another.
        channels: Channels k in all.
    """

    level: int
    parts: tuple[tuple[slice, slice, slice], ...]
    channels: int

    def read(self, whole: np.ndarray) -> np.ndarray:
        """Its values ``[k, Y, X]`` of maps ``[D, rows, columns]`` of whole lattices."""
        return np.concatenate([whole[part] for part in self.parts])

    def write(self, whole: np.ndarray, values: np.ndarray) -> None:
        """The inverse of `read`, in place."""
        start = 0
        for part in self.parts:
            view = whole[part]
            view[...] = values[start : start + len(view)]
            start += len(view)


def groups(high: int, low: int, channels: Sequence[int]) -> tuple[Group, ...]:
    """The groups of maps whose first channels are high bands and whose last three are pyramids of low ones.

    Args:
        high: High bands.
        low: Levels of the pyramid.
        channels: Sizes of the groups of high bands.

    Raises:
        ValueError: If these sizes do not sum up.
    """
    if sum(channels) != high:
        raise ValueError(f"groups share {high} high bands, got sizes {tuple(channels)}")
    last = slice(high, high + 3)
    step = 2**low
    found = [Group(low, ((last, slice(0, None, step), slice(0, None, step)),), 3)]
    for level in range(low, 0, -1):
        step, half = 2**level, 2 ** (level - 1)
        places = [slice(0, None, step), slice(half, None, step)]
        parts = tuple((last, places[down], places[across]) for down, across in ((0, 1), (1, 0), (1, 1)))
        found.append(Group(level, parts, 9))
    ends = np.cumsum(channels)
    found += [
        Group(0, ((slice(int(end) - k, int(end)), slice(None), slice(None)),), k)
        for end, k in zip(ends, channels, strict=True)
    ]
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Head:
    """The network of one group: whole numbers as float64, weights with `WEIGHT` bits behind the point.

    Args:
        state: From magnitudes and neighbours' ``[M, 2 k]``: what the group adds to the state.
        hidden: From the state, in the second pass also neighbours: ``[H, M]`` and ``[H, M + k]``.
        hidden_bias: ``[2, H]``, of both passes, with ``WEIGHT + FRACTION`` bits behind the point.
        out: From hidden numbers, in the second pass also neighbours: ``[k, H]`` and ``[k, H + k]``.
        bias: int64 ``[S, 2, k]`` by quality and pass, with as many.

    Raises:
        ValueError: If a sum could be too large to be exact.
    """

    state: Whole
    hidden: tuple[Whole, Whole]
    hidden_bias: Whole
    out: tuple[Whole, Whole]
    bias: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check the sums."""
        check_sums(self.state)
        for hidden, out in zip(self.hidden, self.out, strict=True):
            check_sums(hidden, self.hidden_bias)
            check_sums(out, self.bias)

    def index(
        self, second: int, state: Whole, near: Whole | None, quality: float | None, tables: int
    ) -> NDArray[np.uint16]:
        """Tables ``[k, n]`` of a pass, from the state ``[M, n]`` and, in the second, sums of neighbours ``[k, n]``."""
        weight, out = self.hidden[second], self.out[second]
        hidden = weight[:, : len(state)] @ state
        if near is not None:
            hidden += weight[:, len(state) :] @ near
        hidden += self.hidden_bias[second][:, None]
        hidden *= 2.0**-WEIGHT
        hidden = np.clip(np.floor(hidden, out=hidden), 0, LARGEST * 2**FRACTION, out=hidden)
        found = out[:, : len(hidden)] @ hidden
        if near is not None:
            found += out[:, len(hidden) :] @ near
        found += interpolated(self.bias, quality)[second][:, None] + 2.0 ** (WEIGHT + FRACTION - 1)
        found *= 2.0 ** -(WEIGHT + FRACTION)
        return np.clip(np.floor(found, out=found), 0, tables - 1, out=found).astype(np.uint16)


class NeighbourCoder:
    """An `EntropyCoder` of codes on a grid.

    Args:
        sizes: Codes K of each codebook; the code of 0 is ``K // 2``.
        plan: Groups, in the order of coding.
        heads: The network of each.
        states: Numbers M of a state.
        tables: What the networks choose from.

    Raises:
        ValueError: If the codebooks differ in size.
    """

    def __init__(
        self, sizes: Sequence[int], plan: Sequence[Group], heads: Sequence[Head], states: int, tables: Tables
    ) -> None:
        if len(set(sizes)) != 1:
            raise ValueError(f"codebooks of neighbours have one size, got {sorted(set(sizes))}; choose another density")
        self.books, self.centre, self.largest = len(sizes), sizes[0] // 2, (sizes[0] - 1) // 2
        self.plan, self.heads, self.states, self.tables = tuple(plan), tuple(heads), states, tables
        self.magnitudes = magnitudes(self.centre) * 2.0 ** (FRACTION - 3)

    def encode(self, codes: tuple[np.ndarray, ...], grid: Extent, quality: float | None) -> bytes:
        """The payload of codes ``[N]`` per codebook."""
        writer, whole = TableWriter(self.tables), self._whole(grid)
        rows, columns = grid
        for channel, code in enumerate(codes):
            whole[channel, :rows, :columns] = code.reshape(grid) - self.centre
        for step in self._steps(whole, grid, quality, known=True):
            values = step.group.read(whole).reshape(step.group.channels, -1)
            writer.put(step.coded(values.take(step.places, 1)), step.coded(step.chosen))
        return writer.payload()

    def decode(self, payload: bytes, grid: Extent, quality: float | None) -> tuple[np.ndarray, ...]:
        """The codes of a payload.

        Raises:
            ValueError: If the payload is not one that `encode` makes.
        """
        reader, whole = TableReader(self.tables, payload), self._whole(grid)
        for step in self._steps(whole, grid, quality, known=False):
            values = step.group.read(whole)
            found = step.placed(reader.get(step.coded(step.chosen)))
            check_range(found, self.centre, self.largest)
            values.reshape(len(values), -1)[:, step.places] = found
            step.group.write(whole, values)
        reader.finish()
        rows, columns = grid
        return tuple((part[:rows, :columns] + self.centre).astype(np.int64).ravel() for part in whole)

    def _whole(self, grid: Extent) -> NDArray[np.int32]:
        """Maps of zeros, of whole lattices."""
        step = 2 ** max(group.level for group in self.plan)
        rows, columns = (-(-size // step) * step for size in grid)
        return np.zeros((self.books, rows, columns), np.int32)

    def _steps(self, whole: NDArray[np.int32], grid: Extent, quality: float | None, known: bool) -> Iterator[_Step]:
        """What is to be coded, each when `whole` holds what was before; where all is known, it is read once."""
        there = np.zeros(whole.shape, bool)
        there[:, : grid[0], : grid[1]] = True
        level, tables = self.plan[0].level, len(self.tables)
        shape = self.plan[0].read(whole).shape[1:]
        order, first = squares(shape)
        state: Whole = np.zeros((self.states, len(order)))
        for group, head in zip(self.plan, self.heads, strict=True):
            while level > group.level:
                finer = np.empty_like(state)
                finer[:, order] = state
                finer = finer.reshape(len(state), *shape).repeat(2, 1).repeat(2, 2)
                level, shape = level - 1, finer.shape[1:]
                order, first = squares(shape)
                state = finer.reshape(len(state), -1).take(order, 1)
            here = group.read(there).reshape(group.channels, -1)
            parts = [None, None] if here.all() else np.split(here.take(order, 1), [first], 1)
            yield _Step(group, order[:first], parts[0], head.index(0, state[:, :first], None, quality, tables))
            own, near = self._seen(group.read(whole))
            index = head.index(1, state[:, first:], near.take(order[first:], 1), quality, tables)
            yield _Step(group, order[first:], parts[1], index)
            if not known:
                own, near = self._seen(group.read(whole))
            added = head.state @ np.concatenate((own.take(order, 1), near.take(order, 1)))
            added *= 2.0**-WEIGHT
            state += np.floor(added, out=added)
            np.clip(state, -LARGEST * 2**FRACTION, LARGEST * 2**FRACTION, out=state)

    def _seen(self, values: NDArray[np.int32]) -> tuple[Whole, Whole]:
        """What stands for magnitudes, and its sums over the four neighbours; those of one colour of the checkerboard
        are sums over the other. Both ``[k, n]``."""
        own = self.magnitudes.take(np.abs(values))
        near = np.zeros_like(own)
        near[:, 1:] += own[:, :-1]
        near[:, :-1] += own[:, 1:]
        near[:, :, 1:] += own[:, :, :-1]
        near[:, :, :-1] += own[:, :, 1:]
        return own.reshape(len(own), -1), near.reshape(len(own), -1)


def squares(shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    """The places of a grid, those of the first colour of a checkerboard before the others, and how many these are."""
    colour = np.add.outer(np.arange(shape[0]), np.arange(shape[1])).ravel() % 2
    return np.argsort(colour, kind="stable"), int((colour == 0).sum())


class _Step(NamedTuple):
    """One pass over a group: its places of the flat lattice, which of them the grid has (None: all), their tables."""

    group: Group
    places: NDArray[np.int64]
    here: NDArray[np.bool_] | None
    chosen: NDArray[np.uint16]

    def coded(self, values: np.ndarray) -> np.ndarray:
        """Those of values ``[k, n]`` that are coded, one after another."""
        return values.ravel() if self.here is None else values[self.here]

    def placed(self, coded: np.ndarray) -> np.ndarray:
        """The inverse of `coded`, zero elsewhere."""
        if self.here is None:
            return coded.reshape(self.chosen.shape)
        values = np.zeros(self.chosen.shape, coded.dtype)
        values[self.here] = coded
        return values


def check_range(values: NDArray[np.integer], below: int, above: int) -> None:
    """Raise ValueError unless whole numbers lie in -below to above."""
    if values.min(initial=0) < -below or values.max(initial=0) > above:
        wrong = values[(values < -below) | (values > above)][0]
        raise ValueError(f"whole numbers are {-below} to {above} here, got {wrong}; the payload is damaged")


def check_sums(weight: Whole, bias: Whole | NDArray[np.int64] | int = 0) -> None:
    """Raise ValueError if sums over the last axis, of inputs of up to `LARGEST`, could be too large to be exact."""
    most = float(np.abs(weight).sum(-1).max(initial=0)) * LARGEST * 2**FRACTION + float(np.abs(bias).max(initial=0))
    if not most < 2**52:
        raise ValueError(f"sums of an exact network stay below 2**52, got up to {most:.3g}; scale its weights")


def magnitudes(largest: int) -> Whole:
    """What stands for the magnitudes 0 to ``largest``: eighths of octaves of ``1 + magnitude``, to the nearest."""
    steps = range(1, OCTAVE * (largest + 1).bit_length() + 1)
    edges = [_root(2 ** (2 * step - 1), 2 * OCTAVE) for step in steps]  # (1 + n)^16 >= 2^(2 step - 1), in integers
    return np.searchsorted(np.array(edges), np.arange(1, largest + 2), side="right").astype(np.float64)


def _root(number: int, power: int) -> int:
    """The least whole number whose power is at least that."""
    root = max(round(number ** (1 / power)) - 1, 1)
    while root**power < number:
        root += 1
    return root
