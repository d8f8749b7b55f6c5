"""Callbacks on a made-up codec: averages, samples for every logger, codebook usage and its alarm, speed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch import nn

from sigtok.codecs.media import read_audio, read_image
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.grouped import Grouped
from sigtok.train.callbacks.ema import AverageWeights
from sigtok.train.callbacks.samples import Samples, colours, pair_picture, spectrum
from sigtok.train.callbacks.speed import Speed
from sigtok.train.callbacks.usage import CodebookUsage
from sigtok.train.watchdog import Alarm


class Toy(LightningModule):
    """One weight that grows by 1 a step; codes are the step; validation returns half its batch."""

    def __init__(self, sample_rate=8000):
        super().__init__()
        self.codec = nn.Linear(1, 1, bias=False)
        self.codec.register_buffer("codebook", torch.zeros(1))
        self.codec.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.codec.spec = SimpleNamespace(sample_rate=sample_rate, codebook_sizes=(8, 4))
        self.codec.quantizer = Grouped([FSQ([8]), FSQ([4])])
        nn.init.zeros_(self.codec.weight)
        self.learning_rate, self.final_learning_rate = 1.0, 0.0
        self.validated = []

    def training_step(self, batch, _):
        self.codec.codebook += 1
        step = torch.full((2, 3), self.global_step % 8)
        return {"loss": -self.codec.weight.sum(), "streams": (step, step % 2)}

    def validation_step(self, batch, _):
        self.validated.append((self.codec.weight.item(), self.codec.codebook.item()))
        return batch / 2

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD([self.codec.weight], lr=1.0)


def run(folder, module, callbacks, steps=4, batch=None, logger=False, **settings):
    batch = torch.zeros(2, 1, 800) if batch is None else batch
    loader = torch.utils.data.DataLoader(list(torch.cat([batch] * steps)), 2)
    trainer = Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", logger=logger, callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
        num_sanity_val_steps=0, limit_val_batches=1, **settings,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return trainer, loader


# -- averaged weights ------------------------------------------------------------------------------------


def test_the_average_follows_the_weights_and_only_evaluation_sees_it(tmp_path):
    module = Toy()
    trainer, loader = run(tmp_path, module, [average := AverageWeights(0.3)])
    expected = 0.0
    for step, decay in enumerate((2 / 11, 3 / 12, 0.3, 0.3), 1):
        expected = decay * expected + (1 - decay) * step
    assert module.validated[0][0] == pytest.approx(expected)
    expected = module.validated[0][0]
    assert module.validated == [(expected, 4.0)]  # the buffer as it is, never averaged
    assert module.codec.weight.item() == 4.0
    trainer.test(module, loader, verbose=False)
    assert module.validated[-1] == (expected, 4.0) and module.codec.weight.item() == 4.0
    assert set(average.average) == {"codec.weight"}  # not the frozen one


@pytest.mark.parametrize("swapped", [False, True])
def test_a_checkpoint_holds_the_average_also_when_saved_during_validation(tmp_path, swapped):
    module = Toy()
    trainer, _ = run(tmp_path, module, [average := AverageWeights(0.5)])
    if swapped:
        average.swap(module)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    stored = torch.load(tmp_path / "x.ckpt", weights_only=True)

    assert 3 < stored["state_dict"]["codec.weight"].item() < 4
    assert stored["training_weights"]["codec.weight"].item() == 4.0


def test_impossible_decays_are_refused():
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.0"):
        AverageWeights(1.0)


# -- usage -----------------------------------------------------------------------------------------------


def test_usage_is_logged_per_codebook_and_window(tmp_path):
    run(tmp_path, Toy(), [CodebookUsage(window=4)], steps=8, logger=CSVLogger(tmp_path))
    table = np.genfromtxt(tmp_path / "lightning_logs/version_0/metrics.csv", delimiter=",", names=True)
    assert list(table["step"]) == [3, 7]  # once a window
    assert list(table["codesusage_0"]) == [0.5, 0.5] and list(table["codesusage_1"]) == [0.5, 0.5]
    assert list(table["codesperplexity_0"]) == pytest.approx([4, 4])
    assert list(table["codestop_1"]) == [0.5, 0.5] and list(table["codesaction_1"]) == [0, 0]


def test_a_collapse_is_announced(tmp_path):
    alarm = Alarm(usage=0.4, tokens=12)  # 12 tokens of 2 of 8 codes; drawn evenly they would show 1 - exp(-12 / 8)
    with pytest.warns(UserWarning, match=r"step 1: codebook 0 uses 25\.00% of its codes, where .* show 77\.69%"):
        run(tmp_path, Toy(), [CodebookUsage(window=2, alarm=alarm, actions=["warn"])])


@pytest.mark.filterwarnings("ignore:step")
def test_alarms_and_the_lowered_learning_rate_are_in_a_checkpoint(tmp_path):
    module, settings = Toy(), {"window": 2, "alarm": Alarm(usage=0.4, tokens=12), "actions": ["slow"]}
    trainer, _ = run(tmp_path, module, [CodebookUsage(**settings)])
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert module.learning_rate == 0.25 and len((tmp_path / "watchdog.jsonl").read_text().splitlines()) == 2
    resumed = Toy()
    Trainer(
        default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", logger=False, callbacks=[CodebookUsage(**settings)],
        limit_train_batches=1, limit_val_batches=0, enable_progress_bar=False, enable_checkpointing=False,
    ).fit(resumed, [torch.zeros(2, 1, 800)], ckpt_path=tmp_path / "x.ckpt", weights_only=True)  # fmt: skip
    assert resumed.learning_rate == 0.25


# -- samples ---------------------------------------------------------------------------------------------


def tone():
    return 0.5 * torch.sin(torch.arange(2 * 4000).view(2, 1, 4000) * 0.7)


def test_a_plain_logger_gets_files_of_sound_and_spectrograms(tmp_path):
    run(tmp_path, Toy(), [Samples(count=1)], 1, tone(), CSVLogger(tmp_path))
    folder = tmp_path / "lightning_logs/version_0/samples/step_0000001"
    original, rate = read_audio(folder / "0_original.wav")
    reconstruction, _ = read_audio(folder / "0_reconstruction.wav")
    assert rate == 8000 and np.abs(original / 2 - reconstruction).max() < 1e-4
    assert sorted(path.name for path in folder.iterdir()) == ["0.png", "0_original.wav", "0_reconstruction.wav"]


def test_images_are_shown_beside_each_other(tmp_path):
    batch = torch.rand(2, 3, 8, 6)
    run(tmp_path, Toy(sample_rate=None), [Samples()], 1, batch, CSVLogger(tmp_path))
    [folder] = (tmp_path / "lightning_logs/version_0/samples").iterdir()
    picture = read_image(folder / "1.png")
    assert picture.shape == (3, 8, 12)
    np.testing.assert_allclose(picture[..., 6:], batch[1] / 2, atol=1 / 127)


def test_tensorboard_gets_media(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    run(tmp_path, Toy(), [Samples(count=2)], 1, tone(), logger)
    logger.finalize("done")
    events = accumulator.EventAccumulator(logger.log_dir).Reload()
    assert set(events.Tags()["images"]) == {"samples/0", "samples/1"}
    assert len(events.Tags()["audio"]) == 4


def test_wandb_gets_media_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    given = {}
    monkeypatch.setattr(WandbLogger, "log_image", lambda self, key, images, **_: given.update({key: images}))
    monkeypatch.setattr(WandbLogger, "log_audio", lambda self, key, audios, **_: given.update({key: audios}))
    monkeypatch.setattr(WandbLogger, "log_metrics", lambda *_, **__: None)
    monkeypatch.setattr(WandbLogger, "experiment", None)
    run(tmp_path, Toy(), [Samples(count=1)], 1, tone(), logger)
    assert given["samples/0"][0].dtype == np.uint8 and given["samples/0"][0].shape[2] == 3
    assert given["samples/0/reconstruction"][0].shape == (4000, 1)


def test_samples_come_every_so_many_validations(tmp_path):
    run(tmp_path, Toy(), [Samples(every=2)], 4, tone(), CSVLogger(tmp_path), val_check_interval=1)
    shown = sorted(path.name for path in (tmp_path / "lightning_logs/version_0/samples").iterdir())
    assert shown == ["step_0000001", "step_0000003"]


def test_a_spectrogram_shows_pitch_and_both_share_one_scale():
    quiet, loud = (scale * torch.sin(torch.arange(8000) * 2 * np.pi / 8)[None] for scale in (0.01, 0.5))
    rows = spectrum(loud, 8000)  # 1000 Hz is mel 15, the upper end of 4000 Hz is mel 35.2
    assert abs(len(rows) - rows.mean(1).argmax() - len(rows) * 15 / 35.2) < 2
    picture = pair_picture((loud, quiet), 8000)
    half = picture.shape[1] // 2
    assert picture[:, :half].max() > picture[:, half:].max()
    ends = colours(np.array([[-80.0, 0.0]]), top=0.0)[:, 0]
    np.testing.assert_allclose(ends, np.array([[0, 255], [0, 250], [0, 190]]) / 127.5 - 1, rtol=1e-6)


# -- speed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate, name", [(800, "trainseconds_per_second"), (None, "trainimages_per_second")])
def test_speed_is_signal_over_wall_clock(tmp_path, monkeypatch, rate, name):
    clock = iter(range(1000))
    monkeypatch.setattr("sigtok.train.callbacks.speed.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    run(tmp_path, Toy(rate), [Speed()], logger=CSVLogger(tmp_path))
    table = np.genfromtxt(tmp_path / "lightning_logs/version_0/metrics.csv", delimiter=",", names=True)
    assert table[name].tolist() == [2.0] * 4  # 2 signals of 1 s (or 2 images) each second of the clock
