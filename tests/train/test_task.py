"""Training: it learns, names its mistakes, resumes exactly, obeys the command line, and releases what it trained."""

import random

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.files import compress, decompress
from sigtok.codecs.image.models import query_image, walloc_image
from sigtok.codecs.pretrained import load
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.train import release as releasing
from sigtok.train.cli import main
from sigtok.train.data.synthetic import Shapes, Tones
from sigtok.train.losses.spectral import MultiScaleMel
from sigtok.train.losses.waveform import L1
from sigtok.train.objectives.rate_distortion import RateDistortion
from sigtok.train.rates import Draw, Rates
from sigtok.train.schedule import learning_rate_at
from sigtok.train.task import CodecTask, whole_windows

SPEECH = dict(
    sample_rate=8000, frame_hop=40, frame_size=120, stack=2, dim=16, heads=2, encoder_depth=1, decoder_depth=1,
    decoder_blocks=1, codebooks=2, codebook_size=16, latent_dim=8,
)  # fmt: skip
WEIGHTS = {"l1": 1.0, "mel": 0.1, "commitment": 0.25}


def task(**settings):
    torch.manual_seed(0)
    losses = {"l1": L1(), "mel": MultiScaleMel(8000, [64, 256], [10, 40])}
    settings = {"loss_weights": WEIGHTS, "rates": Rates(Draw(full=0.5)), "learning_rate": 3e-3} | settings
    return CodecTask(query_speech(**SPEECH), losses, **settings)


def tones(**settings):
    return Tones(**{"sample_rate": 8000, "seconds": 0.2, "val_items": 4, "batch_size": 4} | settings)


def trainer(folder, steps, **settings):
    defaults = dict(logger=False, enable_checkpointing=False, log_every_n_steps=1, limit_val_batches=0)
    return Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", enable_progress_bar=False,
        enable_model_summary=False, **(defaults | settings),
    )  # fmt: skip


# -- it learns -------------------------------------------------------------------------------------------


def test_losses_fall_on_tones_it_hears_again_and_again(tmp_path):
    tones_heard = next(iter(tones().train_dataloader()))
    run = trainer(tmp_path, 40, logger=CSVLogger(tmp_path), limit_val_batches=1, val_check_interval=20)
    loaders = [DataLoader([tones_heard] * count, batch_size=None) for count in (40, 1)]
    weights = {"l1": 0.1, "mel": 1.0, "commitment": 0.25}  # silence would do for a heavy l1
    run.fit(task(rates=Rates(), loss_weights=weights), *loaders)
    rows = [line.split(",") for line in (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().split()]
    table = {name: [row[i] for row in rows[1:] if row[i]] for i, name in enumerate(rows[0])}
    total = [float(value) for value in table["train/total"]]
    assert np.mean(total[-5:]) < 0.7 * np.mean(total[:5])
    assert len(table["train/gradient_norm"]) == 40 and len(table["train/seconds_per_second"]) >= 38
    assert len(table["val/mel_distance"]) == len(table["val/usage_1"]) == 2
    assert all(1 <= float(value) <= 16 for value in table["val/perplexity_0"])


def test_images_are_trained_the_same_way(tmp_path):
    codec = query_image(levels=2, tile=4, queries=4, dim=16, heads=2, encoder_depth=1, decoder_depth=1,
                        codebook_size=16, latent_dim=4)  # fmt: skip
    weights = {"l1": 1.0, "alignment": 1.0, "codebook": 1.0, "commitment": 0.25, "entropy": 0.05}
    rates = Rates(queries=Draw(0.5, (1, 2)))
    model = CodecTask(codec, {"l1": L1()}, weights, rates)
    run = trainer(tmp_path, 3)
    run.fit(model, Shapes(crop=35, batch_size=2, val_items=3))
    [values] = run.test(model, Shapes(crop=35, batch_size=2, val_items=3), verbose=False)
    assert values["test/psnr"] > 0 and values["test/bits_per_pixel"] > 0


# -- mistakes are named ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"l1": 1.0, "commitment": 1.0}, r"every loss has a weight, got none for \['mel'\]"),
        ({"l1": 1.0, "mel": 1.0}, r"every loss has a weight, got none for \['commitment'\]"),
        (WEIGHTS | {"adversarial": 1.0}, r"every weight has a loss, got none for \['adversarial'\]"),
    ],
)
def test_a_name_without_its_partner_stops_step_one(tmp_path, weights, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, 1).fit(task(loss_weights=weights), tones())


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    class Broken(L1):
        def distance(self, reconstruction, signal):
            return super().distance(reconstruction, signal) / 0

    model = task(loss_weights={"l1": 1.0, "commitment": 1.0})
    model.losses = torch.nn.ModuleDict({"l1": Broken()})
    with pytest.raises(ValueError, match=r"\['l1'\] = nan or inf at step 0"):
        trainer(tmp_path, 1).fit(model, tones())


