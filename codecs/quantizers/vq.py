"""Vector quantization with a codebook learned by gradient (van den Oord et al., 2017, arXiv 1711.00937)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Quantized, Quantizer, float32
from .estimators import commitment, straight_through
from .search import lookup, nearest


class VQ(Quantizer):
    """One codebook of K codes; losses "codebook" (draws codes to latents) and "commitment" (latents to codes).

    Args:
        codebook_size: Codes K.
        dim: Width D.
    """

    def __init__(self, codebook_size: int, dim: int) -> None:
        super().__init__()
        self.dim, self.codebook_sizes = dim, (codebook_size,)
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = float32(latents)
            codes = nearest(latents.detach(), self.codebook.detach())
            values = F.embedding(codes, self.codebook)
            losses = {
                "commitment": commitment(latents, values),
                "codebook": F.mse_loss(values, latents.detach()),
            }
            return Quantized(straight_through(latents, values), (codes,), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        return (nearest(float32(latents), self.codebook),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Code vectors; zeros where a code is -1."""
        return lookup(self.codebook, streams[0])
