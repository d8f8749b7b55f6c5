"""Decoded files beside their references: partners by name, figures as of `evaluate`, delays told, real rates."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sigtok.codecs.media import read_audio, read_image, write_audio, write_image
from sigtok.codecs.metrics.audio import mel_distance, si_sdr
from sigtok.codecs.metrics.image import psnr
from sigtok.export.cli import main
from sigtok.export.inputs import Item, Reader
from sigtok.export.metrics import METRICS
from sigtok.export.score import Partners, Scores, spec_of_files

RATE = 16_000


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Two sounds below a folder of references, decoded with a little noise, and their coded files."""
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(("x/a", "x/y/b")):
        for folder in ("ref", "dec", "coded"):
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        signal = sound(place)
        write_audio(f"ref/{name}.flac", signal, RATE)
        write_audio(f"dec/{name}.wav", signal + 0.01 * sound(place + 10), RATE)
        Path(f"coded/{name}.sgt").write_bytes(bytes(100 + place))
    return tmp_path


@pytest.fixture
def run(capfd):
    def run(*line):
        try:
            code = main(["score", *map(str, line)])
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        return code, out, err.splitlines()

    return run


def sound(seed=0, samples=RATE):
    return 0.3 * np.random.default_rng(seed).uniform(-1, 1, (1, samples))


def rows_of(path="s.json"):
    return json.loads(Path(path).read_text())["rates"][0]["rows"]


def test_figures_are_those_of_the_pair_and_rates_those_of_the_coded_files(here, run):
    outputs = ("--json", "s.json", "--jsonl", "s.jsonl", "--html", "s.html")
    code, out, lines = run("dec", "ref", "--bytes", "coded", *outputs)
    assert (code, lines) == (0, [])
    record, rows = json.loads(Path("s.json").read_text()), rows_of()
    assert [row["reference"] for row in rows] == ["ref/x/a.flac", "ref/x/y/b.flac"]
    for place, row in enumerate(rows):
        pair = [torch.from_numpy(read_audio(row[name])[0])[None] for name in ("file", "reference")]
        assert row["mel_distance"] == pytest.approx(mel_distance(*pair, RATE))
        assert row["si_sdr"] == pytest.approx(si_sdr(*pair)) and row["lag_samples"] == 0
        assert row["bytes"] == 100 + place and row["bits_per_second"] == 8 * (100 + place)
    assert record["rates"][0]["bits_per_second"] == 8 * 201 / 2 and record["rates"][0]["aligned_files"] == 2
    assert [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()] == rows
    assert "bits per second" in out and "psnr" not in out and "<audio" in Path("s.html").read_text()
    assert {"file", "sha256", "reference", "reference_sha256"} <= set(record["protocol"]["files"][0])


def test_without_coded_files_there_is_no_rate_and_a_reference_is_perfect(here, run):
    assert run("ref", "ref", "--json", "s.json", "--html", "s.html")[0] == 0
    for row in rows_of():
        assert row["mel_distance"] == 0 and row["lag_samples"] == 0 and "bytes" not in row
    assert "bits_per_second" not in json.loads(Path("s.json").read_text())["rates"][0]


def test_two_files_are_a_pair_whatever_their_names(here, run):
    assert run("dec/x/a.wav", "ref/x/y/b.flac", "--bytes", "coded/x/y/b.sgt", "--json", "s.json")[0] == 0
    assert [(row["reference"], row["bytes"]) for row in rows_of()] == [("ref/x/y/b.flac", 101)]


@pytest.mark.parametrize("late", [-40, 5])
def test_a_delay_is_told_to_the_sample(here, run, late):
    write_audio("dec/x/a.wav", np.roll(sound(0), late, axis=1), RATE)
    code, _, (line,) = run("dec", "ref", "--json", "s.json")
    assert code == 0 and f"dec/x/a.wav: is {abs(late)} samples {'late' if late > 0 else 'early'}" in line
    assert [row["lag_samples"] for row in rows_of()] == [late, 0]
    summary = json.loads(Path("s.json").read_text())["rates"][0]
    assert (summary["aligned_files"], summary["late_files"]) == (1, 1)


def test_waveforms_that_do_not_follow_have_no_delay_and_inverted_ones_are_told(here, run):
    write_audio("dec/x/a.wav", sound(99), RATE)
    write_audio("dec/x/y/b.wav", -sound(1), RATE)
    code, _, (line,) = run("dec", "ref", "--json", "s.json")
    assert code == 0 and "dec/x/y/b.wav: has the opposite polarity" in line
    first, second = rows_of()
    assert first["lag_samples"] is None and "do not follow" in first["not_computed"]["lag_samples"]
    assert second["lag_samples"] == 0


