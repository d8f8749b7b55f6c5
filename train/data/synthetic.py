"""Signals made from a seed, for first runs and tests: ``Tones`` and ``Shapes`` need no files."""

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .base import CropModule


class Made:
    """A source of signals that ``make`` draws."""

    def __init__(self, make: Callable[[np.random.Generator], np.ndarray]):
        self.make = make

    def draw(self, generator: np.random.Generator) -> Tensor:
        """One signal ``[C, *crop]``."""
        return torch.from_numpy(self.make(generator))


class Fixed(Dataset):
    """The first ``count`` signals of a seed, apart from those of training; named when ``named``."""

    def __init__(self, source: Made, count: int, seed: int, name: str | None = None):
        self.source, self.count, self.seed, self.name = source, count, seed, name

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor | tuple[Tensor, str]:
        signal = self.source.draw(np.random.default_rng((self.seed, 1, index)))
        return (signal, f"{self.name}_{index:04}") if self.name else signal


class Synthetic(CropModule):
    """Signals made by ``make``: an endless stream for training, ``val_items`` fixed ones for the rest."""

    def __init__(self, val_items: int, batch_size: int, steps_per_epoch: int, num_workers: int, seed: int):
        super().__init__(batch_size, steps_per_epoch, num_workers, seed)
        self.val_items = val_items

    @abstractmethod
    def make(self, generator: np.random.Generator) -> np.ndarray:
        """One signal, float32 ``[C, *crop]`` in [-1, 1], determined by the generator."""

    def train_source(self) -> Made:
        """Ever new signals."""
        return Made(self.make)

    def val_set(self) -> Fixed:
        """The fixed signals."""
        return Fixed(Made(self.make), self.val_items, self.seed)

    def predict_set(self) -> Fixed:
        """The fixed signals, with names in place of paths."""
        return Fixed(Made(self.make), self.val_items, self.seed, type(self).__name__.lower())


class Tones(Synthetic):
    """Audio ``[B, 1, T]``: a harmonic tone with swelling loudness, over bursts of noise.

    Args:
        sample_rate: Hz.
        seconds: Length of a signal.
        val_items: Signals of the fixed validation set.
        batch_size: Signals per device and step.
        steps_per_epoch: Batches per device and epoch.
        num_workers: Processes that prepare batches; 0 for the main one.
        seed: Of all signals.
    """

    def __init__(
        self,
        sample_rate: int = 24_000,
        seconds: float = 1.0,
        val_items: int = 16,
        batch_size: int = 16,
        steps_per_epoch: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__(val_items, batch_size, steps_per_epoch, num_workers, seed)
        self.sample_rate, self.crop = sample_rate, round(seconds * sample_rate)

    def make(self, generator: np.random.Generator) -> np.ndarray:
        """One tone with its bursts, ``[1, T]``, peak 0.1 to 0.9."""
        time = np.arange(self.crop, dtype=np.float32) / self.sample_rate
        signal = self.tone(time, generator) + self.bursts(time, generator)
        peak = float(np.abs(signal).max(initial=0.0)) or 1.0
        return (signal * np.float32(generator.uniform(0.1, 0.9) / peak))[None]

    def tone(self, time: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Up to eight harmonics of 60 to 1000 Hz below half the rate, swelling 1 to 8 times a second."""
        pitch = float(np.exp(generator.uniform(*np.log((60, 1000)))))
        orders = np.arange(1, 1 + int(generator.integers(1, 9)))
        orders = orders[orders * pitch < self.sample_rate / 2]
        phases, weights = (
            generator.uniform(0, 2 * np.pi, len(orders)),
            generator.uniform(0, 1, len(orders)) / orders,
        )
        partials = np.sin(np.outer(orders * 2 * np.pi * pitch, time) + phases[:, None])
        swell = 1 + generator.uniform(0, 1) * np.sin(2 * np.pi * generator.uniform(1, 8) * time)
        return (weights @ partials * swell).astype(np.float32)

    def bursts(self, time: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Up to three bursts of white noise that die away."""
        signal = np.zeros_like(time)
        for _ in range(int(generator.integers(4))):
            since = time - time[-1] * generator.uniform(0, 1)
            decay = np.where(since < 0, 0, np.exp(-np.maximum(since, 0) * generator.uniform(10, 100)))
            signal += (decay * generator.normal(0, 0.2, len(time))).astype(np.float32)
        return signal


class Shapes(Synthetic):
    """Images ``[B, 3, crop, crop]``: discs and rectangles of one colour on a gradient.

    Args:
        crop: Pixels a side.
        val_items: Pictures of the fixed validation set.
        batch_size: Pictures per device and step.
        steps_per_epoch: Batches per device and epoch.
        num_workers: Processes that prepare batches; 0 for the main one.
        seed: Of all pictures.
    """

    def __init__(
        self,
        crop: int = 64,
        val_items: int = 16,
        batch_size: int = 16,
        steps_per_epoch: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__(val_items, batch_size, steps_per_epoch, num_workers, seed)
        self.crop = crop

    def make(self, generator: np.random.Generator) -> np.ndarray:
        """One picture ``[3, crop, crop]``: a gradient of four corner colours and up to eight shapes."""
        x = np.linspace(0, 1, self.crop, dtype=np.float32)
        y = x[:, None]
        corners = generator.uniform(-1, 1, (4, 3, 1, 1)).astype(np.float32)
        picture = (corners[0] * (1 - x) + corners[1] * x) * (1 - y) + (corners[2] * (1 - x) + corners[3] * x) * y
        for _ in range(int(generator.integers(1, 9))):
            inside = self.shape(x, y, generator)
            picture = np.where(inside, generator.uniform(-1, 1, (3, 1, 1)).astype(np.float32), picture)
        return picture

    def shape(self, x: np.ndarray, y: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """The pixels of a disc or a rectangle, bool ``[crop, crop]``."""
        left, top = generator.uniform(0, 1, 2)
        width, height = generator.uniform(0.05, 0.35, 2)
        if generator.random() < 0.5:
            return (x - left) ** 2 + (y - top) ** 2 < width**2
        return (np.abs(x - left) < width) & (np.abs(y - top) < height)
