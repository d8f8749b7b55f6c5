"""Damage to an output is found and made good; figures are those of its rows; merged outputs are their rows."""

import json
import shutil

import numpy as np
import pytest

from sigtok.codecs.media import write_audio
from sigtok.codecs.shards import Shard
from sigtok.export.cli import main
from sigtok.export.corpus.commits import commit
from sigtok.export.corpus.run import tokenize

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def output(corpus, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    tokenize(str(corpus), folder, model, workers=0, unit_seconds=2.0, part_seconds=1.6)
    return folder


@pytest.fixture
def copy(output, tmp_path):
    return shutil.copytree(output, tmp_path / "copy")


def rows_of(folder):
    units = json.loads((folder / "manifest.json").read_text())["units"]
    return [row for unit in units for row in Shard(folder / unit["shard"])]


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[sm]*")}


def test_a_whole_output_is_whole(output, capsys):
    assert main(["tokenize", "verify", str(output), "--again", "5"]) == 0
    said = capsys.readouterr().out
    assert "5 items encoded again, 0 of" in said and "all as they were written" in said


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def recount(path):
    path.write_text(path.read_text().replace('"rows": ', '"rows": 1'))


def retype(path, name, value):
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}, sort_keys=True) + "\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda out: flip(out / "shard-000001.parquet"), "shard-000001.parquet: its bytes are not those"),
        (lambda out: (out / "shard-000001.parquet").unlink(), "shard-000001: missing"),
        (lambda out: (out / "shard-000001.json").unlink(), "shard-000001: missing"),
        (lambda out: (out / "shard-000001.json").write_text("[" * 9), "shard-000001: missing"),
        (lambda out: recount(out / "shard-000001.json"), "shard-000001.parquet: its record counts other"),
        (lambda out: retype(out / "shard-000001.json", "rows", "x"), "shard-000001: missing"),
        (lambda out: retype(out / "shard-000001.json", "sha256", 5), "shard-000001: missing"),
        (lambda out: shutil.copy(out / "shard-000000.parquet", out / "shard-000099.parquet"), "no such shard"),
        (lambda out: shutil.copy(out / "shard-000000.parquet", out / "shard-copy.parquet"), "no such shard"),
        (lambda out: (out / "manifest.json").unlink(), "manifest.json: missing"),
        (lambda out: flip(out / "manifest.json"), "manifest.json: is not of these shards"),
        (
            lambda out: shutil.copy(out / "shard-000000.parquet", out / "shard-000001.parquet"),
            "shard-000001",
        ),
    ],
)
def test_damage_is_found_removed_and_made_again(damage, words, copy, output, corpus, model, capsys):
    damage(copy)
    assert main(["tokenize", "verify", str(copy)]) == 65
    assert words in capsys.readouterr().out
    assert main(["tokenize", "repair", str(copy)]) == 0
    assert words in capsys.readouterr().out
    assert tokenize(str(corpus), copy, model, workers=0, unit_seconds=2.0, part_seconds=1.6) == []
    assert bytes_of(copy) == bytes_of(output)


def test_a_shard_with_the_rows_of_another_unit_is_found(copy, capsys):
    """Though its record was written to fit."""
    record = json.loads((copy / "shard-000000.json").read_text())
    shutil.copy(copy / "shard-000000.parquet", copy / "shard-000001.parquet")
    record |= {"unit": 1, "shard": "shard-000001.parquet"}
    (copy / "shard-000001.json").write_text(json.dumps(record, sort_keys=True) + "\n")
    assert main(["tokenize", "verify", str(copy)]) == 65
    assert "its rows are not the items of the plan" in capsys.readouterr().out


def test_other_codes_are_found_by_encoding_again(copy, capsys, monkeypatch):
    monkeypatch.setattr(Shard, "codes", lambda shard, row, codes=Shard.codes: (codes(shard, row) + 1) % 64)
    assert main(["tokenize", "verify", str(copy), "--again", "100"]) == 65
    assert "0 of" not in capsys.readouterr().out.splitlines()[0].split(",")[1]


# -- figures -----------------------------------------------------------------------------------------------


def test_stats_count_the_rows(output, capsys):
    assert main(["tokenize", "stats", str(output), "--json"]) == 0
    found, rows = json.loads(capsys.readouterr().out), rows_of(output)
    good = [row for row in rows if row.codes is not None]
    assert (found["signals"], found["bad"]) == (len(good), len(rows) - len(good))
    assert found["hours"] == pytest.approx(sum(row.extent[0] for row in good) / 24_000 / 3600)
    assert found["reasons"] == {row.reason: 1 for row in rows if row.codes is None}
    codes = np.concatenate([row.codes for row in good]).reshape(-1, 3)
    assert found["codes"] == codes.size and found["nominal_bits_per_code"] == 6
    for book, said in enumerate(found["codebooks"]):
        _, counts = np.unique(codes[:, book], return_counts=True)
        part = counts / counts.sum()
        assert said["usage"] == len(counts) / 64
        assert said["entropy"] == pytest.approx(-(part * np.log2(part)).sum())


def test_stats_find_what_is_there_twice(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, (1, 9_000))
    for name in "abc":
        write_audio(tmp_path / "in" / f"{name}.wav", sound if name != "b" else sound[:, ::-1].copy(), 24_000)
    tokenize(str(tmp_path / "in"), tmp_path / "out", model, workers=0)
    assert main(["tokenize", "stats", str(tmp_path / "out")]) == 0
    assert "3 signals, 0 bad items, 1 duplicates" in capsys.readouterr().out


