"""Layouts by name, for users and command lines."""

from __future__ import annotations

from sigtok.codecs.spec import CodecSpec, Rate

from .base import Layout
from .delay import Delay
from .flatten import Flatten
from .parallel import Parallel

LAYOUTS = {"parallel": Parallel, "delay": Delay, "flatten": Flatten}


def layout(name: str, spec: CodecSpec, rate: Rate | None = None) -> Layout:
    """The layout of that name for a codec at a rate (None for the codec's default).

    "flatten" is exact with one head, "delay" the usual choice for many codebooks, "parallel" the shortest.

    Raises:
        ValueError: If no layout has that name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"the layouts are {', '.join(LAYOUTS)}; got {name!r}")
    return LAYOUTS[name](spec, rate)
