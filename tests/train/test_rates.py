"""Drawn counts, shares and qualities: weights say how often, and what cannot be drawn is refused."""

import random

import pytest

from sigtok.codecs.spec import CodecSpec
from sigtok.train.rates import Draw, Rates

IMAGE = {"modality": "image", "channels": 3, "sample_rate": None, "hop": (4, 4), "windows": ((4, 4),), "queries": 16}
GRANULAR = CodecSpec(
    name="granular", codebook_sizes=(8,) * 3, strides=(16, 4, 1), latent_dim=4, shares=(0.1, 0.4, 0.5), **IMAGE
)
PLAIN = CodecSpec(name="plain", codebook_sizes=(8,), latent_dim=4, **IMAGE)
RUNGS = CodecSpec(name="rungs", codebook_sizes=(8,), latent_dim=4, qualities=3, quality_steps=4, **IMAGE)
MIXES = ((1.0, 0.0, 0.0), (0.2, 0.3, 0.5), (0.0, 0.0, 1.0))


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


def test_shares_are_drawn_evenly_and_for_a_step_the_same_again():
    rates = Rates(shares=MIXES, seed=3)
    drawn = [rates.at(step, GRANULAR).shares for step in range(3000)]
    assert {mix: drawn.count(mix) / 3000 for mix in MIXES} == pytest.approx(dict.fromkeys(MIXES, 1 / 3), abs=0.03)
    assert drawn[:50] == [
        Rates(shares=[list(mix) for mix in MIXES], seed=3).at(step, GRANULAR).shares for step in range(50)
    ]
    assert drawn != [Rates(shares=MIXES, seed=4).at(step, GRANULAR).shares for step in range(3000)]


def test_without_shares_to_draw_they_are_the_codec_s():
    assert Rates().at(0, GRANULAR) == GRANULAR.resolve()
    assert Rates().at(0, PLAIN).shares is None


@pytest.mark.parametrize("shares", [(0.5, 0.4, 0.2), (1.2, -0.2, 0.0), ()])
def test_shares_that_are_no_whole_are_refused_at_once(shares):
    with pytest.raises(ValueError, match="shares are at least 0 and sum to 1, got"):
        Rates(shares=[MIXES[0], shares])


def test_shares_of_another_number_of_granularities_are_refused():
    with pytest.raises(ValueError, match="shares are 3 for this codec, got 2"):
        Rates(shares=[(0.5, 0.5)]).at(0, GRANULAR)
    with pytest.raises(ValueError, match="shares are 0 for this codec, got 3"):
        Rates(shares=MIXES).at(0, PLAIN)


@pytest.mark.parametrize("given", [(), (1.25, 3.0), (2.0,)])
def test_qualities_are_drawn_evenly_of_those_given_or_of_all_whole_ones(given):
    drawn = [Rates(qualities=given).at(step, RUNGS).quality for step in range(900)]
    expected = given or (1.0, 2.0, 3.0)
    assert {each: drawn.count(each) / 900 for each in set(drawn)} == pytest.approx(
        dict.fromkeys(expected, 1 / len(expected)), abs=0.06
    )
    assert all(type(quality) is float for quality in drawn)
    assert drawn == [Rates(qualities=list(given)).at(step, RUNGS).quality for step in range(900)]
    assert len(given) == 1 or drawn != [Rates(qualities=given, seed=1).at(step, RUNGS).quality for step in range(900)]


def test_a_codec_without_qualities_draws_none_and_qualities_it_has_not_are_refused():
    assert Rates().at(0, PLAIN).quality is None
    with pytest.raises(ValueError, match="plain has no qualities, got quality=2.0"):
        Rates(qualities=(2.0,)).at(0, PLAIN)
    for quality in (4.0, 0.75, 1.1):
        with pytest.raises(ValueError, match=rf"qualities 1 to 3 in steps of 1/4, got {quality}"):
            Rates(qualities=(quality,)).at(0, RUNGS)
