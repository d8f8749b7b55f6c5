"""Batches depend on seed and position alone; crops show what the files hold."""

import csv
import warnings

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI

from sigtok.codecs.media import read_audio, to_pixels, write_audio, write_image
from sigtok.train.data.audio import AudioCrops, AudioFiles, Reader
from sigtok.train.data.image import ImageCrops, ImageFiles
from sigtok.train.data.sources import entries, split
from sigtok.train.data.synthetic import Shapes, Tones

RATE = 8000


def ramp(samples, start=0):
    """Every sample tells where it stands."""
    return (np.arange(start, start + samples, dtype=np.float32) / 32_768)[None]


@pytest.fixture
def sounds(tmp_path):
    for index, samples in enumerate([3000, 6000, 500, 9000]):
        write_audio(tmp_path / f"{index}.wav", ramp(samples, 1 + 10 * index), RATE)
    return tmp_path


@pytest.fixture
def pictures(tmp_path):
    generator = np.random.default_rng(0)
    for index, (height, width) in enumerate([(40, 60), (64, 48), (20, 90)]):
        write_image(tmp_path / f"{index}.png", generator.uniform(-1, 1, (3, height, width)))
    return tmp_path


def audio(folder, **options):
    defaults = {
        "sample_rate": RATE,
        "seconds": 0.1,
        "batch_size": 4,
        "steps_per_epoch": 3,
        "val_fraction": 0.0,
    }
    return AudioFiles(str(folder), **{**defaults, **options})


def images(folder, **options):
    defaults = {"crop": 16, "batch_size": 4, "steps_per_epoch": 3, "val_fraction": 0.0}
    return ImageFiles(str(folder), **{**defaults, **options})


MODULES = {
    "audio": lambda root, **options: audio(root / "a", **options),
    "image": lambda root, **options: images(root / "i", **options),
    "tones": lambda root, **options: Tones(RATE, 0.05, batch_size=4, steps_per_epoch=3, **options),
    "shapes": lambda root, **options: Shapes(16, batch_size=4, steps_per_epoch=3, **options),
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "i").mkdir()
    for index in range(3):
        write_audio(tmp_path / "a" / f"{index}.wav", ramp(4000, 5000 * index), RATE)
        signal = np.random.default_rng(index).uniform(-1, 1, (3, 30, 40))
        write_image(tmp_path / "i" / f"{index}.png", signal)
    return tmp_path


def stream(module, epochs=2):
    batches = module.train_dataloader()
    return torch.cat([batch for _ in range(epochs) for batch in batches])


# --- order


@pytest.mark.parametrize("name", MODULES)
def test_samples_depend_on_seed_and_position_alone(name, root):
    reference = stream(MODULES[name](root))
    assert reference.dtype == torch.float32 and reference.abs().max() <= 1
    assert len({sample.numpy().tobytes() for sample in reference}) > len(reference) * 0.9
    torch.testing.assert_close(stream(MODULES[name](root)), reference, rtol=0, atol=0)
    torch.testing.assert_close(stream(MODULES[name](root, num_workers=2)), reference, rtol=0, atol=0)
    assert not torch.equal(stream(MODULES[name](root, seed=1)), reference)


