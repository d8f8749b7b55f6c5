"""The codec of variable granularity (Control-GIC, ICLR 2025): few codes where a picture is plain, many where it is not.

::

    pixels -wavelet packet-> bands on the 1/4 grid -> 1/8 -> 1/16: three answers, one by position -> latents (encoder)
    latents -> 1/16 -> 1/8 -> bands on the 1/4 grid -inverse wavelet packet-> pixels                         (decoder)

Entropy says where which answer is taken (`granularity`). Blocks are those of ConvNeXt, not the residual blocks with
attention of the paper: they see a bounded neighbourhood, so that tiles say what the whole says, and train on a CPU.
Norms of the decoder are scaled and shifted by the codes at each position, as in MoVQ (arXiv 2209.09002). Beside the
networks runs a linear path, the strongest cosines of every block: the codec starts as vector quantization of those, and
learns what to add to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.layers.conv2d import ChannelNorm, ConvNeXtBlock
from sigtok.codecs.spec import Extent, Rate
from sigtok.codecs.transforms.wavelet import WaveletPacket1d

from .granularity import route
from .tiles import Tiling
from .wavelet_front import REACH, WaveletFront

SIZES = (4, 2, 1)  # of the squares of positions that a code speaks for: coarse, medium, fine
BLOCK = 4  # positions along each side of a block
KERNELS = (3, 5, 5)  # of the blocks at 1/16, 1/8 and 1/4
TILE = 32  # blocks along each side of a tile


def to_blocks(grid: Shaped[Tensor, "B D Y X"]) -> Shaped[Tensor, "B N D"]:
    """Latents of a grid: blocks in raster order, in each its four quarters, in each its four positions."""
    return rearrange(grid, "b d (m v y) (n u x) -> b (m n v u y x) d", v=2, u=2, y=2, x=2)


def from_blocks(latents: Shaped[Tensor, "B N D"], grid: Extent) -> Shaped[Tensor, "B D Y X"]:
    """The grid of so many rows and columns of positions, of its latents: the inverse of `to_blocks`."""
    rows, columns = (size // BLOCK for size in grid)
    return rearrange(latents, "b (m n v u y x) d -> b d (m v y) (n u x)", m=rows, n=columns, v=2, u=2, y=2, x=2)


def repeat(grid: Shaped[Tensor, "B D Y X"], size: int) -> Shaped[Tensor, "B D Y_size X_size"]:
    """Every value on a square."""
    return grid.repeat_interleave(size, 2).repeat_interleave(size, 3)


# -- the linear path -------------------------------------------------------------------------------------


def deviations(size: int) -> Float[Tensor, "F s s"]:
    """Standard deviations of the cosine coefficients over squares of the bands of 4 x 4 pixels, in units of pixels.

    For photos as separable first-order Markov fields of deviation 0.5 whose neighbours correlate by 0.95, and colour
    differences of 0.4 of that, as in `wavelet_front`. Coefficients
    are of cosines of mean square 1; those of ``size`` 1 are the bands themselves.
    """
    place = torch.arange(64, dtype=torch.float64)
    covariance = 0.95 ** (place[:, None] - place).abs()
    packet = WaveletPacket1d(2).double()(torch.eye(64, dtype=torch.float64)[:, None])[:, :, 8 : 8 + size]
    lines = torch.einsum("tbp,up->tbu", packet, _cosines(size)) / size
    along = torch.einsum("tbu,ts,sbu->bu", lines, covariance, lines).sqrt()
    strength = torch.einsum("c,bu,dv->cbduv", torch.tensor([0.5, 0.2, 0.2]).double(), along, along)
    return rearrange(strength, "c (y2 y1) (x2 x1) u v -> (c y2 x2 y1 x1) u v", y1=2, x1=2)  # as WaveletPacket2d


def strongest_cosines(size: int, count: int) -> tuple[Float[Tensor, "D F s s"], float]:
    """Over squares of bands, the cosines whose coefficients deviate most, and the root mean square of these."""
    strength, cosines = deviations(size), _cosines(size)
    chosen = strength.flatten().argsort(descending=True, stable=True)[:count]
    band, row, column = chosen // size**2, chosen // size % size, chosen % size
    weight = torch.zeros(count, *strength.shape)
    weight[torch.arange(count), band] = (cosines[row][:, :, None] * cosines[column][:, None, :]).float()
    return weight, float(strength.flatten()[chosen].square().mean().sqrt())


def _cosines(size: int) -> Float[Tensor, "s s"]:
    """Cosines of a line of mean square 1, a row each."""
    angle = torch.outer(torch.arange(size), torch.arange(size).double() + 0.5) * math.pi / size
    return angle.cos() * torch.where(torch.arange(size) > 0, math.sqrt(2), 1.0)[:, None]


def linear_path(front: WaveletFront, size: int, latent_dim: int) -> tuple[nn.Conv2d, nn.ConvTranspose2d]:
    """Bands to the values of one granularity and back; all granularities have one unit, that of the fine."""
    into = nn.Conv2d(front.bands, latent_dim, size, stride=size, bias=False)
    back = nn.ConvTranspose2d(latent_dim, front.bands, size, stride=size, bias=False)
    (weight, _), (_, unit) = strongest_cosines(size, latent_dim), strongest_cosines(1, latent_dim)
    into.weight.data.copy_(weight * front.scale / (unit * size**2))
    back.weight.data.copy_(weight / front.scale * unit)
    return into, back


# -- networks --------------------------------------------------------------------------------------------


class ToldBlock(nn.Module):
    """A `ConvNeXtBlock` whose norm is scaled and shifted by what is told about each position (MoVQ, arXiv 2209.09002).

    Args:
        dim: Channels D.
        told: Channels E of what is told.
        kernel: Of the depthwise convolution.
    """

    def __init__(self, dim: int, told: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = ChannelNorm(dim)
        self.modulate = nn.Conv2d(told, 2 * dim, 1)
        self.widen, self.narrow = nn.Conv2d(dim, 4 * dim, 1), nn.Conv2d(4 * dim, dim, 1)
        self.scale = nn.Parameter(torch.full((dim, 1, 1), 0.1))
        for weight in self.modulate.parameters():
            nn.init.zeros_(weight)

    def forward(self, grid: Float[Tensor, "B D Y X"], told: Float[Tensor, "B E Y X"]) -> Float[Tensor, "B D Y X"]:
        """A grid of the same shape."""
        scale, shift = self.modulate(told).chunk(2, dim=1)
        inner = self.norm(self.depthwise(grid)) * (1 + scale) + shift
        return grid + self.scale * self.narrow(F.gelu(self.widen(inner)))


def _tiling(depths: Sequence[int]) -> Tiling:
    """Tiles in blocks, with margins of all that wavelets and convolutions reach."""
    reach = REACH + sum(d * (k // 2) * s for d, k, s in zip(depths, KERNELS, SIZES, strict=True))
    return Tiling(TILE, -(-reach // BLOCK))


def _small(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that starts with little to add."""
    for weight in layer.parameters():
        nn.init.normal_(weight, std=1e-3)
    return layer


