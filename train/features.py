"""`sigtok-train features`: a teacher's features of sound files, computed once, for those who then need no teacher.

A folder holds ``NAME.npy``, float16 ``[N, F]``, for every sound file ``NAME.wav`` of a selection, and
``features.json``: the teacher, the frame rate in Hz and the channels F. It is written last: a folder without it is not
complete.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import Tensor
from tqdm import tqdm

from sigtok.codecs.features import RECORD, features_info, read_features
from sigtok.codecs.media import AUDIO_SUFFIXES
from sigtok.train.data.audio import Reader
from sigtok.train.data.files import OnError, Selection, Split, read_or_skip
from sigtok.train.data.sources import Entry

from .teachers import RATE, Teacher, teacher

Features = Callable[[Entry], Tensor]  # of one file: [N, F]


class Heard:
    """Features of sound files, made by a teacher that listens to them.

    Args:
        teacher: Of sound at 16 kHz.
        device: Where it works.
    """

    def __init__(self, teacher: Teacher, device: str = "cpu") -> None:
        self.teacher, self.device = teacher, device
        self.name, self.frame_rate, self.channels = teacher.name, teacher.frame_rate, teacher.channels
        self.reader = Reader(RATE, downmix=True)

    def __call__(self, file: Entry) -> Float[Tensor, "N F"]:
        """Features of a whole file."""
        return self.teacher(self.reader.tensor(file)[None].to(self.device))[0].cpu()


class Saved:
    """Features of sound files, read from a folder that `write` made.

    Args:
        folder: The folder.

    Raises:
        ValueError: If it is not such a folder, or not complete.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.name, self.frame_rate, self.channels = features_info(folder)

    def __call__(self, file: Entry) -> Float[Tensor, "N F"]:
        """Features of a whole file, as float32.

        Raises:
            ValueError: If there are none, or they are no ``[N, F]``.
        """
        path = place(self.folder, file)
        if not path.is_file():
            raise ValueError(f"{self.folder} has no features of {file.name}; run `sigtok-train features` over it too")
        return torch.from_numpy(read_features(path, self.channels)).T


def place(folder: Path, file: Entry) -> Path:
    """Where the features of a sound file lie.

    Raises:
        ValueError: If its name leads out of the folder.
    """
    path = folder / Path(file.name).with_suffix(".npy")
    if Path(file.name).is_absolute() or ".." in Path(file.name).parts:
        raise ValueError(
            f"features lie inside {folder}, got a file called {file.name}; name files relative to data.root"
        )
    return path


def each(files: Sequence[Entry], source: Features, on_error: OnError) -> Iterator[tuple[Entry, Tensor]]:
    """Files with their features ``[N, F]``, one by one, without those skipped."""
    for file in tqdm(files, "features", disable=None):
        found = read_or_skip(source, file, on_error)
        if found is not None:
            yield file, found


def write(out: str, source: Heard, files: Sequence[Entry], on_error: OnError = "raise") -> int:
    """Write a folder of features; how many files it has.

    Args:
        out: The folder.
        source: Of the features.
        files: Sound files; their names relative to the selection are those of the features.
        on_error: ``"raise"`` stops at an unreadable file, ``"skip"`` warns and goes on without it.

    Raises:
        ValueError: If two sound files differ in nothing but their suffix, features leave the range of float16, or a
            file cannot be read and may not be skipped.
    """
    root = Path(out)
    if len({place(root, file) for file in files}) < len(files):
        raise ValueError("sound files differ in more than their suffix, got two of one name; rename one of them")
    root.mkdir(parents=True, exist_ok=True)
    (root / RECORD).unlink(missing_ok=True)
    written = 0
    for file, found in each(files, source, on_error):
        half = found.half().numpy()
        if not np.isfinite(half).all():
            raise ValueError(f"features lie in the range of float16, those of {file.name} do not; take another layer")
        path = place(root, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, half)
        written += 1
    record = {"teacher": source.name, "frame_rate": source.frame_rate, "channels": source.channels}
    (root / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return written


# -- the command -----------------------------------------------------------------------------------------


def sounds(
    root: str | None = None,
    manifest: str | None = None,
    where: dict[str, Any] | None = None,
    exclude: str | dict[str, Any] | None = None,
    val_fraction: float | None = None,
) -> Selection:
    """Sound files of a folder or a manifest.

    Args:
        root: Folder searched through; with a manifest, what its names are relative to.
        manifest: CSV with a column ``file`` and, if wanted, ``split`` (train, val) and others to filter by.
        where: Column: value or values; the rows to keep, for example ``{kind: speech}``.
        exclude: The same, rows to drop; or a text file of names.
        val_fraction: Hold out by hash of the name; None uses the column ``split``, or 0.05 without one.
    """
    return Selection(root, manifest, AUDIO_SUFFIXES, where, exclude, val_fraction)


def parser_of(name: str, text: str, command: Callable[..., Any]) -> ArgumentParser:
    """Arguments of a command over sound files: its own, a selection as ``data.*``, a teacher as ``teacher.*``."""
    parser = ArgumentParser(prog=f"sigtok-train {name}", description=text.splitlines()[0], exit_on_error=False)
    parser.add_argument("--config", action="config", help="YAML of the arguments below.")
    parser.add_function_arguments(command, skip={"source", "files", "data"})
    parser.add_function_arguments(sounds, "data")
    parser.add_function_arguments(teacher, "teacher", skip={"sample_rate"})
    parser.add_argument("--device", type=str, default="cpu", help="Where the teacher works.")
    return parser


def hearing(settings: Namespace) -> Heard:
    """The teacher that ``teacher.*`` tells."""
    return Heard(teacher(sample_rate=RATE, **settings.teacher.as_dict()), settings.device)


def run(name: str, command: Callable[[], str]) -> None:
    """Print what a command says; a mistake ends in one line and exit code 2."""
    try:
        print(command())
    except (ArgumentError, ValueError, TypeError, RuntimeError, OSError) as error:
        if os.environ.get("SIGTOK_TRACEBACK"):
            raise
        sys.stderr.write(f"sigtok-train {name}: error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``sigtok-train features``."""

    def command() -> str:
        parser = parser_of("features", str(__doc__), write)
        parser.add_argument("--split", type=Split, default="all", help="Files to take: train, val or all.")
        settings = parser.parse_args(arguments)
        source = hearing(settings)
        count = write(settings.out, source, sounds(**settings.data.as_dict()).of(settings.split), settings.on_error)
        return f"features of {count} files: {source.name}, {source.channels} channels at {source.frame_rate:g} Hz"

    run("features", command)


if __name__ == "__main__":
    main()
