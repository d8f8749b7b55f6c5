"""Blocks on grids ``[B, D, Y, X]`` that see a bounded neighbourhood: tiles with margins give what the whole gives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Root-mean-square norm over the channels of every position; no position knows of another.

    Args:
        dim: Channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim, 1, 1))

    def forward(self, grid: Float[Tensor, "B D Y X"]) -> Float[Tensor, "B D Y X"]:
        """Mean square 1 over the channels, times the weight."""
        return grid * (grid.square().mean(1, keepdim=True) + 1e-6).rsqrt() * self.weight


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, then two linear maps over channels, added to the input (arXiv 2201.03545).

    Args:
        dim: Channels D.
        kernel: Of the depthwise convolution; a block sees ``kernel // 2`` positions to each side.
        expansion: Width between the linear maps over D.
        scale: Start of the learned weight of what is added.
    """

    def __init__(self, dim: int, kernel: int = 5, expansion: int = 4, scale: float = 0.1) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = ChannelNorm(dim)
        self.widen = nn.Conv2d(dim, expansion * dim, 1)
        self.narrow = nn.Conv2d(expansion * dim, dim, 1)
        self.scale = nn.Parameter(torch.full((dim, 1, 1), scale))

    def forward(self, grid: Float[Tensor, "B D Y X"]) -> Float[Tensor, "B D Y X"]:
        """A grid of the same shape."""
        return grid + self.scale * self.narrow(F.gelu(self.widen(self.norm(self.depthwise(grid)))))
