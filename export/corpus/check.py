"""Whether an output is what it says: every byte, every code, every item of the plan; and what to make again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigtok.codecs.codec import Codec
from sigtok.codecs.corpus import MANIFEST, Corpus
from sigtok.codecs.shards import Row, Shard
from sigtok.export.inputs import hash_of

from . import store
from .commits import as_json, manifest, record_of
from .plan import Plan
from .unit import name_of, rows_of


class Wrong(NamedTuple):
    """What is wrong with a unit; the unit is -1 for the output as a whole."""

    unit: int
    words: str


def wrongs(folder: Path, plan: Plan) -> Iterator[Wrong]:
    """All that is wrong with an output, a unit at a time; nothing for one that is complete and whole."""
    records = []
    for path in strangers(folder, {name_of(unit) for unit in range(plan.units)}):
        yield Wrong(-1, f"{path.name}: the plan has no such shard")
    for unit in range(plan.units):
        record = record_of(folder, unit)
        if record is None:
            yield Wrong(unit, f"{name_of(unit)}: missing, or not of the length that its record says")
            continue
        records.append(record)
        if words := wrong_with(folder, plan, record):
            yield Wrong(unit, f"{record['shard']}: {words}")
    if not (folder / MANIFEST).is_file():
        yield Wrong(-1, f"{MANIFEST}: missing; run sigtok tokenize again to complete the output")
    elif (folder / MANIFEST).read_bytes() != as_json(manifest(plan.settings.meaning, records, plan.settings.chosen())):
        yield Wrong(-1, f"{MANIFEST}: is not of these shards")


def wrongs_alone(folder: Path) -> Iterator[str]:
    """All that is wrong with an output that has no plan, as merged ones have none; its manifest says what is right.

    Raises:
        ValueError: If the manifest is damaged, or a shard that it names is not there.
    """
    corpus, seen = Corpus(folder), set[str]()
    for path in strangers(folder, {part.path.stem for part in corpus.parts}):
        yield f"{path.name}: {MANIFEST} has no such shard"
    for number, part in enumerate(corpus.parts):
        if hash_of(part.path)["sha256"] != part.sha256:
            yield f"{part.path.name}: its bytes are not those that were written (sha256)"
            continue
        try:
            shard = corpus[number]
        except ValueError as error:
            yield str(error)
            continue
        if twice := next((name for name, times in Counter(shard.ids).items() if times > 1 or name in seen), None):
            yield f"{part.path.name}: {twice} is the name of two rows"
        seen.update(shard.ids)


def strangers(folder: Path, known: Collection[str]) -> list[Path]:
    """Shards that are none of the output: readers of all files in the folder would take them."""
    return [path for path in sorted(folder.glob("shard-*.parquet")) if path.stem not in known]


def wrong_with(folder: Path, plan: Plan, record: dict[str, Any]) -> str:
    """What is wrong with a shard, in words; empty if nothing is."""
    path = folder / name_of(record["unit"])
    if hash_of(path.with_suffix(".parquet"))["sha256"] != record["sha256"]:
        return "its bytes are not those that were written (sha256)"
    if path.with_suffix(".json").read_bytes() != as_json(record):
        return "its record was written by something else"
    try:
        shard = Shard(path.with_suffix(".parquet"))
    except ValueError as error:
        return str(error)
    if shard.meaning != plan.settings.meaning:
        return "its codes are of another model or rate than the plan"
    if shard.ids != [item.id for item in plan.unit(record["unit"])]:
        return "its rows are not the items of the plan"
    if (len(shard), len(shard) - sum(shard.good), len(shard.values)) != (
        record["rows"],
        record["bad"],
        record["codes"],
    ):
        return "its record counts other rows or codes"
    return ""


def repair(folder: Path, plan: Plan, bad: bool = False) -> list[str]:
    """Remove what is wrong, so that the next run makes it again; what was removed, in words.

    Args:
        folder: Of the output; locked by the caller.
        plan: Of it.
        bad: Units with bad items too, for the case that these can be read now.
    """
    found = list(wrongs(folder, plan))
    if bad:
        seen = {unit for unit, _ in found}
        records = (record_of(folder, unit) for unit in range(plan.units) if unit not in seen)
        having = (record for record in records if record and record["bad"])
        found += [Wrong(record["unit"], f"{record['shard']}: {record['bad']} bad items") for record in having]
    for path in strangers(folder, {name_of(unit) for unit in range(plan.units)}):
        store.remove(path)
    if found:
        store.remove(folder / MANIFEST)
    for unit, _ in found:
        if unit >= 0:
            store.remove((folder / name_of(unit)).with_suffix(".json"))
            store.remove((folder / name_of(unit)).with_suffix(".parquet"))
    return [words for _, words in found]


class Again(NamedTuple):
    """Codes of items that were encoded again: how many, and how many are others."""

    items: int
    codes: int
    different: int


def again(folder: Path, plan: Plan, codec: Codec, count: int) -> Again:
    """Encode items again, spread evenly over the output, and compare their codes.

    Of items that were encoded together, each is alone here: codes may differ then (D2), and never otherwise.
    """
    step = max(1, plan.items // count)
    settings = plan.settings
    items = codes = different = first = 0
    for unit in range(plan.units):
        shard = Shard((folder / name_of(unit)).with_suffix(".parquet"))
        for index in range(-first % step, len(shard), step):
            if items == count:
                break
            (row,) = rows_of([plan.unit(unit)[index]], codec, settings, 1)
            there = shard.codes(index)
            items, codes = items + 1, codes + len(there)
            different += _different(row, there, shard.good[index])
        first += len(shard)
    return Again(items, codes, different)


def _different(row: Row, there: NDArray[Any], good: bool) -> int:
    """Codes of a row that are not those that are there; all of them if it has others in number."""
    if row.codes is None or len(row.codes) != len(there):
        return max(len(there), int(good != (row.codes is not None)))
    return int(np.count_nonzero(row.codes != there))
