"""`sigtok compare`: several models over the same files, beside other formats at equal sizes; a table and a picture."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigtok.codecs.codec import Codec
from sigtok.codecs.media import LOSSY, OPUS_KILOBITS, has_format
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import CodecSpec, Rate

from .evaluate import Evaluation, Row, area, distances, duration, summarised
from .exits import USAGE, Failure, say
from .inputs import SUFFIXES, Item, Reader, gather
from .metrics import Measure, default_metrics, metric_names, metrics_of, tools_of
from .page import comparison_page
from .peers import NAMES, Peer
from .picture import Curve, Panel, Point, svg
from .protocol import Files, conditions
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
from .sight import Sight
from .tables import markdown, number, point_text
from .transcode import each

WORST, BEST = 1, 100  # quality of a format of pictures
SHOWN = 5  # files, on a page
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
    modality = one_modality(specs)
    formats = formats_of(args.formats, list(specs.values()))
    rates = {model: [rate_of(specs[model], each) for each in settings] for model, settings in asked.items()}
    qualities = {model: [each.get("quality") for each in settings] for model, settings in asked.items()}
    check_pictures_only(modality, {"--size": args.size, "--perceptual": args.perceptual})
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
    picked = spread([item.path for item in inputs.items], SHOWN) if args.html else []
    comparison, files = Comparison(contenders, formats, metrics, picked), Files()
    code = each(inputs, files.hashed(comparison.measure))
    if comparison.files:
        about = circumstances(args.line)
        record = {
            **about,
            **(protocol(args.size, args.perceptual) if modality == "image" else {}),
            "models": [{"name": names[model], "stream_id": identity(codec)} for model, codec in codecs.items()],
            "files": comparison.files,
            "bad_files": len(inputs.items) - comparison.files,
            "protocol": {"files": files.records, **conditions(args, chosen, resampled(specs), about["versions"])},
            "points": comparison.points(),
        }
        if args.json != "-":
            print(table(modality, record["points"]))
        if args.picture:
            write_text(args.picture, picture(modality, record["points"]))
        if args.html:
            curves = panels(modality, record["points"])
            write_text(args.html, comparison_page(record, modality, list(metrics), curves, comparison.sights))
        write_json(args.json, record)
    return code


class Comparison:
    """Models at operating points over the same files, and these in other formats at the same sizes.

    Args:
        contenders: The models.
        formats: Some of `LOSSY`, for pictures.
        metrics: To measure.
        picked: Files that a page shows, in ``sights``.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        formats: Sequence[str],
        metrics: Mapping[str, Measure],
        picked: Collection[str] = (),
    ) -> None:
        self.contenders, self.formats, self.metrics, self.picked = contenders, formats, metrics, picked
        self.sights: list[Sight] = []
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
        before, sight = self.files, Sight(item.path) if item.path in self.picked else None
        try:
            for name, point, evaluation in self.contenders:
                evaluation.seen = sight.taker(name, point, evaluation.codec.spec.sample_rate) if sight else None
                evaluation.measure(path)
            for form in self.formats:
                self._beside(form, path, sight)
        except BaseException:
            for rows in everything:
                del rows[before:]
            raise
        for rows in everything:
            rows[-1]["file"] = item.path
        if sight:
            self.sights.append(sight)

    def _beside(self, form: str, path: str, sight: Sight | None) -> None:
        """One more file in another format, as large as each model made it, and read as that model reads it."""
        ladders: dict[tuple[int | None, int], Ladder] = {}
        for place, (name, point, evaluation) in enumerate(self.contenders):
            spec = evaluation.codec.spec
            if (spec.sample_rate, spec.channels) not in ladders:
                signal = evaluation.reader.read(path)
                ladders[spec.sample_rate, spec.channels] = Ladder(signal, form, self.metrics, spec.sample_rate)
            ladder = ladders[spec.sample_rate, spec.channels]
            row = ladder.nearest(evaluation.rows[-1]["bytes"])
            self.beside[form, place].append(row)
            if sight:
                take = sight.taker(NAMES[form], f"at {name}, {point}", spec.sample_rate)
                take(row, ladder.signal, ladder.decoded(row))

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


def resampled(specs: Mapping[str, CodecSpec]) -> int | None:
    """The rate of all models of sounds, Hz; that of the highest if they have several."""
    return max((spec.sample_rate or 0 for spec in specs.values() if spec.modality == "audio"), default=None)


def formats_of(text: str | None, specs: Sequence[CodecSpec]) -> list[str]:
    """Formats by name, for the signals of some models.

    Raises:
        Failure: If there is no such format of such signals, or what is installed does not write it.
    """
    formats = list(dict.fromkeys(text.lower().split(","))) if text else []
    modality, most = specs[0].modality, max(spec.channels for spec in specs)
    able = {"image": LOSSY, "audio": ("opus",)}.get(modality, ())
    for form in formats:
        if form not in able:
            takes = ", ".join(able) or "nothing"
            raise Failure(USAGE, f"--with takes {takes} for models of {modality}, got {form!r}; drop it")
        if not has_format(form):
            raise Failure(USAGE, f"--with {form}: what is installed does not write it; drop it")
        if form == "opus" and most > 2:
            raise Failure(USAGE, f"--with opus: is compared on 1 or 2 channels, got a model of {most}; drop it")
    return formats


