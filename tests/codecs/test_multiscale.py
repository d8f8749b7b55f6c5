"""Multi-scale residual quantization: interpolation, recursion, cumulative losses, one codebook for all scales."""

import math
from fractions import Fraction

import jaxtyping
import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.ibq import IBQ
from sigtok.codecs.quantizers.kmeans import kmeans
from sigtok.codecs.quantizers.lifecycle import Lifecycle
from sigtok.codecs.quantizers.multiscale import MultiScale
from sigtok.codecs.quantizers.projected import Projected
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.quantizers.simvq import SimVQ
from sigtok.codecs.quantizers.vq import VQ

GRID, SCALES = (6, 4), ((1, 1), (2, 3), (5, 3), (6, 4))
COUNTS = (1, 6, 15, 24)
RENEWED = Lifecycle(revive=0.9)
CODEBOOKS = {
    "vq": lambda: VQ(16, 4),
    "ema": lambda: EMAVQ(16, 4),
    "sphere": lambda: VQ(16, 4, metric="sphere", lifecycle=RENEWED),
    "cosine": lambda: IBQ(16, 4, scores="cosine", lifecycle=RENEWED),
    "simvq": lambda: SimVQ(16, 4),
    "levels": lambda: FSQ([3, 3, 3, 3]),
    "projected": lambda: Projected(VQ(16, 2), 4),
}
EVERY = pytest.mark.parametrize("name", CODEBOOKS)


def make(name="vq", grid=GRID, scales=SCALES, refinements=4):
    """With phi that are not the identity."""
    quantizer = MultiScale(CODEBOOKS[name](), grid, scales, refinements).eval()
    with torch.no_grad():
        for refinement in quantizer.refinements:
            refinement.weight.add_(0.1 * torch.randn_like(refinement.weight))
    return quantizer


def speak(tiles=3, batch=2, grid=GRID, dim=4):
    return torch.randn(batch, tiles * math.prod(grid), dim)


def state(quantizer):
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def unchanged(before, quantizer):
    return all(torch.equal(before[name], value) for name, value in state(quantizer).items())


