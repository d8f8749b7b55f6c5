"""Parquet files that hold the bytes of sounds or pictures, a row each, as Hugging Face's datasets do."""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import Any

from .choice import Choice
from .items import Found, Place
from .manifests import meta_of
from .uris import is_url, open_file, told

LARGEST = 2**31 - 1  # bytes of the files of a row group: it is decoded as a whole
_TURN = threading.Lock()


def found_in(uri: str, modality: str, choice: Choice) -> Iterator[Found]:
    """The rows of a file, named by their number; only columns of texts and numbers are read.

    Raises:
        ValueError: If it is no Parquet file, has no column of bytes, or several; if its row groups are too large.
    """
    file = _open(uri)
    with _refusing(uri):
        schema, rows = file.schema_arrow, file.metadata.num_rows
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"{uri}: columns have different names, got {', '.join(schema.names)}; rename them")
    column = _bytes_column(uri, schema, modality)
    _check_groups(uri, file.metadata, column)
    digits = len(str(max(0, rows - 1)))
    for row, meta in enumerate(_metas(uri, file, column)):
        if choice.takes(meta):
            yield Found(f"{row:0{digits}d}", Place(uri, column=column, row=row), meta_of(meta))


def bytes_of(place: Place) -> bytes:
    """The file in a row. Files stay open, and the last row groups decoded, for the next rows; threads take turns.

    Raises:
        ValueError: If there is no such row, or nothing in it.
    """
    stamp = None if is_url(place.uri) else _stamp(place.uri)
    with _TURN:
        _, starts = _kept(place.uri, stamp)
        if not 0 <= place.row < starts[-1]:
            raise ValueError(f"{place.uri}: has {starts[-1]} rows, asked for {place.row}; it has changed, plan anew")
        group = bisect_right(starts, place.row) - 1
        values = _group(place.uri, stamp, group, place.column)
    value = values[place.row - starts[group]].as_py()
    if value is None:
        raise ValueError(f"{place.uri}: row {place.row} has no {place.column}; put the bytes of files in it")
    return value


def _stamp(path: str) -> tuple[int, int]:
    with told(path):
        status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _kept(uri: str, stamp: Any) -> tuple[Any, list[int]]:
    """A file, and the first row of each of its groups, then the number of rows."""
    file = _open(uri)
    groups = range(file.metadata.num_row_groups)
    return file, list(accumulate((file.metadata.row_group(group).num_rows for group in groups), initial=0))


@lru_cache(maxsize=2)
def _group(uri: str, stamp: Any, group: int, column: str) -> Any:
    import pyarrow as pa
    from pyarrow import compute

    with _refusing(uri):
        values = _kept(uri, stamp)[0].read_row_group(group, columns=[column]).column(0)
        return compute.struct_field(values, "bytes") if pa.types.is_struct(values.type) else values


def _open(uri: str) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{uri}: Parquet needs pyarrow, which is not here; pip install 'sigtok[tokenize]'") from None
    file = open_file(uri)
    with _refusing(uri):
        return parquet.ParquetFile(file, page_checksum_verification=True)


@contextmanager
def _refusing(uri: str) -> Iterator[None]:
    """What pyarrow raises of damaged files as a `ValueError`; failures to read, which have a number, as they are."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{uri}: damaged, or no Parquet file ({reason}); get it again") from error


def _bytes_column(uri: str, schema: Any, modality: str) -> str:
    """The column of bytes: that of the modality's name, or the only one."""
    import pyarrow as pa

    def is_bytes(kind: Any) -> bool:
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    columns = {}
    for field in schema:
        if is_bytes(field.type):
            columns[field.name] = field.name
        elif pa.types.is_struct(field.type) and any(
            part.name == "bytes" and is_bytes(part.type) for part in field.type
        ):
            columns[field.name] = f"{field.name}.bytes"
    if modality in columns:
        return columns[modality]
    if len(columns) != 1:
        has = f"columns of bytes {', '.join(columns)}" if columns else f"columns {', '.join(schema.names)}"
        raise ValueError(f"{uri}: files are in one column of bytes, or {modality!r}, got {has}; rename the right one")
    return next(iter(columns.values()))


def _check_groups(uri: str, metadata: Any, column: str) -> None:
    for group in range(metadata.num_row_groups):
        chunks = (metadata.row_group(group).column(index) for index in range(metadata.num_columns))
        size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
        if size > LARGEST:
            raise ValueError(
                f"{uri}: row groups have at most {LARGEST} bytes in {column}, got {size}; "
                "write it again with a smaller row_group_size"
            )


def _metas(uri: str, file: Any, column: str) -> Iterator[dict[str, Any]]:
    """What the other columns say of each row; the path that stands beside its bytes under the name of both."""
    import pyarrow as pa

    top = column.removesuffix(".bytes")
    columns = [
        field.name
        for field in file.schema_arrow
        if not (
            pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        )
    ]
    if top != column and any(part.name == "path" for part in file.schema_arrow.field(top).type):
        columns.append(f"{top}.path")
    if not columns:
        yield from ({} for _ in range(file.metadata.num_rows))
        return
    with _refusing(uri):
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield {name: _plain(value["path"] if name == top else value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    """What JSON can say: no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
