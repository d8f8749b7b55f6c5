"""Finite scalar quantization: each dimension rounded to a few levels (Mentzer et al., 2023, arXiv 2309.15505)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import straight_through


class FSQ(Quantizer):
    """One codebook of ``prod(levels)`` codes: the grid itself, nothing learned, nothing to collapse.

    The bounded latent is ``tanh`` scaled to the levels, and a value is a level mapped to [-1, 1]; an odd number of
    levels holds zero. The mixed-radix index has the first dimension as its lowest digit.

    Args:
        levels: Levels per dimension, each at least 2; dim D is their number.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"FSQ needs at least 2 levels in each dimension, got {list(levels)}")
        self.dim = len(levels)
        self.codebook_sizes = (math.prod(levels),)
        self.register_buffer("levels", torch.tensor(list(levels)), persistent=False)
        basis = [math.prod(levels[:index]) for index in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training; there are no losses."""
        bounded = self._bound(latents)
        grid = straight_through(bounded, _nearest_level(bounded))
        return Quantized(self._centre(grid), (self._index(grid),), {})

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        return (self._index(_nearest_level(self._bound(latents))),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Levels of the codes in [-1, 1]; zeros where a code is -1."""
        codes = streams[0].unsqueeze(-1)
        digits = codes // self.basis % self.levels
        return self._centre(digits.float()) * (codes >= 0)

    def _bound(self, latents: Tensor) -> Tensor:
        """Latents to 0 .. levels - 1, not yet rounded."""
        with no_autocast(latents):
            return (float32(latents).tanh() + 1) / 2 * (self.levels - 1)

    def _index(self, grid: Tensor) -> Tensor:
        return (grid.detach().long() * self.basis).sum(-1)

    def _centre(self, grid: Tensor) -> Tensor:
        return grid / (self.levels - 1) * 2 - 1


def _nearest_level(bounded: Tensor) -> Tensor:
    """Rounded; a tie goes to the lower level."""
    return (bounded - 0.5).ceil()
