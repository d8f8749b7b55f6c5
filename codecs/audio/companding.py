"""Companding of coefficients: linear around zero, logarithmic above, so that loud and quiet sounds are both seen.

The curve is the inverse hyperbolic sine of the magnitude; the sign of a real number and the phase of a complex one stay
as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

KNEE = 1e-3  # magnitude where the logarithm begins; the root mean square of speech is near 0.05
UNIT = 2.0  # nepers that become 1: the companded values of speech have a root mean square near 1
LOUDEST = 11.0  # nepers where expansion stops, a magnitude of 30: no sound in [-1, 1] has more


class Companding(nn.Module):
    """Companded values of the coefficients of an orthonormal transform, and the coefficients of companded values.

    Args:
        parts: 1 for real coefficients, 2 for complex ones: all real parts, then all imaginary parts.
    """

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, coefficients: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
        """About unit scale for speech in [-1, 1]."""
        return self._bent(coefficients / KNEE, torch.asinh) / UNIT

    def inverse(self, values: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
        """Coefficients of magnitudes up to 30."""
        return self._bent(values * UNIT, lambda nepers: nepers.clamp_max(LOUDEST).sinh()) * KNEE

    def _bent(self, values: Tensor, curve: Callable[[Tensor], Tensor]) -> Tensor:
        """Numbers with the curve of their magnitude in its place."""
        numbers = values.unflatten(-1, (self.parts, values.shape[-1] // self.parts))
        magnitude = (numbers.square().sum(-2, keepdim=True) + 1e-8).sqrt()
        return (numbers * (curve(magnitude) / magnitude)).flatten(-2)
