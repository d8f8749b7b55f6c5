"""Magnitude spectra and mel filters, shared by the distances people report and the losses that train them."""

from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

SCALES = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))  # (window, mel bands)
FLOOR = 1e-5  # magnitudes below it count as silence


def magnitudes(signal: Float[Tensor, "*B T"], window: int, hop: int | None = None) -> Float[Tensor, "*B F M"]:
    """Magnitudes of the Hann-windowed short-time spectrum, ``F = window / 2 + 1`` bins of M centred frames.

    The edges are mirrored; a signal too short to mirror is continued by zeros. Float32 or wider.

    Args:
        signal: Samples.
        window: Samples per frame.
        hop: Samples between frames, a quarter of the window by default.
    """
    signal = signal if signal.dtype == torch.float64 else signal.float()
    signal = pad(signal, (0, max(0, window // 2 + 1 - signal.shape[-1])))
    taper = hann(window, signal.dtype, signal.device)
    frames = torch.stft(
        signal.reshape(-1, signal.shape[-1]), window, hop or window // 4, window=taper, return_complex=True
    )
    return frames.abs().reshape(*signal.shape[:-1], *frames.shape[1:])


@lru_cache(64)
def hann(window: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The periodic Hann window."""
    with torch.inference_mode(False):
        return torch.hann_window(window, dtype=dtype, device=device)


def to_mel(hertz: Tensor, scale: Literal["slaney", "htk"] = "slaney") -> Tensor:
    """Mel of a frequency in Hz.

    Source: Slaney's Auditory Toolbox (1998), linear to 1 kHz and logarithmic above; O'Shaughnessy (1987) for "htk".
    """
    if scale == "htk":
        return 2595 * torch.log10(1 + hertz / 700)
    return torch.where(hertz < 1000, hertz * 3 / 200, 15 + 27 * (hertz.clamp(min=1) / 1000).log() / LOG_6_4)


def to_hertz(mel: Tensor, scale: Literal["slaney", "htk"] = "slaney") -> Tensor:
    """The inverse of `to_mel`."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < 15, mel * 200 / 3, 1000 * ((mel - 15) * LOG_6_4 / 27).exp())


LOG_6_4 = torch.tensor(6.4, dtype=torch.float64).log().item()


@lru_cache(64)
def mel_filters(
    sample_rate: int,
    window: int,
    bands: int,
    low: float = 0.0,
    high: float | None = None,
    scale: Literal["slaney", "htk"] = "slaney",
    unit_area: bool = True,
) -> Float[Tensor, "F M"]:
    """Triangular mel filters over the bins of `magnitudes`; bands that no bin falls into are left out.

    Args:
        sample_rate: Hz.
        window: Samples per frame.
        bands: Mel bands asked for; M of them see at least one bin.
        low: Lowest frequency in Hz.
        high: Highest frequency in Hz, half the sample rate by default.
        scale: Formula of the mel scale.
        unit_area: Divide every triangle by its area (Slaney), else every peak is 1.
    Raises:
        ValueError: If the range of frequencies is empty or leaves the spectrum.
    """
    high = sample_rate / 2 if high is None else high
    if not 0 <= low < high <= sample_rate / 2:
        raise ValueError(
            f"mel bands lie between 0 and {sample_rate / 2} Hz, got {low} to {high}; pass low < high in that range"
        )
    with torch.inference_mode(False):
        bins = torch.linspace(0, sample_rate / 2, window // 2 + 1, dtype=torch.float64)
        filters = triangles(bins, bands, low, high, scale, unit_area)
        return filters[:, filters.sum(0) > 0].float()


def triangles(
    bins: Float[Tensor, " F"],
    bands: int,
    low: float,
    high: float,
    scale: Literal["slaney", "htk"] = "slaney",
    unit_area: bool = True,
) -> Float[Tensor, "F N"]:
    """Triangular filters, evenly spaced in mel, over bins at some frequencies in Hz; also those that no bin falls into.

    Float64; the other arguments are those of `mel_filters`.
    """
    ends = to_mel(torch.tensor([low, high], dtype=torch.float64), scale)
    edges = to_hertz(torch.linspace(float(ends[0]), float(ends[1]), bands + 2, dtype=torch.float64), scale)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    filters = torch.minimum(rising, falling).clamp(min=0)
    return filters * (2 / (right - left)) if unit_area else filters


def mel_power(signal: Float[Tensor, " T"], sample_rate: int, window: int, hop: int, bands: int) -> Float[Tensor, "N M"]:
    """Mel bands (Slaney) of the power spectrum of centred Hann windows, with zeros beyond the edges.

    What librosa calls a mel spectrogram, and networks of speech were trained on. All bands asked for are there, those
    that no bin falls into as zeros; the window may be odd.

    Args:
        signal: Samples.
        sample_rate: Hz.
        window: Samples per frame.
        hop: Samples between frames.
        bands: Mel bands N from 0 Hz to half the sample rate.
    """
    bins = torch.arange(window // 2 + 1, dtype=torch.float64) * sample_rate / window
    filters = triangles(bins, bands, 0.0, sample_rate / 2).float()
    taper = hann(window, torch.float32, signal.device)
    spectrum = torch.stft(signal.float(), window, hop, window=taper, pad_mode="constant", return_complex=True)
    return filters.T.to(signal.device) @ spectrum.abs().square()


def log_mel(spectrum: Float[Tensor, "*B F M"], filters: Float[Tensor, "F N"]) -> Float[Tensor, "*B N M"]:
    """Common logarithm of the mel magnitudes, floored at 1e-5."""
    return (filters.T.to(spectrum) @ spectrum).clamp(min=FLOOR).log10()
