"""Random rotation, optimal scalars, and a length: figures against the theory, and the laws of every quantizer."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.quantizers.lloyd_max import lloyd_max
from sigtok.codecs.quantizers.random_rotation import GRID, MATRIX_GRID, Haar, Hadamard, unit_grid
from sigtok.codecs.quantizers.turboquant import TurboQuant

MEMBERS = {
    f"{mode}_{rotation}_{dim}": (lambda mode=mode, rotation=rotation, dim=dim: TurboQuant(dim, 3, mode, rotation))
    for mode in ("mse", "unbiased", "qjl")
    for rotation, dim in (("haar", 6), ("hadamard", 6), ("hadamard", 8))
}
EVERY = pytest.mark.parametrize("name", MEMBERS)
LONGEST = 2 ** (32767 / 1024)
GOLDEN_ROW = [2480848, -15121382, -4661584, -4993377]
GOLDEN_SIGNS = [-1, 1, 1, 1, 1, -1, 1, -1]


def make(name):
    return MEMBERS[name]().eval()


def speak(quantizer, batch=2, positions=50):
    return torch.randn(batch, positions, quantizer.dim)


def directions(count, dim):
    return F.normalize(torch.randn(1, count, dim), dim=-1)


def values(quantizer, latents):
    return quantizer.decode(quantizer.encode(latents))


def square_error(quantizer, latents):
    """Mean over vectors, each relative to its own square."""
    errors = (values(quantizer, latents) - latents).square().sum(-1)
    return float((errors / latents.square().sum(-1)).mean())


def slope(quantizer, latents):
    return float((values(quantizer, latents) * latents).sum() / latents.square().sum())


def same_streams(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


# -- scalar tables -----------------------------------------------------------------------------------------

PRINTED_DISTORTIONS = {
    64: (0.35839, 0.11453, 0.03339, 0.00913, 0.00240),
    128: (0.36089, 0.11600, 0.03397, 0.00932, 0.00245),
    256: (0.36214, 0.11674, 0.03426, 0.00941, 0.00248),
    10**6: (0.36338, 0.11748, 0.03455, 0.00950, 0.00250),
}
NORMAL_LEVELS = {  # Max, 1960, table I
    1: (0.7979,),
    2: (0.4528, 1.5104),
    3: (0.2451, 0.7560, 1.3439, 2.1519),
    4: (0.1284, 0.3880, 0.6568, 0.9423, 1.2562, 1.6180, 2.0690, 2.7326),
}
NORMAL_ENTROPIES = (1.000, 1.911, 2.825, 3.765, 4.730)
TABLES = [(bits, dim) for dim in (2, 3, 4, 7, 16, 128, 1000) for bits in (1, 2, 3, 4, 8)]


def integrate(density, low, high, cells=2000):
    """Simpson's rule, in the angle, where the sphere's density has no singular end."""
    nodes = np.linspace(low, high, 2 * cells + 1)
    weights = np.ones(len(nodes))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return (high - low) / (6 * cells) * (weights * density(nodes)).sum()


def cells_of(table, dim):
    """Mass, first and second moment of every cell, independently of the way the table was made."""
    edges = np.arcsin(np.concatenate(([-1.0], table.thresholds, [1.0])))
    edges = edges.clip(-min(np.pi / 2, 12 / math.sqrt(dim)), min(np.pi / 2, 12 / math.sqrt(dim)))
    moments = [
        [integrate(lambda a, p=power: np.sin(a) ** p * np.cos(a) ** (dim - 2), *edge) for power in range(3)]
        for edge in itertools.pairwise(edges)
    ]
    moments = np.array(moments).T
    return moments / moments[0].sum()


@pytest.mark.parametrize("dim", PRINTED_DISTORTIONS)
def test_distortions_are_the_printed_ones(dim):
    for bits, distortion in enumerate(PRINTED_DISTORTIONS[dim], start=1):
        assert abs(lloyd_max(bits, dim).distortion - distortion) < 6e-6


@pytest.mark.parametrize("bits", NORMAL_LEVELS)
def test_levels_of_a_large_sphere_are_those_of_the_normal_density(bits):
    levels = lloyd_max(bits, 10**6).levels[2 ** (bits - 1) :] * 1000
    np.testing.assert_allclose(levels, NORMAL_LEVELS[bits], atol=6e-5)


def test_entropies_of_a_large_sphere_are_the_printed_ones():
    for bits, entropy in enumerate(NORMAL_ENTROPIES, start=1):
        mass = cells_of(lloyd_max(bits, 10**6), 10**6)[0]
        assert abs(-(mass * np.log2(mass)).sum() - entropy) < 6e-4


@pytest.mark.parametrize("bits, dim", TABLES)
def test_levels_are_the_means_of_their_cells_and_thresholds_lie_midway(bits, dim):
    table = lloyd_max(bits, dim)
    mass, first, second = cells_of(table, dim)
    np.testing.assert_allclose(table.levels, first / mass, rtol=0, atol=1e-9 / math.sqrt(dim))
    np.testing.assert_array_equal(table.thresholds, (table.levels[1:] + table.levels[:-1]) / 2)
    np.testing.assert_array_equal(table.levels, -table.levels[::-1])
    assert (np.diff(table.levels) > 0).all() and abs(table.levels).max() < 1
    error = dim * (second - 2 * table.levels * first + table.levels**2 * mass).sum()
    assert abs(table.distortion - error) < 1e-9


@pytest.mark.parametrize("bits", range(1, 9))
def test_on_the_common_sphere_a_coordinate_is_uniform_and_so_are_its_levels(bits):
    table = lloyd_max(bits, 3)  # Archimedes
    np.testing.assert_allclose(table.levels, (2 * np.arange(2**bits) + 1) / 2**bits - 1, atol=1e-13)
    assert abs(table.distortion - 4.0**-bits) < 1e-13


def test_no_bits_are_one_level_and_all_the_distortion():
    table = lloyd_max(0, 16)
    assert table.levels.tolist() == [0] and len(table.thresholds) == 0 and table.distortion == 1


def test_tables_are_shared_and_cannot_be_written_to():
    assert lloyd_max(3, 16) is lloyd_max(3, 16)
    with pytest.raises(ValueError, match="read-only"):
        lloyd_max(3, 16).levels[0] = 0


def sylvester(order):
    """The Hadamard matrix of 2^order rows."""
    matrix = torch.ones(1, 1)
    for _ in range(order):
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


# -- rotations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, dim", [(Haar, 2), (Haar, 3), (Haar, 128), (Hadamard, 2), (Hadamard, 64)])
def test_rotations_are_orthogonal_and_have_an_inverse(kind, dim):
    rotation = kind(dim, np.random.Philox(key=1)).double()
    axes = torch.eye(dim, dtype=torch.float64)[None]
    matrix = rotation(axes)[0]
    torch.testing.assert_close(matrix @ matrix.T, axes[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(matrix.T @ matrix, axes[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(rotation.inverse(rotation(axes)), axes, rtol=0, atol=1e-6)


def test_haar_has_no_preferred_direction():
    first = torch.stack([Haar(3, np.random.Philox(key=seed)).matrix for seed in range(1000)]).double()
    assert first.mean(0).abs().max() < 4 / math.sqrt(3 * 1000)
    # each entry of a random rotation of three axes is uniform in [-1, 1]
    ranks = (first.flatten(1).sort(0).values + 1) / 2 - torch.linspace(0, 1, 1000, dtype=torch.float64)[:, None]
    assert ranks.abs().max() < 2 / math.sqrt(1000)
    signs = torch.linalg.det(first).sign()
    assert signs.mean().abs() < 4 / math.sqrt(1000)


def test_hadamard_is_its_matrix_of_signs():
    rotation = Hadamard(8, np.random.Philox(key=0))
    matrix = torch.eye(8)
    for signs in rotation.signs:
        matrix = matrix * signs @ sylvester(3) / math.sqrt(8)
    torch.testing.assert_close(rotation(torch.eye(8)[None])[0], matrix)
    assert set(rotation.signs.unique().tolist()) == {-1, 1}


def test_a_haar_rotation_is_the_exact_integer_product():
    rotation, unit = Haar(128, np.random.Philox(key=0)), unit_grid(directions(500, 128))
    whole, matrix = (unit * GRID).long(), (rotation.matrix * MATRIX_GRID).long()
    assert torch.equal(whole / GRID, unit) and torch.equal(matrix / MATRIX_GRID, rotation.matrix)
    exact = (whole.unsqueeze(-2) * matrix).sum(-1).double() / (GRID * MATRIX_GRID)
    assert torch.equal(rotation(unit), exact.float())


def test_rotations_of_a_seed_are_these_for_ever():
    haar, hadamard = Haar(4, np.random.Philox(key=7)), Hadamard(8, np.random.Philox(key=7))
    assert (haar.matrix[0] * MATRIX_GRID).round().tolist() == GOLDEN_ROW
    assert hadamard.signs[0].tolist() == GOLDEN_SIGNS


# -- distortion --------------------------------------------------------------------------------------------

EDEN = {1: 0.3600, 2: 0.1152, 3: 0.0335, 4: 0.0091}  # d = 128, scale of the least square error
EDEN_UNBIASED = {1: 0.566, 2: 0.131, 3: 0.0347, 4: 0.0092}
QJL = {1: 1.569, 2: 0.560, 3: 0.182, 4: 0.052}
ROTATIONS = pytest.mark.parametrize("rotation", ["haar", "hadamard"])


@ROTATIONS
@pytest.mark.parametrize("bits", EDEN)
def test_square_error_is_that_of_the_theory(bits, rotation):
    error = square_error(TurboQuant(128, bits, "mse", rotation), directions(10_000, 128))
    assert error == pytest.approx(EDEN[bits], rel=0.02)
    assert error < lloyd_max(bits, 128).distortion
    assert 4.0**-bits <= error <= math.sqrt(3) * math.pi / 2 * 4.0**-bits


@pytest.mark.parametrize("dim", [2, 3, 64, 256])
def test_square_error_stays_below_the_table_s_in_any_dimension(dim):
    for bits in (1, 2, 3, 4):
        error, plain = square_error(TurboQuant(dim, bits), directions(2000, dim)), lloyd_max(bits, dim).distortion
        assert error < 1.01 * plain
        assert dim < 64 or error == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("bits", EDEN)
def test_square_error_of_the_unbiased_modes_is_that_of_the_theory(bits):
    latents = directions(3000, 128)
    assert square_error(TurboQuant(128, bits, "unbiased"), latents) == pytest.approx(EDEN_UNBIASED[bits], rel=0.02)
    assert square_error(TurboQuant(128, bits, "qjl"), latents) == pytest.approx(QJL[bits], rel=0.03)


@ROTATIONS
def test_one_hot_and_constant_vectors_are_no_harder(rotation):
    """Constant in magnitude, that is: the constant and the other rows of the transform inside."""
    one_hot, walsh = torch.eye(128), sylvester(7)
    kinds = -5 * one_hot, 3 * walsh, 1e3 * one_hot - one_hot.roll(65, 0)
    for bits in (1, 4):
        for latents in kinds:
            errors = [square_error(TurboQuant(128, bits, "mse", rotation, seed), latents[None]) for seed in range(10)]
            assert np.mean(errors) == pytest.approx(EDEN[bits], rel=0.05)


@ROTATIONS
@pytest.mark.parametrize("mode", ["unbiased", "qjl"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_inner_products_are_unbiased(bits, mode, rotation):
    quantizer = TurboQuant(128, bits, mode, rotation)
    assert slope(quantizer, directions(4000, 128)) == pytest.approx(1, abs=0.01)


def test_the_least_square_error_shrinks():
    assert slope(TurboQuant(128, 1), directions(2000, 128)) == pytest.approx(2 / math.pi, abs=0.01)


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_no_scale_of_the_sent_levels_is_nearer(bits):
    """The stored length is within half a step of the best, found by projection."""
    quantizer, latents = TurboQuant(32, bits), 5 * torch.randn(1, 200, 32)
    sent = values(quantizer, latents).double()
    best = (sent * latents).sum(-1) / sent.square().sum(-1)
    assert (best - 1).abs().max() < 1.01 * math.log(2) / 2048


def test_unbiased_errors_are_perpendicular_to_the_vector():
    latents = 5 * torch.randn(1, 200, 32)
    sent = values(TurboQuant(32, 2, "unbiased"), latents).double()
    ratio = (sent * latents).sum(-1) / latents.double().square().sum(-1)
    assert (ratio - 1).abs().max() < 1.01 * math.log(2) / 2048


def test_qjl_is_the_paper_s_formula():
    """Level, sign and lengths against float64 from the definition, in the coordinates of the rotation."""
    quantizer, latents = TurboQuant(16, 3, "qjl"), 7 * torch.randn(1, 300, 16)
    length, residual_length, *codes = quantizer.encode(latents)
    codes, matrix = torch.stack(codes, -1), quantizer.rotation.matrix.double()
    sketch = quantizer.sketch.double() * 4  # standard normal
    assert sketch.std() == pytest.approx(1, abs=0.15)
    x, norm = latents.double(), quantizer.lengths.double()
    levels = torch.from_numpy(lloyd_max(2, 16).levels.copy())
    y = x @ matrix.T
    direction = y / x.norm(dim=-1, keepdim=True)
    assert torch.equal(codes // 2, (direction.unsqueeze(-1) - levels).abs().argmin(-1))
    coarse = norm[length].unsqueeze(-1) * levels[codes // 2]
    residual = y - coarse
    assert torch.equal(codes % 2, (residual @ sketch.T > 0).long())
    torch.testing.assert_close(norm[length], x.norm(dim=-1), rtol=4e-4, atol=0)
    torch.testing.assert_close(norm[residual_length], residual.norm(dim=-1), rtol=4e-4, atol=0)
    signs = (codes % 2).double() * 2 - 1
    fine = math.sqrt(math.pi / 2) / 16 * norm[residual_length].unsqueeze(-1) * (signs @ sketch)
    torch.testing.assert_close(
        quantizer.decode(quantizer.encode(latents)).double(), (coarse + fine) @ matrix, rtol=1e-5, atol=1e-5
    )


def test_codes_are_the_nearest_levels():
    for rotation in ("haar", "hadamard"):
        quantizer, latents = TurboQuant(16, 4, rotation=rotation), 1e3 * torch.randn(1, 500, 16)
        y = quantizer.rotation.double()(F.normalize(latents.double(), dim=-1))
        levels = torch.from_numpy(lloyd_max(4, 16).levels.copy())
        codes = torch.stack(TurboQuant(16, 4, rotation=rotation).encode(latents)[1:], -1)
        assert torch.equal(codes, (y.unsqueeze(-1) - levels).abs().argmin(-1))


def test_a_tie_goes_to_the_lower_level():
    quantizer = TurboQuant(2, 1)
    quantizer.rotation.matrix.copy_(torch.eye(2))
    assert [int(stream) for stream in quantizer.encode(torch.tensor([[[0.0, 2.0]]]))[1:]] == [0, 1]


# -- lengths -----------------------------------------------------------------------------------------------


def test_lengths_are_a_logarithmic_grid_with_zero():
    lengths = TurboQuant(4, 1).lengths.double()
    assert len(lengths) == 2**16 + 1 and lengths[0] == lengths[-1] == 0 and lengths[32768] == 1
    torch.testing.assert_close(lengths[2:-1] / lengths[1:-2], torch.full((65534,), 2 ** (1 / 1024)).double())
    assert lengths[1] == pytest.approx(1 / LONGEST) and lengths[-2] == pytest.approx(LONGEST)


def test_the_nearest_length_is_sent_and_the_range_saturates():
    quantizer = TurboQuant(2, 8, "qjl")
    norms = torch.tensor([0.0, 1e-38, 0.4 / LONGEST, 0.6 / LONGEST, 1.0, 2.0, 7.123, 1e6, LONGEST, 1e12, 3e38])
    found = quantizer.encode(torch.stack((norms, torch.zeros_like(norms)), -1)[None])[0][0].tolist()
    assert found == [0, 0, 0, 1, 32768, 33792, 32768 + round(1024 * math.log2(7.123)), 53178, 65535, 65535, 65535]


@EVERY
def test_zero_is_zero_exactly(name):
    quantizer = make(name)
    zeros = torch.zeros(1, 2, quantizer.dim)
    assert torch.equal(quantizer(zeros).latents, zeros)
    assert all((stream == 0).all() for stream in quantizer.encode(zeros)[: quantizer.heads])


# -- the laws of every quantizer ---------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("training", [False, True])
def test_decode_of_encode_is_forward_bit_for_bit(name, training):
    quantizer = make(name).train(training)
    latents = speak(quantizer)
    for codebooks in (None, 4):
        quantized, streams = quantizer(latents, codebooks), quantizer.encode(latents, codebooks)
        assert same_streams(streams, quantized.streams)
        assert torch.equal(quantizer.decode(streams), quantized.latents)
        assert quantized.losses == {}


@EVERY
def test_codes_are_int64_and_fill_their_codebooks(name):
    quantizer = make(name)
    streams = quantizer.encode(speak(quantizer, 3, 2000))
    padded, heads = 8 if "hadamard" in name else 6, 2 if "qjl" in name else 1
    assert quantizer.codebook_sizes == (65536,) * heads + (8,) * padded
    assert all(stream.dtype == torch.int64 and stream.shape == (3, 2000) for stream in streams)
    assert all(stream.unique().tolist() == list(range(8)) for stream in streams[heads:])


@EVERY
def test_a_prefix_holds_the_first_coordinates_and_no_more(name):
    quantizer = make(name)
    quantizer.rotation.inverse = lambda rotated: rotated
    latents = speak(quantizer)
    streams = quantizer.encode(latents)
    whole, heads = quantizer.decode(streams), quantizer.heads
    for count in range(1, len(streams) + 1):
        assert same_streams(quantizer.encode(latents, count), streams[:count])
        part = quantizer.decode(streams[:count])
        if heads == 1:
            assert torch.equal(part[..., : count - 1], whole[..., : count - 1])
            assert not part[..., count - 1 :].any()
    assert not quantizer.decode(streams[:heads]).any()


def test_more_coordinates_are_nearer():
    quantizer, latents = TurboQuant(16, 3), torch.randn(1, 300, 16)
    errors = [
        float((quantizer.decode(quantizer.encode(latents, count)) - latents).square().mean()) for count in range(1, 18)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[8] == pytest.approx(0.5 + 0.5 * errors[-1], rel=0.05)


@EVERY
def test_absent_codes_decode_to_zero(name):
    quantizer = make(name)
    streams = quantizer.encode(speak(quantizer))
    expected = quantizer.decode(streams)
    for absent in (range(len(streams)), range(quantizer.heads)):
        holes = [stream.clone() for stream in streams]
        for index in absent:
            holes[index][1, 7] = -1
        part = quantizer.decode(holes)
        assert not part[1, 7].any()
        part[1, 7] = expected[1, 7]
        assert torch.equal(part, expected)


@EVERY
def test_codes_of_a_position_do_not_depend_on_the_others(name):
    quantizer = make(name)
    latents = speak(quantizer, 3, 200)
    streams = quantizer.encode(latents)
    order = torch.randperm(200)
    assert same_streams(quantizer.encode(latents[:, order]), [stream[:, order] for stream in streams])
    for item, position in ((0, 0), (1, 5), (2, 199)):
        alone = quantizer.encode(latents[item : item + 1, position : position + 1])
        assert same_streams(alone, [stream[item : item + 1, position : position + 1] for stream in streams])


@EVERY
def test_any_number_of_positions_is_legal(name):
    quantizer = make(name)
    for shape in ((1, 0, quantizer.dim), (0, 3, quantizer.dim), (1, 1, quantizer.dim)):
        streams = quantizer.encode(torch.randn(shape))
        assert all(stream.shape == shape[:2] for stream in streams)
        assert quantizer.decode(streams).shape == quantizer(torch.randn(shape)).latents.shape == shape


@EVERY
def test_autocast_changes_nothing(name):
    quantizer = make(name)
    latents = speak(quantizer, 1, 1000)
    streams, quantized = quantizer.encode(latents), quantizer(latents)
    with torch.autocast("cpu", torch.bfloat16):
        again = quantizer(latents)
        assert same_streams(quantizer.encode(latents), streams)
    assert same_streams(again.streams, streams)
    assert torch.equal(again.latents, quantized.latents) and again.latents.dtype == torch.float32


@EVERY
def test_half_precision_is_worked_on_in_float32_and_float64_stays(name):
    quantizer = make(name)
    latents = speak(quantizer).bfloat16()
    assert quantizer(latents).latents.dtype == torch.float32
    assert same_streams(quantizer.encode(latents), quantizer.encode(latents.float()))
    quantized = quantizer(latents.double())
    assert quantized.latents.dtype == torch.float64
    assert torch.equal(quantizer.decode(quantized.streams).double(), quantized.latents)


@EVERY
def test_huge_and_tiny_latents_give_finite_values(name):
    quantizer = make(name)
    latents = speak(quantizer)
    for scale in (1e6, -1e6, 1e-6):
        torch.testing.assert_close(
            quantizer(scale * latents).latents / scale, quantizer(latents).latents, rtol=1e-2, atol=1e-2
        )
    for scale in (1e-44, 1e-30, 1e30, 1e38):
        quantized = quantizer(scale * latents.clamp(-3, 3))
        assert quantized.latents.isfinite().all()
        for stream, size in zip(quantized.streams, quantizer.codebook_sizes, strict=True):
            assert stream.min() >= 0 and stream.max() < size


@EVERY
def test_the_gradient_passes_straight_through(name):
    quantizer = make(name).train()
    latents = speak(quantizer).requires_grad_()
    weights = torch.randn_like(latents)
    (quantizer(latents).latents * weights).sum().backward()
    assert torch.equal(latents.grad, weights)


@EVERY
def test_a_seed_is_all_there_is_to_know(name):
    quantizer, again = make(name), make(name)
    latents = speak(quantizer)
    assert not quantizer.state_dict() and not list(quantizer.parameters())
    assert same_streams(quantizer.encode(latents), again.encode(latents))
    assert torch.equal(values(quantizer, latents), values(again, latents))
    other = TurboQuant(quantizer.dim, 3, quantizer.mode, type(quantizer.rotation).__name__.lower(), seed=1)
    assert not same_streams(quantizer.encode(latents)[quantizer.heads :], other.encode(latents)[quantizer.heads :])


# -- refusals ----------------------------------------------------------------------------------------------


def test_quantizers_that_cannot_be_are_refused():
    for arguments, message in (
        ({"dim": 1}, "at least 2 dimensions, got 1"),
        ({"bits": 0}, "1 to 8 bits, got 0"),
        ({"bits": 9}, "1 to 8 bits, got 9"),
        ({"seed": -1}, "0 or more, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            TurboQuant(**{"dim": 4, "bits": 2, **arguments})
    for bits, dim, message in ((9, 4, "0 to 8 bits, got 9"), (2, 1, "at least 2 coordinates, got 1")):
        with pytest.raises(ValueError, match=message):
            lloyd_max(bits, dim)
    for codebooks in (0, 6):
        with pytest.raises(ValueError, match=f"1 to 5 codebooks, got {codebooks}"):
            TurboQuant(4, 2).encode(torch.zeros(1, 1, 4), codebooks)
