"""The contract of a transform: signal to coefficients and back, exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Transform(nn.Module, ABC):
    """Abstract base; members are final.

    Laws, tested over all members: ``inverse(forward(x), extent)`` equals x to 1e-5 at every extent; arithmetic is real
    (no complex tensors), so that a transform exports to ONNX; extents may be dynamic.
    """

    @abstractmethod
    def forward(self, signal: Tensor) -> Tensor:
        """Coefficients ``[B, F, *grid]`` of a signal ``[B, C, *extent]``; pads what hangs over a hop."""

    @abstractmethod
    def inverse(self, coefficients: Tensor, extent: tuple[int, ...]) -> Tensor:
        """The signal ``[B, C, *extent]`` of coefficients ``[B, F, *grid]``, cropped to the extent."""
