"""Training beyond one optimizer: an adversary, a balancer, batches that add up, parts at rest, and where runs start."""

import pytest
import safetensors.torch
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger

from sigtok.codecs.audio.models import almtokenizer
from sigtok.codecs.pretrained import load
from sigtok.train import release as releasing
from sigtok.train.adversary import Adversary
from sigtok.train.balancer import Balancer
from sigtok.train.cli import main
from sigtok.train.data.synthetic import Tones
from sigtok.train.discriminators.stft import ms_stft
from sigtok.train.discriminators.waveform import mpd
from sigtok.train.initial import TRAIN_STATE
from sigtok.train.losses.adversarial import LeCam
from sigtok.train.losses.spectral import MultiScaleMel
from sigtok.train.losses.waveform import L1
from sigtok.train.objectives.depth import DepthAutoregression
from sigtok.train.objectives.mae import MaskedAutoencoder
from sigtok.train.rates import Draw, Rates
from sigtok.train.task import CodecTask

TINY = dict(
    sample_rate=8000, hop=40, windows=(3, 2), dim=16, heads=2, encoder_depth=1, decoder_depth=1, codebooks=2,
    codebook_size=8, latent_dim=4, context=0.05,
)  # fmt: skip
PLAIN = {"l1": 1.0, "mel": 0.1, "commitment": 0.25}
HEARD = PLAIN | {"adversarial": 1.0, "feature_matching": 2.0}


def adversary(**settings):
    torch.manual_seed(1)
    members = [mpd((2, 3), (2, 4)), ms_stft((64, 32), 2)]
    return Adversary(members, **{"learning_rate": 1e-2} | settings)


def task(**settings):
    torch.manual_seed(0)
    losses = {"l1": L1(), "mel": MultiScaleMel(8000, [64, 256], [10, 40])}
    defaults = {"loss_weights": PLAIN, "rates": Rates(Draw(full=0.5)), "learning_rate": 3e-3, "total_steps": 100}
    return CodecTask(almtokenizer(**TINY), losses, **defaults | settings)


def tones(**settings):
    return Tones(**{"sample_rate": 8000, "seconds": 0.15, "val_items": 4, "batch_size": 4} | settings)


def fit(model, folder, steps, data=None, checkpoint=None, **settings):
    defaults = dict(logger=False, enable_checkpointing=False, log_every_n_steps=1, limit_val_batches=0)
    run = Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, **(defaults | settings),
    )  # fmt: skip
    run.fit(model, data or tones(), ckpt_path=checkpoint)
    return run


def weights_of(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def moved(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# -- the adversary -----------------------------------------------------------------------------------------


def test_only_steps_of_the_codec_count(tmp_path):
    model = task(adversary=adversary(), loss_weights=HEARD)
    run = fit(model, tmp_path, 5, logger=CSVLogger(tmp_path))
    assert run.global_step == 5
    rows = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().split("\n")
    names = rows[0].split(",")
    assert {"train/adversarial", "train/feature_matching", "train/discriminator"} <= set(names)
    assert {"train/gradient_norm", "train/discriminator_gradient_norm"} <= set(names)


def test_it_is_silent_and_at_rest_before_its_start_and_rises_over_its_ramp(tmp_path):
    critic = adversary(start=3, ramp=2)
    assert [critic.weight(step) for step in range(7)] == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1, 1])
    before = weights_of(critic)
    fit(task(adversary=critic, loss_weights=HEARD), tmp_path / "early", 3)
    assert not moved(before, weights_of(critic))
    fit(task(adversary=critic, loss_weights=HEARD), tmp_path / "late", 4)
    assert moved(before, weights_of(critic))


def test_discriminators_learn_at_every_nth_step(tmp_path):
    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            after = weights_of(pl_module.adversary)
            seen.append(bool(moved(self.before, after)))
            self.before = after

        def on_train_start(self, trainer, pl_module):
            self.before = weights_of(pl_module.adversary)

    seen = []
    fit(task(adversary=adversary(start=1, every=2), loss_weights=HEARD), tmp_path, 6, callbacks=[Watch()])
    assert seen == [False, True, False, True, False, True]


