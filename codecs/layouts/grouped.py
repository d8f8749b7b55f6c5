"""Grouped: codebooks in groups, each group flattened over the whole signal before the next; coarse to fine.

Source: the stages of AudioLM (arXiv 2209.03143) and MusicLM (arXiv 2301.11325).
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from sigtok.codecs.spec import CodecSpec, Rate

from .frames import Cells, FrameLayout
from .vocabulary import Vocabulary


class Grouped(FrameLayout):
    """Ids ``[B, N * Q]``; with groups of 2: c00 c10 c01 c11 ... | c20 c30 c21 c31 ... | ...

    Not causal: nothing can be decoded before the last group begins. No mark stands between groups: the first code of
    the second says how many frames there are.

    Args:
        spec: The codec.
        rate: The operating point, None for the codec's default.
        group: Codebooks g per group, the last may have fewer; None for half of them, rounded up.
        vocabulary: What ids mean; None for ranges that are the same at every rate.
    """

    causal = False
    axes = "B S"

    def __init__(
        self,
        spec: CodecSpec,
        rate: Rate | None = None,
        *,
        group: int | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        self.group = (self.num_codebooks + 1) // 2 if group is None else group
        if not 1 <= self.group <= self.num_codebooks:
            raise ValueError(f"a group has 1 to {self.num_codebooks} codebooks, got {group}")

    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """Step s of N frames: group j = s div (N g); behind its start, codes of its width in turn."""
        steps, size = steps[None, None], self.group * frames.clamp(min=1)[:, None, None]
        group = (steps // size).clamp(max=(self.num_codebooks - 1) // self.group)
        width = (self.num_codebooks - group * self.group).clamp(max=self.group)
        place = steps - group * size
        return Cells(group * self.group + place % width, place // width)

    def length(self, frames: int) -> int:
        """N * Q steps."""
        return frames * self.num_codebooks
