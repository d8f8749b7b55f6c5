"""The registry of metrics: laws of all of them, reasons of those that cannot run, and how they are named."""

import functools
import importlib.util
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.media import read_audio, write_audio
from sigtok.codecs.metrics.audio import snr
from sigtok.codecs.pretrained import save
from sigtok.export import metrics
from sigtok.export.cli import main
from sigtok.export.evaluate import distances
from sigtok.export.metrics import (
    ABLE,
    ASKED,
    KNOWN,
    METRICS,
    WHISPER,
    Lazy,
    Metric,
    Tools,
    chosen,
    default_metrics,
    metrics_of,
    tools_of,
)
from sigtok.export.report import drawn
from sigtok.export.sweep import SWEPT, scale_of

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings it there
    import tomli as tomllib

RATE = 16_000
AUDIO = [name for name, metric in KNOWN.items() if metric.modality == "audio"]
IMAGE = [name for name, metric in KNOWN.items() if metric.modality == "image"]
NEEDY = [name for name, metric in KNOWN.items() if metric.packages]


@functools.cache
def speech():
    signal, _ = read_audio(Path(__file__).parents[2] / "demo/input/speech.flac")
    return torch.from_numpy(signal)[None]


@functools.cache
def measure(name):
    """A metric that can run here; of pictures those that ask for no weights."""
    tools = tools_of(None, None)
    if reason := KNOWN[name].missing(tools):
        pytest.skip(reason)
    return metrics_of(KNOWN[name].modality, tools, [name])[name]


def noisy(signal, scale):
    return signal + scale * torch.randn(signal.shape, generator=torch.Generator().manual_seed(0))


def low_passed(signal, hertz):
    spectrum = torch.fft.rfft(signal.double())
    spectrum[..., hertz * signal.shape[-1] // RATE :] = 0
    return torch.fft.irfft(spectrum, signal.shape[-1]).float()


# -- laws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUDIO)
def test_equal_sounds_are_best_and_noise_and_band_limits_worse(name):
    signal, found = speech(), measure(name)
    ladders = [
        [found(noisy(signal, scale), signal, RATE) for scale in (0.002, 0.03)],
        [found(low_passed(signal, hertz), signal, RATE) for hertz in (4000, 1000)],
    ]
    for ladder in ladders:
        values = [KNOWN[name].sign * value for value in (found(signal, signal, RATE), *ladder)]
        assert values[0] >= values[1] > values[2]


@pytest.mark.parametrize("name", IMAGE)
def test_equal_pictures_are_best_and_noise_worse(name):
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(coarse, size=176, mode="bicubic").clamp(0, 1) * 2 - 1
    values = [
        KNOWN[name].sign * measure(name)(noisy(picture, scale).clamp(-1, 1), picture, 0) for scale in (0, 0.05, 0.3)
    ]
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("name", ["stoi", "pesq", "speaker_similarity", "dnsmos", "pitch_cents", "voicing_error"])
def test_a_value_is_the_mean_over_channels(name):
    one, other = noisy(speech(), 0.005), low_passed(speech(), 1500)
    both = measure(name)(torch.cat((one, other), 1), speech().expand(1, 2, -1), RATE)
    apart = [measure(name)(signal, speech(), RATE) for signal in (one, other)]
    assert both == pytest.approx(np.mean(apart), abs=1e-5) and apart[0] != pytest.approx(apart[1], abs=1e-3)


@pytest.mark.parametrize("name", ["pesq", "speaker_similarity", "dnsmos", "distillmos"])
def test_a_sound_is_brought_to_the_rate_that_a_metric_needs(name):
    signal = low_passed(speech(), 7000)
    double = torch.fft.irfft(2 * torch.fft.rfft(signal.double()), 2 * signal.shape[-1]).float()
    pair = [measure(name)(noisy(signal, 0), signal, RATE), measure(name)(double, double, 2 * RATE)]
    assert pair[0] == pytest.approx(pair[1], abs=0.03)


@pytest.mark.parametrize("name", [name for name, metric in KNOWN.items() if not metric.needs_reference])
def test_what_needs_no_reference_does_not_hear_it(name):
    assert measure(name)(speech(), torch.zeros_like(speech()), RATE) == measure(name)(speech(), speech(), RATE)


@pytest.mark.parametrize("samples", [0, 100, RATE])
def test_silence_costs_a_reason_and_no_crash(samples):
    signal = torch.zeros(1, samples)
    values, reasons = distances(signal, signal, "audio", RATE, metrics_of("audio", Tools(), AUDIO))
    assert {name for name, value in values.items() if value is not None} == ({"mel_distance"} if samples else set())
    assert set(reasons.values()) == {"the file is silent" if samples else "the file is empty"}


def test_a_reconstruction_of_nothing_costs_a_reason_or_a_bad_value():
    names = [name for name in AUDIO if not KNOWN[name].missing(Tools()) and name not in ("visqol", "distillmos")]
    values, reasons = distances(
        torch.zeros_like(speech()[0]), speech()[0], "audio", RATE, metrics_of("audio", Tools(), names)
    )
    assert all((values[name] is None) == (name in reasons) for name in names)
    assert reasons.get("pesq", "the reconstruction is silent") == "the reconstruction is silent"


# -- what cannot run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEEDY)
def test_a_missing_package_costs_a_reason_that_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None)
    modality, signal = KNOWN[name].modality, torch.rand(3, 64, 64)
    values, reasons = distances(signal, signal, modality, RATE, metrics_of(modality, Tools(), [name]))
    assert values == {name: None} and "is not installed; pip install" in reasons[name]
    assert KNOWN[name].origin(Tools())["not_computed"] == reasons[name]
    assert default_metrics(modality) == list(METRICS[modality])