def test_signals_shorter_than_a_window_are_refused():
    with pytest.raises(ValueError, match=r"\(160,\) samples, pixels or frames, got training signals of \(159,\)"):
        whole_windows(torch.zeros(1, 1, 159), (160,))
    assert whole_windows(torch.zeros(1, 3, 35, 50), (16, 16)).shape == (1, 3, 32, 48)


def test_the_trainers_own_clipping_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.gradient_clip"):
        trainer(tmp_path, 1, gradient_clip_val=1.0).fit(task(), tones())


# -- rates and schedule ----------------------------------------------------------------------------------

SPEC = CodecSpec(
    name="x", modality="audio", channels=1, sample_rate=8000, hop=(40,), windows=((2,), (4,)), queries=8,
    codebook_sizes=(16,) * 4, latent_dim=4,
)  # fmt: skip


def test_a_rate_depends_on_seed_and_step_alone():
    rates = Rates(Draw(0.5), Draw(0.5), [[2], [4]], seed=1)
    first = [rates.at(step, SPEC) for step in range(50)]
    random.seed(7), torch.manual_seed(7)
    assert first == [rates.at(step, SPEC) for step in range(50)]
    assert first != [Rates(Draw(0.5), Draw(0.5), [[2], [4]], seed=2).at(step, SPEC) for step in range(50)]


def test_rates_have_their_probabilities():
    rates = Rates(Draw(0.5), Draw(0.25, (1, 2)), [[2], [4]])
    drawn = [rates.at(step, SPEC) for step in range(4000)]
    share = lambda keep: sum(map(keep, drawn)) / len(drawn)  # noqa: E731
    assert share(lambda rate: rate.codebooks == 4) == pytest.approx(0.5 + 0.5 / 4, abs=0.03)
    assert share(lambda rate: rate.queries == 8) == pytest.approx(0.25, abs=0.03)
    assert share(lambda rate: rate.queries == 1) == pytest.approx(0.375, abs=0.03)
    assert share(lambda rate: rate.window == (4,)) == pytest.approx(0.5, abs=0.03)
    assert Rates().at(0, SPEC) == SPEC.resolve()


def test_impossible_rates_are_refused():
    with pytest.raises(ValueError, match="probability"):
        Draw(full=1.5)
    with pytest.raises(ValueError, match="1 to 8 queries, got 9"):
        Rates(queries=Draw(0.0, (9,))).at(0, SPEC)


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate_at(step, 4, 12, 1.0, 0.1) for step in range(14)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[8] == pytest.approx(0.55) and rates[12:] == pytest.approx([0.1, 0.1])


# -- resume ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, ema_decay):
    def fit(steps, checkpoint=None):
        model, run = task(total_steps=6, ema_decay=ema_decay), trainer(tmp_path, steps, limit_val_batches=1)
        model.codec.encoder.register_forward_hook(lambda *call: call[2] + 0.01 * torch.randn_like(call[2]))
        run.fit(model, tones(steps_per_epoch=4), ckpt_path=checkpoint)  # steps 3 and 6 are inside epochs
        run.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return torch.load(tmp_path / f"{steps}.ckpt", weights_only=True)

    straight = fit(6)
    fit(3)
    resumed = fit(6, tmp_path / "3.ckpt")
    for part in ("state_dict", "training_weights") if ema_decay else ("state_dict",):
        assert straight[part].keys() == resumed[part].keys()
        for name, value in straight[part].items():
            assert torch.equal(value, resumed[part][name]), name
    states = [run["optimizer_states"][0]["state"].values() for run in (straight, resumed)]
    for state, again in zip(*states, strict=True):
        assert all(torch.equal(state[key], again[key]) for key in state)


