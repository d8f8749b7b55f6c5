"""Where the bytes of a corpus are, and how they are opened: from many threads, without a copy on this disk."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from .items import Place
from .tables import bytes_of
from .uris import is_url, name_at, open_file, size_of_file


@contextmanager
def opened(place: Place) -> Iterator[str | io.BufferedIOBase]:
    """A file as the readers take it: its path, or open, with a name for messages.

    A part of a file is a window onto it, a file behind a URL is fetched as it is read, a row of Parquet is in memory.

    Raises:
        OSError: If it cannot be reached.
        ValueError: If it has changed or is damaged.
    """
    if place.column:
        row = io.BytesIO(bytes_of(place))
        row.name = name_of(place)
        yield row
    elif place.length < 0 and not is_url(place.uri):
        yield place.uri
    else:
        with open_file(place.uri, place.offset, place.length) as file:
            yield file


def name_of(place: Place) -> str:
    """What messages call the file at a place."""
    return f"{place.uri} row {place.row}" if place.column else name_at(place.uri, place.offset)


def size_of(place: Place) -> int:
    """Bytes of the file at a place, of the whole archive or table if it is in one: another size is another file.

    A process asks for those of archives and tables behind URLs once.

    Raises:
        OSError: If it cannot be reached.
    """
    shared = place.column or place.length >= 0
    return _asked_once(place.uri) if shared and is_url(place.uri) else size_of_file(place.uri)


_asked_once = lru_cache(maxsize=4096)(size_of_file)
