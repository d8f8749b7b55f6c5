"""An adaptive binary range coder: bits under contexts, in as many bytes as they are surprising. No torch.

A range coder (G. N. N. Martin 1979) of binary decisions with adaptive chances, as CABAC (Marpe et al. 2003) and LZMA
have it: of all integers, hence the same on every machine. Each context has the chance of a 0, in 1/65,536, that goes
towards each bit by one part in n + 2 after n bits, later by one in 128. Of the span of numbers that are left, 2**32 at
the start and refilled by bytes below 2**24, a 0 has the lower ``(span >> 12) * (chance >> 4)``. A code has one spelling
and knows its own end: the fewest last bytes after which anything may follow.
"""

from __future__ import annotations

from collections.abc import Sequence

_WHOLE, _LEAST = 2**32, 2**24  # of the span: at the start, and before a byte is taken out
_EVEN = 2**15  # the chance of a 0 before the first bit
_STEPS = tuple(2**16 // (seen + 2) for seen in range(127))  # in 1/65,536, by the bits that a context has seen


def encode(bits: Sequence[int], contexts: Sequence[int], count: int) -> bytes:
    """Bytes of bits; none of no bits.

    Args:
        bits: 0 or 1 (trusted).
        contexts: The context of each bit, 0 to ``count - 1`` (trusted).
        count: Contexts in all.
    """
    chances, seen, steps, last = [_EVEN] * count, [0] * count, _STEPS, len(_STEPS) - 1
    low, span, out = 0, _WHOLE, bytearray()
    for bit, context in zip(bits, contexts, strict=True):
        chance, number = chances[context], seen[context]
        zeros = (span >> 12) * (chance >> 4)
        if bit:
            low += zeros
            span -= zeros
            chances[context] = chance - (chance * steps[number] >> 16)
        else:
            span = zeros
            chances[context] = chance + ((65536 - chance) * steps[number] >> 16)
        if number < last:
            seen[context] = number + 1
        while span < _LEAST:
            if low >= _WHOLE:
                _carry(out)
            out.append(low >> 24 & 255)
            low, span = (low & 0xFFFFFF) << 8, span << 8
    value, size = _ending(low, span)
    if value >= _WHOLE:
        _carry(out)
    return bytes(out) + (value % _WHOLE).to_bytes(4, "big")[:size]


class Decoder:
    """The bits of one `encode`, run after run.

    Args:
        payload: The bytes, and any others behind them.
        count: Contexts in all, as they were encoded.
    """

    def __init__(self, payload: bytes, count: int) -> None:
        self.size, self.data, self.at = len(payload), payload + bytes(4), 4
        self.span, self.code = _WHOLE, int.from_bytes(self.data[:4], "big")
        self.chances, self.seen = [_EVEN] * count, [0] * count

    def run(self, bases: Sequence[int], follows: Sequence[int]) -> list[int]:
        """The next bits, as many as bases.

        Args:
            bases: The context of each bit as far as it is known before the run.
            follows: What a 1 right before it in the run adds to the context of each bit.

        Raises:
            ValueError: If the payload ends before.
        """
        data, at, span, code = self.data, self.at, self.span, self.code
        chances, seen, steps, last = self.chances, self.seen, _STEPS, len(_STEPS) - 1
        bits, bit = [], 0
        try:
            for base, follow in zip(bases, follows, strict=True):
                context = base + follow if bit else base
                chance, number = chances[context], seen[context]
                zeros = (span >> 12) * (chance >> 4)
                if code < zeros:
                    span, bit = zeros, 0
                    chances[context] = chance + ((65536 - chance) * steps[number] >> 16)
                else:
                    code, span, bit = code - zeros, span - zeros, 1
                    chances[context] = chance - (chance * steps[number] >> 16)
                if number < last:
                    seen[context] = number + 1
                while span < _LEAST:
                    span, code, at = span << 8, code << 8 | data[at], at + 1
                bits.append(bit)
        except IndexError:
            raise ValueError(f"the bits of a map take more than the {self.size} bytes that are here") from None
        self.at, self.span, self.code = at, span, code
        return bits

    def end(self) -> int:
        """Bytes of the code, after its last bit.

        Raises:
            ValueError: If the last bytes are missing or others than `encode` writes.
        """
        window = int.from_bytes(self.data[self.at - 4 : self.at], "big")
        low = (window - self.code) % _WHOLE
        value, size = _ending(low, self.span)
        end, behind = self.at - 4 + size, window % 256 ** (4 - size)
        if end > self.size or self.code - behind != value - low:
            raise ValueError(f"the bits of a map end in {end} bytes of one spelling, got another or {self.size} bytes")
        return end


def _ending(low: int, span: int) -> tuple[int, int]:
    """The fewest bytes, at the top of a number of 32 bits and a carry, after which all bytes stay inside the span."""
    for size in range(4):
        unit = 256 ** (4 - size)
        value = -(-low // unit) * unit
        if value + unit <= low + span:
            return value, size
    raise AssertionError("a span holds 2**24 numbers, so the third byte is enough")


def _carry(out: bytearray) -> None:
    """Add one to the last byte written; it fits, since the whole code is less than 1."""
    at = len(out) - 1
    while out[at] == 255:
        out[at] = 0
        at -= 1
    out[at] += 1
