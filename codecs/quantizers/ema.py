"""Vector quantization whose codes are moving averages of their latents (van den Oord et al., 2017, appendix A.1)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from .codebook import Codebook
from .estimators import Estimator, commitment, estimate
from .lifecycle import Lifecycle
from .ranks import summed
from .search import lookup


class EMAVQ(Codebook):
    """One codebook of K codes; code k is the mean of its latents, their sum and count both decayed over training
    batches. Loss "commitment".

    Only code and count are stored, and the sum is their product: whatever sets a code sets its sum with it, so that a
    code that was replaced is not drawn back to its old mean.

    Args:
        codebook_size: Codes K.
        dim: Width D.
        metric: "euclidean", or "sphere": latents and codes are brought to length one.
        estimator: How the gradient of the value becomes that of the latent.
        lifecycle: Policies; ``decay`` is also that of the means.
    """

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        metric: Literal["euclidean", "sphere"] = "euclidean",
        estimator: Estimator = "straight_through",
        lifecycle: Lifecycle = Lifecycle(start="noise", revive=0.2),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(codebook_size, dim, lifecycle, counts=True)
        self.metric, self.estimator = metric, estimator
        self.register_buffer("codebook", torch.randn(codebook_size, dim))

    def keys(self) -> tuple[Tensor, Tensor | None]:
        """Codes."""
        return self.values(), None

    def values(self) -> Float[Tensor, "K D"]:
        """Codes, on the sphere if that is the metric."""
        return F.normalize(self.codebook, dim=-1) if self.metric == "sphere" else self.codebook

    def follow(self, latents: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Latents, on the sphere if that is the metric."""
        return F.normalize(latents, dim=-1) if self.metric == "sphere" else latents

    def quantize(self, latents: Float[Tensor, "B N D"], codes: Int[Tensor, "B N"]) -> tuple[Tensor, dict[str, Tensor]]:
        """Values and the commitment."""
        latents = self.follow(latents)
        values = lookup(self.values(), codes)
        return estimate(self.estimator, latents, values), {"commitment": commitment(latents, values)}

    def loss_names(self) -> tuple[str, ...]:
        """Of `quantize`."""
        return ("commitment",)

    def learn(self, latents: Float[Tensor, "M D"], codes: Int[Tensor, " M"]) -> None:
        """One step of the moving averages, over all ranks."""
        batch = torch.zeros(len(self.codebook), self.dim + 1, dtype=latents.dtype, device=latents.device)
        batch[:, :-1].index_add_(0, codes, self.follow(latents))
        batch[:, -1] = torch.bincount(codes, minlength=len(self.codebook))
        summed(batch)
        self.counts.lerp_(batch[:, -1].to(self.counts), 1 - self.lifecycle.decay)
        share = (1 - self.lifecycle.decay) / self.counts.clamp_min(1e-12)
        step = (batch[:, :-1] - batch[:, -1:] * self.codebook) * share[:, None]  # zero for a code without latents
        self.codebook += step
