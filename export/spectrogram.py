"""Sounds as pictures: magnitudes over time and frequency, in colours."""

from __future__ import annotations

import numpy as np
from torch import Tensor

COLOURS = np.array(  # dark to bright, evenly spaced
    [(8, 9, 28), (33, 22, 84), (84, 30, 122), (150, 42, 116), (214, 74, 84), (245, 140, 62), (253, 216, 122)]
)
WINDOW, HOP, CEILING, RANGE = 1024, 256, 8000, 80  # samples, samples, Hz, dB below the loudest
SKIPPED = 3  # bins that a constant offset reaches


def spectrogram(signal: Tensor, sample_rate: int, loudest: float) -> np.ndarray:
    """Colours ``[3, bins, frames]`` in [-1, 1] of a sound ``[1, T]``; low frequencies below.

    Args:
        signal: The sound.
        sample_rate: Hz.
        loudest: The magnitude that is brightest; 80 dB below it is dark.
    """
    found = spectrum(signal)[:, : CEILING * WINDOW // sample_rate - SKIPPED]
    level = 20 * np.log10(np.maximum(found, 1e-9) / max(loudest, 1e-9))
    return coloured(np.flipud((level / RANGE + 1).T))


def spectrum(signal: Tensor) -> np.ndarray:
    """Magnitudes ``[frames, bins]`` of a sound ``[1, T]``, from the fourth bin on."""
    samples = np.pad(signal[0].numpy(), WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    return np.abs(np.fft.rfft(frames * np.hanning(WINDOW)))[:, SKIPPED:]


def coloured(values: np.ndarray) -> np.ndarray:
    """Colours ``[3, *, *]`` in [-1, 1] of values between 0 and 1."""
    place = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(values, place, COLOURS[:, channel]) for channel in range(3)]
    return (np.stack(channels) / 127.5 - 1).astype(np.float32)
