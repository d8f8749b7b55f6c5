"""Codes under contexts that are learned on the way: they need no model and no tables, only the codes before. No torch.

Most codes of a large codebook are too rare to learn which follows which, but which are in use, and which come back, is
learned at once. So each code is first guessed, up to three times, as in LZP (Bloom 1996): as the last one beside the
same code of the codebook before, as the one some places back, as the last one so far behind the same code. A bit says
whether a guess is right, under whether the last one of its context and the last one of its kind were. If all fail, a
bit says whether the code is new; a new one comes at a fixed width, a known one by its count among the known ones but
the failed guesses (escapes and exclusion of PPM, Cleary and Witten 1984), in a tree of sums (Fenwick 1994). Counts age:
each weighs more than the one before by one part in 32, 128, 512 or none, and what has become little is forgotten.
Every codebook starts afresh and says which of this it does, or that its codes come at a fixed width because nothing is
to be had. One range coder (Martin 1979) writes it all, codebook after codebook, of integers alone. The chance of a bit
is at least 720/65,536, so that n bytes hold at most 512 (n + 2) codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from sigtok.codecs.spec import Extent

from .ranges import SLACK, RangeReader, RangeWriter

CODES_PER_BYTE = 512  # at most, since a code costs 1/64 bit or more
_SURE, _ONE = 720, 2**16  # the least chance of a bit, and certainty
_STEPS = tuple(_ONE // (seen + 2) for seen in range(30))  # towards a bit, by the bits seen before
_AGES = (63, 5, 7, 9)  # counts grow by one part in 2**age; 63 is none
_COUNT, _COUNTS = 2**12, 2**32  # weight of the first count; of all before they are scaled down
_FAR = 10  # guesses look up to 2**10 places back, or to the row above
_OPTIONS = 6  # bits of a plan
_SAMPLE = 2**14  # codes that a plan is made from


class _Plan(NamedTuple):
    """What a codebook does: which of `_AGES`, None at a fixed width; whether it guesses, and how many places back."""

    age: int | None = None
    beside: bool = False
    copy: int | None = None
    follow: int | None = None


class AdaptiveCoder:
    """An `EntropyCoder` of any codebooks; each payload is learned afresh.

    Another payload than the one that `encode` makes may give the same codes: by another plan. Where every damaged bit
    is to be found, a CRC runs over the payload too.

    Args:
        codebook_sizes: Codes K of each codebook, 2 to 2**32.
        strides: Positions per code of each codebook.
    """

    def __init__(self, codebook_sizes: Sequence[int], strides: Sequence[int | Fraction]) -> None:
        if len(codebook_sizes) != len(strides):
            raise ValueError(f"one stride per codebook: {len(codebook_sizes)} codebooks, {len(strides)} strides")
        if bad := [size for size in codebook_sizes if not 2 <= size <= 2**32]:
            raise ValueError(f"a codebook has 2 to 2**32 codes, got {bad[0]}")
        self.sizes = tuple(codebook_sizes)
        self.strides = tuple(Fraction(stride) for stride in strides)

    def encode(self, codes: tuple[np.ndarray, ...], grid: Extent, quality: float | None = None) -> bytes:
        """The payload of a piece of a signal, complete by itself; no bytes if there are no codes.

        Args:
            codes: One int64 array ``[N_q]`` per codebook, each inside its codebook (trusted).
            grid: Positions along each axis, ``(N,)`` or ``(rows, columns)``; N is their product.
            quality: Of the rate; nothing depends on it.

        Raises:
            ValueError: If the codes are not as many as the grid says.
        """
        counts = self._counts(grid)
        if [stream.shape for stream in codes] != [(count,) for count in counts]:
            raise ValueError(f"a grid of {grid} has {counts} codes, got {tuple(len(stream) for stream in codes)}")
        writer, options, before = _Writer(), _contexts(_OPTIONS), np.empty(0, np.int64)
        for book, (size, stream) in enumerate(zip(self.sizes, codes, strict=True)):
            lags, beside = self._lags(book, grid), self._beside(book, before, len(stream))
            known = [state[:] for state in options]
            plan = _choose(stream, size, beside, lags)
            _code_book(writer, stream.tolist(), size, _code_plan(writer, options, lags, plan), beside.tolist())
            if plan.age is not None and writer.cost() >= _log(size) * len(stream):
                writer.drop()
                options = known
                _code_book(writer, stream.tolist(), size, _code_plan(writer, options, lags, _Plan()), [])
            writer.settle()
            before = stream
        return writer.payload() if any(counts) else b""

    def decode(self, payload: bytes, grid: Extent, quality: float | None = None) -> tuple[np.ndarray, ...]:
        """The codes of a payload, each inside its codebook.

        Raises:
            ValueError: If the payload is too short for the grid, or not one that `encode` makes.
        """
        counts = self._counts(grid)
        if sum(counts) > (most := CODES_PER_BYTE * (len(payload) + SLACK)):
            raise ValueError(
                f"a payload of {len(payload)} bytes has {most} codes at most, got a grid {grid} of {sum(counts)}; "
                f"it is cut short or of another grid"
            )
        reader, options, streams = _Reader(payload), _contexts(_OPTIONS), [np.empty(0, np.int64)]
        for book, (size, count) in enumerate(zip(self.sizes, counts, strict=True)):
            beside = self._beside(book, streams[-1], count).tolist()
            plan = _code_plan(reader, options, self._lags(book, grid), _Plan()) if count else _Plan()
            streams.append(np.array(_code_book(reader, [-1] * count, size, plan, beside), np.int64))
        reader.end()
        return tuple(streams[1:])

    def _counts(self, grid: Extent) -> tuple[int, ...]:
        """Codes of each codebook."""
        return tuple(math.ceil(math.prod(grid) / stride) for stride in self.strides)

    def _lags(self, book: int, grid: Extent) -> list[int]:
        """How many places back a guess may look: powers of 2, and the row above."""
        row = grid[-1] / self.strides[book]
        return sorted({2**power for power in range(_FAR + 1)} | ({int(row)} if row.denominator == 1 and row else set()))

    def _beside(self, book: int, before: np.ndarray, count: int) -> np.ndarray:
        """For each code of a codebook that of the codebook before at its position; 0 for the first codebook."""
        if not book:
            return np.zeros(count, np.int64)
        ratio = self.strides[book] / self.strides[book - 1]
        return before[np.minimum(np.arange(count) * ratio.numerator // ratio.denominator, len(before) - 1)]


# -- the model, the same for both directions; a reader is given -1 for every code and gives back the right one --


def _contexts(count: int) -> list[list[int]]:
    """Chances of a 1, in 1/65,536, each with the number of bits that it has seen."""
    return [[_ONE // 2, 0] for _ in range(count)]


def _code_plan(coder: _Coder, options: list[list[int]], lags: list[int], plan: _Plan) -> _Plan:
    """The plan of a codebook, under what the plans before were."""
    if not coder.bit(options[0], plan.age is not None):
        return _Plan()
    age = _AGES.index(plan.age or _AGES[0])
    age = 2 * coder.bit(options[1], age > 1) + coder.bit(options[2], age % 2 == 1)
    beside = coder.bit(options[3], plan.beside)
    back = []
    for option, lag in zip(options[4:], (plan.copy, plan.follow), strict=True):
        guesses = coder.bit(option, lag is not None)
        back.append(lags[coder.number(lags.index(lag or 1), len(lags))] if guesses else None)
    return _Plan(_AGES[age], beside, *back)


def _code_book(coder: _Coder, codes: Sequence[int], size: int, plan: _Plan, beside: list[int]) -> list[int]:
    """The codes of one codebook."""
    if plan.age is None:
        return [coder.number(code, size) for code in codes]
    kinds: list[tuple[list[int], dict[int, int], list[list[int]]]] = []
    if plan.beside:
        kinds.append((beside, {}, _contexts(4)))
    if plan.copy:
        kinds.append(([place % plan.copy for place in range(len(codes))], {}, _contexts(4)))
    behind = [-1] * (plan.follow or 0)
    if plan.follow:
        kinds.append((behind, {}, _contexts(4)))
    lately = [0] * len(kinds)  # whether the last guess of the kind was right
    counts, novelty, news = _Counts(plan.age), _contexts(4), 0
    for place, code in enumerate(codes):
        found, failed = -1, []
        for kind, (keys, last, contexts) in enumerate(kinds):
            guess = last.get(keys[place])  # twice the code, and whether the guess before was right
            if guess is None or guess >> 1 in failed:
                continue
            right = coder.bit(contexts[2 * (guess & 1) + lately[kind]], guess >> 1 == code)
            lately[kind] = right
            if right:
                found = guess >> 1
                break
            failed.append(guess >> 1)
        if found < 0:
            new = coder.bit(novelty[news], code not in counts.slots)
            news = news >> 1 | 2 * new
            found = coder.number(code, size) if new else coder.known(counts, code, failed)
        counts.add(found)
        for keys, last, _ in kinds:
            key = keys[place]
            last[key] = 2 * found + (last.get(key, -1) >> 1 == found)
        behind.append(found)
    return behind[len(behind) - len(codes) :]


class _Counts:
    """How often codes came, the later the more: weights in the order of their first time, and a tree of their sums.

    Args:
        age: A weight exceeds the one before by one part in 2**age.
    """

    def __init__(self, age: int) -> None:
        self.weight, self.age = _COUNT, age
        self._plant([], [])

    def add(self, code: int) -> None:
        """Count a code; the first time by half."""
        slot, weight = self.slots.get(code, -1), self.weight
        if slot < 0:
            slot, weight = len(self.codes), weight >> 1
            self.slots[code] = slot
            self.codes.append(code)
            self.weights.append(0)
            if slot == len(self.tree) - 1:
                self.tree += [0] * (slot - 1) + [self.total]
        self.weights[slot] += weight
        self.total += weight
        tree, node, end = self.tree, slot + 1, len(self.tree)
        while node < end:
            tree[node] += weight
            node += node & -node
        self.weight += self.weight >> self.age
        if self.weight >= 4 * _COUNT or self.total >= _COUNTS:
            self.weight >>= 2
            kept = _kept(zip(self.codes, self.weights, strict=True), self.weight)
            self._plant(list(kept), list(kept.values()))

    def below(self, slot: int) -> int:
        """The sum of the weights before a slot."""
        tree, total = self.tree, 0
        while slot:
            total += tree[slot]
            slot &= slot - 1
        return total

    def at(self, number: int) -> tuple[int, int]:
        """The slot that has a number below the sum of all weights, and what is below the slot."""
        tree, slot, half, rest = self.tree, 0, (len(self.tree) - 1) >> 1, number
        while half:
            part = tree[slot + half]
            if part <= rest:
                slot += half
                rest -= part
            half >>= 1
        return slot, number - rest

    def places(self, codes: Sequence[int]) -> list[int]:
        """The slots of those codes that are known, from the first on."""
        return sorted(self.slots[code] for code in codes if code in self.slots)

    def _plant(self, codes: list[int], weights: list[int]) -> None:
        """Start from these; node i of the tree sums the weights of the i & -i slots before slot i."""
        self.codes, self.weights, self.total = codes, weights, sum(weights)
        self.slots = {code: slot for slot, code in enumerate(codes)}
        self.tree = [0, *weights] + [0] * ((1 << max(len(codes) - 1, 1).bit_length()) - len(codes))
        for node in range(1, len(self.tree)):
            above = node + (node & -node)
            if above < len(self.tree):
                self.tree[above] += self.tree[node]


def _kept(counted: Iterable[tuple[int, int]], weight: int) -> dict[int, int]:
    """A quarter of every weight, but for those that are less than 1/16 of a count of today: they are forgotten."""
    return {code: part >> 2 for code, part in counted if part >> 2 >= weight >> 4}


# -- the two directions ------------------------------------------------------------------------------------


class _Writer(RangeWriter):
    """Bits, numbers and counted codes, collected and then coded."""

    def bit(self, state: list[int], value: bool) -> bool:
        """A bit of a context, which learns it."""
        chance, seen = state
        self.put(0 if value else chance, chance if value else _ONE - chance, _ONE)
        _learn(state, value, chance, seen)
        return value

    def number(self, value: int, size: int) -> int:
        """A number below a size, all of them as likely."""
        self.put(value, 1, size)
        return value

    def known(self, counts: _Counts, code: int, failed: Sequence[int]) -> int:
        """A code by its count, among all but those that failed."""
        slot, whole = counts.slots[code], counts.total
        start = counts.below(slot)
        for place in counts.places(failed):
            whole -= counts.weights[place]
            start -= counts.weights[place] if place < slot else 0
        self.put(start, counts.weights[slot], whole)
        return code

    def cost(self) -> int:
        """Bits of what is collected, in 1/65,536."""
        return int((_logs(self.wholes) - _logs(self.shares)).sum())


class _Reader(RangeReader):
    """What a `_Writer` coded, from its payload."""

    def bit(self, state: list[int], value: bool = False) -> bool:
        """The next bit, of a context, which learns it."""
        chance, seen = state
        value = self.find(_ONE) < chance
        self.take(0 if value else chance, chance if value else _ONE - chance)
        _learn(state, value, chance, seen)
        return value

    def number(self, value: int, size: int) -> int:
        """The next number below a size."""
        found = self.find(size)
        self.take(found, 1)
        return found

    def known(self, counts: _Counts, code: int, failed: Sequence[int]) -> int:
        """The next code that was counted and did not fail."""
        places = counts.places(failed)
        whole = counts.total - sum(counts.weights[place] for place in places)
        if not whole:
            raise ValueError("a known code is none of those that failed, got no other; the payload is damaged")
        number, skipped = self.find(whole), 0
        for place in places:
            if number + skipped >= counts.below(place):
                skipped += counts.weights[place]
        slot, below = counts.at(number + skipped)
        self.take(below - skipped, counts.weights[slot])
        return counts.codes[slot]


_Coder = _Writer | _Reader


def _learn(state: list[int], value: bool, chance: int, seen: int) -> None:
    step = _STEPS[seen]
    if value:
        state[0] = min(chance + ((_ONE - chance) * step >> 16), _ONE - _SURE)
    else:
        state[0] = max(chance - (chance * step >> 16), _SURE)
    if seen < len(_STEPS) - 1:
        state[1] = seen + 1


# -- which plan a codebook gets ----------------------------------------------------------------------------

_LOG = np.array([round(65536 * math.log2(1 + part / 4096)) for part in range(4097)], np.int64)


def _logs(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """log2 of numbers from 1 to 2**53, in 1/65,536, the same on every machine."""
    mantissas, exponents = np.frexp(np.asarray(values, np.float64))
    return (exponents.astype(np.int64) - 1 << 16) + _LOG[((2 * mantissas - 1) * 4096).astype(np.int64)]


def _log(value: int) -> int:
    return int(_logs([value])[0])


def _choose(codes: np.ndarray, size: int, beside: np.ndarray, lags: Sequence[int]) -> _Plan:
    """The plan that seems to cost least, by estimates on the first codes.

    Guesses and counts are as they will be, without exclusion; bits cost their entropy under one earlier bit.
    """
    codes, beside = codes[:_SAMPLE], beside[:_SAMPLE]
    lags = [lag for lag in lags if lag < len(codes)]
    if not lags:
        return _Plan()
    counted = {age: _Costs(codes, size, age) for age in _AGES}
    everywhere = np.ones(len(codes), bool)
    age = min(_AGES, key=lambda age: counted[age].of(everywhere))
    places, neighbours = np.arange(len(codes)), _Guess(beside, codes)
    copies = {lag: _Guess(places % lag, codes) for lag in lags}
    follows = {lag: _Guess(np.concatenate((np.full(lag, -1), codes[:-lag])), codes) for lag in lags}
    copy, follow = (max(lags, key=lambda lag: int(guesses[lag].right.sum())) for guesses in (copies, follows))
    costs = {}
    for kinds in range(8):
        chosen = [bool(kinds >> kind & 1) for kind in range(3)]
        left, cost = everywhere.copy(), 0
        for guess, tried in zip((neighbours, copies[copy], follows[follow]), chosen, strict=True):
            if tried:
                asked = left & guess.there
                cost += _bits_cost(guess.right[asked], guess.was_right[asked])
                left &= ~guess.right
        cost += counted[age].of(left)
        costs[_Plan(age, chosen[0], copy if chosen[1] else None, follow if chosen[2] else None)] = cost
    best = min(costs, key=lambda plan: costs[plan])
    return best if costs[best] < _log(size) * len(codes) else _Plan()


class _Guess:
    """The guesses of one kind: where there is one, whether it is right, and whether the one before it was."""

    def __init__(self, keys: np.ndarray, codes: np.ndarray) -> None:
        before = _before(keys)
        self.there = before >= 0
        self.right = self.there & (codes[before] == codes)
        self.was_right = self.there & self.right[before]


def _before(keys: np.ndarray) -> np.ndarray:
    """For each key the last place that has the same, or -1."""
    order = np.argsort(keys, kind="stable")
    same = keys[order[1:]] == keys[order[:-1]]
    places = np.full(len(keys), -1)
    places[order[1:][same]] = order[:-1][same]
    return places


class _Costs:
    """Of codes under `_Counts` of one age: bits of each in 1/65,536, without exclusion, and whether it is new."""

    def __init__(self, codes: np.ndarray, size: int, age: int) -> None:
        weights: dict[int, int] = {}
        weight, total, shares, wholes = _COUNT, 0, [], []
        for code in codes.tolist():
            share = weights.get(code, 0)
            shares.append(share or 1)
            wholes.append(total if share else size)
            step = weight if share else weight >> 1
            weights[code] = share + step
            total += step
            weight += weight >> age
            if weight >= 4 * _COUNT:
                weight >>= 2
                weights = _kept(weights.items(), weight)
                total = sum(weights.values())
        self.bits, self.new = _logs(wholes) - _logs(shares), np.array(shares) == 1

    def of(self, left: np.ndarray) -> int:
        """The sum over those that are left, with the bits that say which are new."""
        new = self.new[left]
        return int(self.bits[left].sum()) + _bits_cost(new, np.roll(new, 1))


def _bits_cost(bits: np.ndarray, contexts: np.ndarray) -> int:
    """Bits that adaptive chances take at least, in 1/65,536."""
    cost = 0
    for part in (bits[contexts], bits[~contexts]):
        ones, count = int(part.sum()), len(part)
        if count:
            entropy = sum(-number * _log(max(number, 1)) for number in (ones, count - ones))
            cost += max(entropy + count * _log(count), count << 10) + (_log(count + 1) >> 1)
    return cost
