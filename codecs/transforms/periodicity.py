"""How periodic a frame is at every lag: its autocorrelation over that of its window, from its power spectrum.

Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a sampled
sound", 1993. Lags lie on a grid of equal ratios, and only what is below 2 kHz counts: a voice is less periodic above.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

LOWEST, HIGHEST, PER_OCTAVE = 55.0, 500.0, 48  # Hz, and steps of the grid
BAND = 2000.0  # Hz


class Periodicity(nn.Module):
    """Power spectra of Hann-windowed frames to periodicity, 1 for a frame that repeats itself exactly.

    Args:
        size: Samples of a frame.
        bins: Of the whole Fourier transform, at least ``size``; more than twice as many keep long lags from wrapping.
        sample_rate: Hz.
    """

    kernel: Tensor
    shares: Tensor
    pitches: Tensor

    def __init__(self, size: int, bins: int, sample_rate: int) -> None:
        super().__init__()
        used = min(int(BAND * bins / sample_rate) + 1, bins // 2 + 1)
        steps = round(math.log2(HIGHEST / LOWEST) * PER_OCTAVE) + 1
        pitches = HIGHEST * torch.exp2(-torch.arange(steps, dtype=torch.float64) / PER_OCTAVE)
        turns = torch.outer(torch.arange(bins // 2 + 1), sample_rate / pitches) * (2 * math.pi / bins)
        shares = torch.full((bins // 2 + 1,), 2.0, dtype=torch.float64)
        shares[0] = 1
        window = torch.fft.rfft(torch.hann_window(size, dtype=torch.float64), n=bins).abs().square() * shares
        fade = window @ turns.cos() / window.sum()
        for name, values in (
            ("kernel", shares[:used, None] * turns[:used].cos() / fade),
            ("shares", shares[:used]),
            ("pitches", pitches),
        ):
            self.register_buffer(name, values.to(torch.get_default_dtype()), persistent=False)

    def forward(self, power: Float[Tensor, "*B F"]) -> tuple[Float[Tensor, "*B L"], Float[Tensor, "*B"]]:
        """Periodicity at the lags of ``pitches``, the highest first, and the energy that it is a share of."""
        power = power[..., : len(self.shares)]
        energy = power @ self.shares
        return power @ self.kernel / (energy[..., None] + 1e-12), energy
