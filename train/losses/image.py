"""Losses on the structure of images."""

from torch import Tensor

from sigtok.codecs.metrics.image import multiscale_similarity

from .base import Loss


class MSSSIM(Loss):
    """One minus the multi-scale structural similarity of images in [-1, 1].

    Args:
        scales: Resolutions, each half the one before; five need at least 161 pixels on the shorter side.

    Source: Wang et al., "Multiscale structural similarity for image quality assessment", 2003.
    """

    def __init__(self, scales: int = 5) -> None:
        super().__init__()
        self.scales = scales

    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Mean over the batch."""
        return 1 - multiscale_similarity((reconstruction + 1) / 2, (signal + 1) / 2, self.scales).mean()
