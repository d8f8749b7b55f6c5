"""Tables by integers alone: their laws over any counts, and the coder's bytes against their ideal length."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigtok.codecs.entropy.ans import TableReader, TableWriter, grouped
from sigtok.codecs.entropy.tables import (
    FARTHEST,
    LARGEST,
    SCALES,
    WHOLE,
    Tables,
    integer_table,
    joined,
    scale_tables,
    stacked,
)

COUNTS = {
    "one": [7],
    "one_zero": [0],
    "two": [1, 10**9],
    "zeros": [0] * 5,
    "certain": [0, 2**47, 0, 0],
    "certain_of_many": [5] + [0] * 300,
    "huge": [2**47] * 3 + [2**46],
    "even": [3] * 4096,
    "ties": [1, 1, 1, 1, 1, 1, 1],
    "ramp": list(range(1000)),
}
LAWS = ("gaussian", "laplace", "logistic")


def slow_table(counts):
    """The rule in fractions."""

    def share(counts, seats):
        counts = counts if any(counts) else [1] * len(counts)
        exact = [1 + Fraction(count * (seats - len(counts)), sum(counts)) for count in counts]
        table = [math.floor(value) for value in exact]
        by_rest = sorted(range(len(counts)), key=lambda k: (table[k] - exact[k], k))
        for k in by_rest[: seats - sum(table)]:
            table[k] += 1
        return table

    table = share(counts, WHOLE)
    top = table.index(max(table))
    if len(counts) > 1 and table[top] > LARGEST:
        table = share(counts[:top] + counts[top + 1 :], WHOLE - LARGEST)
        table.insert(top, LARGEST)
    return table


@pytest.fixture(params=LAWS)
def tables(request):
    """All scales of a law, and a table of zeros at the end."""
    return joined([scale_tables(request.param), stacked([[WHOLE]])])


def random_values(tables, count, seed=0):
    """Values a little wider than their tables expect, and their tables."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(tables), count)
    spread = np.append(np.array(SCALES), 0.0)[index]
    return np.rint(rng.laplace(size=count) * spread).astype(np.int64), index


def coded(tables, values, index):
    writer = TableWriter(tables)
    writer.put(values, index)
    return writer.payload()


def read(tables, payload, index):
    reader = TableReader(tables, payload)
    values = reader.get(index)
    reader.finish()
    return values


# -- tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_a_table_is_what_the_rule_says(name):
    table = integer_table(COUNTS[name])
    assert table.tolist() == slow_table(COUNTS[name])
    assert table.sum() == WHOLE and table.min() >= 1
    assert len(table) == 1 or table.max() <= LARGEST


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 2**47)), min_size=1, max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_counts_make_a_table(counts):
    assert integer_table(counts).tolist() == slow_table(counts)


@pytest.mark.parametrize("counts", [[], [[1, 2]], [-1, 2], [2**47 + 1], [0.5, 1.0], [1] * 4097])
def test_what_are_no_counts_is_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        integer_table(counts)


