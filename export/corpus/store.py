"""Files that are whole or not there: the only module that writes into an output folder.

A file is written beside its place, under a name of this process alone, synced, renamed, and the folder is synced. Every
one of these steps calls `step`, so that tests can end the process or fill the disk at each of them in turn.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from sigtok.export.exits import NO_OUTPUT, Failure

TEMPORARY = ".part-"
LOCK = ".lock"
PATIENCE = 2.0  # seconds in which one of several writers waits for another to sign

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
    temporary = path.with_name(f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{path.name}")
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
def locked(folder: Path, number: int = 0, of: int = 1) -> Iterator[None]:
    """The folder, made if it is missing, for one writer alone; or for one of several that write different parts.

    The lock is the system's (``flock``): it ends with the process that holds it, however that ends. What a killed
    writer left half written is removed by the next that writes alone. A folder that was made and holds nothing in the
    end is removed.

    Args:
        folder: Of the output.
        number: Of several writers, of which each number has one.
        of: Several writers, all with this number of them; 1 for a writer of all.

    Raises:
        Failure: If another process holds it (told who), or the folder cannot be made.
    """
    part, made = f".{number}-of-{of}" if of > 1 else "", not folder.exists()
    with ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            whole = opened.enter_context((folder / LOCK).open("a+"))
            own = opened.enter_context((folder / (LOCK + part)).open("a+")) if part else None
        except OSError as error:
            reason = error.strerror or str(error)
            raise Failure(NO_OUTPUT, f"{folder}: cannot be written ({reason}); choose another output") from error
        if own is None:
            if not _take(whole, fcntl.LOCK_EX) or not _is_there(whole, folder / LOCK):
                raise _held(whole, folder)
            _sign(whole, of)
            for left in folder.glob(f"{TEMPORARY}*"):
                left.unlink(missing_ok=True)
        else:
            _join(whole, folder, of)
            if not _is_there(whole, folder / LOCK):
                raise _held(whole, folder)
            if not _take(own, fcntl.LOCK_EX):
                raise _held(own, folder)
            _sign(own, of)
        try:
            yield
        finally:
            if made and not part and {path.name for path in folder.iterdir()} == {LOCK}:
                (folder / LOCK).unlink()
                folder.rmdir()


def _join(file: IO[str], folder: Path, of: int) -> None:
    """Take the lock of all writers together with others that are as many."""
    ends = time.monotonic() + PATIENCE
    while True:
        if _take(file, fcntl.LOCK_EX):  # nobody else is there
            _sign(file, of)
        if _take(file, fcntl.LOCK_SH):
            break
        if time.monotonic() > ends:
            raise _held(file, folder)
        time.sleep(0.02)
    if (others := _owner(file).get("of")) != of:
        raise Failure(
            NO_OUTPUT, f"{folder}: its units are shared by {others} processes now, got a share of {of}; wait for them"
        )


def _is_there(file: IO[str], path: Path) -> bool:
    """Whether the locked file is the one at its place: another may have removed it before it was locked."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _take(file: IO[str], kind: int) -> bool:
    """Whether the lock is ours now."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _sign(file: IO[str], of: int) -> None:
    file.seek(0)
    file.truncate()
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "of": of}))
    file.flush()


def _owner(file: IO[str]) -> dict[str, Any]:
    """What the last one to sign said; nothing if that cannot be read."""
    file.seek(0)
    try:
        return dict(json.loads(file.read()))
    except (ValueError, TypeError):
        return {}


def _held(file: IO[str], folder: Path) -> Failure:
    owner = _owner(file)
    named = f"process {owner['pid']} on {owner['host']}" if owner.keys() >= {"pid", "host"} else "another process"
    return Failure(NO_OUTPUT, f"{folder}: {named} writes there now; wait for its end, or choose another output")
