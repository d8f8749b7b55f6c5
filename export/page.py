"""A sweep as one self-contained page: curves, BD-rates, every point, and where the figures come from."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .evaluate import Row
from .picture import Curve, Panel, Point, svg
from .sweep import bd_table, figure_heads, figures, percent, rungs, scale_of, shown_rate
from .tables import number

NOTES = """Rates are those of real files, headers and containers included, over pixels or seconds; speeds are those of
one thread, from signal to file and back. BD-rate: bits beyond those of the other codec at equal quality, below 0 for
fewer; the logarithm of the rate, piecewise cubic over quality (PCHIP), averaged over the qualities that both curves
have. First the mean over files and how many have one, then, in brackets, that of the mean curve. A point that takes
more bits than another and is not better counts for no curve. Files without a common quality have no BD-rate."""


def page(record: Row, modality: str, metrics: Sequence[str]) -> str:
    """The page of a record of `report.evaluate --sweep`."""
    name = record["model"]
    missing = [f"{peer}: {reason}" for peer, reason in record["missing"].items()]
    refused = [f"{peer}: {file}: {why}" for peer, files in record["refused"].items() for file, why in files.items()]
    versions = ", ".join(f"{library} {version}" for library, version in record["versions"].items())
    parts = [
        f"<h1>{escape(name)}: quality over rate</h1>",
        f"<p>{record['files']} files, {record['bad_files']} bad. <code>{escape(record['command'])}</code></p>",
        *(f'<div class="scroll">{svg(name, [panel])}</div>' for panel in panels(record, modality, metrics)),
        "<h2>BD-rate</h2>",
        _table(*bd_table(record, metrics)),
        f"<p>{escape(NOTES)}</p>",
        _list("Not computed", missing),
        _list("Refused", refused),
        f"<h2>{escape(name)}</h2>",
        _table(*rungs(record, modality, metrics)),
        "<h2>Beside it</h2>",
        _table(*_settings(record, modality, metrics)),
        "<details><summary>BD-rate of every file</summary>",
        _table(*_files(record, metrics)),
        "</details>",
        f"<p>{escape(versions)}; {escape(record['machine']['processor'])}. Model {escape(record['stream_id'])}.</p>",
    ]
    return TEMPLATE.replace("<!--TITLE-->", escape(name)).replace("<!--BODY-->", "\n".join(filter(None, parts)))


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


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    if not lines:
        return "<p>None.</p>"
    head = "".join(f"<th scope=col>{escape(head.replace('_', ' '))}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h3>{title}</h3><ul>{items}</ul>" if lines else ""


TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title><!--TITLE-->: quality over rate</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto; padding: 0 1rem;
  max-width: 72rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #e4e4e4; }
code { overflow-wrap: anywhere; }
</style>
<!--BODY-->
</html>
"""
