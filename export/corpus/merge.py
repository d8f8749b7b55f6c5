"""Outputs of one model and rate to one output of larger shards, row after row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.shards import Meaning, Row
from sigtok.export.exits import DATA, NO_OUTPUT, Failure, one_line

from . import store
from .commits import commit, holds_output, manifest, write_manifest
from .plan import NAME
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
    corpora = [Corpus(folder) for folder in folders]
    meaning = one_meaning(corpora)
    check_names(corpora)
    with store.locked(dest):
        if holds_output(dest) or (dest / NAME).exists():
            raise Failure(NO_OUTPUT, f"{dest}: holds an output already, or a part of one; choose another folder")
        records: list[dict[str, Any]] = []
        try:
            rows = (row for corpus in corpora for shard in corpus for row in shard)
            for number, held in enumerate(cut(rows, codes)):
                made = made_of(number, held, meaning)
                records.append(made.record)
                commit(dest, made)
            whole = manifest(meaning, records, {"codes": codes})
            write_manifest(dest, whole)
        except BaseException:  # half of an output is none
            for record in records:
                for suffix in (".json", ".parquet"):
                    (dest / record["shard"]).with_suffix(suffix).unlink(missing_ok=True)
            raise
    return whole


def check_names(corpora: Sequence[Corpus]) -> None:
    """Raise Failure if a name is that of two items; only names are read."""
    from pyarrow import parquet

    seen = set[str]()
    for corpus in corpora:
        for part in corpus.parts:
            try:
                names = parquet.read_table(part.path, columns=["id"]).column("id").to_pylist()
            except Exception as error:  # of damaged files, pyarrow raises anything
                raise ValueError(
                    f"{part.path}: damaged ({one_line(str(error))}); see sigtok tokenize verify"
                ) from error
            if twice := seen & set(names):
                raise Failure(
                    DATA, f"{min(twice)}: is an item of two outputs; merge those that have no names in common"
                )
            seen |= set(names)


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
