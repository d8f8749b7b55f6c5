"""Paths and URLs under the same verbs: paths by the standard library, URLs by fsspec, failures as one line."""

from __future__ import annotations

import errno
import glob
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
BLOCK = 5 << 20  # bytes that are fetched at once behind a URL


def is_url(uri: str) -> bool:
    """Whether fsspec opens it; a ``file://`` is a path once `plain` has seen it."""
    return URL.match(uri) is not None


def plain(uri: str) -> str:
    """A path for what is on this machine, any other URL as it is."""
    return uri.removeprefix("file://")


def is_folder(uri: str) -> bool:
    """Whether files lie below it."""
    if not is_url(uri):
        return os.path.isdir(uri)
    files, path = _files(uri)
    with told(uri):
        return files.isdir(path)


def joined(folder: str, name: str) -> str:
    """The file of a name below a folder."""
    return os.path.join(folder, name)


def beside(manifest: str, name: str) -> str:
    """Where a file is that a manifest names: an absolute path or a URL as it is, else from the manifest's folder.

    Raises:
        ValueError: If it is a chain of URLs, or leads out of the bucket.
    """
    if is_url(name):
        if "::" in name:
            raise ValueError(f"a manifest names plain URLs, got {name!r}; name the file itself")
        return plain(name)
    if os.path.isabs(name) or not is_url(manifest):
        return os.path.join(os.path.dirname(manifest), name)
    protocol, _, path = manifest.rpartition("://")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    if path.startswith("../"):
        raise ValueError(f"{name!r} leads out of {protocol}://; name files below it")
    return f"{protocol}://{path}"


def files_below(folder: str) -> list[str]:
    """Names of all files below a folder, sorted, with ``/``; no hidden ones, and none behind links to folders."""
    if is_url(folder):
        files, path = _files(folder)
        with told(folder):
            return _names(files.find(path), path)
    names, waiting = [], [""]
    while waiting:
        below = waiting.pop()
        with told(os.path.join(folder, below)), os.scandir(os.path.join(folder, below)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{below}{entry.name}/")
                elif entry.is_file():
                    names.append(below + entry.name)
        waiting = [name for name in waiting if not _is_hidden(name)]
    return _names(names)


def is_pattern(uri: str) -> bool:
    """Whether it is a glob; a ``?`` in a URL begins its query."""
    return any(letter in uri for letter in ("*[" if is_url(uri) else "*?["))


def files_like(pattern: str) -> tuple[str, list[str]]:
    """The folder before the first ``*``, and the sorted names below it of the files that a glob matches."""
    first = min(pattern.index(letter) for letter in "*?[" if letter in pattern)
    folder = pattern[: pattern.rfind("/", 0, first) + 1]
    if is_url(pattern):
        files, path = _files(pattern)
        with told(pattern):
            matches = files.glob(path, detail=True)
            found = [name for name, entry in matches.items() if entry["type"] == "file"]
            return folder, _names(found, files._strip_protocol(folder))
    matched = glob.glob(pattern[len(folder) :], root_dir=folder or None, recursive=True)
    return folder, _names({name for name in matched if os.path.isfile(os.path.join(folder, name))})


def _names(paths: Iterable[str], folder: str = "") -> list[str]:
    names = (path[len(folder) :].lstrip("/") for path in paths)
    return sorted(name for name in names if not _is_hidden(name))


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def size_of_file(uri: str) -> int:
    """Bytes.

    Raises:
        OSError: If there is no such file, or its size is not known.
    """
    if not is_url(uri):
        with told(uri):
            return os.stat(uri).st_size
    files, path = _files(uri)
    with told(uri):
        size = files.size(path)
    if size is None:
        raise OSError(errno.ESPIPE, "its server does not say its size, without which no part of it can be read", uri)
    return size


def open_file(uri: str, offset: int = 0, length: int = -1) -> io.BufferedReader:
    """A file for reading, or as if it were one, ``length`` bytes of a file from ``offset`` on (-1: to its end).

    Behind a URL only what is read is fetched, and some 5 MB ahead; nothing is shared between open files.

    Raises:
        OSError: If it cannot be reached; later, if it ends early.
        ValueError: If a file on this machine is shorter.
    """
    if is_url(uri):
        files, path = _files(uri)
        length = size_of_file(uri) - offset if length < 0 else length
        window = _Window(uri, offset, length, lambda start, end: files.cat_file(path, start, end))
        return io.BufferedReader(window, min(BLOCK, max(1, length)))
    with told(uri):
        file = open(uri, "rb")  # noqa: SIM115 - the caller closes it
        size = os.fstat(file.fileno()).st_size
    if not offset and length < 0:
        return file
    length = size - offset if length < 0 else length
    if not 0 <= offset <= offset + length <= size:
        file.close()
        raise ValueError(f"{uri}: has {size} bytes, asked for {length} from {offset}; it has changed, plan anew")

    def read(start: int, end: int) -> bytes:
        file.seek(start)
        return file.read(end - start)

    return io.BufferedReader(_Window(uri, offset, length, read, file.close))


class _Window(io.RawIOBase):
    """Bytes of a file, as a file of its own.

    Args:
        uri: Of the file.
        offset: First byte.
        length: Bytes.
        fetch: Reads from one byte up to another, without it.
        shut: Called when it is closed.
    """

    mode = "rb"

    def __init__(
        self,
        uri: str,
        offset: int,
        length: int,
        fetch: Callable[[int, int], bytes],
        shut: Callable[[], None] | None = None,
    ) -> None:
        self.uri, self.offset, self.length, self.fetch, self.shut, self.position = uri, offset, length, fetch, shut, 0
        self.name = f"{uri} at byte {offset}" if offset else uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + (0, self.position, self.length)[whence]
        if position < 0:
            raise ValueError(f"{self.name}: positions are not negative, got {position}")
        self.position = position
        return position

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.length - self.position)
        if count <= 0:
            return 0
        start = self.offset + self.position
        with told(self.uri):
            data = self.fetch(start, start + count)
        if len(data) != count:
            reason = (
                f"asked for {count} bytes from {start}, got {len(data)}; it has changed, or its server sends no parts"
            )
            raise OSError(errno.EIO, reason, self.uri)
        buffer[:count] = data
        self.position += count
        return count

    def close(self) -> None:
        if self.shut and not self.closed:
            self.shut()
        super().close()


@contextmanager
def told(uri: str) -> Iterator[None]:
    """Failures to reach a file as an `OSError` of one line; what fsspec calls raises anything."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", uri) from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise OSError(getattr(error, "errno", None) or errno.EIO, reason, uri) from error


def _files(uri: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ValueError(f"{uri}: URLs are read by fsspec, which is not here; pip install 'sigtok[tokenize]'") from None
    try:
        return url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{uri}: no such URL is read here ({error}); install what reads it, or copy it") from None
