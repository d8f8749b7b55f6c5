"""`sigtok-train curves`: logs one behind the other as a picture."""

import numpy as np
import pytest

from sigtok.train.curves import main, read, running_mean

LOG = "epoch,step,train/mel,val/mel\n0,9,3.0,\n0,19,2.0,\n0,19,,2.5\n0,29,1.0,\n"


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(LOG)
    return path


def test_runs_stand_one_behind_the_other(log):
    columns, ends = read([str(log), str(log)])
    assert ends == [30, 60]
    assert columns["train/mel"][0].tolist() == [10, 20, 30, 40, 50, 60]
    assert columns["train/mel"][1].tolist() == [3, 2, 1, 3, 2, 1]
    assert columns["val/mel"][0].tolist() == [20, 50]


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_a_running_mean_is_between_its_values_and_keeps_a_line(count):
    line = np.linspace(0, 1, count)
    found = running_mean(line)
    assert found.shape == line.shape and found.min() >= 0 and found.max() <= 1
    np.testing.assert_allclose(found[count // 3 : -(count // 3) or None].mean(), 0.5 if count > 1 else 0, atol=1e-9)
    wild = np.random.default_rng(0).normal(size=count)
    assert running_mean(wild).std() <= wild.std() + 1e-12


def test_a_picture_is_the_same_twice(log, tmp_path):
    out = tmp_path / "curves.svg"
    main([str(log), "--out", str(out), "--names", "mel"])
    first = out.read_bytes()
    main([str(log), "--out", str(out), "--names", "mel"])
    assert out.read_bytes() == first and b">mel<" in first and b">validation<" in first


@pytest.mark.parametrize(
    "names, text, said",
    [
        ("loudness", LOG, "the logs have mel; got 'loudness'"),
        ("mel", "a,b\n1,2\n", "column 'step'"),
        ("mel", "", "rows"),
    ],
)
def test_mistakes_are_one_line(log, tmp_path, capsys, names, text, said):
    log.write_text(text)
    with pytest.raises(SystemExit, match="2"):
        main([str(log), "--out", str(tmp_path / "c.svg"), "--names", names])
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("sigtok-train curves: error: ") and said in line


def test_another_kind_of_picture_is_refused(log, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(log), "--out", str(tmp_path / "c.gif"), "--names", "mel"])
    assert "drawn as .svg, .png, .pdf" in capsys.readouterr().err
