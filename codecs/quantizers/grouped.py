"""Product quantization: the dimensions in groups, each with a quantizer of its own (Jégou et al., 2011)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Quantized, Quantizer, float32, mean_losses, touch


class Grouped(Quantizer):
    """Quantizers of consecutive dimensions: K codes in each of G groups say K^G things at the cost of G K.

    A prefix of the codebooks decodes to the first dimensions, with zeros in the others. Losses are means over the
    groups in use.

    Source: Jégou, Douze and Schmid, "Product quantization for nearest neighbor search", PAMI 2011.

    Args:
        parts: One-codebook quantizers; their widths add up to that of the latents.

    Raises:
        ValueError: Without parts, or if one has several codebooks.
    """

    def __init__(self, parts: Sequence[Quantizer]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a product has at least one part, got none")
        if any(part.strides != (1,) for part in parts):
            raise ValueError(f"a part has one codebook, got strides {[part.strides for part in parts]}")
        self.parts = nn.ModuleList(parts)
        self.widths = [part.dim for part in parts]
        self.dim = sum(self.widths)
        self.codebook_sizes = tuple(part.codebook_sizes[0] for part in parts)

    @property
    def ready(self) -> bool:
        """Whether all parts are."""
        return all(part.ready for part in self._first(None))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` groups."""
        latents, used = float32(latents), self._first(codebooks)
        groups = latents.split(self.widths, dim=-1)
        quantized = [part(group, update=update) for part, group in zip(used, groups, strict=False)]
        losses = mean_losses([each.losses for each in quantized])
        if self.training and update and losses:
            name = next(iter(losses))
            losses[name] = losses[name] + touch(self)
        values = self._fill(torch.cat([each.latents for each in quantized], dim=-1))
        return Quantized(values, tuple(each.streams[0] for each in quantized), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]`` per group in use."""
        groups = latents.split(self.widths, dim=-1)
        return tuple(part.encode(group)[0] for part, group in zip(self._first(codebooks), groups, strict=False))

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Values of the groups side by side; zeros in groups that were not sent."""
        used = self._first(len(streams))
        return self._fill(torch.cat([part.decode([code]) for part, code in zip(used, streams, strict=True)], dim=-1))

    def _fill(self, values: Tensor) -> Tensor:
        return F.pad(values, (0, self.dim - values.shape[-1]))

    def _first(self, codebooks: int | None) -> list[Any]:
        """The first groups."""
        return list(self.parts)[: self.in_use(codebooks)]
