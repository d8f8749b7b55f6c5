"""A corpus is the same whatever holds it: names, order, bytes; what it says is neither believed nor executed."""

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import sys
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sigtok.codecs.features import npy_of, read_features
from sigtok.codecs.media import read_audio, read_image, write_audio
from sigtok.codecs.shards import Meaning
from sigtok.codecs.spec import CodecSpec
from sigtok.export.corpus import tables
from sigtok.export.corpus.archives import members
from sigtok.export.corpus.items import Place
from sigtok.export.corpus.places import opened, size_of
from sigtok.export.corpus.plan import Settings, measured, reason_of
from sigtok.export.corpus.sources import find
from sigtok.export.corpus.uris import open_file
from sigtok.export.exits import USAGE, Failure

fsspec = pytest.importorskip("fsspec")
pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

NAMES = ("b/2.flac", "a.flac", "b/10.wav", "c d/ü.flac", "b-1.wav", "é.flac")
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
number = count()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Names and the bytes of their files."""
    folder, dice, contents = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0), {}
    for name in NAMES:
        path = folder / f"a{Path(name).suffix}"
        write_audio(path, dice.uniform(-0.5, 0.5, (1, int(dice.integers(100, 900)))), 16_000)
        contents[name] = path.read_bytes()
    return contents


@pytest.fixture(params=["path", "memory"])
def root(request, tmp_path):
    """A folder for one corpus, here or behind a URL."""
    return str(tmp_path) if request.param == "path" else f"memory://corpus{next(number)}/inner"


def put(uri, content):
    content = content.encode() if isinstance(content, str) else content
    if uri.startswith("memory://"):
        fsspec.filesystem("memory").pipe(uri, content)
    else:
        Path(uri).parent.mkdir(parents=True, exist_ok=True)
        Path(uri).write_bytes(content)
    return uri


def tar_of(contents, form=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def table_of(columns, **options):
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def hugging_face(contents):
    rows = [{"bytes": content, "path": name} for name, content in contents.items()]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def csv_of(columns, rows, delimiter=","):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([columns, *rows])
    return buffer.getvalue()


def lines_of(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def lay(kind, root, sounds):
    """A corpus of a kind below a root: its source, and what it names its files."""
    files = root if kind in ("folder", "glob") else f"{root}/files"
    if kind in ("folder", "glob", "csv", "tsv", "jsonl", "scp"):
        for name, content in sounds.items():
            put(f"{files}/{name}", content)
    rows = [[f"files/{name}", f"text of {name}"] for name in sounds]
    if kind == "folder":
        return root, {name: name for name in sounds}
    if kind == "glob":
        return f"{root}/**/*.[fw]*", {name: name for name in sounds}
    if kind in ("csv", "tsv"):
        text = csv_of(["path", "text"], rows, "\t" if kind == "tsv" else ",")
        return put(f"{root}/m.{kind}", text), {name: f"files/{name}" for name in sounds}
    if kind == "jsonl":
        text = lines_of(*({"audio_filepath": path, "text": text} for path, text in rows))
        return put(f"{root}/m.jsonl", text), {name: f"files/{name}" for name in sounds}
    if kind == "scp":
        text = "".join(f"id-{name.replace(' ', '_')} {path}\n" for name, (path, _) in zip(sounds, rows, strict=True))
        return put(f"{root}/wav.scp", text), {name: f"id-{name.replace(' ', '_')}" for name in sounds}
    if kind == "tar":
        notes = {name.split(".")[0] + ".txt": f"text of {name}\n".encode() for name in sounds}
        return put(f"{root}/a.tar", tar_of(sounds | notes)), {name: f"a.tar/{name}" for name in sounds}
    texts = [f"text of {name}" for name in sounds]
    held = hugging_face(sounds) if kind == "parquet" else pa.array(list(sounds.values()), pa.large_binary())
    content = table_of({"audio": held, "text": texts}, row_group_size=2)
    return put(f"{root}/a.parquet", content), {name: f"a.parquet/{row}" for row, name in enumerate(sounds)}


KINDS = ("folder", "glob", "csv", "tsv", "jsonl", "scp", "tar", "parquet", "binary")


def content_of(place):
    with opened(place) as file:
        return Path(file).read_bytes() if isinstance(file, str) else file.read()


def ids(*arguments):
    return [found.id for found in find(*arguments)]


def refused(error, *arguments):
    """The message of the error that a source is refused with: one line."""
    with pytest.raises(error) as caught:
        list(find(*arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the same corpus in everything that holds one ----------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_is_found_in_order_with_its_bytes_and_what_is_said_of_it(root, sounds, kind):
    source, named = lay(kind, root, sounds)
    found = list(find(source, "audio"))
    assert [each.id for each in found] == sorted(named.values())
    names = {name: original for original, name in named.items()}
    for each in found:
        original = names[each.id]
        assert content_of(each.place) == sounds[original]
        said = json.loads(each.meta or "{}")
        assert said.get("text") == (None if kind in ("folder", "glob", "scp") else f"text of {original}")
        assert kind != "parquet" or said["audio"] == original
        assert (each.start, each.seconds) == (0, None) and size_of(each.place) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_gives_the_same_signals_whatever_holds_it(root, sounds, kind):
    def digest(signal):
        return hashlib.sha256(signal.tobytes()).hexdigest()

    expected = {digest(read_audio(io_of(content))[0]) for content in sounds.values()}
    got = set()
    for found in find(lay(kind, root, sounds)[0], "audio"):
        with opened(found.place) as file:
            got.add(digest(read_audio(file)[0]))
    assert got == expected and len(got) == len(sounds)


def io_of(content):
    file = io.BytesIO(content)
    file.name = "original"
    return file


@pytest.mark.parametrize("kind", ["folder", "glob", "csv", "jsonl", "scp", "tar"])
def test_order_is_that_of_names_not_of_making(tmp_path, sounds, kind):
    orders = []
    for seed in range(3):
        names = list(sounds)
        random.Random(seed).shuffle(names)
        orders.append(ids(lay(kind, str(tmp_path / str(seed)), {name: sounds[name] for name in names})[0], "audio"))
    assert orders[0] == orders[1] == orders[2] == sorted(orders[0])


def test_pictures_and_features_are_found_by_their_suffix(root):
    picture, features = io.BytesIO(), np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    Image.new("RGB", (5, 4), (255, 0, 0)).save(picture, "PNG")
    contents = {"a.png": picture.getvalue(), "b.npy": npy_of(features), "c.wav": b"", "d.txt": b"", ".e.png": b""}
    for name, content in contents.items():
        put(f"{root}/f/{name}", content)
    put(f"{root}/a.tar", tar_of(contents))
    put(f"{root}/i.parquet", table_of({"image": hugging_face({"a.png": contents["a.png"]}), "other": [b"x"]}))
    put(f"{root}/f.parquet", table_of({"features": [contents["b.npy"]]}))
    for source in (f"{root}/f", f"{root}/a.tar", f"{root}/i.parquet"):
        (found,) = find(source, "image")
        with opened(found.place) as file:
            assert read_image(file).shape == (3, 4, 5)
    for source in (f"{root}/f", f"{root}/a.tar", f"{root}/f.parquet"):
        (found,) = find(source, "features")
        with opened(found.place) as file:
            assert np.array_equal(read_features(file, 3), features)
    assert ids(f"{root}/f", "image") == ["a.png"] and ids(f"{root}/a.tar", "image") == ["a.tar/a.png"]


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet", "jsonl"])
def test_threads_that_read_at_random_read_what_one_reads(root, sounds, kind):
    many = {f"{index:03d}.flac": content for index, content in enumerate(list(sounds.values()) * 4)}
    places = [found.place for found in find(lay(kind, root, many)[0], "audio")]
    expected = [hashlib.sha256(content_of(place)).digest() for place in places]
    order = random.Random(0).choices(range(len(places)), k=200)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda index: hashlib.sha256(content_of(places[index])).digest(), order))
    assert got == [expected[index] for index in order]


# -- names -------------------------------------------------------------------------------------------------


def test_names_are_below_what_is_common_to_all_sources(root):
    for name in ("x/a.wav", "x/b.wav", "y/a.wav", "y/.hidden/c.wav", "y/.d.wav", "y/e.txt", "y/z/F.WAV"):
        put(f"{root}/{name}", b"")
    put(f"{root}/t/1.tar", tar_of({"./k/a.wav": b"", "b.wav": b""}))
    put(f"{root}/t/2.tar", tar_of({"b.wav": b""}))
    put(f"{root}/m/m.csv", "file\nq.wav\n")
    assert ids(f"{root}/x", "audio") == ids(f"{root}/x/*", "audio") == ["a.wav", "b.wav"]
    assert ids(f"{root}/x/a.wav", "audio") == ["a.wav"]
    assert ids(f"{root}/y/", "audio") == ["a.wav", "z/F.WAV"]
    assert ids([f"{root}/y", f"{root}/x"], "audio") == ["x/a.wav", "x/b.wav", "y/a.wav", "y/z/F.WAV"]
    assert ids([f"{root}/y/a.wav", f"{root}/x/a.wav"], "audio") == ["x/a.wav", "y/a.wav"]
    assert ids(f"{root}/*/a.wav", "audio") == ["x/a.wav", "y/a.wav"]
    assert ids(f"{root}/t/1.tar", "audio") == ["1.tar/b.wav", "1.tar/k/a.wav"]
    both = ["1.tar/b.wav", "1.tar/k/a.wav", "2.tar/b.wav"]
    assert ids([f"{root}/t/2.tar", f"{root}/t/1.tar"], "audio") == both
    assert ids(f"{root}/t", "audio") == ids(f"{root}/t/*.tar", "audio") == both
    assert ids(f"{root}/m/m.csv", "audio") == ["q.wav"]
    assert ids([f"{root}/m/m.csv", f"{root}/x/b.wav"], "audio") == ["m/m.csv/q.wav", "x/b.wav"]


def test_paths_and_file_urls_are_the_same_corpus_without_fsspec(tmp_path, sounds, monkeypatch):
    source, _ = lay("folder", str(tmp_path / "a"), sounds)
    put(f"{tmp_path}/m.jsonl", lines_of({"file": "a/a.flac"}, {"file": f"file://{tmp_path}/a/é.flac"}))
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    assert list(find(f"file://{source}", "audio")) == list(find(source, "audio"))
    for found in (*find(source, "audio"), *find(f"{tmp_path}/m.jsonl", "audio")):
        with opened(found.place) as file:
            assert isinstance(file, str) and Path(file).is_file()
    assert "pip install 'sigtok[tokenize]'" in refused(Failure, "s3://bucket/a", "audio")


def test_what_reads_a_url_and_is_missing_is_named(tmp_path, monkeypatch):
    for module in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, module, None)
    for source in ("s3://bucket/a", "s3://bucket/*.tar", "simplecache::s3://bucket/a.wav"):
        line = refused(Failure, source, "audio")
        assert line.startswith(f"{source}: ") and "(Install s3fs to access S3); install that package" in line
    with pytest.raises(Failure, match="gcsfs") as caught:
        size_of(Place("gs://bucket/a.wav"))
    assert caught.value.code == USAGE


def test_an_empty_source_is_refused(tmp_path):
    for sources in ("", [str(tmp_path), ""], "file://"):
        assert "a source is a path or URL, got an empty one; name a" in refused(ValueError, sources, "audio")


def test_corpora_of_two_worlds_keep_their_names_apart(tmp_path):
    put(f"{tmp_path}/a.wav", b"")
    put("memory://worlds/a.wav", b"")
    assert ids([str(tmp_path), "memory://worlds"], "audio") == [f"{tmp_path}/a.wav", "memory://worlds/a.wav"]


@pytest.mark.parametrize("name", ["a\0b.wav", "x" * 1001 + ".wav", "\ud800.wav"])
def test_names_that_no_shard_can_hold_are_refused(tmp_path, name):
    assert "names " in refused(ValueError, put(f"{tmp_path}/m.jsonl", lines_of({"file": name})), "audio")


def test_two_signals_of_one_name_are_refused(root):
    put(f"{root}/a.wav", b"")
    for source in (
        put(f"{root}/m.csv", "file,text\na.wav,1\nb.wav,2\na.wav,3\n"),
        put(f"{root}/m.jsonl", lines_of({"file": "a.wav", "offset": 1}, {"file": "a.wav", "offset": 1.0})),
        put(f"{root}/wav.scp", "a x.wav\na y.wav\n"),
        [root, root],
        [root, f"{root}/a.wav"],
    ):
        assert "named twice; name every signal once" in refused(ValueError, source, "audio")
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.wav"))
    assert "'a.tar/a.wav' is named twice" in refused(ValueError, put(f"{root}/a.tar", twice.getvalue()), "audio")


def test_hidden_files_and_links_to_folders_are_left_out_and_other_kinds_never_mixed(tmp_path):
    for name in ("a/1.wav", "a/.2.wav", "a/.git/3.wav", "a/4.txt", "a/m.csv", "p/1.parquet", "p/README.md"):
        put(f"{tmp_path}/{name}", b"")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "broken.wav").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "linked.wav").symlink_to(tmp_path / "a" / "1.wav")
    (tmp_path / "a" / "round.wav").symlink_to(tmp_path / "a" / "round.wav")
    os.mkfifo(tmp_path / "a" / "pipe.wav")
    (tmp_path / "a" / "to_pipe.wav").symlink_to(tmp_path / "a" / "pipe.wav")
    (tmp_path / "a" / "device.wav").symlink_to("/dev/null")
    for source in (f"{tmp_path}/a", f"{tmp_path}/a/*"):
        assert ids(source, "audio") == ["1.wav", "broken.wav", "linked.wav", "round.wav"]
    put(f"{tmp_path}/a/5.tar", tar_of({"x.wav": b""}))
    assert "1 tars; name one kind with a glob" in refused(ValueError, f"{tmp_path}/a", "audio")
    assert ids(f"{tmp_path}/a/*.tar", "audio") == ["5.tar/x.wav"]
    put(f"{tmp_path}/p/1.parquet", table_of({"audio": [b"x"]}))
    assert ids(f"{tmp_path}/p", "audio") == ["1.parquet/0"]
    put(f"{tmp_path}/e/m.csv", "file\na.wav\n")
    assert ".parquet are read, got none; check the source" in refused(ValueError, f"{tmp_path}/e", "audio")
    assert ids(f"{tmp_path}/e/*", "audio") == ["m.csv/a.wav"]


# -- chains of URLs -----------------------------------------------------------------------------------------


def zipped(folder, archive, method=zipfile.ZIP_STORED):
    """An archive of all files below a folder."""
    with zipfile.ZipFile(archive, "w", method) as file:
        for path in sorted(Path(folder).rglob("*")):
            file.write(path, path.relative_to(folder))
    return str(archive)


CHAINS = {
    "zip": "zip://{inner}::{archive}",
    "zip of a URL": "zip://{inner}::file://{archive}",
    "zip of a cache": "zip://{inner}::simplecache::file://{archive}",
    "zip of a zip": "zip://{inner}::zip://z.zip::{outer}",
    "cache": "simplecache::file://{path}",
    "cache of a path": "simplecache::{path}",
    "cache of memory": "simplecache::memory://{path}",
    "cache of a zip": "simplecache::zip://{inner}::file://{archive}",
}


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("kind", KINDS)
def test_chains_hold_the_same_corpus(tmp_path, sounds, chain, kind):
    folder = tmp_path / "folder"
    source, _ = lay(kind, f"{folder}/in", sounds)
    expected = list(find(source, "audio"))
    archive = zipped(folder, tmp_path / "z.zip", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as outer:
        outer.write(archive, "z.zip")
    if chain == "cache of memory":
        fsspec.filesystem("memory").put(f"{folder}/", str(folder), recursive=True)
    where = {"archive": archive, "path": source, "inner": source.removeprefix(f"{folder}/"), "outer": outer.filename}
    found = list(find(CHAINS[chain].format(**where), "audio"))
    assert [(each.id, each.meta) for each in found] == [(each.id, each.meta) for each in expected]
    for each, other in zip(found, expected, strict=True):
        assert content_of(each.place) == content_of(other.place) and size_of(each.place) == size_of(other.place)


def test_names_of_chains_are_below_what_is_common_to_all(tmp_path):
    for name in ("1/x/a.wav", "1/y/a.wav", "1/.h/b.wav", "1/y.wav", "2/a.wav"):
        put(f"{tmp_path}/{name}", b"")
    one, two = zipped(tmp_path / "1", tmp_path / "1.zip"), zipped(tmp_path / "2", tmp_path / "2.zip")
    every = ["x/a.wav", "y.wav", "y/a.wav"]
    for source in (f"zip://::{one}", f"zip::{one}", f"zip://::file://{one}", f"zip://*::{one}", f"zip://**::{one}"):
        found = every[1:2] if source.startswith("zip://*:") else every
        assert ids(source, "audio") == found
    assert ids(f"simplecache::{tmp_path}/1", "audio") == ids(f"simplecache::zip::{one}", "audio") == every
    assert ids(f"zip://*/a.wav::{one}", "audio") == ids(f"zip:///[xy]/*::{one}", "audio") == ["x/a.wav", "y/a.wav"]
    assert ids(f"zip://y.wav::{one}", "audio") == ["y.wav"] and ids(f"zip://x/a.wav::{one}", "audio") == ["a.wav"]
    odd = zipped(tmp_path / "1", put(f"{tmp_path}/[x]*/1.zip", b""))
    assert ids(f"zip://y.wav::{odd}", "audio") == ["y.wav"] and ids(f"zip://y.*::{odd}", "audio") == ["y.wav"]
    assert ids([f"zip://x::{one}", f"zip://y::{one}"], "audio") == ["x/a.wav", "y/a.wav"]
    both = [f"1.zip/{name}" for name in every] + ["2.zip/a.wav"]
    assert ids([f"zip://::{one}", f"zip://::file://{two}"], "audio") == both
    assert ids([f"zip://::{one}", f"{tmp_path}/2"], "audio") == [*both[:3], "2/a.wav"]
    assert ids([f"zip://x::simplecache::{one}", f"simplecache::{tmp_path}/2"], "audio") == ["1.zip/x/a.wav", "2/a.wav"]


def test_manifests_in_a_zip_name_files_in_it(tmp_path):
    put(f"{tmp_path}/in/m/m.csv", f"file\na.wav\n../b.wav\n{tmp_path}/c.wav\nmemory://d.wav\n")
    put(f"{tmp_path}/in/n.csv", "file\n../a.wav\n")
    archive = zipped(tmp_path / "in", tmp_path / "z.zip")
    uris = {found.place.uri for found in find(f"zip://m/m.csv::{archive}", "audio")}
    assert uris == {f"zip://m/a.wav::{archive}", f"zip://b.wav::{archive}", f"{tmp_path}/c.wav", "memory://d.wav"}
    line = refused(ValueError, f"zip://n.csv::{archive}", "audio")
    assert f"'../a.wav' leads out of zip://::{archive}; name" in line


def test_archives_of_a_chain_that_cannot_be_read_are_an_error_of_one_line(tmp_path):
    source = f"zip://in::{put(f'{tmp_path}/z.zip', b'no zip')}"
    assert "not a zip file" in refused(OSError, source, "audio")
    missing = f"zip://in::{tmp_path}/none.zip"
    assert f"there is no such file: '{missing}'" in refused(FileNotFoundError, missing, "audio")
    put(f"{tmp_path}/in/a.wav", b"")
    missing = f"zip://in/b.wav::{zipped(tmp_path, tmp_path / 'z.zip')}"
    assert f"there is no such file: '{missing}'" in refused(FileNotFoundError, missing, "audio")


# -- conditions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "tar", "parquet"])
def test_conditions_choose_rows_of_everything_that_says_something(root, kind):
    said = {
        f"{name}.wav": {"split": split, "n": n} for name, split, n in zip("abcd", "xyxz", (1, 2, 3, 1), strict=True)
    }
    columns = ["file", "split", "n"]
    if kind in ("csv", "tsv"):
        rows = [[name, *row.values()] for name, row in said.items()]
        source = put(f"{root}/m.{kind}", csv_of(columns, rows, "\t" if kind == "tsv" else ","))
    elif kind == "jsonl":
        source = put(f"{root}/m.jsonl", lines_of(*({"file": name} | row for name, row in said.items())))
    elif kind == "tar":
        contents = {name: b"" for name in said}
        contents |= {name.replace("wav", "json"): json.dumps(row).encode() for name, row in said.items()}
        source = put(f"{root}/a.tar", tar_of(contents))
    else:
        rows = {key: [row[key] for row in said.values()] for key in ("split", "n")}
        source = put(f"{root}/a.parquet", table_of({"audio": [b""] * 4} | rows))
    every = ids(source, "audio")

    def chosen(where=(), exclude=()):
        return [every.index(name) for name in ids(source, "audio", where, exclude)]

    assert chosen([("split", "x")]) == [0, 2]
    assert chosen([("split", "x"), ("split", "z")]) == [0, 2, 3]
    assert chosen([("split", "x"), ("n", "3")]) == [2]
    assert chosen((), [("n", "1")]) == [1, 2]
    assert chosen([("split", "x")], [("n", "1")]) == [2]
    assert "got 'lang'; change --where or --exclude" in refused(ValueError, source, "audio", [("lang", "x")])
    assert "change --where or --exclude" in refused(ValueError, source, "audio", [("split", "w")])


def test_conditions_on_files_that_nothing_is_said_of_are_refused(root):
    put(f"{root}/a.wav", b"")
    assert "has no columns, got 'split'" in refused(ValueError, root, "audio", [("split", "x")])


# -- manifests ---------------------------------------------------------------------------------------------


def test_manifests_name_files_beside_them_above_them_and_elsewhere(root, tmp_path):
    source = put(f"{root}/m/m.jsonl", lines_of(*({"path": path} for path in
                 ("a.wav", "b/../c.wav", "../d.wav", f"{tmp_path}/e.wav", "s3://b/f.wav"))))  # fmt: skip
    uris = [found.place.uri for found in find(source, "audio")]
    lexical = f"{root}/m/c.wav" if "memory" in root else f"{root}/m/b/../c.wav"
    above = f"{root}/d.wav" if "memory" in root else f"{root}/m/../d.wav"
    assert sorted(uris) == sorted([f"{root}/m/a.wav", lexical, above, f"{tmp_path}/e.wav", "s3://b/f.wav"])


def test_parts_of_a_sound_have_their_offset_in_the_name(tmp_path):
    rows = [
        {"audio_filepath": "a.wav", "offset": 0, "duration": 1.5, "text": "one"},
        {"audio_filepath": "a.wav", "offset": 1.5, "duration": 2},
        {"audio_filepath": "a.wav", "offset": 1000000.25, "duration": None},
        {"audio_filepath": "b.wav", "duration": 3.25, "text": "whole"},
    ]
    found = list(find(put(f"{tmp_path}/m.json", lines_of(*rows)), "audio"))
    assert [(each.id, each.start, each.seconds) for each in found] == [
        ("a.wav#0", 0, 1.5), ("a.wav#1.5", 1.5, 2), ("a.wav#1000000.25", 1000000.25, None), ("b.wav", 0, None),
    ]  # fmt: skip
    assert json.loads(found[0].meta) == {"offset": 0, "duration": 1.5, "text": "one"}
    table = put(f"{tmp_path}/m.csv", "audio,offset,duration\na.wav,0.5,2\nb.wav,,2\n")
    assert [tuple(each[i] for i in (0, 3, 4)) for each in find(table, "audio")] == [
        ("a.wav#0.5", 0.5, 2), ("b.wav", 0, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("m.csv", "", "has no audio at all"),
        ("m.csv", "id,text\n1,2\n", "line 2: a file is named in one of the columns file, path, file_name"),
        ("m.csv", "file,text\na.wav\n", "line 2: 2 columns have a name, got 1"),
        ("m.csv", "file,file\na,b\n", "line 1: columns have different names"),
        ("m.csv", 'file\n"a.wav\n', "unexpected end of data"),
        ("m.csv", b"file\n\xff.wav\n", "line 2: a manifest is UTF-8, got the byte 0xff; save it as UTF-8"),
        (
            "m.jsonl",
            b'{"file": "\xc3\xa9.wav"}\n\n{"file": "\xe9.wav"}\n',
            "line 3: a manifest is UTF-8, got the byte 0xe9",
        ),
        ("m.tsv", "file\tx\na.wav\tb\n".encode("utf-16"), "line 1: a manifest is UTF-8, got the byte 0xff; save"),
        ("wav.scp", b"a a.wav\n" * 9000 + b"b \xed\xa0\x80.wav\n", "line 9001: a manifest is UTF-8, got the byte 0xed"),
        ("m.csv", "file\n\n,\n", "line 3: 1 columns have a name, got 2"),
        ("m.csv", "file,n\n,1\n", "line 2: 'file' is a path, got ''"),
        ("m.csv", "file,offset\na.wav,-1\n", "line 2: offset and duration are seconds, got '-1'"),
        ("m.csv", "file,offset\na.wav,nan\n", "are seconds, got 'nan'"),
        ("m.csv", "file\n" + "x" * 200_000, "field larger than"),
        ("m.csv", "file,offset\na.wav,1e306\n", "are seconds, got '1e306'"),
        ("m.jsonl", '{"file": "a.wav"}\n{"file": ,}\n', "line 2: Expecting value at character 10; correct"),
        (
            "m.jsonl",
            '{"file": "a.wav"}\n{"file": \n',
            "line 2: a line is one JSON object (JSON lines), got the beginning",
        ),
        ("m.json", '{\n  "file": "a.wav"\n}\n', "line 1: a line is one JSON object (JSON lines), got the beginning of"),
        (
            "m.json",
            '{"file": "a.wav",\n "x": 1}\n',
            "line 1: a line is one JSON object (JSON lines), got the beginning",
        ),
        ("m.jsonl", '["a.wav"]', "line 1: a line is one JSON object (JSON lines), got an array"),
        ("m.json", '[\n  {"file": "a.wav"}\n]\n', "line 1: a line is one JSON object (JSON lines), got an array"),
        ("m.json", '[{"file": "a.wav"},\n', "line 1: a line is one JSON object (JSON lines), got an array"),
        ("m.jsonl", '"a.wav"', "line 1: a line is one JSON object (JSON lines), got a str"),
        ("m.jsonl", '{"file": "a.wav", "x": NaN}', "JSON has no NaN"),
        ("m.jsonl", '{"file": "a.wav", "x": 1e999}', "line 1: Out of range"),
        ("m.jsonl", '{"audio": {"path": "a.wav"}}', "'audio' is a path, got {"),
        ("m.jsonl", "[" * 100_000, "line 1: "),
        ("m.jsonl", '{"a":' * 100_000, "line 1: "),
        ("m.jsonl", " " * (1 << 20) + "{}", "at most 1048576 characters"),
        ("m.jsonl", '{"file": "simplecache::s3://b/a.wav"}', "line 1: a manifest names plain URLs"),
        ("wav.scp", "a x.wav\nb\n", "line 2: a line is an id and a path, got 'b'"),
    ],
)
def test_manifests_that_say_nothing_sure_are_refused_with_their_line(tmp_path, name, content, message):
    assert message in refused(ValueError, put(f"{tmp_path}/{name}", content), "audio")


def test_a_manifest_leads_to_no_other_bucket():
    source = put("memory://bucket/m.jsonl", lines_of({"file": "../../other/a.wav"}))
    assert "'../../other/a.wav' leads out of memory://" in refused(ValueError, source, "audio")


def test_commands_of_kaldi_are_refused_and_not_run(tmp_path):
    marker = tmp_path / "ran"
    for line in (f"a touch {marker} |", f"a touch {marker} |  \t", f"a touch {marker}|"):
        source = put(f"{tmp_path}/wav.scp", f"b x.wav\n{line}\n")
        assert "line 2: 'a' is a command, and none is run" in refused(ValueError, source, "audio")
    source = put(f"{tmp_path}/wav.scp", f"a | touch {marker}\n")  # a path, however odd
    (found,) = find(source, "audio")
    with pytest.raises(FileNotFoundError):
        size_of(found.place)
    assert not marker.exists()


def test_quotes_are_text_between_tabs_and_a_byte_order_mark_is_none(tmp_path):
    source = put(f"{tmp_path}/m.tsv", '\ufeffpath\ttext\na.wav\tsay "hello\nb.wav\t"\n')
    assert [json.loads(found.meta)["text"] for found in find(source, "audio")] == ['say "hello', '"']


# -- what is planned of a sound ----------------------------------------------------------------------------


SPEC = CodecSpec(
    name="mono",
    modality="audio",
    channels=1,
    hop=(320,),
    codebook_sizes=(8,),
    strides=(1,),
    latent_dim=4,
    sample_rate=16_000,
)
SETTINGS = Settings(model="mono", meaning=Meaning(SPEC, SPEC.resolve(), "0" * 32))


def planned(folder, **row):
    """The one item that a manifest's row is, of a sound of 7.54 s."""
    write_audio(folder / "a.wav", np.zeros((1, 120_640)), 16_000)
    (found,) = find(put(f"{folder}/m.jsonl", lines_of({"audio_filepath": "a.wav"} | row)), "audio")
    (item,) = measured(found, SETTINGS)
    return item


