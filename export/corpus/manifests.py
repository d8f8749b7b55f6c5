"""Manifests: text files that name the files of a corpus, a line each. Nothing that they say is executed.

| suffix | a line |
|---|---|
| `.csv`, `.tsv` | columns as the first line names them |
| `.jsonl`, `.json` | a JSON object, as of NeMo |
| `.scp` | `ID PATH`, as of Kaldi |

A file stands in the first of the columns `file`, `path`, `file_name`, `audio_filepath`, and `audio`, `image` or
`features`. Of a sound with `offset` (seconds) the part is meant that begins there and lasts `duration`; without, all.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from typing import Any

from .choice import Choice
from .items import Found, Place
from .uris import beside, open_file, suffix_of

COLUMNS = ("file", "path", "file_name", "audio_filepath")
LONGEST = 1 << 20  # characters of a line
FURTHEST = 1e9  # seconds into a sound
ONE = "a line is one JSON object (JSON lines)"


def found_in(uri: str, modality: str, choice: Choice) -> Iterator[Found]:
    """The files that a manifest names, in its order.

    Raises:
        ValueError: If it is another file, or a line cannot be understood; the line is told.
    """
    read, lines = READERS[suffix_of(uri)], _Lines(uri)
    try:
        for row in read(lines):
            if choice.takes(row):
                yield _of_kaldi(uri, row) if read is _kaldi else _of_row(uri, row, modality)
    except UnicodeError as error:
        raise ValueError(f"{uri}: line {lines.number}: {error}; save it as UTF-8") from None
    except (csv.Error, ValueError, RecursionError) as error:
        raise ValueError(f"{uri}: line {lines.number}: {error}; correct the manifest") from None


def json_of(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: If it is none; NaN is none.
    """
    return json.loads(text, parse_constant=_refuse)


def meta_of(values: Mapping[str, Any]) -> str:
    """JSON of what is said of a file, empty if nothing is."""
    return json.dumps(values, allow_nan=False, default=str) if values else ""


def _refuse(constant: str) -> Any:
    raise ValueError(f"JSON has no {constant}")


class _Lines:
    """The lines of a file, and the number of the last."""

    def __init__(self, uri: str) -> None:
        self.uri, self.number = uri, 0

    def __iter__(self) -> Iterator[str]:
        with TextIOWrapper(open_file(self.uri), "utf-8-sig", errors="surrogateescape", newline="") as file:
            while line := file.readline(LONGEST + 1):
                self.number += 1
                _check_text(line)
                if len(line) > LONGEST:
                    raise ValueError(f"a line has at most {LONGEST} characters, got a longer one")
                yield line


def _check_text(line: str) -> None:
    """Raise UnicodeError for bytes that were none, which stand in the line as surrogates."""
    try:
        line.encode()
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) - 0xDC00
        raise UnicodeError(f"a manifest is UTF-8, got the byte 0x{byte:02x}") from None


def _csv(lines: _Lines) -> Iterator[dict[str, str]]:
    """Rows; the tabs of a TSV separate, its quotes are text."""
    tabs = suffix_of(lines.uri) == ".tsv"
    form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
    table = csv.reader(lines, strict=True, **form)
    columns = next(table, [])
    if len(set(columns)) < len(columns):
        raise ValueError(f"columns have different names, got {', '.join(columns)}")
    for cells in table:
        if cells and len(cells) != len(columns):
            raise ValueError(f"{len(columns)} columns have a name, got {len(cells)} in a row")
        if cells:
            yield dict(zip(columns, cells, strict=True))


def _json(lines: _Lines) -> Iterator[dict[str, Any]]:
    for line in lines:
        if text := line.strip():
            yield _object(text)


def _object(text: str) -> dict[str, Any]:
    if text.startswith("["):
        raise ValueError(f"{ONE}, got an array")
    try:
        row = json_of(text)
    except json.JSONDecodeError as error:
        cut = error.pos == len(text)
        reason = f"{ONE}, got the beginning of one" if cut else f"{error.msg} at character {error.pos + 1}"
        raise ValueError(reason) from None
    if not isinstance(row, dict):
        raise ValueError(f"{ONE}, got a {type(row).__name__}")
    return row


def _kaldi(lines: _Lines) -> Iterator[dict[str, str]]:
    for line in lines:
        if words := line.split(maxsplit=1):
            if len(words) < 2:
                raise ValueError(f"a line is an id and a path, got {words[0]!r}")
            if words[1].rstrip().endswith("|"):
                raise ValueError(f"{words[0]!r} is a command, and none is run; write what it makes to files")
            yield {"id": words[0], "path": words[1].rstrip()}


def _of_kaldi(uri: str, row: Mapping[str, str]) -> Found:
    return Found(row["id"], Place(beside(uri, row["path"])))


def _of_row(uri: str, row: Mapping[str, Any], modality: str) -> Found:
    names = (*COLUMNS, modality)
    column = next((name for name in names if name in row), None)
    if column is None:
        raise ValueError(f"a file is named in one of the columns {', '.join(names)}, got {', '.join(row)}")
    name = row[column]
    if not isinstance(name, str) or not name:
        raise ValueError(f"{column!r} is a path, got {name!r}")
    place, meta = Place(beside(uri, name)), meta_of({key: row[key] for key in row if key != column})
    if modality != "audio" or row.get("offset") in (None, ""):
        return Found(name, place, meta)
    start, seconds = _seconds(row["offset"]), None
    if row.get("duration") not in (None, ""):
        seconds = _seconds(row["duration"])
    return Found(f"{name}#{start:.6f}".rstrip("0").rstrip("."), place, meta, start, seconds)


def _seconds(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < FURTHEST:
        raise ValueError(f"offset and duration are seconds, got {value!r}")
    return number


READERS = {".csv": _csv, ".tsv": _csv, ".jsonl": _json, ".json": _json, ".scp": _kaldi}
