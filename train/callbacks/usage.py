"""How training uses the codebooks, window by window of steps, and an alarm before a collapse is complete."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from sigtok.codecs.metrics.codes import CodeCounts


class CodebookUsage(Callback):
    """Logs usage, perplexity and dead fraction of every codebook over a window of steps.

    Args:
        window: Training batches between logs; the counts of all machines are joined once per window.
        alarm: Warn when a codebook uses a smaller fraction of its codes than this.

    A window should hold several times K tokens of the largest codebook: of K codes drawn evenly, N tokens show
    ``1 - exp(-N / K)``.
    """

    def __init__(self, window: int = 200, alarm: float = 0.1) -> None:
        if window < 1:
            raise ValueError(f"a window has at least 1 step, got {window}")
        self.window, self.alarm = window, alarm

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start counting."""
        self.counts = CodeCounts(pl_module.codec.spec.codebook_sizes)
        self.batches = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the codes of the batch; at the end of a window, log and start over."""
        self.counts.add(outputs["streams"])
        self.batches += 1
        if self.batches == self.window:
            self.counts.counts = trainer.strategy.reduce(self.counts.counts, reduce_op="sum")
            summary = self.counts.summary()
            for logger in trainer.loggers:  # at once: a logged value would be repeated until the next window
                values = {f"codes/{name}": value for name, value in summary.items()}
                logger.log_metrics(values, step=trainer.global_step - 1)
            self.warn(trainer.global_step, summary)
            self.on_train_start(trainer, pl_module)

    def warn(self, step: int, summary: dict[str, float]) -> None:
        """Say which codebooks collapse."""
        for name, value in summary.items():
            if name.startswith("usage_") and value < self.alarm:
                rank_zero_warn(
                    f"step {step}: codebook {name.removeprefix('usage_')} uses {value:.1%} of its codes, below "
                    f"{self.alarm:.0%}; look at its dead-code revival, its losses and the learning rate"
                )
