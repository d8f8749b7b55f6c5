"""Objectives look inside the codec: hidden is told, deep is guessed, bits are weighed, and none of them cheats."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.audio.models import almtokenizer, frame_speech, walloc_stereo
from sigtok.codecs.codec import Reconstruction
from sigtok.codecs.image.models import walloc_image
from sigtok.codecs.spec import Rate
from sigtok.train.objectives.depth import DepthAutoregression, stage_table, stage_values
from sigtok.train.objectives.distill import Distillation
from sigtok.train.objectives.mae import MaskedAutoencoder
from sigtok.train.objectives.rate_distortion import RateDistortion
from sigtok.train.teachers import Teacher

TINY = dict(
    sample_rate=8000, hop=40, windows=(3, 2), dim=16, heads=2, encoder_depth=1, decoder_depth=1, codebooks=3,
    codebook_size=8, latent_dim=4, context=0.05,
)  # fmt: skip


@pytest.fixture
def codec():
    torch.manual_seed(0)
    return almtokenizer(**TINY).train()


def judged(objective, codec, rate=None, windows=5, seed=0):
    rate = codec.spec.resolve(rate)
    signal = 0.1 * torch.randn(2, 1, windows * codec.spec.step(rate)[0], generator=torch.Generator().manual_seed(seed))
    reconstruction = codec(signal, rate)
    return objective(codec, signal, reconstruction, rate), reconstruction, signal


# -- masked autoencoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [2, 3, 10, 75])
@pytest.mark.parametrize("ratio, span", [((0.2, 0.3), 3), ((0.5, 0.5), 1), ((0.9, 0.95), 5)])
def test_every_item_hides_its_share_and_shows_the_rest(positions, ratio, span):
    hidden = MaskedAutoencoder(4, 8, 1, 2, ratio, span).draw(50, positions)
    counts = hidden.sum(1)
    low, high = (min(max(1, round(share * positions)), positions - 1) for share in ratio)
    assert hidden.shape == (50, positions) and low <= int(counts.min()) and int(counts.max()) <= high
    if positions > 8 and low < 8:
        assert len({tuple(row.tolist()) for row in hidden}) > 25  # items differ


def test_runs_are_longer_with_a_longer_span():
    def runs(span):
        hidden = MaskedAutoencoder(4, 8, 1, 2, (0.25, 0.25), span).draw(200, 60)
        begins = hidden & ~F.pad(hidden, (1, -1))
        return hidden.sum() / begins.sum()

    torch.manual_seed(0)
    assert runs(1) < 1.5 and runs(6) > 2.5


def test_what_is_hidden_does_not_reach_the_guess(codec, monkeypatch):
    objective = MaskedAutoencoder(16, 8, 1, 2)
    hidden = torch.zeros(2, 15, dtype=torch.bool)
    hidden[:, 4] = True
    monkeypatch.setattr(objective, "draw", lambda items, positions: hidden)
    seen = []
    read = codec.encoder.queries.read

    def watched(positions, *rest):
        seen.append(positions.flatten(1, 2))
        return read(positions, *rest)

    monkeypatch.setattr(codec.encoder.queries, "read", watched)
    judged(objective, codec)
    masked = seen[-1]
    assert torch.equal(masked[:, 4], objective.mask.expand(2, -1))
    assert not torch.isclose(masked[:, 3], objective.mask).any()


def test_the_target_is_normalised_and_has_no_gradient(codec):
    objective = MaskedAutoencoder(16, 8, 1, 2)
    torch.nn.init.zeros_(objective.out.weight), torch.nn.init.zeros_(objective.out.bias)
    found, _, _ = judged(objective, codec)
    assert found.losses["mae"].item() == pytest.approx(1, abs=1e-2)  # of mean 0 and deviation 1, against zeros
    found.losses["mae"].backward()
    assert all(weight.grad is None or not weight.grad.any() for weight in codec.encoder.front.parameters())


@pytest.mark.parametrize("window", [2, 3])
def test_it_learns_at_every_window_and_reaches_the_encoder(codec, window):
    torch.manual_seed(0)
    objective = MaskedAutoencoder(16, 16, 1, 2, (0.3, 0.3))
    optimizer = torch.optim.Adam([*objective.parameters(), *codec.encoder.parameters()], 3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = judged(objective, codec, Rate(window=(window,)))[0].losses["mae"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert codec.encoder.queries.transformer.blocks[0].up.weight.grad.abs().sum() > 0


def test_an_encoder_without_queries_is_named():
    codec = frame_speech(front="spectrum", sample_rate=8000, hop=40, dim=16, codebooks=2, codebook_size=8, latent_dim=4)
    with pytest.raises(ValueError, match="needs an encoder with queries, frame_speech has none"):
        judged(MaskedAutoencoder(16, 8, 1, 2), codec.train())


# -- depth autoregression ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["cross_entropy", "mse"])
@pytest.mark.parametrize("time", [True, False])
def test_a_guess_sees_only_codebooks_and_positions_before(form, time):
    objective = DepthAutoregression(4, 3, form, time, 8, 1, 2).double()
    values = torch.randn(1, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    guess = objective.guess(values, torch.tensor(1e-6))
    for position in range(5):
        for book in range(3):
            (gradient,) = torch.autograd.grad(guess[0, position, book].square().sum(), values, retain_graph=True)
            seen = {(int(n), int(q)) for n, q in (gradient[0].abs().sum(-1) > 1e-12).nonzero()}
            depth = {(position, earlier) for earlier in range(book)}
            past = {(n, q) for n in range(max(0, position - 3), position) for q in range(3)} if time else set()
            assert seen == depth | past


def test_stage_values_are_those_that_add_up_to_the_latents(codec):
    _, reconstruction, _ = judged(DepthAutoregression(4, 3, width=8, depth=1, heads=2), codec.eval())
    values = stage_values(codec.quantizer, reconstruction.latents, reconstruction.quantized.streams)
    torch.testing.assert_close(values.sum(2), reconstruction.quantized.latents)
    for book in range(3):
        table = stage_table(codec.quantizer, book, torch.device("cpu"))
        torch.testing.assert_close(table[reconstruction.quantized.streams[book]], values[:, :, book])


@pytest.mark.parametrize("form", ["cross_entropy", "mse"])
def test_gradients_reach_what_is_read_and_not_what_is_guessed(codec, form):
    objective = DepthAutoregression(4, 3, form, False, 8, 1, 2)
    latents = torch.randn(2, 6, 4, requires_grad=True)
    codec.eval()
    quantized = codec.quantizer(latents)
    values = stage_values(codec.quantizer, latents, quantized.streams)
    values.retain_grad()
    guesses = objective.guess(values, torch.tensor(1e-6))
    guesses[..., 2, :].square().sum().backward()
    assert values.grad[..., :2, :].abs().sum() > 0 and not values.grad[..., 2, :].any()
    assert latents.grad.abs().sum() > 0


def test_values_of_next_to_no_length_have_gradients_within_bounds(codec):
    """Deep stages leave values near zero; normalising them as they are once made a gradient of 1e9."""
    objective = DepthAutoregression(4, 3, width=8, depth=1, heads=2)
    latents = torch.randn(2, 6, 4)
    steepest = []
    for length in (1.0, 1e-3, 1e-9):
        values = (latents[:, :, None].repeat(1, 1, 3, 1) * length).requires_grad_()
        objective.guess(values, torch.tensor(0.1)).square().sum().backward()
        steepest.append(values.grad.abs().max())
    assert steepest[2] < 100 * steepest[0] and steepest[1] < 100 * steepest[0]


@pytest.mark.parametrize("form", ["cross_entropy", "mse"])
def test_a_rule_between_codebooks_is_learnt_and_chance_is_not(codec, form):
    """Codebook 1 repeats codebook 0, codebook 2 is random."""
    torch.manual_seed(1)
    objective = DepthAutoregression(4, 3, form, False, 32, 1, 4)
    codec.eval()
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    for _ in range(150):
        code = torch.randint(8, (8, 40))
        streams = (code, code, torch.randint(8, (8, 40)))
        found = guessed(objective, codec, streams)
        optimizer.zero_grad()
        found.losses["depth"].backward()
        optimizer.step()
    assert found.figures["next_code_accuracy_1"] > 0.9 and found.figures["next_code_accuracy_2"] < 0.3


def guessed(objective, codec, streams):
    """What an objective says of given codes."""
    latents = codec.quantizer.decode(streams)
    quantized = codec.quantizer(latents)._replace(streams=streams)
    signal = torch.zeros(1)
    return objective(codec, signal, Reconstruction(signal, quantized, latents), codec.spec.resolve())


def test_absent_codes_are_not_guessed(codec):
    codec.eval()
    objective = DepthAutoregression(4, 3, width=8, depth=1, heads=2)
    streams = [torch.randint(8, (2, 6)) for _ in range(3)]
    whole = guessed(objective, codec, tuple(stream[:1] for stream in streams))
    streams[1][1], streams[2][1] = -1, -1
    part = guessed(objective, codec, tuple(streams))
    assert part.losses["depth"].isfinite()
    torch.testing.assert_close(part.losses["depth"], whole.losses["depth"])


def test_one_codebook_or_none_yet_costs_nothing_but_is_in_the_graph(codec):
    objective = DepthAutoregression(4, 3, width=8, depth=1, heads=2)
    found, _, _ = judged(objective, codec, Rate(codebooks=1))
    found.losses["depth"].backward()
    assert found.losses["depth"] == 0 and not found.figures
    assert all(weight.grad is not None and not weight.grad.any() for weight in objective.parameters())


def test_codecs_without_stages_or_codes_are_named(codec):
    objective = DepthAutoregression(4, 3, width=8, depth=1, heads=2)
    signal = torch.zeros(1, 1, 240)
    with pytest.raises(ValueError, match="needs codes"):
        objective(codec, signal, codec(signal, quantize=False), codec.spec.resolve())
    other = almtokenizer(**{**TINY, "quantizer": {"name": "fsq", "levels": [3, 3, 3, 3]}}).train()
    with pytest.raises(ValueError, match="needs a residual quantizer, got FSQ"):
        objective(other, signal, other(signal), other.spec.resolve())


# -- distillation ------------------------------------------------------------------------------------------


class Level(Teacher):
    """Loudness and its negative, 20 times a second."""

    def __init__(self, sample_rate=8000):
        super().__init__("level", sample_rate, sample_rate, sample_rate // 20, 2)

    def features(self, signal):
        loud = signal.unflatten(1, (-1, self.hop)).square().mean(-1).log()
        return torch.stack((loud, -loud), dim=-1)


@pytest.mark.parametrize("form", ["cosine", "d_axis"])
@pytest.mark.parametrize("quantizer", ["residual", "split"])
def test_the_first_codebook_is_taught_and_the_others_are_left_alone(form, quantizer):
    torch.manual_seed(0)
    first, rest = ({"name": "vq", "codebook_size": 8, "dim": 4} for _ in range(2))
    parts = {"stages": [first, rest]} if quantizer == "residual" else {"first": first, "rest": rest}
    codec = almtokenizer(**{**TINY, "quantizer": {"name": quantizer, **parts}}).eval()
    objective, heard = Distillation(Level(), 4, form), []
    objective.distance.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0]))
    found, reconstruction, _ = judged(objective, codec, windows=50)
    torch.testing.assert_close(heard[0], codec.quantizer.decode(reconstruction.quantized.streams[:1]))
    found.losses["distill"].backward()
    _, other = codec.quantizer.children() if quantizer == "split" else codec.quantizer.stages
    assert other.codebook.grad is None or not other.codebook.grad.any()
    assert codec.encoder.project.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("window", [2, 3])
def test_what_the_teacher_hears_is_learnt(codec, window):
    torch.manual_seed(0)
    objective = Distillation(Level(), 4)
    optimizer = torch.optim.Adam([*objective.parameters(), *codec.encoder.parameters()], 3e-3)
    losses = []
    for seed in range(60):
        optimizer.zero_grad()
        loss = judged(objective, codec, Rate(window=(window,)), windows=60, seed=seed)[0].losses["distill"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_teacher_of_another_rate_is_refused_and_none_is_stored(codec):
    objective = Distillation(Level(16_000), 4)
    with pytest.raises(ValueError, match="hears 16000 Hz, almtokenizer works at 8000 Hz"):
        judged(objective, codec)
    assert set(objective.state_dict()) == {"distance.into.weight", "distance.into.bias"}


# -- bits against squared error ----------------------------------------------------------------------------

RUNGS = {"width": 8, "depth": 1, "qualities": 3, "quality_steps": 4, "hidden": 3, "first": 1e3, "last": 1e5}


def picture_codec(**options):
    return walloc_image(levels=1, low=1, states=3, **(RUNGS | options))


def sound_codec():
    return walloc_stereo(sample_rate=8000, bins=16, **RUNGS)


def weighed(codec, shape, quality, training):
    """An objective's word on noise, with all that it is made of."""
    codec.train(training)
    objective, rate = RateDistortion(10.0, 1000.0).train(training), codec.spec.resolve(Rate(quality=quality))
    signal = torch.rand(2, *shape) - 0.5
    reconstruction = codec(signal, rate)
    return objective(codec, signal, reconstruction, rate), reconstruction, signal, rate


