"""Raster: a picture row by row, with a mark behind each row, so that its height and width follow from the ids.

Source: end-of-line marks for pictures of any shape, as in Lumina-mGPT (arXiv 2408.02657).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from sigtok.codecs.spec import CodecSpec, Extent, Rate
from sigtok.codecs.tokens import Tokens

from .planned import ROW_END, Plan, PlannedLayout
from .vocabulary import Vocabulary


class Raster(PlannedLayout):
    """Ids ``[B, S]``, S = rows * (columns * Q + 1); of 2 rows, 3 columns and Q = 2

        c00 c10 c01 c11 c02 c12 EOR
        c03 c13 c04 c14 c05 c15 EOR

    Positions are those of the whole picture: where a codec has several per window, as many queries as positions and in
    raster order, those of neighbouring windows stand side by side. Windows are whole: the last rows and columns may be
    of the padding.

    Causal where a window is one position high: else its codes are complete only in its last row.

    Raises:
        ValueError: If the codec is not of images, its codebooks run at different rates, or a window has not a query for
            each of its positions.
    """

    tall: int  # positions per window down
    wide: int  # and across

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        self._one_rate()
        if spec.modality != "image":
            raise ValueError(
                f"Raster lays out rows of images, {spec.name} is of {spec.modality}; use the layout flatten"
            )
        self.tall, self.wide = self.rate.window
        if self.rate.queries != self.tall * self.wide:
            raise ValueError(
                f"Raster lays out codecs with a query for each position, {spec.name} has {self.rate.queries} queries "
                f"in windows of {self.tall} x {self.wide}; use the layout flatten or query_order"
            )
        self.causal = self.tall == 1

    def plan(self, extent: Extent) -> Plan:
        """Step s: row s div (W Q + 1); there codebook and column in turn, then EOR."""
        (down, across), count = self.spec.grid(extent, self.rate), self.num_codebooks
        tiles = torch.arange(down * across * self.rate.queries).view(down, across, self.tall, self.wide)
        place = tiles.transpose(1, 2).flatten(2).flatten(0, 1)  # [rows, columns]
        book = torch.arange(count).repeat(place.shape[1]).expand(len(place), -1)
        place = place.repeat_interleave(count, dim=1)
        return Plan(pad(book, (0, 1)).flatten(), pad(place, (0, 1), value=ROW_END).flatten())

    def from_ids(self, ids: Tensor, extents: Sequence[Extent] | None = None, *, strict: bool = True) -> Tokens:
        """The tokens of ids; arguments and errors as in `Layout.from_ids`.

        Without extents a picture is as high and wide as the rows that came, in whole windows; a row that was cut counts
        with ``strict`` False, and has -1 behind the cut.

        Raises:
            ValueError: Also if there are no extents and an item has no whole row, or not as many as a window.
        """
        if extents is None:
            (rows,) = self._rows(ids).unbind(1)
            extents, steps = self._measured(rows, strict)
            behind = torch.arange(rows.shape[1], device=rows.device) >= steps[:, None]
            ids = rows.masked_fill(behind, self.vocabulary.special("PAD"))
        return super().from_ids(ids, extents, strict=strict)

    def legal_after(self, ids: Tensor, extents: Sequence[Extent] | None = None) -> Bool[Tensor, "B V"]:
        """Which ids may stand next; arguments and errors as in `Layout.legal_after`.

        Without extents the model ends the first row behind any whole window by EOR, which gives all rows their width,
        and the picture behind any row of whole windows by EOA.
        """
        if extents is not None:
            return super().legal_after(ids, extents)
        (rows,) = self._rows(ids).unbind(1)
        plan, first, may_end = self._free(rows)
        run, step, special = self._run(rows, plan, may_end), rows.shape[1], self.vocabulary.special
        mask = self._mask(plan, run)
        live = run == step
        mask[:, special("EOR")] |= live & (first > step) & self._closes(torch.tensor(step, device=rows.device))
        mask[:, special("EOA")] |= live & may_end[:, -1]
        return mask

    # -- rows of any number and width --------------------------------------------------------------------

    def _closes(self, steps: Int[Tensor, "*S"]) -> Bool[Tensor, "*S"]:
        """Whether the first row may end behind so many steps."""
        return (steps > 0) & (steps % (self.wide * self.num_codebooks) == 0)

    def _free(self, rows: Int[Tensor, "B S"]) -> tuple[Plan, Int[Tensor, " B"], Bool[Tensor, "B S1"]]:
        """What ids and one step more should hold, the step of the first EOR (S + 1 if none), where EOA may stand."""
        steps = torch.arange(rows.shape[1] + 1, device=rows.device)
        ends = pad(rows == self.vocabulary.special("EOR"), (0, 1)) & self._closes(steps)
        first = torch.where(ends, steps, len(steps)).amin(1)
        row, column = steps // (first[:, None] + 1), steps % (first[:, None] + 1)
        place = torch.where(column == first[:, None], ROW_END, 0)
        return Plan(column % self.num_codebooks, place), first, (column == 0) & (row > 0) & (row % self.tall == 0)

    def _measured(self, rows: Int[Tensor, "B S"], strict: bool) -> tuple[list[Extent], Int[Tensor, " B"]]:
        """The extents of the whole windows of rows that came, and the steps that count."""
        plan, first, may_end = self._free(rows)
        run, length = self._run(rows, plan, may_end), first + 1
        whole = run // length
        begun = whole if strict else torch.where(whole > 0, -(-run // length) + self.tall - 1, 0)
        down, across = begun // self.tall, first // (self.num_codebooks * self.wide)
        if not down.all():
            item = int((down == 0).nonzero()[0])
            raise ValueError(
                f"a picture without an extent has {self.tall} whole rows or more, got {int(whole[item])} in item "
                f"{item}; pass from_ids(ids, extents)"
            )
        sizes = zip(down.tolist(), across.tolist(), strict=True)
        tall, wide = self.spec.step(self.rate)
        return [(down * tall, across * wide) for down, across in sizes], down * self.tall * length
