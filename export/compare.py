"""`sigtok compare`: several models over the same files, beside other formats at equal sizes; a table and a picture."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigtok.codecs.codec import Codec
from sigtok.codecs.media import LOSSY, has_format, image_from_bytes, image_to_bytes
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import CodecSpec, Rate

from .evaluate import Evaluation, Row, area, distances, summarised
from .exits import USAGE, Failure, say
from .inputs import SUFFIXES, Item, Reader, gather
from .metrics import Measure, default_metrics, metric_names, metrics_of, origins, tools_of
from .peers import NAMES
from .picture import Curve, Panel, Point, svg
from .released import check_alone, described, open_model, resolve, resolve_quality, spec_of
from .report import (
    UNITS,
    asked_metrics,
    check_judge,
    check_outputs,
    check_pictures_only,
    circumstances,
    drawn,
    protocol,
    write_json,
    write_text,
)
from .tables import markdown, number
from .transcode import each

WORST, BEST = 1, 100  # quality of a format
SETTINGS: dict[str, Callable[[str], Any]] = {  # of an operating point on the command line
    "codebooks": int,
    "queries": int,
    "window": int,
    "shares": lambda text: tuple(map(float, text.split(","))),
    "quality": float,
}


class Contender(NamedTuple):
    """A model at one operating point."""

    name: str
    point: str
    evaluation: Evaluation


def compare(args: Namespace) -> int:
    """Measure every input by every model at every operating point, and in every other format."""
    asked = points(args)
    specs = {model: spec_of(model) for model in asked}
    modality, formats = one_modality(specs), formats_of(args.formats)
    rates = {model: [rate_of(specs[model], each) for each in settings] for model, settings in asked.items()}
    qualities = {model: [each.get("quality") for each in settings] for model, settings in asked.items()}
    check_pictures_only(modality, {"--with": formats, "--size": args.size, "--perceptual": args.perceptual})
    tools = tools_of(args.perceptual, args.whisper)
    chosen = asked_metrics(args, modality, tools, default_metrics(modality, tools))
    inputs = gather(args.inputs, SUFFIXES[modality], args.where, args.exclude)
    check_outputs(args, inputs)
    check_judge(args.perceptual)
    metrics, names = metrics_of(modality, tools, chosen), labels(specs)
    codecs = {model: open_model(model, args.device) for model in specs}
    contenders = []
    for model, codec in codecs.items():
        reader = Reader(codec.spec, args.downmix, say, args.size)
        pairs = zip(rates[model], qualities[model], strict=True)
        for rate in dict.fromkeys(resolve_quality(codec, *pair) for pair in pairs):  # each once
            evaluation = Evaluation(codec, rate, reader, metrics)
            contenders.append(Contender(names[model], described(codec.spec, rate), evaluation))
    comparison = Comparison(contenders, formats, metrics)
    code = each(inputs, comparison.measure)
    if comparison.files:
        record = {
            **circumstances(args.line),
            **(protocol(args.size, args.perceptual) if modality == "image" else {}),
            "models": [{"name": names[model], "stream_id": identity(codec)} for model, codec in codecs.items()],
            "metrics": origins(chosen, tools),
            "files": comparison.files,
            "bad_files": len(inputs.items) - comparison.files,
            "points": comparison.points(),
        }
        if args.json != "-":
            print(table(modality, record["points"]))
        if args.picture:
            write_text(args.picture, picture(modality, record["points"]))
        write_json(args.json, record)
    return code


class Comparison:
    """Models at operating points over the same files, and these in other formats at the same sizes.

    Args:
        contenders: The models.
        formats: Some of `LOSSY`, for pictures.
        metrics: To measure.
    """

    def __init__(self, contenders: Sequence[Contender], formats: Sequence[str], metrics: Mapping[str, Measure]) -> None:
        self.contenders, self.formats, self.metrics = contenders, formats, metrics
        self.beside: dict[tuple[str, int], list[Row]] = {pair: [] for pair in product(formats, range(len(contenders)))}

    @property
    def files(self) -> int:
        """How many were measured."""
        return len(self.contenders[0].evaluation.rows)

    def measure(self, item: Item, path: str) -> None:
        """One more file; all or none have it.

        Raises:
            ValueError: If a model or a format does not take the file.
        """
        everything = [*(contender.evaluation.rows for contender in self.contenders), *self.beside.values()]
        before = self.files
        try:
            sizes = [contender.evaluation.measure(path)["bytes"] for contender in self.contenders]
            for form in self.formats:
                ladder = Ladder(self.contenders[0].evaluation.reader.read(path), form, self.metrics)
                for place, size in enumerate(sizes):
                    self.beside[form, place].append(ladder.nearest(size))
        except BaseException:
            for rows in everything:
                del rows[before:]
            raise
        for rows in everything:
            rows[-1]["file"] = item.path

    def points(self) -> list[Row]:
        """Summaries with their names and their files: of the models, then of the formats."""
        found = []
        for name, point, evaluation in self.contenders:
            found.append({"model": name, "point": point, **evaluation.summary(), "rows": evaluation.rows})
        for (form, place), rows in self.beside.items():
            about = {"model": NAMES[form], "point": f"at {self.contenders[place].name}, {self.contenders[place].point}"}
            smallest = sum(row["smallest"] for row in rows)
            found.append({**about, "smallest": smallest, **summarised(rows, self.metrics), "rows": rows})
        return found


# -- what is asked for -----------------------------------------------------------------------------------------


def points(args: Namespace) -> dict[str, list[dict[str, Any]]]:
    """Operating points by model: those of the command line, or its own.

    Raises:
        Failure: If a setting is none of `SETTINGS`, or no number.
    """
    check_alone("--qualities", args.qualities, args.codebooks, args.queries)
    asked: dict[str, list[dict[str, Any]]] = {}
    general: list[dict[str, Any]] = [
        {"codebooks": codebooks, "queries": queries}
        for codebooks, queries in product(args.codebooks or [None], args.queries or [None])
    ]
    general = [{"quality": quality} for quality in args.qualities] if args.qualities else general
    for text in args.model:
        model, own = parsed(text)
        asked.setdefault(model, []).extend([own] if own else general)
    return asked


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """A model and the settings behind it: "folder:queries=64"."""
    parts = text.split(":")
    first = next((place for place, part in enumerate(parts) if place and "=" in part), len(parts))
    settings: dict[str, Any] = {}
    for part in parts[first:]:
        name, _, value = part.partition("=")
        try:
            if name not in SETTINGS:
                raise ValueError
            settings[name] = SETTINGS[name](value)
        except ValueError:
            raise Failure(
                USAGE,
                f"{text}: behind a model stand codebooks=, queries=, window=, shares= or quality= and numbers, got "
                f"{part!r}; write for example MODEL:queries=64",
            ) from None
    check_alone(f"{text}: quality=", settings.get("quality"), settings.get("codebooks"), settings.get("queries"))
    return ":".join(parts[:first]), settings


def rate_of(spec: CodecSpec, settings: Mapping[str, Any]) -> Rate:
    """An operating point, but for its quality."""
    return resolve(spec, *(settings.get(name) for name in ("codebooks", "queries", "window", "shares")))


def one_modality(specs: Mapping[str, CodecSpec]) -> str:
    """The modality of all models.

    Raises:
        Failure: If they have several.
    """
    modalities = sorted({spec.modality for spec in specs.values()})
    if len(modalities) > 1:
        raise Failure(USAGE, f"models of one kind are compared, got {' and '.join(modalities)}; compare them apart")
    return modalities[0]


def formats_of(text: str | None) -> list[str]:
    """Formats by name.

    Raises:
        Failure: If there is no such format, or this Pillow does not write it.
    """
    formats = list(dict.fromkeys(text.lower().split(","))) if text else []
    for form in formats:
        if form not in LOSSY:
            raise Failure(USAGE, f"--with takes {', '.join(LOSSY)}, got {form!r}; name some of them")
        if not has_format(form):
            raise Failure(USAGE, f"--with {form}: the Pillow that is installed does not write it; drop it")
    return formats


def labels(specs: Mapping[str, CodecSpec]) -> dict[str, str]:
    """A name for every model: its own, or its folder where two have the same."""
    own = [spec.name for spec in specs.values()]
    return {model: spec.name if own.count(spec.name) == 1 else model for model, spec in specs.items()}


# -- other formats ---------------------------------------------------------------------------------------------


class Ladder:
    """One picture in one format at all qualities, each made when it is asked for.

    Args:
        signal: The picture ``[3, H, W]``.
        form: One of `LOSSY`.
        metrics: To measure.
    """

    def __init__(self, signal: Tensor, form: str, metrics: Mapping[str, Measure]) -> None:
        self.signal, self.form, self.metrics = signal, form, metrics
        self.files: dict[int, tuple[bytes, float]] = {}  # by quality, with the seconds that they took
        self.rows: dict[int, Row] = {}

    def file(self, quality: int) -> bytes:
        """The file of one quality."""
        if quality not in self.files:
            start = perf_counter()
            data = image_to_bytes(self.signal.numpy(), self.form, quality)
            self.files[quality] = data, perf_counter() - start
        return self.files[quality][0]

    def nearest(self, size: int) -> Row:
        """The row of the file whose size is nearest to one in bytes; ``smallest`` if there is none as small."""
        low, high = WORST, BEST
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(self.file(middle)) >= size else (middle + 1, high)
        near = range(max(WORST, low - 2), min(BEST, low + 2) + 1)  # sizes rise with quality, nearly always
        quality = min(near, key=lambda quality: abs(len(self.file(quality)) - size))
        return {**self.row(quality), "smallest": all(len(self.file(each)) > size for each in near)}

    def row(self, quality: int) -> Row:
        """What can be said about the file of one quality."""
        if quality not in self.rows:
            data, seconds = self.file(quality), self.files[quality][1]
            start = perf_counter()
            decoded: np.ndarray = image_from_bytes(data)
            times = {"encode_seconds": seconds, "decode_seconds": perf_counter() - start}
            values, reasons = distances(torch.from_numpy(decoded), self.signal, "image", 0, self.metrics)
            about = {"quality": quality, "bytes": len(data), **area(self.signal, len(data)), **times, **values}
            self.rows[quality] = about | ({"not_computed": reasons} if reasons else {})
        return self.rows[quality]


# -- what is told ----------------------------------------------------------------------------------------------


def identity(codec: Codec) -> str:
    """What the files of a model are signed with."""
    return (codec.stream_id or stream_id(codec)).hex()


def table(modality: str, rows: Sequence[Row]) -> str:
    """One line per model and operating point, then one per format and size, in Markdown."""
    unit, speed = UNITS[modality][0], "megapixels_per_second" if modality == "image" else "x_real_time"
    short = {"x_real_time": "x real time", "megapixels_per_second": "MP/s"}[speed]
    metrics = metric_names(modality, rows[0])
    lines = []
    for row in rows:
        smallest = f" (larger for {row['smallest']} of {row['files']} files)" if row.get("smallest") else ""
        means = [number(row[metric]["mean"]) for metric in metrics]
        speeds = [number(row[f"{way}_{speed}"]) for way in ("encode", "decode")]
        lines.append([row["model"], row["point"] + smallest, str(row["bytes"]), number(row[unit]), *means, *speeds])
    heads = ["model", "point", "bytes", unit.replace("_", " "), *metrics, f"encode {short}", f"decode {short}"]
    return markdown(heads, lines)


def picture(modality: str, rows: Sequence[Row]) -> str:
    """Quality over rate as SVG: a curve per model and per format."""
    unit, short = UNITS[modality]
    panels = []
    for metric, label in drawn(modality, rows[0]):
        curves = []
        for name in dict.fromkeys(row["model"] for row in rows):
            found = [row for row in rows if row["model"] == name and row[unit] and row[metric]["mean"] is not None]
            dots = (Point(row[unit], row[metric]["mean"], _dot(row, unit, short, metric)) for row in found)
            curves.append(Curve(name, tuple(sorted(dots))))
        panels.append(Panel(f"rate of real bytes, {short}", label, tuple(curves)))
    return svg("quality over rate", panels)


def _dot(row: Row, unit: str, short: str, metric: str) -> str:
    return f"{row['model']}, {row['point']}: {number(row[unit])} {short}, {metric} {number(row[metric]['mean'])}"
