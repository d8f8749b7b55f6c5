"""The contract of a density of whole numbers: bits that train, and integer tables that code.

Uniform noise in place of rounding makes bits differentiable (Balle et al., 2017, arXiv 1611.01704).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.entropy.coder import EntropyCoder
from sigtok.codecs.entropy.stored import Integers, coder_of
from sigtok.codecs.entropy.tables import LARGEST, WHOLE
from sigtok.codecs.spec import QUALITY_UNIT, Extent, Rate

LEAST_BITS = math.log2(WHOLE / LARGEST)  # of a value under any table


class Density(nn.Module, ABC):
    """Abstract base; members are final.

    `freeze` turns the weights into whole numbers, which are buffers of fixed shapes: they are stored with the model and
    never made again, so that files are read on every machine. A frozen density still measures; to train it is an
    error until `thaw`, as its tables would no longer be those of its weights.

    Args:
        codebook_sizes: Codes K of each of the D channels; the code of 0 is ``K // 2``.
        qualities: As in `CodecSpec`.
        quality_steps: As in `CodecSpec`.
    """

    kind: ClassVar[str]  # of its coder, as `entropy.stored` makes it
    frozen: Tensor

    def __init__(self, codebook_sizes: tuple[int, ...], qualities: int, quality_steps: int) -> None:
        super().__init__()
        self.codebook_sizes, self.qualities, self.quality_steps = tuple(codebook_sizes), qualities, quality_steps
        self.register_buffer("frozen", torch.tensor(False))
        self._stored: list[str] = []

    @abstractmethod
    def bits(
        self, values: Float[Tensor, "B N D"], grid: Extent, rate: Rate, rounded: Float[Tensor, "B N D"]
    ) -> Float[Tensor, " B"]:
        """What `forward` gives."""

    @abstractmethod
    def integers(self) -> Integers:
        """The whole numbers of the weights as they are now, by the names given to `_reserve`."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What its coder needs beside whole numbers and codebooks: plain values."""

    def forward(
        self,
        values: Float[Tensor, "B N D"],
        grid: Extent,
        rate: Rate,
        rounded: Float[Tensor, "B N D"] | None = None,
    ) -> Float[Tensor, " B"]:
        """Bits of each item.

        Args:
            values: Latents in units of the quantization step, plus uniform noise in (-1/2, 1/2) or rounded.
            grid: Positions along each axis; N is their product.
            rate: Its quality counts.
            rounded: The whole numbers that values stand for, which neighbours see; None to round the values.

        Raises:
            ValueError: If a frozen density is to train, or the shapes are not of these channels and positions.
        """
        if self.training and bool(self.frozen):
            raise ValueError("a frozen density does not train, got it in training mode; call thaw() first, or eval()")
        if values.shape[1:] != (math.prod(grid), len(self.codebook_sizes)):
            expected = [math.prod(grid), len(self.codebook_sizes)]
            raise ValueError(f"values on grid {grid} are [B, {expected[0]}, {expected[1]}], got {list(values.shape)}")
        with torch.autocast(values.device.type, enabled=False):
            rounded = values.round() if rounded is None else rounded
            return self.bits(values.float(), grid, rate, rounded.float())

    @torch.no_grad()
    def freeze(self) -> None:
        """Keep the whole numbers of the weights as they are now.

        Raises:
            ValueError: If one of them is beyond what is stored.
        """
        for name, array in self.integers().items():
            stored = self.get_buffer(name)
            stored.copy_(torch.tensor(array))
            if not np.array_equal(stored.cpu().numpy(), array):
                raise ValueError(f"whole numbers of {name} take {8 * stored.itemsize} bits, got larger; scale weights")
        self.frozen.fill_(True)

    def thaw(self) -> None:
        """Let it train again; `coder` follows the weights until the next `freeze`, and old files are not read."""
        self.frozen.fill_(False)

    @torch.no_grad()
    def coder(self) -> EntropyCoder:
        """The coder of the frozen whole numbers, or of those of the weights as they are now."""
        return coder_of(self.kind, self.settings(), self, self.stored() if bool(self.frozen) else self.integers())

    def stored(self) -> Integers:
        """The frozen whole numbers.

        Raises:
            ValueError: If it is not frozen.
        """
        if not bool(self.frozen):
            raise ValueError("whole numbers are stored when a density is frozen, got one that is not; call freeze()")
        return {name: self.get_buffer(name).cpu().numpy() for name in self._stored}

    def _reserve(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.int32) -> None:
        """A place for whole numbers."""
        self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self._stored.append(name)


def bits_between(upper: Tensor, lower: Tensor) -> Tensor:
    """Bits of the mass ``sigmoid(upper) - sigmoid(lower)``, at least those that a table takes.

    As a product it is ``sigmoid(upper) sigmoid(-lower) (1 - e^(lower - upper))``, whose logarithm is exact far out.
    """
    nats = F.softplus(-upper) + F.softplus(lower) - torch.log(-torch.expm1(lower - upper))
    return (nats / math.log(2)).clamp_min(LEAST_BITS)


def between(rows: Float[Tensor, " S *shape"], quality: float | None) -> Float[Tensor, " *shape"]:
    """The row of a quality from 1 on, between two the mean; of a single row, that."""
    if len(rows) == 1 or quality is None:
        return rows[-1]
    rung, part = divmod(round((quality - 1) * QUALITY_UNIT), QUALITY_UNIT)
    if not part:
        return rows[rung]
    return torch.lerp(rows[rung], rows[rung + 1], part / QUALITY_UNIT)


def points(qualities: int, quality_steps: int) -> list[float | None]:
    """All operating points, None where there are no qualities."""
    if not qualities:
        return [None]
    return [1 + step / quality_steps for step in range((qualities - 1) * quality_steps + 1)]
