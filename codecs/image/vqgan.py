"""The VQGAN's autoencoder (Esser et al., arXiv 2012.09841): residual blocks at every resolution, attention at the last.

Downsampling, widths and blocks are those that LlamaGen (arXiv 2406.06525) and IBQ (arXiv 2412.02692) use; their
quantizers stand behind a linear map to ``latent_dim``, which is here the last layer of the encoder and the first of the
decoder.

::

    pixels -3x3-> [blocks, stride 2] ... blocks with attention -> middle -3x3, 1x1-> latents    (encoder)
    latents -1x1, 3x3-> middle -> blocks with attention, [nearest x 2, blocks] ... -3x3-> pixels (decoder)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.spec import Extent, Rate

from .tiles import Tiling
from .windows import from_windows, to_windows

TILE = 256  # pixels a side of a tile, as in training
MARGIN = 64  # pixels over which tiles fade into each other, to each side of a cut


def norm(width: int) -> nn.GroupNorm:
    """32 groups; fewer where a group would have less than four channels or the width does not divide."""
    return nn.GroupNorm(math.gcd(32, width, max(1, width // 4)), width, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, SiLU and a kernel of 3, twice, added to the input; a linear map where the width changes."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            norm(width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1),
            norm(out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1),
        )  # fmt: skip
        self.shortcut = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, grid: Float[Tensor, "B D Y X"]) -> Float[Tensor, "B E Y X"]:
        """A grid of the new width."""
        return self.shortcut(grid) + self.layers(grid)


class GridAttention(nn.Module):
    """Attention with one head of all positions over all, added to the input; no position is encoded."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.project = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, grid: Float[Tensor, "B D Y X"]) -> Float[Tensor, "B D Y X"]:
        """A grid of the same shape."""
        query, key, value = rearrange(self.project(self.norm(grid)), "b (p d) y x -> p b 1 (y x) d", p=3)
        attended = F.scaled_dot_product_attention(query, key, value)
        return grid + self.out(rearrange(attended, "b 1 (y x) d -> b d y x", y=grid.shape[2]))


class Halve(nn.Module):
    """A kernel of 3 at stride 2, over zeros behind the last row and column."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, grid: Float[Tensor, "B D Y X"]) -> Float[Tensor, "B D y x"]:
        """Half the rows and columns."""
        return self.conv(F.pad(grid, (0, 1, 0, 1)))


class Double(nn.Module):
    """Every position four times, then a kernel of 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, grid: Float[Tensor, "B D y x"]) -> Float[Tensor, "B D Y X"]:
        """Twice the rows and columns."""
        return self.conv(F.interpolate(grid, scale_factor=2.0, mode="nearest"))


def _blocks(width: int, out: int, count: int, attends: bool) -> list[nn.Module]:
    """Residual blocks of one resolution, each followed by attention if it attends."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += [ResidualBlock(width, out), *([GridAttention(out)] if attends else [])]
        width = out
    return layers


def _middle(width: int) -> list[nn.Module]:
    return [ResidualBlock(width, width), GridAttention(width), ResidualBlock(width, width)]


def _tiling(multipliers: Sequence[int]) -> Tiling:
    hop = 2 ** (len(multipliers) - 1)
    return Tiling(max(4, TILE // hop), max(1, MARGIN // hop), fade=True)


class VQGANEncoder(nn.Module):
    """Pixels to latents, one for every position.

    Args:
        width: Channels at the resolution of pixels.
        multipliers: Of the width, one for each resolution; each is half the one before.
        blocks: Residual blocks of a resolution.
        channels: Between the convolutions and the linear map to latents.
        latent_dim: Width of a latent.
    """

    def __init__(self, width: int, multipliers: Sequence[int], blocks: int, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.hop, self.tiling = 2 ** (len(multipliers) - 1), _tiling(multipliers)
        widths = [width * multiplier for multiplier in multipliers]
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1)]
        for level, (before, after) in enumerate(zip([width, *widths], widths, strict=False)):
            last = level == len(widths) - 1
            layers += [*_blocks(before, after, blocks, attends=last), *([] if last else [Halve(after)])]
        layers += [*_middle(widths[-1]), norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], channels, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, latent_dim, 1))

    def forward(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole windows, all at once."""
        return to_windows(self.layers(signal), rate)

    def piecewise(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents by tiles that fade into each other; those of `forward` for pictures of one tile."""
        return to_windows(self.tiling.apply(self.layers, signal, reads=self.hop), rate)


class VQGANDecoder(nn.Module):
    """Latents to pixels. Arguments mirror `VQGANEncoder`; a resolution has one block more."""

    def __init__(self, width: int, multipliers: Sequence[int], blocks: int, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.hop, self.tiling = 2 ** (len(multipliers) - 1), _tiling(multipliers)
        widths = [width * multiplier for multiplier in reversed(multipliers)]
        layers: list[nn.Module] = [nn.Conv2d(latent_dim, channels, 1), nn.Conv2d(channels, widths[0], 3, padding=1)]
        layers += _middle(widths[0])
        for level, (before, after) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            last = level == len(widths) - 1
            layers += [*_blocks(before, after, blocks + 1, attends=level == 0), *([] if last else [Double(after)])]
        self.layers = nn.Sequential(
            *layers, norm(width * multipliers[0]), nn.SiLU(), nn.Conv2d(widths[-1], 3, 3, padding=1)
        )

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The signal of whole windows, all at once."""
        return self.layers(from_windows(latents, self._grid(extent), rate))

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The signal by tiles that fade into each other; that of `forward` for pictures of one tile."""
        return self.tiling.apply(self.layers, from_windows(latents, self._grid(extent), rate), writes=self.hop)

    def _grid(self, extent: Extent) -> Extent:
        return extent[0] // self.hop, extent[1] // self.hop
