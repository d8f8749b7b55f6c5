"""Residual quantization over a pyramid of grids: a tile from its mean to its details (VAR, arXiv 2404.02905)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32, touch
from .estimators import commitment, straight_through
from .grids import Resampling, join, neighbourhood, split


class MultiScale(Quantizer):
    """S scales of a tile of H x W positions, all with the codes of one codebook; any first scales decode to a tile.

    With the rest ``r_0 = f`` of a tile, scale s quantizes the area means of ``r_s`` on its grid ``h_s x w_s``, brings
    the codes back to H x W by bicubic interpolation, refines them by a convolution phi, and leaves
    ``r_{s+1} = r_s - sg(phi(up(codes)))``. The sum of what was subtracted, ``f_s``, is the tile as of scale s; the
    gradient of the last goes straight through to the latents.

    Losses ask that the tile be right as of each scale: "codebook" is the mean over the scales in use of the mean
    square error of ``f_s`` to ``sg(f)``, which reaches phi and codes that are learned by gradient, and "commitment"
    that of ``f`` to ``sg(f_s)``. Other losses of the codebook are taken on the means of all scales.

    A training pass first shows the codebook the means of all scales at once, each one time, and then quantizes with
    what it has become; coarse scales weigh in statistics by their few tokens. In the first pass, and while it collects
    latents to start from, there are no codes to rely on and it is shown the means that exact codes would leave.

    Two departures from the release: phi has no bias, so that an absent code adds exactly zero, and starts as the
    identity.

    Args:
        codebook: A quantizer of one codebook, whose ``decode`` carries the gradient of its codes if they have one.
        grid: Positions (H, W) of a tile; latents ``[B, M * H * W, D]`` are M tiles, each in raster order.
        scales: Grids (h, w) or sides of square ones, the last the full grid; stream s has ``M * h * w`` codes.
        refinements: How many phi there are, at most one a scale; each scale takes the one nearest to it in depth.

    Raises:
        ValueError: If there are several codebooks, a scale does not fit in the grid, the last is not the grid, or
            there is no refinement.
    """

    updates: Tensor

    def __init__(
        self,
        codebook: Quantizer,
        grid: Sequence[int],
        scales: Sequence[int] | Sequence[Sequence[int]],
        refinements: int = 4,
    ) -> None:
        super().__init__()
        if len(codebook.codebook_sizes) != 1:
            raise ValueError(f"all scales share one codebook, got {len(codebook.codebook_sizes)}")
        self.grid = tuple(grid)
        self.scales = tuple((scale, scale) if isinstance(scale, int) else tuple(scale) for scale in scales)
        fits = all(1 <= size <= most for scale in self.scales for size, most in zip(scale, self.grid, strict=False))
        if not fits or {len(size) for size in (self.grid, *self.scales)} != {2} or self.scales[-1:] != (self.grid,):
            raise ValueError(f"scales are grids within {self.grid}, the last {self.grid} itself; got {self.scales}")
        if refinements < 1:
            raise ValueError(f"there is at least 1 refinement, got {refinements}")
        self.codebook, self.dim = codebook, codebook.dim
        self.codebook_sizes = codebook.codebook_sizes * len(self.scales)
        refinements = min(refinements, len(self.scales))
        self.refinements = nn.ModuleList(_Refinement(self.dim, self.grid) for _ in range(refinements))
        self.depths = [_nearest_tick(scale, len(self.scales), refinements) for scale in range(len(self.scales))]
        self.down = nn.ModuleList(Resampling(self.grid, scale, "area") for scale in self.scales)
        self.up = nn.ModuleList(Resampling(scale, self.grid, "bicubic") for scale in self.scales)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def strides(self) -> tuple[int | Fraction, ...]:
        """Positions per token of each scale, a fraction where its grid does not divide the tile."""
        exact = [Fraction(math.prod(self.grid), math.prod(scale)) for scale in self.scales]
        return tuple(stride.numerator if stride.denominator == 1 else stride for stride in exact)

    @property
    def ready(self) -> bool:
        """Whether the codebook is."""
        return self.codebook.ready

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` scales."""
        with no_autocast(latents):
            latents, batch, learns = float32(latents), latents.shape[0], self.training and update
            tiles, count = split(latents, self.grid)
            losses = self.codebook(self._lesson(tiles, codebooks, learns), update=update).losses
            unused = latents.new_zeros(()) + (touch(self) if learns else 0)
            if learns and not self.ready:
                sizes = [count * math.prod(self.scales[scale]) for scale in self._first(codebooks)]
                absent = tuple(torch.full((batch, size), -1, device=latents.device) for size in sizes)
                return Quantized(latents, absent, {**losses, "codebook": unused, "commitment": unused})
            if learns:
                self.updates += 1
            steps = list(self._steps(tiles, codebooks))
            totals = list(accumulate(value for _, _, value in steps))
            errors = torch.stack([F.mse_loss(total, tiles.detach()) for total in totals])
            distances = torch.stack([commitment(tiles, total) for total in totals])
            losses = {**losses, "codebook": errors.mean() + unused, "commitment": distances.mean()}
            values = straight_through(latents, join(totals[-1], batch, count))
            return Quantized(values, tuple(join(codes, batch, count) for _, codes, _ in steps), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, M * h * w]`` per scale in use, each tile's codes in raster order.

        Raises:
            ValueError: If N is not whole tiles.
        """
        with no_autocast(latents):
            tiles, count = split(float32(latents), self.grid)
            return tuple(join(codes, latents.shape[0], count) for _, codes, _ in self._steps(tiles, codebooks))

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """The tiles as of the first ``len(streams)`` scales."""
        with no_autocast(streams[0]):
            sizes = [self.scales[scale] for scale in self._first(len(streams))]
            tiles = [split(codes, size) for codes, size in zip(streams, sizes, strict=True)]
            values = [self._value(scale, codes) for scale, (codes, _) in enumerate(tiles)]
            return join(sum(values[1:], start=values[0]), streams[0].shape[0], tiles[0][1])

    def _steps(self, tiles: Float[Tensor, "T P D"], codebooks: int | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Scale after scale: means ``[T, h * w, D]``, their codes, and what those add to the tiles ``[T, P, D]``."""
        rest = tiles
        for scale in self._first(codebooks):
            means = self.down[scale](rest)
            (codes,) = self.codebook.encode(means.detach())
            value = self._value(scale, codes)
            yield means, codes, value
            rest = rest - value.detach()

    def _value(self, scale: int, codes: Int[Tensor, "T R"]) -> Float[Tensor, "T P D"]:
        """What the codes of one scale add to the tiles."""
        return self.refinements[self.depths[scale]](self.up[scale](self.codebook.decode([codes])))

    def _lesson(self, tiles: Float[Tensor, "T P D"], codebooks: int | None, learns: bool) -> Float[Tensor, "T R D"]:
        """Means of all scales at once, with the gradient of the tiles."""
        if not learns or (bool(self.updates > 0) and self.ready):
            return torch.cat([means for means, _, _ in self._steps(tiles, codebooks)], dim=1)
        lesson = []
        for down, up in zip(self.down, self.up, strict=True):
            lesson.append(down(tiles))
            tiles = tiles - up(lesson[-1])
        return torch.cat(lesson, dim=1)

    def _first(self, codebooks: int | None) -> range:
        """The first scales."""
        count = len(self.scales) if codebooks is None else codebooks
        if not 1 <= count <= len(self.scales):
            raise ValueError(f"there are 1 to {len(self.scales)} codebooks, one a scale; got {codebooks}")
        return range(count)


class _Refinement(nn.Module):
    """``phi(h) = h / 2 + conv3x3(h) / 2``, zeros around the tile; the identity at the start."""

    def __init__(self, dim: int, grid: tuple[int, ...]) -> None:
        super().__init__()
        self.grid = grid
        self.weight = nn.Parameter(nn.init.dirac_(torch.empty(dim, dim, 3, 3)))

    def forward(self, tiles: Float[Tensor, "T P D"]) -> Float[Tensor, "T P D"]:
        """All tiles refined."""
        return tiles / 2 + neighbourhood(tiles, self.grid, self.weight) / 2


def _nearest_tick(scale: int, scales: int, ticks: int) -> int:
    """The tick nearest to a scale's depth, from 0 for the first to 1 for the last; halfway the later.

    Ticks are evenly spaced from ``1 / (3 ticks)`` to ``1 - 1 / (3 ticks)``, as in the release.
    """
    depth, first = Fraction(scale, max(1, scales - 1)), Fraction(1, 3 * ticks)
    step = (1 - 2 * first) / max(1, ticks - 1)
    return min(max(math.floor((depth - first) / step + Fraction(1, 2)), 0), ticks - 1)
