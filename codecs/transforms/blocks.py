"""A lapped transform of exactly as many blocks as the signal has: MDCT whose windows end where the signal does.

Time-domain aliasing cancellation (Princen and Bradley, 1986) in its factored form (Malvar, "Signal Processing with
Lapped Transforms", 1992): around each boundary of two blocks, samples are rotated with their mirror images, then every
block goes through a DCT-IV. Both are orthonormal, so their transposes undo them. At the two ends of the signal nothing
is rotated, and T samples have ``T / size`` blocks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .base import Transform
from .overlap import overhang
from .precision import at_least_float32, no_autocast


class LappedBlocks(Transform):
    """``size`` coefficients for every ``size`` samples, low frequencies first; an orthonormal transform.

    Args:
        size: Samples of a block, even; each boundary is smoothed over as many, half in either block.

    Raises:
        ValueError: If the size is odd or below 2.
    """

    basis: Tensor
    rotation: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 2 or size % 2:
            raise ValueError(f"blocks have an even number of samples, got {size}; choose another")
        self.size = size
        place = torch.arange(size, dtype=torch.float64) + 0.5
        basis = (2 / size) ** 0.5 * torch.cos(math.pi / size * torch.outer(place, place))
        angle = math.pi / 4 * (1 + place[: size // 2] / (size // 2))  # sine window: from 45 degrees at the boundary on
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("rotation", torch.stack((angle.sin(), angle.cos())), persistent=False)

    def forward(self, signal: Float[Tensor, "B C T"]) -> Float[Tensor, "B F t"]:
        """Coefficients, ``F = C * size``, those of a channel together; zeros fill the last block."""
        with no_autocast(signal):
            values = F.pad(at_least_float32(signal), (0, overhang(signal.shape[2], self.size)))
            blocks = self._rotated(values.unflatten(2, (-1, self.size)), 1.0) @ self.basis.to(values)
            return blocks.transpose(2, 3).flatten(1, 2)

    def inverse(self, coefficients: Float[Tensor, "B F t"], extent: tuple[int, ...]) -> Float[Tensor, "B C T"]:
        """The signal of the blocks."""
        with no_autocast(coefficients):
            values = at_least_float32(coefficients).unflatten(1, (-1, self.size)).transpose(2, 3)
            blocks = self._rotated(values @ self.basis.to(values), -1.0)
            return blocks.flatten(2)[:, :, : extent[0]]

    def _rotated(self, blocks: Float[Tensor, "B C n size"], way: float) -> Float[Tensor, "B C n size"]:
        """Samples after each boundary turned with their mirror images before it."""
        if blocks.shape[2] < 2:
            return blocks
        half = self.size // 2
        sine, cosine = self.rotation.to(blocks)
        after = blocks[:, :, 1:, :half]
        before = blocks[:, :, :-1, half:].flip(-1)
        turned_after = sine * after + way * cosine * before
        turned_before = sine * before - way * cosine * after
        starts = torch.cat((blocks[:, :, :1, :half], turned_after), 2)
        ends = torch.cat((turned_before.flip(-1), blocks[:, :, -1:, half:]), 2)
        return torch.cat((starts, ends), 3)
