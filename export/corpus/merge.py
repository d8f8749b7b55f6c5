"""Outputs of one model and rate to one output of larger shards, row after row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sigtok.codecs.corpus import MANIFEST, Corpus
from sigtok.codecs.shards import Meaning, Row
from sigtok.export.exits import DATA, NO_OUTPUT, Failure

from . import store
from .commits import commit, manifest, write_manifest
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
    corpora, seen = [Corpus(folder) for folder in folders], set[str]()
    meaning = one_meaning(corpora)
    with store.locked(dest):
        if (dest / MANIFEST).exists() or any(dest.glob("shard-*")):
            raise Failure(NO_OUTPUT, f"{dest}: holds an output already; choose another folder")
        records = []
        rows = (row for corpus in corpora for shard in corpus for row in shard)
        for number, held in enumerate(cut(rows, codes)):
            for row in held:
                if row.id in seen:
                    raise Failure(DATA, f"{row.id}: is an item of two outputs; merge those that have none in common")
                seen.add(row.id)
            made = made_of(number, held, meaning)
            commit(dest, made)
            records.append(made.record)
        whole = manifest(meaning, records, {"codes": codes})
        write_manifest(dest, whole)
    return whole


def one_meaning(corpora: Sequence[Corpus]) -> Meaning:
    """What the codes of all outputs mean, which is the same."""
    first = corpora[0]
    for other in corpora:
        if other.meaning != first.meaning:
            raise Failure(DATA, f"{other.folder}: is of another model or rate than {first.folder}; merge equal ones")
    return first.meaning


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
