"""Layouts of codebooks that share one rate: each is a map from the cells of a sequence to (codebook, frame).

A frame is one position of all codebooks. A member says which code a cell holds; both directions, all checks
and the mask of legal ids follow from that one map.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

from sigtok.codecs.spec import CodecSpec, Extent, Rate
from sigtok.codecs.tokens import ABSENT, Tokens

from .base import Layout
from .vocabulary import Vocabulary


class Cells(NamedTuple):
    """Which code each cell ``[R, S]`` holds: its codebook, and its frame (negative before the first)."""

    book: Tensor
    frame: Tensor


class FrameLayout(Layout):
    """Abstract base of `Parallel`, `Delay` and `Flatten`.

    Ids are ``[B, R, S]`` with one row per codebook, or ``[B, S]`` where ``stream`` is True. Behind the
    shorter signals of a batch stands PAD; a cell inside a signal that no code belongs to holds ``filler``.

    Raises:
        ValueError: If the codebooks run at different rates.
    """

    stream: bool
    filler = "PAD"

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        if set(spec.strides) != {1}:
            raise ValueError(
                f"{type(self).__name__} lays out codebooks of one rate (strides of 1), {spec.name} has "
                f"strides {spec.strides}; use a layout for scales"
            )

    @abstractmethod
    def cells(self, steps: Int[Tensor, " S"]) -> Cells:
        """What the cells of some steps hold."""

    @abstractmethod
    def length(self, frames: int) -> int:
        """Steps S of a signal of that many frames."""

    @property
    def num_codebooks(self) -> int:
        """Codebooks in use."""
        return len(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes K of the codebooks in use."""
        return self.spec.codebook_sizes[: self.rate.codebooks]

    def to_ids(self, tokens: Tokens) -> Tensor:
        """int64 ids ``[B, R, S]``, or ``[B, S]`` of a single stream; PAD behind the shorter signals.

        Raises:
            ValueError: If the tokens are of another spec or rate, or a code is absent or out of range.
        """
        codes, counts = self._checked(tokens)
        filler, frames = self.vocabulary.special(self.filler), codes.shape[-1]
        offsets = codes.new_tensor(self.vocabulary.offsets[: self.num_codebooks])
        ids = torch.where(codes == ABSENT, filler, codes + offsets[:, None])
        ids = pad(ids, (0, 1), value=filler)
        steps = torch.arange(self.length(frames), device=codes.device)
        book, frame = self.cells(steps)
        ids = ids[:, book, torch.where(frame < 0, frames, frame).clamp(max=frames)]
        lengths = counts.new_tensor([self.length(count) for count in counts.tolist()])
        ids = ids.masked_fill((steps >= lengths[:, None])[:, None], self.vocabulary.special("PAD"))
        return ids[:, 0] if self.stream else ids

    def from_ids(self, ids: Tensor, extents: Sequence[Extent] | None = None) -> Tokens:
        """The tokens of ids ``[B, R, S]`` or ``[B, S]`` that end with EOA, PAD or the cut of the sequence.

        Args:
            ids: Integers; a sequence that was cut gives the windows that are complete in all codebooks.
            extents: Per item, samples or pixels. None for audio: the samples of the complete windows.

        Raises:
            ValueError: If an id stands where it may not, with its item and step; if the ids do not hold
                what the extents promise; if the extents of images are missing.
        """
        codes, complete = self._codes(self._rows(ids))
        if extents is None:
            extents = self._reached(complete)
        else:
            self._check_extents(extents, complete)
        counts = [self.spec.positions(tuple(extent), self.rate) for extent in extents]
        codes = codes[..., : max(counts, default=0)]
        behind = torch.arange(codes.shape[-1], device=codes.device) >= codes.new_tensor(counts)[:, None]
        streams = codes.masked_fill(behind[:, None], ABSENT).unbind(1)
        return Tokens(streams, tuple(tuple(extent) for extent in extents), self.rate, self.spec)

    def legal(self, step: int, frames: int | None = None) -> Tensor:
        """Which ids may stand at a step, bool ``[R, V]`` or ``[V]`` of a single stream: a mask for sampling.

        Args:
            step: From 0.
            frames: Frames of the signal where they are known, as in an image or once EOA was drawn; None
                allows EOA in place of the first code of any window. Once codebook 0 drew EOA at frame t,
                the signal has t frames: draw the other rows of that step, and all that follow, with it.
        """
        book, frame = self.cells(torch.tensor([step]))
        ids = torch.arange(self.vocabulary.size)
        low, high = self._ranges(book)
        inside = (frame >= 0) & (frame < (step + 1 if frames is None else frames))
        end = (ids == self.vocabulary.special("EOA")) & (book == 0) & (frame % self._queries == 0)
        codes = ((ids >= low) & (ids < high)) | (end if frames is None else False)
        mask = torch.where(inside, codes, ids == self.vocabulary.special(self.filler))
        return mask[0] if self.stream else mask

    @property
    def _queries(self) -> int:
        assert self.rate.queries
        return self.rate.queries

    def _ranges(self, book: Tensor) -> tuple[Tensor, Tensor]:
        low = book.new_tensor(self.vocabulary.offsets[: self.num_codebooks])[book]
        return low, low + book.new_tensor(self.sizes)[book]

    def _checked(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The codes ``[B, Q, N]`` and frames ``[B]`` of tokens that this layout may write."""
        if tokens.spec != self.spec or tokens.rate != self.rate:
            raise ValueError(
                f"this layout writes {self.spec.name} at {self.rate}, got tokens of {tokens.spec.name} at "
                f"{tokens.rate}; make the layout with their spec and rate"
            )
        tokens.check_codes()
        codes = tokens.codes
        counts = codes.new_tensor([self.spec.positions(extent, self.rate) for extent in tokens.extents])
        behind = torch.arange(codes.shape[-1], device=codes.device) >= counts[:, None]
        wrong = ((codes == ABSENT) != behind[:, None]).nonzero()
        if len(wrong):
            item, book, frame = wrong[0].tolist()
            raise ValueError(
                f"item {item} has codes at its first {int(counts[item])} frames and -1 behind, got "
                f"{int(codes[item, book, frame])} in codebook {book} at frame {frame}; lay out whole signals"
            )
        return codes, counts

    def _rows(self, ids: Tensor) -> Tensor:
        """Ids as int64 ``[B, R, S]``."""
        fits = ids.ndim == 2 if self.stream else ids.ndim == 3 and ids.shape[1] == self.num_codebooks
        if ids.is_floating_point() or ids.dtype == torch.bool or not fits:
            shape = "[B, S]" if self.stream else f"[B, {self.num_codebooks}, S]"
            raise ValueError(f"ids of {type(self).__name__} are integers {shape}, got {ids.dtype} {tuple(ids.shape)}")
        return (ids[:, None] if self.stream else ids).long()

    def _codes(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """Codes ``[B, Q, M]``, -1 where none came, and per item the frames complete in all codebooks."""
        rows = pad(rows, (0, 1), value=self.vocabulary.special("PAD"))  # every row ends, also the empty one
        cells = self.cells(torch.arange(rows.shape[-1], device=rows.device))
        book, frame = cells
        low, high = self._ranges(book)
        is_code = (rows >= low) & (rows < high)
        self._check_order(rows, is_code, cells)
        frames = int(frame.max()) + 1
        codes = rows.new_full((len(rows), self.num_codebooks, frames + 1), ABSENT)  # the last one is waste
        codes[:, book, torch.where(frame < 0, frames, frame)] = torch.where(is_code, rows - low, ABSENT)
        codes = codes[..., :frames]
        return codes, (codes != ABSENT).all(1).sum(-1).tolist()

    def _check_order(self, rows: Tensor, is_code: Tensor, cells: Cells) -> None:
        """Raise unless every row holds its codes up to the end or the cut, and only then ends."""
        (book, frame), special = cells, self.vocabulary.special
        steps = torch.arange(rows.shape[-1], device=rows.device)
        frames = (is_code & (book == 0)).sum((1, 2))[:, None, None]  # codebook 0 always leads
        cut = (is_code * (steps + 1)).amax((1, 2))[:, None, None]  # behind the last code of any row
        is_filler = rows == special(self.filler)
        may_end = (book == 0) & (frame % self._queries == 0)
        is_end = is_filler | (rows == special("PAD")) | ((rows == special("EOA")) & may_end)
        belongs = (frame >= 0) & (frame < frames)
        inside = torch.where(frame < 0, is_filler, torch.where(belongs, is_code, is_end))
        wrong = (~torch.where(steps < cut, inside, is_end)).nonzero()
        if len(wrong):
            item, row, step = wrong[0].tolist()
            raise ValueError(
                self._misplaced(int(rows[item, row, step]), item, step, int(book[row, step]), int(frame[row, step]))
            )

    def _misplaced(self, id: int, item: int, step: int, book: int, frame: int) -> str:
        got = f"got {self.vocabulary.describe(id)} in item {item} at step {step}"
        if frame < 0:
            empty = self.vocabulary.special("EMPTY")
            return f"codebook {book} starts with {step - frame} EMPTY ({empty}), {got}"
        low = self.vocabulary.offsets[book]
        return (
            f"codebook {book} has ids {low} to {low + self.sizes[book] - 1} up to its end and PAD "
            f"({self.vocabulary.special('PAD')}) behind, {got}"
        )

    def _check_extents(self, extents: Sequence[Extent], complete: list[int]) -> None:
        if len(extents) != len(complete):
            raise ValueError(f"{len(complete)} items of ids need {len(complete)} extents, got {len(extents)}")
        for item, (extent, found) in enumerate(zip(extents, complete, strict=True)):
            count = self.spec.positions(tuple(extent), self.rate)
            if found != count:
                raise ValueError(
                    f"item {item} of extent {tuple(extent)} has {count} frames, the ids hold {found}; pass "
                    f"the extents of these ids, or none where ids of audio were cut"
                )

    def _reached(self, complete: list[int]) -> list[Extent]:
        """Extents of whole windows; what hangs over the last one was cut midway."""
        if self.spec.modality != "audio":
            raise ValueError(
                f"height and width of an image do not follow from its tokens; pass from_ids(ids, extents) "
                f"for the {len(complete)} images of {self.spec.name}"
            )
        (step,) = self.spec.step(self.rate)
        return [(count // self._queries * step,) for count in complete]
