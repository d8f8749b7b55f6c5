"""A codec of features on the command line and in ONNX: `.npy` in, `.npy` out."""

import json
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import semantic_features
from sigtok.codecs.media import write_audio
from sigtok.codecs.pretrained import load, save
from sigtok.export.cli import main
from sigtok.export.runtime import OnnxCodec
from sigtok.export.write import write_onnx

CODE = {"name": "vq", "codebook_size": 16, "dim": 2, "metric": "sphere"}
SMALL = {"name": "small", "channels": 3, "dim": 8, "depth": 1, "latent_dim": 4,
         "quantizer": {"name": "projected", "inner": CODE, "dim": 4}}  # fmt: skip


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codec = semantic_features(**SMALL)
    codec.encoder.scale.set(torch.tensor([5.0, -30.0, 0.0]), torch.tensor([2.0, 20.0, 0.1]), 9)
    save(codec, "model", builder="semantic_features", arguments=SMALL, licence="CC0-1.0", training_data="none",
         measured={}, card="# Small")  # fmt: skip
    return "model"


def frames(count, seed=0):
    dice = np.random.default_rng(seed)
    return (dice.standard_normal((count, 3)) * [2, 20, 0.1] + [5, -30, 0]).astype(np.float32)


def run(capsys, *line):
    try:
        code = main([str(part) for part in line])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_features_go_through_a_file_and_come_back_as_the_codec_says(model, capsys, kind):
    np.save("a.npy", frames(31).astype(kind))
    assert run(capsys, "encode", "a.npy", "-m", model, "-o", "a.sgt") == (0, "", "")
    assert run(capsys, "decode", "a.sgt", "-m", model, "-o", "b.npy") == (0, "", "")
    codec = load(model)
    signal = torch.from_numpy(np.load("a.npy").astype(np.float32).T.copy())[None]
    decoded = np.load("b.npy")
    assert decoded.dtype == np.float32 and decoded.shape == (31, 3)
    np.testing.assert_array_equal(decoded, codec.decode(codec.encode(signal))[0].numpy().T)
    assert abs(decoded[:, 1]).max() > 1


def test_folders_of_features_tokens_and_figures(model, capsys):
    Path("in/deep").mkdir(parents=True)
    np.save("in/a.npy", frames(20))
    np.save("in/deep/b.npy", frames(11, 1))
    assert run(capsys, "encode", "in", "-m", model, "-o", "codes") == (0, "", "")
    assert run(capsys, "decode", "codes", "-m", model, "-o", "back") == (0, "", "")
    assert np.load("back/deep/b.npy").shape == (11, 3)
    code, out, _ = run(capsys, "tokens", "in/a.npy", "-m", model)
    assert code == 0 and len(json.loads(out)["codes"][0]) == 10
    code, out, _ = run(capsys, "info", model, "--json")
    assert json.loads(out)["rates"][0]["tokens_per_second"] == 25
    code, out, _ = run(capsys, "info", "codes/a.sgt", "-m", model, "--json")
    assert json.loads(out)["modality"] == "features"
    code, out, _ = run(capsys, "evaluate", model, "in", "--json", "-")
    [rate] = json.loads(out)["rates"]
    size = sum(path.stat().st_size for path in Path("codes").rglob("*.sgt"))
    assert rate["bits_per_second"] == pytest.approx(8 * size / (31 / 50))
    assert 0 < rate["relative_error"]["mean"] < 10 and -1 <= rate["cosine"]["mean"] <= 1
    code, out, _ = run(capsys, "evaluate", model, "in")
    assert code == 0 and "relative" in out and "bits" in out


def test_what_is_no_feature_is_refused_in_one_line(model, capsys):
    write_audio("a.wav", np.zeros((1, 100)), 8000)
    np.save("b.npy", frames(9)[:, :2])
    for name, message in (("a.wav", "small takes features files, got audio"), ("b.npy", "[frames, 3], got float32")):
        code, _, err = run(capsys, "encode", name, "-m", model, "-o", "a.sgt")
        assert code == 65 and message in err and err.count("\n") == 1
    np.save("c.npy", frames(9))
    run(capsys, "encode", "c.npy", "-m", model, "-o", "c.sgt")
    code, _, err = run(capsys, "decode", "c.sgt", "-m", model, "-o", "c.wav")
    assert code == 2 and ".npy" in err and err.count("\n") == 1


def test_graphs_give_the_codes_and_the_features(model, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # extents are symbols while tracing
    codec = load(model)
    record = write_onnx(codec, "onnx", trials=6)
    assert record["parity"]["agreement"] >= 0.999
    opened, signal = OnnxCodec("onnx"), np.ascontiguousarray(frames(31).T)[None]
    codes = opened.encode(signal)
    tokens = codec.encode(torch.from_numpy(signal))
    assert np.array_equal(codes.codes, tokens.codes.numpy())
    np.testing.assert_allclose(opened.decode(codes), codec.decode(tokens).numpy(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="features are finite numbers, got one of magnitude inf"):
        opened.encode(np.full((1, 3, 4), np.inf, np.float32))
