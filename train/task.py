"""One step of training a codec: reconstruct, weigh the losses by name, follow the gradient."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from sigtok.codecs.codec import Codec, Reconstruction, crop_to, pad_to
from sigtok.codecs.files import compress
from sigtok.codecs.metrics.audio import mel_distance
from sigtok.codecs.metrics.codes import CodeCounts
from sigtok.codecs.metrics.features import cosine, relative_error
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.quantizers.codebook import Codebook
from sigtok.codecs.spec import Rate
from sigtok.codecs.tokens import Tokens
from sigtok.train.callbacks.ema import AverageWeights
from sigtok.train.callbacks.speed import Speed
from sigtok.train.objectives.base import Found, Objective

from .adversary import NAMES, Adversary
from .balancer import Balancer
from .initial import initialise, stored_weights
from .parts import check_parts, hold, parameter_groups
from .parts import freeze as freeze_parts
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
        objectives: What looks inside the codec, by any name; losses have names of their own.
        adversary: Discriminators, from the step on that they say.
        balancer: Weighs losses on the reconstruction by the gradients that they give; these have no weight here.
        quantize: False trains the autoencoder alone, latents unquantized.
        init_from: A released model or a checkpoint to start from: weights, and discriminators if it has them.
        fresh: Parts of the codec, such as "quantizer", that do not start from there.
        freeze: Parts of the codec that do not learn, such as "encoder.front".
        learning_rates: Factors of the learning rate for parts of the codec.
        learning_rate: After the warm-up.
        final_learning_rate: At the end of the cosine.
        warmup_steps: Optimizer steps of linear rise.
        total_steps: Optimizer steps until ``final_learning_rate``, the trainer's ``max_steps`` by default.
        betas: Of AdamW.
        weight_decay: Of AdamW, on matrices only: not on biases, norms, gains and codebooks.
        gradient_clip: Largest norm of the gradient, None for no limit.
        accumulate: Batches of a step.
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
        objectives: dict[str, Objective] | None = None,
        adversary: Adversary | None = None,
        balancer: Balancer | None = None,
        quantize: bool = True,
        init_from: str | None = None,
        fresh: Sequence[str] = (),
        freeze: Sequence[str] = (),
        learning_rates: Mapping[str, float] | None = None,
        learning_rate: float = 3e-4,
        final_learning_rate: float = 0.0,
        warmup_steps: int = 0,
        total_steps: int | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        gradient_clip: float | None = 1.0,
        accumulate: int = 1,
        ema_decay: float | None = None,
        predict_folder: str = "tokens",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if accumulate < 1:
            raise ValueError(f"a step has at least 1 batch, got accumulate={accumulate}")
        self.automatic_optimization = False  # two optimizers, one of which counts
        self.codec = codec
        codec.stream_id = None  # what is trained on is another model: its files must not be signed as the old one
        self.losses, self.objectives = nn.ModuleDict(losses), nn.ModuleDict(objectives or {})
        self.adversary, self.balancer, self.quantize = adversary, balancer, quantize
        self.init_from, self.fresh, self.frozen = init_from, tuple(fresh), tuple(freeze)
        self.loss_weights, self.rates, self.seed = dict(loss_weights), rates, seed
        self.learning_rates = dict(learning_rates or {})
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.betas, self.weight_decay = betas, weight_decay
        self.gradient_clip, self.accumulate = gradient_clip, accumulate
        self.predict_folder = Path(predict_folder)
        self.own_callbacks = [Speed()] + ([AverageWeights(ema_decay)] if ema_decay is not None else [])
        self.code_counts = CodeCounts(codec.spec.codebook_sizes)
        self.written: set[Path] = set()
        freeze_parts(codec, self.frozen)
        check_parts(codec, self.learning_rates)

    def setup(self, stage: str) -> None:
        """Start from a released model or a checkpoint; a resumed run overwrites this with its own weights."""
        if stage == "fit" and self.init_from is not None:
            weights, adversary = stored_weights(self.init_from)
            initialise(self.codec, weights, self.init_from, self.fresh)
            if self.adversary is not None and adversary:
                initialise(self.adversary, adversary, self.init_from)
        if stage == "fit" and self.codec.entropy is not None:
            self.codec.entropy.thaw()

    # -- one step ----------------------------------------------------------------------------------------

    def training_step(self, signal: Tensor, batch_idx: int) -> dict[str, Any]:
        """One pass at the rate of this step; discriminators learn from it, then the codec."""
        rate = self.rates.at(self.global_step, self.codec.spec)
        signal = whole_windows(signal, self.codec.spec.step(rate))
        reconstruction = self.codec(signal, rate, quantize=self.quantize)
        last = (batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch
        if batch_idx % self.accumulate == 0:
            for optimizer in self.both_optimizers():
                optimizer.zero_grad()
        heard = self.adversary is not None and self.adversary.weight(self.global_step) > 0
        judged = self.teach_adversary(signal, reconstruction.signal, last) if heard else None
        on_signal, inside = self.named_losses(reconstruction, signal, rate, judged)
        losses = on_signal | inside.losses
        weights = self.current_weights()
        total: Any = sum(weight * losses[name] for name, weight in weights.items() if name in losses)
        self.log_dict({f"train/{name}": value for name, value in (losses | inside.figures).items()})
        self.log("train/total", total, prog_bar=True)
        self.check_finite(losses)
        if self.balancer is not None:
            balanced = {name: loss for name, loss in on_signal.items() if name in self.balancer.weights}
            total = total + (self.balancer(balanced, reconstruction.signal) * reconstruction.signal).sum()
        self.manual_backward(total / self.accumulate)
        if last:
            self.both_optimizers()[0].step()
        return {"streams": reconstruction.quantized.streams}

    def teach_adversary(self, signal: Tensor, reconstruction: Tensor, last: bool) -> tuple[slice, ...]:
        """A lesson for the discriminators, which does not count as a step; returns the part that is judged."""
        assert self.adversary is not None
        place = self.adversary.place(signal)
        if self.adversary.learns(self.global_step):
            lesson = self.adversary.lesson(signal[place], reconstruction[place])
            self.log("train/discriminator", lesson)
            self.manual_backward(lesson / self.accumulate)
            if last:
                trainer: Any = self.trainer
                optimizer = self.both_optimizers()[1].optimizer
                trainer.precision_plugin.optimizer_step(optimizer, model=self, closure=lambda: None)
        return place

    def current_weights(self) -> dict[str, float]:
        """Weights of the losses at this step: those of the adversary rise."""
        factor = 1.0 if self.adversary is None else self.adversary.weight(self.global_step)
        return {name: weight * (factor if name in NAMES else 1.0) for name, weight in self.loss_weights.items()}

    def named_losses(
        self, reconstruction: Reconstruction, signal: Tensor, rate: Rate, judged: tuple[slice, ...] | None = None
    ) -> tuple[dict[str, Tensor], Found]:
        """All losses by name, unweighted: those on the reconstruction, and those inside the codec.

        Args:
            reconstruction: Of the signal.
            signal: Whole windows.
            rate: Of the pass.
            judged: The part that the adversary judges, None if it is not heard.

        Raises:
            ValueError: If names of losses and weights differ.
        """
        on_signal = {name: loss(reconstruction.signal, signal) for name, loss in self.losses.items()}
        if judged is not None:
            assert self.adversary is not None
            on_signal |= self.adversary.losses(signal[judged], reconstruction.signal[judged])
        found = [objective(self.codec, signal, reconstruction, rate) for objective in self.objectives.values()]
        parts = [reconstruction.quantized.losses, *(each.losses for each in found)]
        names = [name for part in (on_signal, *parts) for name in part]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"one loss per name, got two called {twice}; rename it under losses")
        balanced = set() if self.balancer is None else self.balancer.weights.keys()
        if twice := sorted(balanced & self.loss_weights.keys()):
            raise ValueError(f"a balanced loss has its weight in the balancer, got one in loss_weights too for {twice}")
        if missing := sorted(set(names) - balanced - self.loss_weights.keys()):
            raise ValueError(f"every loss has a weight, got none for {missing}; add them to loss_weights")
        known = set(names) | (set() if self.adversary is None else set(NAMES))
        if unknown := sorted((balanced | self.loss_weights.keys()) - known):
            raise ValueError(f"every weight has a loss, got none for {unknown}; the losses are {sorted(known)}")
        inside = Found({}, {})
        for part in (Found(parts[0], {}), *found):
            inside = Found(inside.losses | part.losses, inside.figures | part.figures)
        return on_signal, inside

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
        hold(self.codec, self.frozen)
        rate = self.current_learning_rate()
        for group in self.both_optimizers()[0].param_groups:
            decay = self.weight_decay * group["decays"]
            group.update(lr=rate * group["scale"], betas=self.betas, weight_decay=decay)
        self.log("train/learning_rate", rate)

    def current_learning_rate(self) -> float:
        """The learning rate of the step about to be taken."""
        total = self.total_steps if self.total_steps is not None else self.trainer.max_steps
        if total < 0:
            raise ValueError(f"the cosine ends at a step, got trainer.max_steps={total}; set it or model.total_steps")
        peak, final = self.learning_rate, self.final_learning_rate
        return learning_rate_at(self.global_step, self.warmup_steps, total, peak, final)

    def configure_optimizers(self) -> Any:
        """AdamW over what learns of the codec and its objectives; a second one of the adversary."""
        named = [
            (name, weight)
            for name, weight in self.named_parameters()
            if weight.requires_grad and not name.startswith("adversary.")
        ]
        optimizer = AdamW(parameter_groups(named, self.learning_rates))
        return optimizer if self.adversary is None else [optimizer, self.adversary.optimizer()]

    def both_optimizers(self) -> list[Any]:
        """That of the codec, and that of the adversary if there is one."""
        optimizers: Any = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log and limit the norm of the gradient; forget the moments of codes that were replaced."""
        adversary = self.adversary is not None and optimizer is self.both_optimizers()[1].optimizer
        limit = self.adversary.gradient_clip if adversary and self.adversary else self.gradient_clip
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        norm = nn.utils.clip_grad_norm_(weights, float("inf") if limit is None else limit)
        self.log("train/discriminator_gradient_norm" if adversary else "train/gradient_norm", norm)
        if not adversary:
            self.forget_renewed(optimizer)

    def forget_renewed(self, optimizer: Optimizer) -> None:
        """Erase the moments of codes that were replaced; waits for no device."""
        for module in self.codec.modules():
            if isinstance(module, Codebook) and module.renewed is not None:
                state = optimizer.state.get(module.codebook, {})  # codes that are no parameter have none
                for moment in state.keys() & {"exp_avg", "exp_avg_sq"}:
                    state[moment].masked_fill_(module.renewed[:, None], 0)
                module.renewed = None

    def configure_callbacks(self) -> Sequence[Callback]:
        """Speed always, averaged weights when a decay is given; the same objects for every run of this task.

        Raises:
            ValueError: If the trainer was told to clip or accumulate, which is the task's.
        """
        trainer: Any = self.trainer
        if trainer.gradient_clip_val is not None:
            raise ValueError(
                f"the limit of the gradient is model.gradient_clip, got trainer.gradient_clip_val="
                f"{trainer.gradient_clip_val}; move it"
            )
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                f"batches of a step are model.accumulate, got trainer.accumulate_grad_batches="
                f"{trainer.accumulate_grad_batches}; move it"
            )
        return self.own_callbacks

    # -- validation --------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start counting codes, and from the same random numbers."""
        torch.manual_seed(self.seed)
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
        padded, rate = pad_to(signal, spec.padded(extent), repeat=not spec.bounded), spec.resolve()
        reconstruction = self.codec(padded, rate, quantize=self.quantize)
        on_signal, inside = self.named_losses(reconstruction, padded, rate)
        self.code_counts.add(reconstruction.quantized.streams)
        heard = crop_to(reconstruction.signal.float(), extent)
        values = on_signal | inside.losses | inside.figures | self.distances(heard, signal)
        logged = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(logged, batch_size=len(signal), **PER_ITEM)
        return heard

    def distances(self, reconstruction: Tensor, signal: Tensor) -> dict[str, float]:
        """The metrics of this kind of signal."""
        if self.codec.spec.modality == "image":
            return {"psnr": psnr(reconstruction, signal)}
        if self.codec.spec.modality == "features":
            target = signal.float()
            return {"relative_error": relative_error(reconstruction, target), "cosine": cosine(reconstruction, target)}
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
            f"one window of this codec is {step} samples, pixels or frames, got training signals of "
            f"{tuple(signal.shape[2:])}; cut longer pieces in the data"
        )
    return crop_to(signal, extent)
