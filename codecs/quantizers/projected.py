"""A quantizer in a space of another width, between two learned linear maps."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32


class Projected(Quantizer):
    """Any quantizer behind a map to its width and a map back: codes in few dimensions do not collapse.

    Source: Yu et al., "Vector-quantized image modeling with improved VQGAN", 2021, arXiv 2110.04627; in audio DAC
    (arXiv 2306.06546).

    Args:
        inner: The quantizer, of width d.
        dim: Width D of the latents.
    """

    def __init__(self, inner: Quantizer, dim: int) -> None:
        super().__init__()
        self.inner, self.dim, self.codebook_sizes = inner, dim, inner.codebook_sizes
        self.into = nn.Linear(dim, inner.dim)
        self.back = nn.Linear(inner.dim, dim, bias=False)  # without bias, so that absent codes give zeros

    @property
    def strides(self) -> tuple[int | Fraction, ...]:
        """Of the inner quantizer."""
        return self.inner.strides

    @property
    def ready(self) -> bool:
        """Whether the inner quantizer is."""
        return self.inner.ready

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training; losses are those of the inner space."""
        with no_autocast(latents):
            quantized = self.inner(self.into(float32(latents)), codebooks, update=update)
            return quantized._replace(latents=self.back(quantized.latents))

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """Streams of the inner quantizer."""
        with no_autocast(latents):
            return self.inner.encode(self.into(float32(latents)), codebooks)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Values brought back."""
        with no_autocast(self.back.weight):
            return self.back(self.inner.decode(streams))
