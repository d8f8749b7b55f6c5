"""Pool-anchored queries: one anchor per window carries its mean, ordered queries say what the mean leaves out.

::

    slots of a window:   positions   anchor   query 1   query 2  ...
    encoder:             a slot sees positions, the anchor and the queries up to itself, and the same of windows before
    decoder:             all slots always; those that were not sent hold one learned vector

As no slot sees one that comes after it, the tokens of few queries are the first of the tokens of many. The encoder
reads with all slots at any budget and cuts, so that this holds to the last bit and a stream may change its budget from
chunk to chunk. Anchors that queries are conditioned on are PARCEL's idea, of which we know the
abstract; replacing dropped slots by one learned vector is nested dropout as in FlexTok (arXiv 2502.13967).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.layers.transformer import WindowTransformer

from .queries import query_positions, window_positions


def anchored_positions(window: tuple[int, ...], most: int) -> Float[Tensor, "S axes"]:
    """Coordinates of all slots: positions, the anchor in their middle, ``most - 1`` queries from coarse to fine.

    Raises:
        ValueError: If there is no query beside the anchor.
    """
    if most < 2:
        raise ValueError(f"an anchor and at least 1 query make 2 slots, got {most}; use sigtok.codecs.queries for 1")
    positions = window_positions(window)
    return torch.cat((positions, positions.mean(0, keepdim=True), query_positions(window, most - 1)))


def nested(positions: int, queries: int) -> Bool[Tensor, "S S"]:
    """Which slots a slot sees: positions see positions, and anchor and queries also all up to themselves."""
    rank = torch.cat((torch.zeros(positions), torch.arange(1, queries + 1)))
    return rank[:, None] >= rank


class AnchoredQueryEncoder(nn.Module):
    """Positions to an anchor and queries; the first of many are what few would be.

    The anchor starts as a linear map of the mean of the positions, and query j as ``q_j + MLP(anchor, e_j)``.

    Args:
        transformer: Over windows of positions and slots.
        windows: The window shapes it is trained with (positions along each axis).
        queries: Most slots per window: the anchor and at least one query.
    """

    nested = True  # what few queries read is the first of what many do

    def __init__(self, transformer: WindowTransformer, windows: tuple[tuple[int, ...], ...], queries: int) -> None:
        super().__init__()
        anchored_positions(windows[0], queries)  # refuses an anchor without a query
        dim = transformer.dim
        self.transformer, self.windows, self.most = transformer, windows, queries
        self.pool, self.hear, self.ask = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.query = nn.Parameter(torch.randn(queries - 1, dim) * 0.5)
        self.order = nn.Parameter(torch.randn(queries - 1, dim) * 0.5)
        self.window_embedding = nn.Parameter(torch.zeros(len(windows), dim))

    def initial_state(self, batch: int, window: tuple[int, ...], queries: int) -> Tensor:
        """The state before the beginning, the same for any number of queries."""
        return self.transformer.initial_state(batch, math.prod(window) + self.most, window[0])

    def forward(
        self,
        positions: Float[Tensor, "B M P D"],
        window: tuple[int, ...],
        queries: int,
        state: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M Q D"], Tensor]:
        """Anchor and queries of each of M windows after reading, and the state of the stream."""
        read, state = self.read(positions, window, queries, state)
        return read[:, :, positions.shape[2] :], state

    def read(
        self,
        positions: Float[Tensor, "B M P D"],
        window: tuple[int, ...],
        queries: int,
        state: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M S D"], Tensor]:
        """All slots after reading, positions then anchor and queries, and the state of the stream."""
        count = positions.shape[2]
        anchor = self.pool(positions.mean(2, keepdim=True)) + self.window_embedding[self.windows.index(window)]
        asked = self.ask(F.relu(self.hear(anchor) + self.order)) + self.query
        slots, places = torch.cat((positions, anchor, asked), dim=2), anchored_positions(window, self.most)
        sees = nested(count, self.most).to(slots.device)
        read, state = self.transformer(slots, places, window[0], state, sees)
        return read[:, :, : count + queries], state


class AnchoredQueryDecoder(nn.Module):
    """Anchor and queries back to positions.

    A position starts from the anchor and from the nearest query that was sent; the transformer adds what the rest
    knows. A slot that was not sent is one beyond those that are given, or one whose vector is all zeros: the number
    of queries may differ from window to window. Arguments as `AnchoredQueryEncoder`.
    """

    def __init__(self, transformer: WindowTransformer, windows: tuple[tuple[int, ...], ...], queries: int) -> None:
        super().__init__()
        dim = transformer.dim
        self.transformer, self.windows, self.most = transformer, windows, queries
        self.absent = nn.Parameter(torch.randn(dim) * 0.5)
        self.mask = nn.Parameter(torch.randn(dim) * 0.5)
        self.order = nn.Parameter(torch.randn(queries, dim) * 0.5)
        self.window_embedding = nn.Parameter(torch.zeros(len(windows), dim))

    def initial_state(self, batch: int, window: tuple[int, ...], queries: int) -> Tensor:
        """The state before the beginning, the same for any number of queries."""
        return self.transformer.initial_state(batch, math.prod(window) + self.most, window[0])

    def forward(
        self,
        queries: Float[Tensor, "B M Q D"],
        window: tuple[int, ...],
        state: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M P D"], Tensor]:
        """The positions of each of M windows, and the state of the stream."""
        queries = F.pad(queries, (0, 0, 0, self.most - queries.shape[2]))
        sent = (queries != 0).any(-1)
        slots = torch.where(sent[..., None], queries, self.absent) + self.order
        places = anchored_positions(window, self.most)
        near = self._nearest_sent(places.to(slots.device), sent)
        nearest = slots.gather(2, near[..., None].expand(-1, -1, -1, slots.shape[-1]))
        mask = slots[:, :, :1] + nearest + self.mask + self.window_embedding[self.windows.index(window)]
        written, state = self.transformer(torch.cat((mask, slots), dim=2), places, window[0], state)
        return written[:, :, : math.prod(window)], state

    def _nearest_sent(self, places: Tensor, sent: Tensor) -> Tensor:
        """The slot of the nearest query that was sent ``[B, M, P]``; the first query if none was."""
        positions, queries = places[: -self.most], places[1 - self.most :]
        distance = (positions[:, None] - queries).square().sum(-1)
        return 1 + distance.masked_fill(~sent[:, :, None, 1:], math.inf).argmin(-1)
