"""Entropy coders as they are stored: a kind, plain settings and arrays of whole numbers. No torch.

A density keeps them among its weights, an exported codec in a file. What a file says is checked here, so that a coder
either runs or is not made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .coder import EntropyCoder
from .indexed import PHASES, POOL, IndexedCoder, Networks
from .integer import EXACT, Convolution, Fold, IntegerNetwork, Step, Unfold
from .neighbours import Head, NeighbourCoder, groups
from .spectral import BAND, CHANNELS, SpectralCoder, SpectralHead, classes
from .static import StaticCoder, StaticLaws
from .tables import Tables, joined

Integers = Mapping[str, np.ndarray]  # int32 or int64, which is checked
Settings = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]

NETWORKS = ("local", "analysis", "synthesis", "mean", "scale")  # of `indexed.Networks`
LARGEST_SIZE = 2**16  # codes of a codebook
LARGEST_COUNT = 2**16  # of numbers that a setting may ask for
DEEPEST = 10  # levels of a pyramid


@runtime_checkable
class Codebooks(Protocol):
    """What a coder has of its codec, as its `CodecSpec` says it."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes K of each of the D codebooks."""

    @property
    def qualities(self) -> int:
        """Rungs S, 0 for none."""

    @property
    def quality_steps(self) -> int:
        """Operating points from one to the next."""


def coder_of(kind: str, settings: Settings, codec: Codebooks, integers: Integers) -> EntropyCoder:
    """The coder that whole numbers make.

    Args:
        kind: "factorised", "hyperprior", "neighbours" or "spectral".
        settings: Plain values, as the density of that kind has them.
        codec: Whose codes it codes.
        integers: int32 or int64 arrays, by name.

    Raises:
        ValueError: If the settings or arrays are not those of such a coder.
    """
    if kind not in _MAKERS:
        raise ValueError(f"an entropy coder is one of {list(_MAKERS)}, got {kind!r:.80}; update sigtok")
    if max(codec.codebook_sizes) > LARGEST_SIZE:
        raise ValueError(f"coded codebooks have up to {LARGEST_SIZE} codes, got {max(codec.codebook_sizes)}")
    arrays = _Arrays(integers)
    coder = _MAKERS[kind](_Fields("settings", settings), codec, arrays)
    arrays.end()
    return coder


def neighbour_shapes(channels: int, states: int, width: int, rungs: int) -> Shapes:
    """Whole numbers of a group of `NeighbourCoder`; see `neighbours.Head`."""
    return {
        "state": (states, 2 * channels),
        "hidden_first": (width, states),
        "hidden_second": (width, states + channels),
        "hidden_bias": (2, width),
        "out_first": (channels, width),
        "out_second": (channels, width + channels),
        "bias": (rungs, 2, channels),
    }


def spectral_shapes(inputs: int, width: int, bands: int, rungs: int) -> Shapes:
    """Whole numbers of a class of `SpectralCoder`; see `spectral.SpectralHead`."""
    return {
        "hidden": (width, inputs),
        "hidden_bias": (width,),
        "out": (width,),
        "direct": (inputs,),
        "bias": (rungs, bands),
    }


def network_of(settings: Settings, integers: Integers) -> IntegerNetwork:
    """The network of its steps and of arrays ``weight_0``, ``bias_0``, ``shift_0``, ...

    Raises:
        ValueError: If there is no such network, or its sums could be too large.
    """
    arrays = _Arrays(integers)
    network = _network(_Fields("settings", settings), arrays, "", None)
    arrays.end()
    return network


# -- coders ------------------------------------------------------------------------------------------------


def _factorised(settings: _Fields, codec: Codebooks, arrays: _Arrays) -> EntropyCoder:
    settings.end()
    return StaticCoder(codec.codebook_sizes, _laws(arrays, codec, len(codec.codebook_sizes)))


def _hyperprior(settings: _Fields, codec: Codebooks, arrays: _Arrays) -> EntropyCoder:
    dim, rungs = len(codec.codebook_sizes), max(codec.qualities, 1)
    scales, plans = settings.count("scales"), settings.fields("networks")
    settings.end()
    made = {name: _network(plans.fields(name), arrays, f"{name}_", rungs) for name in NETWORKS}
    plans.end()
    found = _check_networks(made, dim, scales)
    compander = arrays.take("compander", None)
    if not compander.size:
        raise ValueError("a compander has at least 1 number, got none; export the model again")
    tables = Tables(arrays.take("frequencies", None), arrays.take("lengths", PHASES * scales))
    side = _laws(arrays, codec, found, "side.")
    both = joined([tables, side.tables])
    laws = StaticLaws(both, side.index + len(tables), side.centres, codec.quality_steps)
    return IndexedCoder(codec.codebook_sizes, Networks(compander, **made), laws, scales)


