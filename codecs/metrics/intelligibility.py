"""STOI and ESTOI: how much of the speech can be understood, from 0 to 1, without listeners or weights."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .pairs import check_pair

RATE, FRAME, BINS = 10_000, 256, 512  # Hz, samples, transform length
BANDS, LOWEST = 15, 150.0  # third octaves, centre of the first in Hz
SEGMENT = 30  # frames, 384 ms
DYNAMIC, CLIP = 40.0, 15.0  # dB below the loudest frame that is silence; lowest signal-to-distortion ratio
TAPER = np.hanning(FRAME + 2)[1:-1]
TINY = np.finfo(np.float64).eps


def stoi(
    reconstruction: Float[Tensor, " T"], reference: Float[Tensor, " T"], sample_rate: int, extended: bool = False
) -> float:
    """Short-time objective intelligibility of one speaker's clean recording after the codec.

    Blind above 5 kHz by design; the extended measure also sees modulated noise and is the finer one.

    Args:
        reconstruction: Mono samples.
        reference: Mono samples of clean speech.
        sample_rate: Hz.
        extended: ESTOI instead of STOI.
    Raises:
        ValueError: If the shapes differ or fewer than 30 frames (0.4 s) of the reference are not silent.
    Source: Taal et al., IEEE TASLP 2011; Jensen and Taal, IEEE/ACM TASLP 2016.
    """
    check_pair(reconstruction, reference)
    clean, coded = (resampled(signal.cpu().double().numpy(), sample_rate) for signal in (reference, reconstruction))
    clean, coded = without_silence(clean, coded)
    if len(clean) < FRAME + SEGMENT * FRAME // 2:
        raise ValueError(
            f"intelligibility needs {SEGMENT} frames (0.4 s) that are not silent, got {len(clean) / RATE:.2f} s; "
            f"use a longer recording"
        )
    pair = segments(clean), segments(coded)
    return float(spectral_correlation(*pair) if extended else temporal_correlation(*pair))


def temporal_correlation(clean: np.ndarray, coded: np.ndarray) -> np.floating:
    """STOI of segments ``[J, band, frame]``: correlation over time, after gain and clipping of the coded ones."""
    gain = np.linalg.norm(clean, axis=2, keepdims=True) / (np.linalg.norm(coded, axis=2, keepdims=True) + TINY)
    clipped = np.minimum(gain * coded, clean * (1 + 10 ** (CLIP / 20)))
    return (normalised(clean, 2) * normalised(clipped, 2)).sum(2).mean()


def spectral_correlation(clean: np.ndarray, coded: np.ndarray) -> np.floating:
    """ESTOI of segments ``[J, band, frame]``: correlation over bands, after normalising over time."""
    pair = [normalised(normalised(part, 2), 1) for part in (clean, coded)]
    return (pair[0] * pair[1]).sum(1).mean()


def normalised(values: np.ndarray, axis: int) -> np.ndarray:
    """Zero mean and unit norm along an axis."""
    values = values - values.mean(axis, keepdims=True)
    return values / (np.linalg.norm(values, axis=axis, keepdims=True) + TINY)


def segments(signal: np.ndarray) -> np.ndarray:
    """Third-octave magnitudes of every run of 30 frames, ``[J, band, frame]``."""
    spectrum = np.abs(np.fft.rfft(frames(signal)[:-1] * TAPER, BINS)) ** 2
    bands = np.sqrt(spectrum @ third_octaves())
    return np.lib.stride_tricks.sliding_window_view(bands, SEGMENT, axis=0)


def third_octaves() -> np.ndarray:
    """Which bins ``[F]`` belong to which band ``[F, band]``, as 0 and 1."""
    frequency = np.arange(BINS // 2 + 1) * RATE / BINS
    steps = np.arange(BANDS)
    ends = LOWEST * 2 ** np.array([(2 * steps - 1) / 6, (2 * steps + 1) / 6])
    low, high = np.abs(frequency[:, None, None] - ends).argmin(0)
    bins = np.arange(len(frequency))[:, None]
    return ((bins >= low) & (bins < high)).astype(np.float64)


def without_silence(clean: np.ndarray, coded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both signals without the frames in which the clean one is 40 dB below its loudest, closed by overlap-add."""
    pair = [frames(signal) * TAPER for signal in (clean, coded)]
    level = 20 * np.log10(np.linalg.norm(pair[0], axis=1) + TINY)
    loud = level > level.max(initial=-np.inf) - DYNAMIC
    return overlap_add(pair[0][loud]), overlap_add(pair[1][loud])


def frames(signal: np.ndarray) -> np.ndarray:
    """Frames ``[M, 256]`` that overlap by half."""
    if len(signal) < FRAME:
        return np.zeros((0, FRAME))
    return np.lib.stride_tricks.sliding_window_view(signal, FRAME)[:: FRAME // 2]


def overlap_add(parts: np.ndarray) -> np.ndarray:
    """The signal of frames ``[M, 256]`` that overlap by half."""
    halves = np.zeros((len(parts) + 1, FRAME // 2))
    halves[:-1] += parts[:, : FRAME // 2]
    halves[1:] += parts[:, FRAME // 2 :]
    return halves.reshape(-1)


def resampled(signal: np.ndarray, sample_rate: int) -> np.ndarray:
    """The signal at 10 kHz, by cutting its spectrum."""
    if sample_rate == RATE:
        return signal
    count = round(len(signal) * RATE / sample_rate)
    spectrum = np.fft.rfft(signal)[: count // 2 + 1]
    return np.fft.irfft(spectrum, count) * (count / max(1, len(signal)))
