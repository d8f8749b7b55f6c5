"""Actors of Ray write what one process writes."""

import hashlib
import subprocess
import sys

import pytest

from sigtok.export.corpus.run import tokenize

pytest.importorskip("ray.data")

START = "import ray; ray.init(num_cpus=2, include_dashboard=False); ray.get(ray.remote(lambda: 1).remote())"


@pytest.fixture
def ray_starts():
    """Ray opens ports and shared memory, which not every machine has to give."""
    try:
        subprocess.run([sys.executable, "-c", START], check=True, capture_output=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Ray does not start here: {error}")


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("[sm]*")}


def test_two_actors_write_the_bytes_of_one_process(corpus, model, tmp_path, ray_starts):
    for name, options in {"here": {"workers": 0}, "ray": {"runner": "ray", "workers": 2}}.items():
        assert tokenize(str(corpus), tmp_path / name, model, unit_seconds=2.0, part_seconds=1.6, **options) == []
    assert digests(tmp_path / "ray") == digests(tmp_path / "here")
    assert len(digests(tmp_path / "ray")) > 6
