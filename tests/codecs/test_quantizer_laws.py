"""Laws of quantizers: one table, one test per law; a new member is one line.

The numbers I1 to I17 are those of the family's invariants; those that need a teacher of their own are proved in the
files named after their idea (search, ibq, ema, lifecycle, ranks, turboquant, scalar_quantizers).
"""

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from sigtok.codecs.quantizers.build import MEMBERS, build
from sigtok.codecs.quantizers.estimators import commitment, rotation, straight_through
from sigtok.codecs.quantizers.fixed import FixedCodebook
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.multiscale import MultiScale
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.quantizers.simvq import SimVQ
from sigtok.codecs.quantizers.vq import VQ


def table(name, codes=16, dim=4, **options):
    return {"name": name, "codebook_size": codes, "dim": dim, **options}


def copies(count, one):
    return {"copies": count, **one}


CASCADE = {"name": "cascade", "levels": [table("vq", 7, dim=2), table("ema", dim=2)], "grid": [2, 2]}
QUANTIZERS = {
    "vq": table("vq"),
    "vq_cosine": table("vq", metric="cosine"),
    "vq_sphere": table("vq", metric="sphere"),
    "vq_rotation": table("vq", estimator="rotation"),
    "vq_kmeans": table("vq", lifecycle={"start": "kmeans", "start_vectors": 4, "revive": 0.1}),
    "vq_clustered": table("vq", lifecycle={"cluster": "closest"}),
    "vq_balanced": table("vq", lifecycle={"balance": 0.05}),
    "ema": table("ema"),
    "ema_sphere": table("ema", metric="sphere"),
    "ema_samples": table("ema", lifecycle={"start": "samples"}),
    "ibq": table("ibq"),
    "ibq_dot": table("ibq", scores="dot", scale=1.0, learned=False),
    "ibq_cosine": table("ibq", scores="cosine"),
    "ibq_samples": table("ibq", lifecycle={"start": "samples", "revive": 0.1}),
    "simvq": table("simvq"),
    "vqgan_lc": table("simvq", point_dim=7),
    "fixed": table("fixed"),
    "prior": {"name": "prior", "sizes": [9, 7], "widths": [6, 3], "dim": 4},
    "projected": {"name": "projected", "dim": 4, "inner": table("vq", dim=2, metric="cosine")},
    "residual_vq": {"name": "residual", "stages": [table("vq", 8), table("vq", 16), table("vq", 5)]},
    "residual_ema": {"name": "residual", "stages": copies(3, table("ema")), "sample_dropout": 0.5},
    "residual_prior": {
        "name": "residual",
        "stages": [{"name": "prior", "sizes": [16], "widths": [6], "dim": 4}, table("ema")],
    },
    "residual_ibq": {"name": "residual", "stages": copies(2, table("ibq")), "estimator": "stages"},
    "residual_simvq": {"name": "residual", "stages": copies(2, table("simvq")), "estimator": "rotation"},
    "split": {
        "name": "split",
        "first": {"name": "projected", "dim": 4, "inner": table("fixed", dim=3)},
        "rest": {"name": "residual", "stages": copies(2, table("vq"))},
    },
    "grouped": {"name": "grouped", "parts": [table("ema", dim=3), table("vq", 7, dim=1)]},
    "additive": {"name": "additive", "stages": copies(3, table("vq")), "beam": 4},
    "granular": {"name": "granular", "codebook": table("vq", dim=3), "strides": [4, 2, 1]},
    "multirate": {"name": "multirate", "stages": copies(3, table("vq")), "strides": [4, 2, 1]},
    "multiscale": {"name": "multiscale", "codebook": table("vq"), "grid": [2, 2], "scales": [1, 2]},
    "cascade": {"name": "cascade", "levels": copies(2, table("vq")), "grid": [2, 2]},
    "grouped_cascade": {"name": "grouped", "parts": copies(2, CASCADE)},
    "fsq": {"name": "fsq", "levels": [8, 5, 5, 3]},
    "fsq_paper": {"name": "fsq", "levels": [8, 5, 5, 3], "variant": "paper"},
    "fsq_binary": {"name": "fsq", "levels": [2, 2, 2, 2]},
    "residual_fsq": {"name": "residual_fsq", "levels": [5, 5, 3, 3], "stages": 3},
    "lfq": {"name": "lfq", "bits": 4},
    "bsq": {"name": "bsq", "bits": 4},
    "scalar": {"name": "scalar", "dim": 4, "bits": 4},
    "scalar_plain": {"name": "scalar", "dim": 4, "bits": 3, "compand": False},
    "turboquant": {"name": "turboquant", "dim": 4, "bits": 2},
    "turboquant_qjl": {"name": "turboquant", "dim": 4, "bits": 3, "mode": "qjl", "rotation": "hadamard"},
}
EVERY = pytest.mark.parametrize("name", QUANTIZERS)
TOGETHER = ("cascade", "granular", "grouped_cascade", "multirate", "multiscale")  # a code speaks for several positions
ALONE = [name for name in QUANTIZERS if name not in TOGETHER]
EUCLIDEAN = (
    "vq",
    "vq_rotation",
    "vq_kmeans",
    "vq_clustered",
    "ema",
    "ema_samples",
    "ibq",
    "simvq",
    "vqgan_lc",
    "fixed",
    "prior",
)
SPHERICAL = ("vq_cosine", "vq_sphere", "ema_sphere", "ibq_cosine")
IDENTITY = (
    "vq",
    "ema",
    "simvq",
    "fixed",
    "prior",
    "residual_vq",
    "residual_ema",
    "grouped",
    "additive",
    "multirate",
    "lfq",
)
STAGED = (
    "residual_vq",
    "residual_ema",
    "residual_prior",
    "residual_ibq",
    "residual_simvq",
    "residual_fsq",
    "split",
    "multirate",
)
LEARNED = [name for name in QUANTIZERS if not name.startswith(("fsq", "residual_fsq", "scalar", "turboquant"))]