def spread(names: Sequence[str], most: int) -> list[str]:
    """Some of several names, from the first to the last, evenly apart."""
    count = min(most, len(names))
    return [names[place * (len(names) - 1) // max(1, count - 1)] for place in range(count)]


def labels(specs: Mapping[str, CodecSpec]) -> dict[str, str]:
    """A name for every model: its own, or its folder where two have the same."""
    own = [spec.name for spec in specs.values()]
    return {model: spec.name if own.count(spec.name) == 1 else model for model, spec in specs.items()}


# -- other formats ---------------------------------------------------------------------------------------------


class Ladder:
    """One signal in one format at all qualities, each made when it is asked for.

    Args:
        signal: ``[C, *extent]``.
        form: One of `LOSSY`, or "opus".
        metrics: To measure.
        sample_rate: Of a sound, Hz.
    """

    def __init__(
        self, signal: Tensor, form: str, metrics: Mapping[str, Measure], sample_rate: int | None = None
    ) -> None:
        self.signal, self.form, self.metrics, self.sample_rate = signal, form, metrics, sample_rate
        self.peer = Peer(form, (), sample_rate)
        least, most = OPUS_KILOBITS
        self.ends = (WORST, BEST) if form != "opus" else (least * len(signal), most * len(signal))
        self.files: dict[int, tuple[bytes, float]] = {}  # by quality, with the seconds that they took
        self.rows: dict[int, Row] = {}

    def file(self, quality: int) -> bytes:
        """The file of one quality; of Opus, kilobits per second."""
        if quality not in self.files:
            start = perf_counter()
            data = self.peer.encode(self.signal.numpy(), quality)
            self.files[quality] = data, perf_counter() - start
        return self.files[quality][0]

    def nearest(self, size: int) -> Row:
        """The row of the file whose size is nearest to one in bytes; ``smallest`` if there is none as small."""
        worst, best = low, high = self.ends
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if len(self.file(middle)) >= size else (middle + 1, high)
        near = range(max(worst, low - 2), min(best, low + 2) + 1)  # sizes rise with quality, nearly always
        quality = min(near, key=lambda quality: abs(len(self.file(quality)) - size))
        return {**self.row(quality), "smallest": all(len(self.file(each)) > size for each in near)}

    def decoded(self, row: Row) -> Tensor:
        """The signal of the file of a row."""
        return torch.from_numpy(self.peer.decode(self.file(row["quality"])))

    def row(self, quality: int) -> Row:
        """What can be said about the file of one quality."""
        if quality not in self.rows:
            data, seconds = self.file(quality), self.files[quality][1]
            start = perf_counter()
            decoded = torch.from_numpy(self.peer.decode(data))
            times = {"encode_seconds": seconds, "decode_seconds": perf_counter() - start}
            rate, kind = self.sample_rate, "audio" if self.sample_rate else "image"
            values, reasons = distances(decoded, self.signal, kind, rate or 0, self.metrics)
            extent = duration(self.signal, rate, len(data)) if rate else area(self.signal, len(data))
            about = {"quality": quality, "bytes": len(data), **extent, **times, **values}
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
        means = [number(row[metric]["mean"]) for metric in metrics]
        speeds = [number(row[f"{way}_{speed}"]) for way in ("encode", "decode")]
        lines.append([row["model"], point_text(row), str(row["bytes"]), number(row[unit]), *means, *speeds])
    heads = ["model", "point", "bytes", unit.replace("_", " "), *metrics, f"encode {short}", f"decode {short}"]
    return markdown(heads, lines)


def picture(modality: str, rows: Sequence[Row]) -> str:
    """Quality over rate as SVG: a curve per model and per format."""
    return svg("quality over rate", panels(modality, rows))


def panels(modality: str, rows: Sequence[Row]) -> list[Panel]:
    """Those of `picture`, one per metric that is drawn."""
    unit, short = UNITS[modality]
    found = []
    for metric, label in drawn(modality, rows[0]):
        curves = []
        for name in dict.fromkeys(row["model"] for row in rows):
            some = [row for row in rows if row["model"] == name and row[unit] and row[metric]["mean"] is not None]
            dots = (Point(row[unit], row[metric]["mean"], _dot(row, unit, short, metric)) for row in some)
            curves.append(Curve(name, tuple(sorted(dots))))
        found.append(Panel(f"rate of real bytes, {short}", label, tuple(curves)))
    return found


def _dot(row: Row, unit: str, short: str, metric: str) -> str:
    return f"{row['model']}, {row['point']}: {number(row[unit])} {short}, {metric} {number(row[metric]['mean'])}"
