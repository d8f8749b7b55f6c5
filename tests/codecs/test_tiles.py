"""Tiles: any picture, cut, worked on and put together, is what the whole would have been; orders of positions."""

import math

import pytest
import torch
from torch import nn

from sigtok.codecs.image import compact
from sigtok.codecs.image import tiled as tiled_pictures
from sigtok.codecs.image.models import compact_image, elastic_image, query_image, vqgan_image
from sigtok.codecs.image.tiles import Tiling, spans
from sigtok.codecs.image.wavelet_front import REACH, WaveletFront
from sigtok.codecs.image.windows import from_windows, to_windows
from sigtok.codecs.layers.conv2d import ConvNeXtBlock
from sigtok.codecs.spec import Rate

SIZES = [(1, 0), (4, 1), (5, 1), (8, 2), (8, 7)]  # of a tile and its margin


# -- where tiles stand -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, margin", SIZES)
def test_tiles_stand_for_every_position_once_and_know_their_margin(size, margin):
    for extent in range(1, 60):
        found = spans(extent, size, margin)
        assert [place for span in found for place in range(span.first, span.last)] == list(range(extent))
        for span in found:
            assert span.start == max(0, span.first - margin) and span.stop == min(extent, span.last + margin)


@pytest.mark.parametrize("size, margin", SIZES)
def test_no_tile_grows_with_the_picture(size, margin):
    for extent in [*range(1, 60), 10_000, 10_001]:
        found = spans(extent, size, margin)
        assert all(span.first % size == 0 and span.stop - span.start <= 1.5 * size + 2 * margin for span in found)
        assert len(found) == 1 or all(span.last - span.first >= size / 2 for span in found)


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("size, margin", [(4, 1), (5, 1), (8, 2), (9, 2)])
def test_weights_sum_to_one_at_every_pixel_and_fall_to_the_border_of_what_a_tile_sees(size, margin, scale):
    tiling = Tiling(size, margin, fade=True)
    for extent in [(1, 1), (3, 30), (13, 9), (17, 41), (25, 26)]:
        total = torch.zeros(extent[0] * scale, extent[1] * scale)
        for tile in tiling.tiles(extent):
            weights = tile.weights(scale)
            assert (weights > 0).all() and (weights <= 1).all()
            tile.read(total, scale).add_(weights)
            if tile.rows.start > 0:
                assert weights[0].max() <= 0.5 / (2 * margin * scale) + 1e-6
        torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size, margin, fade", [(0, 0, False), (4, -1, False), (7, 2, True)])
def test_tiles_that_cannot_be_are_refused(size, margin, fade):
    with pytest.raises(ValueError, match=f"size={size}, margin={margin}"):
        Tiling(size, margin, fade)


# -- tiles and the whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [(9, 40), (40, 40), (31, 26), (16, 16)])
def test_a_local_network_in_tiles_is_the_network(extent):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), ConvNeXtBlock(4, 5), nn.Conv2d(4, 2, 1))  # sees 3
    signal = torch.randn(2, 3, *extent)
    with torch.no_grad():
        torch.testing.assert_close(Tiling(12, 3).apply(network, signal), network(signal), rtol=1e-5, atol=1e-6)


def test_a_margin_that_is_too_small_shows():
    network, signal = ConvNeXtBlock(4, 5, scale=1.0), torch.randn(1, 4, 20, 20)
    with torch.no_grad():
        whole, found = network(signal), Tiling(6, 1).apply(network, signal)
    assert (whole - found).abs().max() > 1e-3


@pytest.mark.parametrize("reads, writes", [(1, 4), (4, 1), (2, 2)])
@pytest.mark.parametrize("fade", [False, True])
def test_scales_say_how_many_values_a_position_has(reads, writes, fade):
    """Means of positions and their repetition need no neighbours: in tiles they are what they are."""

    def work(whole):
        means = nn.functional.avg_pool2d(whole, reads)
        return means.repeat_interleave(writes, 2).repeat_interleave(writes, 3)

    signal = torch.randn(1, 2, 13 * reads, 22 * reads)
    found = Tiling(4, 1, fade).apply(work, signal, reads, writes)
    torch.testing.assert_close(found, work(signal), rtol=1e-5, atol=1e-6)


def test_what_tiles_disagree_about_fades_from_one_to_the_next():
    """Each tile says its own number: along the cut the result rises evenly, and nowhere leaves the two."""
    numbers = iter((0.0, 1.0))
    found = Tiling(8, 2, fade=True).apply(lambda part: torch.full_like(part, next(numbers)), torch.zeros(1, 1, 3, 16))
    expected = [0.0] * 6 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 6
    torch.testing.assert_close(found[0, 0], torch.tensor(expected).expand(3, -1))


