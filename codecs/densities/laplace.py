"""Laplace laws by the number of a table, and tables of what was counted under each of them."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sigtok.codecs.entropy.neighbours import OCTAVE
from sigtok.codecs.entropy.tables import Tables, integer_table, scale_tables, stacked

STEPS = 4  # tables per octave of scales
LOWEST, HIGHEST = -6, 10  # octaves of the mean magnitude of a law
TABLES = STEPS * (HIGHEST - LOWEST)
DECAY = 0.998  # of counts, a training step
PRIOR = 400.0  # counts that the law has in each table
LEAST = 1e-7  # of a probability in training
_COUNTS = 2**40


class Counted(nn.Module):
    """How often which whole number stood under each table, in the last steps of training.

    Args:
        parts: Calls of `add` in a step.
    """

    counts: Tensor

    def __init__(self, parts: int) -> None:
        super().__init__()
        deviations = [math.sqrt(2) * 2.0 ** (index / STEPS + LOWEST) for index in range(TABLES)]
        self._law, self._decay = scale_tables("laplace", deviations), DECAY ** (1 / parts)
        self.tables, self.symbols = TABLES, len(self._law.frequencies)
        self.register_buffer("counts", torch.zeros(self.symbols))

    @torch.no_grad()
    def add(self, values: Tensor, index: Tensor, weight: Tensor | None = None) -> None:
        """Count whole numbers and their mirror images under tables of real indices; a weight of 0 leaves one out."""
        starts, radii = (torch.from_numpy(each).to(values.device) for each in (self._law.starts, self._law.radii))
        table = index.round().clamp(0, TABLES - 1).long()
        radius, value = radii[table], values.long()
        inside = value.abs() <= radius
        halves = torch.full_like(values, 0.5) if weight is None else weight.expand_as(values) / 2
        self.counts.mul_(self._decay)
        for each in (value, -value):
            symbol = starts[table] + torch.where(inside, each + radius, 2 * radius + 1)
            self.counts.index_add_(0, symbol.flatten(), halves.flatten().to(self.counts))

    def made(self) -> Tables:
        """Tables of the counts and of the laws together."""
        counted, made = self.counts.double().cpu().numpy(), []
        for index, start in enumerate(self._law.starts):
            law = self._law.table(index)
            counts = counted[start : start + len(law)] + PRIOR * law / law.sum()
            made.append(integer_table(np.rint(counts / counts.sum() * _COUNTS).astype(np.int64)))
        return stacked(made)


def laplace_bits(values: Tensor, index: Tensor) -> Tensor:
    """Bits of whole numbers, or of such with noise, under the laws of real indices."""
    scale = torch.exp2(index.clamp(0, TABLES - 1) / STEPS + LOWEST)
    magnitude = values.abs()
    inner, outer = (magnitude - 0.5) / scale, (magnitude + 0.5) / scale
    mass = torch.where(
        inner > 0,
        0.5 * torch.exp(-inner.clamp_min(0)) * -torch.expm1(-1 / scale),
        1 - 0.5 * torch.exp(inner.clamp_max(0)) - 0.5 * torch.exp(-outer),
    )
    return -torch.log2(mass.clamp_min(LEAST))


def octaves(values: Tensor) -> Tensor:
    """Octaves of ``1 + magnitude``, to the nearest eighth: what networks read of whole numbers."""
    return (OCTAVE * torch.log2(1 + values.abs())).round() / OCTAVE


def whole(values: Tensor, fraction: int) -> NDArray[np.int64]:
    """Real numbers as whole ones with so many bits behind the point."""
    return np.rint(values.detach().double().cpu().numpy() * 2.0**fraction).astype(np.int64)
