"""Spectra of frames and back by half-size matrix products: around the middle of a frame cosines are even, sines odd."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def half_basis(basis: Float[Tensor, "F size"]) -> Float[Tensor, "2 bins half"]:
    """Cosines and sines of a Fourier basis with an even window, up to the middle of a frame."""
    cosine, sine = basis.chunk(2)
    return torch.stack((cosine, sine))[..., : basis.shape[1] // 2 + 1].contiguous()


def half_spectrum(frames: Float[Tensor, "*N size"], basis: Float[Tensor, "2 half bins"]) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts ``[*N, size // 2 + 1]`` of windowed frames, from their even and odd halves."""
    size = frames.shape[-1]
    half, mirrored = size // 2 + 1, (size - 1) // 2
    head = frames[..., :half]
    tail = F.pad(frames[..., half:].flip(-1), (1, half - 1 - mirrored))
    return (head + tail) @ basis[0], (head - tail) @ basis[1]


def mirrored_waves(
    real: Float[Tensor, "*N bins"], imaginary: Float[Tensor, "*N bins"], basis: Float[Tensor, "2 bins half"], size: int
) -> Float[Tensor, "*N size"]:
    """Windowed frames of spectra, by the basis of the inverse transform."""
    even, odd = real @ basis[0], imaginary @ basis[1]
    return torch.cat((even + odd, (even - odd)[..., 1 : (size + 1) // 2].flip(-1)), dim=-1)
