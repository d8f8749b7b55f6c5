"""Payloads of several granularities: the map against one made cell by cell, sizes known from it, one spelling."""

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from sigtok.codecs.entropy.binary import encode
from sigtok.codecs.entropy.granules import Windows, map_bytes, pack_granules, payload_bytes, unpack_granules

CASES = {
    "one_window": Windows(strides=(16, 4, 1), queries=16, count=1, columns=1),
    "picture": Windows(strides=(16, 4, 1), queries=16, count=15, columns=5),
    "chunk": Windows(strides=(16, 4, 1), queries=16, count=17, columns=5, first=3),
    "less_than_a_row": Windows(strides=(16, 4, 1), queries=16, count=4, columns=5, first=3),
    "column": Windows(strides=(16, 4, 1), queries=16, count=9, columns=1),
    "four_granularities": Windows(strides=(64, 16, 4, 1), queries=64, count=6, columns=3),
    "several_cells_a_window": Windows(strides=(4, 2), queries=24, count=6, columns=2, first=1),
    "odd_ratios": Windows(strides=(12, 6, 1), queries=12, count=6, columns=3),
    "equal_strides": Windows(strides=(4, 4, 1), queries=4, count=6, columns=3),
    "one_codebook": Windows(strides=(2,), queries=4, count=5, columns=5),
    "sound": Windows(strides=(4, 2, 1), queries=8, count=11, columns=11, axes=1),
    "nothing": Windows(strides=(4, 2, 1), queries=8, count=0, columns=0, axes=1),
}
SIZES = (1000, 5, 64, 2)


def random_map(windows, split=0.5, seed=0):
    """Per codebook, whether each code is there: cells split by chance."""
    rng, present = np.random.default_rng(seed), []
    opened = np.ones(windows.counts[0], bool)
    for ratio in windows.ratios[1:]:
        splits = opened & (rng.random(len(opened)) < split)
        present.append(opened & ~splits)
        opened = splits.repeat(ratio)
    return [*present, opened]


def random_codes(windows, split=0.5, seed=0):
    """Random codes where the map has them, and the sizes of their codebooks."""
    rng, sizes = np.random.default_rng(seed), SIZES[: len(windows.strides)]
    pairs = zip(random_map(windows, split, seed), sizes, strict=True)
    return tuple(np.where(there, rng.integers(0, size, len(there)), -1) for there, size in pairs), sizes


def equal(streams, others):
    return len(streams) == len(others) and all(map(np.array_equal, streams, others))


