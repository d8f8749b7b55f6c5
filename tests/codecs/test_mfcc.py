"""MFCC: the formulas, written out slowly; frames stand where their name says."""

import math

import torch

from sigtok.codecs.metrics.mel import log_mel, magnitudes, mel_filters
from sigtok.codecs.metrics.mfcc import cosines, mfcc, slopes


def test_the_cepstrum_is_the_cosine_transform_of_the_log_mel_spectrum():
    signal = 0.3 * torch.randn(4000)
    bands = log_mel(magnitudes(signal, 400, 160), mel_filters(16_000, 400, 40)).double()
    found = mfcc(signal, 16_000)
    assert found.shape == (1 + 4000 // 160, 39)
    for row in (0, 1, 12):
        for frame in (0, 7):
            total = sum(float(bands[n, frame]) * math.cos(math.pi * row * (n + 0.5) / 40) for n in range(40))
            expected = total * math.sqrt((1 if row == 0 else 2) / 40)
            assert abs(float(found[frame, row]) - expected) < 1e-3


def test_the_cosines_are_orthonormal():
    table = cosines(40)
    torch.testing.assert_close(table @ table.T, torch.eye(13, dtype=torch.float64))


def test_a_line_has_its_slope_and_a_single_peak_its_regression():
    line = slopes(3 * torch.arange(9.0)[None])[0]
    torch.testing.assert_close(line[2:-2], torch.full((5,), 3.0))
    peak = torch.zeros(1, 9)
    peak[0, 4] = 1
    torch.testing.assert_close(slopes(peak)[0], torch.tensor([0, 0, 0.2, 0.1, 0, -0.1, -0.2, 0, 0]))


def test_slopes_follow_the_coefficients():
    found = mfcc(0.3 * torch.randn(4000), 16_000)
    torch.testing.assert_close(found[:, 13:26], slopes(found[:, :13].T).T)
    torch.testing.assert_close(found[:, 26:], slopes(found[:, 13:26].T).T)


def test_frame_m_is_centred_10_ms_times_m():
    signal = torch.zeros(8000)
    signal[3200] = 1  # 0.2 s
    assert int(mfcc(signal, 16_000)[:, 0].argmax()) == 20


def test_very_short_sounds_have_a_frame():
    assert [len(mfcc(torch.zeros(samples), 8000)) for samples in (0, 1)] == [2, 2]
