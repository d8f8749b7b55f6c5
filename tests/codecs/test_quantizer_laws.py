"""Laws of quantizers: one table, one test per law; a new member is one line."""

import copy
import math

import pytest
import torch

from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.estimators import commitment, straight_through
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.ibq import IBQ
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.quantizers.vq import VQ

QUANTIZERS = {
    "fsq": lambda: FSQ([8, 5, 5, 3]),
    "fsq_binary": lambda: FSQ([2, 2, 2, 2]),
    "vq": lambda: VQ(16, 4),
    "ema": lambda: EMAVQ(16, 4),
    "ibq": lambda: IBQ(16, 4),
    "ibq_warmup": lambda: IBQ(16, 4, warmup=2),
    "residual_vq": lambda: Residual([VQ(8, 4), VQ(16, 4), VQ(5, 4)]),
    "residual_ema": lambda: Residual([EMAVQ(8, 4), EMAVQ(16, 4), EMAVQ(5, 4)]),
    "residual_ibq": lambda: Residual([IBQ(8, 4), IBQ(16, 4)]),
}
EVERY = pytest.mark.parametrize("name", QUANTIZERS)
EUCLIDEAN = ("vq", "ema", "ibq")
IDENTITY = ("vq", "ema", "residual_vq", "residual_ema")


def make(name):
    return QUANTIZERS[name]().eval()


def speak(batch=2, positions=50, **options):
    return torch.randn(batch, positions, 4, **options)


def state(quantizer):
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def same_state(before, after):
    return all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()


