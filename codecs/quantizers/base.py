"""The contract of a quantizer: latents in, codes and latents out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What a quantizer gives to training.

    ``latents`` ``[B, N, D]`` carry the value of the codes and a gradient for the encoder; ``streams`` is one int64
    tensor ``[B, N_q]`` per codebook in use; ``losses`` are unweighted scalars by name.
    """

    latents: Tensor
    streams: tuple[Tensor, ...]
    losses: dict[str, Tensor]


class Quantizer(nn.Module, ABC):
    """Abstract base; members are final.

    Laws, tested over all members: ``decode(encode(z))`` equals ``forward(z).latents`` in eval mode; encode and
    decode change no state; arithmetic is float32 also under autocast; ties go to the lowest index; codes of one
    position do not depend on others; ``-1`` contributes zero.
    """

    codebook_sizes: tuple[int, ...]
    dim: int

    @property
    def strides(self) -> tuple[int | Fraction, ...]:
        """Positions per token of each codebook."""
        return (1,) * len(self.codebook_sizes)

    @property
    def ready(self) -> bool:
        """False while a codebook collects latents to start from, which go by unquantized, with codes of -1."""
        return True

    def in_use(self, codebooks: int | None) -> int:
        """How many codebooks a call uses, None meaning all.

        Raises:
            ValueError: If there are not so many.
        """
        most = len(self.codebook_sizes)
        count = most if codebooks is None else codebooks
        if not 1 <= count <= most:
            raise ValueError(f"there are 1 to {most} codebooks, got {codebooks}")
        return count

    @abstractmethod
    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training.

        Args:
            latents: Vectors to quantize.
            codebooks: How many codebooks to use, None for all.
            update: Whether codebook statistics may learn from this pass; only ever in training mode.
        """

    @abstractmethod
    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One int64 stream ``[B, N_q]`` per codebook."""

    @abstractmethod
    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Latents of the streams, of the first ``len(streams)`` codebooks; ``-1`` contributes zero."""


def float32(latents: Tensor) -> Tensor:
    """Latents in float32 (float64 stays): half precision flips codes."""
    return latents if latents.dtype == torch.float64 else latents.float()


def touch(module: nn.Module) -> Tensor | float:
    """Zero, with a gradient of zero for all parameters: data-parallel training finds each in use at every step."""
    return sum((weight.sum() * 0 for weight in module.parameters() if weight.requires_grad), start=0.0)


def mean_losses(losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Losses of several parts by name, each the mean over the parts that have it."""
    names = dict.fromkeys(name for each in losses for name in each)
    return {name: torch.stack([each[name] for each in losses if name in each]).mean() for name in names}
