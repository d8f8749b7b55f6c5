"""Scalar quantization for entropy coding: each dimension a whole number, by additive noise in training.

Uniform noise in place of rounding is from Balle et al., 2017, arXiv 1611.01704; the compander is WaLLoC's (Jacobellis
and Yadwadkar, 2024, arXiv 2412.09405).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import straight_through

DEVIATIONS = 1.85  # standard deviations of the compander's normal law within the largest whole number
MARGIN = 1e-3  # how far the compander stays from half a step beyond the largest whole number
TAIL = 1e-4  # probability at which its inverse is cut off


class Scalar(Quantizer):
    """One codebook of ``2^bits - 1`` codes per dimension: the whole numbers from -M to M, ``M = 2^(bits - 1) - 1``.

    The code is the whole number plus M; a tie goes to the lower one. Fewer codebooks than dimensions send the first
    dimensions, the others are zero.

    With ``compand`` a latent is compressed to ``2 m Phi(z / s) - m``, Phi the normal distribution function,
    ``s = M / 1.85`` and ``m = M + 1/2 - 1e-3``, before it is rounded, and values are expanded by the inverse: steps are
    even for the probabilities of latents of deviation s, and no latent is out of range. Without, a latent is clamped
    to [-M, M].

    In training with ``update`` the compressed latents get independent noise, uniform in (-1/2, 1/2), in place of
    rounding, and the gradient is the derivative of what is computed: nearly the identity. Otherwise values are those
    of the codes, with the identity as gradient, as always without ``noise``. Either way it is zero where the range cuts
    off: beyond [-M, M], or with ``compand`` where the normal law leaves 1e-4 at either end. Codes are rounded always.
    There are no losses: the rate is that of an entropy model of the codes.

    Args:
        dim: Dimensions D, which are the codebooks Q.
        bits: Of a whole number and its sign: 2 to 16, with ``compand`` 2 to 12, as the cut would merge the outermost
            of more.
        compand: Whether latents are compressed.
        noise: Whether noise stands for rounding in training; the density of a rate-distortion codec has its own.

    Raises:
        ValueError: If an argument is out of range.
    """

    table: Tensor

    def __init__(self, dim: int, bits: int, compand: bool = True, noise: bool = True) -> None:
        super().__init__()
        most = 12 if compand else 16
        if dim < 1 or not 2 <= bits <= most:
            raise ValueError(
                f"Scalar has at least 1 dimension and 2 to {most} bits {'with' if compand else 'without'} compand, "
                f"got {dim} and {bits}"
            )
        self.dim, self.codebook_sizes, self.compand = dim, (2**bits - 1,) * dim, compand
        self.noise = noise
        self.largest = 2 ** (bits - 1) - 1
        self.bound = self.largest + 0.5 - MARGIN
        self.width = self.largest / DEVIATIONS * math.sqrt(2)  # Phi(z / s) = (1 + erf(z / width)) / 2
        whole = torch.arange(-self.largest, self.largest + 1, dtype=torch.float64)
        self.register_buffer("table", self._expand(whole).float(), persistent=False)

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` dimensions; there are no losses."""
        with no_autocast(latents):
            compressed = self._compress(latents, codebooks)
            codes = self._codes(compressed)
            if self.training and update and self.noise:
                values = self._expand(compressed + (torch.rand_like(compressed) - 0.5))
            else:
                values = straight_through(self._expand(compressed), self.table[codes])
            return Quantized(self._padded(values), codes.unbind(-1), {})

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]`` per dimension in use."""
        with no_autocast(latents):
            return self._codes(self._compress(latents, codebooks)).unbind(-1)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Values of the codes of the first ``len(streams)`` dimensions, zero in the others and where a code is -1."""
        codes = torch.stack(tuple(streams[: self.in_use(len(streams))]), dim=-1)
        return self._padded(self.table[codes.clamp_min(0)] * (codes >= 0))

    def _compress(self, latents: Tensor, codebooks: int | None) -> Tensor:
        """The first dimensions in the range of the whole numbers, not yet rounded."""
        sent = float32(latents)[..., : self.in_use(codebooks)]
        if not self.compand:
            return sent.clamp(-self.largest, self.largest)
        return torch.erf(sent / self.width) * self.bound

    def _expand(self, compressed: Tensor) -> Tensor:
        """Inverse of the compander; without one, nothing."""
        if not self.compand:
            return compressed
        return torch.erfinv((compressed / self.bound).clamp(2 * TAIL - 1, 1 - 2 * TAIL)) * self.width

    def _codes(self, compressed: Tensor) -> Tensor:
        """Nearest whole numbers, counted from zero."""
        return (compressed.detach() - 0.5).ceil().long() + self.largest

    def _padded(self, values: Tensor) -> Tensor:
        return F.pad(values, (0, self.dim - values.shape[-1]))
