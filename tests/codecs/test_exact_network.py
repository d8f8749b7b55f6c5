"""The exact transformer: the same whole numbers in any parts, threads and processes, and they mean what floats mean."""

import os
import subprocess
import sys
from decimal import Context, Decimal
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from sigtok.codecs.entropy import network as exact
from sigtok.codecs.entropy.network import ExactTransformer, Matrix, power_table, rotations
from sigtok.codecs.language.network import Shape, TokenTransformer

ROOT = Path(__file__).parents[2]
SIZE = 50


def network_of(shape, scale=0.3, seed=0):
    """A network with opinions."""
    torch.manual_seed(seed)
    network = TokenTransformer(SIZE, SIZE - 1, shape).eval()
    with torch.no_grad():
        network.embed.weight.normal_(std=scale)
        for name, weight in network.named_parameters():
            if "norm" in name:
                weight.uniform_(0.3, 2.0)
    return network


def exactly(network):
    shape = network.shape
    tensors = {name: value.numpy() for name, value in network.state_dict().items()}
    return ExactTransformer(tensors, shape.heads, shape.context)


def formula(dim=32, depth=2, expansion=4):
    """Weights that are a formula, so that no library of random numbers or powers has a part in them."""
    shapes = {"embed.weight": (SIZE, dim), "norm.weight": (dim,)}
    for block in range(depth):
        name = f"blocks.{block}."
        shapes |= {
            name + "attention_norm.weight": (dim,),
            name + "norm.weight": (dim,),
            name + "attention.project.weight": (3 * dim, dim),
            name + "attention.out.weight": (dim, dim),
            name + "up.weight": (expansion * dim, dim),
            name + "down.weight": (dim, expansion * dim),
        }
    tensors = {}
    for place, (name, shape) in enumerate(shapes.items()):
        numbers = np.arange(int(np.prod(shape)), dtype=np.int64)
        values = (((numbers * numbers * 2654435761 + numbers * 40503 + place * 977) >> 7) % 2**16 - 2**15) / 2**17
        tensors[name] = values.astype(np.float32).reshape(shape) + (1 if len(shape) == 1 else 0)
    return tensors


def digest():
    """Of the shares behind every id of a fixed sequence."""
    network = ExactTransformer(formula(), 4, 40)
    ids = np.arange(100, dtype=np.int64) ** 2 % SIZE
    return crc32(network.shares(network.read(ids, network.memory(100)), 0, SIZE).astype("<i8").tobytes())


def whole(network, ids):
    return network.read(ids, network.memory(len(ids)))


@given(
    parts=some.lists(some.integers(1, 9), min_size=1, max_size=12),
    context=some.sampled_from((1, 2, 7, 100)),
    heads=some.sampled_from((1, 2, 4)),
    depth=some.integers(1, 3),
    scale=some.sampled_from((0.01, 0.3, 5.0, 300.0)),
    seed=some.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_parts_are_the_whole_to_the_last_bit(parts, context, heads, depth, scale, seed):
    network = exactly(network_of(Shape(dim=16, depth=depth, heads=heads, context=context), scale, seed))
    ids = np.random.default_rng(seed).integers(0, SIZE, sum(parts))
    memory = network.memory(len(ids) + 3)
    found = [network.read(part, memory) for part in np.split(ids, np.cumsum(parts)[:-1])]
    expected = whole(network, ids)
    assert memory.count == len(ids) and np.array_equal(np.concatenate(found), expected)
    assert np.array_equal(expected, np.rint(expected)) and np.isfinite(expected).all()


@pytest.mark.parametrize("parts", [[1023, 1, 1, 975], [500] * 4, [1] * 40 + [1960]])
def test_parts_of_a_long_signal_are_the_whole(parts):
    network = exactly(network_of(Shape(dim=8, depth=1, heads=1, context=5)))
    ids = np.random.default_rng(0).integers(0, SIZE, 2000)
    memory = network.memory(2000)
    found = [network.read(part, memory) for part in np.split(ids, np.cumsum(parts)[:-1])]
    assert np.array_equal(np.concatenate(found), whole(network, ids))


@pytest.mark.parametrize("context", [8, 100])
@pytest.mark.parametrize("scale", [0.02, 0.3])
@torch.no_grad()
def test_it_means_what_the_network_of_floats_means(context, scale):
    network = network_of(Shape(dim=64, depth=3, heads=4, context=context), scale)
    ids = torch.randint(0, SIZE - 1, (1, 80))
    ids[0, 0] = SIZE - 1
    expected = network.double()(ids)[0].softmax(-1).numpy()
    shares = exactly(network.float()).shares(whole(exactly(network), ids[0].numpy()), 0, SIZE)
    least = 2 ** (exact.SHARE - exact.FLOOR) // SIZE + 1
    found = (shares - least) / (shares - least).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=4e-3 * expected.max(), rtol=0)
    lost = (expected * np.log2(expected / (shares / shares.sum(1, keepdims=True)))).sum(1)
    assert lost.min() >= 0 and lost.max() < np.log2(33 / 32) + 1e-3  # what the impossible takes


