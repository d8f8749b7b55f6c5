"""Quantizers without a codebook: the contract for each, then what each promises of its own."""

import itertools
import math
from statistics import NormalDist

import pytest
import torch
from torch import distributed as dist

from sigtok.codecs.quantizers.binary import entropy_of_mean, mean_entropy
from sigtok.codecs.quantizers.bsq import BSQ
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.lfq import LFQ
from sigtok.codecs.quantizers.residual_fsq import ResidualFSQ
from sigtok.codecs.quantizers.scalar import Scalar

QUANTIZERS = {
    "fsq": lambda: FSQ([8, 5, 4, 3]),
    "fsq_paper": lambda: FSQ([8, 5, 4, 3], variant="paper"),
    "residual_fsq": lambda: ResidualFSQ([8, 5, 4, 3], 3),
    "lfq": lambda: LFQ(4),
    "lfq_pairs": lambda: LFQ(4, temperature=1.0, group=2),
    "bsq": lambda: BSQ(4),
    "scalar": lambda: Scalar(4, 8),
    "scalar_plain": lambda: Scalar(4, 3, compand=False),
}
EVERY = pytest.mark.parametrize("name", QUANTIZERS)
SEVERAL = pytest.mark.parametrize("name", ["residual_fsq", "scalar", "scalar_plain"])
BINARY = pytest.mark.parametrize("member", [LFQ, BSQ])


def make(name):
    return QUANTIZERS[name]().eval()