def test_a_picture_of_one_tile_is_what_the_network_says():
    network, signal = nn.Conv2d(3, 3, 3, padding=1), torch.randn(1, 3, 11, 8)
    assert torch.equal(Tiling(8, 2, fade=True).apply(network, signal), network(signal))


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_bands_and_pixels_depend_on_what_the_wavelet_reaches(levels):
    front = WaveletFront(levels)
    signal = torch.rand(1, 3, 24 * front.hop, 9 * front.hop) * 2 - 1
    bands, tiling = front(signal), Tiling(6, REACH)
    torch.testing.assert_close(tiling.apply(front, signal, reads=front.hop), bands, rtol=1e-4, atol=1e-4)

    def inverse(part):
        return front.inverse(part, (part.shape[2] * front.hop, part.shape[3] * front.hop))

    torch.testing.assert_close(tiling.apply(inverse, bands, writes=front.hop), signal, rtol=1e-4, atol=1e-5)


# -- codecs in pieces --------------------------------------------------------------------------------------

COMPACT = dict(levels=1, width=8, encoder_depth=4, decoder_depth=5, latent_dim=4)
QUERY = dict(levels=1, dim=16, heads=2, encoder_depth=1, decoder_depth=1, latent_dim=4)
LOCAL = {
    "compact": lambda: compact_image(**COMPACT),
    "compact in windows": lambda: compact_image(**COMPACT, tile=4),
    "query": lambda: query_image(**QUERY, tile=4, queries=16),
    "elastic": lambda: elastic_image(**QUERY, tile=4, tokens=6),
    "query in tiles larger than a piece": lambda: query_image(**QUERY, tile=12, queries=9),
}


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("grid", [(12, 60), (60, 24)])
def test_a_large_picture_in_pieces_is_the_picture_at_once(name, grid, monkeypatch):
    monkeypatch.setattr(tiled_pictures, "PIECE", 8)
    monkeypatch.setattr(compact, "TILE", 14)
    codec = LOCAL[name]().eval()
    for part in (*codec.encoder.modules(), *codec.decoder.modules()):
        if isinstance(part, ConvNeXtBlock):
            nn.init.constant_(part.scale, 8.0)  # so that what the last of them sees is heard
    for layer in (codec.encoder.project, codec.decoder.head):
        nn.init.normal_(layer.weight, std=0.5)
    rate, extent = codec.spec.resolve(), tuple(2 * size for size in grid)
    signal = torch.rand(1, 3, *extent) * 2 - 1
    with torch.no_grad():
        latents = codec.encoder(signal, rate)
        torch.testing.assert_close(codec.encoder.piecewise(signal, rate), latents, rtol=1e-4, atol=1e-4)
        whole = codec.decoder(latents, extent, rate)
        torch.testing.assert_close(codec.decoder.piecewise(latents, extent, rate), whole, rtol=1e-4, atol=1e-4)


def test_windows_of_a_compact_codec_are_the_raster_in_another_order():
    arguments = dict(levels=1, width=8, encoder_depth=1, decoder_depth=1, latent_dim=4)
    raster, tiled = compact_image(**arguments).eval(), compact_image(**arguments, tile=4).eval()
    tiled.load_state_dict(raster.state_dict())
    signal = torch.rand(1, 3, 24, 16) * 2 - 1
    plain, windows = raster.encode(signal), tiled.encode(signal)
    grid = plain.streams[0].view(1, 1, 12, 8)
    assert torch.equal(to_windows(grid, windows.rate)[..., 0], windows.streams[0])
    assert torch.equal(raster.decode(plain), tiled.decode(windows))


def test_a_window_s_positions_all_have_a_token():
    codec = compact_image(levels=1, width=8, encoder_depth=1, decoder_depth=1, latent_dim=4, tile=4)
    with pytest.raises(ValueError, match="each of the 16 positions of a window, got 5"):
        codec.encode(torch.zeros(1, 3, 8, 8), Rate(queries=5))


def test_a_vqgan_in_tiles_has_no_seams():
    """A constant picture is decoded from tiles of unequal size; along their cuts nothing jumps."""
    codec = vqgan_image(multipliers=(1, 1), width=8, blocks=1, channels=8, latent_dim=4).eval()
    part, rate = codec.decoder, codec.spec.resolve()
    part.tiling = Tiling(16, 4, fade=True)
    grid = torch.randn(1, 4, 1, 1) + 0.3 * torch.randn(1, 4, 48, 20)
    latents = to_windows(grid, rate)
    with torch.no_grad():
        whole, found = part(latents, (96, 40), rate), part.piecewise(latents, (96, 40), rate)
    steps = (found[:, :, 1:] - found[:, :, :-1]).abs().mean((0, 1, 3))
    cuts = torch.tensor([31, 63])
    assert steps[cuts].mean() < 1.2 * steps.median()
    assert (found - whole).square().mean() < 0.2 * whole.var()


# -- orders ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window, grid", [((1, 1), (3, 5)), ((2, 3), (4, 9)), ((4, 4), (4, 8))])
def test_windows_come_row_by_row_and_positions_row_by_row_inside(window, grid):
    rate = Rate(codebooks=1, queries=math.prod(window), window=window)
    places = torch.arange(math.prod(grid)).view(1, 1, *grid)
    expected = [
        (y0 + y) * grid[1] + x0 + x
        for y0 in range(0, grid[0], window[0])
        for x0 in range(0, grid[1], window[1])
        for y in range(window[0])
        for x in range(window[1])
    ]
    latents = to_windows(places, rate)
    assert latents.flatten().tolist() == expected
    assert torch.equal(from_windows(latents, grid, rate), places)
