"""A corpus becomes the same tokens however it is run, wherever it is stopped, and nothing is lost or doubled."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import semantic_features
from sigtok.codecs.media import read_audio, write_audio
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.shards import Shard
from sigtok.codecs.spec import Rate
from sigtok.export.cli import main
from sigtok.export.corpus import store
from sigtok.export.corpus.command import share_of
from sigtok.export.corpus.plan import Plan
from sigtok.export.corpus.run import Share, tokenize
from sigtok.export.exits import Failure

pytest.importorskip("pyarrow")
NAMES = ("ID", "COUNT", "MIN", "MAX", "STEP")  # of a task of an array
SLURM = [f"SLURM_ARRAY_TASK_{name}" for name in NAMES]
UNITS = dict(unit_seconds=2.0, part_seconds=1.6)
LINE = ["--unit-seconds", "2", "--part-seconds", "1.6"]  # the same


def tree(folder):
    """Names and digests of all that was written, but what names places."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != "plan.parquet" and not path.name.startswith(".lock")
    }


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def run(corpus, out, model, workers=0, **options):
    return tokenize(str(corpus), out, model, workers=workers, **{**UNITS, **options})


@pytest.fixture(scope="module")
def whole(corpus, model, tmp_path_factory):
    """An output that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(corpus, folder, model) == []
    return folder


# -- what the tokens are -----------------------------------------------------------------------------------


def rows_of(folder):
    return [row for record in manifest_of(folder)["units"] for row in Shard(folder / record["shard"])]


def test_every_row_is_what_encode_gives(corpus, model, whole):
    codec, seen = load(model), set()
    for record in manifest_of(whole)["units"]:
        shard = Shard(whole / record["shard"])
        assert shard.meaning.stream_id == codec.stream_id.hex()
        for number, row in enumerate(shard):
            name, _, start = row.id.partition("#")
            seen.add(name)
            if name == "broken.wav":
                assert row.codes is None and "truncated" in row.reason
                continue
            assert row.start == pytest.approx(float(start or 0), abs=1e-3)
            signal, rate = read_audio(corpus / name, codec.spec.sample_rate)
            first = round(row.start * rate)
            part = torch.from_numpy(signal[:, first : first + row.extent[0]])
            if not start:  # the ends of parts are resampled without what follows
                assert row.extent == tuple(part.shape[1:])
                assert torch.equal(codec.encode([part]).codes, shard.tokens(number).codes)
    assert seen == {"broken.wav", "4.wav", *(f"{number}.flac" for number in (0, 1, 2, 3, 5, 6))}


def test_parts_of_a_long_sound_are_whole_windows_and_all_of_it(whole):
    rows = [row for row in rows_of(whole) if row.id.startswith("3.flac#")]
    (step,) = Shard(whole / "shard-000000.parquet").meaning.spec.step()
    assert len(rows) > 1
    assert all(row.extent[0] % step == 0 for row in rows[:-1])
    assert sum(row.extent[0] for row in rows) == pytest.approx(200_000 * 24_000 / 44_100, abs=len(rows))
    ends = [row.start + row.extent[0] / 24_000 for row in rows]
    assert [row.start for row in rows[1:]] == pytest.approx(ends[:-1], abs=1e-3)


def test_the_manifest_counts_what_is_there(whole):
    said, rows = manifest_of(whole), rows_of(whole)
    assert said["rows"] == len(rows) == len({row.id for row in rows}) and said["bad"] == 1
    assert said["codes"] == sum(len(row.codes) for row in rows if row.codes is not None)
    assert said["seconds"] == pytest.approx(sum(row.extent[0] for row in rows if row.codes is not None) / 24_000)
    assert len(said["units"]) > 2


def test_pictures_become_tokens(pictures, picture_model, tmp_path):
    assert run(pictures, tmp_path, picture_model, rate=Rate(queries=8)) == []
    assert [row.extent for row in rows_of(tmp_path)] == [(40, 56), (16, 16), (1, 9)]
    assert run(pictures, tmp_path / "cut", picture_model, size=16) == []
    assert {row.extent for row in rows_of(tmp_path / "cut")} == {(16, 16)}


def test_features_become_tokens(tmp_path):
    arguments = {"name": "small", "channels": 3, "dim": 8, "depth": 1, "latent_dim": 4,
                 "quantizer": {"name": "vq", "codebook_size": 16, "dim": 4}}  # fmt: skip
    codec, model = semantic_features(**arguments), tmp_path / "model"
    codec.encoder.scale.set(torch.zeros(3), torch.ones(3), 9)
    words = dict(licence="CC0-1.0", training_data="none", measured={}, card="")
    save(codec, model, builder="semantic_features", arguments=arguments, **words)
    (tmp_path / "in").mkdir()
    frames = {f"{count}.npy": np.random.default_rng(count).standard_normal((count, 3)) for count in (1, 30, 300)}
    for name, values in frames.items():
        np.save(tmp_path / "in" / name, values.astype(np.float32))
    np.save(tmp_path / "in" / "wide.npy", np.zeros((5, 4), np.float32))
    rate = load(model).spec.sample_rate
    run(tmp_path / "in", tmp_path / "out", str(model), part_seconds=200 / rate)
    found = {row.id: row for row in rows_of(tmp_path / "out")}
    assert found["wide.npy"].codes is None and "3" in found["wide.npy"].reason
    parts = sorted((row.start, row.codes) for name, row in found.items() if name.startswith("300.npy#"))
    assert len(parts) == 2
    codes = {"300.npy": np.concatenate([codes for _, codes in parts])}
    codes |= {name: row.codes for name, row in found.items() if name in frames}
    for name in ("1.npy", "30.npy"):
        signal = torch.from_numpy(frames[name].astype(np.float32).T.copy())[None]
        assert codes[name].tolist() == load(model).encode(signal).codes[0, 0].tolist()
    assert len(codes["300.npy"]) == sum(load(model).spec.token_counts((300,)))


def test_batches_of_a_causal_model_have_its_codes(corpus, model, whole, tmp_path):
    """Rounding aside: of this corpus, none differs."""
    run(corpus, tmp_path, model, batch_seconds=5.0)
    for row, alone in zip(rows_of(tmp_path), rows_of(whole), strict=True):
        assert row.id == alone.id and row.extent == alone.extent and row.reason == alone.reason
        if row.codes is not None:
            assert (row.codes != alone.codes).mean() <= 0.001 if len(row.codes) else True


# -- who makes them, and how often -------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_write_the_same_bytes(workers, corpus, model, whole, tmp_path):
    assert run(corpus, tmp_path, model, workers=workers) == []
    assert tree(tmp_path) == tree(whole)


def test_shares_in_any_order_write_the_same_bytes(corpus, model, whole, tmp_path):
    assert (
        main(
            [
                "tokenize",
                "plan",
                str(corpus),
                str(tmp_path),
                "-m",
                model,
                "--unit-seconds",
                "2",
                "--part-seconds",
                "1.6",
                "--max-bad",
                "1",
            ]
        )
        == 0
    )
    units = Plan(tmp_path).units
    left = run(corpus, tmp_path, model, share=Share(2, 3))
    assert left == [unit for unit in range(units) if unit % 3 != 2]
    assert run(corpus, tmp_path, model, share=Share(0, 3)) == [unit for unit in range(units) if unit % 3 == 1]
    assert not (tmp_path / "manifest.json").exists()
    assert run(corpus, tmp_path, model, share=Share(1, 3)) == []
    assert tree(tmp_path) == tree(whole)


@pytest.mark.parametrize(
    ("environment", "shares"),
    [
        ({}, [Share()]),
        ({"RANK": "0", "WORLD_SIZE": "1"}, [Share()]),
        ({"RANK": "2", "WORLD_SIZE": "3"}, [Share(2, 3)]),
        ({"SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_ID": "5"}, [Share()]),
        ([(1, 3, 1, 3, 1), (2, 3, 1, 3, 1), (3, 3, 1, 3, 1)], [Share(0, 3), Share(1, 3), Share(2, 3)]),
        ([(0, 3, 0, 8, 4), (4, 3, 0, 8, 4), (8, 3, 0, 8, 4)], [Share(0, 3), Share(1, 3), Share(2, 3)]),
    ],
)
def test_tasks_of_torchrun_and_of_any_array_of_slurms_share_the_units(environment, shares):
    tasks = environment if isinstance(environment, list) else []
    found = [share_of(dict(zip(SLURM, map(str, task), strict=True))) for task in tasks]
    assert (found or [share_of(environment)]) == shares


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "5", "WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2"},
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"SLURM_ARRAY_TASK_COUNT": "4"},
        dict(zip(SLURM, ("0", "2", "0", "2", "1"), strict=True)),  # --array=0,2
        dict(zip(SLURM, ("5", "3", "3", "7", "1"), strict=True)),  # --array=3,5,7
        dict(zip(SLURM, ("3", "2", "3", "14", "1"), strict=True)),  # --array=3,14
        dict(zip(SLURM, ("4", "3", "3", "9", "3"), strict=True)),
    ],
)
def test_arrays_with_gaps_are_refused(environment, monkeypatch, capsys, model):
    with pytest.raises(Failure, match="say which share this is: --share I/N"):
        share_of(environment)
    with pytest.raises(ValueError, match="a share is one of 0 to 1, got 2"):
        Share(2, 2)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(["tokenize", "in", "out", "-m", model]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_share_needs_a_plan(corpus, model, tmp_path):
    with pytest.raises(ValueError, match="make one with sigtok tokenize plan"):
        run(corpus, tmp_path, model, share=Share(0, 2))


def test_a_second_run_changes_nothing(corpus, model, whole):
    before = tree(whole), os.stat(whole / "manifest.json").st_mtime_ns
    assert run(corpus, whole, model) == []
    assert (tree(whole), os.stat(whole / "manifest.json").st_mtime_ns) == before


def test_another_plan_is_refused_and_what_is_there_stays(corpus, model, whole, pictures):
    before = tree(whole)
    for options, words in (
        ({"rate": Rate(codebooks=2)}, "rate"),
        ({"unit_seconds": 9.0}, "unit_seconds 2.0 there, 9.0 here"),
        ({"downmix": True}, "downmix false there, true here"),
    ):
        with pytest.raises(Failure, match=words):
            run(corpus, whole, model, **options)
    with pytest.raises(Failure, match="sources"):
        run(pictures, whole, model)
    with pytest.raises(Failure, match="sources"):
        run(pictures, whole, model, share=Share(0, 2))
    with pytest.raises(Failure, match="where"):
        run(corpus, whole, model, where=[("a", "b")], share=Share(0, 2))
    assert tree(whole) == before


def test_sources_are_where_they_were_wherever_the_next_run_stands(corpus, model, whole, tmp_path, monkeypatch):
    (tmp_path / "other" / corpus.name).mkdir(parents=True)
    monkeypatch.chdir(corpus.parent)
    assert run(corpus.name, tmp_path / "out", model) == []
    monkeypatch.chdir(tmp_path / "other")
    for same in (corpus, f"{corpus}/", f"file://{corpus}", f"{corpus}/../{corpus.name}"):
        assert run(same, tmp_path / "out", model) == []
    with pytest.raises(Failure, match="sources"):
        run(corpus.name, tmp_path / "out", model)
    assert tree(tmp_path / "out") == tree(whole)


def test_shards_without_their_plan_are_refused(corpus, model, whole, tmp_path, capsys):
    out = shutil.copytree(whole, tmp_path / "out")
    (out / "plan.parquet").unlink()
    before = tree(out)
    line = ["tokenize", str(corpus), str(out), "-m", model]
    assert main(line) == 73
    (out / "manifest.json").unlink()
    assert main(line) == main(["tokenize", "plan", *line[1:]]) == 73
    assert "holds shards and no plan of them" in capsys.readouterr().err
    assert tree(out) == {name: digest for name, digest in before.items() if name != "manifest.json"}


def test_every_flipped_byte_of_a_plan_is_found_or_changes_nothing(whole, tmp_path):
    data = (whole / "plan.parquet").read_bytes()
    said = Plan(whole)
    items = [said.unit(unit) for unit in range(said.units)]
    found = 0
    for place in range(4, len(data), 3):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        (tmp_path / "plan.parquet").write_bytes(damaged)
        try:
            plan = Plan(tmp_path)
            same = (plan.units, plan.items, plan.settings, plan.said) == (
                said.units,
                said.items,
                said.settings,
                said.said,
            )
            assert same and [plan.unit(unit) for unit in range(plan.units)] == items, place
        except ValueError as error:
            assert "a damaged plan" in str(error) and "\n" not in str(error)
            found += 1
    assert found > 0.5 * len(range(4, len(data), 3))


def test_a_plan_of_damaged_pages_is_told(whole, tmp_path, capsys):
    out = shutil.copytree(whole, tmp_path / "out")
    data = bytearray((out / "plan.parquet").read_bytes())
    data[60:90] = bytes(30)
    (out / "plan.parquet").write_bytes(data)
    assert main(["tokenize", "verify", str(out)]) == main(["tokenize", "repair", str(out)]) == 65
    assert "plan.parquet: a damaged plan" in capsys.readouterr().err


# -- kills and full disks ----------------------------------------------------------------------------------


def forked(work):
    """Run in a process of its own; how it ended."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def steps_of(corpus, model, out):
    """Every step of a whole run, in order."""
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "step", lambda what, path: taken.append((what, path.name)))
        run(corpus, out, model)
    return taken


