"""Whether an output is what it says: every byte, every code, every item of the plan; and what to make again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigtok.codecs.codec import Codec
from sigtok.codecs.corpus import MANIFEST
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


def repair(folder: Path, plan: Plan) -> list[str]:
    """Remove what is wrong, so that the next run makes it again; what was removed, in words."""
    found = list(wrongs(folder, plan))
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
