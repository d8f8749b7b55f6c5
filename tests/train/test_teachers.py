"""Teachers say the same of the same sound and stay what they are; distillation draws latents to what they say."""

import math

import pytest
import safetensors.torch
import torch
import torchaudio
from torch import nn

from sigtok.train.losses.distill import Distill, aligned
from sigtok.train.teachers import teacher

TINY = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(8, 10, 5), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 2, 2), (8, 2, 2)],
    "extractor_conv_bias": False, "encoder_embed_dim": 12, "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8, "encoder_pos_conv_groups": 2, "encoder_num_layers": 3, "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1, "encoder_ff_interm_features": 16, "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1, "encoder_layer_norm_first": False, "encoder_layer_drop": 0.5, "aux_num_out": 5,
}  # fmt: skip
MODELS = {
    "TINY": TINY,
    "TINY_LARGE": TINY | {"extractor_mode": "layer_norm", "extractor_conv_bias": True},
    "TINY_WAVLM": TINY | {"encoder_num_buckets": 32, "encoder_max_distance": 80},
}


def bundle(name):
    kind = "WavLM" if name == "TINY_WAVLM" else "Wav2Vec2"
    return torchaudio.pipelines.Wav2Vec2Bundle("tiny.pth", MODELS[name], 16_000, name == "TINY_LARGE", kind)


