"""Routing by entropy and its rate: against a slow reference, exact counts, a closed form and its inverse."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.image import granularity
from sigtok.codecs.image.granularity import (
    COARSE,
    FINE,
    assign,
    between,
    bits_per_pixel,
    counts,
    entropies,
    map_bits,
    route,
    shares_at,
    shares_for,
)
from sigtok.codecs.image.models import granular_image
from sigtok.codecs.spec import Rate

DEFAULT = (0.1, 0.4, 0.5)
MIXES = [COARSE, DEFAULT, (0.3, 0.0, 0.7), (0.3, 0.7, 0.0), (0.0, 1.0, 0.0), (0.6, 0.3, 0.1), FINE]
EVERY_MIX = pytest.mark.parametrize("shares", MIXES)
SIZES = pytest.mark.parametrize("size", [16, 256, 1024, 2**18])


def picture(height=64, width=96, seed=0):
    """Smooth in some places and rough in others."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3, height, width, generator=generator)
    rough = torch.rand(1, 1, height // 8, width // 8, generator=generator)
    smooth = F.avg_pool2d(noise, 9, 1, 4)
    return (0.5 * smooth + 0.3 * noise * F.interpolate(rough, scale_factor=8) ** 3)[0].clamp(-1, 1)


@pytest.fixture(scope="module")
def codec():
    return granular_image(dims=(8, 8, 8), depths=(1, 1, 1), codebook_size=16, latent_dim=3).eval()


def slow_entropy(luma):
    """Of the pixels of one block, in float64."""
    bins = torch.linspace(-1, 1, 32, dtype=torch.float64)
    odds = (-0.5 * ((luma.flatten()[:, None] - bins) / 0.01) ** 2).exp().mean(0)
    odds = odds / odds.sum()
    return -(odds[odds > 0] * odds[odds > 0].log()).sum()


def share_of(levels):
    return [int((levels == level).sum()) / levels.numel() for level in range(3)]


# -- routing -----------------------------------------------------------------------------------------------


def test_entropies_are_those_of_every_block_taken_alone():
    signal = picture()
    luma = (torch.tensor([0.2989, 0.587, 0.114]).double() @ signal.double().flatten(1)).view(64, 96)
    for found, side in zip(entropies(signal), (16, 8), strict=True):
        tiles = luma.unfold(0, side, side).unfold(1, side, side)
        expected = torch.stack([torch.stack([slow_entropy(tile) for tile in row]) for row in tiles])
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_levels_are_those_of_a_plain_sort():
    blocks, quarters = entropies(picture())
    for shares in MIXES:
        coarse, medium, _ = counts(shares, blocks.numel())
        plain = sorted(range(blocks.numel()), key=lambda place: float(blocks.flatten()[place]))[:coarse]
        owner = torch.arange(24).view(4, 6).repeat_interleave(2, 0).repeat_interleave(2, 1).flatten().tolist()
        rest = [place for place in range(quarters.numel()) if owner[place] not in plain]
        simple = sorted(rest, key=lambda place: float(quarters.flatten()[place]))[:medium]
        expected = [0 if owner[place] in plain else 1 if place in simple else 2 for place in range(quarters.numel())]
        assert assign(blocks, quarters, shares).flatten().tolist() == expected


def test_plain_places_are_coarse_and_busy_ones_fine():
    signal = torch.zeros(1, 3, 64, 64)
    signal[..., 32:, 32:] = torch.rand(1, 3, 32, 32) * 2 - 1
    levels = route(signal, (0.75, 0.0, 0.25))[0]
    assert (levels[4:, 4:] == 2).all() and (levels == 0).sum() == 48


@EVERY_MIX
@pytest.mark.parametrize("extent", [(16, 16), (16, 48), (80, 112)])
def test_shares_are_met_exactly(shares, extent):
    levels = route(picture(*extent)[None], shares)[0]
    blocks = levels.numel() // 4
    coarse, medium, fine = counts(shares, blocks)
    assert [int((levels == level).sum()) for level in range(3)] == [4 * coarse, medium, fine // 4]
    squares = levels.unfold(0, 2, 2).unfold(1, 2, 2).flatten(2)
    assert torch.equal((squares == 0).any(-1), (squares == 0).all(-1)), "a block is coarse as a whole"
    assert abs(coarse - shares[0] * blocks) <= 0.5
    for share, area in zip(shares[1:], (medium, fine / 4), strict=True):
        assert abs(area - share * 4 * blocks) <= 2.5 and (share > 0 or area == 0)


def test_of_equals_the_first_are_coarser():
    levels = route(torch.zeros(1, 3, 32, 48), (0.5, 0.25, 0.25))[0]
    expected = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2]])
    assert torch.equal(levels, expected)


def test_a_picture_is_routed_by_itself():
    pictures = torch.stack([picture(seed=0), 0.1 * picture(seed=1), picture(seed=2).flip(-1)])
    levels = route(pictures, DEFAULT)
    for one, level in zip(pictures, levels, strict=True):
        assert torch.equal(route(one[None], DEFAULT)[0], level)
        assert share_of(level) == pytest.approx(DEFAULT, abs=0.03)


def test_routing_says_the_same_twice_in_half_precision_and_by_rows(monkeypatch):
    signal = picture()
    found = entropies(signal)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, entropies(signal), found))
    monkeypatch.setattr(granularity, "AT_ONCE", 1)
    for entropy, expected in zip(entropies(signal), found, strict=True):
        torch.testing.assert_close(entropy, expected, rtol=0, atol=1e-5)


