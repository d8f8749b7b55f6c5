"""Residual quantization: each stage quantizes what the stages before left over (SoundStream, arXiv 2107.03312)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .base import Quantized, Quantizer, float32
from .estimators import straight_through


class Residual(Quantizer):
    """Q quantizers of one width in a row; any prefix of the codes decodes to a coarser value.

    Stage q reads ``r_q = r_{q-1} - sg(value_{q-1})`` detached from the gradient of the stages before, so that each
    stage's commitment reaches the encoder once; the sum of the values passes the gradient straight through. Losses
    are means over the stages in use.

    Args:
        stages: Quantizers of one codebook each, of one width.
    """

    def __init__(self, stages: Sequence[Quantizer]) -> None:
        super().__init__()
        if not stages or len({stage.dim for stage in stages}) != 1:
            raise ValueError(f"stages must share one width, got {[stage.dim for stage in stages]}")
        self.stages = nn.ModuleList(stages)
        self.dim = stages[0].dim
        self.codebook_sizes = tuple(stage.codebook_sizes[0] for stage in stages)

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` stages."""
        latents = float32(latents)
        residual, total = latents, torch.zeros_like(latents)
        streams: list[Tensor] = []
        losses: list[dict[str, Tensor]] = []
        for stage in self._first(codebooks):
            quantized = stage(residual, update=update)
            value = quantized.latents.detach()
            residual, total = residual - value, total + value
            streams += quantized.streams
            losses.append(quantized.losses)
        means = {name: torch.stack([loss[name] for loss in losses]).mean() for name in losses[0]}
        return Quantized(straight_through(latents, total), tuple(streams), means)

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
        count = len(self.stages) if codebooks is None else codebooks
        if not 1 <= count <= len(self.stages):
            raise ValueError(f"there are 1 to {len(self.stages)} codebooks, got {codebooks}")
        return list(self.stages)[:count]