def test_no_gradient_of_the_codecs_losses_reaches_the_discriminators_nor_back():
    critic, signal = adversary(), torch.randn(2, 1, 400)
    reconstruction = torch.randn(2, 1, 400, requires_grad=True)
    sum(critic.losses(signal, reconstruction).values()).backward()
    assert all(weight.grad is None for weight in critic.parameters()) and reconstruction.grad.abs().sum() > 0
    assert all(weight.requires_grad for weight in critic.parameters())
    reconstruction.grad = None
    critic.lesson(signal, reconstruction).backward()
    assert reconstruction.grad is None and all(weight.grad is not None for weight in critic.parameters())


def test_lecam_adds_its_distance_to_the_lesson_and_to_nothing_else():
    signal, made = torch.rand(2, 1, 640) - 0.5, torch.rand(2, 1, 640) - 0.5
    plain, tied = adversary(), adversary(lecam=0.5)
    expected = LeCam(0.5)
    scores = [[judgement.score for judgement in plain.judge(each)] for each in (signal, made)]
    for _ in range(2):
        lesson = plain.lesson(signal, made) + expected(*scores)
        torch.testing.assert_close(tied.lesson(signal, made), lesson)
    torch.testing.assert_close(tied.losses(signal, made), plain.losses(signal, made))
    assert expected(*scores) > 0