def test_values_beyond_the_histogram_have_an_entropy_too():
    for value in (-8.0, 1.5, 8.0):
        assert all(entropy.isfinite().all() for entropy in entropies(torch.full((3, 16, 16), value)))


# -- rate --------------------------------------------------------------------------------------------------


def test_the_rate_of_one_granularity_is_that_of_its_codes():
    assert bits_per_pixel(COARSE, 1024) == 10 / 256
    assert bits_per_pixel((0.0, 1.0, 0.0), 1024) == 10 / 64
    assert bits_per_pixel(FINE, 1024) == 10 / 16


def test_the_published_rates_follow_from_shares_alone():
    """Kodak at 0.38925 and 0.2620 to 0.2770 bits per pixel: codes of 13 bits, and masks of one bit a mark."""
    for (fine, medium, coarse), published in (((0.301, 0.599, 0.1), 0.38925), ((0.1, 0.8, 0.1), 0.2695)):
        entropy = bits_per_pixel((coarse, medium, fine), 8192) - bits_per_pixel((coarse, medium, fine), 1)
        assert entropy + 1 / 64 + 1 / 256 == pytest.approx(published, rel=0.005)


@EVERY_MIX
def test_the_closed_form_is_what_a_large_picture_takes(shares):
    signal = picture(256, 320)
    levels = route(signal[None], shares)[0]
    spent = 10 * sum(counts(shares, levels.numel() // 4)) + map_bits(levels)
    assert spent / (256 * 320) == pytest.approx(bits_per_pixel(shares, 1024), rel=0.005)


@SIZES
@EVERY_MIX
def test_the_rate_rises_along_the_family(size, shares):
    rates = [bits_per_pixel(between(place / 200, shares), size) for place in range(201)]
    assert rates == sorted(rates)


@EVERY_MIX
def test_the_family_goes_through_its_shares(shares):
    assert between(0.0, shares) == COARSE and between(1.0, shares) == FINE
    assert between(0.5, shares) == pytest.approx(shares)
    for place in range(101):
        these = between(place / 100, shares)
        assert min(these) >= 0 and sum(these) == pytest.approx(1)


@SIZES
@EVERY_MIX
def test_shares_of_a_rate_have_that_rate(size, shares):
    least, most = bits_per_pixel(COARSE, size), bits_per_pixel(FINE, size)
    for part in (0.0, 0.01, 0.3, 0.5, 0.9, 1.0):
        target = min(most, least + part * (most - least))
        assert bits_per_pixel(shares_for(target, shares, size), size) == pytest.approx(target, abs=1e-6)


@pytest.mark.parametrize("target", [0.0, 0.039, 0.63, math.inf, math.nan, -1.0])
def test_rates_out_of_range_are_refused_with_the_range(target):
    with pytest.raises(ValueError, match=r"from 0\.0391 to 0\.6250 bits per pixel, got"):
        shares_for(target, DEFAULT, 1024)


@pytest.mark.parametrize("extent", [(160, 128), (161, 130)])
@pytest.mark.parametrize("target", [0.05, 0.1, 0.2])
def test_a_picture_takes_the_rate_that_was_asked_for(codec, extent, target):
    """As counted in its tokens: never more, and less by no more than a few codes."""
    signal = picture(176, 144)[:, : extent[0], : extent[1]]
    tokens = codec.encode(signal[None], Rate(shares=shares_at(codec, signal, target)))
    codes = sum(int((stream >= 0).sum()) for stream in tokens.streams)
    spent = 4 * codes + map_bits(torch.tensor(levels_of(tokens)).view(-1, 4))
    assert target - 100 / math.prod(extent) <= spent / math.prod(extent) <= target


def levels_of(tokens):
    """Of the quarters, in the order of the tokens."""
    coarse, medium, _ = (stream[0] >= 0 for stream in tokens.streams)
    return [0 if coarse[place // 4] else 1 if medium[place] else 2 for place in range(len(medium))]


def test_a_dearer_map_leaves_fewer_codes(codec):
    signal, seen = picture(128, 128), []

    def dear(levels):
        seen.append(levels.shape)
        return 3 * map_bits(levels) + 100

    plain, dearer = shares_at(codec, signal, 0.15), shares_at(codec, signal, 0.15, dear)
    assert bits_per_pixel(dearer, 16) < bits_per_pixel(plain, 16)
    levels = route(signal[None], dearer)[0]
    spent = 4 * sum(counts(dearer, levels.numel() // 4)) + dear(levels)
    assert 0.14 * 128 * 128 <= spent <= 0.15 * 128 * 128
    assert len(seen) < 20 and set(seen) == {(16, 16)}


def test_the_ends_of_a_picture_s_range_can_be_asked_for(codec):
    signal = picture(64, 64)
    assert shares_at(codec, signal, 4 / 16) == FINE
    assert counts(shares_at(codec, signal, 4 / 256), 16) == counts(COARSE, 16)
    for target in (0.015, 0.26):
        with pytest.raises(ValueError, match=r"from 0\.0156 to 0\.2500 bits per pixel, got"):
            shares_at(codec, signal, target)


def test_shares_of_the_codec_are_the_middle_of_the_family(codec):
    other = granular_image(dims=(8, 8, 8), depths=(1, 1, 1), codebook_size=16, latent_dim=3, shares=(0.0, 1.0, 0.0))
    signal = picture(64, 64)
    assert shares_at(other, signal, 4 / 64) == pytest.approx((0.0, 1.0, 0.0), abs=0.02)
    assert shares_at(codec, signal, 4 / 64)[2] > 0.05
    assert replace(other.spec, shares=codec.spec.shares) == codec.spec