@pytest.mark.parametrize(
    "row, start, frames",
    [
        ({"offset": 0.0, "duration": 7.5401}, 0, 120_640),
        ({"offset": 0.0, "duration": 7.59}, 0, 120_640),
        ({"offset": 7, "duration": 0.58}, 112_000, 8_640),
        ({"offset": 7, "duration": 0.5}, 112_000, 8_000),
        ({"offset": 7.5401}, 120_640, 0),
        ({"offset": 7.55, "duration": 0.01}, 120_640, 0),
        ({"duration": 99}, 0, 120_640),
    ],
)
def test_what_a_manifest_rounds_beyond_the_end_is_cut_off(tmp_path, row, start, frames):
    item = planned(tmp_path, **row)
    assert (item.start, item.frames, item.reason) == (start, frames, "")


@pytest.mark.parametrize(
    "row, asked",
    [
        ({"offset": 0, "duration": 7.5901}, "0 s to 7.59 s"),
        ({"offset": 100, "duration": 12}, "100 s to 112 s"),
        ({"offset": 7.52, "duration": 0.25}, "7.52 s to 7.77 s"),
        ({"offset": 7.6}, "7.6 s to its end"),
        ({"offset": 123456.789, "duration": 0}, "123456.789 s to 123456.789 s"),
        ({"offset": 1, "duration": 9.9e8}, "1 s to 990000001 s"),
    ],
)
def test_what_is_not_in_a_sound_is_told_with_both_numbers(tmp_path, row, asked):
    reason = f"has 7.54 s, the manifest asks for {asked}; correct its offset and duration"
    assert planned(tmp_path, **row).reason == reason


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("kind", ["folder", "jsonl", "tar", "parquet", "binary"])
def test_reasons_name_no_place_whatever_holds_the_file(tmp_path, monkeypatch, kind, relative):
    monkeypatch.chdir(tmp_path)
    source, _ = lay(kind, "." if relative else str(tmp_path), {"0.wav": b"", "a.wav": b"no sound at all"})
    *_, found = find(source, "audio")
    (item,) = measured(found, SETTINGS)
    assert item.reason.startswith("not a sound file that is read here; ")
    with opened(found.place) as file:
        name = file if isinstance(file, str) else file.name
        error = ValueError(f"{name}: is not {name} of {found.place.uri}")
    assert reason_of(error, found.id, found.place) == f"is not {found.id} of {found.id}"