def same(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


def as_images(latents, grid):
    """``[B, M * H * W, D]`` to ``[B * M, D, H, W]``."""
    return latents.unflatten(1, (-1, *grid)).flatten(0, 1).movedim(-1, 1)


def as_latents(images, batch):
    return images.movedim(1, -1).unflatten(0, (batch, -1)).flatten(1, 3)


def published(quantizer, latents, scales):
    """Codes, means and tiles as of each scale: on images, with convolutions and interpolation, in float64."""
    tiles = as_images(latents.double(), quantizer.grid)
    rest, total, streams, means, totals = tiles, torch.zeros_like(tiles), [], [], []
    for scale in range(scales):
        size = quantizer.scales[scale]
        small = F.interpolate(rest, size, mode="area").movedim(1, -1)
        table = quantizer.codebook.codebook.detach().double()
        codes = (small[..., None, :] - table).square().sum(-1).argmin(-1)
        raised = F.interpolate(table[codes].movedim(-1, 1), quantizer.grid, mode="bicubic")
        weight = quantizer.refinements[quantizer.depths[scale]].weight.detach().double()
        value = raised / 2 + F.conv2d(raised, weight, padding=1) / 2
        rest, total = rest - value, total + value
        streams.append(codes.unflatten(0, (len(latents), -1)).flatten(1))
        means.append(small.flatten(0, 2))
        totals.append(as_latents(total, len(latents)))
    return streams, torch.cat(means), totals


# -- against the definition --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vq", "ema"])
@pytest.mark.parametrize("refinements", [1, 2, 4])
def test_codes_values_and_losses_are_those_of_the_published_recursion(name, refinements):
    quantizer, latents = make(name, refinements=refinements), speak()
    for scales in (1, 2, 3, 4):
        streams, _, totals = published(quantizer, latents, scales)
        quantized = quantizer(latents, scales)
        assert same(quantized.streams, streams)
        torch.testing.assert_close(quantized.latents.double(), totals[-1], rtol=0, atol=1e-5)
        error = torch.stack([F.mse_loss(total, latents.double()) for total in totals]).mean()
        assert set(quantized.losses) == {"codebook", "commitment"}
        for loss in quantized.losses.values():
            torch.testing.assert_close(loss.double(), error)


@pytest.mark.parametrize("grid", [(16, 16), (7, 12), (1, 5)])
def test_resampling_is_that_of_interpolate(grid):
    sizes = [(h, w) for h in range(1, grid[0] + 1) for w in (1, 2, 3, 5, grid[1]) if w <= grid[1]]
    quantizer = MultiScale(VQ(4, 3), grid, [*sizes, grid])
    images = as_images(speak(2, 1, grid, 3), grid)
    for size, down, up in zip(quantizer.scales, quantizer.down, quantizer.up, strict=True):
        small = F.interpolate(images.double(), size, mode="area")
        large = F.interpolate(small, grid, mode="bicubic")
        results = down(images.movedim(1, -1).flatten(1, 2)), up(small.movedim(1, -1).flatten(1, 2).float())
        for result, expected in zip(results, (small, large), strict=True):
            torch.testing.assert_close(result.double(), expected.movedim(1, -1).flatten(1, 2), rtol=0, atol=2e-6)


def test_resampling_is_area_means_down_and_cubic_convolution_up():
    """Keys' kernel with a = -0.75 (1981), the border repeated, samples in the middle of their cells."""

    def kernel(t, a=-0.75):
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        return near if t <= 1 else a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    for size in range(1, 12):
        quantizer = MultiScale(VQ(4, 1), (11, 1), [(size, 1), (11, 1)])
        values = torch.randn(11, dtype=torch.float64)
        edges = [(math.floor(i * 11 / size), math.ceil((i + 1) * 11 / size)) for i in range(size)]
        means = torch.stack([values[start:end].mean() for start, end in edges])
        result = quantizer.down[0](values.float()[None, :, None])[0, :, 0]
        torch.testing.assert_close(result.double(), means, rtol=0, atol=1e-6)
        raised = torch.zeros(11, dtype=torch.float64)
        for i in range(11):
            place = (i + 0.5) * size / 11 - 0.5
            for j in range(math.floor(place) - 1, math.floor(place) + 3):
                raised[i] += kernel(abs(place - j)) * means[min(max(j, 0), size - 1)]
        result = quantizer.up[0](means.float()[None, :, None])[0, :, 0]
        torch.testing.assert_close(result.double(), raised, rtol=0, atol=1e-6)


def test_the_full_grid_is_not_resampled():
    quantizer, latents = make(), speak(1)
    assert torch.equal(quantizer.down[-1](latents), latents) and torch.equal(quantizer.up[-1](latents), latents)


def test_phi_starts_as_the_identity():
    quantizer, latents = MultiScale(VQ(16, 4), GRID, SCALES), speak(1)
    assert all(torch.equal(refinement(latents), latents) for refinement in quantizer.refinements)


def test_scales_share_refinements_as_released():
    var = MultiScale(VQ(4, 2), (16, 16), (1, 2, 3, 4, 5, 6, 8, 10, 13, 16))
    assert var.depths == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3] and len(var.refinements) == 4
    assert make(refinements=1).depths == [0, 0, 0, 0] and make().depths == [0, 1, 2, 3]
    assert MultiScale(VQ(4, 2), (2, 2), [2]).depths == [0]


@pytest.mark.parametrize("scales", range(1, 15))
def test_no_refinement_is_idle_and_depth_never_turns_back(scales):
    for refinements in range(1, 16):
        quantizer = MultiScale(VQ(2, 1), (1, scales), [(1, width + 1) for width in range(scales)], refinements)
        assert quantizer.depths == sorted(quantizer.depths)
        assert set(quantizer.depths) == set(range(len(quantizer.refinements)))
        assert len(quantizer.refinements) == min(refinements, scales)


# -- streams -----------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("training", [False, True])
def test_decode_of_encode_is_forward_bit_for_bit(name, training):
    quantizer, latents = make(name).train(training), speak()
    quantized, streams = quantizer(latents, update=False), quantizer.encode(latents)
    assert same(quantized.streams, streams)
    assert torch.equal(quantizer.decode(streams), quantized.latents)


@EVERY
def test_fewer_codebooks_are_a_prefix(name):
    quantizer, latents = make(name), speak()
    streams = quantizer.encode(latents)
    for scales in (1, 2, 3, 4):
        first = quantizer.encode(latents, scales)
        assert same(first, streams[:scales])
        quantized = quantizer(latents, scales)
        assert same(quantized.streams, first)
        value = quantizer.decode(streams[:scales])
        assert torch.equal(value, quantized.latents)
        absent = [torch.full_like(stream, -1) for stream in streams[scales:]]
        assert torch.equal(quantizer.decode([*first, *absent]), value)


