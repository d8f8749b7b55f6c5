"""How often each code of a codebook is used, as a small drawing: shares over ranks, the most frequent code first."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from sigtok.codecs.metrics.codes import usage

from .blocks import card
from .tables import number

WIDTH, HEIGHT, LEFT, BOTTOM = 250, 120, 48, 16  # of the drawing and its margins
CORNERS = 90  # of the curve, at most


def histogram(book: int, counts: Tensor) -> str:
    """The card of one codebook by the counts ``[K]`` of its codes; nothing if it said nothing."""
    seen = usage(counts)
    if not seen.tokens:
        return ""
    figures = (
        f"{seen.used:,} of {seen.size:,} codes used ({number(100 * seen.share)} %, even use would show "
        f"{number(100 * seen.shown)} %), perplexity {number(seen.perplexity)}"
    )
    return card(f"codebook {book + 1}", figures, _drawing(counts))


def _drawing(counts: Tensor) -> str:
    """Shares of the codes, sorted, on two logarithmic axes; dashed is even use."""
    size, tokens = len(counts), int(counts.sum())
    shares = (np.sort(counts[counts > 0].numpy())[::-1] / tokens).tolist()
    ranks = np.unique(np.geomspace(1, len(shares), CORNERS).round().astype(int)).tolist()
    top, low = math.ceil(math.log10(shares[0])), math.log10(min(shares[-1], 1 / size)) - 0.3
    across = math.log10(size) or 1.0

    def x(rank: int) -> float:
        return LEFT + (WIDTH - LEFT - 4) * math.log10(rank) / across

    def y(share: float) -> float:
        return 6 + (HEIGHT - BOTTOM - 6) * (top - math.log10(share)) / (top - low)

    floor = HEIGHT - BOTTOM
    corners = " ".join(f"{x(rank):.1f},{y(shares[rank - 1]):.1f}" for rank in ranks)
    area = f"{x(1):.1f},{floor} {corners} {x(len(shares)):.1f},{floor}"
    upright = [
        f'<text x="{LEFT - 4}" y="{y(share) + 4:.1f}" text-anchor="end">{name}</text>'
        for share, name in _shares(top, low)
    ]
    flat = [f'<text x="{x(rank):.1f}" y="{HEIGHT - 3}" text-anchor="{anchor}">{rank:,}</text>'
            for rank, anchor in ((1, "start"), (size, "end"))]  # fmt: skip
    return (
        f'<svg class="histogram" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>Share of each code, the most frequent first; both axes are logarithmic</title>"
        f'<path class="axis" d="M{LEFT} 6V{floor}H{WIDTH - 4}"/>'
        f'<polygon class="area" points="{area}"/>'
        f'<path class="even" d="M{LEFT} {y(1 / size):.1f}H{WIDTH - 4}"/>'
        f"{''.join(upright + flat)}</svg>"
    )


def _shares(top: int, low: float) -> list[tuple[float, str]]:
    """Powers of ten down to the lowest share, every second where there are many, in per cent."""
    decades = range(top, math.ceil(low) - 1, -1 if top - low < 4 else -2)
    return [(10.0**decade, f"{100 * 10.0**decade:g} %") for decade in decades]