def test_settings_of_a_resumed_run_are_its_own_not_the_checkpoints(tmp_path):
    run = trainer(tmp_path, 2)
    run.fit(task(), tones())
    run.save_checkpoint(tmp_path / "old.ckpt")
    assert "hyper_parameters" not in torch.load(tmp_path / "old.ckpt", weights_only=True)
    model = task(learning_rate=1e-5, total_steps=10**9, betas=(0.5, 0.6), weight_decay=0.125)
    run = trainer(tmp_path, 3)
    run.fit(model, tones(), ckpt_path=tmp_path / "old.ckpt")
    groups = {group["decays"]: group for group in run.optimizers[0].param_groups}
    assert groups[True]["lr"] == pytest.approx(1e-5) and groups[True]["betas"] == (0.5, 0.6)
    assert groups[True]["weight_decay"] == 0.125 and groups[False]["weight_decay"] == 0


# -- command line ----------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path):
    values = {
        "trainer": {
            "max_steps": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
            "limit_val_batches": 0, "enable_progress_bar": False, "enable_model_summary": False,
            "default_root_dir": str(tmp_path),
        },
        "model": {
            "codec": {"class_path": "sigtok.codecs.audio.models.query_speech", "init_args": dict(SPEECH)},
            "losses": {"l1": {"class_path": "sigtok.train.losses.waveform.L1"}},
            "loss_weights": {"l1": 1.0, "commitment": 0.25},
            "rates": {"codebooks": {"full": 0.5}},
            "ema_decay": 0.5,
        },
        "data": {
            "class_path": "sigtok.train.data.synthetic.Tones",
            "init_args": {"sample_rate": 8000, "seconds": 0.2, "batch_size": 2, "val_items": 2},
        },
    }  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr("sys.argv", ["sigtok-train"])


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model.learningrate", "1"], "learningrate"),
        (["--model.codec.init_args.dimm", "1"], "dimm"),
        (["--model.loss_weights", "{l1: 1.0}"], "got none for ['commitment']"),
        (["--model.codec.init_args.frame_size", "100"], "100"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(config, capfd, words, said):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(config), *words])
    [line] = [line for line in capfd.readouterr().err.split("\n") if "error" in line]
    assert stop.value.code == 2 and line.startswith("sigtok-train: error: ") and said in line


def test_a_missing_file_is_one_line_and_code_2(capfd):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "nowhere.yaml"])
    assert stop.value.code == 2 and "nowhere.yaml" in capfd.readouterr().err


def test_an_error_after_the_first_step_keeps_its_traceback(config, monkeypatch):
    monkeypatch.setattr(CodecTask, "on_train_end", lambda self: int("later"))
    with pytest.raises(ValueError, match="later"):
        main(["fit", "--config", str(config)])


