"""The command before it trains."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("missing", ["lightning", "jsonargparse", "torchvision"])
def test_without_the_libraries_of_training_the_command_ends_in_a_line(missing):
    """In a process of its own, in which that import fails as where it is not installed."""
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["sigtok-train", "fit"]
from sigtok.train.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"sigtok-train: error: training needs {missing}") and "'sigtok[train]'" in line