def speak(batch=2, positions=50, dim=4, **options):
    return torch.randn(batch, positions, dim, **options)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def same_streams(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


def jacobian(function, points, step=1e-6):
    """Of each row ``[D]`` of points, by central differences: ``[M, D out, D in]``."""
    steps = step * torch.eye(points.shape[-1], dtype=points.dtype)
    return torch.stack([(function(points + s) - function(points - s)) / (2 * step) for s in steps], dim=-1)


def gradient(quantizer, latents, weights):
    latents = latents.clone().requires_grad_()
    (quantizer(latents).latents * weights).sum().backward()
    return latents.grad


# -- the contract ------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decode_of_encode_is_forward_bit_for_bit_at_every_rate(name, training, dtype):
    quantizer, latents = make(name).train(training), 2 * speak(dtype=dtype)
    latents[0, :10] = 0
    for codebooks in (None, *range(1, len(quantizer.codebook_sizes) + 1)):
        quantized = quantizer(latents, codebooks, update=False)
        streams = quantizer.encode(latents, codebooks)
        assert same_streams(streams, quantized.streams)
        assert torch.equal(quantizer.decode(streams).to(dtype), quantized.latents)
        assert quantized.latents.dtype == dtype and quantizer.decode(streams).dtype == torch.float32


@EVERY
@pytest.mark.parametrize("scale", [3.0, 1e6, -1e6, 1e-30, 0.0])
def test_codes_are_int64_and_lie_in_their_codebooks_whatever_the_latents(name, scale):
    quantizer = make(name)
    quantized = quantizer(scale * speak(3, 200).abs())
    assert len(quantized.streams) == len(quantizer.codebook_sizes)
    for stream, size in zip(quantized.streams, quantizer.codebook_sizes, strict=True):
        assert stream.dtype == torch.int64 and stream.shape == (3, 200)
        assert stream.min() >= 0 and stream.max() < size
    assert quantized.latents.isfinite().all() and quantized.latents.abs().max() < 1000
    assert all(loss.isfinite() for loss in quantized.losses.values())


@EVERY
def test_absent_codes_contribute_zero(name):
    quantizer = make(name)
    streams = quantizer.encode(speak())
    absent = [torch.full_like(stream, -1) for stream in streams]
    assert torch.equal(quantizer.decode(absent), torch.zeros(2, 50, 4))
    for count in range(1, len(streams)):
        assert torch.equal(quantizer.decode([*streams[:count], *absent[count:]]), quantizer.decode(streams[:count]))
    for stream in absent:
        stream[0] = 0
    assert quantizer.decode(absent)[0].any() and not quantizer.decode(absent)[1].any()


@EVERY
def test_codes_of_a_position_do_not_depend_on_the_others(name):
    quantizer, latents = make(name), speak(3, 40)
    streams = quantizer.encode(latents)
    for item, position in itertools.product(range(3), range(40)):
        alone = quantizer.encode(latents[item : item + 1, position : position + 1])
        assert same_streams(alone, [stream[item : item + 1, position : position + 1] for stream in streams])
    assert same_streams(quantizer.encode(latents.transpose(1, 2).contiguous().transpose(1, 2)), streams)


@EVERY
def test_no_positions_are_legal(name):
    quantizer = make(name).train()
    for shape in ((1, 0, 4), (0, 3, 4)):
        streams = quantizer.encode(torch.randn(shape))
        assert all(stream.shape == shape[:2] for stream in streams)
        assert quantizer.decode(streams).shape == quantizer(torch.randn(shape)).latents.shape == shape


@EVERY
def test_nothing_is_stored_and_only_learning_draws_random_numbers(name):
    quantizer, latents = make(name).train(), speak()
    assert not quantizer.state_dict() and not list(quantizer.parameters())
    before = torch.get_rng_state()
    quantizer(latents, update=False)
    quantizer.decode(quantizer.encode(latents))
    quantizer.eval()(latents)
    assert torch.equal(torch.get_rng_state(), before)


@EVERY
def test_autocast_changes_nothing(name):
    quantizer, latents = make(name), speak(1, 2000)
    expected, codes = quantizer(latents), quantizer.encode(latents)
    with torch.autocast("cpu", torch.bfloat16):
        quantized = quantizer(latents)
        assert same_streams(quantizer.encode(latents), codes)
        assert torch.equal(quantizer.decode(codes), expected.latents)
    assert torch.equal(quantized.latents, expected.latents) and quantized.latents.dtype == torch.float32
    assert same_streams(quantized.streams, expected.streams) and quantized.losses == expected.losses


@EVERY
def test_half_precision_latents_are_worked_on_in_float32(name):
    quantizer, latents = make(name), speak().bfloat16()
    assert quantizer(latents).latents.dtype == torch.float32
    assert torch.equal(quantizer(latents).latents, quantizer(latents.float()).latents)


@SEVERAL
def test_rates_that_do_not_exist_are_refused(name):
    quantizer, latents = make(name), speak()
    most = len(quantizer.codebook_sizes)
    for codebooks in (0, most + 1, -1):
        for call in (quantizer, quantizer.encode):
            with pytest.raises(ValueError, match=f"there are 1 to {most} codebooks, got {codebooks}"):
                call(latents, codebooks)
    with pytest.raises(ValueError, match=f"there are 1 to {most} codebooks, got {most + 1}"):
        quantizer.decode([torch.zeros(2, 5, dtype=torch.int64)] * (most + 1))


# -- finite scalars ----------------------------------------------------------------------------------------

PAPER = [[3], [4], [8, 5, 5], [7, 4, 3], [8, 8, 8, 6, 5], [1000, 999]]


def paper_bound(latents, levels):
    """As in the paper, centred on zero, in steps of one."""
    levels = torch.tensor(levels, dtype=torch.float64)
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0)
    return torch.tanh(latents + torch.tan(offset / half)) * half - offset


@pytest.mark.parametrize("levels", PAPER)
def test_the_paper_s_codes_and_values_are_those_of_its_listing(levels):
    quantizer, latents = FSQ(levels, variant="paper"), 2 * double(1, 2000, len(levels))
    rounded, half = paper_bound(latents, levels).round(), torch.tensor(levels) // 2
    basis = torch.tensor([math.prod(levels[:index]) for index in range(len(levels))])
    quantized = quantizer(latents)
    assert torch.equal(quantized.streams[0], ((rounded + half) * basis).sum(-1).long())
    torch.testing.assert_close(quantized.latents, rounded / half)


