"""The elastic image codec: tokens of few are the first of many, in an order that is coarse to fine before training."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.control import first_queries
from sigtok.codecs.image.elastic import (
    DEVIATION,
    FIELDS,
    HEADROOM,
    RankedCosines,
    cosines,
    expected_cosines,
    shared_out,
)
from sigtok.codecs.image.models import elastic_image
from sigtok.codecs.layouts.names import LAYOUTS
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.spec import Rate
from sigtok.codecs.transforms.wavelet import WaveletPacket2d

MOST, WIDTH = 6, 4
TINY = dict(
    levels=2, tile=4, tokens=MOST, dim=16, heads=2, encoder_depth=2, decoder_depth=2, codebook_size=64,
    latent_dim=WIDTH,
)  # fmt: skip
EACH_BUDGET = pytest.mark.parametrize("tokens", range(1, MOST + 1))
EXTENTS = [(1, 1), (16, 16), (7, 40), (33, 17)]


@pytest.fixture
def codec():
    """As if trained: the transformers speak as loudly as the linear path."""
    codec = elastic_image(**TINY)
    for part in (codec.encoder.project, codec.decoder.head):
        torch.nn.init.normal_(part.weight, std=0.3)
    for gain in (codec.encoder.gain, codec.decoder.gain):
        gain.data += 0.2 * torch.randn_like(gain)
    return codec.eval()


def picture(height, width):
    """Large things are strong, small ones weak: noise of every size."""
    layers = (torch.randn(1, 3, *(-(-size // scale) for size in (height, width))) * scale for scale in (1, 3, 9))
    made = sum(F.interpolate(layer, size=(height, width), mode="bilinear") for layer in layers)
    return (made / made.abs().amax()).float()


# -- the linear path ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_cosines_are_an_orthonormal_basis_from_slow_to_fast(size):
    basis = cosines(size)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(size, dtype=torch.float64))
    changes = (basis.sign().diff(dim=1) != 0).sum(1)
    assert changes.tolist() == list(range(size))


@pytest.mark.parametrize("levels, tile", [(1, 2), (2, 2), (2, 1)])
def test_expected_cosines_are_those_of_a_sum_of_markov_fields(levels, tile):
    """From the covariance of all pairs of pixels, through the wavelet packet of pictures."""
    side, hop = 3 * tile * 2**levels, 2**levels
    pixels = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    bands = WaveletPacket2d(levels).double()(pixels)[:, :, tile : 2 * tile, tile : 2 * tile]
    waves = torch.einsum("uy,vx,tfyx->tuvf", cosines(tile), cosines(tile), bands).flatten(1)
    place = torch.arange(side, dtype=torch.float64)
    axes = {correlation: correlation ** (place[:, None] - place).abs() for correlation in FIELDS}
    covariance = sum(share * torch.kron(axes[correlation], axes[correlation]) for correlation, share in FIELDS.items())
    expected = torch.einsum("tc,ts,sc->c", waves, covariance, waves).sqrt().view(tile, tile, hop * hop)
    found = expected_cosines(levels, tile)
    for colour, deviation in zip(found.split(hop * hop, dim=2), DEVIATION, strict=True):
        torch.testing.assert_close(colour, expected * deviation)


@pytest.mark.parametrize("bits", [1.0, 5.0, 14.0, 60.0])
@pytest.mark.parametrize("tokens, width", [(1, 4), (6, 4), (9, 16), (12, 16)])
def test_a_token_takes_as_many_cosines_as_its_bits_can_say(tokens, width, bits):
    """Against water-filling by bisection of the level, cosine after cosine."""
    strengths = (expected_cosines(2, 2).flatten().log2() * 64).round().long().sort(descending=True).values
    budget, low, high = HEADROOM * tokens * bits, float(strengths[-1] - 1), float(strengths[0])
    for _ in range(60):
        level = (low + high) / 2
        over = ((strengths - level).clamp(min=0) / 64).sum() > budget
        low, high = (level, high) if over else (low, level)
    octaves = ((strengths - strengths[strengths >= low].min()).clamp(min=0) / 64).tolist()
    sizes = []
    for _ in range(tokens):
        size, said = 0, 0.0
        while size < width and (not size or said < bits - 1e-6):
            said += octaves[sum(sizes) + size]
            size += 1
        sizes.append(size)
    assert shared_out(strengths, tokens, width, bits) == sizes


def ranked(tokens=12, width=WIDTH, bits=6.0, scale=None):
    expected = expected_cosines(2, 2)
    return expected, RankedCosines(expected, torch.rand(48) + 0.5 if scale is None else scale, tokens, width, bits)


def test_vectors_come_from_strong_to_weak_and_are_equally_loud():
    scale = torch.rand(48) + 0.5
    expected, part = ranked(scale=scale)
    strength = expected.flatten()[part.chosen]
    assert (strength[1:] / strength[:-1]).max() < 2 ** (1 / 64) and len(set(part.chosen.tolist())) == part.ends[-1]
    assert strength[0] == expected.max() and strength[-1] * 2 ** (1 / 64) > expected.flatten().sort()[0][-part.ends[-1]]
    loud = (strength / scale[part.chosen % 48] * part.gain).square()
    for begin, end in itertools.pairwise(part.ends):
        assert 1 <= end - begin <= WIDTH
        torch.testing.assert_close(float(loud[begin:end].mean()), 1.0)


def test_all_vectors_together_are_the_tile_and_few_its_projection():
    _, part = ranked(tokens=4 * 48 // WIDTH, bits=1e-6)
    tiles = torch.randn(2, 3, 4, 48)
    whole = part(tiles, 48)
    assert part.ends[-1] < 192
    for tokens in (1, 7, 30, 48):
        few = part(tiles, tokens)
        assert torch.equal(few, whole[:, :, :tokens])
        near = part.inverse(few)
        torch.testing.assert_close(part(near, 48), F.pad(few, (0, 0, 0, 48 - tokens)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close((near * (tiles - near)).sum(), torch.zeros(()), atol=1e-3, rtol=0)
    _, part = ranked(tokens=4 * 48, width=1)
    torch.testing.assert_close(part.inverse(part(tiles, 192)), tiles)


def test_more_cosines_than_a_tile_has_are_refused():
    with pytest.raises(ValueError, match="a tile has 192 cosines, got 49 tokens of 4; use fewer"):
        ranked(tokens=49)


@torch.no_grad()
def test_before_training_every_token_makes_the_picture_better():
    codec, signal = elastic_image(**TINY).eval(), picture(64, 48)
    qualities = []
    for tokens in range(1, MOST + 1):
        rate = codec.spec.resolve(Rate(queries=tokens))
        latents = codec.encoder(signal, rate)
        qualities.append(psnr(codec.decoder(latents, (64, 48), rate), signal))
    assert all(late > early + 0.01 for early, late in itertools.pairwise(qualities)), qualities
    assert qualities[-1] > qualities[0] + 3, qualities


# -- few are the first of many -----------------------------------------------------------------------------


@EACH_BUDGET
@pytest.mark.parametrize("extent", EXTENTS)
def test_tokens_of_few_are_the_first_of_the_tokens_of_many_and_decode_as_they_do(codec, extent, tokens):
    signal = picture(*extent)
    many, few = codec.encode(signal), codec.encode(signal, Rate(queries=tokens))
    windows = codec.spec.positions(extent) // MOST
    assert few.codes.shape == (1, 1, windows * tokens)
    assert torch.equal(few.codes, many.codes.view(1, 1, windows, MOST)[..., :tokens].flatten(2))
    cut = first_queries(many, tokens)
    assert cut.rate == few.rate and torch.equal(cut.codes, few.codes)
    assert torch.equal(codec.decode(cut), codec.decode(few))


@EACH_BUDGET
def test_tokens_that_are_absent_decode_as_tokens_of_few(codec, tokens):
    signal = picture(32, 32)
    many = codec.encode(signal)
    codes = many.codes.clone().view(1, 4, MOST)
    codes[..., tokens:] = -1
    absent = codec.decode(replace(many, streams=(codes.flatten(1),)))
    torch.testing.assert_close(absent, codec.decode(first_queries(many, tokens)))


def test_every_tile_may_have_its_own_number_of_tokens(codec):
    """Each is, up to the bands of the wavelet, the tile of a picture of that number; and so they are laid out."""
    signal, numbers = picture(32, 48), [6, 1, 3, 2, 4, 1]
    many = codec.encode(signal)
    codes = many.codes.clone().view(6, MOST)
    codes[torch.arange(MOST) >= torch.tensor(numbers)[:, None]] = -1
    mixed = replace(many, streams=(codes.flatten()[None],))

    def bands_of(tokens):
        with torch.no_grad():
            latents = codec.quantizer.decode(tokens.streams)
            bands = codec.encoder.front(codec.decoder(latents, (32, 48), tokens.rate))
        return bands.unflatten(3, (3, 4)).unflatten(2, (2, 4)).permute(2, 4, 0, 1, 3, 5).flatten(0, 1)

    found, alone = bands_of(mixed), [bands_of(first_queries(many, number)) for number in range(1, MOST + 1)]
    for tile, number in enumerate(numbers):
        torch.testing.assert_close(found[tile], alone[number - 1][tile], atol=1e-3, rtol=1e-3)
        assert all((other[tile] - found[tile]).abs().max() > 0.1 for other in alone if other is not alone[number - 1])
    layout = codec.layout("elastic")
    ids = layout.to_ids(mixed)
    assert ids.shape[-1] == sum(numbers) + sum(number < MOST for number in numbers)
    assert torch.equal(layout.from_ids(ids, mixed.extents).codes, mixed.codes)


def test_a_latent_does_not_know_of_later_tokens_nor_of_other_tiles(codec):
    signal = picture(16, 64).requires_grad_()
    latents = codec.encoder(signal, codec.spec.resolve()).view(4, MOST, WIDTH)
    (heard,) = torch.autograd.grad(latents[0].square().sum(), signal, retain_graph=True)
    assert (heard[..., :16] != 0).all() and not heard[..., 32:].any()
    queries = codec.encoder.queries.query
    for token in range(MOST):
        (learned,) = torch.autograd.grad(latents[:, token].square().sum(), queries, retain_graph=True)
        assert (learned != 0).any(-1).tolist() == [query < token for query in range(MOST - 1)]


@EACH_BUDGET
def test_tile_after_tile_is_all_at_once(codec, tokens):
    signal, rate = picture(32, 48), codec.spec.resolve(Rate(queries=tokens))
    with torch.no_grad():
        latents = codec.encoder(signal, rate)
        torch.testing.assert_close(codec.encoder.piecewise(signal, rate), latents, atol=1e-5, rtol=1e-5)
        whole = codec.decoder(latents, (32, 48), rate)
        torch.testing.assert_close(codec.decoder.piecewise(latents, (32, 48), rate), whole, atol=1e-5, rtol=1e-5)


# -- a codec of many budgets -------------------------------------------------------------------------------


def test_everything_learns_at_its_budget():
    codec = elastic_image(**TINY, quantizer={"name": "vq", "codebook_size": 16, "dim": WIDTH})
    for tokens in (MOST, 2):
        codec.zero_grad()
        reconstruction = codec(picture(32, 32), Rate(queries=tokens))
        losses = reconstruction.quantized.losses.values()
        (reconstruction.signal.square().sum() + sum(losses)).backward()
        for name, parameter in codec.named_parameters():
            unsent = name.endswith("absent") and tokens == MOST
            assert (parameter.grad is not None and (parameter.grad != 0).any()) != unsent, name
        for gain in (codec.encoder.gain, codec.decoder.gain):
            assert (gain.grad != 0).any(-1).tolist() == [token < tokens for token in range(MOST)]


@EACH_BUDGET
def test_every_budget_is_ids_of_every_layout(codec, tokens):
    found = codec.encode(picture(20, 33), Rate(queries=tokens))
    for name in LAYOUTS:
        try:
            layout = codec.layout(name, found.rate)
        except ValueError:
            continue  # of other shapes of tokens
        assert torch.equal(layout.from_ids(layout.to_ids(found), found.extents).codes, found.codes)


def test_a_released_elastic_codec_comes_back(codec, tmp_path):
    facts = dict(licence="none", training_data="none", measured={}, card="none", half=False)
    save(codec, tmp_path / "model", builder="elastic_image", arguments=TINY, **facts)
    signal, again = picture(20, 33), load(tmp_path / "model")
    tokens = codec.encode(signal)
    assert torch.equal(again.encode(signal).codes, tokens.codes)
    assert torch.equal(again.decode(tokens), codec.decode(tokens))
