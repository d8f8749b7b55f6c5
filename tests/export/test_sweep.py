"""Sweeps: every rung and every setting by real bytes, BD-rates from the rows, and a page that stands alone."""

import json
import math
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from sigtok.codecs import pretrained
from sigtok.codecs.audio.models import frame_speech
from sigtok.codecs.files import compress, tokens_from_bytes
from sigtok.codecs.media import image_to_bytes, opus_to_bytes, read_audio, read_image, write_audio, write_image
from sigtok.codecs.metrics.audio import snr
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.spec import Rate
from sigtok.export import evaluate, peers
from sigtok.export.curves import bd_rate
from sigtok.export.sweep import between, decibels, verdict

SOUND = {
    "sample_rate": 16_000, "hop": 8, "front_options": {"filters": 2, "strides": [2, 4]}, "dim": 16, "heads": 2,
    "context": 0.01, "codebooks": 3, "codebook_size": 16, "latent_dim": 4,
}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch, rate_distortion_image):
    """Two pictures, a sound, and the folders of two models; few settings of two formats, which are quick."""
    monkeypatch.chdir(tmp_path)
    builders = ModuleType("tiny_builders")
    builders.steps_image = rate_distortion_image
    monkeypatch.setitem(sys.modules, "tiny_builders", builders)
    monkeypatch.setitem(pretrained.BUILDERS, "steps_image", ("tiny_builders", "steps_image"))
    monkeypatch.setattr(peers, "QUALITIES", {"jpeg": (20, 60, 90), "webp": (30, 90)})
    monkeypatch.setattr(peers, "KILOBITS", (8, 64))
    for seed, (name, size) in enumerate({"a.png": (176, 168), "b.png": (60, 72)}.items()):
        write_image(name, photo(*size, seed))
    write_audio("a.wav", photo(1, 8000, 2)[:1, 0] * 0.5, 16_000)
    for folder, codec, builder, arguments in (
        ("steps", rate_distortion_image(), "steps_image", {"name": "steps"}),
        ("sound", frame_speech(**SOUND), "frame_speech", SOUND),
    ):
        save(codec, folder, builder=builder, arguments=arguments, licence="CC0-1.0", training_data="none",
             measured={}, card="# Tiny")  # fmt: skip
    return tmp_path