@pytest.mark.parametrize(
    ("build", "shape", "grid"), [(picture_codec, (3, 12, 8), (6, 4)), (sound_codec, (2, 80), (80,))]
)
@pytest.mark.parametrize(("quality", "trade"), [(1.0, 10.0), (2.0, 100.0), (2.5, 100 * math.sqrt(10)), (3.0, 1000.0)])
def test_the_loss_is_bits_a_pixel_and_the_squared_error_times_lambda(build, shape, grid, quality, trade):
    codec = build()
    found, reconstruction, signal, rate = weighed(codec, shape, quality, training=False)
    whole = reconstruction.latents.round()
    bits = codec.entropy(whole, grid, rate)
    assert bits.shape == (2,)
    pixels = math.prod(shape[1:])  # of all channels together
    expected = float((bits[0] + bits[1]) / (2 * pixels))
    error = sum(float((a - b) ** 2) for a, b in zip(signal.ravel(), reconstruction.signal.ravel(), strict=True))
    error /= 2 * shape[0] * pixels
    assert float(found.figures["bits"]) == pytest.approx(expected, rel=1e-5)
    assert float(found.figures["squared_error"]) == pytest.approx(error, rel=1e-4)
    assert float(found.losses["rate_distortion"]) == pytest.approx(expected + trade * error, rel=1e-4)
    assert not found.figures["bits"].requires_grad and not found.figures["squared_error"].requires_grad


