"""Adaptive codes: any codes come back, chance costs nothing more, what repeats little, damage is bounded."""

import hashlib
import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from sigtok.codecs.entropy import adaptive
from sigtok.codecs.entropy.adaptive import AdaptiveCoder
from sigtok.codecs.entropy.packing import packed_bytes

STRIDES = (1, 2, 4, Fraction(3, 2), Fraction(256, 9))


def counts(grid, strides):
    return [math.ceil(Fraction(math.prod(grid)) / stride) for stride in strides]


def skewed(rng, count, size, skew):
    """Codes of which few are common: the higher the skew the fewer."""
    return np.minimum((size * rng.random(count) ** skew).astype(np.int64), size - 1)


def back(codes, sizes, grid, strides=None):
    """The payload, after it was read again."""
    coder = AdaptiveCoder(sizes, strides or (1,) * len(sizes))
    payload = coder.encode(codes, grid, None)
    streams = coder.decode(payload, grid, None)
    assert all(found.dtype == np.int64 for found in streams)
    assert all(map(np.array_equal, streams, codes)) and len(streams) == len(codes)
    return payload


def saved(codes, size):
    """The part of the bytes at a fixed width that one codebook saves."""
    return 1 - len(back((codes,), (size,), (len(codes),))) / packed_bytes([len(codes)], [size])


@given(
    grid=some.one_of(
        some.tuples(some.integers(0, 300)), some.tuples(some.integers(1, 20), some.integers(1, 20))
    ),
    books=some.lists(
        some.tuples(some.sampled_from((2, 3, 16, 1000, 2047, 2**18, 2**32)), some.sampled_from(STRIDES)),
        min_size=1, max_size=4,
    ),
    skew=some.sampled_from((1, 3, 20, 300)),
    period=some.sampled_from((None, 1, 7, 16)),
    seed=some.integers(0, 2**32),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_any_codes_come_back(grid, books, skew, period, seed):
    rng, (sizes, strides) = np.random.default_rng(seed), zip(*books, strict=True)
    codes = [skewed(rng, count, size, skew) for count, size in zip(counts(grid, strides), sizes, strict=True)]
    if period:
        codes = [np.resize(book[:period], len(book)) for book in codes]
    payload = back(tuple(codes), sizes, grid, strides)
    assert len(payload) <= 1.005 * packed_bytes(counts(grid, strides), sizes) + 2 + len(sizes)


@pytest.mark.parametrize("count", [0, 1, 2, 40, 3000])
@pytest.mark.parametrize("size", [2, 8, 1000, 2**18, 2**32])
def test_chance_costs_no_more_than_a_fixed_width(size, count):
    """And less where a codebook is no power of 2."""
    codes = np.random.default_rng(0).integers(0, size, count)
    bits = count * math.log2(size)
    assert bits / 8 * 0.99 - 2 <= len(back((codes,), (size,), (count,))) <= bits / 8 + 2


def test_a_plan_that_fails_is_dropped(monkeypatch):
    """Codes that change behind those that a plan is made from."""
    monkeypatch.setattr(adaptive, "_SAMPLE", 64)
    rng = np.random.default_rng(0)
    codes = tuple(np.concatenate([np.zeros(64, np.int64), rng.integers(0, 1024, 3000)]) for _ in range(2))
    assert 0 <= len(back(codes, (1024, 1024), (3064,))) - packed_bytes([3064] * 2, [1024] * 2) <= 1


def test_codes_that_are_all_counted_are_forgotten_and_come_back():
    """Long enough that counts are scaled down, with codes that are gone for long."""
    rng = np.random.default_rng(0)
    codes = np.concatenate([rng.integers(base, base + 20, 3000) for base in (0, 500, 200, 0)])
    assert saved(codes, 1024) > 0.5


# -- what is saved -----------------------------------------------------------------------------------------


def test_what_repeats_costs_little():
    """One code, a period of any codes, a picture of equal rows: each by other guesses."""
    rng = np.random.default_rng(0)
    assert saved(np.full(3000, 77), 1024) > 0.99
    assert saved(np.resize(rng.integers(0, 1024, 64), 3000), 1024) > 0.93
    rows = np.tile(rng.integers(0, 1024, 37), 40)
    assert len(back((rows,), (1024,), (40, 37))) < 0.08 * packed_bytes([len(rows)], [1024])
    table = rng.permutation(1024)
    walk = [0]
    for jump in rng.random(3000) < 0.05:
        walk.append(int(rng.integers(1024)) if jump else int(table[walk[-1]] % 100))
    assert saved(np.array(walk), 1024) > 0.6


def test_codes_that_follow_from_the_codebook_before_cost_little():
    """Also at another stride."""
    rng = np.random.default_rng(0)
    first, table = rng.integers(0, 30, 2000), rng.permutation(1024)
    alone = len(back((first,), (1024,), (2000,)))
    both = len(back((first, table[first]), (1024, 1024), (2000,), (1, 1)))
    assert both < 1.1 * alone
    slow = first[::2]
    assert len(back((slow, table[slow.repeat(2)]), (1024, 1024), (2000,), (2, 1))) < 0.7 * alone


@pytest.mark.parametrize(("share", "most"), [(0.9, 1.05), (0.5, 1.02), (0.02, 1.15)])
def test_counts_come_near_the_entropy(share, most):
    codes = np.random.default_rng(0).geometric(share, 20_000) - 1
    entropy = -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) / share
    assert len(back((codes,), (2048,), (20_000,))) * 8 < most * entropy * len(codes) + 8 * 2 * len(set(codes.tolist()))


