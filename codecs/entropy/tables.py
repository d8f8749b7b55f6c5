"""Tables of whole numbers: what an entropy coder may know about values. No torch, and no float once a table is made.

A table gives each symbol a frequency of at least 1 of 2**16; a symbol of frequency f costs ``16 - log2(f)`` bits. It
speaks of the whole numbers -R to R, in that order, and last of an escape for all others; a table of the single symbol 0
costs nothing. Counts become frequencies by largest remainders (Hamilton's method), in integers throughout. Laws that
are found by an index of their scale are from Balle et al., 2018, arXiv 1802.01436.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import constriction
import numpy as np
from numpy.typing import ArrayLike, NDArray

PRECISION = 16
WHOLE = 2**PRECISION  # the sum of a table
LARGEST = 65_512  # a frequency, unless it is the only one
MOST_SYMBOLS = 4096  # of a table, so that those that never occur take little
MOST_COUNTS = 2**47  # of one symbol: products with WHOLE stay below 2**63

SCALES = tuple(
    0.05 * (256 / 0.05) ** (step / 63) for step in range(64)
)  # standard deviations, 14 % from one to the next
WIDEST = 511  # R of a law, at most
TAIL = 2.0**-13  # what a law leaves to the escape, or less, unless R is the widest
FARTHEST = 2**30 - 1  # of values from the range of their table
_COUNTS = 2**40  # of a law in all, before it is a table


def integer_table(counts: ArrayLike) -> NDArray[np.uint32]:
    """Frequencies of counts: each at least 1, at most `LARGEST` if there are two, summing to 2**16.

    Of K symbols, symbol k has ``1 + floor(c_k (2^16 - K) / sum(c))``; what is left goes to the largest remainders, of
    equal ones to the first. A frequency beyond `LARGEST` is cut to it, and the others share the rest by the same rule.
    Counts that are all zero count as equal.

    Args:
        counts: Whole numbers ``[K]`` of 0 to 2**47, K from 1 to 4,096.

    Raises:
        ValueError: If a count is not such a number, or there are too many or none.
    """
    whole = np.asarray(counts)
    if whole.ndim != 1 or not 1 <= len(whole) <= MOST_SYMBOLS:
        raise ValueError(f"a table has 1 to {MOST_SYMBOLS} symbols, got counts of shape {list(whole.shape)}")
    if whole.dtype.kind not in "iu" or whole.min() < 0 or whole.max() > MOST_COUNTS:
        raise ValueError(f"counts are whole numbers of 0 to 2**47, got {whole.dtype} {whole.min()} to {whole.max()}")
    whole = whole.astype(np.int64)
    shares = _apportioned(whole, WHOLE)
    top = int(shares.argmax())
    if len(whole) > 1 and shares[top] > LARGEST:  # then K is at most 24, and the others fit
        shares = np.insert(_apportioned(np.delete(whole, top), WHOLE - LARGEST), top, LARGEST)
    return shares.astype(np.uint32)


def _apportioned(counts: NDArray[np.int64], seats: int) -> NDArray[np.int64]:
    """So many seats, one for each and the others by counts."""
    counts = counts if counts.any() else np.ones_like(counts)
    products = counts * (seats - len(counts))
    shares, remainders = np.divmod(products, counts.sum())
    shares += 1
    left = seats - int(shares.sum())
    shares[np.argsort(-remainders, kind="stable")[:left]] += 1
    return shares


WIDTHS = integer_table([2 ** (29 - width) for width in range(30)])  # of Elias' gamma code: half of them each bit more


class Tables:
    """Several tables, one after another.

    Args:
        frequencies: Whole numbers ``[sum(lengths)]``: of each table its values from -R to R, then of its escape.
        lengths: Whole numbers ``[M]``: symbols of each table, ``2 R + 2``, or 1 of a table where all values are 0.

    Raises:
        ValueError: If they are not tables.
    """

    def __init__(self, frequencies: ArrayLike, lengths: ArrayLike) -> None:
        self.frequencies, self.lengths = _whole("frequencies", frequencies), _whole("lengths", lengths)
        self.lengths.setflags(write=False)
        self.radii = (self.lengths - 1) // 2
        self.starts = np.cumsum(self.lengths) - self.lengths
        self._check()
        self._models: dict[int, Any] = {}

    def __len__(self) -> int:
        """Tables M."""
        return len(self.lengths)

    def table(self, index: int) -> NDArray[np.int64]:
        """Frequencies of one table."""
        return self.frequencies[self.starts[index] : self.starts[index] + self.lengths[index]]

    def model(self, index: int) -> Any:
        """One table as constriction has it: its floats are these integers, exactly; made once."""
        if index not in self._models:
            self._models[index] = categorical(self.table(index))
        return self._models[index]

    def check_index(self, index: NDArray[np.integer]) -> None:
        """Raise ValueError unless there are such tables."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(f"there are tables 0 to {len(self) - 1}, got {int(index.min())} to {int(index.max())}")

    def bits(self, values: NDArray[np.integer], index: NDArray[np.integer] | int) -> NDArray[np.float64]:
        """The ideal length of values in bits, each under its table, escapes included; infinite where it cannot be."""
        index = np.broadcast_to(np.asarray(index), values.shape)
        radii, magnitude = self.radii[index], np.abs(values.astype(np.int64))
        symbol = np.where(magnitude <= radii, values + radii, np.minimum(2 * radii + 1, self.lengths[index] - 1))
        bits = PRECISION - np.log2(self.frequencies[self.starts[index] + symbol])
        escaped = magnitude > radii
        widths = np.frexp((magnitude - radii)[escaped].astype(np.float64))[1] - 1
        bits[escaped] += 1 + widths + PRECISION - np.log2(WIDTHS[widths])  # a sign, then as in `ans`
        return np.where(escaped & (self.lengths[index] == 1), np.inf, bits)

    def _check(self) -> None:
        lengths, frequencies = self.lengths, self.frequencies
        odd = (lengths < 1) | (lengths > MOST_SYMBOLS) | (lengths % 2 == 1) & (lengths > 1)
        if not len(lengths) or odd.any():
            wrong = lengths[odd][0] if len(lengths) else "none"
            raise ValueError(f"a table has 1 symbol or an even number of at most {MOST_SYMBOLS}, got {wrong}")
        if lengths.sum() != len(frequencies):
            raise ValueError(f"these tables have {lengths.sum()} symbols, got {len(frequencies)} frequencies")
        sums, least, most = (ufunc.reduceat(frequencies, self.starts) for ufunc in (np.add, np.minimum, np.maximum))
        wrong = (sums != WHOLE) | (least < 1) | (lengths > 1) & (most > LARGEST)
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"frequencies of a table are 1 to {LARGEST} and sum to {WHOLE}, table {place} has {least[place]} to "
                f"{most[place]} and sums to {sums[place]}"
            )


