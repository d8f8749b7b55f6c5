"""Crops of features show what the files hold; statistics are those of all training frames, set once."""

import json

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from sigtok.codecs.audio.models import semantic_features
from sigtok.codecs.pretrained import load
from sigtok.train.callbacks.standardise import FeatureStatistics
from sigtok.train.data.features import FeatureFiles
from sigtok.train.data.synthetic import Tones
from sigtok.train.losses.features import StandardisedMSE
from sigtok.train.release import release
from sigtok.train.task import CodecTask

LENGTHS = (30, 7, 12, 0, 50)
CODE = {"name": "vq", "codebook_size": 16, "dim": 2, "metric": "sphere"}
SMALL = {"channels": 3, "frame_rate": 10, "dim": 8, "depth": 1, "latent_dim": 4,
         "quantizer": {"name": "projected", "inner": CODE, "dim": 4}}  # fmt: skip


def ramp(length, start):
    """Frames that tell file and place: [start + t, -(start + t), 5]."""
    place = start + np.arange(length)
    return np.stack([place, -place, np.full(length, 5)], axis=1).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "features"
    root.mkdir()
    for index, length in enumerate(LENGTHS):
        np.save(root / f"{index}.npy", ramp(length, 1000 * index))
    (root / "features.json").write_text(json.dumps({"teacher": "ramp", "frame_rate": 10, "channels": 3}))
    return root


def files(folder, **options):
    settings = {"seconds": 1.0, "batch_size": 4, "steps_per_epoch": 5, "val_fraction": 0.0}
    return FeatureFiles(str(folder), **{**settings, **options})


def test_crops_are_frames_of_one_file_in_order_and_short_files_end_in_their_last_frame(folder):
    batches = list(files(folder, steps_per_epoch=60).train_dataloader())
    assert all(batch.shape == (4, 3, 10) and batch.dtype == torch.float32 for batch in batches)
    crops, seen = torch.cat(batches), set()
    for crop in crops:
        index, start = divmod(int(crop[0, 0]), 1000)
        expected = ramp(LENGTHS[index], 1000 * index)[start : start + 10]
        expected = np.pad(expected, ((0, 10 - len(expected)), (0, 0)), mode="edge")
        assert np.array_equal(crop.numpy().T, expected)
        seen.add((index, start))
    assert {index for index, _ in seen} == {0, 1, 2, 4}
    assert {(0, 0), (0, 20), (4, 0), (4, 40), (2, 2)} <= seen


def test_every_frame_is_as_likely_and_samples_depend_on_seed_and_position_alone(folder):
    crops = torch.cat(list(files(folder, steps_per_epoch=200).train_dataloader()))
    share = (crops[:, 0, 0] >= 4000).float().mean()
    assert share == pytest.approx(50 / 99, abs=0.06)
    assert torch.equal(torch.cat(list(files(folder, steps_per_epoch=200).train_dataloader())), crops)
    assert not torch.equal(torch.cat(list(files(folder, steps_per_epoch=200, seed=1).train_dataloader())), crops)


def test_validation_is_the_middle_and_prediction_the_whole_of_every_file(folder):
    (folder / "list.csv").write_text("file,split\n0.opus,train\n2.wav,val\n4.npy,val\n3.npy,val\n")
    data = files(folder, manifest=str(folder / "list.csv"), val_fraction=None)
    middles = {int(crop[0, 0]) for batch in data.val_dataloader() for crop in batch}
    assert middles == {2001, 4020}
    whole = {path.rpartition("/")[2]: signal for signal, path in data.predict_dataloader()}
    assert {name: signal.shape for name, signal in whole.items()} == {
        "2.npy": (1, 3, 12), "3.npy": (1, 3, 0), "4.npy": (1, 3, 50),
    }  # fmt: skip
    assert np.array_equal(whole["4.npy"][0].numpy().T, ramp(50, 4000))


def test_statistics_are_those_of_all_training_frames(folder):
    (folder / "list.csv").write_text("file,split\n0.npy,train\n1.npy,train\n3.npy,train\n4.npy,val\n")
    mean, deviation, frames = files(folder, manifest=str(folder / "list.csv"), val_fraction=None).statistics()
    everything = np.concatenate([ramp(30, 0), ramp(7, 1000)]).astype(np.float64)
    assert frames == 37
    np.testing.assert_allclose(mean, everything.mean(0), rtol=1e-6)
    np.testing.assert_allclose(deviation, [*everything.std(0)[:2], 1], rtol=1e-6)


