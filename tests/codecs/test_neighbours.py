"""Neighbours of a pyramid: what is coded is decoded, tables come from the past, whole numbers follow the floats."""

import hashlib
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.densities import neighbours as module
from sigtok.codecs.densities.laplace import PRIOR, STEPS, TABLES, Counted, laplace_bits, octaves
from sigtok.codecs.densities.neighbours import NeighbourDensity
from sigtok.codecs.entropy.neighbours import Head, NeighbourCoder, groups, magnitudes
from sigtok.codecs.entropy.tables import integer_table, stacked
from sigtok.codecs.spec import Rate

SIZE, LOW, CHANNELS = 255, 2, (2, 3)
BOOKS = sum(CHANNELS) + 3
GRIDS = [(1, 1), (1, 9), (4, 4), (5, 7), (8, 8), (13, 3)]


def built(seed=0, qualities=3, **options):
    """A density whose networks say something."""
    torch.manual_seed(seed)
    density = NeighbourDensity((SIZE,) * BOOKS, LOW, CHANNELS, qualities, 4, states=5, width=6, **options)
    with torch.no_grad():
        for head in density.heads:
            for out in head.out:
                out.normal_(0, 2 / math.sqrt(out.shape[1]))
            head.bias.add_(torch.randn_like(head.bias))
    return density.eval()


