"""ViSQOL: what listeners would say of music beside its original (audio mode, 48 kHz), by the package visqol-python."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .pairs import check_heard, check_pair, voices

RATE = 48_000  # Hz
LEAST = 1.0  # seconds: patches have 0.6 s and are searched for


class ViSQOL:
    """Similarity of gammatone spectrograms, patch by patch, as an opinion (MOS-LQO) from 1 to 4.73, which is equal.

    Forgives delays, and little else: below 4 kHz of band width it says about 2. Made for music and sounds at 48 kHz.

    Raises:
        ValueError: If the shapes differ, the sound is shorter than a second or decoded as silence, or the package finds
            nothing to compare.
        ImportError: Without the package visqol-python (extra ``eval-music``).
    Source: Chinen et al., "ViSQOL v3: an open source production ready objective speech and audio metric", QoMEX 2020.
    """

    def __init__(self) -> None:
        from visqol import VisqolApi

        logging.getLogger("visqol").setLevel(logging.ERROR)
        self.judge: Any = VisqolApi()
        self.judge.create(mode="audio")

    def __call__(
        self, reconstruction: Float[Tensor, "B C T"], reference: Float[Tensor, "B C T"], sample_rate: int
    ) -> float:
        """The mean over items and channels of samples in [-1, 1]; both are resampled to 48 kHz."""
        check_pair(reconstruction, reference)
        if (seconds := reference.shape[-1] / sample_rate) < LEAST:
            raise ValueError(f"ViSQOL needs {LEAST:g} s, got {seconds:.2f} s; use a longer recording")
        decoded, wanted = (
            voices(signal, sample_rate, RATE).astype(np.float64) for signal in (reconstruction, reference)
        )
        scores = []
        for some, others in zip(decoded, wanted, strict=True):
            check_heard(some)
            try:
                scores.append(self.judge.measure_from_arrays(others, some, RATE).moslqo)
            except RuntimeError as error:
                raise ValueError(f"ViSQOL compares nothing here: {error!s:.100}") from error
        return float(np.mean(scores))
