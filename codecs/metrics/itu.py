"""PESQ: what listeners would say of speech beside its original (ITU-T P.862.2, wide band), by the package pesq.

The package is the reference code of ITU-T in C, with its bounds: more utterances than its tables hold end the process.
So a long sound goes through it in pieces that cannot hold as many.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .pairs import check_heard, check_pair, voices

RATE = 16_000  # Hz
PIECE = 15  # seconds at most: utterances and pauses have 0.2 s or more, and there is room for 50
LEAST = 0.25  # seconds


def pesq_wideband(reconstruction: Float[Tensor, "B C T"], reference: Float[Tensor, "B C T"], sample_rate: int) -> float:
    """Listening quality (MOS-LQO) from 1.04 to 4.64, which is equal; the mean over items and channels.

    Aligns delays by itself, hears nothing above 7 kHz, and was made for speech. A sound of more than 15 s is cut into
    equal pieces: the mean of those in which somebody speaks.

    Args:
        reconstruction: Samples in [-1, 1].
        reference: Samples of speech in [-1, 1].
        sample_rate: Hz; both are resampled to 16 kHz.
    Raises:
        ValueError: If the shapes differ, the sound is shorter than 0.25 s, nobody speaks in it, or nothing was decoded.
        ImportError: Without the package pesq (extra ``eval-itu``).
    Source: ITU-T P.862 (2001) and P.862.2 (2007).
    """
    check_pair(reconstruction, reference)
    decoded, wanted = (voices(signal, sample_rate, RATE) for signal in (reconstruction, reference))
    return float(np.mean([_of_voice(*pair) for pair in zip(decoded, wanted, strict=True)]))


def _of_voice(decoded: np.ndarray, wanted: np.ndarray) -> float:
    """PESQ of samples ``[T]`` at 16 kHz."""
    import pesq

    seconds = len(wanted) / RATE
    if seconds < LEAST:
        raise ValueError(f"PESQ needs {LEAST} s of speech, got {seconds:.2f} s; use a longer recording")
    pieces = math.ceil(seconds / PIECE)
    scores = []
    for some, others in zip(np.array_split(decoded, pieces), np.array_split(wanted, pieces), strict=True):
        if not others.any():  # the package would divide by its peak
            continue
        check_heard(some)
        try:
            scores.append(pesq.pesq(RATE, others, some, "wb"))
        except pesq.NoUtterancesError:
            continue
    if not scores:
        raise ValueError("PESQ hears no utterance in the reference; use a recording of speech")
    return float(np.mean(scores))
