"""Elastic: each window says as many of its queries as it needs, and EOB if it has more.

The number of queries k may differ from window to window: a language model, or an encoder under a budget, chooses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from sigtok.codecs.spec import CodecSpec, Extent, Rate
from sigtok.codecs.tokens import ABSENT, Tokens

from .base import Layout
from .vocabulary import Vocabulary


class Reading(NamedTuple):
    """What a sequence says, step by step; with one step more than the ids have."""

    is_code: Tensor  # bool [B, S]
    book: Tensor  # [B, S]: the codebook whose turn it is
    place: Tensor  # [B, S]: codes of the window before this step, from 0
    window: Tensor  # [B, S]: windows closed before this step
    run: Tensor  # [B]: steps before the end or the cut


class Elastic(Layout):
    """Ids ``[B, S]``: per window its first k queries, each with its Q codes, then EOB if k is not ``rate.queries``.

        window of 3 queries, Q = 2 | a0 a1 b0 b1 c0 c1
        window of 1                | a0 a1 EOB
        window of 2                | a0 a1 b0 b1 EOB

    Query 0, the anchor, is always there. In `Tokens` the queries that a window has not are -1 in all codebooks, and
    decode to nothing. With one query per window this is `Flatten`.

    A parser is a machine of two states: before a query (a code of codebook 0, or EOB, or at the start of a window EOA)
    and inside one (a code of the next codebook).

    Raises:
        ValueError: If the codebooks run at different rates.
    """

    causal = True
    axes = "B S"

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        self._one_rate()
        self.full = self.rate.queries * self.num_codebooks  # codes of a window of all queries

    def to_ids(self, tokens: Tokens) -> Tensor:
        """int64 ids ``[B, S]``; PAD behind the shorter signals.

        Raises:
            ValueError: If the tokens are of another spec or rate, a code is out of range, or the codes of a window are
                not of its first queries, in all codebooks.
        """
        codes, within, _ = self._checked(tokens)
        windows = (codes.shape[2] // self.rate.queries, self.rate.queries)
        codes = codes.unflatten(2, windows).permute(0, 2, 3, 1)  # [B, windows, queries, Q]
        within = within.unflatten(2, windows).permute(0, 2, 3, 1)
        present = codes != ABSENT
        queries = present[..., 0].sum(-1)
        first = torch.arange(self.rate.queries, device=codes.device) < queries.clamp(min=1)[..., None]
        wrong = (present != (first[..., None] & within)).nonzero()
        if len(wrong):
            item, window, query, book = wrong[0].tolist()
            raise ValueError(
                f"a window has codes of its first 1 to {self.rate.queries} queries in all codebooks and -1 behind, got "
                f"{int(codes[item, window, query, book])} in item {item}, window {window}, query {query}, "
                f"codebook {book}"
            )
        ids = (codes + codes.new_tensor(self.vocabulary.offsets[: self.num_codebooks])).flatten(2)
        ids = pad(ids, (0, 1), value=self.vocabulary.special("EOB")).flatten(1)
        short = (queries > 0) & (queries < self.rate.queries)
        stands = torch.cat((present.flatten(2), short[..., None]), dim=2).flatten(1)
        length = int(stands.sum(1).max())
        steps = torch.where(stands, stands.long().cumsum(1) - 1, length)
        out = ids.new_full((len(ids), length + 1), self.vocabulary.special("PAD"))
        return out.scatter(1, steps, ids)[:, :length]

    def from_ids(self, ids: Tensor, extents: Sequence[Extent] | None = None, *, strict: bool = True) -> Tokens:
        """The tokens of ids; arguments and errors as in `Layout.from_ids`.

        A window that was cut before its EOB or its last code does not count; with ``strict`` False it has what came.
        """
        (rows,) = self._rows(ids).unbind(1)
        reading = self._read(rows)
        rows = pad(rows, (0, 1))
        live = torch.arange(rows.shape[1], device=rows.device) < reading.run[:, None]
        closed = self._at_run(reading.window, reading)
        begun = closed + (self._at_run(reading.place, reading) > 0)
        waste = int(begun.max()) * self.rate.queries
        index = reading.window * self.rate.queries + reading.place // self.num_codebooks
        stands = reading.is_code & live
        places = reading.book * (waste + 1) + torch.where(stands, index, waste)
        values = torch.where(stands, rows - self._ranges(reading.book)[0], ABSENT)
        codes = rows.new_full((len(rows), self.num_codebooks * (waste + 1)), ABSENT).scatter(1, places, values)
        codes = codes.unflatten(1, (self.num_codebooks, waste + 1))[..., :waste]
        windows = torch.arange(waste, device=codes.device) // self.rate.queries
        said = (windows < (closed if strict else begun)[:, None])[:, None].expand_as(codes)
        return self._tokens(codes, said, extents, strict)

    def legal_after(self, ids: Tensor, extents: Sequence[Extent] | None = None) -> Bool[Tensor, "B V"]:
        """Which ids may stand next, bool ``[B, V]``; arguments and errors as in `Layout.legal_after`."""
        (rows,) = self._rows(ids).unbind(1)
        reading, special = self._read(rows), self.vocabulary.special
        book, place, window = (part[:, -1:] for part in (reading.book, reading.place, reading.window))
        every = torch.arange(self.vocabulary.size, device=rows.device)
        low, high = self._ranges(book)
        legal = ((every >= low) & (every < high)) | ((every == special("EOB")) & (book == 0) & (place > 0))
        over = reading.run[:, None] < rows.shape[1]
        if extents is None:
            legal |= (every == special("EOA")) & (place == 0)
        else:
            over = over | (window * self.rate.queries >= self._frames(rows, extents)[:, None])
        return torch.where(over, every == special("PAD"), legal)

    def _read(self, rows: Int[Tensor, "B S"]) -> Reading:
        """What ids say: EOBs cut the sequence into segments, in which all windows but the last are full.

        Raises:
            ValueError: If an id stands where it may not, with its item and step.
        """
        special = self.vocabulary.special
        rows = pad(rows, (0, 1), value=special("PAD"))
        steps = torch.arange(rows.shape[1], device=rows.device)
        is_eob = rows == special("EOB")
        segment = pad(torch.where(is_eob, steps + 1, 0).cummax(1).values[:, :-1], (1, 0))  # the step it begins with
        place = (steps - segment) % self.full
        book = place % self.num_codebooks
        low, high = self._ranges(book)
        is_code = (rows >= low) & (rows < high)
        may_close = is_eob & (book == 0) & (place > 0)
        run = (is_code | may_close).long().cumprod(1).sum(1)
        closes = (may_close | (is_code & (place == self.full - 1))).long()
        reading = Reading(is_code, book, place, closes.cumsum(1) - closes, run)
        ends = (rows == special("EOA")) & (steps == run[:, None]) & (self._at_run(place, reading) == 0)[:, None]
        wrong = ((steps >= run[:, None]) & (rows != special("PAD")) & ~ends).nonzero()
        if len(wrong):
            item, step = wrong[0].tolist()
            wanted = f"the signal has PAD ({special('PAD')}) behind its end"
            if step == run[item]:
                first, last = int(low[item, step]), int(high[item, step]) - 1
                wanted = f"window {int(reading.window[item, step])} goes on with ids {first} to {last}"
            raise ValueError(
                f"{wanted}, got {self.vocabulary.describe(int(rows[item, step]))} in item {item} at step {step}"
            )
        return reading

    def _at_run(self, part: Int[Tensor, "B S"], reading: Reading) -> Int[Tensor, " B"]:
        """What a part says right behind the last step before the end or the cut."""
        return part.gather(1, reading.run[:, None])[:, 0]
