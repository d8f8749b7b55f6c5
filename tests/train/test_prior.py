"""Priors and folders of features: made of the files that were asked for, equal for equal seeds, and true to both."""

import csv
import json

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from sigtok.codecs.media import read_audio, write_audio
from sigtok.codecs.quantizers.prior import SemanticPrior
from sigtok.train import cli
from sigtok.train.data.sources import Entry
from sigtok.train.features import Saved
from sigtok.train.prior import fit
from sigtok.train.teachers import teacher

RATE = 16_000
ROWS = [  # file, kind, split
    ("a/one.wav", "speech", "train"),
    ("a/two.wav", "speech", "train"),
    ("b/one.wav", "speech", "train"),
    ("b/held.wav", "speech", "val"),
    ("c/song.wav", "music", "train"),
]


@pytest.fixture
def manifest(tmp_path):
    with open(tmp_path / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "kind", "split"), *ROWS])
    generator = np.random.default_rng(0)
    for index, (name, _, _) in enumerate(ROWS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise = generator.normal(size=(1, RATE * (2 + index))).cumsum(1)
        write_audio(tmp_path / name, (noise / np.abs(noise).max()).astype(np.float32), RATE)
    return tmp_path / "list.csv"


def run(command, manifest, out, *words, where='{"kind": "speech"}'):
    cli.main([command, "--data.manifest", str(manifest), "--data.where", where, "--out", str(out), *words])


def opened(file):
    with safetensors.safe_open(file, "pt") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}, json.loads(tensors.metadata()["prior"])  # noqa: SIM118


def heard(manifest, name):
    signal = read_audio(manifest.parent / name, RATE)[0]
    return teacher("mfcc", RATE)(torch.from_numpy(signal)[None])[0]


