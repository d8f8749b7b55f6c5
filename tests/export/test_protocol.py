"""A result measured again is the same result; whatever is not the same is found and named."""

import copy
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.media import write_audio
from sigtok.codecs.pretrained import describe, save
from sigtok.export import evaluate, metrics
from sigtok.export.cli import main
from sigtok.export.evaluate import Evaluation
from sigtok.export.exits import DIFFERENT, Stopped
from sigtok.export.metrics import KNOWN, METRICS, Package, default_metrics
from sigtok.export.protocol import differences
from sigtok.export.score import Scores

RATE = 8000
ARGUMENTS = {
    "sample_rate": RATE, "frame_hop": 40, "frame_size": 120, "dim": 16, "heads": 2, "encoder_depth": 1,
    "decoder_depth": 1, "decoder_blocks": 1, "codebooks": 3, "codebook_size": 64, "latent_dim": 8, "context": 0.3,
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("model", "other")):
        torch.manual_seed(seed)
        save(query_speech(**ARGUMENTS), root / name, builder="query_speech", arguments=ARGUMENTS, licence="CC0-1.0",
             training_data="none", measured={}, card="# Tiny")  # fmt: skip
    return root


@pytest.fixture(scope="module")
def measured(tmp_path_factory, models):
    """Two sounds, one of them of another rate, a bad one, and a result of them."""
    folder = tmp_path_factory.mktemp("measured")
    (folder / "in").mkdir()
    for seed, (name, rate) in enumerate({"a": RATE, "b": 16_000}.items()):
        noise = np.random.default_rng(seed).uniform(-0.3, 0.3, (1, rate))
        write_audio(folder / f"in/{name}.wav", noise, rate)
    (folder / "in/c.wav").write_bytes(b"no sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["evaluate", str(models / "model"), "in", "--codebooks", "1,3", "--json", "r.json"]) == 3
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, measured):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured, ".", dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def run(capfd, models):
    def run(*line, model="model"):
        try:
            code = main(["evaluate", str(models / model), *map(str, line)])
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        return code, out, err.splitlines()

    return run


def record_of(path="r.json"):
    return json.loads(Path(path).read_text())


def leaves(value, path=()):
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*path, key))
    else:
        yield path, value