@pytest.mark.parametrize("count", [2, 3, SIZE])
def test_no_share_is_nothing_and_none_costs_less_than_a_64th_of_a_bit(count):
    for scale in (0.1, 1e4):
        network = exactly(network_of(Shape(dim=16, depth=1, heads=1), scale))
        shares = network.shares(whole(network, np.arange(SIZE)), 0, count)
        assert shares.dtype == np.int64 and shares.min() >= 1
        assert np.log2(shares.sum(1) / shares.max(1)).min() >= 1 / 64
        assert shares.sum(1).max() < 2**48
    part = network.shares(whole(network, np.arange(SIZE)), 10, 7)
    assert part.shape == (SIZE, 7)


@given(
    inputs=some.integers(1, 300),
    bits=some.integers(1, 36),
    scale=some.sampled_from((1e-9, 1e-3, 1.0, 1e6)),
    seed=some.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_sums_of_a_matrix_are_exact(inputs, bits, scale, seed):
    rng, bound = np.random.default_rng(seed), 2.0**bits
    matrix = Matrix(scale * rng.standard_normal((5, inputs)), bound)
    values = rng.choice([-bound, bound], (3, inputs))
    products = [[sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) for column in matrix.whole.T.tolist()]
                for row in values.tolist()]  # fmt: skip
    assert max(abs(product) for row in products for product in row) < 2**52
    assert np.array_equal(values @ matrix.whole, np.array(products, np.float64))
    assert Matrix(np.zeros((2, 2)), bound)(np.ones((1, 2)), 0, bound).tolist() == [[0.0, 0.0]]


def test_what_is_too_wide_or_no_number_is_refused():
    with pytest.raises(ValueError, match=r"weights are finite, got NaN or infinity in embed.weight"):
        ExactTransformer({"embed.weight": np.full((2, 2), np.nan), "norm.weight": np.ones(2)}, 1, 1)
    with pytest.raises(ValueError, match="at most 16384 wide, got 16386"):
        ExactTransformer({"embed.weight": np.zeros((2, 2**14 + 2), np.float32), "norm.weight": np.ones(1)}, 1, 1)


def test_powers_are_those_of_two():
    digits = Context(prec=40)
    exact_powers = [digits.power(2, Decimal(24) + Decimal(place) / 1024) for place in range(1024)]
    assert power_table().tolist() == [float(power.to_integral_value()) for power in exact_powers]


@pytest.mark.parametrize("pairs", [1, 8, 32])
def test_rotations_are_those_of_the_network(pairs):
    length = 3000
    angles = np.arange(length)[:, None] * 10_000.0 ** (-np.arange(pairs) / pairs)
    expected = np.stack((np.cos(angles), np.sin(angles))) * 2.0**exact.ANGLE
    found = rotations(0, length, pairs)
    assert found.shape == (2, length, pairs) and np.abs(found - expected).max() < 0.501
    for first, count in ((0, 700), (1, 1), (700, 1), (1023, 2), (1500, 1500), (5, 0)):
        assert np.array_equal(rotations(first, count, pairs), found[:, first : first + count])


GOLDEN = 3660991937


def test_golden_shares():
    assert digest() == GOLDEN


@pytest.mark.parametrize(
    "machine",
    [
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX AVX512_ICL"},
        {"OPENBLAS_CORETYPE": "Sandybridge"},
    ],
    ids=["one", "two", "sse", "avx"],
)
def test_other_processes_kernels_and_threads_give_the_same(machine):
    """Matrix products of an old processor, and numpy without its wide instructions, stand for another machine."""
    code = "import sys; sys.path.insert(0, 'tests/codecs'); import test_exact_network as t; print(t.digest())"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**os.environ, **machine},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == GOLDEN
