"""`sigtok evaluate`: a model over a set of files, as a table, a picture, and JSON that carries its origin."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from sigtok.codecs.codec import Codec
from sigtok.codecs.metrics.perceptual import load_lpips, read_tensors
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import CodecSpec

from .evaluate import THREADS, Evaluation, Row
from .exits import DATA, USAGE, Failure, located, say
from .inputs import SUFFIXES, Inputs, Item, Reader, gather
from .metrics import (
    KNOWN,
    Tools,
    chosen,
    default_metrics,
    metric_names,
    metrics_of,
    origins,
    tools_of,
    version_of,
)
from .outputs import check_not_input, identities, making, write_file
from .page import page
from .peers import NAMES, peers_of
from .picture import Curve, Panel, Point, svg
from .released import check_alone, open_model, resolve, resolve_quality, spec_of
from .sweep import Sweep, swept_metrics, told
from .tables import markdown, number, shown
from .transcode import each

LIBRARIES = ("sigtok", "torch", "numpy", "soundfile", "soxr", "pillow", "pillow-jxl-plugin", "ssimulacra2")
UNITS = {  # of the rate
    "audio": ("bits_per_second", "bit/s"),
    "image": ("bits_per_pixel", "bit/pixel"),
    "features": ("bits_per_second", "bit/s"),
}
MOST_RISE = 0.01  # of mel distance, from one number of codebooks to the next


def evaluate(args: Namespace) -> int:
    """Measure every input at every rate."""
    check_sweep(args)
    check_alone("--qualities", args.qualities, args.codebooks, args.queries)
    spec = spec_of(args.model)
    asked = product(args.windows or [None], args.codebooks or [None], args.queries or [None])
    rates = [resolve(spec, codebooks, queries, window) for window, codebooks, queries in asked]
    check_pictures_only(spec.modality, {"--size": args.size, "--perceptual": args.perceptual})
    tools = tools_of(args.perceptual, args.whisper)
    usual = (swept_metrics if args.sweep else default_metrics)(spec.modality, tools)
    names = asked_metrics(args, spec.modality, tools, usual)
    inputs = gather(args.inputs, SUFFIXES[spec.modality], args.where, args.exclude)
    check_outputs(args, inputs)
    check_judge(args.perceptual)
    others = models_beside(spec, args.beside or ())
    codec = open_model(args.model, args.device)
    reader = Reader(spec, args.downmix, say, args.size)  # one for all rates: it tells once
    metrics = metrics_of(spec.modality, tools, names)
    if args.sweep:
        models = {name: open_model(model, args.device) for name, model in others.items()}
        sweep = Sweep(codec, reader, metrics, *peers_of(spec), models)
        code = each(inputs, sweep.measure)
        if sweep.evaluations[0].rows:
            _tell_sweep(args, sweep, len(inputs.items), origins(names, tools))
        return code
    rates = [resolve_quality(codec, rate, quality) for rate, quality in product(rates, args.qualities or [None])]
    evaluations = [Evaluation(codec, rate, reader, metrics) for rate in rates]

    def work(item: Item, path: str) -> None:
        for evaluation in evaluations:
            evaluation.measure(path)["file"] = item.path

    code = each(inputs, work)
    if any(evaluation.rows for evaluation in evaluations):
        _tell(args, codec, evaluations, len(inputs.items), origins(names, tools))
    return code


def check_sweep(args: Namespace) -> None:
    """Raise Failure if a sweep is asked for and something else as well, or a page of none."""
    others = ("codebooks", "queries", "windows", "qualities", "picture")
    if given := [name for name in others if args.sweep and getattr(args, name)]:
        raise Failure(USAGE, f"--sweep takes every rung, got --{given[0]} as well; leave one out")
    for option, given, what in (("--html", args.html, "is the page of"), ("--beside", args.beside, "is a model in")):
        if given and not args.sweep:
            raise Failure(USAGE, f"{option} {what} a sweep, got none; add --sweep")


def models_beside(spec: CodecSpec, models: Sequence[str]) -> dict[str, str]:
    """Other models of a sweep, by the names that they have there.

    Raises:
        Failure: If one is of other signals than the first.
    """
    found = {}
    for model in models:
        other = spec_of(model)
        if (other.modality, other.sample_rate, other.channels) != (spec.modality, spec.sample_rate, spec.channels):
            raise Failure(USAGE, f"--beside {model}: models of one sweep take the same signals, got others; drop it")
        taken = other.name in found or other.name == spec.name or other.name in NAMES.values()
        found[model if taken else other.name] = model
    return found


def check_pictures_only(modality: str, options: Mapping[str, Any]) -> None:
    """Raise Failure if an option for pictures was given for something else."""
    given = next((name for name, value in options.items() if value), None)
    if given and modality != "image":
        raise Failure(USAGE, f"{given} is for pictures, got a model of {modality}; drop it")


def check_outputs(args: Namespace, inputs: Inputs) -> None:
    """Raise Failure if what ``--json`` and ``--picture`` name cannot be written, or is an input."""
    read = identities([*args.inputs, *(item.path for item in inputs.items)])
    drawn = {"picture": (args.picture, ".svg"), "html": (getattr(args, "html", None), ".html")}
    for path in (path for path in (args.json, *(path for path, _ in drawn.values())) if path and path != "-"):
        check_not_input(Path(path), read)
    for option, (path, suffix) in drawn.items():
        what = "picture" if option == "picture" else "page"
        if path and not path.lower().endswith(suffix):
            raise Failure(USAGE, f"{path}: a {what} is an {suffix} file, got another name; rename it")
        if path and path == args.json:
            raise Failure(USAGE, f"{path}: --{option} and --json are two files, got one name; rename one")
        if path and not Path(path).absolute().parent.is_dir():
            raise Failure(USAGE, f"{path}: a {what} goes into a folder that exists, got none; make it")


def asked_metrics(args: Namespace, modality: str, tools: Tools, usual: Sequence[str]) -> list[str]:
    """The metrics that ``--metrics`` names, the usual ones without it; tells which of the named cannot run here.

    Raises:
        Failure: If there is no such metric, or a file of Whisper is missing, or no metric asks for one.
    """
    try:
        names = chosen(modality, args.metrics or "default", usual)
    except ValueError as error:
        raise Failure(USAGE, f"--metrics: {error}") from None
    if args.whisper and "word_error_rate" not in names:
        raise Failure(USAGE, "--whisper is for word_error_rate, got none; add it to --metrics")
    if args.whisper and not Path(args.whisper).is_file():
        raise Failure(USAGE, f"{args.whisper}: a checkpoint of Whisper is a file, got none there; name one")
    for name in names:
        if reason := KNOWN[name].missing(tools):
            say(f"{name}: not computed ({reason})")
    return names


def check_judge(path: str | None) -> None:
    """Raise Failure if there is no such file of weights of LPIPS, it is another's, or has no linear heads."""
    if path is None:
        return
    try:
        judge = load_lpips(path)
    except ValueError as error:
        raise Failure(DATA if Path(path).is_file() else USAGE, located(path, str(error))) from error
    if judge.heads is None:
        raise Failure(DATA, f"{path}: LPIPS has linear heads, this file has none; make it again with --heads")