def test_reasons_say_what_to_do_on_a_command_line(tmp_path):
    place = Place(f"{tmp_path}/a.wav")
    write_audio(place.uri, np.zeros((2, 100)), 16_000)
    with pytest.raises(ValueError) as caught:
        read_audio(place.uri, 16_000, 1)
    reason = "1 channels are required, got 2; allow their average with --downmix"
    assert reason_of(caught.value, "a.wav", place) == reason


def test_a_link_that_leads_nowhere_is_a_bad_row(tmp_path):
    (tmp_path / "a.wav").symlink_to(tmp_path / "nowhere")
    (found,) = find(str(tmp_path), "audio")
    assert [item.reason for item in measured(found, SETTINGS)] == [
        "could not be reached when it was planned, plan it into another output: there is no such file"
    ]


# -- tars --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_members_are_where_the_library_says(form):
    names = [f"{'d' * 40}/{'e' * length}ü.flac" for length in (1, 50, 56, 57, 58, 90)]
    names += [] if form == "ustar" else ["x" * 300 + ".wav", "y" * 101 + "/" + "z" * 200, "short.wav"]
    dice = random.Random(0)
    content = tar_of({name: dice.randbytes(dice.choice((0, 1, 511, 512, 513, 5000))) for name in names}, FORMATS[form])
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    assert [tuple(member) for member in members(io.BytesIO(content))] == expected


