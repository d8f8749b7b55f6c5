"""What the command reads: files, folders, manifests and standard input, as a codec takes them."""

from __future__ import annotations

import csv
import hashlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigtok.codecs.features import FEATURE_SUFFIXES, read_features
from sigtok.codecs.media import (
    AUDIO_SUFFIXES,
    IMAGE_SUFFIXES,
    audio_info,
    cut_square,
    kind_of,
    read_audio,
    read_image,
)
from sigtok.codecs.spec import CodecSpec

from .exits import DATA, USAGE, Failure

SUFFIXES = {"audio": AUDIO_SUFFIXES, "image": IMAGE_SUFFIXES, "features": FEATURE_SUFFIXES}
STDIN = "-"


class Item(NamedTuple):
    """One input.

    Args:
        path: The file, or "-".
        stem: The name of what is made of it, below the folder of outputs, without suffix.
        row: Of the manifest that names it, by column; None if none does.
    """

    path: str
    stem: str
    row: Mapping[str, str] | None = None


class Inputs(NamedTuple):
    """Items in order; ``single`` if the command line named one file."""

    items: tuple[Item, ...]
    single: bool


def gather(
    paths: Sequence[str],
    suffixes: Collection[str],
    where: Sequence[tuple[str, str]] | None = None,
    exclude: Sequence[tuple[str, str]] = (),
) -> Inputs:
    """Files as they were named, folders by name and below, the ``file`` column of CSV manifests.

    Args:
        paths: Files, folders, or (if ``where`` is given) manifests, whose files lie beside them.
        suffixes: Of the files that are taken from folders; hidden files are not.
        where: Columns of a manifest and values of which each must have one; None for no manifests.
        exclude: Columns of a manifest and values that leave a row out.

    Raises:
        Failure: If a folder or manifest has no such file, standard input is one of several, or there are conditions
            and no manifest.
    """
    if (where or exclude) and not any(path.lower().endswith(".csv") for path in paths):
        option = "--where" if where else "--exclude"
        raise Failure(USAGE, f"{option} chooses rows of a CSV manifest, got none among the inputs; name one")
    items: list[Item] = []
    for path in paths:
        if os.path.isdir(path):
            items += _of_folder(path, suffixes)
        elif where is not None and path.lower().endswith(".csv"):
            items += _of_manifest(path, where, exclude)
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


def _of_manifest(path: str, where: Sequence[tuple[str, str]], exclude: Sequence[tuple[str, str]]) -> list[Item]:
    with open(path, newline="", encoding="utf-8") as file:
        try:
            table = csv.DictReader(file, strict=True)
            rows, columns = list(table), table.fieldnames or []
        except (csv.Error, UnicodeDecodeError) as error:
            raise Failure(DATA, f"{path}: a manifest is a CSV file, got another ({error}); check it") from error
    if missing := [name for name in ("file", *dict(where), *dict(exclude)) if name not in columns]:
        raise Failure(USAGE, f"{path}: has columns {', '.join(columns)}, got {missing[0]!r}; name one of them")
    chosen = [row for row in rows if is_chosen(row, where, exclude)]
    if not chosen:
        wanted = [f"{name}={value}" for name, value in where]
        asked = " and ".join([*wanted, *(f"not {name}={value}" for name, value in exclude)])
        options = "--where or --exclude" if exclude else "--where"
        raise Failure(DATA, f"{path}: has {len(rows)} files, got none with {asked or 'a name'}; change {options}")
    folder = Path(path).parent
    return [Item(str(folder / row["file"]), str(Path(row["file"]).with_suffix("")), row) for row in chosen]


def is_chosen(row: Mapping[str, str], where: Sequence[tuple[str, str]], exclude: Sequence[tuple[str, str]]) -> bool:
    """Whether a row has, of each column of ``where``, one of its values, and none of ``exclude``."""
    wanted = all((name, row.get(name)) in where for name in dict(where))
    return wanted and not any(row.get(name) == value for name, value in exclude)


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
        size: Of pictures: the shorter side is scaled to so many pixels and the middle square cut out; None for whole
            pictures.
    """

    def __init__(
        self,
        spec: CodecSpec,
        downmix: bool = False,
        tell: Callable[[str], None] = warnings.warn,
        size: int | None = None,
    ) -> None:
        self.spec, self.downmix, self.tell, self.size = spec, downmix, tell, size
        self.resampled: set[int] = set()

    def read(self, path: str | os.PathLike[str]) -> Tensor:
        """The signal of a file, float32 ``[C, *extent]`` in [-1, 1], or features.

        Sound is resampled to the codec's rate, told for the first file of every other rate; a file of features does
        not say its rate.

        Raises:
            ValueError: If the file is damaged, of another kind, or of other channels.
        """
        kind = kind_of(path)
        if kind not in (None, self.spec.modality):
            raise ValueError(
                f"{path}: {self.spec.name} takes {self.spec.modality} files, got {kind}; use another model"
            )
        if self.spec.modality == "image":
            picture = read_image(path)
            return torch.from_numpy(picture if self.size is None else cut_square(picture, self.size))
        if self.spec.modality == "features":
            return torch.from_numpy(read_features(path, self.spec.channels))
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


def hash_of(path: str | Path) -> dict[str, Any]:
    """SHA-256 and length in bytes of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
        return {"sha256": digest.hexdigest(), "bytes": file.tell()}


def _digest(file: Any) -> Any:
    """`hashlib.file_digest` of Python 3.10, which has none."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest
