"""Results as one self-contained page each: curves, tables, files to hear and see, and where the figures come from."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from html import escape

from torch import Tensor

from sigtok.codecs.spec import CodecSpec

from .blocks import bullets, card, drawing, facts, frame, side_by_side, table
from .evaluate import Row
from .excerpts import shown
from .histograms import histogram
from .picture import Curve, Panel, Point, svg
from .sight import Sight
from .sweep import bd_table, figure_heads, figures, percent, rungs, scale_of, shown_rate
from .tables import number, point_text
from .worst import Worst

NOTES = """Rates are those of real files, headers and containers included, over pixels or seconds; speeds are those of
one thread, from signal to file and back. BD-rate: bits beyond those of the other codec at equal quality, below 0 for
fewer; the logarithm of the rate, piecewise cubic over quality (PCHIP), averaged over the qualities that both curves
have. First the mean over files and how many have one, then, in brackets, that of the mean curve. A point that takes
more bits than another and is not better counts for no curve. Files without a common quality have no BD-rate."""


MEDIA_BYTES = 4_800_000  # of all players and pictures of a page, which take a third more in it
FIGURES = """Rates are those of real files, headers included. Means over files have the 95 % interval of a bootstrap
over files, and the number of files that a metric says something about, if these are not all. Speeds are those of one
thread, from signal to file and back; memory is the most that the whole process had held by the last file, libraries and
all rates included."""
SCORED = """Means over files have the 95 % interval of a bootstrap over files, and the number of files that a metric
says something about, if these are not all. Rates are those of the coded files, where these were named. Sounds were cut
to the shorter of a pair, and looked at for a delay, which every waveform metric suffers from."""
CODES = """Share of every code, the most frequent first, on two logarithmic axes; dashed is even use. A curve that
ends before the right edge leaves codes unused; few tokens cannot show all codes, so compare with what even use would
show."""
MOST_CARDS = 12  # beside one original
STORED = """Players hold at most 10 seconds, as FLAC, or as Opus of 96 kbit/s a channel where that is too large;
pictures are WebP, scaled down to 512 pixels across. Both of a pair are stored alike; figures are of whole files."""


def page(record: Row, modality: str, metrics: Sequence[str]) -> str:
    """The page of a record of `report.evaluate --sweep`."""
    name = record["model"]
    missing = [f"{peer}: {reason}" for peer, reason in record["missing"].items()]
    refused = [f"{peer}: {file}: {why}" for peer, files in record["refused"].items() for file, why in files.items()]
    versions = ", ".join(f"{library} {version}" for library, version in record["versions"].items())
    parts = [
        f"<p>{record['files']} files, {record['bad_files']} bad. <code>{escape(record['command'])}</code></p>",
        *(drawing(svg(name, [panel])) for panel in panels(record, modality, metrics)),
        "<h2>BD-rate</h2>",
        table(*bd_table(record, metrics)),
        f"<p>{escape(NOTES)}</p>",
        bullets("Not computed", missing),
        bullets("Refused", refused),
        f"<h2>{escape(name)}</h2>",
        table(*rungs(record, modality, metrics)),
        "<h2>Beside it</h2>",
        table(*_settings(record, modality, metrics)),
        "<details><summary>BD-rate of every file</summary>",
        table(*_files(record, metrics)),
        "</details>",
        f"<p>{escape(versions)}; {escape(record['machine']['processor'])}. Model {escape(record['stream_id'])}.</p>",
    ]
    return frame(f"{name}: quality over rate", parts)


def evaluation_page(
    record: Row,
    spec: CodecSpec,
    points: Sequence[str],
    metrics: Sequence[str],
    curves: Sequence[Panel],
    codes: Sequence[Tensor],
    worst: Worst,
    highest: int,
) -> str:
    """The page of a record of `report.evaluate`.

    Args:
        record: With its protocol.
        spec: The codec's.
        points: Operating points in words.
        metrics: By name.
        curves: Quality over rate.
        codes: Counts of the codes of each codebook at the highest rate.
        worst: Files at the highest rate.
        highest: Its place among the points.
    """
    books = [histogram(book, counts) for book, counts in enumerate(codes)]
    parts = [
        facts(_origin(record)),
        "<h2>Quality over rate</h2>",
        *drawings(record["model"], curves),
        "<h2>Figures</h2>",
        summaries([("point", points)], record["rates"], spec.modality, metrics),
        f"<p>{escape(FIGURES)}</p>",
        *worst_files(worst, f"{record['model']}, {points[highest]}", MEDIA_BYTES),
        "<h2>Use of the codebooks</h2>",
        f"<p>At {escape(points[highest])}. {escape(CODES)}</p>",
        f'<div class="grid">{"".join(books)}</div>',
        *_protocol(record["protocol"]),
    ]
    return frame(f"{record['model']}: rate and quality", parts)


def comparison_page(
    record: Row, modality: str, metrics: Sequence[str], curves: Sequence[Panel], sights: Sequence[Sight]
) -> str:
    """The page of a record of `compare.compare`, with some files as every model and format gave them."""
    points = record["points"]
    models = ", ".join(model["name"] for model in record["models"])
    about = [
        *((model["name"], f"stream id {model['stream_id']}") for model in record["models"]),
        ("files", f"{record['files']}, {record['bad_files']} bad" if record["bad_files"] else str(record["files"])),
        ("command", record["command"]),
    ]
    names = [("model", [point["model"] for point in points]), ("point", [point_text(point) for point in points])]
    parts = [
        facts(about),
        "<h2>Quality over rate</h2>",
        *drawings(models, curves),
        "<h2>Figures</h2>",
        summaries(names, points, modality, metrics),
        f"<p>{escape(FIGURES)}</p>",
        *_side_by_side(sights, metrics[0], modality),
        *_protocol(record["protocol"]),
    ]
    return frame(f"{models}: side by side", parts)


def _side_by_side(sights: Sequence[Sight], metric: str, modality: str) -> list[str]:
    if modality == "features" or not sights:
        return []
    parts = ["<h2>The same files</h2>", f"<p>Each model at its highest rate. {escape(STORED)}</p>"]
    for sight in sights:
        made = list(sight.found.items())[:MOST_CARDS]
        excerpts = [*sight.original, *(found for _, (_, _, found) in made)]
        names = [f"{sight.file}, original", *(f"{sight.file}, {name}" for name, _ in made)]
        media = shown(excerpts, names, MEDIA_BYTES // len(sights))
        cards = [card(sight.file, _extent(made[0][1][1]), media[0])]
        for (name, (point, row, _)), html in zip(made, media[1:], strict=True):
            figures = f"{point} · {metric.replace('_', ' ')} {number(row[metric])}{_rate(row)}"
            cards.append(card(name, figures, html))
        parts.append(side_by_side(cards))
    return parts


def score_page(record: Row, modality: str, metrics: Sequence[str], worst: Worst) -> str:
    """The page of a record of `score.score`."""
    name = record["model"]
    parts = [
        facts(_origin(record)),
        "<h2>Figures</h2>",
        summaries([("decoded", [name])], record["rates"], modality, metrics),
        f"<p>{escape(SCORED)}</p>",
        *worst_files(worst, name, MEDIA_BYTES),
        *_protocol(record["protocol"]),
    ]
    return frame(f"{name}: quality beside its references", parts)


def drawings(name: str, curves: Sequence[Panel]) -> list[str]:
    """Panels that have points, each a drawing."""
    return [drawing(svg(name, [panel])) for panel in curves if any(curve.points for curve in panel.curves)]


def summaries(
    names: Sequence[tuple[str, Sequence[str]]], rates: Sequence[Row], modality: str, metrics: Sequence[str]
) -> str:
    """A table of summaries: columns of names, then what each has of rates, metrics with intervals, speeds, memory."""
    size, speed = ("bit/pixel", "megapixels_per_second") if modality == "image" else ("kbit/s", "x_real_time")
    columns: dict[str, list[str]] = {head: list(texts) for head, texts in names}
    columns["files"] = [str(rate["files"]) for rate in rates]
    if any("bytes" in rate for rate in rates):
        columns["bytes"] = [f"{rate['bytes']:,}" for rate in rates]
        columns[size] = [number(shown_rate(rate, modality)) for rate in rates]
    if any("tokens_per_second" in rate for rate in rates):
        columns["tokens/s"] = [number(rate.get("tokens_per_second")) for rate in rates]
    for metric in metrics:
        columns[metric] = [interval_text(rate[metric], rate["files"]) for rate in rates]
    for way in ("encode", "decode"):
        if any(f"{way}_{speed}" in rate for rate in rates):
            short = "MP/s" if modality == "image" else "x real time"
            columns[f"{way} {short}"] = [number(rate.get(f"{way}_{speed}")) for rate in rates]
    for key, head in (
        ("process_peak_bytes", "peak of the process, MB"),
        ("device_peak_bytes", "peak on the device, MB"),
    ):
        if any(rate.get(key) for rate in rates):
            columns[head] = [number(rate[key] / 1e6 if rate.get(key) else None) for rate in rates]
    return table(list(columns), list(zip(*columns.values(), strict=True)))


def interval_text(found: Row, files: int) -> str:
    """A mean with its interval in brackets, which one file does not give, and how many files have it if not all do."""
    if found["mean"] is None:
        return "-"
    spread = f" ({number(found['low'])} to {number(found['high'])})" if found["files"] > 1 else ""
    return f"{number(found['mean'])}{spread}" + (f", {found['files']} files" if found["files"] < files else "")


def worst_files(worst: Worst, name: str, budget: int) -> list[str]:
    """Originals and reconstructions side by side, the worst first; nothing if there is none."""
    if not worst.found:
        return []
    metric = worst.metric.replace("_", " ")
    parts = [
        f"<h2>The worst {len(worst.found)} of the files</h2>",
        f"<p>By {escape(metric)}, {'highest' if worst.sign < 0 else 'lowest'} first, at {escape(name)}. "
        f"{escape(STORED) if worst.perceived else ''}</p>",
    ]
    for row, *excerpts in worst.found:
        file = str(row["file"])
        figures, names = f"{metric} {number(row[worst.metric])}{_rate(row)}", (f"{file}, original", f"{file}, decoded")
        if not worst.perceived:
            parts.append(card(file, figures))
            continue
        media = shown(excerpts, names, budget // len(worst.found))
        parts.append(side_by_side([card(file, _extent(row), media[0]), card("decoded", figures, media[1])]))
    return parts


def _extent(row: Row) -> str:
    return (
        f"original, {row['seconds']:.1f} s" if "seconds" in row else f"original, {row['pixels'] / 1e6:.3g} megapixels"
    )


def _rate(row: Row) -> str:
    if "bytes" not in row:
        return ""
    unit = "bits_per_pixel" if "pixels" in row else "bits_per_second"
    return f" · {row['bytes']:,} bytes · {number(row[unit])} {'bit/pixel' if 'pixels' in row else 'bit/s'}"


def _origin(record: Row) -> list[tuple[str, str]]:
    """What the page is about."""
    size = f"{record['seconds']:,.1f} seconds" if "seconds" in record else f"{record['pixels'] / 1e6:,.2f} megapixels"
    files = (
        f"{record['files']} ({size}), {record['bad_files']} bad"
        if record["bad_files"]
        else f"{record['files']} ({size})"
    )
    signed = [("stream id", record["stream_id"])] if "stream_id" in record else []
    late = record["rates"][0].get("late_files")
    lags = [] if late is None else [("delayed", f"{late} files")]
    return [("model", record["model"]), *signed, ("files", files), *lags, ("command", record["command"])]


def _protocol(protocol: Row) -> list[str]:
    """How it was measured, in short; the JSON of the result has all of it."""
    hashes = "".join(file["sha256"] for file in protocol["files"])
    rows = [("files", f"{len(protocol['files'])}, SHA-256 of their SHA-256: {sha256(hashes.encode()).hexdigest()}")]
    rows += [("weights", protocol["model"]["weights_sha256"])] if "model" in protocol else []
    plain = {
        name: protocol[name]
        for name in ("size", "crop", "downmix", "resampling", "device", "threads")
        if protocol.get(name) not in (None, "none", False)
    }
    rows += [(name, str(value)) for name, value in plain.items()]
    for name, option in (("where", "rows"), ("exclude", "rows left out")):
        rows += [(option, ", ".join("=".join(pair) for pair in protocol[name]))] if protocol.get(name) else []
    rows += [(name.replace("_", " "), _made_by(by)) for name, by in protocol["metrics"].items()]
    dice = protocol["bootstrap"]
    rows += [("bootstrap", f"{dice['resamplings']} resamplings over files, seed {dice['seed']}")]
    rows += [("versions", ", ".join(f"{name} {version}" for name, version in protocol["versions"].items()))]
    return ["<h2>How it was measured</h2>", facts(rows)]


def _made_by(origin: Row) -> str:
    """What a metric comes from: packages and the SHA-256 of weights, or why it is not computed."""
    if reason := origin.get("not_computed"):
        return f"not computed ({reason})"
    versions = [f"{name} {version}" for name, version in origin["versions"].items()]
    return ", ".join([*versions, *(f"{weights['file']} {weights['sha256']}" for weights in origin["weights"])])


def panels(record: Row, modality: str, metrics: Sequence[str]) -> list[Panel]:
    """One panel per metric that has points, of the model and the other codecs, all files together."""
    unit = "rate of real bytes, " + ("bit/pixel" if modality == "image" else "kbit/s")
    points = {record["model"]: list(zip(record["points"], record["rates"], strict=True))}
    points |= {
        peer: [(f"setting {each['setting']}", each) for each in settings] for peer, settings in record["peers"].items()
    }
    found = []
    for metric in metrics:
        curves = tuple(Curve(name, _curve(name, each, modality, metric)) for name, each in points.items())
        if any(curve.points for curve in curves):
            found.append(Panel(unit, scale_of(metric).label, curves))
    return found


def _curve(name: str, settings: Sequence[tuple[str, Row]], modality: str, metric: str) -> tuple[Point, ...]:
    points = []
    for setting, summary in settings:
        rate, mean = shown_rate(summary, modality), summary[metric]["mean"]
        if rate and mean is not None:
            text = f"{name}, {setting}: {number(rate)}, {metric} {number(mean)}"
            points.append(Point(rate, scale_of(metric).drawn(mean), text))
    return tuple(sorted(points))


def _settings(record: Row, modality: str, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    lines = [
        [peer, str(each["setting"]), *figures(each, modality, metrics)]
        for peer, settings in record["peers"].items()
        for each in settings
    ]
    return ["codec", "setting", *figure_heads(modality, metrics)], lines


def _files(record: Row, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A line per file and codec, with the qualities that were common."""
    found = {(each["beside"], each["metric"]): each["per_file"] for each in record["bd_rate"]}
    peers = dict.fromkeys(peer for peer, _ in found)
    files = sorted({file for per_file in found.values() for file in per_file})
    lines = [
        [file, peer, *(_over(found[peer, metric].get(file, {})) for metric in metrics)]
        for file in files
        for peer in peers
    ]
    return ["file", "beside", *metrics], lines


def _over(found: Row) -> str:
    """A BD-rate and the qualities that it was averaged over."""
    if "percent" not in found:
        return "-"
    return f"{percent(found['percent'])} ({number(found['from'])} to {number(found['to'])})"
