"""The operating point of one signal: the least that is good enough, or the most that is small enough.

Points of a codec are taken in one order: numbers of queries; if it has none to choose, of codebooks; of a codec of
several granularities, steps from all coarse to all fine. Where the tokens of a low point are among those of a high one
(queries that are nested, codebooks) the signal is encoded once and cut, elsewhere it is encoded for every point tried.

A search halves the points, as if quality and bytes grew along them; what it returns was decoded or written, and
measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from sigtok.codecs.image.granularity import COARSE, FINE, Shares, between, shares_at
from sigtok.codecs.metrics.audio import snr
from sigtok.codecs.metrics.image import psnr

from .codec import Codec
from .files import tokens_to_bytes
from .spec import Rate
from .tokens import Tokens

Quality = Callable[[Tensor, Tensor], float]
QUALITIES: dict[str, Quality] = {"image": psnr, "audio": snr}  # dB both
STEPS = 64  # points of a codec of several granularities, beside the first
NEAR, ROUNDS = 0.03, 4  # how far beside its target its file may be; how often it is encoded to come there
ANY = bytes(16)  # a stream id; a file is as large with another


class Choice(NamedTuple):
    """A point that was tried.

    Args:
        tokens: Of the signal at that point; ``tokens.rate`` names it.
        reached: What was asked for as it came out: dB, bits per pixel or bytes.
        met: Whether that is what was asked for.
    """

    tokens: Tokens
    reached: float
    met: bool


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
    most, at = _points(codec, signal, rate)
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
    choice = at_size(codec, signal, bits_per_pixel * pixels / 8, rate)
    return choice._replace(reached=8 * choice.reached / pixels)


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
    if searched(codec) == "shares":
        return _granular_at_size(codec, signal, size)
    most, at = _points(codec, signal, rate)
    tried: dict[int, Choice] = {}

    def over(point: int) -> bool:
        tokens = at(point)
        written = file_bytes(tokens)
        tried[point] = Choice(tokens, written, written <= size)
        return not tried[point].met

    last = _first(over, most) - 1
    if not last:
        raise ValueError(_range(file_bytes(at(1)), file_bytes(at(most)), size))
    return tried[last]


def searched(codec: Codec) -> Literal["shares", "queries", "codebooks"]:
    """In what the points of a codec differ."""
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


def file_bytes(tokens: Tokens) -> int:
    """Bytes of the file of one signal's tokens."""
    return len(tokens_to_bytes(tokens, ANY))


# -- the search ------------------------------------------------------------------------------------------


def _first(holds: Callable[[int], bool], most: int) -> int:
    """The first of 1 to ``most`` that holds, found by halving; ``most + 1`` if none does."""
    low, high = 1, most + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _points(codec: Codec, signal: Tensor, rate: Rate | None) -> tuple[int, Callable[[int], Tokens]]:
    """How many points there are, and the tokens of each, counted from 1."""
    if len(signal) != 1:
        raise ValueError(_one(signal))
    spec, rate, axis = codec.spec, codec.spec.resolve(rate), searched(codec)
    if axis == "shares":
        return STEPS + 1, lambda point: _at_shares(codec, signal, between((point - 1) / STEPS, spec.shares))
    if axis == "queries" and not codec.encoder.nested:
        return rate.queries, lambda point: codec.encode(signal, replace(rate, queries=point))
    many = codec.encode(signal, rate)
    if axis == "queries":
        return rate.queries, lambda point: first_queries(many, point)
    return rate.codebooks, many.prefix


def _at_shares(codec: Codec, signal: Tensor, shares: Shares) -> Tokens:
    return codec.encode(signal, Rate(shares=shares))


def _granular_at_size(codec: Codec, signal: Tensor, size: float) -> Choice:
    """Shares by the closed form of codes and map, corrected by what the file has beside them."""
    if len(signal) != 1:
        raise ValueError(_one(signal))
    spec, pixels = codec.spec, math.prod(signal.shape[2:])
    near = max(NEAR * size, math.ceil((max(spec.codebook_sizes) - 1).bit_length() / 8))

    def choice(shares: Shares) -> Choice:
        tokens = _at_shares(codec, signal, shares)
        written = file_bytes(tokens)
        return Choice(tokens, written, abs(written - size) <= near)

    ask, tried = size, list[Choice]()
    for _ in range(ROUNDS):
        try:
            tried.append(choice(shares_at(codec, signal[0], 8 * ask / pixels)))
        except ValueError:  # beyond the closed form: at an end, or nowhere
            ends = choice(COARSE), choice(FINE)
            if not ends[0].reached <= size <= ends[1].reached:
                raise ValueError(_range(int(ends[0].reached), int(ends[1].reached), size)) from None
            tried += ends
            break
        if tried[-1].met:
            break
        ask += size - tried[-1].reached
    return min(tried, key=lambda each: abs(each.reached - size))


def _one(signal: Tensor) -> str:
    return f"a point is chosen for one signal, [1, C, *extent], got {list(signal.shape)}; choose one by one"


def _range(least: int, most: int, size: float) -> str:
    return f"files of this signal have {least} to {most} bytes, got a target of {size:g}; choose one of these sizes"
