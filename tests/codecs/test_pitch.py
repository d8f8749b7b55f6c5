"""Laws of periodicity and of the pitch of a voice."""

import math

import pytest
import torch

from sigtok.codecs.metrics.pitch import pitch
from sigtok.codecs.transforms.periodicity import Periodicity

RATE, HOP = 24_000, 320


def voice(hertz, seconds=1.5, harmonics=14):
    """Harmonics of a pitch, a number or one per sample, with phases of their own."""
    samples = torch.arange(round(seconds * RATE))
    turns = torch.cumsum(torch.as_tensor(hertz).double().expand(len(samples)) / RATE, 0)
    return 0.1 * sum(torch.cos(2 * math.pi * h * turns + h) / h for h in range(1, harmonics)).float()


def power_of(signal, size, bins):
    window = torch.hann_window(size, dtype=torch.float64)
    return torch.fft.rfft(signal.double() * window, n=bins).abs().square()


@pytest.mark.parametrize("hertz", [70, 123.4, 220, 377.7, 480])
@pytest.mark.parametrize("rate", [16_000, 24_000])
def test_pitch_of_a_steady_voice(hertz, rate):
    samples = torch.arange(rate)
    signal = sum(torch.cos(2 * math.pi * h * hertz * samples / rate + h) / h for h in range(1, 12)) * 0.1
    found, voiced = pitch(signal[None], rate, rate // 75)
    assert voiced[0, 4:-4].all()
    assert float((1200 * torch.log2(found[0, 4:-4] / hertz)).abs().max()) < 4


def test_pitch_of_a_gliding_voice():
    times = torch.arange(2 * RATE) / RATE
    said = 150 * torch.exp2(0.3 * torch.sin(4 * math.pi * times))
    found, voiced = pitch(voice(said, 2)[None], RATE, HOP)
    middles = said[HOP // 2 :: HOP]
    cents = 1200 * torch.log2(found[0] / middles).abs()
    assert voiced[0, 4:-4].all() and float(cents[4:-4].max()) < 10


def test_noise_and_silence_have_no_pitch():
    torch.manual_seed(0)
    assert not pitch(0.1 * torch.randn(1, RATE), RATE, HOP)[1].any()
    assert not pitch(torch.zeros(1, RATE), RATE, HOP)[1].any()


def test_items_of_a_batch_do_not_meet():
    signals = torch.stack([voice(100.0), voice(250.0)])
    both = pitch(signals, RATE, HOP)[0]
    for row, signal in enumerate(signals):
        torch.testing.assert_close(both[row], pitch(signal[None], RATE, HOP)[0][0])


@pytest.mark.parametrize("size, bins", [(960, 1920), (1440, 4096)])
def test_periodicity_is_autocorrelation_over_that_of_the_window(size, bins):
    """Against the sum over samples, at every lag that is whole, of a signal below 2 kHz."""
    signal = voice(140.0, size / RATE, 12).double()
    measure = Periodicity(size, bins, RATE).double()
    found, energy = measure(power_of(signal, size, bins))
    window = torch.hann_window(size, dtype=torch.float64)
    tapered = signal * window
    for lag in (60, 100, 171, 240, 400):
        place = math.log2(measure.pitches[0] * lag / RATE) * 48
        low = math.floor(place)
        interpolated = found[low] + (place - low) * (found[low + 1] - found[low])
        wanted = (
            (tapered[:-lag] @ tapered[lag:])
            / (tapered @ tapered)
            / ((window[:-lag] @ window[lag:]) / (window @ window))
        )
        assert float(interpolated) == pytest.approx(float(wanted), abs=0.03)
    assert float(energy) == pytest.approx(bins * float(tapered @ tapered), rel=0.02)
