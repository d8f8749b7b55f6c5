"""Additive quantization: a sum of codes, chosen together (Babenko and Lempitsky, CVPR 2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32, touch
from .estimators import Estimator, commitment, estimate
from .search import lookup
from .vq import VQ

HELD = 2**20  # scores held at once


class Additive(Quantizer):
    """Q codebooks of the full width whose codes add up; a beam search keeps the best partial sums at every codebook.

    A beam of 1 is greedy residual quantization. A wider one finds sums nearer to the latent, and so the codes of a
    prefix of the codebooks are no prefix of the codes of all: a coarser rate is encoded for itself. Codebooks learn by
    gradient, from the error of the whole sum; losses "codebook" and "commitment".

    Args:
        stages: Euclidean codebooks of one width, with their policies.
        beam: Partial sums kept, at least 1.
        estimator: How the gradient of the sum becomes that of the latent.

    Raises:
        ValueError: If the stages differ in width or have another metric, or the beam is empty.
    """

    def __init__(self, stages: Sequence[VQ], beam: int = 4, estimator: Estimator = "straight_through") -> None:
        super().__init__()
        if not stages or len({stage.dim for stage in stages}) != 1:
            raise ValueError(f"stages must share one width, got {[stage.dim for stage in stages]}")
        if any(stage.metric != "euclidean" for stage in stages):
            raise ValueError(f"sums are of Euclidean codebooks, got metrics {[stage.metric for stage in stages]}")
        if beam < 1:
            raise ValueError(f"a beam keeps at least 1 sum, got {beam}")
        self.stages = nn.ModuleList(stages)
        self.dim, self.beam, self.estimator = stages[0].dim, beam, estimator
        self.codebook_sizes = tuple(stage.codebook_sizes[0] for stage in stages)

    @property
    def ready(self) -> bool:
        """Whether all stages are."""
        return all(stage.ready for stage in self._first(None))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` stages."""
        with no_autocast(latents):
            latents, used = float32(latents), self._first(codebooks)
            learns = self.training and update
            if learns and not self._prepare(latents.detach().flatten(0, 1), used):
                zero = latents.new_zeros(()) + touch(self)
                absent = torch.full(latents.shape[:-1], -1, device=latents.device)
                return Quantized(latents, (absent,) * len(used), {"commitment": zero, "codebook": zero})
            streams = self.encode(latents.detach(), codebooks)
            chosen = [F.embedding(code, stage.codebook) for code, stage in zip(streams, used, strict=True)]
            values = sum(chosen[1:], start=chosen[0])
            if learns:
                for stage, code in zip(used, streams, strict=True):
                    stage.conclude(latents.detach().flatten(0, 1), code.flatten())
            losses = {"commitment": commitment(latents, values), "codebook": F.mse_loss(values, latents.detach())}
            if learns:
                losses["codebook"] = losses["codebook"] + touch(self)
            return Quantized(estimate(self.estimator, latents, values), streams, losses)

    @torch.no_grad()
    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]`` per stage in use."""
        with no_autocast(latents):
            latents = float32(latents)
            tables = [stage.codebook.detach() for stage in self._first(codebooks)]
            rows = max(1, HELD // (self.beam * max(map(len, tables))))
            flat = latents.flatten(0, 1)
            parts = (flat,) if torch.compiler.is_exporting() else flat.split(rows)
            codes = torch.cat([self._search(part, tables) for part in parts])
            return tuple(codes.unflatten(0, latents.shape[:-1]).unbind(-1))

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Sum of the codes; a code of -1 adds nothing."""
        used = self._first(len(streams))
        values = [lookup(stage.codebook, stream) for stage, stream in zip(used, streams, strict=True)]
        return sum(values[1:], start=values[0])

    def _search(self, latents: Float[Tensor, "M D"], tables: Sequence[Tensor]) -> Int[Tensor, "M Q"]:
        """The codes of the best sum that the beam finds."""
        residual = latents[:, None]  # of each kept sum: [M, beam, D]
        codes: list[Tensor] = []  # of each codebook so far: [M, beam]
        for table in tables:
            scores = residual @ table.t() + table.square().sum(-1) / -2
            errors = residual.square().sum(-1, keepdim=True) - 2 * scores  # of every sum by every code
            keep = min(self.beam, errors.shape[1] * errors.shape[2])
            best = errors.flatten(1).topk(keep, largest=False).indices
            before, code = best // len(table), best % len(table)
            codes = [*(earlier.gather(1, before) for earlier in codes), code]
            kept = residual.gather(1, before[..., None].expand(-1, -1, residual.shape[-1]))
            residual = kept - F.embedding(code, table)
        final = residual.square().sum(-1).argmin(-1, keepdim=True)
        return torch.cat([code.gather(1, final) for code in codes], dim=-1)

    def _prepare(self, latents: Float[Tensor, "M D"], stages: list[Any]) -> bool:
        """Start or renew the stages in turn, each on what those before it leave; whether all can quantize."""
        for stage in stages:
            if not stage.prepare(latents):
                return False
            latents = latents - stage.values().detach()[stage.search(latents)]
        return True

    def _first(self, codebooks: int | None) -> list[Any]:
        """The first stages."""
        return list(self.stages)[: self.in_use(codebooks)]
