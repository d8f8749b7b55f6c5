"""Coarse first: codebook 0 of the whole signal, then all others together.

Source: the coarse-first pattern of AudioCraft (MusicGen, arXiv 2306.05284), as in VALL-E (arXiv 2301.02111).
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


class CoarseFirst(FrameLayout):
    """Ids ``[B, Q, 2 N + max D]``, EMPTY in the holes; ``[B, 1, N]`` of a single codebook.

        codebook 0 | c00 c01 c02  .   .   .
        codebook 1 |  .   .   .  c10 c11 c12
        codebook 2 |  .   .   .  c20 c21 c22

    Not causal: nothing can be decoded before codebook 0 of the whole signal is there.

    Args:
        spec: The codec.
        rate: The operating point, None for the codec's default.
        delays: Steps D_q that codebooks 1, 2, ... come late, ascending from 0; None for none.
        vocabulary: What ids mean; None for ranges that are the same at every rate.
    """

    causal = False
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
        rest = self.num_codebooks - 1
        self.delays = checked_delays((0,) * rest if delays is None else delays, rest)

    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """Row 0 at step s: frame s; row q: codebook q, frame s - N - D_q."""
        late = frames[:, None] + torch.tensor(self.delays, device=steps.device, dtype=torch.int64)
        frame = steps - torch.nn.functional.pad(late, (1, 0))[..., None]
        return Cells(torch.arange(self.num_codebooks, device=steps.device)[None, :, None].expand_as(frame), frame)

    def length(self, frames: int) -> int:
        """2 N + max D steps, or N of a single codebook."""
        return 2 * frames + self.delays[-1] if self.delays else frames
