"""Laws of the back for voices: pulses are sums of cosines at the pitch, noise is white, gains filter them."""

import math

import pytest
import torch
from torch import nn

from sigtok.codecs.audio.source_back import GRID, LOUDEST, MIDDLE, NOISE_FRAMES, OCTAVES, SourceBack, pulse_train
from sigtok.codecs.metrics.pitch import pitch

RATE, HOP, SIZE = 24_000, 320, 960


BANDS = 40
NONE = torch.full((SIZE // 2 + 1,), -30.0)


def made(**options):
    return SourceBack(
        **{"size": SIZE, "hop": HOP, "stack": 1, "dim": 8, "blocks": 0, "bands": BANDS} | options, sample_rate=RATE
    )


class Says(nn.Module):
    """A head that says the same of every frame."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def forward(self, frames):
        return self.values.expand(*frames.shape[:2], -1)


def spoken(back, hertz, pulses, noise, level=0.0):
    """Samples of a back of one pitch per frame whose gains are those in natural logarithms of amplitude."""
    back.head = Says(torch.cat((pulses, torch.zeros(back.bins), noise)))
    octaves = torch.log2(torch.as_tensor(hertz) / MIDDLE)[None]
    bands = torch.full((1, octaves.shape[1], BANDS), level)
    samples, _ = back(torch.randn(1, octaves.shape[1], 8), back.initial_state(1), bands, octaves)
    return samples[0, back.delay :]


@pytest.mark.parametrize("count", [1, 2, 7, 240])
def test_pulse_trains_are_sums_of_cosines(count):
    periods = torch.cat((torch.linspace(-2, 2, 4001), torch.tensor([1e-9, 0.5, 1 - 1e-7]))).double()
    summed = sum(torch.cos(2 * math.pi * h * periods) for h in range(1, count + 1)) / (count / 2) ** 0.5
    found = pulse_train(periods - periods.round(), torch.full((1,), count + 0.7, dtype=torch.float64))
    torch.testing.assert_close(found, summed, atol=1e-3 * count**0.5, rtol=0)
    assert float(found[:4000].square().mean()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("steps", [-5000, -1501, 3700])
def test_a_steady_pitch_is_one_sound_without_seams(steps):
    """Frames of pulses that go on from each other add up to the pulse train of the whole signal."""
    back = made()
    hertz = MIDDLE * 2 ** (steps / GRID)
    samples = spoken(back, torch.full((60,), hertz).double(), torch.zeros(back.bins), NONE)
    periods = (torch.arange(len(samples)) + HOP / 2).double() * hertz / RATE
    wanted = pulse_train(periods - periods.round(), torch.tensor([RATE / 2 / hertz]).double())
    torch.testing.assert_close(samples.double(), wanted, atol=0.02, rtol=0)


def test_a_gliding_pitch_is_heard_as_said():
    times = torch.arange(150) * HOP / RATE
    said = 160 * torch.exp2(0.4 * torch.sin(2 * math.pi * 1.5 * times))
    back = made()
    samples = spoken(back, said, torch.zeros(back.bins), NONE)
    heard, voiced = pitch(samples[None], RATE, HOP)
    cents = 1200 * torch.log2(heard[0] / said[: heard.shape[1]]).abs()
    assert voiced[0, 3:-3].all() and float(cents[3:-3].quantile(0.95)) < 5


def test_noise_is_white_and_as_loud_as_said():
    back = made()
    samples = spoken(back, torch.full((NOISE_FRAMES,), 100.0), NONE, torch.full((back.bins,), -1.0))
    assert float(samples.std()) == pytest.approx(math.exp(-1), rel=0.02)
    density = torch.fft.rfft(samples[: 240 * HOP].unflatten(0, (-1, 480))).abs().square().mean(0)[2:-2]
    assert density.max() / density.min() < 2.5 and abs(float(samples.mean())) < 0.01


def test_a_gain_is_a_filter():
    """What is said of the upper half of the bins is heard in the upper half."""
    back = made()
    shape = torch.zeros(back.bins)
    shape[back.bins // 2 :] = -10
    samples = spoken(back, torch.full((100,), 100.0), NONE, shape)
    power = torch.fft.rfft(samples).abs().square()
    half = len(power) // 2
    assert power[int(1.02 * half) :].sum() < 1e-4 * power[:half].sum()


def test_the_envelope_is_in_log_energies_and_limited():
    back, frames = made(), torch.full((NOISE_FRAMES,), 100.0)
    unit = torch.zeros(back.bins)
    assert float(spoken(back, frames, NONE, unit, -2.0).std()) == pytest.approx(math.exp(-1), rel=0.02)
    loudest = float(spoken(back, frames, unit - 30, unit, 90.0).std())
    assert loudest == pytest.approx(2**0.5 * math.exp(LOUDEST), rel=0.1)  # pulses and noise


@pytest.mark.parametrize("octaves, hertz", [(-9.0, MIDDLE / 2**OCTAVES), (9.0, MIDDLE * 2**OCTAVES)])
def test_pitch_stays_in_range(octaves, hertz):
    back = made()
    _, state = back(torch.randn(1, 5, 8), back.initial_state(1), torch.zeros(1, 5, BANDS), torch.full((1, 5), octaves))
    assert float(state[-3][0, 1]) == pytest.approx(hertz, rel=1e-4)


def test_noise_goes_on_after_its_last_frame():
    back = SourceBack(24, 8, 1, 4, 0, 4, 4000)
    state = list(back.initial_state(1))
    pitches = torch.full((1, 3), 100.0)
    state[-3][:, 2] = NOISE_FRAMES - 1
    _, noise, after = back._sources(pitches, state[-3])
    for row, place in enumerate([NOISE_FRAMES - 1, 0, 1]):
        assert torch.equal(noise[0][0, row], back.noise[0, place])
    assert after[0, 2] == 2


def test_frames_are_an_odd_number_of_hops():
    with pytest.raises(ValueError, match="odd multiple of hop, got size=16, hop=8"):
        SourceBack(16, 8, 1, 4, 1, 4, 4000)


def test_the_noise_is_the_same_everywhere():
    """Whoever decodes, wherever, hears the same."""
    noise = SourceBack(24, 8, 1, 4, 0, 4, 4000).noise
    wanted = torch.tensor([[0.926551, -0.134321, 0.639381], [0.0, 0.289258, 0.677375]])
    torch.testing.assert_close(noise[:, 0, :3], wanted, atol=1e-5, rtol=0)
