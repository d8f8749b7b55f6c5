"""Paths and URLs under the same verbs: paths by the standard library, URLs by fsspec, failures as one line.

A URL may be a chain of fsspec's, from the innermost link outwards: ``zip://in/a.wav::s3://bucket/b.zip`` is a file in
an archive, ``simplecache::s3://bucket/a.wav`` one that is kept once it was read. One link has the path of the file.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sigtok.export.exits import USAGE, Failure, one_line

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(://|::)")
FILE = re.compile(r"^file:(//(localhost(?=/))?|(?=/))")  # before a path of this machine
CACHES = ("blockcache", "cached", "filecache", "simplecache")  # links of a chain that take the path of the next
BLOCK = 5 << 20  # bytes that are fetched at once behind a URL


def is_url(uri: str) -> bool:
    """Whether fsspec opens it; a ``file://`` is a path once `plain` has seen it."""
    return URL.match(uri) is not None


def plain(uri: str) -> str:
    """A path for what is on this machine, any other URL as it is."""
    return FILE.sub("", uri)


def absolute(uri: str) -> str:
    """The same place from any folder: a path, and one that an archive of a chain has, from the root on."""
    if not is_url(plain(uri)):
        return os.path.abspath(plain(uri)) if uri else uri
    *inside, outermost = uri.split("::")
    if inside and "://" not in outermost:
        outermost = os.path.abspath(outermost)
    return "::".join((*inside, outermost))


class _Parts(NamedTuple):
    """A path or URL in four; of a path the others are empty.

    Args:
        before: Caches of a chain, with ``::``.
        protocol: With ``://``, if the path has one.
        path: Of the file.
        after: The links around it, from ``::`` on.
    """

    before: str
    protocol: str
    path: str
    after: str


def _parts(uri: str) -> _Parts:
    if not is_url(uri):
        return _Parts("", "", uri, "")
    links = uri.split("::")
    caches = next((number for number, link in enumerate(links[:-1]) if not _is_cache(link)), len(links) - 1)
    link, after = links[caches], links[caches + 1 :]
    if after and "/" not in link:  # zip::PATH is short for zip://::PATH
        link += "://"
    begin = link.index("://") + 3 if "://" in link else 0
    before = "".join(f"{cache}::" for cache in links[:caches])
    return _Parts(before, link[:begin], link[begin:], "".join(f"::{outer}" for outer in after))


def _is_cache(link: str) -> bool:
    return link.removesuffix("://") in CACHES


def _with_path(uri: str, path: str) -> str:
    return "".join(_parts(uri)._replace(path=path))


def in_folder(uri: str) -> tuple[str, str]:
    """The folder of a file, with its ``/``, and the name of the file there."""
    path = _parts(uri).path
    name = path[path.rfind("/") + 1 :]
    return _with_path(uri, path[: len(path) - len(name)]), name


def suffix_of(uri: str) -> str:
    """Of the file's name, in small letters."""
    return os.path.splitext(in_folder(uri)[1])[1].lower()


def way_to(folder: str) -> list[str]:
    """The folders on the way to one, from the outermost on; an archive is a folder of what is in it."""
    parts = _parts(folder)
    around = [link for link in parts.after.split("::") if link and not _is_cache(link)]
    *inside, outermost = parts.protocol + parts.path, *around
    outermost = plain(outermost)
    way = (outermost if is_url(outermost) else os.path.abspath(outermost)).rstrip("/").split("/")
    return way + [name for link in reversed(inside) for name in _parts(link).path.split("/") if name]


def is_folder(uri: str) -> bool:
    """Whether files lie below it."""
    if not is_url(uri):
        return os.path.isdir(uri)
    files, path = _files(uri)
    with told(uri):
        return files.isdir(path)


def joined(folder: str, name: str) -> str:
    """The file of a name below a folder."""
    return _with_path(folder, os.path.join(_parts(folder).path, name))


def beside(manifest: str, name: str) -> str:
    """Where a file is that a manifest names: an absolute path or a URL as it is, else from the manifest's folder.

    Raises:
        ValueError: If it is a chain of URLs, or leads out of the bucket.
    """
    name = plain(name)
    if is_url(name):
        if "::" in name:
            raise ValueError(f"a manifest names plain URLs, got {name!r}; name the file itself")
        return name
    if os.path.isabs(name) or not is_url(manifest):
        return os.path.join(os.path.dirname(manifest), name)
    parts = _parts(manifest)
    path = posixpath.normpath(posixpath.join(posixpath.dirname(parts.path), name))
    if path.startswith("../"):
        raise ValueError(f"{name!r} leads out of {_with_path(manifest, '')}; name files below it")
    return _with_path(manifest, path)


def files_below(folder: str) -> list[str]:
    """Names of all files below a folder, sorted, with ``/``; no hidden ones, and none behind links to folders.

    A link that leads nowhere is a file, of which is told when it is read; pipes and devices are none.
    """
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
                elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and _is_file(entry.path)):
                    names.append(below + entry.name)
        waiting = [name for name in waiting if not _is_hidden(name)]
    return _names(names)


def is_pattern(uri: str) -> bool:
    """Whether it is a glob; a ``?`` in a URL begins its query."""
    path = _parts(uri).path
    return any(letter in path for letter in ("*[" if is_url(uri) else "*?["))


def files_like(pattern: str) -> tuple[str, list[str]]:
    """The folder before the first ``*``, and the sorted names below it of the files that a glob matches."""
    parts = _parts(pattern)
    first = min(parts.path.index(letter) for letter in "*?[" if letter in parts.path)
    fixed = parts.path[: parts.path.rfind("/", 0, first) + 1]
    folder = _with_path(pattern, fixed)
    if is_url(pattern):
        files, path = _files(pattern)
        with told(pattern):
            matches = files.glob(path, detail=True)
            found = [name for name, entry in matches.items() if entry["type"] == "file"]
            return folder, _names(found, files._strip_protocol(parts.protocol + fixed))
    matched = glob.glob(pattern[len(folder) :], root_dir=folder or None, recursive=True)
    return folder, _names({name for name in matched if _is_file(os.path.join(folder, name))})


def _is_file(listed: str) -> bool:
    return os.path.isfile(listed) or not os.path.exists(listed)  # a link that leads nowhere


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


def name_at(uri: str, offset: int) -> str:
    """What messages call the part of a file that begins at a byte."""
    return f"{uri} at byte {offset}" if offset else uri


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
        self.name = name_at(uri, offset)

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
    except Exception as error:
        raise _unreachable(uri, error) from error


def _unreachable(uri: str, error: Exception) -> OSError:
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such file", uri)
    reason = getattr(error, "strerror", None) or one_line(str(error)) or type(error).__name__
    return OSError(getattr(error, "errno", None) or errno.EIO, reason, uri)


def _files(uri: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; of a chain its archives are opened.

    Raises:
        Failure: If the package is missing that reads it.
        ValueError: If nothing reads it.
        OSError: If an archive of it cannot be reached.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        needs = "URLs are read by fsspec, which is not here; pip install 'sigtok[tokenize]'"
        raise Failure(USAGE, f"{uri}: {needs}") from None
    try:
        return url_to_fs(uri)
    except ImportError as error:
        needs = f"what reads such URLs is not here ({one_line(str(error))}); install that package, or copy the files"
        raise Failure(USAGE, f"{uri}: {needs}") from None
    except ValueError as error:
        raise ValueError(f"{uri}: no such URL is read here ({error}); install what reads it, or copy it") from None
    except Exception as error:
        raise _unreachable(uri, error) from error
