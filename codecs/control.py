"""Operating points: the ladder of a codec, and of one signal the least that is good enough or the most that is small
enough.

Points of a codec are taken in one order, from the smallest files: of a rate-distortion codec its qualities in their
finest steps; of others numbers of queries; if it has none to choose, of codebooks; of a codec of several granularities,
steps from all coarse to all fine. Where the tokens of a low point are among those of a high one (queries that are
nested, codebooks) the signal is encoded once and cut, elsewhere it is encoded for every point tried.

A search halves the points, as if quality and bytes grew along them; what it returns was decoded or written, and
measured. One for a size decodes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from sigtok.codecs.image.granularity import COARSE, FINE, Shares, between, shares_at
from sigtok.codecs.metrics.audio import snr
from sigtok.codecs.metrics.image import psnr

from .codec import Codec
from .files import own_coder, tokens_to_bytes
from .spec import CodecSpec, Rate
from .tokens import Tokens

Quality = Callable[[Tensor, Tensor], float]
QUALITIES: dict[str, Quality] = {"image": psnr, "audio": snr}  # dB both
STEPS = 64  # points of a codec of several granularities, beside the first
RUNGS = 6  # of the ladder of a codec without qualities of its own, if it has as many points
NEAR, ROUNDS = 0.03, 4  # how far beside its target its file may be; how often it is encoded to come there
ANY = bytes(16)  # a stream id; a file is as large with another


class Choice(NamedTuple):
    """A point that was tried.

    Args:
        tokens: Of the signal at that point; ``tokens.rate`` names it.
        reached: What was asked for as it came out: dB, bits per pixel, kilobits per second or bytes.
        met: Whether that is what was asked for.
    """

    tokens: Tokens
    reached: float
    met: bool


class Unit(NamedTuple):
    """What a size is asked for in, and how many bytes one of it is for a signal."""

    name: str
    bytes: float


BYTES = Unit("bytes", 1.0)


def points(codec: Codec, rate: Rate | None = None) -> tuple[Rate, ...]:
    """Every operating point of a codec in the order of searches, the smallest files first.

    Args:
        codec: Any codec.
        rate: The highest point, and all that is not searched: codebooks of a codec with queries, and the window.
    """
    spec, rate, axis = codec.spec, codec.spec.resolve(rate), searched(codec)
    if axis == "quality":
        steps = spec.quality_steps
        return tuple(replace(rate, quality=1 + step / steps) for step in range(int((rate.quality - 1) * steps) + 1))
    if axis == "shares":
        return tuple(replace(rate, shares=between(step / STEPS, spec.shares)) for step in range(STEPS + 1))
    most = rate.queries if axis == "queries" else rate.codebooks
    return tuple(replace(rate, **{axis: count}) for count in range(1, most + 1))


def ladder(codec: Codec, rate: Rate | None = None) -> tuple[Rate, ...]:
    """The rungs of a codec, the smallest files first: the n-th is quality n.

    A rate-distortion codec has its whole qualities. Of another's `points` up to six are taken, as even in the logarithm
    of nominal bits as they come; arguments are those of `points`.
    """
    every = points(codec, rate)
    if searched(codec) == "quality":
        return every[:: codec.spec.quality_steps]
    bits = [math.log(_bits(codec.spec, point)) for point in every]
    rungs, taken = min(RUNGS, len(every)), [0]
    for rung in range(1, rungs):
        wanted = bits[0] + (bits[-1] - bits[0]) * rung / (rungs - 1)
        free = range(taken[-1] + 1, len(every) - rungs + rung + 1)  # one for every rung above
        taken.append(min(free, key=lambda place: abs(bits[place] - wanted)))
    return tuple(every[place] for place in taken)


def at_quality(codec: Codec, quality: float | int, rate: Rate | None = None) -> Rate:
    """The rung of a number, or of a rate-distortion codec a point between two.

    Raises:
        ValueError: If the codec has no such quality; ``rate`` is that of `points`.
    """
    if searched(codec) == "quality":
        return codec.spec.resolve(replace(rate or Rate(), quality=quality))
    rungs = ladder(codec, rate)
    if quality not in range(1, len(rungs) + 1):
        raise ValueError(f"{codec.spec.name} has qualities 1 to {len(rungs)}, got {quality:g}; choose one of these")
    return rungs[int(quality) - 1]


def smallest(
    codec: Codec,
    signal: Float[Tensor, "B C *extent"],
    target: float,
    quality: Quality | None = None,
    rate: Rate | None = None,
) -> Choice:
    """The lowest point whose reconstruction is good enough.

    If none of the points tried is, the best of them, with ``met`` False.

    Args:
        codec: Any codec.
        signal: One signal in [-1, 1].
        target: The least quality.
        quality: ``quality(reconstruction, signal)``, higher is better; None for PSNR of images, SNR of sounds, in dB.
        rate: The highest point, and all that is not searched: codebooks of a codec with queries, and the window.

    Raises:
        ValueError: If the codec refuses the signal or the rate, or features come without a quality.
    """
    measure = quality or QUALITIES.get(codec.spec.modality)
    if measure is None:
        raise ValueError(f"{codec.spec.modality} have no quality of their own, got None; pass quality=")
    most, at = _encodings(codec, signal, rate)
    tried: dict[int, Choice] = {}

    def good(point: int) -> bool:
        tokens = at(point)
        reached = measure(codec.decode(tokens)[0][None].to(signal.device), signal)
        tried[point] = Choice(tokens, reached, reached >= target)
        return tried[point].met

    first = _first(good, most)
    return tried[first] if first <= most else max(tried.values(), key=lambda choice: choice.reached)


def at_rate(
    codec: Codec, signal: Float[Tensor, "B C *extent"], bits_per_pixel: float, rate: Rate | None = None
) -> Choice:
    """The point of an image whose file has a number of bits per pixel; arguments and errors else as of `at_size`."""
    if codec.spec.modality != "image":
        raise ValueError(f"bits per pixel are of images, got {codec.spec.modality}; ask for bytes with at_size")
    pixels = math.prod(signal.shape[2:])
    return _at_size(codec, signal, bits_per_pixel, rate, Unit("bits per pixel", pixels / 8))


def at_bitrate(
    codec: Codec, signal: Float[Tensor, "B C *extent"], kilobits_per_second: float, rate: Rate | None = None
) -> Choice:
    """The point of a sound whose file has at most so many kilobits for each second, 1,000 bits each; arguments and
    errors else as of `at_size`."""
    spec = codec.spec
    if spec.modality != "audio" or spec.sample_rate is None or not signal.shape[-1]:
        raise ValueError(
            f"kilobits per second are of sounds, got {spec.modality} of extent {tuple(signal.shape[2:])}; ask for "
            f"bytes with at_size"
        )
    seconds = signal.shape[-1] / spec.sample_rate
    return _at_size(codec, signal, kilobits_per_second, rate, Unit("kbit/s", 125 * seconds))


def at_size(codec: Codec, signal: Float[Tensor, "B C *extent"], size: float, rate: Rate | None = None) -> Choice:
    """The highest point whose file has at most so many bytes.

    A codec of several granularities comes near the size from either side; ``met`` says whether its file is within 3 %
    or one code. On small pictures a block may be more.

    Args:
        codec: Any codec.
        signal: One signal in [-1, 1].
        size: Bytes of the file, headers and all.
        rate: The highest point, and all that is not searched: codebooks of a codec with queries, and the window.

    Raises:
        ValueError: If the codec refuses the signal or the rate, or has no file as small, or, of several granularities,
            none as large.
    """
    return _at_size(codec, signal, size, rate, BYTES)


def _at_size(codec: Codec, signal: Tensor, target: float, rate: Rate | None, unit: Unit) -> Choice:
    """`at_size` in any unit."""
    size = target * unit.bytes
    if searched(codec) == "shares":
        choice = _granular_at_size(codec, signal, size, unit)
        return choice._replace(reached=choice.reached / unit.bytes)
    most, at = _encodings(codec, signal, rate)
    size_of = _sizes(codec)
    tried: dict[int, Choice] = {}

    def over(point: int) -> bool:
        tokens = at(point)
        written = size_of(tokens)
        tried[point] = Choice(tokens, written, written <= size)
        return not tried[point].met

    last = _first(over, most) - 1
    if not last:
        raise ValueError(_range(tried[1].reached, size_of(at(most)), size, unit))
    return tried[last]._replace(reached=tried[last].reached / unit.bytes)


def searched(codec: Codec) -> Literal["quality", "shares", "queries", "codebooks"]:
    """In what the points of a codec differ."""
    if codec.spec.qualities:
        return "quality"
    if codec.spec.granular:
        return "shares"
    chosen = hasattr(codec.encoder, "nested")  # other encoders have a query for each position, or one
    return "queries" if chosen and codec.spec.queries > 1 and set(codec.spec.strides) == {1} else "codebooks"


def first_queries(tokens: Tokens, queries: int) -> Tokens:
    """The first queries of every window: a lower rate of the same encoding, if the encoder nests them.

    Raises:
        ValueError: If the tokens have fewer, or codebooks run at different rates.
    """
    rate = tokens.spec.resolve(replace(tokens.rate, queries=queries))
    if queries > tokens.rate.queries or set(tokens.spec.strides) != {1}:
        raise ValueError(
            f"these tokens have {tokens.rate.queries} queries at strides {tokens.spec.strides}, got queries={queries}; "
            f"ask for as many at most, of codebooks of stride 1"
        )
    windows = (-1, tokens.rate.queries)
    streams = (stream.unflatten(1, windows)[..., :queries].flatten(1) for stream in tokens.streams)
    return replace(tokens, streams=tuple(streams), rate=rate)


def file_bytes(codec: Codec, tokens: Tokens) -> int:
    """Bytes of the file of one signal's tokens."""
    return _sizes(codec)(tokens)


