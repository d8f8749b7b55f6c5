"""A density of the whole numbers of a pyramid, conditioned on neighbours; `entropy.neighbours` says how and runs it.

While training, numbers are Laplace distributed about zero, of the scale that the network finds; the tables of whole
numbers hold what was counted under each scale (`laplace`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.entropy.neighbours import FRACTION, LARGEST, WEIGHT, Group, groups
from sigtok.codecs.entropy.stored import Integers, neighbour_shapes
from sigtok.codecs.spec import Extent, Rate

from .base import Density, between
from .laplace import LOWEST, STEPS, Counted, laplace_bits, octaves, whole


class NeighbourDensity(Density):
    """See the module.

    Args:
        codebook_sizes: One size for all D channels, the last three pyramids of low bands.
        low: Levels of the pyramids.
        channels: Sizes of the groups of high bands, D - 3 in all.
        qualities: See `Density`.
        quality_steps: See `Density`.
        states: Numbers M of a state.
        width: Hidden numbers H of a group.
    """

    kind = "neighbours"
    started: Tensor

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        low: int,
        channels: Sequence[int],
        qualities: int,
        quality_steps: int,
        states: int = 24,
        width: int = 24,
    ) -> None:
        super().__init__(tuple(codebook_sizes), qualities, quality_steps)
        self.plan = groups(len(self.codebook_sizes) - 3, low, channels)
        self.low, self.channels, self.states, self.width = low, tuple(channels), states, width
        rungs = max(qualities, 1)
        self.heads = nn.ModuleList(_Head(group.channels, states, width, rungs) for group in self.plan)
        self.counted = Counted(len(self.plan))
        self.register_buffer("started", torch.zeros(max(qualities, 1), dtype=torch.bool))
        for place, group in enumerate(self.plan):
            for name, shape in neighbour_shapes(group.channels, states, width, rungs).items():
                self._reserve(f"{name}_{place}", shape)
        self._reserve("frequencies", (self.counted.symbols,))
        self._reserve("lengths", (self.counted.tables,))

    def bits(
        self, values: Float[Tensor, "B N D"], grid: Extent, rate: Rate, rounded: Float[Tensor, "B N D"]
    ) -> Float[Tensor, " B"]:
        """What `forward` gives."""
        step = 2**self.low
        pad = (0, -grid[1] % step, 0, -grid[0] % step)
        noisy, spoken = (F.pad(each.mT.unflatten(2, grid), pad) for each in (values, rounded.detach()))
        there = F.pad(values.new_ones(1, len(self.codebook_sizes), *grid), pad)
        if self.training:
            self._start(spoken, rate.quality)
        total: Tensor = values.new_zeros(len(values))
        state, level = None, self.plan[0].level
        for group, head in zip(self.plan, self.heads, strict=True):
            own = _read(group, spoken)
            if state is None:
                state = own.new_zeros(len(own), self.states, *own.shape[2:])
            while level > group.level:
                state, level = F.interpolate(state, scale_factor=2.0, mode="nearest"), level - 1
            index, state = head(state, own, rate.quality)  # type: ignore[operator]
            here = _read(group, there)
            total = total + (laplace_bits(_read(group, noisy), index) * here).sum((1, 2, 3))
            if self.training:
                self.counted.add(own, index.detach(), here)
        return total

    def integers(self) -> Integers:
        """The whole numbers of the weights as they are now."""
        found: dict[str, NDArray[np.int64]] = {}
        for place, head in enumerate(self.heads):
            found |= {f"{name}_{place}": array for name, array in head.integers().items()}  # type: ignore[operator]
        tables = self.counted.made()
        return found | {"frequencies": tables.frequencies, "lengths": tables.lengths}

    def settings(self) -> dict[str, Any]:
        """Levels, groups and widths."""
        return {"low": self.low, "channels": self.channels, "states": self.states, "width": self.width}

    def freeze(self) -> None:
        """As for every `Density`; what was counted is forgotten."""
        super().freeze()
        self.counted.counts.zero_()

    @torch.no_grad()
    def _start(self, spoken: Tensor, quality: float | None) -> None:
        """Begin at the mean magnitudes of the first batch of each quality."""
        rung = -1 if quality is None else int(quality) - 1
        if bool(self.started[rung]):
            return
        self.started[rung] = True
        for group, head in zip(self.plan, self.heads, strict=True):
            mean = _read(group, spoken).abs().mean((0, 2, 3)).clamp_min(2.0 ** (LOWEST + 1))
            head.bias[rung].copy_(((mean.log2() - LOWEST) * STEPS).expand(2, -1))  # type: ignore[index]


class _Head(nn.Module):
    """The network of one group in floats; see `entropy.neighbours.Head`."""

    def __init__(self, channels: int, states: int, width: int, qualities: int) -> None:
        super().__init__()
        self.state = nn.Parameter(torch.randn(states, 2 * channels) * (0.5 / math.sqrt(channels)))
        fan = (states, states + channels)
        self.hidden = nn.ParameterList(torch.randn(width, size) / math.sqrt(size) for size in fan)
        self.hidden_bias = nn.Parameter(torch.zeros(2, width))
        self.out = nn.ParameterList(torch.zeros(channels, size) for size in (width, width + channels))
        self.bias = nn.Parameter(torch.full((qualities, 2, channels), -STEPS * float(LOWEST)))

    def forward(
        self, state: Float[Tensor, "B M Y X"], own: Float[Tensor, "B k Y X"], quality: float | None
    ) -> tuple[Float[Tensor, "B k Y X"], Float[Tensor, "B M Y X"]]:
        """Tables of both passes, as real numbers, and the state behind the group."""
        rows, columns = own.shape[2:]
        first = (torch.arange(rows)[:, None] + torch.arange(columns)).to(own.device) % 2 == 0
        bias = between(self.bias, quality)[..., None, None]
        near = _near(own * first)
        found = [
            _map(self.out[0], self._hidden(0, state)),
            _map(self.out[1], torch.cat((self._hidden(1, torch.cat((state, near), 1)), near), 1)),
        ]
        index = torch.where(first, found[0] + bias[0], found[1] + bias[1])
        added = _map(self.state, torch.cat((octaves(own), _near(own)), 1))
        return index, (state + added).clamp(-LARGEST, LARGEST)

    def integers(self) -> dict[str, NDArray[np.int64]]:
        """The whole numbers."""
        parts = {"state": self.state, "hidden_first": self.hidden[0], "hidden_second": self.hidden[1]}
        parts |= {"out_first": self.out[0], "out_second": self.out[1]}
        biases = {"hidden_bias": self.hidden_bias, "bias": self.bias}
        return {name: whole(part, WEIGHT) for name, part in parts.items()} | {
            name: whole(part, WEIGHT + FRACTION) for name, part in biases.items()
        }

    def _hidden(self, second: int, inputs: Tensor) -> Tensor:
        return (_map(self.hidden[second], inputs) + self.hidden_bias[second][:, None, None]).clamp(0, LARGEST)


def _read(group: Group, values: Tensor) -> Tensor:
    return torch.cat([values[(slice(None), *part)] for part in group.parts], 1)


def _map(weight: Float[Tensor, "E C"], values: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B E Y X"]:
    return (weight @ values.flatten(2)).unflatten(2, values.shape[2:])


def _near(values: Float[Tensor, "B k Y X"]) -> Float[Tensor, "B k Y X"]:
    """Sums of the magnitudes of the four neighbours."""
    own = F.pad(octaves(values), (1, 1, 1, 1))
    return own[..., :-2, 1:-1] + own[..., 2:, 1:-1] + own[..., 1:-1, :-2] + own[..., 1:-1, 2:]
