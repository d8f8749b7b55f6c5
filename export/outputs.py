"""Where results go: a file, a folder for several, or standard output; whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .exits import IO, NO_OUTPUT, USAGE, Failure
from .inputs import Inputs, Item

STDOUT = "-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class Outputs:
    """Places for what is made of every input.

    Args:
        output: A file; a folder, if it is one or there are several inputs (made if missing); "-" for stdout.
        inputs: What it is made of.
        suffixes: That a file may have.

    Raises:
        Failure: If "-" should take several, two inputs would become one file, or the output has no place, is
            an input, or is of another kind; told before the work begins.
    """

    def __init__(self, output: str, inputs: Inputs, suffixes: Sequence[str]) -> None:
        several = not inputs.single
        if output == STDOUT and several:
            raise Failure(USAGE, f"standard output takes one result, got {len(inputs.items)}; name a folder with -o")
        if several and not os.path.isdir(output) and output.lower().endswith(tuple(suffixes)):
            raise Failure(USAGE, f"{output}: several inputs need a folder, got a file; name a folder with -o")
        self.output = output
        self.folder = Path(output) if several or os.path.isdir(output) else None
        self.inputs = identities(item.path for item in inputs.items)
        self._check_place(suffixes)
        stems: dict[str, str] = {}
        for item in inputs.items:
            if (other := stems.setdefault(item.stem, item.path)) != item.path:
                raise Failure(USAGE, f"{item.path}: would become the same file as {other}; rename one of them")

    @contextmanager
    def place(self, item: Item, suffixes: Sequence[str]) -> Iterator[Path]:
        """The file to write for an item; in a folder it gets the first suffix.

        Raises:
            Failure: If the suffix is another, the file is an input, or writing it fails.
        """
        if self.output == STDOUT:
            with _for_stdout(suffixes[0]) as path:
                yield path
            return
        target = self._target(item, suffixes)
        with making(target):
            if self.folder:
                target.parent.mkdir(parents=True, exist_ok=True)
            yield target

    def _target(self, item: Item, suffixes: Sequence[str]) -> Path:
        if self.folder:
            target = self.folder / (item.stem + suffixes[0])
        else:
            target = Path(self.output)
            _check_suffix(target, suffixes)
        check_not_input(target, self.inputs)
        return target

    def _check_place(self, suffixes: Sequence[str]) -> None:
        path = Path(self.output)
        if self.folder:
            if path.exists() and not path.is_dir():
                raise Failure(NO_OUTPUT, f"{path}: several results need a folder, got a file; choose another -o")
        elif self.output != STDOUT:
            if not path.parent.is_dir():
                raise Failure(NO_OUTPUT, f"{path}: there is no folder {path.parent}; make it or choose another -o")
            _check_suffix(path, suffixes)
            check_not_input(path, self.inputs)


def _check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    if path.suffix.lower() not in suffixes:
        raise Failure(USAGE, f"{path}: what is made here ends in {' or '.join(suffixes)}; rename it with -o")


def identities(paths: Iterable[str]) -> set[tuple[int, int]]:
    """Device and number of the files that are there: the same file under any name."""
    found = (os.stat(path) for path in paths if os.path.exists(path))
    return {(status.st_dev, status.st_ino) for status in found}


def check_not_input(target: Path, inputs: set[tuple[int, int]]) -> None:
    """Raise Failure if a file that will be written is one of those that are read."""
    if identities([str(target)]) & inputs:
        raise Failure(USAGE, f"{target}: is an input and would be overwritten; choose another output")


@contextmanager
def making(target: Path) -> Iterator[None]:
    """Tells an output that cannot be made from a disk that is full."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise Failure(IO, f"{target}: {reason}; free some space and run it again") from error
        raise Failure(NO_OUTPUT, f"{target}: cannot be written ({reason}); choose another output") from error


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """The file with these bytes, or what was there before; devices and pipes are written as they are."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            file.write(data)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def writing_lines(path: str | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes one record as a line of JSON, there as soon as it is written; nowhere without a path."""
    if path is None:
        yield lambda record: None
        return
    target = Path(path)

    def write(record: Mapping[str, Any]) -> None:
        with making(target), target.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    with making(target):
        target.write_bytes(b"")
    yield write


def check_stdout_is_no_terminal() -> None:
    """Raise Failure if bytes would go to a terminal."""
    if sys.stdout.isatty():
        raise Failure(USAGE, "bytes are not for a terminal; redirect standard output, or name a file")


@contextmanager
def _for_stdout(suffix: str) -> Iterator[Path]:
    check_stdout_is_no_terminal()
    with tempfile.TemporaryDirectory(prefix="sigtok") as folder:
        path = Path(folder) / f"output{suffix}"
        yield path
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
