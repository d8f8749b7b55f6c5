"""Discriminators of complex spectrograms at several resolutions, whole (MS-STFT) or band by band (MRD).

Défossez et al., "High Fidelity Neural Audio Compression" (EnCodec), 2022, arXiv 2210.13438, section 3.4; Kumar et al.,
"High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023, arXiv 2306.06546, section 3.3.
"""

from collections.abc import Sequence
from itertools import chain, pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from sigtok.codecs.metrics.mel import hann
from sigtok.codecs.transforms.precision import at_least_float32

from .base import ConvStack, Discriminator, Discriminators, Judgement


class STFTDiscriminator(Discriminator):
    """Judges one complex spectrogram: a stack of convolutions for every band of it, then one for all bands.

    Scores are ``[B, 1, frames, places]``; features come band by band.

    Args:
        window: Samples of a frame; the hop is a quarter.
        edges: Of the bands, rising fractions of half the sample rate.
        dilations: Of the layers that halve the bins, in frames.
        width: Channels of every layer.
        slope: Of the rectifiers below zero.
        channels: Of the signal.

    Raises:
        ValueError: If a band holds no bin.
    """

    def __init__(
        self, window: int, edges: Sequence[float], dilations: Sequence[int], width: int, slope: float, channels: int = 1
    ) -> None:
        super().__init__()
        self.window = window
        bins = window // 2 + 1
        ends = [int(edge * bins) for edge in edges]
        self.bands = [slice(low, high) for low, high in pairwise(ends)]
        if any(band.start >= band.stop for band in self.bands):
            raise ValueError(
                f"a band holds at least one of the {bins} bins of its window, got edges {tuple(edges)} at bins "
                f"{tuple(ends)}; take a longer window or wider bands"
            )
        self.stacks = nn.ModuleList(ConvStack(layers(2 * channels, width, dilations), slope) for _ in self.bands)
        self.head = weight_norm(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, signal: Float[Tensor, "B C T"]) -> list[Judgement]:
        """One judgement."""
        frames = spectrogram(signal, self.window)
        features = [stack(frames[..., band]) for stack, band in zip(self.stacks, self.bands, strict=True)]
        score = self.head(torch.cat([maps[-1] for maps in features], dim=-1))
        return [Judgement(score, list(chain.from_iterable(features)))]


def layers(channels: int, width: int, dilations: Sequence[int]) -> list[nn.Module]:
    """Convolutions over 3 frames and 9 bins; one per dilation halves the bins."""
    halving = [nn.Conv2d(width, width, (3, 9), (1, 2), (reach, 4), (reach, 1)) for reach in dilations]
    return [nn.Conv2d(channels, width, (3, 9), padding=(1, 4)), *halving, nn.Conv2d(width, width, 3, padding=1)]


def spectrogram(signal: Float[Tensor, "B C T"], window: int) -> Float[Tensor, "B 2*C frames bins"]:
    """Real parts of all channels, then imaginary parts, of Hann-windowed centred frames a quarter window apart.

    Silence lies outside the signal, so that any extent has a frame. White noise keeps its power in every bin.
    """
    samples = at_least_float32(signal).flatten(0, 1)
    taper = hann(window, samples.dtype, samples.device)
    frames = torch.stft(
        samples, window, window // 4, window=taper / taper.norm(), pad_mode="constant", return_complex=True
    )
    return rearrange(torch.view_as_real(frames), "(b c) f m part -> b (part c) m f", b=len(signal))


def ms_stft(windows: Sequence[int] = (2048, 1024, 512, 256, 128), width: int = 32, channels: int = 1) -> Discriminators:
    """The multi-scale STFT discriminator of EnCodec, at the five windows of its recipe; 0.5 million parameters.

    Args:
        windows: Samples of a frame at every scale.
        width: Channels of every layer.
        channels: Of the signal.
    """
    whole = (0.0, 1.0)
    return Discriminators([STFTDiscriminator(window, whole, (1, 2, 4), width, 0.2, channels) for window in windows])


def mrd(windows: Sequence[int] = (2048, 1024, 512), width: int = 32, channels: int = 1) -> Discriminators:
    """The multi-resolution, multi-band discriminator of DAC; 1.4 million parameters.

    Args:
        windows: Samples of a frame at every resolution, at least 18 for five bands.
        width: Channels of every layer.
        channels: Of the signal.
    """
    edges = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    return Discriminators([STFTDiscriminator(window, edges, (1, 1, 1), width, 0.1, channels) for window in windows])
