"""The few files that a codec does least well, kept while the others go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .evaluate import Row
from .excerpts import Excerpt, excerpt
from .metrics import KNOWN, Tools

COUNT = 10


class Kept(NamedTuple):
    """A row and what is shown of its signals."""

    row: Row
    reference: Excerpt
    reconstruction: Excerpt


class Worst:
    """The files that a metric likes least, the worst first in ``found``.

    Args:
        metric: Its name; files without a value are left out.
        sign: 1 if more is better, -1 if less is.
        modality: Features are neither heard nor seen.
        sample_rate: Hz, None for pictures.
        count: How many are kept.
    """

    def __init__(self, metric: str, sign: int, modality: str, sample_rate: int | None, count: int = COUNT) -> None:
        self.metric, self.sign, self.sample_rate, self.count = metric, sign, sample_rate, count
        self.perceived = modality != "features"
        self.found: list[Kept] = []

    def see(self, row: Row, signal: Tensor, reconstruction: Tensor) -> None:
        """One more file; of equal ones the first is kept."""
        if row[self.metric] is None:
            return
        place = sum(self._goodness(kept.row) <= self._goodness(row) for kept in self.found)
        if place < self.count:
            pair = (excerpt(each, self.sample_rate) for each in (signal, reconstruction))
            self.found.insert(place, Kept(row, *pair))
            del self.found[self.count :]

    def _goodness(self, row: Row) -> float:
        return self.sign * row[self.metric]


def worst_of(metrics: Sequence[str], tools: Tools, modality: str, sample_rate: int | None) -> Worst:
    """The files that are worst by the first of some metrics that can run here."""
    metric = next((name for name in metrics if not KNOWN[name].missing(tools)), metrics[0])
    return Worst(metric, KNOWN[metric].sign, modality, sample_rate)
