"""Convolutional networks in exact whole numbers: the same on every machine, whatever the order of sums. No torch.

Integer networks for entropy models are from Balle et al., 2019 (ICLR, "Integer networks for data compression with
latent-variable models"). Here activations and weights are whole numbers in float64 and every sum is below 2**53, so
that any matrix product is exact. After each layer a power of 2 is divided out, rounding down, and values are clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sigtok.codecs.spec import QUALITY_UNIT

EXACT = 2**53  # whole numbers below are float64 exactly
WEIGHT_BITS = 14  # of the largest weight of a layer, besides its sign


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution at stride 1, its edges repeated outwards, then a shift to the right and a clip.

    Args:
        weight: Whole numbers ``[out, in, height, width]``, odd sizes; ``in`` is 1 and ``out`` the channels of a
            depthwise one.
        bias: Whole numbers ``[S, out]``, one row per whole quality (between two the mean by sixteenths, rounded down),
            or a single row.
        shift: Bits that are dropped.
        low: Smallest result; 0 is a ReLU.
        high: Largest result.
    """

    weight: NDArray[np.int64]
    bias: NDArray[np.int64]
    shift: int
    low: int
    high: int

    def bound(self, bound: int) -> int:
        """The largest magnitude of results where inputs are at most `bound`.

        Raises:
            ValueError: If a sum may not be exact.
        """
        sums = np.abs(self.weight).astype(np.float64).sum((1, 2, 3)) * bound + np.abs(self.bias).max(0)
        if not sums.max() < EXACT / 2 or not 0 <= self.shift < 53:
            raise ValueError(
                f"sums of an exact layer stay below 2**52 and its shift below 53, got {sums.max():.3g} and "
                f"{self.shift}; take fewer bits"
            )
        return max(abs(self.low), abs(self.high))

    def __call__(self, values: Any, quality: float | None, library: Any) -> Any:
        """Whole numbers ``[C, rows, columns]`` to others; `library` is numpy or torch, whose names agree."""
        weight = library.asarray(self.weight.astype(np.float64))
        bias = library.asarray(interpolated(self.bias, quality).astype(np.float64))[:, None, None]
        sums = _depthwise if len(weight) == len(values) and weight.shape[1] == 1 else _dense
        total = sums(values, weight, library)
        total += bias
        total *= 2.0**-self.shift
        return library.clip(library.floor(total), self.low, self.high)


