"""Vector quantization with a codebook learned by gradient (van den Oord et al., 2017, arXiv 1711.00937)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from .codebook import Codebook
from .estimators import Estimator, commitment, estimate
from .lifecycle import Lifecycle

Metric = Literal["euclidean", "cosine", "sphere"]


class VQ(Codebook):
    """One codebook of K codes; losses "codebook" (draws codes to latents) and "commitment" (latents to codes).

    The papers weigh them 1 and 0.25. Some released code has the two exchanged: here the names decide.

    Args:
        codebook_size: Codes K.
        dim: Width D; a `Projected` around it serves wider latents.
        metric: "euclidean"; "cosine": the code of nearest direction, as it is (DAC, arXiv 2306.06546); "sphere":
            latents and codes are both brought to length one (LlamaGen, arXiv 2406.06525; TiTok, arXiv 2406.07550).
        estimator: How the gradient of the value becomes that of the latent.
        lifecycle: Policies.
    """

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        metric: Metric = "euclidean",
        estimator: Estimator = "straight_through",
        lifecycle: Lifecycle = Lifecycle(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(codebook_size, dim, lifecycle)
        self.metric, self.estimator = metric, estimator
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))

    def keys(self) -> tuple[Tensor, Tensor | None]:
        """Codes, or their directions."""
        return (self.codebook if self.metric == "euclidean" else F.normalize(self.codebook, dim=-1)), None

    def values(self) -> Float[Tensor, "K D"]:
        """Codes, on the sphere if that is the metric."""
        return F.normalize(self.codebook, dim=-1) if self.metric == "sphere" else self.codebook

    def quantize(self, latents: Float[Tensor, "B N D"], codes: Int[Tensor, "B N"]) -> tuple[Tensor, dict[str, Tensor]]:
        """Values and both losses."""
        if self.metric == "sphere":
            latents = F.normalize(latents, dim=-1)
        values = F.embedding(codes, self.values())
        losses = {"commitment": commitment(latents, values), "codebook": F.mse_loss(values, latents.detach())}
        return estimate(self.estimator, latents, values), losses

    def loss_names(self) -> tuple[str, ...]:
        """Of `quantize`."""
        return ("commitment", "codebook")
