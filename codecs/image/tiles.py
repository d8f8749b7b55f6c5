"""A picture of any extent in tiles of bounded memory, each read with a margin of its true neighbours.

What a network with a bounded view makes of the tiles, their margins cut off, is what it makes of the whole if the
margin covers that view. A network that sees further (attention, norms over positions) says something else in every
tile: there the margins of neighbours fade into each other, with weights that sum to one.

Lengths are in positions; a ``scale`` says how many pixels (or latents) a position has along each axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sigtok.codecs.spec import Extent


class Span(NamedTuple):
    """A tile along one axis: it is read from ``start`` to ``stop`` and stands for ``first`` to ``last``."""

    start: int
    first: int
    last: int
    stop: int


class Tile(NamedTuple):
    """Rows and columns of one tile."""

    rows: Span
    columns: Span

    def read(self, whole: Tensor, scale: int = 1) -> Tensor:
        """The tile with its margins, of the whole picture."""
        rows, columns = (slice(span.start * scale, span.stop * scale) for span in self)
        return whole[..., rows, columns]

    def cut(self, read: Tensor, scale: int = 1) -> Tensor:
        """The tile without its margins, of the tile as it was read."""
        rows, columns = (slice((s.first - s.start) * scale, (s.last - s.start) * scale) for s in self)
        return read[..., rows, columns]

    def place(self, whole: Tensor, scale: int = 1) -> Tensor:
        """Where the tile without its margins stands in the whole picture: a view to write to."""
        rows, columns = (slice(span.first * scale, span.last * scale) for span in self)
        return whole[..., rows, columns]

    def weights(self, scale: int = 1) -> Float[Tensor, "y x"]:
        """Ramps over the margins: what of a tile as it was read goes into the blend."""
        rows, columns = (ramp(span, scale) for span in self)
        return torch.outer(rows, columns)


def spans(extent: int, size: int, margin: int) -> list[Span]:
    """Tiles along one axis, side by side, cut at multiples of ``size``; the last has 1/2 to 3/2 of it, or all."""
    cuts = [*range(0, max(1, extent - (size - 1) // 2), size), extent]
    return [Span(max(0, first - margin), first, last, min(extent, last + margin)) for first, last in pairwise(cuts)]


def ramp(span: Span, scale: int = 1) -> Float[Tensor, " n"]:
    """Weights along one axis: from 0 to 1 over twice the margin where a neighbour begins, and back where one ends."""
    place = torch.arange((span.stop - span.start) * scale) + 0.5
    rise, fall = (2 * scale * margin for margin in (span.first - span.start, span.stop - span.last))
    weight = torch.ones_like(place)
    if rise:
        weight = torch.minimum(weight, place / rise)
    if fall:
        weight = torch.minimum(weight, place.flip(0) / fall)
    return weight


@dataclass(frozen=True)
class Tiling:
    """How pictures are cut.

    Args:
        size: Positions a side that a tile stands for.
        margin: Positions that it is read beyond them on each side, where the picture has them.
        fade: Whether margins fade into the neighbour; otherwise they are cut off.

    Raises:
        ValueError: If the sizes are not positive, or the ramps of a tile would meet.
    """

    size: int
    margin: int
    fade: bool = False

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.size < 1 or self.margin < 0 or (self.fade and self.size < 4 * self.margin):
            raise ValueError(
                f"a tile has at least 1 position, a margin 0, and to fade a quarter of the tile at most; got size="
                f"{self.size}, margin={self.margin}"
            )

    def tiles(self, grid: Extent) -> list[Tile]:
        """The tiles of a picture of so many rows and columns of positions, in raster order."""
        rows, columns = (spans(size, self.size, self.margin) for size in grid)
        return [Tile(*pair) for pair in product(rows, columns)]

    def apply(
        self, work: Callable[[Tensor], Tensor], source: Float[Tensor, "B C h w"], reads: int = 1, writes: int = 1
    ) -> Float[Tensor, "B F y x"]:
        """What ``work`` makes of a picture, tile by tile; of one that is a single tile, exactly that.

        Args:
            work: From ``reads`` to ``writes`` values a position, along each axis.
            source: The whole.
            reads: Scale of the source.
            writes: Scale of the result.
        """
        grid = (source.shape[2] // reads, source.shape[3] // reads)
        tiles = self.tiles(grid)
        if len(tiles) == 1:
            return work(source)
        whole: Tensor | None = None
        for tile in tiles:
            made = work(tile.read(source, reads))
            if whole is None:
                whole = made.new_zeros(*made.shape[:2], grid[0] * writes, grid[1] * writes)
            if self.fade:
                tile.read(whole, writes).add_(made * tile.weights(writes).to(made))
            else:
                tile.place(whole, writes).copy_(tile.cut(made, writes))
        assert whole is not None
        return whole
