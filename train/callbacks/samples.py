"""What training sounds and looks like: originals and reconstructions of the first validation batch."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from sigtok.codecs.media import write_audio, write_image
from sigtok.codecs.metrics.mel import log_mel, magnitudes, mel_filters

COLOURS = ((0, 0, 0), (60, 15, 110), (160, 40, 120), (240, 110, 60), (255, 250, 190))  # quiet to loud, RGB


class Samples(Callback):
    """Gives sound, spectrograms (original above reconstruction) or image pairs to every logger there is.

    wandb and TensorBoard take them as media; for other loggers they are files in ``samples/`` of the log folder.

    Args:
        count: Signals shown.
        every: Validations between two showings.
    """

    def __init__(self, count: int = 4, every: int = 1) -> None:
        if count < 1 or every < 1:
            raise ValueError(f"count and every are at least 1, got {count} and {every}")
        self.count, self.every, self.validations = count, every, 0

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the first batch."""
        if batch_idx or dataloader_idx or trainer.sanity_checking:
            return
        self.validations += 1
        if (self.validations - 1) % self.every == 0:
            rate, step = pl_module.codec.spec.sample_rate, trainer.global_step
            pairs = list(zip(batch.float().cpu(), outputs.float().cpu(), strict=True))[: self.count]
            for logger in trainer.loggers:
                for item, pair in enumerate(pairs):
                    show(logger, f"samples/{item}", pair, rate, step)


def show(logger: Logger, name: str, pair: tuple[Tensor, Tensor], sample_rate: Any, step: int) -> None:
    """Give one pair of original and reconstruction ``[C, *extent]`` to a logger."""
    picture = pair_picture(pair, sample_rate)
    named = zip(("original", "reconstruction"), pair, strict=True) if sample_rate else ()
    sounds = {f"{name}/{which}": sound.clamp(-1, 1).numpy() for which, sound in named}
    if isinstance(logger, WandbLogger):
        logger.log_image(name, [((picture + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)], step=step)
        for key, sound in sounds.items():
            logger.log_audio(key, [sound.T], step=step, sample_rate=[sample_rate])
    elif isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, (picture + 1) / 2, step)
        for key, sound in sounds.items():
            logger.experiment.add_audio(key, sound[:1], step, sample_rate=sample_rate)
    elif isinstance(logger, CSVLogger):
        folder = Path(logger.log_dir) / "samples" / f"step_{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / f"{Path(name).name}.png", picture)
        for key, sound in sounds.items():
            write_audio(folder / f"{'_'.join(Path(key).parts[1:])}.wav", sound, sample_rate)


def pair_picture(pair: tuple[Tensor, Tensor], sample_rate: int | None) -> np.ndarray:
    """Two images beside each other, or two spectrograms above each other, ``[3, H, W]`` in [-1, 1]."""
    if sample_rate is None:
        return torch.cat(pair, dim=-1).clamp(-1, 1).numpy()
    top = max(float(spectrum(sound, sample_rate).max()) for sound in pair)
    return np.concatenate([colours(spectrum(sound, sample_rate), top) for sound in pair], axis=1)


def spectrum(sound: Tensor, sample_rate: int, window: int = 1024) -> np.ndarray:
    """Mel magnitudes of the first channel in dB, low frequencies at the bottom, ``[H, W]``."""
    filters = mel_filters(sample_rate, window, 96)
    return 20 * log_mel(magnitudes(sound[0], window), filters).flip(0).numpy()


def colours(decibels: np.ndarray, top: float, depth: float = 80.0) -> np.ndarray:
    """A picture ``[3, H, W]`` in [-1, 1] of ``[H, W]`` values, from ``top - depth`` (black) to ``top``."""
    place = np.clip((decibels - top) / depth + 1, 0, 1)
    stops = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(place, stops, channel) for channel in zip(*COLOURS, strict=True)]
    return (np.stack(channels) / 127.5 - 1).astype(np.float32)
