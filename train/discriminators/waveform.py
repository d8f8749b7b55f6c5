"""Multi-period discriminator: samples a period apart, side by side.

Kong et al., "HiFi-GAN", 2020, arXiv 2010.05646, section 2.3.
"""

from collections.abc import Sequence

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.parametrizations import weight_norm

from .base import ConvStack, Discriminator, Discriminators, Judgement


class PeriodDiscriminator(Discriminator):
    """Judges each phase of a period by itself, with the same kernels of 5 samples, a period apart.

    Scores are ``[B, 1, period, places]``.

    Args:
        period: Samples, at least 1.
        widths: Channels of every layer; each but the last keeps a third of the places.
        channels: Of the signal.
    """

    def __init__(self, period: int, widths: Sequence[int], channels: int = 1) -> None:
        super().__init__()
        self.period = period
        strides = [3] * (len(widths) - 1) + [1]
        self.stack = ConvStack(
            [
                nn.Conv2d(before, width, (1, 5), (1, stride), (0, 2))
                for before, width, stride in zip([channels, *widths[:-1]], widths, strides, strict=True)
            ],
            slope=0.1,
        )
        self.head = weight_norm(nn.Conv2d(widths[-1], 1, (1, 3), padding=(0, 1)))

    def forward(self, signal: Float[Tensor, "B C T"]) -> list[Judgement]:
        """One judgement."""
        features = self.stack(fold(signal, self.period))
        return [Judgement(self.head(features[-1]), features)]


def fold(signal: Float[Tensor, "B C T"], period: int) -> Float[Tensor, "B C {period} L"]:
    """Row k holds the samples k, k + period, ...: a column is one period. Zeros fill the last column."""
    return rearrange(pad(signal, (0, -signal.shape[2] % period)), "b c (l p) -> b c p l", p=period)


def mpd(
    periods: Sequence[int] = (2, 3, 5, 7, 11),
    widths: Sequence[int] = (32, 128, 512, 1024, 1024),
    channels: int = 1,
) -> Discriminators:
    """The multi-period discriminator of HiFi-GAN and DAC; 41 million parameters.

    Args:
        periods: Samples; primes, so that they share few samples.
        widths: Channels of every layer.
        channels: Of the signal.
    """
    return Discriminators([PeriodDiscriminator(period, widths, channels) for period in periods])
