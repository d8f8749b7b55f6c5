"""A folder of tokens, as ``sigtok tokenize`` leaves it: ``manifest.json`` and the shards that it names, in order.

The manifest is written last, so that a folder with one is complete. It says once what codes mean, and of every shard
its name, bytes, rows, rows without codes ("bad") and codes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .shards import Meaning, Shard

VERSION = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES = 2**30  # a million shards are a quarter of it


class Part(NamedTuple):
    """What the manifest says of one shard."""

    path: Path
    bytes: int
    rows: int
    bad: int
    codes: int
    sha256: str


class Corpus:
    """The shards of a folder; opening it reads the manifest and looks for the files, iterating reads one at a time.

    Args:
        folder: On this machine.

    Raises:
        ValueError: If there is no manifest or none of this version, or a shard is missing or of another size.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            raise ValueError(
                f"{folder}: a complete folder of tokens has {MANIFEST}, got none; run sigtok tokenize again"
            )
        if manifest.stat().st_size > MANIFEST_BYTES:
            raise ValueError(f"{manifest} may have {MANIFEST_BYTES} bytes, got {manifest.stat().st_size}")
        data = manifest.read_bytes()
        try:
            values = json.loads(data)
            if values["version"] != VERSION:
                raise ValueError(f"version {VERSION} is read here, got {values['version']!r}")
            self.meaning = Meaning.from_dict(values["meaning"])
            self.parts = [self._part(record) for record in values["units"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{manifest}: not a manifest of tokens ({reason}); run sigtok tokenize again") from None
        for part in self.parts:
            size = part.path.stat().st_size if part.path.is_file() else -1
            if size != part.bytes:
                found = "none" if size < 0 else f"{size}"
                raise ValueError(f"{part.path}: a shard of {part.bytes} bytes, got {found}; run sigtok tokenize again")

    def _part(self, record: dict[str, Any]) -> Part:
        name, numbers = record["shard"], [record[field] for field in ("bytes", "rows", "bad", "codes")]
        if not isinstance(name, str) or Path(name).name != name:
            raise ValueError(f"a shard is a file of the folder, got {name!r}")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError(f"bytes, rows, bad and codes of {name} are counts, got {numbers}")
        size, rows, bad, codes = numbers
        return Part(self.folder / name, size, rows, bad, codes, str(record["sha256"]))

    @property
    def digest(self) -> str:
        """SHA-256 over those of the shards, in hexadecimal digits: the same for the same tokens, wherever they lie."""
        return hashlib.sha256("".join(part.sha256 for part in self.parts).encode()).hexdigest()

    @property
    def rows(self) -> int:
        """Rows of all shards, those without codes too."""
        return sum(part.rows for part in self.parts)

    @property
    def bad(self) -> int:
        """Rows that have no codes."""
        return sum(part.bad for part in self.parts)

    @property
    def signals(self) -> int:
        """Rows that have codes."""
        return self.rows - self.bad

    @property
    def codes(self) -> int:
        """Codes of all shards."""
        return sum(part.codes for part in self.parts)

    def __len__(self) -> int:
        """Shards."""
        return len(self.parts)

    def __getitem__(self, number: int) -> Shard:
        """One shard, read and checked.

        Raises:
            ValueError: If it is damaged, of another meaning, or has other rows than the manifest says.
        """
        part = self.parts[number]
        try:
            shard = Shard(part.path)
        except FileNotFoundError:
            raise ValueError(
                f"{part.path}: a shard that {MANIFEST} names is missing; run sigtok tokenize again"
            ) from None
        if shard.meaning != self.meaning:
            raise ValueError(
                f"{part.path}: codes of {_named(self.meaning)} as {MANIFEST} says, got {_named(shard.meaning)}; keep "
                f"the tokens of each model and rate in a folder of their own"
            )
        found = len(shard), shard.good.count(False), len(shard.values)
        if found != (part.rows, part.bad, part.codes):
            raise ValueError(
                f"{part.path}: {part.rows} rows, {part.bad} of them bad, and {part.codes} codes as {MANIFEST} says, "
                f"got {', '.join(map(str, found))}; run sigtok tokenize again"
            )
        return shard

    def __iter__(self) -> Iterator[Shard]:
        """The shards in order, each read when its turn comes."""
        return (self[number] for number in range(len(self)))


def _named(meaning: Meaning) -> str:
    return f"{meaning.spec.name} ({meaning.stream_id}) at {meaning.rate}"
