"""Rotary position embedding (Su et al., 2021, arXiv 2104.09864) on real-valued positions of one or two axes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_table(positions: Float[Tensor, "S axes"], head_dim: int, base: float = 10_000.0) -> Tensor:
    """Cosines and sines ``[2, S, head_dim / 2]`` of the rotation angles.

    The pairs of a head are shared evenly among the axes (time; or row and column); positions may be fractions.
    In float64: `rotate` takes it to the type of the heads.

    Raises:
        ValueError: If head_dim is not a multiple of twice the number of axes.
    """
    axes = positions.shape[1]
    if head_dim % (2 * axes):
        raise ValueError(f"head_dim must be a multiple of {2 * axes} for {axes} axes, got {head_dim}")
    pairs = head_dim // (2 * axes)
    frequencies = base ** (-torch.arange(pairs, dtype=torch.float64, device=positions.device) / pairs)
    angles = (positions.double()[:, :, None] * frequencies).flatten(1)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(heads: Float[Tensor, "*batch S dim"], table: Float[Tensor, "2 S pairs"]) -> Tensor:
    """Queries or keys turned by their positions; the dot product of two then depends on the difference only."""
    cosine, sine = table[0].to(heads.dtype), table[1].to(heads.dtype)
    even, odd = heads.chunk(2, dim=-1)
    return torch.cat((even * cosine - odd * sine, even * sine + odd * cosine), dim=-1)
