"""Delay: codebook q comes D_q steps late, so that it sees the coarser codes of its frame.

Source: MusicGen (Copet et al. 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from sigtok.codecs.spec import CodecSpec, Rate

from .frames import Cells, FrameLayout
from .vocabulary import Vocabulary


class Delay(FrameLayout):
    """Ids ``[B, Q, N + max D]``, EMPTY in the holes.

        codebook 0 | c00 c01 c02  .   .
        codebook 1 |  .  c10 c11 c12  .
        codebook 2 |  .   .  c20 c21 c22

    After T steps of generation ``T - max D`` frames are complete; max D more steps flush the rest.

    Args:
        spec: The codec.
        rate: The operating point, None for the codec's default.
        delays: Steps D_q per codebook in use, ascending from 0; None for 0, 1, ..., Q-1. Moshi delays all
            but the first by one step: 0, 1, 1, ..., 1 (Défossez et al. 2024).
        vocabulary: What ids mean; None for ranges that are the same at every rate.
    """

    causal = True
    stream = False
    filler = "EMPTY"

    def __init__(
        self,
        spec: CodecSpec,
        rate: Rate | None = None,
        *,
        delays: Sequence[int] | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        self.delays = tuple(range(self.num_codebooks) if delays is None else delays)
        ascending = all(former <= latter for former, latter in pairwise(self.delays))
        if len(self.delays) != self.num_codebooks or self.delays[0] != 0 or not ascending:
            raise ValueError(f"delays ascend from 0, one for each of {self.num_codebooks} codebooks; got {self.delays}")

    def cells(self, steps: Int[Tensor, " S"]) -> Cells:
        """Row q at step s: codebook q, frame s - D_q."""
        frame = steps - torch.tensor(self.delays, device=steps.device)[:, None]
        return Cells(torch.arange(len(frame), device=steps.device)[:, None].expand_as(frame), frame)

    def length(self, frames: int) -> int:
        """N + max D steps."""
        return frames + self.delays[-1]
