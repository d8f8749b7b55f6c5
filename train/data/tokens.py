"""Tokens to train a language model on: signals one behind the other, cut into contexts of one length.

An epoch is all signals in an order drawn from (seed, epoch); epochs follow each other without a seam. Context ``i`` is
ids ``i L .. (i + 1) L`` of that endless sequence, the last of them only to be predicted: a pure function of (seed, i),
nothing is padded, every id is predicted once an epoch, and the end of a signal stands in the next context.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from sigtok.codecs.language.ids import Language

from .base import StreamModule
from .packed import PackedIds

Order = tuple[NDArray[np.int64], NDArray[np.int64]]  # first id of each signal, and where it ends in the epoch


class Contexts(Dataset):
    """Contexts ``[L + 1]`` int64 of some signals of a corpus.

    Args:
        packed: All signals.
        rows: Which of them.
        length: Ids L that a context predicts.
        seed: Of the orders; None for one epoch in the order of the corpus, filled up with PAD.
    """

    def __init__(self, packed: PackedIds, rows: NDArray[np.int64], length: int, seed: int | None = None) -> None:
        self.packed, self.rows, self.length, self.seed = packed, rows, length, seed
        starts, ends = packed.bounds(rows)
        self.total = int((ends - starts).sum())  # ids of an epoch
        self.orders: dict[int, Order] = {}

    def __len__(self) -> int:
        """Contexts of one epoch; all of them predict something."""
        return -(-(self.total - 1) // self.length)

    def __getitem__(self, index: int) -> Int[Tensor, " L1"]:
        """A context; of an index of any size if there is a seed."""
        start, count = index * self.length, self.length + 1
        if self.seed is None:
            count = min(count, self.total - start)
        context = np.full(self.length + 1, self.packed.language.ids.padding, np.int64)
        context[:count] = self.read(start, count)
        return torch.from_numpy(context)

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """Ids of the endless sequence."""
        parts = [np.zeros(0, np.int64)]
        while count:
            epoch, offset = divmod(start, self.total)
            firsts, ends = self.order(epoch)
            signal = int(np.searchsorted(ends, offset, side="right"))
            before = int(ends[signal - 1]) if signal else 0
            taken = min(count, int(ends[signal]) - offset)
            place = int(firsts[signal]) + offset - before
            parts.append(self.packed.ids[place : place + taken].astype(np.int64))
            start, count = start + taken, count - taken
        return np.concatenate(parts)

    def order(self, epoch: int) -> Order:
        """The signals of an epoch; two epochs at most are kept."""
        if epoch not in self.orders:
            rows = self.rows
            if self.seed is not None:
                rows = np.random.default_rng((self.seed, 0, epoch)).permutation(rows)
            firsts, ends = self.packed.bounds(rows)
            self.orders = {number: order for number, order in self.orders.items() if number == epoch - 1}
            self.orders[epoch] = firsts, np.cumsum(ends - firsts)
        return self.orders[epoch]


class TokenContexts(StreamModule):
    """Contexts ``[B, L + 1]`` of a folder that ``sigtok tokenize`` made; inputs are all but the last, targets all but
    the first.

    Validation predicts every id of its signals once, in the order of the folder; behind the last stands PAD.

    Args:
        folder: With its manifest.
        context: Ids L that a context predicts.
        batch_size: Contexts of a batch, on each device.
        layout: The order of codes, a name of `codecs.layouts.names` with one head.
        val_fraction: Of the signals that their manifest puts in no part ("split"); chosen by their names alone, parts
            of one sound together.
        seed: Of the orders.
        num_workers: Processes that read.
        cache: Where `PackedIds` keeps its files, once the size of the codes; None for a place inside the folder.
    """

    def __init__(
        self,
        folder: str,
        context: int = 1024,
        batch_size: int = 8,
        layout: str = "flatten",
        val_fraction: float = 0.05,
        seed: int = 0,
        num_workers: int = 0,
        cache: str | None = None,
    ) -> None:
        super().__init__(batch_size, num_workers)
        if context < 1:
            raise ValueError(f"a context predicts at least 1 id, got context={context}")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction is 0 to less than 1, got {val_fraction}")
        self.folder, self.context, self.layout, self.cache = folder, context, layout, cache
        self.val_fraction, self.seed = val_fraction, seed
        self.packed: PackedIds | None = None

    def prepare_data(self) -> None:
        """Make the packed ids, in one process of a machine."""
        PackedIds(self.folder, self.layout, self.cache)

    def setup(self, stage: str) -> None:
        """Open the packed ids, and let an epoch of the trainer be one of the signals, but for its last batch."""
        self.packed = PackedIds(self.folder, self.layout, self.cache)
        batch = self.batch_size * self.ranks()[1]
        self.steps_per_epoch = max(1, len(self.train_set()) // batch)

    @property
    def language(self) -> Language:
        """What the ids mean, once `setup` was called."""
        return self._opened().language

    def train_set(self) -> Contexts:
        """An endless list."""
        return self._contexts("to train on", 0, self.seed)

    def val_set(self) -> Contexts:
        """One epoch of those kept out of training."""
        return self._contexts("to validate", 1, None)

    def _contexts(self, purpose: str, part: int, seed: int | None) -> Contexts:
        packed = self._opened()
        rows = packed.parts(self.val_fraction)[part]
        if not len(rows):
            raise ValueError(
                f"{self.folder}: has {len(packed.rows)} signals with codes, got none {purpose}; change val_fraction or "
                f"the manifest's split"
            )
        return Contexts(packed, rows, self.context, seed)

    def _opened(self) -> PackedIds:
        if self.packed is None:
            raise ValueError("tokens are read once the data is set up; call setup() before")
        return self.packed
