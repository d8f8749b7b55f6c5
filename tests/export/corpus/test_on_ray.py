"""Actors of Ray write what one process writes."""

import hashlib

import pytest

from sigtok.export.corpus.run import tokenize

pytest.importorskip("ray.data")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("[sm]*")}


def test_two_actors_write_the_bytes_of_one_process(corpus, model, tmp_path):
    for name, options in {"here": {"workers": 0}, "ray": {"runner": "ray", "workers": 2}}.items():
        assert tokenize(str(corpus), tmp_path / name, model, unit_seconds=2.0, part_seconds=1.6, **options) == []
    assert digests(tmp_path / "ray") == digests(tmp_path / "here")
    assert len(digests(tmp_path / "ray")) > 6
