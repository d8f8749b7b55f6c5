"""Feature files: ``.npy`` arrays ``[T, F]`` of float16 or float32, one per sound, and what a folder of them says.

A folder has ``features.json`` with ``teacher`` (text), ``frame_rate`` (frames per second) and ``channels`` (F).
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from .media import Source, name_of

FEATURE_SUFFIXES = frozenset({".npy"})
RECORD = "features.json"

PathLike = str | os.PathLike[str]


class FeatureInfo(NamedTuple):
    """What ``features.json`` says: who made the features, frames per second, channels F."""

    teacher: str
    frame_rate: int
    channels: int


def features_info(folder: PathLike) -> FeatureInfo:
    """The record of a folder of features.

    Raises:
        ValueError: If there is none, or it lacks a field.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        raise ValueError(f"{folder}: a folder of features has {RECORD}, got none; make it with sigtok-train features")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        info = FeatureInfo(str(values["teacher"]), int(values["frame_rate"]), int(values["channels"]))
        whole = info.frame_rate == values["frame_rate"] > 0 and info.channels == values["channels"] > 0
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: has teacher, frame_rate and channels, got another record ({reason})") from None
    if not whole:
        raise ValueError(f"{path}: frame_rate and channels are whole numbers, got {values}; make the features again")
    return info


def open_features(path: Source, channels: int) -> np.ndarray:
    """The array ``[T, F]`` of a file, not yet read: a part of it is a part of the file. Of an open one it is read.

    Raises:
        ValueError: If it is no array of features of so many channels.
    """
    name = name_of(path)
    mode: Literal["r"] | None = "r" if isinstance(path, str | os.PathLike) else None
    try:
        features = np.load(path, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
    except (ValueError, EOFError) as error:
        raise ValueError(f"{name}: features are a .npy file, got another ({error}); write them again") from None
    shape: tuple[int, ...] = getattr(features, "shape", ())
    if len(shape) != 2 or shape[1] != channels or features.dtype not in (np.float16, np.float32):
        raise ValueError(
            f"{name}: features are float16 or float32 [frames, {channels}], got "
            f"{getattr(features, 'dtype', 'an archive')} {list(shape)}; write them again"
        )
    return features


def read_features(path: Source, channels: int, start: int = 0, frames: int | None = None) -> np.ndarray:
    """Features as float32 ``[F, T]``: all frames, or as many as there are from ``start`` on.

    Raises:
        ValueError: If it is no array of features of so many channels, or a value is not finite.
    """
    stop = None if frames is None else start + frames
    features = np.ascontiguousarray(open_features(path, channels)[start:stop].T, dtype=np.float32)
    if not np.isfinite(features).all():
        raise ValueError(f"{name_of(path)}: features are finite numbers, got nan or inf; write them again")
    return features


def npy_of(features: np.ndarray) -> bytes:
    """The file of features ``[F, T]``: float32 ``[T, F]``."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(features.T, dtype=np.float32), allow_pickle=False)
    return buffer.getvalue()