@pytest.mark.parametrize("variant", ["symmetric", "paper"])
@pytest.mark.parametrize("levels", PAPER)
def test_every_level_is_reached_from_latents(levels, variant):
    quantizer = FSQ(levels, variant)
    line = torch.cat((torch.linspace(-10, 10, 20_000), torch.linspace(-1, 1, 20_000), torch.tensor([1e6, -1e6])))
    codes = quantizer.encode(line[None, :, None].expand(1, -1, len(levels)))[0]
    for size in levels:
        assert torch.equal((codes % size).unique(), torch.arange(size))
        codes = codes // size
    assert not codes.any()


@pytest.mark.parametrize("variant", ["symmetric", "paper"])
@pytest.mark.parametrize("levels", [[3], [4], [8, 5, 5], [7, 4, 3], [8, 8, 8, 6, 5]])
def test_every_code_is_assigned_to_its_own_value(levels, variant):
    quantizer, codes = FSQ(levels, variant), torch.arange(math.prod(levels))[None]
    values = quantizer.decode([codes])
    assert torch.equal(quantizer.assign(values), codes)
    assert len(values[0].unique(dim=0)) == len(codes[0]) and values.abs().max() <= 1
    assert torch.equal(quantizer.assign(10 * values.sign()), quantizer.assign(values.sign()))


@pytest.mark.parametrize("variant, levels", [("symmetric", 5), ("paper", 5), ("paper", 4)])
def test_a_value_between_two_levels_goes_to_the_lower_one(variant, levels):
    halfway = torch.tensor([-0.75, -0.25, 0.25, 0.75])[None, : levels - 1, None]
    assert FSQ([levels], variant).assign(halfway)[0].tolist() == list(range(levels - 1))
    assert FSQ([2, 4])(torch.zeros(1, 1, 2)).streams[0].tolist() == [[0 + 2 * 1]]


def test_zero_means_zero_for_every_number_of_levels_of_the_paper():
    quantizer = FSQ(list(range(3, 12)), variant="paper")
    assert not quantizer(torch.zeros(1, 1, 9)).latents.any()
    assert not FSQ([3, 5, 7])(torch.zeros(1, 1, 3)).latents.any()


@pytest.mark.parametrize("variant", ["symmetric", "paper"])
def test_large_indices_are_exact_also_under_autocast(variant):
    quantizer = FSQ([8] * 17, variant)  # 2^51 codes
    latents = torch.full((1, 2, 17), 1e6)
    latents[0, 1, 0] = -1e6
    with torch.autocast("cpu", torch.bfloat16):
        assert quantizer.encode(latents)[0].tolist() == [[2**51 - 1, 2**51 - 8]]
        assert quantizer(latents.bfloat16()).streams[0].tolist() == [[2**51 - 1, 2**51 - 8]]


def test_the_gradient_is_that_of_the_paper_s_bound():
    levels, latents, weights = [8, 5, 4, 3], double(1, 20, 4), double(1, 20, 4)
    half = torch.tensor(levels) // 2
    slopes = jacobian(lambda points: paper_bound(points, levels) / half, latents)
    expected = torch.einsum("bnoi,bno->bni", slopes, weights)
    torch.testing.assert_close(gradient(FSQ(levels, "paper"), latents, weights), expected, rtol=1e-6, atol=1e-8)


def test_grids_that_cannot_be_are_refused():
    for size in (2, 1001):
        with pytest.raises(ValueError, match=f"bound holds for 3 to 1000 levels, got {size}"):
            FSQ([5, size], variant="paper")
    with pytest.raises(ValueError, match='"symmetric" or "paper", got \'half\''):
        FSQ([5, 5], variant="half")
    with pytest.raises(ValueError, match=r"at most 2\^53 codes"):
        FSQ([8] * 18)


# -- residual finite scalars -------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [[3], [4], [5, 4], [8, 5, 5, 3], [9, 9]])
def test_each_stage_leaves_at_most_half_a_step_of_its_grid(levels):
    quantizer, latents = ResidualFSQ(levels, 4), 2 * speak(1, 20_000, len(levels))
    steps = torch.tensor(levels, dtype=torch.float64) - 1
    reach = (steps + 1) / steps
    bounded = reach * torch.tanh(latents.double() / reach)
    streams = quantizer.encode(latents)
    for stage in range(4):
        rest = (bounded - quantizer.decode(streams[: stage + 1])).abs().amax((0, 1))
        assert (rest <= steps ** -(stage + 1) + 5e-7).all()
        assert (rest >= 0.95 * steps ** -(stage + 1)).all()  # no better either


