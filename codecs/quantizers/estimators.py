"""How a gradient passes a quantizer, and how far latents and codes lie apart."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Estimator = Literal["straight_through", "rotation"]


def straight_through(latents: Float[Tensor, "*shape"], values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values, bit for bit, with the gradient of the latents (Bengio et al., 2013, arXiv 1308.3432)."""
    return values.detach() + (latents - latents.detach())


def rotation(latents: Float[Tensor, "*batch D"], values: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """The values, bit for bit, with the gradient turned and scaled as the latents were to become them.

    ``R`` is the rotation in the plane of latent and value that takes one direction to the other, a product of two
    reflections, and ``|value| / |latent| R`` the Jacobian. Where either is zero, or they point apart and the plane is
    not defined, it is finite.

    Source: Fifty et al., "Restructuring Vector Quantization with the Rotation Trick", 2024, arXiv 2410.06424.
    """
    start, end = F.normalize(latents.detach(), dim=-1), F.normalize(values.detach(), dim=-1)
    between = F.normalize(start + end, dim=-1)
    scale = values.detach().norm(dim=-1, keepdim=True) / latents.detach().norm(dim=-1, keepdim=True).clamp_min(1e-6)
    turned = latents - 2 * _dot(latents, between) * between + 2 * _dot(latents, start) * end
    return straight_through(scale * turned, values)


def estimate(kind: Estimator, latents: Tensor, values: Tensor) -> Tensor:
    """The values with the gradient of an estimator."""
    return (rotation if kind == "rotation" else straight_through)(latents, values)


def commitment(latents: Float[Tensor, "*shape"], values: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean square distance that draws the latents to their codes (van den Oord et al., 2017, arXiv 1711.00937)."""
    return F.mse_loss(latents, values.detach())


def _dot(some: Tensor, others: Tensor) -> Tensor:
    return (some * others).sum(-1, keepdim=True)