def test_help_prints(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0 and "predict" in capsys.readouterr().out


def test_a_checkpoints_hyper_parameters_never_win(config, tmp_path, monkeypatch):
    run = trainer(tmp_path, 1)
    run.fit(task(loss_weights=WEIGHTS), tones())
    run.save_checkpoint(tmp_path / "old.ckpt")
    stored = torch.load(tmp_path / "old.ckpt", weights_only=True) | {"hyper_parameters": {"learning_rate": 9.0}}
    torch.save(stored, tmp_path / "old.ckpt")
    seen = []
    monkeypatch.setattr(CodecTask, "on_train_end", lambda self: seen.append(self.learning_rate))
    main(["fit", "-c", str(config), "--ckpt_path", str(tmp_path / "old.ckpt"), "--model.learning_rate", "0.5"])
    assert seen == [0.5]


# -- what comes out --------------------------------------------------------------------------------------


def test_test_measures_real_files_and_predict_writes_codes(tmp_path):
    model, run = task(predict_folder=str(tmp_path / "tokens")), trainer(tmp_path, 1)
    [values] = run.test(model, tones(), verbose=False)
    nominal = model.codec.spec.nominal_bits_per_second()
    assert nominal < values["test/bits_per_second"] < nominal + 8 * 40 / 0.2  # the header, in 0.2 s
    tokens = run.predict(model, tones())
    written = np.load(tmp_path / "tokens" / "tones_0002.npy")
    assert np.array_equal(written, tokens[2].codes[0]) and written.dtype == np.int64
    with pytest.raises(ValueError, match=r"two files go to .*tones_0000\.npy"):
        run.predict(model, tones())


def test_a_release_decodes_like_the_averaged_weights(config, tmp_path):
    main(["fit", "-c", str(config), "--trainer.enable_checkpointing", "true"])
    [checkpoint] = tmp_path.rglob("*.ckpt")
    out = tmp_path / "released"
    words = ["--config", str(config), "--checkpoint", str(checkpoint), "--out", str(out)]
    releasing.main([*words, "--measured", "{mel_distance: 1.5}", "--half", "false", "--licence", "CC0-1.0"])
    stored = torch.load(checkpoint, weights_only=True)
    released = load(out)
    for name, value in released.state_dict().items():
        assert torch.equal(value, stored["state_dict"][f"codec.{name}"])
    assert any(not torch.equal(value, stored["state_dict"][name]) for name, value in stored["training_weights"].items())
    assert "CC0-1.0" in (out / "README.md").read_text()


def test_a_release_of_another_codec_is_one_line_and_code_2(config, tmp_path, capsys):
    torch.save({"state_dict": {"codec.x": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit) as stop:
        releasing.main(["--config", str(config), "--checkpoint", str(tmp_path / "other.ckpt"), "--out", "x"])
    assert stop.value.code == 2 and "holds another codec" in capsys.readouterr().err


def test_a_release_names_no_file_that_its_training_read():
    prior = {"name": "prior", "sizes": [8], "widths": [3], "dim": 4}
    arguments = {"quantizer": {"name": "residual", "stages": [prior | {"artefacts": ["/home/me/a.safetensors"]}]}}
    assert releasing.without_artefacts(arguments) == {"quantizer": {"name": "residual", "stages": [prior]}}


# -- rate-distortion codecs ------------------------------------------------------------------------------

PICTURE = {"levels": 1, "low": 2, "width": 8, "depth": 1, "qualities": 2, "quality_steps": 4, "states": 4, "hidden": 4}


@pytest.fixture
def pictures():
    """One batch, to be seen again and again."""
    return next(iter(Shapes(crop=32, batch_size=2).train_dataloader()))


def rate_distortion(**settings):
    defaults = {"learning_rate": 1e-2, "rates": Rates(qualities=(1.0, 2.0)), "gradient_clip": 10.0}
    objectives = {"rate_distortion": RateDistortion(25.0, 3000.0)}
    codec = walloc_image(**PICTURE)
    return CodecTask(codec, {}, {"rate_distortion": 1.0}, objectives=objectives, **(defaults | settings))


def learnt(model, batch, folder, steps):
    """Losses of every step on the batch."""
    run = trainer(folder, steps, logger=CSVLogger(folder, version=0))
    run.fit(model, DataLoader([batch] * steps, batch_size=None))
    rows = [line.split(",") for line in (folder / "lightning_logs/version_0/metrics.csv").read_text().split()]
    place = rows[0].index("train/total")
    return [float(row[place]) for row in rows[1:] if row[place]], run


def test_bits_and_error_fall_on_a_batch_seen_again_and_again(tmp_path, pictures):
    losses, _ = learnt(rate_distortion(rates=Rates(qualities=(2.0,))), pictures, tmp_path, 25)
    assert len(losses) == 25 and np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_trained_density_is_frozen_at_release_and_thaws_to_train_on(tmp_path, pictures):
    model = rate_distortion()
    _, run = learnt(model, pictures, tmp_path, 6)
    run.save_checkpoint(tmp_path / "last.ckpt")
    assert not model.codec.entropy.frozen
    values = {"model": {"codec": {"class_path": "sigtok.codecs.image.models.walloc_image", "init_args": PICTURE}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    out = tmp_path / "released"
    releasing.release(str(tmp_path / "run.yaml"), str(tmp_path / "last.ckpt"), str(out))
    released = load(out)
    assert released.entropy.frozen and not any(part.training for part in released.modules())
    picture, other = pictures[:1, :, :13, :15], load(out)
    for quality in (1.25, 2.0):
        data = compress(released, picture, Rate(quality=quality))
        back = decompress(other, data)
        expected = released.decode(released.encode(picture, Rate(quality=quality)))
        assert torch.equal(back, expected)
    before = {name: value.clone() for name, value in released.state_dict().items()}
    again = rate_distortion(init_from=str(out), rates=Rates(qualities=(2.0,)))
    losses, _ = learnt(again, pictures, tmp_path / "again", 2)
    assert len(losses) == 2 and not again.codec.entropy.frozen
    weights = dict(again.codec.entropy.named_parameters())
    assert any(not torch.equal(value, before[f"entropy.{name}"]) for name, value in weights.items())


def test_a_frozen_density_is_left_frozen_by_all_but_training(tmp_path, pictures):
    model = rate_distortion()
    model.codec.entropy.freeze()
    trainer(tmp_path, 1).test(model, DataLoader(list(pictures[:, None]), batch_size=None), verbose=False)
    assert model.codec.entropy.frozen
