"""A rate-distortion codec of pictures: wavelets, one linear map, whole numbers; a deep decoder at low resolution.

::

    pixels -YCbCr, packet, pyramid-> bands -1x1, gains, shrink, round-> whole numbers            (encoder)
    whole numbers -gains, 1x1-> bands -blocks + identity-> bands -inverse packet, RGB-> pixels   (decoder)

WaLLoC's asymmetry (Jacobellis and Yadwadkar, 2024, arXiv 2412.09405): the encoder is linear and cheap, the decoder a
network at 1/8 of the resolution, and both are trained for the squared error. Here the low band of the packet is split
on as a pyramid in its place, and the codec starts as a transform codec: the linear maps as identity, the blocks as
zero.

Whole numbers come from float64: rounding then depends on no order of sums, so that threads, machines and other runtimes
find the same ones (but for a chance of about 1e-10 a picture).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.densities.base import between
from sigtok.codecs.layers.conv2d import ConvNeXtBlock
from sigtok.codecs.layers.ladder import Gains, Steps, moved, shrunk
from sigtok.codecs.spec import Extent, Rate
from sigtok.codecs.transforms.colour import YCbCr
from sigtok.codecs.transforms.lifting import packet2d
from sigtok.codecs.transforms.precision import no_autocast
from sigtok.codecs.transforms.pyramid import Pyramid2d, kinds
from sigtok.codecs.transforms.wavelet import WaveletPacket2d

from .tiles import Tiling
from .wavelet_front import REACH
from .windows import from_windows, to_windows

KERNEL = 3  # of the blocks
BLOCK = 8  # pixels a side of a position of the decoder
TILE = 512  # pixels a side that are computed at once on large pictures
DETAIL = 0.05  # about the deviation of a band of unit norm in photos, in signal units


class Bands(nn.Module):
    """Pixels ``[B, 3, H, W]`` to bands ``[B, 3 * 4^levels, H / 2^levels, W / 2^levels]`` and back.

    First the high bands, about from low frequencies to high ones and Y, Cb, Cr in turn, then the three low ones.

    Args:
        levels: Of the packet.
        low: Further levels of the low band alone, a pyramid in its place.

    Raises:
        ValueError: If a number of levels is too small.
    """

    order: Tensor
    back: Tensor

    def __init__(self, levels: int, low: int) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"a packet has at least 1 level, got {levels}; take 1 to 3")
        self.colour, self.packet, self.pyramid = YCbCr(), WaveletPacket2d(levels), Pyramid2d(low)
        self.hop, self.low, self.high = 2**levels, low, 3 * (4**levels - 1)
        size = 4**levels
        bands = sorted(range(3 * size), key=lambda band: (not band % size, _frequency(band % size), band // size))
        self.register_buffer("order", torch.tensor(bands), persistent=False)
        self.register_buffer("back", torch.tensor(bands).argsort(), persistent=False)

    def split(self, signal: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F Y X"]:
        """Bands, the low ones not yet split on."""
        return self.packet(self.colour(signal))[:, self.order]

    def split_in_place(self, signal: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F Y X"]:
        """What `split` gives, faster and without gradients."""
        return packet2d(self.colour(signal), self.packet.levels)[:, self.order]

    def join(self, bands: Float[Tensor, "B F Y X"]) -> Float[Tensor, "B C H W"]:
        """Pixels of such bands."""
        extent = (bands.shape[2] * self.hop, bands.shape[3] * self.hop)
        return self.colour.inverse(self.packet.inverse(bands[:, self.back], extent), extent)

    def norms(self) -> Float[Tensor, " kinds"]:
        """By how much an error of each kind of coefficient is larger in the pixels: high bands, then low ones by
        colour and `kinds`."""
        step = self.hop * 2 ** max(self.low, 1)  # enough pixels that ends are far
        pixels, grid = (4 * step, 4 * step), (4 * step // self.hop,) * 2
        size, where = self.hop**2, kinds(grid, self.low)
        units = torch.zeros(3 * self.low + 1 + size - 1, size, *grid)
        for kind in range(3 * self.low + 1):
            places = (where == kind).nonzero()
            nearest = places[(places - grid[0] // 2).abs().sum(1).argmin()]
            units[kind, 0, nearest[0], nearest[1]] = 1
        units[:, :1] = self.pyramid.inverse(units[:, :1], grid)
        for band in range(1, size):
            units[3 * self.low + band, band, grid[0] // 2, grid[1] // 2] = 1
        norm = torch.cat([self.packet.inverse(unit[None], pixels).flatten(1).norm(dim=1) for unit in units])
        colours = self.colour.inverse(torch.eye(3)[:, :, None, None], (1, 1)).flatten(1).norm(dim=1)
        high = self.order[: self.high]
        low_norms, high_norms = norm[: 3 * self.low + 1], norm[3 * self.low + high % size]
        return torch.cat((high_norms * colours[high // size], *(colour * low_norms for colour in colours)))


def _frequency(band: int) -> int:
    """Sum of the numbers of a band of `WaveletPacket2d` along both axes."""
    down = across = place = 0
    while band >> 2 * place:
        digit = band >> 2 * place & 3
        down, across = down | (digit >> 1) << place, across | (digit & 1) << place
        place += 1
    return down + across


def of_high(values: Float[Tensor, " kinds"], bands: Bands) -> Float[Tensor, "high 1 1"]:
    """Those of the high bands, one for each."""
    return values[: bands.high, None, None]


def of_low(values: Float[Tensor, " kinds"], bands: Bands, grid: Extent) -> Float[Tensor, "3 Y X"]:
    """Those of the low bands, where each kind of coefficient stands."""
    return values[bands.high :].unflatten(0, (3, -1))[:, kinds(grid, bands.low).to(values.device)]


class WallocEncoder(nn.Module):
    """Pixels to values in steps, one latent ``[F]`` for each position.

    Args:
        bands: The transform.
        steps: See `Gains`.
    """

    def __init__(self, bands: Bands, steps: Float[Tensor, " S"]) -> None:
        super().__init__()
        self.bands, self.gains = bands, Gains(steps, bands.norms())
        self.linear = nn.Parameter(torch.eye(bands.high))
        self.tiling = Tiling(TILE // bands.hop, REACH)

    def forward(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Values of whole positions, not yet rounded."""
        with no_autocast(signal):
            high, low = self._mapped(self.bands.split(signal), self.linear)
            low, laws = self.bands.pyramid(low), [law.to(low) for law in self.gains.at(rate.quality)]
            gain, dead = (of_high(law, self.bands) for law in laws)
            low_gain, low_dead = (of_low(law, self.bands, tuple(low.shape[2:])) for law in laws)
            values = torch.cat((shrunk(high * gain, dead), shrunk(low * low_gain, low_dead)), 1)
            return to_windows(values, rate)

    def piecewise(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same values of float64, rounded, a tile at a time."""
        linear, laws = self.linear.double(), self.gains.at(rate.quality)
        gain, dead = (of_high(law, self.bands) for law in laws)

        def read(tile: Tensor) -> Tensor:
            high, low = self._mapped(self.bands.split_in_place(tile.double()), linear)
            return torch.cat((shrunk(high * gain, dead), low), 1)

        values = self.tiling.apply(read, signal, reads=self.bands.hop)
        low = values[:, self.bands.high :]
        low_gain, low_dead = (of_low(law, self.bands, tuple(low.shape[2:])) for law in laws)
        low.copy_(shrunk(self.bands.pyramid(low) * low_gain, low_dead))
        return to_windows(values.round_().float(), rate)

    def _mapped(self, split: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
        """High bands behind the linear map, and low ones."""
        high, low = split[:, : self.bands.high], split[:, self.bands.high :]
        return (linear @ high.flatten(2)).unflatten(2, high.shape[2:]), low


class WallocDecoder(nn.Module):
    """Whole numbers back to pixels.

    Args:
        bands: The transform, of 1 to 3 levels.
        steps: See `Steps`.
        width: Channels of the blocks.
        depth: How many blocks.

    Raises:
        ValueError: If the transform has more levels.
    """

    unit: Tensor

    def __init__(self, bands: Bands, steps: Float[Tensor, " S"], width: int, depth: int) -> None:
        super().__init__()
        if bands.hop > BLOCK:
            raise ValueError(f"the decoder's blocks are of {BLOCK} pixels, got a hop of {bands.hop}; take fewer levels")
        norms = bands.norms()
        self.bands, self.steps, self.fold = bands, Steps(steps, norms), BLOCK // bands.hop
        self.linear = nn.Parameter(torch.eye(bands.high))
        self.embed = nn.Conv2d(3 * BLOCK**2, width, 1)
        self.rungs = nn.Parameter(torch.zeros(len(steps), width))
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, KERNEL) for _ in range(depth)))
        self.head = nn.Conv2d(width, 3 * BLOCK**2, 1)
        for weight in self.head.parameters():
            nn.init.zeros_(weight)
        unit = torch.cat((DETAIL / norms[: bands.high], torch.full((3,), float(bands.hop))))
        self.register_buffer("unit", unit[:, None, None], persistent=False)
        self.network_tiling = Tiling(TILE // BLOCK, depth * (KERNEL // 2))
        self.join_tiling = Tiling(TILE // bands.hop, REACH)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The signal of whole positions, all at once."""
        bands = self._linear(latents, extent, rate)
        return self.bands.join(
            bands + self._network(self._whole_blocks(bands), rate)[..., : bands.shape[2], : bands.shape[3]]
        )

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The same signal, a tile at a time."""
        bands = self._linear(latents, extent, rate)
        folded, fold = self._whole_blocks(bands), self.fold
        found = self.network_tiling.apply(lambda tile: self._network(tile, rate), folded, reads=fold, writes=fold)
        bands = bands.add_(found[..., : bands.shape[2], : bands.shape[3]])
        return self.join_tiling.apply(self.bands.join, bands, writes=self.bands.hop)

    def _linear(self, latents: Tensor, extent: Extent, rate: Rate) -> Float[Tensor, "B F Y X"]:
        """Bands of whole numbers, without the network."""
        grid = tuple(size // self.bands.hop for size in extent)
        with no_autocast(latents):
            values, laws = from_windows(latents, grid, rate), self.steps.at(rate.quality)
            high, low = values[:, : self.bands.high], values[:, self.bands.high :]
            step, outward = (of_high(law, self.bands) for law in laws)
            high = moved(high, outward) * step
            step, outward = (of_low(law, self.bands, grid) for law in laws)
            low = self.bands.pyramid.inverse(moved(low, outward) * step, grid)
            return torch.cat(((self.linear @ high.flatten(2)).unflatten(2, grid), low), 1)

    def _whole_blocks(self, bands: Float[Tensor, "B F Y X"]) -> Float[Tensor, "B F y x"]:
        """Repeated at the ends to a multiple of the fold."""
        down, across = (-size % self.fold for size in bands.shape[2:])
        return F.pad(bands, (0, across, 0, down), mode="replicate") if down or across else bands

    def _network(self, bands: Float[Tensor, "B F y x"], rate: Rate) -> Float[Tensor, "B F y x"]:
        """What is to be added to bands of whole blocks."""
        folded = self.embed(F.pixel_unshuffle(bands / self.unit, self.fold))
        folded = self.blocks(folded + between(self.rungs, rate.quality)[:, None, None])
        return F.pixel_shuffle(self.head(folded), self.fold) * self.unit
