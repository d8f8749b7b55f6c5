"""The range coder: any bits under any contexts, as short as its chances say, in one spelling, and never astray."""

import hashlib
import math
from itertools import pairwise, product

import numpy as np
import pytest

from sigtok.codecs.entropy.binary import Decoder, encode


def source(length, chance, contexts=1, seed=0):
    """Random bits, 1 by a chance, under random contexts."""
    rng = np.random.default_rng(seed)
    return (rng.random(length) < chance).astype(int).tolist(), rng.integers(0, contexts, length).tolist()


def decoded(data, contexts, count):
    """Bits and length of a code."""
    decoder = Decoder(data, count)
    return decoder.run(contexts, [0] * len(contexts)), decoder.end()


def adaptive_bits(bits, contexts):
    """The length that the chances promise, in floats: towards each bit by 1 / (n + 2), later by 1 / 128."""
    ones, seen, length = {}, {}, 0.0
    for bit, context in zip(bits, contexts, strict=True):
        chance, number = ones.get(context, 0.5), seen.get(context, 0)
        length -= math.log2(chance if bit else 1 - chance)
        ones[context] = chance + (bit - chance) / min(number + 2, 128)
        seen[context] = number + 1
    return length


def slow_code(bits, contexts, count):
    """The same code with one number of any length: nothing is carried."""
    chances, seen, low, span, taken = [2**15] * count, [0] * count, 0, 2**32, 0
    for bit, context in zip(bits, contexts, strict=True):
        zeros = span // 4096 * (chances[context] // 16)
        low, span = (low + zeros, span - zeros) if bit else (low, zeros)
        step, chance = 65536 // min(seen[context] + 2, 128), chances[context]
        chances[context] += -(chance * step // 65536) if bit else (65536 - chance) * step // 65536
        seen[context] += 1
        while span < 2**24:
            low, span, taken = low * 256, span * 256, taken + 1
    for size in range(4):
        unit = 256 ** (4 - size)
        value = (low + unit - 1) // unit
        if (value + 1) * unit <= low + span:
            return value.to_bytes(taken + size, "big")


@pytest.mark.parametrize("chance", [0.0, 0.001, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("contexts", [1, 7])
def test_any_bits_come_back_under_any_contexts(chance, contexts):
    for length in (*range(40), 3000):
        bits, under = source(length, chance, contexts, seed=length)
        data = encode(bits, under, contexts)
        assert decoded(data, under, contexts) == (bits, len(data))


def test_every_short_string_comes_back_whatever_follows_it():
    for length in range(11):
        for bits in product((0, 1), repeat=length):
            data = encode(bits, [0] * length, 1)
            for behind in (b"", b"\0" * 9, b"\xff" * 9, b"\x80"):
                assert decoded(data + behind, [0] * length, 1) == (list(bits), len(data))


def test_no_bits_are_no_bytes():
    assert encode([], [], 1) == b"" and Decoder(b"rest", 1).end() == 0


@pytest.mark.parametrize("chance", [0.02, 0.5, 0.7])
def test_the_code_is_the_one_that_carries_nothing(chance):
    for seed in range(60):
        bits, contexts = source(1500, chance, 3, seed)
        assert encode(bits, contexts, 3) == slow_code(bits, contexts, 3), seed


def test_a_context_may_follow_the_bit_before():
    """Runs of any lengths: a 1 right before, in the same run, adds to the context."""
    rng = np.random.default_rng(0)
    bits = (rng.random(2000) < 0.3).astype(int)
    bases, follows = rng.integers(0, 3, 2000), rng.integers(0, 4, 2000)
    cuts = [0, *np.sort(rng.integers(0, 2000, 40)).tolist(), 2000]
    before = np.concatenate(([0], bits[:-1]))
    before[[cut for cut in cuts if cut < 2000]] = 0
    data = encode(bits.tolist(), (bases + follows * before).tolist(), 6)
    decoder, back = Decoder(data, 6), []
    for start, end in pairwise(cuts):
        back += decoder.run(bases[start:end].tolist(), follows[start:end].tolist())
    assert back == bits.tolist() and decoder.end() == len(data)


@pytest.mark.parametrize("chance", [0.001, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("length", [10, 300, 20_000])
def test_a_code_is_no_longer_than_its_chances_say(chance, length):
    bits, contexts = source(length, chance, 5, seed=length)
    ideal = adaptive_bits(bits, contexts) / 8
    assert len(encode(bits, contexts, 5)) <= ideal * 1.02 + 3


@pytest.mark.parametrize(("chance", "most"), [(0.5, 1.005), (0.1, 1.01), (0.01, 1.05), (0.001, 1.25)])
def test_a_skewed_source_costs_near_its_entropy(chance, most):
    bits, contexts = source(200_000, chance)
    ones = sum(bits) / len(bits)
    entropy = -(ones * math.log2(ones) + (1 - ones) * math.log2(1 - ones)) * len(bits) / 8
    assert len(encode(bits, contexts, 1)) <= most * entropy


def test_the_bytes_are_the_same_on_every_machine():
    bits, contexts = [(n * n // 7) % 2 for n in range(5000)], [n % 11 for n in range(5000)]
    digest = hashlib.sha256(encode(bits, contexts, 11)).hexdigest()
    assert digest[:16] == "f11b5bf057076ea9"


@pytest.mark.parametrize("chance", [0.05, 0.5])
def test_every_cut_is_refused(chance):
    bits, contexts = source(900, chance, 3)
    data = encode(bits, contexts, 3)
    for end in range(len(data)):
        with pytest.raises(ValueError, match="bits of a map"):
            decoded(data[:end], contexts, 3)


@pytest.mark.parametrize("chance", [0.05, 0.5])
def test_whatever_is_read_has_one_spelling(chance):
    """Of any bytes: refused, or just what `encode` makes of the bits, so that no damage leaves them as they are."""
    bits, contexts = source(400, chance, 3)
    data, rng, read = encode(bits, contexts, 3), np.random.default_rng(1), 0
    damaged = [
        data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :] for bit in range(8 * len(data))
    ]
    for other in [*damaged, *(rng.bytes(int(size)) for size in rng.integers(0, 90, 500))]:
        try:
            found, end = decoded(other, contexts, 3)
        except ValueError:
            continue
        read += 1
        assert encode(found, contexts, 3) == other[:end]
        assert found != bits or other[:end] == data
    assert read > 40