@pytest.mark.parametrize("name", ["audio", "image"])
def test_the_cache_changes_no_sample(name, root):
    torch.testing.assert_close(stream(MODULES[name](root, cache=True)), stream(MODULES[name](root)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_a_loaded_state_continues_where_it_was_taken(name, root):
    reference = stream(MODULES[name](root))
    module = MODULES[name](root)
    batches = iter(module.train_dataloader())
    for _ in range(2):
        next(batches)
    resumed = MODULES[name](root)
    resumed.load_state_dict(module.state_dict())
    torch.testing.assert_close(stream(resumed, 1), reference[8:20], rtol=0, atol=0)
    assert resumed.state_dict() == {"samples": 20}


def test_devices_share_each_step_of_one_stream(root, monkeypatch):
    whole = stream(MODULES["tones"](root), 1)
    parts = []
    for rank in range(2):
        module = Tones(RATE, 0.05, batch_size=2, steps_per_epoch=3)
        module.trainer = type("Devices", (), {"global_rank": rank, "world_size": 2})()
        parts.append(stream(module, 1).unflatten(0, (3, 2)))
    torch.testing.assert_close(torch.cat(parts, 1).flatten(0, 1), whole, rtol=0, atol=0)


class Listener(LightningModule):
    """Trains nothing of value and remembers what it saw."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(batch)
        return self.weight * batch.mean()

    def validation_step(self, batch, _):
        assert batch.shape[1:] == (1, 400)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data, steps, folder, resume=None, **options):
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    model = Listener()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(max_epochs=-1, max_steps=steps, callbacks=saver, **quiet, **options).fit(model, data, ckpt_path=resume)
    return model.seen


@pytest.mark.parametrize("at", [2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"val_check_interval": 2, "check_val_every_n_epoch": None}])
def test_a_resumed_run_sees_the_batches_of_an_undisturbed_one(at, options, tmp_path):
    def data():
        return Tones(RATE, 0.05, batch_size=2, steps_per_epoch=3, val_items=3)

    undisturbed = fit(data(), 8, tmp_path, **options)
    resumed = fit(data(), 8, tmp_path, resume=tmp_path / f"step={at}.ckpt", **options)
    assert len(undisturbed) == 8 and len(resumed) == 8 - at
    torch.testing.assert_close(torch.cat(resumed), torch.cat(undisturbed[at:]), rtol=0, atol=0)


def test_limited_epochs_do_not_repeat_themselves(tmp_path):
    seen = torch.cat(fit(Tones(RATE, 0.05, batch_size=2, steps_per_epoch=50), 6, tmp_path, limit_train_batches=2))
    torch.testing.assert_close(seen, stream(Tones(RATE, 0.05, batch_size=2, steps_per_epoch=6), 1))


# --- sound


def test_crops_are_pieces_of_the_files(sounds):
    for crop in stream(audio(sounds)).mul(32_768).squeeze(1):
        steps = crop.diff().round()
        assert (steps == 1).all() or crop[-1] == 0  # the one file shorter than a crop ends in zeros


def test_each_second_is_as_likely_as_any_other_and_ends_are_met():
    lengths = [1000, 3000]
    clips = [np.full(1000, 1000, np.int16), np.arange(2000, 5000, dtype=np.int16)]
    crops = AudioCrops(clips, lengths, Reader(RATE, False), 100)
    starts = [round(float(crops.draw(np.random.default_rng(i))[0, 0]) * 32_768) for i in range(2000)]
    assert abs(np.mean(np.array(starts) >= 2000) - 0.75) < 0.04
    assert abs(np.mean([start in (2000, 4900) for start in starts]) - 0.075) < 0.03
    assert min(start for start in starts if start >= 2000) == 2000 and max(starts) == 4900


def test_short_files_are_padded_at_their_end(tmp_path):
    write_audio(tmp_path / "a.wav", ramp(300, 900), RATE)
    for cache in (False, True):
        batch = stream(audio(tmp_path, cache=cache), 1)
        np.testing.assert_array_equal(batch[0, 0, :300], ramp(300, 900)[0])
        assert (batch[:, :, 300:] == 0).all()


def test_silence_is_drawn_again_but_not_for_ever():
    half = np.concatenate([np.zeros(9000, np.int16), np.full(1000, 9000, np.int16)])
    crops = AudioCrops([half], [10_000], Reader(RATE, False), 200, edges=0.0)
    heard = [bool(crops.draw(np.random.default_rng(i)).any()) for i in range(200)]
    assert 0.5 < np.mean(heard) < 0.9  # 1 - 0.9**10 is 0.65; without retries 0.12
    nothing = AudioCrops([np.zeros(999, np.int16)], [999], Reader(RATE, False), 200)
    assert not nothing.draw(np.random.default_rng(0)).any()


def test_gain_is_random_within_its_range_and_within_full_scale():
    def peaks(value, gain_db):
        crops = AudioCrops([np.full(999, value, np.int16)], [999], Reader(RATE, False), 100, gain_db)
        return np.array([crops.draw(np.random.default_rng(i)).abs().max() for i in range(200)])

    decibels = 20 * np.log10(peaks(3277, [-10.0, 6.0]) / 0.1)
    assert -10.01 < decibels.min() < -9 and 5 < decibels.max() < 6.01
    assert 0.9 < peaks(20_000, [0.0, 20.0]).max() <= 1 + 1e-6


def test_files_of_another_rate_or_in_stereo_are_converted(tmp_path):
    time = np.arange(16_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 200 * time)[None].astype(np.float32)
    write_audio(tmp_path / "a.wav", np.concatenate([tone, tone]), 16_000)
    with pytest.raises(ValueError, match=r"a\.wav.*downmix=True"):
        stream(audio(tmp_path))
    for cache in (False, True):
        crops = stream(audio(tmp_path, cache=cache, downmix=True), 1)
        assert crops.shape == (12, 1, 800)
        spectrum = torch.fft.rfft(crops * torch.hann_window(800)).abs().mean((0, 1))
        assert spectrum.argmax() == 20


# --- stereo


@pytest.fixture
def stereo(tmp_path):
    """Left tells where a sample stands, right is its negative."""
    for index, samples in enumerate([3000, 300]):
        sound = ramp(samples, 1 + 4000 * index)
        write_audio(tmp_path / f"{index}.wav", np.concatenate([sound, -sound]), RATE)
    return tmp_path


@pytest.mark.parametrize("cache", [False, True])
def test_crops_of_stereo_are_pieces_of_both_channels_at_one_place(stereo, cache):
    batch = stream(audio(stereo, channels=2, cache=cache)).mul(32_768).round()
    assert batch.shape[1:] == (2, 800) and torch.equal(batch[:, 0], -batch[:, 1])
    for crop in batch[:, 0]:
        if crop[0] >= 4001:
            assert torch.equal(crop, torch.cat((torch.arange(4001.0, 4301.0), torch.zeros(500))))
        else:
            assert torch.equal(crop, crop[0] + torch.arange(800.0))
    assert len(set(batch[:, 0, 0].tolist())) > 10


@pytest.mark.parametrize("cache", [False, True])
def test_validation_and_prediction_of_stereo_have_both_channels(stereo, cache):
    module = audio(stereo, channels=2, cache=cache)
    module.files.val = module.files.train
    whole = [read_audio(path)[0] for path in sorted(stereo.glob("*.wav"))]
    [batch] = module.val_dataloader()
    np.testing.assert_allclose(batch[0], whole[0][:, 1100:1900], atol=1e-6)
    np.testing.assert_allclose(batch[1], np.pad(whole[1], ((0, 0), (0, 500))), atol=1e-6)
    for signal, path in predicted(module, "all"):
        np.testing.assert_array_equal(signal[0].numpy(), read_audio(path)[0])


@pytest.mark.parametrize("cache", [False, True])
def test_a_file_of_other_channels_is_refused_by_name(sounds, tmp_path, cache):
    with pytest.raises(ValueError, match=r"\.wav: 2 channels are required, got 1"):
        stream(audio(sounds, channels=2, cache=cache))
    with pytest.raises(ValueError, match=r"\.wav: 2 channels are required, got 1"):
        stream(audio(sounds, channels=2, cache=cache, downmix=True))


def test_stereo_of_another_rate_is_resampled_channel_by_channel(tmp_path):
    time = np.arange(16_000) / 16_000
    tones = 0.5 * np.sin(2 * np.pi * np.array([[200], [600]]) * time).astype(np.float32)
    write_audio(tmp_path / "a.wav", tones, 16_000)
    for cache in (False, True):
        crops = stream(audio(tmp_path, channels=2, cache=cache), 1)
        spectra = torch.fft.rfft(crops * torch.hann_window(800)).abs().mean(0)
        assert crops.shape == (12, 2, 800) and spectra.argmax(1).tolist() == [20, 60]


# --- pictures


def test_unscaled_crops_are_pieces_of_the_pictures():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    crops = ImageCrops([picture], 8)
    windows = np.lib.stride_tricks.sliding_window_view(picture, (8, 8), (0, 1)).reshape(-1, 3, 8, 8)
    known = {window.tobytes() for window in windows} | {window[..., ::-1].tobytes() for window in windows}
    drawn = {to_pixels(crops.draw(np.random.default_rng(i)).numpy()).transpose(2, 0, 1).tobytes() for i in range(200)}
    assert drawn <= known and len(drawn) > 100
    mirrored = {window[..., ::-1].tobytes() for window in windows}
    assert 0.3 < np.mean([crop in mirrored for crop in drawn]) < 0.7
    assert not any(
        to_pixels(ImageCrops([picture], 8, flip=False).draw(np.random.default_rng(i)).numpy())
        .transpose(2, 0, 1)
        .tobytes()
        in mirrored
        for i in range(50)
    )


def test_scales_are_as_asked_and_small_pictures_are_enlarged():
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 120, 0).repeat(3, -1)
    crops = ImageCrops([ramp], 16, scale=(0.25, 1.0), flip=False)
    slopes = [float(crops.draw(np.random.default_rng(i))[0, 8].diff()[3:-3].mean()) * 127.5 for i in range(200)]
    assert 0.9 < min(slopes) < 1.2 and 3.2 < max(slopes) < 4.2  # one pixel of the crop spans 1 / scale
    assert 1.7 < np.median(slopes) < 2.3  # even in the logarithm
    assert ImageCrops([ramp[:5, :7]], 16, scale=(0.25, 1.0)).draw(np.random.default_rng(0)).shape == (
        3,
        16,
        16,
    )


def test_a_reduced_crop_does_not_alias():
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    whole, reduced = (ImageCrops([noise], 32, (scale, scale)).draw(np.random.default_rng(0)) for scale in (1.0, 0.25))
    assert reduced.std() < 0.4 * whole.std()  # each pixel is a mean of many


def test_impossible_scales_are_refused(pictures):
    for scale in ((0.0, 1.0), (1.0, 0.5)):
        with pytest.raises(ValueError, match="scale"):
            images(pictures, scale=scale)


# --- validation and prediction


@pytest.mark.parametrize("cache", [False, True])
def test_validation_is_the_middle_of_every_held_out_file(sounds, cache):
    module = audio(sounds, cache=cache)
    module.files.val = module.files.train
    batch = torch.cat(list(module.val_dataloader())).mul(32_768).round().squeeze(1)
    assert batch[:, 0].tolist() == [1 + 1100, 11 + 2600, 21, 31 + 4100]
    torch.testing.assert_close(torch.cat(list(module.val_dataloader())).mul(32_768).round().squeeze(1), batch)


@pytest.mark.parametrize("cache", [False, True])
def test_validation_pictures_are_their_middles(pictures, cache):
    module = images(pictures, cache=cache, scale=(0.5, 2.0))
    module.files.val = module.files.train
    [batch] = module.val_dataloader()
    for file, crop in zip(module.files.train, batch, strict=True):
        height, width = (whole := next(x for x, path in predicted(module, "train") if path == str(file.path))).shape[
            -2:
        ]
        middle = whole[0, :, (height - 16) // 2 :, (width - 16) // 2 :][:, :16, :16]
        torch.testing.assert_close(crop, middle, atol=1e-6, rtol=0)


def predicted(module, which):
    module.predict_split = which
    return list(module.predict_dataloader())


def test_prediction_reads_whole_files_with_their_paths(sounds, pictures):
    for signal, path in predicted(audio(sounds), "all"):
        np.testing.assert_allclose(signal[0].numpy(), read_audio(path)[0])
    shapes = [tuple(signal.shape) for signal, _ in predicted(images(pictures), "all")]
    assert shapes == [(1, 3, 40, 60), (1, 3, 64, 48), (1, 3, 20, 90)]


@pytest.mark.parametrize("name", ["tones", "shapes"])
def test_synthetic_validation_is_fixed_and_apart_from_training(name, root):
    module = MODULES[name](root)
    val = torch.cat(list(module.val_dataloader()))
    assert len(val) == 16
    torch.testing.assert_close(torch.cat(list(MODULES[name](root).val_dataloader())), val, rtol=0, atol=0)
    train = {sample.numpy().tobytes() for sample in stream(module, 5)}
    assert not any(sample.numpy().tobytes() in train for sample in val)
    signal, path = next(iter(module.predict_dataloader()))
    assert path == f"{name}_0000" and torch.equal(signal[0], val[0])


# --- which files


def manifest(folder, rows, name="list.csv"):
    with open(folder / name, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(folder / name)


def names(files):
    return [file.name for file in files]


ROWS = [
    {"file": "b/0.wav", "kind": "speech", "split": "train", "year": "2001"},
    {"file": "b/1.opus", "kind": "speech", "split": "val", "year": "2002"},
    {"file": "a/2.FLAC", "kind": "music", "split": "train", "year": "2001"},
    {"file": "a/3.png", "kind": "photo", "split": "train", "year": "2001"},
    {"file": "a/4.wav", "kind": "music", "split": "test", "year": "2003"},
]


def test_manifests_filter_exclude_and_split(tmp_path):
    path = manifest(tmp_path, ROWS)
    sound = {".wav", ".opus", ".flac"}
    assert names(entries(None, path, sound)) == ["a/2.FLAC", "a/4.wav", "b/0.wav", "b/1.opus"]
    assert entries(None, path, sound)[0].path == tmp_path / "a/2.FLAC"
    assert entries("/else", path, sound)[0].path.as_posix() == "/else/a/2.FLAC"
    assert names(entries(None, path, sound, {"kind": "speech"})) == ["b/0.wav", "b/1.opus"]
    assert names(entries(None, path, sound, {"kind": ["speech", "music"], "year": 2001})) == [
        "a/2.FLAC",
        "b/0.wav",
    ]
    assert names(entries(None, path, sound, None, {"year": [2001, 2002]})) == ["a/4.wav"]
    (tmp_path / "bad.txt").write_text("a/4.wav\r\nb/0.wav\n")
    assert names(entries(None, path, sound, None, str(tmp_path / "bad.txt"))) == ["a/2.FLAC", "b/1.opus"]
    train, val = split(entries(None, path, sound), None)
    assert names(train) == ["a/2.FLAC", "b/0.wav"] and names(val) == ["b/1.opus"]


@pytest.mark.parametrize(
    "options, word",
    [
        ({"where": {"colour": "red"}}, "colour"),
        ({"where": {"kind": "noise"}}, "none left"),
        ({"suffixes": {".mp3"}}, "none left"),
        ({"manifest": None}, "root"),
        ({"manifest": None, "root": "nowhere"}, "nowhere"),
    ],
)
def test_a_selection_that_makes_no_sense_says_why(tmp_path, options, word):
    arguments = {"root": None, "manifest": manifest(tmp_path, ROWS), "suffixes": {".wav"}, **options}
    with pytest.raises(ValueError, match=word):
        entries(**arguments)
    with pytest.raises(ValueError, match="column 'file'"):
        entries(None, manifest(tmp_path, [{"path": "a.wav"}], "other.csv"), {".wav"})


def test_the_hash_split_moves_no_file_when_others_come(tmp_path):
    rows = [{"file": f"{index}.wav"} for index in range(2000)]
    train, val = split(entries(None, manifest(tmp_path, rows), {".wav"}), 0.1)
    assert len(train) + len(val) == 2000 and 150 < len(val) < 250
    _, fewer = split(entries(None, manifest(tmp_path, rows[:1000]), {".wav"}), 0.1)
    assert set(names(fewer)) == {name for name in names(val) if int(name[:-4]) < 1000}


def test_folders_are_searched_through(root):
    assert names(entries(str(root), None, {".wav"})) == ["a/0.wav", "a/1.wav", "a/2.wav"]


# --- files that cannot be read


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("name", ["audio", "image"])
def test_a_damaged_file_stops_the_run_or_is_skipped_by_name(name, cache, root):
    bad = root / name[0] / {"audio": "bad.flac", "image": "bad.png"}[name]
    if name == "audio":
        write_audio(bad, np.random.default_rng(0).uniform(-1, 1, (1, 12_000)), RATE)
    content = bad.read_bytes() if name == "audio" else (root / "i" / "0.png").read_bytes()
    bad.write_bytes(content[: len(content) // 5])  # its header is as it was
    with pytest.raises(ValueError, match=rf"{bad.name}.*on_error"):
        stream(MODULES[name](root, cache=cache), 20)
    module = MODULES[name](root, cache=cache, on_error="skip")
    module.files.val = module.files.train
    with pytest.warns(UserWarning, match=rf"skipped: .*{bad.name}"):
        assert len(stream(module, 5)) == 60
    with pytest.warns(UserWarning, match=rf"skipped: .*{bad.name}"):
        assert len(torch.cat(list(module.val_dataloader()))) == 3


def test_no_readable_file_is_an_error(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"nothing")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of 1 files"):
        stream(audio(tmp_path, on_error="skip"))
    write_audio(tmp_path / "a.wav", np.zeros((1, 0)), RATE)
    with pytest.raises(ValueError, match="at least one sample"):
        stream(audio(tmp_path))


# --- command line


@pytest.mark.parametrize(
    "name, options",
    [
        (
            "audio.AudioFiles",
            ["--data.gain_db=[-10, 6]", "--data.where={kind: [speech, music]}", "--data.seconds=0.1"],
        ),
        ("image.ImageFiles", ["--data.scale=[0.25, 1]", "--data.exclude={kind: speech}"]),
        ("synthetic.Tones", ["--data.seconds=0.5"]),
        ("synthetic.Shapes", ["--data.crop=32"]),
    ],
)
def test_the_command_line_builds_every_module(name, options, root):
    if name.endswith("Files"):
        rows = [{"file": f"{part}", "kind": "speech" if part[0] == "a" else "photo"} for part in ("a/0.wav", "i/0.png")]
        options = [f"--data.manifest={manifest(root, rows)}", "--data.val_fraction=0", *options]
    arguments = [f"--data=sigtok.train.data.{name}", *options]
    cli = LightningCLI(
        Listener,
        LightningDataModule,
        subclass_mode_data=True,
        run=False,
        args=arguments,
        save_config_callback=None,
    )
    assert type(cli.datamodule).__name__ == name.split(".")[1]
    assert next(iter(cli.datamodule.train_dataloader())).dtype == torch.float32