# -- merge -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codes", [1, 400, 10**9])
def test_merged_outputs_are_their_rows_in_order(codes, output, model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write_audio(tmp_path / "in" / "more.wav", np.zeros((1, 30_000)), 24_000)
    tokenize(str(tmp_path / "in"), tmp_path / "more", model, workers=0)
    line = ["tokenize", "merge", str(output), str(tmp_path / "more"), str(tmp_path / "all"), "--codes", str(codes)]
    assert main(line) == 3  # one bad row
    rows = rows_of(output) + rows_of(tmp_path / "more")
    for row, merged in zip(rows, rows_of(tmp_path / "all"), strict=True):
        assert row._replace(codes=None) == merged._replace(codes=None)
        assert (row.codes is None) == (merged.codes is None) and (
            row.codes is None or (row.codes == merged.codes).all()
        )
    units = json.loads((tmp_path / "all" / "manifest.json").read_text())["units"]
    assert len(units) == 1 if codes == 10**9 else all(unit["codes"] >= codes for unit in units[:-1])
    assert main(line) == 73
    assert "holds an output already" in capsys.readouterr().err


def test_merged_outputs_are_verified_by_their_manifest(output, corpus, model, tmp_path, capsys):
    merged = tmp_path / "merged"
    assert main(["tokenize", "merge", str(output), str(merged), "--codes", "300"]) == 3
    assert main(["tokenize", "verify", str(merged)]) == 0
    assert "all as they were written" in capsys.readouterr().out
    before = bytes_of(merged)
    for verb in (["plan", str(corpus), str(merged), "-m", model], ["run", str(corpus), str(merged), "-m", model]):
        assert main(["tokenize", *verb]) == 73
    assert main(["tokenize", "repair", str(merged)]) == main(["tokenize", "verify", str(merged), "--again", "3"]) == 2
    assert bytes_of(merged) == before
    shutil.copy(merged / "shard-000000.parquet", merged / "shard-000099.parquet")
    flip(merged / "shard-000001.parquet")
    assert main(["tokenize", "verify", str(merged)]) == 65
    said = capsys.readouterr().out
    assert "shard-000099.parquet: manifest.json has no such shard" in said
    assert "shard-000001.parquet: its bytes are not those that were written" in said
    for path in merged.glob("shard-000001.*"):
        path.unlink()
    assert main(["tokenize", "verify", str(merged)]) == 65


def test_a_row_that_is_there_twice_is_found(output, tmp_path, capsys):
    merged = tmp_path / "merged"
    assert main(["tokenize", "merge", str(output), str(merged)]) == 3
    said = json.loads((merged / "manifest.json").read_text())
    shutil.copy(merged / "shard-000000.parquet", merged / "shard-000001.parquet")
    said["units"].append(said["units"][0] | {"unit": 1, "shard": "shard-000001.parquet"})
    (merged / "manifest.json").write_text(json.dumps(said))
    assert main(["tokenize", "verify", str(merged)]) == 65
    assert "shard-000001.parquet: 0.flac is the name of two rows" in capsys.readouterr().out


def test_a_merge_that_ends_early_leaves_nothing(output, tmp_path, monkeypatch, capsys):
    done = []

    def full(folder, made):
        if len(done) == 2:
            raise OSError(28, "No space left on device")
        done.append(made)
        commit(folder, made)

    monkeypatch.setattr("sigtok.export.corpus.merge.commit", full)
    line = ["tokenize", "merge", str(output), str(tmp_path / "merged"), "--codes", "100"]
    assert main(line) == 74 and not (tmp_path / "merged").exists()
    monkeypatch.undo()
    assert main(line) == 3


def test_outputs_of_one_corpus_or_of_two_rates_are_not_merged(output, corpus, model, tmp_path, capsys):
    assert main(["tokenize", "merge", str(output), str(output), str(tmp_path / "all")]) == 65
    assert "is an item of two outputs" in capsys.readouterr().err and not (tmp_path / "all").exists()
    assert (
        main(
            [
                "tokenize",
                str(corpus),
                str(tmp_path / "two"),
                "-m",
                model,
                "--codebooks",
                "2",
                "--workers",
                "0",
                "--max-bad",
                "1",
            ]
        )
        == 3
    )
    assert main(["tokenize", "merge", str(output), str(tmp_path / "two"), str(tmp_path / "other")]) == 65
    assert "another model or rate" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["verify", "repair", "stats"])
def test_what_is_no_output_is_told(verb, tmp_path, capsys):
    assert main(["tokenize", verb, str(tmp_path)]) == 65
    said = capsys.readouterr().err
    assert str(tmp_path) in said and "Traceback" not in said


def test_the_words_of_the_command_line():
    for line, code in (
        (["tokenize", "in", "out"], 2),  # no model
        (["tokenize", "run", "in", "out", "-m", "speech_24khz", "--share", "3/3"], 2),
        (["tokenize", "run", "in", "out", "-m", "speech_24khz", "--share", "x"], 2),
        (["tokenize", "plan", "in", "out", "-m", "speech_24khz", "--unit-seconds", "0"], 2),
        (["tokenize", "in", "out", "-m", "speech_24khz", "--max-bad", "2"], 2),
    ):
        with pytest.raises(SystemExit) as caught:
            main(line)
        assert caught.value.code == code
    assert main(["tokenize", "in", "out", "-m", "no_such_model"]) == 2
