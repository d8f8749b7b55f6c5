"""Patches of an image and frames of a waveform as channels: the transform that only reorders."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

from .base import Transform
from .overlap import overhang


class Patches(Transform):
    """Squares of ``size`` by ``size`` pixels; coefficients in the order channel, row, column.

    What hangs over a patch is filled by repeating the last row and column.

    Raises:
        ValueError: If ``size`` is below 1 pixel.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"a patch is at least 1 pixel wide, got {size}; choose a positive size")
        self.size = size

    def forward(self, signal: Shaped[Tensor, "B C H W"]) -> Shaped[Tensor, "B F h w"]:
        """Coefficients, ``F = C * size ** 2``."""
        height, width = signal.shape[2:]
        padded = F.pad(signal, (0, overhang(width, self.size), 0, overhang(height, self.size)), mode="replicate")
        return F.pixel_unshuffle(padded, self.size)

    def inverse(self, coefficients: Shaped[Tensor, "B F h w"], extent: tuple[int, ...]) -> Shaped[Tensor, "B C H W"]:
        """The image of the patches."""
        height, width = extent
        return F.pixel_shuffle(coefficients, self.size)[:, :, :height, :width]


class Frames(Transform):
    """Runs of ``hop`` samples that do not overlap; coefficients in the order channel, sample.

    What the last run lacks is silence.

    Raises:
        ValueError: If ``hop`` is below 1 sample.
    """

    def __init__(self, hop: int) -> None:
        super().__init__()
        if hop < 1:
            raise ValueError(f"a frame is at least 1 sample long, got {hop}; choose a positive hop")
        self.hop = hop

    def forward(self, signal: Shaped[Tensor, "B C T"]) -> Shaped[Tensor, "B F frames"]:
        """Coefficients, ``F = C * hop``."""
        extent = signal.shape[2]
        padded = F.pad(signal, (0, overhang(extent, self.hop)))
        blocks = padded.unflatten(2, (padded.shape[2] // self.hop, self.hop))
        return blocks.mT.flatten(1, 2)

    def inverse(self, coefficients: Shaped[Tensor, "B F frames"], extent: tuple[int, ...]) -> Shaped[Tensor, "B C T"]:
        """The signal of the frames."""
        blocks = coefficients.unflatten(1, (coefficients.shape[1] // self.hop, self.hop))
        return blocks.mT.flatten(2)[:, :, : extent[0]]
