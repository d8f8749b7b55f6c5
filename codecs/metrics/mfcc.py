"""Mel-frequency cepstral coefficients: a description of what is said that needs no labels and no network."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from .mel import log_mel, magnitudes, mel_filters

COEFFICIENTS, BANDS = 13, 40
WINDOW = 0.025  # seconds
FRAME_RATE = 100  # Hz
REACH = 2  # frames on either side that a slope is fitted to


def mfcc(signal: Float[Tensor, " T"], sample_rate: int) -> Float[Tensor, "M 39"]:
    """13 cepstral coefficients per frame, their slopes, and the slopes of these.

    Frame m is centred at sample ``m * (sample_rate // 100)``; the first and last repeat beyond the edges.

    Args:
        signal: Samples in [-1, 1].
        sample_rate: Hz.
    Source: Davis and Mermelstein, "Comparison of parametric representations for monosyllabic word recognition", 1980;
        Furui, "Speaker-independent isolated word recognition using dynamic features", 1986, for the slopes.
    """
    window = 2 * round(sample_rate * WINDOW / 2)
    spectrum = magnitudes(signal, window, sample_rate // FRAME_RATE)
    bands = log_mel(spectrum, mel_filters(sample_rate, window, BANDS))
    cepstrum = cosines(len(bands)).to(bands) @ bands
    speed = slopes(cepstrum)
    return torch.cat((cepstrum, speed, slopes(speed))).T


def cosines(bands: int) -> Float[Tensor, "13 F"]:
    """The first rows of the orthonormal DCT-II."""
    rows, places = torch.arange(COEFFICIENTS, dtype=torch.float64), torch.arange(bands, dtype=torch.float64)
    table = torch.cos(math.pi * rows[:, None] * (places + 0.5) / bands) * math.sqrt(2 / bands)
    return torch.cat((table[:1] / math.sqrt(2), table[1:]))


def slopes(values: Float[Tensor, "F M"]) -> Float[Tensor, "F M"]:
    """Slope per frame of the line fitted to every value and its neighbours."""
    steps = torch.arange(-REACH, REACH + 1).to(values)
    around = pad(values[None], (REACH, REACH), mode="replicate")[0].unfold(-1, len(steps), 1)
    return around @ (steps / steps.square().sum())
