"""Metrics: known values, laws of a distance, and agreement with independent implementations where installed."""

import math

import numpy as np
import pytest
import torch

from sigtok.codecs.metrics.audio import log_spectral_distance, mel_distance, si_sdr, snr, stoi
from sigtok.codecs.metrics.codes import CodeCounts
from sigtok.codecs.metrics.image import ms_ssim, multiscale_similarity, psnr, ssim
from sigtok.codecs.metrics.mel import magnitudes, mel_filters, to_hertz, to_mel
from sigtok.codecs.metrics.pairs import check_pair

RATE = 16_000


def noise(*shape, seed=0, scale=0.1):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def speech_like(rate=10_000, seconds=2):
    time = torch.arange(rate * seconds, dtype=torch.float64) / rate
    envelope = (torch.sin(6 * math.pi * time) + 0.9).clamp(0, 1)
    tones = sum(torch.sin(2 * math.pi * pitch * time + pitch) for pitch in (200, 410, 830, 1700, 3100))
    return (envelope * (0.1 * tones + noise(len(time), scale=0.001).double())).float()


def photo_like(size=192):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 12, 12, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1) * 2 - 1


# -- mel -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize("unit_area", [True, False])
def test_filters_are_torchaudios(scale, unit_area):
    functional = pytest.importorskip("torchaudio.functional")
    theirs = functional.melscale_fbanks(
        513, 50.0, 7600.0, 80, RATE, norm="slaney" if unit_area else None, mel_scale=scale
    )
    ours = mel_filters(RATE, 1024, 80, 50.0, 7600.0, scale, unit_area)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-2)  # theirs is computed in float32


def test_bands_without_a_bin_are_left_out():
    filters = mel_filters(RATE, 64, 80)
    assert filters.shape[1] < 80 and (filters.sum(0) > 0).all()


def test_mel_scale_has_its_inverse():
    hertz = torch.tensor([0.0, 440, 999, 1000, 1001, 8000], dtype=torch.float64)
    for scale in ("slaney", "htk"):
        torch.testing.assert_close(to_hertz(to_mel(hertz, scale), scale), hertz)
    assert to_mel(torch.tensor(1000.0)).item() == pytest.approx(15)


@pytest.mark.parametrize("low, high", [(-1.0, 100.0), (100.0, 100.0), (0.0, 8001.0)])
def test_impossible_bands_are_refused(low, high):
    with pytest.raises(ValueError, match="mel bands lie between"):
        mel_filters(RATE, 512, 40, low, high)


def test_a_sine_has_the_magnitude_of_the_window():
    time = torch.arange(4096) / RATE
    spectrum = magnitudes(torch.sin(2 * math.pi * 1000 * time), 512)
    assert spectrum[:, 8].argmax() == 32  # 1000 Hz / (16000 / 512)
    assert spectrum[32, 8].item() == pytest.approx(512 / 4, rel=1e-3)  # half the amplitude, half the window


def test_signals_shorter_than_a_window_have_a_spectrum():
    assert magnitudes(torch.ones(2, 1, 3), 2048).isfinite().all()


# -- audio -----------------------------------------------------------------------------------------------


def test_distances_vanish_for_equal_signals_and_grow_with_noise():
    signal = noise(1, 1, 8000)
    near, far = signal + noise(1, 1, 8000, seed=1, scale=0.001), signal + noise(1, 1, 8000, seed=1)
    assert mel_distance(signal, signal, RATE) == log_spectral_distance(signal, signal) == 0
    assert mel_distance(near, signal, RATE) < mel_distance(far, signal, RATE)
    assert log_spectral_distance(near, signal) < log_spectral_distance(far, signal)


def test_mel_distance_of_a_gain_is_its_logarithm_in_all_seven_scales():
    signal = noise(1, 1, 8000)
    assert mel_distance(signal * 0.1, signal, RATE) == pytest.approx(7, abs=0.01)


def test_log_spectral_distance_of_a_gain_is_its_decibels():
    signal = noise(1, 8000)
    assert log_spectral_distance(signal * 0.1, signal) == pytest.approx(20, abs=0.1)


def test_ratios_have_their_decibels():
    signal = torch.sin(torch.arange(8000) * 2 * math.pi / 100)
    error = 0.1 * torch.cos(torch.arange(8000) * 2 * math.pi / 100)  # orthogonal, 20 dB below
    assert snr(signal + error, signal) == pytest.approx(20, abs=1e-3)
    assert si_sdr(signal + error, signal) == pytest.approx(20, abs=1e-3)
    assert si_sdr(0.3 * (signal + error) + 0.2, signal) == pytest.approx(20, abs=1e-3)
    assert snr(0.3 * signal, signal) == pytest.approx(-20 * math.log10(0.7), abs=1e-3)