def test_a_thousand_members_with_their_texts(root):
    contents, dice = {}, random.Random(0)
    for index in range(1000):
        contents[f"s{index:04d}.flac"] = dice.randbytes(index % 700)
        contents[f"s{index:04d}.json"] = json.dumps({"n": index}).encode()
    found = list(find(put(f"{root}/a.tar", tar_of(contents)), "audio"))
    assert len(found) == 1000
    for index in (0, 1, 499, 999):
        assert json.loads(found[index].meta) == {"n": index}
        assert content_of(found[index].place) == contents[f"s{index:04d}.flac"]


def test_what_is_said_of_a_sample_is_joined_by_its_key(tmp_path):
    contents = {
        "k.txt": b" hello \n", "k.left.wav": b"1", "k.right.wav": b"2", "k.json": b'{"a": [1, "\xc3\xbc"]}',
        "d/k.wav": b"3", "d/k.json": b"7", "l.wav": b"4",
    }  # fmt: skip
    said = {found.id: found.meta for found in find(put(f"{tmp_path}/a.tar", tar_of(contents)), "audio")}
    both = {"text": "hello", "a": [1, "ü"]}
    assert said.pop("a.tar/l.wav") == ""
    expected = {"a.tar/k.left.wav": both, "a.tar/k.right.wav": both, "a.tar/d/k.wav": {"json": 7}}
    assert {name: json.loads(meta) for name, meta in said.items()} == expected