def network(name):
    make = torchaudio.models.wavlm_model if name == "TINY_WAVLM" else torchaudio.models.wav2vec2_model
    return make(**MODELS[name]).eval()


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A file of random weights for each of three tiny bundles."""
    for name in MODELS:
        monkeypatch.setattr(torchaudio.pipelines, name, bundle(name), raising=False)
        torch.save(network(name).state_dict(), tmp_path / f"{name}.pth")
    return tmp_path


def make(name, weights, rate=24_000, **options):
    return teacher(name, rate) if name == "mfcc" else teacher(name, rate, weights=f"{weights}/{name}.pth", **options)


ALL = pytest.mark.parametrize("name", ["mfcc", "TINY", "TINY_LARGE", "TINY_WAVLM"])


def sound(seconds=1.0, rate=24_000, batch=2):
    time = torch.arange(round(seconds * rate)) / rate
    return 0.3 * torch.sin(2000 * time + 300 * time**2 + torch.arange(batch)[:, None]).unsqueeze(1)


# -- all teachers ------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_there_is_a_frame_for_every_fiftieth_of_a_second_begun(name, weights, rate):
    heard = make(name, weights, rate)
    assert heard.frame_rate == 50 and heard.channels == (39 if name == "mfcc" else 12)
    for samples in (1, rate // 50, rate // 50 + 3, rate // 2):
        features = heard(torch.randn(1, 1, samples).clamp(-1, 1))
        assert features.shape == (1, math.ceil(math.ceil(samples * 16_000 / rate) / 320), heard.channels)
        assert features.dtype == torch.float32 and features.isfinite().all() and not features.requires_grad
    with pytest.raises(ValueError, match="at least one sample, got none"):
        heard(torch.zeros(1, 1, 0))


def test_a_speech_models_frame_is_centred_in_its_own_fiftieth_of_a_second(weights):
    heard = make("TINY", weights, 16_000)
    extractor = heard.network.feature_extractor
    extractor.conv_layers[0].layer_norm = None  # it looks at all of time
    signal = torch.randn(1, 16_000, requires_grad=True)
    frames, _ = extractor(nn.functional.pad(signal, heard.ends), None)
    assert frames.shape[1] == 50
    for n in (0, 1, 20, 49):
        [seen] = torch.autograd.grad(frames[0, n].sum(), signal, retain_graph=True)
        places = seen[0].nonzero()[:, 0]
        assert (places.min(), places.max()) == (max(0, 320 * n - 40), min(16_000, 320 * n + 360) - 1)


def test_a_cepstral_frame_is_centred_in_its_own_fiftieth_of_a_second():
    signal = torch.zeros(1, 1, 16_000)
    signal[..., 20 * 320 + 160] = 0.9
    changes = teacher("mfcc", 16_000)(signal)[0, :, :13].norm(dim=-1)
    assert int(changes.argmax()) == 20 and changes[19] == pytest.approx(float(changes[21]), rel=0.01)


@ALL
def test_an_item_hears_nothing_of_its_batch(name, weights):
    heard, signal = make(name, weights), sound(batch=3)
    together = heard(signal * torch.tensor([1.0, 0.1, 0.01])[:, None, None])
    for item, gain in enumerate((1.0, 0.1, 0.01)):
        torch.testing.assert_close(
            together[item : item + 1], heard(gain * signal[item : item + 1]), atol=1e-4, rtol=1e-4
        )


@ALL
def test_autocast_changes_nothing(name, weights):
    heard, signal = make(name, weights), sound(0.3)
    with torch.autocast("cpu", torch.bfloat16):
        features = heard(signal)
    assert torch.equal(features, heard(signal))


@ALL
def test_a_task_that_holds_a_teacher_neither_stores_nor_trains_it(name, weights):
    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher, self.linear = make(name, weights), nn.Linear(2, 2)

    task, signal = Task(), sound(0.3)
    before = task.teacher(signal)
    task.train()
    assert set(task.state_dict()) == {"linear.weight", "linear.bias"} and len(list(task.parameters())) == 2
    assert torch.equal(task.teacher(signal), before), "no dropout"


# -- cepstra -----------------------------------------------------------------------------------------------


def test_cepstra_have_mean_zero_and_deviation_one_and_silence_none():
    features = teacher("mfcc", 24_000)(sound(2.0))
    torch.testing.assert_close(features.mean(1), torch.zeros(2, 39), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.square().mean(1), torch.ones(2, 39), atol=1e-3, rtol=0)
    assert teacher("mfcc", 24_000)(torch.zeros(1, 1, 24_000)).abs().max() < 0.01


def test_cepstra_forget_gain():
    heard, signal = teacher("mfcc", 16_000), torch.randn(1, 1, 8000).mul(0.2).clamp(-1, 1)
    torch.testing.assert_close(heard(signal), heard(signal / 2), atol=1e-3, rtol=0)


def test_cepstra_have_no_weights():
    for options in ({"layers": [1]}, {"weights": "file"}, {"download": True}):
        with pytest.raises(ValueError, match="mfcc has no layers and no weights"):
            teacher("mfcc", 16_000, **options)


# -- speech models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["TINY", "TINY_WAVLM"])
@pytest.mark.parametrize("layers", [None, [2], [1, 3]])
def test_features_are_the_mean_of_the_layers_outputs(name, weights, layers):
    heard, own = make(name, weights, 16_000, layers=layers), network(name)
    own.load_state_dict(torch.load(weights / f"{name}.pth", weights_only=True))
    signal = sound(0.5, 16_000)
    outputs, _ = own.extract_features(nn.functional.pad(signal[:, 0], (40, 40)))
    expected = sum(outputs[layer - 1] for layer in layers or (1, 2, 3)) / len(layers or (1, 2, 3))
    torch.testing.assert_close(heard(signal), expected)
    assert heard.name == f"{name} " + {None: "all layers", 2: "layers 2", 1: "layers 1,3"}[layers and layers[0]]


def test_a_large_models_signal_is_normalised_item_by_item(weights):
    heard, own = make("TINY_LARGE", weights, 16_000), network("TINY_LARGE")
    own.load_state_dict(torch.load(weights / "TINY_LARGE.pth", weights_only=True))
    signal = torch.tensor([[1.0], [0.4]]) * sound(1.0, 16_000)[:, 0] + 0.1
    normal = torch.stack([(item - item.mean()) / item.std(correction=0) for item in signal])
    for given, same in ((normal, True), (signal, False)):
        outputs, _ = own.extract_features(nn.functional.pad(given, (40, 40)))
        expected = sum(outputs) / 3
        assert torch.allclose(heard(signal[:, None]), expected, atol=5e-3) == same


def test_safetensors_do_as_well_and_heads_are_left_out(weights):
    state = torch.load(weights / "TINY.pth", weights_only=True)
    assert any(name.startswith("aux.") for name in state)
    plain = {name: value.contiguous() for name, value in state.items() if not name.startswith("aux.")}
    safetensors.torch.save_file(plain, weights / "t.safetensors")
    signal = sound(0.3)
    other = teacher("TINY", 24_000, weights=str(weights / "t.safetensors"))
    assert torch.equal(other(signal), make("TINY", weights)(signal))


def test_making_a_teacher_rolls_no_dice(weights):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    make("TINY", weights)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_fetched_unless_asked_for(weights, monkeypatch):
    state, asked = torch.load(weights / "TINY.pth", weights_only=True), []

    def fetch(self, _):
        asked.append(self._path)
        return state

    monkeypatch.setattr(torchaudio.pipelines.Wav2Vec2Bundle, "_get_state_dict", fetch)
    with pytest.raises(ValueError, match=r"TINY needs weights and none are given; fetch https://.*/tiny.pth and set"):
        teacher("TINY", 16_000)
    make("TINY", weights)
    assert not asked
    signal = sound(0.3)
    assert torch.equal(teacher("TINY", 24_000, download=True)(signal), make("TINY", weights)(signal))
    assert asked == ["tiny.pth"]


def test_mistakes_are_named(weights, tmp_path):
    with pytest.raises(ValueError, match=r"teachers are mfcc and the bundles .*HUBERT_BASE.*, got 'HUBERT'"):
        teacher("HUBERT", 16_000)
    for layers in ([], [0], [4]):
        with pytest.raises(ValueError, match="TINY has layers 1 to 3, got"):
            make("TINY", weights, layers=layers)
    with pytest.raises(ValueError, match=r"TINY_WAVLM.pth does not hold the weights of TINY:.*Missing key"):
        teacher("TINY", 16_000, weights=str(weights / "TINY_WAVLM.pth"))
    with pytest.raises(ValueError, match="none.pth is not read"):
        teacher("TINY", 16_000, weights="none.pth")
    torch.save({"model": {}, "epoch": 3}, tmp_path / "run.pth")
    with pytest.raises(ValueError, match="run.pth holds something else"):
        teacher("TINY", 16_000, weights=str(tmp_path / "run.pth"))


# -- distillation ------------------------------------------------------------------------------------------


def cosine(some, others):
    return float((some @ others / (some.norm() * others.norm())).detach())


@pytest.mark.parametrize("form", ["cosine", "d_axis"])
def test_the_loss_is_that_of_the_papers(form):
    loss, student, target = Distill(4, 6, 50.0, 50.0, form), torch.randn(2, 10, 4), torch.randn(2, 10, 6)
    guess = student @ loss.into.weight.t() + loss.into.bias
    if form == "cosine":
        expected = sum(1 - cosine(guess[b, n], target[b, n]) for b in range(2) for n in range(10)) / 20
    else:
        odds = [1 / (1 + math.exp(-cosine(guess[b, :, f], target[b, :, f]))) for b in range(2) for f in range(6)]
        expected = -sum(map(math.log, odds)) / 12
    assert float(loss(student, target).detach()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("form, least", [("cosine", 0), ("d_axis", math.log(1 + math.exp(-1)))])
def test_it_is_least_where_both_agree_whatever_their_length(form, least):
    loss, target = Distill(6, 6, 50.0, 50.0, form), torch.randn(2, 10, 6)
    torch.nn.init.eye_(loss.into.weight)
    torch.nn.init.zeros_(loss.into.bias)
    assert float(loss(3 * target, target).detach()) == pytest.approx(least, abs=1e-5)
    assert float(loss(-target, target)) > float(loss(target + torch.randn_like(target), target)) > least


@pytest.mark.parametrize("form", ["cosine", "d_axis"])
def test_the_student_learns_and_the_target_does_not(form):
    loss = Distill(4, 6, 25.0, 50.0, form)
    student, target = torch.randn(2, 10, 4, requires_grad=True), torch.randn(2, 20, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, target)
    assert value.dtype == torch.float32 and value == loss(student, target)
    value.backward()
    assert target.grad is None and (student.grad != 0).any() and (loss.into.weight.grad != 0).any()
    for silent in (torch.zeros(2, 10, 4), torch.randn(2, 10, 4)):
        silent.requires_grad_()
        loss.zero_grad()
        value = loss(silent, torch.zeros(2, 20, 6))
        value.backward()
        assert value.isfinite() and silent.grad.isfinite().all()


def test_the_faster_is_averaged_down_to_the_slower():
    fast, slow = torch.randn(1, 12, 3), torch.randn(1, 3, 3)
    some, others = aligned(slow, fast, 12.5, 50.0)
    assert torch.equal(some, slow)
    torch.testing.assert_close(others, fast.unflatten(1, (3, 4)).mean(2))
    others, some = aligned(fast, slow, 50.0, 12.5)
    torch.testing.assert_close(others, fast.unflatten(1, (3, 4)).mean(2))
    assert torch.equal(some, slow)
    halves, _ = aligned(torch.arange(6.0).view(1, 6, 1), torch.zeros(1, 4, 1), 75.0, 50.0)
    assert halves.flatten().tolist() == [0.5, 1.5, 3.5, 4.5], "1.5 steps to one: each reads the steps that it touches"


@pytest.mark.parametrize("steps, frames, fits", [(10, 40, 10), (10, 39, 9), (11, 40, 10), (10, 43, 10), (10, 44, 10),
                                                 (10, 45, 0), (10, 35, 0), (1, 3, 0)])  # fmt: skip
def test_one_step_may_be_missing_and_not_two(steps, frames, fits):
    student, target = torch.randn(1, steps, 3), torch.randn(1, frames, 3)
    if fits:
        some, others = aligned(student, target, 12.5, 50.0)
        assert some.shape == others.shape == (1, fits, 3)
        torch.testing.assert_close(others[:, 0], target[:, :4].mean(1))
    else:
        with pytest.raises(ValueError, match=f"got {steps} at 12.5 Hz and {frames} at 50 Hz"):
            aligned(student, target, 12.5, 50.0)


def test_the_rate_may_be_that_of_the_pass():
    loss, student, target = Distill(4, 6, 12.5, 50.0), torch.randn(1, 10, 4), torch.randn(1, 20, 6)
    with pytest.raises(ValueError, match="10 at 12.5 Hz and 20 at 50 Hz"):
        loss(student, target)
    loss.student_rate = 25.0
    expected = loss(student, target)
    loss.student_rate = 12.5
    assert loss(student, target, 25.0) == expected