# -- the search ------------------------------------------------------------------------------------------


def _first(holds: Callable[[int], bool], most: int) -> int:
    """The first of 1 to ``most`` that holds, found by halving; ``most + 1`` if none does."""
    low, high = 1, most + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _encodings(codec: Codec, signal: Tensor, rate: Rate | None) -> tuple[int, Callable[[int], Tokens]]:
    """How many points there are, and the tokens of each, counted from 1."""
    if len(signal) != 1:
        raise ValueError(_one(signal))
    every, axis = points(codec, rate), searched(codec)
    if axis in ("quality", "shares") or (axis == "queries" and not codec.encoder.nested):
        return len(every), lambda point: codec.encode(signal, every[point - 1])
    many = codec.encode(signal, every[-1])
    return len(every), partial(first_queries, many) if axis == "queries" else many.prefix


def _sizes(codec: Codec) -> Callable[[Tokens], int]:
    """Bytes of the file of one signal's tokens, by one coder for all of them."""
    coder = own_coder(codec)
    return lambda tokens: len(tokens_to_bytes(tokens, ANY, coder, verify=False))


def _bits(spec: CodecSpec, rate: Rate) -> float:
    """Nominal bits per window, without the map of granularities."""
    shares = rate.shares or (1.0,) * rate.codebooks
    books = zip(shares, spec.codebook_sizes, spec.strides, strict=False)
    return rate.queries * sum(share * math.log2(size) / stride for share, size, stride in books)


