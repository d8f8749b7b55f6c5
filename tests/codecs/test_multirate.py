"""Residual quantization at several rates: groups, prefixes, and what it shares with residual quantization."""

import copy

import jaxtyping
import pytest
import torch

from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.ibq import IBQ
from sigtok.codecs.quantizers.kmeans import kmeans
from sigtok.codecs.quantizers.lifecycle import Lifecycle
from sigtok.codecs.quantizers.multirate import MultiRate
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.quantizers.vq import VQ

SIZES = (8, 16, 5, 32)
SNAC = (8, 4, 2, 1)
MEMBERS = {
    "snac": lambda: MultiRate([VQ(size, 4) for size in SIZES], SNAC),
    "ema": lambda: MultiRate([EMAVQ(size, 4) for size in SIZES[:3]], (4, 2, 1)),
    "ibq": lambda: MultiRate([IBQ(16, 4), IBQ(8, 4)], (2, 1)),
    "levels": lambda: MultiRate([FSQ([3, 3, 3, 3]), FSQ([5, 5, 5, 5])], (3, 1)),
    "crossing": lambda: MultiRate([VQ(8, 4), VQ(16, 4)], (3, 2)),
    "ascending": lambda: MultiRate([VQ(8, 4), VQ(16, 4)], (1, 5)),
    "coarse": lambda: MultiRate([VQ(16, 4)], (5,)),
    "dense": lambda: MultiRate([VQ(16, 4), VQ(8, 4)], (1, 1)),
}
EVERY = pytest.mark.parametrize("name", MEMBERS)
POSITIONS = pytest.mark.parametrize("positions", [1, 2, 7, 16, 29])


def make(name):
    return MEMBERS[name]().eval()


