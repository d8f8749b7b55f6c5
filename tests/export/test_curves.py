"""BD-rate: against curves with a known answer, brute-force integration, and what it refuses."""

import math

import numpy as np
import pytest

from sigtok.export.curves import Pchip, bd_rate, worthwhile

SEEDS = range(6)


def curve(seed, points=6, low=20.0, high=40.0):
    """A rising curve of quality over rate, at random places."""
    rng = np.random.default_rng(seed)
    quality = np.sort(rng.uniform(low, high, points))
    rate = np.exp(np.cumsum(rng.uniform(0.05, 0.9, points)))
    return list(zip(rate.tolist(), quality.tolist(), strict=True))


def slope(knots, values, place):
    """The slope at a knot as Fritsch and Butland write it, one knot at a time."""
    steps = [values[i + 1] - values[i] for i in range(len(knots) - 1)]
    widths = [knots[i + 1] - knots[i] for i in range(len(knots) - 1)]
    rises = [step / width for step, width in zip(steps, widths, strict=True)]
    if len(rises) == 1:
        return rises[0]
    if place in (0, len(knots) - 1):
        order = 1 if place == 0 else -1
        (first, second), (near, far) = widths[::order][:2], rises[::order][:2]
        return max(0.0, near + (near - far) * first / (first + second))
    before, behind = widths[place - 1], widths[place]
    alpha = (before + 2 * behind) / (3 * (before + behind))
    return rises[place - 1] * rises[place] / (alpha * rises[place] + (1 - alpha) * rises[place - 1])


def value(knots, values, place):
    """The curve at a place, by the four Hermite polynomials."""
    piece = max(i for i in range(len(knots) - 1) if knots[i] <= place)
    width = knots[piece + 1] - knots[piece]
    t = (place - knots[piece]) / width
    ends = (2 * t**3 - 3 * t**2 + 1) * values[piece] + (3 * t**2 - 2 * t**3) * values[piece + 1]
    slopes = [slope(knots, values, knot) for knot in (piece, piece + 1)]
    return ends + width * ((t**3 - 2 * t**2 + t) * slopes[0] + (t**3 - t**2) * slopes[1])


def log_rates(points, places):
    rates, qualities = zip(*sorted(points), strict=True)
    return np.array([value(qualities, [math.log(rate) for rate in rates], place) for place in places])


# -- known answers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 3.0])
def test_a_constant_factor_of_bits_is_that_factor(seed, factor):
    anchor = curve(seed)
    found = bd_rate([(factor * rate, quality) for rate, quality in anchor], anchor)
    assert found.percent == pytest.approx(100 * (factor - 1), abs=1e-9)
    assert (found.low, found.high) == (min(anchor)[1], max(anchor)[1])


def test_curves_that_are_exponential_have_their_closed_form():
    """log r = a + b q is a line, wherever its points are: the mean difference is that at the middle."""
    ours = [(math.exp(-4 + 0.15 * quality), quality) for quality in (18.0, 25.0, 26.0, 37.0)]
    anchor = [(math.exp(-3 + 0.11 * quality), quality) for quality in (20.0, 21.5, 33.0, 40.0, 45.0)]
    found = bd_rate(ours, anchor)
    assert (found.low, found.high) == (20.0, 37.0)
    assert found.percent == pytest.approx(100 * math.expm1(-1 + 0.04 * 28.5), rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_the_mean_of_the_difference_by_brute_force(seed):
    ours, anchor = curve(seed), curve(seed + 100, points=4, low=24.0, high=45.0)
    found = bd_rate(ours, anchor)
    edges = np.linspace(found.low, found.high, 4001)
    middles = (edges[1:] + edges[:-1]) / 2
    mean = (log_rates(ours, middles) - log_rates(anchor, middles)).mean()
    assert found.percent == pytest.approx(100 * math.expm1(mean), rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_one_takes_more_the_other_takes_less(seed):
    ours, anchor = curve(seed), curve(seed + 50)
    there, back = bd_rate(ours, anchor).percent, bd_rate(anchor, ours).percent
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1)


def test_the_unit_of_the_rate_and_the_order_of_points_do_not_matter():
    ours, anchor = curve(1), curve(2)
    expected = bd_rate(ours, anchor).percent
    scaled = [[(1000 * rate, quality) for rate, quality in reversed(points)] for points in (ours, anchor)]
    assert bd_rate(*scaled).percent == pytest.approx(expected)


# -- the curve between its points --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("points", [2, 3, 7])
def test_a_curve_goes_through_its_points_and_rises_between_them(seed, points):
    rates, qualities = zip(*curve(seed, points), strict=True)
    found = Pchip(qualities, rates)
    np.testing.assert_allclose(found(np.array(qualities)), rates)
    assert (np.diff(found(np.linspace(qualities[0], qualities[-1], 500))) > -1e-12).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_integrals_add_up(seed):
    rates, qualities = zip(*curve(seed), strict=True)
    found, (low, *_, high) = Pchip(qualities, rates), qualities
    middle = low + 0.37 * (high - low)
    assert found.integral(low, middle) + found.integral(middle, high) == pytest.approx(found.integral(low, high))
    assert found.integral(low, low) == 0


# -- points that are not worth their bits, and refusals ----------------------------------------------------


def test_a_point_counts_if_none_is_as_good_for_as_few_bits():
    points = [(4.0, 30.0), (1.0, 10.0), (3.0, 20.0), (2.0, 20.0), (5.0, 29.0), (6.0, 31.0), (6.0, 31.5), (1.0, 9.0)]
    assert worthwhile(points) == [(1.0, 10.0), (2.0, 20.0), (4.0, 30.0), (6.0, 31.5)]


@pytest.mark.parametrize("seed", SEEDS)
def test_points_that_nobody_would_choose_change_nothing(seed):
    ours, anchor = curve(seed), curve(seed + 10)
    worse = [(1.01 * rate, quality - 0.1) for rate, quality in ours]
    assert bd_rate([*worse, *ours], anchor) == bd_rate(ours, anchor)


def test_curves_without_a_common_quality_are_refused():
    low, high = [(1.0, 20.0), (2.0, 25.0)], [(1.0, 25.0), (2.0, 30.0)]
    with pytest.raises(ValueError, match="no overlap: .* got 20 to 25 and 25 to 30; measure more points"):
        bd_rate(low, high)


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 2.0), (2.0, 2.0), (3.0, 1.0)]])
def test_a_curve_of_one_point_is_refused(points):
    with pytest.raises(ValueError, match=f"at least 2 points .* got {min(len(points), 1)}; measure more rates"):
        bd_rate(points, curve(0))
