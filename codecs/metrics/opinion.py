"""What listeners would say of speech without hearing its original, by two networks that packages carry.

Neither knows what was said or by whom: a fluent wrong word is as good as the right one.
"""

from __future__ import annotations

import os
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .mel import mel_power
from .pairs import voices

RATE = 16_000  # Hz, of both
SEGMENT, STEP, BATCH = 122_880, 16_000, 4  # samples of DistillMOS at once, at most between two, and segments at once
EXCERPT, HOP = 144_160, 16_000  # samples of DNSMOS at once, 9.01 s, and between two
EDGE = 160  # samples at the end of an excerpt that DNSMOS P.808 does not see
WINDOW, FRAME_HOP, BANDS = 321, 160, 120  # of its spectrogram
RANGE = 80.0  # dB below the loudest, the floor of it


class DistillMOS:
    """The opinion of speech by a network distilled from XLS-R, from 1 to 5; good recordings have about 4.5.

    Hears noise, band limits, drop-outs and coarse samples. Crops of 7.68 s, at most a second apart, each scaled to
    full scale; a shorter sound is continued by zeros, as the package does.

    Raises:
        ImportError: Without the package distillmos (extra ``eval-mos``).
    Source: Stahl and Gamper, "Distillation and pruning for scalable self-supervised representation-based speech
        quality assessment", ICASSP 2025.
    """

    def __init__(self) -> None:
        import distillmos

        with redirect_stdout(StringIO()):  # it tells where its weights are
            self.network: Any = distillmos.ConvTransformerSQAModel(segmenting_in_forward=False).eval()

    def __call__(self, signal: Float[Tensor, "B C T"], sample_rate: int) -> float:
        """The mean over items and channels of samples in [-1, 1]."""
        return float(np.mean([self.of_voice(voice) for voice in torch.from_numpy(voices(signal, sample_rate, RATE))]))

    def of_voice(self, voice: Float[Tensor, " T"]) -> float:
        """The mean over crops of samples at 16 kHz."""
        rest = max(0, len(voice) - SEGMENT)
        voice = torch.nn.functional.pad(voice, (0, max(0, SEGMENT - len(voice))))
        starts = (np.linspace(0, 1, -(-rest // STEP) + 1) * rest).astype(int)
        crops = torch.stack([voice[start : start + SEGMENT] for start in starts])
        with torch.no_grad():
            return torch.cat([self.network(some) for some in crops.split(BATCH)]).mean().item()


class DNSMOS:
    """The opinion of speech by the P.808 network of the DNS challenge, from 1 to 5.

    Excerpts of 9.01 s, a second apart; a shorter sound is repeated. Its spectrogram is made here: that of the package
    asks for librosa.

    Args:
        weights: ``model_v8.onnx`` of the package speechmos.

    Raises:
        ImportError: Without onnxruntime.
    Source: Reddy et al., "DNSMOS: A non-intrusive perceptual objective speech quality metric to evaluate noise
        suppressors", ICASSP 2021.
    """

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.network: Any = onnxruntime.InferenceSession(os.fspath(weights), options)

    def __call__(self, signal: Float[Tensor, "B C T"], sample_rate: int) -> float:
        """The mean over items and channels of samples in [-1, 1]."""
        return float(np.mean([self.of_voice(voice) for voice in torch.from_numpy(voices(signal, sample_rate, RATE))]))

    def of_voice(self, voice: Float[Tensor, " T"]) -> float:
        """The mean over excerpts of samples at 16 kHz."""
        if not len(voice):
            raise ValueError("DNSMOS needs a sample, got none; use a longer recording")
        while len(voice) < EXCERPT:
            voice = voice.repeat(2)
        starts = range(0, HOP * max(1, len(voice) // RATE - 9), HOP)
        inputs = (decibels(voice[start : start + EXCERPT - EDGE]).T[None].numpy() for start in starts)
        return float(np.mean([self.network.run(None, {"input_1": some})[0][0, 0] for some in inputs]))


def decibels(voice: Float[Tensor, " T"]) -> Float[Tensor, "N M"]:
    """120 mel bands in dB below the loudest, from -1 for -80 dB to 1 for 0 dB."""
    power = mel_power(voice, RATE, WINDOW, FRAME_HOP, BANDS).clamp(min=1e-10)
    return ((10 * (power / power.max()).log10()).clamp(min=-RANGE) + RANGE / 2) / (RANGE / 2)