def test_only_files_are_read_of_an_archive(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
        ):
            info = tarfile.TarInfo(f"{kind.decode()}.wav")
            info.type, info.linkname, info.size = kind, "/etc/passwd", 100_000
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("._a.wav"))
        tar.addfile(tarfile.TarInfo("./a.wav"))
    assert ids(put(f"{tmp_path}/a.tar", buffer.getvalue()), "audio") == ["a.tar/a.wav"]


def header(name=b"a.wav", size=b"00000000000", kind=b"0", check=None):
    head = bytearray(
        name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"0" * 11 + b"\0"
    )
    head += b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(247)
    head[148:156] = check or b"%06o\0 " % sum(head)
    return bytes(head)


END = bytes(1024)


@pytest.mark.parametrize(
    "content, message",
    [
        (header() + END, None),
        (header(b"../a.wav") + END, "names stay inside an archive, got '../a.wav'"),
        (header(b"x/../../a.wav") + END, "names stay inside"),
        (header(b"/etc/a.wav") + END, "names stay inside"),
        (header(b"\xff.wav") + END, "names are UTF-8"),
        (header(check=b"000000\0 ") + END, "no tar, or damaged at byte 0"),
        (header(size=b"77777777777") + END, "truncated, its member at byte 0 ends at 8589935103 of 1536"),
        (header(size=b"\x80" + b"\xff" * 11) + END, "truncated, its member"),
        (header(size=b"\xff" * 12) + END, "damaged: a number is"),
        (header(size=b"0000000-512") + END, "damaged: a number is"),
        (header(size=b"00000000009") + END, "damaged: a number is"),
        (header(kind=b"S") + END, "is sparse"),
        (header(kind=b"L", size=b"10000000000") + END, "a name of 1073741824 bytes"),
        (header(kind=b"x", size=b"%011o" % 8) + b"9 path=\n".ljust(512, b"\0") + END, "extended header has no records"),
        (header(kind=b"x", size=b"%011o" % 8) + b"0 path=\n".ljust(512, b"\0") + END, "extended header has no records"),
        (header(kind=b"x", size=b"%011o" % 8) + b"a path=\n".ljust(512, b"\0") + END, "extended header has no records"),
        (header(kind=b"x", size=b"%011o" % 12) + b"12 size=-99\n".ljust(512, b"\0") + END, "a size is b'-99'"),
        (header(kind=b"x", size=b"%011o" % 15) + b"15 path=../../\n".ljust(512, b"\0") + header() + END, "names stay"),
        (header(kind=b"x", size=b"%011o" % 22) + b"22 GNU.sparse.major=1\n".ljust(512, b"\0") + END, "is sparse"),
        (header(kind=b"L", size=b"%011o" % 6) + b"../a\0\0".ljust(512, b"\0") + header() + END, "names stay inside"),
        (header(b"a.json", size=b"%011o" % 3) + b"{x}".ljust(512, b"\0") + END, "'a.json' is no text: Expecting"),
        (header(b"a.json", size=b"%011o" % 3) + b"NaN".ljust(512, b"\0") + END, "JSON has no NaN"),
        (header(b"a.txt", size=b"%011o" % 1) + b"\xff".ljust(512, b"\0") + END, "'a.txt' is no text"),
        (header(b"a.txt", size=b"%011o" % (1 << 21)) + bytes(1 << 21) + END, "has at most 1048576 bytes"),
        (b"text" * 300, "no tar, or damaged"),
        (b"", "truncated"),
        (header(), "truncated, its end is missing"),
        (gzip.compress(header() + END, mtime=0).ljust(600, b"\0"), "compressed tar cannot be sought: decompress it"),
        (gzip.compress(random.Random(0).randbytes(2000), mtime=0), "members of a compressed tar cannot be sought"),
        (gzip.compress(header() + END, mtime=0), "compressed tar cannot be sought: decompress it"),
        (bz2.compress(header() + END), "compressed tar cannot be sought: decompress it"),
        (lzma.compress(header() + END), "compressed tar cannot be sought: decompress it"),
    ],
)  # fmt: skip
def test_hostile_archives_are_refused(tmp_path, content, message):
    source = put(f"{tmp_path}/a.tar", content)
    if message is None:
        assert ids(source, "audio") == ["a.tar/a.wav"]
    else:
        line = refused(ValueError, source, "audio")
        assert message in line and line.endswith("; make the archive again")


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_archive_is_never_taken_for_a_whole_one(tmp_path, form):
    content = tar_of({"a.wav": b"x" * 700, f"{'b' * (95 if form == 'ustar' else 200)}.wav": b"y"}, FORMATS[form])
    end = len(content.rstrip(b"\0")) // 512 * 512 + 512
    for length in range(0, end, 37):
        assert "a.tar: " in refused(ValueError, put(f"{tmp_path}/a.tar", content[:length]), "audio")
    refused(ValueError, put(f"{tmp_path}/a.tar", content[:end]), "audio")
    assert len(ids(put(f"{tmp_path}/a.tar", content[: end + 512]), "audio")) == 2


