"""Standardisation with stored statistics: every channel to mean 0 and deviation 1, and back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Standardise(nn.Module):
    """Channels ``[B, F, T]`` less their mean, over their deviation; numbers that are stored, not learned.

    Without statistics (``frames`` is 0) it changes nothing.

    Args:
        channels: Channels F.
    """

    mean: Tensor
    deviation: Tensor
    frames: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("frames", torch.zeros((), dtype=torch.int64))  # that the statistics were taken from

    def set(self, mean: Float[Tensor, " F"], deviation: Float[Tensor, " F"], frames: int) -> None:
        """Take the statistics of so many frames.

        Raises:
            ValueError: If they are of other channels, not finite, or a deviation is not positive.
        """
        if mean.shape != self.mean.shape or deviation.shape != self.mean.shape:
            raise ValueError(f"statistics are of {len(self.mean)} channels, got {len(mean)}; name them in the codec")
        if not (mean.isfinite().all() and deviation.isfinite().all() and (deviation > 0).all()):
            raise ValueError("means are finite and deviations positive, got others; repair the features")
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)
        self.frames.fill_(frames)

    def forward(self, features: Float[Tensor, "B F T"]) -> Float[Tensor, "B F T"]:
        """Standardised features."""
        return (features - self.mean[:, None]) / self.deviation[:, None]

    def inverse(self, features: Float[Tensor, "B F T"]) -> Float[Tensor, "B F T"]:
        """Features as they were."""
        return features * self.deviation[:, None] + self.mean[:, None]
