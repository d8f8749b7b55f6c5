"""One codebook at several granularities: a code for a block, for its quarters or for each position (Control-GIC,
ICLR 2025)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32


class Granular(Quantizer):
    """Latents of two parts: D values, which the codes of one codebook stand for, and a last channel that says in which
    steps, as the index of one of Q strides, from coarse to fine.

    A group of ``strides[0]`` positions whose first says 0 has one code, for the mean of its values; else each group of
    ``strides[1]`` in it whose first says 1 has one; and so on to the last, so that every position has one code, in one
    of Q streams, and is absent (-1) in the others. All streams are codes of the same table.

    A training pass shows the codebook each code that is sent once, whatever its area: losses are means over those.
    Decoded latents say the granularity again, from which stream speaks, and 0 where none does.

    Args:
        codebook: A quantizer of one codebook, of width D.
        strides: Positions per code of each granularity, each a multiple of the next, the last 1.

    Raises:
        ValueError: If there are several codebooks, or strides are not of that kind.
    """

    def __init__(self, codebook: Quantizer, strides: Sequence[int] = (16, 4, 1)) -> None:
        super().__init__()
        if len(codebook.codebook_sizes) != 1:
            raise ValueError(f"all granularities share one codebook, got {len(codebook.codebook_sizes)}")
        pairs = list(itertools.pairwise(strides))
        if not pairs or strides[-1] != 1 or any(fine < 1 or coarse <= fine or coarse % fine for coarse, fine in pairs):
            raise ValueError(f"strides fall to 1, each a multiple of the next, such as (16, 4, 1); got {list(strides)}")
        self.codebook, self.dim = codebook, codebook.dim + 1
        self.codebook_sizes = codebook.codebook_sizes * len(strides)
        self._strides = tuple(strides)

    @property
    def strides(self) -> tuple[int, ...]:
        """Positions per code of each granularity."""
        return self._strides

    @property
    def ready(self) -> bool:
        """Whether the codebook is."""
        return self.codebook.ready

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training; positions that the first ``codebooks`` granularities leave out are zeros."""
        with no_autocast(latents):
            means, speaks = self._split(float32(latents), codebooks)
            sent = torch.cat(speaks, dim=1)
            quantized = self.codebook(torch.cat(means, dim=1)[sent][None], update=update)
            values = latents.new_zeros(*sent.shape, self.dim - 1, dtype=quantized.latents.dtype)
            values = values.index_put((sent,), quantized.latents[0])
            codes = torch.full(sent.shape, -1, device=latents.device).masked_scatter(sent, quantized.streams[0][0])
            sizes = [mask.shape[1] for mask in speaks]
            joined = self._join(values.split(sizes, dim=1), speaks)
            return Quantized(joined, codes.split(sizes, dim=1), quantized.losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N / stride]`` per granularity, with -1 where another speaks.

        Raises:
            ValueError: If N is no multiple of the largest stride.
        """
        with no_autocast(latents):
            means, speaks = self._split(float32(latents), codebooks)
            (codes,) = self.codebook.encode(torch.cat(means, dim=1))
            streams = codes.split([mask.shape[1] for mask in speaks], dim=1)
            return tuple(stream.masked_fill(~mask, -1) for stream, mask in zip(streams, speaks, strict=True))

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Each code's value and granularity at all of its positions."""
        with no_autocast(streams[0]):
            self.in_use(len(streams))
            return self._join([self.codebook.decode([stream]) for stream in streams], [s >= 0 for s in streams])

    def _split(self, latents: Float[Tensor, "B N D"], codebooks: int | None) -> tuple[list[Tensor], list[Tensor]]:
        """Of each granularity in use, the means ``[B, N / stride, D]`` of its groups, and which of them it codes."""
        if latents.shape[1] % self.strides[0]:
            raise ValueError(f"positions come in groups of {self.strides[0]}, got {latents.shape[1]}")
        used = self.strides[: self.in_use(codebooks)]
        levels = self._levels(latents[..., -1])
        means = [_mean(latents[..., :-1], stride) for stride in used]
        return means, [levels[:, ::stride] == level for level, stride in enumerate(used)]

    def _levels(self, asked: Float[Tensor, "B N"]) -> Int[Tensor, "B N"]:
        """The granularity of each position; a group is asked at its first, and within a coarse one none is asked."""
        levels = torch.full_like(asked, len(self.strides) - 1, dtype=torch.int64)
        for level in reversed(range(len(self.strides) - 1)):
            stride = self.strides[level]
            levels = levels.masked_fill(_repeat(asked[:, ::stride] < level + 0.5, stride), level)
        return levels

    def _join(self, values: Sequence[Tensor], speaks: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Latents of all granularities; where one does not speak its values are zeros."""
        total, levels = torch.zeros(()), torch.zeros(())
        for level, (value, mask) in enumerate(zip(values, speaks, strict=True)):
            stride = self.strides[level]
            total = total.to(value) + _repeat(value, stride)
            levels = torch.where(_repeat(mask, stride), level, levels.to(value))
        return torch.cat((total, levels[..., None]), dim=-1)


def _mean(values: Float[Tensor, "B N D"], stride: int) -> Float[Tensor, "B G D"]:
    """Means of groups, added up position after position: the same bit for bit in any batch."""
    parts = values.unflatten(1, (values.shape[1] // stride, stride)).unbind(2)
    return sum(parts[1:], start=parts[0]) / stride


def _repeat(values: Shaped[Tensor, "B G *D"], stride: int) -> Shaped[Tensor, "B N *D"]:
    """Each value at ``stride`` positions."""
    return values.repeat_interleave(stride, dim=1)
