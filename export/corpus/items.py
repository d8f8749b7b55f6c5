"""Signals of a corpus: where the bytes of each are, and which part of it a row of a shard is."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where the bytes of a file are.

    Args:
        uri: A path, or a URL that fsspec opens.
        offset: First byte in it: 0, or of a member of an uncompressed tar.
        length: Bytes; -1 for all.
        column: Of a Parquet file that holds the bytes, else empty; ``column.bytes`` of Hugging Face's structs.
        row: In that Parquet file, counted from its first.
    """

    uri: str
    offset: int = 0
    length: int = -1
    column: str = ""
    row: int = -1


class Found(NamedTuple):
    """A file that a source names.

    Args:
        id: Its name, one in the corpus and the same on every machine: below the folder, in the manifest, in the tar.
        place: Where it is.
        meta: What the manifest says of it, as JSON; empty if nothing.
        start: Seconds into it at which the signal begins.
        seconds: Of the signal; None for all that follows.
    """

    id: str
    place: Place
    meta: str = ""
    start: float = 0.0
    seconds: float | None = None


class Item(NamedTuple):
    """A row to be made: a signal, whole or a part.

    Args:
        id: Of the row; parts of a long sound are ``NAME#SECONDS``.
        place: Where the file is.
        start: First sample, in the file's own samples.
        frames: How many of them; -1 for all (pictures).
        sample_rate: Of the file, Hz; 0 for pictures.
        size: Bytes of the file when it was planned; another size is another file.
        meta: As of `Found`.
        reason: Why the file cannot be read, if planning found out.
    """

    id: str
    place: Place
    start: int = 0
    frames: int = -1
    sample_rate: int = 0
    size: int = -1
    meta: str = ""
    reason: str = ""

    @property
    def seconds(self) -> float:
        """Duration; 0 for pictures and what cannot be read."""
        return self.frames / self.sample_rate if self.sample_rate else 0.0
