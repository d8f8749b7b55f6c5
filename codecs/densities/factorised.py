"""Channels on their own: for each a density of any shape, as a monotone network of one number.

The factorised prior of Balle et al., 2018, arXiv 1802.01436, appendix 6.1. One shape serves all qualities, wider or
narrower at each, as the gains of a quality make the latents.
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

from sigtok.codecs.entropy.stored import Integers
from sigtok.codecs.entropy.tables import TAIL, integer_table
from sigtok.codecs.spec import Extent, Rate

from .base import Density, between, bits_between, points

START = 10.0  # width of the densities before training, in quantization steps
WIDEST = 255  # R of a table, at most
_FARTHEST = 2**16  # where centres are looked for
_COUNTS = 2**40


class FactorisedDensity(Density):
    """``c(y) = sigmoid(f(y))`` per channel, c the distribution function; f is linear maps with positive weights and
    ``x + tanh(a) tanh(x)`` between them.

    Args:
        codebook_sizes: See `Density`.
        qualities: See `Density`.
        quality_steps: See `Density`.
        filters: Widths between the linear maps.
        symbols: Symbols of a table, on average over all channels and operating points, at most: their room.
    """

    kind = "factorised"
    frequencies: Tensor
    lengths: Tensor
    centres: Tensor

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        qualities: int = 0,
        quality_steps: int = 1,
        filters: Sequence[int] = (3, 3, 3, 3),
        symbols: int = 64,
    ) -> None:
        super().__init__(tuple(codebook_sizes), qualities, quality_steps)
        dim, widths = len(self.codebook_sizes), (1, *filters, 1)
        scale = START ** (1 / (len(widths) - 1))
        starts = [math.log(math.expm1(1 / scale / below)) for below in widths[1:]]
        pairs = list(zip(widths[1:], widths[:-1], starts, strict=True))
        self.matrices = nn.ParameterList(torch.full((dim, below, above), start) for below, above, start in pairs)
        self.biases = nn.ParameterList(torch.rand(dim, below, 1) - 0.5 for below in widths[1:])
        self.factors = nn.ParameterList(torch.zeros(dim, below, 1) for below in filters)
        self.log_width = nn.Parameter(torch.zeros(max(qualities, 1), dim), requires_grad=qualities > 0)
        count = len(points(qualities, quality_steps)) * dim
        self._reserve("frequencies", (symbols * count,))
        self._reserve("lengths", (count,))
        self._reserve("centres", (count,))

    def bits(
        self, values: Float[Tensor, "B N D"], grid: Extent, rate: Rate, rounded: Float[Tensor, "B N D"]
    ) -> Float[Tensor, " B"]:
        """What `forward` gives."""
        return self.costs(values, rate.quality).sum((1, 2))

    def costs(self, values: Float[Tensor, "B N D"], quality: float | None) -> Float[Tensor, "B N D"]:
        """Bits of each value."""
        flat = values.flatten(0, 1).T  # [D, B N]
        upper, lower = self._logits(flat + 0.5, quality), self._logits(flat - 0.5, quality)
        return bits_between(upper, lower).T.reshape(values.shape)

    @torch.no_grad()
    def integers(self) -> Integers:
        """Tables of all operating points and channels, those of a point together."""
        dim = len(self.codebook_sizes)
        rows = [self._masses(quality) for quality in points(self.qualities, self.quality_steps)]
        centres = np.concatenate([centre for centre, _ in rows])
        masses = np.concatenate([mass for _, mass in rows])  # [P D, 2 WIDEST + 1]
        radii = self._radii(masses, len(self.frequencies))
        tables = [_table(mass, radius) for mass, radius in zip(masses, radii.tolist(), strict=True)]
        flat = np.zeros(len(self.frequencies), np.int32)
        used = np.concatenate(tables)
        flat[: len(used)] = used
        assert len(centres) == dim * len(rows)
        return {"frequencies": flat, "lengths": (2 * radii + 2).astype(np.int32), "centres": centres.astype(np.int32)}

    def settings(self) -> dict[str, Any]:
        """None: there is one table per channel."""
        return {}

    def _logits(self, values: Float[Tensor, "D M"], quality: float | None) -> Float[Tensor, "D M"]:
        """f of values, in their own type."""
        width = between(self.log_width, quality).to(values.dtype)
        hidden = (values * torch.exp(-width)[:, None])[:, None]
        for layer, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            hidden = F.softplus(matrix.to(values.dtype)) @ hidden + bias.to(values.dtype)
            if layer < len(self.factors):
                hidden = hidden + torch.tanh(self.factors[layer].to(values.dtype)) * torch.tanh(hidden)
        return hidden[:, 0]

    def _masses(self, quality: float | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Per channel the whole number at the median, and the masses around it."""
        device = self.log_width.device
        low = torch.full((len(self.codebook_sizes), 1), -float(_FARTHEST), dtype=torch.float64, device=device)
        high = -low
        while bool((high - low > 1).any()):
            middle = torch.floor((low + high) / 2)
            below = self._logits(middle, quality) < 0
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        centre = torch.where(self._logits(low + 0.5, quality) < 0, high, low)
        steps = torch.arange(-WIDEST, WIDEST + 2, dtype=torch.float64, device=device) - 0.5
        edges = self._logits(centre + steps, quality)
        left = torch.where(edges[:, 1:] + edges[:, :-1] > 0, -1.0, 1.0).double()  # where a difference is exact
        mass = torch.sigmoid(left * edges[:, 1:]) - torch.sigmoid(left * edges[:, :-1])
        return centre[:, 0].long().cpu().numpy(), mass.abs().cpu().numpy()

    def _radii(self, masses: NDArray[np.float64], room: int) -> NDArray[np.int64]:
        """R of each table: all but `TAIL`, or more where there is no room."""
        inside = masses[:, WIDEST:].copy()
        inside[:, 1:] += masses[:, WIDEST - 1 :: -1]
        outside, tail = 1 - inside.cumsum(1), TAIL
        while True:
            radii = np.where((outside <= tail).any(1), (outside <= tail).argmax(1), WIDEST)
            if (2 * radii + 2).sum() <= room or not radii.any():
                return radii
            tail *= 2


def _table(mass: NDArray[np.float64], radius: int) -> NDArray[np.uint32]:
    inside = mass[WIDEST - radius : WIDEST + radius + 1]
    return integer_table(np.rint(np.append(inside, max(1 - inside.sum(), 0)) * _COUNTS).astype(np.int64))
