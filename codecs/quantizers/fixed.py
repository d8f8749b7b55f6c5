"""A codebook that is given and never learns: semantic priors, lattices, centres of another model's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import Estimator, commitment, estimate
from .search import lookup, nearest


class FixedCodebook(Quantizer):
    """One codebook of K given points; loss "commitment".

    `Projected` around it learns the way from latents to points and back (the semantic prior of ALMTokenizer, arXiv
    2504.10344). The minimal vectors of the Leech lattice make a spherical code of 17.6 bits (arXiv 2512.14697).

    Args:
        codebook_size: Points K.
        dim: Width D.
        points: The points ``[K, D]``; None when they come later, with the weights of a model.
        estimator: How the gradient of the value becomes that of the latent.

    Raises:
        ValueError: If the points have another shape.
    """

    codebook: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        points: Tensor | None = None,
        estimator: Estimator = "straight_through",
    ) -> None:
        super().__init__()
        self.dim, self.codebook_sizes, self.estimator = dim, (codebook_size,), estimator
        points = torch.randn(codebook_size, dim) if points is None else points
        if points.shape != (codebook_size, dim):
            raise ValueError(f"points have shape [{codebook_size}, {dim}], got {list(points.shape)}")
        self.register_buffer("codebook", points.detach().float().clone())

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training."""
        with no_autocast(latents):
            latents = float32(latents)
            codes = nearest(latents, self.codebook)
            values = F.embedding(codes, self.codebook)
            losses = {"commitment": commitment(latents, values)}
            return Quantized(estimate(self.estimator, latents, values), (codes,), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        return (nearest(float32(latents), self.codebook),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Points; zeros where a code is -1."""
        return lookup(self.codebook, streams[0])
