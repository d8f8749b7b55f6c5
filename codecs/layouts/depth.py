"""Depth: a temporal model takes one step per frame, and a small model inside it one step per codebook.

Source: RQ-Transformer (arXiv 2203.01941); over audio, UniAudio and Moshi (arXiv 2410.00037).
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from .frames import Cells, FrameLayout


class Depth(FrameLayout):
    """Ids ``[B, N, Q]``: the axis of codebooks last, as the depth model reads them one after another.

        temporal step | depth steps
        frame 0       | c00 c10 c20
        frame 1       | c01 c11 c21

    Exact: code (q, t) is drawn after all of frames < t and codebooks < q of frame t. Draw codebook 0 first; where it is
    EOA, the rest of its step is PAD, as ``legal_after(ids, lead=...)`` says.
    """

    causal = True
    axes = "B S Q"

    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """Depth step q of temporal step s: codebook q, frame s."""
        book = torch.arange(self.num_codebooks, device=steps.device)[None, :, None].expand(1, -1, len(steps))
        return Cells(book, steps.expand_as(book))

    def length(self, frames: int) -> int:
        """N temporal steps."""
        return frames