@pytest.mark.parametrize("metric", [snr, si_sdr, log_spectral_distance])
def test_silence_is_measured(metric):
    assert math.isfinite(metric(torch.zeros(1, 4000), torch.zeros(1, 4000)))


def test_different_extents_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 8\), got \(1, 9\)"):
        check_pair(torch.zeros(1, 9), torch.zeros(1, 8))


@pytest.mark.parametrize("extended", [False, True])
def test_intelligibility_falls_with_noise_and_ignores_gain(extended):
    signal = speech_like()
    scores = [stoi(signal + noise(len(signal), scale=s), signal, 10_000, extended) for s in (0, 0.01, 0.1)]
    assert scores[0] == pytest.approx(1, abs=1e-6) and scores[0] > scores[1] > scores[2]
    assert stoi(0.1 * signal, signal, 10_000, extended) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("rate, tolerance", [(10_000, 1e-9), (16_000, 2e-3)])  # the resamplers differ
def test_intelligibility_is_pystois(rate, tolerance, extended):
    theirs = pytest.importorskip("pystoi").stoi
    signal = speech_like(rate)
    coded = signal + noise(len(signal), scale=0.03)
    expected = theirs(signal.double().numpy(), coded.double().numpy(), rate, extended=extended)
    assert stoi(coded, signal, rate, extended) == pytest.approx(expected, abs=tolerance)


def test_intelligibility_of_a_moment_is_refused():
    with pytest.raises(ValueError, match="30 frames"):
        stoi(torch.ones(2000), torch.ones(2000), 10_000)


# -- image -----------------------------------------------------------------------------------------------


def test_psnr_is_of_eight_bits():
    black = -torch.ones(1, 3, 16, 16)
    assert psnr(black + 2 / 255, black) == pytest.approx(20 * math.log10(255), abs=1e-4)  # one step of 256
    assert psnr(black + 0.4 / 255, black) == math.inf
    assert psnr(-black, black) == 0


def test_similarity_is_one_for_equal_images_and_falls_with_noise():
    image = photo_like()
    for metric in (ssim, ms_ssim):
        scores = [metric(image + s * noise(*image.shape, scale=1.0), image) for s in (0, 0.05, 0.3)]
        assert scores[0] == pytest.approx(1) and scores[0] > scores[1] > scores[2]


def test_similarity_is_that_of_pytorch_msssim():
    theirs = pytest.importorskip("pytorch_msssim")
    image = photo_like(177)  # odd: the halving has edges
    other = (image + noise(*image.shape, scale=0.2)).clamp(-1, 1)
    pair = [((part + 1) * 127.5).round() for part in (other, image)]
    assert ssim(other, image) == pytest.approx(theirs.ssim(*pair, data_range=255).item(), abs=1e-5)
    assert ms_ssim(other, image) == pytest.approx(theirs.ms_ssim(*pair, data_range=255).item(), abs=1e-5)


def test_small_images_are_refused_or_compared_at_fewer_scales():
    image = photo_like(64)
    with pytest.raises(ValueError, match="5 of them need 161 pixels a side, got 64"):
        ms_ssim(image, image)
    assert ms_ssim(image, image, scales=3) == pytest.approx(1)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(image[..., :10], image[..., :10])


def test_opposite_images_have_a_finite_gradient():
    image = photo_like(176) / 2 + 0.5
    opposite = (1 - image).requires_grad_()
    multiscale_similarity(opposite, image).sum().backward()
    assert opposite.grad.isfinite().all()


# -- codes -----------------------------------------------------------------------------------------------


def test_usage_and_perplexity_of_known_codes():
    counts = CodeCounts((4, 8))
    counts.add((torch.tensor([[0, 1, 2, 3]]), torch.tensor([[5, 5, -1, -1]])))
    counts.add((torch.tensor([[0, 1, 2, 3]]),))  # a step with one codebook in use
    summary = counts.summary()
    assert summary["usage_0"] == 1 and summary["perplexity_0"] == pytest.approx(4)
    assert summary["usage_1"] == 1 / 8 and summary["perplexity_1"] == pytest.approx(1)
    assert summary["dead_1"] == 7 / 8 and summary["bits"] == pytest.approx(2)
    assert np.array_equal(counts.per_codebook()[1], [0, 0, 0, 0, 0, 2, 0, 0])


def test_codebooks_that_said_nothing_have_no_usage():
    counts = CodeCounts((4, 8))
    counts.add((torch.zeros(1, 3, dtype=torch.int64),))
    assert "usage_1" not in counts.summary()
