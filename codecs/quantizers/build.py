"""Quantizers from plain values: what a YAML or a released model's ``spec.json`` says becomes modules.

A description is a mapping with the member's ``name`` and its arguments; parts of a composed quantizer are descriptions
themselves, and ``copies`` of one may stand for a list of equals, or in a list::

    {name: residual, stages: {copies: 8, name: ema, codebook_size: 2048, dim: 32, lifecycle: {start: kmeans}}}
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from .base import Quantizer
from .lifecycle import Lifecycle

MEMBERS: dict[str, tuple[str, str]] = {
    "additive": ("additive", "Additive"),
    "bsq": ("bsq", "BSQ"),
    "cascade": ("cascade", "Cascade"),
    "ema": ("ema", "EMAVQ"),
    "fixed": ("fixed", "FixedCodebook"),
    "fsq": ("fsq", "FSQ"),
    "granular": ("granular", "Granular"),
    "grouped": ("grouped", "Grouped"),
    "ibq": ("ibq", "IBQ"),
    "lfq": ("lfq", "LFQ"),
    "multirate": ("multirate", "MultiRate"),
    "multiscale": ("multiscale", "MultiScale"),
    "prior": ("prior", "SemanticPrior"),
    "projected": ("projected", "Projected"),
    "residual": ("residual", "Residual"),
    "residual_fsq": ("residual_fsq", "ResidualFSQ"),
    "scalar": ("scalar", "Scalar"),
    "simvq": ("simvq", "SimVQ"),
    "split": ("split", "Split"),
    "turboquant": ("turboquant", "TurboQuant"),
    "vq": ("vq", "VQ"),
}


def build(description: Mapping[str, Any]) -> Quantizer:
    """The quantizer of a description.

    Raises:
        ValueError: If the name is not in `MEMBERS`, or an argument is not the member's.
    """
    arguments = dict(description)
    name = arguments.pop("name", None)
    if name not in MEMBERS:
        raise ValueError(f"quantizers are {', '.join(MEMBERS)}; got {name!r}")
    module, member = MEMBERS[name]
    try:
        parts = {key: _part(value) for key, value in arguments.items()}
        return getattr(import_module(f".{module}", __package__), member)(**parts)
    except TypeError as error:
        raise ValueError(f"quantizer {name!r} cannot be built: {error}") from None


def _part(value: Any) -> Any:
    """An argument: parts are built, policies too, plain values stay."""
    if isinstance(value, Mapping) and "copies" in value:
        return _copies(value)
    if isinstance(value, Mapping):
        return build(value) if "name" in value else Lifecycle(**value)
    if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        return [part for entry in value for part in _copies(entry)]
    return value


def _copies(description: Mapping[str, Any]) -> list[Quantizer]:
    """As many quantizers as a description asks for, one by default."""
    one = {key: entry for key, entry in description.items() if key != "copies"}
    return [build(one) for _ in range(description.get("copies", 1))]