def test_a_protocol_names_all_that_figures_depend_on(here, models):
    found, record = record_of()["protocol"], describe(models / "model")
    for file in found["files"]:
        data = Path(file["file"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(data).hexdigest() and file["bytes"] == len(data)
    assert [(file["file"], file.get("seconds")) for file in found["files"]] == [
        ("in/a.wav", 1), ("in/b.wav", 1), ("in/c.wav", None),
    ]  # fmt: skip
    assert found["model"] == {"name": "query_speech"} | {name: record[name] for name in ("stream_id", "weights_sha256")}
    assert [rate["codebooks"] for rate in found["rates"]] == [1, 3] and found["resampling"] == "soxr HQ to 8000 Hz"
    assert list(found["metrics"]) == default_metrics("audio") and found["bootstrap"]["seed"] == 0
    assert all(list(found["metrics"][name]["versions"]) == ["sigtok"] for name in METRICS["audio"])
    assert found["versions"]["torch"] == torch.__version__.split("+")[0] or "torch" in found["versions"]


def test_a_second_run_gives_the_same_figures(here, run, monkeypatch):
    code, _, lines = run("--protocol", "r.json", "--json", "again.json")
    assert code == 3  # one input is as bad as it was
    assert "all figures are those of r.json, times and memory aside" in lines[-1]
    before, now = record_of(), record_of("again.json")
    assert now["again"]["equal"] and list(differences(before["rates"], now["rates"])) == []
    assert {key: now["protocol"][key] for key in now["protocol"]} == before["protocol"]
    monkeypatch.chdir("/")  # files lie beside the result, and the protocol of a protocol is one
    code, _, lines = run("--protocol", here / "again.json")
    assert code == 3 and f"all figures are those of {here}/again.json" in lines[-1]


def test_every_figure_counts_but_times_and_memory():
    rates = [{"bytes": 3, "psnr": {"mean": 1.5, "low": None}, "encode_seconds": 1.0, "process_peak_bytes": 5,
              "rows": [{"file": "a", "psnr": 1.5, "decode_seconds": 2.0, "not_computed": {"x": "why"}}, {"psnr": 2}],
              "window": [2, 3]}]  # fmt: skip
    assert list(differences(rates, copy.deepcopy(rates))) == []
    for path, value in leaves(rates):
        changed = copy.deepcopy(rates)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = "other" if value is None or isinstance(value, str) else value * (1 + 1e-15) + 1e-15
        aside = path[-1] in ("encode_seconds", "decode_seconds", "process_peak_bytes", "file")
        assert bool(list(differences(rates, changed))) != aside, path
    assert list(differences(rates, [])) and list(differences([], rates))
    assert list(differences(rates, [rates[0] | {"rows": rates[0]["rows"][:1]}]))


def test_other_figures_end_with_1_and_name_the_first(here, run):
    Path("in/c.wav").unlink()
    assert run("in", "--codebooks", "2", "--json", "r.json")[0] == 0
    record = record_of()
    record["rates"][0]["rows"][1]["mel_distance"] += 1e-9
    record["protocol"]["versions"]["numpy"] = "0.1"
    record["protocol"]["metrics"]["stoi"]["versions"] = {"pystoi": "0.4"}
    Path("r.json").write_text(json.dumps(record))
    code, _, lines = run("--protocol", "r.json")
    assert code == DIFFERENT == 1
    assert "1 figures are not those of r.json: rates[0].rows[1].mel_distance was" in lines[-1]
    assert "other versions: numpy 0.1, now" in lines[-1] and "pystoi 0.4, now None" in lines[-1]


def flip(path):
    data = bytearray(Path(path).read_bytes())
    data[-1] ^= 1
    Path(path).write_bytes(data)


DAMAGE = {
    "other bytes": (lambda: flip("in/a.wav"), 65, "in/a.wav: has other bytes than r.json was measured on"),
    "missing": (lambda: os.unlink("in/b.wav"), 65, "in/b.wav: r.json was measured on it"),
    "no json": (lambda: Path("r.json").write_text("{"), 65, "r.json: a protocol is in the JSON"),
    "no text": (lambda: Path("r.json").write_bytes(b"\xff" * 999), 65, "r.json: a protocol is in the JSON"),
    "a list": (lambda: Path("r.json").write_text("[]"), 65, "r.json: a protocol is in the JSON"),
    "no protocol": (lambda: Path("r.json").write_text("{}"), 65, "r.json: a protocol is in the JSON"),
    "no rates": (lambda: Path("r.json").write_text('{"protocol": {}}'), 65, "r.json: a protocol is in the JSON"),
    "gone": (lambda: os.unlink("r.json"), 2, "r.json: there is no such file"),
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_what_is_not_as_it_was_costs_one_line_before_the_work(here, run, name, monkeypatch):
    damage, expected, mark = DAMAGE[name]
    damage()
    monkeypatch.setattr(Evaluation, "measure", lambda *_: pytest.fail("the work began"))
    code, out, lines = run("--protocol", "r.json")
    assert code == expected and len(lines) == 1 and mark in lines[0] and len(lines[0]) < 250 and out == ""


WRONG = {
    "files": (["in/a.wav"], "says everything, got files as well"),
    "rates": (["--codebooks", "2"], "says everything, got --codebooks as well"),
    "size": (["--size", "8"], "says everything, got --size as well"),
    "sweep": (["--sweep"], "says everything, got --sweep as well"),
    "metrics": (["--metrics", "stoi"], "says everything, got --metrics as well"),
    "over the protocol": (["--json", "r.json"], "r.json: is an input and would be overwritten"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_protocol_says_everything(here, run, name):
    options, mark = WRONG[name]
    code, out, lines = run("--protocol", "r.json", *options)
    assert code == 2 and len(lines) == 1 and mark in lines[0] and out == ""


def test_another_model_is_refused(here, run):
    code, _, (line,) = run("--protocol", "r.json", model="other")
    assert code == 2 and "was measured with query_speech of stream id" in line
    assert run()[0] == 2


def test_a_metric_that_does_not_run_or_has_other_weights_is_refused(here, run, monkeypatch):
    record, mel = record_of(), KNOWN["mel_distance"]
    gone = Package("gone_package", "gone", "pip install gone")
    monkeypatch.setitem(KNOWN, "mel_distance", mel._replace(packages=(gone,)))
    code, _, (line,) = run("--protocol", "r.json")
    assert code == 2 and "was measured by mel_distance, which does not run here (gone is not installed; pip" in line
    monkeypatch.setitem(KNOWN, "mel_distance", mel)
    origins = record["protocol"]["metrics"]
    origins["mel_distance"]["weights"] = [{"file": "w.pt", "sha256": "0123"}]
    Path("r.json").write_text(json.dumps(record))
    code, _, (line,) = run("--protocol", "r.json")
    assert code == 2 and "was measured by mel_distance of weights 0123, got none; name those" in line
    origins["loudness"] = origins.pop("mel_distance")
    Path("r.json").write_text(json.dumps(record))
    code, _, (line,) = run("--protocol", "r.json")
    assert code == 2 and "was measured by loudness, which does not run here (this version does not know it)" in line


@pytest.mark.parametrize("origin", ["sigtok 1", {}, {"versions": 3, "weights": []}, {"versions": {}, "weights": [3]}])
def test_a_metric_without_its_origin_costs_one_line(here, run, origin):
    record = record_of()
    record["protocol"]["metrics"]["stoi"] = origin
    Path("r.json").write_text(json.dumps(record))
    code, _, (line,) = run("--protocol", "r.json")
    assert code == 65 and "r.json: a protocol is in the JSON" in line


def test_the_metrics_are_those_of_the_protocol_also_one_that_ran_neither_time(here, run, monkeypatch):
    find = metrics.importlib.util.find_spec
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda name: None if name == "visqol" else find(name))
    assert run("in/a.wav", "--metrics", "stoi,visqol,snr", "--json", "r.json")[0] == 0
    code, _, lines = run("--protocol", "r.json", "--json", "again.json")
    assert code == 0 and lines[0].startswith("sigtok: visqol: not computed (") and "all figures are those" in lines[1]
    assert list(record_of("again.json")["protocol"]["metrics"]) == ["stoi", "visqol", "snr"]
    row = record_of("again.json")["rates"][0]["rows"][0]
    assert row["visqol"] is None and row["snr"] is not None and "mel_distance" not in row


def test_a_file_with_the_right_bytes_is_found_beside_the_result(here, run):
    """Also where another of its name lies here."""
    shutil.copytree("in", "kept/in")
    shutil.move("r.json", "kept/r.json")
    flip("in/a.wav")
    assert run("--protocol", "kept/r.json")[0] == 3


# -- rows as they come, and outputs that cannot be ------------------------------------------------------------------


def test_lines_are_the_rows_with_their_rates(here, run):
    assert run("in", "--codebooks", "1,3", "--jsonl", "r.jsonl", "--json", "again.json")[0] == 3
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    expected = [
        {key: rate[key] for key in ("codebooks", "queries", "window")} | rate["rows"][place]
        for place in (0, 1)
        for rate in record_of("again.json")["rates"]
    ]
    assert lines == expected


def test_a_rate_that_is_named_twice_is_measured_once(here, run):
    assert run("in", "--codebooks", "3,1,3", "--json", "again.json")[0] == 3
    assert [rate["codebooks"] for rate in record_of("again.json")["rates"]] == [3, 1]


def test_a_run_that_is_stopped_keeps_its_lines(here, run, monkeypatch):
    measure, seen = Evaluation.measure, []

    def stopped(self, path):
        seen.append(path)
        if len(seen) == 3:
            raise Stopped("SIGTERM")
        return measure(self, path)

    monkeypatch.setattr(Evaluation, "measure", stopped)
    assert run("in", "--codebooks", "1,3", "--jsonl", "r.jsonl")[0] == 75
    lines = [json.loads(line) for line in Path("r.jsonl").read_text().splitlines()]
    assert [(line["file"], line["codebooks"]) for line in lines] == [("in/a.wav", 1), ("in/a.wav", 3)]


@pytest.mark.parametrize("command", ["evaluate", "compare", "score"])
@pytest.mark.parametrize(
    ("option", "name"), [("--json", "r"), ("--jsonl", "r"), ("--html", "r.html"), ("--picture", "r.svg")]
)
def test_a_folder_that_is_not_there_is_told_before_the_work(here, models, capfd, monkeypatch, command, option, name):
    if (command, option) in {("compare", "--jsonl"), ("score", "--picture")}:
        return
    model = str(models / "model")
    line = {"evaluate": [model, "in"], "compare": ["in", "-m", model], "score": ["in", "in"]}[command]
    for work in (Evaluation, Scores):
        monkeypatch.setattr(work, "measure", lambda *_: pytest.fail("the work began"))
    capfd.readouterr()
    assert main([command, *line, option, f"gone/{name}"]) == 73
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "goes into a folder that exists" in err
    Path(name).mkdir()
    assert main([command, *line, option, name]) == 73 and "got a folder" in capfd.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says it there")
def test_memory_is_the_most_that_the_process_held():
    text = Path("/proc/self/status").read_text()
    most = 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", text)[1])
    found = evaluate.peak_memory(query_speech(**ARGUMENTS))
    assert set(found) == {"process_peak_bytes"} and most * 0.99 <= found["process_peak_bytes"] < most * 1.1
