"""Every export, read by a reader that shares no code with it, has the codes of the shards; whole or not there."""

import argparse
import errno
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.layouts.language_model import ModelIds
from sigtok.codecs.layouts.names import layout
from sigtok.codecs.shards import Meaning, Row, shard_bytes
from sigtok.codecs.spec import CodecSpec
from sigtok.export.corpus import folders, sequences
from sigtok.export.corpus.arrays import Arrays, Bits, Npy
from sigtok.export.corpus.exports import FORMS, add_export, export, run_export
from sigtok.export.corpus.sequences import Megatron, NanoGPT, is_validation
from sigtok.export.corpus.tars import WebDataset
from sigtok.export.exits import DATA, GOOD, IO, NO_OUTPUT, USAGE, Failure, Stopped, explain

pytest.importorskip("pyarrow")

AUDIO = dict(modality="audio", channels=1, sample_rate=24_000, hop=(320,))
IMAGE = dict(modality="image", channels=3, sample_rate=None, hop=(16, 16))
SPECS = {
    "one codebook": AUDIO | dict(codebook_sizes=(1024,)),
    "eight": AUDIO | dict(codebook_sizes=(2048,) * 8),
    "unequal sizes": AUDIO | dict(codebook_sizes=(16, 40_000, 3)),
    "large": IMAGE | dict(codebook_sizes=(262_144,)),
    "strides": AUDIO | dict(codebook_sizes=(64,) * 3, queries=4, strides=(4, 2, 1)),
    "granular": IMAGE
    | dict(
        hop=(4, 4),
        windows=((4, 4),),
        queries=16,
        codebook_sizes=(512,) * 3,
        strides=(16, 4, 1),
        shares=(0.1, 0.4, 0.5),
    ),
}
LAYOUTS = {"strides": "hierarchical", "granular": "granularity_blocks", "large": "raster"}
IDS = ["a/b.c.wav", "a/b.c.wav#30", "ü\n\0", "../x", "x.json", "X.JSON", "#", "", "k" * 300, "a/b.c.wav#60", "z", "y"]


def granular_codes(meaning, extent, generator):
    """At every position one codebook speaks: by the whole of a window one after another."""
    counts = meaning.spec.token_counts(extent, meaning.rate)
    streams = [np.full(count, -1) for count in counts]
    for window in range(counts[0]):
        book = int(generator.integers(3))
        each = counts[book] // counts[0]
        streams[book][window * each : (window + 1) * each] = generator.integers(0, 512, each)
    return np.concatenate(streams)


def rows_of(meaning, number, seed):
    generator, rows = np.random.default_rng(seed), []
    sizes = meaning.spec.codebook_sizes[: meaning.rate.codebooks]
    for index in range(number):
        name = f"{IDS[index % len(IDS)]}" if seed == 0 else f"{seed}/{index}"
        if meaning.spec.modality == "image":
            extent = (int(generator.integers(1, 60)), int(generator.integers(1, 60)))
        else:
            extent = (0 if index % 5 == 3 else int(generator.integers(1, 20_000)),)
        if meaning.spec.granular:
            codes = granular_codes(meaning, extent, generator)
        else:
            counts = meaning.spec.token_counts(extent, meaning.rate)
            streams = [generator.integers(0, size, count) for count, size in zip(counts, sizes, strict=True)]
            codes = np.stack(streams, 1).reshape(-1) if meaning.dense else np.concatenate(streams)
        meta = json.dumps({"text": "ü\ud800\n"}) if index % 2 else ""
        rows.append(Row(name, index / 3, extent, codes.astype(meaning.dtype), meta=meta))
    rows.insert(1, Row(f"bad {seed}", 0.0, (), None, "no sound"))
    rows.append(Row(f"worse {seed}", 0.0, (1,), None, "noise"))
    return rows


def write_corpus(folder, meaning, shards):
    """The contract of the folder, as its readers know it."""
    folder.mkdir(exist_ok=True)
    units = []
    for unit, rows in enumerate(shards):
        data, name = shard_bytes(rows, meaning), f"shard-{unit:06d}.parquet"
        (folder / name).write_bytes(data)
        bad, codes = (
            sum(row.codes is None for row in rows),
            sum(len(row.codes) for row in rows if row.codes is not None),
        )
        units.append(
            {"unit": unit, "shard": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            | {"rows": len(rows), "bad": bad, "codes": codes, "seconds": 0.5}
        )
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "meaning": meaning.to_dict(), "units": units}))
    return folder


