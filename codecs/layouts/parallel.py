"""Parallel: step t holds frame t of all codebooks; one head per codebook."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from .frames import Cells, FrameLayout


class Parallel(FrameLayout):
    """Ids ``[B, Q, N]``: the shortest layout; heads of one step do not see each other.

    codebook 0 | c00 c01 c02
    codebook 1 | c10 c11 c12
    """

    causal = True
    axes = "B Q S"

    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """Row q at step s: codebook q, frame s."""
        book = torch.arange(self.num_codebooks, device=steps.device)[None, :, None].expand(1, -1, len(steps))
        return Cells(book, steps.expand_as(book))

    def length(self, frames: int) -> int:
        """N steps."""
        return frames
