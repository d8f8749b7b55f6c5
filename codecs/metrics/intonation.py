"""What became of a voice's pitch: how far it went where both sounds have one, and how often only one of them has."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sigtok.codecs.transforms.periodicity import HIGHEST

from .pairs import check_pair
from .pitch import pitch

PER_SECOND = 100  # frames
OCTAVE = 1200.0  # cents; no frame counts more


def pitch_cents(reconstruction: Float[Tensor, "*B T"], reference: Float[Tensor, "*B T"], sample_rate: int) -> float:
    """Root mean square difference of pitch in cents over frames that are voiced in both, the mean over channels.

    A hundred are a semitone. A wrong octave counts as one, so a few such frames outweigh many small errors; and frames
    that lost their voice count for nothing, so read `voicing_error` beside it.

    Args:
        reconstruction: Samples of one speaker.
        reference: Samples of one speaker.
        sample_rate: Hz.
    Raises:
        ValueError: If the shapes differ, no frame is voiced in both, or there is not one frame of 10 ms.
    """
    errors = [
        cents[both].clamp(-OCTAVE, OCTAVE).square().mean().sqrt()
        for cents, heard, voiced in _contours(reconstruction, reference, sample_rate)
        if (both := heard & voiced).any()
    ]
    if not errors:
        raise ValueError("no frame is voiced in both")
    return float(torch.stack(errors).mean())


def voicing_error(reconstruction: Float[Tensor, "*B T"], reference: Float[Tensor, "*B T"], sample_rate: int) -> float:
    """Share of all frames of 10 ms that are voiced in one of two sounds only, the mean over channels that have a voice.

    Args:
        reconstruction: Samples of one speaker.
        reference: Samples of one speaker.
        sample_rate: Hz.
    Raises:
        ValueError: If the shapes differ, no frame is voiced, or there is none.
    Source: the voicing decision error of Chu and Alwan, ICASSP 2009, equation 1.
    """
    shares = [
        (heard ^ voiced).float().mean()
        for _, heard, voiced in _contours(reconstruction, reference, sample_rate)
        if (heard | voiced).any()
    ]
    if not shares:
        raise ValueError("no frame is voiced")
    return float(torch.stack(shares).mean())


def _contours(
    reconstruction: Tensor, reference: Tensor, sample_rate: int
) -> Iterator[tuple[Float[Tensor, " N"], Bool[Tensor, " N"], Bool[Tensor, " N"]]]:
    """Of each channel: how much higher the reconstruction is, in cents, and where it and the reference are voiced."""
    check_pair(reconstruction, reference)
    if sample_rate < 2 * HIGHEST:
        raise ValueError(f"pitch up to {HIGHEST:g} Hz needs {2 * HIGHEST:g} samples a second, got {sample_rate}")
    hop, samples = sample_rate // PER_SECOND, reference.shape[-1]
    if samples < hop:
        raise ValueError(f"pitch needs a frame of {hop} samples (10 ms), got {samples}; use a longer recording")
    for pair in zip(reconstruction.reshape(-1, samples), reference.reshape(-1, samples), strict=True):
        (ours, heard), (theirs, voiced) = (pitch(signal[None], sample_rate, hop) for signal in pair)
        yield OCTAVE * torch.log2(ours / theirs)[0], heard[0], voiced[0]
