"""Small convolutional networks that train in floats and run in whole numbers (`entropy.integer`).

A layer's results are clipped in floats as they are in whole numbers, so that both agree but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.entropy.integer import Fold, IntegerNetwork, Unfold, convolution
from sigtok.codecs.entropy.stored import Integers, network_of

from .base import between

FRACTION = 10  # bits of activations between layers
BOUND = 1024.0  # of activations between layers


class Layer(nn.Module):
    """A convolution at stride 1 with repeated edges, a bias per whole quality, and a ReLU.

    Args:
        inputs: Channels.
        outputs: Channels; those of the inputs if depthwise.
        kernel: Odd heights and widths.
        depthwise: Whether every channel is on its own.
        rungs: Rows of the bias: the qualities, or 1.
        fraction: Bits of the results behind the point.
        bounds: Smallest and largest result; 0 and more is a ReLU.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int] = (1, 1),
        *,
        depthwise: bool = False,
        rungs: int = 1,
        fraction: int = FRACTION,
        bounds: tuple[float, float] = (0.0, BOUND),
    ) -> None:
        super().__init__()
        self.groups, self.fraction, self.bounds = inputs if depthwise else 1, fraction, bounds
        fan = inputs // self.groups * math.prod(kernel)
        weight = torch.randn(outputs, inputs // self.groups, *kernel) * math.sqrt(2 / fan)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(rungs, outputs))

    def forward(self, grid: Float[Tensor, "B C Y X"], quality: float | None) -> Float[Tensor, "B E Y X"]:
        """A grid of the same extent."""
        high, wide = self.weight.shape[2] // 2, self.weight.shape[3] // 2
        if high or wide:
            grid = F.pad(grid, (wide, wide, high, high), mode="replicate")
        grid = F.conv2d(grid, self.weight, between(self.bias, quality), groups=self.groups)
        return grid.clamp(*self.bounds)


class Network(nn.Module):
    """Layers and folds, one after another.

    Args:
        steps: `Layer`, and `Fold` and `Unfold` of `entropy.integer`.
        fraction: Bits of the inputs behind the point.
        bound: Largest input.
    """

    def __init__(self, steps: Sequence[Layer | Fold | Unfold], fraction: int, bound: float) -> None:
        super().__init__()
        self.steps, self.fraction, self.bound = tuple(steps), fraction, bound
        self.parts = nn.ModuleList(self.layers)

    @property
    def layers(self) -> list[Layer]:
        """Those with weights."""
        return [step for step in self.steps if isinstance(step, Layer)]

    def forward(self, grid: Float[Tensor, "B C Y X"], quality: float | None) -> Tensor:
        """In floats; folds need whole blocks."""
        grid = grid.clamp(-self.bound, self.bound)
        for step in self.steps:
            if isinstance(step, Layer):
                grid = step(grid, quality)
            elif isinstance(step, Fold):
                grid = _folded(grid, step)
            else:
                grid = _unfolded(grid, step)
        return grid

    def integers(self) -> dict[str, NDArray[np.int64]]:
        """Weights, biases and shifts of the layers in whole numbers: ``weight_0``, ``bias_0``, ``shift_0``, ..."""
        arrays: dict[str, NDArray[np.int64]] = {}
        fraction = self.fraction
        for place, layer in enumerate(self.layers):
            weight, bias = (each.detach().double().cpu().numpy() for each in (layer.weight, layer.bias))
            exact = convolution(weight, bias, (fraction, layer.fraction), layer.bounds)
            arrays |= {f"weight_{place}": exact.weight, f"bias_{place}": exact.bias}
            arrays[f"shift_{place}"] = np.array([exact.shift])
            fraction = layer.fraction
        return arrays

    def exact(self, integers: Integers) -> IntegerNetwork:
        """The network of such arrays.

        Raises:
            ValueError: If its sums could be too large.
        """
        return network_of(self.settings(), integers)

    def settings(self) -> dict[str, Any]:
        """Its bound and steps in whole numbers, as `entropy.stored` reads them."""
        steps: list[list[Any]] = []
        for step in self.steps:
            if isinstance(step, Layer):
                steps.append(["convolution", *(int(bound * 2**step.fraction) for bound in step.bounds)])
            else:
                steps.append(["fold" if isinstance(step, Fold) else "unfold", step.rows, step.columns])
        return {"bound": int(self.bound * 2**self.fraction), "steps": steps}


def _folded(grid: Tensor, step: Fold) -> Tensor:
    batch, channels, high, wide = grid.shape
    m, n = step.rows, step.columns
    blocks = grid.reshape(batch, channels, high // m, m, wide // n, n)
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(batch, channels * m * n, high // m, wide // n)


def _unfolded(grid: Tensor, step: Unfold) -> Tensor:
    batch, channels, high, wide = grid.shape
    m, n = step.rows, step.columns
    blocks = grid.reshape(batch, channels // (m * n), m, n, high, wide)
    return blocks.permute(0, 1, 4, 2, 5, 3).reshape(batch, channels // (m * n), high * m, wide * n)