def test_it_learns_to_tell_and_the_codec_hears_it(tmp_path):
    alone, heard = task(), task(adversary=adversary(), loss_weights=HEARD)
    fit(alone, tmp_path / "alone", 3), fit(heard, tmp_path / "heard", 3)
    assert moved(weights_of(alone.codec.decoder), weights_of(heard.codec.decoder))
    critic, data = adversary(), tones(batch_size=8)
    optimizer, batches = critic.optimizer(), iter(data.train_dataloader())
    losses = []
    for _ in range(40):
        signal = next(batches)
        optimizer.zero_grad()
        losses.append(critic.lesson(signal, 0.3 * torch.randn_like(signal)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_a_crop_of_every_item_is_judged_from_the_same_place(tmp_path):
    critic, signal = adversary(crop=100), torch.arange(1200.0).expand(3, 1, -1)
    parts = [signal[critic.place(signal)] for _ in range(20)]
    assert all(part.shape == (3, 1, 100) and torch.equal(part[0], part[2]) for part in parts)
    assert len({float(part[0, 0, 0]) for part in parts}) > 10
    assert signal[adversary().place(signal)].shape == signal.shape
    assert signal[adversary(crop=5000).place(signal)].shape == signal.shape
    pictures = torch.zeros(2, 3, 40, 30)
    assert pictures[adversary(crop=16).place(pictures)].shape == (2, 3, 16, 16)
    seen = []
    critic.discriminators[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    fit(task(adversary=critic, loss_weights=HEARD), tmp_path, 2)
    assert set(seen) == {100}


def test_weights_of_an_adversary_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"every weight has a loss, got none for \['adversarial', "):
        fit(task(loss_weights=HEARD), tmp_path, 1)
    with pytest.raises(ValueError, match=r"got none for \['adversarial', 'feature_matching'\]; add them"):
        fit(task(adversary=adversary()), tmp_path, 1)
    with pytest.raises(ValueError, match="every of at least 1"):
        Adversary([mpd((2,), (2,))], every=0)


# -- resumed runs ------------------------------------------------------------------------------------------


def test_a_resumed_run_with_all_of_it_ends_in_the_same_bits(tmp_path):
    def model():
        torch.manual_seed(2)
        objectives = {"mae": MaskedAutoencoder(16, 8, 1, 2), "deep": DepthAutoregression(4, 2, width=8, heads=2)}
        weights = {"commitment": 0.25, "mae": 0.1, "depth": 0.1}
        balancer = Balancer({"l1": 1.0, "mel": 1.0, "adversarial": 1.0, "feature_matching": 1.0})
        return task(
            adversary=adversary(start=1), balancer=balancer, objectives=objectives, loss_weights=weights, ema_decay=0.9,
            accumulate=2,
        )  # fmt: skip

    def run(steps, checkpoint=None):
        trained = model()
        trainer = fit(trained, tmp_path, steps, tones(steps_per_epoch=8), checkpoint)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return torch.load(tmp_path / f"{steps}.ckpt", weights_only=True)

    straight = run(6)
    run(3)
    resumed = run(6, tmp_path / "3.ckpt")
    assert not moved(straight["state_dict"], resumed["state_dict"])
    for first, second in zip(straight["optimizer_states"], resumed["optimizer_states"], strict=True):
        for state, again in zip(first["state"].values(), second["state"].values(), strict=True):
            assert all(torch.equal(state[key], again[key]) for key in state)


# -- several devices ---------------------------------------------------------------------------------------


class KeepOfRank(Callback):
    """Writes what a rank has learnt."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        torch.save(weights_of(pl_module), self.folder / f"{trainer.global_rank}.pt")


def test_two_ranks_learn_the_same_codec_and_the_same_adversary(tmp_path):
    torch.manual_seed(2)
    objectives = {"mae": MaskedAutoencoder(16, 8, 1, 2), "deep": DepthAutoregression(4, 2, width=8, heads=2)}
    model = task(
        adversary=adversary(start=1),
        objectives=objectives,
        accumulate=2,
        loss_weights=HEARD | {"mae": 0.1, "depth": 0.1},
    )
    settings = dict(devices=2, strategy="ddp_fork_find_unused_parameters_true", callbacks=[KeepOfRank(tmp_path)])
    fit(model, tmp_path, 4, **settings)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    own = {"codec.encoder.norm.running_mean", "codec.encoder.norm.running_var"}  # rank 0 hands its own round
    assert not moved(first, second) - own and len(first) > 100


# -- batches that add up, gradients that are balanced ------------------------------------------------------


def test_two_batches_of_a_step_are_the_mean_of_their_gradients(tmp_path):
    class Keep(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            kept.append({name: weight.grad.clone() for name, weight in pl_module.codec.named_parameters()})

    kept = []
    settings = dict(gradient_clip=None, rates=Rates(), loss_weights={"l1": 1.0, "mel": 0.0, "commitment": 0.0})
    fixed = {"name": "residual", "stages": [{"name": "fixed", "codebook_size": 4, "dim": 4}]}
    for accumulate, count in ((1, 2), (2, 1)):
        model = task(accumulate=accumulate, **settings, learning_rate=0.0, warmup_steps=0)
        torch.manual_seed(0)
        model.codec = almtokenizer(**TINY, quantizer=fixed).train()
        run = fit(model, tmp_path, count, tones(), callbacks=[Keep()])
        assert run.global_step == count
    first, second, both = kept
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, (first[name] + second[name]) / 2, rtol=1e-4, atol=1e-7)


def test_a_balanced_loss_moves_the_codec_as_much_whatever_its_scale(tmp_path):
    class Loud(L1):
        def distance(self, reconstruction, signal):
            return 1000 * super().distance(reconstruction, signal)

    ends = []
    for loss in (L1(), Loud()):
        model = task(balancer=Balancer({"l1": 1.0, "mel": 1.0}), loss_weights={"commitment": 0.25})
        model.losses["l1"] = loss
        fit(model, tmp_path, 1)
        ends.append({name: weight.grad for name, weight in model.codec.named_parameters()})
    for name, gradient in ends[0].items():
        torch.testing.assert_close(gradient, ends[1][name], rtol=1e-3, atol=1e-6)


def test_losses_beside_the_balancer_keep_their_plain_weights(tmp_path):
    grads = []
    for weight in (0.0, 1.0, 2.0):
        model = task(
            balancer=Balancer({"l1": 1.0}), loss_weights={"commitment": 0.0, "mel": weight}, gradient_clip=None
        )
        fit(model, tmp_path, 1)
        grads.append({name: value.grad.clone() for name, value in model.codec.decoder.named_parameters()})
    for name, gradient in grads[0].items():
        torch.testing.assert_close(grads[2][name] - gradient, 2 * (grads[1][name] - gradient), rtol=1e-3, atol=1e-4)
    assert any(not torch.allclose(grads[0][name], grads[1][name]) for name in grads[0])


def test_a_loss_has_its_weight_in_one_place(tmp_path):
    with pytest.raises(ValueError, match=r"one in loss_weights too for \['l1'\]"):
        fit(task(balancer=Balancer({"l1": 1.0})), tmp_path, 1)
    with pytest.raises(ValueError, match=r"got none for \['sisdr'\]"):
        weights = {"mel": 1.0, "commitment": 1.0}
        fit(task(balancer=Balancer({"l1": 1.0, "sisdr": 1.0}), loss_weights=weights), tmp_path, 1)


# -- parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["encoder.front", "encoder", "quantizer", "decoder.queries.transformer"])
def test_frozen_parts_do_not_change_in_a_bit_and_others_do(tmp_path, part):
    model = task(freeze=[part], ema_decay=0.9)
    before = weights_of(model.codec)
    fit(model, tmp_path, 10, limit_val_batches=1, val_check_interval=5)
    changed = moved(before, weights_of(model.codec))
    assert not [name for name in changed if name.startswith(part)]
    assert {"encoder", "quantizer", "decoder"} - {part} <= {name.split(".")[0] for name in changed}


def test_learning_rates_are_scaled_by_part_and_the_longest_name_has_the_say(tmp_path):
    model = task(learning_rates={"encoder": 0.5, "encoder.front": 0.0, "decoder": 2.0}, weight_decay=0.0)
    before = weights_of(model.codec)
    run = fit(model, tmp_path, 1)
    assert {group["scale"] for group in run.optimizers[0].param_groups} == {0.0, 0.5, 2.0}
    after, rate = weights_of(model.codec), 3e-3
    floats = {name: value for name, value in before.items() if value.is_floating_point()}
    steps = {name: (after[name] - value).abs().max().item() for name, value in floats.items()}
    assert steps["encoder.front.project.weight"] == 0
    assert steps["encoder.project.weight"] == pytest.approx(0.5 * rate, rel=0.02)  # the first step of Adam is the rate
    assert steps["decoder.project.weight"] == pytest.approx(2 * rate, rel=0.02)


def test_parts_that_are_none_are_named():
    with pytest.raises(ValueError, match=r"parts of this codec are \['decoder.back', .*\] and .*, got 'encoder.frond'"):
        task(freeze=["encoder.frond"])
    with pytest.raises(ValueError, match="got 'decode'"):
        task(learning_rates={"decode": 0.1})


# -- without codes -----------------------------------------------------------------------------------------


def test_an_autoencoder_is_trained_without_codes(tmp_path):
    model = task(quantize=False, loss_weights={"l1": 1.0, "mel": 1.0, "mae": 0.1},
                 objectives={"mae": MaskedAutoencoder(16, 8, 1, 2)})  # fmt: skip
    before = weights_of(model.codec.quantizer)
    fit(model, tmp_path, 3, limit_val_batches=1, val_check_interval=1)
    assert not moved(before, weights_of(model.codec.quantizer))


# -- where runs start --------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    values = {
        "trainer": {
            "max_steps": 2, "accelerator": "cpu", "logger": False, "limit_val_batches": 0, "enable_progress_bar": False,
            "enable_model_summary": False, "default_root_dir": str(tmp_path),
        },
        "model": {
            "codec": {"class_path": "sigtok.codecs.audio.models.almtokenizer", "init_args": TINY | {"windows": [3, 2]}},
            "losses": {"l1": {"class_path": "sigtok.train.losses.waveform.L1"}},
            "loss_weights": {"l1": 1.0, "commitment": 0.25, "adversarial": 1.0, "feature_matching": 1.0},
            "adversary": {
                "discriminators": [
                    {"class_path": "sigtok.train.discriminators.stft.ms_stft", "init_args": {"windows": [32]}}
                ]
            },
        },
        "data": {
            "class_path": "sigtok.train.data.synthetic.Tones",
            "init_args": {"sample_rate": 8000, "seconds": 0.15, "batch_size": 2, "val_items": 2},
        },
    }  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_run_starts_from_a_checkpoint_or_a_release_with_its_discriminators(config, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sigtok-train"])
    main(["fit", "-c", str(config)])
    [checkpoint] = tmp_path.rglob("*.ckpt")
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    words = ["--config", str(config), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "released")]
    releasing.main([*words, "--half", "false", "--train_state", "true"])
    assert set(safetensors.torch.load_file(tmp_path / "released" / TRAIN_STATE)) == {
        name for name in stored if name.startswith("adversary.")
    }
    load(tmp_path / "released")  # beside it, the model is as it was
    seen = []
    monkeypatch.setattr(CodecTask, "on_train_start", lambda self: seen.append(weights_of(self)))
    for source in (checkpoint, tmp_path / "released"):
        main(["fit", "-c", str(config), "--init_from", str(source), "--trainer.enable_checkpointing", "false"])
        assert not moved(stored, seen[-1])


def test_a_resumed_run_goes_on_from_its_checkpoint_not_from_where_it_began(tmp_path):
    first = fit(task(), tmp_path, 2)
    first.save_checkpoint(tmp_path / "first.ckpt")
    second = fit(task(init_from=str(tmp_path / "first.ckpt")), tmp_path, 4)
    second.save_checkpoint(tmp_path / "second.ckpt")
    expected = torch.load(tmp_path / "second.ckpt", weights_only=True)["state_dict"]
    model = task(init_from=str(tmp_path / "first.ckpt"))
    fit(model, tmp_path, 4, checkpoint=tmp_path / "second.ckpt")
    assert not moved(expected, weights_of(model))


def test_weights_of_another_codec_are_refused_and_fresh_parts_let_be(tmp_path):
    fit(task(), tmp_path, 1).save_checkpoint(tmp_path / "one.ckpt")
    wider = almtokenizer(**{**TINY, "codebook_size": 16})
    settings = dict(init_from=str(tmp_path / "one.ckpt"), losses={"l1": L1()}, loss_weights=PLAIN)
    with pytest.raises(ValueError, match=r"quantizer.stages.\d.\w+ has shape \[16.*, in .*one.ckpt \[8"):
        CodecTask(wider, **settings).setup("fit")
    fresh = CodecTask(wider, fresh=["quantizer"], **settings)
    fresh.setup("fit")
    stored = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(fresh.codec.encoder.project.weight, stored["codec.encoder.project.weight"])
    deeper = almtokenizer(**{**TINY, "encoder_depth": 2})
    with pytest.raises(ValueError, match=r"missing or unknown there are \['encoder.queries.transformer.blocks.1"):
        CodecTask(deeper, **settings).setup("fit")


@pytest.mark.parametrize("stored", [b"words", [1, 2], {"weights": {}}, {"state_dict": {"x": 1}}], ids=repr)
def test_a_file_that_is_no_checkpoint_is_named_in_one_line(tmp_path, config, stored, capfd, monkeypatch):
    path = tmp_path / "x.ckpt"
    path.write_bytes(stored) if isinstance(stored, bytes) else torch.save(stored, path)
    monkeypatch.setattr("sys.argv", ["sigtok-train"])
    for command in (main, releasing.main):
        words = ["fit", "-c", str(config), "--init_from", str(path)]
        if command is releasing.main:
            words = ["--config", str(config), "--checkpoint", str(path), "--out", str(tmp_path / "out")]
        with pytest.raises(SystemExit) as stop:
            command(words)
        [line] = [line for line in capfd.readouterr().err.split("\n") if "error" in line]
        assert stop.value.code == 2 and "x.ckpt is no checkpoint of sigtok-train" in line


def test_a_release_without_the_discriminators_it_should_have_writes_nothing(tmp_path, config, capfd):
    fit(task(), tmp_path, 1).save_checkpoint(tmp_path / "one.ckpt")
    words = ["--config", str(config), "--checkpoint", str(tmp_path / "one.ckpt"), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        releasing.main([*words, "--train_state", "true"])
    assert "has none" in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_the_trainers_own_accumulation_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.accumulate"):
        fit(task(), tmp_path, 1, accumulate_grad_batches=2)
    with pytest.raises(ValueError, match="at least 1 batch, got accumulate=0"):
        task(accumulate=0)
