"""Models side by side: the same files, the bytes of real files, and other formats at the nearest sizes."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models as backbones
from torchvision.transforms import v2

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.files import compress
from sigtok.codecs.image.models import query_image
from sigtok.codecs.media import (
    cut_square,
    from_pixels,
    image_from_bytes,
    image_to_bytes,
    opus_to_bytes,
    read_image,
    write_audio,
    write_image,
)
from sigtok.codecs.metrics.audio import mel_distance
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.metrics.perceptual import load_lpips, lpips
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.export import compare, evaluate, metrics, peers
from sigtok.export.compare import Ladder, parsed
from sigtok.export.metrics import METRICS, metrics_of
from sigtok.export.released import described

IMAGE = {
    "levels": 2, "tile": 4, "queries": 8, "dim": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1,
    "codebook_size": 64, "latent_dim": 8,
}  # fmt: skip
SPEECH = {
    "sample_rate": 8000, "frame_hop": 40, "frame_size": 120, "dim": 16, "heads": 2, "encoder_depth": 1,
    "decoder_depth": 1, "decoder_blocks": 1, "codebooks": 3, "codebook_size": 64, "latent_dim": 8, "context": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for folder, builder, arguments in (
        ("image", query_image, IMAGE | {"name": "small"}),
        ("wide", query_image, IMAGE | {"name": "wide", "tile": 8}),
        ("twin", query_image, IMAGE | {"name": "small"}),
        ("speech", query_speech, SPEECH | {"name": "voice"}),
    ):
        torch.manual_seed(len(folder))
        save(
            builder(**arguments), root / folder, builder=builder.__name__, arguments=arguments, licence="CC0-1.0",
            training_data="none", measured={}, card="# Tiny",
        )  # fmt: skip
    return SimpleNamespace(**{path.name: str(path) for path in root.iterdir()})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """LPIPS of random weights in a file of ours, one without heads, and one without a name."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = backbones.squeezenet1_1(weights=None)
    heads = {f"heads.{place}": torch.rand(width) for place, width in enumerate((64, 128, 256, 384, 384, 512, 512))}
    record = {"perceptual": json.dumps({"backbone": "squeezenet1_1"})}
    torch.save(model.state_dict(), folder / "model.pth")
    save_file(model.state_dict() | heads, folder / "judge.safetensors", record)
    save_file(model.state_dict(), folder / "headless.safetensors", record)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, (name, size) in enumerate({"a.png": (60, 72), "b.png": (50, 41)}.items()):
        write_image(name, photo(*size, seed))
    return tmp_path


