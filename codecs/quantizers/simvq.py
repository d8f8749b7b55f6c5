"""SimVQ: codes that move together, as one linear map of a frozen table (Zhu et al., 2024, arXiv 2411.02038)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import Estimator, commitment, estimate
from .search import lookup, nearest


class SimVQ(Quantizer):
    """One codebook of K codes ``W c_k``, of which only W learns: no code is left behind.

    Losses "codebook" (moves W) and "commitment"; the paper weighs them 1 and 0.25. With features of a pretrained model
    as ``points`` it is the codebook of VQGAN-LC (Zhu et al., 2024, arXiv 2406.11837).

    Args:
        codebook_size: Codes K.
        dim: Width D of the latents.
        points: The frozen table ``[K, d]``; None for normal noise of width D. Its variance is 1, that of normalised
            latents, so that W need not grow first; the paper's is ``1 / D``.
        point_dim: Width d of the frozen table, when ``points`` come later, with the weights of a model.
        estimator: How the gradient of the value becomes that of the latent.

    Raises:
        ValueError: If the points are not ``codebook_size`` vectors of one width.
    """

    points: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        points: Tensor | None = None,
        point_dim: int | None = None,
        estimator: Estimator = "straight_through",
    ) -> None:
        super().__init__()
        self.dim, self.codebook_sizes, self.estimator = dim, (codebook_size,), estimator
        if points is None:
            points = torch.randn(codebook_size, point_dim or dim)
        if points.dim() != 2 or len(points) != codebook_size:
            raise ValueError(
                f"a table of {codebook_size} codes has shape [{codebook_size}, d], got {list(points.shape)}"
            )
        self.register_buffer("points", points.detach().float().clone())
        self.map = nn.Linear(points.shape[1], dim, bias=False)
        if points.shape[1] == dim:
            nn.init.eye_(self.map.weight)

    def values(self) -> Float[Tensor, "K D"]:
        """The codes."""
        return self.map(self.points)

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training."""
        with no_autocast(latents):
            latents = float32(latents)
            table = self.values()
            codes = nearest(latents, table)
            values = F.embedding(codes, table)
            losses = {"commitment": commitment(latents, values), "codebook": F.mse_loss(values, latents.detach())}
            return Quantized(estimate(self.estimator, latents, values), (codes,), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        with no_autocast(latents):
            return (nearest(float32(latents), self.values()),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Codes; zeros where a code is -1."""
        with no_autocast(self.points):
            return lookup(self.values(), streams[0])