def fault_at(number, act):
    left = [number]

    def step(what, path):
        left[0] -= 1
        if left[0] < 0:
            act()

    return step


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_at_every_step_the_next_run_ends_as_if_nothing_was(corpus, model, whole, tmp_path):
    count = len(steps_of(corpus, model, tmp_path / "counted"))
    assert count > 30
    for number in range(count):
        out = tmp_path / str(number)

        def work(number=number, out=out):
            store.step = fault_at(number, kill)
            run(corpus, out, model)
            return 0

        assert os.WTERMSIG(forked(work)) == signal.SIGKILL, number
        for path in out.glob("shard-*.json"):  # what is committed is whole
            record = json.loads(path.read_text())
            assert len(Shard(out / record["shard"])) == record["rows"]
        assert not (out / "manifest.json").exists() or tree(out) == tree(whole)
        assert run(corpus, out, model) == []
        assert tree(out) == tree(whole), number
        shutil.rmtree(out)


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_every_step_ends_with_74_and_keeps_what_there_was(
    corpus, model, whole, tmp_path, monkeypatch, capsys
):
    count = len(steps_of(corpus, model, tmp_path / "counted"))
    line = [
        "tokenize",
        str(corpus),
        "",
        "-m",
        model,
        "--workers",
        "0",
        "--unit-seconds",
        "2",
        "--part-seconds",
        "1.6",
        "--max-bad",
        "1",
    ]
    for number in range(count):
        line[2] = str(tmp_path / str(number))
        monkeypatch.setattr(store, "step", fault_at(number, full))
        assert main(line) == 74, number
        said = capsys.readouterr().err
        assert "No space left on device" in said and "Traceback" not in said
        out = tmp_path / str(number)
        assert not list(out.glob(f"{store.TEMPORARY}*"))
        for path in out.glob("*.json"):
            assert tree(whole)[path.name] == tree(out)[path.name]
        monkeypatch.undo()
        assert main(line) == 3  # one item is bad
        assert tree(out) == tree(whole), number
        shutil.rmtree(out)


