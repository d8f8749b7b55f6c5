"""Losses on samples or pixels themselves: L1, MSE and the scale-invariant ratio."""

from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from sigtok.codecs.metrics.audio import scale_invariant_ratio

from .base import Loss


class L1(Loss):
    """Mean absolute error of samples or pixels."""

    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Mean of ``|reconstruction - signal|``."""
        return l1_loss(reconstruction, signal)


class MSE(Loss):
    """Mean squared error of samples or pixels."""

    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Mean of ``(reconstruction - signal) ** 2``."""
        return mse_loss(reconstruction, signal)


class SISDR(Loss):
    """Negative scale-invariant signal-to-distortion ratio in dB: blind to gain, strict about alignment.

    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, equation 5.
    """

    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Mean over items and channels."""
        return -scale_invariant_ratio(reconstruction, signal).mean()
