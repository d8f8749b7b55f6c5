"""How fast training goes: seconds of signal, or images, per second of wall clock."""

import time
from typing import Any

from lightning.pytorch import Callback, Trainer


class Speed(Callback):
    """Logs ``train/seconds_per_second`` (audio) or ``train/images_per_second`` over each logging interval."""

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock; again after a validation, which is not counted."""
        self.begin, self.amount = time.perf_counter(), 0.0

    on_validation_end = on_train_start

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the batch; once an interval, log and start over."""
        rate = pl_module.codec.spec.sample_rate
        self.amount += trainer.world_size * len(batch) * (batch.shape[-1] / rate if rate else 1)
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            name = "train/seconds_per_second" if rate else "train/images_per_second"
            pl_module.log(name, self.amount / (time.perf_counter() - self.begin))
            self.on_train_start(trainer, pl_module)
