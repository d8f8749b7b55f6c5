"""A few thousand mutants of the golden files in a process of its own; `tests.fuzz.bitstream` makes millions."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def fuzz(*options):
    command = [sys.executable, "-m", "tests.fuzz.bitstream", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = re.search(r"refused (\d+), accepted equal (\d+), accepted different (\d+)", done.stdout)
    return tuple(map(int, found.groups()))


@pytest.mark.parametrize(("mode", "different"), [("enforced", False), ("repaired", True)])
def test_mutants_are_refused_or_read_as_they_should_be(mode, different):
    refused, equal, other = fuzz("--mutants", "2000", "--mode", mode)
    assert refused + equal + other == 2000 and refused > 1800
    assert (other > 0) == different  # behind repaired checksums the parser lets through what it must


def test_no_damage_is_silent():
    refused, equal, other = fuzz("--damages", "1000")
    assert other == 0 and refused > 900 and refused + equal == 1000
