"""A finished output folder of `sigtok tokenize`: what its manifest says, and its shards in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sigtok.codecs.shards import Meaning, Shard

MANIFEST = "manifest.json"
VERSION = 1


class Unit(NamedTuple):
    """What the manifest says of one shard."""

    shard: str  # its name in the folder
    bytes: int
    sha256: str
    rows: int
    bad: int  # rows without codes
    codes: int


@dataclass(frozen=True)
class Finished:
    """A corpus of tokens that is complete; iterating reads its shards in order, one in memory at a time."""

    folder: Path
    meaning: Meaning
    units: tuple[Unit, ...]

    @property
    def signals(self) -> int:
        """Rows that have codes."""
        return sum(unit.rows - unit.bad for unit in self.units)

    @property
    def bad(self) -> int:
        """Rows that have none."""
        return sum(unit.bad for unit in self.units)

    @property
    def codes(self) -> int:
        """Of all signals and codebooks."""
        return sum(unit.codes for unit in self.units)

    @property
    def digest(self) -> str:
        """SHA-256 over those of the shards, in hexadecimal digits: the same for the same tokens, wherever they lie."""
        return hashlib.sha256("".join(unit.sha256 for unit in self.units).encode()).hexdigest()

    def __iter__(self) -> Iterator[Shard]:
        """The shards.

        Raises:
            ValueError: If one is missing, damaged, or not what the manifest says.
        """
        for unit in self.units:
            path = self.folder / unit.shard
            try:
                shard = Shard(path)
            except FileNotFoundError:
                raise ValueError(f"{path}: this shard is missing; tokenize again, which makes it anew") from None
            if shard.meaning != self.meaning:
                raise ValueError(f"{path}: codes of another model or rate than the manifest's; tokenize again")
            found = len(shard), shard.good.count(False), len(shard.values)
            if found != (unit.rows, unit.bad, unit.codes):
                raise ValueError(
                    f"{path}: the manifest says {unit.rows} rows, {unit.bad} bad, {unit.codes} codes, got "
                    f"{found[0]}, {found[1]} and {found[2]}; tokenize again"
                )
            yield shard


def finished(folder: str | Path) -> Finished:
    """The corpus in a folder; sizes of its shards are checked here, what they hold when they are read.

    Raises:
        ValueError: If there is no manifest, it is not whole, or a shard is missing or of another size.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST
    try:
        values = json.loads(manifest.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{folder}: a finished corpus has a {MANIFEST}, this folder has none; let sigtok tokenize finish it"
        ) from None
    except ValueError as error:
        raise ValueError(f"{manifest}: a manifest is JSON, this one is damaged ({error}); tokenize again") from None
    try:
        if values["version"] != VERSION:
            raise ValueError(f"manifests of version {VERSION} are read here, got {values['version']!r}")
        meaning = Meaning.from_dict(values["meaning"])
        units = tuple(_unit(record) for record in values["units"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{manifest}: version, meaning and units are needed ({error}); tokenize again") from None
    except ValueError as error:
        raise ValueError(f"{manifest}: {error}") from None
    for unit in units:
        path = folder / unit.shard
        size = path.stat().st_size if path.is_file() else None
        if size != unit.bytes:
            found = "there is none" if size is None else f"got {size}"
            raise ValueError(f"{path}: this shard has {unit.bytes} bytes, {found}; tokenize again, which makes it anew")
    return Finished(folder, meaning, units)


def _unit(record: dict[str, Any]) -> Unit:
    unit = Unit(*(record[name] for name in Unit._fields))
    if not isinstance(unit.shard, str) or Path(unit.shard).name != unit.shard:
        raise ValueError(f"a shard is a file in the folder, got {unit.shard!r}; tokenize again")
    if not isinstance(unit.sha256, str) or any(
        not isinstance(count, int) or count < 0 for count in (unit.bytes, unit.rows, unit.bad, unit.codes)
    ):
        raise ValueError(f"{unit.shard}: bytes, rows, bad and codes are counts of 0 or more; tokenize again")
    return unit