def make(name):
    return build(QUANTIZERS[name]).eval()


def settled(name):
    """In training mode, past the passes that only collect."""
    quantizer = make(name).train()
    for _ in range(20):
        quantizer(speak(2, 48))
    assert quantizer.ready
    return quantizer


def speak(batch=2, positions=48, **options):
    return torch.randn(batch, positions, 4, **options)


def state(quantizer):
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def same_state(before, after):
    return all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()


def same_streams(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


def test_every_member_is_in_the_table():
    used = json.dumps(QUANTIZERS)
    assert all(f'"name": "{name}"' in used for name in MEMBERS)
    folder = Path(__file__).parents[2] / "codecs" / "quantizers"
    assert {module for module, _ in MEMBERS.values()} <= {path.stem for path in folder.glob("*.py")}


# -- values ------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("training", [False, True])
def test_decode_of_encode_is_forward_bit_for_bit(name, training):
    """I5."""
    quantizer, latents = settled(name).train(training), speak()
    quantized = quantizer(latents, update=False)
    streams = quantizer.encode(latents)
    assert same_streams(streams, quantized.streams)
    assert torch.equal(quantizer.decode(streams), quantized.latents)


@EVERY
def test_a_training_pass_gives_codes_of_its_codebooks(name):
    quantizer, latents = settled(name), speak(4)
    quantized = quantizer(latents)
    assert quantized.latents.shape == latents.shape and quantized.latents.isfinite().all()
    for stream, size in zip(quantized.streams, quantizer.codebook_sizes, strict=True):
        assert stream.dtype == torch.int64 and stream.min() >= -1 and stream.max() < size


@EVERY
def test_codes_are_int64_and_lie_in_their_codebooks(name):
    quantizer = make(name)
    streams = quantizer.encode(3 * speak(3, 200))
    assert len(streams) == len(quantizer.codebook_sizes)
    for stream, size, stride in zip(streams, quantizer.codebook_sizes, strides(quantizer), strict=True):
        assert stream.dtype == torch.int64 and stream.shape == (3, 200 // stride)
        assert stream.min() >= least(name) and stream.max() < size


def strides(quantizer):
    """Positions per code; the table's multi-scale member says one code per four positions first."""
    return (4, 1) if isinstance(quantizer, MultiScale) else quantizer.strides


def least(name):
    """The smallest code: of several granularities one speaks, and others are absent."""
    return -1 if name == "granular" else 0


@EVERY
def test_absent_codes_decode_to_zero(name):
    quantizer = make(name)
    streams = quantizer.encode(speak())
    absent = [torch.full_like(stream, -1) for stream in streams]
    assert torch.equal(quantizer.decode(absent), torch.zeros(2, 48, 4))
    if name in ALONE:
        holes = [stream.clone() for stream in streams]
        for stream in holes:
            stream[1, 7] = -1
        expected = quantizer.decode(streams).clone()
        expected[1, 7] = 0
        assert torch.equal(quantizer.decode(holes), expected)


@pytest.mark.parametrize("name", ALONE)
def test_codes_of_a_position_do_not_depend_on_the_others(name):
    """I3."""
    quantizer, latents = make(name), speak(3, 40)
    streams = quantizer.encode(latents)
    order = torch.randperm(40)
    assert same_streams(quantizer.encode(latents[:, order]), [stream[:, order] for stream in streams])
    for item in range(3):
        assert same_streams(quantizer.encode(latents[item : item + 1, 5:6]), [s[item : item + 1, 5:6] for s in streams])


@EVERY
def test_codes_of_an_item_do_not_depend_on_its_batch(name):
    """I3."""
    quantizer, latents = make(name), speak(3, 40)
    streams = quantizer.encode(latents)
    for item in range(3):
        assert same_streams(quantizer.encode(latents[item : item + 1]), [stream[item : item + 1] for stream in streams])


@EVERY
def test_codes_do_not_depend_on_threads(name):
    quantizer, latents = make(name), speak(2, 4000)
    streams = quantizer.encode(latents)
    try:
        torch.set_num_threads(2)
        assert same_streams(quantizer.encode(latents), streams)
    finally:
        torch.set_num_threads(1)


@EVERY
def test_any_number_of_positions_is_legal(name):
    quantizer = make(name)
    for shape in ((1, 0, 4), (0, 4, 4), (1, 70_000, 4)):
        streams = quantizer.encode(torch.randn(shape))
        for stream, stride in zip(streams, strides(quantizer), strict=True):
            assert stream.shape == (shape[0], shape[1] // stride)
        assert quantizer.decode(streams).shape == shape


@pytest.mark.parametrize("name", (*EUCLIDEAN, *SPHERICAL, "lfq", "bsq"))
def test_a_code_encodes_to_itself(name):
    """I1 and I2; for dot products it holds only where no code is another's longer shadow."""
    quantizer = make(name)
    codes = torch.arange(quantizer.codebook_sizes[0])[None]
    assert torch.equal(quantizer.encode(quantizer.decode([codes]))[0], codes)


@pytest.mark.parametrize("name", EUCLIDEAN)
def test_the_code_is_the_nearest_in_exact_arithmetic(name):
    """I4, against every distance in float64."""
    quantizer, latents = make(name), speak(4, 500)
    codes = torch.arange(quantizer.codebook_sizes[0])[None]
    distances = torch.cdist(latents.double(), quantizer.decode([codes])[0].double())
    assert torch.equal(quantizer.encode(latents)[0], distances.argmin(-1))


@pytest.mark.parametrize("name", SPHERICAL)
def test_the_code_is_the_nearest_in_direction(name):
    quantizer, latents = make(name), speak(4, 500)
    values = quantizer.decode([torch.arange(16)[None]])[0].double()
    cosines = latents.double() @ torch.nn.functional.normalize(values, dim=-1).t()
    assert torch.equal(quantizer.encode(latents)[0], cosines.argmax(-1))


@pytest.mark.parametrize("name", STAGED)
def test_a_prefix_of_the_codes_is_a_coarser_encoding(name):
    """I7."""
    quantizer, latents = settled(name).eval(), speak()
    streams = quantizer.encode(latents)
    for count in range(1, len(streams) + 1):
        assert same_streams(quantizer.encode(latents, count), streams[:count])
        prefix = quantizer.decode(streams[:count])[:, :48]
        padded = [*streams[:count], *(torch.full_like(stream, -1) for stream in streams[count:])]
        assert torch.equal(prefix, quantizer.decode(padded))
        assert torch.equal(prefix, quantizer(latents, count).latents)


@pytest.mark.parametrize("name", ("residual_vq", "residual_ema", "residual_simvq", "additive", "multirate", "grouped"))
def test_refused_counts_say_what_there_is(name):
    quantizer = make(name)
    most = len(quantizer.codebook_sizes)
    for count in (0, most + 1):
        with pytest.raises(ValueError, match=f"there are 1 to {most} codebooks, got {count}"):
            quantizer.encode(speak(), count)


# -- state -------------------------------------------------------------------------------------------------


@EVERY
def test_encode_and_decode_change_no_state_even_in_training(name):
    """I17."""
    quantizer = settled(name)
    before = state(quantizer)
    quantizer.decode(quantizer.encode(speak()))
    assert same_state(before, state(quantizer))


@EVERY
@pytest.mark.parametrize("training, update", [(False, True), (False, False), (True, False)])
def test_forward_learns_nothing_in_eval_mode_or_without_update(name, training, update):
    """I17."""
    quantizer = make(name).train(training)
    before = state(quantizer)
    quantizer(speak(), update=update)
    assert same_state(before, state(quantizer))


@EVERY
def test_a_saved_state_gives_the_same_codes(name):
    """I17."""
    quantizer, other, latents = settled(name).eval(), make(name), speak()
    other.load_state_dict(state(quantizer))
    assert same_streams(quantizer.encode(latents), other.encode(latents)) and other.ready


# -- precision ---------------------------------------------------------------------------------------------


@EVERY
def test_autocast_changes_nothing(name):
    quantizer, latents = settled(name).eval(), speak(1, 2000)
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
def test_a_training_pass_under_autocast_is_the_same_pass(name):
    quantizer, latents = settled(name), speak(4, 48)
    other = copy.deepcopy(quantizer)
    torch.manual_seed(1)
    quantized = quantizer(latents)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        again = other(latents)
    assert same_streams(again.streams, quantized.streams) and torch.equal(again.latents, quantized.latents)
    assert same_state(state(quantizer), state(other))


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
        latents = (scale * speak().abs()).requires_grad_()
        quantized = quantizer(latents)
        assert quantized.latents.isfinite().all()
        for stream, size in zip(quantized.streams, quantizer.codebook_sizes, strict=True):
            assert stream.min() >= least(name) and stream.max() < size
        quantized.latents.sum().backward()
        assert latents.grad.isfinite().all()


# -- gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IDENTITY)
def test_the_gradient_passes_straight_through(name):
    latents = speak().requires_grad_()
    weights = torch.randn(2, 48, 4)
    (settled(name)(latents).latents * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


@EVERY
def test_losses_are_finite_scalars_that_reach_the_latents(name):
    quantizer, latents = settled(name), speak().requires_grad_()
    losses = quantizer(latents).losses
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    assert ("commitment" in losses) == (name in LEARNED)
    if losses:
        assert losses["commitment"] > 0
        losses["commitment"].backward()
        assert (latents.grad != 0).any(-1).float().mean() > 0.9


@EVERY
def test_losses_have_the_same_names_at_every_pass_and_rate(name):
    quantizer = make(name).train()
    names = set(quantizer(speak(2, 4)).losses)
    for count in range(1, len(quantizer.codebook_sizes) + 1):
        for _ in range(20):
            assert set(quantizer(speak(), count).losses) <= names
        assert count < len(quantizer.codebook_sizes) or set(quantizer.eval()(speak()).losses) == names


LARGE = {name: {**QUANTIZERS[name], "codebook_size": 4096} for name in LEARNED if "codebook_size" in QUANTIZERS[name]}
LARGE |= {"lfq": {"name": "lfq", "bits": 12}, "bsq": {"name": "bsq", "bits": 12}}


@pytest.mark.parametrize("name", LARGE)
def test_no_member_keeps_a_score_for_every_pair_for_backward(name):
    quantizer = build(LARGE[name]).train()
    latents, largest = torch.randn(2, 512, quantizer.dim, requires_grad=True), 0

    def weigh(saved):
        nonlocal largest
        largest = max(largest, saved.numel())
        return saved

    for _ in range(50):
        quantizer(latents)
    assert quantizer.ready
    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda saved: saved):
        quantized = quantizer(latents)
        total = quantized.latents.sum() + sum(quantized.losses.values())
    assert 0 < largest <= 4096 * 12 < 1024 * 4096
    total.backward()


@EVERY
def test_every_parameter_takes_part_in_every_training_pass(name):
    """Or data-parallel training would wait for gradients that never come."""
    quantizer = make(name).train()
    for passes in range(20):
        quantizer.zero_grad()
        quantized = quantizer(speak().requires_grad_(), 1 if passes % 2 else None)
        (quantized.latents.sum() + sum(quantized.losses.values())).backward()
        for weight in quantizer.parameters():
            assert not weight.requires_grad or weight.grad is not None


@pytest.mark.parametrize("name", QUANTIZERS)
def test_the_rate_is_paid_for(name):
    """I16: no member beats the rate-distortion bound of a Gaussian source, D >= 2^(-2 R), at its nominal bits."""
    quantizer = make(name)
    latents = torch.randn(8, 1000, 4)
    values = quantizer.decode(quantizer.encode(latents))[:, :1000].detach()
    spent = sum(math.log2(size) / each for size, each in zip(quantizer.codebook_sizes, strides(quantizer), strict=True))
    distortion = float((values - latents).square().mean())
    assert distortion >= 2 ** (-2 * spent / 4)


def test_rotation_is_the_value_exactly_and_turns_the_gradient():
    latents = torch.randn(50, 6, dtype=torch.float64).requires_grad_()
    values = torch.randn(50, 6, dtype=torch.float64)
    passed = rotation(latents, values)
    assert torch.equal(passed, values)
    jacobian = torch.stack(
        [torch.autograd.grad(passed[:, d].sum(), latents, retain_graph=True)[0] for d in range(6)], 1
    )
    scale = values.norm(dim=-1) / latents.detach().norm(dim=-1)
    turned = jacobian / scale[:, None, None]
    torch.testing.assert_close(turned @ turned.mT, torch.eye(6, dtype=torch.float64).expand(50, 6, 6))
    torch.testing.assert_close(torch.linalg.det(turned), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close((jacobian @ latents.detach()[..., None])[..., 0], values)  # it takes latent to value
    across = torch.linalg.svd(torch.stack((latents.detach(), values), 1)).Vh[:, 2:]  # what is normal to both stays
    torch.testing.assert_close((turned @ across.mT).mT, across)


def test_rotation_is_finite_where_its_plane_is_not_defined():
    latents = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    values = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    rotation(latents, values).sum().backward()
    assert latents.grad.isfinite().all()


def test_a_residual_stack_of_index_backpropagation_counts_the_latents_once():
    """Its gradient is the sum of the stages' index paths, each on its own residual, and no identity on top."""
    quantizer, latents = make("residual_ibq").double().train(), speak(dtype=torch.float64).requires_grad_()
    weights = torch.randn(2, 48, 4, dtype=torch.float64)
    (quantizer(latents).latents * weights).sum().backward()
    residual, expected = latents.detach(), 0
    for stage in quantizer.stages:
        read = residual.clone().requires_grad_()
        value = stage(read, update=False).latents
        expected = expected + torch.autograd.grad((value * weights).sum(), read)[0]
        residual = residual - value.detach()
    torch.testing.assert_close(latents.grad, expected)


@pytest.mark.parametrize("compose", ["residual", "grouped", "multirate"])
def test_parts_of_several_kinds_keep_all_their_losses(compose):
    """A loss that only the second part has is not lost with the first's names."""
    width = 2 if compose == "grouped" else 4
    parts = [table("ema", dim=width), table("vq", dim=width)]
    key, rest = (
        ("parts", {}) if compose == "grouped" else ("stages", {"strides": [2, 1]} if compose == "multirate" else {})
    )
    quantizer = build({"name": compose, key: parts, **rest}).train()
    quantizer(speak()).losses["codebook"].backward()
    assert any((weight.grad != 0).any() for weight in quantizer.parameters())


def test_dropout_per_sample_shortens_its_share_of_the_items():
    quantizer = Residual([VQ(16, 4) for _ in range(4)], sample_dropout=0.75).train()
    seen = set()
    for _ in range(30):
        latents = speak(8, 5).requires_grad_()
        quantized = quantizer(latents)
        sent = torch.stack([(stream >= 0).all(-1) for stream in quantized.streams])  # [Q, B]
        assert torch.equal(sent, torch.stack([(stream >= 0).any(-1) for stream in quantized.streams]))
        assert torch.equal(sent.long().cummin(0).values, sent.long()), "what is kept is a prefix"
        depths = sent.sum(0)
        assert sent[0].all() and int((depths == 4).sum()) >= 2
        seen |= set(depths.tolist())
        values = quantizer.decode([stream.clone() for stream in quantized.streams])
        torch.testing.assert_close(quantized.latents, values)
        quantized.losses["commitment"].backward()
        assert (latents.grad != 0).any(-1).all()
    assert seen == {1, 2, 3, 4}
    assert all((stream >= 0).all() for stream in quantizer(speak(), update=False).streams)


def test_additive_codes_are_the_best_sum_where_the_beam_is_wide():
    quantizer, latents = build({"name": "additive", "stages": copies(3, table("vq", 5)), "beam": 125}), speak(1, 40)
    tables = [stage.codebook.detach() for stage in quantizer.stages]
    sums = (tables[0][:, None, None] + tables[1][:, None] + tables[2]).flatten(0, 2)
    distances = torch.cdist(latents[0].double(), sums.double())
    values = quantizer.decode(quantizer.encode(latents))[0]
    torch.testing.assert_close((values - latents[0]).norm(dim=-1).double(), distances.amin(-1))


def test_a_wider_beam_is_never_worse_on_the_whole_and_a_beam_of_one_is_greedy():
    torch.manual_seed(1)
    stages = [VQ(16, 4) for _ in range(4)]
    latents, errors = speak(4, 200), []
    for beam in (1, 2, 4, 16):
        quantizer = build({"name": "additive", "stages": copies(4, table("vq")), "beam": beam})
        quantizer.stages = torch.nn.ModuleList(stages)
        errors.append(float((quantizer.decode(quantizer.encode(latents)) - latents).square().mean()))
        if beam == 1:
            assert same_streams(quantizer.encode(latents), Residual(stages).encode(latents))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.8 * errors[0]


def test_compositions_that_cannot_be_are_refused():
    several = {"name": "residual", "stages": copies(2, table("vq"))}
    with pytest.raises(ValueError, match="a stage has one codebook"):
        build({"name": "residual", "stages": [table("vq"), several]})
    with pytest.raises(ValueError, match="parts have codebooks of equal strides"):
        build({"name": "grouped", "parts": [table("vq"), several]})
    with pytest.raises(ValueError, match="levels have one codebook each, of one width"):
        build({"name": "cascade", "levels": [several], "grid": [2, 2]})
    with pytest.raises(ValueError, match=r"3 levels halve a grid of multiples of 4, got \(4, 6\)"):
        build({"name": "cascade", "levels": copies(3, table("vq")), "grid": [4, 6]})
    with pytest.raises(ValueError, match="at least one part"):
        build({"name": "grouped", "parts": []})
    with pytest.raises(ValueError, match="both parts have one width, got 4 and 3"):
        build({"name": "split", "first": table("vq"), "rest": table("vq", dim=3)})
    with pytest.raises(ValueError, match="both parts have a code per position"):
        build({"name": "split", "first": table("vq"), "rest": QUANTIZERS["multirate"]})
    with pytest.raises(ValueError, match=r"prefix lies in \[0, 1\), got 1.0"):
        build({**several, "sample_dropout": 1.0})
    with pytest.raises(ValueError, match="at least 1 sum, got 0"):
        build({"name": "additive", "stages": copies(2, table("vq")), "beam": 0})
    with pytest.raises(ValueError, match="Euclidean codebooks"):
        build({"name": "additive", "stages": copies(2, table("vq", metric="cosine"))})
    with pytest.raises(ValueError, match=r"points have shape \[16, 4\], got \[3, 4\]"):
        FixedCodebook(16, 4, torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"16 codes has shape \[16, d\], got \[3, 4\]"):
        SimVQ(16, 4, torch.zeros(3, 4))


def test_descriptions_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="quantizers are additive, .* got 'vector'"):
        build({"name": "vector"})
    with pytest.raises(
        ValueError, match="quantizer 'vq' cannot be built: missing a required argument: 'codebook_size'"
    ):
        build({"name": "vq", "codes": 4, "dim": 2})
    with pytest.raises(ValueError, match="quantizer 'vq' cannot be built: .*'revival'"):
        build(table("vq", lifecycle={"revival": 0.1}))
    with pytest.raises(ValueError, match=r"decay lies in \[0, 1\), got 1"):
        build(table("ema", lifecycle={"decay": 1.0}))


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
    for stages in ([], [VQ(4, 2), VQ(4, 3)]):
        with pytest.raises(ValueError, match="share one width"):
            Residual(stages)


def test_copies_are_independent():
    quantizer = make("ema").train()
    other = copy.deepcopy(quantizer)
    quantizer(speak())
    assert not torch.equal(quantizer.codebook, other.codebook)