def test_random_kills_lose_and_double_nothing(corpus, model, whole, tmp_path):
    """`python -m tests.fuzz.kills` does this to the command itself, with its workers."""
    draw, out, kills = random.Random(0), tmp_path / "out", 0
    while kills < 12:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            try:
                run(corpus, out, model)
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0.0, 0.5))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if (out / "manifest.json").exists():
            assert tree(out) == tree(whole)
            shutil.rmtree(out)
    run(corpus, out, model)
    assert tree(out) == tree(whole)


# -- one writer --------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_output(corpus, model, tmp_path):
    with store.locked(tmp_path):
        with pytest.raises(Failure, match=f"process {os.getpid()} on .* writes there now") as caught:
            run(corpus, tmp_path, model)
        assert caught.value.code == 73
        with pytest.raises(Failure):
            run(corpus, tmp_path, model, share=Share(0, 2))


def test_writers_of_different_shares_do_not_meet_and_of_the_same_do(tmp_path):
    with store.locked(tmp_path, 0, 2), store.locked(tmp_path, 1, 2):
        for share in ((0, 2), ()):
            with pytest.raises(Failure, match="writes there now"), store.locked(tmp_path, *share):
                pass
    with store.locked(tmp_path):
        pass


def test_shares_of_other_numbers_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    with (
        store.locked(tmp_path, 3, 64),
        pytest.raises(Failure, match="shared by 64 processes now, got a share of 2"),
        store.locked(tmp_path, 1, 2),
    ):
        pass
    with store.locked(tmp_path, 1, 2), store.locked(tmp_path, 0, 2):
        pass


