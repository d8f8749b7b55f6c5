"""Values under tables to bytes and back, by asymmetric numeral systems (Duda et al., 2015). No torch.

constriction's coder of 64-bit states and 32-bit words, as little-endian bytes without the zeros at their end. It is a
stack: the writer keeps what it is given and codes it last to first. Values of one call stand table after table, each
table's in their order; after them stand those that their tables do not have, as a sign, the width of
``e = |value| - R`` by Elias' gamma code, and the bits of e below its first: signs, widths, then bits from the narrowest
on, beyond 16 of them the lower 16 first. A payload has one spelling, and about 3 bytes more than its values need.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from .tables import FARTHEST, WIDTHS, Tables, categorical

_WORD = 16  # bits of e that are coded at once
_SIGNS = constriction.stream.model.Uniform(2)
_WIDTHS = categorical(WIDTHS)
_BITS = [None, *(constriction.stream.model.Uniform(2**bits) for bits in range(1, _WORD + 1))]


class TableWriter:
    """A payload of values, call after call.

    Args:
        tables: What the reader has too.
    """

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._coded: list[tuple[NDArray[np.int32], Any]] = []  # symbols and their model

    def put(self, values: NDArray[np.integer], index: NDArray[np.integer]) -> None:
        """Append values ``[N]``, each under the table of its index.

        Raises:
            ValueError: If the shapes differ, a table does not exist, or a value is not 0 where all are, or too far.
        """
        if values.ndim != 1 or values.shape != index.shape:
            raise ValueError(
                f"values have one table each, got shapes {list(values.shape)} and {list(index.shape)}; flatten both"
            )
        self.tables.check_index(index)
        order, runs = grouped(index)
        values = values[order]
        escapes = [self._symbols(values[start:end], table) for table, start, end in runs]
        self._escapes(np.concatenate(escapes) if escapes else np.empty(0, np.int64))

    def put_run(self, values: NDArray[np.integer], table: int) -> None:
        """Append values ``[N]``, all under one table; `TableReader.get_run` reads them."""
        self._escapes(self._symbols(values, table))

    def payload(self) -> bytes:
        """All of them."""
        coder = constriction.stream.stack.AnsCoder()
        for symbols, model in reversed(self._coded):
            coder.encode_reverse(symbols, model)
        return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")

    def _symbols(self, values: NDArray[np.integer], table: int) -> NDArray[np.int64]:
        """Code values of one table, and tell the distances, with their signs, of those that it does not have."""
        radius, certain = int(self.tables.radii[table]), self.tables.lengths[table] == 1
        far = np.abs(values.astype(np.int64)) - radius
        outside = far > 0
        escaped = bool(outside.any())
        if escaped and (certain or int(far.max()) > FARTHEST):
            what = "all values are 0" if certain else f"values are at most {radius + FARTHEST}"
            raise ValueError(f"in table {table} {what}, got {values[int(far.argmax())]}")
        if not certain and len(values):
            symbols = values.astype(np.int32) + np.int32(radius)
            if escaped:
                symbols[outside] = 2 * radius + 1
            self._coded.append((symbols, self.tables.model(table)))
        return (far * np.sign(values))[outside] if escaped else np.empty(0, np.int64)

    def _escapes(self, distances: NDArray[np.int64]) -> None:
        if not len(distances):
            return
        self._coded.append(((distances < 0).astype(np.int32), _SIGNS))
        magnitudes = np.abs(distances)
        widths = np.frexp(magnitudes.astype(np.float64))[1].astype(np.int32) - 1
        self._coded.append((widths, _WIDTHS))
        order, runs = grouped(widths)
        for width, start, end in runs:
            below = magnitudes[order[start:end]] - 2**width
            for shift, bits in _parts(width):
                self._coded.append(((below >> shift & 2**bits - 1).astype(np.int32), _BITS[bits]))


class TableReader:
    """The values of a payload, by the same calls in the same order; then `finish`.

    Args:
        tables: Those of the writer.
        payload: What it wrote.

    Raises:
        ValueError: If the payload is not a writer's.
    """

    def __init__(self, tables: Tables, payload: bytes) -> None:
        if payload.endswith(b"\0"):
            raise ValueError(f"a payload does not end in a zero byte, got one of {len(payload)} bytes that does")
        words = np.frombuffer(payload + bytes(-len(payload) % 4), "<u4").astype(np.uint32)
        self.tables = tables
        self._coder = constriction.stream.stack.AnsCoder(words)

    def get(self, index: NDArray[np.integer]) -> NDArray[np.int32]:
        """The next values ``[N]``, each under the table of its index.

        Raises:
            ValueError: If a table does not exist.
        """
        self.tables.check_index(index)
        order, runs = grouped(index)
        sorted_values = np.empty(len(index), np.int32)
        for table, start, end in runs:
            sorted_values[start:end] = self._symbols(end - start, table)
        radii = self.tables.radii[index[order]]
        self._escapes(sorted_values, radii)
        values = np.empty_like(sorted_values)
        values[order] = sorted_values
        return values

    def get_run(self, count: int, table: int) -> NDArray[np.int32]:
        """The next so many values, all under one table."""
        values = self._symbols(count, table)
        self._escapes(values, self.tables.radii[table : table + 1])
        return values

    def finish(self) -> None:
        """Raise ValueError unless the payload ends here."""
        if not self._coder.is_empty():
            raise ValueError("a payload ends with its last value, got one that goes on; its bytes are damaged")

    def _symbols(self, count: int, table: int) -> NDArray[np.int32]:
        """Values of one table, R + 1 where one is escaped."""
        if self.tables.lengths[table] == 1 or not count:
            return np.zeros(count, np.int32)
        symbols = self._coder.decode(self.tables.model(table), count)
        symbols -= np.int32(self.tables.radii[table])
        return symbols

    def _escapes(self, values: NDArray[np.int32], radii: NDArray[np.int64]) -> None:
        """Put the values that tables do not have into their places; one radius each, or one of all."""
        places = np.flatnonzero(values > radii)
        if not len(places):
            return
        negative = self._coder.decode(_SIGNS, len(places)) == 1
        widths = self._coder.decode(_WIDTHS, len(places))
        magnitudes = np.left_shift(np.int64(1), widths.astype(np.int64))
        order, runs = grouped(widths)
        for width, start, end in runs:
            for shift, bits in _parts(width):
                below = self._coder.decode(_BITS[bits], end - start).astype(np.int64)
                magnitudes[order[start:end]] += below << shift
        magnitudes += np.broadcast_to(radii, values.shape)[places]
        values[places] = np.where(negative, -magnitudes, magnitudes)


def grouped(index: NDArray[np.integer]) -> tuple[NDArray[np.intp], list[tuple[int, int, int]]]:
    """The order of positions by their index, equal ones as they stand, and the runs of it: index, start, end."""
    small = index.astype(np.uint16 if not len(index) or index.max() < 2**16 else np.int64)  # of these a sort by digits
    order = np.argsort(small, kind="stable")
    ranked = small[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1]))) if len(ranked) else ranked
    ends = [*starts[1:].tolist(), len(ranked)]
    return order, list(zip(ranked[starts].tolist(), starts.tolist(), ends, strict=False))


def _parts(width: int) -> Iterator[tuple[int, int]]:
    """Bits of a number of so many that are coded at once, lowest first: how many are below them, how many they are."""
    for shift in range(0, width, _WORD):
        yield shift, min(_WORD, width - shift)