def meaning_of(name):
    spec = CodecSpec(**{"name": name, "latent_dim": 4} | SPECS[name])
    return Meaning(spec, spec.resolve(), "0123456789abcdef" * 2)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Of every spec: three shards, one of bad rows alone, one empty; what its good rows are."""
    made = {}
    for name in SPECS:
        meaning = meaning_of(name)
        shards = [rows_of(meaning, 12, 0), rows_of(meaning, 0, 1), [], rows_of(meaning, 9, 2)]
        folder = write_corpus(tmp_path_factory.mktemp("corpus"), meaning, shards)
        made[name] = folder, meaning, [row for rows in shards for row in rows if row.codes is not None]
    return made


@pytest.fixture
def corpus(request, corpora):
    return corpora[getattr(request, "param", "eight")]


every_spec = pytest.mark.parametrize("corpus", SPECS, indirect=True)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def layout_of(meaning):
    return LAYOUTS.get(meaning.spec.name, "flatten")


# -- readers that share no code with the exports --------------------------------------------------------------


def read_megatron(prefix):
    """Documents of an indexed data set, field by field as its index says."""
    index, ids = Path(f"{prefix}.idx").read_bytes(), Path(f"{prefix}.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, sequences, documents = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    dtype = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}[code]
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    pointers = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    starts = np.frombuffer(index, "<i8", documents, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * documents
    assert starts.tolist() == list(range(sequences + 1))
    return [np.frombuffer(ids, dtype, length, start) for length, start in zip(lengths, pointers, strict=True)]


def split_ids(ids, meta):
    """Signals of a stream that begin with BOA and end with EOA."""
    marks = meta["vocabulary"]["specials"]
    begins, ends = np.flatnonzero(ids == marks["BOA"]), np.flatnonzero(ids == marks["EOA"])
    assert begins.tolist() == [0, *(ends[:-1] + 1)]
    assert ends[-1] == len(ids) - 1
    return [ids[begin : end + 1] for begin, end in zip(begins, ends, strict=True)]


def codes_of(ids, meaning, extent):
    """In the order of a shard."""
    rows = torch.from_numpy(ids.astype(np.int64))[None]
    reader = ModelIds(layout(layout_of(meaning), meaning.spec, meaning.rate), 0)
    return meaning.flat(reader.from_ids(rows, [extent])).tolist()


def assert_same_rows(sequences, rows, meaning):
    assert len(sequences) == len(rows)
    for ids, row in zip(sequences, rows, strict=True):
        assert codes_of(ids, meaning, row.extent) == row.codes.tolist()


# -- what comes back ---------------------------------------------------------------------------------------


@every_spec
def test_nanogpt_has_the_codes_or_says_why_not(corpus, tmp_path):
    folder, meaning, rows = corpus
    form = NanoGPT(layout=layout_of(meaning))
    if meaning.spec.name == "large":
        with pytest.raises(Failure, match=r"65,535.*export megatron"):
            export(folder, tmp_path / "out", form)
        assert not list(tmp_path.iterdir())
        return
    export(folder, tmp_path / "out", form)
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    ids = np.memmap(tmp_path / "out/train.bin", np.uint16, "r")
    assert_same_rows(split_ids(ids, meta), rows, meaning)
    assert len(ids) == meta["ids"] == meta["files"]["train.bin"]["ids"]
    assert ids.max() < meta["vocabulary"]["size"]
    assert sorted(contents(tmp_path / "out")) == ["meta.json", "train.bin"]


@pytest.mark.parametrize("corpus", ["one codebook", "eight", "unequal sizes"], indirect=True)
def test_flattened_ids_are_the_codes_position_after_position_behind_those_of_the_codebooks_before(corpus, tmp_path):
    folder, meaning, rows = corpus
    export(folder, tmp_path / "out", NanoGPT())
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    sizes, marks = SPECS[meaning.spec.name]["codebook_sizes"], meta["vocabulary"]["specials"]
    wanted = []
    for row in rows:
        wanted += [marks[name] for name in ("BOA", "W1", "N1", f"Q{len(sizes)}")]
        wanted += [sum(sizes[: place % len(sizes)]) + code for place, code in enumerate(row.codes.tolist())]
        wanted.append(marks["EOA"])
    assert np.fromfile(tmp_path / "out/train.bin", "<u2").tolist() == wanted


@every_spec
def test_megatron_has_the_codes(corpus, tmp_path):
    folder, meaning, rows = corpus
    export(folder, tmp_path / "out", Megatron(layout=layout_of(meaning)))
    documents = read_megatron(tmp_path / "out/train")
    assert documents[0].dtype == (np.int32 if meaning.spec.name == "large" else np.uint16)
    assert_same_rows(documents, rows, meaning)
    assert sum(map(len, documents)) * documents[0].itemsize == (tmp_path / "out/train.bin").stat().st_size


@every_spec
def test_tars_have_the_codes_and_what_is_known_of_each(corpus, tmp_path):
    folder, meaning, rows = corpus
    export(folder, tmp_path / "out", WebDataset(per_tar=4))
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in tars] == [f"codes-{number:06d}.tar" for number in range(-(-len(rows) // 4))]
    samples = {}
    for path in tars:
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert {(each.mtime, each.uid, each.gid, each.uname, each.mode) for each in tar} == {(0, 0, 0, "", 0o644)}
            assert names == sorted(names)
            assert len(names) <= 8
            for name in names:
                key, suffix = name.split(".", 1)
                assert key.isdigit()
                assert suffix not in samples.setdefault(key, {})
                data = io.BytesIO(tar.extractfile(name).read())
                samples[key][suffix] = np.load(data) if suffix == "codes.npy" else json.load(data)
    assert len(samples) == len(rows)
    for (_, sample), row in zip(sorted(samples.items()), rows, strict=True):
        said, codes = sample["json"], sample["codes.npy"]
        assert codes.dtype == meaning.dtype
        assert (said["id"], said["start"], tuple(said["extent"])) == (row.id, row.start, row.extent)
        assert said["meta"] == (json.loads(row.meta) if row.meta else None)
        if meaning.dense:
            assert codes.shape[0] == len(meaning.spec.codebook_sizes)
            assert codes.T.reshape(-1).tolist() == row.codes.tolist()
        else:
            assert codes.tolist() == row.codes.tolist()
            assert sum(said["counts"]) == len(codes)


@every_spec
def test_npy_has_the_codes(corpus, tmp_path):
    folder, meaning, rows = corpus
    export(folder, tmp_path / "out", Npy())
    codes, offsets, extents = (
        np.load(tmp_path / "out" / f"{name}.npy", mmap_mode="r") for name in ("codes", "offsets", "extents")
    )
    assert codes.dtype == meaning.dtype
    assert codes.ndim == 1 + meaning.dense
    lines = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_bytes().splitlines()]
    assert len(offsets) - 1 == len(rows) == len(lines) == len(extents)
    assert offsets[-1] == len(codes)
    for number, row in enumerate(rows):
        assert codes[offsets[number] : offsets[number + 1]].reshape(-1).tolist() == row.codes.tolist()
        assert tuple(extents[number]) == row.extent
        assert lines[number] == {"id": row.id, "start": row.start, "meta": row.meta or None}


@every_spec
def test_bits_have_the_codes_at_the_width_of_their_codebook(corpus, tmp_path):
    folder, meaning, rows = corpus
    if meaning.spec.granular:
        with pytest.raises(Failure, match="take turns; export npy"):
            export(folder, tmp_path / "out", Bits())
        return
    export(folder, tmp_path / "out", Bits())
    offsets = np.load(tmp_path / "out/offsets.npy")
    data = (tmp_path / "out/codes.bits").read_bytes()
    assert offsets[-1] == len(data)
    for number, row in enumerate(rows):
        counts, sizes = meaning.spec.token_counts(row.extent), meaning.spec.codebook_sizes
        packed = data[offsets[number] : offsets[number + 1]]
        digits = "".join(f"{byte:08b}" for byte in packed)
        streams = row.codes.reshape(-1, len(sizes)).T if meaning.dense else np.split(row.codes, np.cumsum(counts)[:-1])
        place = 0
        for stream, size in zip(streams, sizes, strict=True):
            width = (size - 1).bit_length()
            assert [int(digits[place + i * width :][:width], 2) for i in range(len(stream))] == stream.tolist()
            place += width * len(stream)
        assert len(packed) == -(-place // 8)


@every_spec
@pytest.mark.parametrize("form", [Npy(), Bits()], ids=["npy", "bits"])
def test_arrays_become_tokens(corpus, form, tmp_path):
    folder, meaning, rows = corpus
    if meaning.spec.granular and form == Bits():
        return
    export(folder, tmp_path / "out", form)
    arrays = Arrays(tmp_path / "out")
    assert len(arrays) == len(rows)
    assert arrays.meaning == meaning
    for number, row in enumerate(rows):
        tokens = arrays.tokens(number)
        assert tokens.extents == (row.extent,)
        assert meaning.flat(tokens).tolist() == row.codes.tolist()


def test_arrays_are_read_from_their_exports_alone(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"meta\.json, got none"):
        Arrays(corpus[0])
    export(corpus[0], tmp_path / "out", NanoGPT())
    with pytest.raises(ValueError, match="this one is nanogpt"):
        Arrays(tmp_path / "out")


@every_spec
def test_batches_are_the_rows_one_by_one(corpus, monkeypatch):
    """Whatever the size of a batch."""
    folder, meaning, rows = corpus
    for most in (0, 500, 2**18):
        monkeypatch.setattr(sequences, "BATCH", most)
        found = [each for shard in Corpus(folder) for _, tokens in sequences.batches(shard) for each in tokens]
        assert [meaning.flat(tokens).tolist() for tokens in found] == [row.codes.tolist() for row in rows]


def test_places_of_an_index_are_counted_beyond_32_bits_and_over_pieces(monkeypatch, tmp_path):
    monkeypatch.setattr(sequences, "PIECE", 3)
    lengths = np.array([2**31 - 1, 5, 2**31 - 1, 0, 7, 1, 2**31 - 1], np.int32)
    with (tmp_path / "index").open("wb") as file:
        sequences.write_index(folders.Hashed(file), lengths, np.dtype("<i4"))
    data = (tmp_path / "index").read_bytes()
    assert np.frombuffer(data, "<i4", 7, 34).tolist() == lengths.tolist()
    ends = [sum(lengths.tolist()[:end]) for end in range(7)]
    assert np.frombuffer(data, "<i8", 7, 62).tolist() == [4 * end for end in ends]
    assert np.frombuffer(data, "<i8", offset=118).tolist() == list(range(8))


def test_a_sequence_that_an_index_cannot_count_is_refused(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(sequences, "LONGEST", 100)
    with pytest.raises(ValueError, match=r"shard-000000.parquet: a sequence has at most 100 ids, got \d+"):
        export(corpus[0], tmp_path / "out", Megatron())


# -- parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [NanoGPT, Megatron])
def test_parts_are_disjoint_and_complete(kind, corpus, tmp_path):
    folder, meaning, rows = corpus
    export(folder, tmp_path / "out", kind(val_fraction=0.4))
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    wanted = {"train": [], "val": []}
    for row in rows:
        wanted["val" if is_validation(row.id, 0.4) else "train"].append(row)
    for part, those in wanted.items():
        ids = np.fromfile(tmp_path / "out" / f"{part}.bin", "<u2")
        assert_same_rows(split_ids(ids, meta), those, meaning)
        assert meta["files"][f"{part}.bin"] | {"ids": len(ids), "signals": len(those)} == meta["files"][f"{part}.bin"]
        if kind is Megatron:
            assert_same_rows(read_megatron(tmp_path / "out" / part), those, meaning)


def test_a_signal_stays_in_its_part_and_with_its_recording():
    names = [f"speaker/{number}.wav" for number in range(4000)]
    some, more = ({name for name in names if is_validation(name, fraction)} for fraction in (0.1, 0.3))
    assert some < more
    assert abs(len(some) / 4000 - 0.1) < 0.02
    assert all(is_validation(f"{name}#{30 * part}", 0.1) == (name in some) for name in names[:50] for part in range(9))
    assert not any(is_validation(name, 0.0) for name in names)


def test_a_part_without_signals_is_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"of 21 signals val gets none; choose another val fraction"):
        export(corpus[0], tmp_path / "out", NanoGPT(val_fraction=1e-9))
    assert not list(tmp_path.iterdir())


# -- whole or not there, the same bytes ------------------------------------------------------------------------

FORMS_HERE = [NanoGPT(val_fraction=0.4), Megatron(), WebDataset(per_tar=9), Npy(), Bits()]
every_form = pytest.mark.parametrize("form", FORMS_HERE, ids=lambda form: form.name)


@every_form
def test_two_runs_give_the_same_bytes_wherever_the_corpus_lies(form, corpus, tmp_path):
    shutil.copytree(corpus[0], tmp_path / "elsewhere")
    manifest = tmp_path / "elsewhere/manifest.json"
    manifest.write_text(manifest.read_text().replace('"seconds": 0.5', '"seconds": 7'))
    first = export(corpus[0], tmp_path / "first", form)
    second = export(tmp_path / "elsewhere", tmp_path / "second", form)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    assert first._replace(seconds=0) == second._replace(seconds=0)


@every_form
def test_meta_says_what_the_files_are(form, corpus, tmp_path):
    folder, meaning, rows = corpus
    summary = export(folder, tmp_path / "out", form)
    files = contents(tmp_path / "out")
    meta = json.loads(files.pop("meta.json"))
    assert {name: (record["bytes"], record["sha256"]) for name, record in meta["files"].items()} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    assert meta["meaning"] == json.loads(json.dumps(meaning.to_dict()))
    assert meta["codes"] == summary.codes == sum(len(row.codes) for row in rows)
    assert (meta["signals"], meta["bad"]) == (summary.signals, summary.bad) == (21, 6)
    assert summary.bytes == sum(map(len, files.values()))
    assert meta["request"]["format"] == form.name


class Faults:
    """Whatever reaches the disk fails at its n-th call."""

    def __init__(self, monkeypatch, error):
        self.error, self.left = error, 0
        for owner, name in ((folders.Hashed, "write"), (os, "fsync"), (os, "replace"), (Path, "mkdir")):
            monkeypatch.setattr(owner, name, self.failing(getattr(owner, name)))

    def failing(self, function):
        def call(*args, **options):
            self.left -= 1
            if self.left == 0:
                raise self.error
            return function(*args, **options)

        return call


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Two signals, one in either part."""
    meaning = meaning_of("one codebook")
    rows = [Row(name, 0.0, (640,), np.array([1, 2], np.uint16)) for name in ("a", "b")]
    assert [is_validation(row.id, 0.4) for row in rows] == [False, True]
    return write_corpus(tmp_path_factory.mktemp("few"), meaning, [rows])