@EVERY
@pytest.mark.parametrize("batch, tiles", [(2, 3), (1, 1), (1, 0), (0, 2)])
def test_each_tile_has_the_codes_of_each_scale(name, batch, tiles):
    quantizer, latents = make(name), speak(tiles, batch)
    streams = quantizer.encode(latents)
    for stream, count, size in zip(streams, COUNTS, quantizer.codebook_sizes, strict=True):
        assert stream.shape == (batch, tiles * count) and stream.dtype == torch.int64
        assert ((stream >= 0) & (stream < size)).all()
    assert quantizer.decode(streams).shape == latents.shape


@pytest.mark.parametrize(
    "grid, scales, dim", [((8, 8), (1, 2, 3, 4, 6, 8), 8), (GRID, SCALES, 5), ((16, 16), (1, 5, 16), 32)]
)
def test_tiles_are_coded_alone(grid, scales, dim):
    """Bit for bit, values too: no product mixes rows of two tiles."""
    quantizer = MultiScale(VQ(64, dim), grid, scales).eval()
    with torch.no_grad():
        quantizer.refinements[0].weight.add_(0.1 * torch.randn(dim, dim, 3, 3))
    latents, area = speak(7, 2, grid, dim), math.prod(grid)
    streams = quantizer.encode(latents)
    values = quantizer.decode(streams)
    for item, first, count in ((0, 0, 1), (1, 6, 1), (1, 2, 2), (0, 3, 4), (1, 0, 7)):
        part = latents[item : item + 1, first * area : (first + count) * area]
        expected = [
            stream[item : item + 1, first * math.prod(size) : (first + count) * math.prod(size)]
            for stream, size in zip(streams, quantizer.scales, strict=True)
        ]
        assert same(quantizer.encode(part), expected)
        alone = quantizer.decode(expected)
        assert torch.equal(alone, values[item : item + 1, first * area : (first + count) * area])


def test_an_absent_code_takes_away_what_it_alone_adds():
    quantizer, latents = make(), speak()
    streams = quantizer.encode(latents)
    absent = [torch.full_like(stream, -1) for stream in streams]
    assert not quantizer.decode(absent).any()
    for scale, stream in enumerate(streams):
        holes, alone = [each.clone() for each in streams], [each.clone() for each in absent]
        place = (1, stream.shape[1] // 2)
        holes[scale][place], alone[scale][place] = -1, stream[place]
        expected = quantizer.decode(streams) - quantizer.decode(alone)
        torch.testing.assert_close(quantizer.decode(holes), expected, rtol=0, atol=1e-5)


# -- gradients and losses ----------------------------------------------------------------------------------


def test_the_gradient_passes_straight_through():
    latents, weights = speak().requires_grad_(), speak()
    (make()(latents).latents * weights).sum().backward()
    assert torch.equal(latents.grad, weights)


@pytest.mark.parametrize("scales", [1, 3, 4])
def test_the_commitment_draws_latents_to_the_tile_as_of_each_scale(scales):
    quantizer, latents = make(), speak().requires_grad_()
    _, _, totals = published(quantizer, latents.detach(), scales)
    quantizer(latents, scales).losses["commitment"].backward()
    expected = sum(2 * (latents.detach() - total) / latents.numel() for total in totals) / scales
    torch.testing.assert_close(latents.grad.double(), expected, rtol=1e-4, atol=1e-7)
    assert all(weight.grad is None for weight in quantizer.parameters())


def test_the_codebook_loss_has_the_gradient_of_the_cumulative_error_once():
    """By finite differences, along random directions of codes and phi, with codes held."""
    quantizer, latents = make().double(), speak().double().requires_grad_()
    streams = quantizer.encode(latents)
    quantizer(latents).losses["codebook"].backward()
    assert latents.grad is None

    def error():
        totals = [quantizer.decode(streams[:scales]) for scales in (1, 2, 3, 4)]
        return torch.stack([F.mse_loss(total, latents) for total in totals]).mean()

    for parameter in quantizer.parameters():
        direction, step = torch.randn_like(parameter), 1e-4
        with torch.no_grad():
            parameter += step * direction
            above = error()
            parameter -= 2 * step * direction
            below = error()
            parameter += step * direction
        torch.testing.assert_close(
            (above - below) / (2 * step), (parameter.grad * direction).sum(), rtol=1e-5, atol=1e-9
        )


@EVERY
def test_a_training_pass_goes_backward_and_has_every_parameter_in_use(name):
    """Also where the pass replaces codes in place."""
    quantizer = make(name).train()
    for scales in (4, 2, 4):
        quantizer.zero_grad(set_to_none=True)
        latents = speak().requires_grad_()
        quantized = quantizer(latents, scales)
        (quantized.latents.sum() + sum(quantized.losses.values())).backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in quantizer.parameters())
        assert (latents.grad != 1).any()
        assert torch.equal(quantizer.decode(quantized.streams), quantized.latents) or name in ("ema",)


