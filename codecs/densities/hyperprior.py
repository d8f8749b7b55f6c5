"""Scale and mean of every code from side information at a quarter of the resolution.

The hyperprior of Balle et al., 2018, arXiv 1802.01436, with means (Minnen et al., 2018, arXiv 1809.02736), as an
entropy model of codes that are there already: it reads whole numbers and changes none. Synthesis reads rounded side
information in training too (Minnen and Singh, 2020, arXiv 2007.08739), and its density noisy one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.entropy.indexed import PHASES, POOL
from sigtok.codecs.entropy.integer import Fold, Unfold
from sigtok.codecs.entropy.stored import NETWORKS, Integers
from sigtok.codecs.entropy.tables import SCALES, Tables, joined, scale_tables
from sigtok.codecs.spec import Extent, Rate

from .base import Density, bits_between
from .factorised import FactorisedDensity
from .network import BOUND, FRACTION, Layer, Network

STEP = math.log(SCALES[1] / SCALES[0])  # from one scale to the next
PER_UNIT = 8  # indices in a unit of the scale's network, about a factor e
SIDE = 127.0  # the largest side information
MEAN = 2048.0  # the largest mean
_COMPANDED = 6  # fraction bits of companded magnitudes
_COMPANDER = 2048  # magnitudes that are told apart


class HyperpriorDensity(Density):
    """Codes as logistic variables, whose mean and scale a network finds from 4 by 4 times fewer numbers.

    The analysis reads ``sign(y) log2(1 + |y|)`` of whole numbers y and its magnitude. Means are in quarters and scales
    are the 64 of `entropy.tables`, in training too, where gradients pass by both roundings.

    Args:
        codebook_sizes: See `Density`.
        axes: 2 of a picture, 1 of a sound; edges are repeated to whole blocks of 4.
        qualities: See `Density`; every layer has a bias per quality.
        quality_steps: See `Density`.
        width: Channels between layers.
        side: Channels of the side information.

    Raises:
        ValueError: If there are other than 1 or 2 axes.
    """

    kind = "hyperprior"

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        axes: int = 2,
        qualities: int = 0,
        quality_steps: int = 1,
        width: int = 64,
        side: int = 16,
    ) -> None:
        super().__init__(tuple(codebook_sizes), qualities, quality_steps)
        if axes not in (1, 2):
            raise ValueError(f"a grid has 1 or 2 axes, got {axes}")
        self.axes, dim, rungs = axes, len(self.codebook_sizes), max(qualities, 1)
        high = 1 if axes == 1 else 2
        half, cells, near = (high, 2), 2 * high, (2 * high - 1, 3)

        def layer(inputs: int, outputs: int) -> Layer:
            return Layer(inputs, outputs, rungs=rungs)

        first = (
            layer(2 * dim, width),
            Fold(*half),
            layer(cells * width, width),
            Fold(*half),
            layer(cells * width, width),
        )
        self.local = Network(first, _COMPANDED, math.log2(_COMPANDER))
        last = Layer(width, side, near, rungs=rungs, fraction=0, bounds=(-SIDE, SIDE))
        self.analysis = Network([last], FRACTION, BOUND)
        self.synthesis = Network(
            (
                *(Layer(side, width, near, rungs=rungs), layer(width, cells * width), Unfold(*half)),
                *(Layer(width, width, near, depthwise=True, rungs=rungs), layer(width, cells * width), Unfold(*half)),
            ),
            0,
            SIDE,
        )
        self.mean = Network([Layer(width, dim, rungs=rungs, fraction=2, bounds=(-MEAN, MEAN))], FRACTION, BOUND)
        widest = (len(SCALES) - 1) / PER_UNIT
        self.scale = Network([Layer(width, dim, rungs=rungs, fraction=3, bounds=(0.0, widest))], FRACTION, BOUND)
        for head, start in ((self.mean.layers[0], 0.0), (self.scale.layers[0], -math.log(SCALES[0]) / STEP / PER_UNIT)):
            nn.init.normal_(head.weight, std=0.1 / math.sqrt(width))
            nn.init.constant_(head.bias, start)
        self.side = FactorisedDensity((2 * int(SIDE) + 1,) * side, qualities, quality_steps)
        tables = _tables()
        self._reserve("frequencies", tables.frequencies.shape)
        self._reserve("lengths", tables.lengths.shape)
        self._reserve("compander", (_COMPANDER,))
        for name in NETWORKS:
            for key, array in getattr(self, name).integers().items():
                wide = torch.int64 if key.startswith("bias") else torch.int32
                self._reserve(f"{name}_{key}", array.shape, wide)
        self._stored += [f"side.{name}" for name in self.side._stored]

    def bits(
        self, values: Float[Tensor, "B N D"], grid: Extent, rate: Rate, rounded: Float[Tensor, "B N D"]
    ) -> Float[Tensor, " B"]:
        """What `forward` gives."""
        plane = self._plane(values, grid)
        quality = rate.quality
        continuous = self.analysis(self.local(_features(self._padded(plane)), quality), quality)
        whole = continuous + (torch.floor(continuous + 0.5) - continuous).detach()
        noisy = continuous + torch.rand_like(continuous) - 0.5 if self.training else whole
        means, scales = self._laws(whole, grid, quality)
        costs = bits_between((plane + 0.5 - means) / scales, (plane - 0.5 - means) / scales)
        return costs.sum((1, 2, 3)) + self.side.costs(noisy.flatten(2).mT, quality).sum((1, 2))

    def integers(self) -> Integers:
        """Tables of the scales and the side information, and all layers."""
        tables, compander = _tables(), np.log2(1 + np.arange(_COMPANDER)) * 2**_COMPANDED
        arrays = {
            "frequencies": tables.frequencies,
            "lengths": tables.lengths,
            "compander": np.rint(compander).astype(np.int64),
        }
        for name in NETWORKS:
            arrays |= {f"{name}_{key}": array for key, array in getattr(self, name).integers().items()}
        return arrays | {f"side.{key}": array for key, array in self.side.integers().items()}

    def settings(self) -> dict[str, Any]:
        """How many scales there are, and the steps of all networks."""
        return {"scales": len(SCALES), "networks": {name: getattr(self, name).settings() for name in NETWORKS}}

    def _plane(self, values: Float[Tensor, "B N D"], grid: Extent) -> Float[Tensor, "B D Y X"]:
        rows, columns = grid if len(grid) == 2 else (1, *grid)
        return values.mT.reshape(len(values), -1, rows, columns)

    def _padded(self, plane: Float[Tensor, "B D Y X"]) -> Float[Tensor, "B D Y2 X2"]:
        """Edges repeated to whole blocks."""
        rows = 0 if self.axes == 1 else -plane.shape[2] % POOL
        columns = -plane.shape[3] % POOL
        return F.pad(plane, (0, columns, 0, rows), mode="replicate") if rows or columns else plane

    def _laws(self, side: Tensor, grid: Extent, quality: float | None) -> tuple[Tensor, Tensor]:
        """Means and scales ``[B, D, Y, X]``, the scales as a logistic law has them."""
        rows, columns = grid if len(grid) == 2 else (1, *grid)
        hidden = self.synthesis(side, quality)[:, :, :rows, :columns]
        means = _rounded(self.mean(hidden, quality), PHASES)
        logarithm = _rounded(self.scale(hidden, quality), PER_UNIT) * (PER_UNIT * STEP) + math.log(SCALES[0])
        return means, torch.exp(logarithm) * (math.sqrt(3) / math.pi)


@functools.cache
def _tables() -> Tables:
    """Those of all scales with mean 0, then 1/4, 1/2 and 3/4."""
    return joined([scale_tables("logistic", mean=phase / PHASES) for phase in range(PHASES)])


def _features(plane: Float[Tensor, "B D Y X"]) -> Float[Tensor, "B E Y X"]:
    magnitudes = torch.log2(1 + plane.abs())
    return torch.cat((magnitudes * plane.sign(), magnitudes), 1)


def _rounded(values: Tensor, parts: int) -> Tensor:
    """Whole parts, half up; gradients pass."""
    return values + (torch.floor(values * parts + 0.5) / parts - values).detach()
