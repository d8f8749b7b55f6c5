"""The elastic codec for images (after TiTok, arXiv 2406.07550): a tile is an ordered set of tokens, and the first k of
them are a picture too.

::

    pixels -YCbCr, wavelet packet-> bands of a tile -anchor, queries-> N latents, of which k are sent   (encoder)
    k latents -anchor, queries + masks-> bands of a tile -inverse wavelet packet, RGB-> pixels          (decoder)

Beside the transformers runs a linear path: cosines over each band of the tile, ranked once by what a photo is expected
to hold of them, as many to a token as its bits can say. The codec starts coarse to fine, and learns what to add. Tiles
are read alone; the wavelet packet overlaps them, so that their edges are soft. A number of tokens that is drawn in
training and chosen at run time is nested dropout, as in FlexTok (arXiv 2502.13967).
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from sigtok.codecs.anchored import AnchoredQueryDecoder, AnchoredQueryEncoder
from sigtok.codecs.spec import Extent, Rate
from sigtok.codecs.transforms.wavelet import WaveletPacket1d

from .tiled import read_in_pieces, read_whole, write_in_pieces, write_whole
from .wavelet_front import WaveletFront, interleaved

FIELDS = {0.8: 0.1, 0.95: 0.1, 0.99: 0.3, 0.999: 0.5}  # correlation of neighbours: share of the variance
DEVIATION = (0.35, 0.14, 0.14)  # of Y, Cb and Cr about mid-grey
STEPS = 64  # of the ranking, per octave: all machines round alike
HEADROOM = 1.5  # a codebook that all tokens share says less than theory allows


def cosines(size: int) -> Float[Tensor, "U P"]:
    """The orthonormal discrete cosine transform (DCT-II) of ``size`` positions, float64, a row for each frequency."""
    place = torch.arange(size, dtype=torch.float64)
    rows = (place[:, None] * (place + 0.5) * (math.pi / size)).cos() * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def expected_cosines(levels: int, tile: int) -> Float[Tensor, "U V F"]:
    """Root mean square of cosine (u, v) over a tile of each wavelet band of Y, Cb and Cr of a photo, float64.

    The model of a photo is a sum of separable Markov fields (Jain, Fundamentals of Digital Image Processing, 1989) of
    several ranges: one range alone takes what is as large as a tile to be nearly nothing.
    """
    variance = torch.zeros((), dtype=torch.float64)
    for correlation, share in FIELDS.items():
        axis = axis_variance(levels, tile, correlation)
        variance = variance + share * interleaved(torch.einsum("uy,vx->uvyx", axis, axis))
    return torch.cat([variance.sqrt() * deviation for deviation in DEVIATION], dim=2)


def axis_variance(levels: int, tile: int, correlation: float) -> Float[Tensor, "U bands"]:
    """Variance of cosine u over a tile of each band, along one axis of a Markov field of unit variance."""
    samples = 3 * tile * 2**levels  # a tile between two others
    place = torch.arange(samples, dtype=torch.float64)
    covariance = correlation ** (place[:, None] - place).abs()
    bands = WaveletPacket1d(levels).double()(torch.eye(samples, dtype=torch.float64)[:, None])[:, :, tile : 2 * tile]
    waves = (bands @ cosines(tile).mT).flatten(1)  # what each sample gives to a cosine of a band
    return ((covariance @ waves) * waves).sum(0).view(2**levels, tile).mT


def shared_out(strengths: Int[Tensor, " all"], tokens: int, width: int, bits: float) -> list[int]:
    """How many cosines each token takes, in order: as many as its bits can say.

    By rate-distortion theory (reverse water-filling) a cosine takes as many bits as its strength has octaves above a
    level that is the same for all; the level is where the bits of all tokens, with some headroom, are spent. The mean
    of a tile takes many of them, so the first tokens have two or three cosines and the last ones many.

    Args:
        strengths: Whole numbers of `STEPS` per octave, falling; of all cosines.
        tokens: Of a tile.
        width: Most cosines of a token.
        bits: Of a token.
    """
    count = torch.arange(1, len(strengths) + 1)
    spent = strengths.cumsum(0) - count * strengths  # if the level were the strength of this one
    last = int((spent <= round(HEADROOM * tokens * bits * STEPS)).sum())
    taken = (strengths - strengths[last - 1]).clamp(min=0)
    sizes, start = list[int](), 0
    for _ in range(tokens):
        said = taken[start : start + width].cumsum(0)
        sizes.append(min(int((said < round(bits * STEPS)).sum()) + 1, width))
        start += sizes[-1]
    return sizes


class RankedCosines(nn.Module):
    """Bands of tiles to vectors of cosines and back, the strongest first; a linear map and its inverse on its range.

    A vector holds as many cosines as `shared_out` gives it, and zeros behind. The strengths inside a vector are as in a
    photo, and what it holds is of mean square 1: the last vectors are as loud as the first.

    Args:
        expected: Root mean squares of all cosines (`expected_cosines`).
        scale: What bands are divided by before they come, a number each.
        tokens: Vectors of a tile.
        width: Most cosines in a vector.
        bits: Of the codes of a vector.

    Raises:
        ValueError: If a tile has fewer cosines.
    """

    basis: Tensor
    chosen: Tensor
    place: Tensor
    gain: Tensor

    def __init__(
        self, expected: Float[Tensor, "U V F"], scale: Float[Tensor, " F"], tokens: int, width: int, bits: float
    ) -> None:
        super().__init__()
        if tokens * width > expected.numel():
            raise ValueError(
                f"a tile has {expected.numel()} cosines, got {tokens} tokens of {width}; use fewer or larger tiles"
            )
        self.tile, self.bands, self.width = expected.shape[0], expected.shape[2], width
        strengths, rank = (expected.flatten().log2() * STEPS).round().long().sort(descending=True, stable=True)
        sizes = shared_out(strengths, tokens, width, bits)
        self.ends = [0, *accumulate(sizes)]  # cosines of the first tokens
        chosen = rank[: self.ends[-1]]
        loud = [
            strength.square().mean().sqrt().expand_as(strength) for strength in expected.flatten()[chosen].split(sizes)
        ]
        place = torch.cat([torch.arange(size) + width * token for token, size in enumerate(sizes)])
        self.register_buffer("basis", cosines(self.tile).float(), persistent=False)
        self.register_buffer("chosen", chosen, persistent=False)
        self.register_buffer("place", place, persistent=False)
        self.register_buffer("gain", (scale[chosen % self.bands] / torch.cat(loud)).float(), persistent=False)

    def forward(self, tiles: Float[Tensor, "B M P F"], tokens: int) -> Float[Tensor, "B M Q D"]:
        """The first vectors of each tile."""
        end = self.ends[tokens]
        tiles = rearrange(tiles, "b m (y x) f -> b m y x f", y=self.tile)
        spectrum = torch.einsum("uy,vx,bmyxf->bmuvf", self.basis, self.basis, tiles).flatten(2)
        known = spectrum[:, :, self.chosen[:end]] * self.gain[:end]
        vectors = known.new_zeros(*known.shape[:2], tokens * self.width).index_copy(2, self.place[:end], known)
        return vectors.unflatten(2, (tokens, self.width))

    def inverse(self, vectors: Float[Tensor, "B M Q D"]) -> Float[Tensor, "B M P F"]:
        """Tiles of the first vectors; the cosines of those that are missing are zero."""
        end = self.ends[vectors.shape[2]]
        known = vectors.flatten(2)[:, :, self.place[:end]] / self.gain[:end]
        spectrum = known.new_zeros(*known.shape[:2], self.tile * self.tile * self.bands)
        spectrum = spectrum.index_copy(2, self.chosen[:end], known)
        spectrum = rearrange(spectrum, "b m (u v f) -> b m u v f", u=self.tile, v=self.tile)
        return torch.einsum("uy,vx,bmuvf->bmyxf", self.basis, self.basis, spectrum).flatten(2, 3)


class ElasticImageEncoder(nn.Module):
    """Pixels to latents, tile after tile, row by row, in the order of the tokens within a tile.

    Args:
        front: Pixels to bands.
        cosines: Bands of a tile to the vectors that a latent starts from.
        queries: Bands of a tile to an anchor and queries.
        latent_dim: Width of a latent, and of the vectors.
    """

    def __init__(
        self, front: WaveletFront, cosines: RankedCosines, queries: AnchoredQueryEncoder, latent_dim: int
    ) -> None:
        super().__init__()
        self.front, self.cosines, self.queries, self.nested = front, cosines, queries, queries.nested
        self.embed = nn.Linear(front.bands, queries.transformer.dim)
        self.project = nn.Linear(queries.transformer.dim, latent_dim)
        self.gain = nn.Parameter(torch.ones(queries.most, latent_dim))
        nn.init.normal_(self.project.weight, std=1e-3)
        nn.init.zeros_(self.project.bias)

    def forward(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole tiles, all at once."""
        return read_whole(self.front, signal, rate, self._read)

    def piecewise(self, signal: Float[Tensor, "B C H W"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, one tile at a time, and the bands of a few."""
        return read_in_pieces(self.front, signal, rate, self._read)

    def _read(self, tiles: Float[Tensor, "B M P F"], rate: Rate) -> Float[Tensor, "B M Q D"]:
        queries, _ = self.queries(self.embed(tiles), rate.window, rate.queries)
        linear = self.cosines(tiles, rate.queries) * self.gain[: rate.queries]
        return self.project(queries) + linear


class ElasticImageDecoder(nn.Module):
    """Latents to pixels; a latent of zeros is one that was not sent. Arguments mirror `ElasticImageEncoder`."""

    def __init__(
        self, front: WaveletFront, cosines: RankedCosines, queries: AnchoredQueryDecoder, latent_dim: int
    ) -> None:
        super().__init__()
        self.front, self.cosines, self.queries = front, cosines, queries
        self.project = nn.Linear(latent_dim, queries.transformer.dim, bias=False)
        self.head = nn.Linear(queries.transformer.dim, front.bands)
        self.gain = nn.Parameter(torch.ones(queries.most, latent_dim))
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The signal of whole tiles, all at once."""
        return write_whole(self.front, latents, extent, rate, self._write)

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C H W"]:
        """The same signal, one tile at a time; the bands of a few rows of tiles are held."""
        return write_in_pieces(self.front, latents, extent, rate, self._write)

    def _write(self, latents: Tensor, rate: Rate) -> Tensor:
        """Bands of each tile ``[B, M, P, F]``."""
        latents = rearrange(latents, "b (m q) d -> b m q d", q=rate.queries)
        positions, _ = self.queries(self.project(latents), rate.window)
        return self.head(positions) + self.cosines.inverse(latents * self.gain[: rate.queries])
