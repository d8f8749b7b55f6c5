"""Bits against squared error: what a rate-distortion codec is trained for.

The loss is ``R + lambda D`` as in Balle et al., 2017, arXiv 1611.01704, with R in bits per pixel or sample of all
channels together, D the mean squared error of the signal, and one lambda for each quality.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sigtok.codecs.codec import Codec, Reconstruction
from sigtok.codecs.densities.base import Density
from sigtok.codecs.spec import Rate

from .base import Found, Objective


class RateDistortion(Objective):
    """Loss "rate_distortion"; figures "bits", per pixel or sample, and "squared_error".

    The density reads latents with uniform noise in (-1/2, 1/2) in place of rounding, and rounded ones as neighbours.

    Args:
        first: Lambda of quality 1, or of a codec without qualities: bits that are worth a squared error of 1, of
            signals in [-1, 1].
        last: Lambda of the highest quality; those between are in even proportion.

    Raises:
        ValueError: If lambdas are not positive or fall; when called, if the codec has no density.
    """

    def __init__(self, first: float, last: float) -> None:
        super().__init__()
        if not 0 < first <= last:
            raise ValueError(f"lambdas are positive and rise with quality, got {first} and {last}; swap or scale them")
        self.first, self.last = first, last

    def forward(self, codec: Codec, signal: Tensor, reconstruction: Reconstruction, rate: Rate) -> Found:
        """Judge one pass of the codec."""
        density, latents = codec.entropy, reconstruction.latents
        if not isinstance(density, Density):
            raise ValueError(
                f"a rate needs a codec with a density, got {type(density).__name__}; train walloc_image or another"
            )
        grid = codec.spec.grid(tuple(signal.shape[2:]), rate)
        grid = (latents.shape[1],) if len(grid) == 1 else grid
        noisy = latents + torch.rand_like(latents) - 0.5 if self.training else latents.round()
        bits = density(noisy, grid, rate, latents.round()).mean() / math.prod(signal.shape[2:])
        error = (reconstruction.signal.float() - signal.float()).square().mean()
        loss = bits + self.trade(codec.spec.qualities, rate.quality) * error
        return Found({"rate_distortion": loss}, {"bits": bits.detach(), "squared_error": error.detach()})

    def trade(self, qualities: int, quality: float | None) -> float:
        """Lambda of a quality, all in even proportion; the first where there are no others."""
        if quality is None or qualities < 2:
            return self.first
        return self.first * (self.last / self.first) ** ((quality - 1) / (qualities - 1))