def test_lambdas_are_in_even_proportion_and_the_first_where_there_are_no_others():
    objective = RateDistortion(25.0, 3000.0)
    lambdas = [objective.trade(6, quality) for quality in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]
    assert lambdas[0] == 25 and lambdas[-1] == pytest.approx(3000)
    assert [after / before for before, after in itertools.pairwise(lambdas)] == pytest.approx([120 ** (1 / 5)] * 5)
    assert objective.trade(6, 2.25) == pytest.approx(lambdas[1] ** 0.75 * lambdas[2] ** 0.25)
    assert objective.trade(0, None) == objective.trade(1, 1.0) == 25


def test_the_density_reads_noise_in_training_and_whole_numbers_otherwise(monkeypatch):
    codec, seen = picture_codec(), []
    monkeypatch.setattr(codec.entropy, "forward", lambda *inputs: seen.append(inputs) or torch.zeros(2))
    for training in (True, True, False, False):
        torch.manual_seed(0)
        _, reconstruction, _, _ = weighed(codec, (3, 40, 48), 2.0, training)
        values, _, _, rounded = seen[-1]
        noise = (values - reconstruction.latents).detach()
        assert torch.equal(rounded, reconstruction.latents.round())
        if training:
            assert noise.abs().max() <= 0.5 + 1e-5 and noise.mean().abs() < 0.01
            assert float(noise.square().mean()) == pytest.approx(1 / 12, rel=0.05)
        else:
            assert torch.equal(values, rounded)
    reconstruction, rate = codec.train()(torch.zeros(1, 3, 8, 8), Rate(quality=1.0)), Rate(quality=1.0)
    for _ in range(2):
        RateDistortion(1.0, 1.0)(codec, torch.zeros(1, 3, 8, 8), reconstruction, codec.spec.resolve(rate))
    assert not torch.equal(seen[-1][0], seen[-2][0])  # noise is new at every call