def test_the_first_stage_is_the_level_nearest_to_the_bounded_latent():
    for size in range(3, 10):
        latents, level = 2 * speak(1, 500, 1), torch.linspace(-1, 1, size, dtype=torch.float64)
        reach = size / (size - 1)
        distance = (reach * torch.tanh(latents.double() / reach) - level).abs()
        assert torch.equal(ResidualFSQ([size], 2).encode(latents)[0], distance.argmin(-1))


def test_stages_use_all_their_codes_evenly_enough():
    streams = ResidualFSQ([3, 4], 4).encode(0.9 * speak(1, 20_000, 2))
    for stream in streams:
        assert (stream[0].bincount(minlength=12) > 20_000 / 12 / 5).all()


def test_values_stay_near_the_grid():
    for levels, stages in (([3, 3], 8), ([5, 4], 3), ([9], 1)):
        reach = torch.tensor(levels) / (torch.tensor(levels) - 1)
        quantized = ResidualFSQ(levels, stages)(1e6 * speak(1, 100, len(levels)))
        rest = (torch.tensor(levels) - 1.0) ** -stages
        assert (quantized.latents.abs() <= reach + rest + 1e-6).all()


def test_the_gradient_is_that_of_the_one_bound():
    quantizer, latents, weights = make("residual_fsq"), double(1, 20, 4), double(1, 20, 4)
    reach = torch.tensor([8 / 7, 5 / 4, 4 / 3, 3 / 2], dtype=torch.float64)
    slopes = jacobian(lambda points: reach * torch.tanh(points / reach), latents)
    expected = torch.einsum("bnoi,bno->bni", slopes, weights)
    torch.testing.assert_close(gradient(quantizer, latents, weights), expected, rtol=1e-6, atol=1e-7)
    at_zero = gradient(quantizer, torch.zeros(1, 1, 4), torch.ones(1, 1, 4))
    assert torch.equal(at_zero, torch.ones(1, 1, 4))


def test_residual_grids_that_cannot_be_are_refused():
    for levels in ([], [2, 5], [3, 0]):
        with pytest.raises(ValueError, match="at least 3 levels"):
            ResidualFSQ(levels, 2)
    for levels, stages in (([3], 0), ([3], 24), ([5, 257], 3)):
        with pytest.raises(ValueError, match=f"got {stages} stages of levels"):
            ResidualFSQ(levels, stages)
    ResidualFSQ([3], 23)


# -- binary: indices and values ----------------------------------------------------------------------------


@BINARY
@pytest.mark.parametrize("bits", [1, 2, 5, 12])
def test_the_index_is_the_row_of_signs_read_as_a_binary_number(member, bits):
    quantizer, codes = member(bits), torch.arange(2**bits)[None]
    values = quantizer.decode([codes])
    written = [[1.0 if digit == "1" else -1.0 for digit in format(code, f"0{bits}b")] for code in range(2**bits)]
    assert torch.equal(values[0].sign(), torch.tensor(written))
    assert torch.equal(quantizer.encode(values)[0], codes)
    assert torch.equal(quantizer.encode(1e-30 * values)[0], codes)


@BINARY
def test_62_bits_are_exact(member):
    quantizer = member(62)
    codes = torch.cat((torch.tensor([0, 1, 2**61, 2**62 - 1]), torch.randint(0, 2**62, (1000,))))[None]
    assert quantizer.codebook_sizes == (2**62,)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.encode(quantizer.decode([codes]).bfloat16())[0], codes)


@BINARY
def test_zero_is_a_zero_bit(member):
    zeros = torch.tensor([[[0.0, -0.0, 1e-30, -1e-30]]])
    assert member(4).encode(zeros)[0].tolist() == [[0b0010]]


def test_lfq_codes_are_ones_and_bsq_codes_have_length_one():
    assert set(LFQ(7)(speak(dim=7)).latents.unique().tolist()) == {-1.0, 1.0}
    for bits in (1, 2, 18, 62):
        lengths = BSQ(bits)(speak(dim=bits)).latents.norm(dim=-1)
        torch.testing.assert_close(lengths, torch.ones(2, 50))


