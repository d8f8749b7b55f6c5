"""Distances between a decoded sound and its original, as plain numbers."""

from jaxtyping import Float
from torch import Tensor

from .intelligibility import stoi as stoi
from .mel import FLOOR, SCALES, log_mel, magnitudes, mel_filters
from .pairs import check_pair


def mel_distance(reconstruction: Float[Tensor, "*B T"], reference: Float[Tensor, "*B T"], sample_rate: int) -> float:
    """L1 of log10 mel magnitudes, summed over seven window lengths; 0 is equal, about 5 is a hoarse codec.

    Args:
        reconstruction: Samples in [-1, 1].
        reference: Samples in [-1, 1].
        sample_rate: Hz.
    Raises:
        ValueError: If the shapes differ.
    Source: Kumar et al. (DAC), 2023; its seven scales and constants, natural units of log10.
    """
    check_pair(reconstruction, reference)
    total = 0.0
    for window, bands in SCALES:
        filters = mel_filters(sample_rate, window, bands)
        pair = [log_mel(magnitudes(signal, window), filters) for signal in (reconstruction, reference)]
        total += (pair[0] - pair[1]).abs().mean().item()
    return total


def log_spectral_distance(
    reconstruction: Float[Tensor, "*B T"], reference: Float[Tensor, "*B T"], window: int = 2048
) -> float:
    """Root mean square difference of power spectra in dB per frame, averaged over frames.

    Args:
        reconstruction: Samples in [-1, 1].
        reference: Samples in [-1, 1].
        window: Samples per frame, the hop is a quarter.
    Raises:
        ValueError: If the shapes differ.
    Source: Gray and Markel, "Distance measures for speech processing", 1976.
    """
    check_pair(reconstruction, reference)
    pair = [20 * magnitudes(signal, window).clamp(min=FLOOR).log10() for signal in (reconstruction, reference)]
    return (pair[0] - pair[1]).square().mean(-2).sqrt().mean().item()


def snr(reconstruction: Float[Tensor, "*B T"], reference: Float[Tensor, "*B T"]) -> float:
    """Signal-to-noise ratio in dB of the energies of all channels together, the mean over items; strict about gain and
    alignment.

    Channels are the axis before the last: a quiet one weighs as little as it is heard.

    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(reconstruction, reference)
    pair = (signal.double().flatten(max(0, signal.dim() - 2)) for signal in (reconstruction, reference))
    decoded, wanted = pair
    return _decibels(wanted, wanted - decoded).mean().item()


def si_sdr(reconstruction: Float[Tensor, "*B T"], reference: Float[Tensor, "*B T"]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, the mean over items and channels.

    Half a millisecond of delay costs tens of dB: it says whether a waveform path is right and ranks no
    generative codec.

    Raises:
        ValueError: If the shapes differ.
    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, equation 5.
    """
    check_pair(reconstruction, reference)
    return scale_invariant_ratio(reconstruction.double(), reference.double()).mean().item()


def scale_invariant_ratio(
    reconstruction: Float[Tensor, "*B T"], reference: Float[Tensor, "*B T"]
) -> Float[Tensor, "*B"]:
    """SI-SDR of every item and channel in dB, differentiable; silence against silence is 0 dB."""
    reconstruction = reconstruction - reconstruction.mean(-1, keepdim=True)
    reference = reference - reference.mean(-1, keepdim=True)
    gain = (reconstruction * reference).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + 1e-8)
    return _decibels(gain * reference, reconstruction - gain * reference)


def _decibels(wanted: Tensor, unwanted: Tensor) -> Tensor:
    """Ratio of energies in dB; 1e-8 on both sides keeps silence and perfection finite."""
    return 10 * ((wanted.square().sum(-1) + 1e-8) / (unwanted.square().sum(-1) + 1e-8)).log10()
