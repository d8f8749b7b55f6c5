"""Residual quantization at several rates: coarse stages speak once for many positions (SNAC, arXiv 2410.14411)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Quantized, Quantizer, float32, mean_losses, touch
from .estimators import straight_through


class MultiRate(Quantizer):
    """Q quantizers of one width in a row; stage q has one code for each group of ``strides[q]`` positions.

    Stage q quantizes the mean of each group of ``r_q``, and its value is subtracted at every position of the group:
    ``r_{q+1} = r_q - repeat(sg(value_q))``. The last group of a signal may be smaller and is averaged over what it
    has, so that N positions have ``ceil(N / strides[q])`` codes. All else is as in `Residual`, which this is at strides
    of 1: each stage's commitment reaches the encoder once, the sum of the values passes the gradient straight through,
    losses are means over the stages in use, and latents go by unquantized until the last stage has started.

    A code depends on its group and, through the residual, on the groups of earlier stages that share positions with
    it: where each stride divides the one before, on ``max(strides)`` positions.

    Args:
        stages: Quantizers of one codebook each, of one width.
        strides: Positions per code of each stage, any positive numbers; SNAC has 8, 4, 2, 1.

    Raises:
        ValueError: If a stage has several codebooks or another width, or strides are not one positive number a stage.
    """

    def __init__(self, stages: Sequence[Quantizer], strides: Sequence[int]) -> None:
        super().__init__()
        if not stages or len({stage.dim for stage in stages}) != 1:
            raise ValueError(f"stages must share one width, got {[stage.dim for stage in stages]}")
        if any(len(stage.codebook_sizes) != 1 for stage in stages):
            raise ValueError(f"a stage has one codebook, got {[len(stage.codebook_sizes) for stage in stages]}")
        whole = all(isinstance(stride, int) and not isinstance(stride, bool) for stride in strides)
        if not whole or len(strides) != len(stages) or min(strides) < 1:
            raise ValueError(f"strides are {len(stages)} whole numbers of at least 1, one a stage; got {list(strides)}")
        self.stages = nn.ModuleList(stages)
        self._strides = tuple(strides)
        self.dim = stages[0].dim
        self.codebook_sizes = tuple(stage.codebook_sizes[0] for stage in stages)

    @property
    def strides(self) -> tuple[int, ...]:
        """Positions per code of each stage."""
        return self._strides

    @property
    def ready(self) -> bool:
        """Whether all stages are."""
        return all(stage.ready for stage, _ in self._first(None))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` stages."""
        latents = float32(latents)
        learns, used = self.training and update, self._first(codebooks)
        waiting = [index for index, (stage, _) in enumerate(used) if learns and not stage.ready]
        active = used[: waiting[0] + 1] if waiting else used  # those behind it wait for what it will leave
        residual, total = latents, torch.zeros_like(latents)
        streams: list[Tensor] = []
        losses: list[dict[str, Tensor]] = []
        for stage, stride in active:
            quantized = stage(_average(residual, stride), update=update)
            value = _repeat(quantized.latents.detach(), stride, latents.shape[1])
            residual, total = residual - value, total + value
            streams += quantized.streams
            losses.append(quantized.losses)
        for _, stride in used[len(active) :]:
            streams.append(torch.full((len(latents), _groups(latents, stride)), -1, device=latents.device))
        means = mean_losses(losses)
        if learns and means:
            name = next(iter(means))
            means[name] = means[name] + touch(self)
        if waiting and not (len(active) == len(used) and active[-1][0].ready):
            return Quantized(latents, tuple(streams), means)
        return Quantized(straight_through(latents, total), tuple(streams), means)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, ceil(N / stride)]`` per stage in use."""
        residual = float32(latents)
        streams: list[Tensor] = []
        for stage, stride in self._first(codebooks):
            streams += stage.encode(_average(residual, stride))
            residual = residual - _repeat(stage.decode(streams[-1:]), stride, latents.shape[1])
        return tuple(streams)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Sum of the repeated values of the first ``len(streams)`` stages.

        Streams do not say where in its last group a signal ends: N is the smallest number of positions that one of
        them covers, ``min(len * stride)``. That is what was encoded or, if all strides in use are above 1, up to
        ``min(strides) - 1`` positions more, which are for the caller to cut.
        """
        pairs = list(zip(self._first(len(streams)), streams, strict=True))
        positions = reduce(torch.sym_min, (stream.shape[1] * stride for (_, stride), stream in pairs))
        values = [_repeat(stage.decode([stream]), stride, positions) for (stage, stride), stream in pairs]
        return sum(values[1:], start=values[0])

    def _first(self, codebooks: int | None) -> list[tuple[Any, int]]:
        """The first stages, each with its stride."""
        return list(zip(self.stages, self.strides, strict=True))[: self.in_use(codebooks)]


def _groups(values: Float[Tensor, "B N D"], stride: int) -> int:
    """How many groups of ``stride`` positions, the last perhaps smaller."""
    return (values.shape[1] + stride - 1) // stride


def _average(values: Float[Tensor, "B N D"], stride: int) -> Float[Tensor, "B G D"]:
    """Means over groups of ``stride`` positions, the last over those it has.

    A group is added up position after position, so that its sum is the same bit for bit in any batch.
    """
    positions, groups = values.shape[1], _groups(values, stride)
    padded = F.pad(values, (0, 0, 0, groups * stride - positions)).unflatten(1, (groups, stride))
    sizes = (positions - torch.arange(groups, device=values.device) * stride).clamp(max=stride)
    parts = padded.unbind(2)
    return sum(parts[1:], start=parts[0]) / sizes[:, None]


def _repeat(values: Float[Tensor, "B G D"], stride: int, positions: int) -> Float[Tensor, "B N D"]:
    """Each value at ``stride`` positions, the last at those that are left."""
    return values[:, torch.arange(positions, device=values.device) // stride]