def slow_map(present, windows):
    """Bits and contexts of the map, cell by cell in dictionaries of (row, column)."""
    row = windows.count if windows.axes == 1 or windows.count < windows.columns else windows.columns
    shift = windows.first if row == windows.columns and windows.axes == 2 else 0
    cells = [((shift + number) // row, (shift + number) % row) for number in range(windows.count)]
    bits, contexts, opened = [], [], None
    for book, ratio in enumerate(windows.ratios[:-1]):
        high = 1 if windows.axes == 1 else next(h for h in range(math.isqrt(ratio), 0, -1) if ratio % h == 0)
        wide = ratio // high
        cells = [(y * high + p // wide, x * wide + p % wide) for y, x in cells for p in range(ratio)]
        opened = [True] * len(cells) if opened is None else [split for split in opened for _ in range(ratio)]
        states = {cell: 0 for cell in cells}
        for (y, x), there, number in sorted(zip(cells, present[book], range(len(cells)), strict=True)):
            if opened[number]:
                near = [states.get(place, 0) for place in ((y, x - 1), (y - 1, x), (y - 1, x + 1))]
                bits.append(0 if there else 1)
                contexts.append(27 * book + 9 * near[0] + 3 * near[1] + near[2])
                states[y, x] = 1 if there else 2
        opened = [states[cell] == 2 for cell in cells]
    return bits, contexts


@pytest.fixture(params=CASES)
def windows(request):
    return CASES[request.param]


@pytest.mark.parametrize("split", [0.0, 0.3, 0.7, 1.0])
def test_what_is_packed_is_unpacked(windows, split):
    for seed in range(5):
        streams, sizes = random_codes(windows, split, seed)
        back = unpack_granules(pack_granules(streams, sizes, windows), sizes, windows)
        assert equal(back, streams) and all(codes.dtype == np.int64 for codes in back)


def test_the_map_is_the_one_made_cell_by_cell(windows):
    for seed in range(5):
        present = random_map(windows, seed=seed)
        slow = encode(*slow_map(present, windows), 27 * len(windows.strides))
        streams = [np.where(there, 0, -1) for there in present]
        assert pack_granules(streams, SIZES[: len(streams)], windows)[: len(slow)] == slow
        assert map_bytes(present, windows) == len(slow)


def test_every_position_of_every_picture_has_its_place():
    """All sizes of pictures, all first columns."""
    for columns in range(1, 6):
        for first in range(columns):
            for count in range(1, 12):
                windows = Windows(strides=(4, 2, 1), queries=8, count=count, columns=columns, first=first)
                streams, sizes = random_codes(windows, seed=count)
                assert equal(unpack_granules(pack_granules(streams, sizes, windows), sizes, windows), streams)


def test_the_size_is_known_from_the_map_alone(windows):
    for seed in range(3):
        streams, sizes = random_codes(windows, seed=seed)
        present = [codes >= 0 for codes in streams]
        assert payload_bytes(present, sizes, windows) == len(pack_granules(streams, sizes, windows))
        codes = sum(int(there.sum()) * math.ceil(math.log2(size)) for there, size in zip(present, sizes, strict=True))
        assert payload_bytes(present, sizes, windows) == map_bytes(present, windows) + -(-codes // 8)


def test_the_least_size_is_that_of_the_cheapest_map(windows):
    sizes = SIZES[: len(windows.strides)]
    costs = [width * count for width, count in zip((10, 3, 6, 1), windows.counts, strict=False)]
    assert windows.least_bits(sizes) <= min(costs)
    for seed in range(20):
        streams, _ = random_codes(windows, seed / 20, seed)
        widths = zip(streams, (10, 3, 6, 1), strict=False)
        assert sum(int((codes >= 0).sum()) * width for codes, width in widths) >= windows.least_bits(sizes)


# -- what a map costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "most"), [(0.0, 64), (1.0, 320)])
def test_a_map_of_one_granularity_costs_next_to_nothing(split, most):
    windows = Windows(strides=(16, 4, 1), queries=16, count=10_000, columns=100)
    assert map_bytes(random_map(windows, split), windows) <= most


def test_a_map_of_patches_costs_a_third_of_its_bits():
    """Blobs, as pictures have them; and chance costs no more than its bits."""
    windows = Windows(strides=(16, 4, 1), queries=16, count=40 * 50, columns=50)
    y, x = np.mgrid[:80, :100] / 7
    detail = np.sin(y) + np.cos(1.3 * x) + 0.7 * np.sin(x + y)
    quarters = detail.reshape(40, 2, 50, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    coarse = quarters.max(1) < 0
    medium = ~coarse.repeat(4) & (quarters.ravel() < 0.8)
    raw = len(coarse) + 4 * int((~coarse).sum())
    present = [coarse, medium, ~(coarse.repeat(4) | medium).repeat(4)]
    assert map_bytes(present, windows) <= raw / 8 / 3
    chance = random_map(windows)
    assert map_bytes(chance, windows) <= 1.03 * (len(chance[0]) + 4 * int((~chance[0]).sum())) / 8


# -- damage ----------------------------------------------------------------------------------------------


def test_whatever_is_unpacked_has_one_spelling(windows):
    """Every cut and every bit, then any bytes: refused, or just what `pack_granules` makes of the codes."""
    streams, sizes = random_codes(windows)
    data, rng = pack_granules(streams, sizes, windows), np.random.default_rng(0)
    others = [data[:end] for end in range(len(data))] + [data + b"\0"]
    others += [
        data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :] for bit in range(len(data) * 8)
    ]
    others += [rng.bytes(int(size)) for size in rng.integers(0, 2 * len(data) + 2, 300)]
    for other in others:
        try:
            found = unpack_granules(other, sizes, windows)
        except ValueError:
            continue
        assert pack_granules(found, sizes, windows) == other
        assert not equal(found, streams) or other == data


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_payload_that_is_too_short_is_refused_without_memory(size):
    windows = Windows(strides=(16, 4, 1), queries=16, count=2**40, columns=2**20)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"at least {2**40 * 10} bits, got a payload of {size} bytes"):
        unpack_granules(bytes(size), (1024,) * 3, windows)
    assert tracemalloc.get_traced_memory()[1] < 2**16
    tracemalloc.stop()


def test_splits_that_the_payload_cannot_hold_are_refused_before_they_are_followed():
    """A map that splits all its cells, where the payload has room for the coarse codes alone."""
    windows = Windows(strides=(4096, 1), queries=4096, count=64, columns=8)
    data = pack_granules(*random_codes(windows, 1.0), windows)[:80]
    with pytest.raises(ValueError, match=r"at least \d+ bits, got a payload of 80 bytes"):
        unpack_granules(data, SIZES[:2], windows)


@pytest.mark.parametrize(
    ("strides", "queries"), [((4, 3, 1), 12), ((4, 2, 1), 6), ((1, 4), 4), ((16, 4, 1), 8), ((Fraction(8, 3), 1), 8)]
)
def test_granularities_are_nested(strides, queries):
    with pytest.raises(ValueError, match=rf"windows of {queries} positions and strides .* multiple of the next, got"):
        Windows(strides=strides, queries=queries, count=1, columns=1)
