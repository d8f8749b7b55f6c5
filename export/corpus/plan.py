"""The plan of a corpus: which signal is a row of which shard. Made once, then read by every worker.

A plan is a Parquet file, a row for an item, items in order, units one behind the other; beside them the settings that
decide what the tokens are. It is frozen: a resumed run reads it, and files that came later are not in it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from sigtok.codecs.features import open_features
from sigtok.codecs.media import audio_info
from sigtok.codecs.shards import Meaning
from sigtok.export.exits import DATA, Failure, one_line

from . import store
from .items import Found, Item, Place
from .places import name_of, opened, size_of

NAME = "plan.parquet"
KEY, DIGEST = b"sigtok", b"sigtok.sha256"
VERSION = 2
GROUP = 64  # units of a row group: what is read to have one of them
AT_ONCE = 1024  # files whose headers are read by threads before the next are named
PART = "#"  # between the name of a sound and the second at which a part of it begins
UNREACHED = "could not be reached when it was planned, plan it into another output: "  # begins a reason that stays
LEAST_REST = 0.5  # of a part: a shorter rest belongs to the part before it
ROUNDING = 0.05  # seconds by which manifests may go beyond the end of a sound
DOWNMIX = ("allow downmix=True", "allow their average with --downmix")  # what readers tell a program, and a person


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the tokens, beside the signals.

    Args:
        model: Name or folder of the model.
        meaning: Of the codes.
        downmix: Whether stereo may become mono.
        size: Of pictures: shorter side, of which the middle square is cut out; None for whole pictures.
        part_seconds: About how long the parts are that long sounds are cut into.
        unit_seconds: Sound of a unit, about.
        unit_items: Items of a unit, at most.
        batch_seconds: Of sound that is encoded at once, padded; 0 encodes item by item.
    """

    model: str
    meaning: Meaning
    downmix: bool = False
    size: int | None = None
    part_seconds: float = 300.0
    unit_seconds: float = 1800.0
    unit_items: int = 2000
    batch_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be."""
        for name in ("part_seconds", "unit_seconds", "unit_items"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is more than 0, got {getattr(self, name)}")
        if not 0 <= self.batch_seconds < math.inf:
            raise ValueError(f"batch_seconds is at least 0, got {self.batch_seconds}")
        if self.batch_seconds and not self.meaning.spec.causal:
            raise ValueError(
                f"padding changes the codes of {self.meaning.spec.name}, which is not causal; leave batch_seconds at 0"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"meaning": self.meaning.to_dict()}

    def chosen(self) -> dict[str, Any]:
        """All but what the model says, for the manifest."""
        return {name: value for name, value in asdict(self).items() if name not in ("model", "meaning")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """What `to_dict` made."""
        return cls(**values | {"meaning": Meaning.from_dict(values["meaning"])})

    def differences(self, other: Settings) -> list[str]:
        """What is not equal, in words; the place of the model may differ, as its identity is in the meaning."""
        mine, others = self.to_dict(), other.to_dict()
        mine |= mine.pop("meaning")
        others |= others.pop("meaning")
        return [
            f"{name} {_short(mine[name])} there, {_short(others[name])} here"
            for name in mine
            if name != "model" and json.dumps(mine[name]) != json.dumps(others[name])
        ]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]}..."


class Plan:
    """A plan that was written.

    Args:
        folder: Of the output.

    Raises:
        ValueError: If there is none, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        path = folder / NAME
        if not path.is_file():
            advice = (
                "tokenize into another folder" if any(folder.glob("shard-*")) else "make one with sigtok tokenize plan"
            )
            raise ValueError(f"{folder}: there is no plan; {advice}")
        try:
            self.file = parquet.ParquetFile(path, page_checksum_verification=True)
            text = self.file.metadata.metadata[KEY]
            if self.file.metadata.metadata[DIGEST] != _digest(text):
                raise ValueError("its settings are not those that were written")
            if self.file.schema_arrow.remove_metadata() != _schema():
                raise ValueError("its columns are others")
            words = json.loads(text)
            if words["version"] != VERSION:
                raise ValueError(f"plans of version {VERSION} are read here, got {words['version']!r}")
            self.settings, self.said = Settings.from_dict(words["settings"]), words["said"]
            self.units, self.items, self.bad = int(words["units"]), int(words["items"]), int(words["bad"])
            self.seconds = float(words["seconds"])
        except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
            raise _damaged(path, error) from error
        self.path = path
        self.held: tuple[int, list[list[Item]]] = (-1, [])

    def unit(self, number: int) -> list[Item]:
        """The items of a unit.

        Raises:
            ValueError: If they are damaged.
        """
        group = number // GROUP
        if self.held[0] != group:
            try:
                self.held = group, self._units(group)
            except Exception as error:  # pyarrow's own, of damaged pages or heads
                raise _damaged(self.path, error) from error
        return self.held[1][number % GROUP]

    def _units(self, group: int) -> list[list[Item]]:
        units: list[list[Item]] = [[] for _ in range(GROUP)]
        for row in self.file.read_row_group(group).to_pylist():
            unit, place = row.pop("unit"), Place(*(row.pop(name) for name in Place._fields))
            units[unit - group * GROUP].append(Item(place=place, **row))
        return units


