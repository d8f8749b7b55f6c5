"""Drawn counts: weights say how often, and what cannot be drawn is refused."""

import random

import pytest

from sigtok.train.rates import Draw


def shares(draw, most, count=4000):
    generator = random.Random(0)
    drawn = [draw.count(most, generator) for _ in range(count)]
    return {value: drawn.count(value) / count for value in set(drawn)}


@pytest.mark.parametrize("weights", [(0.1, 0.15, 0.2, 0.25, 0.3), (1.0, 1.0, 1.0, 1.0, 6.0)])
@pytest.mark.parametrize("full", [0.0, 0.4])
def test_choices_are_drawn_as_often_as_their_weights_say(weights, full):
    choices = (1, 2, 3, 5, 9)
    expected = {choice: (1 - full) * weight / sum(weights) for choice, weight in zip(choices, weights, strict=True)}
    expected[9] += full
    assert shares(Draw(full, choices, weights), 9) == pytest.approx(expected, abs=0.03)


def test_without_weights_choices_are_drawn_evenly():
    assert shares(Draw(0.0, (2, 3)), 9) == pytest.approx({2: 0.5, 3: 0.5}, abs=0.03)


@pytest.mark.parametrize("choices, weights", [((1, 2), (1.0,)), ((), (1.0,)), ((1, 2), (1.0, 0.0)), ((1,), (-1.0,))])
def test_a_choice_without_a_weight_is_refused(choices, weights):
    with pytest.raises(ValueError, match="one weight above 0 per choice"):
        Draw(0.0, choices, weights)
