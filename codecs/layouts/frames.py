"""Layouts that are a map from the cells of a sequence to (codebook, place), whatever the extent.

A member says which code a cell holds; both directions, all checks and the masks of legal ids follow from that one map.
A position of all codebooks is called a frame: code i of a codebook of stride r begins with frame ``i * r``.
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

ENDLESS = 2**31  # frames of a signal that goes on


class Cells(NamedTuple):
    """Which code each cell ``[B, R, S]`` holds (B is 1 where it is the same for all items).

    Its codebook, and its place there: negative in a hole that no code belongs to, too large behind the end.
    """

    book: Tensor
    place: Tensor


class Reading(NamedTuple):
    """What a sequence says that may go on, may have ended, and may have been cut."""

    cells: Cells  # of a signal of `frames`
    is_code: Tensor  # bool [B, R, S]: a code of the codebook that it should be of
    frames: Tensor  # [B]: frames begun, as the first row tells
    whole: Tensor  # bool [B]: whether they are whole windows, so that the signal may end with them
    goes_on: Tensor  # bool [B]: whether the first row may begin another frame
    ended: Tensor  # bool [B]: whether all codes of the first row are behind


class FrameLayout(Layout):
    """Abstract base of all layouts that are a map.

    Ids have R rows: one per codebook, or a single one for a stream. Behind the shorter signals of a batch stands PAD;
    a cell inside a signal that no code belongs to holds ``filler``. The first row leads: its codes begin the frames,
    and where it ends, by EOA, the signal has the frames that it began.

    Raises:
        ValueError: If the codebooks take turns, or run at different rates and the member is not for that
            (``multirate``).
    """

    filler = "PAD"
    multirate = False

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        self._all_speak()
        if not self.multirate:
            self._one_rate()

    @abstractmethod
    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """What the cells of some steps hold in signals of that many frames."""

    @abstractmethod
    def length(self, frames: int) -> int:
        """Steps S of a signal of that many frames."""

    def to_ids(self, tokens: Tokens) -> Tensor:
        """int64 ids, shaped as ``axes`` says; PAD behind the shorter signals.

        Raises:
            ValueError: If the tokens are of another spec or rate, or a code is absent or out of range.
        """
        codes, within, frames = self._checked(tokens)
        self._check_whole(codes, within)
        filler, waste = self.vocabulary.special(self.filler), codes.shape[-1]
        offsets = codes.new_tensor(self.vocabulary.offsets[: self.num_codebooks])
        ids = torch.where(codes == ABSENT, filler, codes + offsets[:, None])
        ids = pad(ids, (0, 1), value=filler)
        lengths = self._lengths(frames)
        steps = torch.arange(int(lengths.max()), device=codes.device)
        cells = self.cells(steps, frames)
        places = cells.book * (waste + 1) + torch.where(cells.place < 0, waste, cells.place).clamp(max=waste)
        rows = ids.flatten(1).gather(1, places.flatten(1).expand(len(ids), -1)).unflatten(1, places.shape[1:])
        return self._shaped(rows.masked_fill(steps >= lengths[:, None, None], self.vocabulary.special("PAD")))

    def from_ids(self, ids: Tensor, extents: Sequence[Extent] | None = None, *, strict: bool = True) -> Tokens:
        """The tokens of ids; arguments and errors as in `Layout.from_ids`."""
        rows = self._rows(ids)
        reading = self._read(rows)
        rows = pad(rows, (0, 1), value=ABSENT)
        book, place = reading.cells
        counts = reading.is_code & self._inside(reading.cells, reading.frames)
        waste = int(reading.frames.max())
        places = book * (waste + 1) + torch.where(counts, place, waste)
        values = torch.where(counts, rows - self._ranges(book)[0], ABSENT)
        codes = rows.new_full((len(rows), self.num_codebooks * (waste + 1)), ABSENT)
        codes.scatter_(1, places.flatten(1), values.flatten(1))
        codes = codes.unflatten(1, (self.num_codebooks, waste + 1))[..., :waste]
        return self._tokens(codes, codes != ABSENT, extents, strict)

    def legal_after(
        self, ids: Tensor, extents: Sequence[Extent] | None = None, *, lead: Int[Tensor, " B"] | None = None
    ) -> Bool[Tensor, "B *rows V"]:
        """Which ids may stand at the next step, bool ``[B, V]`` of a stream, else ``[B, Q, V]``.

        Args:
            ids: The steps so far, shaped as ``axes`` says; S may be 0.
            extents: Per item, where they are known: behind the end stands PAD. With None the model ends a signal
                itself, by one EOA behind any whole window.
            lead: What codebook 0 drew for this step, once it has. The masks of the other rows are of a signal that
                goes on; where codebook 0 drew EOA, ask again with it for what they hold at the end.

        Raises:
            ValueError: If an id stands where it may not, with its item and step.
        """
        rows = self._rows(ids)
        reading, step = self._read(rows), rows.shape[-1]
        if extents is not None:
            return self._heads(self._mask(step, self._frames(rows, extents)))
        ends = self._mask(step, reading.frames, ~reading.ended)
        mask = self._mask(step, torch.full_like(reading.frames, ENDLESS))
        mask[:, 0] |= ends[:, 0] & reading.whole[:, None]
        closed = ~reading.goes_on
        if lead is not None:
            closed = closed | (lead == self.vocabulary.special("EOA"))
        return self._heads(torch.where(closed[:, None, None], ends, mask))

    def legal(self, step: int, frames: int | None = None) -> Tensor:
        """Which ids may stand at a step, whatever came before: bool ``[Q, V]``, or ``[V]`` of a stream.

        Args:
            step: From 0.
            frames: Frames of the signal where they are known, as in an image or once EOA was drawn; None
                allows EOA in place of the first code of any window. Once codebook 0 drew EOA at frame t,
                the signal has t frames: draw the other rows of that step, and all that follow, with it.

        Raises:
            ValueError: If the frames are not given to a layout that is not causal: there the ids so far decide.
        """
        if frames is None and not self.causal:
            raise ValueError(
                f"what is legal at step {step} of {type(self).__name__} follows from the number of frames; "
                f"pass it, or the ids so far to legal_after(ids)"
            )
        count = torch.tensor([ENDLESS if frames is None else frames])
        mask = self._mask(step, count)
        if frames is None:
            lead = self._starts(self.cells(torch.arange(step + 1), count))[0, 0]
            mask[:, 0, self.vocabulary.special("EOA")] = self._ending(lead, torch.tensor(step))[1]
        return self._heads(mask)[0]

    # -- reading -----------------------------------------------------------------------------------------

    def _read(self, rows: Int[Tensor, "B R S"]) -> Reading:
        """What ids say; each part has one step more than the ids, as if PAD stood behind them.

        Raises:
            ValueError: If an id stands where it may not, with its item and step.
        """
        special = self.vocabulary.special
        rows = pad(rows, (0, 1), value=special("PAD"))
        steps = torch.arange(rows.shape[-1], device=rows.device)
        endless = self.cells(steps, steps.new_tensor([ENDLESS]))
        lead = self._starts(endless)[0, 0]
        is_filler = rows == special(self.filler)
        begins = torch.where(lead < 0, is_filler[:, 0], self._is_code(rows, endless)[:, 0])
        run = begins.long().cumprod(-1).sum(-1)  # steps of the first row that may be followed by another frame
        frames, whole = self._ending(lead, run)
        cells = self.cells(steps, frames)
        cells = Cells(*(part.expand(rows.shape) for part in cells))
        is_code, inside = self._is_code(rows, cells), self._inside(cells, frames)
        behind = self._starts(cells)[:, 0] >= frames[:, None]  # the first row has no more codes
        end = behind & (behind.long().cumsum(-1) == 1) & whole[:, None]  # here it may say so
        is_end = is_filler | (rows == special("PAD"))
        is_end[:, 0] |= (rows[:, 0] == special("EOA")) & end
        cut = (is_code * (steps + 1)).amax((1, 2))[:, None, None]  # behind the last code of any row
        hole = (cells.place < 0) & (steps < self._lengths(frames)[:, None, None])
        fits = torch.where(steps < cut, torch.where(hole, is_filler, torch.where(inside, is_code, is_end)), is_end)
        fits[:, 0] &= whole[:, None] | (steps != run[:, None]) | (steps >= cut[:, 0])
        wrong = (~fits).nonzero()
        if len(wrong):
            item, row, step = wrong[0].tolist()
            leads = row == 0 and step == int(run[item])  # the signal might have gone on
            book = int(endless.book[0, 0, step] if leads else cells.book[item, row, step])
            wanted = self._wanted(book, bool(hole[item, row, step]), leads or bool(inside[item, row, step]))
            raise ValueError(
                f"{wanted}, got {self.vocabulary.describe(int(rows[item, row, step]))} in item {item} at step {step}"
            )
        return Reading(cells, is_code, frames, whole, run == len(steps) - 1, behind[:, :-1].any(-1))

    def _ending(self, lead: Int[Tensor, " S"], run: Int[Tensor, "*B"]) -> tuple[Int[Tensor, "*B"], Bool[Tensor, "*B"]]:
        """Frames of a signal whose first row ends behind ``run`` steps, and whether they are whole windows.

        ``lead`` has the frame that each step of the first row begins.
        """
        last = pad(lead.cummax(0).values, (1, 0), value=-1)[run]
        windows = lead[run] // self.rate.queries * self.rate.queries
        whole = windows > last
        return torch.where(whole, windows, last + 1), whole

    def _wanted(self, book: int, hole: bool, inside: bool) -> str:
        """What a cell should hold, for messages."""
        low = self.vocabulary.offsets[book]
        if hole:
            return f"codebook {book} has {self.filler} ({self.vocabulary.special(self.filler)}) where it has no code"
        if inside:
            return f"codebook {book} has ids {low} to {low + self.sizes[book] - 1} up to its end"
        return f"codebook {book} has PAD ({self.vocabulary.special('PAD')}) behind its end"

    # -- cells -------------------------------------------------------------------------------------------

    def _starts(self, cells: Cells) -> Tensor:
        """The frame that each code begins with; negative in holes."""
        return cells.place * cells.place.new_tensor(self.strides)[cells.book]

    def _inside(self, cells: Cells, frames: Int[Tensor, " B"]) -> Tensor:
        """Whether a cell holds a code of a signal of that many frames."""
        starts = self._starts(cells)
        return (starts >= 0) & (starts < frames[:, None, None])

    def _is_code(self, rows: Int[Tensor, "B R S"], cells: Cells) -> Tensor:
        low, high = self._ranges(cells.book)
        return (rows >= low) & (rows < high)

    def _lengths(self, frames: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        return frames.new_tensor([self.length(count) for count in frames.tolist()])

    def _mask(
        self, step: int, frames: Int[Tensor, " B"], may_end: Bool[Tensor, " B"] | None = None
    ) -> Bool[Tensor, "B R V"]:
        """Legal ids of a step in signals of that many frames; EOA right behind them if the signal may end by itself."""
        special = self.vocabulary.special
        cells = self.cells(frames.new_tensor([step]), frames)
        low, high = self._ranges(cells.book)
        ids = torch.arange(self.vocabulary.size, device=frames.device)
        silent = torch.where(step < self._lengths(frames), special(self.filler), special("PAD"))[:, None, None]
        mask = torch.where(self._inside(cells, frames), (ids >= low) & (ids < high), ids == silent)
        if may_end is not None:
            end = may_end & (self._starts(cells)[:, 0, 0] >= frames)
            mask[:, 0] = torch.where(end[:, None], ids == special("EOA"), mask[:, 0])
        return mask

    def _heads(self, mask: Bool[Tensor, "B R V"]) -> Bool[Tensor, "B *rows V"]:
        """One mask for a stream, one for each row else."""
        return mask[:, 0] if self.axes == "B S" else mask

    def _shaped(self, rows: Int[Tensor, "B R S"]) -> Tensor:
        """Rows in the shape of ``axes``."""
        return {"B S": rows[:, 0], "B Q S": rows, "B S Q": rows.transpose(1, 2)}[self.axes]
