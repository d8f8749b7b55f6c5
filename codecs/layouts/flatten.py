"""Flatten: one stream, all codebooks of a frame one after another; exact autoregression with one head."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from .frames import Cells, FrameLayout


class Flatten(FrameLayout):
    """Ids ``[B, N * Q]``, code (q, t) at step ``t * Q + q``: c00 c10 c20 c01 c11 c21 ..."""

    causal = True
    axes = "B S"

    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """Step s: codebook s mod Q, frame s div Q."""
        return Cells((steps % self.num_codebooks)[None, None], (steps // self.num_codebooks)[None, None])

    def length(self, frames: int) -> int:
        """N * Q steps."""
        return frames * self.num_codebooks
