"""The pitch of a voice: the lag of most periodicity, chosen together with the frames beside it."""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.transforms.periodicity import HIGHEST, PER_OCTAVE, Periodicity

WINDOW = 0.06  # seconds of a frame: three periods of the lowest pitch
OCTAVE_COST = 0.03  # of a lag an octave longer, which is as periodic as the shorter
ROUNDS = 3  # of listening to neighbours
VOICED = 0.5  # periodicity, of 1
QUIET = 0.06  # of the loudest frame, in amplitude


@torch.no_grad()
def pitch(signal: Float[Tensor, "B T"], sample_rate: int, hop: int) -> tuple[Float[Tensor, "B N"], Bool[Tensor, "B N"]]:
    """Pitch in Hz of frames centred on hops, ``N = T // hop``, and where there is one.

    Candidates as in Boersma (1993, see `Periodicity`), shorter lags preferred. In place of his path of least cost,
    every frame adds what the frames beside it hold of about the same lag, three times over.

    Args:
        signal: Samples.
        sample_rate: Hz.
        hop: Samples from frame to frame.
    """
    size = 2 * round(WINDOW * sample_rate / 2)
    measure = _measure(size, sample_rate).to(signal.device)
    count = signal.shape[1] // hop
    frames = F.pad(signal.float(), (size // 2 - hop // 2, size)).unfold(1, size, hop)[:, :count]
    window = torch.hann_window(size, device=signal.device)
    spectra = torch.fft.rfft((frames - frames.mean(-1, keepdim=True)) * window, n=2 * size)[..., : len(measure.shares)]
    periodicity, energy = measure(spectra.real.square() + spectra.imag.square())
    score = periodicity - OCTAVE_COST * torch.log2(HIGHEST / measure.pitches)
    for _ in range(ROUNDS):
        beside = F.pad(F.max_pool1d(score, 5, 1, 2), (0, 0, 1, 1), mode="replicate")
        score = (score + 0.5 * (beside[:, :-2] + beside[:, 2:])) / 2
    best = score.argmax(-1, keepdim=True)
    near = (best + torch.arange(-2, 3, device=best.device)).clamp(0, score.shape[-1] - 1)
    best = near.gather(-1, periodicity.gather(-1, near).argmax(-1, keepdim=True)).clamp(1, score.shape[-1] - 2)
    left, middle, right = (periodicity.gather(-1, best + step)[..., 0] for step in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp_max(-1e-6)
    shift = ((left - right) / (2 * bend)).clamp(-0.5, 0.5)
    loud = energy.sqrt() > QUIET * energy.sqrt().amax(1, keepdim=True).clamp_min(1e-9)
    return HIGHEST * torch.exp2(-(best[..., 0] + shift) / PER_OCTAVE), (middle > VOICED) & loud


@lru_cache(8)
def _measure(size: int, sample_rate: int) -> Periodicity:
    with torch.inference_mode(False):
        return Periodicity(size, 2 * size, sample_rate)
