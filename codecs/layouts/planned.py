"""Layouts whose order follows from the extent of a signal: rows of a picture, scales, queries.

A member says what each step of a signal of some extent holds; both directions, all checks and masks follow from that.
"""

from __future__ import annotations

from abc import abstractmethod
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

ROW_END, BEHIND = -1, -2  # places of no code: where EOR stands, and what comes behind the end


class Plan(NamedTuple):
    """What each step ``[S]`` of one signal, or ``[B, S]`` of several, holds: a codebook, and a place there.

    The place is ``ROW_END`` or ``BEHIND`` where no code stands.
    """

    book: Tensor
    place: Tensor


class PlannedLayout(Layout):
    """Abstract base of layouts ``[B, S]`` whose order follows from the extent.

    To be read, and to be masked, ids need the extents of their signals, unless a member finds them in the ids.

    Raises:
        ValueError: If the codebooks take turns.
    """

    axes = "B S"

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        self._all_speak()

    @abstractmethod
    def plan(self, extent: Extent) -> Plan:
        """What the steps ``[S]`` of a signal of that extent hold."""

    def to_ids(self, tokens: Tokens) -> Int[Tensor, "B S"]:
        """int64 ids; PAD behind the shorter signals.

        Raises:
            ValueError: If the tokens are of another spec or rate, or a code is absent or out of range.
        """
        codes, within, _ = self._checked(tokens)
        self._check_whole(codes, within)
        plan = self._plans(codes, tokens.extents)
        low, _ = self._spans(plan)
        values = codes.flatten(1).gather(1, plan.book * codes.shape[2] + plan.place.clamp(min=0))
        return low + torch.where(plan.place < 0, 0, values)

    def from_ids(self, ids: Tensor, extents: Sequence[Extent] | None = None, *, strict: bool = True) -> Tokens:
        """The tokens of ids; arguments and errors as in `Layout.from_ids`, but audio needs its extents too."""
        (rows,) = self._rows(ids).unbind(1)
        extents = self._known(extents)
        frames = int(self._frames(rows, extents).max())
        plan = self._plans(rows, extents, rows.shape[1])
        run = self._run(rows, plan)
        live = (torch.arange(rows.shape[1], device=rows.device) < run[:, None]) & (plan.place[:, :-1] >= 0)
        waste = self.num_codebooks * frames
        places = torch.where(live, plan.book[:, :-1] * frames + plan.place[:, :-1], waste)
        values = torch.where(live, rows - self._spans(plan)[0][:, :-1], ABSENT)
        codes = rows.new_full((len(rows), waste + 1), ABSENT).scatter(1, places, values)
        codes = codes[:, :-1].unflatten(1, (self.num_codebooks, frames))
        return self._tokens(codes, codes != ABSENT, extents, strict)

    def legal_after(self, ids: Tensor, extents: Sequence[Extent] | None = None) -> Bool[Tensor, "B V"]:
        """Which ids may stand next; arguments and errors as in `Layout.legal_after`, but extents are needed."""
        (rows,) = self._rows(ids).unbind(1)
        extents = self._known(extents)
        self._frames(rows, extents)
        plan = self._plans(rows, extents, rows.shape[1])
        return self._mask(plan, self._run(rows, plan))

    # -- plans -------------------------------------------------------------------------------------------

    def _known(self, extents: Sequence[Extent] | None) -> list[Extent]:
        """The extents, if they are given."""
        if extents is None:
            raise ValueError(
                f"the order of {type(self).__name__} follows from the extents of the signals of {self.spec.name}; pass "
                f"from_ids(ids, extents) and legal_after(ids, extents)"
            )
        return [tuple(extent) for extent in extents]

    def _plans(self, like: Tensor, extents: Sequence[Extent], steps: int | None = None) -> Plan:
        """What the steps of some signals hold, and one step more than ``steps``; None for those of the longest."""
        plans = [self.plan(extent) for extent in extents]
        length = max(len(plan.place) for plan in plans) if steps is None else steps + 1
        parts = ((plan.book, 0) for plan in plans), ((plan.place, BEHIND) for plan in plans)
        stacked = (
            torch.stack([pad(part, (0, length - len(part)), value=fill) for part, fill in each]) for each in parts
        )
        return Plan(*(part.to(like.device) for part in stacked))

    def _spans(self, plan: Plan) -> tuple[Int[Tensor, "B S"], Int[Tensor, "B S"]]:
        """The first id that each step may hold, and the one behind its last."""
        low, high = self._ranges(plan.book)
        mark = torch.where(plan.place == BEHIND, self.vocabulary.special("PAD"), 0)
        if self.spec.modality == "image":
            mark = torch.where(plan.place == ROW_END, self.vocabulary.special("EOR"), mark)
        return torch.where(plan.place < 0, mark, low), torch.where(plan.place < 0, mark + 1, high)

    def _run(
        self, rows: Int[Tensor, "B S"], plan: Plan, may_end: Bool[Tensor, "B S1"] | None = None
    ) -> Int[Tensor, " B"]:
        """Steps before the end or the cut.

        Args:
            rows: The ids.
            plan: What they and one step more should hold.
            may_end: Where EOA may stand; None for right behind the last step.

        Raises:
            ValueError: If an id stands where it may not, with its item and step.
        """
        special = self.vocabulary.special
        rows = pad(rows, (0, 1), value=special("PAD"))
        steps = torch.arange(rows.shape[1], device=rows.device)
        low, high = self._spans(plan)
        inside = plan.place != BEHIND
        run = (inside & (rows >= low) & (rows < high)).long().cumprod(1).sum(1)
        ends = ~inside & (inside.sum(1, keepdim=True) == steps) if may_end is None else may_end
        is_end = (rows == special("EOA")) & (steps == run[:, None]) & ends
        wrong = ((steps >= run[:, None]) & (rows != special("PAD")) & ~is_end).nonzero()
        if len(wrong):
            item, step = wrong[0].tolist()
            first, last = special("PAD"), special("PAD")
            if step == run[item]:
                first, last = int(low[item, step]), int(high[item, step]) - 1
            wanted = " to ".join(self.vocabulary.describe(id) for id in sorted({first, last}))
            raise ValueError(
                f"here stands {wanted}, got {self.vocabulary.describe(int(rows[item, step]))} in item {item} at step "
                f"{step}"
            )
        return run

    def _mask(self, plan: Plan, run: Int[Tensor, " B"]) -> Bool[Tensor, "B V"]:
        """Ids of the last step of a plan; PAD where the signal ended before."""
        every = torch.arange(self.vocabulary.size, device=run.device)
        low, high = (part[:, -1:] for part in self._spans(plan))
        over = (run < plan.place.shape[1] - 1)[:, None]
        return torch.where(over, every == self.vocabulary.special("PAD"), (every >= low) & (every < high))
