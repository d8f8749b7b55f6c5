"""Luma and colour differences of an RGB image (ITU-R BT.601, full range)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Transform
from .precision import at_least_float32

RED, BLUE = 0.299, 0.114
GREEN = 1 - RED - BLUE


class YCbCr(Transform):
    """RGB in [-1, 1] as luma Y and the differences Cb of blue and Cr of red to it, each again in [-1, 1].

    Grey has no differences. The inverse solves the same three equations, so nothing is tabulated twice.
    """

    def forward(self, signal: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 H W"]:
        """Y, Cb, Cr."""
        red, green, blue = at_least_float32(signal).unbind(1)
        luma = RED * red + GREEN * green + BLUE * blue
        return torch.stack([luma, (blue - luma) / (2 - 2 * BLUE), (red - luma) / (2 - 2 * RED)], dim=1)

    def inverse(self, coefficients: Float[Tensor, "B 3 h w"], extent: tuple[int, ...]) -> Float[Tensor, "B 3 H W"]:
        """Red, green, blue."""
        height, width = extent
        luma, to_blue, to_red = at_least_float32(coefficients)[:, :, :height, :width].unbind(1)
        red, blue = luma + (2 - 2 * RED) * to_red, luma + (2 - 2 * BLUE) * to_blue
        return torch.stack([red, (luma - RED * red - BLUE * blue) / GREEN, blue], dim=1)
