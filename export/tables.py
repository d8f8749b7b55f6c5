"""Rows of text in columns, for a terminal or as Markdown, and numbers as text."""

from collections.abc import Mapping, Sequence
from typing import Any


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the first column to the left, the others to the right."""
    table = [list(heads), *[list(row) for row in rows]]
    widths = [max(len(row[place]) for row in table) for place in range(len(heads))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def number(value: float | int | None) -> str:
    """Four digits, or a dash for what could not be computed."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def shown(window: Sequence[int]) -> str:
    """A window as text: its length, or height x width."""
    return "x".join(map(str, window))


def point_text(summary: Mapping[str, Any]) -> str:
    """The operating point of a summary, and of how many files another format has none as small."""
    if not summary.get("smallest"):
        return summary["point"]
    return f"{summary['point']} (larger for {summary['smallest']} of {summary['files']} files)"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that a terminal shows as one; columns to the right."""
    widths = [max(len(row[place]) for row in [heads, *rows]) for place in range(len(heads))]
    rule = [f"{'-' * (max(width, 2) - 1)}:" for width in widths]
    lines = [
        [cell.rjust(max(width, 2)) for cell, width in zip(row, widths, strict=True)] for row in [heads, rule, *rows]
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