def test_no_flipped_bit_of_a_header_is_believed(tmp_path):
    content = tar_of({"a.wav": b"x"}, tarfile.USTAR_FORMAT)
    assert len(ids(put(f"{tmp_path}/a.tar", content), "audio")) == 1
    for bit in range(0, 8 * 345):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = list(members(io.BytesIO(damaged)))
        except ValueError:
            continue
        assert 148 <= bit // 8 < 156 and found == list(members(io.BytesIO(content)))  # an idle sign of the checksum


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst", "a.tar.bz2"])
def test_compressed_tars_are_refused_with_advice(tmp_path, name):
    put(f"{tmp_path}/{name}", gzip.compress(tar_of({"a.wav": b""})))
    for source in (f"{tmp_path}/{name}", f"{tmp_path}", f"{tmp_path}/*"):
        assert "decompress" in refused(ValueError, source, "audio")


# -- Parquet -----------------------------------------------------------------------------------------------


def test_rows_have_the_width_of_their_number_and_what_other_columns_say(root):
    columns = {
        "audio": [b"%d" % row for row in range(12)],
        "n": list(range(12)),
        "x": [float("nan"), float("inf"), *[0.5] * 10],
        "when": pa.array([0] * 12, pa.timestamp("s")),
        "word": pa.array(["a"] * 12).dictionary_encode(),
        "list": [[1]] * 12,
        "none": pa.nulls(12),
    }
    found = list(find(put(f"{root}/a.parquet", table_of(columns, row_group_size=5)), "audio"))
    assert [each.id for each in found] == [f"a.parquet/{row:02d}" for row in range(12)]
    assert [content_of(each.place) for each in reversed(found)] == columns["audio"][::-1]
    said = [json.loads(each.meta) for each in found]
    assert said[1] == {"n": 1, "x": None, "when": "1970-01-01 00:00:00", "word": "a", "none": None}
    assert said[0]["x"] is None and said[2]["x"] == 0.5


