"""Neighbours of a spectrum over time: what is coded is decoded, tables come from the past, and follow the floats."""

import hashlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.densities import spectral as module
from sigtok.codecs.densities.laplace import STEPS, TABLES, laplace_bits
from sigtok.codecs.densities.spectral import SpectralDensity
from sigtok.codecs.entropy.spectral import (
    BAND,
    CHANNELS,
    FARTHEST,
    WIDE,
    SpectralCoder,
    SpectralHead,
    classes,
    gathered,
    window_sums,
)
from sigtok.codecs.entropy.tables import integer_table, stacked
from sigtok.codecs.spec import Rate

SIZE, BINS = 255, 32
FRAMES = [1, 2, 3, 8, 9, 21]


def built(seed=0, qualities=3):
    """A density whose networks say something."""
    torch.manual_seed(seed)
    density = SpectralDensity(SIZE, BINS, qualities, 4, width=6)
    with torch.no_grad():
        for head in density.heads:
            head.out.normal_(0, 0.3)
            head.direct.normal_(0, 2 / max(head.direct.numel(), 1))
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


# -- both directions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", FRAMES)
def test_what_is_coded_is_decoded_of_any_length(frames):
    coder, grid = built().coder(), (frames * BINS,)
    for quality in (1.0, 1.75, 3.0):
        codes = codes_of(heavy((CHANNELS, *grid)))
        decoded = coder.decode(coder.encode(codes, grid, quality), grid, quality)
        assert equal(decoded, codes) and all(book.dtype == np.int64 for book in decoded)


def test_nothing_is_no_bytes():
    coder, codes = built().coder(), (np.empty(0, np.int64),) * CHANNELS
    assert coder.encode(codes, (0,), 1.0) == b"" and equal(coder.decode(b"", (0,), 1.0), codes)


def test_a_codec_without_qualities_has_one_row():
    coder, codes = built(qualities=0).coder(), codes_of(heavy((CHANNELS, 5 * BINS)))
    assert equal(coder.decode(coder.encode(codes, (5 * BINS,), None), (5 * BINS,), None), codes)


@pytest.mark.parametrize("frames", FRAMES)
def test_classes_hold_every_bin_once(frames):
    seen = np.zeros((CHANNELS, frames, BINS), int)
    for each in classes():
        seen[each.channel][each.place] += 1
    assert (seen == 1).all()


def test_offsets_are_of_classes_before():
    """Of every class, what it looks at has been coded, also in the middle of a sound."""
    done = np.zeros((CHANNELS, 64, BINS), bool)
    for each in classes():
        frame, bin_ = 32 + each.start, 16 + each.first
        for channel, frames, bins in each.near:
            assert done[channel, frame + frames, bin_ + bins], each
        for channel, frames in each.wide:
            assert done[channel, frame + frames].all(), each
        assert each.inputs == len(set(each.near)) + len(set(each.wide))
        done[each.channel][each.place] = True


def test_inputs_are_the_magnitudes_at_the_offsets():
    """By a slow loop with zeros outside."""
    extent = (11, BINS)
    values = np.random.default_rng(0).integers(0, 9, (CHANNELS, *extent)).astype(np.float64)
    padded = np.pad(values, ((0, 0), (FARTHEST, FARTHEST), (WIDE, WIDE)))
    summed = np.zeros_like(padded)
    summed[..., WIDE:-WIDE] = np.stack([window_sums(rows) for rows in padded])

    def at(channel, frame, bin_):
        inside = 0 <= frame < extent[0] and 0 <= bin_ < extent[1]
        return values[channel, frame, bin_] if inside else 0

    for each in classes():
        found = gathered(padded, summed, each, extent)
        for i, frame in enumerate(range(each.start, extent[0], each.step)):
            for j, bin_ in enumerate(range(each.first, extent[1], each.stride)):
                near = [at(channel, frame + frames, bin_ + bins) for channel, frames, bins in each.near]
                around = range(bin_ - WIDE, bin_ + WIDE + 1)
                wide = [sum(at(channel, frame + frames, other) for other in around) for channel, frames in each.wide]
                assert [source[i, j] for source in found] == near + wide


def test_tables_depend_only_on_what_was_coded_before():
    """Values in turn are other ones: tables of their own class and of those before stay, some later ones change."""
    coder, changed = built().coder(), 0
    whole = heavy((CHANNELS, 11, BINS)).clip(-9, 9)
    before = list(coder._steps(whole, 1.75))
    for number, (each, index) in enumerate(before):
        for place in range(0, index.size, 13):
            other = whole.copy()
            view = other[each.channel][each.place]
            view[np.unravel_index(place, view.shape)] += 5
            after = list(coder._steps(other, 1.75))
            same = [np.array_equal(old, new) for (_, old), (_, new) in zip(before, after, strict=True)]
            assert all(same[: number + 1])
            changed += not all(same)
    assert changed > 5


