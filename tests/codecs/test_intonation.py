"""Errors of pitch are those that were made: in cents where both are voiced, in frames where only one is."""

import math

import pytest
import torch

from sigtok.codecs.metrics.intonation import pitch_cents, voicing_error

RATE = 16_000
METRICS = [pitch_cents, voicing_error]


def voice(hertz, seconds=1.0):
    """Harmonics of a steady pitch, ``[1, T]``."""
    samples = torch.arange(round(seconds * RATE)) / RATE
    return 0.1 * sum(torch.cos(2 * math.pi * h * hertz * samples + h) / h for h in range(1, 12))[None]


def breath(seconds=1.0):
    return 0.02 * torch.randn(1, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("cents", [-300, -50, 10, 700])
@pytest.mark.parametrize("metric_rate", [RATE, 8000])
def test_a_transposed_voice_is_as_far_off_as_it_was_moved(cents, metric_rate):
    low = 150 if metric_rate == RATE else 300  # the same samples at half the rate sound an octave lower
    found = pitch_cents(voice(low * 2 ** (cents / 1200)), voice(low), metric_rate)
    assert found == pytest.approx(abs(cents), abs=5)


@pytest.mark.parametrize("hertz", [200, 300, 450])
def test_a_wrong_octave_counts_as_one_and_nothing_counts_more(hertz):
    assert pitch_cents(voice(hertz), voice(100), RATE) == pytest.approx(1200, abs=3)
    assert pitch_cents(voice(100), voice(hertz), RATE) == pytest.approx(1200, abs=3)


def test_errors_are_squared_over_the_frames_that_are_voiced_in_both():
    reference = torch.cat([voice(200), voice(200), voice(200)], 1)
    decoded = torch.cat([voice(200), voice(100), breath()], 1)
    assert pitch_cents(decoded, reference, RATE) == pytest.approx(1200 * math.sqrt(0.5), rel=0.05)


def test_a_voice_lost_or_made_up_is_a_share_of_all_frames():
    whole, part = voice(140, 2), torch.cat([voice(140, 1.5), breath(0.5)], 1)
    for pair in ((part, whole), (whole, part)):
        assert voicing_error(*pair, RATE) == pytest.approx(0.25, abs=0.03)
        assert pitch_cents(*pair, RATE) < 30


@pytest.mark.parametrize("metric", METRICS)
def test_equal_voices_have_no_error_and_channels_are_averaged(metric):
    reference, decoded = voice(200, 2), torch.cat([voice(220), breath()], 1)
    assert metric(reference, reference, RATE) == 0
    error = metric(decoded, reference, RATE)
    both = [torch.stack([reference, first]) for first in (decoded, reference)]
    assert error > 0 and metric(*both, RATE) == pytest.approx(error / 2)
    beside_breath = [torch.stack([breath(2), signal]) for signal in (decoded, reference)]
    assert metric(*beside_breath, RATE) == pytest.approx(error)


@pytest.mark.parametrize("metric", METRICS)
def test_what_has_no_voice_costs_a_reason(metric):
    with pytest.raises(ValueError, match="no frame is voiced"):
        metric(breath(), breath(), RATE)
    with pytest.raises(ValueError, match="needs a frame of 160 samples"):
        metric(voice(200)[:, :159], voice(200)[:, :159], RATE)
    with pytest.raises(ValueError, match="needs 1000 samples a second, got 999"):
        metric(voice(200), voice(200), 999)


def test_one_frame_is_enough():
    assert voicing_error(voice(200)[:, :200], voice(200)[:, :200], RATE) == 0