# -- the shared codebook -----------------------------------------------------------------------------------


def test_statistics_are_those_of_the_means_of_all_scales_each_once():
    quantizer = MultiScale(EMAVQ(16, 4, lifecycle=Lifecycle(decay=0.0)), GRID, SCALES).train()
    quantizer(speak())
    latents, before = speak(), quantizer.codebook.codebook.clone()
    streams, means, _ = published(quantizer, latents, 3)
    quantizer(latents, 3)
    codes = torch.cat([stream.flatten() for stream in streams])
    assert int(quantizer.codebook.updates) == 2 and int(quantizer.updates) == 2
    assert torch.equal(quantizer.codebook.counts, torch.bincount(codes, minlength=16).float())
    assert quantizer.codebook.counts.sum() == 6 * sum(COUNTS[:3])
    for code in range(16):
        expected = means[codes == code].mean(0).float() if (codes == code).any() else before[code]
        torch.testing.assert_close(quantizer.codebook.codebook[code], expected)


@EVERY
def test_nothing_learns_in_eval_mode_without_update_or_outside_forward(name):
    quantizer = make(name).train()
    before = state(quantizer)
    quantizer(speak(), update=False)
    quantizer.decode(quantizer.encode(speak()))
    quantizer.eval()(speak())
    assert unchanged(before, quantizer)


def test_the_codebook_starts_where_the_latents_are():
    quantizer = MultiScale(EMAVQ(64, 4), GRID, SCALES).train()
    latents = 1e-3 * (speak(16) + torch.tensor([5.0, 0.0, -5.0, 1.0]))
    quantized = quantizer(latents)
    assert quantizer.codebook.codebook.abs().max() < 2e-2
    assert F.mse_loss(quantized.latents, latents) < latents.square().mean()
    assert int(quantizer.codebook.updates) == 1


@pytest.mark.parametrize("member", [VQ, EMAVQ])
def test_latents_go_by_until_the_codebook_has_started(member):
    quantizer = MultiScale(member(16, 4, lifecycle=Lifecycle(start="kmeans", start_vectors=30)), GRID, SCALES).train()
    ready = []
    for _ in range(4):
        latents = speak()
        quantized = quantizer(latents)
        ready.append(quantizer.ready)
        assert [stream.shape for stream in quantized.streams] == [(2, 3 * count) for count in COUNTS]
        assert all((stream >= 0).all() == ready[-1] for stream in quantized.streams)
        assert torch.equal(quantized.latents, latents) != ready[-1]
        assert {"codebook", "commitment"} <= set(quantized.losses)
    assert ready == [False, True, True, True]  # 276 means a pass, 480 to start
    start = F.mse_loss(quantizer.decode(quantizer.encode(latents)), latents)
    assert start < latents.var()


def test_other_losses_of_the_codebook_stay():
    latents = speak().requires_grad_()
    losses = make("cosine")(latents).losses
    assert set(losses) == {"alignment", "codebook", "commitment", "entropy"}
    losses["entropy"].backward()
    assert (latents.grad != 0).any()


def test_what_is_left_becomes_less_with_every_scale():
    """Codes fitted by k-means on the means of all scales together."""
    quantizer = MultiScale(VQ(64, 4), (8, 8), (1, 2, 4, 8))
    smooth = F.interpolate(torch.randn(48, 4, 4, 4), (8, 8), mode="bicubic") + torch.randn(48, 4, 1, 1)
    latents = as_latents(smooth + 0.2 * torch.randn(48, 4, 8, 8), 6)
    for _ in range(5):
        _, means, _ = published(quantizer, latents, 4)
        with torch.no_grad():
            quantizer.codebook.codebook.copy_(kmeans(means.float(), 64)[0])
    streams = quantizer.encode(latents)
    energies = [latents.square().mean()]
    energies += [(latents - quantizer.decode(streams[:scales])).square().mean() for scales in (1, 2, 3, 4)]
    assert energies == sorted(energies, reverse=True) and energies[-1] < 0.1 * energies[0]


# -- precision ---------------------------------------------------------------------------------------------