@every_form
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), Stopped("SIGTERM")], ids=repr)
def test_a_failure_anywhere_leaves_nothing_or_what_was_there(form, error, few, monkeypatch, tmp_path):
    export(few, tmp_path / "there", form)
    whole = contents(tmp_path / "there")
    faults = Faults(monkeypatch, error)
    for name in ("new", "there"):
        for point in range(1, 10_000):
            faults.left = point
            try:
                export(few, tmp_path / name, form)
            except (Failure, Stopped) as raised:
                if error.args[0] == errno.ENOSPC:
                    assert explain(raised)[0] == IO
                    assert "No space left on device; free some space" in explain(raised)[1]
            else:
                break
            assert contents(tmp_path / "there") == whole
            if (tmp_path / "new").exists():
                assert contents(tmp_path / "new") == whole
                shutil.rmtree(tmp_path / "new")
            assert {path.name for path in tmp_path.iterdir()} == {"there"}
        assert point > 8
        if name == "new":
            shutil.rmtree(tmp_path / "new")


def test_an_earlier_export_of_the_same_is_made_anew_and_nothing_else(corpus, corpora, tmp_path):
    out, folder = tmp_path / "out", corpus[0]
    out.mkdir()
    export(folder, out, NanoGPT())
    whole = contents(out)
    (out / "train.bin").write_bytes(b"damaged")
    export(folder, out, NanoGPT())
    assert contents(out) == whole
    for other, form in ((folder, NanoGPT(val_fraction=0.4)), (folder, Megatron()), (corpora["strides"][0], NanoGPT())):
        with pytest.raises(Failure, match="holds another export, of other tokens or options; remove it") as raised:
            export(other, out, form)
        assert raised.value.code == NO_OUTPUT
    (out / "notes.txt").write_text("mine")
    with pytest.raises(Failure, match=r"has notes\.txt too"):
        export(folder, out, NanoGPT())
    assert contents(out) == whole | {"notes.txt": b"mine"}
    for place in (folder, tmp_path):
        before = sorted(path.name for path in place.iterdir())
        with pytest.raises(Failure, match="a new or empty folder, this one has"):
            export(folder, place, NanoGPT())
        assert sorted(path.name for path in place.iterdir()) == before
    with pytest.raises(Failure, match="this is a file"):
        export(folder, out / "notes.txt", NanoGPT())