def protocol(size: int | None, perceptual: str | None) -> Row:
    """How pictures were measured, for the record: their size, None for whole ones, and the weights of LPIPS."""
    weights = None
    if perceptual is not None:
        data = Path(perceptual).read_bytes()
        weights = {"file": Path(perceptual).name, "sha256": sha256(data).hexdigest(), **read_tensors(perceptual)[1]}
    return {"size": size, "perceptual": weights}


def _tell(args: Namespace, codec: Codec, evaluations: Sequence[Evaluation], asked: int, metrics: Row) -> None:
    record, modality = report(codec, evaluations, args.line, asked) | {"metrics": metrics}, codec.spec.modality
    if modality == "image":
        record |= protocol(args.size, args.perceptual)
    if args.json != "-":
        print(table(modality, record["rates"]))
        if rise := record["mel_distance_rise"]:
            print(verdict(rise))
    if args.picture:
        write_text(args.picture, picture(codec.spec.name, modality, record["rates"]))
    write_json(args.json, record)


def _tell_sweep(args: Namespace, sweep: Sweep, asked: int, origin: Row) -> None:
    codec, metrics, modality = sweep.codec, list(sweep.metrics), sweep.codec.spec.modality
    record = report(codec, sweep.evaluations, args.line, asked) | {"metrics": origin} | sweep.record()
    if modality == "image":
        record |= protocol(args.size, args.perceptual)
    if args.json != "-":
        print(told(record, modality, metrics))
    if args.html:
        write_text(args.html, page(record, modality, metrics))
    write_json(args.json, record)


def write_json(path: str | None, record: Mapping[str, Any]) -> None:
    """Write a record to a file, to standard output if the path is "-", and nowhere if there is none."""
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    elif path:
        write_text(path, text)


def write_text(path: str, text: str) -> None:
    """Write a text file, whole or not at all."""
    with making(Path(path)):
        write_file(path, text.encode())


def report(codec: Codec, evaluations: Sequence[Evaluation], line: Sequence[str], asked: int) -> dict[str, Any]:
    """Figures with what they come from: command, model, versions, machine, files.

    Args:
        codec: The codec that was measured.
        evaluations: Of it, one per rate.
        line: The command.
        asked: How many files there were, bad ones too.
    """
    first = evaluations[0].rows
    rates = [{**evaluation.summary(), "rows": evaluation.rows} for evaluation in evaluations]
    return {
        **origin(codec, line),
        "files": len(first),
        "bad_files": asked - len(first),
        **{size: sum(row[size] for row in first) for size in ("seconds", "pixels") if size in first[0]},
        "mel_distance_rise": worst_rise(rates) if "mel_distance" in rates[0] else None,
        "rates": rates,
    }