@EVERY
def test_autocast_and_half_precision_change_nothing(name):
    quantizer, latents = make(name), speak().bfloat16()
    streams, quantized = quantizer.encode(latents.float()), quantizer(latents.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert same(quantizer.encode(latents), streams)
        assert torch.equal(quantizer.decode(streams), quantized.latents)
        again = quantizer(latents)
    assert torch.equal(again.latents, quantized.latents) and again.latents.dtype == torch.float32
    assert again.losses == quantized.losses


@EVERY
def test_huge_and_tiny_latents_give_finite_values(name):
    for scale in (1e6, -1e6, 0.0, 1e-30):
        quantized = make(name)(scale * speak().abs())
        assert quantized.latents.isfinite().all()
        assert all(loss.isfinite() for loss in quantized.losses.values())


def test_a_saved_state_gives_the_same_codes_and_holds_no_tables():
    quantizer, other, latents = make("ema").train(), make("ema"), speak()
    quantizer(latents)
    other.load_state_dict(state(quantizer))
    assert same(quantizer.encode(latents), other.encode(latents))
    assert not any(name.startswith(("up", "down.")) and name != "updates" for name in state(quantizer))


# -- export and refusals -----------------------------------------------------------------------------------


class RoundTrip(torch.nn.Module):
    """Both directions in one graph."""

    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def forward(self, latents):
        streams = self.quantizer.encode(latents)
        return *streams, self.quantizer.decode(streams)


def test_one_graph_serves_every_batch_and_number_of_tiles(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # counts are symbols while tracing
    quantizer = RoundTrip(make(scales=((1, 2), GRID)))
    axes = {0: torch.export.Dim("batch"), 1: 24 * torch.export.Dim("tiles")}
    graph = torch.export.export(quantizer, (speak(),), dynamic_shapes=(axes,)).module(check_guards=False)
    for batch, tiles in ((1, 1), (3, 2), (2, 7)):
        latents = speak(tiles, batch)
        assert same(graph(latents), quantizer(latents))


def test_quantizers_that_cannot_be_are_refused():
    for scales in (
        [],
        [1, 2],
        [1, 7, 6],
        [(0, 1), GRID],
        [GRID, (1, 1)],
        [(7, 1), GRID],
        [6],
        [(1,), GRID],
        [(1, 1, 1), GRID],
    ):
        with pytest.raises(ValueError, match=r"scales are grids within \(6, 4\), the last \(6, 4\) itself"):
            MultiScale(VQ(4, 2), GRID, scales)
    with pytest.raises(ValueError, match="share one codebook, got 2"):
        MultiScale(Residual([VQ(4, 2), VQ(4, 2)]), GRID, SCALES)
    with pytest.raises(ValueError, match="at least 1 refinement, got 0"):
        MultiScale(VQ(4, 2), GRID, SCALES, 0)


def test_plain_lists_describe_it():
    codebook = {"name": "vq", "codebook_size": 16, "dim": 4}
    quantizer = build({"name": "multiscale", "codebook": codebook, "grid": [6, 4], "scales": [[1, 1], [2, 3], [6, 4]]})
    assert quantizer.scales == ((1, 1), (2, 3), GRID) and quantizer.grid == GRID
    assert build({"name": "multiscale", "codebook": codebook, "grid": [4, 4], "scales": [1, 4]}).scales == (
        (1, 1),
        (4, 4),
    )


def test_what_is_no_whole_tile_is_refused():
    quantizer = make()
    for call in (quantizer, quantizer.encode):
        with pytest.raises(ValueError, match="whole tiles of 6 x 4, got 25"):
            call(torch.randn(1, 25, 4))
    with pytest.raises(ValueError, match="whole tiles of 2 x 3, got 5"):
        quantizer.decode([torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 5, dtype=torch.int64)])


@pytest.mark.parametrize("codebooks", [0, 5, -1])
def test_codebooks_that_are_not_there_are_refused(codebooks):
    with pytest.raises(ValueError, match=f"1 to 4 codebooks, one a scale; got {codebooks}"):
        make().encode(speak(), codebooks)


def test_strides_are_positions_per_code_also_where_they_are_no_whole_number():
    assert MultiScale(VQ(4, 2), (8, 8), (1, 2, 4, 8)).strides == (64, 16, 4, 1)
    strides = make().strides
    assert [stride * h * w for stride, (h, w) in zip(strides, make().scales, strict=True)] == [24] * len(strides)
    assert Fraction(24, 15) in strides
    assert make().codebook_sizes == (16,) * 4 and make().dim == 4
