"""A compact image codec: wavelet bands, then ConvNeXt blocks at one resolution, the coarsest.

::

    pixels -YCbCr, wavelet packet-> bands -1x1, blocks, 1x1-> latents      (encoder)
    latents -1x1, blocks, 1x1-> bands -inverse wavelet packet, RGB-> pixels (decoder)

All arithmetic is done at one position for ``4^levels`` pixels, where it is cheap (as WaLLoC does, arXiv 2412.09405), by
blocks that see a bounded neighbourhood (arXiv 2201.03545): tiles with margins say what the whole picture says. Beside
both networks runs a linear path: the codec starts as vector quantization of the strongest bands.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.layers.conv2d import ConvNeXtBlock
from sigtok.codecs.spec import Extent, Rate

from .tiles import Tiling
from .wavelet_front import REACH, WaveletFront, strongest_bands
from .windows import from_windows, to_windows

KERNEL = 3  # of the blocks: each sees one position to each side
TILE = 96  # positions a side of a tile: 1536 pixels at 4 levels, a few hundred megabytes at the default width


class CompactEncoder(nn.Module):
    """Pixels to latents, one for every position.

    Args:
        front: Pixels to bands.
        width: Channels of the blocks.
        depth: How many blocks.
        latent_dim: Width of a latent.
    """

    def __init__(self, front: WaveletFront, width: int, depth: int, latent_dim: int) -> None:
        super().__init__()
        self.front, self.tiling = front, Tiling(TILE, REACH + depth * (KERNEL // 2))
        self.embed = nn.Conv2d(front.bands, width, 1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, KERNEL) for _ in range(depth)))
        self.project = nn.Conv2d(width, latent_dim, 1)
        self.linear = nn.Conv2d(front.bands, latent_dim, 1, bias=False)
        _quiet(self.project)
        self.linear.weight.data.copy_(strongest_bands(front, latent_dim)[:, :, None, None])

    def forward(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole windows, all at once."""
        return to_windows(self._read(signal), rate)

    def piecewise(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, one tile at a time."""
        return to_windows(self.tiling.apply(self._read, signal, reads=self.front.hop), rate)

    def _read(self, signal: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D Y X"]:
        bands = self.front(signal)
        return self.project(self.blocks(self.embed(bands))) + self.linear(bands)


class CompactDecoder(nn.Module):
    """Latents to pixels. Arguments mirror `CompactEncoder`."""

    def __init__(self, front: WaveletFront, width: int, depth: int, latent_dim: int) -> None:
        super().__init__()
        self.front, self.tiling = front, Tiling(TILE, REACH + depth * (KERNEL // 2))
        self.embed = nn.Conv2d(latent_dim, width, 1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, KERNEL) for _ in range(depth)))
        self.head = nn.Conv2d(width, front.bands, 1)
        self.linear = nn.Conv2d(latent_dim, front.bands, 1, bias=False)
        _quiet(self.head)
        self.linear.weight.data.copy_(torch.linalg.pinv(strongest_bands(front, latent_dim))[:, :, None, None])

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The signal of whole windows, all at once."""
        return self._write(from_windows(latents, self._grid(extent), rate))

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The same signal, one tile at a time."""
        grid = from_windows(latents, self._grid(extent), rate)
        return self.tiling.apply(self._write, grid, writes=self.front.hop)

    def _grid(self, extent: Extent) -> Extent:
        return extent[0] // self.front.hop, extent[1] // self.front.hop

    def _write(self, grid: Float[Tensor, "B D Y X"]) -> Float[Tensor, "B C H W"]:
        bands = self.head(self.blocks(self.embed(grid))) + self.linear(grid)
        return self.front.inverse(bands, (grid.shape[2] * self.front.hop, grid.shape[3] * self.front.hop))


def _quiet(layer: nn.Conv2d) -> None:
    """Let the linear path speak first."""
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=1e-3)
    nn.init.zeros_(layer.bias)