# -- priors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, said",
    [
        (["--out", "nowhere/p.safetensors"], "a folder that exists"),
        (["--centres", "0"], "centres are at least 1, got 0"),
        (["--frames", "-5"], "frames are at least 1, got -5"),
        (["--device", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_costs_one_line_and_no_work(manifest, tmp_path, capfd, words, said):
    with pytest.raises(SystemExit, match="2"):
        run("prior", manifest, tmp_path / "p.safetensors", *words)
    [line] = [line for line in capfd.readouterr().err.split("\n") if "error" in line]
    assert line.startswith("sigtok-train prior: error: ") and said in line


def test_a_prior_is_made_of_the_training_files_that_were_selected(manifest, tmp_path, capsys):
    run("prior", manifest, tmp_path / "p.safetensors", "--centres", "8", "--iterations", "3")
    tensors, record = opened(tmp_path / "p.safetensors")
    frames = torch.cat([heard(manifest, name) for name, kind, split in ROWS if (kind, split) == ("speech", "train")])
    assert {name: value.shape for name, value in tensors.items()} == {"centres": (8, 39), "mean": (39,), "std": (39,)}
    torch.testing.assert_close(tensors["mean"], frames.mean(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(tensors["std"], frames.std(0, correction=0), atol=1e-5, rtol=0)
    normal = (frames - tensors["mean"]) / tensors["std"]
    error = torch.cdist(normal, tensors["centres"]).amin(1).square().mean() / 39
    assert record == {
        "teacher": "mfcc", "frame_rate": 50.0, "seed": 0, "frames": 450, "iterations": 3,
        "error": pytest.approx(float(error), abs=1e-3),
        "data": {"manifest": "list.csv", "where": {"kind": "speech"}, "split": "train", "files": 3},
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "8 centres of mfcc in" in said and "450 frames of 3 files (0.1 min), 56 per centre" in said
    assert f"squared error {float(error):.3f} of the variance" in said and 0.1 < error < 0.9


def test_centres_are_the_means_of_the_frames_nearest_to_them(manifest, tmp_path):
    run("prior", manifest, tmp_path / "p.safetensors", "--centres", "4", "--iterations", "100")
    tensors, _ = opened(tmp_path / "p.safetensors")
    frames = torch.cat([heard(manifest, name) for name in ("a/one.wav", "a/two.wav", "b/one.wav")])
    normal = (frames - tensors["mean"]) / tensors["std"]
    codes = torch.cdist(normal, tensors["centres"]).argmin(1)
    means = torch.stack([normal[codes == code].mean(0) for code in range(4)])
    torch.testing.assert_close(means, tensors["centres"], atol=1e-4, rtol=1e-4)


def test_a_prior_depends_on_its_seed_alone(manifest, tmp_path):
    for name, seed in (("p", "1"), ("q", "1"), ("r", "2")):
        run("prior", manifest, tmp_path / name, "--centres", "8", "--frames", "100", "--seed", seed)
    assert (tmp_path / "p").read_bytes() == (tmp_path / "q").read_bytes() != (tmp_path / "r").read_bytes()
    assert opened(tmp_path / "p")[1]["frames"] == 100


def test_two_priors_are_the_groups_of_one_codebook(manifest, tmp_path):
    run("prior", manifest, tmp_path / "speech", "--centres", "8")
    run("prior", manifest, tmp_path / "sound", "--centres", "4", where='{"kind": "music"}')
    files = [str(tmp_path / name) for name in ("speech", "sound")]
    quantizer = SemanticPrior([8, 4], [39, 39], 6, files).train()
    quantizer(torch.randn(1, 3, 6))
    for group, file in zip(quantizer.groups, files, strict=True):
        assert torch.equal(group.centres, opened(file)[0]["centres"])


def test_small_centres_move_to_where_frames_are():
    frames = torch.cat((torch.randn(400, 2), 100 + 50 * torch.randn(3, 2)))  # outliers, which careful seeds find first
    found = fit(frames, 12, 10, 0)
    assert len(found.counts) == 12 and found.counts.sum() == 403 and found.counts.min() >= 3
    assert (found.counts < 10).sum() <= 1
    channels = fit(torch.cat((frames, torch.ones(403, 1)), 1), 12, 10, 0)
    assert channels.centres.isfinite().all(), "a channel that says nothing"


def test_too_few_frames_are_warned_about_and_fewer_than_centres_refused(manifest, tmp_path, capsys):
    with pytest.warns(UserWarning, match="mean of 10 frames or more, got 450 frames for 46 centres"):
        run("prior", manifest, tmp_path / "p", "--centres", "46")
    with pytest.warns(UserWarning, match="450 frames"), pytest.raises(SystemExit, match="2"):
        run("prior", manifest, tmp_path / "q", "--centres", "451")
    said = capsys.readouterr().err
    assert said.endswith("error: 451 centres start from as many vectors, got 450; collect more\n")
    assert not (tmp_path / "q").exists()


# -- features ----------------------------------------------------------------------------------------------


def test_features_lie_under_the_names_of_their_files(manifest, tmp_path, capsys):
    run("features", manifest, tmp_path / "f")
    assert "features of 4 files: mfcc, 39 channels at 50 Hz" in capsys.readouterr().out
    files = {path.relative_to(tmp_path / "f").as_posix() for path in (tmp_path / "f").rglob("*.*")}
    assert files == {"a/one.npy", "a/two.npy", "b/one.npy", "b/held.npy", "features.json"}
    record = json.loads((tmp_path / "f/features.json").read_text())
    assert record == {"teacher": "mfcc", "frame_rate": 50.0, "channels": 39}
    array = np.load(tmp_path / "f/b/held.npy")
    assert array.dtype == np.float16 and array.shape == (250, 39)
    np.testing.assert_allclose(array, heard(manifest, "b/held.wav").numpy(), atol=5e-3)
    run("features", manifest, tmp_path / "g", "--split", "val")
    assert [path.name for path in (tmp_path / "g").rglob("*.npy")] == ["held.npy"]


def test_a_prior_of_saved_features_is_one_of_the_training_files_too(manifest, tmp_path):
    run("features", manifest, tmp_path / "f")
    run("prior", manifest, tmp_path / "p", "--centres", "8", "--features", str(tmp_path / "f"))
    run("prior", manifest, tmp_path / "q", "--centres", "8")
    (saved, told), (live, other) = opened(tmp_path / "p"), opened(tmp_path / "q")
    torch.testing.assert_close(saved["mean"], live["mean"], atol=1e-3, rtol=0)
    assert {**told, "error": 0} == {**other, "error": 0}


def test_an_unfinished_folder_of_features_is_refused(manifest, tmp_path, capsys):
    run("features", manifest, tmp_path / "f")
    (tmp_path / "b/one.wav").write_bytes(b"noise")
    with pytest.raises(SystemExit, match="2"):
        run("features", manifest, tmp_path / "f")
    assert "(or set on_error: skip)" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"a folder of features has features.json, got none"):
        Saved(str(tmp_path / "f"))
    with pytest.warns(UserWarning, match="skipped"):
        run("features", manifest, tmp_path / "f", "--on_error", "skip")
    assert Saved(str(tmp_path / "f")).channels == 39


def test_features_that_are_missing_or_another_teachers_are_named(manifest, tmp_path):
    run("features", manifest, tmp_path / "f", "--split", "val")
    saved = Saved(str(tmp_path / "f"))
    with pytest.raises(ValueError, match="has no features of a/one.wav"):
        saved(Entry(tmp_path / "a/one.wav", "a/one.wav", {}))
    np.save(tmp_path / "f/b/held.npy", np.zeros((3, 38), np.float16))
    with pytest.raises(ValueError, match=r"\[frames, 39\], got float16 \[3, 38\]"):
        saved(Entry(tmp_path / "b/held.wav", "b/held.wav", {}))
    for name in ("../one.wav", str(tmp_path / "a/one.wav")):
        with pytest.raises(ValueError, match="features lie inside"):
            saved(Entry(tmp_path / "a/one.wav", name, {}))


def test_two_files_of_one_name_are_refused(manifest, tmp_path, capsys):
    with open(manifest, "a") as file:
        file.write("a/one.flac,speech,train\n")
    with pytest.raises(SystemExit, match="2"):
        run("features", manifest, tmp_path / "f")
    assert "differ in more than their suffix" in capsys.readouterr().err


@pytest.mark.parametrize("words, message", [
    (["--teacher.name", "HUBERT"], "teachers are mfcc and the bundles"),
    (["--teacher.name", "HUBERT_BASE"], "HUBERT_BASE needs weights and none are given; fetch https://"),
    (["--centers", "4"], "centers"),
    (["--features", "nowhere"], "nowhere: a folder of features has features.json"),
])  # fmt: skip
def test_mistakes_end_in_one_line(manifest, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        run("prior", manifest, tmp_path / "p", *words)
    said = capsys.readouterr().err
    assert said.startswith("sigtok-train prior: error: ") and message in said and said.count("\n") == 1
