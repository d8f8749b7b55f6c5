"""A running average of the codec's weights; it is what validates, and what is released."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor


class AverageWeights(Callback):
    """Exponential moving average of the codec's trained parameters.

    Validation, test and prediction see the average. Codebooks are never averaged, whether they follow statistics or
    gradients: a code that was replaced has nothing in common with the one before it. A checkpoint holds the average
    as the model's weights, so that it loads like any other, and beside them the weights that go on training, so that
    a resumed run is exact.

    Args:
        decay: Part of the average kept at every step; at step t no more than (1 + t) / (10 + t), so that the
            first steps are soon forgotten.
    Source: Polyak and Juditsky, 1992; in its exponential form Tarvainen and Valpola, "Mean teachers", 2017.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"the decay of averaged weights lies between 0 and 1, got {decay}")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.swapped, self.step = False, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are, unless a checkpoint brought an average."""
        trained = self.trained(pl_module)
        self.average = {
            name: self.average.get(name, weight).detach().to(weight.device, copy=True)
            for name, weight in trained.items()
        }

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Follow the weights by one optimizer step."""
        if trainer.global_step > self.step:
            self.step = trainer.global_step
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            weights = [weight.detach() for weight in self.trained(pl_module).values()]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in place; likewise for test and prediction."""
        self.swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the training weights back."""
        self.swap(pl_module)

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the average as the model and the training weights beside it."""
        if self.average:
            trained = {name: checkpoint["state_dict"][name] for name in self.average}
            first, second = (trained, self.average) if not self.swapped else (self.average, trained)
            checkpoint["training_weights"] = first
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **second}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the average from the model's weights; when training goes on, restore the training weights."""
        if trainer.state.fn == "fit" and "training_weights" in checkpoint:
            names = checkpoint["training_weights"]
            self.average = {name: checkpoint["state_dict"][name].clone() for name in names}
            pl_module.load_state_dict({**checkpoint["state_dict"], **names})
            self.step = checkpoint["global_step"]

    @staticmethod
    def trained(module: LightningModule) -> dict[str, Tensor]:
        """The codec's parameters that learn, codebooks aside, by their names in the checkpoint."""
        named = module.named_parameters()
        return {
            name: weight
            for name, weight in named
            if name.startswith("codec.") and weight.requires_grad and not name.endswith(".codebook")
        }

    @torch.no_grad()
    def swap(self, module: LightningModule) -> None:
        """Exchange the average and the weights in place."""
        self.swapped = not self.swapped
        for name, weight in self.trained(module).items() if self.average else ():
            kept = weight.clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(kept)
