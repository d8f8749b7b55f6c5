"""Learning curves of a run as a picture: ``sigtok-train curves RUN/metrics.csv --out curves.svg --names mel,stft``.

Runs that continue each other are given in order and drawn one behind the other. What training logs is noisy, because
every step has its own batch and rate: it is drawn thin, with its running mean over it; validation is drawn as points.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentError, ArgumentParser

SMOOTH = 0.05  # of a curve, under the running mean
COLUMNS = ("train/", "val/")
SUFFIXES = (".svg", ".png", ".pdf")

Series = tuple[np.ndarray, np.ndarray]  # steps, values


def read(logs: Sequence[str]) -> tuple[dict[str, Series], list[int]]:
    """Every column of the logs of CSVLogger, runs one behind the other; and the steps where one ends.

    Raises:
        ValueError: If a file is no such log, or empty.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    ends, start = [], 0
    for log in logs:
        with open(log, newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or "step" not in rows[0]:
            raise ValueError(f"a log of CSVLogger has a column 'step' and rows, got none in {log}")
        try:
            for row in rows:
                for name, value in row.items():
                    if name and value and name.startswith(COLUMNS):
                        found.setdefault(name, []).append((start + int(row["step"]) + 1, float(value)))
            start += max(int(row["step"]) for row in rows) + 1
        except (TypeError, ValueError):
            raise ValueError(f"a log of CSVLogger holds numbers, got something else in {log}") from None
        ends.append(start)
    columns = {name: np.array(pairs).T for name, pairs in found.items()}
    return {name: (pairs[0], pairs[1]) for name, pairs in columns.items()}, ends


def running_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the values around each, fewer at the ends."""
    reach = max(1, round(len(values) * SMOOTH / 2))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def curves(logs: list[str], out: str, names: str) -> None:
    """Draw columns of logs over steps.

    Args:
        logs: ``metrics.csv`` of runs, in order.
        out: File to write: .svg, .png or .pdf.
        names: Names of losses and metrics, with commas, without ``train/`` and ``val/``: a panel for each.
    Raises:
        ValueError: If a name is in no log, or the file is of another kind.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    if Path(out).suffix not in SUFFIXES:
        raise ValueError(f"curves are drawn as {', '.join(SUFFIXES)}, got {out}")
    columns, ends = read(logs)
    wanted = names.split(",")
    known = sorted({name.split("/", 1)[1] for name in columns})
    if missing := [name for name in wanted if name not in known]:
        raise ValueError(f"the logs have {', '.join(known)}; got {', '.join(map(repr, missing))}")
    plt.rcParams |= {"svg.hashsalt": "sigtok", "font.size": 9, "svg.fonttype": "none"}
    figure, panels = plt.subplots(1, len(wanted), figsize=(4 * len(wanted), 3), squeeze=False, layout="constrained")
    for name, panel in zip(wanted, panels[0], strict=True):
        if series := columns.get(f"train/{name}"):
            panel.plot(*series, color="#9ab", linewidth=0.5)
            panel.plot(series[0], running_mean(series[1]), color="#147", label="training")
        if series := columns.get(f"val/{name}"):
            panel.plot(*series, "o-", color="#c50", markersize=3, linewidth=0.8, label="validation")
        for end in ends[:-1]:
            panel.axvline(end, color="#888", linestyle=":", linewidth=0.8)
        panel.set(title=name, xlabel="step")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False)
    figure.savefig(out, metadata={"Date": None} if Path(out).suffix == ".svg" else None)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; a mistake ends in one line and exit code 2."""
    parser = ArgumentParser(prog="sigtok-train curves", description=__doc__, exit_on_error=False)
    parser.add_argument("logs", nargs="+", help="metrics.csv of runs, in order")
    parser.add_argument("--out", required=True, help="file to write: .svg, .png or .pdf")
    parser.add_argument("--names", default="total", help="losses and metrics, with commas")
    try:
        values = parser.parse_args(arguments)
        curves(values.logs, values.out, values.names)
    except (ArgumentError, ValueError, OSError) as error:
        sys.stderr.write(f"sigtok-train curves: error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
