"""What is done: the commit record of each unit, and the manifest of all. Both are small JSON files.

::

    OUT/plan.parquet          made once (`plan`)
    OUT/shard-000000.parquet  the rows of a unit (`sigtok.codecs.shards`)
    OUT/shard-000000.json     its record; a shard without it does not exist
    OUT/manifest.json         written last, when all units are there

All but the plan, which names places, are the same bytes after any number of kills and by any runner.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sigtok.codecs.corpus import MANIFEST, VERSION
from sigtok.codecs.shards import Meaning
from sigtok.export.exits import DATA, Failure
from sigtok.export.outputs import making

from . import store
from .plan import Plan
from .unit import Made, name_of

FIELDS = {  # of a record
    **dict.fromkeys(("unit", "bytes", "rows", "bad", "unreached", "codes"), int),
    **{"seconds": float, "sha256": str, "shard": str},
}
SUMMED = ("rows", "bad", "unreached", "codes", "bytes", "seconds")  # of records, in the manifest


def commit(folder: Path, made: Made) -> None:
    """A shard, then its record.

    Raises:
        Failure: If the disk is full or cannot be written; what was there before is whole.
    """
    path = folder / name_of(made.record["unit"])
    with making(path.with_suffix(".parquet")):
        store.write(path.with_suffix(".parquet"), made.data)
        store.write(path.with_suffix(".json"), as_json(made.record))


def as_json(values: Any) -> bytes:
    """The one way that our JSON files are written."""
    return (json.dumps(values, sort_keys=True, allow_nan=False) + "\n").encode()


def holds_output(folder: Path) -> bool:
    """Whether there are shards or a manifest."""
    return (folder / MANIFEST).exists() or any(folder.glob("shard-*"))


def record_of(folder: Path, unit: int) -> dict[str, Any] | None:
    """The commit record of a unit, if it is there and its shard is as long as it says."""
    path = folder / name_of(unit)
    try:
        record = json.loads(path.with_suffix(".json").read_bytes())
        right = all(type(record[name]) is kind for name, kind in FIELDS.items())
        there = right and record["unit"] == unit and path.with_suffix(".parquet").stat().st_size == record["bytes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if there else None


def missing(folder: Path, units: Iterable[int]) -> list[int]:
    """Units that have no shard yet."""
    return [unit for unit in units if record_of(folder, unit) is None]


def finish(folder: Path, plan: Plan) -> None:
    """Write the manifest of a complete output; the same bytes whoever does.

    Raises:
        Failure: If units are missing, or their rows are not the plan's.
    """
    found = [record for unit in range(plan.units) if (record := record_of(folder, unit))]
    if len(found) != plan.units or sum(record["rows"] for record in found) != plan.items:
        raise Failure(
            DATA,
            f"{folder}: the plan has {plan.items} items in {plan.units} units, the shards have others; see sigtok "
            f"tokenize verify",
        )
    write_manifest(folder, manifest(plan.settings.meaning, found, plan.settings.chosen()))


def write_manifest(folder: Path, whole: dict[str, Any]) -> None:
    """Write what a complete output says."""
    with making(folder / MANIFEST):
        store.write(folder / MANIFEST, as_json(whole))


def manifest(meaning: Meaning, records: Sequence[dict[str, Any]], settings: dict[str, Any]) -> dict[str, Any]:
    """What a complete output says of itself."""
    digests = "".join(record["sha256"] for record in records)
    return {
        "version": VERSION,
        "meaning": meaning.to_dict(),
        "settings": settings,
        **{name: sum(record[name] for record in records) for name in SUMMED},
        "sha256": hashlib.sha256(digests.encode()).hexdigest(),
        "units": list(records),
    }
