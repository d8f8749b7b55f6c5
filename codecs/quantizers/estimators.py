"""How a gradient passes a quantizer, and how far latents and codes lie apart."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def straight_through(latents: Float[Tensor, "*shape"], values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values, bit for bit, with the gradient of the latents (Bengio et al., 2013, arXiv 1308.3432)."""
    return values.detach() + (latents - latents.detach())


def commitment(latents: Float[Tensor, "*shape"], values: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean square distance that draws the latents to their codes (van den Oord et al., 2017, arXiv 1711.00937)."""
    return F.mse_loss(latents, values.detach())
