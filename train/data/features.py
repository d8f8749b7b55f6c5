"""Features of a frozen network as random crops: ``FeatureFiles``, batches ``[B, F, T]``, and their statistics."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sigtok.codecs.features import FEATURE_SUFFIXES, features_info, open_features, read_features
from sigtok.codecs.media import AUDIO_SUFFIXES

from .base import CropModule
from .files import Selection, Split, WholeFiles
from .sources import Entry

EDGES = 0.1  # of the crops begin or end with their file


class Statistics(NamedTuple):
    """Mean and deviation ``[F]`` of every channel, over so many frames."""

    mean: Tensor
    deviation: Tensor
    frames: int


class FeatureCrops(Dataset):
    """Crops of files: drawn, each frame as likely as any other, or by index, the middle of every file.

    Files shorter than the crop are padded with their last frame.

    Args:
        files: Where the features are.
        channels: Channels F.
        crop: Frames of a crop.
    """

    def __init__(self, files: Sequence[Entry], channels: int, crop: int):
        lengths = [len(open_features(file.path, channels)) for file in files]
        self.files = [file for file, length in zip(files, lengths, strict=True) if length]
        self.lengths = np.array([length for length in lengths if length], dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self.channels, self.crop = channels, crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.at(index, self.slack(index) // 2)

    def draw(self, generator: np.random.Generator) -> Tensor:
        """One crop ``[F, T]``."""
        index = int(np.searchsorted(self.ends, generator.integers(self.ends[-1]), side="right"))
        start = int(generator.integers(self.slack(index) + 1))
        if generator.random() < EDGES:
            start = self.slack(index) * int(generator.integers(2))
        return self.at(index, start)

    def slack(self, index: int) -> int:
        """Frames of a file beyond one crop."""
        return max(0, int(self.lengths[index]) - self.crop)

    def at(self, index: int, start: int) -> Tensor:
        """The crop of a file that begins at a frame."""
        features = read_features(self.files[index].path, self.channels, start, self.crop)
        return torch.from_numpy(np.pad(features, ((0, 0), (0, self.crop - features.shape[1])), mode="edge"))


class FeatureFiles(CropModule):
    """Crops ``[B, F, T]`` of a folder of features: ``.npy`` files ``[T, F]`` and a ``features.json``.

    Args:
        root: Folder with ``features.json``, searched through; with a manifest, what its names are relative to.
        manifest: CSV with a column ``file`` and, if wanted, ``split`` (train, val) and others to filter by; that of the
            sounds will do, as features have their names.
        where: Column: value or values; the rows to keep.
        exclude: The same, rows to drop; or a text file of names.
        val_fraction: Hold out by hash of the name; None uses the column ``split``, or 0.05 without one.
        val_items: At most so many validation crops; None for one of every val file.
        predict_split: Which files ``predict`` reads whole.
        seconds: Length of a crop.
        batch_size: Crops per device and step.
        steps_per_epoch: Batches per device and epoch; the stream itself never ends.
        num_workers: Processes that prepare batches; 0 for the main one.
        seed: Of order and crops.
    """

    def __init__(
        self,
        root: str,
        manifest: str | None = None,
        where: dict[str, Any] | None = None,
        exclude: str | dict[str, Any] | None = None,
        val_fraction: float | None = None,
        val_items: int | None = None,
        predict_split: Split = "val",
        seconds: float = 4.0,
        batch_size: int = 16,
        steps_per_epoch: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__(batch_size, steps_per_epoch, num_workers, seed)
        suffixes = FEATURE_SUFFIXES | AUDIO_SUFFIXES if manifest else FEATURE_SUFFIXES
        self.files = Selection(root, manifest, suffixes, where, exclude, val_fraction)
        self.info = features_info(root)
        self.crop = round(seconds * self.info.frame_rate)
        self.val_items, self.predict_split = val_items, predict_split

    def train_source(self) -> FeatureCrops:
        """Random crops of the training files."""
        return self.crops(self._with_frames())

    def val_set(self) -> FeatureCrops:
        """The middle of every validation file."""
        return self.crops(self.files.val[: self.val_items])

    def predict_set(self) -> WholeFiles:
        """Whole files, ``[F, T]``."""
        files = named(self.files.of(self.predict_split))
        return WholeFiles(files, lambda file: torch.from_numpy(read_features(file.path, self.info.channels)))

    def crops(self, files: Sequence[Entry]) -> FeatureCrops:
        """Crops of files."""
        return FeatureCrops(named(files), self.info.channels, self.crop)

    def statistics(self) -> Statistics:
        """Mean and deviation over every frame of the training files, in float64; 1 for channels that never change."""
        counts, means, variances = [], [], []
        for file in self._with_frames():
            features = read_features(file.path, self.info.channels).astype(np.float64)
            counts.append(features.shape[1])
            means.append(features.mean(1))
            variances.append(features.var(1))
        weights = np.array(counts)[:, None] / sum(counts)
        mean = (weights * means).sum(0)
        deviation = np.sqrt((weights * (np.array(variances) + (np.array(means) - mean) ** 2)).sum(0))
        deviation[deviation <= 1e-6 * np.abs(mean)] = 1
        return Statistics(torch.from_numpy(mean).float(), torch.from_numpy(deviation).float(), sum(counts))

    def _with_frames(self) -> list[Entry]:
        """Training files that are not empty."""
        train = named(self.files.train)
        files = [file for file in train if len(open_features(file.path, self.info.channels))]
        if not files:
            raise ValueError(f"statistics and crops need a frame, got none in {len(train)} files; add some")
        return files


def named(files: Sequence[Entry]) -> list[Entry]:
    """Files of features for files of sound: the same names with the suffix ``.npy``."""
    return [file._replace(path=file.path.with_suffix(".npy")) for file in files]
