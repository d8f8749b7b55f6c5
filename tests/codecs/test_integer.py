"""Exact networks: the same whole numbers in any order of sums, by any library, close to the floats they come from."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.densities.network import Layer, Network
from sigtok.codecs.entropy.integer import Convolution, Fold, IntegerNetwork, Unfold, convolution, interpolated

KERNELS = {
    "1x1": (6, 5, 1, 1),
    "3x3": (6, 5, 3, 3),
    "1x3": (6, 5, 1, 3),
    "5x3": (6, 5, 5, 3),
    "depthwise": (5, 1, 3, 3),
}


def layer(shape, seed=0, low=-500, high=500, shift=3):
    rng = np.random.default_rng(seed)
    weight = rng.integers(-40, 41, shape)
    return Convolution(weight, rng.integers(-99, 99, (1, shape[0])), shift, low, high)


def slow(values, conv):
    """A layer by Python's integers, position by position."""
    weight = conv.weight.tolist()
    out, channels, high, wide = conv.weight.shape
    depth, rows, columns = values.shape
    result = np.zeros((out, rows, columns), int)
    for o in range(out):
        inputs = [o] if channels == 1 and out == depth else range(channels)
        for y in range(rows):
            for x in range(columns):
                total = int(conv.bias[0, o])
                for i, channel in enumerate(inputs):
                    for dy in range(high):
                        for dx in range(wide):
                            row = min(max(y + dy - high // 2, 0), rows - 1)
                            column = min(max(x + dx - wide // 2, 0), columns - 1)
                            total += weight[o][i][dy][dx] * int(values[channel, row, column])
                result[o, y, x] = min(max(total >> conv.shift, conv.low), conv.high)
    return result


def random_grid(shape, most=1000, seed=1):
    return np.random.default_rng(seed).integers(-most, most + 1, shape)


@pytest.mark.parametrize("extent", [(1, 1), (1, 4), (4, 1), (3, 5)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_layer_is_its_sum(kernel, extent):
    conv, values = layer(KERNELS[kernel]), random_grid((5, *extent))
    network = IntegerNetwork([conv], 1000)
    assert np.array_equal(network(values), slow(values, conv))
    inside = network(torch.from_numpy(values).double(), None, torch)
    assert np.array_equal(inside.numpy(), slow(values, conv))


def test_sums_of_any_order_are_equal():
    """Weights and activations near the bounds, channels shuffled, one and two threads."""
    rng = np.random.default_rng(0)
    conv = Convolution(rng.integers(-(2**20), 2**20, (8, 64, 3, 3)), np.zeros((1, 8), int), 20, -(2**40), 2**40)
    values, expected = random_grid((64, 9, 7), 2**20), None
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(64)
        shuffled = Convolution(conv.weight[:, order], conv.bias, conv.shift, conv.low, conv.high)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found = IntegerNetwork([shuffled], 2**20)(torch.from_numpy(values[order]).double(), None, torch).numpy()
            expected = found if expected is None else expected
            assert np.array_equal(found, expected)
        assert np.array_equal(IntegerNetwork([shuffled], 2**20)(values[order]), expected)
    exact = conv.weight.astype(object).transpose(0, 2, 3, 1)[1].ravel() @ np.moveaxis(
        values[:, 2:5, 1:4].astype(object), 0, -1
    ).reshape(-1)
    assert expected[1, 3, 2] == exact >> 20


def test_threads_of_numpy_change_nothing():
    code = (
        "import hashlib; import numpy as np\n"
        "from sigtok.codecs.entropy.integer import Convolution, IntegerNetwork\n"
        "rng = np.random.default_rng(0)\n"
        "conv = Convolution(rng.integers(-2**20, 2**20, (64, 64, 3, 3)), np.zeros((1, 64), int), 20, -2**40, 2**40)\n"
        "values = IntegerNetwork([conv], 2**20)(rng.integers(-2**20, 2**20, (64, 40, 40)))\n"
        "print(hashlib.sha256(values.tobytes()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(found) == 1


def test_sums_that_could_be_inexact_are_refused():
    wide = Convolution(np.full((1, 2, 1, 1), 2**25), np.zeros((1, 1), int), 0, -(2**26), 2**26)
    assert IntegerNetwork([wide], 2**25 - 1).bound == 2**25 - 1
    for steps, bound in (([wide], 2**26), ([wide, Fold(1, 1), layer((1, 1, 1, 1), high=2**60)] * 2, 2**25 - 1)):
        with pytest.raises(ValueError, match="stay below"):
            IntegerNetwork(steps, bound)
    with pytest.raises(ValueError, match="stay below"):
        IntegerNetwork([Convolution(wide.weight, np.full((2, 1), -(2**52)), 0, 0, 1)], 1)


def test_inputs_are_clipped():
    network = IntegerNetwork([layer((6, 5, 1, 1))], 10)
    values = random_grid((5, 3, 3))
    assert np.array_equal(network(values), network(values.clip(-10, 10)))


def test_folds_are_inverses_and_blocks():
    values = random_grid((3, 4, 6))
    folded = Fold(2, 3)(values, None, np)
    assert folded.shape == (18, 2, 2) and folded[1 * 6 + 1 * 3 + 2, 1, 0] == values[1, 3, 2]
    assert np.array_equal(Unfold(2, 3)(folded, None, np), values)
    assert np.array_equal(Fold(2, 3)(torch.from_numpy(values), None, torch).numpy(), folded)


def test_biases_between_qualities_are_their_means():
    rows = np.array([[0, 160], [32, -7], [64, 1]])
    assert [interpolated(rows, quality).tolist() for quality in (1.0, 2.0, 3.0)] == rows.tolist()
    assert interpolated(rows, 1.25).tolist() == [8, (160 * 12 - 7 * 4) // 16]
    assert interpolated(rows[:1], None).tolist() == [0, 160]
    for quality in (None, 0.5, 3.5):
        with pytest.raises(ValueError, match="qualities 1 to 3"):
            interpolated(rows, quality)


def test_weights_that_are_not_finite_are_refused():
    for weight, bias in ((np.nan, 0.0), (1.0, np.inf), (1e-30, 0.0)):
        with pytest.raises(ValueError):
            convolution(np.full((1, 1, 1, 1), weight), np.full((1, 1), bias), (8, 8), (0.0, 1.0))


@pytest.mark.parametrize("quality", [1.0, 1.5, 2.0])
def test_a_trained_network_and_its_whole_numbers_agree(quality):
    """Layers of all kinds: near in all results, from inputs of six fraction bits."""
    network = Network(
        (
            *(Layer(4, 16, (3, 3), rungs=2), Layer(16, 16, (3, 3), depthwise=True, rungs=2), Fold(2, 2)),
            *(Layer(64, 32, rungs=2), Unfold(2, 2), Layer(8, 3, (1, 3), rungs=2, fraction=4, bounds=(-100.0, 100.0))),
        ),
        fraction=6,
        bound=8.0,
    )
    for part in network.layers:
        torch.nn.init.normal_(part.bias)
    whole = random_grid((4, 8, 6), 2**9)
    with torch.no_grad():
        expected = network(torch.from_numpy(whole / 2**6).float()[None], quality)[0].numpy()
    found = network.exact(network.integers())(whole, quality) / 2**4
    assert np.abs(found - expected).max() < 0.05 and np.abs(expected).max() > 3
    assert np.array_equal(found, np.rint(found * 2**4) / 2**4)


def test_layers_repeat_their_edges():
    part, grid = Layer(2, 3, (3, 3), bounds=(-1e9, 1e9)), torch.randn(1, 2, 4, 5)
    padded = F.pad(grid, (1, 1, 1, 1), mode="replicate")
    torch.testing.assert_close(part(grid, None), F.conv2d(padded, part.weight))
