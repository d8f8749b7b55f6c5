"""One step of training a language model of tokens: predict the next id."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from jaxtyping import Int
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import AdamW

from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.network import Shape, TokenTransformer
from sigtok.train.data.tokens import TokenContexts

from .parts import parameter_groups
from .schedule import learning_rate_at

LANGUAGE = "language"  # of a checkpoint: what its ids mean, and the shape of the network


class LanguageTask(LightningModule):
    """Trains a transformer on `TokenContexts`, which tell it the ids and the context.

    Logs ``nats``, the mean cross entropy of an id, and ``bits_per_token``: the bits that an ideal coder with this model
    spends on a signal, on its header and end too, over its codes. Nominal are log2 K bits for a code of a codebook of
    K: 11 of 2,048. What ``val/bits_per_token`` lies below that, on signals that the model has not seen, is what use and
    order of the codes give away, and the bits per second that such a coder needs are the codec's nominal ones in that
    ratio. Ids at the beginning of a context are predicted from few: the shorter contexts are, the more bits it takes.

    Args:
        shape: Of the network; its context is that of the data.
        learning_rate: After the warm-up.
        final_learning_rate: At the end of the cosine.
        warmup_steps: Of linear rise.
        total_steps: Until ``final_learning_rate``, the trainer's ``max_steps`` by default.
        betas: Of AdamW.
        weight_decay: Of AdamW, on matrices only.
    """

    network: TokenTransformer

    def __init__(
        self,
        shape: Shape = Shape(),  # noqa: B008 - frozen
        learning_rate: float = 1e-3,
        final_learning_rate: float = 1e-5,
        warmup_steps: int = 100,
        total_steps: int | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.betas, self.weight_decay = betas, weight_decay
        self.language: Language | None = None

    def configure_model(self) -> None:
        """Build the network for the ids of the data, once."""
        if self.language is None:
            data = getattr(self.trainer, "datamodule", None)
            if not isinstance(data, TokenContexts):
                raise ValueError(f"a language model reads TokenContexts, got {type(data).__name__}; name it under data")
            self.language, self.shape = data.language, replace(self.shape, context=data.context)
            self.network = TokenTransformer(self.language.size, self.language.begin, self.shape)

    # -- steps -------------------------------------------------------------------------------------------

    def training_step(self, contexts: Tensor, batch_idx: int) -> Tensor:
        """The mean cross entropy of the ids, nats."""
        nats, bits, _ = self.evaluate(contexts)
        self.log_dict({"train/nats": nats, "train/bits_per_token": bits}, prog_bar=True)
        return nats

    def validation_step(self, contexts: Tensor, batch_idx: int) -> None:
        """The same over the whole set."""
        nats, bits, counts = self.evaluate(contexts)
        ids, codes = counts.tolist()
        self.log("val/nats", nats, batch_size=ids, prog_bar=True, sync_dist=True)
        self.log("val/bits_per_token", bits, batch_size=codes, prog_bar=True, sync_dist=True)

    def evaluate(self, contexts: Int[Tensor, "B L1"]) -> tuple[Tensor, Tensor, Tensor]:
        """Nats per id, bits per code, and how many ids and codes ``[2]`` were predicted."""
        assert self.language is not None
        targets = contexts[:, 1:]
        logits = self.network(contexts[:, :-1])
        nats = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=self.language.ids.padding)
        stands, codes = targets != self.language.ids.padding, targets < self.language.num_codes
        counts = torch.stack((stands.sum(), codes.sum().clamp(min=1)))
        return nats, nats.detach() * counts[0] / counts[1] / math.log(2), counts

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set what the optimizer's settings are from the number of the step alone."""
        total = self.total_steps if self.total_steps is not None else self.trainer.max_steps
        if total < 0:
            raise ValueError(f"the cosine ends at a step, got trainer.max_steps={total}; set it or model.total_steps")
        peak, final = self.learning_rate, self.final_learning_rate
        rate = learning_rate_at(self.global_step, self.warmup_steps, total, peak, final)
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group.update(lr=rate, betas=self.betas, weight_decay=self.weight_decay * group["decays"])
        self.log("train/learning_rate", rate)

    def configure_optimizers(self) -> AdamW:
        """AdamW over everything."""
        return AdamW(parameter_groups(self.named_parameters(), {}))

    # -- checkpoints -------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the ids mean, without which weights say nothing."""
        assert self.language is not None
        checkpoint[LANGUAGE] = {**self.language.to_dict(), "shape": asdict(self.shape)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of other ids.

        Raises:
            ValueError: If the checkpoint was trained on other tokens, in another layout, or in another shape.
        """
        assert self.language is not None
        mine, theirs = {**self.language.to_dict(), "shape": asdict(self.shape)}, checkpoint.get(LANGUAGE, {})
        if wrong := sorted(name for name in mine if mine[name] != theirs.get(name)):
            raise ValueError(
                f"a run goes on with the ids that it began with, the checkpoint has another {', '.join(wrong)}; name "
                f"its own settings and data"
            )
