"""Rungs: steps start where bits are worth their error, lie in even proportion, and rounding to zero is never undone."""

import math

import numpy as np
import pytest
import torch

from sigtok.codecs.layers.ladder import MOST, SHRINK, Gains, Steps, first_steps, geometric, moved, shrunk

STEPS = torch.tensor([0.5, 0.2, 0.05])
NORMS = torch.tensor([1.0, 1.6, 3.0, 0.7])


def entropy_and_error(step, channels):
    """Bits of all channels of a position and the error averaged over them, of uniform quantization of a wide normal."""
    edges = step * (np.arange(-2000, 2001) + 0.5)
    law = np.array([0.5 * math.erf(edge / math.sqrt(2)) for edge in edges])
    mass = np.diff(law)
    mass = mass[mass > 0]
    values = np.linspace(-6, 6, 100_001)
    density = np.exp(-(values**2) / 2)
    error = ((values - step * np.rint(values / step)) ** 2 * density).sum() / density.sum()
    return channels * -(mass * np.log2(mass)).sum(), error


@pytest.mark.parametrize("trade", [500.0, 5_000.0, 50_000.0])
def test_first_steps_are_the_best_ones_of_three_channels_at_a_high_rate(trade):
    ratios = np.linspace(0.9, 1.1, 11)
    start = float(first_steps(torch.tensor([trade], dtype=torch.float64)))
    costs = []
    for ratio in ratios:
        bits, error = entropy_and_error(start * ratio, 3)
        costs.append(bits + trade * error)
    assert ratios[np.argmin(costs)] == pytest.approx(1, abs=0.021)


def test_geometric_numbers_are_in_even_proportion_from_the_first_to_the_last():
    numbers = geometric(25.0, 3000.0, 6)
    assert len(numbers) == 6
    torch.testing.assert_close(numbers[1:] / numbers[:-1], torch.full((5,), 120.0 ** (1 / 5)))
    torch.testing.assert_close(numbers[[0, -1]], torch.tensor([25.0, 3000.0]))
    torch.testing.assert_close(geometric(7.0, 7.0, 1), torch.tensor([7.0]))


def test_a_step_of_a_channel_makes_the_same_error_in_the_signal_as_one_of_any_other():
    gain, dead = Gains(STEPS, NORMS).at(2.0)
    step, outward = Steps(STEPS, NORMS).at(2.0)
    torch.testing.assert_close((step * NORMS).detach(), torch.full((4,), 0.2))
    torch.testing.assert_close((gain * step).detach(), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)
    assert (dead == torch.tensor(SHRINK)).all() and (outward == torch.tensor(SHRINK) / 2).all()


@pytest.mark.parametrize("kind", [Gains, Steps])
def test_between_two_qualities_are_the_geometric_means_of_what_they_learned(kind):
    ladder = kind(STEPS, NORMS)
    with torch.no_grad():
        for weight in ladder.parameters():
            weight.copy_(0.2 + 0.02 * torch.randn_like(weight))
    factors, shifts = (weight.detach() for weight in ladder.parameters())
    for rung in range(3):
        factor, shift = ladder.at(1.0 + rung)
        torch.testing.assert_close(factor.float(), factors[rung].exp())
        torch.testing.assert_close(shift.float(), shifts[rung])
    for low, part in [(0, 0.5), (0, 0.25), (1, 0.75), (1, 0.0625)]:
        factor, shift = ladder.at(1 + low + part)
        torch.testing.assert_close(factor.float(), factors[low].exp() ** (1 - part) * factors[low + 1].exp() ** part)
        torch.testing.assert_close(shift.float(), (1 - part) * shifts[low] + part * shifts[low + 1])


def test_gains_are_exact_where_rounding_follows_and_steps_are_floats():
    gains, steps = Gains(STEPS, NORMS), Steps(STEPS, NORMS)
    for quality in (1.0, 1.5, 3.0):
        assert [law.dtype for law in gains.at(quality)] == [torch.float64] * 2
        assert [law.dtype for law in steps.at(quality)] == [torch.float32] * 2
    exact = (gains.log_gain[0].double() * 0.5 + gains.log_gain[1].double() * 0.5).exp()
    torch.testing.assert_close(gains.at(1.5)[0], exact, rtol=1e-14, atol=0)


def test_how_far_values_shrink_stays_between_nothing_and_less_than_half_a_step():
    gains = Gains(STEPS, NORMS)
    with torch.no_grad():
        gains.shrink[0] = torch.tensor([-3.0, 0.3, 0.6, 50.0])
    assert MOST < 0.5
    torch.testing.assert_close(gains.at(1.0)[1].float().detach(), torch.tensor([0.0, 0.3, MOST, MOST]))


VALUES = torch.linspace(-4, 4, 1601, dtype=torch.float64)


@pytest.mark.parametrize("dead", [0.0, 0.1, 0.45, 1.0])
def test_shrunk_values_are_nearer_to_zero_by_so_much_and_never_beyond(dead):
    found = shrunk(VALUES, torch.tensor(dead, dtype=torch.float64))
    for value, made in zip(VALUES.tolist(), found.tolist(), strict=True):
        expected = 0.0 if abs(value) <= dead else math.copysign(abs(value) - dead, value)
        assert made == pytest.approx(expected, abs=1e-12)
    assert torch.equal(found, -shrunk(-VALUES, torch.tensor(dead, dtype=torch.float64)))
    assert (found * VALUES >= 0).all() and (found.diff() >= 0).all()


@pytest.mark.parametrize("outward", [0.0, 0.05, 0.3, -0.2])
def test_moved_numbers_are_further_from_zero_by_so_much_and_zero_stays(outward):
    whole = torch.arange(-5.0, 6.0)
    found = moved(whole, torch.tensor(outward))
    for value, made in zip(whole.tolist(), found.tolist(), strict=True):
        assert made == pytest.approx(value + outward * ((value > 0) - (value < 0)))
    assert torch.equal(found, -moved(-whole, torch.tensor(outward)))


def test_numbers_that_come_back_are_found_again():
    """A decoded signal encodes to the same whole numbers: shrinking by d undoes moving outward by up to half + d."""
    whole = torch.arange(-9.0, 10.0)
    for dead in (0.0, 0.1, MOST):
        for outward in (0.0, dead / 2, dead, dead + 0.45):
            again = shrunk(moved(whole, torch.tensor(outward)), torch.tensor(dead)).round()
            assert torch.equal(again, whole)


def test_gradients_reach_what_shrinks_and_what_moves_with_their_signs():
    values, dead = torch.tensor([-2.0, -0.05, 0.02, 3.0]), torch.full((4,), 0.1, requires_grad=True)
    shrunk(values, dead).sum().backward()
    torch.testing.assert_close(dead.grad, torch.tensor([1.0, 0.0, 0.0, -1.0]))
    whole, outward = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True), torch.full((3,), 0.1, requires_grad=True)
    moved(whole, outward).sum().backward()
    torch.testing.assert_close(outward.grad, torch.tensor([-1.0, 0.0, 1.0]))
    torch.testing.assert_close(whole.grad, torch.ones(3))
