"""A range coder of any shares of any wholes, in whole numbers (Martin, 1979). No torch.

What is coded is a share of a whole: where it starts, its size, and the size of the whole, at most 2**48. The code is a
number of a span; each share takes its part of it, and what all numbers of a span begin with is written, 16 bits at a
time. A payload has one spelling: the fewest bytes that lie in the last span if zeros follow.
"""

from __future__ import annotations

import numpy as np

SLACK = 2  # bytes: the code of a span of 2**48 out of 2**64 may end before them
_WHOLE, _LEAST = 2**64, 2**48  # of the span: at the start, and before 16 bits are taken out


class RangeWriter:
    """Shares of wholes, collected and then coded."""

    def __init__(self) -> None:
        self._low, self._span = 0, _WHOLE
        self._words: list[int] = []  # of 16 bits
        self.starts: list[int] = []
        self.shares: list[int] = []
        self.wholes: list[int] = []

    def put(self, start: int, share: int, whole: int) -> None:
        """Collect the share of a whole that begins at a start."""
        self.starts.append(start)
        self.shares.append(share)
        self.wholes.append(whole)

    def drop(self) -> None:
        """Forget what is collected."""
        self.starts, self.shares, self.wholes = [], [], []

    def settle(self) -> None:
        """Code what is collected."""
        low, span, words = self._low, self._span, self._words
        for start, share, whole in zip(self.starts, self.shares, self.wholes, strict=True):
            unit = span // whole
            low += start * unit
            span = share * unit
            while span < _LEAST:
                if low >= _WHOLE:
                    low -= _WHOLE
                    _carry(words)
                words.append(low >> 48)
                low, span = (low & 0xFFFFFFFFFFFF) << 16, span << 16
        self._low, self._span = low, span
        self.drop()

    def payload(self) -> bytes:
        """All that was coded."""
        value, size = _ending(self._low, self._span)
        if value >= _WHOLE:
            _carry(self._words)
        return np.array(self._words, ">u2").tobytes() + (value % _WHOLE).to_bytes(8, "big")[:size]


class RangeReader:
    """The shares of a payload: `find` where the next one lies, then `take` it."""

    def __init__(self, payload: bytes) -> None:
        self._size, self._word = len(payload), 4
        self._words = np.frombuffer(payload + bytes(16 + len(payload) % 2), ">u2").tolist()
        self._span, self._code = _WHOLE, int.from_bytes((payload + bytes(8))[:8], "big")
        self._unit = 0

    def find(self, whole: int) -> int:
        """A number of the next share of a whole.

        Raises:
            ValueError: If there is no such share.
        """
        self._unit = self._span // whole
        number = self._code // self._unit
        if number >= whole:
            raise ValueError(f"a share lies in a whole of {whole}, got {number}; the payload is damaged")
        return number

    def take(self, start: int, share: int) -> None:
        """Go on behind the share that holds what `find` found.

        Raises:
            ValueError: If the payload ends before.
        """
        self._code -= start * self._unit
        self._span = share * self._unit
        while self._span < _LEAST:
            if self._word == len(self._words):
                raise ValueError(f"the codes take more than the {self._size} bytes that are here")
            self._span <<= 16
            self._code = self._code << 16 | self._words[self._word]
            self._word += 1

    def end(self) -> None:
        """Raise ValueError unless the payload ends here, as it is written."""
        low = (self._window() - self._code) % _WHOLE
        value, size = _ending(low, self._span)
        end = 2 * self._word - 8 + size
        if (end, value % _WHOLE) != (self._size, self._window()):
            raise ValueError(f"the codes end in {end} bytes of one spelling, got another or {self._size} bytes")

    def _window(self) -> int:
        """The last 64 bits that were read."""
        return int.from_bytes(np.array(self._words[self._word - 4 : self._word], ">u2").tobytes(), "big")


def _ending(low: int, span: int) -> tuple[int, int]:
    """The number of the span that has the fewest bytes before its zeros, and how many."""
    for size in range(8):
        unit = 256 ** (8 - size)
        value = -(-low // unit) * unit
        if value < low + span:
            return value, size
    raise AssertionError("a span holds 2**48 numbers, so two bytes are enough")


def _carry(words: list[int]) -> None:
    """Add one to the last word written; it fits, since the whole code is less than 1."""
    at = len(words) - 1
    while words[at] == 0xFFFF:
        words[at] = 0
        at -= 1
    words[at] += 1