def stacked(tables: Sequence[ArrayLike]) -> Tables:
    """Tables of single ones."""
    arrays = [np.asarray(table) for table in tables]
    return Tables(np.concatenate(arrays) if arrays else np.empty(0, int), np.array([len(table) for table in arrays]))


def categorical(frequencies: ArrayLike) -> Any:
    """The model of a table for constriction."""
    return constriction.stream.model.Categorical(np.asarray(frequencies) / np.float64(WHOLE), perfect=False)


def joined(parts: Sequence[Tables]) -> Tables:
    """All tables of each, in their order."""
    return Tables(
        np.concatenate([part.frequencies for part in parts]), np.concatenate([part.lengths for part in parts])
    )


def scale_tables(law: str = "gaussian", scales: Sequence[float] = SCALES, mean: float = 0.0) -> Tables:
    """One table per scale: the mass of a law around each whole number, and R of all but `TAIL` of it, up to 511.

    Made of floats, so that another machine may find other integers: make them when a model is frozen, and store them.

    Args:
        law: "gaussian", "laplace" or "logistic".
        scales: Standard deviations, positive.
        mean: Of the law, -1 to 1.

    Raises:
        ValueError: If a scale is not positive, the mean is not in range, or the law has another name.
    """
    if law not in _BEYOND:
        raise ValueError(f"a law is one of {list(_BEYOND)}, got {law!r}")
    if not -1 <= mean <= 1 or not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"scales are positive numbers and a mean is -1 to 1, got {tuple(scales)} and {mean}")
    return stacked([_law_table(_BEYOND[law], scale, mean) for scale in scales])


def _law_table(beyond: Callable[[float], float], scale: float, mean: float) -> NDArray[np.uint32]:
    """The table of a symmetric law, given what lies beyond so many deviations to one side."""
    radius = next((r for r in range(1, WIDEST) if 2 * beyond((r + 0.5 - abs(mean)) / scale) <= TAIL), WIDEST)
    edges = [(k - radius - 0.5 - mean) / scale for k in range(2 * radius + 2)]
    above, below = (np.array([beyond(sign * edge) for edge in edges]) for sign in (1, -1))  # small on their own sides
    mass = np.where(np.array(edges[:-1]) > 0, above[:-1] - above[1:], below[1:] - below[:-1])
    return integer_table(np.rint(np.append(mass, below[0] + above[-1]) * _COUNTS).astype(np.int64))


def _laplace(deviations: float) -> float:
    half = math.exp(-abs(deviations) * math.sqrt(2)) / 2
    return half if deviations > 0 else 1 - half


def _logistic(deviations: float) -> float:
    exponent = math.exp(-abs(deviations) * math.pi / math.sqrt(3))
    return (exponent if deviations > 0 else 1) / (1 + exponent)


_BEYOND: dict[str, Callable[[float], float]] = {
    "gaussian": lambda deviations: math.erfc(deviations / math.sqrt(2)) / 2,
    "laplace": _laplace,
    "logistic": _logistic,
}


def _whole(name: str, values: ArrayLike) -> NDArray[np.int64]:
    """A copy as int64, read-only.

    Raises:
        ValueError: If they are not whole numbers in a row.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{name} are whole numbers in a row, got {array.dtype} of shape {list(array.shape)}")
    array = array.astype(np.int64)
    array.setflags(write=False)
    return array
