"""What a page shows of signals: a player with a spectrogram for a sound, a picture; small, and inside the page.

Signals that are compared are stored alike: all as FLAC, or all as Opus if that is too large; all pictures as WebP of
one quality. So nothing but the codec is between them.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigtok.codecs.media import has_format, image_to_bytes, opus_to_bytes, write_audio

from .spectrogram import spectrogram, spectrum

SECONDS, SIDE = 10, 512  # the most that is shown: of a sound, and of a picture's width
SOUNDS = ((10, "flac"), (10, "opus"), (5, "flac"), (5, "opus"), (2, "opus"), (1, "flac"))  # the first that fits
PICTURES = ((512, 90), (512, 70), (384, 70), (256, 70), (128, 50))  # width and quality
KILOBITS = 96  # of Opus, per second and channel
TALLEST = 2  # of a picture, in widths
BINS, FRAMES = 112, 480  # of a spectrogram, at most


class Excerpt(NamedTuple):
    """The part of a signal that is shown: 10 seconds of two channels, or all of a picture made smaller.

    Args:
        signal: ``[C, *extent]`` in [-1, 1].
        sample_rate: Hz; None for pictures.
    """

    signal: Tensor
    sample_rate: int | None


def excerpt(signal: Tensor, sample_rate: int | None) -> Excerpt:
    """What is shown of a signal ``[C, *extent]``; a copy."""
    part = scaled(signal, SIDE) if sample_rate is None else signal[:2, : SECONDS * sample_rate].detach().cpu()
    return Excerpt(part.clone(), sample_rate)


def scaled(picture: Tensor, width: int) -> Tensor:
    """A picture ``[3, H, W]`` that is no wider than this, and no higher than twice as much."""
    picture = picture.detach().cpu()
    shrunk = min(1.0, width / picture.shape[2], TALLEST * width / picture.shape[1])
    if shrunk == 1:
        return picture
    size = [max(1, round(side * shrunk)) for side in picture.shape[1:]]
    return torch.nn.functional.interpolate(picture[None], size, mode="bilinear", antialias=True)[0].clamp(-1, 1)


def shown(excerpts: Sequence[Excerpt], names: Sequence[str], budget: int) -> list[str]:
    """Excerpts of one file and of what became of it, as HTML, in about so many bytes together.

    Args:
        excerpts: All of sounds, or all of pictures; the first sets the brightness of spectrograms.
        names: What a reader who cannot see is told that each is.
        budget: Bytes of the files, which take a third more in the page.
    """
    if excerpts[0].sample_rate is None:
        return _pictures(excerpts, names, budget)
    if not all(each.signal.numel() for each in excerpts):
        return ["<p>No sound: the file is empty.</p>" for _ in excerpts]
    pairs = zip(_players(excerpts, budget), _spectrograms(excerpts, names), strict=True)
    return [player + picture for player, picture in pairs]


def _pictures(excerpts: Sequence[Excerpt], names: Sequence[str], budget: int) -> list[str]:
    for width, quality in PICTURES:
        files = [_picture_bytes(scaled(each.signal, width).numpy(), quality) for each in excerpts]
        if sum(map(len, files)) <= budget:
            break
    return [_image(data, name) for data, name in zip(files, names, strict=True)]


def _players(excerpts: Sequence[Excerpt], budget: int) -> list[str]:
    forms = ("flac", "opus") if has_format("opus") else ("flac",)
    for seconds, form in SOUNDS:
        if form in forms:
            files = [_sound_bytes(signal.numpy(), rate or 0, form, seconds) for signal, rate in excerpts]
            if sum(map(len, files)) <= budget:
                break
    return [f'<audio controls preload="metadata" src="{_uri(_kind(data), data)}"></audio>' for data in files]


def _sound_bytes(signal: np.ndarray, sample_rate: int, form: str, seconds: int) -> bytes:
    signal = signal[:, : seconds * sample_rate]
    if form == "opus":
        return opus_to_bytes(signal, sample_rate, KILOBITS * len(signal))
    with tempfile.TemporaryDirectory(prefix="sigtok") as folder:
        path = Path(folder) / "sound.flac"
        write_audio(path, signal, sample_rate)
        return path.read_bytes()


def _kind(sound: bytes) -> str:
    return "audio/flac" if sound.startswith(b"fLaC") else "audio/ogg"


def _spectrograms(excerpts: Sequence[Excerpt], names: Sequence[str]) -> list[str]:
    """As bright as the first of them, whose loudest place is brightest."""
    mono = [each.signal.mean(0, keepdim=True) for each in excerpts]
    loudest = float(spectrum(mono[0]).max())
    pictures = []
    for signal, each, name in zip(mono, excerpts, names, strict=True):
        colours = torch.from_numpy(spectrogram(signal, each.sample_rate or 0, loudest))
        size = (min(BINS, colours.shape[1]), min(FRAMES, colours.shape[2]))
        small = torch.nn.functional.interpolate(colours[None], size, mode="area")[0]
        pictures.append(_image(_picture_bytes(small.numpy(), 60), f"Spectrogram, {name}"))
    return pictures


def _picture_bytes(picture: np.ndarray, quality: int) -> bytes:
    return image_to_bytes(picture, "webp" if has_format("webp") else "png", quality)


def _image(data: bytes, name: str) -> str:
    kind = "image/webp" if data.startswith(b"RIFF") else "image/png"
    return f'<img src="{_uri(kind, data)}" alt="{escape(name)}">'


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