def _neighbours(settings: _Fields, codec: Codebooks, arrays: _Arrays) -> EntropyCoder:
    low, channels = settings.count("low", 0, DEEPEST), settings.counts("channels")
    states, width, rungs = settings.count("states"), settings.count("width"), max(codec.qualities, 1)
    settings.end()
    plan, heads = groups(len(codec.codebook_sizes) - 3, low, channels), []
    for place, group in enumerate(plan):
        part = arrays.part(neighbour_shapes(group.channels, states, width, rungs), place)
        real = {name: array.astype(np.float64) for name, array in part.items()}
        heads.append(
            Head(
                state=real["state"],
                hidden=(real["hidden_first"], real["hidden_second"]),
                hidden_bias=real["hidden_bias"],
                out=(real["out_first"], real["out_second"]),
                bias=part["bias"],
            )
        )
    tables = Tables(arrays.take("frequencies", None), arrays.take("lengths", None))
    return NeighbourCoder(codec.codebook_sizes, plan, heads, states, tables)


def _spectral(settings: _Fields, codec: Codebooks, arrays: _Arrays) -> EntropyCoder:
    bins, width, rungs = settings.count("bins"), settings.count("width"), max(codec.qualities, 1)
    settings.end()
    sizes, heads = codec.codebook_sizes, []
    if len(sizes) != CHANNELS or len(set(sizes)) > 1:
        raise ValueError(f"a spectrum has {CHANNELS} codebooks of one size, got {sizes}; choose another density")
    if bins % BAND:
        raise ValueError(f"bins are a multiple of {BAND}, got {bins}; export the model again")
    for place, each in enumerate(classes()):
        part = arrays.part(spectral_shapes(each.inputs, width, bins // BAND, rungs), place)
        real = {name: array.astype(np.float64) for name, array in part.items() if name != "bias"}
        heads.append(SpectralHead(**real, bias=part["bias"]))
    tables = Tables(arrays.take("frequencies", None), arrays.take("lengths", None))
    return SpectralCoder(sizes[0], bins, heads, tables)


_MAKERS: dict[str, Callable[[_Fields, Codebooks, _Arrays], EntropyCoder]] = {
    "factorised": _factorised,
    "hyperprior": _hyperprior,
    "neighbours": _neighbours,
    "spectral": _spectral,
}


# -- parts -------------------------------------------------------------------------------------------------


def _laws(arrays: _Arrays, codec: Codebooks, channels: int, prefix: str = "") -> StaticLaws:
    """One table for each operating point and channel, those of a point together; behind them there is room."""
    rows = (max(codec.qualities, 1) - 1) * codec.quality_steps + 1
    lengths = arrays.take(f"{prefix}lengths", rows * channels)
    centres = arrays.take(f"{prefix}centres", rows * channels).reshape(rows, channels)
    tables = Tables(arrays.take(f"{prefix}frequencies", None)[: max(int(lengths.sum()), 0)], lengths)
    return StaticLaws(tables, np.arange(rows * channels).reshape(rows, channels), centres, codec.quality_steps)


def _network(settings: _Fields, arrays: _Arrays, prefix: str, rungs: int | None) -> IntegerNetwork:
    """A network whose biases have one row per rung, or None for any number."""
    bound = settings.count("bound", 0, EXACT)
    made: list[Step] = []
    for step in settings.several("steps"):
        kind, first, second = step if isinstance(step, list | tuple) and len(step) == 3 else (None, 0, 0)
        if kind == "convolution":
            low, high = (_whole("a bound of results", value, -EXACT, EXACT) for value in (first, second))
            place = sum(isinstance(each, Convolution) for each in made)
            made.append(_convolution(arrays, prefix, place, rungs, (low, high)))
        elif kind in ("fold", "unfold"):
            rows, columns = (_whole(f"positions of a {kind}", value, 1, POOL) for value in (first, second))
            made.append(Fold(rows, columns) if kind == "fold" else Unfold(rows, columns))
        else:
            raise ValueError(
                f"a step is convolution, fold or unfold, and two numbers, got {step!r:.80}; export the model again"
            )
    settings.end()
    return IntegerNetwork(made, bound)


def _convolution(arrays: _Arrays, prefix: str, place: int, rungs: int | None, bounds: tuple[int, int]) -> Convolution:
    weight = arrays.take(f"{prefix}weight_{place}", None, None, None, None)
    if not weight.size or not weight.shape[2] % 2 or not weight.shape[3] % 2:
        raise ValueError(f"a convolution has odd sizes, got weights of {list(weight.shape)}; export the model again")
    bias = arrays.take(f"{prefix}bias_{place}", rungs, len(weight))
    shift = arrays.take(f"{prefix}shift_{place}", 1)
    return Convolution(weight, bias, int(shift[0]), *bounds)


def _check_networks(made: dict[str, IntegerNetwork], dim: int, scales: int) -> int:
    """Channels of the side information, if one network gives what the next one takes.

    Raises:
        ValueError: If not.
    """
    local, fewer = _traced("local", made["local"], 2 * dim)
    side, _ = _traced("analysis", made["analysis"], local)
    hidden, more = _traced("synthesis", made["synthesis"], side)
    ends = [_traced(name, made[name], hidden)[0] for name in ("mean", "scale")]
    if ends != [dim, dim] or fewer not in ((POOL, POOL), (1, POOL)) or more != tuple(1 / size for size in fewer):
        raise ValueError(
            f"means and scales are {dim} at each position, of side information at a {POOL}th of the resolution, got "
            f"{ends} of {fewer} and {more}; export the model again"
        )
    last = made["scale"].steps[-1]
    if not isinstance(last, Convolution) or not 0 <= last.low <= last.high < scales:
        raise ValueError(f"indices of scales are 0 to {scales - 1}, its network gives others; export the model again")
    return side


def _traced(name: str, network: IntegerNetwork, channels: int) -> tuple[int, tuple[float, float]]:
    """Channels of the results, and positions of the inputs to each of them along both axes."""
    down = across = 1.0
    for step in network.steps:
        if isinstance(step, Convolution):
            out, inputs = step.weight.shape[:2]
            if inputs != channels and (inputs, out) != (1, channels):
                raise ValueError(f"a layer of {name} reads {inputs} channels, got {channels}; export the model again")
            channels = out
            continue
        cells = step.rows * step.columns
        if isinstance(step, Fold):
            channels, down, across = channels * cells, down * step.rows, across * step.columns
        elif channels % cells:
            raise ValueError(f"an unfold of {name} has channels for {cells} positions, got {channels} in all")
        else:
            channels, down, across = channels // cells, down / step.rows, across / step.columns
    return channels, (down, across)


# -- checks of what is stored ------------------------------------------------------------------------------


class _Arrays:
    """Whole numbers by name, each taken once."""

    def __init__(self, integers: Integers) -> None:
        self.left = dict(integers)

    def take(self, name: str, *shape: int | None) -> NDArray[np.int64]:
        """An array of a shape, in which None is any size."""
        if name not in self.left:
            raise ValueError(
                f"an entropy coder of this kind has whole numbers {name}, got none; export the model again"
            )
        array = self.left.pop(name)
        fits = len(shape) == array.ndim and all(
            size in (None, got) for size, got in zip(shape, array.shape, strict=True)
        )
        if array.dtype not in (np.int32, np.int64) or not fits:
            wanted = ["any" if size is None else size for size in shape]
            raise ValueError(
                f"{name} are whole numbers of 32 or 64 bits and of shape {wanted}, got {array.dtype} "
                f"{list(array.shape)}; export the model again"
            )
        if array.size and not -EXACT < int(array.min()) <= int(array.max()) < EXACT:
            raise ValueError(f"whole numbers of {name} stay below 2**53, got larger; export the model again")
        return array.astype(np.int64)

    def part(self, shapes: Shapes, place: int) -> dict[str, NDArray[np.int64]]:
        """The arrays of one of several networks, by their names in it."""
        return {name: self.take(f"{name}_{place}", *shape) for name, shape in shapes.items()}

    def end(self) -> None:
        """Raise ValueError if something is left."""
        if self.left:
            raise ValueError(f"an entropy coder of this kind has no {min(self.left)!r:.80}; export the model again")


class _Fields:
    """Plain values by name, each taken once."""

    def __init__(self, place: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise ValueError(f"{place} of an entropy coder are values by name, got {type(values).__name__}")
        self.place, self.left = place, dict(values)

    def take(self, name: str) -> Any:
        """The value of a name."""
        if name not in self.left:
            raise ValueError(f"{self.place} of an entropy coder have {name}, got none; export the model again")
        return self.left.pop(name)

    def count(self, name: str, least: int = 1, most: int = LARGEST_COUNT) -> int:
        """A whole number in a range."""
        return _whole(name, self.take(name), least, most)

    def several(self, name: str) -> Any:
        """Several values."""
        values = self.take(name)
        if not isinstance(values, list | tuple) or not values:
            raise ValueError(f"{name} of an entropy coder are a list, got {values!r:.80}; export the model again")
        return values

    def counts(self, name: str) -> tuple[int, ...]:
        """Several counts."""
        return tuple(_whole(name, value, 1, LARGEST_COUNT) for value in self.several(name))

    def fields(self, name: str) -> _Fields:
        """Values inside values."""
        return _Fields(name, self.take(name))

    def end(self) -> None:
        """Raise ValueError if something is left."""
        if self.left:
            raise ValueError(
                f"{self.place} of an entropy coder have no {str(min(self.left, key=str))!r:.80}; update sigtok"
            )


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is a whole number of {least} to {most}, got {value!r:.80}; export the model again")
    return value
