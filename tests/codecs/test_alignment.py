"""A delay is found to the sample, in either direction and polarity, and not where there is none."""

import pytest
import torch

from sigtok.codecs.metrics.alignment import lag


def noise(samples=2000, seed=0, channels=1):
    return torch.randn(channels, samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("late", [-100, -7, -1, 0, 1, 7, 100])
@pytest.mark.parametrize("gain", [1.0, 0.1, -0.5])
def test_a_delay_is_found_to_the_sample(late, gain, channels):
    long = noise(2400, channels=channels)
    reference, reconstruction = long[:, 200:2200], gain * long[:, 200 - late : 2200 - late]
    found = lag(reconstruction + 0.01 * gain * noise(seed=1, channels=channels), reference, 100)
    assert found.samples == late
    assert abs(found.correlation) > 0.9 and (found.correlation > 0) == (gain > 0)


def test_farther_than_asked_is_not_looked_for():
    long = noise(2400)
    assert abs(lag(long[:, 150:2150], long[:, 200:2200], 20).correlation) < 0.2


def test_what_does_not_follow_says_so():
    assert abs(lag(noise(seed=1), noise(seed=2), 100).correlation) < 0.2
    assert lag(torch.zeros(1, 50), noise(50), 10) == (0, 0.0) == lag(noise(50), torch.zeros(1, 50), 10)
    assert lag(torch.ones(1, 1), torch.ones(1, 1), 10).samples == 0


def test_ends_do_not_wrap_around():
    reference = torch.zeros(1, 1000)
    reference[0, :50] = noise(50)[0]
    reconstruction = torch.zeros(1, 1000)
    reconstruction[0, -50:] = reference[0, :50]
    assert abs(lag(reconstruction, reference, 100).correlation) < 0.3
