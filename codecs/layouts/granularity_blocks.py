"""Blocks of granularities: one code where little is to be seen, several finer ones where much is; block after block.

Source: the granularities of Control-GIC (arXiv 2406.00758); the order is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
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

    book: Tensor  # [B, S]: the codebook of each id
    start: Tensor  # [B, S]: positions before this step
    run: Tensor  # [B]: steps before the end or the cut
    reach: Tensor  # [B]: positions that they speak for


class GranularityBlocks(Layout):
    """Ids ``[B, S]``, the codes in the order of the positions that they begin with; with strides 16, 4, 1

        a block of one code          | a
        a block of four quarters     | b b b b
        the third one in finer codes | b b c c c c b

    An id tells its codebook, and so for how many positions it speaks: no mark says how a block is split, and every
    prefix is understood. A code stands only where its stride divides the position: at the start of a block a code of
    any codebook, at a quarter one of the finer two, inside a quarter only of the finest.

    Raises:
        ValueError: If the codebooks do not take turns, or a stride does not divide the one before, the first a window.
    """

    causal = True
    axes = "B S"

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        if not spec.granular:
            raise ValueError(
                f"GranularityBlocks lays out codebooks that take turns, those of {spec.name} all speak for every "
                f"position; use the layout flatten or hierarchical"
            )
        self.steps = tuple(stride for stride in self.strides if isinstance(stride, int))  # positions per code
        divides = all(size % finer == 0 for size, finer in pairwise((self.rate.queries, *self.steps)))
        if len(self.steps) < self.num_codebooks or not divides:
            raise ValueError(
                f"each stride divides the one before, and the first a window of {self.rate.queries} positions; "
                f"{spec.name} has {self._shown()}"
            )

    def to_ids(self, tokens: Tokens) -> Int[Tensor, "B S"]:
        """int64 ids; PAD behind the shorter signals.

        Raises:
            ValueError: If the tokens are of another spec or rate, a code is out of range, or not exactly one codebook
                speaks for a position.
        """
        codes, _, frames = self._checked(tokens)
        most = int(frames.max())
        speakers, ids = codes.new_zeros(len(codes), most), codes.new_full((len(codes), most), ABSENT)
        for book, (stream, stride) in enumerate(zip(tokens.streams, self.steps, strict=True)):
            present = stream != ABSENT
            speakers += present.long().repeat_interleave(stride, dim=1)
            ids[:, ::stride] = torch.where(present, stream + self.vocabulary.offsets[book], ids[:, ::stride])
        within = torch.arange(most, device=codes.device) < frames[:, None]
        wrong = (speakers != within.long()).nonzero()
        if len(wrong):
            item, position = wrong[0].tolist()
            raise ValueError(
                f"one codebook speaks for each of the first {int(frames[item])} positions of item {item}, none behind; "
                f"got {int(speakers[item, position])} at position {position}; pass the codec's own tokens"
            )
        stands = ids != ABSENT
        length = int(stands.sum(1).max())
        steps = torch.where(stands, stands.long().cumsum(1) - 1, length)
        out = ids.new_full((len(ids), length + 1), self.vocabulary.special("PAD"))
        return out.scatter(1, steps, ids)[:, :length]

    def from_ids(self, ids: Tensor, extents: Sequence[Extent] | None = None, *, strict: bool = True) -> Tokens:
        """The tokens of ids; arguments and errors as in `Layout.from_ids`.

        A window that was cut before its end does not count; with ``strict`` False it has what came.
        """
        (rows,) = self._rows(ids).unbind(1)
        reading, queries = self._read(rows), self.rate.queries
        begun = (reading.reach + queries - 1) // queries * queries
        waste = int(begun.max())
        stride = rows.new_tensor(self.steps)
        live = torch.arange(rows.shape[1], device=rows.device) < reading.run[:, None]
        book, start = reading.book[:, :-1], reading.start[:, :-1]
        places = torch.where(live, book * waste + start // stride[book], self.num_codebooks * waste)
        values = torch.where(live, rows - self._ranges(book)[0], ABSENT)
        codes = rows.new_full((len(rows), self.num_codebooks * waste + 1), ABSENT).scatter(1, places, values)
        codes = codes[:, :-1].unflatten(1, (self.num_codebooks, waste))
        spoken = reading.reach // queries * queries if strict else begun
        said = torch.arange(waste, device=rows.device) * stride[:, None] < spoken[:, None, None]
        return self._tokens(codes, said, extents, strict)

    def legal_after(self, ids: Tensor, extents: Sequence[Extent] | None = None) -> Bool[Tensor, "B V"]:
        """Which ids may stand next; arguments and errors as in `Layout.legal_after`."""
        (rows,) = self._rows(ids).unbind(1)
        reading, special = self._read(rows), self.vocabulary.special
        every = torch.arange(self.vocabulary.size, device=rows.device)
        book, is_code = self._books(every)
        legal = is_code & (reading.reach[:, None] % rows.new_tensor(self.steps)[book] == 0)
        over = reading.run < rows.shape[1]
        if extents is None:
            legal |= (every == special("EOA")) & (reading.reach % self.rate.queries == 0)[:, None]
        else:
            over = over | (reading.reach >= self._frames(rows, extents))
        return torch.where(over[:, None], every == special("PAD"), legal)

    def _books(self, ids: Int[Tensor, "*S"]) -> tuple[Int[Tensor, "*S"], Bool[Tensor, "*S"]]:
        """The codebook of each id, and whether it is a code."""
        offsets = ids.new_tensor(self.vocabulary.offsets)
        book = (torch.searchsorted(offsets, ids.contiguous(), right=True) - 1).clamp(min=0)
        return book, (ids >= 0) & (ids < self.vocabulary.num_codes)

    def _read(self, rows: Int[Tensor, "B S"]) -> Reading:
        """What ids say.

        Raises:
            ValueError: If an id stands where it may not, with its item and step.
        """
        special = self.vocabulary.special
        rows = pad(rows, (0, 1), value=special("PAD"))
        book, is_code = self._books(rows)
        stride = rows.new_tensor(self.steps)[book]
        said = torch.where(is_code, stride, 0)
        start = said.cumsum(1) - said
        run = (is_code & (start % stride == 0)).long().cumprod(1).sum(1)
        reach = start.gather(1, run[:, None])[:, 0]
        steps = torch.arange(rows.shape[1], device=rows.device)
        may_end = (steps == run[:, None]) & (reach % self.rate.queries == 0)[:, None]
        wrong = (steps >= run[:, None]) & (rows != special("PAD")) & ~((rows == special("EOA")) & may_end)
        if len(places := wrong.nonzero()):
            item, step = places[0].tolist()
            position = int(reach[item])
            wanted = f"the signal has PAD ({special('PAD')}) behind its end"
            if step == run[item]:
                first = next(book for book, size in enumerate(self.steps) if position % size == 0)
                last = self.vocabulary.num_codes - 1
                wanted = f"position {position} goes on with ids {self.vocabulary.offsets[first]} to {last}"
            raise ValueError(
                f"{wanted}, got {self.vocabulary.describe(int(rows[item, step]))} in item {item} at step {step}"
            )
        return Reading(book, start, run, reach)
