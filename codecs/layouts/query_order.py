"""Query order: query 0 of all windows, then query 1 of all windows, ...: any first rounds are a lower rate.

Source: ordered one-dimensional tokens of an image (FlexTok, arXiv 2502.13967); TiTok (arXiv 2406.07550) if its queries
are dropped from the end in training.
"""

from __future__ import annotations

import math

import torch

from sigtok.codecs.spec import CodecSpec, Extent, Rate

from .planned import Plan, PlannedLayout
from .vocabulary import Vocabulary


class QueryOrder(PlannedLayout):
    """Ids ``[B, N * Q]``; of two windows a and b, three queries and Q = 2 in rounds

        query 0 | a00 a10 b00 b10
        query 1 |                 a01 a11 b01 b11
        query 2 |                                 a02 a12 b02 b12

    The first k rounds are what ``Rate(queries=k)`` says, if the codec's tokens of few queries are the first of those of
    many; read at the full rate with ``strict`` False, the queries that did not come are -1 and decode to nothing. Of a
    single window this is `Flatten`.

    Causal only with one query per window: else a window is complete in the last round.

    Raises:
        ValueError: If the codebooks run at different rates.
    """

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        self._one_rate()
        self.causal = self.rate.queries == 1

    def plan(self, extent: Extent) -> Plan:
        """Step s of M windows: round s div (M Q), and there window by window."""
        windows, queries = math.prod(self.spec.grid(extent, self.rate)), self.rate.queries
        place = torch.arange(windows * queries).view(windows, queries).t().flatten()
        return Plan(torch.arange(self.num_codebooks).repeat(len(place)), place.repeat_interleave(self.num_codebooks))
