"""The picture of rates: every point is drawn, where the axes say, and the file stands alone."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from sigtok.export.picture import COLOURS, HEIGHT, TOP, WIDTH, Curve, Panel, Point, even_numbers, round_numbers, svg

SVG = "{http://www.w3.org/2000/svg}"
CURVE = Curve("window 3", (Point(100.0, 2.0, "first"), Point(200.0, 1.5, "second"), Point(1000.0, 1.0, "third")))
PANEL = Panel("rate, bit/s", "mel distance", (CURVE,))
SPANS = [(1, 1), (100, 1000), (99, 101), (152.1, 1117), (0.003, 0.9), (5, 5), (7e-4, 7e5), (2, 50)]


def texts(root):
    return [node.text for node in root.iter(f"{SVG}text")]


def test_points_stand_where_the_ticks_say():
    root = ElementTree.fromstring(svg("a", [PANEL]))
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle") if len(dot)]
    ticks = {node.text: (float(node.get("x")), float(node.get("y")) - 4) for node in root.iter(f"{SVG}text")}
    assert len(dots) == 3
    for (x, y), across, up in zip(dots, ("100", "200", "1000"), ("2", "1.5", "1"), strict=False):
        assert x == pytest.approx(ticks[across][0], abs=0.11)
        if up in ticks:
            assert y == pytest.approx(ticks[up][1], abs=0.11)
    assert dots[2][0] - dots[0][0] == pytest.approx(WIDTH, abs=0.11)  # a decade, from edge to edge
    assert dots[1][0] - dots[0][0] == pytest.approx(WIDTH * math.log10(2), abs=0.11)
    assert dots[0][1] == pytest.approx(TOP) and dots[2][1] == pytest.approx(TOP + HEIGHT)  # down is less
    line = next(root.iter(f"{SVG}polyline")).get("points")
    assert line == " ".join(f"{x},{y}" for x, y in dots)


def test_axes_curves_and_points_are_named():
    root = ElementTree.fromstring(svg("speech: rates", [PANEL, PANEL._replace(y_label="STOI")]))
    assert {"rate, bit/s", "mel distance", "STOI", "window 3", "speech: rates"} <= set(texts(root))
    assert texts(root).count("window 3") == 1  # one legend
    assert [title.text for title in root.iter(f"{SVG}title")] == ["speech: rates", *["first", "second", "third"] * 2]


def test_the_file_needs_nothing_from_outside():
    text = svg("a", [PANEL])
    assert re.findall(r"(?:href|src|url|@import|<script)", text) == []
    assert re.findall(r"https?://[^\"]*", text) == ["http://www.w3.org/2000/svg"]


def test_names_are_text_and_not_markup():
    name = '<script>"&'
    curve = Curve(name, (Point(1.0, 1.0, name),))
    root = ElementTree.fromstring(svg(name, [Panel(name, name, (curve,))]))
    assert texts(root).count(name) == 4 and list(root.iter(f"{SVG}script")) == []


def test_curves_stay_apart_when_colours_are_used_up():
    many = tuple(CURVE._replace(name=f"window {place}") for place in range(2 * len(COLOURS)))
    root = ElementTree.fromstring(svg("a", [PANEL._replace(curves=many)]))
    strokes = [(line.get("stroke"), line.get("stroke-dasharray")) for line in root.iter(f"{SVG}polyline")]
    assert len(set(strokes)) == len(many)


def test_everything_is_inside_the_picture():
    root = ElementTree.fromstring(svg("a", [PANEL, PANEL]))
    width, height = float(root.get("width")), float(root.get("height"))
    places = [(node.get("x") or node.get("cx"), node.get("y") or node.get("cy")) for node in root.iter()]
    places = [(float(x), float(y)) for x, y in places if x and y]
    assert len(places) > 30 and all(0 < x < width and 0 < y < height for x, y in places)


def test_a_panel_without_points_is_left_out_and_a_picture_needs_one():
    empty = PANEL._replace(y_label="STOI", curves=(CURVE._replace(points=()),))
    assert "STOI" not in texts(ElementTree.fromstring(svg("a", [PANEL, empty])))
    with pytest.raises(ValueError, match="at least one point, got none"):
        svg("a", [empty])


@pytest.mark.parametrize(("low", "high"), SPANS)
def test_logarithmic_axes_end_at_round_numbers_around_the_points(low, high):
    numbers = round_numbers(float(low), float(high))
    assert len(numbers) >= 2 and numbers == sorted(numbers)
    assert (numbers[0] <= low < numbers[1] and numbers[-2] < high <= numbers[-1]) or low == high == numbers[0]
    assert all(f"{number:.0e}"[0] in "125" and float(f"{number:.0e}") == number for number in numbers)
    with pytest.raises(ValueError, match="positive"):
        round_numbers(0.0, 1.0)


@pytest.mark.parametrize(("low", "high"), [*SPANS, (-40.2, -35.1), (-1, 1), (0, 0), (1.432, 1.757)])
def test_even_axes_end_at_even_numbers_around_the_points(low, high):
    numbers = even_numbers(float(low), float(high))
    steps = [after - before for before, after in pairwise(numbers)]
    assert 2 <= len(numbers) <= 7 and steps == pytest.approx([steps[0]] * len(steps))
    assert numbers[0] <= low and high <= numbers[-1]
    assert low - numbers[0] < steps[0] and numbers[-1] - high <= steps[0]