def test_what_came_lately_counts_more():
    """Scenes of few codes each cost less than the same codes shuffled."""
    rng = np.random.default_rng(0)
    scenes = np.concatenate([rng.integers(0, 2**14, 40)[rng.integers(0, 40, 1000)] for _ in range(10)])
    assert saved(scenes, 2**14) > saved(rng.permutation(scenes), 2**14) + 0.1


# -- what bytes are ----------------------------------------------------------------------------------------


def test_the_bytes_stay_the_same():
    """Of version 1 of the format."""
    first = np.arange(400) ** 2 % 1021
    first = np.concatenate([first % 97, np.resize(first[50:70], 200)])
    codes = (first, (first * 7 + 3) % 1000, np.arange(300) ** 3 % 17 % 16)
    payload = back(codes, (2048, 1000, 16), (20, 30), (1, 1, 2))
    assert (len(payload), hashlib.sha256(payload).hexdigest()[:16]) == (640, "d1f0ac444b0de90b")
    tiny = back((np.array([5, 5, 5, 2, 5] * 6),), (8,), (30,))
    assert tiny.hex() == "7d743613d667"


def test_no_codes_are_no_bytes():
    coder = AdaptiveCoder((1024, 8), (1, 2))
    assert coder.encode((np.empty(0, np.int64),) * 2, (0,), None) == b""
    assert [len(codes) for codes in coder.decode(b"", (0,), None)] == [0, 0]
    with pytest.raises(ValueError, match="end in 0 bytes .* got another or 1 bytes"):
        coder.decode(b"\0", (0,), None)


def test_an_encoder_refuses_other_counts():
    with pytest.raises(ValueError, match=r"a grid of \(2, 3\) has \(6, 3\) codes, got \(6, 6\)"):
        AdaptiveCoder((8, 8), (1, 2)).encode((np.zeros(6, np.int64),) * 2, (2, 3), None)
    with pytest.raises(ValueError, match="one stride per codebook: 2 codebooks, 1 strides"):
        AdaptiveCoder((8, 8), (1,))
    with pytest.raises(ValueError, match="2 to 2\\*\\*32 codes, got 1"):
        AdaptiveCoder((8, 1), (1, 1))


# -- damage ------------------------------------------------------------------------------------------------


def read(coder, payload, grid):
    """The codes of any bytes, each inside its codebook, or None if they are refused."""
    try:
        found = coder.decode(payload, grid, None)
    except ValueError:
        return None
    assert [len(codes) for codes in found] == counts(grid, coder.strides)
    assert all(((codes >= 0) & (codes < size)).all() for codes, size in zip(found, coder.sizes, strict=True))
    return found


@pytest.mark.parametrize("kind", ["chance", "few", "period"])
def test_damage_is_refused_or_gives_codes_of_the_codebooks(kind):
    """Every cut, every bit, any bytes at all; bytes behind are refused."""
    rng, grid, sizes = np.random.default_rng(0), (4, 8), (1000, 37, 2)
    strides = (1, 1, Fraction(3, 2))
    codes = [
        {"chance": rng.integers(0, size, count), "few": skewed(rng, count, size, 30), "period": np.arange(count) % 2}[
            kind
        ]
        for count, size in zip(counts(grid, strides), sizes, strict=True)
    ]
    coder = AdaptiveCoder(sizes, strides)
    payload = coder.encode(tuple(codes), grid, None)
    assert read(coder, payload + b"\0", grid) is None
    assert read(coder, payload + b"\1" * 9, grid) is None
    others = [payload[:end] for end in range(len(payload))]
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        others.append(bytes(damaged))
    for other in others:
        read(coder, other, grid)
    for size in rng.integers(0, 2 * len(payload) + 9, 200):
        read(coder, rng.bytes(int(size)), grid)


def test_what_lies_behind_the_last_share_is_refused():
    """Shares are whole parts of a span; what the division leaves is no code and no bit."""
    unit = 2**63 // 1000  # of the codes of the first codebook, after a bit for its plan
    with pytest.raises(ValueError, match="lies in a whole of 1000, got 1000"):
        AdaptiveCoder((1000,), (1,)).decode(b"\xff" * 8, (1,), None)
    last = 2**63 + 1000 * unit - 1
    with pytest.raises(ValueError, match="lies in a whole of 65536, got 65536"):
        AdaptiveCoder((1000, 2), (1, 1)).decode(last.to_bytes(8, "big"), (1,), None)


def test_a_grid_that_the_payload_cannot_hold_is_refused_without_memory():
    coder = AdaptiveCoder((1024,) * 3, (1, 1, 4))
    tracemalloc.start()
    with pytest.raises(ValueError, match="a payload of 100 bytes has 52224 codes at most, got a grid"):
        coder.decode(bytes(100), (2**20, 2**20), None)
    assert tracemalloc.get_traced_memory()[1] < 2**16
    tracemalloc.stop()


@pytest.mark.parametrize("size", [2, 2048])
@pytest.mark.parametrize("count", [600, 1500, 5000, 20_000])
def test_no_codes_are_so_cheap_that_a_reader_refuses_them(size, count):
    """The cheapest there are: the first code, always."""
    assert len(back((np.zeros(count, np.int64),), (size,), (count,))) >= count / 512 - 2