def _schema() -> Any:
    """The columns of a plan: the unit, and all of an item and its place."""
    import pyarrow as pa

    kinds = {int: pa.int64(), str: pa.string()}
    hints = {name: kinds[type(value)] for name, value in Place("")._asdict().items()}
    own = {name: kinds[type(value)] for name, value in Item("", Place(""))._asdict().items() if name != "place"}
    return pa.schema([("unit", pa.int64()), *(hints | own).items()])


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: a damaged plan ({one_line(str(error))}); make it again in another folder")


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def make(
    folder: Path,
    found: Iterable[Found],
    settings: Settings,
    said: dict[str, Any],
    most_bad: float = 1.0,
    threads: int = 8,
) -> Plan:
    """Write the plan of files into a folder.

    Args:
        folder: Of the output; locked by the caller.
        found: Files in order; their headers are read here.
        settings: See `Settings`.
        said: Where the files come from, to know the plan again.
        most_bad: Part of the items that may be unreadable.
        threads: That read headers.

    Raises:
        ValueError: If there is no file.
        Failure: If more items cannot be read; nothing is planned then.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema()
    units, count, seconds, seen, reasons = 0, 0, 0.0, set[str](), Counter[str]()
    options = {"compression": "zstd", "write_page_checksum": True}
    with store.writing(folder / NAME) as path, parquet.ParquetWriter(path, schema, **options) as writer:
        groups = cut(items_of(found, settings, threads), settings)
        while group := list(islice(groups, GROUP)):
            rows = []
            for unit in group:
                named = [item.id for item in unit if PART in item.id]
                if twice := [name for name, number in Counter(named).items() if number > 1 or name in seen]:
                    raise ValueError(f"{twice[0]}: is the name of two parts of sounds; rename one of them")
                seen.update(named)
                rows += [{"unit": units} | item.place._asdict() | _without_place(item) for item in unit]
                reasons.update(item.reason for item in unit if item.reason)
                seconds += sum(item.seconds for item in unit)
                count += len(unit)
                units += 1
            writer.write_table(pa.Table.from_pylist(rows, schema))
        if not count:
            raise ValueError("a corpus has at least one file, got none; check the source")
        if (bad := reasons.total()) > most_bad * count:
            (reason, times), *_ = reasons.most_common(1)
            raise Failure(
                DATA,
                f"{bad} of {count} items cannot be read, {most_bad:.3g} of them may be (--max-bad); {times} because: "
                f"{reason}; nothing was planned",
            )
        words = {"version": VERSION, "settings": settings.to_dict(), "said": said}
        words |= {"units": units, "items": count, "bad": bad, "seconds": seconds}
        text = json.dumps(words, sort_keys=True).encode()
        writer.add_key_value_metadata({KEY: text, DIGEST: _digest(text)})
    return Plan(folder)


def _without_place(item: Item) -> dict[str, Any]:
    values = item._asdict()
    del values["place"]
    return values


def cut(items: Iterable[Item], settings: Settings) -> Iterator[list[Item]]:
    """Units of items in order, closed as soon as they are long enough."""
    unit: list[Item] = []
    seconds = 0.0
    for item in items:
        unit.append(item)
        seconds += item.seconds
        if seconds >= settings.unit_seconds or len(unit) >= settings.unit_items:
            yield unit
            unit, seconds = [], 0.0
    if unit:
        yield unit


def items_of(found: Iterable[Found], settings: Settings, threads: int) -> Iterator[Item]:
    """The items of files, in order; their headers are read ahead by threads."""
    rest = iter(found)
    with ThreadPoolExecutor(threads) as pool:
        while some := list(islice(rest, AT_ONCE)):
            for items in pool.map(lambda file: measured(file, settings), some):
                yield from items


class Header(NamedTuple):
    """Of a sound: samples, and their rate."""

    frames: int
    sample_rate: int


def measured(file: Found, settings: Settings) -> list[Item]:
    """The items of one file, whose header is read: parts of a long sound, or one."""
    spec = settings.meaning.spec
    whole = Item(file.id, file.place, meta=file.meta)
    try:
        whole = whole._replace(size=size_of(file.place))
        if spec.modality == "image":
            return [whole]
        with opened(file.place) as source:
            if spec.modality == "features":
                header = Header(len(open_features(source, spec.channels)), spec.sample_rate or 1)
            else:
                info = audio_info(source)
                header = Header(info.frames, info.sample_rate)
    except OSError as error:
        return [whole._replace(reason=UNREACHED + reason_of(error, file.id, file.place))]
    except ValueError as error:
        return [whole._replace(reason=reason_of(error, file.id, file.place))]
    return parts(whole, file, header, settings)


def parts(whole: Item, file: Found, header: Header, settings: Settings) -> list[Item]:
    """A sound, or the parts of it: each of whole windows, but the last."""
    frames, rate = header
    first = round(file.start * rate)
    last = frames if file.seconds is None else first + round(file.seconds * rate)
    first, last = (frames if frames < end <= frames + ROUNDING * rate else end for end in (first, last))
    if not 0 <= first <= last <= frames:
        end = "its end" if file.seconds is None else _seconds(file.start + file.seconds)
        asked = f"has {_seconds(frames / rate)}, the manifest asks for {_seconds(file.start)} to {end}"
        return [whole._replace(reason=f"{asked}; correct its offset and duration")]
    spec = settings.meaning.spec
    (step,) = spec.step(settings.meaning.rate)
    sample_rate = spec.sample_rate or 1
    least = step * rate // math.gcd(step * rate, sample_rate)  # samples of the file that are whole windows
    length = max(least, int(settings.part_seconds * rate) // least * least)
    starts = list(range(first, last, length)) or [first]
    if len(starts) > 1 and last - starts[-1] < LEAST_REST * length:
        starts.pop()
    ends = [*starts[1:], last]
    if len(starts) == 1:
        return [whole._replace(start=first, frames=last - first, sample_rate=rate)]
    named = whole.id.rpartition(PART)[0] if file.start or file.seconds is not None else whole.id
    return [
        whole._replace(id=f"{named}{PART}{start / rate:.3f}", start=start, frames=end - start, sample_rate=rate)
        for start, end in zip(starts, ends, strict=True)
    ]


def _seconds(value: float) -> str:
    return f"{round(value, 3):.10g} s"


def reason_of(error: Exception, name: str, place: Place) -> str:
    """What is wrong in one line, the same on every machine: without the place of the corpus there."""
    reason = str(error) if isinstance(error, ValueError) else error.strerror or str(error)  # type: ignore[attr-defined]
    for prefix in (name_of(place), place.uri, name):
        reason = reason.removeprefix(f"{prefix}: ")
    places = "|".join(map(re.escape, (name_of(place), place.uri)))
    return one_line(re.sub(places, lambda _: name, reason.replace(*DOWNMIX)))
