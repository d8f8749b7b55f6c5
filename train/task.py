"""One step of training a codec: reconstruct, weigh the losses by name, follow the gradient."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.optim import AdamW

from sigtok.codecs.codec import Codec, Reconstruction, crop_to, pad_to
from sigtok.codecs.files import compress
from sigtok.codecs.metrics.audio import mel_distance
from sigtok.codecs.metrics.codes import CodeCounts
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.quantizers.codebook import Codebook
from sigtok.codecs.tokens import Tokens
from sigtok.train.callbacks.ema import AverageWeights
from sigtok.train.callbacks.speed import Speed

from .rates import Rates
from .schedule import learning_rate_at

PER_ITEM: dict[str, Any] = {"prog_bar": True, "sync_dist": True}  # logged in validation: a mean over the set


class CodecTask(LightningModule):
    """Trains any `Codec`; in the YAML a codec is the builder function that makes it.

    Every value here is taken from the YAML and the command line, also when a run is resumed: a checkpoint holds
    weights and optimizer moments and no settings.

    Args:
        codec: What is trained.
        losses: Modules called as ``loss(reconstruction, signal)``, by name. The codec's own losses ("commitment",
            "codebook", "entropy", ...) join them.
        loss_weights: One weight for every name, no more and no fewer.
        rates: How the operating point of a step is drawn.
        learning_rate: After the warm-up.
        final_learning_rate: At the end of the cosine.
        warmup_steps: Optimizer steps of linear rise.
        total_steps: Optimizer steps until ``final_learning_rate``, the trainer's ``max_steps`` by default.
        betas: Of AdamW.
        weight_decay: Of AdamW, on matrices only: not on biases, norms, gains and codebooks.
        gradient_clip: Largest norm of the gradient, None for no limit.
        ema_decay: Average the weights with this decay, None for no average. Validation and checkpoints then
            hold the average.
        predict_folder: Where ``predict`` writes codes, int64 ``[Q, N]``, one ``.npy`` per signal.
        seed: With step, batch and rank, all that random numbers of a step depend on.
    Raises:
        ValueError: On the first step, if a loss has no weight or a weight no loss.
    """

    def __init__(
        self,
        codec: Codec,
        losses: dict[str, nn.Module],
        loss_weights: dict[str, float],
        rates: Rates = Rates(),  # noqa: B008 - frozen
        learning_rate: float = 3e-4,
        final_learning_rate: float = 0.0,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        gradient_clip: float | None = 1.0,
        ema_decay: float | None = None,
        predict_folder: str = "tokens",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.codec = codec
        codec.stream_id = None  # what is trained on is another model: its files must not be signed as the old one
        self.losses = nn.ModuleDict(losses)
        self.loss_weights, self.rates, self.seed = dict(loss_weights), rates, seed
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.betas, self.weight_decay = betas, weight_decay
        self.gradient_clip, self.predict_folder = gradient_clip, Path(predict_folder)
        self.own_callbacks = [Speed()] + ([AverageWeights(ema_decay)] if ema_decay is not None else [])
        self.code_counts = CodeCounts(codec.spec.codebook_sizes)
        self.written: set[Path] = set()

    # -- one step ----------------------------------------------------------------------------------------

    def training_step(self, signal: Tensor, batch_idx: int) -> dict[str, Any]:
        """The weighed sum of all losses at the rate of this step."""
        rate = self.rates.at(self.global_step, self.codec.spec)
        signal = whole_windows(signal, self.codec.spec.step(rate))
        reconstruction = self.codec(signal, rate)
        losses = self.named_losses(reconstruction, signal)
        total = sum(self.loss_weights[name] * loss for name, loss in losses.items())
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()})
        self.log("train/total", total, prog_bar=True)
        self.check_finite(losses)
        return {"loss": total, "streams": reconstruction.quantized.streams}

    def named_losses(self, reconstruction: Reconstruction, signal: Tensor) -> dict[str, Tensor]:
        """All losses by name, unweighted: the reconstruction's and the codec's own.

        Raises:
            ValueError: If names of losses and weights differ.
        """
        losses = {name: loss(reconstruction.signal, signal) for name, loss in self.losses.items()}
        if twice := sorted(losses.keys() & reconstruction.quantized.losses.keys()):
            raise ValueError(f"one loss per name, got two called {twice}; rename it under losses")
        losses |= reconstruction.quantized.losses
        if missing := sorted(losses.keys() - self.loss_weights.keys()):
            raise ValueError(f"every loss has a weight, got none for {missing}; add them to loss_weights")
        if unknown := sorted(self.loss_weights.keys() - losses.keys()):
            raise ValueError(f"every weight has a loss, got none for {unknown}; the losses are {sorted(losses)}")
        return losses

    def check_finite(self, losses: dict[str, Tensor]) -> None:
        """Raise ValueError if a loss is not finite; looked at when values are logged, to wait for no device."""
        trainer: Any = self.trainer
        if self.global_step % trainer.log_every_n_steps == 0:
            bad = sorted(name for name, loss in losses.items() if not loss.isfinite())
            if bad:
                raise ValueError(
                    f"losses are finite, got {bad} = nan or inf at step {self.global_step}; resume the last "
                    f"checkpoint with a lower learning_rate or gradient_clip"
                )

    # -- optimisation ------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set what this step depends on from its number alone: settings of the optimizer and random numbers."""
        torch.manual_seed(hash((self.seed, self.global_step, batch_idx, self.global_rank)))
        rate = self.current_learning_rate()
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group.update(lr=rate, betas=self.betas, weight_decay=self.weight_decay * group["decays"])
        self.log("train/learning_rate", rate)

    def current_learning_rate(self) -> float:
        """The learning rate of the step about to be taken."""
        total = self.total_steps if self.total_steps is not None else self.trainer.max_steps
        if total < 0:
            raise ValueError(f"the cosine ends at a step, got trainer.max_steps={total}; set it or model.total_steps")
        peak, final = self.learning_rate, self.final_learning_rate
        return learning_rate_at(self.global_step, self.warmup_steps, total, peak, final)

    def configure_optimizers(self) -> AdamW:
        """AdamW over what is trainable; weight decay on matrices, except codebooks."""
        trained = [(name, weight) for name, weight in self.named_parameters() if weight.requires_grad]
        groups: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, weight in trained:
            groups[weight.ndim > 1 and "codebook" not in name].append(weight)
        return AdamW([{"params": group, "decays": decays} for decays, group in groups.items() if group])

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Log the norm of the gradient and limit it."""
        if gradient_clip_val is not None:
            raise ValueError(
                f"the limit of the gradient is model.gradient_clip, got trainer.gradient_clip_val="
                f"{gradient_clip_val}; move it"
            )
        limit = float("inf") if self.gradient_clip is None else self.gradient_clip
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.log("train/gradient_norm", nn.utils.clip_grad_norm_(weights, limit))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Make the optimizer forget the moments of codes that were replaced; waits for no device."""
        for module in self.codec.modules():
            if isinstance(module, Codebook) and module.renewed is not None:
                state = optimizer.state.get(module.codebook, {})  # codes that are no parameter have none
                for moment in state.keys() & {"exp_avg", "exp_avg_sq"}:
                    state[moment].masked_fill_(module.renewed[:, None], 0)
                module.renewed = None

    def configure_callbacks(self) -> Sequence[Callback]:
        """Speed always, averaged weights when a decay is given; the same objects for every run of this task."""
        return self.own_callbacks

    # -- validation --------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start counting codes."""
        self.code_counts = CodeCounts(self.codec.spec.codebook_sizes)

    def validation_step(self, signal: Tensor, batch_idx: int) -> Tensor:
        """Losses and distances at the full rate; returns the reconstruction ``[B, C, *extent]``."""
        return self.evaluate("val", signal)

    def on_validation_epoch_end(self) -> None:
        """Log how the codes of the whole set were used."""
        self.log_codes("val")

    on_test_epoch_start = on_validation_epoch_start

    def test_step(self, signal: Tensor, batch_idx: int) -> Tensor:
        """As validation, and the rate of real files."""
        self.log_dict(
            {f"test/{name}": rate for name, rate in self.file_rate(signal).items()}, batch_size=len(signal), **PER_ITEM
        )
        return self.evaluate("test", signal)

    def on_test_epoch_end(self) -> None:
        """Log how the codes of the whole set were used."""
        self.log_codes("test")

    def evaluate(self, stage: str, signal: Tensor) -> Tensor:
        """Log losses and distances of a batch, of any extent."""
        spec, extent = self.codec.spec, tuple(signal.shape[2:])
        reconstruction = self.codec(pad_to(signal, spec.padded(extent)))
        heard = reconstruction._replace(signal=crop_to(reconstruction.signal.float(), extent))
        self.code_counts.add(heard.quantized.streams)
        values = self.named_losses(heard, signal) | self.distances(heard.signal, signal)
        logged = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(logged, batch_size=len(signal), **PER_ITEM)
        return heard.signal

    def distances(self, reconstruction: Tensor, signal: Tensor) -> dict[str, float]:
        """The metrics of this kind of signal."""
        if self.codec.spec.modality == "image":
            return {"psnr": psnr(reconstruction, signal)}
        assert self.codec.spec.sample_rate
        return {"mel_distance": mel_distance(reconstruction, signal.float(), self.codec.spec.sample_rate)}

    def file_rate(self, signal: Tensor) -> dict[str, float]:
        """Bits per second, or per pixel, of a batch written as files."""
        files = [compress(self.codec, item[None].float()) for item in signal]
        bits = 8 * sum(map(len, files)) / signal[:, 0].numel()
        rate = self.codec.spec.sample_rate
        return {"bits_per_second": bits * rate} if rate else {"bits_per_pixel": bits}

    def log_codes(self, stage: str) -> None:
        """Join the counts of all machines and log usage and perplexity of every codebook."""
        self.code_counts.counts = self.trainer.strategy.reduce(self.code_counts.counts.to(self.device), reduce_op="sum")
        values = self.code_counts.summary()
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()}, sync_dist=True)

    # -- prediction --------------------------------------------------------------------------------------

    def predict_step(self, batch: tuple[Tensor, str], batch_idx: int) -> Tokens:
        """Tokens of one signal ``[1, C, *extent]``, its codes written under the name of its file.

        Raises:
            ValueError: If two files have one name.
        """
        signal, name = batch
        tokens = self.codec.encode(signal)
        path = self.predict_folder / f"{Path(name).stem}.npy"
        if path in self.written:
            raise ValueError(f"codes of two files go to {path}, the second is {name}; predict them in two runs")
        self.written.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, tokens.codes[0].cpu().numpy())
        return tokens


def whole_windows(signal: Tensor, step: tuple[int, ...]) -> Tensor:
    """The largest part of a training batch that is a whole number of windows.

    Raises:
        ValueError: If not even one window fits.
    """
    extent = tuple(size // each * each for size, each in zip(signal.shape[2:], step, strict=True))
    if 0 in extent:
        raise ValueError(
            f"one window of this codec is {step} samples or pixels, got training signals of "
            f"{tuple(signal.shape[2:])}; cut longer pieces in the data"
        )
    return crop_to(signal, extent)