def photo(height, width, seed=0):
    """Soft blots with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    blots = torch.rand(1, 3, 6, 6, generator=generator) * 2 - 1
    picture = torch.nn.functional.interpolate(blots, (height, width), mode="bicubic")[0]
    return (picture + 0.03 * torch.randn(3, height, width, generator=generator)).clamp(-1, 1).numpy()


def record_of(path="c.json"):
    return json.loads(Path(path).read_text())


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


# -- models ----------------------------------------------------------------------------------------------------


def test_every_model_is_measured_at_every_point_by_the_bytes_of_its_files(here, models, run):
    line = ("compare", "a.png", "b.png", "-m", models.image, "-m", f"{models.wide}:queries=2", "--queries", "4,8")
    code, out, lines = run(*line, "--json", "c.json")
    assert (code, lines) == (0, [])
    record = record_of()
    assert [(point["model"], point["point"]) for point in record["points"]] == [
        ("small", "4 queries"), ("small", "8 queries"), ("wide", "2 queries"),
    ]  # fmt: skip
    for point, (model, queries) in zip(
        record["points"], ((models.image, 4), (models.image, 8), (models.wide, 2)), strict=True
    ):
        signals = [torch.from_numpy(read_image(name))[None] for name in ("a.png", "b.png")]
        sizes = [len(compress(load(model), signal, Rate(queries=queries))) for signal in signals]
        assert [row["bytes"] for row in point["rows"]] == sizes and point["bytes"] == sum(sizes)
        assert point["bits_per_pixel"] == 8 * sum(sizes) / sum(signal[0, 0].numel() for signal in signals)
        assert [row["file"] for row in point["rows"]] == ["a.png", "b.png"]
    assert (record["files"], record["bad_files"], record["size"], record["perceptual"]) == (2, 0, None, None)
    assert record["models"][0] == {"name": "small", "stream_id": load(models.image).stream_id.hex()}
    head, rule, *rows = out.splitlines()
    assert cells(head)[:7] == ["model", "point", "bytes", "bits per pixel", "psnr", "ssim", "ms_ssim"]
    assert cells(head)[-2:] == ["encode MP/s", "decode MP/s"] and all(re.fullmatch("-+:", part) for part in cells(rule))
    assert [cells(row)[:2] for row in rows] == [["small", "4 queries"], ["small", "8 queries"], ["wide", "2 queries"]]


def test_a_model_alone_runs_at_all_it_has_and_a_point_is_measured_once(here, models, run):
    line = [
        "compare",
        "a.png",
        "-m",
        models.image,
        "-m",
        f"{models.image}:queries=8",
        "-m",
        f"{models.image}:queries=3",
    ]
    assert run(*line, "--json", "c.json")[0] == 0
    assert [point["queries"] for point in record_of()["points"]] == [8, 3]


def test_a_quality_is_a_rung_of_each_models_own_ladder(here, models, run):
    line = ["compare", "a.png", "-m", models.image, "-m", f"{models.wide}:quality=6", "--qualities", "1,5"]
    assert run(*line, "--json", "c.json")[0] == 0
    points = [(point["model"], point["queries"]) for point in record_of()["points"]]
    assert points == [("small", 1), ("small", 5), ("wide", 8)]


def test_models_of_one_name_are_told_apart_by_their_folders(here, models, run):
    assert run("compare", "a.png", "-m", models.image, "-m", models.twin, "--json", "c.json")[0] == 0
    assert [point["model"] for point in record_of()["points"]] == [models.image, models.twin]


def test_sounds_are_compared_without_formats_of_pictures(here, models, run):
    rng = np.random.default_rng(0)
    write_audio("a.wav", 0.1 * rng.standard_normal((1, 8000)), 8000)
    code, out, lines = run("compare", "a.wav", "-m", f"{models.speech}:codebooks=2", "-m", models.speech)
    assert (code, lines) == (0, [])
    assert [cells(row)[:2] for row in out.splitlines()[2:]] == [["voice", "2 codebooks"], ["voice", "3 codebooks"]]
    code, _, lines = run("compare", "a.wav", "-m", models.speech, "--with", "jpeg")
    assert code == 2 and len(lines) == 1 and "--with takes opus for models of audio, got 'jpeg'" in lines[0]


def test_a_file_that_one_model_cannot_take_counts_for_none(here, models, run, monkeypatch):
    measure = evaluate.Evaluation.measure

    def choosy(self, path):
        if self.codec.spec.name == "wide" and path == "a.png":
            raise ValueError("too wide")
        return measure(self, path)

    monkeypatch.setattr(evaluate.Evaluation, "measure", choosy)
    line = ("compare", "a.png", "b.png", "-m", models.image, "-m", models.wide, "--with", "jpeg", "--json", "c.json")
    code, _, lines = run(*line)
    assert code == 3 and len(lines) == 2 and "a.png: too wide" in lines[0]
    record = record_of()
    assert [[row["file"] for row in point["rows"]] for point in record["points"]] == 4 * [["b.png"]]
    assert (record["files"], record["bad_files"]) == (1, 1)


def test_a_format_that_fails_leaves_no_row_behind(here, models, run, monkeypatch):
    def fails(signal, form, quality):
        raise ValueError("does not fit")

    monkeypatch.setattr(peers, "image_to_bytes", fails)
    line = ("compare", "a.png", "b.png", "-m", models.image, "--with", "webp", "--json", "c.json")
    code, out, lines = run(*line)
    assert code == 65 and len(lines) == 3 and out == "" and not Path("c.json").exists()


# -- operating points ------------------------------------------------------------------------------------------


def test_a_point_is_written_behind_its_model():
    assert parsed("folder/model") == ("folder/model", {})
    assert parsed("c:/model:queries=64:codebooks=3") == ("c:/model", {"queries": 64, "codebooks": 3})
    assert parsed("model:shares=0.1,0.4,0.5") == ("model", {"shares": (0.1, 0.4, 0.5)})
    assert parsed("a=b:window=3") == ("a=b", {"window": 3})
    assert parsed("model:quality=2.5") == ("model", {"quality": 2.5})


def test_a_point_is_named_by_what_its_codec_can_vary():
    values = dict(modality="image", channels=3, sample_rate=None, latent_dim=4)
    plain = CodecSpec(name="a", hop=(8, 8), codebook_sizes=(16,), **values)
    assert described(plain, plain.resolve()) == "its one rate"
    rich = CodecSpec(name="b", hop=(8, 8), codebook_sizes=(16, 16), windows=((4, 4), (2, 2)), queries=4, **values)
    assert described(rich, rich.resolve(Rate(queries=2))) == "2 codebooks, 2 queries, window 4x4"
    shared = CodecSpec(
        name="c", hop=(4, 4), codebook_sizes=(8, 8, 8), windows=((4, 4),), queries=16, strides=(16, 4, 1),
        shares=(0.5, 0.3, 0.2), **values,
    )  # fmt: skip
    assert described(shared, shared.resolve(Rate(shares=(0.1, 0.4, 0.5)))) == "shares 0.1,0.4,0.5"
    steps = CodecSpec(name="d", hop=(8, 8), codebook_sizes=(16, 16), qualities=8, quality_steps=16, **values)
    assert described(steps, steps.resolve(Rate(quality=2.5))) == "quality 2.5"


# -- other formats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_a_format_takes_the_size_nearest_to_the_one_asked_for(form):
    signal = torch.from_numpy(photo(72, 96))
    sizes = [len(image_to_bytes(signal.numpy(), form, quality)) for quality in range(1, 101)]
    ladder = Ladder(signal, form, METRICS["image"])
    for size in (sizes[0] - 50, sizes[0], *sizes[4:100:19], (sizes[40] + sizes[41]) // 2, sizes[-1] + 500):
        row = ladder.nearest(size)
        assert abs(row["bytes"] - size) == min(abs(other - size) for other in sizes)
        assert row["smallest"] == (size < sizes[0])
        assert row["bytes"] == sizes[row["quality"] - 1]
    decoded = image_from_bytes(image_to_bytes(signal.numpy(), form, row["quality"]))
    assert row["psnr"] == pytest.approx(psnr(torch.from_numpy(decoded), signal))
    assert row["bits_per_pixel"] == 8 * row["bytes"] / (72 * 96)


def test_formats_stand_beside_every_point_and_say_where_they_are_larger(here, models, run):
    line = ("compare", "a.png", "b.png", "-m", models.image, "--queries", "1,8", "--with", "jpeg,webp")
    code, out, lines = run(*line, "--json", "c.json", "--picture", "c.svg")
    assert (code, lines) == (0, [])
    points = record_of()["points"]
    assert [point["model"] for point in points] == ["small", "small", "JPEG", "JPEG", "WebP", "WebP"]
    ours, theirs = points[1], points[3]
    assert theirs["point"] == "at small, 8 queries"
    for row, beside in zip(ours["rows"], theirs["rows"], strict=True):
        assert row["file"] == beside["file"] and row["pixels"] == beside["pixels"]
        assert beside["smallest"] == (beside["quality"] == 1 and beside["bytes"] > row["bytes"])
    said = [cells(row)[1] for row in out.splitlines()[2:]]
    assert points[2]["smallest"] == 2 and said[2] == "at small, 1 queries (larger for 2 of 2 files)"
    root = ElementTree.fromstring(Path("c.svg").read_text())
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"small", "JPEG", "WebP", "PSNR, dB (higher is better)"} <= set(texts)
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 1 + len(points) and any(title.startswith("JPEG, at small, 8 queries: ") for title in titles)


def test_opus_takes_the_size_nearest_to_the_one_asked_for(monkeypatch):
    monkeypatch.setattr(compare, "OPUS_KILOBITS", (6, 16))
    sound = torch.from_numpy(np.random.default_rng(0).uniform(-0.3, 0.3, (1, 8000))).float()
    sizes = {kilobits: len(opus_to_bytes(sound.numpy(), 8000, kilobits)) for kilobits in range(6, 17)}
    ladder = Ladder(sound, "opus", METRICS["audio"], 8000)
    for size in (10, sizes[6], sizes[9] + 3, sizes[16], 10**6):
        row = ladder.nearest(size)
        assert abs(row["bytes"] - size) == min(abs(other - size) for other in sizes.values())
        assert row["smallest"] == (size < min(sizes.values())) and row["bytes"] == sizes[row["quality"]]
    decoded = ladder.decoded(row)
    assert decoded.shape == sound.shape and row["bits_per_second"] == 8 * row["bytes"]
    assert row["mel_distance"] == pytest.approx(mel_distance(decoded, sound, 8000))


def test_sounds_stand_beside_opus(here, models, run):
    write_audio("a.wav", 0.1 * np.random.default_rng(0).standard_normal((1, 8000)), 8000)
    line = ("compare", "a.wav", "-m", models.speech, "--codebooks", "1,3", "--with", "opus")
    code, out, lines = run(*line, "--json", "c.json", "--html", "c.html")
    assert (code, lines) == (0, []) and "larger for 1 of 1 files" in out
    points = record_of()["points"]
    assert [point["model"] for point in points] == ["voice", "voice", "Opus", "Opus"]
    assert points[2]["rows"][0]["seconds"] == 1 and points[2]["bits_per_second"] == 8 * points[2]["bytes"]
    page = Path("c.html").read_text()
    assert (
        "larger for 1 of 1 files" in page
        and page.count("<audio") == 3
        and "Opus" in page
        and len(record_of()["protocol"]["files"]) == 1
    )


# -- the field's protocol and LPIPS ----------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(50, 81), (81, 50), (32, 32), (20, 33)])
def test_a_square_is_cut_as_torchvision_cuts_it(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    usual = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC), v2.CenterCrop(32)])
    expected = np.asarray(usual(Image.fromarray(pixels)))
    np.testing.assert_array_equal(cut_square(from_pixels(pixels), 32), from_pixels(expected))


@pytest.mark.parametrize("command", ["compare", "evaluate"])
def test_size_and_weights_are_in_the_record(here, models, weights, run, command):
    judge, picture = weights / "judge.safetensors", cut_square(read_image("a.png"), 64)
    model = ["a.png", "-m", models.image] if command == "compare" else [models.image, "a.png"]
    code, out, lines = run(
        command, *model, "--size", 64, "--perceptual", judge, "--json", "c.json", "--picture", "c.svg"
    )
    assert (code, lines) == (0, []) and "lpips" in out.splitlines()[0] and "LPIPS" in Path("c.svg").read_text()
    record = record_of()
    assert record["size"] == 64 and record["perceptual"]["backbone"] == "squeezenet1_1"
    assert record["perceptual"]["file"] == "judge.safetensors" and len(record["perceptual"]["sha256"]) == 64
    row = record["points" if command == "compare" else "rates"][0]["rows"][0]
    codec, signal = load(models.image), torch.from_numpy(picture)[None]
    assert row["pixels"] == 64 * 64
    assert row["lpips"] == pytest.approx(lpips(load_lpips(judge), codec.decode(codec.encode(signal)), signal), rel=1e-4)


def test_without_weights_there_is_no_lpips_and_without_its_package_no_ssimulacra(here, models, run, monkeypatch):
    assert "lpips" not in run("evaluate", models.image, "a.png")[1]
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    assert set(metrics_of("image")) == set(METRICS["image"])
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "ssimulacra2", None)  # found, and broken
    run("compare", "a.png", "-m", models.image, "--json", "c.json")
    row = record_of()["points"][0]["rows"][0]
    assert row["ssimulacra2"] is None and "ssimulacra2" in row["not_computed"]["ssimulacra2"]


# -- what is wrong ---------------------------------------------------------------------------------------------

WRONG = {
    "no model": ["a.png"],
    "no such model": ["a.png", "-m", "gone"],
    "kinds": ["a.png", "-m", "IMAGE", "-m", "SPEECH"],
    "setting": ["a.png", "-m", "IMAGE:speed=3"],
    "quality": ["a.png", "-m", "IMAGE:quality=7"],
    "qualities": ["a.png", "-m", "IMAGE", "--qualities", "1,2", "--queries", "3"],
    "two points": ["a.png", "-m", "IMAGE:quality=2:queries=3"],
    "number": ["a.png", "-m", "IMAGE:queries=few"],
    "too many": ["a.png", "-m", "IMAGE:queries=9"],
    "shares": ["a.png", "-m", "IMAGE:shares=1"],
    "format": ["a.png", "-m", "IMAGE", "--with", "gif"],
    "format of sounds": ["a.png", "-m", "IMAGE", "--with", "opus"],
    "page": ["a.png", "-m", "IMAGE", "--html", "c.htm"],
    "size": ["a.wav", "-m", "SPEECH", "--size", "64"],
    "weights": ["a.png", "-m", "IMAGE", "--perceptual", "gone.safetensors"],
    "picture": ["a.png", "-m", "IMAGE", "--picture", "c.png"],
    "over its weights": ["a.png", "-m", "IMAGE", "--perceptual", "b.png", "--json", "b.png"],
    "over its input": ["a.png", "-m", "IMAGE", "--json", "a.png"],
    "conditions": ["a.png", "-m", "IMAGE", "--where", "split=val"],
    "no file": ["gone.png", "-m", "IMAGE"],
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_command_line_costs_one_line_and_2(here, models, run, name):
    words = [word.replace("IMAGE", models.image).replace("SPEECH", models.speech) for word in WRONG[name]]
    code, out, lines = run("compare", *words)
    assert code == 2 and len(lines) == 1 and lines[0].startswith("sigtok: ") and out == ""


def test_weights_of_something_else_cost_one_line_and_65(here, models, weights, run):
    for name, mark in (("headless.safetensors", "linear heads"), ("model.pth", "says nothing of its backbone")):
        code, _, lines = run("compare", "a.png", "-m", models.image, "--perceptual", weights / name)
        assert code == 65 and len(lines) == 1 and mark in lines[0]


def test_rows_of_a_manifest_are_chosen(here, models, run):
    Path("m.csv").write_text("file,split\na.png,train\nb.png,val\n")
    assert run("compare", "m.csv", "-m", models.image, "--where", "split=val", "--json", "c.json")[0] == 0
    assert [row["file"] for row in record_of()["points"][0]["rows"]] == ["b.png"]


@pytest.mark.parametrize(("size", "smallest"), [(24, True), (368, True), (369, False), (374, False), (380, False)])
def test_a_size_below_every_file_is_told_also_where_the_lowest_quality_is_not_the_smallest(size, smallest, monkeypatch):
    ladder = Ladder(torch.zeros(3, 8, 8), "avif", {})
    ladder.files = {quality: (bytes(370 + 2 * quality if quality != 3 else 369), 0.0) for quality in range(1, 101)}
    monkeypatch.setattr(ladder, "row", lambda quality: {"bytes": len(ladder.file(quality))})
    assert ladder.nearest(size)["smallest"] == smallest