@pytest.mark.parametrize(
    ("frequencies", "lengths"),
    [
        ([WHOLE // 2] * 2, [3]),
        ([WHOLE // 2] * 3, [2]),
        ([WHOLE - 1, 1], [2]),
        ([WHOLE, 0], [2]),
        ([WHOLE // 2, WHOLE // 2 - 1], [2]),
        ([WHOLE - 1], [1]),
        ([WHOLE // 4] * 3 + [WHOLE // 4], [3, 1]),
        ([], []),
        ([0.5 * WHOLE] * 2, [2]),
    ],
)
def test_what_is_no_table_is_refused(frequencies, lengths):
    with pytest.raises(ValueError):
        Tables(np.array(frequencies), np.array(lengths, int))


@pytest.mark.parametrize("law", LAWS)
def test_a_law_has_its_scale_and_its_mean(law):
    for mean in (0.0, 0.25, 0.5):
        tables = scale_tables(law, (1.0, 4.0, 30.0), mean)
        for index, scale in enumerate((1.0, 4.0, 30.0)):
            values = np.arange(-tables.radii[index], tables.radii[index] + 1)
            mass = tables.table(index)[:-1] / WHOLE
            assert (mass * values).sum() == pytest.approx(mean, abs=0.02 * scale)
            deviation = math.sqrt((mass * (values - mean) ** 2).sum())
            assert deviation == pytest.approx(math.sqrt(scale**2 + 1 / 12), rel=0.05)  # a bin is 1 wide


def test_a_mirrored_law_is_the_mirrored_table():
    for law in LAWS:
        one, other = scale_tables(law, mean=0.25), scale_tables(law, mean=-0.25)
        for index in range(len(SCALES)):
            assert np.abs(one.table(index)[-2::-1] - other.table(index)[:-1]).max() <= 1  # of equal remainders


def test_scales_that_are_none_are_refused():
    for scales, mean in (((0.0,), 0.0), ((math.nan,), 0.0), ((1.0,), 2.0)):
        with pytest.raises(ValueError, match="scales"):
            scale_tables("gaussian", scales, mean)
    with pytest.raises(ValueError, match="law"):
        scale_tables("cauchy")


# -- bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 50, 3000])
def test_what_is_written_is_read(tables, count):
    values, index = random_values(tables, count)
    payload = coded(tables, values, index)
    assert np.array_equal(read(tables, payload, index), values)
    assert len(payload) <= tables.bits(values, index).sum() / 8 + 5


def test_values_far_beyond_their_table_are_read():
    tables = scale_tables("laplace")
    far = [FARTHEST + 1, 2**20, 2**16, 2**16 + 1, 65536 * 3 + 7, 513, 5, 3, 2]  # the first table has R of 1
    values = np.array([0, *far, *(-value for value in far)])
    index = np.zeros(len(values), int)
    payload = coded(tables, values, index)
    assert np.array_equal(read(tables, payload, index), values)
    assert len(payload) <= tables.bits(values, index).sum() / 8 + 5
    with pytest.raises(ValueError, match=f"at most {FARTHEST + 1}, got -{FARTHEST + 2}"):
        coded(tables, np.array([0, -FARTHEST - 2]), np.zeros(2, int))


def test_calls_follow_each_other():
    tables = scale_tables("gaussian")
    values, index = random_values(tables, 100)
    writer = TableWriter(tables)
    writer.put(values[:30], index[:30])
    writer.put_run(values[30:60], 7)
    writer.put(values[60:60], index[60:60])
    writer.put(values[60:], index[60:])
    reader = TableReader(tables, writer.payload())
    parts = (reader.get(index[:30]), reader.get_run(30, 7), reader.get(index[60:60]), reader.get(index[60:]))
    reader.finish()
    assert np.array_equal(np.concatenate(parts), values)


def test_certain_values_cost_nothing_and_others_are_refused():
    tables = stacked([[WHOLE]])
    writer = TableWriter(tables)
    writer.put_run(np.zeros(1000, int), 0)
    assert writer.payload() == b""
    assert not read(tables, b"", np.zeros(1000, int)).any()
    with pytest.raises(ValueError, match="all values are 0, got 3"):
        writer.put_run(np.array([0, 3]), 0)
    assert tables.bits(np.array([0, 3]), 0).tolist() == [0, math.inf]


def test_many_values_take_their_ideal_length():
    tables = scale_tables("laplace")
    values, index = random_values(tables, 100_000)
    ideal = tables.bits(values, index).sum() / 8
    assert ideal - 1 <= len(coded(tables, values, index)) <= 1.0001 * ideal + 5


def test_ideal_lengths_are_those_of_the_law():
    tables = scale_tables("gaussian", (1.0,))
    values = np.arange(-2, 3)
    expected = [-math.log2(math.erf((v + 0.5) / 2**0.5) / 2 - math.erf((v - 0.5) / 2**0.5) / 2) for v in values]
    assert tables.bits(values, 0) == pytest.approx(expected, abs=2e-3)


def test_bytes_are_these():
    """Files of released models hang on them."""
    tables = stacked([integer_table([1, 40, 3, 1]), integer_table([0, 1, 3, 9, 2, 1, 1, 0])])
    values, index = np.array([0, 1, -2, 3, -60, 300, 0]), np.array([0, 0, 1, 1, 1, 0, 1])
    assert coded(tables, values, index).hex() == "1fffff34e58a47da6b48"


def test_damage_gives_other_values_or_a_value_error():
    """A payload has one spelling, so what is read from any bytes is written as these bytes."""
    tables, rng = scale_tables("laplace"), np.random.default_rng(0)
    values, index = random_values(tables, 60)
    values[3] = 99_999
    payload, refused = coded(tables, values, index), 0
    mutants = [payload[:end] for end in range(len(payload))]
    for bit in range(8 * len(payload)):
        mutant = bytearray(payload)
        mutant[bit // 8] ^= 1 << bit % 8
        mutants.append(bytes(mutant))
    mutants += [rng.bytes(int(rng.integers(0, 60))) for _ in range(500)]
    mutants += [payload + b"\1", payload + b"\0", b"\0", b"\xff" * 40, b""]
    for mutant in mutants:
        try:
            found = read(tables, mutant, index)
        except ValueError:
            refused += 1
        else:
            assert coded(tables, found, index) == mutant
    assert refused > 0.95 * len(mutants)


def test_tables_that_are_not_there_are_refused():
    tables = scale_tables("gaussian")
    for index in (np.array([64]), np.array([-1])):
        with pytest.raises(ValueError, match="tables 0 to 63"):
            coded(tables, np.zeros(1, int), index)
        with pytest.raises(ValueError, match="tables 0 to 63"):
            TableReader(tables, b"").get(index)
    with pytest.raises(ValueError, match="one table each"):
        coded(tables, np.zeros(2, int), np.zeros(3, int))


@pytest.mark.parametrize("most", [3, 2**16 - 1, 2**16 + 5])
def test_groups_are_a_stable_order(most):
    index = np.random.default_rng(0).integers(0, most + 1, 200)
    index[7] = most
    order, runs = grouped(index)
    assert np.array_equal(order, sorted(range(200), key=lambda place: (index[place], place)))
    assert [start for _, start, _ in runs[1:]] == [end for _, _, end in runs[:-1]] and runs[-1][2] == 200
    assert all((index[order[start:end]] == value).all() for value, start, end in runs)
