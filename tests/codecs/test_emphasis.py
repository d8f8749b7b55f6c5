"""Emphasis is one filter, seen from two sides."""

import math

import pytest
import torch

from sigtok.codecs.audio.models import walloc_stereo
from sigtok.codecs.layers.emphasis import emphasised, response

AMOUNTS = (0.0, 0.5, 0.95)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_tone_in_the_middle_of_a_band_is_filtered_by_the_gain_of_the_band(amount):
    count, time = 8, torch.arange(4096, dtype=torch.float64)
    for band, gain in enumerate(response(count, amount).tolist()):
        tone = (time * (band + 0.5) * math.pi / count).cos()[None, None]
        power = emphasised(tone, amount).square().mean() / tone.square().mean()
        assert math.sqrt(power) == pytest.approx(gain, rel=0.01)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_white_noise_keeps_its_power(amount):
    noise = torch.randn(1, 2, 100_000, generator=torch.Generator().manual_seed(0))
    assert emphasised(noise, amount).square().mean() == pytest.approx(1, abs=0.02)
    assert response(4096, amount).square().mean() == pytest.approx(1, abs=1e-3)


def test_bands_start_with_the_steps_of_the_emphasis():
    """Twice the gain, half the step; no emphasis, as it was."""
    sizes = dict(bins=64, width=8, depth=1, qualities=2, hidden=4)
    plain, heard = walloc_stereo(**sizes), walloc_stereo(**sizes, emphasis=0.9)
    gains = response(4, 0.9).repeat(2).log()
    torch.testing.assert_close(heard.encoder.gains.log_gain, plain.encoder.gains.log_gain + gains)
    torch.testing.assert_close(heard.decoder.steps.log_step, plain.decoder.steps.log_step - gains)
    assert plain.encoder.gains.log_gain.unique().numel() == 2
