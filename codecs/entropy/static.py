"""One table per channel: codes whose law depends on nothing but the channel and the quality. No torch.

The entropy coder of Balle et al., 2017, arXiv 1611.01704.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sigtok.codecs.spec import Extent

from .ans import TableReader, TableWriter
from .tables import Tables


class StaticLaws:
    """Which of the tables speaks for a channel, and around which whole number, at every operating point.

    Args:
        tables: Of whole numbers.
        index: Of the tables, ``[P, D]`` of P operating points and D channels: the qualities 1 to the highest in equal
            steps, or one point where there are none.
        centres: Whole numbers ``[P, D]``, which tables count from.
        steps: Operating points from one whole quality to the next.

    Raises:
        ValueError: If shapes differ, or a table does not exist.
    """

    def __init__(
        self, tables: Tables, index: NDArray[np.integer], centres: NDArray[np.integer], steps: int = 1
    ) -> None:
        self.tables, self.index, self.centres, self.steps = tables, index, centres, steps
        if self.index.ndim != 2 or self.index.shape != self.centres.shape or not self.index.size:
            raise ValueError(
                f"index and centres are [points, channels], got {list(self.index.shape)} and {list(self.centres.shape)}"
            )
        tables.check_index(self.index.ravel())

    def put(self, writer: TableWriter, values: NDArray[np.integer], quality: float | None) -> None:
        """Append whole numbers ``[D, N]``, channel after channel."""
        point = self._point(quality)
        for channel, table, centre in zip(values, self.index[point], self.centres[point], strict=True):
            writer.put_run(channel - centre, int(table))

    def get(self, reader: TableReader, count: int, quality: float | None) -> NDArray[np.int64]:
        """The next whole numbers ``[D, count]``."""
        point = self._point(quality)
        values = np.empty((self.index.shape[1], count), np.int64)
        for channel, table, centre in zip(values, self.index[point], self.centres[point], strict=True):
            np.add(reader.get_run(count, int(table)), centre, out=channel)
        return values

    def _point(self, quality: float | None) -> int:
        """The row of a quality.

        Raises:
            ValueError: If there is none.
        """
        if quality is None and len(self.index) == 1:
            return 0
        place = -1.0 if quality is None else (quality - 1) * self.steps
        if place != int(place) or not 0 <= place < len(self.index):
            most = 1 + (len(self.index) - 1) / self.steps
            raise ValueError(f"there are tables for qualities 1 to {most:g} by 1/{self.steps}, got {quality}")
        return int(place)


class StaticCoder:
    """An `EntropyCoder` of independent channels.

    Args:
        sizes: Codes K of each codebook, one per channel; the code of 0 is ``K // 2``.
        laws: Of the whole numbers that codes stand for.

    Raises:
        ValueError: If the channels differ in number.
    """

    def __init__(self, sizes: Sequence[int], laws: StaticLaws) -> None:
        if len(sizes) != laws.index.shape[1]:
            raise ValueError(f"one law per codebook: {len(sizes)} codebooks, got {laws.index.shape[1]} laws")
        self.sizes, self.laws = tuple(sizes), laws

    def encode(self, codes: tuple[np.ndarray, ...], grid: Extent, quality: float | None) -> bytes:
        """The payload of codes ``[N]`` per codebook."""
        writer = TableWriter(self.laws.tables)
        self.laws.put(writer, values_of(codes, self.sizes), quality)
        return writer.payload()

    def decode(self, payload: bytes, grid: Extent, quality: float | None) -> tuple[np.ndarray, ...]:
        """The codes of a payload.

        Raises:
            ValueError: If the payload is not one that `encode` makes.
        """
        reader = TableReader(self.laws.tables, payload)
        values = self.laws.get(reader, math.prod(grid), quality)
        reader.finish()
        return codes_of(values, self.sizes)


def values_of(codes: Sequence[np.ndarray], sizes: Sequence[int]) -> NDArray[np.int64]:
    """The whole numbers ``[Q, N]`` that codes stand for.

    Raises:
        ValueError: If there are not as many streams as codebooks.
    """
    if len(codes) != len(sizes):
        raise ValueError(f"these tables are of {len(sizes)} codebooks, got {len(codes)}; send all of them")
    return np.stack(codes) - np.array(sizes)[:, None] // 2


def codes_of(values: NDArray[np.integer], sizes: Sequence[int]) -> tuple[np.ndarray, ...]:
    """The codes of whole numbers ``[Q, N]``.

    Raises:
        ValueError: If one is outside its codebook.
    """
    codes, most = values.astype(np.int64) + np.array(sizes)[:, None] // 2, np.array(sizes)[:, None]
    outside = (codes < 0) | (codes >= most)
    if outside.any():
        book = int(outside.any(1).argmax())
        raise ValueError(f"codebook {book} has codes below {sizes[book]}, got {codes[book][outside[book]][0]}")
    return tuple(codes)
