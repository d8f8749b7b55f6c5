"""Sound files as random crops: ``AudioFiles``, batches ``[B, C, T]`` in [-1, 1], mono or stereo."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sigtok.codecs.media import AUDIO_SUFFIXES, audio_info, read_audio

from .base import CropModule
from .files import OnError, Selection, Split, WholeFiles, read_all, read_or_skip, readable
from .sources import Entry

SILENCE = 1e-3  # RMS; -60 dBFS
TRIES = 10
Clip = np.ndarray | Entry  # int16 samples in memory, or a file to read from


class Reader:
    """Reads files, whole or in part, as float32 ``[C, T]`` at one rate."""

    def __init__(self, sample_rate: int, downmix: bool, channels: int = 1):
        self.sample_rate, self.downmix, self.channels = sample_rate, downmix, channels

    def whole(self, file: Entry) -> np.ndarray:
        """All samples."""
        return read_audio(file.path, self.sample_rate, self.channels, downmix=self.downmix)[0]

    def pcm(self, file: Entry) -> np.ndarray:
        """All samples as int16."""
        return np.clip(np.rint(self.whole(file) * 32_768), -32_768, 32_767).astype(np.int16)

    def length(self, clip: Clip) -> int:
        """Samples at the reader's rate; of a file, from its header."""
        if isinstance(clip, np.ndarray):
            return clip.shape[-1]
        info = audio_info(clip.path)
        return info.frames * self.sample_rate // info.sample_rate

    def tensor(self, file: Entry) -> Tensor:
        """All samples ``[C, T]``."""
        return torch.from_numpy(self.whole(file))

    def part(self, clip: Clip, start: int, count: int) -> np.ndarray:
        """``count`` samples from ``start`` on, or as many as there are."""
        if isinstance(clip, np.ndarray):
            return clip[..., start : start + count].astype(np.float32) / 32_768
        info = audio_info(clip.path)
        first = start * info.sample_rate // self.sample_rate
        frames = min(-(-count * info.sample_rate // self.sample_rate), info.frames - first)
        read = read_audio(clip.path, self.sample_rate, self.channels, start=first, frames=frames, downmix=self.downmix)
        return read[0][:, :count]


class AudioCrops:
    """Random crops of clips: each second of sound as likely as any other.

    A tenth of the crops begins or ends with its file, as whole utterances do. Draws below -60 dBFS are
    repeated, up to 10 times. Clips shorter than the crop are padded with zeros at their end.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        lengths: Sequence[int],
        reader: Reader,
        crop: int,
        gain_db: Sequence[float] | None = None,
        edges: float = 0.1,
        on_error: OnError = "raise",
    ):
        if not sum(lengths):
            raise ValueError(f"crops need at least one sample, got none in {len(clips)} files; add longer files")
        self.clips, self.lengths, self.ends = clips, np.asarray(lengths), np.cumsum(lengths)
        self.reader, self.crop, self.gain_db, self.edges, self.on_error = (
            reader,
            crop,
            gain_db,
            edges,
            on_error,
        )

    def draw(self, generator: np.random.Generator) -> Tensor:
        """One crop ``[C, T]``; silent only if ten draws were."""
        found = None
        for _ in range(TRIES):
            signal = self.candidate(generator)
            found = found if signal is None else signal
            if signal is not None and np.sqrt(np.mean(signal**2)) >= SILENCE:
                break
        if found is None:
            raise ValueError(f"{TRIES} draws in a row cannot be read; see the warnings")
        return padded(found * self.gain(found, generator), self.crop)

    def candidate(self, generator: np.random.Generator) -> np.ndarray | None:
        """One crop as it is, at most ``crop`` samples; None if its file is skipped."""
        index = int(np.searchsorted(self.ends, generator.integers(self.ends[-1]), side="right"))
        slack = max(0, int(self.lengths[index]) - self.crop)
        start = int(generator.integers(slack + 1))
        if generator.random() < self.edges:
            start = slack * int(generator.integers(2))
        clip = self.clips[index]
        if isinstance(clip, np.ndarray):
            return self.reader.part(clip, start, self.crop)
        return read_or_skip(lambda file: self.reader.part(file, start, self.crop), clip, self.on_error)

    def gain(self, signal: np.ndarray, generator: np.random.Generator) -> float:
        """A random factor that keeps the peak within full scale."""
        if self.gain_db is None:
            return 1.0
        factor = 10 ** (generator.uniform(self.gain_db[0], self.gain_db[1]) / 20)
        return min(factor, max(1.0, 1 / max(float(np.abs(signal).max(initial=0.0)), 1e-9)))


class CentreCrops(Dataset):
    """The middle of every clip, ``[C, T]``."""

    def __init__(self, clips: Sequence[Clip], reader: Reader, crop: int):
        self.clips, self.reader, self.crop = clips, reader, crop

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Tensor:
        clip = self.clips[index]
        start = max(0, self.reader.length(clip) - self.crop) // 2
        return padded(self.reader.part(clip, start, self.crop), self.crop)


class AudioFiles(CropModule):
    """Crops ``[B, C, T]`` of a folder or a manifest of sound files (WAV, FLAC, Ogg, MP3).

    Args:
        root: Folder searched through; with a manifest, what its names are relative to.
        manifest: CSV with a column ``file`` and, if wanted, ``split`` (train, val) and others to filter by.
        where: Column: value or values; the rows to keep, for example ``{kind: speech}``.
        exclude: The same, rows to drop; or a text file of names.
        val_fraction: Hold out by hash of the name; None uses the column ``split``, or 0.05 without one.
        val_items: At most so many validation crops; None for one of every val file.
        predict_split: Which files ``predict`` reads whole.
        sample_rate: Hz of every batch; files of another rate are resampled: whole with the cache, without it
            crop by crop, which rings a little at their ends.
        seconds: Length of a crop.
        downmix: Average stereo to mono; without it stereo files are errors.
        channels: C, 1 or 2; of stereo, files of one channel are errors.
        gain_db: Random gain between these, limited to full scale; None for none.
        cache: Decode every file once into memory, as int16: 2 bytes a sample, shared with forked workers.
        on_error: ``"raise"`` stops at an unreadable file, ``"skip"`` warns and goes on without it
            (``predict`` always stops).
        batch_size: Crops per device and step.
        steps_per_epoch: Batches per device and epoch; the stream itself never ends.
        num_workers: Processes that prepare batches, and threads that fill the cache; 0 for the main one.
        seed: Of order, crops and gains.
    """

    def __init__(
        self,
        root: str | None = None,
        manifest: str | None = None,
        where: dict[str, Any] | None = None,
        exclude: str | dict[str, Any] | None = None,
        val_fraction: float | None = None,
        val_items: int | None = None,
        predict_split: Split = "val",
        sample_rate: int = 24_000,
        seconds: float = 2.0,
        downmix: bool = False,
        channels: int = 1,
        gain_db: list[float] | None = None,
        cache: bool = False,
        on_error: OnError = "raise",
        batch_size: int = 16,
        steps_per_epoch: int = 1000,
        num_workers: int = 0,
        seed: int = 0,
    ):
        super().__init__(batch_size, steps_per_epoch, num_workers, seed)
        self.files = Selection(root, manifest, AUDIO_SUFFIXES, where, exclude, val_fraction)
        self.reader = Reader(sample_rate, downmix, channels)
        self.crop = round(seconds * sample_rate)
        self.val_items, self.predict_split = val_items, predict_split
        self.gain_db, self.cache, self.on_error = gain_db, cache, on_error

    def train_source(self) -> AudioCrops:
        """Random crops of the training files."""
        clips, lengths = self.clips(self.files.train)
        return AudioCrops(clips, lengths, self.reader, self.crop, self.gain_db, on_error=self.on_error)

    def val_set(self) -> CentreCrops:
        """The middle of every validation file."""
        files = self.files.val[: self.val_items]
        if self.on_error == "skip" and not self.cache:
            files = readable(self.reader.whole, files, self.num_workers)
        clips, _ = self.clips(files)
        return CentreCrops(clips, self.reader, self.crop)

    def predict_set(self) -> WholeFiles:
        """Whole files, ``[C, T]``."""
        files = self.files.of(self.predict_split)
        return WholeFiles(files, self.reader.tensor)

    def clips(self, files: Sequence[Entry]) -> tuple[list[Clip], list[int]]:
        """What can be read of the files, and the samples of each; empty ones are left out."""
        pairs: list[tuple[Clip, int]]
        if self.cache:
            decoded = read_all(self.reader.pcm, files, self.on_error, self.num_workers, "decoding sound")
            pairs = [(pcm, pcm.shape[-1]) for _, pcm in decoded]
        else:
            headers = read_all(self.reader.length, files, self.on_error, self.num_workers, "reading headers")
            pairs = [(file, length) for file, length in headers]
        return [clip for clip, length in pairs if length], [length for _, length in pairs if length]


def padded(signal: np.ndarray, count: int) -> Tensor:
    """``[C, T]``, or ``[T]`` of one channel, as float tensor ``[C, count]``, zeros at the end."""
    signal = np.atleast_2d(signal.astype(np.float32))
    return torch.from_numpy(np.pad(signal, ((0, 0), (0, count - signal.shape[1]))))
