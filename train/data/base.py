"""Training batches as a pure function of (seed, sample index), so that a resumed run continues exactly.

Sample ``i`` of a source is drawn by a generator seeded with ``(seed, i)``: no worker, device or epoch changes it.
Step ``s`` of ``W`` devices with batches of ``B`` takes samples ``s W B .. (s + 1) W B - 1``, rank ``r`` the
``r``-th part. What travels in a checkpoint is one integer: how many samples were handed out.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@runtime_checkable
class Source(Protocol):
    """Where training samples come from."""

    def draw(self, generator: np.random.Generator) -> Tensor:
        """One sample ``[C, *crop]`` in [-1, 1], determined by the generator."""


class Samples(Dataset):
    """The endless list of samples that a source and a seed define."""

    def __init__(self, source: Source, seed: int):
        self.source, self.seed = source, seed

    def __getitem__(self, index: int) -> Tensor:
        return self.source.draw(np.random.default_rng((self.seed, 0, index)))


class TrainStream:
    """An epoch of batches, such as ``[B, C, *crop]``, from sample ``samples`` on; counts what it hands out.

    No ``DataLoader`` itself (it wraps one per epoch), so that Lightning keeps its hands off the order. After
    a checkpoint within an epoch, Lightning takes only what is left of it.
    """

    def __init__(
        self,
        data: Dataset,
        batch_size: int,
        steps: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.data, self.batch_size, self.steps, self.num_workers = data, batch_size, steps, num_workers
        self.rank, self.world_size = rank, world_size
        self.samples = 0  # handed out, over all devices

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tensor]:
        stride = self.batch_size * self.world_size
        starts = range(self.samples, self.samples + self.steps * stride, stride)
        order = [start + self.rank * self.batch_size + item for start in starts for item in range(self.batch_size)]
        pin = torch.cuda.is_available()
        loader = DataLoader(self.data, self.batch_size, sampler=order, num_workers=self.num_workers, pin_memory=pin)
        for batch in loader:
            self.samples += stride
            yield batch


class StreamModule(LightningDataModule):
    """What all data modules share: an endless list to train on, a fixed one to validate, one integer to resume."""

    def __init__(self, batch_size: int, num_workers: int):
        super().__init__()
        self.batch_size, self.num_workers = batch_size, num_workers
        self.steps_per_epoch = 1
        self.stream: TrainStream | None = None
        self.resume_at = 0

    @abstractmethod
    def train_set(self) -> Dataset:
        """Samples of any index; called once a run."""

    @abstractmethod
    def val_set(self) -> Dataset:
        """Fixed samples, by index."""

    def train_dataloader(self) -> TrainStream:
        """The stream, from where the checkpoint left it."""
        rank, world_size = self.ranks()
        stream = TrainStream(
            self.train_set(), self.batch_size, self.steps_per_epoch, self.num_workers, rank, world_size
        )
        stream.samples, self.stream = self.resume_at, stream
        return stream

    def ranks(self) -> tuple[int, int]:
        """This device's number, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def val_dataloader(self) -> DataLoader:
        """Every validation sample once, in a fixed order."""
        return DataLoader(self.val_set(), self.batch_size, num_workers=self.num_workers)

    test_dataloader = val_dataloader  # `test` measures more, on the same samples

    def state_dict(self) -> dict[str, Any]:
        """How many samples were handed out: all there is to resume."""
        return {"samples": self.stream.samples if self.stream else self.resume_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after so many samples."""
        self.resume_at = state_dict["samples"]
        if self.stream:
            self.stream.samples = self.resume_at


class CropModule(StreamModule):
    """Crops of signals, drawn at random to train on, fixed to validate; whole files to predict.

    Training batches are ``[B, C, *crop]``, validation batches too (the last may be smaller); predict gives
    ``(signal [1, C, *extent], path)`` one file at a time.
    """

    def __init__(self, batch_size: int, steps_per_epoch: int, num_workers: int, seed: int):
        super().__init__(batch_size, num_workers)
        self.steps_per_epoch, self.seed = steps_per_epoch, seed

    @abstractmethod
    def train_source(self) -> Source:
        """Where training samples come from; called once a run."""

    @abstractmethod
    def predict_set(self) -> Dataset:
        """Pairs ``(signal [C, *extent], path)``, by index."""

    def train_set(self) -> Dataset:
        """What the source and the seed define."""
        return Samples(self.train_source(), self.seed)

    def predict_dataloader(self) -> DataLoader:
        """Whole files, one by one, with their paths."""
        return DataLoader(self.predict_set(), batch_size=1, num_workers=self.num_workers, collate_fn=single)


def single(items: list[tuple[Tensor, str]]) -> tuple[Tensor, str]:
    """The one item of a batch of one, with its batch axis."""
    [(signal, path)] = items
    return signal[None], path
