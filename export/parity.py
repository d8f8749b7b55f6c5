"""Whether two graphs say what their codec says: the same codes, and the same signal of the same codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnxruntime
import torch

from sigtok.codecs.codec import Codec
from sigtok.codecs.spec import Extent, Rate
from sigtok.codecs.tokens import Tokens

from .runtime import run_graph

AGREEMENT, TOLERANCE = 0.999, 1e-3  # share of equal codes, least; difference of two signals in [-1, 1], most
SECONDS, WINDOWS = 6.0, 2.5  # most of a trial: of audio; of an image, along each axis
PIXELS = 200  # most of a trial along each axis where qualities are, whose windows are single positions
MOST_ITEMS = 3  # of a batch


@dataclass
class Parity:
    """What was measured: per codebook, codes compared and codes equal; the largest difference; extents tried, and at
    which qualities."""

    compared: list[int]
    equal: list[int]
    difference: float = 0.0
    extents: list[Extent] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)

    @property
    def agreement(self) -> float:
        """Share of all codes that are equal."""
        return sum(self.equal) / max(1, sum(self.compared))

    def check(self) -> None:
        """Raise ValueError, with the figures, unless the graphs are good enough to ship."""
        if not self.agreement >= AGREEMENT:
            shares = [
                f"{equal / max(1, compared):.4f}" for equal, compared in zip(self.equal, self.compared, strict=True)
            ]
            raise ValueError(
                f"a graph gives at least {AGREEMENT:.2%} of its codec's codes, got {self.agreement:.4%} of "
                f"{sum(self.compared)} ({', '.join(shares)} by codebook); nothing was written"
            )
        if not self.difference <= TOLERANCE:
            raise ValueError(
                f"a graph decodes to within {TOLERANCE:g} of its codec, got {self.difference:g}; nothing was written"
            )


def measure(
    codec: Codec,
    encoder: onnxruntime.InferenceSession,
    decoder: onnxruntime.InferenceSession,
    rate: Rate,
    trials: int,
    seed: int = 0,
) -> Parity:
    """Codec and graphs over batches of seeded signals, all of other extents; a decoder also with codebooks missing, or
    both at any of the codec's qualities."""
    dice = np.random.default_rng(seed)
    spec, rate = codec.spec, codec.spec.resolve(rate)
    books = rate.codebooks
    parity = Parity([0] * books, [0] * books)
    for extent in _extents(codec, rate, trials, dice):
        signals = _signals(1 + int(dice.integers(MOST_ITEMS)), (spec.channels, *extent), dice)
        if spec.qualities:
            points = (spec.qualities - 1) * spec.quality_steps + 1
            rate = replace(rate, quality=1 + int(dice.integers(points)) / spec.quality_steps)
            parity.qualities.append(rate.quality)
        tokens = codec.encode(torch.from_numpy(signals), rate)
        codes = run_graph(encoder, signals, rate.quality)
        _compare_codes(parity, tokens.codes.numpy(), codes.reshape(len(codes), books, -1))
        kept = books if spec.qualities else 1 + int(dice.integers(books))  # there, codes are sent all or none
        shown = tokens.codes.numpy().reshape(codes.shape).copy()
        shown[:, kept:] = -1
        _compare_signals(parity, codec, tokens.prefix(kept), run_graph(decoder, shown, rate.quality))
        parity.extents.append(extent)
    return parity


def _compare_codes(parity: Parity, wanted: np.ndarray, got: np.ndarray) -> None:
    same = wanted == got if wanted.shape == got.shape else np.zeros(wanted.shape, bool)
    for book in range(wanted.shape[1]):
        parity.compared[book] += same[:, book].size
        parity.equal[book] += int(same[:, book].sum())


def _compare_signals(parity: Parity, codec: Codec, tokens: Tokens, got: np.ndarray) -> None:
    wanted = codec.decode(tokens)
    assert isinstance(wanted, torch.Tensor)
    extent = tokens.extents[0]
    got = got[(slice(None), slice(None), *(slice(size) for size in extent))]
    difference = float(np.abs(wanted.numpy() - got).max()) if wanted.shape == got.shape else np.inf
    parity.difference = max(parity.difference, difference if difference == difference else np.inf)


def _extents(codec: Codec, rate: Rate, trials: int, dice: np.random.Generator) -> Iterator[Extent]:
    """The smallest, a window and its neighbours, the largest; then small and large ones in turn."""
    spec = codec.spec
    steps = spec.step(rate)
    if spec.modality != "image":
        most = tuple(max(int(SECONDS * (spec.sample_rate or 1)), 4 * step) for step in steps)
    else:
        most = tuple(max(int(WINDOWS * step), PIXELS if spec.qualities else 0) for step in steps)
    edges = [
        (1,) * len(steps),
        steps,
        tuple(step + 1 for step in steps),
        tuple(max(1, step - 1) for step in steps),
        most,
    ]
    yield from edges[:trials]
    for trial in range(trials - len(edges)):
        sizes = [np.exp(dice.uniform(0, np.log(size))) if trial % 2 else dice.uniform(1, size) for size in most]
        yield tuple(int(size) for size in sizes)


def _signals(items: int, shape: tuple[int, ...], dice: np.random.Generator) -> np.ndarray:
    """Tones under noise, each at its own level from full scale to 60 dB below; the first item begins with silence.

    Float32 ``[items, *shape]``.
    """
    channels, *extent = shape
    axes = [np.arange(size).reshape(-1, *[1] * (len(extent) - 1 - axis)) for axis, size in enumerate(extent)]
    each = (items, channels, *[1] * len(extent))
    tones = np.zeros((items, *shape))
    for place in 3 * axes:
        tones += np.sin(np.pi * dice.uniform(0, 1, each) ** 3 * place + dice.uniform(0, 2 * np.pi, each))
    tone_level, noise_level = 10 ** -dice.uniform(0, 3, (2, *each))
    noise = dice.uniform(-1, 1, tones.shape)
    signals = tone_level * tones / (3 * len(axes)) + noise_level * noise
    signals[0, :, : dice.integers(extent[0])] = 0
    return signals.clip(-1, 1).astype(np.float32)
