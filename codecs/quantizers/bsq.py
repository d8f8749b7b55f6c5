"""Binary spherical quantization: the signs of latents on the unit sphere (Zhao et al., 2024, arXiv 2406.07548)."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from .binary import Binary

SHORTEST = 1e-6  # a shorter latent is divided by this, so that zero has a gradient and none exceeds its millionfold


class BSQ(Binary):
    """One codebook of ``2^bits`` codes of length 1, ``sign(u) / sqrt(bits)`` of the unit vector ``u = z / |z|``.

    A unit vector lies within ``|u - code|^2 <= 2 - 2 / sqrt(bits)`` of its code. The gradient passes straight through
    to u, and then the Jacobian of u: ``(I - u u^T) / |z|``. See `Binary` for the index and the losses; "commitment"
    is between u and its code, and the paper does without it.

    Args:
        bits: Bits of a code, 1 to 62, which are the dimensions D.
        temperature: Of the assignment in the entropy loss, the paper's ``1 / tau``, 1 in its code: bit d has
            the logit ``4 u_d / (temperature sqrt(bits))``.
        group: Bits of which the entropy sees the joint use, 1 to 12, a divisor of ``bits``.
    """

    def __init__(self, bits: int, temperature: float = 1.0, group: int = 1) -> None:
        super().__init__(bits, scale=1 / math.sqrt(max(1, bits)), temperature=temperature, group=group)

    def _place(self, latents: Tensor) -> Tensor:
        return F.normalize(latents, dim=-1, eps=SHORTEST)