@pytest.mark.parametrize(("build", "shape"), [(picture_codec, (3, 16, 16)), (sound_codec, (2, 160))])
def test_gradients_reach_encoder_decoder_and_density_at_the_quality_of_the_pass(build, shape):
    codec = build()
    found, _, _, _ = weighed(codec, shape, 2.5, training=True)
    found.losses["rate_distortion"].backward()
    for law in (codec.encoder.gains.log_gain, codec.encoder.gains.shrink, codec.decoder.steps.log_step):
        reached = law.grad.abs().sum(1) > 0
        assert reached.tolist() == [False, True, True]
    assert codec.decoder.steps.outward.grad.any() and codec.decoder.head.weight.grad.any()
    assert any(weight.grad is not None and weight.grad.any() for weight in codec.entropy.parameters())
    mixing = codec.encoder.linear if hasattr(codec.encoder, "linear") else codec.encoder.mixing.weight
    assert mixing.grad.any()


def test_finer_gains_cost_bits_and_coarser_ones_error():
    """The gradient of the rate wants smaller gains, that of the error larger ones."""
    codec = picture_codec()
    for lambdas, sign in (((1e-9, 1e-9), 1), ((1e12, 1e12), -1)):
        codec.zero_grad()
        rate, signal = codec.spec.resolve(Rate(quality=1.0)), 2 * torch.rand(2, 3, 32, 32) - 1
        found = RateDistortion(*lambdas)(codec.train(), signal, codec(signal, rate), rate)
        found.losses["rate_distortion"].backward()
        assert torch.sign((codec.encoder.gains.log_gain.grad[0] - codec.decoder.steps.log_step.grad[0]).sum()) == sign


@pytest.mark.parametrize("lambdas", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_lambdas_that_fall_or_are_not_positive_are_refused(lambdas):
    with pytest.raises(ValueError, match=rf"positive and rise with quality, got {lambdas[0]} and {lambdas[1]}"):
        RateDistortion(*lambdas)


def test_a_codec_without_a_density_has_no_rate(codec):
    with pytest.raises(ValueError, match="needs a codec with a density, got NoneType"):
        judged(RateDistortion(1.0, 2.0), codec)
