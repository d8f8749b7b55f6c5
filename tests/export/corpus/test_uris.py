"""Paths and URLs of every form lead to the same files, and their parts are found in all."""

import pytest

from sigtok.export.corpus.uris import absolute, beside, in_folder, joined, plain, suffix_of, way_to


@pytest.mark.parametrize(
    "uri, path",
    [
        ("file:///tmp/x", "/tmp/x"),
        ("file://localhost/tmp/x", "/tmp/x"),
        ("file:/tmp/x", "/tmp/x"),
        ("file://x/y", "x/y"),
        ("file://localhost.wav", "localhost.wav"),
        ("/tmp/file:/x", "/tmp/file:/x"),
        ("file:x", "file:x"),
        ("s3://bucket/file://x", "s3://bucket/file://x"),
    ],
)
def test_what_is_on_this_machine_is_a_path(uri, path):
    assert plain(uri) == path
    assert beside("/data/m.csv", uri) == (path if "://" in path or path.startswith("/") else f"/data/{path}")


@pytest.mark.parametrize(
    "folder, file",
    [
        ("/tmp/x", "/tmp/x/a.Tar"),
        ("", "a.Tar"),
        ("s3://bucket/x/", "s3://bucket/x/a.Tar"),
        ("zip://::/tmp/z.zip", "zip://a.Tar::/tmp/z.zip"),
        ("zip://in::/tmp/z.zip", "zip://in/a.Tar::/tmp/z.zip"),
        ("zip::/tmp/z.zip", "zip://a.Tar::/tmp/z.zip"),
        ("zip://in::zip://y.zip::s3://bucket/z.zip", "zip://in/a.Tar::zip://y.zip::s3://bucket/z.zip"),
        ("simplecache::s3://bucket/x", "simplecache::s3://bucket/x/a.Tar"),
        ("simplecache://::s3://bucket/x", "simplecache://::s3://bucket/x/a.Tar"),
        ("filecache::/tmp/x", "filecache::/tmp/x/a.Tar"),
        ("blockcache::zip://in::s3://bucket/z.zip", "blockcache::zip://in/a.Tar::s3://bucket/z.zip"),
        ("zip://in::simplecache::s3://bucket/z.zip", "zip://in/a.Tar::simplecache::s3://bucket/z.zip"),
    ],
)
def test_a_file_is_below_its_folder_in_every_form(folder, file):
    assert joined(folder, "a.Tar") == file and suffix_of(file) == ".tar"
    inside, name = in_folder(file)
    assert name == "a.Tar" and joined(inside, name) == file and joined(inside, "b") == beside(file, "b")


@pytest.mark.parametrize(
    "folder, way",
    [
        ("/tmp/x/", ["", "tmp", "x"]),
        ("s3://bucket/x/", ["s3:", "", "bucket", "x"]),
        ("zip://in//y/::/tmp/z.zip", ["", "tmp", "z.zip", "in", "y"]),
        ("zip://::file://localhost/tmp/z.zip", ["", "tmp", "z.zip"]),
        ("zip://in::simplecache::zip://y.zip::s3://bucket/z.zip", ["s3:", "", "bucket", "z.zip", "y.zip", "in"]),
        ("simplecache::file:///tmp/x", ["", "tmp", "x"]),
    ],
)
def test_an_archive_is_a_folder_of_what_is_in_it(folder, way):
    assert way_to(folder) == way


@pytest.mark.parametrize(
    "uri, place",
    [
        ("a/b", "{here}/a/b"),
        ("../a/", "{above}/a"),
        ("file:///tmp/../x", "/x"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("zip://in/*.wav::a.zip", "zip://in/*.wav::{here}/a.zip"),
        ("zip://in::/tmp/a.zip", "zip://in::/tmp/a.zip"),
        ("zip://in::s3://bucket/a.zip", "zip://in::s3://bucket/a.zip"),
        ("simplecache::file:///tmp/a", "simplecache::file:///tmp/a"),
        ("", ""),
    ],
)
def test_a_source_is_the_same_place_from_any_folder(uri, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute(uri) == place.format(here=tmp_path, above=tmp_path.parent)
