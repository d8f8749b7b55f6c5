"""Product quantization: the dimensions in groups, each with a quantizer of its own (Jégou et al., 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Quantized, Quantizer, float32, mean_losses, touch


class Grouped(Quantizer):
    """Quantizers of consecutive dimensions: K codes in each of G groups say K^G things at the cost of G K.

    Codebooks stand group after group, and a prefix of them decodes to the first dimensions, with zeros in the others:
    quality by the number of groups. Losses are means over the groups in use.

    Source: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011.

    Args:
        parts: Quantizers of equally many codebooks at equal strides; their widths add up to that of the latents.

    Raises:
        ValueError: Without parts, or if their codebooks do not match.
    """

    def __init__(self, parts: Sequence[Quantizer]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a product has at least one part, got none")
        if len({part.strides for part in parts}) > 1:
            raise ValueError(f"parts have codebooks of equal strides, got {[part.strides for part in parts]}")
        self.parts = nn.ModuleList(parts)
        self.widths = [part.dim for part in parts]
        self.dim = sum(self.widths)
        self.codebook_sizes = tuple(size for part in parts for size in part.codebook_sizes)
        self.per_part = len(parts[0].codebook_sizes)

    @property
    def strides(self) -> tuple[int | Fraction, ...]:
        """Of one part, as often as there are parts."""
        return self._first(None)[0][0].strides * len(self.parts)

    @property
    def ready(self) -> bool:
        """Whether all parts are."""
        return all(part.ready for part, _ in self._first(None))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` codebooks."""
        latents, used = float32(latents), self._first(codebooks)
        groups = latents.split(self.widths, dim=-1)
        quantized = [part(group, books, update=update) for (part, books), group in zip(used, groups, strict=False)]
        losses = mean_losses([each.losses for each in quantized])
        if self.training and update and losses:
            name = next(iter(losses))
            losses[name] = losses[name] + touch(self)
        values = self._fill(torch.cat([each.latents for each in quantized], dim=-1))
        return Quantized(values, tuple(stream for each in quantized for stream in each.streams), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """The streams of the groups in use."""
        pairs = zip(self._first(codebooks), latents.split(self.widths, dim=-1), strict=False)
        return tuple(stream for (part, books), group in pairs for stream in part.encode(group, books))

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Values of the groups side by side; zeros in groups that were not sent."""
        values, start = [], 0
        for part, books in self._first(len(streams)):
            values.append(part.decode(streams[start : start + books]))
            start += books
        return self._fill(torch.cat(values, dim=-1))

    def _fill(self, values: Tensor) -> Tensor:
        return F.pad(values, (0, self.dim - values.shape[-1]))

    def _first(self, codebooks: int | None) -> list[tuple[Any, int]]:
        """The first groups, each with how many of its codebooks are in use."""
        count = self.in_use(codebooks)
        books = [min(self.per_part, count - start) for start in range(0, count, self.per_part)]
        return list(zip(self.parts, books, strict=False))
