"""A transformer over ids in exact whole numbers: the same on every machine, in one go or id by id. No torch.

Sums of floats depend on their order, which differs between machines, numbers of threads, and a whole signal and its
parts; a coder whose network does not give the same shares to reader and writer gives rubbish. So weights and what
passes between layers are whole numbers in float64, and every sum is below 2**52, where no order matters (Balle et al.,
2019, ICLR, "Integer networks for data compression with latent-variable models"). What is no sum is one addition,
multiplication, division or square root after the other, which IEEE 754 rounds in one way; powers of 2 come from a table
of whole numbers, sines and cosines from additions of angles.

Real numbers stand as whole ones with so many bits below the point: 16 of the stream that the blocks add to, 12 of what
goes into a matrix, 16 in all of the largest weight of a matrix. What is too large is clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Context, Decimal
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .integer import EXACT

Array = NDArray[np.float64]

STREAM, INNER, WEIGHT, ANGLE, POWER, SHARE = 16, 12, 16, 14, 10, 24  # bits below the point
LARGEST = {"stream": 2.0**24, "heads": 2.0**19, "inner": 2.0**24, "attention": 2.0**16}
WIDEST = 2**14  # of the stream: squares of its values add up in int64
EPS = 1e-6  # of the norms
LOG2_E = 1.4426950408889634
BASE = 10_000  # of the rotary positions
TURNS = 1024  # places whose angles are computed at once
FLOOR = 5  # bits: all codes together have at least so small a part of what the likeliest has


class Matrix:
    """A matrix of real numbers ``[out, in]`` in whole ones.

    Args:
        real: The matrix.
        bound: No input is larger.

    Raises:
        ValueError: If there are too many inputs for exact sums.
    """

    def __init__(self, real: Array, bound: float) -> None:
        bits = WEIGHT - int(np.frexp(np.abs(real).max(initial=0.0))[1])
        whole = np.rint(real * 2.0**bits)
        while np.abs(whole).sum(1).max(initial=0.0) * bound >= EXACT / 2:
            bits -= 1
            whole = np.rint(real * 2.0**bits)
        self.whole, self.bits = np.ascontiguousarray(whole.T), bits

    def __call__(self, values: Array, dropped: int, largest: float) -> Array:
        """Products ``[..., out]``, with so many bits fewer below the point than inputs have, clipped."""
        products = values @ self.whole
        products *= 2.0 ** -(self.bits + dropped)
        return clipped(products, largest)


class Block(NamedTuple):
    """The matrices of one block."""

    project: Matrix
    out: Matrix
    up: Matrix
    down: Matrix


class Memory:
    """What a network has read of a signal: how many ids, and keys and values of the last ones, as many as one sees.

    Args:
        blocks: Of the network.
        heads: Of attention.
        length: Ids of the signal, at most.
        width: Of a head.
        context: Ids that an id sees.
    """

    def __init__(self, blocks: int, heads: int, length: int, width: int, context: int) -> None:
        self.context, self.count, self.first = context, 0, 0  # the first that is kept
        self.kept = np.empty((blocks, 2, heads, min(length, 2 * context), width))
        self.table, self.turned = rotations(0, min(length, TURNS), width // 2), 0

    def room(self, more: int) -> tuple[int, int]:
        """Make room for more ids; where those begin that the first of them sees, and where they begin themselves."""
        held = min(self.count, self.context - 1)
        start = self.count - held - self.first
        if start + held + more > self.kept.shape[3]:
            kept = self.kept[:, :, :, start : start + held]
            if held + more > self.kept.shape[3]:
                self.kept = np.empty((*self.kept.shape[:3], held + more, self.kept.shape[4]))
            self.kept[:, :, :, :held] = kept.copy()
            self.first, start = self.count - held, 0
        return start, start + held

    def turns(self, more: int) -> Array:
        """Cosines and sines ``[2, S, d / 2]`` of the angles of the next ids."""
        start = self.count - self.turned
        if start + more > self.table.shape[1]:
            self.table, self.turned = rotations(self.count, max(more, TURNS), self.table.shape[2]), self.count
            start = 0
        return self.table[:, start : start + more]


class ExactTransformer:
    """`sigtok.codecs.language.network.TokenTransformer` in whole numbers; its weights give it.

    Args:
        tensors: The state of that network, as float arrays by name.
        heads: Of attention.
        context: Ids that an id sees, itself one of them.

    Raises:
        ValueError: If the network is too wide for exact sums, or a weight is not finite.
    """

    def __init__(self, tensors: Mapping[str, NDArray[np.floating]], heads: int, context: int) -> None:
        real = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
        if bad := [name for name, value in real.items() if not np.isfinite(value).all()]:
            raise ValueError(f"weights are finite, got NaN or infinity in {bad[0]}; the network did not train")
        embed = real["embed.weight"]
        self.size, self.dim = embed.shape
        if self.dim > WIDEST:
            raise ValueError(f"an exact network is at most {WIDEST} wide, got {self.dim}; take a smaller one as prior")
        self.heads, self.context = heads, context
        self.embed = clipped(embed * 2.0**STREAM, LARGEST["stream"])
        self.bound = math.ceil(math.sqrt(self.dim)) * 2.0**INNER  # of what is normed
        self.blocks = [self._block(real, f"blocks.{place}.") for place in range(_blocks(real))]
        self.scores = Matrix(embed * real["norm.weight"], self.bound)
        self.powers = power_table()

    def _block(self, real: Mapping[str, Array], name: str) -> Block:
        """A block whose norms are part of the matrices behind them."""
        project = real[name + "attention.project.weight"] * real[name + "attention_norm.weight"]
        up = real[name + "up.weight"] * real[name + "norm.weight"]
        return Block(
            Matrix(project, self.bound),
            Matrix(real[name + "attention.out.weight"], LARGEST["heads"]),
            Matrix(up, self.bound),
            Matrix(real[name + "down.weight"], LARGEST["inner"]),
        )

    def memory(self, length: int) -> Memory:
        """That of a signal of at most so many ids, of which none is read."""
        return Memory(len(self.blocks), self.heads, length, self.dim // self.heads, self.context)

    def read(self, ids: NDArray[np.int64], memory: Memory) -> Array:
        """What the network thinks behind each id ``[S]`` that comes next, whole ``[S, D]``; ids in any parts."""
        (start, first), table = memory.room(len(ids)), memory.turns(len(ids))
        last, places = first + len(ids), np.arange(start, first + len(ids))
        gap = places[first - start :, None] - places
        hidden = np.where((gap < 0) | (gap >= self.context), 2.0**40, 0.0)  # of scores
        stream = self.embed[ids]
        for block, kept in zip(self.blocks, memory.kept, strict=True):
            project = block.project(self._normed(stream), 0, LARGEST["heads"])
            query, key, value = project.reshape(len(ids), 3, self.heads, -1).transpose(1, 2, 0, 3)
            kept[0, :, first:last], kept[1, :, first:last] = rotated(key, table), value
            attended = self._attended(rotated(query, table), kept[:, :, start:last], hidden)
            stream = self._added(stream, block.out(attended, INNER - STREAM, LARGEST["stream"]))
            inner = np.maximum(block.up(self._normed(stream), 0, LARGEST["heads"]), 0.0)
            inner = clipped(inner * inner * 2.0**-INNER, LARGEST["inner"])
            stream = self._added(stream, block.down(inner, INNER - STREAM, LARGEST["stream"]))
        memory.count += len(ids)
        return self._normed(stream)

    def shares(self, thought: Array, first: int, count: int) -> NDArray[np.int64]:
        """The shares ``[..., count]`` of so many ids from a first one on, each 1 or more, in what was thought.

        The likeliest has 2**24, and all together a 32nd of it or more for not being impossible: so a code costs a
        bit's 64th at least.
        """
        products = thought @ self.scores.whole[:, first : first + count]
        scores = np.rint(products * (LOG2_E * 2.0 ** (POWER - INNER - self.scores.bits)))
        shares = self._powers(scores, SHARE).astype(np.int64)
        return shares + 2 ** (SHARE - FLOOR) // count + 1

    def _normed(self, stream: Array) -> Array:
        """RMS norm, without its weights."""
        squares = (stream.astype(np.int64) ** 2).sum(-1, keepdims=True).astype(np.float64)
        scale = 1.0 / np.sqrt(squares * 2.0 ** (-2 * STREAM) / self.dim + EPS)
        return clipped(stream * scale * 2.0 ** (INNER - STREAM), self.bound)

    def _added(self, stream: Array, more: Array) -> Array:
        return np.clip(stream + more, -LARGEST["stream"], LARGEST["stream"])

    def _attended(self, query: Array, kept: Array, hidden: Array) -> Array:
        """The mean of the values ``[S, D]`` that each query ``[heads, S, d]`` attends to."""
        factor = LOG2_E / math.sqrt(query.shape[-1]) * 2.0 ** (POWER - 2 * INNER)
        scores = np.rint(query @ kept[0].swapaxes(-1, -2) * factor) - hidden
        weights = self._powers(scores, int(math.log2(LARGEST["attention"])))
        mean = np.rint(weights @ kept[1] / weights.sum(-1, keepdims=True))
        return mean.swapaxes(0, 1).reshape(query.shape[1], self.dim)

    def _powers(self, scores: Array, bits: int) -> Array:
        """2 to the whole scores beside the largest of each row, with so many bits below the point, rounded down."""
        below = np.maximum(scores - scores.max(-1, keepdims=True), -64.0 * 2**POWER)
        whole = np.floor(below * 2.0**-POWER)
        rest = (below - whole * 2.0**POWER).astype(np.int64)
        return np.floor(np.ldexp(self.powers[rest], whole.astype(np.int32) + (bits - SHARE)))


def clipped(values: Array, largest: float) -> Array:
    """The nearest whole numbers, ties to the even one, within a largest magnitude."""
    return np.clip(np.rint(values), -largest, largest)


def rotated(heads: Array, table: Array) -> Array:
    """Queries or keys ``[heads, S, d]`` turned by angles, cosines and sines ``[2, S, d / 2]`` in whole numbers."""
    (cosine, sine), (even, odd) = table, np.split(heads, 2, axis=-1)
    turned = np.concatenate((even * cosine - odd * sine, even * sine + odd * cosine), axis=-1)
    return clipped(turned * 2.0**-ANGLE, LARGEST["heads"])


def power_table() -> Array:
    """2 to the n / 2**10 for all n below 2**10, with 24 bits below the point, rounded."""
    bits = 128
    roots, root = [], 2 << bits
    for _ in range(POWER):
        root = math.isqrt(root << bits)
        roots.append(root)  # of 2, of that, ...
    table = []
    for place in range(2**POWER):
        product = 1 << bits
        for depth, root in enumerate(roots, 1):
            if place >> POWER - depth & 1:
                product = product * root >> bits
        table.append((product >> bits - SHARE - 1) + 1 >> 1)
    return np.array(table, np.float64)


def rotations(first: int, count: int, pairs: int) -> Array:
    """Cosines and sines ``[2, count, pairs]`` of ``place * 10000 ** (-pair / pairs)``, 14 bits below the point.

    Those of the powers of 2 are computed in 40 digits; those of a place are of the sum of its powers, from the lowest.
    """
    places = np.arange(first, first + count)
    cosine, sine = np.ones((count, pairs)), np.zeros((count, pairs))
    for bit in range((first + count - 1).bit_length() if count else 0):
        has, (turn_cosine, turn_sine) = (places >> bit & 1 == 1)[:, None], _turn(2**bit, pairs)
        turned = cosine * turn_cosine - sine * turn_sine, cosine * turn_sine + sine * turn_cosine
        cosine, sine = np.where(has, turned[0], cosine), np.where(has, turned[1], sine)
    return np.rint(np.stack((cosine, sine)) * 2.0**ANGLE)


@lru_cache(64)
def _turn(place: int, pairs: int) -> tuple[Array, Array]:
    """Cosines and sines ``[pairs]`` of the angles of a place, to the last bit."""
    digits = Context(prec=40)
    log = digits.ln(Decimal(BASE))
    found = []
    for pair in range(pairs):
        angle = digits.multiply(place, digits.exp(digits.divide(digits.multiply(log, -pair), pairs)))
        found.append(_cosine_sine(angle, digits))
    cosine, sine = np.array(found).T
    return cosine, sine


def _cosine_sine(angle: Decimal, digits: Context) -> tuple[float, float]:
    """By Taylor's series of the angle halved until it is small, and doubled again."""
    halvings = int(angle).bit_length() + 2
    small = digits.divide(angle, 2**halvings)
    term, cosine, sine = Decimal(1), Decimal(0), Decimal(0)
    for order in range(0, 40, 2):
        cosine = digits.add(cosine, term)
        term = digits.divide(digits.multiply(term, small), order + 1)
        sine = digits.add(sine, term)
        term = digits.divide(digits.multiply(digits.minus(term), small), order + 2)
    for _ in range(halvings):
        squares = digits.multiply(cosine, cosine), digits.multiply(sine, sine)
        cosine, sine = digits.subtract(*squares), digits.multiply(2, digits.multiply(cosine, sine))
    return float(cosine), float(sine)


def _blocks(tensors: Mapping[str, Array]) -> int:
    return len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
