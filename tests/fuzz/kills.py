"""Kill `sigtok tokenize` at random moments and let it go on, until it is done; again and again.

    python -m tests.fuzz.kills --kills 200

Each kill is a SIGKILL, drawn from three: of the command, of the command with all its processes, or of one of its
workers. A fifth come at any moment from the start of the command, the others after a first shard of that run. Every
output that is completed is compared, byte for byte, with that of a run that nothing disturbed. The exit code is 1 if
one differs, an item is lost or doubled, or a process outlives its command.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.media import write_audio
from sigtok.codecs.pretrained import save
from sigtok.codecs.shards import Shard

TINY = dict(dim=32, heads=2, encoder_depth=1, decoder_depth=1, codebook_size=64, latent_dim=8, decoder_blocks=1)
SOUNDS, WORKERS = 60, 2
LATE = 2.0  # seconds after a first shard, at most
GRACE = 10.0  # seconds in which workers notice that their command has gone


def make(folder: Path) -> tuple[Path, Path]:
    """A model and sounds for it."""
    torch.manual_seed(0)
    arguments = dict(TINY, codebooks=3, context=0.3)
    codec, model, corpus = query_speech(**arguments).eval(), folder / "model", folder / "corpus"
    save(codec, model, builder="query_speech", arguments=arguments, licence="", training_data="", measured={}, card="")
    corpus.mkdir()
    generator = np.random.default_rng(0)
    for number in range(SOUNDS):
        samples = int(generator.integers(20_000, 200_000))
        write_audio(corpus / f"{number:03d}.wav", 0.1 * generator.standard_normal((1, samples)), 24_000)
    return model, corpus


def command(model: Path, corpus: Path, out: Path) -> list[str]:
    line = [sys.executable, "-m", "sigtok.export.cli", "tokenize", str(corpus), str(out), "-m", str(model)]
    return [*line, "--workers", str(WORKERS), "--unit-seconds", "4"]


def tree(out: Path) -> dict[str, str]:
    """Digests of all that was written; plans name places."""
    names = (path for path in sorted(out.iterdir()) if not path.name.startswith((".lock", "plan")))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def ids(out: Path) -> Counter[str]:
    return Counter(name for path in out.glob("shard-*.parquet") for name in Shard(path).ids)


def children(parent: int) -> list[int]:
    """Workers that it began and that still run."""
    found = Path(f"/proc/{parent}/task/{parent}/children")
    numbers = [int(number) for number in found.read_text().split()] if found.exists() else []
    return [number for number in numbers if b"spawn_main" in line_of(number)]


def line_of(number: int) -> bytes:
    """The command line of a process; empty if it has gone."""
    with suppress(OSError):
        return Path(f"/proc/{number}/cmdline").read_bytes()
    return b""


def strike(process: subprocess.Popen[bytes], draw: random.Random, out: Path) -> str | None:
    """Wait for a moment and kill; what was killed, None if the command was done before."""
    there = len(list(out.glob("shard-*.json")))
    if draw.random() < 0.2:
        time.sleep(draw.uniform(0, 8))
    else:
        while process.poll() is None and len(list(out.glob("shard-*.json"))) == there:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, LATE))
    if process.poll() is not None:
        return None
    below = children(process.pid)
    kind = draw.choice(["command", "all", "worker"] if below else ["command", "all"])
    try:
        if kind == "worker":
            os.kill(draw.choice(below), signal.SIGKILL)
        elif kind == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        return None
    if kind != "worker":
        process.wait()
        ends = time.monotonic() + GRACE
        while any(line_of(number) for number in below) and time.monotonic() < ends:
            time.sleep(0.02)
        if any(line_of(number) for number in below):
            print("a worker outlived its command", flush=True)
            raise SystemExit(1)
    return kind


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, kills, outputs, runs, begun = random.Random(options.seed), Counter[str](), 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        model, corpus = make(Path(name))
        whole, out = Path(name) / "whole", Path(name) / "out"
        subprocess.run(command(model, corpus, whole), check=True, stdout=subprocess.DEVNULL)
        expected, all_ids = tree(whole), ids(whole)
        assert len(all_ids) == SOUNDS and set(all_ids.values()) == {1}
        while sum(kills.values()) < options.kills:
            process = subprocess.Popen(
                command(model, corpus, out),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            runs += 1
            if kind := strike(process, draw, out):
                kills[kind] += 1
                print(f"{sum(kills.values())} kills, {outputs} outputs", end="\r", file=sys.stderr, flush=True)
            if kind in (None, "worker") and process.wait() != 0:
                print(f"ended with {process.returncode} after {dict(kills)}", flush=True)
                return 1
            if (out / "manifest.json").exists():
                outputs += 1
                if tree(out) != expected or ids(out) != all_ids:
                    print(f"an output differs after {dict(kills)}", flush=True)
                    return 1
                shutil.rmtree(out)
        if out.exists():
            subprocess.run(command(model, corpus, out), check=True, stdout=subprocess.DEVNULL)
            outputs += 1
            if tree(out) != expected or ids(out) != all_ids:
                print("the last output differs", flush=True)
                return 1
    kinds = ", ".join(f"{count} of {kind}" for kind, count in sorted(kills.items()))
    print(
        f"{sum(kills.values())} kills ({kinds}) in {runs} runs, {outputs} outputs of {len(expected)} files: 0 bytes "
        f"differ, 0 of {SOUNDS} items are lost or doubled; {time.monotonic() - begun:.0f} s"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