@pytest.mark.parametrize("name", NEEDY)
def test_the_package_to_install_is_in_the_extra_that_is_named(name):
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())["project"]
    for package in KNOWN[name].packages:
        if "sigtok[" in package.install:
            listed = project["optional-dependencies"][package.install.split("[")[1].split("]")[0]]
            assert any(text.startswith(package.distribution) for text in listed)


def test_the_registry_loads_no_package():
    code = "import sys, sigtok.export.metrics as m; m.default_metrics('audio'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tops = {name.split(".")[0] for name in done.stdout.split()}
    assert not tops & {package.module for name in NEEDY for package in KNOWN[name].packages}


def test_weights_are_named_where_they_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: object())
    metric = KNOWN["word_error_rate"]
    assert "--whisper" in metric.missing(Tools()) and "none there" in metric.missing(Tools(whisper=f"{tmp_path}/a.pt"))
    (tmp_path / "a.pt").write_bytes(b"weights")
    monkeypatch.setenv(WHISPER, f"{tmp_path}/a.pt")
    origin = metric.origin(tools_of(None, None))
    assert origin["weights"] == [{"file": "a.pt", "sha256": sha256(b"weights").hexdigest()}]
    assert "openai-whisper" in origin["versions"] and "not_computed" not in origin


def test_weights_that_left_their_package_are_a_reason(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_loader("resemblyzer", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: spec)
    assert "Resemblyzer has no pretrained.pt in it" in KNOWN["speaker_similarity"].missing(Tools())


def test_a_metric_is_made_once_also_if_that_fails():
    made = []

    def make():
        made.append(len(made))
        if len(made) == 1:
            raise ImportError("it is broken")
        return lambda *_: 1.0

    metric = Metric("a", "audio", "a", 1, make, ASKED)
    lazy = Lazy(metric, Tools())
    for _ in range(2):
        with pytest.raises(ValueError, match="it is broken"):
            lazy(speech(), speech(), RATE)
    whole = Lazy(metric, Tools())
    assert [whole(speech(), speech(), RATE) for _ in range(2)] == [1.0, 1.0] and made == [0, 1]


# -- names -----------------------------------------------------------------------------------------------------


def test_what_needs_nothing_is_measured_always():
    assert list(METRICS["audio"]) == ["mel_distance", "si_sdr", "stoi", "estoi", "pitch_cents", "voicing_error"]
    assert list(METRICS["image"]) == ["psnr", "ssim", "ms_ssim"]
    assert all(not KNOWN[name].packages and not KNOWN[name].weights for names in METRICS.values() for name in names)
    assert {name for name in AUDIO if KNOWN[name].use == ABLE} == {"pesq"}


def test_names_stand_for_metrics_once_and_in_order():
    assert chosen("audio", "pesq,STOI,pesq", ["snr"]) == ["pesq", "stoi"]
    assert chosen("audio", "dnsmos,default", ["snr", "dnsmos"]) == ["dnsmos", "snr"]
    assert chosen("image", "all", []) == IMAGE
    for text in ("psnr,loudness", "", "snr,"):
        with pytest.raises(ValueError, match="metrics of audio are mel_distance, .*name some of them"):
            chosen("audio", text, [])


def test_labels_have_the_better_side():
    for metric in KNOWN.values():
        assert metric.label.endswith(f"({'higher' if metric.sign > 0 else 'lower'} is better)")
    assert all(scale_of(name).sign == KNOWN[name].sign for name in KNOWN)
    assert all(KNOWN[name].modality == modality for modality, names in SWEPT.items() for name in names)


def test_the_readme_has_every_metric():
    table = (Path(__file__).parents[2] / "README.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    lines = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    found = {
        name.strip(" `"): (better.strip(), use) for _, names, _, better, use, *_ in lines for name in names.split(",")
    }
    assert set(found) - {"--metrics"} == set(KNOWN)
    for name, metric in KNOWN.items():
        assert found[name][0] == ("higher" if metric.sign > 0 else "lower") and metric.use in found[name][1]


def test_a_picture_shows_some_metrics_or_those_that_there_are():
    assert [name for name, _ in drawn("audio", dict.fromkeys(("stoi", "estoi", "mel_distance")))] == [
        "mel_distance",
        "stoi",
    ]
    assert drawn("audio", {"estoi": None}) == [("estoi", "ESTOI, 0 to 1 (higher is better)")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    arguments = {
        "sample_rate": RATE, "frame_hop": 40, "frame_size": 120, "dim": 16, "heads": 2, "encoder_depth": 1,
        "decoder_depth": 1, "decoder_blocks": 1, "codebooks": 3, "codebook_size": 64, "latent_dim": 8, "context": 0.3,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(query_speech(**arguments).eval(), folder, builder="query_speech", arguments=arguments, licence="CC0-1.0",
         training_data="none", measured={}, card="# Tiny")  # fmt: skip
    return str(folder)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(WHISPER, raising=False)
    write_audio("a.wav", speech()[0, :, :RATE].numpy(), RATE)
    return tmp_path


@pytest.mark.parametrize("command", [["evaluate", "MODEL"], ["compare", "-m", "MODEL"]])
def test_the_metrics_that_are_asked_for_are_measured(command, here, model, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None if name == "pesq" else find(name))
    line = [*(model if word == "MODEL" else word for word in command), "a.wav"]
    assert main([*line, "--metrics", "snr,pesq", "--json", "r.json", "--codebooks", "2", "--picture", "r.svg"]) == 0
    out, err = capsys.readouterr()
    assert " si_sdr " not in out and " snr " in out and "pesq" in out
    assert err == "sigtok: pesq: not computed (pesq is not installed; pip install 'sigtok[eval-itu]')\n"
    record = json.loads(Path("r.json").read_text())
    assert set(record["protocol"]["metrics"]) == {"snr", "pesq"} and record["protocol"]["metrics"]["snr"][
        "versions"
    ].keys() == {"sigtok"}
    row = (record["points"] if command[0] == "compare" else record["rates"])[0]["rows"][0]
    assert row["pesq"] is None and row["not_computed"] == {
        "pesq": record["protocol"]["metrics"]["pesq"]["not_computed"]
    }
    assert isinstance(row["snr"], float) and "mel_distance" not in row


def test_a_sweep_takes_the_metrics_that_are_asked_for(here, model):
    line = ["evaluate", model, "a.wav", "--sweep", "--json", "r.json", "--html", "r.html"]
    assert main([*line, "--metrics", "stoi"]) == 0
    record = json.loads(Path("r.json").read_text())
    assert {found["metric"] for found in record["bd_rate"]} <= {"stoi"} == set(record["protocol"]["metrics"])
    assert "STOI, 0 to 1" in Path("r.html").read_text()


@pytest.mark.parametrize(
    "options, mark",
    [
        (["--metrics", "psnr"], "--metrics: metrics of audio are mel_distance, si_sdr"),
        (["--whisper", "w.pt"], "--whisper is for word_error_rate"),
        (["--whisper", "w.pt", "--metrics", "all"], "w.pt: a checkpoint of Whisper is a file"),
    ],
)
def test_a_wrong_choice_costs_one_line(options, mark, here, model, capsys):
    assert main(["evaluate", model, "a.wav", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and mark in lines[0]


def test_the_record_has_default_metrics_and_their_origin(here, model):
    assert main(["evaluate", model, "a.wav", "--json", "r.json", "--codebooks", "2"]) == 0
    record = json.loads(Path("r.json").read_text())
    assert list(record["protocol"]["metrics"]) == default_metrics("audio")
    row, signal = record["rates"][0]["rows"][0], speech()[..., :RATE]
    assert set(METRICS["audio"]) <= set(row) and snr(signal, signal) > 90
