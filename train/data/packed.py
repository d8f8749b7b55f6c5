"""The ids of a whole corpus in one file, made once, mapped into memory: what a language model reads in any order.

```
CACHE/ids.bin     ids of signal after signal (header, codes, EOA), uint16 or int32
CACHE/rows.npy    where each ends, a number in [0, 1) drawn by its name, and the part that its manifest put it in
CACHE/ids.json    written last: of which manifest and language they are
```
Rows without codes are left out. Reading shards in the order of every epoch would read each of them again and again;
here a signal is one slice, and the operating system keeps what fits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.language.ids import Language
from sigtok.codecs.shards import Shard
from sigtok.codecs.spec import Extent
from sigtok.codecs.tokens import batch_tokens

VERSION = 1
ROW = np.dtype([("end", "<i8"), ("draw", "<f8"), ("part", "u1")])
BY_NAME, TRAIN, VAL, OTHER = range(4)  # parts
PARTS = {"train": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL}
BATCH = 64  # signals laid out at once


class PackedIds:
    """The ids of a corpus in a layout; made if they are not there or of another corpus.

    Args:
        folder: Of `Corpus`.
        layout: The name of a layout of one stream.
        cache: Where the files are; None for ``ids-LAYOUT`` in the folder.

    Raises:
        ValueError: If the folder is not complete, the layout not for its codec, or its pictures differ in extent.
    """

    def __init__(self, folder: str | Path, layout: str, cache: str | Path | None = None) -> None:
        corpus = Corpus(folder)
        place = Path(cache) if cache is not None else corpus.folder / f"ids-{layout}"
        self.arguments = folder, layout, cache
        record = _record(place, corpus, layout) or _make(place, corpus, layout)
        if not record["ids"]:
            raise ValueError(f"{folder}: a language is learned from signals, got none with codes; tokenize others")
        self.language = Language.from_dict(record["language"])
        self.ids = np.memmap(place / "ids.bin", _dtype(self.language), "r", shape=(record["ids"],))
        self.rows = np.load(place / "rows.npy", mmap_mode="r")

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the files itself."""
        return PackedIds, self.arguments

    def parts(self, val_fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows to train on and to validate, by what the manifest says ("split"), else by their names alone."""
        part, draw = np.asarray(self.rows["part"]), np.asarray(self.rows["draw"])
        val = (part == VAL) | ((part == BY_NAME) & (draw < val_fraction))
        return np.flatnonzero(~val & (part != OTHER)), np.flatnonzero(val)

    def bounds(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First id of each of these rows, and the one behind its last."""
        ends = self.rows["end"]
        return np.where(rows > 0, ends[rows - 1], 0), ends[rows]


def _record(place: Path, corpus: Corpus, layout: str) -> dict[str, Any] | None:
    """What `_make` wrote of this corpus, if it is all there."""
    try:
        record = json.loads((place / "ids.json").read_bytes())
        bytes_ = record["ids"] * _dtype(Language.from_dict(record["language"])).itemsize
        same = (record["version"], record["manifest"], record["language"]["layout"]) == (VERSION, corpus.digest, layout)
        return record if same and (place / "ids.bin").stat().st_size == bytes_ else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(place: Path, corpus: Corpus, layout: str) -> dict[str, Any]:
    language = Language(corpus.meaning, layout, _extent(corpus))
    place.mkdir(parents=True, exist_ok=True)
    rows: list[NDArray[Any]] = []

    def write_ids(file: Any) -> None:
        for shard in corpus:
            ids, table = _laid_out(shard, language)
            ids.tofile(file)
            rows.append(table)

    _write(place / "ids.bin", write_ids)
    table = np.concatenate([*rows, np.zeros(0, ROW)])
    table["end"] = np.cumsum(table["end"])
    _write(place / "rows.npy", lambda file: np.save(file, table))
    count = int(table["end"][-1]) if len(table) else 0
    record = {"version": VERSION, "manifest": corpus.digest, "language": language.to_dict(), "ids": count}
    _write(place / "ids.json", lambda file: file.write(json.dumps(record).encode()))
    return record


def _extent(corpus: Corpus) -> Extent | None:
    """The one extent of all pictures.

    Raises:
        ValueError: If there are several.
    """
    if corpus.meaning.spec.modality != "image":
        return None
    found: set[Extent] = set()
    for shard in corpus:
        found |= {extent for extent, good in zip(shard.extents, shard.good, strict=True) if good}
        if len(found) > 1:
            raise ValueError(
                f"{corpus.folder}: pictures of one extent are read, as ids do not tell it, got {sorted(found)[:2]}; "
                f"scale them before they become tokens"
            )
    if not found:
        raise ValueError(f"{corpus.folder}: has no pictures")
    return found.pop()


def _laid_out(shard: Shard, language: Language) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ids of a shard, and its rows, with the length of each as its end."""
    spoken = [row for row in range(len(shard)) if shard.good[row] and len(shard.codes(row))]
    table, parts = np.zeros(len(spoken), ROW), [np.zeros(0, _dtype(language))]
    table["draw"] = [drawn(shard.ids[row]) for row in spoken]
    table["part"] = [part_of(shard.metas[row]) for row in spoken]
    for first in range(0, len(spoken), BATCH):
        tokens = batch_tokens([shard.tokens(row) for row in spoken[first : first + BATCH]])
        ids = language.ids.to_ids(tokens).numpy()
        stands = ids != language.ids.padding
        table["end"][first : first + BATCH] = stands.sum(1)
        parts.append(ids[stands].astype(_dtype(language)))
    return np.concatenate(parts), table


def drawn(name: str) -> float:
    """A number in [0, 1), even over names; one for all parts ``NAME#SECONDS`` of a sound."""
    whole = name.rpartition("#")[0] or name
    return int.from_bytes(hashlib.sha256(whole.encode()).digest()[:6], "big") / 2**48


def part_of(meta: str) -> int:
    """The part that a manifest put a row in; other names than those of training and validation are kept out of both."""
    values = json.loads(meta) if meta else None
    word = values.get("split") if isinstance(values, dict) else None
    return BY_NAME if not word else PARTS.get(str(word).lower(), OTHER)


def _dtype(language: Language) -> np.dtype:
    return np.dtype("<u2" if language.size <= 2**16 else "<i4")


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    """The whole file or none, also where several processes make it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
