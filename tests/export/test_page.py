"""Pages stand alone: what they show is what was measured, in balanced markup, without the network, within a size."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.image.models import query_image
from sigtok.codecs.media import from_pixels, read_audio, write_audio, write_image
from sigtok.codecs.metrics.codes import usage
from sigtok.codecs.pretrained import load, save
from sigtok.export import excerpts, worst
from sigtok.export.cli import main
from sigtok.export.excerpts import excerpt, shown
from sigtok.export.histograms import histogram
from sigtok.export.page import interval_text
from sigtok.export.report import drawn
from sigtok.export.tables import number
from sigtok.export.worst import Worst

RATE = 8000
SPEECH = {
    "sample_rate": RATE, "frame_hop": 40, "frame_size": 120, "dim": 16, "heads": 2, "encoder_depth": 1,
    "decoder_depth": 1, "decoder_blocks": 1, "codebooks": 3, "codebook_size": 64, "latent_dim": 8, "context": 0.3,
}  # fmt: skip
IMAGE = {
    "levels": 2, "tile": 4, "queries": 8, "dim": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1,
    "codebook_size": 64, "latent_dim": 8,
}  # fmt: skip
VOID = {"meta", "img"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, builder, arguments in (("speech", query_speech, SPEECH), ("image", query_image, IMAGE)):
        torch.manual_seed(0)
        save(
            builder(**arguments), root / name, builder=builder.__name__, arguments=arguments, licence="CC0-1.0",
            training_data="none", measured={}, card="# Tiny",
        )  # fmt: skip
    return {path.name: str(path) for path in root.iterdir()}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def noise(channels, samples, seed=0):
    return torch.from_numpy(0.3 * np.random.default_rng(seed).uniform(-1, 1, (channels, samples))).float()


def photo(height, width, seed=0):
    blots = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(blots, (height, width), mode="bicubic")[0].clamp(-1, 1)


class Page(HTMLParser):
    """Tags in balance, the words, and what is embedded, by kind."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words, self.embedded = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        for name, value in attributes:
            assert name != "href"
            if name == "src":
                kind, data = re.fullmatch(r"data:([\w/]+);base64,(.*)", value).groups()
                self.embedded.append((kind, base64.b64decode(data)))

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page(path):
    text = Path(path).read_text()
    found = Page(text)
    assert found.open == [] and not {"script", "link", "iframe"} & set(found.tags)
    assert set(re.findall(r"https?://[^\"]*", text)) <= {"http://www.w3.org/2000/svg"} and "url(" not in text
    return found


# -- whole pages -----------------------------------------------------------------------------------------------


def test_a_page_of_sounds_has_every_figure_and_plays_the_worst(here, models):
    for seed in range(3):
        write_audio(f"<{seed}>&.wav", noise(1, RATE, seed), RATE)
    line = ["evaluate", models["speech"], ".", "--codebooks", "1,3", "--html", "p.html", "--json", "p.json"]
    assert main(line) == 0
    found, record = page("p.html"), json.loads(Path("p.json").read_text())
    for rate in record["rates"]:
        mel = rate["mel_distance"]
        assert f"{mel['mean']:.4g} ({mel['low']:.4g} to {mel['high']:.4g})" in found.words
        assert f"{rate['bytes']:,}" in found.words and f"{rate['tokens_per_second']:.4g}" in found.words
    assert record["stream_id"] in found.words and record["command"] in found.words
    rows = sorted(record["rates"][1]["rows"], key=lambda row: -row["mel_distance"])
    names = [word for word in found.words if word.startswith("<")]
    assert names == [row["file"] for row in rows]
    sounds = [data for kind, data in found.embedded if kind == "audio/flac"]
    codec = load(models["speech"])
    for row, original, decoded in zip(rows, sounds[::2], sounds[1::2], strict=True):
        signal = read_audio(row["file"])[0]
        np.testing.assert_allclose(soundfile.read(io.BytesIO(original))[0], signal[0], atol=1e-4)
        expected = codec.decode(codec.encode(torch.from_numpy(signal)[None]))[0, 0]
        np.testing.assert_allclose(soundfile.read(io.BytesIO(decoded))[0], expected.clamp(-1, 1), atol=1e-4)
    metrics = drawn("audio", record["rates"][0])
    assert found.tags.count("svg") == len(metrics) + 3  # codebooks
    assert all(name.replace("_", " ") in found.words for name in record["protocol"]["metrics"])


def test_a_page_of_pictures_shows_them(here, models):
    write_image("a.png", photo(60, 72))
    assert main(["evaluate", models["image"], "a.png", "--html", "p.html"]) == 0
    pictures = [Image.open(io.BytesIO(data)) for kind, data in page("p.html").embedded if kind == "image/webp"]
    assert [picture.size for picture in pictures] == [(72, 60), (72, 60)]
    shown_original = from_pixels(np.asarray(pictures[0].convert("RGB")))
    assert np.abs(shown_original - photo(60, 72).numpy()).mean() < 0.05
    assert np.abs(shown_original - from_pixels(np.asarray(pictures[1].convert("RGB")))).mean() > 0.05


def test_a_mean_has_an_interval_from_two_files_on_and_says_how_many_have_it():
    found = {"mean": 2.5, "low": 2, "high": 3, "files": 2}
    assert interval_text(found, 2) == "2.5 (2 to 3)"
    assert interval_text(found, 3) == "2.5 (2 to 3), 2 files"
    assert interval_text(found | {"files": 1}, 1) == "2.5" and interval_text(found | {"files": 1}, 2) == "2.5, 1 files"
    assert interval_text(found | {"mean": None, "files": 0}, 3) == "-"


