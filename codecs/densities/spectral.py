"""A density of the whole numbers of a stereo spectrum, conditioned on neighbours; `entropy.spectral` runs it.

Laws and tables are those of `NeighbourDensity`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.entropy.neighbours import FRACTION, LARGEST, WEIGHT
from sigtok.codecs.entropy.spectral import BAND, CHANNELS, FARTHEST, WIDE, classes, gathered
from sigtok.codecs.entropy.stored import Integers, spectral_shapes
from sigtok.codecs.spec import Extent, Rate

from .base import Density, between
from .laplace import LOWEST, STEPS, Counted, laplace_bits, octaves, whole


class SpectralDensity(Density):
    """See the module.

    Args:
        size: Codes K of both codebooks.
        bins: Of a frame, a multiple of 16; positions run over the bins of frame after frame.
        qualities: See `Density`.
        quality_steps: See `Density`.
        width: Hidden numbers of a network.
    """

    kind = "spectral"
    started: Tensor

    def __init__(self, size: int, bins: int, qualities: int, quality_steps: int, width: int = 32) -> None:
        super().__init__((size,) * CHANNELS, qualities, quality_steps)
        self.bins, self.width, self.plan = bins, width, classes()
        rungs = max(qualities, 1)
        self.heads = nn.ModuleList(_Head(each.inputs, width, bins // BAND, rungs) for each in self.plan)
        self.counted = Counted(len(self.plan))
        self.register_buffer("started", torch.zeros(rungs, dtype=torch.bool))
        for place, each in enumerate(self.plan):
            for name, shape in spectral_shapes(each.inputs, width, bins // BAND, rungs).items():
                self._reserve(f"{name}_{place}", shape)
        self._reserve("frequencies", (self.counted.symbols,))
        self._reserve("lengths", (self.counted.tables,))

    def bits(
        self, values: Float[Tensor, "B N D"], grid: Extent, rate: Rate, rounded: Float[Tensor, "B N D"]
    ) -> Float[Tensor, " B"]:
        """What `forward` gives."""
        noisy, spoken = (each.mT.unflatten(2, (-1, self.bins)) for each in (values, rounded.detach()))
        padded = F.pad(octaves(spoken), (WIDE, WIDE, FARTHEST, FARTHEST))
        sums = F.pad(padded, (1, 0)).cumsum(3)
        summed = F.pad(sums[..., 2 * WIDE + 1 :] - sums[..., : -2 * WIDE - 1], (WIDE, WIDE))
        if self.training:
            self._start(spoken, rate.quality)
        total: Tensor = values.new_zeros(len(values))
        extent = (spoken.shape[2], spoken.shape[3])
        for each, head in zip(self.plan, self.heads, strict=True):
            here = (slice(None), each.channel, *each.place)
            own = spoken[here]
            if not own.numel():
                continue
            bands = torch.arange(self.bins, device=values.device)[each.place[1]] // BAND
            index = head(gathered(padded, summed, each, extent), own, bands, rate.quality)
            total = total + laplace_bits(noisy[here], index).sum((1, 2))
            if self.training:
                self.counted.add(own, index.detach())
        return total

    def integers(self) -> Integers:
        """The whole numbers of the weights as they are now."""
        found: dict[str, NDArray[np.int64]] = {}
        for place, head in enumerate(self.heads):
            found |= {f"{name}_{place}": array for name, array in head.integers().items()}  # type: ignore[operator]
        tables = self.counted.made()
        return found | {"frequencies": tables.frequencies, "lengths": tables.lengths}

    def settings(self) -> dict[str, Any]:
        """Bins and widths."""
        return {"bins": self.bins, "width": self.width}

    def freeze(self) -> None:
        """As for every `Density`; what was counted is forgotten."""
        super().freeze()
        self.counted.counts.zero_()

    @torch.no_grad()
    def _start(self, spoken: Float[Tensor, "B C T F"], quality: float | None) -> None:
        """Begin at the mean magnitudes of the first batch of each quality."""
        rung = -1 if quality is None else int(quality) - 1
        if bool(self.started[rung]):
            return
        self.started[rung] = True
        mean = spoken.abs().mean((0, 2)).unflatten(1, (-1, BAND)).mean(2).clamp_min(2.0 ** (LOWEST + 1))
        for each, head in zip(self.plan, self.heads, strict=True):
            head.bias[rung].copy_((mean[each.channel].log2() - LOWEST) * STEPS)  # type: ignore[index]


class _Head(nn.Module):
    """The network of one class in floats; see `entropy.spectral.SpectralHead`."""

    def __init__(self, inputs: int, width: int, bands: int, rungs: int) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(width, inputs) / math.sqrt(max(inputs, 1)))
        self.hidden_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Parameter(torch.zeros(width))
        self.direct = nn.Parameter(torch.zeros(inputs))
        self.bias = nn.Parameter(torch.full((rungs, bands), -STEPS * float(LOWEST)))

    def forward(self, inputs: list[Tensor], own: Tensor, bands: Tensor, quality: float | None) -> Tensor:
        """Tables ``[B, frames, bins]``, as real numbers."""
        index = between(self.bias, quality)[bands].expand(own.shape)
        if not inputs:
            return index
        flat = torch.stack(inputs, 1).flatten(2)
        hidden = (self.hidden @ flat + self.hidden_bias[:, None]).clamp(0, LARGEST)
        return index + (self.out @ hidden + self.direct @ flat).view(own.shape)

    def integers(self) -> dict[str, NDArray[np.int64]]:
        """The whole numbers."""
        fractions = {"hidden": WEIGHT, "out": WEIGHT, "direct": WEIGHT}
        return {name: whole(weight, fractions.get(name, WEIGHT + FRACTION)) for name, weight in self.named_parameters()}