def photo(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    blots = torch.rand(1, 3, 6, 6, generator=generator) * 2 - 1
    picture = torch.nn.functional.interpolate(blots, (height, width), mode="bicubic")[0]
    return (picture + 0.05 * torch.randn(3, height, width, generator=generator)).clamp(-1, 1).numpy()


def record_of(path="s.json"):
    return json.loads(Path(path).read_text())


# -- pictures ----------------------------------------------------------------------------------------------


def test_every_rung_and_every_setting_is_measured_by_real_bytes(here, run):
    code, out, lines = run("evaluate", "steps", "a.png", "b.png", "--sweep", "--json", "s.json")
    assert (code, lines) == (0, [])
    record, codec = record_of(), load("steps")
    signals = {name: torch.from_numpy(read_image(name)) for name in ("a.png", "b.png")}
    assert [rate["quality"] for rate in record["rates"]] == [1, 2, 3, 4]
    for rate in record["rates"]:
        for row in rate["rows"]:
            signal = signals[row["file"]][None]
            assert row["bytes"] == len(compress(codec, signal, Rate(quality=rate["quality"])))
            decoded = codec.decode(codec.encode(signal, Rate(quality=rate["quality"])))
            assert row["psnr"] == pytest.approx(psnr(decoded, signal), rel=1e-5)
            assert row["encode_seconds"] > 0 and row["decode_seconds"] > 0
    assert [each["setting"] for each in record["peers"]["JPEG"]] == [20, 60, 90]
    for each in record["peers"]["WebP"]:
        sizes = [len(image_to_bytes(signal.numpy(), "webp", each["setting"])) for signal in signals.values()]
        assert [row["bytes"] for row in each["rows"]] == sizes and each["bytes"] == sum(sizes)
        assert each["bits_per_pixel"] == 8 * sum(sizes) / (176 * 168 + 60 * 72)
    assert record["missing"] == {} and record["refused"] == {} and record["machine"]["threads"] == 1
    small = record["rates"][0]["rows"][1]
    assert small["ms_ssim"] is None and "161 pixels" in small["not_computed"]["ms_ssim"]
    assert "| beside |" in re.sub(" +", " ", out) and "quality 4" in out


def test_bd_rates_are_those_of_the_rows_and_their_mean_is_the_headline(here, run):
    assert run("evaluate", "steps", "a.png", "b.png", "--sweep", "--json", "s.json")[0] == 0
    record = record_of()
    found = {(each["metric"], each["beside"]): each for each in record["bd_rate"]}
    for beside, settings in record["peers"].items():
        expected = {}
        for place, file in enumerate(("a.png", "b.png")):
            curves = [
                [(each["rows"][place]["bits_per_pixel"], each["rows"][place]["psnr"]) for each in points]
                for points in (record["rates"], settings)
            ]
            expected[file] = bd_rate(*curves).percent
        each = found["psnr", beside]
        assert {file: row["percent"] for file, row in each["per_file"].items()} == pytest.approx(expected)
        assert each["mean"] == pytest.approx(np.mean(list(expected.values()))) and each["files"] == 2
        assert each["low"] <= each["mean"] <= each["high"]
        curves = [
            [(point["bits_per_pixel"], point["psnr"]["mean"]) for point in points]
            for points in (record["rates"], settings)
        ]
        assert each["mean_curve"]["percent"] == pytest.approx(bd_rate(*curves).percent)
    assert list(found["ms_ssim", "JPEG"]["per_file"]) == ["a.png"]  # the other is too small


def rows(*points):
    """Of one file "a" and one file "b" at each point: bytes and PSNR of both."""
    return [
        [
            {"file": file, "bytes": size, "pixels": 800, "bits_per_pixel": size / 100, "psnr": quality, "lpips": None}
            for file, size, quality in zip("ab", sizes, qualities, strict=True)
        ]
        for sizes, qualities in points
    ]


def test_a_file_without_a_common_quality_has_no_bd_rate_and_the_others_have():
    ours = rows(((100, 100), (20.0, 20.0)), ((200, 200), (30.0, 30.0)))
    theirs = rows(((200, 100), (20.0, 40.0)), ((400, 200), (30.0, 50.0)))
    found = between(ours, theirs, "psnr", "image")
    assert found["per_file"]["a"] == {"percent": pytest.approx(-50), "from": 20, "to": 30}
    assert "no overlap" in found["per_file"]["b"]["not_computed"]
    assert (found["mean"], found["files"]) == (pytest.approx(-50), 1)
    assert "no overlap" in found["mean_curve"]["not_computed"]
    assert verdict(found) == "-50.0 % of 1 (-)"
    nothing = between(ours, theirs, "lpips", "image")
    assert (nothing["mean"], nothing["files"], nothing["per_file"]) == (None, 0, {})
    assert verdict(nothing) == "no overlap (-)" and "at least 2 points" in nothing["mean_curve"]["not_computed"]


def test_less_is_better_where_it_is():
    def rising(values):
        return [[{**row, "lpips": value} for row in point] for point, value in zip(ours, values, strict=True)]

    ours = rows(((100, 100), (0.0, 0.0)), ((200, 200), (0.0, 0.0)))
    better, worse = rising([0.5, 0.2]), rising([0.6, 0.3])
    found = between(better, worse, "lpips", "image")
    assert found["mean"] < 0 and found["per_file"]["a"]["from"] == 0.3 and found["per_file"]["a"]["to"] == 0.5
    assert between(worse, better, "lpips", "image")["mean"] > 0


def test_similarities_are_averaged_in_decibels_below_1():
    assert [decibels(value) for value in (0.0, 0.9, 0.99)] == pytest.approx([0, 10, 20])
    assert decibels(1.0) == decibels(1 + 1e-9) == 100


# -- what is missing, refused or wrong ---------------------------------------------------------------------


def test_a_missing_format_is_not_computed_and_costs_nothing_else(here, run, monkeypatch):
    monkeypatch.setattr(peers, "has_format", lambda form: form == "jpeg")
    code, out, lines = run("evaluate", "steps", "b.png", "--sweep", "--json", "s.json", "--html", "s.html")
    assert (code, lines) == (0, []) and "WebP is not computed: nothing here writes it" in out
    assert list(record_of()["peers"]) == ["JPEG"] and "WebP" in record_of()["missing"]
    assert "WebP: nothing here writes it" in Path("s.html").read_text()


def test_a_picture_that_a_format_refuses_is_told_and_the_others_count(here, run, monkeypatch):
    def choosy(signal, form, quality):
        if form == "webp" and signal.shape[1] == 176 and quality > 30:
            raise ValueError("too large for it")
        return image_to_bytes(signal, form, quality)

    monkeypatch.setattr(peers, "image_to_bytes", choosy)
    code, out, lines = run("evaluate", "steps", "a.png", "b.png", "--sweep", "--json", "s.json", "--html", "s.html")
    assert (code, lines) == (0, []) and "WebP refused 1 files" in out
    record = record_of()
    assert record["refused"] == {"WebP": {"a.png": "too large for it"}}
    assert [[row["file"] for row in each["rows"]] for each in record["peers"]["WebP"]] == [["b.png"], ["b.png"]]
    found = next(each for each in record["bd_rate"] if (each["metric"], each["beside"]) == ("psnr", "WebP"))
    assert list(found["per_file"]) == ["b.png"]
    assert found["mean_curve"]["percent"] == pytest.approx(found["per_file"]["b.png"]["percent"])


def test_a_file_that_fails_at_one_rung_has_none(here, run, monkeypatch):
    measure = evaluate.Evaluation.measure

    def choosy(self, path):
        if self.rate.quality == 3 and path == "a.png":
            raise ValueError("too hard")
        return measure(self, path)

    monkeypatch.setattr(evaluate.Evaluation, "measure", choosy)
    code, _, lines = run("evaluate", "steps", "a.png", "b.png", "--sweep", "--json", "s.json")
    assert code == 3 and "a.png: too hard" in lines[0]
    record = record_of()
    points = [*record["rates"], *(each for peer in record["peers"].values() for each in peer)]
    assert [[row["file"] for row in each["rows"]] for each in points] == [["b.png"]] * 9
    assert (record["files"], record["bad_files"]) == (1, 1)


def test_another_model_is_measured_at_its_own_rungs(here, run, rate_distortion_image):
    other = rate_distortion_image("coarse", qualities=3)
    other.encoder.per_unit.data *= 2 / 3
    other.decoder.per_unit.data *= 2 / 3
    arguments = {"name": "coarse", "qualities": 3}
    save(other, "coarse", builder="steps_image", arguments=arguments, licence="CC0-1.0", training_data="none",
         measured={}, card="# Tiny")  # fmt: skip
    shutil.copytree("steps", "again")
    beside = ("--beside", "coarse", "--beside", "again", "--html", "s.html")
    assert run("evaluate", "steps", "a.png", "b.png", "--sweep", "--json", "s.json", *beside)[0] == 0
    record = record_of()
    assert list(record["peers"]) == ["coarse", "again", "JPEG", "WebP"]
    assert [each["setting"] for each in record["peers"]["coarse"]] == ["quality 1", "quality 2", "quality 3"]
    signal = torch.from_numpy(read_image("b.png"))[None]
    for place, each in enumerate(record["peers"]["coarse"]):
        assert each["rows"][1]["bytes"] == len(compress(load("coarse"), signal, Rate(quality=1 + place)))
    found = {each["beside"]: each for each in record["bd_rate"] if each["metric"] == "psnr"}
    assert found["again"]["mean"] == 0 and found["coarse"]["mean"] != 0
    assert "coarse" in Path("s.html").read_text()


WRONG = {
    "beside none": (["--beside", "steps"], "--beside is a model in a sweep, got none; add --sweep"),
    "beside sound": (["--sweep", "--beside", "sound"], "models of one sweep take the same signals, got others"),
    "codebooks": (["--sweep", "--codebooks", "1"], "--sweep takes every rung, got --codebooks as well"),
    "rows of a sweep": (["--sweep", "--jsonl", "s.jsonl"], "--jsonl has a line per file and rate of one model"),
    "picture": (["--sweep", "--picture", "s.svg"], "--sweep takes every rung, got --picture as well"),
    "qualities": (["--sweep", "--qualities", "1"], "--sweep takes every rung, got --qualities as well"),
    "suffix": (["--sweep", "--html", "s.htm"], "s.htm: a page is an .html file, got another name"),
    "too many": (["--qualities", "1,5"], "steps has qualities 1 to 4 in steps of 1/4, got 5"),
    "two points": (["--qualities", "1", "--queries", "1"], "--qualities chooses queries and codebooks"),
    "word": (["--qualities", "best"], "a number is more than 0 here, got 'best'"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_sweep_costs_one_line_and_2(here, run, name):
    options, mark = WRONG[name]
    code, out, lines = run("evaluate", "steps", "b.png", *options)
    assert code == 2 and len(lines) == 1 and mark in lines[0] and out == ""


# -- the page ----------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags in balance, their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]
        if tag not in ("meta", "rect", "path", "circle", "polyline") or tag == "circle":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_stands_alone_and_has_every_curve_and_figure(here, run):
    assert run("evaluate", "steps", "a.png", "--sweep", "--json", "s.json", "--html", "s.html")[0] == 0
    text, record = Path("s.html").read_text(), record_of()
    page = Page(text.removesuffix("</html>\n"))
    assert page.open == ["html"] and page.tags.count("svg") == len({each["metric"] for each in record["bd_rate"]})
    assert not {"script", "link", "img", "iframe"} & set(page.tags) and not {"src", "href"} & set(page.attributes)
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"] * page.tags.count("svg")
    assert {"steps", "JPEG", "WebP", "PSNR, dB (higher is better)", "quality 3", "BD-rate"} <= set(page.words)
    for each in record["bd_rate"]:
        assert verdict(each) in page.words
        found = each["per_file"]["a.png"]
        assert f"{found['percent']:+.1f} % ({found['from']:.4g} to {found['to']:.4g})" in page.words
    dots = [word for word in page.words if word.startswith(("JPEG, setting ", "steps, quality "))]
    assert len(dots) == (4 + 3) * page.tags.count("svg")


def test_names_are_text_and_not_markup(here, run):
    Path("a.png").rename("<b>&.png")
    assert run("evaluate", "steps", "<b>&.png", "--sweep", "--html", "s.html")[0] == 0
    page = Page(Path("s.html").read_text().removesuffix("</html>\n"))
    assert "b" not in page.tags and "<b>&.png" in page.words


# -- sounds, and points of the ladder on the command line --------------------------------------------------


def test_sounds_are_beside_opus_with_its_pages(here, run):
    code, _, lines = run("evaluate", "sound", "a.wav", "--sweep", "--json", "s.json", "--html", "s.html")
    assert (code, lines) == (0, [])
    record, signal = record_of(), read_audio("a.wav")[0]
    assert [rate["codebooks"] for rate in record["rates"]] == [1, 2, 3]
    assert record["points"] == ["1 codebooks", "2 codebooks", "3 codebooks"]
    for each, kilobits in zip(record["peers"]["Opus"], (8, 64), strict=True):
        assert each["setting"] == kilobits and each["seconds"] == 0.5
        assert each["bytes"] == len(opus_to_bytes(signal, 16_000, kilobits))
        assert each["bits_per_second"] == 16 * each["bytes"]
    assert {each["metric"] for each in record["bd_rate"]} == {"snr", "mel_distance"}
    decoded = load("sound").decode(load("sound").encode(torch.from_numpy(signal)[None]))
    assert record["rates"][2]["rows"][0]["snr"] == pytest.approx(snr(decoded[0], torch.from_numpy(signal)), rel=1e-4)
    assert "kbit/s" in Path("s.html").read_text()


def test_the_energies_of_all_channels_are_one_ratio():
    """A silent channel with a little noise is hardly heard: the mean of two ratios would say 10 dB."""
    loud, quiet = torch.full((1, 100), 0.5), torch.full((1, 100), 1e-3)
    signal, error = torch.cat((loud, quiet)), torch.cat((0.05 * torch.ones(1, 100), 1e-3 * torch.ones(1, 100)))
    expected = 10 * math.log10((0.25 + 1e-6) / (0.0025 + 1e-6))
    assert snr(signal + error, signal) == pytest.approx(expected, abs=1e-4)
    batch = torch.stack((signal, signal)), torch.stack((signal + error, signal + 2 * error))
    assert snr(batch[1], batch[0]) == pytest.approx(expected - 10 * math.log10(4) / 2, abs=1e-4)


def test_encode_takes_a_rung_or_a_point_between_two(here, run):
    codec, signal = load("steps"), torch.from_numpy(read_image("b.png"))[None]
    for quality in ("1", "2.25", "4"):
        assert run("encode", "b.png", "-m", "steps", "-o", "b.sgt", "--quality", quality)[0] == 0
        assert Path("b.sgt").read_bytes() == compress(codec, signal, Rate(quality=float(quality)))
    assert run("encode", "a.wav", "-m", "sound", "-o", "a.sgt", "--quality", 2)[0] == 0
    sound = torch.from_numpy(read_audio("a.wav")[0])[None]
    assert Path("a.sgt").read_bytes() == compress(load("sound"), sound, Rate(codebooks=2))


def test_targets_are_reached_in_the_finest_steps(here, run):
    codec, signal = load("steps"), torch.from_numpy(read_image("b.png"))[None]
    sizes = [len(compress(codec, signal, Rate(quality=1 + step / 4))) for step in range(13)]
    for option, amount in (("--target-bytes", sizes[6]), ("--target-bpp", 8 * (sizes[6] + 0.5) / (60 * 72))):
        code, _, (line,) = run("encode", "b.png", "-m", "steps", "-o", "b.sgt", option, amount)
        assert code == 0 and "quality 2.5 of 4" in line
        tokens = tokens_from_bytes(Path("b.sgt").read_bytes(), codec.spec, codec.stream_id, coder=codec.entropy.coder())
        assert tokens.rate.quality == 2.5
    code, _, (line,) = run("encode", "a.wav", "-m", "sound", "-o", "a.sgt", "--target-kbps", 10)
    size = Path("a.sgt").stat().st_size
    assert code == 0 and f"1 of 3 codebooks, {8 * size / 0.5 / 1000:.3f} kbit/s" in line


@pytest.mark.parametrize(
    ("model", "name", "options", "mark"),
    [
        ("steps", "b.png", ["--quality", "2", "--codebooks", "48"], "--quality chooses queries and codebooks"),
        ("steps", "b.png", ["--quality", "2", "--target-psnr", "30"], "not allowed with argument --quality"),
        ("steps", "b.png", ["--quality", "2.1"], "steps has qualities 1 to 4 in steps of 1/4, got 2.1"),
        (
            "steps",
            "b.png",
            ["--target-kbps", "9"],
            "--target-kbps is for sounds, steps takes image; use --target-bytes",
        ),
        ("sound", "a.wav", ["--quality", "4"], "frame_speech has qualities 1 to 3, got 4; choose one of these"),
    ],
)
def test_a_wrong_quality_costs_one_line_and_2(here, run, model, name, options, mark):
    code, _, lines = run("encode", name, "-m", model, "-o", "out.sgt", *options)
    assert code == 2 and len(lines) == 1 and mark in lines[0] and not Path("out.sgt").exists()


def test_tokens_are_shown_at_a_quality(here, run):
    codec, signal = load("steps"), torch.from_numpy(read_image("b.png"))[None]
    code, out, _ = run("tokens", "b.png", "-m", "steps", "--quality", "1.5")
    record, tokens = json.loads(out), codec.encode(signal, Rate(quality=1.5))
    assert code == 0 and record["quality"] == 1.5
    assert record["codes"] == [stream[0].tolist() for stream in tokens.streams]
    Path("b.sgt").write_bytes(compress(codec, signal, Rate(quality=1.5)))
    assert run("tokens", "b.sgt", "-m", "steps")[1] == out
    code, _, lines = run("tokens", "b.sgt", "-m", "steps", "--quality", "2")
    assert code == 2 and "has quality 1.5; encode the signal with --quality" in lines[0]


def test_some_qualities_are_measured_as_others_are(here, run):
    code, out, _ = run("evaluate", "steps", "b.png", "--qualities", "1,2.5", "--json", "r.json", "--picture", "r.svg")
    assert code == 0 and [rate["quality"] for rate in record_of("r.json")["rates"]] == [1, 2.5]
    assert re.split(r"[| ]+", out.splitlines()[0])[1:4] == ["window", "quality", "files"]
    assert "quality 2.5: " in Path("r.svg").read_text()
