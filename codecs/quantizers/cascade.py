"""Cascaded quantization: each level at half the resolution codes what the level before left (McQuic, CVPR 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32, mean_losses, touch
from .grids import Resampling, join, neighbourhood, split


class Cascade(Quantizer):
    """L levels of a tile of H x W positions: 1 / 1, 1 / 2, 1 / 4, ... of its sides, finest first.

    With ``z_0`` the tile, level l quantizes ``head_l(z_l)`` to values ``v_l`` and hands on, at half the resolution,
    ``z_{l+1} = down(tail_l(z_l) - v_l)``. The way back starts from the coarsest:
    ``y_l = v_l + rise_l(up(y_{l+1}))``, and ``y_0`` is what the decoder sees. Heads, tails and rises are learned
    blocks over 3 x 3 positions that start as the identity; the gradient passes each codebook by its own estimator.

    Levels behind one that still collects latents wait for what it will leave. Any first levels decode: those that are
    absent add zero, as no block has a bias.

    Source: Zhu et al., "Unified Multivariate Gaussian Mixture for Efficient Neural Image Compression" (McQuic), 2022,
    arXiv 2203.10897; ours has no Gumbel noise, as codebooks here have policies against collapse. Its M groups are M
    of these in a `Grouped`.

    Args:
        levels: One-codebook quantizers of one width, finest level first.
        grid: Positions (H, W) of a tile; latents ``[B, M * H * W, D]`` are M tiles, each in raster order.
        expansion: Width inside the learned blocks over D.

    Raises:
        ValueError: If a level has several codebooks or another width, or the grid does not halve so often.
    """

    def __init__(self, levels: Sequence[Quantizer], grid: Sequence[int], expansion: int = 2) -> None:
        super().__init__()
        if not levels or len({level.dim for level in levels}) != 1 or any(len(each.strides) > 1 for each in levels):
            raise ValueError(
                f"levels have one codebook each, of one width; got widths {[level.dim for level in levels]} and "
                f"{[len(level.strides) for level in levels]} codebooks"
            )
        times = 2 ** (len(levels) - 1)
        if len(grid) != 2 or any(size < 1 or size % times for size in grid):
            raise ValueError(f"{len(levels)} levels halve a grid of multiples of {times}, got {tuple(grid)}")
        self.grids = [tuple(size >> level for size in grid) for level in range(len(levels))]
        self.levels, self.dim = nn.ModuleList(levels), levels[0].dim
        self.codebook_sizes = tuple(level.codebook_sizes[0] for level in levels)
        self.heads = nn.ModuleList(_Block(self.dim, size, expansion) for size in self.grids)
        self.tails = nn.ModuleList(_Block(self.dim, size, expansion) for size in self.grids[:-1])
        self.rises = nn.ModuleList(_Block(self.dim, size, expansion) for size in self.grids[:-1])
        pairs = list(zip(self.grids, self.grids[1:], strict=False))
        self.down = nn.ModuleList(Resampling(fine, coarse, "area") for fine, coarse in pairs)
        self.up = nn.ModuleList(Resampling(coarse, fine, "bicubic") for fine, coarse in pairs)

    @property
    def strides(self) -> tuple[int, ...]:
        """Positions per code of each level: 1, 4, 16, ..."""
        return tuple(4**level for level in range(len(self.grids)))

    @property
    def ready(self) -> bool:
        """Whether all levels are."""
        return all(level.ready for level in self._first(None))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` levels."""
        with no_autocast(latents):
            latents, used, learns = float32(latents), self._first(codebooks), self.training and update
            rest, count = split(latents, self.grids[0])
            waiting = [place for place, level in enumerate(used) if learns and not level.ready]
            active = used[: waiting[0] + 1] if waiting else used
            values: list[Tensor] = []
            streams: list[Tensor] = []
            losses: list[dict[str, Tensor]] = []
            for place, level in enumerate(active):
                quantized = level(self.heads[place](rest), update=update)
                values.append(quantized.latents)
                streams.append(join(quantized.streams[0], len(latents), count))
                losses.append(quantized.losses)
                if place + 1 < len(active):
                    rest = self._hand_on(place, rest, quantized.latents)
            for place in range(len(active), len(used)):
                size = count * math.prod(self.grids[place])
                streams.append(torch.full((len(latents), size), -1, device=latents.device))
            means = mean_losses(losses)
            if learns and means:
                name = next(iter(means))
                means[name] = means[name] + touch(self)
            return Quantized(join(self._rise(values), len(latents), count), tuple(streams), means)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, M * h * w]`` per level in use, each tile's codes in raster order.

        Raises:
            ValueError: If N is not whole tiles.
        """
        with no_autocast(latents):
            rest, count = split(float32(latents), self.grids[0])
            used, streams = self._first(codebooks), []
            for place, level in enumerate(used):
                (codes,) = level.encode(self.heads[place](rest))
                streams.append(join(codes, len(latents), count))
                if place + 1 < len(used):
                    rest = self._hand_on(place, rest, level.decode([codes]))
            return tuple(streams)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """What the first ``len(streams)`` levels say."""
        with no_autocast(streams[0]):
            used = self._first(len(streams))
            pairs = [split(codes, size) for codes, size in zip(streams, self.grids, strict=False)]
            values = [level.decode([codes]) for level, (codes, _) in zip(used, pairs, strict=True)]
            return join(self._rise(values), streams[0].shape[0], pairs[0][1])

    def _hand_on(self, place: int, rest: Float[Tensor, "T P D"], value: Float[Tensor, "T P D"]) -> Tensor:
        """What one level leaves to the next."""
        return self.down[place](self.tails[place](rest) - value)

    def _rise(self, values: Sequence[Float[Tensor, "T _ D"]]) -> Float[Tensor, "T P D"]:
        """Values of the first levels, from the coarsest up to the tile."""
        total = values[-1]
        for place in reversed(range(len(values) - 1)):
            total = values[place] + self.rises[place](self.up[place](total))
        return total

    def _first(self, codebooks: int | None) -> list[Any]:
        """The first levels."""
        return list(self.levels)[: self.in_use(codebooks)]


class _Block(nn.Module):
    """``h + narrow(gelu(conv3x3(h)))``, without biases; the identity at the start."""

    def __init__(self, dim: int, grid: tuple[int, ...], expansion: int) -> None:
        super().__init__()
        self.grid = grid
        self.widen = nn.Parameter(torch.randn(expansion * dim, dim, 3, 3) / math.sqrt(9 * dim))
        self.narrow = nn.Linear(expansion * dim, dim, bias=False)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, tiles: Float[Tensor, "T P D"]) -> Float[Tensor, "T P D"]:
        """All tiles, with their neighbourhoods seen."""
        return tiles + self.narrow(F.gelu(neighbourhood(tiles, self.grid, self.widen)))