def state(quantizer):
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def same(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


def slowly(quantizer, latents, codebooks):
    """Codes, values and the mean square error of each stage to its means; group by group in float64."""
    streams, errors = [], []
    values = torch.zeros_like(latents, dtype=torch.float64)
    for stage, stride in list(zip(quantizer.stages, quantizer.strides, strict=True))[:codebooks]:
        rows, squares = [], []
        for item in range(len(latents)):
            row = []
            for start in range(0, latents.shape[1], stride):
                group = (latents[item, start : start + stride].double() - values[item, start : start + stride]).clone()
                mean = sum(group) / len(group)
                distances = (stage.codebook.detach().double() - mean).square().sum(-1)
                code = int(distances.argmin())
                values[item, start : start + stride] += stage.codebook[code].detach().double()
                squares.append(distances[code] / latents.shape[2])
                row.append(code)
            rows.append(row)
        streams.append(torch.tensor(rows))
        errors.append(sum(squares) / len(squares))
    return streams, values, errors


# -- against slow loops ------------------------------------------------------------------------------------


@POSITIONS
@pytest.mark.parametrize("name", ["snac", "ema", "crossing", "ascending", "coarse", "dense"])
def test_codes_values_and_losses_are_those_of_slow_loops(name, positions):
    quantizer, latents = make(name), torch.randn(2, positions, 4)
    for codebooks in range(1, len(quantizer.stages) + 1):
        streams, values, errors = slowly(quantizer, latents, codebooks)
        quantized = quantizer(latents, codebooks)
        assert same(quantized.streams, streams)
        torch.testing.assert_close(quantized.latents.double(), values, rtol=0, atol=1e-5)
        torch.testing.assert_close(quantized.losses["commitment"].double(), sum(errors) / len(errors))


@EVERY
@POSITIONS
@pytest.mark.parametrize("training", [False, True])
def test_decode_of_encode_is_forward_bit_for_bit(name, positions, training):
    quantizer, latents = make(name).train(training), torch.randn(2, positions, 4)
    quantized, streams = quantizer(latents, update=False), quantizer.encode(latents)
    assert same(quantized.streams, streams)
    assert torch.equal(quantizer.decode(streams)[:, :positions], quantized.latents)


# -- rates -------------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("positions", [0, 1, 7, 8, 50])
def test_a_stream_has_one_code_for_each_group_begun(name, positions):
    quantizer = make(name)
    for batch in (0, 2):
        streams = quantizer.encode(torch.randn(batch, positions, 4))
        for stream, stride, size in zip(streams, quantizer.strides, quantizer.codebook_sizes, strict=True):
            assert stream.shape == (batch, -(-positions // stride)) and stream.dtype == torch.int64
            assert ((stream >= 0) & (stream < size)).all()


@EVERY
@pytest.mark.parametrize("positions", [0, 1, 7, 8, 50])
def test_decode_gives_what_was_encoded_or_less_than_the_finest_stride_more(name, positions):
    quantizer, latents = make(name), torch.randn(2, positions, 4)
    for codebooks in range(1, len(quantizer.stages) + 1):
        covered = quantizer.decode(quantizer.encode(latents, codebooks)).shape[1]
        assert positions <= covered < positions + min(quantizer.strides[:codebooks])
        if 1 in quantizer.strides[:codebooks]:
            assert covered == positions


@EVERY
@POSITIONS
def test_fewer_codebooks_are_a_prefix(name, positions):
    quantizer, latents = make(name), torch.randn(2, positions, 4)
    streams = quantizer.encode(latents)
    for codebooks in range(1, len(streams) + 1):
        first = quantizer.encode(latents, codebooks)
        assert same(first, streams[:codebooks])
        quantized = quantizer(latents, codebooks)
        assert same(quantized.streams, first)
        value = quantizer.decode(streams[:codebooks])[:, :positions]
        assert torch.equal(value, quantized.latents)
        absent = [torch.full_like(stream, -1) for stream in streams[codebooks:]]
        assert torch.equal(quantizer.decode([*first, *absent])[:, :positions], value)


@pytest.mark.parametrize("member", [VQ, EMAVQ])
@pytest.mark.parametrize("policy", [{"start": "noise", "revive": 0.5}, {"start": "kmeans", "start_vectors": 4}])
def test_at_strides_of_one_it_is_residual_quantization(member, policy):
    stages = [member(size, 4, lifecycle=Lifecycle(**policy)) for size in (8, 16, 5)]
    some, other = Residual(stages).train(), MultiRate(copy.deepcopy(stages), (1, 1, 1)).train()
    for step in range(9):
        codebooks, gradients, results = (3, 3, 2)[step % 3], [], []
        values = torch.randn(2, 20, 4)
        for quantizer in (some, other):
            torch.manual_seed(step)
            latents = values.clone().requires_grad_()
            quantized = quantizer(latents, codebooks)
            (quantized.latents.sin().sum() + sum(quantized.losses.values())).backward()
            gradients.append(latents.grad)
            results.append(quantized)
        assert same(results[0].streams, results[1].streams)
        assert torch.equal(results[0].latents, results[1].latents) and torch.equal(*gradients)
        assert results[0].losses == results[1].losses
        assert same(list(some.state_dict().values()), list(other.state_dict().values()))
    assert some.ready and other.ready and (results[1].streams[0] >= 0).all()
    assert same(some.encode(values), other.encode(values))


def test_an_absent_code_takes_its_value_from_its_group_only():
    quantizer, latents = make("snac"), torch.randn(2, 29, 4)
    streams = quantizer.encode(latents)
    whole = quantizer.decode(streams)
    for q, stride in enumerate(quantizer.strides):
        holes = [stream.clone() for stream in streams]
        holes[q][1, 2] = -1
        missing = quantizer.stages[q].codebook[streams[q][1, 2]].detach()
        expected = whole.clone()
        expected[1, 2 * stride : 3 * stride] -= missing
        torch.testing.assert_close(quantizer.decode(holes), expected)
    assert not quantizer.decode([torch.full_like(stream, -1) for stream in streams]).any()


def test_codes_depend_on_a_block_of_the_longest_stride_and_no_other():
    quantizer, latents = make("snac"), torch.randn(1, 40, 4)
    streams = quantizer.encode(latents)
    changed = latents.clone()
    changed[:, 16:24] += 3
    for stream, other, stride in zip(streams, quantizer.encode(changed), quantizer.strides, strict=True):
        differs = (stream != other)[0].repeat_interleave(stride)
        assert differs[16:24].any() and not differs[:16].any() and not differs[24:].any()


@EVERY
def test_codes_are_the_same_beside_any_neighbours(name):
    quantizer, latents = make(name), torch.randn(7, 43, 4)
    streams, values = quantizer.encode(latents), quantizer(latents).latents
    for item in range(7):
        assert same(quantizer.encode(latents[item : item + 1]), [stream[item : item + 1] for stream in streams])
        assert torch.equal(quantizer(latents[item : item + 1]).latents, values[item : item + 1])


# -- gradients and losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["snac", "ema", "crossing"])
def test_the_gradient_passes_straight_through(name):
    latents, weights = torch.randn(2, 29, 4, requires_grad=True), torch.randn(2, 29, 4)
    (make(name)(latents).latents * weights).sum().backward()
    assert torch.equal(latents.grad, weights)


@POSITIONS
def test_the_commitment_of_every_stage_reaches_the_latents_once(positions):
    """At every position of a group by the share that it has in the mean."""
    quantizer, latents = make("snac"), torch.randn(1, positions, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(quantizer(latents).losses["commitment"], latents)
    expected, rest = torch.zeros(positions, 4), latents.detach()[0]
    for stage, stride in zip(quantizer.stages, quantizer.strides, strict=True):
        groups = rest.split(stride)
        codes = stage.encode(torch.stack([group.mean(0) for group in groups])[None])
        values = stage.decode(codes)[0].detach()
        for index, (group, value) in enumerate(zip(groups, values, strict=True)):
            slope = 2 * (group.mean(0) - value) / (4 * len(groups)) / len(group)
            expected[index * stride : index * stride + len(group)] += slope / len(quantizer.stages)
        rest = torch.cat([group - value for group, value in zip(groups, values, strict=True)])
    torch.testing.assert_close(gradient[0], expected)


def test_every_codebook_learns_and_each_parameter_is_in_use_at_any_rate():
    quantizer = make("snac").train()
    quantizer(torch.randn(2, 100, 4)).losses["codebook"].backward()
    assert all((stage.codebook.grad != 0).any() for stage in quantizer.stages)
    quantizer.zero_grad(set_to_none=True)
    sum(quantizer(torch.randn(2, 100, 4), 2).losses.values()).backward()
    assert [bool(stage.codebook.grad.any()) for stage in quantizer.stages] == [True, True, False, False]


def test_stages_out_of_use_and_passes_without_update_teach_nothing():
    quantizer = make("ema").train()
    quantizer(torch.randn(2, 30, 4), 2)
    assert [int(stage.updates) for stage in quantizer.stages] == [1, 1, 0]
    before = state(quantizer)
    quantizer(torch.randn(2, 30, 4), update=False)
    quantizer.decode(quantizer.encode(torch.randn(2, 30, 4)))
    quantizer.eval()(torch.randn(2, 30, 4))
    assert all(torch.equal(before[name], value) for name, value in state(quantizer).items())


def test_latents_go_by_until_the_last_stage_has_started():
    stages = [EMAVQ(4, 4, lifecycle=Lifecycle(start="kmeans", start_vectors=5)) for _ in range(2)]
    quantizer, stages_ready = MultiRate(stages, (3, 2)).train(), []
    for _ in range(10):
        latents = torch.randn(2, 8, 4)
        quantized, ready = quantizer(latents), quantizer.ready
        stages_ready.append(sum(stage.ready for stage in stages))
        assert [stream.shape[1] for stream in quantized.streams] == [3, 4]
        assert torch.equal(quantized.latents, latents) != ready
        assert (quantized.streams[1] >= 0).all() == ready
    assert stages_ready[0] == 0 and 1 in stages_ready and stages_ready[-1] == 2


# -- energy ------------------------------------------------------------------------------------------------


def test_what_is_left_becomes_less_with_every_fitted_stage():
    """A group's mean is no longer for a centre less of its cluster; what deviates from the mean stays."""
    quantizer = make("snac")
    noise = torch.randn(4, 64, 4)
    latents = noise + 2 * noise.cumsum(1) / torch.arange(1, 65)[:, None].sqrt()
    energies = [latents.square().mean()]
    for count, stage in enumerate(quantizer.stages):
        rest = latents - (quantizer.decode(quantizer.encode(latents, count)) if count else 0)
        groups = rest.unflatten(1, (-1, quantizer.strides[count])).mean(2).flatten(0, 1)
        with torch.no_grad():
            stage.codebook.copy_(kmeans(groups, len(stage.codebook), 20)[0])
        energies.append((latents - quantizer.decode(quantizer.encode(latents, count + 1))).square().mean())
    assert energies == sorted(energies, reverse=True) and energies[-1] < 0.3 * energies[0]


# -- precision ---------------------------------------------------------------------------------------------


@EVERY
def test_autocast_and_half_precision_change_nothing(name):
    quantizer, latents = make(name), torch.randn(2, 29, 4).bfloat16()
    streams, quantized = quantizer.encode(latents.float()), quantizer(latents.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert same(quantizer.encode(latents), streams)
        assert torch.equal(quantizer.decode(streams)[:, :29], quantized.latents)
        again = quantizer(latents)
    assert torch.equal(again.latents, quantized.latents) and again.latents.dtype == torch.float32
    assert again.losses == quantized.losses


@EVERY
def test_huge_and_tiny_latents_give_finite_values(name):
    for scale in (1e6, -1e6, 0.0, 1e-30):
        quantized = make(name)(scale * torch.randn(2, 29, 4).abs())
        assert quantized.latents.isfinite().all()
        assert all(loss.isfinite() for loss in quantized.losses.values())


# -- export and refusals -----------------------------------------------------------------------------------


class RoundTrip(torch.nn.Module):
    """Both directions in one graph."""

    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latents):
        streams = self.quantizer.encode(latents)
        return *streams, self.quantizer.decode(streams)


def test_one_graph_serves_every_batch_and_length(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # lengths are symbols while tracing
    quantizer = RoundTrip(make("crossing"))
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    graph = torch.export.export(quantizer, (torch.randn(2, 29, 4),), dynamic_shapes=(axes,)).module()
    for shape in ((1, 6, 4), (3, 8, 4), (2, 61, 4)):
        latents = torch.randn(shape)
        assert same(graph(latents), quantizer(latents))


def test_quantizers_that_cannot_be_are_refused():
    stages = [VQ(4, 2), VQ(8, 2)]
    for strides in ((2,), (2, 1, 1), (2, 0), (-1, 1), (True, 1), ()):
        with pytest.raises(ValueError, match="strides are 2 whole numbers of at least 1"):
            MultiRate(stages, strides)
    for parts in ([], [VQ(4, 2), VQ(4, 3)]):
        with pytest.raises(ValueError, match="share one width"):
            MultiRate(parts, [1] * len(parts))
    with pytest.raises(ValueError, match=r"one codebook, got \[2\]"):
        MultiRate([Residual(stages)], [1])


@pytest.mark.parametrize("codebooks", [0, 5, -1])
def test_codebooks_that_are_not_there_are_refused(codebooks):
    with pytest.raises(ValueError, match=f"1 to 4 codebooks, got {codebooks}"):
        make("snac").encode(torch.randn(1, 2, 4), codebooks)


def test_strides_and_sizes_are_told():
    quantizer = make("snac")
    assert quantizer.strides == SNAC and quantizer.codebook_sizes == SIZES and quantizer.dim == 4
