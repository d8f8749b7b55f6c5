"""Unroll: every frame takes several inner steps, and each codebook has one of them.

Source: the unrolled pattern of AudioCraft, of which delay and flatten are the ends (MusicGen, arXiv 2306.05284).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from sigtok.codecs.spec import CodecSpec, Rate

from .delay import checked_delays
from .frames import Cells, FrameLayout
from .vocabulary import Vocabulary


class Unroll(FrameLayout):
    """Ids ``[B, Q, (N + max D) * I]`` of I inner steps, EMPTY in the holes; here F = 0, 1, 1 and no delays.

        codebook 0 | c00  .  c01  .
        codebook 1 |  .  c10  .  c11
        codebook 2 |  .  c20  .  c21

    Args:
        spec: The codec.
        rate: The operating point, None for the codec's default.
        inner: The inner step F_q of each codebook in use, ascending from 0; None for 0, 1, 1, ..., 1.
        delays: Frames D_q that each comes late, ascending from 0; None for none.
        vocabulary: What ids mean; None for ranges that are the same at every rate.
    """

    causal = True
    axes = "B Q S"
    filler = "EMPTY"

    def __init__(
        self,
        spec: CodecSpec,
        rate: Rate | None = None,
        *,
        inner: Sequence[int] | None = None,
        delays: Sequence[int] | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        count = self.num_codebooks
        self.inner = checked_delays((0,) + (1,) * (count - 1) if inner is None else inner, count)
        self.delays = checked_delays((0,) * count if delays is None else delays, count)

    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """Row q at step s: codebook q, frame s div I - D_q if s mod I is F_q, else a hole."""
        inner, delays = (torch.tensor(part, device=steps.device)[None, :, None] for part in (self.inner, self.delays))
        size = self.inner[-1] + 1
        frame = torch.where(steps % size == inner, steps // size - delays, -1)
        return Cells(torch.arange(self.num_codebooks, device=steps.device)[None, :, None].expand_as(frame), frame)

    def length(self, frames: int) -> int:
        """(N + max D) * I steps."""
        return (frames + self.delays[-1]) * (self.inner[-1] + 1)
