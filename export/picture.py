"""Curves of quality over rate as one self-contained SVG, in plain strings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 460, 320  # of one panel's axes, pixels
LEFT, TOP, BOTTOM, GAP, LEGEND = 68, 44, 56, 92, 150
LETTER = 7  # pixels, at most
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a5195", "#b8860b", "#444444")  # after Okabe and Ito, 2008
DASHES = ("", "6 4", "2 3")  # once the colours are used up


class Point(NamedTuple):
    """A place on a curve, and the text that a pointer finds there."""

    x: float
    y: float
    text: str


class Curve(NamedTuple):
    """Points in order, under one name."""

    name: str
    points: tuple[Point, ...]


class Panel(NamedTuple):
    """Curves over one pair of axes, named with their units; x is logarithmic."""

    x_label: str
    y_label: str
    curves: tuple[Curve, ...]


def svg(title: str, panels: Sequence[Panel]) -> str:
    """The picture: panels side by side, of the same curves, with one legend.

    Raises:
        ValueError: If there is no point to draw, or a rate is not positive.
    """
    drawn = [panel for panel in panels if any(curve.points for curve in panel.curves)]
    if not drawn:
        raise ValueError("a picture needs at least one point, got none; measure files that are not empty")
    names = [curve.name for curve in drawn[0].curves]
    legend = LEFT + len(drawn) * (WIDTH + GAP) - GAP + 28
    size = f"{legend + max(LEGEND, 40 + LETTER * max(map(len, names)))} {TOP + HEIGHT + BOTTOM}"
    width, height = size.split()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {size}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="#333">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
        *(_panel(panel, LEFT + place * (WIDTH + GAP)) for place, panel in enumerate(drawn)),
        *(_entry(name, place, legend) for place, name in enumerate(names)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from the last not above the lowest to the first not below the highest.

    Raises:
        ValueError: If the lowest is not positive.
    """
    if low <= 0:
        raise ValueError(f"a logarithmic axis has positive numbers, got {low}")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    numbers = [float(f"{step}e{decade}") for decade in decades for step in (1, 2, 5)]
    first = max(place for place, number in enumerate(numbers) if number <= low)
    last = min(place for place, number in enumerate(numbers) if number >= high and place > first)
    return numbers[first : last + 1]


def even_numbers(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten around two numbers, at most seven."""
    span = (high - low) or abs(high) or 1.0
    step = next(number for number in round_numbers(span / 10, span) if number >= span / 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [place * step for place in range(first, max(last, first + 1) + 1)]


def _panel(panel: Panel, left: int) -> str:
    points = [point for curve in panel.curves for point in curve.points]
    across = round_numbers(min(point.x for point in points), max(point.x for point in points))
    up = even_numbers(min(point.y for point in points), max(point.y for point in points))

    def x(value: float) -> float:
        return left + WIDTH * math.log(value / across[0]) / math.log(across[-1] / across[0])

    def y(value: float) -> float:
        return TOP + HEIGHT * (up[-1] - value) / (up[-1] - up[0])

    parts = [f'<g stroke="#e4e4e4">{_grid([x(tick) for tick in across], [y(tick) for tick in up], left)}</g>']
    parts += [_text(x(tick), TOP + HEIGHT + 18, f"{tick:g}") for tick in across]
    parts += [_text(left - 8, y(tick) + 4, f"{tick:.6g}", "end") for tick in up]
    parts.append(_text(left + WIDTH / 2, TOP + HEIGHT + 42, panel.x_label))
    turned = f'transform="rotate(-90 {left - 52} {TOP + HEIGHT / 2})"'
    parts.append(_text(left - 52, TOP + HEIGHT / 2, panel.y_label, more=turned))
    for place, curve in enumerate(panel.curves):
        corners = " ".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in curve.points)
        parts.append(f'<polyline points="{corners}" fill="none" {_stroke(place)}/>')
        parts += [_dot(x(point.x), y(point.y), place, point.text) for point in curve.points]
    return "\n".join(parts)


def _grid(across: Sequence[float], up: Sequence[float], left: int) -> str:
    upright = [f'<path d="M{x:.1f} {TOP}v{HEIGHT}"/>' for x in across]
    return "".join(upright + [f'<path d="M{left} {y:.1f}h{WIDTH}"/>' for y in up])


def _entry(name: str, place: int, left: int) -> str:
    height = TOP + 12 + 22 * place
    line = f'<path d="M{left} {height}h26" fill="none" {_stroke(place)}/>'
    return line + _dot(left + 13, height, place) + _text(left + 34, height + 4, name, "start")


def _stroke(place: int) -> str:
    return (
        f'stroke="{_colour(place)}" stroke-width="2" stroke-dasharray="{DASHES[place // len(COLOURS) % len(DASHES)]}"'
    )


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _dot(x: float | int, y: float | int, place: int, text: str = "") -> str:
    inside = f"<title>{escape(text)}</title>" if text else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_colour(place)}">{inside}</circle>'


def _text(x: float | int, y: float | int, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {more}>{escape(text)}</text>'