def test_a_file_put_there_meanwhile_is_kept(corpus, tmp_path):
    with pytest.raises(Failure, match=r"has mine"), folders.whole_folder(tmp_path / "out", {}) as files:
        files.finish({})
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_is_followed_and_folders_above_are_made(corpus, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a/b")
    export(corpus[0], tmp_path / "link", Npy())
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a/b/codes.npy").is_file()


# -- corpora that are not whole --------------------------------------------------------------------------------


def refused(folder, out, form=None):
    with pytest.raises((ValueError, Failure)) as raised:
        export(folder, out, form or NanoGPT())
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    code, line = explain(raised.value)
    assert "\n" not in line
    assert line.startswith(str(folder))
    return code, line


def edited(corpus, tmp_path):
    return shutil.copytree(corpus[0], tmp_path / "corpus")


def test_a_corpus_without_a_manifest_is_not_finished(corpus, tmp_path):
    folder = edited(corpus, tmp_path)
    (folder / "manifest.json").unlink()
    code, line = refused(folder, tmp_path / "out")
    assert code == DATA
    assert line.endswith("a complete folder of tokens has manifest.json, got none; run sigtok tokenize again")
    assert refused(tmp_path / "nowhere", tmp_path / "out")[0] == DATA


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda values: values.update(version=2), "version 1 is read here, got 2"),
        (lambda values: values.pop("units"), "no 'units'"),
        (lambda values: values["meaning"].pop("spec"), "spec, rate and stream_id are needed"),
        (lambda values: values["units"][0].pop("rows"), "no 'rows'"),
        (lambda values: values["units"][0].update(shard="../shard-000000.parquet"), "a file of the folder, got '../"),
        (lambda values: values["units"][0].update(codes=-1), "are counts, got"),
        (lambda values: values["units"][0].update(rows=3), r": 3 rows, 2 of them bad, and \d+ codes as .* got 14, 2, "),
        (lambda values: values["units"][0].update(codes=3), ": 14 rows, 2 of them bad, and 3 codes as"),
        (lambda values: values["meaning"].update(stream_id="other"), "as manifest.json says, got"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(edit, message, corpus, tmp_path):
    folder = edited(corpus, tmp_path)
    values = json.loads((folder / "manifest.json").read_text())
    edit(values)
    (folder / "manifest.json").write_text(json.dumps(values))
    code, line = refused(folder, tmp_path / "out")
    assert code == DATA
    assert re.search(message, line), line


def test_a_damaged_manifest_is_refused(corpus, tmp_path):
    folder = edited(corpus, tmp_path)
    data = (folder / "manifest.json").read_bytes()
    for damaged in (b"", data[:-3], b"[]", b"\xff\xfe", b'{"version": 1, "meaning": {}, "units": [5]}'):
        (folder / "manifest.json").write_bytes(damaged)
        assert refused(folder, tmp_path / "out")[0] == DATA


@every_form
def test_a_shard_that_is_missing_or_damaged_is_refused(form, corpus, tmp_path):
    folder = edited(corpus, tmp_path)
    shard = folder / "shard-000003.parquet"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    assert (
        f"a shard of {len(data)} bytes, got {len(data) - 1}; run sigtok tokenize again"
        in refused(folder, tmp_path / "out", form)[1]
    )
    for place in (len(data) // 3, len(data) - 6):
        damaged = bytearray(data)
        damaged[place] ^= 255
        shard.write_bytes(damaged)
        assert "shard-000003.parquet: " in refused(folder, tmp_path / "out", form)[1]
    shard.unlink()
    code, line = refused(folder, tmp_path / "out", form)
    assert code == DATA
    assert "bytes, got none; run sigtok tokenize again" in line


def test_a_corpus_without_signals_is_refused(tmp_path):
    folder = write_corpus(tmp_path / "corpus", meaning_of("eight"), [rows_of(meaning_of("eight"), 0, 0)])
    assert "none of its 2 signals has codes" in refused(folder, tmp_path / "out")[1]


def test_meta_that_is_no_json_is_refused(tmp_path):
    meaning = meaning_of("one codebook")
    row = Row("x", 0.0, (0,), np.zeros(0, np.uint16), meta="{oh")
    folder = write_corpus(tmp_path / "corpus", meaning, [[row]])
    assert "meta of x is JSON, got other text" in refused(folder, tmp_path / "out", WebDataset())[1]


# -- the command line --------------------------------------------------------------------------------------


def run(*arguments):
    parser = argparse.ArgumentParser()
    add_export(parser.add_subparsers())
    return run_export(parser.parse_args(["export", *map(str, arguments)]))


@pytest.mark.parametrize("name", FORMS)
def test_the_command_writes_every_format_and_says_what(name, corpus, capsys, tmp_path):
    assert run(name, corpus[0], tmp_path / "out") == GOOD
    said = capsys.readouterr().out
    codes = sum(len(row.codes) for row in corpus[2])
    assert said.startswith(f"{tmp_path}/out: 21 signals, 6 bad left out, ")
    assert f"{codes:,} codes, " in said
    assert (f"{codes + 5 * 21:,} ids of " in said) == (name in ("nanogpt", "megatron"))
    assert said.count("\n") == 1
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert meta["request"]["format"] == name


def test_the_command_takes_options_where_they_count(corpora, tmp_path, capsys):
    assert (
        run("megatron", corpora["strides"][0], tmp_path / "a", "--layout", "hierarchical", "--val-fraction", 0.4) == 0
    )
    assert (tmp_path / "a/val.idx").is_file()
    assert run("webdataset", corpora["strides"][0], tmp_path / "b", "--per-tar", 20) == 0
    assert len(contents(tmp_path / "b")) == 3
    capsys.readouterr()
    for wrong in (
        ["npy", "a", "b", "--layout", "flatten"],
        ["bits", "a"],
        ["nanogpt", "a", "b", "--val-fraction", "1"],
        ["nanogpt", "a", "b", "--val-fraction", "x"],
        ["webdataset", "a", "b", "--per-tar", "0"],
        ["csv", "a", "b"],
    ):
        with pytest.raises(SystemExit) as raised:
            run(*wrong)
        assert raised.value.code == USAGE


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        ("eight", "delay", "use the layout flatten"),
        ("eight", "nowhere", "the layouts are"),
        ("strides", "flatten", "use the layout hierarchical"),
        ("granular", "flatten", "use the layout granularity_blocks"),
    ],
)
def test_a_layout_that_does_not_fit_is_wrong_use(name, layout, message, corpora, tmp_path):
    with pytest.raises(Failure, match=message) as raised:
        export(corpora[name][0], tmp_path / "out", NanoGPT(layout=layout))
    assert raised.value.code == USAGE
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_told_in_one_line(corpus, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match="cannot be written") as raised:
        export(corpus[0], tmp_path / "file/out", NanoGPT())
    assert raised.value.code == NO_OUTPUT


def test_the_command_line_waits_with_torch_until_it_is_run():
    code = (
        "import sys; import sigtok.export.corpus.exports; assert not {'torch', 'numpy', 'pyarrow'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pyarrow_that_is_missing_is_named(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr("sigtok.export.corpus.exports.find_spec", lambda name: None)
    with pytest.raises(Failure, match=r"pip install 'sigtok\[tokenize\]'"):
        run("npy", corpus[0], tmp_path / "out")