def test_statistics_of_a_narrow_channel_far_from_zero_are_right(folder):
    for path in folder.glob("*.npy"):
        path.unlink()
    values = 1000 + 0.1 * np.random.default_rng(0).standard_normal((4000, 3)).astype(np.float32)
    np.save(folder / "a.npy", values[:3000])
    np.save(folder / "b.npy", values[3000:])
    mean, deviation, _ = files(folder).statistics()
    np.testing.assert_allclose(mean, values.astype(np.float64).mean(0), rtol=1e-7)
    np.testing.assert_allclose(deviation, values.astype(np.float64).std(0), rtol=1e-5)


def test_folders_without_frames_or_record_are_refused(folder):
    for path in folder.glob("*.npy"):
        np.save(path, np.zeros((0, 3), np.float16))
    for ask in (lambda data: data.statistics(), lambda data: data.train_dataloader()):
        with pytest.raises(ValueError, match="need a frame, got none in 5 files"):
            ask(files(folder))
    (folder / "features.json").unlink()
    with pytest.raises(ValueError, match="has features.json, got none"):
        files(folder)


# -- a run -------------------------------------------------------------------------------------------------


def task(codec=None, **settings):
    torch.manual_seed(0)
    weights = {"mse": 1.0, "codebook": 1.0, "commitment": 0.15}
    return CodecTask(codec or semantic_features(**SMALL), {"mse": StandardisedMSE()}, weights, **settings)


def fit(folder, model, data, steps=2, **options):
    trainer = Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", enable_progress_bar=False, logger=False,
        enable_model_summary=False, limit_val_batches=0, enable_checkpointing=False,
        callbacks=[FeatureStatistics()],
    )  # fmt: skip
    trainer.fit(model, data, **options)
    return trainer


def test_statistics_are_set_once_and_stay_in_resumed_and_released_models(folder, tmp_path):
    model, data = task(), files(folder)
    trainer = fit(tmp_path, model, data)
    scale = model.codec.encoder.scale
    assert scale is model.codec.decoder.scale and scale.frames == 99
    torch.testing.assert_close(scale.mean, data.statistics().mean)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    for path in folder.glob("*.npy"):
        np.save(path, np.load(path) + 7)
    resumed = task()
    fit(tmp_path, resumed, files(folder), steps=3, ckpt_path=tmp_path / "run.ckpt")
    assert torch.equal(resumed.codec.encoder.scale.mean, scale.mean)
    config = {"model": {"codec": {"class_path": "sigtok.codecs.audio.models.semantic_features", "init_args": SMALL}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    release(str(tmp_path / "config.yaml"), str(tmp_path / "run.ckpt"), str(tmp_path / "model"), half=False)
    released = load(tmp_path / "model")
    assert torch.equal(released.encoder.scale.mean, scale.mean)
    fit(tmp_path, again := task(released.train()), files(folder))
    assert torch.equal(again.codec.encoder.scale.mean, scale.mean)


def test_a_run_whose_codec_and_data_do_not_fit_stops_before_it_begins(folder, tmp_path):
    for change, message in (({"channels": 4}, "takes 4 channels at 10 Hz"), ({"frame_rate": 25}, "3 channels at 25")):
        with pytest.raises(ValueError, match=f"{message}.*the features have 3 at 10 Hz"):
            fit(tmp_path, task(semantic_features(**{**SMALL, **change})), files(folder))
    with pytest.raises(ValueError, match="statistics are of FeatureFiles.*got Tones"):
        fit(tmp_path, task(), Tones(8000, 0.1, batch_size=2))


def test_the_error_falls_in_any_units(folder, tmp_path):
    data = files(folder, seconds=2.0)
    model = task(learning_rate=1e-2)
    signal = next(iter(data.train_dataloader()))
    model.codec.encoder.scale.set(*data.statistics())
    before = float(model.losses["mse"](model.codec(signal).signal, signal).detach())
    fit(tmp_path, model, data, steps=60)
    after = float(model.losses["mse"](model.codec.eval()(signal).signal, signal).detach())
    assert after < 0.5 * before


def test_the_loss_is_the_same_in_any_units():
    loss, signal, guess = StandardisedMSE(), torch.randn(4, 3, 50), torch.randn(4, 3, 50)
    unit, zero = torch.tensor([1e3, 1.0, 1e-1])[:, None], torch.tensor([1.0, -5.0, 30.0])[:, None]
    torch.testing.assert_close(loss(guess * unit + zero, signal * unit + zero), loss(guess, signal), rtol=1e-3, atol=0)
    mean = signal.mean((0, 2), keepdim=True).expand_as(signal)
    assert loss(mean, signal).item() == pytest.approx(1, rel=1e-4)
