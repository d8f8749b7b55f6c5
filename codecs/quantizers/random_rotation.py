"""Random rotations that give every vector coordinates of one known density, and the same ones everywhere.

The matrices come from raw integers of the Philox generator (Salmon et al., 2011), which no version of a library may
change, and lie on a fixed-point grid.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

GRID = 2.0**28  # of unit vectors
MATRIX_GRID = 2.0**24  # of matrices; float32 holds it exactly


class Haar(nn.Module):
    """A rotation uniform over all orthogonal matrices: Q of a Gaussian's QR, with the signs of R's diagonal.

    (Mezzadri, 2007, arXiv math-ph/0609050.)
    """

    matrix: Tensor

    def __init__(self, dim: int, random: np.random.Philox) -> None:
        super().__init__()
        self.coordinates = dim
        basis, triangle = np.linalg.qr(gaussian(random, dim))
        matrix = fixed_point(basis * np.sign(np.diag(triangle)))
        self.register_buffer("matrix", torch.tensor(matrix, dtype=torch.float32), persistent=False)

    def forward(self, directions: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Rotated unit vectors, exactly those of their fixed-point values."""
        return product(unit_grid(directions), self.matrix.t())

    def inverse(self, rotated: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """Vectors rotated back."""
        return product(rotated, self.matrix)


class Hadamard(nn.Module):
    """Rounds of random signs and a Walsh-Hadamard transform, on vectors padded with zeros to P = 2^m."""

    signs: Tensor

    def __init__(self, dim: int, random: np.random.Philox, rounds: int = 3) -> None:
        super().__init__()
        self.dim = dim
        self.coordinates = 2 ** (dim - 1).bit_length()
        bits = random.random_raw((rounds, self.coordinates)) >> np.uint64(63)
        signs = torch.tensor(1 - 2 * bits.astype(np.float64), dtype=torch.float32)
        self.register_buffer("signs", signs, persistent=False)
        self.norm = self.coordinates ** (-rounds / 2)

    def forward(self, directions: Float[Tensor, "B N D"]) -> Float[Tensor, "B N P"]:
        """Rotated vectors."""
        values = F.pad(directions, (0, self.coordinates - self.dim))
        for signs in self.signs:
            values = _walsh_hadamard(values * signs)
        return values * self.norm

    def inverse(self, rotated: Float[Tensor, "B N P"]) -> Float[Tensor, "B N D"]:
        """Vectors rotated back, without the padding."""
        for signs in self.signs.flip(0):
            rotated = _walsh_hadamard(rotated) * signs
        return rotated[..., : self.dim] * self.norm


def _walsh_hadamard(values: Float[Tensor, "B N P"]) -> Float[Tensor, "B N P"]:
    """Unnormalised; each pass transforms the highest bit of the position and makes it the lowest."""
    half = values.shape[-1] // 2
    for _ in range(half.bit_length()):
        high, low = values[..., :half], values[..., half:]
        values = torch.stack((high + low, high - low), -1).flatten(-2)
    return values


def unit_grid(directions: Tensor) -> Tensor:
    """Vectors no longer than one, in fixed point."""
    return (directions * GRID).round() / GRID


def product(vectors: Tensor, matrix: Tensor) -> Tensor:
    """``vectors @ matrix`` summed in float64, whatever the device does to float32 products.

    Exact before the last rounding if vectors of `unit_grid` meet a matrix of `fixed_point` whose columns are about as
    long as one: every partial sum is a multiple of 2^-52 below 2.
    """
    return (vectors.double() @ matrix.double()).to(vectors.dtype)


def fixed_point(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix with entries on the grid of 2^-24."""
    return np.round(matrix * MATRIX_GRID) / MATRIX_GRID


def gaussian(random: np.random.Philox, dim: int) -> NDArray[np.float64]:
    """Normal noise ``[dim, dim]`` from raw integers (Box and Muller, 1958): numpy's own may change between versions."""
    radius, angle = ((random.random_raw((2, dim, dim)) >> np.uint64(11)) + 0.5) / 2**53
    return np.sqrt(-2 * np.log(radius)) * np.cos(2 * math.pi * angle)
