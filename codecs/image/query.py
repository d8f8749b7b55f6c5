"""The query codec for images (after TiTok, arXiv 2406.07550): each tile of positions is read by an ordered set of
queries.

::

    pixels -YCbCr, wavelet packet-> bands on a 16 x 16 grid per tile -queries-> latents      (encoder)
    latents -queries + masks-> bands -inverse wavelet packet, RGB-> pixels                    (decoder)

Tiles are read alone; the wavelet packet overlaps them, so that no seam shows where they meet. Beside the transformers
runs a linear path: the codec starts as vector quantization of the strongest bands, and learns what to add to it.
"""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot

from sigtok.codecs.queries import QueryDecoder, QueryEncoder, geometry
from sigtok.codecs.spec import Extent, Rate
from sigtok.codecs.transforms.colour import YCbCr
from sigtok.codecs.transforms.wavelet import WaveletPacket1d, WaveletPacket2d


def band_scale(levels: int, correlation: float = 0.95) -> Float[Tensor, " bands"]:
    """Standard deviation of each band of a 2-D wavelet packet under the classical model of a photo.

    The model is a separable first-order Markov field of unit variance (Jain, Fundamentals of Digital Image
    Processing, 1989): neighbours correlate by ``correlation`` along each axis.
    """
    size = 16 * 2**levels
    place = torch.arange(size, dtype=torch.float64)
    covariance = correlation ** (place[:, None] - place).abs()
    analysis = WaveletPacket1d(levels).double()(torch.eye(size, dtype=torch.float64)[:, None])[:, :, 8]
    deviation = torch.einsum("tb,ts,sb->b", analysis, covariance, analysis).sqrt()
    return torch.outer(deviation, deviation).flatten().float()


class WaveletFront(nn.Module):
    """Pixels ``[B, 3, H, W]`` to normalised bands ``[B, 3 * 4^levels, H / 2^levels, W / 2^levels]`` and back."""

    scale: Tensor

    def __init__(self, levels: int, deviation: float = 0.5) -> None:
        super().__init__()
        self.colour, self.packet = YCbCr(), WaveletPacket2d(levels)
        scale = torch.cat([band_scale(levels) * deviation * share for share in (1.0, 0.4, 0.4)])
        self.register_buffer("scale", scale[:, None, None], persistent=False)

    def forward(self, signal: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F Y X"]:
        """Bands, each of standard deviation about 1."""
        return self.packet(self.colour(signal)) / self.scale

    def inverse(self, bands: Float[Tensor, "B F Y X"], extent: Extent) -> Float[Tensor, "B C H W"]:
        """Pixels of bands."""
        return self.colour.inverse(self.packet.inverse(bands * self.scale, extent), extent)


def strongest_bands(front: WaveletFront, latent_dim: int) -> Float[Tensor, "D F"]:
    """The map from normalised bands to those of largest deviation, in proportion to it, of mean square 1."""
    scale = front.scale.flatten()
    chosen = scale.argsort(descending=True)[:latent_dim]
    weight = torch.zeros(latent_dim, len(scale))
    weight[torch.arange(latent_dim), chosen] = scale[chosen] / scale[chosen].square().mean().sqrt()
    return weight


class ImageQueryEncoder(nn.Module):
    """Pixels to latents, tile after tile, row by row, in the order of the queries within a tile.

    Args:
        front: Pixels to bands (`WaveletFront`).
        queries: Positions of a tile to queries.
        bands: Bands F of the front.
        latent_dim: Width of a latent.
    """

    def __init__(self, front: WaveletFront, queries: QueryEncoder, bands: int, latent_dim: int) -> None:
        super().__init__()
        self.front, self.queries = front, queries
        self.embed = nn.Linear(bands, queries.transformer.dim)
        self.project = nn.Linear(queries.transformer.dim, latent_dim)
        self.linear = nn.Linear(bands, latent_dim, bias=False)
        nn.init.normal_(self.project.weight, std=1e-3)
        nn.init.zeros_(self.project.bias)
        self.linear.weight.data.copy_(strongest_bands(front, latent_dim))

    def forward(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole tiles, all at once."""
        return self._read(self._tiles(signal, rate), rate)

    def piecewise(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, one tile at a time."""
        tiles = self._tiles(signal, rate).split(1, dim=1)
        return torch.cat([self._read(tile, rate) for tile in tiles], dim=1)

    def _tiles(self, signal: Tensor, rate: Rate) -> Tensor:
        """Bands of each tile ``[B, M, P, F]``."""
        height, width = rate.window
        return rearrange(self.front(signal), "b f (m y) (n x) -> b (m n) (y x) f", y=height, x=width)

    def _read(self, tiles: Tensor, rate: Rate) -> Tensor:
        queries, _ = self.queries(self.embed(tiles), rate.window, rate.queries)
        _, _, nearest = geometry(rate.window, self.queries.most, rate.queries)
        area = one_hot(nearest, rate.queries).to(tiles.dtype)  # [P, Q]: what each query stands for
        means = torch.einsum("bmpf,pq->bmqf", tiles, area / area.sum(0))
        return (self.project(queries) + self.linear(means)).flatten(1, 2)


class ImageQueryDecoder(nn.Module):
    """Latents to pixels. Arguments mirror `ImageQueryEncoder`; ``pixels`` is the side of a position."""

    def __init__(self, front: WaveletFront, queries: QueryDecoder, bands: int, latent_dim: int, pixels: int) -> None:
        super().__init__()
        self.front, self.queries, self.pixels = front, queries, pixels
        self.project = nn.Linear(latent_dim, queries.transformer.dim)
        self.head = nn.Linear(queries.transformer.dim, bands)
        self.linear = nn.Linear(latent_dim, bands, bias=False)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)
        self.linear.weight.data.copy_(torch.linalg.pinv(strongest_bands(front, latent_dim)))

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The signal of whole tiles, all at once."""
        return self._assemble(self._write(latents, rate), extent, rate)

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The same signal, one tile at a time up to the bands."""
        tiles = [self._write(part, rate) for part in latents.split(rate.queries, dim=1)]
        return self._assemble(torch.cat(tiles, dim=1), extent, rate)

    def _write(self, latents: Tensor, rate: Rate) -> Tensor:
        """Bands of each tile ``[B, M, P, F]``."""
        latents = rearrange(latents, "b (m q) d -> b m q d", q=rate.queries)
        _, _, nearest = geometry(rate.window, self.queries.most, rate.queries)
        positions, _ = self.queries(self.project(latents), rate.window)
        return self.head(positions) + self.linear(latents[:, :, nearest])

    def _assemble(self, tiles: Tensor, extent: Extent, rate: Rate) -> Tensor:
        height = rate.window[0]
        rows = extent[0] // (height * self.pixels)
        bands = rearrange(tiles, "b (m n) (y x) f -> b f (m y) (n x)", m=rows, y=height)
        return self.front.inverse(bands, extent)