@dataclass(frozen=True)
class Fold:
    """Blocks of positions to channels: ``[C, rows m, columns n]`` to ``[C m n, rows, columns]``."""

    rows: int
    columns: int

    def bound(self, bound: int) -> int:
        """That of the inputs."""
        return bound

    def __call__(self, values: Any, quality: float | None, library: Any) -> Any:
        """Whole numbers to the same in another order."""
        channels, high, wide = values.shape
        m, n = self.rows, self.columns
        blocks = values.reshape(channels, high // m, m, wide // n, n)
        return library.moveaxis(blocks, (2, 4), (1, 2)).reshape(channels * m * n, high // m, wide // n)


@dataclass(frozen=True)
class Unfold:
    """The inverse of `Fold`."""

    rows: int
    columns: int

    def bound(self, bound: int) -> int:
        """That of the inputs."""
        return bound

    def __call__(self, values: Any, quality: float | None, library: Any) -> Any:
        """Whole numbers to the same in another order."""
        channels, high, wide = values.shape
        m, n = self.rows, self.columns
        blocks = values.reshape(channels // (m * n), m, n, high, wide)
        return library.moveaxis(blocks, (1, 2), (2, 4)).reshape(-1, high * m, wide * n)


Step = Convolution | Fold | Unfold


class IntegerNetwork:
    """Steps one after another, proved exact when it is made.

    Args:
        steps: In their order.
        bound: Inputs are clipped to this magnitude.

    Raises:
        ValueError: If a sum could reach 2**52.
    """

    def __init__(self, steps: Sequence[Step], bound: int) -> None:
        self.steps, self.bound = tuple(steps), bound
        for step in self.steps:
            bound = step.bound(bound)

    def __call__(self, values: Any, quality: float | None = None, library: Any = np) -> Any:
        """Whole numbers ``[C, rows, columns]`` to others, as float64.

        Args:
            values: Numpy integers or float64, or with ``library=torch`` a float64 tensor of the processor.
            quality: Which biases; None where there is a single row.
            library: Numpy, or torch.
        """
        values = library.clip(values, -self.bound, self.bound) * 1.0
        for step in self.steps:
            values = step(values, quality, library)
        return values


def convolution(
    weight: ArrayLike, bias: ArrayLike, fractions: tuple[int, int], bounds: tuple[float, float]
) -> Convolution:
    """A trained layer in whole numbers.

    A real number r with f fraction bits is the whole number ``r 2^f``. Weights get the fraction bits that their largest
    needs to have 14 bits; results are rounded, ties up.

    Args:
        weight: Real ``[out, in, height, width]``.
        bias: Real ``[S, out]``.
        fractions: Fraction bits of the inputs and of the results.
        bounds: Smallest and largest result, real.

    Raises:
        ValueError: If a weight is not finite, or bits do not suffice.
    """
    real, offset = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    if not np.isfinite(real).all() or not np.isfinite(offset).all():
        raise ValueError("weights are finite numbers, got others; the network did not train")
    least = fractions[1] - fractions[0]  # so that nothing is shifted to the left
    bits = max(WEIGHT_BITS - int(np.frexp(np.abs(real).max(initial=0))[1]), least)
    shift = fractions[0] + bits - fractions[1]
    if not 0 <= bits <= 40:
        raise ValueError(f"weights of an exact layer take 0 to 40 fraction bits, got {bits}; scale the layer")
    low, high = (int(bound * 2 ** fractions[1]) for bound in bounds)
    half = 2**shift // 2
    whole = np.rint(offset * 2.0 ** (fractions[0] + bits)).astype(np.int64) + half
    return Convolution(np.rint(real * 2.0**bits).astype(np.int64), whole, shift, low, high)


def interpolated(rows: NDArray[np.int64], quality: float | None) -> NDArray[np.int64]:
    """The row of a quality of rows ``[S, ...]``, between two by sixteenths; the only row where there is one.

    Raises:
        ValueError: If the quality is not between 1 and S.
    """
    if len(rows) == 1:
        return rows[0]
    if quality is None or not 1 <= quality <= len(rows):
        raise ValueError(f"this network has qualities 1 to {len(rows)}, got {quality}")
    rung, part = divmod(round((quality - 1) * QUALITY_UNIT), QUALITY_UNIT)
    upper = rows[min(rung + 1, len(rows) - 1)]
    return (rows[rung] * (QUALITY_UNIT - part) + upper * part) // QUALITY_UNIT


def _dense(values: Any, weight: Any, library: Any) -> Any:
    """Sums over channels and taps: one matrix product per row of taps, over the rows of the padded grid end to end."""
    out, channels, high, wide = weight.shape
    rows, columns = values.shape[1:]
    if high == wide == 1:
        return (weight[:, :, 0, 0] @ values.reshape(channels, -1)).reshape(out, rows, columns)
    padded = _edges(values, high // 2, wide // 2, library, below=1)
    pitch = columns + wide - 1
    flat = padded.reshape(channels, -1)
    length = (rows + high - 1) * pitch
    shifted = library.concatenate([flat[:, tap : tap + length] for tap in range(wide)])
    total: Any = 0.0
    for tap in range(high):
        taps = library.moveaxis(weight[:, :, tap], 2, 1).reshape(out, -1)
        total = total + taps @ shifted[:, tap * pitch : (tap + rows) * pitch]
    return total.reshape(out, rows, pitch)[:, :, :columns]


def _depthwise(values: Any, weight: Any, library: Any) -> Any:
    high, wide = weight.shape[2:]
    rows, columns = values.shape[1:]
    padded = _edges(values, high // 2, wide // 2, library)
    total: Any = 0.0
    for i in range(high):
        for j in range(wide):
            total = total + padded[:, i : i + rows, j : j + columns] * weight[:, :, i, j][:, :, None]
    return total


def _edges(values: Any, rows: int, columns: int, library: Any, below: int = 0) -> Any:
    """The grid with its edges repeated outwards."""
    if rows + below:
        values = library.concatenate([values[:, :1]] * rows + [values] + [values[:, -1:]] * (rows + below), 1)
    if columns:
        first, last = values[:, :, :1], values[:, :, -1:]
        values = library.concatenate([first] * columns + [values] + [last] * columns, 2)
    return values
