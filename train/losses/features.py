"""Losses on features of a frozen network, whatever their units."""

import torch
from torch import Tensor

from .base import Loss


class StandardisedMSE(Loss):
    """Mean squared error of every channel over that channel's variance in the batch, the mean over channels.

    1 is no better than the mean frame of the batch, in any units; the plain `MSE` sees the widest channels only. Errors
    in a channel that does not change in the batch count as they are.
    """

    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Mean over the channels of ``[B, F, T]``."""
        axes = [axis for axis in range(signal.ndim) if axis != 1]
        variance = signal.var(axes, unbiased=False)
        changes = variance > 1e-12 * signal.square().mean(axes)  # float32 sees no less
        error = (reconstruction - signal).square().mean(axes)
        return (error / torch.where(changes, variance, 1)).mean()