def test_tables_without_one_column_of_bytes_are_refused(tmp_path):
    for columns, message in (
        ({"text": ["a"]}, "got columns text; rename"),
        ({"a": [b""], "b": [b""]}, "got columns of bytes a, b; rename"),
        ({"audio": pa.array([{"path": "a.wav"}])}, "got columns audio"),
    ):
        assert message in refused(ValueError, put(f"{tmp_path}/a.parquet", table_of(columns)), "audio")
    twice = pa.Table.from_arrays([pa.array([b""]), pa.array([b""])], names=["audio", "audio"])
    parquet.write_table(twice, tmp_path / "b.parquet")
    assert "columns have different names" in refused(ValueError, f"{tmp_path}/b.parquet", "audio")


def test_rows_without_bytes_are_told_when_they_are_read(tmp_path):
    held = pa.array([{"bytes": b"x"}, {"bytes": None}, None], pa.struct([("bytes", pa.binary())]))
    places = [found.place for found in find(put(f"{tmp_path}/a.parquet", table_of({"audio": held})), "audio")]
    assert content_of(places[0]) == b"x"
    for row in (1, 2):
        with pytest.raises(ValueError, match=rf"row {row} has no audio.bytes; put"):
            content_of(places[row])
    for row in (-1, 3):
        with pytest.raises(ValueError, match=f"has 3 rows, asked for {row}; it has changed"):
            content_of(places[0]._replace(row=row))