def test_empty_and_silent_files_have_a_page_too(here, models):
    write_audio("empty.wav", np.zeros((1, 0)), RATE)
    assert main(["evaluate", models["speech"], "empty.wav", "--html", "p.html"]) == 0
    assert page("p.html").embedded == []
    write_audio("silent.wav", np.zeros((1, 2000)), RATE)
    assert main(["evaluate", models["speech"], "silent.wav", "--html", "p.html"]) == 0
    assert len(page("p.html").embedded) == 4


def test_a_comparison_shows_some_files_by_every_model_at_its_highest_rate(here, models, monkeypatch):
    for seed in range(7):
        write_image(f"{seed}.png", photo(30, 40, seed))
    line = ["compare", ".", "-m", models["image"], "--queries", "2,8", "--with", "jpeg", "--html", "p.html"]
    assert main(line) == 0
    found = page("p.html")
    assert [word for word in found.words if re.fullmatch(r"\d.png", word)] == [f"{n}.png" for n in (0, 1, 3, 4, 6)]
    assert len(found.embedded) == 5 * 3 and {"query_image", "JPEG"} <= set(found.words)
    figures = [word for word in found.words if "psnr" in word and "·" in word]
    assert all(word.startswith(("8 queries · ", "at query_image, ")) for word in figures) and len(figures) == 10


# -- excerpts --------------------------------------------------------------------------------------------------


def bytes_of(parts):
    return [data for kind, data in Page("".join(parts)).embedded if kind.startswith("audio")]


@pytest.mark.parametrize(
    ("budget", "kind", "seconds"),
    [(10**7, b"fLaC", 10), (260_000, b"OggS", 10), (100_000, b"OggS", 2), (1, b"fLaC", 1)],
)
def test_sounds_of_a_pair_are_stored_alike_within_their_budget(budget, kind, seconds):
    pair = [excerpt(noise(1, 12 * 8000, seed), 8000) for seed in (0, 1)]
    files = bytes_of(shown(pair, ("original", "decoded"), budget))
    assert [data[:4] for data in files] == [kind, kind]
    assert all(soundfile.info(io.BytesIO(data)).duration == pytest.approx(seconds, abs=0.01) for data in files)
    assert sum(map(len, files)) <= budget or budget == 1


def test_without_opus_a_sound_is_shorter(monkeypatch):
    monkeypatch.setattr(excerpts, "has_format", lambda form: form != "opus")
    pair = [excerpt(noise(1, 12 * 16_000, seed), 16_000) for seed in (0, 1)]
    files = bytes_of(shown(pair, ("original", "decoded"), 400_000))
    assert [data[:4] for data in files] == [b"fLaC", b"fLaC"] and sum(map(len, files)) <= 400_000


@pytest.mark.parametrize(
    ("height", "width", "size"), [(10, 20, (20, 10)), (600, 1024, (512, 300)), (4000, 100, (26, 1024))]
)
def test_pictures_are_scaled_down_only(height, width, size):
    found = excerpt(photo(height, width), None)
    assert found.signal.shape == (3, size[1], size[0])
    assert found.signal.abs().max() <= 1


def test_a_page_of_many_large_files_stays_small(monkeypatch):
    """Ten pairs of the most that is kept of a sound: the budget holds, whatever they are."""
    pair = [excerpt(noise(2, 10 * 44_100, seed), 44_100) for seed in (0, 1)]
    assert sum(map(len, shown(pair, ("original", "decoded"), 480_000))) < 800_000


# -- the worst -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_the_worst_are_those_that_sorting_finds(sign, monkeypatch):
    monkeypatch.setattr(worst, "excerpt", lambda signal, rate: signal)
    rng = np.random.default_rng(0)
    values = [None if value < 1 else float(value) for value in rng.integers(0, 30, 60)]
    kept = Worst("psnr", sign, "image", None)
    for place, value in enumerate(values):
        kept.see({"psnr": value, "place": place}, torch.zeros(1), torch.ones(1))
    rows = [(sign * value, place) for place, value in enumerate(values) if value is not None]
    assert [each.row["place"] for each in kept.found] == [place for _, place in sorted(rows)[:10]]


# -- histograms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 64, 2048, 16_384, 65_536])
@pytest.mark.parametrize("kind", ["even", "one", "zipf"])
def test_a_histogram_falls_and_says_what_usage_says(size, kind):
    counts = {"even": torch.full((size,), 3), "one": torch.eye(1, size, dtype=torch.int64)[0] * 9,
              "zipf": 10**6 // torch.arange(1, size + 1) ** 2}[kind]  # fmt: skip
    text, seen = histogram(4, counts[torch.randperm(size)]), usage(counts)
    words = "".join(Page(text).words)
    assert f"{seen.used:,} of {size:,} codes used" in words and f"perplexity {number(seen.perplexity)}" in words
    corners = re.search(r'polygon class="area" points="([^"]*)"', text)[1].split()
    across, down = zip(*(map(float, corner.split(",")) for corner in corners), strict=True)
    assert list(across) == sorted(across) and list(down[1:]) == sorted(down[1:]) and len(text) < 6000
    assert all(0 <= value <= 250 for value in across) and all(0 <= value <= 120 for value in down)


def test_a_codebook_that_said_nothing_has_no_histogram():
    assert histogram(0, torch.zeros(8, dtype=torch.int64)) == ""