def origin(codec: Codec, line: Sequence[str]) -> dict[str, Any]:
    """What figures come from: command, model, versions, machine."""
    return {**circumstances(line), "model": codec.spec.name, "stream_id": (codec.stream_id or stream_id(codec)).hex()}


def circumstances(line: Sequence[str]) -> dict[str, Any]:
    """What figures of any model come from: command, versions, machine."""
    return {
        "command": shlex.join(line),
        "versions": {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}},
        "machine": {"processor": platform.machine(), "threads": THREADS},
    }


def table(modality: str, rates: Sequence[Row]) -> str:
    """One line per rate, of summaries of evaluations, in Markdown."""
    unit, speed = UNITS[modality][0], "megapixels_per_second" if modality == "image" else "x_real_time"
    short = {"x_real_time": "x real time", "megapixels_per_second": "MP/s"}[speed]
    point = ("quality",) if "quality" in rates[0] else ("codebooks", "queries")
    counts, metrics = (*point, "files", "tokens", "bytes"), metric_names(modality, rates[0])
    rows = []
    for rate in rates:
        means = [number(rate[metric]["mean"]) for metric in metrics]
        speeds = [number(rate[f"{way}_{speed}"]) for way in ("encode", "decode")]
        rows.append([shown(rate["window"]), *(str(rate[key]) for key in counts), number(rate[unit]), *means, *speeds])
    heads = ["window", *counts, unit.replace("_", " "), *metrics, f"encode {short}", f"decode {short}"]
    return markdown(heads, rows)


def worst_rise(rates: Sequence[Row]) -> Row | None:
    """Where mel distance rises most, or falls least, from one number of codebooks to the next at equal window and
    queries; None if there are no two.

    ``rise`` is relative: 0.01 is one per cent.
    """
    rises = []
    for curve in _curves(rates, "window", "queries").values():
        means = {rate["codebooks"]: rate["mel_distance"]["mean"] for rate in curve}
        for before, after in pairwise(sorted(means)):
            if means[before] and means[after] is not None:
                place = {key: curve[0][key] for key in ("window", "queries")} | {"from": before, "to": after}
                rises.append({"rise": means[after] / means[before] - 1, **place})
    return max(rises, key=lambda row: row["rise"], default=None)


def verdict(rise: Row) -> str:
    """Whether more codebooks ever sound worse, in one line."""
    holds = "yes" if rise["rise"] <= MOST_RISE else "no"
    where = f"{rise['from']} to {rise['to']} codebooks, window {shown(rise['window'])}"
    return (
        f"mel distance never rises by more than {MOST_RISE * 100:.0f} % from one codebook to the next: {holds} "
        f"(worst {rise['rise'] * 100:+.1f} %, {where})"
    )


def picture(name: str, modality: str, rates: Sequence[Row]) -> str:
    """Quality over rate as SVG: a curve per window over codebooks, or over queries if codebooks do not vary."""
    unit, short = UNITS[modality]
    keys = ("window", "queries") if len({rate["codebooks"] for rate in rates}) > 1 else ("window",)
    several = "queries" in keys and len({rate["queries"] for rate in rates}) > 1
    panels = []
    for metric, label in drawn(modality, rates[0]):
        curves = []
        for group in _curves(rates, *keys).values():
            queries = f", {group[0]['queries']} queries" if several else ""
            found = [rate for rate in group if rate[unit] and rate[metric]["mean"] is not None]
            points = (Point(rate[unit], rate[metric]["mean"], _point(rate, unit, short, metric)) for rate in found)
            curves.append(Curve(f"window {shown(group[0]['window'])}{queries}", tuple(sorted(points))))
        panels.append(Panel(f"rate of real bytes, {short}", label, tuple(curves)))
    return svg(f"{name}: quality over rate", panels)


def drawn(modality: str, summary: Row) -> list[tuple[str, str]]:
    """Metrics that a picture shows, of those that a summary has, and the names of their axes."""
    names = metric_names(modality, summary)
    shown = [name for name in names if KNOWN[name].pictured] or names
    return [(name, KNOWN[name].label) for name in shown]


def _curves(rates: Sequence[Row], *keys: str) -> dict[str, list[Row]]:
    """Summaries that agree in some keys."""
    groups: dict[str, list[Row]] = {}
    for rate in rates:
        groups.setdefault(str([rate[key] for key in keys]), []).append(rate)
    return groups


def _point(rate: Row, unit: str, short: str, metric: str) -> str:
    counts = f"{rate['codebooks']} codebooks, {rate['queries']} queries"
    counts = f"quality {rate['quality']:g}" if "quality" in rate else counts
    return f"{counts}: {number(rate[unit])} {short}, {metric} {number(rate[metric]['mean'])}"
