"""A perceptual loss for images: LPIPS (Zhang et al., arXiv 1801.03924) where there are weights, else MS-SSIM."""

import warnings
from collections.abc import Sequence

from torch import Tensor

from sigtok.codecs.metrics.image import WEIGHTS, WINDOW
from sigtok.codecs.metrics.perceptual import COMMAND, load_lpips

from .base import Loss
from .image import MSSSIM


class Perceptual(Loss):
    """LPIPS of images in [-1, 1], by a frozen network that no state dict holds; nothing is ever fetched.

    Without weights it is one minus the multi-scale structural similarity, of as many scales as fit, and a warning
    says so once.

    Args:
        backbone: torchvision's name of a classification model: "vgg16", "alexnet", "squeezenet1_1", or any other with
            ``layers``.
        weights: File of the backbone's weights, as ``sigtok-train backbone`` makes it, or a state dict of torchvision.
        heads: File of linear heads of the package lpips; None takes those in ``weights``, or equal weights.
        layers: Modules of the backbone whose outputs are compared; None for the usual ones.

    Raises:
        ValueError: If a file is missing or another's, or heads or layers come without weights.
    """

    def __init__(
        self,
        backbone: str = "vgg16",
        weights: str | None = None,
        heads: str | None = None,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if weights is None and (heads is not None or layers is not None):
            raise ValueError("heads and layers belong to weights, got none; set weights, or drop heads and layers")
        self.lpips = None if weights is None else load_lpips(weights, backbone, heads, layers)
        if weights is None:
            warnings.warn(
                f"the perceptual loss has no weights of {backbone} and is MS-SSIM; make them with {COMMAND}",
                stacklevel=2,
            )

    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Mean over the batch."""
        if self.lpips is not None:
            return self.lpips(reconstruction, signal).mean()
        return MSSSIM(fitting_scales(min(signal.shape[-2:])))(reconstruction, signal)


def fitting_scales(pixels: int) -> int:
    """Scales of MS-SSIM that a side of so many pixels has room for, at most five."""
    return min(len(WEIGHTS), max(1, ((pixels - 1) // (WINDOW - 1)).bit_length()))