class GranularEncoder(nn.Module):
    """Pixels to latents ``[B, N, D + 1]`` on the 1/4 grid, block after block: D values, constant over what one code
    stands for, and the granularity, 0 coarse, 1 medium, 2 fine.

    Args:
        front: Pixels to bands, of 4 pixels a position.
        dims: Widths at 1/16, 1/8 and 1/4.
        depths: Blocks at each.
        latent_dim: Values D.
    """

    def __init__(self, front: WaveletFront, dims: Sequence[int], depths: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.front, self.tiling = front, _tiling(depths)
        sources = (*dims[1:], front.bands)
        self.enter = nn.ModuleList(
            nn.Conv2d(source, dim, step, stride=step)
            for source, dim, step in zip(sources, dims, (2, 2, 1), strict=True)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ConvNeXtBlock(dim, kernel) for _ in range(depth)))
            for dim, depth, kernel in zip(dims, depths, KERNELS, strict=True)
        )
        self.heads = nn.ModuleList(_small(nn.Conv2d(dim, latent_dim, 1)) for dim in dims)
        self.linear = nn.ModuleList(linear_path(front, size, latent_dim)[0] for size in SIZES)

    def forward(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole blocks, all at once."""
        return self._merge(self._answers(signal), signal, rate)

    def piecewise(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, by tiles; granularities are those of the whole picture."""
        answers = self.tiling.apply(self._answers, signal, reads=BLOCK * self.front.hop, writes=BLOCK)
        return self._merge(answers, signal, rate)

    def _answers(self, signal: Float[Tensor, "B C H W"]) -> Float[Tensor, "B three_D Y X"]:
        """Values of each granularity at every position, from coarse to fine."""
        grid = bands = self.front(signal)
        answers = []
        for index in (2, 1, 0):
            grid = self.blocks[index](self.enter[index](grid))
            values = self.heads[index](grid) + self.linear[index](bands)
            answers.append(repeat(values, SIZES[index]))
        return torch.cat(answers[::-1], dim=1)

    def _merge(self, answers: Float[Tensor, "B three_D Y X"], signal: Tensor, rate: Rate) -> Float[Tensor, "B N D"]:
        """At every position the answer of its granularity."""
        levels = repeat(route(signal, rate.shares)[:, None], SIZES[1])
        coarse, medium, fine = answers.chunk(3, dim=1)
        values = torch.where(levels == 0, coarse, torch.where(levels == 1, medium, fine))
        return to_blocks(torch.cat((values, levels.to(values)), dim=1))


class GranularDecoder(nn.Module):
    """Latents to pixels: from 1/16 to 1/4, at each told what codes say, and how coarsely. Arguments mirror
    `GranularEncoder`."""

    def __init__(self, front: WaveletFront, dims: Sequence[int], depths: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.front, self.tiling = front, _tiling(depths)
        told = latent_dim + len(SIZES)
        self.enter = nn.ModuleList(nn.Conv2d(told, dim, 1) for dim in dims)
        self.rise = nn.ModuleList(nn.ConvTranspose2d(*pair, 2, stride=2) for pair in itertools.pairwise(dims))
        self.blocks = nn.ModuleList(
            nn.ModuleList(ToldBlock(dim, told, kernel) for _ in range(depth))
            for dim, depth, kernel in zip(dims, depths, KERNELS, strict=True)
        )
        self.head = _small(nn.Conv2d(dims[-1], front.bands, 1))
        self.linear = nn.ModuleList(linear_path(front, size, latent_dim)[1] for size in SIZES)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The signal of whole blocks, all at once."""
        return self._write(from_blocks(latents, self._grid(extent)))

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The same signal, by tiles."""
        grid = from_blocks(latents, self._grid(extent))
        return self.tiling.apply(self._write, grid, reads=BLOCK, writes=BLOCK * self.front.hop)

    def _write(self, latents: Float[Tensor, "B E Y X"]) -> Float[Tensor, "B C H W"]:
        """Pixels of a grid of values and granularities."""
        values, levels = latents[:, :-1], latents[:, -1:]
        masks = [(levels == level).to(values) for level in range(len(SIZES))]
        told = torch.cat((values, *masks), dim=1)
        grid, bands = None, 0.0
        for index, size in enumerate(SIZES):
            here = F.avg_pool2d(told, size)
            entering = self.enter[index](here)
            grid = entering if grid is None else entering + self.rise[index - 1](grid)
            stage: Any = self.blocks[index]
            for block in stage:
                grid = block(grid, here)
            bands = bands + self.linear[index](F.avg_pool2d(values * masks[index], size))
        height, width = (size * self.front.hop for size in latents.shape[2:])
        return self.front.inverse(self.head(grid) + bands, (height, width))

    def _grid(self, extent: Extent) -> Extent:
        return extent[0] // self.front.hop, extent[1] // self.front.hop
