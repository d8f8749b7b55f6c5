"""Scale-wise: all codes of codebook 0, then all of codebook 1, ...: a picture from its mean to its details.

Source: the order of VAR (arXiv 2404.02905).
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from jaxtyping import Bool
from torch import Tensor

from sigtok.codecs.spec import Extent

from .planned import Plan, PlannedLayout


class ScaleWise(PlannedLayout):
    """Ids ``[B, S]``, S of all codes; a codebook is a scale. With strides 4, 2, 1 and two windows of 4 positions:

        scale 0 | 0  1
        scale 1 |       2  3  4  5
        scale 2 |                   6  7  8  9 10 11 12 13

    Inside a scale codes stand window by window, as in `Tokens`. Any strides will do, fractions too. The scales have
    ids of their own also where they share a codebook.

    Not causal: nothing can be decoded before codebook 0 of the whole signal is there; whole scales are a lower rate,
    ``Rate(codebooks=k)``. VAR draws the codes of a scale at once, each seeing what `block_mask` says.
    """

    causal = False

    def plan(self, extent: Extent) -> Plan:
        """The codes of each codebook in turn."""
        counts = self.spec.token_counts(extent, self.rate)
        book = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return Plan(book, torch.cat([torch.arange(count) for count in counts]))

    def boundaries(self, extent: Extent) -> tuple[tuple[int, int], ...]:
        """The first step of each scale and the one behind its last, from 0: what a cache may drop together.

        Source: keys and values of early scales can go first (HACK, arXiv 2504.09261).
        """
        return tuple(pairwise(accumulate(self.spec.token_counts(extent, self.rate), initial=0)))

    def block_mask(self, extent: Extent) -> Bool[Tensor, "S S"]:
        """Which steps (columns) a step (row) sees: its own scale and the earlier ones."""
        scale = self.plan(extent).book
        return scale[:, None] >= scale
