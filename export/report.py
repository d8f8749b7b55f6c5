"""`sigtok evaluate`: a model over a set of files, as a table, and as JSON that carries its origin."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from sigtok.codecs.codec import Codec
from sigtok.codecs.pretrained import stream_id

from .evaluate import METRICS, Evaluation
from .exits import USAGE, Failure, say
from .inputs import SUFFIXES, Item, Reader, gather
from .outputs import check_not_input, identities, making, write_file
from .released import open_model, resolve, spec_of
from .tables import columns
from .transcode import each

LIBRARIES = ("sigtok", "torch", "numpy", "soundfile", "soxr", "pillow")


def evaluate(args: Namespace) -> int:
    """Measure every input at every rate."""
    spec = spec_of(args.model)
    rates = [resolve(spec, *pair) for pair in product(args.codebooks or [None], args.queries or [None])]
    if args.where and not any(path.lower().endswith(".csv") for path in args.inputs):
        raise Failure(USAGE, "--where chooses rows of a CSV manifest, got none among the inputs; name one")
    inputs = gather(args.inputs, SUFFIXES[spec.modality], dict(args.where))
    if args.json and args.json != "-":
        check_not_input(Path(args.json), identities([*args.inputs, *(item.path for item in inputs.items)]))
    codec = open_model(args.model, args.device)
    reader = Reader(spec, args.downmix, say)  # one for all rates: it tells once
    evaluations = [Evaluation(codec, rate, reader) for rate in rates]

    def work(item: Item, path: str) -> None:
        for evaluation in evaluations:
            evaluation.measure(path)["file"] = item.path

    code = each(inputs, work)
    if any(evaluation.rows for evaluation in evaluations):
        _tell(args, codec, evaluations, len(inputs.items))
    return code


def _tell(args: Namespace, codec: Codec, evaluations: Sequence[Evaluation], asked: int) -> None:
    record = report(codec, evaluations, args.line, asked)
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    if args.json == "-":
        sys.stdout.write(text)
        return
    print(table(codec.spec.modality, evaluations))
    if args.json:
        with making(Path(args.json)):
            write_file(args.json, text.encode())


def report(codec: Codec, evaluations: Sequence[Evaluation], line: Sequence[str], asked: int) -> dict[str, Any]:
    """Figures with what they come from: command, model, versions, machine, files.

    Args:
        codec: The codec that was measured.
        evaluations: Of it, one per rate.
        line: The command.
        asked: How many files there were, bad ones too.
    """
    first = evaluations[0].rows
    return {
        "command": shlex.join(line),
        "model": codec.spec.name,
        "stream_id": (codec.stream_id or stream_id(codec)).hex(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "files": len(first),
        "bad_files": asked - len(first),
        **{size: sum(row[size] for row in first) for size in ("seconds", "pixels") if size in first[0]},
        "rates": [{**evaluation.summary(), "rows": evaluation.rows} for evaluation in evaluations],
    }


def table(modality: str, evaluations: Sequence[Evaluation]) -> str:
    """One line per rate."""
    unit, speed = (
        ("bits_per_second", "x_real_time") if modality == "audio" else ("bits_per_pixel", "megapixels_per_second")
    )
    short = {"x_real_time": "x real time", "megapixels_per_second": "MP/s"}[speed]
    heads = ["rate", "files", "tokens", "bytes", unit.replace("_", " "), *METRICS[modality]]
    rows = []
    for evaluation in evaluations:
        summary = evaluation.summary()
        name = f"{summary['codebooks']} codebooks, {summary['queries']} queries"
        counts = [str(summary[key]) for key in ("files", "tokens", "bytes")]
        means = [number(summary[metric]["mean"]) for metric in METRICS[modality]]
        speeds = [number(summary[f"{way}_{speed}"]) for way in ("encode", "decode")]
        rows.append([name, *counts, number(summary[unit]), *means, *speeds])
    return columns([*heads, f"encode {short}", f"decode {short}"], rows)


def number(value: float | int | None) -> str:
    """Four digits, or a dash for what could not be computed."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
