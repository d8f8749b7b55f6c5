"""Folders that are whole or not there: made under another name beside the final one, on the disk before they get it.

`META`, written last, says what the folder is and lists its files with sizes and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sigtok.export.exits import NO_OUTPUT, Failure

from .store import sync

META = "meta.json"


class Hashed:
    """A file that knows how much was written, and its SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.bytes, self.sha256 = file, 0, hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes; how many they are."""
        self.file.write(data)
        self.sha256.update(data)
        size = memoryview(data).nbytes
        self.bytes += size
        return size


class Files:
    """The files of a folder in the making.

    Args:
        folder: Where they are for now.
        request: What was asked for; plain values for JSON.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self.folder, self.request = folder, request
        self.records: dict[str, dict[str, Any]] = {}

    @property
    def bytes(self) -> int:
        """Of all files so far."""
        return sum(record["bytes"] for record in self.records.values())

    @contextmanager
    def writing(self, name: str, **record: Any) -> Iterator[Hashed]:
        """A new file, written from its start to its end; what else to say of it in `META`."""
        with (self.folder / name).open("xb") as file:
            hashed = Hashed(file)
            yield hashed
            file.flush()
            os.fsync(file.fileno())
        self.records[name] = {**record, "bytes": hashed.bytes, "sha256": hashed.sha256.hexdigest()}

    def finish(self, meta: Mapping[str, Any]) -> None:
        """Write `META`."""
        values = {"request": self.request, **meta, "files": self.records}
        with (self.folder / META).open("xb") as file:
            file.write(json.dumps(values, sort_keys=True, indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync(self.folder)


@contextmanager
def whole_folder(target: Path, request: Mapping[str, Any]) -> Iterator[Files]:
    """A folder that gets its name once the block is done, or leaves no trace.

    What is there is replaced only if it was made at the same request and nothing was put beside; as the bytes are a
    function of the request, a reader sees no other.

    Args:
        target: The final name; a symbolic link is followed.
        request: What decides about the bytes; plain values for JSON.

    Raises:
        Failure: If something else is there.
    """
    target = Path(os.path.realpath(target))
    _check_free(target, request)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        files = Files(folder, request)
        yield files
        _check_free(target, request)
        _give_name(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _give_name(folder: Path, target: Path) -> None:
    old = folder.with_name(f"{folder.name}.old")
    there = target.exists()
    if there:
        os.replace(target, old)
    try:
        os.replace(folder, target)
    except BaseException:
        if there:
            os.replace(old, target)
        raise
    try:
        sync(target.parent)
    finally:
        if there:
            shutil.rmtree(old)


def _check_free(target: Path, request: Mapping[str, Any]) -> None:
    """Raise Failure unless a folder may get this name."""
    if not target.exists():
        return
    if not target.is_dir():
        raise Failure(NO_OUTPUT, f"{target}: an export is a folder, this is a file; choose another name")
    names = {path.name for path in target.iterdir()}
    if not names:
        return
    try:
        meta = json.loads((target / META).read_bytes())
        made, files = meta["request"], {META, *meta["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise Failure(
            NO_OUTPUT, f"{target}: an export goes into a new or empty folder, this one has {min(names)}; choose another"
        ) from None
    if made != json.loads(json.dumps(request)):
        raise Failure(
            NO_OUTPUT, f"{target}: holds another export, of other tokens or options; remove it or choose another folder"
        )
    if others := names - files:
        raise Failure(NO_OUTPUT, f"{target}: has {min(others)} too, which no export wrote; move it elsewhere first")
