"""Vector quantization whose codes are moving averages of their latents (van den Oord et al., 2017, appendix A.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributed as dist

from .base import Quantized, Quantizer, float32
from .estimators import commitment, straight_through
from .search import lookup, nearest


class EMAVQ(Quantizer):
    """One codebook of K codes; code k is the mean of its latents, their sum and count both decayed over training
    batches.

    The codebook starts as normal noise with mean and deviation of its first batch (copies of a batch smaller than the
    codebook would leave the next residual stage nothing to learn from), and a code that falls below ``revive`` of the
    mean usage is replaced by a vector of the current batch, at the mean count (a code replaced alone would be
    overwritten by its old average). Counts and sums are added up over ranks in every step before they are used. Loss
    "commitment".

    Args:
        codebook_size: Codes K.
        dim: Width D.
        decay: Weight of the past in each step.
        revive: Fraction of the mean usage below which a code is replaced; 0 never replaces.
        seed: Of the starting noise; residual stages want different ones.
    """

    codebook: Tensor
    counts: Tensor
    updates: Tensor

    def __init__(self, codebook_size: int, dim: int, decay: float = 0.99, revive: float = 0.2, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay lies in [0, 1), got {decay}")
        self.dim, self.codebook_sizes = dim, (codebook_size,)
        self.decay, self.revive, self.seed = decay, revive, seed
        self.register_buffer("codebook", torch.randn(codebook_size, dim))
        self.register_buffer("counts", torch.zeros(codebook_size))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training; the codebook moves after the codes are chosen, in training mode with ``update``."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = float32(latents)
            if self.training and update and not self.updates:
                self._start(latents.detach().flatten(0, 1))
            codes = nearest(latents.detach(), self.codebook)
            values = lookup(self.codebook, codes)
            if self.training and update:
                self._learn(latents.detach().flatten(0, 1), codes.flatten())
            return Quantized(straight_through(latents, values), (codes,), {"commitment": commitment(latents, values)})

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        return (nearest(float32(latents), self.codebook),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Code vectors; zeros where a code is -1."""
        return lookup(self.codebook, streams[0])

    @torch.no_grad()
    def _start(self, vectors: Float[Tensor, "M D"]) -> None:
        """Noise like the first batch, over all ranks, at equal counts."""
        moments = torch.stack((torch.ones_like(vectors), vectors, vectors.square())).sum(1)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(moments)
        count, mean, square = moments[0], moments[1] / moments[0], moments[2] / moments[0]
        noise = torch.randn(self.codebook.shape, generator=torch.Generator().manual_seed(self.seed)).to(mean)
        self.codebook.copy_(mean + noise * (square - mean.square()).clamp_min(1e-12).sqrt())
        self.counts.fill_(float(count[0]) / len(self.counts))

    @torch.no_grad()
    def _learn(self, vectors: Float[Tensor, "M D"], codes: Int[Tensor, " M"]) -> None:
        """One step of the moving averages, then the dead codes."""
        batch = torch.zeros(len(self.codebook), self.dim + 1, dtype=vectors.dtype, device=vectors.device)
        batch[:, :-1].index_add_(0, codes, vectors)
        batch[:, -1] = torch.bincount(codes, minlength=len(self.codebook))
        candidates = _sample(vectors, len(self.codebook), int(self.updates))
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(batch)
            candidates = _share(candidates)
        counts = self.counts.lerp(batch[:, -1], 1 - self.decay)
        share = (1 - self.decay) / counts.clamp_min(1e-12)  # written as a step, so that a code without latents stays
        means = self.codebook + (batch[:, :-1] - batch[:, -1:] * self.codebook) * share[:, None]
        mean = counts.mean()
        dead = counts < self.revive * mean
        self.codebook.copy_(torch.where(dead[:, None], candidates, means))
        self.counts.copy_(torch.where(dead, mean, counts))
        self.updates += 1


def _sample(vectors: Float[Tensor, "M D"], count: int, seed: int) -> Float[Tensor, "K D"]:
    """``count`` vectors of the batch, repeated when it holds fewer; equal for equal seeds."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(max(count, len(vectors)), generator=generator)[:count] % len(vectors)
    return vectors[rows.to(vectors.device)]


def _share(candidates: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
    """Candidates taken in turn from all ranks, equal on every rank."""
    gathered = [torch.empty_like(candidates) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, candidates)
    rank = torch.arange(len(candidates), device=candidates.device) % len(gathered)
    return torch.stack(gathered)[rank, torch.arange(len(candidates), device=candidates.device)]