def _granular_at_size(codec: Codec, signal: Tensor, size: float, unit: Unit) -> Choice:
    """Shares by the closed form of codes and map, corrected by what the file has beside them."""
    if len(signal) != 1:
        raise ValueError(_one(signal))
    spec, pixels, size_of = codec.spec, math.prod(signal.shape[2:]), _sizes(codec)
    near = max(NEAR * size, math.ceil((max(spec.codebook_sizes) - 1).bit_length() / 8))

    def choice(shares: Shares) -> Choice:
        tokens = codec.encode(signal, Rate(shares=shares))
        written = size_of(tokens)
        return Choice(tokens, written, abs(written - size) <= near)

    ask, tried = size, list[Choice]()
    for _ in range(ROUNDS):
        try:
            tried.append(choice(shares_at(codec, signal[0], 8 * ask / pixels)))
        except ValueError:  # beyond the closed form: at an end, or nowhere
            ends = choice(COARSE), choice(FINE)
            if not ends[0].reached <= size <= ends[1].reached:
                raise ValueError(_range(ends[0].reached, ends[1].reached, size, unit)) from None
            tried += ends
            break
        if tried[-1].met:
            break
        ask += size - tried[-1].reached
    return min(tried, key=lambda each: abs(each.reached - size))


def _one(signal: Tensor) -> str:
    return f"a point is chosen for one signal, [1, C, *extent], got {list(signal.shape)}; choose one by one"


def _range(least: float | int, most: float | int, size: float, unit: Unit) -> str:
    """What may be asked for instead; limits are rounded so that they can be."""
    low, high = math.ceil(1e4 * least / unit.bytes) / 1e4, math.floor(1e4 * most / unit.bytes) / 1e4
    return (
        f"files of this signal have {low:.10g} to {high:.10g} {unit.name}, got a target of {size / unit.bytes:g}; "
        f"choose one of these sizes"
    )