def heavy(shape, seed=0, size=SIZE):
    """Whole numbers of heavy tails, the ends of the range among them."""
    rng = np.random.default_rng(seed)
    values = np.rint(rng.standard_cauchy(shape) * 2.0 ** rng.integers(-3, 3, shape))
    values.ravel()[:1], values.ravel()[-1:] = -(size // 2), (size - 1) // 2
    return np.clip(values, -(size // 2), (size - 1) // 2).astype(np.int64)


def codes_of(values, size=SIZE):
    return tuple(each.ravel() + size // 2 for each in values)


def equal(codes, others):
    return len(codes) == len(others) and all(map(np.array_equal, codes, others))


def indices(coder, whole, grid, quality):
    """The tables that a coder asks for, and of which places, when maps hold such values."""
    return [(s.group, s.places, there(s), s.chosen) for s in coder._steps(whole, grid, quality, known=True)]


def there(step):
    """Which places of a step the grid has."""
    return np.ones(step.chosen.shape, bool) if step.here is None else step.here


# -- both directions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_what_is_coded_is_decoded_on_any_grid(grid):
    coder = built().coder()
    for quality in (1.0, 1.75, 3.0):
        codes = codes_of(heavy((BOOKS, *grid)))
        decoded = coder.decode(coder.encode(codes, grid, quality), grid, quality)
        assert equal(decoded, codes) and all(book.dtype == np.int64 for book in decoded)


@pytest.mark.parametrize("grid", [(0, 0), (0, 5), (3, 0)])
def test_nothing_is_no_bytes(grid):
    coder, codes = built().coder(), (np.empty(0, np.int64),) * BOOKS
    assert coder.encode(codes, grid, 1.0) == b"" and equal(coder.decode(b"", grid, 1.0), codes)


def test_a_codec_without_qualities_has_one_row():
    coder, codes = built(qualities=0).coder(), codes_of(heavy((BOOKS, 5, 6)))
    assert equal(coder.decode(coder.encode(codes, (5, 6), None), (5, 6), None), codes)


def test_groups_hold_every_place_once_coarse_before_fine():
    whole = np.zeros((BOOKS, 8, 12), int)
    for number, group in enumerate(groups(sum(CHANNELS), LOW, CHANNELS)):
        group.write(whole, group.read(whole) + number + 1)
        assert group.read(whole).shape == (group.channels, 8 >> group.level, 12 >> group.level) or group.level
    assert (whole[:2] == 4).all() and (whole[2:5] == 5).all()
    low = np.full((8, 12), 3)
    low[::2, ::2], low[::4, ::4] = 2, 1
    assert (whole[5:] == low).all()


@pytest.mark.parametrize("grid", [(5, 6), (1, 2)])
def test_tables_depend_only_on_what_was_coded_before(grid):
    """Every value in turn is another one: tables of its own pass and of those before stay, some later ones change."""
    coder = built().coder()
    whole = coder._whole(grid)
    whole[:, : grid[0], : grid[1]] = heavy((BOOKS, *grid)).clip(-9, 9)
    before, changed, covered = indices(coder, whole, grid, 1.75), 0, 0
    for number, (group, places, here, _) in enumerate(before):
        for channel, place in zip(*np.nonzero(here), strict=True):
            other = whole.copy()
            values = group.read(other)
            values.reshape(len(values), -1)[channel, places[place]] += 5
            group.write(other, values)
            after, covered = indices(coder, other, grid, 1.75), covered + 1
            for (*_, old), (*_, new) in zip(before[: number + 1], after[: number + 1], strict=True):
                assert np.array_equal(old, new)
            changed += any(not np.array_equal(old, new) for (*_, old), (*_, new) in zip(before, after, strict=True))
    assert covered == BOOKS * math.prod(grid) and changed > 0


# -- floats and whole numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(24, 32), (21, 30)])
@pytest.mark.parametrize("quality", [1.0, 2.25])
def test_exact_tables_are_those_of_the_network_in_floats(grid, quality, monkeypatch):
    density, values, found = built(), heavy((BOOKS, *grid)).clip(-40, 40), []
    monkeypatch.setattr(module, "laplace_bits", lambda noisy, index: found.append(index) or laplace_bits(noisy, index))
    with torch.no_grad():
        density(torch.from_numpy(values).float().flatten(1).T[None], grid, Rate(quality=quality))
    coder = density.coder()
    whole = coder._whole(grid)
    whole[:, : grid[0], : grid[1]] = values
    wrong = total = 0
    tables = set()
    for number, (_, places, here, index) in enumerate(indices(coder, whole, grid, quality)):
        real = found[number // 2][0].flatten(1)[:, places].round().clamp(0, TABLES - 1).numpy()
        wrong, total = wrong + (real != index)[here].sum(), total + here.sum()
        assert np.abs(real - index)[here].max(initial=0) <= 2
        tables |= set(index[here].tolist())
    assert total == values.size and wrong < 0.02 * total and len(tables) > 20


def test_magnitudes_are_rounded_octaves_to_the_last():
    exact = [math.floor(8 * math.log2(1 + n) + 0.5) for n in range(5000)]
    assert magnitudes(4999).tolist() == exact
    assert (octaves(torch.arange(5000.0)) * 8).tolist() == exact
    assert magnitudes(0).tolist() == [0] and len(magnitudes(2**15 - 1)) == 2**15


@pytest.mark.parametrize("law", [0, 10, 30, TABLES - 1])
def test_laplace_bits_are_those_of_the_mass_within_a_step(law):
    scale = 2.0 ** (law / STEPS - 6)

    def below(value):
        return 0.5 * math.exp(value / scale) if value < 0 else 1 - 0.5 * math.exp(-value / scale)

    for value in (-1.3, -0.5, 0.0, 0.2, 0.5, 0.9, 2 * scale, -3 * scale):
        mass = max(below(value + 0.5) - below(value - 0.5), 1e-7)
        bits = laplace_bits(torch.tensor([value]), torch.tensor([float(law)])).item()
        assert bits == pytest.approx(-math.log2(mass), abs=2e-3)


def test_counts_become_tables_with_their_law():
    counted = Counted(1)
    values = torch.tensor([0.0, 2.0, -2.0, 7.0, 600.0])
    counted.add(values, torch.full((5,), 20.4), torch.tensor([1.0, 1, 1, 0, 1]))
    counted.add(torch.empty(0), torch.empty(0))
    start, radius = counted._law.starts[20], counted._law.radii[20]
    table = counted.counts[start : start + 2 * radius + 2] / counted._decay
    expected = torch.zeros(2 * radius + 2)
    expected[radius], expected[radius + 2], expected[radius - 2], expected[-1] = 1, 1, 1, 1
    torch.testing.assert_close(table, expected)
    assert counted.counts.sum().item() == pytest.approx(4 * counted._decay)
    counted.counts.mul_(1e6)
    made = counted.made().table(20)
    assert made[radius] == pytest.approx(2**14, rel=1e-2) and made[-1] == pytest.approx(2**14, rel=1e-2)
    counted.counts.zero_()
    law, alone = counted._law.frequencies, counted.made().frequencies
    assert np.abs(alone - law)[law > 99].max() <= 0.02 * law[law > 99].max() and PRIOR > 0


def test_bits_of_an_item_do_not_depend_on_the_others_nor_on_what_is_beyond_the_grid():
    density, grid = built(), (5, 7)
    values = torch.from_numpy(heavy((3, math.prod(grid), BOOKS))).float()
    together = density(values, grid, Rate(quality=2.0))
    apart = torch.cat([density(value[None], grid, Rate(quality=2.0)) for value in values])
    torch.testing.assert_close(together, apart)


# -- training ----------------------------------------------------------------------------------------------


def field(rows, columns, quality, seed):
    """Laplace numbers ``[B, D, Y, X]`` whose scales are slow in space, and fall from channel to channel."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, 1, rows // 8 + 2, columns // 8 + 2, generator=generator)
    slow = F.interpolate(coarse, size=(rows, columns), mode="bicubic", align_corners=True)
    channels = torch.linspace(-1, 1, BOOKS)[None, :, None, None] + 4 * slow + quality
    uniform = torch.rand(2, BOOKS, rows, columns, generator=generator) - 0.5
    laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp_max(0.4999))
    return (laplace * 2**channels).clamp(-127, 127)


def trained(steps):
    torch.manual_seed(0)
    density = NeighbourDensity((SIZE,) * BOOKS, LOW, CHANNELS, 2, 4, states=8, width=8)
    optimizer = torch.optim.Adam(density.parameters(), 1e-2)
    for step in range(steps):
        quality = 1 + step % 5 / 4
        values = field(16, 24, quality, 1 + step).flatten(2).mT
        noisy = values + torch.rand_like(values) - 0.5
        bits = density(noisy, (16, 24), Rate(quality=quality), values.round()).sum()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
    return density.eval()


def of_tables(coder, codes, grid, quality):
    """Bits of all numbers under their tables."""
    whole, total = coder._whole(grid), 0.0
    whole[:, : grid[0], : grid[1]] = np.stack(codes).reshape(-1, *grid) - SIZE // 2
    for step in coder._steps(whole, grid, quality, known=True):
        values = step.group.read(whole).reshape(step.group.channels, -1)[:, step.places]
        total += coder.tables.bits(values[there(step)], step.chosen[there(step)]).sum()
    return total


def entropy_of(values):
    share = np.unique(values, return_counts=True)[1] / len(values)
    return -(share * np.log2(share)).sum()


def test_bytes_of_a_trained_density_are_its_bits_and_fewer():
    """Fewer than a table of its own for every channel could reach, since neighbours tell the scale."""
    density = trained(80)
    density.freeze()
    coder = density.coder()
    for quality in (1.0, 1.5, 2.0):
        plane = field(45, 58, quality, 0)[:1].round()
        values, grid = plane.flatten(2).mT, (45, 58)
        codes = tuple(values[0].T.long().numpy() + SIZE // 2)
        payload = coder.encode(codes, grid, quality)
        assert equal(coder.decode(payload, grid, quality), codes)
        with torch.no_grad():
            bits = density(values, grid, Rate(quality=quality)).item()
        assert 0.7 * bits < 8 * len(payload) < 1.01 * bits  # tables are counted, bits are of the law
        assert 8 * len(payload) <= 1.001 * of_tables(coder, codes, grid, quality) + 64
        assert len(payload) < 0.99 * sum(map(entropy_of, codes)) * len(codes[0]) / 8


def test_training_starts_at_the_mean_magnitudes_of_each_quality_once():
    density = NeighbourDensity((SIZE,) * BOOKS, LOW, CHANNELS, 2, 4, states=5, width=6).train()
    values = torch.full((1, 64, BOOKS), 8.0)
    density(values, (8, 8), Rate(quality=2.0))
    assert density.started.tolist() == [False, True]
    for head in density.heads:
        assert torch.equal(head.bias[1], torch.full_like(head.bias[1], STEPS * 9.0))
        assert torch.equal(head.bias[0], torch.full_like(head.bias[0], STEPS * 6.0))
    density(values / 4, (8, 8), Rate(quality=2.0))
    assert (density.heads[0].bias[1] == STEPS * 9.0).all()


def test_frozen_numbers_stay_and_count_nothing():
    density, grid, codes = built(), (5, 7), codes_of(heavy((BOOKS, 5, 7)))
    density.freeze()
    payload = density.coder().encode(codes, grid, 1.5)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.mul_(1.5)
        density(torch.randn(1, 35, BOOKS).round(), grid, Rate(quality=1.5))
    assert not density.counted.counts.any()
    assert density.coder().encode(codes, grid, 1.5) == payload
    density.thaw()
    assert density.coder().encode(codes, grid, 1.5) != payload


# -- damage, limits, machines ------------------------------------------------------------------------------


def test_damaged_payloads_give_codes_or_a_value_error():
    coder, grid, rng = built().coder(), (5, 7), np.random.default_rng(0)
    payload, refused = coder.encode(codes_of(heavy((BOOKS, *grid))), grid, 1.5), 0
    mutants = [payload[:end] for end in range(0, len(payload), 15)] + [payload + b"\1", payload + b"\0"]
    for bit in range(0, 8 * len(payload), 41):
        mutant = bytearray(payload)
        mutant[bit // 8] ^= 1 << bit % 8
        mutants.append(bytes(mutant))
    mutants += [rng.bytes(int(rng.integers(0, 300))) for _ in range(50)]
    for mutant in mutants:
        try:
            codes = coder.decode(mutant, grid, 1.5)
        except ValueError:
            refused += 1
            continue
        assert all(book.min() >= 0 and book.max() < SIZE and book.shape == (35,) for book in codes)
    assert refused > len(mutants) // 2


@pytest.mark.parametrize("size", [7, 8])
def test_numbers_beyond_the_codebook_are_refused(size):
    wide, narrow = integer_coder(), integer_coder(size)
    codes = [np.full(35, wide.centre) for _ in range(BOOKS)]
    for value, fits in [(size // 2, size % 2 == 1), (-(size // 2), True), (-(size // 2) - 1, False)]:
        codes[3] = np.where(np.arange(35) == 11, wide.centre + value, wide.centre)
        payload = wide.encode(tuple(codes), (5, 7), 1.0)
        if fits:
            assert narrow.decode(payload, (5, 7), 1.0)[3][11] == value + size // 2
        else:
            with pytest.raises(
                ValueError, match=rf"whole numbers are -{size // 2} to {(size - 1) // 2} here, got {value}"
            ):
                narrow.decode(payload, (5, 7), 1.0)


def test_qualities_that_are_not_there_are_refused():
    coder, codes = built().coder(), codes_of(heavy((BOOKS, 2, 2)))
    for quality in (0.5, 3.25, None):
        with pytest.raises(ValueError, match="qualities 1 to 3"):
            coder.encode(codes, (2, 2), quality)


def test_sums_that_could_be_inexact_and_unequal_codebooks_are_refused():
    good = integer_coder().heads[0]
    parts = {name: getattr(good, name) for name in ("state", "hidden", "hidden_bias", "out", "bias")}
    for name in ("state", "hidden_bias"):
        with pytest.raises(ValueError, match=r"stay below 2\*\*52"):
            Head(**parts | {name: parts[name] + 2.0**52})
    for name in ("hidden", "out"):
        with pytest.raises(ValueError, match=r"stay below 2\*\*52"):
            Head(**parts | {name: (parts[name][0], parts[name][1] + 2.0**32)})
    with pytest.raises(ValueError, match=r"one size, got \[7, 9\]"):
        NeighbourCoder((7, 9), (), (), 1, stacked([integer_table([1])]))
    with pytest.raises(ValueError, match=r"groups share 5 high bands, got sizes \(2, 2\)"):
        groups(5, 1, (2, 2))


def integer_coder(size=SIZE):
    """A coder made of integers alone: no float of any machine is in it."""
    rng, plan = np.random.default_rng(0), groups(sum(CHANNELS), LOW, CHANNELS)
    width, states, heads = 4, 6, []

    def weights(*shape):
        return rng.integers(-600, 600, shape).astype(np.float64)

    for group in plan:
        k = group.channels
        heads.append(
            Head(
                state=weights(states, 2 * k),
                hidden=(weights(width, states), weights(width, states + k)),
                hidden_bias=weights(2, width) * 64,
                out=(weights(k, width), weights(k, width + k)),
                bias=rng.integers(2 * 2**16, 12 * 2**16, (3, 2, k)),
            )
        )
    radii = [1 + place // 2 for place in range(24)]
    counts = [[2 + 99 * (r + 1 - abs(n)) ** 2 // (r + 1) for n in range(-r, r + 1)] + [3] for r in radii]
    tables = stacked([integer_table(np.array(each)) for each in counts])
    return NeighbourCoder((size,) * BOOKS, plan, heads, states, tables)


def test_golden_bytes():
    coder, codes = integer_coder(), codes_of(heavy((BOOKS, 5, 7)))
    digest = hashlib.sha256(b"".join(coder.encode(codes, (5, 7), q) for q in (1.0, 1.75, 3.0))).hexdigest()[:12]
    assert digest == "086c888814d6"


def test_threads_change_no_byte(tmp_path):
    """In other processes, with so many threads for linear algebra, on a grid that takes them; and without torch."""
    codes = codes_of(heavy((BOOKS, 70, 90)))
    (tmp_path / "coder").write_bytes(pickle.dumps((integer_coder(), codes)))
    code = (
        "import hashlib, pickle, sys; sys.modules['torch'] = None\n"
        "coder, codes = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(hashlib.sha256(coder.encode(codes, (70, 90), 1.5)).hexdigest())\n"
    )
    found = {hashlib.sha256(integer_coder().encode(codes, (70, 90), 1.5)).hexdigest() + "\n"}
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", code, str(tmp_path / "coder")]
        found.add(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)
    assert len(found) == 1
