"""Codes under laws that a network finds from side information: which table, and around which number. No torch.

The scale hyperprior (Balle et al., 2018, arXiv 1802.01436) with means (Minnen et al., 2018, arXiv 1809.02736), of codes
that are there already. Side information goes first, under a table per channel; an exact network (`integer`) turns it
into a mean in quarters and the index of a scale for every code. Its writer computes it by an exact network too, so that
codes have one payload on all machines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigtok.codecs.spec import Extent

from .ans import TableReader, TableWriter
from .integer import IntegerNetwork
from .static import StaticLaws, codes_of, values_of

PHASES = 4  # means from one whole number to the next
POOL = 4  # positions of one of side information, along each axis
_BLOCK = 2**16  # positions whose laws are found at once


@dataclass(frozen=True, eq=False)
class Networks:
    """What finds the laws.

    Args:
        compander: Whole numbers ``[K]``: what the analysis reads in place of a magnitude, of larger ones the last.
        local: Signed companded values and their magnitudes ``[2 D, rows, columns]`` to ``[F, rows / 4, columns / 4]``,
            block by block; on one axis rows are 1.
        analysis: That to side information ``[E, rows / 4, columns / 4]``.
        synthesis: Side information to ``[F, rows, columns]``.
        mean: That to means ``[D, rows, columns]`` in quarters.
        scale: That to indices of scales ``[D, rows, columns]``, from 0 on.
    """

    compander: NDArray[np.int64]
    local: IntegerNetwork
    analysis: IntegerNetwork
    synthesis: IntegerNetwork
    mean: IntegerNetwork
    scale: IntegerNetwork


class IndexedCoder:
    """An `EntropyCoder` of codes on a grid.

    Args:
        sizes: Codes K of each of the D codebooks; the code of 0 is ``K // 2``.
        networks: See there.
        side: Laws of the side information; of their tables the first 4 M are those of the codes: M scales with mean 0,
            then with mean 1/4, 1/2 and 3/4.
        scales: Their number M.
    """

    def __init__(self, sizes: Sequence[int], networks: Networks, side: StaticLaws, scales: int) -> None:
        self.sizes, self.networks, self.side, self.scales = tuple(sizes), networks, side, scales
        self.tables = side.tables
        self.tables.check_index(np.array([PHASES * scales - 1]))

    def encode(self, codes: tuple[np.ndarray, ...], grid: Extent, quality: float | None) -> bytes:
        """The payload of codes ``[N]`` per codebook."""
        writer, values = TableWriter(self.tables), values_of(codes, self.sizes)
        if values.size:
            side = self._analysed(values, grid, quality)
            self.side.put(writer, side.reshape(len(side), -1), quality)
            means, index = self._laws(side, grid, quality)
            writer.put((values - means).ravel(), index.ravel())
        return writer.payload()

    def decode(self, payload: bytes, grid: Extent, quality: float | None) -> tuple[np.ndarray, ...]:
        """The codes of a payload.

        Raises:
            ValueError: If the payload is not one that `encode` makes.
        """
        reader, values = TableReader(self.tables, payload), np.zeros((len(self.sizes), math.prod(grid)), np.int64)
        if values.size:
            pooled = _pooled(grid)
            side = self.side.get(reader, math.prod(pooled), quality)
            values, index = self._laws(side.reshape(-1, *pooled), grid, quality)
            values += reader.get(index.ravel()).reshape(values.shape)
        reader.finish()
        return codes_of(values, self.sizes)

    def _analysed(self, values: NDArray[np.int64], grid: Extent, quality: float | None) -> NDArray[np.int64]:
        """Side information ``[E, rows, columns]`` of whole numbers ``[D, N]``, by strips of blocks."""
        (rows, columns), (high, wide) = _plane(grid), _pooled(grid)
        pad = ((0, 0), (0, high * _pools(grid)[0] - rows), (0, wide * POOL - columns))
        padded = np.pad(values.reshape(-1, rows, columns), pad, mode="edge")
        axis, across = (1, padded.shape[2]) if len(grid) == 2 else (2, 1)
        step = POOL * max(_BLOCK // POOL // across, 1)
        parts = np.split(padded, range(step, padded.shape[axis], step), axis)
        pooled = np.concatenate([self.networks.local(self._features(part), quality) for part in parts], axis)
        return self.networks.analysis(pooled, quality).astype(np.int64)

    def _features(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        table = self.networks.compander
        magnitudes = table[np.minimum(np.abs(values), len(table) - 1)]
        return np.concatenate((magnitudes * np.sign(values), magnitudes))

    def _laws(
        self, side: NDArray[np.int64], grid: Extent, quality: float | None
    ) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
        """Whole means and table indices ``[D, N]``."""
        rows, columns = _plane(grid)
        hidden = self.networks.synthesis(side, quality)[:, :rows, :columns]
        hidden = hidden.reshape(len(hidden), 1, -1)
        means = np.empty((len(self.sizes), rows * columns), np.int64)
        index = np.empty(means.shape, np.uint16)
        for start in range(0, rows * columns, _BLOCK):
            part = np.s_[:, start : start + _BLOCK]
            block = hidden[:, :, start : start + _BLOCK]
            quarters = self.networks.mean(block, quality)[:, 0].astype(np.int64)
            means[part] = quarters // PHASES
            index[part] = self.networks.scale(block, quality)[:, 0] + quarters % PHASES * self.scales
        return means, index


def _plane(grid: Extent) -> tuple[int, int]:
    """Rows and columns; a row of all on one axis."""
    return (grid[0], grid[1]) if len(grid) == 2 else (1, grid[0])


def _pools(grid: Extent) -> tuple[int, int]:
    return (POOL, POOL) if len(grid) == 2 else (1, POOL)


def _pooled(grid: Extent) -> tuple[int, int]:
    """Rows and columns of side information."""
    (rows, columns), (high, wide) = _plane(grid), _pools(grid)
    return -(-rows // high), -(-columns // wide)