def test_a_unit_vector_is_within_the_bound_of_its_bsq_code_and_an_axis_on_it():
    for bits in (1, 2, 9, 18, 60):
        unit = torch.nn.functional.normalize(double(1, 2000, bits), dim=-1)
        axes = torch.eye(bits, dtype=torch.float64)[None]
        bound = 2 - 2 / math.sqrt(bits)
        distances = (BSQ(bits)(unit).latents - unit).square().sum(-1)
        assert (distances <= bound + 1e-6).all()
        at_axes = (BSQ(bits)(axes).latents - axes).square().sum(-1)
        torch.testing.assert_close(at_axes, torch.full_like(at_axes, bound), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 18, 60])
def test_the_mean_distance_of_bsq_is_that_of_the_uniform_sphere(bits):
    """``2 - 2 sqrt(L) E|u_1|``, which for many bits is ``2 - 2 sqrt(2 / pi) = 0.404``."""
    positions = 20_000
    absolute = math.exp(math.lgamma(bits / 2) - math.lgamma((bits + 1) / 2)) / math.sqrt(math.pi)
    expected = 2 - 2 * math.sqrt(bits) * absolute
    mean = bits * float(BSQ(bits)(double(1, positions, bits)).losses["commitment"])
    assert mean == pytest.approx(expected, abs=5 * 0.4 / math.sqrt(positions))
    if bits == 60:
        assert mean == pytest.approx(2 - 2 * math.sqrt(2 / math.pi), abs=0.02)


# -- binary: gradients -------------------------------------------------------------------------------------


def test_the_gradient_passes_lfq_straight_through():
    latents, weights = speak(), speak()
    assert torch.equal(gradient(LFQ(4), latents, weights), weights)


def test_the_gradient_passes_bsq_through_the_jacobian_of_the_direction():
    latents, weights = double(1, 30, 6), double(1, 30, 6)
    slopes = jacobian(lambda points: points / points.norm(dim=-1, keepdim=True), latents)
    expected = torch.einsum("bnoi,bno->bni", slopes, weights)
    torch.testing.assert_close(gradient(BSQ(6), latents, weights), expected, rtol=1e-6, atol=1e-8)


@BINARY
def test_zero_and_tiny_latents_have_finite_gradients(member):
    for scale in (0.0, 1e-30, 1e-7):
        latents = (scale * speak()).requires_grad_()
        quantized = member(4)(latents)
        (quantized.latents.sum() + sum(quantized.losses.values())).backward()
        assert latents.grad.isfinite().all()


@BINARY
def test_commitment_draws_the_placed_latents_to_their_codes(member):
    latents = double(1, 30, 5).requires_grad_()
    placed = latents / latents.norm(dim=-1, keepdim=True) if member is BSQ else latents
    quantized = member(5)(latents)
    expected = (placed - quantized.latents.detach()).square().mean()
    torch.testing.assert_close(quantized.losses["commitment"], expected)
    some = torch.autograd.grad(quantized.losses["commitment"], latents)
    torch.testing.assert_close(some, torch.autograd.grad(expected, latents))


# -- binary: entropies -------------------------------------------------------------------------------------


def enumerated(quantizer, latents):
    """Assignments ``[M, 2^L]`` to all codes, ``p(c) ~ exp(2 u . c / temperature)``; u is a unit vector for BSQ."""
    rows = latents.flatten(0, 1)
    if isinstance(quantizer, BSQ):
        rows = rows / rows.norm(dim=-1, keepdim=True)
    codes = quantizer.decode([torch.arange(2**quantizer.dim)[None]])[0].sign().double() * quantizer.scale
    return (2 * rows @ codes.t() / quantizer.temperature).softmax(-1)


def entropy(probabilities):
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


CASES = [(1, 1), (2, 1), (2, 2), (5, 1), (5, 5), (12, 1), (12, 3), (12, 4), (12, 12)]


