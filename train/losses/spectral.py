"""Losses on magnitude spectra at several resolutions: what the ear compares, without the phase."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from sigtok.codecs.metrics.mel import FLOOR, SCALES, log_mel, magnitudes, mel_filters

from .base import Loss

WINDOWS, BANDS = tuple(window for window, _ in SCALES), tuple(bands for _, bands in SCALES)


class MultiScaleMel(Loss):
    """L1 of log10 mel magnitudes, summed over window lengths.

    Args:
        sample_rate: Hz of the signals.
        windows: Samples per frame of every scale; the hop is a quarter.
        mels: Mel bands of every scale; bands that no bin falls into are left out.
        low: Lowest frequency in Hz.
        high: Highest frequency in Hz, half the sample rate by default.

    All seven scales are the published loss. ``windows=[64, 256, 1024, 2048], mels=[10, 40, 160, 320]`` takes
    about half the time.

    Source: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), 2023, section 3.4.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: Sequence[int] = WINDOWS,
        mels: Sequence[int] = BANDS,
        low: float = 0.0,
        high: float | None = None,
    ) -> None:
        super().__init__()
        if len(windows) != len(mels):
            raise ValueError(
                f"every scale has a window and a number of mel bands, got {len(windows)} windows and "
                f"{len(mels)} mels; give lists of one length"
            )
        self.windows = tuple(windows)
        for window, bands in zip(windows, mels, strict=True):
            filters = mel_filters(sample_rate, window, bands, low, high)
            self.register_buffer(f"filters_{window}", filters, persistent=False)

    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Sum over scales."""
        return torch.stack([self.at_scale(window, reconstruction, signal) for window in self.windows]).sum()

    def at_scale(self, window: int, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """The L1 distance of one window length."""
        filters = self.get_buffer(f"filters_{window}")
        with torch.no_grad():
            target = log_mel(magnitudes(signal, window), filters)
        return l1_loss(log_mel(magnitudes(reconstruction, window), filters), target)


class MultiResolutionSTFT(Loss):
    """Spectral convergence plus L1 of log magnitudes, averaged over window lengths.

    Args:
        windows: Samples per frame of every resolution; the hop is a quarter.

    The norm in the denominator of the convergence is floored at 1e-3 per bin, so that silence does not divide.

    Source: Yamamoto et al., "Parallel WaveGAN", 2020, equations 3-6.
    """

    def __init__(self, windows: Sequence[int] = (512, 1024, 2048)) -> None:
        super().__init__()
        self.windows = tuple(windows)

    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Mean over resolutions."""
        return torch.stack([self.at_resolution(window, reconstruction, signal) for window in self.windows]).mean()

    def at_resolution(self, window: int, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """Both terms of one window length."""
        with torch.no_grad():
            target = magnitudes(signal, window)
            logarithm, norm = target.clamp(min=FLOOR).log(), target.norm().clamp(min=1e-3 * target.numel() ** 0.5)
        guess = magnitudes(reconstruction, window)
        return (guess - target).norm() / norm + l1_loss(guess.clamp(min=FLOOR).log(), logarithm)
