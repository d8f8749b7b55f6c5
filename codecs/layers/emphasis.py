"""First-order emphasis of high frequencies: what an error of sound weighs where.

``y[t] = (x[t] - a x[t - 1]) / sqrt(1 + a^2)``, which leaves the power of white noise as it is. Speech and music fall by
about 6 dB an octave, and so does the noise that they hide; linear prediction has used the filter for that since its
beginnings (Atal and Schroeder, "Predictive coding of speech signals and subjective error criteria", 1979).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def emphasised(signal: Float[Tensor, "B C T"], amount: float) -> Float[Tensor, "B C last"]:
    """Filtered samples, from the second on. ``amount`` is a, from 0 to below 1."""
    return (signal[..., 1:] - amount * signal[..., :-1]) / math.sqrt(1 + amount**2)


def response(count: int, amount: float) -> Float[Tensor, " count"]:
    """The filter's gain in the middle of each of so many even bands, from 0 Hz to half the sample rate."""
    angle = (torch.arange(count) + 0.5) * math.pi / count
    return ((1 + amount**2 - 2 * amount * angle.cos()) / (1 + amount**2)).sqrt()
