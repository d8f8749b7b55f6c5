"""Parts of a page that needs nothing but itself: its frame, cards, tables, lists and drawings, as plain strings."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def frame(title: str, parts: Sequence[str]) -> str:
    """The page: a heading and its parts, those that are empty left out."""
    heading = f"<h1>{escape(title)}</h1>"
    body = "\n".join(filter(None, [heading, *parts]))
    return TEMPLATE.replace("<!--TITLE-->", escape(title)).replace("<!--BODY-->", body)


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table of text that scrolls where it is too wide; the first column to the left."""
    if not lines:
        return "<p>None.</p>"
    head = "".join(f"<th scope=col>{escape(head.replace('_', ' '))}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def bullets(title: str, lines: Sequence[str]) -> str:
    """A list under its title; nothing if it is empty."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h3>{escape(title)}</h3><ul>{items}</ul>" if lines else ""


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and what they are, as a list of definitions."""
    inside = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<dl>{inside}</dl>"


def drawing(svg: str) -> str:
    """An SVG of `picture.svg`, in the colours of the page."""
    return f'<div class="scroll drawing">{svg}</div>'


def card(title: str, figures: str, *parts: str) -> str:
    """A frame around parts, with a title and a line of figures."""
    head = f"<header><h3>{escape(title)}</h3><p>{escape(figures)}</p></header>"
    return f"<article>{head}{''.join(parts)}</article>"


def side_by_side(cards: Sequence[str]) -> str:
    """Cards in a row, below each other where the page is narrow."""
    return f'<div class="row">{"".join(cards)}</div>'


TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title><!--TITLE--></title>
<style>
:root { color-scheme: light dark; --paper: #faf8f5; --card: #fff; --ink: #1d1b26; --soft: #625d70;
  --line: #e4dfd8; --accent: #962a74; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12111a; --card: #1b1a26; --ink: #eeeaf4; --soft: #a49fb4; --line: #34324a;
    --accent: #f58c3e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1rem 4rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.15; margin: 0 0 .6rem; letter-spacing: -.02em;
  overflow-wrap: anywhere; }
h2 { margin: 2.8rem 0 .3rem; font-size: 1.35rem; letter-spacing: -.01em; }
h2::before { content: ""; display: inline-block; width: .35em; height: .8em; margin-right: .5em;
  background: var(--accent); border-radius: .1em; }
p, li, dl { max-width: 52rem; }
p, li { color: var(--soft); }
code { color: var(--ink); overflow-wrap: anywhere; font-size: .88em; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .15rem 1rem; font-size: .9rem; margin: .8rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.row, .grid { display: grid; gap: 1rem; align-items: start; margin: 1rem 0; }
.row { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
.grid { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .8rem; padding: .9rem;
  min-width: 0; }
article header { margin-bottom: .6rem; }
article h3 { margin: 0; font-size: 1rem; overflow-wrap: anywhere; }
article p { margin: 0; font-size: .85rem; font-variant-numeric: tabular-nums; }
audio { width: 100%; display: block; margin-bottom: .6rem; }
img { display: block; width: 100%; height: auto; border-radius: .5rem; }
audio + img { height: 8rem; }
.scroll { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: .8rem;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
tr + tr td { border-top: 1px solid var(--line); }
svg { display: block; }
.drawing svg { margin: .5rem auto; }
.drawing svg > rect { fill: none; }
.drawing svg text { fill: var(--ink); }
.drawing svg g { stroke: var(--line); }
.drawing svg [stroke="#444444"] { stroke: #8d8a99; }
.drawing svg [fill="#444444"] { fill: #8d8a99; }
.histogram { width: 100%; height: auto; }
.histogram text { fill: var(--soft); font-size: 10px; }
.histogram .area { fill: var(--accent); fill-opacity: .25; stroke: var(--accent); stroke-width: 1.5; }
.histogram .even { fill: none; stroke: var(--soft); stroke-dasharray: 4 3; }
.histogram .axis { fill: none; stroke: var(--line); }
</style>
<main>
<!--BODY-->
</main>
</html>
"""