@pytest.mark.parametrize(("samples", "code"), [(RATE - 1600, 0), (RATE + 1600, 0), (RATE - 1601, 3), (RATE + 1601, 3)])
def test_sounds_are_cut_to_the_shorter_within_a_tenth_of_a_second(here, run, samples, code):
    write_audio("dec/x/a.wav", np.resize(sound(0), (1, samples)), RATE)
    found, _, lines = run("dec", "ref", "--json", "s.json")
    assert found == code
    assert (
        f"dec/x/a.wav: is as long as its reference of 1.000 s, to 0.1 s, got {samples / RATE:.3f} s" in "".join(lines)
    ) == bool(code)
    assert rows_of()[0]["seconds"] == (1 if code or samples > RATE else samples / RATE)


def test_pictures_are_scored_at_one_size(here, run):
    for folder, name, width in (
        ("ref", "p.png", 50),
        ("ref", "q.png", 50),
        ("dec", "p.webp", 50),
        ("dec", "q.png", 49),
    ):
        Path("pictures", folder).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).uniform(-1, 1, (3, 40, width))
        write_image(Path("pictures", folder, name), pixels)
    code, out, lines = run("pictures/dec", "pictures/ref", "--json", "s.json", "--html", "s.html")
    assert code == 3 and "pictures/dec/q.png: has the 50x40 pixels of its reference, got 49x40" in lines[0]
    (row,) = rows_of()
    pair = [torch.from_numpy(read_image(row[name]))[None] for name in ("file", "reference")]
    assert row["psnr"] == pytest.approx(psnr(*pair)) and row["pixels"] == 2000 and "lag_samples" not in row
    assert "psnr" in out and "<img" in Path("s.html").read_text()


def test_partners_share_their_path_or_else_their_name():
    partners = Partners(map(_item, ("x/a", "y/a", "z/b")), "ref")
    assert partners.of(_item("y/a")).path == "y/a.wav" and partners.of(_item("b")).path == "z/b.wav"
    with pytest.raises(ValueError, match="one file of its name in ref, got 2"):
        partners.of(_item("a"))
    with pytest.raises(ValueError, match="one file of its name in ref, got none"):
        partners.of(_item("c"))


def _item(stem):
    return Item(f"{stem}.wav", stem)


def test_references_without_a_partner_are_counted(here, run):
    Path("dec/x/a.wav").unlink()
    code, _, (line,) = run("dec", "ref")
    assert code == 0 and "1 of 2 references have no decoded file" in line


def test_files_of_another_rate_become_those_of_the_first_reference(here, run):
    write_audio("dec/x/a.wav", sound(0, 24_000), 24_000)
    code, _, (line,) = run("dec", "ref", "--json", "s.json")
    assert code == 0 and "resampled from 24000 to 16000 Hz" in line and rows_of()[0]["seconds"] == 1


WRONG = {
    "no folder": (["dec", "gone"], 2, "gone: there is no such file or folder"),
    "no decoded": (["gone", "ref"], 2, "gone: there is no such file or folder"),
    "empty": (["empty", "ref"], 65, "empty: files of"),
    "no coded": (["dec", "ref", "--bytes", "empty"], 2, "--bytes empty: is the folder of coded files"),
    "size": (["dec", "ref", "--size", "8"], 2, "--size is for pictures"),
    "over an input": (["dec", "ref", "--json", "ref/x/a.flac"], 2, "is an input and would be overwritten"),
    "text": (["dec", "text.wav"], 65, "text.wav: sounds and pictures are scored"),
    "conditions": (["dec", "ref", "--where", "a=b"], 2, "--where chooses rows"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_a_wrong_command_line_costs_one_line(here, run, name):
    Path("empty").mkdir()
    Path("text.wav").write_text("none")
    options, expected, mark = WRONG[name]
    code, out, lines = run(*options)
    assert code == expected and len(lines) == 1 and mark in lines[0] and out == ""


def test_damaged_files_cost_a_line_each(here, run):
    data = Path("dec/x/a.wav").read_bytes()
    Path("dec/x/a.wav").write_bytes(data[: len(data) // 2])
    Path("coded/x/y/b.sgt").unlink()
    Path("dec/p.png").write_bytes(b"")
    code, out, lines = run("dec", "ref", "--bytes", "coded")
    assert code == 65 and len(lines) == 4 and out == ""


def test_what_is_of_another_kind_than_the_first_reference_costs_a_line(here, run):
    for name in ("dec/z.png", "ref/z.png"):
        write_image(name, np.zeros((3, 16, 16)))
    code, _, lines = run("dec", "ref", "--json", "s.json")
    assert code == 3 and "z.png: the first reference takes audio files, got image" in lines[0] and len(rows_of()) == 2


def test_a_row_that_fails_leaves_nothing(here):
    scores = Scores(Reader(spec_of_files("ref/x/a.flac")), METRICS["audio"])
    write_audio("short.wav", sound(0, 4000), RATE)
    with pytest.raises(ValueError, match="as long as its reference"):
        scores.measure("short.wav", "ref/x/a.flac")
    assert scores.rows == scores.files == []
