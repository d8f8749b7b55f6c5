"""Layouts by name, for users and command lines.

Which one? What the language model is decides; S is the length of N frames of Q codebooks:

    one head, any codec of one rate      flatten        S = N Q; exact, causal: the first choice
    one head, codebooks of several rates hierarchical   S = all codes; exact, causal: for SNAC
    one head, few tokens where little is said   elastic   S varies; needs an encoder that leaves queries out
    one head, best text-like planning    grouped        S = N Q; all coarse codes first; not causal
    one head, pictures of any size       raster         S = N Q + rows; row by row, the ids tell height and width
    one head, codebooks are scales (VAR) scale_wise     S = all codes; scale by scale; needs extents; not causal
    one head, one model at many rates    query_order    S = N Q; first queries of all windows first; needs extents
    one head, granularities take turns   granularity_blocks  S varies; exact, causal: for Control-GIC
    Q heads, streaming                   partial_delay  S = N + 1; one step of latency, Moshi's choice
    Q heads                              delay          S = N + Q - 1; the usual choice, MusicGen's
    Q heads, a slower exacter step       unroll         S = 2 N; codebook 0 alone, then the rest
    Q heads, whole signals               coarse_first   S = 2 N; all of codebook 0 first; not causal
    Q heads, codebooks do not depend     parallel       S = N; the shortest, heads of a step do not see each other
    a second, small model over Q         depth          S = N; exact at the price of a depth model

"Causal" layouts can be decoded while they are drawn; the others only once the last codebooks come.
"""

from __future__ import annotations

from collections.abc import Callable

from sigtok.codecs.spec import CodecSpec, Rate

from .base import Layout
from .coarse_first import CoarseFirst
from .delay import Delay, partial_delay
from .depth import Depth
from .elastic import Elastic
from .flatten import Flatten
from .granularity_blocks import GranularityBlocks
from .grouped import Grouped
from .hierarchical import Hierarchical
from .parallel import Parallel
from .query_order import QueryOrder
from .raster import Raster
from .scale_wise import ScaleWise
from .unroll import Unroll
from .vocabulary import Vocabulary

LAYOUTS: dict[str, Callable[..., Layout]] = {
    "parallel": Parallel,
    "delay": Delay,
    "partial_delay": partial_delay,
    "unroll": Unroll,
    "coarse_first": CoarseFirst,
    "flatten": Flatten,
    "grouped": Grouped,
    "hierarchical": Hierarchical,
    "elastic": Elastic,
    "raster": Raster,
    "scale_wise": ScaleWise,
    "query_order": QueryOrder,
    "granularity_blocks": GranularityBlocks,
    "depth": Depth,
}


def layout(name: str, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> Layout:
    """The layout of that name for a codec at a rate (None for the codec's default), arguments as of `Layout`.

    Raises:
        ValueError: If no layout has that name, or it does not lay out the codec's codebooks.
    """
    if name not in LAYOUTS:
        raise ValueError(f"the layouts are {', '.join(LAYOUTS)}; got {name!r}")
    return LAYOUTS[name](spec, rate, vocabulary=vocabulary)
