"""How training uses the codebooks, window by window of steps, and what is done when a collapse is coming."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from sigtok.codecs.metrics.codes import CodeCounts
from sigtok.train.watchdog import ACTIONS, Alarm, Order, Watchdog, act


class CodebookUsage(Callback):
    """Logs usage, perplexity, top share and dead fraction of every codebook, and acts when a collapse is coming.

    An alarm is answered in steps, one a window for as long as it lasts (`Watchdog`): warn; re-seed the codes that the
    window lacks, as many as the next batch has latents; raise the temperature; lower the learning rate, once a window
    even if several codebooks ask for it. Every action is a warning, a line of ``watchdog.jsonl`` in the log folder, and
    in the logs ``action_q``: 0 for none, else 1 to 4.

    Counts of all machines are joined once a window, and all that is done follows from them. A resumed run goes on with
    the alarms and the learning rate as they were, and begins a new window.

    A window should hold about 20 K tokens of the largest codebook, and several K to tell dead codes from rare ones: of
    K codes drawn evenly, N tokens show ``1 - exp(-N / K)``, and usage is held against that.

    Args:
        window: Training batches between logs, at least 1.
        alarm: The signs of a collapse.
        actions: The steps, in order; ``[warn]`` to act never, none to log only.
        warmer: Factor of the temperature, more than 1.
        slower: Factor of ``learning_rate``, from more than 0 to less than 1; not below ``final_learning_rate``.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        window: int = 200,
        alarm: Alarm = Alarm(),  # noqa: B008 - frozen
        actions: Sequence[str] = ACTIONS,
        warmer: float = 2.0,
        slower: float = 0.5,
    ) -> None:
        if window < 1:
            raise ValueError(f"a window has at least 1 step, got {window}")
        if not warmer > 1:
            raise ValueError(f"a temperature is raised by a factor of more than 1, got warmer={warmer}")
        if not 0 < slower < 1:
            raise ValueError(f"a learning rate is lowered by a factor between 0 and 1, got slower={slower}")
        self.window, self.warmer, self.slower = window, warmer, slower
        self.watchdog = Watchdog(alarm, actions)
        self.slowed, self.resumed = 1.0, 1.0

    # -- windows -------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a window; a resumed run first gets its lowered learning rate back."""
        self.folder = Path(trainer.log_dir or trainer.default_root_dir)  # a collective: asked here, where all ranks are
        if self.resumed < 1:
            lower(pl_module, self.resumed)
            self.resumed = 1.0
        self.begin(pl_module)

    def begin(self, pl_module: Any) -> None:
        """Start counting."""
        self.counts, self.batches = CodeCounts(pl_module.codec.spec.codebook_sizes), 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the codes of the batch; at the end of a window, log, act and start over."""
        self.counts.add(outputs["streams"])
        self.batches += 1
        if self.batches == self.window:
            self.counts.counts = trainer.strategy.reduce(self.counts.counts, reduce_op="sum")
            orders = self.watchdog.judge(pl_module.codec.quantizer, self.counts)
            self.record(trainer, orders)
            self.answer(trainer.global_step - 1, pl_module, orders)
            self.begin(pl_module)

    def record(self, trainer: Any, orders: Sequence[Order]) -> None:
        """Give the window to every logger at once: a logged value would be repeated until the next."""
        values = self.counts.summary() | {f"action_{book}": 0.0 for book in range(len(self.counts.sizes))}
        for order in orders:
            values |= {f"action_{book}": 1.0 + ACTIONS.index(order.action) for book in order.codebooks}
        for logger in trainer.loggers:
            named = {f"codes/{name}": value for name, value in values.items()}
            logger.log_metrics(named, step=trainer.global_step - 1)

    # -- actions -------------------------------------------------------------------------------------------

    def answer(self, step: int, pl_module: Any, orders: Sequence[Order]) -> None:
        """Do what is ordered, and say so."""
        if any(order.action == "slow" for order in orders):
            self.slowed *= lower(pl_module, self.slower)
        for order in orders:
            act(order, self.warmer)
            did = self.told(order, pl_module)
            self.write(step, order, did)
            names = " ".join(map(str, order.codebooks))
            rank_zero_warn(f"step {step}: codebook {names} {' and '.join(order.signs.values())}; {did}")

    def told(self, order: Order, pl_module: Any) -> str:
        """What was done, in words."""
        if order.action == "reseed":
            return f"{int(order.unseen.sum())} codes are to be replaced by latents of the next batch"
        if order.action == "soften":
            return f"the temperature of its scores was raised by {self.warmer:g}"
        if order.action == "slow":
            return f"learning_rate is now {pl_module.learning_rate:.3g}"
        return "look at its policies, its losses and the learning rate"

    @rank_zero_only
    def write(self, step: int, order: Order, did: str) -> None:
        """One line of ``watchdog.jsonl``."""
        seen = order.seen
        measured = {"tokens": seen.tokens, "usage": seen.share, "shown": seen.shown}
        measured |= {"perplexity": seen.perplexity, "top": seen.top, "dead": 1 - seen.share}
        line = {"step": step, "codebooks": order.codebooks, "signs": list(order.signs), **measured}
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "watchdog.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line | {"action": order.action, "did": did}) + "\n")

    # -- checkpoints ---------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Alarms under way and what became of the learning rate."""
        return {"turns": dict(self.watchdog.turns), "before": dict(self.watchdog.before), "slowed": self.slowed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on as the run that was stopped."""
        self.watchdog.turns, self.watchdog.before = dict(state_dict["turns"]), dict(state_dict["before"])
        self.slowed = self.resumed = state_dict["slowed"]


def lower(pl_module: Any, factor: float) -> float:
    """Lower the learning rate of a task, not below where it ends; returns the factor by which it was."""
    before, end = pl_module.learning_rate, pl_module.final_learning_rate
    if before <= end:
        return 1.0
    pl_module.learning_rate = max(end, before * factor)
    return pl_module.learning_rate / before
