"""A corpus to shards, measured: ``python -m tests.benchmarks.tokenizing [FILE ...] [--part PART]``.

pipeline  from FLAC files to rows, beside `Codec.encode` of the same signals in memory: x real time of both, in turns
workers   the command with one worker and with two, start-up (some 4 s) and all: x real time, and the ratio
memory    an hour in one FLAC file at 44.1 kHz: resident memory of a process at its peak, beside one that encodes a
          minute of it

`speech_24khz` over files one after another and again, by default the demo's speech, written as FLAC files of 10 s: at
44.1 kHz, which asks more of the decoder than most corpora, but for "workers": one worker decodes on the core that a
second would encode on, so there they are at the model's 24 kHz. Tables are Markdown, on stdout.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from sigtok.codecs.media import read_audio, write_audio
from sigtok.codecs.pretrained import load
from sigtok.export.corpus.plan import make
from sigtok.export.corpus.run import settings_of
from sigtok.export.corpus.sources import find
from sigtok.export.corpus.unit import rows_of, signal_of
from sigtok.export.corpus.workers import prepare
from tests.benchmarks.quantizers import show

SPEECH = Path(__file__).parents[2] / "demo" / "input" / "speech.flac"
SECONDS, RUNS = 10, 3
HIGH, OWN = 44_100, 24_000  # Hz
MINUTES = {"pipeline": 10, "workers": 360}
PEAK = """
import resource, sys
from sigtok.export.cli import main
main(sys.argv[1:])
print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def recording(paths: Sequence[Path], seconds: int, rate: int) -> np.ndarray:
    """So many seconds of files, one after another and again, ``[1, T]``."""
    parts, missing = [], seconds * rate
    while missing > 0:
        for path in paths:
            parts.append(read_audio(path, rate, 1, downmix=True)[0][:, :missing])
            missing -= parts[-1].shape[1]
            if missing <= 0:
                break
    return np.concatenate(parts, 1)


def corpus(folder: Path, paths: Sequence[Path], minutes: int, rate: int) -> Path:
    """A folder of FLAC files of 10 s."""
    folder.mkdir()
    sound = recording(paths, 60 * minutes, rate)
    for number, part in enumerate(np.split(sound, 60 * minutes // SECONDS, 1)):
        write_audio(folder / f"{number:05d}.flac", part, rate)
    return folder


def pipeline(folder: Path, paths: Sequence[Path]) -> None:
    minutes = MINUTES["pipeline"]
    codec, settings = prepare(load("speech_24khz")), settings_of("speech_24khz", unit_seconds=1e6)
    (folder / "out").mkdir()
    plan = make(folder / "out", find([str(corpus(folder / "in", paths, minutes, HIGH))], "audio"), settings, {})
    items = plan.unit(0)
    signals = [signal_of(item, settings) for item in items]
    alone, whole = [], []
    for _ in range(RUNS):
        begun = time.perf_counter()
        for signal in signals:
            codec.encode([signal])
        alone.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        rows_of(items, codec, settings, 2)
        whole.append(time.perf_counter() - begun)
    speeds = [60 * minutes / min(times) for times in (alone, whole)]
    columns = ["minutes", "encode alone, x real time", "from FLAC to rows", "ratio"]
    show("pipeline: one encoder, two decoding threads", columns, [[minutes, *speeds, speeds[1] / speeds[0]]])


def command(source: Path, out: Path, workers: int) -> float:
    """Seconds of the command, start-up and all."""
    line = [sys.executable, "-m", "sigtok.export.cli", "tokenize", str(source), str(out), "-m", "speech_24khz"]
    begun = time.perf_counter()
    options = ["--workers", str(workers), "--unit-seconds", "60"]
    subprocess.run([*line, *options], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def workers(folder: Path, paths: Sequence[Path]) -> None:
    minutes = MINUTES["workers"]
    source = corpus(folder / "in", paths, minutes, OWN)
    one, two = (command(source, folder / str(count), count) for count in (1, 2))
    columns = ["minutes", "one worker, x real time", "two", "ratio"]
    show("workers: the whole command", columns, [[minutes, 60 * minutes / one, 60 * minutes / two, one / two]])


def peak(source: Path, out: Path) -> float:
    """Megabytes that the largest process held."""
    line = [sys.executable, "-c", PEAK, "tokenize", str(source), str(out), "-m", "speech_24khz", "--workers", "1"]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


def write_long(path: Path, paths: Sequence[Path], minutes: int) -> None:
    """One file of so many minutes."""
    write_audio(path, recording(paths, 60 * minutes, HIGH), HIGH)


def memory(folder: Path, paths: Sequence[Path]) -> None:
    found = []
    for minutes in (1, 60):
        source = folder / str(minutes)
        source.mkdir()
        maker = get_context("spawn").Process(target=write_long, args=(source / "long.flac", paths, minutes))
        maker.start()  # a process counts what the one that began it held
        maker.join()
        found.append([minutes, peak(source, folder / f"out{minutes}")])
    show("memory: the largest process", ["minutes in one file", "MB at the peak"], found)


PARTS = {"pipeline": pipeline, "workers": workers, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[SPEECH])
    parser.add_argument("--part", choices=PARTS)
    options = parser.parse_args()
    for name in [options.part] if options.part else PARTS:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), options.files)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