@BINARY
@pytest.mark.parametrize("bits, group", CASES)
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_the_entropy_loss_is_that_of_all_codes_one_by_one(member, bits, group, temperature):
    quantizer, latents = member(bits, temperature=temperature, group=group), double(2, 15, bits).requires_grad_()
    every = enumerated(quantizer, latents)
    joint = every.mean(0).view((2,) * bits)
    usage = 0
    for start in range(0, bits, group):
        others = [axis for axis in range(bits) if not start <= axis < start + group]
        usage = usage + entropy((joint.sum(others) if others else joint).flatten())
    expected, loss = entropy(every).mean() - usage, quantizer(latents).losses["entropy"]
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    (some,), (other,) = torch.autograd.grad(loss, latents), torch.autograd.grad(expected, latents)
    torch.testing.assert_close(some, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_one_sample_is_no_more_uncertain_than_the_batch_and_groups_bound_the_codebook(scale):
    logits = scale * (double(40, 12) @ double(12, 12))  # bits that depend on each other
    certain = entropy(torch.stack((torch.sigmoid(logits), torch.sigmoid(-logits)), -1)).sum(-1).mean()
    torch.testing.assert_close(mean_entropy(logits), certain, rtol=1e-9, atol=1e-12)
    bounds = [float(entropy_of_mean(logits, group)) for group in (12, 6, 3, 1)]
    assert 0 <= float(mean_entropy(logits)) <= bounds[0] + 1e-9
    assert bounds == sorted(bounds)
    assert bounds[-1] <= 12 * math.log(2) + 1e-9
    assert bounds[0] <= math.log(40) + float(mean_entropy(logits)) + 1e-9


@pytest.mark.parametrize("group", [1, 2, 4])
def test_entropies_of_certain_bits_are_zero_without_a_nan(group):
    logits = (1e4 * torch.tensor([[1.0, -1.0, 1.0, -1.0]]).repeat(9, 1)).requires_grad_()
    some, all_of_them = mean_entropy(logits), entropy_of_mean(logits, group)
    assert some == 0 and all_of_them == 0
    (some - all_of_them).backward()
    assert logits.grad.isfinite().all()
    both = (1e4 * torch.tensor([[1.0] * 4, [-1.0] * 4])).requires_grad_()
    expected = 4 // group * math.log(2)
    assert entropy_of_mean(both, group).item() == pytest.approx(expected, rel=1e-6)
    assert mean_entropy(both) == 0
    entropy_of_mean(both, group).backward()
    assert both.grad.isfinite().all()


def test_entropies_are_smooth_from_no_to_full_certainty():
    logits = torch.linspace(-1e4, 1e4, 4001)[:, None].requires_grad_()
    for value in (mean_entropy(logits), entropy_of_mean(logits)):
        (slope,) = torch.autograd.grad(value, logits)
        assert value.isfinite() and slope.isfinite().all()
    assert float(mean_entropy(torch.zeros(1, 7))) == pytest.approx(7 * math.log(2), rel=1e-6)


@pytest.mark.parametrize("bits, group", [(12, 12), (24, 8), (40, 1)])
def test_no_matrix_of_latents_by_codes_is_kept_for_the_gradient(bits, group):
    latents, kept = torch.randn(1, 1000, bits, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        losses = LFQ(bits, group=group)(latents).losses
    sum(losses.values()).backward()
    groups = bits // group
    assert kept and max(kept) <= 1000 * max(2 * bits, groups * 2 ** ((group + 1) // 2))
    assert max(kept) < 1000 * groups * 2**group or group == 1


# -- binary: ranks -----------------------------------------------------------------------------------------


@pytest.fixture
def ranks(monkeypatch):
    """Two ranks of which this process is one; ``ranks.others`` is what the other adds to a sum."""

    class Ranks:
        calls, sent, others = 0, None, None

        def all_reduce(self, values):
            self.calls, self.sent = self.calls + 1, values.clone()
            if self.others is not None:
                values += self.others

    ranks = Ranks()
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", ranks.all_reduce)
    return ranks


@pytest.mark.parametrize("group", [1, 2])
def test_the_mean_is_over_ranks_and_averaged_gradients_are_those_of_the_whole(ranks, group):
    shares = [double(25, 4).requires_grad_(), (1 + double(25, 4)).requires_grad_()]
    whole = entropy_of_mean(torch.cat(shares), group)
    expected = torch.autograd.grad(whole, shares)
    for rank, share in enumerate(shares):
        ranks.others = None
        entropy_of_mean(shares[1 - rank], group, all_ranks=True)
        ranks.others = ranks.sent
        mine = entropy_of_mean(share, group, all_ranks=True)
        torch.testing.assert_close(mine, whole, rtol=1e-12, atol=1e-12)
        (slope,) = torch.autograd.grad(mine, share)
        torch.testing.assert_close(slope / 2, expected[rank], rtol=1e-9, atol=1e-12)


@BINARY
def test_ranks_meet_once_in_every_training_pass_and_never_else(ranks, member):
    quantizer = member(4).train()
    for latents in (speak(), 0 * speak(), speak(1, 0)):
        before = ranks.calls
        quantizer(latents)
        quantizer(latents, update=False)
        assert ranks.calls == before + 2
    quantizer.decode(quantizer.encode(speak()))
    quantizer.eval()(speak())
    assert ranks.calls == before + 2


@BINARY
def test_binary_codes_that_cannot_be_are_refused(member):
    for bits in (0, 63):
        with pytest.raises(ValueError, match=f"1 to 62 bits, got {bits}"):
            member(bits)
    for bits, group in ((4, 0), (4, 3), (4, 8), (26, 13)):
        with pytest.raises(ValueError, match=f"divides all {bits}, got {group}"):
            member(bits, group=group)
    with pytest.raises(ValueError, match="temperature is above 0, got 0"):
        member(4, temperature=0.0)


# -- scalars for entropy coding ----------------------------------------------------------------------------


def compress(latents, bits):
    """WaLLoC's compander as it is written down, in float64."""
    largest = 2 ** (bits - 1) - 1
    scale, most = largest / 1.85, largest + 0.5 - 1e-3
    return torch.special.ndtr(latents.double() / scale) * 2 * most - most


@pytest.mark.parametrize("bits", [2, 3, 8, 12])
def test_codes_and_values_are_those_of_the_compander(bits):
    quantizer, largest = Scalar(1, bits), 2 ** (bits - 1) - 1
    latents = largest * speak(1, 500, 1)
    codes = quantizer.encode(latents)[0]
    assert torch.equal(codes[..., None], compress(latents, bits).round().long() + largest)
    scale, most, normal = largest / 1.85, largest + 0.5 - 1e-3, NormalDist()
    numbers = range(-largest, largest + 1)
    expected = torch.tensor([scale * normal.inv_cdf(number / (2 * most) + 0.5) for number in numbers])
    torch.testing.assert_close(quantizer.decode([torch.arange(2**bits - 1)[None]])[0, :, 0], expected)


@pytest.mark.parametrize("compand, most", [(True, 12), (False, 16)])
def test_every_scalar_code_encodes_to_itself(compand, most):
    for bits in (*range(2, 13), most):
        quantizer, codes = Scalar(2, bits, compand), torch.arange(2**bits - 1)[None]
        streams = (codes, codes.flip(1))
        values = quantizer.decode(streams)
        assert quantizer.codebook_sizes == (2**bits - 1,) * 2
        assert (values[0].diff(dim=0) * torch.tensor([1, -1]) > 0).all()
        assert torch.equal(values, -values.flip(1))
        assert same_streams(quantizer.encode(values), streams)


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_values_are_within_half_a_step_of_the_compressed_latents(bits):
    latents = 2.0**bits * speak(1, 20_000, 1)
    error = (compress(Scalar(1, bits).eval()(latents).latents, bits) - compress(latents, bits)).abs()
    assert 0.49 < error.max() <= 0.5 + 1e-4


def test_without_a_compander_latents_are_clamped_and_rounded_ties_down():
    latents = torch.tensor([[[-99.0], [-2.5], [-1.51], [-0.5], [-0.49], [0.0], [0.5], [0.51], [1.5], [2.6], [99.0]]])
    quantizer = Scalar(1, 3, compand=False)
    assert quantizer.eval()(latents).latents.flatten().tolist() == [-3, -3, -2, -1, 0, 0, 0, 1, 1, 3, 3]
    assert quantizer.encode(latents)[0].tolist() == [[0, 0, 1, 2, 3, 3, 3, 4, 4, 6, 6]]


@pytest.mark.parametrize("compand", [False, True])
def test_training_adds_uniform_noise_in_place_of_rounding(compand):
    quantizer, latents = Scalar(3, 8, compand).train(), 20 * speak(1, 20_000, 3).tanh()
    quantized = quantizer(latents)
    assert same_streams(quantized.streams, quantizer.encode(latents))
    if compand:
        noise = (compress(quantized.latents, 8) - compress(latents, 8))[0]
    else:
        noise = (quantized.latents - latents)[0].double()
    count = noise.numel()
    assert noise.abs().max() <= 0.5 + 1e-4
    assert abs(noise.mean()) < 4 / math.sqrt(12 * count)
    uniform = torch.linspace(-0.5, 0.5, count, dtype=torch.float64)
    assert (noise.flatten().sort().values - uniform).abs().max() < 1.63 / math.sqrt(count)  # Kolmogorov-Smirnov, 1 %
    related = torch.cat((noise, latents[0].double()), dim=1).t().corrcoef() - torch.eye(6)
    assert related.abs().max() < 5 / math.sqrt(len(noise))
    assert not torch.equal(quantizer(latents).latents, quantized.latents)


def test_the_gradient_of_noise_is_the_identity_without_a_compander_and_zero_beyond_the_range():
    latents = torch.tensor([[[-50.0, -2.9, 0.3, 2.9, 50.0]]])
    for update in (True, False):
        mine = latents.clone().requires_grad_()
        Scalar(5, 3, compand=False).train()(mine, update=update).latents.sum().backward()
        assert mine.grad.tolist() == [[[0.0, 1.0, 1.0, 1.0, 0.0]]]


def test_the_gradient_of_noise_is_the_derivative_through_the_compander():
    """``phi(z / s) / phi(y / s)`` of latent z and noisy value y: the slope of one side over that of the other."""
    quantizer, scale = Scalar(4, 6).train(), 31 / 1.85
    latents = (scale * double(1, 50, 4).tanh()).requires_grad_()
    values = quantizer(latents).latents
    values.sum().backward()
    density = torch.distributions.Normal(0.0, 1.0).log_prob
    expected = (density(latents / scale) - density(values / scale)).exp()
    torch.testing.assert_close(latents.grad, expected.detach(), rtol=1e-6, atol=1e-8)
    assert (latents.grad - 1).abs().max() > 1e-3


def test_the_gradient_of_rounding_is_the_identity_where_the_compander_reaches():
    quantizer, weights = Scalar(4, 6).train(), double(1, 50, 4)
    latents = (30 * double(1, 50, 4).tanh()).requires_grad_()
    (quantizer(latents, update=False).latents * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)
    for training in (True, False):
        far = (1e6 * speak()).requires_grad_()
        values = quantizer.train(training)(far).latents
        values.sum().backward()
        assert values.isfinite().all() and torch.equal(far.grad, torch.zeros_like(far))


@pytest.mark.parametrize("training", [False, True])
def test_the_first_dimensions_are_sent_and_the_others_are_zero(training):
    quantizer, latents = make("scalar").train(training), speak().requires_grad_()
    quantized = quantizer(latents, 3)
    assert same_streams(quantized.streams, quantizer.encode(latents)[:3])
    assert quantized.latents.shape == (2, 50, 4) and not quantized.latents[..., 3].any()
    quantized.latents.sum().backward()
    assert (latents.grad[..., :3] != 0).all() and not latents.grad[..., 3].any()


def test_scalars_that_cannot_be_are_refused():
    for dim, bits, compand, most in ((4, 1, True, 12), (4, 13, True, 12), (0, 8, True, 12), (4, 17, False, 16)):
        with pytest.raises(ValueError, match=f"2 to {most} bits .* compand, got {dim} and {bits}"):
            Scalar(dim, bits, compand)