def test_row_groups_that_fill_the_memory_are_refused(tmp_path, monkeypatch):
    source = put(
        f"{tmp_path}/a.parquet", table_of({"audio": [b"x" * 50_000] * 4}, compression=None, use_dictionary=False)
    )
    monkeypatch.setattr(tables, "LARGEST", 100_000)
    assert "write it again with a smaller row_group_size" in refused(ValueError, source, "audio")
    put(source, table_of({"audio": [b"x" * 50_000] * 4}, compression=None, use_dictionary=False, row_group_size=1))
    assert len(ids(source, "audio")) == 4


def test_damaged_tables_are_refused_or_read_as_they_were(tmp_path):
    dice, rows = random.Random(0), [random.Random(row).randbytes(300) for row in range(6)]
    content = table_of({"audio": rows, "n": list(range(6))}, row_group_size=2, write_page_checksum=True)
    for trial in range(60):
        damaged = bytearray(content)
        if trial % 3:
            damaged[dice.randrange(4, 2000)] ^= 1 << dice.randrange(8)
        else:
            del damaged[dice.randrange(len(content)) :]
        source = put(f"{tmp_path}/{trial}.parquet", bytes(damaged))
        try:
            got = [content_of(found.place) for found in find(source, "audio")]
        except ValueError as error:
            assert str(error).startswith(source) and "\n" not in str(error)
        else:
            assert got == rows


def test_a_table_that_is_made_again_is_read_again(tmp_path):
    source = f"{tmp_path}/a.parquet"
    for content in (b"first", b"second"):
        (found,) = find(put(source, table_of({"audio": [content]})), "audio")
        assert content_of(found.place) == content


# -- bytes -------------------------------------------------------------------------------------------------


def test_a_window_is_a_file(root):
    content = random.Random(0).randbytes(20_000)
    uri, dice = put(f"{root}/a.bin", content), random.Random(1)
    for offset, length in ((0, -1), (0, 100), (300, 17_000), (5, -1), (20_000, 0), (19_999, 1)):
        whole = content[offset:] if length < 0 else content[offset : offset + length]
        reference = io.BytesIO(whole)
        with open_file(uri, offset, length) as window:
            assert window.read() == whole and window.name.startswith(uri)
            for _ in range(200):
                position, whence = dice.randrange(len(whole) + 10), dice.randrange(3)
                position -= (0, reference.tell(), len(whole))[whence]
                for file in (window, reference):
                    file.seek(position, whence)
                count = dice.randrange(9000)
                assert window.tell() == reference.tell() and window.read(count) == reference.read(count)
            assert window.seek(0, 2) == len(whole)
    for offset, length in ((0, 20_001), (19_999, 2), (20_001, 5)):
        with pytest.raises((ValueError, OSError), match=r"asked for .*; it has changed"):
            open_file(uri, offset, length).read()


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_a_file_that_grew_has_another_size(tmp_path, sounds, kind):
    place = next(find(lay(kind, str(tmp_path), sounds)[0], "audio")).place
    before = size_of(place)
    with open(place.uri, "ab") as file:
        file.write(b"more")
    assert size_of(place) == before + 4


def test_what_is_missing_says_so(root):
    for source in (f"{root}/a.wav", f"{root}/a.tar", f"{root}/a.parquet", f"{root}/m.jsonl"):
        assert f"there is no such file: '{source}'" in refused(FileNotFoundError, source, "audio")
    for place in (
        Place(f"{root}/a.wav"),
        Place(f"{root}/a.tar", 512, 4),
        Place(f"{root}/a.parquet", column="a", row=0),
    ):
        with pytest.raises(FileNotFoundError, match="there is no such file"):
            size_of(place)
        with pytest.raises(FileNotFoundError):
            content_of(place)
    for source in (f"{root}/*.wav", f"{root}/none/*"):
        assert "files of .flac, " in refused(ValueError, source, "audio")
    assert "no such URL is read here (Protocol not known: nowhere)" in refused(ValueError, "nowhere://a", "audio")


def test_what_a_network_raises_is_an_error_of_one_line(monkeypatch, sounds):
    source, _ = lay("tar", "memory://network", sounds)
    place = next(find(source, "audio")).place
    table = Place(lay("parquet", "memory://network", sounds)[0], column="audio.bytes", row=0)

    class Broken(Exception):
        pass

    def fail(*_):
        raise Broken("a reply of 500\n<html>")

    files = fsspec.filesystem("memory")
    monkeypatch.setattr(type(files), "cat_file", fail)
    with opened(place) as file, pytest.raises(OSError, match="a reply of 500 <html>"):
        read_audio(file)
    with pytest.raises(OSError, match="a reply of 500 <html>"):
        content_of(table)
    monkeypatch.setattr(type(files), "cat_file", lambda *_: b"the whole file, not the part")
    with opened(place) as file, pytest.raises(OSError, match="its server sends no parts"):
        read_audio(file)
    monkeypatch.setattr(type(files), "info", fail)
    for call in (lambda: list(find("memory://network/a.tar", "audio")), lambda: size_of(Place(place.uri))):
        with pytest.raises(OSError, match="a reply of 500 <html>"):
            call()
