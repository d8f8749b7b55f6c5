"""Delay: codebook q comes D_q steps late, so that it sees the coarser codes of its frame.

Source: MusicGen (arXiv 2306.05284).
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


def checked_delays(delays: Sequence[int], codebooks: int) -> tuple[int, ...]:
    """Delays of so many codebooks, if they ascend from 0.

    Raises:
        ValueError: If they do not, or are not so many.
    """
    if len(delays) != codebooks or any(former > latter for former, latter in pairwise((0, *delays))) or any(delays[:1]):
        raise ValueError(f"delays ascend from 0, one for each of {codebooks} codebooks; got {tuple(delays)}")
    return tuple(delays)


class Delay(FrameLayout):
    """Ids ``[B, Q, N + max D]``, EMPTY in the holes.

        codebook 0 | c00 c01 c02  .   .
        codebook 1 |  .  c10 c11 c12  .
        codebook 2 |  .   .  c20 c21 c22

    After T steps of generation ``T - max D`` frames are complete; max D more steps flush the rest.

    Args:
        spec: The codec.
        rate: The operating point, None for the codec's default.
        delays: Steps D_q per codebook in use, ascending from 0; None for 0, 1, ..., Q-1.
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
        delays: Sequence[int] | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        self.delays = checked_delays(range(self.num_codebooks) if delays is None else delays, self.num_codebooks)

    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """Row q at step s: codebook q, frame s - D_q."""
        frame = steps - torch.tensor(self.delays, device=steps.device)[None, :, None]
        return Cells(torch.arange(self.num_codebooks, device=steps.device)[None, :, None].expand_as(frame), frame)

    def length(self, frames: int) -> int:
        """N + max D steps."""
        return frames + self.delays[-1]


def partial_delay(spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> Delay:
    """All codebooks but the first one step late (D = 0, 1, 1, ..., 1): one step of latency for any Q.

    Source: the acoustic delay of Moshi (arXiv 2410.00037).
    """
    return Delay(spec, rate, delays=(0,) + (1,) * (spec.resolve(rate).codebooks - 1), vocabulary=vocabulary)