# -- floats and whole numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1.0, 2.25])
def test_exact_tables_are_those_of_the_network_in_floats(quality, monkeypatch):
    density, values, found = built(), heavy((CHANNELS, 21, BINS)).clip(-40, 40), []
    monkeypatch.setattr(module, "laplace_bits", lambda noisy, index: found.append(index) or laplace_bits(noisy, index))
    with torch.no_grad():
        latents = torch.from_numpy(values).float().flatten(1).T[None]
        density(latents, (21 * BINS,), Rate(quality=quality))
    wrong, tables = 0, set()
    for (_, index), real in zip(density.coder()._steps(values, quality), found, strict=True):
        real = real[0].round().clamp(0, TABLES - 1).numpy()
        assert real.shape == index.shape and np.abs(real - index).max(initial=0) <= 2
        wrong += (real != index).sum()
        tables |= set(index.ravel().tolist())
    assert wrong < 0.02 * values.size and len(tables) > 20


# -- training ----------------------------------------------------------------------------------------------


def sound(frames, quality, seed):
    """Laplace numbers ``[B, N, 2]`` whose scales are slow in time and fall with frequency; side is quieter."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(2, 1, frames // 8 + 2, BINS // 16 + 2, generator=generator)
    slow = F.interpolate(coarse, size=(frames, BINS), mode="bicubic", align_corners=True)
    octave = 4 * slow + quality + torch.linspace(2, -3, BINS) + torch.tensor([0.0, -1.0])[:, None, None]
    uniform = torch.rand(octave.shape, generator=generator) - 0.5
    laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp_max(0.4999))
    return (laplace * 2**octave).clamp(-127, 127).flatten(2).mT


def trained(steps):
    torch.manual_seed(0)
    density = SpectralDensity(SIZE, BINS, 2, 4, width=8)
    optimizer = torch.optim.Adam(density.parameters(), 1e-2)
    for step in range(steps):
        quality = 1 + step % 5 / 4
        values = sound(16, quality, 1 + step)
        noisy = values + torch.rand_like(values) - 0.5
        bits = density(noisy, (16 * BINS,), Rate(quality=quality), values.round()).sum()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
    return density.eval()


def of_tables(coder, codes, quality):
    """Bits of all numbers under their tables."""
    whole = np.stack(codes).reshape(CHANNELS, -1, BINS) - SIZE // 2
    steps = coder._steps(whole, quality)
    return sum(coder.tables.bits(whole[each.channel][each.place], index).sum() for each, index in steps)


def entropy_of(values):
    share = np.unique(values, return_counts=True)[1] / len(values)
    return -(share * np.log2(share)).sum()


def test_bytes_of_a_trained_density_are_its_bits_and_fewer():
    """Fewer than a table of its own for every channel and band could reach, since neighbours tell the scale."""
    density, frames = trained(60), 150
    density.freeze()
    coder, grid = density.coder(), (frames * BINS,)
    for quality in (1.0, 1.5, 2.0):
        values = sound(frames, quality, 0)[:1].round()
        codes = tuple(values[0].T.long().numpy() + SIZE // 2)
        payload = coder.encode(codes, grid, quality)
        assert equal(coder.decode(payload, grid, quality), codes)
        with torch.no_grad():
            bits = density(values, grid, Rate(quality=quality)).item()
        assert 0.7 * bits < 8 * len(payload) < 1.01 * bits  # tables are counted, bits are of the law
        assert 8 * len(payload) <= 1.001 * of_tables(coder, codes, quality) + 64
        bands = [part.ravel() for book in codes for part in np.split(book.reshape(frames, BINS), BINS // BAND, 1)]
        assert 8 * len(payload) < 0.99 * sum(entropy_of(band) * len(band) for band in bands)


def test_training_starts_at_the_mean_magnitudes_of_each_quality_once():
    density = SpectralDensity(SIZE, BINS, 2, 4, width=4).train()
    values = torch.full((1, 9 * BINS, 2), 8.0)
    values.unflatten(1, (9, BINS))[:, :, BAND:, 1] = 2.0
    density(values, (9 * BINS,), Rate(quality=1.5))
    assert density.started.tolist() == [True, False]
    for each, head in zip(density.plan, density.heads, strict=True):
        assert head.bias[0].tolist() == [STEPS * 9.0, STEPS * (7.0 if each.channel else 9.0)]
    density(values / 4, (9 * BINS,), Rate(quality=1.0))
    assert (density.heads[0].bias[0] == STEPS * 9.0).all()


def test_frozen_numbers_stay_and_count_nothing():
    density, grid, codes = built(), (5 * BINS,), codes_of(heavy((CHANNELS, 5 * BINS)))
    density.freeze()
    payload = density.coder().encode(codes, grid, 1.5)
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.mul_(1.5)
        density(torch.randn(1, *grid, CHANNELS).round(), grid, Rate(quality=1.5))
    assert not density.counted.counts.any()
    assert density.coder().encode(codes, grid, 1.5) == payload
    density.thaw()
    assert density.coder().encode(codes, grid, 1.5) != payload


# -- damage, limits, machines ------------------------------------------------------------------------------


def test_damaged_payloads_give_codes_or_a_value_error():
    coder, grid, rng = built().coder(), (3 * BINS,), np.random.default_rng(0)
    payload, refused = coder.encode(codes_of(heavy((CHANNELS, *grid))), grid, 1.5), 0
    mutants = [payload[:end] for end in range(0, len(payload), 25)] + [payload + b"\1", payload + b"\0"]
    for bit in range(0, 8 * len(payload), 61):
        mutant = bytearray(payload)
        mutant[bit // 8] ^= 1 << bit % 8
        mutants.append(bytes(mutant))
    mutants += [rng.bytes(int(rng.integers(0, 300))) for _ in range(20)]
    for mutant in mutants:
        try:
            codes = coder.decode(mutant, grid, 1.5)
        except ValueError:
            refused += 1
            continue
        assert all(book.min() >= 0 and book.max() < SIZE and book.shape == grid for book in codes)
    assert refused > len(mutants) // 2


@pytest.mark.parametrize("size", [7, 8])
def test_numbers_beyond_the_codebook_are_refused(size):
    wide, narrow = integer_coder(), integer_coder(size)
    for value, fits in [(size // 2, size % 2 == 1), (-(size // 2), True), (-(size // 2) - 1, False)]:
        values = np.zeros((CHANNELS, 3 * BINS), int)
        values[1, 50] = value
        payload = wide.encode(codes_of(values), (3 * BINS,), 1.0)
        if fits:
            assert narrow.decode(payload, (3 * BINS,), 1.0)[1][50] == value + size // 2
        else:
            with pytest.raises(ValueError, match=f"numbers are -{size // 2} to {(size - 1) // 2} here, got {value};"):
                narrow.decode(payload, (3 * BINS,), 1.0)


def test_parts_of_frames_and_other_qualities_are_refused():
    coder = built().coder()
    with pytest.raises(ValueError, match="a frame has 32 positions, got 40 in all"):
        coder.decode(b"", (40,), 1.0)
    for quality in (0.5, 3.25, None):
        with pytest.raises(ValueError, match="qualities 1 to 3"):
            coder.encode(codes_of(heavy((CHANNELS, BINS))), (BINS,), quality)


def test_sums_that_could_be_inexact_are_refused():
    good = integer_coder().heads[-1]
    parts = {name: getattr(good, name) for name in ("hidden", "hidden_bias", "out", "direct", "bias")}
    for name, more in (("hidden", 2.0**32), ("hidden_bias", 2.0**52), ("out", 2.0**32), ("direct", 2.0**32)):
        with pytest.raises(ValueError, match=r"stay below 2\*\*52"):
            SpectralHead(**parts | {name: parts[name] + more})


def integer_coder(size=SIZE):
    """A coder made of integers alone: no float of any machine is in it."""
    rng, heads, width = np.random.default_rng(0), [], 5

    def weights(*shape):
        return rng.integers(-300, 300, shape).astype(np.float64)

    for each in classes():
        heads.append(
            SpectralHead(
                hidden=weights(width, each.inputs),
                hidden_bias=weights(width) * 64,
                out=weights(width),
                direct=weights(each.inputs),
                bias=rng.integers(2 * 2**16, 12 * 2**16, (3, BINS // BAND)),
            )
        )
    radii = [1 + place // 2 for place in range(24)]
    counts = [[2 + 99 * (r + 1 - abs(n)) ** 2 // (r + 1) for n in range(-r, r + 1)] + [3] for r in radii]
    return SpectralCoder(size, BINS, heads, stacked([integer_table(np.array(each)) for each in counts]))


def test_golden_bytes():
    coder, grid = integer_coder(), (5 * BINS,)
    payloads = [coder.encode(codes_of(heavy((CHANNELS, *grid))), grid, quality) for quality in (1.0, 1.75, 3.0)]
    assert hashlib.sha256(b"".join(payloads)).hexdigest()[:12] == "c4def5a04bb8"


def test_threads_change_no_byte(tmp_path):
    """In other processes, with so many threads for linear algebra, on a grid that takes them; and without torch."""
    grid = (300 * BINS,)
    codes = codes_of(heavy((CHANNELS, *grid)))
    (tmp_path / "coder").write_bytes(pickle.dumps((integer_coder(), codes, grid)))
    code = (
        "import hashlib, pickle, sys; sys.modules['torch'] = None\n"
        "coder, codes, grid = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(hashlib.sha256(coder.encode(codes, grid, 1.5)).hexdigest())\n"
    )
    found = {hashlib.sha256(integer_coder().encode(codes, grid, 1.5)).hexdigest() + "\n"}
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", code, str(tmp_path / "coder")]
        found.add(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)
    assert len(found) == 1
