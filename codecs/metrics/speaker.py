"""Whether a voice is still the speaker's: the angle between embeddings of a network that tells speakers apart (GE2E).

Source: Wan et al., "Generalized end-to-end loss for speaker verification", ICASSP 2018. The weights are those of the
package Resemblyzer (``resemblyzer/pretrained.pt``); its detector of speech, which needs a compiler, is left out.
"""

from __future__ import annotations

import math
import os

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, normalize, pad

from .mel import mel_power
from .pairs import check_pair, voices

RATE = 16_000  # Hz
WINDOW, HOP, BANDS = 400, 160, 40  # of its spectrogram, samples and mel bands
FRAMES, STEP = 160, 77  # of an excerpt, 1.6 s, and between two
COVER = 0.75  # of the last excerpt that must be there, or it is left out
LEVEL = -30.0  # dB of full scale that a quieter sound is raised to
WIDTH, LAYERS = 256, 3


class SpeakerEncoder(nn.Module):
    """Excerpts of 1.6 s to embeddings: three layers of LSTM, the last state, and one linear layer.

    Raises:
        ValueError: If a file of weights is none of this network.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, WIDTH, LAYERS, batch_first=True)
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, bands: Float[Tensor, "B M 40"]) -> Float[Tensor, "B 256"]:
        """An embedding of length 1 of every excerpt, none of its values negative."""
        _, (state, _) = self.lstm(bands)
        return normalize(self.linear(state[-1]).relu(), dim=-1)

    @torch.no_grad()
    def embedding(self, voice: Float[Tensor, " T"]) -> Float[Tensor, " 256"]:
        """The mean embedding of the excerpts of a sound at 16 kHz, of length 1."""
        voice = raised(voice)
        starts = excerpts(len(voice))
        whole = (starts[-1] + FRAMES) * HOP
        bands = mel_power(pad(voice, (0, max(0, whole - len(voice)))), RATE, WINDOW, HOP, BANDS).T
        return normalize(self(torch.stack([bands[start : start + FRAMES] for start in starts])).mean(0), dim=0)


def load_speaker_encoder(weights: str | os.PathLike[str]) -> SpeakerEncoder:
    """The encoder with the weights of a file of Resemblyzer."""
    encoder = SpeakerEncoder()
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
        encoder.load_state_dict({name: state[name] for name in encoder.state_dict()})
    except Exception as error:  # whatever a file holds
        raise ValueError(f"{weights}: weights of GE2E are Resemblyzer's pretrained.pt, got {error!s:.100}") from None
    return encoder.eval()


def speaker_similarity(
    encoder: SpeakerEncoder,
    reconstruction: Float[Tensor, "B C T"],
    reference: Float[Tensor, "B C T"],
    sample_rate: int,
) -> float:
    """Cosine of two voices' embeddings, from 0 to 1, which is equal; the mean over items and channels.

    Recordings of one speaker have some 0.9, of two speakers 0.6 to 0.75: read it beside these.

    Args:
        encoder: With weights.
        reconstruction: Samples in [-1, 1].
        reference: Samples of speech in [-1, 1], some seconds.
        sample_rate: Hz; both are resampled to 16 kHz.
    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(reconstruction, reference)
    some, others = (
        torch.stack([encoder.embedding(voice) for voice in torch.from_numpy(voices(signal, sample_rate, RATE))])
        for signal in (reconstruction, reference)
    )
    return cosine_similarity(some, others, dim=-1).mean().item()


def raised(voice: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """A quiet sound at -30 dB of full scale; a louder one, and silence, as it is."""
    level = 10 * voice.square().mean().clamp(min=1e-20).log10().item() if len(voice) else 0.0
    return voice * 10 ** ((LEVEL - level) / 20) if -100 < level < LEVEL else voice


def excerpts(samples: int) -> range:
    """First frames of the excerpts of so many samples, at least one."""
    last = max(0, math.ceil((samples + 1) / HOP) - FRAMES + STEP)
    starts = range(0, last + 1, STEP)
    covered = (samples - starts[-1] * HOP) / (FRAMES * HOP)
    return starts[:-1] if len(starts) > 1 and covered < COVER else starts
