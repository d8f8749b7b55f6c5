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

from .tiled import read_in_pieces, read_whole, write_in_pieces, write_whole
from .wavelet_front import WaveletFront, band_scale, photo_scale, strongest_bands


def released_scale(levels: int) -> Float[Tensor, " F"]:
    """What bands are divided by in the first release of image_256, which its weights have learned to live with.

    It numbers bands along each axis, `WaveletPacket2d` takes bits of both in turn: most bands are not of deviation 1.
    """
    return photo_scale(band_scale(levels).flatten())


class ImageQueryEncoder(nn.Module):
    """Pixels to latents, tile after tile, row by row, in the order of the queries within a tile.

    Args:
        front: Pixels to bands.
        queries: Positions of a tile to queries.
        latent_dim: Width of a latent.
    """

    def __init__(self, front: WaveletFront, queries: QueryEncoder, latent_dim: int) -> None:
        super().__init__()
        self.front, self.queries, self.nested = front, queries, queries.nested
        self.embed = nn.Linear(front.bands, queries.transformer.dim)
        self.project = nn.Linear(queries.transformer.dim, latent_dim)
        self.linear = nn.Linear(front.bands, latent_dim, bias=False)
        nn.init.normal_(self.project.weight, std=1e-3)
        nn.init.zeros_(self.project.bias)
        self.linear.weight.data.copy_(strongest_bands(front, latent_dim))

    def forward(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole tiles, all at once."""
        return read_whole(self.front, signal, rate, self._read)

    def piecewise(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, one tile at a time, and the bands of a few."""
        return read_in_pieces(self.front, signal, rate, self._read)

    def _read(self, tiles: Float[Tensor, "B M P F"], rate: Rate) -> Float[Tensor, "B M Q D"]:
        queries, _ = self.queries(self.embed(tiles), rate.window, rate.queries)
        _, _, nearest = geometry(rate.window, self.queries.most, rate.queries)
        area = one_hot(nearest, rate.queries).to(tiles.dtype)  # [P, Q]: what each query stands for
        means = torch.einsum("bmpf,pq->bmqf", tiles, area / area.sum(0))
        return self.project(queries) + self.linear(means)


class ImageQueryDecoder(nn.Module):
    """Latents to pixels. Arguments mirror `ImageQueryEncoder`."""

    def __init__(self, front: WaveletFront, queries: QueryDecoder, latent_dim: int) -> None:
        super().__init__()
        self.front, self.queries = front, queries
        self.project = nn.Linear(latent_dim, queries.transformer.dim)
        self.head = nn.Linear(queries.transformer.dim, front.bands)
        self.linear = nn.Linear(latent_dim, front.bands, bias=False)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)
        self.linear.weight.data.copy_(torch.linalg.pinv(strongest_bands(front, latent_dim)))

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The signal of whole tiles, all at once."""
        return write_whole(self.front, latents, extent, rate, self._write)

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The same signal, one tile at a time; the bands of a few rows of tiles are held."""
        return write_in_pieces(self.front, latents, extent, rate, self._write)

    def _write(self, latents: Float[Tensor, "B N D"], rate: Rate) -> Float[Tensor, "B M P F"]:
        latents = rearrange(latents, "b (m q) d -> b m q d", q=rate.queries)
        _, _, nearest = geometry(rate.window, self.queries.most, rate.queries)
        positions, _ = self.queries(self.project(latents), rate.window)
        return self.head(positions) + self.linear(latents[:, :, nearest])