def test_a_lock_that_was_removed_before_it_was_taken_is_none(tmp_path, monkeypatch):
    def take(file, kind, take=store._take):
        (tmp_path / store.LOCK).unlink(missing_ok=True)
        return take(file, kind)

    monkeypatch.setattr(store, "_take", take)
    for share in ((), (0, 2)):
        with pytest.raises(Failure, match="writes there now"), store.locked(tmp_path, *share):
            pass


def test_many_shares_may_begin_at_once(tmp_path):
    def work(number):
        with store.locked(tmp_path, number, 8):
            time.sleep(0.3)
        return 0

    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            try:
                os._exit(work(number))
            finally:
                os._exit(70)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8


def test_a_folder_that_was_made_for_nothing_is_removed(model, tmp_path, capsys):
    assert main(["tokenize", str(tmp_path / "nowhere"), str(tmp_path / "out"), "-m", model]) == 2
    assert main(["tokenize", "repair", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_the_lock_of_a_killed_writer_is_free(tmp_path):
    def work():
        with store.locked(tmp_path):
            kill()

    forked(work)
    (tmp_path / f"{store.TEMPORARY}shard-000000.parquet").write_bytes(b"half")
    with store.locked(tmp_path):
        assert not list(tmp_path.glob(f"{store.TEMPORARY}*"))


def test_an_output_that_cannot_be_made_is_told(corpus, model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["tokenize", str(corpus), str(tmp_path / "file"), "-m", model]) == 73
    assert "file: cannot be written" in capsys.readouterr().err


# -- bad items ---------------------------------------------------------------------------------------------


def test_a_corpus_that_cannot_be_read_is_not_planned(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / "in" / f"{number}.wav").write_bytes(b"RIFF....WAVE")
    line = ["tokenize", str(tmp_path / "in"), str(tmp_path / "out"), "-m", model]
    for verb in ([*line, "--workers", "0"], [line[0], "plan", *line[1:]]):
        assert main(verb) == 65
        said = capsys.readouterr().err
        assert "4 of 4 items cannot be read" in said and "4 because: truncated" in said
        assert not (tmp_path / "out").exists()
    assert main([*line, "--workers", "0", "--max-bad", "1"]) == 65  # all of them


@pytest.fixture
def ten(model, tmp_path):
    """A line that tokenizes ten planned sounds, of which two changed since: bad rows of the first units."""
    (tmp_path / "in").mkdir()
    for number in range(10):
        write_audio(tmp_path / "in" / f"{number}.wav", np.zeros((1, 24_000)), 24_000)
    line = ["tokenize", str(tmp_path / "in"), str(tmp_path / "out"), "-m", model, "--unit-seconds", "0.5"]
    assert main([line[0], "plan", *line[1:]]) == 0
    for number in (0, 2):
        write_audio(tmp_path / "in" / f"{number}.wav", np.zeros((1, 30_000)), 24_000)
    return [*line, "--workers", "0", "--max-bad"]


def test_a_bad_beginning_is_not_the_end_if_the_rest_is_good(ten, tmp_path, capsys):
    """Items are counted among all that are planned, not among those of the first units."""
    assert main([*ten, "0.1"]) == 65
    assert "2 of 3 items are bad, 0.1 of them may be (--max-bad), such as 0.wav: had" in capsys.readouterr().err
    assert main([*ten, "0.2"]) == 3
    assert manifest_of(tmp_path / "out")["bad"] == 2


def test_bad_items_are_tried_again_after_repair(ten, tmp_path, capsys):
    assert main([*ten, "0.2"]) == main([*ten, "0.2"]) == 3
    for number in (0, 2):
        write_audio(tmp_path / "in" / f"{number}.wav", np.zeros((1, 24_000)), 24_000)
    assert main([*ten, "0.2"]) == 3
    assert main(["tokenize", "repair", str(tmp_path / "out"), "--bad"]) == 0
    assert capsys.readouterr().out.count(": 1 bad items") == 2
    assert main([*ten, "0"]) == 0


# -- what cannot be reached --------------------------------------------------------------------------------


def test_what_could_not_be_reached_is_tried_again_by_the_next_run(corpus, model, whole, tmp_path):
    """A mount that was missing, whether the run ended early or came to its end without it."""
    away, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(corpus, away)
    assert main(["tokenize", "plan", str(away), str(out), "-m", model, "--max-bad", "1", *LINE]) == 0
    away.rename(tmp_path / "away")
    with pytest.raises(Failure, match="could not be reached: there is no such file"):
        run(away, out, model, most_bad=0.3)
    assert run(away, out, model) == []
    said = manifest_of(out)
    assert said["bad"] == said["rows"] == said["unreached"] + 1  # one is broken by its plan
    (tmp_path / "away").rename(away)
    assert run(away, out, model) == []
    assert tree(out) == tree(whole) and manifest_of(out)["unreached"] == 0


def test_what_could_not_be_reached_when_it_was_planned_stays_out(model, tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros((1, 24_000)), 24_000)
    (tmp_path / "rows.csv").write_text("file\na.wav\nb.wav\n")
    run(tmp_path / "rows.csv", tmp_path / "out", model)
    write_audio(tmp_path / "b.wav", np.zeros((1, 24_000)), 24_000)
    before = tree(tmp_path / "out")
    run(tmp_path / "rows.csv", tmp_path / "out", model)
    rows = {row.id: row for row in rows_of(tmp_path / "out")}
    assert (
        rows["b.wav"].reason
        == "could not be reached when it was planned, plan it into another output: there is no such file"
    )
    assert tree(tmp_path / "out") == before and manifest_of(tmp_path / "out")["unreached"] == 0


def test_a_file_that_changed_since_it_was_planned_is_a_bad_row(model, tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.wav"
    write_audio(path, np.zeros((1, 24_000)), 24_000)
    line = ["tokenize", "plan", str(tmp_path / "in"), str(tmp_path / "out"), "-m", model]
    assert main(line) == 0
    write_audio(path, np.zeros((1, 30_000)), 24_000)
    tokenize(str(tmp_path / "in"), tmp_path / "out", model, workers=0)
    (row,) = rows_of(tmp_path / "out")
    assert row.codes is None and "when it was planned" in row.reason


def test_reasons_name_no_place_of_this_machine(whole, corpus):
    reasons = [row.reason for row in rows_of(whole) if row.codes is None]
    assert reasons and not any(str(corpus) in reason for reason in reasons)


def test_parts_of_two_rows_that_are_the_same_part_are_refused(model, tmp_path):
    write_audio(tmp_path / "a.wav", np.zeros((1, 120_000)), 24_000)
    lines = [{"audio_filepath": "a.wav", "offset": offset, "duration": 3.2} for offset in (0, 1.6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"a.wav#1.600: is the name of two parts"):
        run(tmp_path / "rows.jsonl", tmp_path / "out", model)
    assert not (tmp_path / "out" / "plan.parquet").exists()


# -- a process that dies -----------------------------------------------------------------------------------


KILLER = """
import io, os, signal

class Killer(io.FileIO):
    def __init__(self, path, *arguments, **options):
        if str(path).endswith("2.flac"):
            os.kill(os.getpid(), signal.SIGSEGV)
        super().__init__(path, *arguments, **options)

io.FileIO = Killer
"""


def test_an_item_that_kills_its_process_is_a_bad_row_and_costs_no_other(corpus, model, whole, tmp_path, monkeypatch):
    """As a decoder in C does. Whatever a new interpreter finds as sitecustomize is run."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    told = []
    run(corpus, tmp_path / "out", model, workers=2, tell=told.append)
    rows = {row.id: row for row in rows_of(tmp_path / "out")}
    assert rows["2.flac"].reason == "the process that encoded it died"
    for row in rows_of(whole):
        if row.id != "2.flac":
            assert rows[row.id]._replace(codes=None) == row._replace(codes=None)
            assert row.codes is None or (rows[row.id].codes == row.codes).all()
    assert any("2.flac" in line for line in told)


def test_workers_that_cannot_begin_say_why(corpus, model, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("a device that is not there")
    line = ["tokenize", str(corpus), str(tmp_path), "-m", model, "--device", "cuda", "--workers", "1"]
    assert main([*line, "--max-bad", "1"]) == 2
    assert "--device cuda: is not available here" in capsys.readouterr().err


@pytest.mark.parametrize("after", [0.0, 0.5, 1.0])
def test_a_key_that_stops_all_processes_shows_no_traceback(after, corpus, model, tmp_path):
    """Not even of workers that are loading their libraries."""
    line = [sys.executable, "-m", "sigtok.export.cli", "tokenize", str(corpus), str(tmp_path / "out"), "-m", model]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([*line, *LINE, "--max-bad", "1", "--workers", "2"], **options)
    while process.poll() is None and not workers_of(process.pid):
        time.sleep(0.01)
    time.sleep(after)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said, said
    assert process.returncode in (3, 75)


def workers_of(process):
    found = []
    with suppress(OSError):
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            found += [child] if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes() else []
    return found


@pytest.mark.parametrize(("option", "value"), [("--size", "64"), ("--downmix", None)])
def test_options_of_other_signals_are_refused(option, value, corpus, pictures, model, picture_model, tmp_path, capsys):
    source, other = (corpus, model) if option == "--size" else (pictures, picture_model)
    words = [option] if value is None else [option, value]
    assert main(["tokenize", str(source), str(tmp_path / "out"), "-m", other, *words]) == 2
    assert f"{option} is of" in capsys.readouterr().err
