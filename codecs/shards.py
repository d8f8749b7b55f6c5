"""Shards: the tokens of many signals in one Parquet file, a row each; what any reader of Parquet can read.

| column | type | what |
|---|---|---|
| `id` | string | of the signal, one row each |
| `status` | string | "ok", or "bad" for a signal that has no codes |
| `reason` | string | why it has none, one line |
| `start` | float64 | seconds into its source at which the signal begins |
| `extent` | list of int64 | samples or (height, width), without padding |
| `codes` | list of uint16, or int32 where a code may be absent (-1) or is above 65,535 | see below |
| `meta` | string | JSON of what the manifest says of it |

Codes stand position after position, all codebooks of one before the next (``codes.reshape(-1, Q)``): a part of a signal
is a slice. Where codebooks run at different rates they stand one codebook behind the other; "order" in the metadata
says which. Under ``sigtok`` the metadata of the file has JSON with the spec, the rate and the stream id of the model.

The bytes are a function of rows and meaning under one version of pyarrow: no time, machine or random number is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .spec import CodecSpec, Extent, Rate
from .tokens import ABSENT, Tokens

VERSION = 1
KEY = b"sigtok"
COLUMNS = ("id", "status", "reason", "start", "extent", "codes", "meta")
GOOD, BAD = "ok", "bad"


class Meaning(NamedTuple):
    """What gives codes their meaning: the codec's promises, the operating point, 32 hexadecimal digits of the model."""

    spec: CodecSpec
    rate: Rate
    stream_id: str

    @property
    def dense(self) -> bool:
        """Whether codebooks run at one rate, so that codes stand position after position."""
        return len(set(self.spec.strides[: self.rate.codebooks])) == 1

    @property
    def dtype(self) -> np.dtype:
        """Of the codes in a shard."""
        wide = self.spec.granular or max(self.spec.codebook_sizes) > 2**16
        return np.dtype(np.int32 if wide else np.uint16)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rate = {name: value for name, value in asdict(self.rate).items() if value is not None}
        order = "positions" if self.dense else "codebooks"
        return {
            "version": VERSION,
            "spec": self.spec.to_dict(),
            "rate": rate,
            "stream_id": self.stream_id,
            "order": order,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Meaning:
        """What `to_dict` made.

        Raises:
            ValueError: If a field is missing, of another version or out of range.
        """
        try:
            if values["version"] != VERSION:
                raise ValueError(f"shards of version {VERSION} are read here, got {values['version']!r}")
            spec, rate = CodecSpec.from_dict(values["spec"]), dict(values["rate"])
            for name in ("window", "shares"):
                rate[name] = tuple(rate[name]) if name in rate else None
            return cls(spec, spec.resolve(Rate(**rate)), str(values["stream_id"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"spec, rate and stream_id are needed, got other fields ({error})") from None

    def flat(self, tokens: Tokens) -> NDArray[Any]:
        """The codes of one signal in the order of the shard."""
        if self.dense:
            return tokens.codes[0].T.reshape(-1).cpu().numpy().astype(self.dtype)
        return torch.cat([stream[0] for stream in tokens.streams]).cpu().numpy().astype(self.dtype)

    def tokens(self, codes: NDArray[Any], extent: Extent) -> Tokens:
        """The tokens of one signal, checked.

        Raises:
            ValueError: If there are too few or too many, or one is not in its codebook.
        """
        counts = self.spec.token_counts(extent, self.rate)
        if len(codes) != sum(counts):
            raise ValueError(f"a signal of extent {extent} has {sum(counts)} codes, got {len(codes)}")
        all_codes = torch.from_numpy(codes.astype(np.int64))
        parts = all_codes.view(-1, len(counts)).T if self.dense else all_codes.split(counts)
        tokens = Tokens(tuple(part[None] for part in parts), (extent,), self.rate, self.spec)
        tokens.check_codes()
        return tokens


class Row(NamedTuple):
    """One signal; ``codes`` is None where there are none, and ``reason`` says why."""

    id: str
    start: float
    extent: Extent
    codes: NDArray[Any] | None
    reason: str = ""
    meta: str = ""


def shard_bytes(rows: Sequence[Row], meaning: Meaning) -> bytes:
    """The file of these rows."""
    import pyarrow as pa
    from pyarrow import parquet

    codes = [np.zeros(0, meaning.dtype) if row.codes is None else row.codes for row in rows]
    values = np.concatenate([*codes, np.zeros(0, meaning.dtype)])
    bad = np.array([row.codes is None for row in rows], bool)
    offsets = pa.array(np.cumsum([0, *map(len, codes)]), pa.int32(), mask=np.append(bad, False))
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "status": pa.array([BAD if row.codes is None else GOOD for row in rows], pa.string()),
        "reason": pa.array([row.reason or None for row in rows], pa.string()),
        "start": pa.array([row.start for row in rows], pa.float64()),
        "extent": pa.array([list(row.extent) for row in rows], pa.list_(pa.int64())),
        "codes": pa.ListArray.from_arrays(offsets, pa.array(values, pa.from_numpy_dtype(meaning.dtype))),
        "meta": pa.array([row.meta or None for row in rows], pa.string()),
    }
    words = json.dumps(meaning.to_dict(), sort_keys=True, separators=(",", ":"))
    table = pa.table(columns).replace_schema_metadata({KEY: words.encode()})
    sink = pa.BufferOutputStream()
    # A dictionary of at most K codes is K's bits a code; checksums find damage.
    parquet.write_table(table, sink, compression="zstd", write_page_checksum=True, row_group_size=max(1, len(rows)))
    return sink.getvalue().to_pybytes()


class Shard:
    """The rows of a file, checked: nothing in it is believed, nothing is executed.

    Args:
        path: The file.

    Raises:
        ValueError: If it is no such file, damaged, or a code is not in its codebook.
    """

    def __init__(self, path: str | Path) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        try:
            file = parquet.ParquetFile(path, page_checksum_verification=True)
            table = file.read().combine_chunks()
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{path}: damaged, or no Parquet file ({_first(error)}); make it again") from error
        try:
            self.meaning = Meaning.from_dict(json.loads((table.schema.metadata or {})[KEY]))
        except (ValueError, KeyError) as error:
            raise ValueError(f"{path}: a shard says what its codes mean, got none ({error}); make it again") from None
        if missing := [name for name in COLUMNS if name not in table.column_names]:
            raise ValueError(f"{path}: a shard has columns {', '.join(COLUMNS)}, {missing[0]!r} is missing")
        self.path = str(path)
        self.ids: list[str] = table["id"].to_pylist()
        self.reasons: list[str] = [reason or "" for reason in table["reason"].to_pylist()]
        self.starts: list[float] = table["start"].to_pylist()
        self.extents: list[Extent] = [tuple(extent) for extent in table["extent"].to_pylist()]
        self.metas: list[str] = [meta or "" for meta in table["meta"].to_pylist()]
        self.good = [status == GOOD for status in table["status"].to_pylist()]
        self._take_codes(table["codes"])

    def _take_codes(self, column: Any) -> None:
        chunks = column.chunks
        lists = chunks[0] if chunks else None
        self.values = np.zeros(0, self.meaning.dtype) if lists is None else lists.values.to_numpy(zero_copy_only=False)
        self.offsets = np.zeros(1, np.int64) if lists is None else lists.offsets.to_numpy().astype(np.int64)
        if self.values.dtype != self.meaning.dtype:
            raise ValueError(f"{self.path}: codes are {self.meaning.dtype}, got {self.values.dtype}; make it again")
        rate, sizes = self.meaning.rate, self.meaning.spec.codebook_sizes
        for row, extent in enumerate(self.extents):
            counts = self.meaning.spec.token_counts(extent, rate) if self.good[row] else (0,)
            if self.offsets[row + 1] - self.offsets[row] != sum(counts):
                raise ValueError(
                    f"{self.path}: {self.ids[row]} of extent {extent} has {sum(counts)} codes, got "
                    f"{self.offsets[row + 1] - self.offsets[row]}; make it again"
                )
        if len(self.values) != self.offsets[-1] - self.offsets[0]:
            raise ValueError(f"{self.path}: rows have {self.offsets[-1]} codes, got {len(self.values)}; make it again")
        least = ABSENT if self.meaning.spec.granular else 0
        if self.meaning.dense:
            ends = self.values.reshape(-1, rate.codebooks)
            for book in range(rate.codebooks):
                self._check_range(book, ends[:, book], least, sizes[book])
        else:
            for row in range(len(self)):
                for book, part in enumerate(self.streams(row) if self.good[row] else ()):
                    self._check_range(book, part, least, sizes[book])

    def _check_range(self, book: int, codes: NDArray[Any], least: int, size: int) -> None:
        if len(codes) and not (least <= codes.min() and codes.max() < size):
            raise ValueError(
                f"{self.path}: codes of codebook {book} are {least} to {size - 1}, got {codes.min()} to {codes.max()}; "
                f"make it again"
            )

    def __len__(self) -> int:
        """Rows, those without codes too."""
        return len(self.ids)

    def codes(self, row: int) -> NDArray[Any]:
        """The codes of a row in the order of the file, without a copy."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def streams(self, row: int) -> tuple[NDArray[Any], ...]:
        """The codes of a row, one array for each codebook."""
        codes, counts = self.codes(row), self.meaning.spec.token_counts(self.extents[row], self.meaning.rate)
        if self.meaning.dense:
            return tuple(codes.reshape(-1, len(counts)).T)
        return tuple(np.split(codes, np.cumsum(counts)[:-1]))

    def tokens(self, row: int) -> Tokens:
        """The tokens of a row.

        Raises:
            ValueError: If it has none.
        """
        if not self.good[row]:
            raise ValueError(f"{self.ids[row]} has no codes: {self.reasons[row]}")
        return self.meaning.tokens(self.codes(row), self.extents[row])

    def __iter__(self) -> Iterator[Row]:
        """The rows, as `shard_bytes` takes them."""
        for row, name in enumerate(self.ids):
            codes = self.codes(row) if self.good[row] else None
            yield Row(name, self.starts[row], self.extents[row], codes, self.reasons[row], self.metas[row])


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