def same_streams(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


# -- values ------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("training", [False, True])
def test_decode_of_encode_is_forward_bit_for_bit(name, training):
    quantizer, latents = make(name).train(training), speak()
    quantized = quantizer(latents, update=False)
    streams = quantizer.encode(latents)
    assert same_streams(streams, quantized.streams)
    assert torch.equal(quantizer.decode(streams), quantized.latents)


@EVERY
def test_codes_are_int64_and_lie_in_their_codebooks(name):
    quantizer = make(name)
    streams = quantizer.encode(3 * speak(3, 200))
    assert len(streams) == len(quantizer.codebook_sizes)
    for stream, size in zip(streams, quantizer.codebook_sizes, strict=True):
        assert stream.dtype == torch.int64 and stream.shape == (3, 200)
        assert stream.min() >= 0 and stream.max() == size - 1


@EVERY
def test_absent_codes_decode_to_zero(name):
    quantizer = make(name)
    streams = quantizer.encode(speak())
    absent = [torch.full_like(stream, -1) for stream in streams]
    assert torch.equal(quantizer.decode(absent), torch.zeros(2, 50, 4))
    holes = [stream.clone() for stream in streams]
    for stream in holes:
        stream[1, 7] = -1
    expected = quantizer.decode(streams).clone()
    expected[1, 7] = 0
    assert torch.equal(quantizer.decode(holes), expected)


@EVERY
def test_codes_of_a_position_do_not_depend_on_the_others(name):
    quantizer, latents = make(name), speak(3, 40)
    streams = quantizer.encode(latents)
    order = torch.randperm(40)
    assert same_streams(quantizer.encode(latents[:, order]), [stream[:, order] for stream in streams])
    for item in range(3):
        assert same_streams(quantizer.encode(latents[item : item + 1, 5:6]), [s[item : item + 1, 5:6] for s in streams])


@EVERY
def test_any_number_of_positions_is_legal(name):
    quantizer = make(name)
    for shape in ((1, 0, 4), (0, 3, 4), (1, 70_000, 4)):
        streams = quantizer.encode(torch.randn(shape))
        assert all(stream.shape == shape[:2] for stream in streams)
        assert quantizer.decode(streams).shape == shape


@pytest.mark.parametrize("name", EUCLIDEAN)
def test_a_code_encodes_to_itself(name):
    quantizer = make(name)
    codes = torch.arange(16)[None]
    assert torch.equal(quantizer.encode(quantizer.decode([codes]))[0], codes)


# -- state -------------------------------------------------------------------------------------------------


@EVERY
def test_encode_and_decode_change_no_state_even_in_training(name):
    quantizer = make(name).train()
    before = state(quantizer)
    quantizer.decode(quantizer.encode(speak()))
    assert same_state(before, state(quantizer))


@EVERY
@pytest.mark.parametrize("training, update", [(False, True), (False, False), (True, False)])
def test_forward_learns_nothing_in_eval_mode_or_without_update(name, training, update):
    quantizer = make(name).train(training)
    before = state(quantizer)
    quantizer(speak(), update=update)
    assert same_state(before, state(quantizer))


@EVERY
def test_a_saved_state_gives_the_same_codes(name):
    quantizer, other, latents = make(name).train(), make(name), speak()
    quantizer(latents)
    other.load_state_dict(state(quantizer))
    assert same_streams(quantizer.encode(latents), other.encode(latents))


# -- precision ---------------------------------------------------------------------------------------------


@EVERY
def test_autocast_changes_nothing(name):
    quantizer, latents = make(name), speak(1, 2000)
    streams, quantized = quantizer.encode(latents), quantizer(latents)
    values = quantizer.decode(streams)
    with torch.autocast("cpu", torch.bfloat16):
        assert same_streams(quantizer.encode(latents), streams)
        assert torch.equal(quantizer.decode(streams), values)
        again = quantizer(latents)
    assert same_streams(again.streams, streams)
    assert torch.equal(again.latents, quantized.latents) and again.latents.dtype == torch.float32
    for loss, value in quantized.losses.items():
        assert torch.equal(again.losses[loss], value)


@EVERY
def test_half_precision_latents_are_worked_on_in_float32(name):
    quantizer, latents = make(name), speak().bfloat16()
    quantized = quantizer(latents)
    assert quantized.latents.dtype == torch.float32
    assert same_streams(quantizer.encode(latents), quantizer.encode(latents.float()))


@EVERY
def test_huge_and_tiny_latents_give_finite_values(name):
    quantizer = make(name)
    for scale in (1e6, -1e6, 0.0, 1e-30):
        quantized = quantizer(scale * speak().abs())
        assert quantized.latents.isfinite().all()
        for stream, size in zip(quantized.streams, quantizer.codebook_sizes, strict=True):
            assert stream.min() >= 0 and stream.max() < size


# -- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IDENTITY)
def test_the_gradient_passes_straight_through(name):
    latents = speak().requires_grad_()
    weights = torch.randn(2, 50, 4)
    (make(name).train()(latents).latents * weights).sum().backward()
    assert torch.equal(latents.grad, weights)


@EVERY
def test_losses_are_finite_scalars_that_reach_the_latents(name):
    quantizer, latents = make(name), speak().requires_grad_()
    losses = quantizer(latents).losses
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    if losses:
        assert losses["commitment"] > 0
        losses["commitment"].backward()
        assert (latents.grad != 0).any(-1).all()


def test_straight_through_is_the_value_exactly_and_the_latent_s_gradient():
    latents = (1e6 * torch.randn(100)).requires_grad_()
    values = torch.randn(100).requires_grad_()
    passed = straight_through(latents, values)
    assert torch.equal(passed, values)
    passed.sum().backward()
    assert torch.equal(latents.grad, torch.ones(100)) and values.grad is None


def test_commitment_draws_latents_only():
    latents, values = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    commitment(latents, values).backward()
    torch.testing.assert_close(latents.grad, 2 * (latents - values).detach() / 12)
    assert values.grad is None


def test_vq_losses_are_the_same_number_for_opposite_parties():
    quantizer, latents = make("vq"), speak().requires_grad_()
    losses = quantizer(latents).losses
    torch.testing.assert_close(losses["codebook"], losses["commitment"])
    losses["codebook"].backward()
    assert latents.grad is None
    code = quantizer.encode(latents.detach())[0]
    chosen = torch.stack(
        [latents.detach()[code == k].sum(0) - quantizer.codebook[k] * (code == k).sum() for k in range(16)]
    )
    torch.testing.assert_close(quantizer.codebook.grad, -2 * chosen.detach() / latents.numel())


# -- finite scalars ----------------------------------------------------------------------------------------

LEVELS = [[2], [3], [4], [8, 5, 5], [2, 2, 2, 2], [7, 2, 4]]


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_index_is_a_bijection_onto_the_grid(levels):
    quantizer = FSQ(levels)
    codes = torch.arange(math.prod(levels))[None]
    values = quantizer.decode([codes])[0]
    assert len(values.unique(dim=0)) == math.prod(levels)
    for axis, size in enumerate(levels):
        torch.testing.assert_close(values[:, axis].unique(), torch.linspace(-1, 1, size))
    latents = values.double().atanh().clamp(-1e6, 1e6).float()
    assert torch.equal(quantizer.encode(latents[None])[0], codes)


def test_fsq_lowest_digit_is_the_first_dimension():
    latents = torch.tensor([[[1e6, -1e6, -1e6], [-1e6, 1e6, -1e6], [-1e6, -1e6, 1e6]]])
    assert FSQ([8, 5, 4]).encode(latents)[0].tolist() == [[7, 4 * 8, 3 * 8 * 5]]


def test_fsq_rounds_to_the_nearest_level_and_ties_down():
    for levels in range(2, 10):
        quantizer = FSQ([levels])
        latents = torch.cat((torch.zeros(1), torch.randn(500)))[None, :, None]
        level = torch.arange(levels) / (levels - 1) * 2 - 1
        distance = (latents.tanh() - level).abs().round(decimals=6)
        assert torch.equal(quantizer.encode(latents)[0], distance.argmin(-1))


def test_fsq_gradient_is_that_of_tanh():
    quantizer, latents = make("fsq"), speak().requires_grad_()
    quantizer(latents).latents.sum().backward()
    torch.testing.assert_close(latents.grad, 1 - latents.detach().tanh().square())


# -- refusals ----------------------------------------------------------------------------------------------


def test_quantizers_that_cannot_be_are_refused():
    for levels in ([], [1], [3, 0]):
        with pytest.raises(ValueError, match="at least 2 levels"):
            FSQ(levels)
    with pytest.raises(ValueError, match=r"decay lies in \[0, 1\), got 1"):
        EMAVQ(4, 2, decay=1.0)
    for stages in ([], [VQ(4, 2), VQ(4, 3)]):
        with pytest.raises(ValueError, match="share one width"):
            Residual(stages)


def test_copies_are_independent():
    quantizer = make("ema").train()
    other = copy.deepcopy(quantizer)
    quantizer(speak())
    assert not torch.equal(quantizer.codebook, other.codebook)
