"""The optimal scalar quantizer of one coordinate of a random direction (Max, 1960; Lloyd, 1982).

A coordinate t of a direction uniform on the sphere of R^d has the density ``(1 - t^2)^((d - 3) / 2)`` up to a
constant. As ``t = sin(angle)`` it becomes ``cos(angle)^(d - 2)``, which is smooth up to the ends for every d from 2 on:
Gauss-Legendre quadrature per cell is exact to rounding.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
NEWTON_STEPS = 12  # seven reach rounding error for every table


class ScalarTable(NamedTuple):
    """A scalar quantizer of unit vectors, float64 and read-only.

    ``levels`` ``[2^b]`` ascend and mirror each other around zero; ``thresholds`` ``[2^b - 1]`` lie midway between them;
    ``distortion`` is the expected square error of all d coordinates together, relative to the vector's own square.
    """

    levels: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    distortion: float


@functools.cache
def lloyd_max(bits: int, dim: int) -> ScalarTable:
    """The table whose levels are the means of their cells and whose thresholds are the midpoints of its levels.

    No bits at all are the single level zero, with distortion 1.

    Args:
        bits: Per coordinate, 0 to 8.
        dim: Coordinates d of the unit vector, at least 2; 10^6 is the normal limit to six digits.

    Raises:
        ValueError: If bits or dim lie outside.
    """
    if not 0 <= bits <= 8:
        raise ValueError(f"a scalar table has 0 to 8 bits, got {bits}")
    if dim < 2:
        raise ValueError(f"a direction has at least 2 coordinates, got {dim}")
    if bits == 0:
        return _table(np.zeros(1), 1.0)
    levels = _starting_levels(2 ** (bits - 1), dim)
    for _ in range(NEWTON_STEPS):
        mass, means = _cells(levels, dim)
        levels = levels + _newton_step(levels, mass, means, dim)
    mass, means = _cells(levels, dim)
    distortion = 1 - dim * float((mass * means**2).sum() / mass.sum())
    return _table(np.concatenate((-levels[::-1], levels)), distortion)


def _starting_levels(count: int, dim: int) -> NDArray[np.float64]:
    """Levels as dense as the cube root of the density, which is optimal for many bits (Panter and Dite, 1951)."""
    angles = np.linspace(0, _widest(dim), 4097)
    share = np.cumsum(np.cos(angles) ** (dim / 3))
    return np.sin(np.interp((np.arange(count) + 0.5) / count, share / share[-1], angles))


def _cells(levels: NDArray[np.float64], dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mass, up to a constant, and mean of the cells of the positive levels."""
    edges = np.concatenate(([0.0], np.arcsin(_midpoints(levels)), [_widest(dim)]))
    halves = np.diff(edges)[:, None] / 2
    angles = edges[:-1, None] + halves * (1 + NODES)
    weights = halves * WEIGHTS * np.cos(angles) ** (dim - 2)
    mass = weights.sum(1)
    return mass, (weights * np.sin(angles)).sum(1) / mass


def _newton_step(
    levels: NDArray[np.float64], mass: NDArray[np.float64], means: NDArray[np.float64], dim: int
) -> NDArray[np.float64]:
    """The step towards ``means(levels) = levels``; iterating the means alone would take thousands.

    A threshold that moves by dt carries the mass ``density dt`` from one cell to its neighbour, and a level moves both
    its thresholds by half as much.
    """
    thresholds = _midpoints(levels)
    carried = np.sqrt(1 - thresholds**2) ** (dim - 3) / 2
    below = carried * (thresholds - means[:-1]) / mass[:-1]
    above = carried * (means[1:] - thresholds) / mass[1:]
    slopes = np.diag(np.pad(below, (0, 1)) + np.pad(above, (1, 0))) + np.diag(below, 1) + np.diag(above, -1)
    return np.linalg.solve(np.eye(len(levels)) - slopes, means - levels).astype(np.float64)


def _midpoints(levels: NDArray[np.float64]) -> NDArray[np.float64]:
    return (levels[1:] + levels[:-1]) / 2


def _widest(dim: int) -> float:
    """The angle beyond which the density is below e^-45 of its peak."""
    return math.acos(math.exp(-45 / max(dim - 2, 1)))


def _table(levels: NDArray[np.float64], distortion: float) -> ScalarTable:
    """The table, which callers share and therefore cannot write to."""
    thresholds = _midpoints(levels)
    for values in (levels, thresholds):
        values.setflags(write=False)
    return ScalarTable(levels, thresholds, distortion)
