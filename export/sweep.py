"""A model at every rung of its ladder beside other models and conventional codecs at theirs: curves, and BD-rates.

The headline is the mean over files of each file's BD-rate; that of the mean curve, all bits over all pixels or seconds
and the mean quality of every point, stands beside it. A file counts where both codecs have a quality in common.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from sigtok.codecs.codec import Codec
from sigtok.codecs.control import ladder
from sigtok.codecs.files import own_coder

from .curves import bd_rate
from .evaluate import Evaluation, Row, area, distances, duration, interval, summarised
from .inputs import Item, Reader
from .metrics import KNOWN, Measure, Tools
from .peers import NAMES, Peer
from .released import described
from .tables import markdown, number


class Scale(NamedTuple):
    """An axis for a metric.

    Args:
        label: With the unit and the better side.
        sign: 1 if more is better, -1 if less is.
        drawn: What stands on the axis; BD-rates are averaged over it.
    """

    label: str
    sign: int
    drawn: Callable[[float], float] = float


def decibels(similarity: float) -> float:
    """Distance of a similarity to 1 in dB, at most 100; 0.9 is 10 and 0.99 is 20."""
    return -10 * math.log10(max(1 - similarity, 1e-10))


SWEPT = {  # unless others are asked for
    "image": ("psnr", "ms_ssim", "ssimulacra2", "lpips"),
    "audio": ("snr", "mel_distance"),
    "features": ("relative_error", "cosine"),
}
RATES = {"image": "bits_per_pixel", "audio": "bits_per_second", "features": "bits_per_second"}
Points = Sequence[Sequence[Row]]  # rows of files at each operating point, of one codec


def scale_of(metric: str) -> Scale:
    """The axis of a metric."""
    if metric == "ms_ssim":
        return Scale("MS-SSIM, dB below 1 (higher is better)", 1, decibels)
    return Scale(KNOWN[metric].label, KNOWN[metric].sign)


def swept_metrics(modality: str, tools: Tools) -> list[str]:
    """Metrics of a sweep that can run here."""
    return [name for name in SWEPT[modality] if not KNOWN[name].missing(tools)]


class Sweep:
    """One codec at every rung, other models and conventional codecs at theirs, over the same files.

    Args:
        codec: Any codec.
        reader: Of the files.
        metrics: By name.
        peers: The conventional codecs.
        missing: By name, why others do not run here.
        models: Other models of the same signals, by name.
    """

    def __init__(
        self,
        codec: Codec,
        reader: Reader,
        metrics: Mapping[str, Measure],
        peers: Sequence[Peer],
        missing: Mapping[str, str],
        models: Mapping[str, Codec] = MappingProxyType({}),
    ) -> None:
        self.codec, self.reader, self.metrics, self.missing = codec, reader, metrics, dict(missing)
        self.evaluations = self._rungs(codec)
        self.models = {name: self._rungs(model) for name, model in models.items()}
        self.peers = {peer: [list[Row]() for _ in peer.settings] for peer in peers}
        self.refused: dict[str, dict[str, str]] = {}

    def measure(self, item: Item, path: str) -> None:
        """One more file, at every rung or at none; what a conventional codec refuses is told in the record.

        Raises:
            ValueError: If the model does not take the file.
        """
        evaluations = [*self.evaluations, *chain.from_iterable(self.models.values())]
        before = len(evaluations[0].rows)
        try:
            for evaluation in evaluations:
                evaluation.measure(path)["file"] = item.path
        except BaseException:
            for evaluation in evaluations:
                del evaluation.rows[before:]
            raise
        for peer, points in self.peers.items():
            try:
                found = self._beside(peer, item, path)
            except ValueError as error:
                self.refused.setdefault(NAMES[peer.form], {})[item.path] = str(error)
                continue
            for rows, row in zip(points, found, strict=True):
                rows.append(row)

    def record(self) -> Row:
        """Points of the other codecs, what is missing, and BD-rates for every metric and codec."""
        ours = [evaluation.rows for evaluation in self.evaluations]
        others: dict[str, Points] = {
            name: [evaluation.rows for evaluation in rungs] for name, rungs in self.models.items()
        }
        others |= {NAMES[peer.form]: points for peer, points in self.peers.items()}
        return {
            "points": [described(self.codec.spec, evaluation.rate) for evaluation in self.evaluations],
            "peers": {
                **{name: [_summary(rung) for rung in rungs] for name, rungs in self.models.items()},
                **{NAMES[peer.form]: self._summaries(peer) for peer in self.peers},
            },
            "missing": self.missing,
            "refused": self.refused,
            "bd_rate": [
                {
                    "metric": metric,
                    "beside": name,
                    **between(ours, points, metric, self.codec.spec.modality),
                }
                for metric in self.metrics
                for name, points in others.items()
            ],
        }

    def _rungs(self, codec: Codec) -> list[Evaluation]:
        """Every rung of a model, by one entropy coder."""
        coder = own_coder(codec)
        return [Evaluation(codec, rate, self.reader, self.metrics, coder) for rate in ladder(codec)]

    def _beside(self, peer: Peer, item: Item, path: str) -> list[Row]:
        signal, spec, rows = self.reader.read(path), self.codec.spec, []
        for setting in peer.settings:
            decoded, size, encode, decode = peer.round_trip(signal, setting)
            values, reasons = distances(decoded, signal, spec.modality, spec.sample_rate or 0, self.metrics)
            extent = duration(signal, spec.sample_rate, size) if spec.sample_rate else area(signal, size)
            times = {"encode_seconds": encode, "decode_seconds": decode}
            row = {"file": item.path, "bytes": size, **extent, **times, **values}
            rows.append(row | ({"not_computed": reasons} if reasons else {}))
        return rows

    def _summaries(self, peer: Peer) -> list[Row]:
        pairs = zip(peer.settings, self.peers[peer], strict=True)
        return [{"setting": setting, **summarised(rows, self.metrics), "rows": rows} for setting, rows in pairs if rows]


def _summary(evaluation: Evaluation) -> Row:
    """A rung of another model."""
    point = described(evaluation.codec.spec, evaluation.rate)
    return {"setting": point, **evaluation.summary(), "rows": evaluation.rows}


# -- BD-rates --------------------------------------------------------------------------------------------------


def between(ours: Points, theirs: Points, metric: str, modality: str) -> Row:
    """What one codec takes beyond another, in per cent of its bits.

    ``mean`` of ``files`` with its 95 % interval ``low`` to ``high`` (bootstrap), ``per_file``, and ``mean_curve``; each
    of the last two is ``percent`` and the qualities ``from`` and ``to``, or why it is not computed.
    """
    scale, rate = scale_of(metric), RATES[modality]
    some, others = (_files(points, metric) for points in (ours, theirs))
    per_file = {}
    for file in sorted(some.keys() & others.keys()):
        curves = [[(row[rate], scale.sign * scale.drawn(row[metric])) for row in rows[file]] for rows in (some, others)]
        per_file[file] = _bd_rate(curves[0], curves[1], scale.sign)
    both = [file for file in some if len(some[file]) == len(ours) and len(others.get(file, ())) == len(theirs)]
    means = [_mean_curve(points, set(both), metric, modality) for points in (ours, theirs)]
    percents = [found["percent"] for found in per_file.values() if "percent" in found]
    return {
        **interval(percents),
        "per_file": per_file,
        "mean_curve": _bd_rate(means[0], means[1], scale.sign),
    }


def _files(points: Points, metric: str) -> dict[str, list[Row]]:
    """Rows that have a metric, by file."""
    found: dict[str, list[Row]] = {}
    for row in chain.from_iterable(points):
        if row[metric] is not None:
            found.setdefault(row["file"], []).append(row)
    return found


def _mean_curve(points: Points, files: set[str], metric: str, modality: str) -> list[tuple[float, float]]:
    """All bits over all pixels or seconds, and the mean quality, of every point over some files."""
    scale, size = scale_of(metric), "pixels" if modality == "image" else "seconds"
    curve = []
    for rows in points if files else ():
        here = [row for row in rows if row["file"] in files]
        rate = 8 * sum(row["bytes"] for row in here) / sum(row[size] for row in here)
        curve.append((rate, scale.sign * scale.drawn(sum(row[metric] for row in here) / len(here))))
    return curve


def _bd_rate(ours: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]], sign: int) -> Row:
    try:
        percent, low, high = bd_rate(ours, theirs)
    except ValueError as error:
        return {"not_computed": str(error)}
    first, last = sorted((sign * low, sign * high))
    return {"percent": percent, "from": first, "to": last}


# -- what is told ----------------------------------------------------------------------------------------------


def told(record: Row, modality: str, metrics: Sequence[str]) -> str:
    """The rungs, and BD-rates beside every codec, as two tables; then what was left out."""
    parts = [markdown(*rungs(record, modality, metrics))]
    if record["bd_rate"]:
        parts.append("BD-rate: bits beyond those of another codec at equal quality, mean over files (mean curve)")
        parts.append(markdown(*bd_table(record, metrics)))
    parts += [f"{name} is not computed: {reason}" for name, reason in record["missing"].items()]
    parts += [f"{name} refused {len(files)} files" for name, files in record["refused"].items()]
    return "\n\n".join(parts)


def rungs(record: Row, modality: str, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the table of a model's rungs, or with the name of a peer those of its settings."""
    lines = [
        [f"{place}", point, *figures(rate, modality, metrics)]
        for place, (point, rate) in enumerate(zip(record["points"], record["rates"], strict=True), 1)
    ]
    return ["rung", "point", *figure_heads(modality, metrics)], lines


