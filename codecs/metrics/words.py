"""Whether the words are still there: Whisper writes down both sounds, and its text of the original is the truth (dWER).

Nothing is fetched: the weights are a file of the user, such as OpenAI's ``base.pt``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from .pairs import check_pair, voices

RATE = 16_000  # Hz
KEPT = 64  # transcripts of references: a file is measured at several rates


class Transcript(NamedTuple):
    """Words in order, without case and punctuation, and Whisper's code of their language."""

    words: tuple[str, ...]
    language: str


class Whisper:
    """Writes down speech, greedily.

    Args:
        weights: A checkpoint of Whisper, ``.pt``.

    Raises:
        ValueError: If the file is no such checkpoint.
        ImportError: Without the package openai-whisper (extra ``eval-asr``).
    Source: Radford et al., "Robust speech recognition via large-scale weak supervision", ICML 2023.
    """

    def __init__(self, weights: str | os.PathLike[str]) -> None:
        import whisper
        from whisper.normalizers import BasicTextNormalizer, EnglishTextNormalizer

        if not os.path.isfile(weights):
            raise ValueError(f"{weights}: weights of Whisper are a file, got none there; name OpenAI's base.pt")
        try:
            self.network: Any = whisper.load_model(os.fspath(weights), device="cpu")
        except Exception as error:  # whatever a file holds
            reason = " ".join(str(error).split())
            raise ValueError(f"{weights}: is no checkpoint of Whisper ({reason:.100}); name OpenAI's base.pt") from None
        self.english: Any = EnglishTextNormalizer()
        self.other: Any = BasicTextNormalizer()
        self.kept: dict[bytes, Transcript] = {}

    def __call__(self, voice: np.ndarray, language: str | None = None) -> Transcript:
        """The words of samples ``[T]`` at 16 kHz, in a language or in that which Whisper hears."""
        options = {"temperature": 0.0, "condition_on_previous_text": False, "fp16": False, "language": language}
        found = self.network.transcribe(voice, verbose=None, **options)
        clean = self.english if found["language"] == "en" else self.other
        return Transcript(tuple(clean(found["text"]).split()), found["language"])

    def reference(self, voice: np.ndarray) -> Transcript:
        """The words of a reference; those of the last 64 are kept."""
        key = hashlib.sha256(voice.tobytes()).digest()
        if key not in self.kept:
            self.kept[key] = self(voice)
            if len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
        return self.kept[key]


def word_error_rate(
    whisper: Whisper, reconstruction: Float[Tensor, "B C T"], reference: Float[Tensor, "B C T"], sample_rate: int
) -> float:
    """Wrong, missing and additional words over the words of the reference, at most 1; the mean over items and channels.

    0 is the same text. What Whisper gets wrong in both counts for nothing; where it loops the rate would pass 1.

    Args:
        whisper: Writes down both.
        reconstruction: Samples in [-1, 1].
        reference: Samples of speech in [-1, 1].
        sample_rate: Hz; both are resampled to 16 kHz.
    Raises:
        ValueError: If the shapes differ, or Whisper hears no word in the reference.
    """
    check_pair(reconstruction, reference)
    decoded, wanted = (voices(signal, sample_rate, RATE) for signal in (reconstruction, reference))
    rates = []
    for some, others in zip(decoded, wanted, strict=True):
        truth = whisper.reference(others)
        if not truth.words:
            raise ValueError("Whisper hears no word in the reference; use a recording of speech")
        heard = truth if np.array_equal(some, others) else whisper(some, truth.language)
        rates.append(min(1.0, edits(heard.words, truth.words) / len(truth.words)))
    return float(np.mean(rates))


def edits(some: Sequence[str], others: Sequence[str]) -> int:
    """The least number of words to change, drop or add to make one text the other (Levenshtein, 1966)."""
    row = list(range(len(others) + 1))
    for place, word in enumerate(some, 1):
        before, row = row, [place]
        for column, other in enumerate(others, 1):
            row.append(min(before[column] + 1, row[-1] + 1, before[column - 1] + (word != other)))
    return row[-1]
