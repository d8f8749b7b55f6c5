"""Outputs of one model and rate to one output of larger shards, row after row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sigtok.codecs.shards import Meaning, Row, Shard
from sigtok.export.exits import DATA, NO_OUTPUT, Failure

from . import store
from .check import rows_in, shards_of
from .commits import MANIFEST, commit, manifest, write_manifest
from .unit import made_of


def merge(folders: Sequence[Path], dest: Path, codes: int) -> dict[str, Any]:
    """Write an output of the rows of others; its manifest.

    Args:
        folders: Complete outputs.
        dest: Of the new output: a folder without one.
        codes: Of a shard, about; a row is never cut.

    Raises:
        Failure: If meanings or ids collide, or there is an output already.
    """
    meaning, seen = one_meaning(folders), set[str]()
    with store.locked(dest):
        if (dest / MANIFEST).exists() or any(dest.glob("shard-*")):
            raise Failure(NO_OUTPUT, f"{dest}: holds an output already; choose another folder")
        records = []
        for number, rows in enumerate(cut(rows_in(list(folders)), codes)):
            for row in rows:
                if row.id in seen:
                    raise Failure(DATA, f"{row.id}: is an item of two outputs; merge those that have none in common")
                seen.add(row.id)
            made = made_of(number, rows, meaning)
            commit(dest, made)
            records.append(made.record)
        whole = manifest(meaning, records, {"codes": codes})
        write_manifest(dest, whole)
    return whole


def one_meaning(folders: Sequence[Path]) -> Meaning:
    """What the codes of all outputs mean, which is the same."""
    found: Meaning | None = None
    for folder in folders:
        for path in shards_of(folder):
            meaning = Shard(path).meaning
            if found is not None and meaning != found:
                raise Failure(DATA, f"{folder}: is of another model or rate than {folders[0]}; merge equal ones")
            found = meaning
            break
    if found is None:
        raise Failure(DATA, f"{', '.join(map(str, folders))}: no output has a shard")
    return found


def cut(rows: Iterator[Row], codes: int) -> Iterator[list[Row]]:
    """Rows in order, as many at a time as have so many codes."""
    held: list[Row] = []
    count = 0
    for row in rows:
        held.append(row)
        count += 0 if row.codes is None else len(row.codes)
        if count >= codes:
            yield held
            held, count = [], 0
    if held:
        yield held