def figure_heads(modality: str, metrics: Sequence[str]) -> list[str]:
    """The heads of `figures`."""
    rate, speed = ("bit/pixel", "MP/s") if modality == "image" else ("kbit/s", "x real time")
    return ["files", "bytes", rate, *metrics, f"encode {speed}", f"decode {speed}"]


def figures(summary: Row, modality: str, metrics: Sequence[str]) -> list[str]:
    """Bytes, rate, metrics and speed of one point as text."""
    speed = "megapixels_per_second" if modality == "image" else "x_real_time"
    means = [number(summary[metric]["mean"]) for metric in metrics]
    speeds = [number(summary[f"{way}_{speed}"]) for way in ("encode", "decode")]
    return [str(summary["files"]), str(summary["bytes"]), number(shown_rate(summary, modality)), *means, *speeds]


def shown_rate(summary: Row, modality: str) -> float | None:
    """Bits per pixel of pictures, kilobits per second of all else."""
    rate = summary[RATES[modality]]
    return rate if rate is None or modality == "image" else rate / 1000


def bd_table(record: Row, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the table of BD-rates."""
    found = {(each["beside"], each["metric"]): each for each in record["bd_rate"]}
    names = list(dict.fromkeys(beside for beside, _ in found))
    return ["beside", *metrics], [[name, *(verdict(found[name, metric]) for metric in metrics)] for name in names]


def verdict(found: Row) -> str:
    """A BD-rate in words: the mean over files, how many have one, and that of the mean curve."""
    curve = percent(found["mean_curve"].get("percent"))
    return f"{percent(found['mean'])} of {found['files']} ({curve})" if found["files"] else f"no overlap ({curve})"


def percent(value: float | None) -> str:
    """With its sign, or a dash."""
    return "-" if value is None else f"{value:+.1f} %"
