"""What the command reads: files, folders, manifests and standard input, as a codec takes them."""

from __future__ import annotations

import csv
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sigtok.codecs.media import AUDIO_SUFFIXES, IMAGE_SUFFIXES, audio_info, kind_of, read_audio, read_image
from sigtok.codecs.spec import CodecSpec

from .exits import DATA, USAGE, Failure

SUFFIXES = {"audio": AUDIO_SUFFIXES, "image": IMAGE_SUFFIXES}
STDIN = "-"


class Item(NamedTuple):
    """One input.

    Args:
        path: The file, or "-".
        stem: The name of what is made of it, below the folder of outputs, without suffix.
    """

    path: str
    stem: str


class Inputs(NamedTuple):
    """Items in order; ``single`` if the command line named one file."""

    items: tuple[Item, ...]
    single: bool


def gather(paths: Sequence[str], suffixes: Collection[str], where: Mapping[str, str] | None = None) -> Inputs:
    """Files as they were named, folders by name and below, the ``file`` column of CSV manifests.

    Args:
        paths: Files, folders, or (if ``where`` is given) manifests, whose files lie beside them.
        suffixes: Of the files that are taken from folders; hidden files are not.
        where: Columns of a manifest and the values that they must have; None for no manifests.

    Raises:
        Failure: If a folder or manifest has no such file, or standard input is one of several.
    """
    items: list[Item] = []
    for path in paths:
        if os.path.isdir(path):
            items += _of_folder(path, suffixes)
        elif where is not None and path.lower().endswith(".csv"):
            items += _of_manifest(path, where)
        else:
            items.append(Item(path, Path(path).stem))
    if len(items) > 1 and any(item.path == STDIN for item in items):
        raise Failure(USAGE, "standard input (-) is read alone; name files, or only -")
    return Inputs(tuple(items), len(paths) == len(items) == 1 and items[0].path == paths[0])


def _of_folder(folder: str, suffixes: Collection[str]) -> list[Item]:
    found = []
    for path in sorted(Path(folder).rglob("*")):
        inner = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in inner.parts)
        if path.suffix.lower() in suffixes and not hidden and path.is_file():
            found.append(Item(str(path), str(inner.with_suffix(""))))
    if not found:
        raise Failure(DATA, f"{folder}: files of {', '.join(sorted(suffixes))} are read, got none; check the folder")
    return found


def _of_manifest(path: str, where: Mapping[str, str]) -> list[Item]:
    with open(path, newline="", encoding="utf-8") as file:
        try:
            table = csv.DictReader(file, strict=True)
            rows, columns = list(table), table.fieldnames or []
        except (csv.Error, UnicodeDecodeError) as error:
            raise Failure(DATA, f"{path}: a manifest is a CSV file, got another ({error}); check it") from error
    if missing := [name for name in ("file", *where) if name not in columns]:
        raise Failure(USAGE, f"{path}: has columns {', '.join(columns)}, got {missing[0]!r}; name one of them")
    chosen = [row["file"] for row in rows if all(row[name] == value for name, value in where.items())]
    if not chosen:
        asked = " and ".join(f"{name}={value}" for name, value in where.items())
        raise Failure(DATA, f"{path}: has {len(rows)} files, got none with {asked or 'a name'}; change --where")
    return [Item(str(Path(path).parent / name), str(Path(name).with_suffix(""))) for name in chosen]


@contextmanager
def on_disk(path: str) -> Iterator[str]:
    """The path of a file with the same bytes; standard input is kept in one while it is needed."""
    if path != STDIN:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="sigtok") as folder:
        copy = Path(folder) / "standard input"
        with copy.open("wb") as file:
            while block := sys.stdin.buffer.read(1 << 20):
                file.write(block)
        yield str(copy)


class Reader:
    """Reads signals as one codec takes them, and tells what it converts.

    Args:
        spec: The codec's.
        downmix: Stereo may become mono.
        tell: Gets one line of text for what was resampled or clipped.
    """

    def __init__(self, spec: CodecSpec, downmix: bool = False, tell: Callable[[str], None] = warnings.warn) -> None:
        self.spec, self.downmix, self.tell = spec, downmix, tell
        self.resampled: set[int] = set()

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """The signal of a file, float32 ``[C, *extent]`` in [-1, 1].

        Sound is resampled to the codec's rate, told for the first file of every other rate.

        Raises:
            ValueError: If the file is damaged, of another kind, or of other channels.
        """
        kind = kind_of(path)
        if kind not in (None, self.spec.modality):
            raise ValueError(
                f"{path}: {self.spec.name} takes {self.spec.modality} files, got {kind}; use another model"
            )
        if self.spec.modality == "image":
            return torch.from_numpy(read_image(path))
        self._check(path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            signal, _ = read_audio(path, self.spec.sample_rate, self.spec.channels, downmix=self.downmix)
        for warning in caught:
            self.tell(str(warning.message))
        return torch.from_numpy(signal)

    def _check(self, path: str | os.PathLike[str]) -> None:
        info, spec = audio_info(path), self.spec
        if (spec.channels, info.channels, self.downmix) == (1, 2, False):
            raise ValueError(f"{path}: {spec.name} takes 1 channel, got 2; allow their average with --downmix")
        if info.sample_rate != spec.sample_rate and info.sample_rate not in self.resampled:
            self.resampled.add(info.sample_rate)
            self.tell(
                f"{path}: resampled from {info.sample_rate} to {spec.sample_rate} Hz, as are further files of that rate"
            )
