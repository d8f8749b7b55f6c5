"""Files that are whole or not there: the only module that writes into an output folder.

A file is written beside its place, synced, renamed, and the folder is synced. Every one of these steps calls `step`,
so that tests can end the process or fill the disk at each of them in turn.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from sigtok.export.exits import NO_OUTPUT, Failure

TEMPORARY = ".part-"
LOCK = ".lock"

step: Callable[[str, Path], None] = lambda what, path: None  # noqa: E731 - tests put another in its place


def write(path: Path, data: bytes) -> None:
    """The file with these bytes, or what was there before.

    Raises:
        OSError: If the disk is full, or the folder cannot be written.
    """
    with writing(path) as temporary:
        step("write", temporary)
        temporary.write_bytes(data)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A place beside a file for another to write to; the file is there, whole, when the block ends."""
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            step("sync", temporary)
            os.fsync(file.fileno())
        step("rename", path)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    step("sync folder", path)
    sync(path.parent)


def remove(path: Path) -> None:
    """No file there, for good."""
    step("remove", path)
    path.unlink(missing_ok=True)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Let the names in a folder be on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path, part: str = "") -> Iterator[None]:
    """The folder, made if it is missing, for one writer alone; or for one of several that write different parts.

    The lock is the system's (``flock``): it ends with the process that holds it, however that ends. What a killed
    writer left half written is removed.

    Args:
        folder: Of the output.
        part: Of several writers (".3-of-16"), of which each has one; empty for a writer of all.

    Raises:
        Failure: If another process holds it (told who), or the folder cannot be made.
    """
    with ExitStack() as open_files:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = [
                open_files.enter_context((folder / name).open("a+")) for name in dict.fromkeys((LOCK, LOCK + part))
            ]
        except OSError as error:
            reason = error.strerror or str(error)
            raise Failure(NO_OUTPUT, f"{folder}: cannot be written ({reason}); choose another output") from error
        for file, shared in zip(files, (bool(part), False), strict=False):
            _take(file, folder, shared)
        for file in files:
            file.seek(0)
            file.truncate()
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            file.flush()
        if not part:
            for left in folder.glob(f"{TEMPORARY}*"):
                left.unlink(missing_ok=True)
        yield


def _take(file: IO[str], folder: Path, shared: bool) -> None:
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        file.seek(0)
        try:
            held = json.loads(file.read())
            owner = f"process {held['pid']} on {held['host']}"
        except (ValueError, KeyError):
            owner = "another process"
        raise Failure(
            NO_OUTPUT, f"{folder}: {owner} writes there now; wait for its end, or choose another output"
        ) from error
