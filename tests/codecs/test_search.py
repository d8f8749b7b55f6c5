"""Nearest code: the brute-force answer, whatever the chunk, the batch, the precision."""

import pytest
import torch

from sigtok.codecs.quantizers import search
from sigtok.codecs.quantizers.search import lookup, nearest


def brute_force(vectors, codebook):
    """Distances in float64, one pair at a time."""
    return (vectors.double()[:, None] - codebook.double()).square().sum(-1)


@pytest.mark.parametrize("count, size, dim", [(1, 1, 1), (50, 7, 3), (300, 512, 8), (64, 2048, 32), (40, 16_384, 8)])
def test_nearest_is_the_brute_force_minimum(count, size, dim):
    vectors, codebook = torch.randn(count, dim), torch.randn(size, dim)
    distance = brute_force(vectors, codebook)
    found = distance.gather(1, nearest(vectors, codebook)[:, None])[:, 0]
    assert (found - distance.amin(1)).max() <= 1e-5
    assert torch.equal(nearest(vectors.double(), codebook.double()), distance.argmin(1))


@pytest.mark.parametrize("chunk", [1, 7 * 16, 16 * 37, 16 * 99])
def test_chunks_change_nothing(monkeypatch, chunk):
    vectors, codebook = torch.randn(3, 33, 4), torch.randn(16, 4)
    whole = nearest(vectors, codebook)
    monkeypatch.setattr(search, "CHUNK", chunk), monkeypatch.setattr(search, "ROWS", 1)
    assert torch.equal(nearest(vectors, codebook), whole)


def test_chunks_hold_no_more_scores_than_they_say(monkeypatch):
    seen, product = [], torch.addmm

    def spy(*args, **options):
        scores = product(*args, **options)
        seen.append(scores.numel())
        return scores

    monkeypatch.setattr(torch, "addmm", spy)
    monkeypatch.setattr(search, "CHUNK", 160), monkeypatch.setattr(search, "ROWS", 1)
    nearest(torch.randn(101, 4), torch.randn(16, 4))
    assert sum(seen) == 101 * 16 and max(seen) <= 160


@pytest.mark.parametrize("size, dim", [(2, 1), (33, 5), (100, 8), (1000, 32), (64, 2), (1024, 4), (16_384, 3)])
def test_ties_go_to_the_lowest_index(size, dim):
    code = torch.randn(1, dim)
    assert nearest(code.expand(9, dim), code.repeat(size, 1)).eq(0).all()
    for first in (0, size // 3, size - 2):
        codebook = torch.randn(size, dim)
        codebook[first:] = code
        assert nearest(code.expand(9, dim), codebook).eq(first).all()


def test_a_bias_of_zero_finds_the_largest_product():
    vectors, codebook = torch.randn(50, 4), torch.randn(20, 4)
    found = nearest(vectors, codebook, torch.zeros(20))
    assert torch.equal(found, (vectors @ codebook.t()).argmax(1))
    assert not torch.equal(found, nearest(vectors, codebook))


def test_shape_follows_the_vectors():
    codebook = torch.randn(5, 3)
    for shape in ((), (4,), (0,), (2, 3), (2, 0), (2, 3, 4)):
        assert nearest(torch.randn(*shape, 3), codebook).shape == shape


@pytest.mark.parametrize("chunk", [2**19, 64])
def test_codebooks_that_learn_may_be_searched(monkeypatch, chunk):
    monkeypatch.setattr(search, "CHUNK", chunk)
    codebook = torch.randn(16, 4, requires_grad=True)
    assert not nearest(torch.randn(50, 4, requires_grad=True), codebook).requires_grad


@pytest.mark.parametrize("chunk", [2**19, 64])
def test_autocast_does_not_reach_the_scores(monkeypatch, chunk):
    monkeypatch.setattr(search, "CHUNK", chunk)
    vectors, codebook = torch.randn(2000, 8), torch.randn(64, 8)
    whole = nearest(vectors, codebook)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nearest(vectors, codebook), whole)


def test_lookup_gives_codes_and_zeros():
    codebook = torch.randn(5, 3)
    found = lookup(codebook, torch.tensor([[4, -1, 0]]))
    assert torch.equal(found, torch.stack((codebook[4], torch.zeros(3), codebook[0]))[None])
