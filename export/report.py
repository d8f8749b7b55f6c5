"""`sigtok evaluate`: a model over a set of files, as a table, a picture, and JSON that carries its origin."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch

from sigtok.codecs.codec import Codec
from sigtok.codecs.entropy.coder import Prior
from sigtok.codecs.metrics.perceptual import load_lpips, read_tensors
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import CodecSpec

from .evaluate import THREADS, Evaluation, Row, threads
from .exits import DATA, DIFFERENT, GOOD, NO_OUTPUT, USAGE, Failure, located, say
from .inputs import SUFFIXES, Inputs, Item, Reader, gather, hash_of
from .metrics import KNOWN, Tools, chosen, default_metrics, metric_names, metrics_of, tools_of, version_of
from .outputs import check_not_input, identities, making, write_file, writing_lines
from .page import evaluation_page, page
from .peers import NAMES, peers_of
from .picture import Curve, Panel, Point, svg
from .protocol import Earlier, Files, protocol_of
from .protocol import told as told_again
from .released import at_rate_of, check_alone, described, open_model, open_prior, resolve, resolve_quality, spec_of
from .sweep import Sweep, swept_metrics, told
from .tables import markdown, number, shown
from .transcode import each
from .worst import Worst, worst_of

LIBRARIES = ("sigtok", "torch", "numpy", "soundfile", "soxr", "pillow", "pillow-jxl-plugin", "ssimulacra2")
UNITS = {  # of the rate
    "audio": ("bits_per_second", "bit/s"),
    "image": ("bits_per_pixel", "bit/pixel"),
    "features": ("bits_per_second", "bit/s"),
}
WRITTEN = {  # by option: what it is, and its suffix
    "json": ("result", ""),
    "jsonl": ("list of rows", ""),
    "picture": ("picture", ".svg"),
    "html": ("page", ".html"),
}
MOST_RISE = 0.01  # of mel distance, from one number of codebooks to the next


def evaluate(args: Namespace) -> int:
    """Measure every input at every rate."""
    check_sweep(args)
    check_alone("--qualities", args.qualities, args.codebooks, args.queries)
    spec, earlier = spec_of(args.model), earlier_of(args)
    check_pictures_only(spec.modality, {"--size": args.size, "--perceptual": args.perceptual})
    tools = tools_of(args.perceptual, args.whisper)
    usual = (swept_metrics if args.sweep else default_metrics)(spec.modality, tools)
    names = asked_metrics(args, spec.modality, tools, usual)
    if earlier:
        rates, inputs = earlier.rates(spec), earlier.inputs()
    else:
        asked = product(args.windows or [None], args.codebooks or [None], args.queries or [None])
        rates = [resolve(spec, codebooks, queries, window) for window, codebooks, queries in asked]
        inputs = gather(args.inputs, SUFFIXES[spec.modality], args.where, args.exclude)
    check_outputs(args, inputs)
    check_judge(args.perceptual)
    others = models_beside(spec, args.beside or ())
    codec, prior = open_model(args.model, args.device), open_prior(args.prior)
    if earlier:
        earlier.check_prior(prior)
    reader, files = Reader(spec, args.downmix, say, args.size), Files()  # one for all rates: it tells once
    metrics = metrics_of(spec.modality, tools, names)
    if args.sweep:
        models = {name: open_model(model, args.device) for name, model in others.items()}
        sweep = Sweep(codec, reader, metrics, *peers_of(spec), models)
        code = each(inputs, files.hashed(sweep.measure))
        if sweep.evaluations[0].rows:
            _tell_sweep(args, sweep, files, len(inputs.items))
        return code
    pairs = product(rates, args.qualities or [None])
    asked_for = bool(earlier or args.codebooks or args.queries or args.windows or args.qualities)
    resolved = (at_rate_of(prior, codec, resolve_quality(codec, *pair), asked_for) for pair in pairs)
    evaluations = [Evaluation(codec, rate, reader, metrics, prior) for rate in dict.fromkeys(resolved)]  # each once
    worst = [worst_of(names, tools, spec.modality, spec.sample_rate) for _ in evaluations]
    for evaluation, kept in zip(evaluations, worst, strict=True):
        evaluation.seen = kept.see if args.html else None

    with writing_lines(args.jsonl) as write, threads(earlier.threads if earlier else torch.get_num_threads()):

        def work(item: Item, path: str) -> None:
            for evaluation in evaluations:
                row = evaluation.measure(path)
                row["file"] = item.path
                write({**evaluation.point, **row})

        code = each(inputs, files.hashed(work))
        if not any(evaluation.rows for evaluation in evaluations):
            return code
        return _tell(args, evaluations, files, len(inputs.items), worst, earlier) or code


def earlier_of(args: Namespace) -> Earlier | None:
    """The result that is measured again, if one is named; its settings become those of the command.

    Raises:
        Failure: If there is none and no file either, or the command says otherwise.
    """
    if args.protocol is None:
        if not args.inputs:
            raise Failure(USAGE, "files are measured, got none; name files, folders or manifests, or --protocol")
        return None
    earlier = Earlier(args.protocol)
    earlier.check(args)
    args.size, args.downmix, args.where, args.exclude = earlier.size, earlier.downmix, earlier.where, earlier.exclude
    args.metrics = ",".join(earlier.metrics)
    return earlier


def check_sweep(args: Namespace) -> None:
    """Raise Failure if a sweep is asked for and something else as well, or a model beside none."""
    others = ("codebooks", "queries", "windows", "qualities", "picture", "prior")
    if given := [name for name in others if args.sweep and getattr(args, name)]:
        raise Failure(USAGE, f"--sweep takes every rung, got --{given[0]} as well; leave one out")
    if args.beside and not args.sweep:
        raise Failure(USAGE, "--beside is a model in a sweep, got none; add --sweep")
    if args.jsonl and args.sweep:
        raise Failure(USAGE, "--jsonl has a line per file and rate of one model, got --sweep as well; leave one out")


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
    """Raise Failure if what ``--json``, ``--jsonl``, ``--picture`` and ``--html`` name cannot be written, or is an
    input."""
    named = [*args.inputs, *filter(None, [getattr(args, "protocol", None), args.perceptual, args.whisper])]
    read = identities([*named, *(item.path for item in inputs.items)])
    seen: dict[str, str] = {}
    for option, (what, suffix) in WRITTEN.items():
        path = getattr(args, option, None)
        if not path or (path == "-" and option == "json"):
            continue
        check_not_input(Path(path), read)
        if not path.lower().endswith(suffix):
            raise Failure(USAGE, f"{path}: a {what} is an {suffix} file, got another name; rename it")
        if path in seen:
            raise Failure(USAGE, f"{path}: --{option} and --{seen[path]} are two files, got one name; rename one")
        if not Path(path).absolute().parent.is_dir():
            raise Failure(NO_OUTPUT, f"{path}: a {what} goes into a folder that exists, got none; make it")
        if Path(path).is_dir():
            raise Failure(NO_OUTPUT, f"{path}: a {what} is a file, got a folder; choose another name")
        seen[path] = option


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
        digest = hash_of(perceptual)["sha256"]
        weights = {"file": Path(perceptual).name, "sha256": digest, **read_tensors(perceptual)[1]}
    return {"size": size, "perceptual": weights}


def _tell(
    args: Namespace,
    evaluations: Sequence[Evaluation],
    files: Files,
    asked: int,
    worst: Sequence[Worst],
    earlier: Earlier | None,
) -> int:
    """Everything that is known; the exit code, other than good if an earlier result has other figures."""
    codec = evaluations[0].codec
    record, modality = report(codec, evaluations, args.line, asked), codec.spec.modality
    if modality == "image":
        record |= protocol(args.size, args.perceptual)
    record["protocol"] = protocol_of(args, evaluations, files, record)
    if isinstance(evaluations[0].coder, Prior):
        record["protocol"]["prior"] = f"{evaluations[0].coder.fingerprint:08x}"
    if earlier:
        record["again"] = earlier.verdict(record)
    if args.json != "-":
        print(table(modality, record["rates"]))
        if rise := record["mel_distance_rise"]:
            print(verdict(rise))
    if args.picture:
        write_text(args.picture, picture(codec.spec.name, modality, record["rates"]))
    if args.html:
        write_text(args.html, _page(record, evaluations, worst))
    write_json(args.json, record)
    if not earlier:
        return GOOD
    say(told_again(record["again"]))
    return GOOD if record["again"]["equal"] else DIFFERENT


def _page(record: Row, evaluations: Sequence[Evaluation], worst: Sequence[Worst]) -> str:
    """The page of an evaluation; files and codebooks are those of its highest rate."""
    spec = evaluations[0].codec.spec
    highest = max(range(len(evaluations)), key=lambda place: record["rates"][place]["bytes"])
    return evaluation_page(
        record,
        spec,
        [described(spec, evaluation.rate) for evaluation in evaluations],
        list(evaluations[0].metrics),
        panels(spec.modality, record["rates"]),
        evaluations[highest].counts.per_codebook(),
        worst[highest],
        highest,
    )


def _tell_sweep(args: Namespace, sweep: Sweep, files: Files, asked: int) -> None:
    codec, metrics, modality = sweep.codec, list(sweep.metrics), sweep.codec.spec.modality
    record = report(codec, sweep.evaluations, args.line, asked) | sweep.record()
    if modality == "image":
        record |= protocol(args.size, args.perceptual)
    record["protocol"] = protocol_of(args, sweep.evaluations, files, record)
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
    return svg(f"{name}: quality over rate", panels(modality, rates))


def panels(modality: str, rates: Sequence[Row]) -> list[Panel]:
    """Those of `picture`, one per metric that is drawn."""
    unit, short = UNITS[modality]
    keys = ("window", "queries") if len({rate["codebooks"] for rate in rates}) > 1 else ("window",)
    several = "queries" in keys and len({rate["queries"] for rate in rates}) > 1
    found = []
    for metric, label in drawn(modality, rates[0]):
        curves = []
        for group in _curves(rates, *keys).values():
            queries = f", {group[0]['queries']} queries" if several else ""
            some = [rate for rate in group if rate[unit] and rate[metric]["mean"] is not None]
            points = (Point(rate[unit], rate[metric]["mean"], _point(rate, unit, short, metric)) for rate in some)
            curves.append(Curve(f"window {shown(group[0]['window'])}{queries}", tuple(sorted(points))))
        found.append(Panel(f"rate of real bytes, {short}", label, tuple(curves)))
    return found


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
