"""The wavelet ends of image codecs: pixels to bands of unit deviation and back, and which bands matter most."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from sigtok.codecs.spec import Extent
from sigtok.codecs.transforms.colour import YCbCr
from sigtok.codecs.transforms.wavelet import WaveletPacket1d, WaveletPacket2d

DEVIATION = (0.5, 0.2, 0.2)  # of the pixels of a photo: Y, Cb, Cr
REACH = 4  # positions to each side that a band or a pixel depends on: 2 at the last level, half at each one before


def band_scale(levels: int, correlation: float = 0.95) -> Float[Tensor, "rows columns"]:
    """Standard deviation of each band of a wavelet packet of both axes under the classical model of a photo.

    The model is a separable first-order Markov field of unit variance (Jain, Fundamentals of Digital Image
    Processing, 1989): neighbours correlate by ``correlation`` along each axis. Bands are numbered along each axis.
    """
    size = 16 * 2**levels
    place = torch.arange(size, dtype=torch.float64)
    covariance = correlation ** (place[:, None] - place).abs()
    analysis = WaveletPacket1d(levels).double()(torch.eye(size, dtype=torch.float64)[:, None])[:, :, 8]
    deviation = torch.einsum("tb,ts,sb->b", analysis, covariance, analysis).sqrt()
    return torch.outer(deviation, deviation).float()


def interleaved(bands: Shaped[Tensor, "*any y x"]) -> Shaped[Tensor, "*any yx"]:
    """Bands by their numbers along both axes, in the order of `WaveletPacket2d`: bits of both in turn."""
    levels, before = bands.shape[-1].bit_length() - 1, bands.ndim - 2
    bits = bands.reshape(*bands.shape[:-2], *(2,) * (2 * levels))
    order = [before + level + axis * levels for level in range(levels) for axis in range(2)]
    return bits.permute(*range(before), *order).flatten(before)


def photo_scale(bands: Float[Tensor, " bands"]) -> Float[Tensor, " F"]:
    """Deviations of the bands of Y, Cb and Cr, of those of a field of unit variance."""
    return torch.cat([bands * deviation for deviation in DEVIATION])


class WaveletFront(nn.Module):
    """Pixels ``[B, 3, H, W]`` to normalised bands ``[B, 3 * 4^levels, H / 2^levels, W / 2^levels]`` and back.

    Args:
        levels: Of the wavelet packet; a position is ``hop = 2^levels`` pixels wide.
        scale: Expected deviation of each band, in place of `photo_scale`.
    """

    scale: Tensor

    def __init__(self, levels: int, scale: Float[Tensor, " F"] | None = None) -> None:
        super().__init__()
        self.colour, self.packet = YCbCr(), WaveletPacket2d(levels)
        self.hop, self.bands = 2**levels, 3 * 4**levels
        scale = photo_scale(interleaved(band_scale(levels))) if scale is None else scale
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
    weight[torch.arange(len(chosen)), chosen] = scale[chosen] / scale[chosen].square().mean().sqrt()
    return weight
