"""A rate-distortion codec of stereo sound: a spectrum, one linear map, whole numbers; a deep decoder of frames.

::

    left, right -mid and side, spectrum-> bins -linear, gains, shrink, round-> whole numbers       (encoder)
    whole numbers -gains, linear-> bins -blocks + identity-> bins -inverse, left and right-> sound (decoder)

WaLLoC's asymmetry (Jacobellis and Yadwadkar, 2024, arXiv 2412.09405), trained for the squared error alone. Its wavelet
packet is one of two spectra; lapped blocks (MDCT) separate frequencies better, which music needs. The codec starts as a
transform codec: the linear maps as identity, the network as zero. Whole numbers come from float64, as in
`sigtok.codecs.image.walloc`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.densities.base import between
from sigtok.codecs.entropy.spectral import BAND
from sigtok.codecs.layers.ladder import Gains, Steps, moved, shrunk
from sigtok.codecs.spec import Extent, Rate
from sigtok.codecs.transforms.blocks import LappedBlocks
from sigtok.codecs.transforms.precision import no_autocast
from sigtok.codecs.transforms.wavelet import WaveletPacket1d

PIECE = 64  # frames that are computed at once
KERNEL = 3  # frames that a block of the decoder sees
LOUD, CORNER = 1.0, 200.0  # about the deviation of the lowest bins of music; Hz from where on it falls


class Spectrum(nn.Module):
    """Stereo ``[B, 2, T]`` to mid and side ``[B, 2, bins, frames]`` and back; orthonormal, or about.

    A frame depends on ``margin`` frames to each side, at most, and on ``lookahead`` samples after it.

    Args:
        bins: Of a frame, and samples of it.
        kind: "mdct", or "wavelet" for a packet, ``bins`` a power of 2.

    Raises:
        ValueError: If bins are no multiple of 16, or of a packet no power of 2.
    """

    order: Tensor
    back: Tensor

    def __init__(self, bins: int, kind: Literal["mdct", "wavelet"]) -> None:
        super().__init__()
        if bins % BAND or (kind == "wavelet" and bins & (bins - 1)):
            raise ValueError(f"bins are a multiple of {BAND}, of wavelets a power of 2, got {bins}; choose another")
        self.bins, self.margin = bins, 1 if kind == "mdct" else 4
        self.lookahead = bins // 2 if kind == "mdct" else 3 * (bins - 1)
        self.transform = LappedBlocks(bins) if kind == "mdct" else WaveletPacket1d(bins.bit_length() - 1)
        rising = torch.arange(bins)
        order = rising if kind == "mdct" else rising ^ (rising >> 1)  # high bands are turned around at every split
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    def split(self, signal: Float[Tensor, "B C T"]) -> Float[Tensor, "B C bins frames"]:
        """Bins, low frequencies first."""
        return self.transform(_turned(signal)).unflatten(1, (2, self.bins))[:, :, self.order]

    def join(self, spectrum: Float[Tensor, "B C bins frames"]) -> Float[Tensor, "B C T"]:
        """The sound of bins."""
        extent = (spectrum.shape[3] * self.bins,)
        return _turned(self.transform.inverse(spectrum[:, :, self.back].flatten(1, 2), extent))


class Mixing(nn.Module):
    """A linear map of the bins of a frame, at first the identity: of all with all, or of mid with side in each band.

    Args:
        bins: Of a frame.
        full: Whether all bins mix; a matrix of ``(2 bins)^2``.
    """

    def __init__(self, bins: int, full: bool) -> None:
        super().__init__()
        eye = torch.eye(2 * bins) if full else torch.eye(2).repeat(bins // BAND, 1, 1)
        self.weight = nn.Parameter(eye)

    def forward(self, spectrum: Float[Tensor, "B C bins frames"]) -> Float[Tensor, "B C bins frames"]:
        """The same shape."""
        with no_autocast(spectrum):
            weight = self.weight.to(spectrum)
            if weight.ndim == 2:
                return (weight @ spectrum.flatten(1, 2)).view_as(spectrum)
            bands = spectrum.unflatten(2, (-1, BAND))
            return torch.einsum("kdc,bckft->bdkft", weight, bands).flatten(2, 3)


class WallocAudioEncoder(nn.Module):
    """Stereo to values in steps, one latent (mid, side) for each bin of frame after frame.

    Args:
        spectrum: The transform.
        steps: See `Gains`; one gain for each 16 bins.
        full: See `Mixing`.
    """

    def __init__(self, spectrum: Spectrum, steps: Float[Tensor, " S"], full: bool) -> None:
        super().__init__()
        self.spectrum, self.mixing = spectrum, Mixing(spectrum.bins, full)
        self.gains = Gains(steps, torch.ones(2 * spectrum.bins // BAND))

    def forward(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Values of whole frames, not yet rounded."""
        return _as_latents(self._values(signal, rate))

    def piecewise(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same values of float64, rounded, so many frames at a time."""
        pieces = _pieces(signal, self.spectrum.bins, self.spectrum.margin)
        made = [self._values(part.double(), rate)[..., first:last].round().float() for part, first, last in pieces]
        return _as_latents(torch.cat(made, -1))

    def _values(self, signal: Tensor, rate: Rate) -> Float[Tensor, "B C bins frames"]:
        gain, dead = (_per_bin(law).to(signal) for law in self.gains.at(rate.quality))
        return shrunk(self.mixing(self.spectrum.split(signal)) * gain, dead)


class WallocAudioDecoder(nn.Module):
    """Whole numbers back to stereo.

    Args:
        spectrum: The transform.
        steps: See `Steps`.
        full: See `Mixing`.
        width: Channels of the blocks.
        depth: How many blocks.
        sample_rate: Hz.
    """

    unit: Tensor

    def __init__(
        self, spectrum: Spectrum, steps: Float[Tensor, " S"], full: bool, width: int, depth: int, sample_rate: int
    ) -> None:
        super().__init__()
        bins = spectrum.bins
        self.spectrum, self.mixing, self.reach = spectrum, Mixing(bins, full), depth * (KERNEL // 2)
        self.steps = Steps(steps, torch.ones(2 * bins // BAND))
        self.embed = nn.Conv1d(2 * bins, width, 1)
        self.rungs = nn.Parameter(torch.zeros(len(steps), width))
        self.blocks = nn.Sequential(*(FrameBlock(width) for _ in range(depth)))
        self.head = nn.Conv1d(width, 2 * bins, 1)
        for weight in self.head.parameters():
            nn.init.zeros_(weight)
        centres = (torch.arange(bins) + 0.5) * sample_rate / (2 * bins)
        self.register_buffer("unit", (LOUD / (1 + centres / CORNER))[:, None], persistent=False)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C T"]:
        """The signal of whole frames, all at once."""
        values = latents.mT.unflatten(2, (-1, self.spectrum.bins)).mT
        step, outward = (_per_bin(law) for law in self.steps.at(rate.quality))
        spectrum = self.mixing(moved(values, outward) * step)
        scaled = (spectrum / self.unit).flatten(1, 2)
        found = self.head(self.blocks(self.embed(scaled) + between(self.rungs, rate.quality)[:, None]))
        return self.spectrum.join(spectrum + found.view_as(spectrum) * self.unit)

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B C T"]:
        """The same signal, so many frames at a time."""
        bins = self.spectrum.bins
        made = [
            self(part.mT, (part.shape[2],), rate)[..., first * bins : last * bins]
            for part, first, last in _pieces(latents.mT, bins, self.reach + self.spectrum.margin)
        ]
        return torch.cat(made, -1)


class FrameBlock(nn.Module):
    """ConvNeXt's block over frames (arXiv 2201.03545): neighbours per channel, then channels per frame; residual.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.near = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, frames: Float[Tensor, "B width frames"]) -> Float[Tensor, "B width frames"]:
        """The same shape."""
        return frames + self.network(self.norm(self.near(frames).mT)).mT


def _turned(signal: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
    """Left and right to mid and side, and back."""
    left, right = signal.unbind(1)
    return torch.stack((left + right, left - right), 1) * math.sqrt(0.5)


def _per_bin(law: Float[Tensor, " D"]) -> Float[Tensor, "C bins one"]:
    return law.view(2, -1).repeat_interleave(BAND, 1)[..., None]


def _as_latents(values: Float[Tensor, "B C bins frames"]) -> Float[Tensor, "B N D"]:
    return values.mT.flatten(2).mT


def _pieces(values: Float[Tensor, "B C T"], bins: int, margin: int) -> list[tuple[Tensor, int, int]]:
    """Frames a piece at a time with their neighbours, and which of them the piece stands for."""
    count, found = values.shape[2] // bins, []
    for start in range(0, count, PIECE):
        first, end = max(0, start - margin), min(count, start + PIECE)
        last = min(count, end + margin)
        found.append((values[..., first * bins : last * bins], start - first, end - first))
    return found
