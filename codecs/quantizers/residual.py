"""Residual quantization: each stage quantizes what the stages before left over (SoundStream, arXiv 2107.03312)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .base import Quantized, Quantizer, float32, mean_losses, touch
from .estimators import estimate


class Residual(Quantizer):
    """Q quantizers of one width in a row; any prefix of the codes decodes to a coarser value.

    Stage q reads ``r_q = r_{q-1} - sg(value_{q-1})`` detached from the gradient of the stages before, so that each
    stage's commitment reaches the encoder once. Losses are means over the stages in use. A stage that collects latents
    to start from is fitted on what the finished stages leave; until the last has started, latents go by unquantized.

    Args:
        stages: Quantizers of one codebook each, of one width.
        estimator: Gradient of the sum: "straight_through" or "rotation" from the sum to the latents, or "stages", the
            sum of the stages' own gradients: that of index backpropagation, where an identity on top would count the
            latents twice.
        sample_dropout: Share of the items of a training batch that keep only a random prefix of the codebooks in
            use, from 0 to less than 1 (quantizer dropout per sample, as in DAC, arXiv 2306.06546). Per batch, the
            number of codebooks is drawn outside, by `Rates`.

    Raises:
        ValueError: If stages differ in width or have several codebooks, or the share is out of range.
    """

    def __init__(
        self,
        stages: Sequence[Quantizer],
        estimator: Literal["straight_through", "rotation", "stages"] = "straight_through",
        sample_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not stages or len({stage.dim for stage in stages}) != 1:
            raise ValueError(f"stages must share one width, got {[stage.dim for stage in stages]}")
        if any(stage.strides != (1,) for stage in stages):
            raise ValueError(f"a stage has one codebook, got strides {[stage.strides for stage in stages]}")
        if not 0 <= sample_dropout < 1:
            raise ValueError(f"the share of items with a prefix lies in [0, 1), got {sample_dropout}")
        self.stages = nn.ModuleList(stages)
        self.dim, self.estimator, self.sample_dropout = stages[0].dim, estimator, sample_dropout
        self.codebook_sizes = tuple(stage.codebook_sizes[0] for stage in stages)

    @property
    def ready(self) -> bool:
        """Whether all stages are."""
        return all(stage.ready for stage in self._first(None))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` stages; codes an item does without are -1."""
        latents = float32(latents)
        learns, used = self.training and update, self._first(codebooks)
        depths = self._depths(len(latents), len(used), learns)
        residual, total = latents, torch.zeros_like(latents)
        streams: list[Tensor] = []
        losses: list[dict[str, Tensor]] = []
        started = True
        for index, stage in enumerate(used if not learns else self._startable(used)):
            items = [item for item, depth in enumerate(depths) if depth > index]
            quantized = stage(residual if len(items) == len(depths) else residual[items], update=update)
            losses.append(quantized.losses)
            started = not learns or stage.ready
            value, stream = quantized.latents, quantized.streams[0]
            if len(items) < len(depths):
                where = torch.tensor(items, device=latents.device)
                value = torch.zeros_like(latents).index_copy(0, where, value)
                stream = torch.full(latents.shape[:-1], -1, device=latents.device).index_copy(0, where, stream)
            streams.append(stream)
            residual, total = residual - value.detach(), total + value
        absent = [torch.full(latents.shape[:-1], -1, device=latents.device)] * (len(used) - len(streams))
        means = mean_losses(losses)
        if learns and means:
            name = next(iter(means))
            means[name] = means[name] + touch(self)
        if absent or not started:
            total = latents
        elif self.estimator != "stages":
            total = estimate(self.estimator, latents, total)
        return Quantized(total, (*streams, *absent), means)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]`` per stage in use."""
        residual = float32(latents)
        streams: list[Tensor] = []
        for stage in self._first(codebooks):
            streams += stage.encode(residual)
            residual = residual - stage.decode(streams[-1:])
        return tuple(streams)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Sum of the values of the first ``len(streams)`` stages."""
        values = [stage.decode([stream]) for stage, stream in zip(self._first(len(streams)), streams, strict=True)]
        return sum(values[1:], start=values[0])

    def _first(self, codebooks: int | None) -> list[Any]:
        """The first stages."""
        return list(self.stages)[: self.in_use(codebooks)]

    def _startable(self, stages: list[Any]) -> list[Any]:
        """Stages up to the first that has yet to start: those behind it wait for what it will leave."""
        waiting = [index for index, stage in enumerate(stages) if not stage.ready]
        return stages[: waiting[0] + 1] if waiting else stages

    def _depths(self, items: int, codebooks: int, learns: bool) -> list[int]:
        """Codebooks of every item of a batch."""
        depths = torch.full((items,), codebooks)
        if learns and (shortened := int(items * self.sample_dropout)):
            depths[torch.randperm(items)[:shortened]] = torch.randint(1, codebooks + 1, (shortened,))
        return depths.tolist()
