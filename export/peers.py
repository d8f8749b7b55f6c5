"""Conventional codecs at their own ladders of settings, to draw beside a model: JPEG, WebP, AVIF, JPEG XL and Opus."""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigtok.codecs.media import has_format, image_from_bytes, image_to_bytes, opus_from_bytes, opus_to_bytes
from sigtok.codecs.spec import CodecSpec

NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "jxl": "JPEG XL", "opus": "Opus"}
QUALITIES = {  # from about the smallest files to nearly no loss
    "jpeg": (3, 5, 10, 20, 30, 50, 70, 80, 90, 95),
    "webp": (1, 5, 20, 40, 60, 75, 85, 92, 96, 99),
    "avif": (5, 20, 30, 40, 50, 60, 70, 80, 90, 95),
    "jxl": (1, 10, 20, 30, 50, 70, 80, 90, 95, 98),
}
KILOBITS = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # of Opus, per second and channel
ADVICE = {"jxl": "pip install 'sigtok[eval]'", "opus": "install soundfile with its own libsndfile"}


class Peer(NamedTuple):
    """A conventional codec.

    Args:
        form: One of `NAMES`.
        settings: From the smallest files to the largest: quality of pictures, kbit/s of sounds.
        sample_rate: Of sounds, Hz.
    """

    form: str
    settings: tuple[int, ...]
    sample_rate: int | None = None

    def encode(self, signal: np.ndarray, setting: int) -> bytes:
        """The file of a signal ``[C, *extent]``.

        Raises:
            ValueError: If the format does not take it.
        """
        if self.sample_rate is None:
            return image_to_bytes(signal, self.form, setting)
        return opus_to_bytes(signal, self.sample_rate, setting)

    def decode(self, data: bytes) -> np.ndarray:
        """The signal of a file."""
        return image_from_bytes(data) if self.sample_rate is None else opus_from_bytes(data, self.sample_rate)

    def round_trip(self, signal: Tensor, setting: int) -> tuple[Tensor, int, float, float]:
        """A signal after its file, the bytes of the file, and the seconds to it and back; errors as of `encode`."""
        start = perf_counter()
        data = self.encode(signal.numpy(), setting)
        middle = perf_counter()
        decoded = torch.from_numpy(self.decode(data))
        return decoded, len(data), middle - start, perf_counter() - middle


def peers_of(spec: CodecSpec) -> tuple[list[Peer], dict[str, str]]:
    """The conventional codecs for a model's signals that run here, and by name why others do not."""
    if spec.modality == "features":
        return [], {}
    if spec.modality == "audio" and spec.channels > 2:
        return [], {NAMES["opus"]: f"Opus is compared on 1 or 2 channels, {spec.name} has {spec.channels}"}
    forms = list(QUALITIES) if spec.modality == "image" else ["opus"]
    missing = {
        NAMES[form]: f"nothing here writes it; {ADVICE.get(form, 'install a Pillow that does')}"
        for form in forms
        if not has_format(form)
    }
    settings = {**QUALITIES, "opus": tuple(spec.channels * each for each in KILOBITS)}
    return [Peer(form, settings[form], spec.sample_rate) for form in forms if NAMES[form] not in missing], missing
