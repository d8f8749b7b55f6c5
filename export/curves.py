"""How many more bits one codec takes than another at equal quality (BD-rate; Bjontegaard, ITU-T VCEG-M33, 2001).

The logarithm of the rate is a function of quality, and the difference of two such functions is averaged over the
qualities that both curves have. Between its points a function is piecewise cubic and never overshoots (PCHIP; Fritsch
and Butland, 1984), where VCEG-M33 fits one cubic to all points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]]  # rate above 0 and quality, higher is better; in any order


class BDRate(NamedTuple):
    """What a codec takes beyond an anchor, in per cent of its bits, below 0 if it takes fewer; and the qualities that
    this was averaged over."""

    percent: float
    low: float
    high: float


def bd_rate(ours: Points, anchor: Points) -> BDRate:
    """The mean difference of two curves' bits at equal quality, over the qualities that both have.

    Raises:
        ValueError: If a curve has fewer than two points that `worthwhile` keeps, or they have no quality in common.
    """
    curves = [_curve(points) for points in (ours, anchor)]
    low, high = max(curve.knots[0] for curve in curves), min(curve.knots[-1] for curve in curves)
    if low >= high:
        spans = " and ".join(f"{curve.knots[0]:.4g} to {curve.knots[-1]:.4g}" for curve in curves)
        raise ValueError(f"no overlap: curves are compared where both have a quality, got {spans}; measure more points")
    difference = (curves[0].integral(low, high) - curves[1].integral(low, high)) / (high - low)
    return BDRate(100 * math.expm1(difference), float(low), float(high))


def worthwhile(points: Points) -> list[tuple[float, float]]:
    """The points, by rate, of which none other has as much quality for as few bits: both rise strictly along them.

    What is left out nobody would choose: a setting that takes more bits and is not better.
    """
    kept: list[tuple[float, float]] = []
    for rate, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return kept


class Pchip:
    """A curve through points that rises all along, with a continuous slope.

    Args:
        knots: Where the points are, at least two, rising.
        values: At the knots, rising.
    """

    def __init__(self, knots: Sequence[float], values: Sequence[float]) -> None:
        self.knots, self.values = np.asarray(knots, np.float64), np.asarray(values, np.float64)
        widths = np.diff(self.knots)
        rises = np.diff(self.values) / widths
        self.slopes = np.concatenate((_end(widths, rises), _inner(widths, rises), _end(widths[::-1], rises[::-1])))

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The curve at places between the first knot and the last."""
        piece = np.clip(np.searchsorted(self.knots, places, side="right") - 1, 0, len(self.knots) - 2)
        width = self.knots[piece + 1] - self.knots[piece]
        part = (places - self.knots[piece]) / width
        rest = 1 - part
        ends = rest**2 * (1 + 2 * part) * self.values[piece] + part**2 * (1 + 2 * rest) * self.values[piece + 1]
        return ends + width * part * rest * (rest * self.slopes[piece] - part * self.slopes[piece + 1])

    def integral(self, low: float, high: float) -> float:
        """Between two places, exact: Simpson's rule is, for cubics, on every piece."""
        edges = np.concatenate(([low], self.knots[(self.knots > low) & (self.knots < high)], [high]))
        left, right = edges[:-1], edges[1:]
        return float(((right - left) * (self(left) + 4 * self((left + right) / 2) + self(right)) / 6).sum())


def _curve(points: Points) -> Pchip:
    """The logarithm of the rate over quality."""
    kept = worthwhile(points)
    if len(kept) < 2:
        raise ValueError(
            f"a curve has at least 2 points of which that of more bits is better, got {len(kept)}; measure more rates"
        )
    return Pchip([quality for _, quality in kept], [math.log(rate) for rate, _ in kept])


def _inner(widths: np.ndarray, rises: np.ndarray) -> np.ndarray:
    """Slopes between two pieces: their harmonic mean, in which the shorter piece weighs more."""
    before, behind = widths[:-1] + 2 * widths[1:], 2 * widths[:-1] + widths[1:]
    return (before + behind) / (before / rises[:-1] + behind / rises[1:])


def _end(widths: np.ndarray, rises: np.ndarray) -> np.ndarray:
    """The slope at the first knot: that of a parabola through three points, if it rises."""
    if len(rises) == 1:
        return rises
    first, second = widths[:2]
    return np.maximum([((2 * first + second) * rises[0] - first * rises[1]) / (first + second)], 0)
