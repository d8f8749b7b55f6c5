"""The operating point of one signal: against brute force over all points, with real files, and out of reach."""

import math
import re

import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.audio.models import elastic_speech, frame_speech
from sigtok.codecs.control import (
    at_bitrate,
    at_quality,
    at_rate,
    at_size,
    file_bytes,
    first_queries,
    ladder,
    points,
    searched,
    smallest,
)
from sigtok.codecs.image.models import compact_image, elastic_image, granular_image, query_image
from sigtok.codecs.metrics.audio import snr
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.spec import Rate

SMALL = dict(levels=2, tile=4, dim=16, heads=2, encoder_depth=1, decoder_depth=1, latent_dim=4)
FINE = {"name": "scalar", "dim": 4, "bits": 6}
STAGES = {"copies": 5, "name": "vq", "codebook_size": 16, "dim": 4}
SOUND = dict(hop=8, front_options={"filters": 2, "strides": [2, 4]}, dim=16, heads=2, context=0.01)
BLOCKS = dict(levels=2, width=16, encoder_depth=1, decoder_depth=1, latent_dim=4)
CODECS = {
    "elastic": lambda: elastic_image(tokens=9, quantizer=FINE, **SMALL),
    "query": lambda: query_image(queries=9, quantizer=FINE, **SMALL),
    "residual": lambda: compact_image(quantizer={"name": "residual", "stages": STAGES}, **BLOCKS),
    "sound": lambda: frame_speech(codebooks=5, codebook_size=16, latent_dim=4, **SOUND),
}
MOST = {"elastic": 9, "query": 9, "residual": 5, "sound": 5, "steps": 13}
EVERY = pytest.mark.parametrize("kind", sorted(MOST))


@pytest.fixture(autouse=True)
def steps(rate_distortion_image):
    """Four qualities in quarters."""
    CODECS["steps"] = rate_distortion_image


def made(kind):
    codec = CODECS[kind]().eval()
    signal = torch.rand(1, 3, 5, 5) if codec.spec.modality == "image" else torch.rand(1, 1, 40)
    size = (20, 35) if codec.spec.modality == "image" else 900
    mode = "bilinear" if codec.spec.modality == "image" else "linear"
    return codec, F.interpolate(signal * 2 - 1, size=size, mode=mode)


def at(kind, point):
    if kind == "steps":
        return Rate(quality=1 + (point - 1) / 4)
    return Rate(queries=point) if kind in ("elastic", "query") else Rate(codebooks=point)


def every_point(kind, codec, signal):
    return [codec.encode(signal, at(kind, point)) for point in range(1, MOST[kind] + 1)]


def same(choice, tokens):
    assert choice.tokens.rate == tokens.rate
    assert all(map(torch.equal, choice.tokens.streams, tokens.streams))


# -- quality -----------------------------------------------------------------------------------------------


def rising(reconstruction, signal):
    """A quality that grows with the point, whatever the codec: set by the test."""
    return rising.qualities[reconstruction.sum().item()]


@EVERY
def test_the_smallest_point_is_the_first_of_all_that_is_good_enough(kind):
    codec, signal = made(kind)
    tokens = every_point(kind, codec, signal)
    rising.qualities = {codec.decode(each).sum().item(): float(point) for point, each in enumerate(tokens, 1)}
    assert len(rising.qualities) == MOST[kind]
    for target in (-3.0, 1.0, *(point - 0.5 for point in range(1, MOST[kind] + 1)), float(MOST[kind])):
        choice = smallest(codec, signal, target, rising)
        expected = max(1, math.ceil(target))
        assert choice.met and choice.reached == expected
        same(choice, tokens[expected - 1])


@EVERY
def test_what_none_reaches_is_told_with_the_best_that_was_tried(kind):
    codec, signal = made(kind)
    tokens = every_point(kind, codec, signal)
    rising.qualities = {codec.decode(each).sum().item(): float(point) for point, each in enumerate(tokens, 1)}
    choice = smallest(codec, signal, MOST[kind] + 0.1, rising)
    assert not choice.met and choice.reached == MOST[kind]
    same(choice, tokens[-1])


@EVERY
def test_whatever_the_quality_does_what_is_returned_was_measured(kind):
    """Not monotone, even falling: a point that is called met is met, and otherwise no point that was tried is."""
    codec, signal = made(kind)
    tokens = every_point(kind, codec, signal)
    sums = [codec.decode(each).sum().item() for each in tokens]
    for seed in range(5):
        values = torch.rand(len(sums), generator=torch.Generator().manual_seed(seed)).tolist()
        rising.qualities = dict(zip(sums, values, strict=True))
        for target in (0.1, 0.5, 0.9):
            choice = smallest(codec, signal, target, rising)
            assert choice.reached == rising(codec.decode(choice.tokens), signal)
            assert choice.met == (choice.reached >= target)
            assert choice.met or max(values[-1:]) < target


def test_pictures_are_measured_by_psnr_and_sounds_by_snr():
    for kind, measure in (("elastic", psnr), ("sound", snr)):
        codec, signal = made(kind)
        choice = smallest(codec, signal, -100.0)
        assert choice.met and choice.reached == measure(codec.decode(codec.encode(signal, at(kind, 1))), signal)
    codec, signal = made("elastic")
    qualities = [psnr(codec.decode(tokens), signal) for tokens in every_point("elastic", codec, signal)]
    assert qualities == sorted(qualities)  # of the linear path, as it comes
    for point, quality in enumerate(qualities, 1):
        assert smallest(codec, signal, quality).tokens.rate.queries == point


def test_features_have_no_quality_of_their_own(tiny_feature_codec):
    with pytest.raises(ValueError, match="features have no quality of their own, got None; pass quality="):
        smallest(tiny_feature_codec, torch.zeros(1, 5, 8), 1.0)
    choice = smallest(tiny_feature_codec, torch.zeros(1, 5, 8), 1.0, lambda some, other: 2.0)
    assert choice.met and choice.reached == 2.0


@EVERY
def test_a_signal_is_encoded_once_where_few_are_the_first_of_many(kind, monkeypatch):
    codec, signal = made(kind)
    calls, encode = [], codec.encode
    monkeypatch.setattr(codec, "encode", lambda *args: calls.append(args) or encode(*args))
    smallest(codec, signal, 20.0)
    assert (len(calls) == 1) == (kind not in ("query", "steps")) and len(calls) <= 4
    calls.clear()
    at_size(codec, signal, 1e6)
    assert (len(calls) == 1) == (kind not in ("query", "steps")) and len(calls) <= 4


@EVERY
def test_for_a_size_nothing_is_decoded_and_one_coder_is_made(kind, monkeypatch):
    codec, signal = made(kind)
    monkeypatch.setattr(codec, "decode", None)
    at_size(codec, signal, 1000.0)
    assert codec.entropy is None or codec.entropy.made == 1


def test_the_rate_is_the_highest_point_and_keeps_what_is_not_searched():
    small = dict(
        frame_hop=8,
        frame_size=24,
        stack=2,
        dim=16,
        heads=2,
        encoder_depth=1,
        decoder_depth=1,
        decoder_blocks=1,
        context=0.01,
    )
    codec = elastic_speech(windows=[4, 3], queries=4, codebooks=3, codebook_size=16, latent_dim=4, **small).eval()
    signal = torch.rand(1, 1, 500) * 2 - 1
    assert searched(codec) == "queries"
    choice = smallest(codec, signal, 1e9, rate=Rate(codebooks=2, queries=3, window=(3,)))
    rate = choice.tokens.rate
    assert not choice.met and rate.queries <= 3 and rate.codebooks == 2 and rate.window == (3,)
    same(choice, codec.encode(signal, rate))
    size = float(file_bytes(codec, codec.encode(signal, Rate(codebooks=2, queries=2))))
    same(at_size(codec, signal, size, Rate(codebooks=2)), codec.encode(signal, Rate(codebooks=2, queries=2)))


# -- the ladder --------------------------------------------------------------------------------------------


@EVERY
def test_points_are_those_of_the_codec_in_order_up_to_the_rate(kind):
    codec = CODECS[kind]()
    assert points(codec) == tuple(codec.spec.resolve(at(kind, point)) for point in range(1, MOST[kind] + 1))
    assert points(codec, at(kind, 3)) == points(codec)[:3]


def test_the_rungs_of_a_rate_distortion_codec_are_its_whole_qualities(rate_distortion_image):
    codec = rate_distortion_image(qualities=7, quality_steps=8)
    assert [rate.quality for rate in ladder(codec)] == [1, 2, 3, 4, 5, 6, 7]
    assert at_quality(codec, 3.625) == codec.spec.resolve(Rate(quality=3.625))
    for quality in (0.5, 7.125, 3.1):
        with pytest.raises(ValueError, match=rf"steps has qualities 1 to 7 in steps of 1/8, got {quality}"):
            at_quality(codec, quality)


@EVERY
def test_the_ladder_goes_from_the_first_point_to_the_last(kind):
    codec = CODECS[kind]()
    every, rungs = points(codec), ladder(codec)
    places = [every.index(rung) for rung in rungs]
    assert len(rungs) == min(6, len(every), codec.spec.qualities or 6)
    assert places == sorted(set(places)) and (places[0], places[-1]) == (0, len(every) - 1)
    assert [at_quality(codec, float(quality)) for quality in range(1, len(rungs) + 1)] == list(rungs)


@pytest.mark.parametrize(
    ("most", "counts"),
    [(1, [1]), (4, [1, 2, 3, 4]), (6, [1, 2, 3, 4, 5, 6]), (8, [1, 2, 3, 4, 5, 8]), (256, [1, 3, 9, 28, 84, 256])],
)
def test_other_ladders_are_as_even_in_the_logarithm_of_bits_as_counts_are(most, counts):
    codec = frame_speech(codebooks=most, codebook_size=16, latent_dim=4, **SOUND)
    assert [rate.codebooks for rate in ladder(codec)] == counts
    assert at_quality(codec, len(counts)).codebooks == most
    for quality in (0.5, 1.5, len(counts) + 1):
        with pytest.raises(ValueError, match=f"frame_speech has qualities 1 to {len(counts)}, got {quality:g}; choose"):
            at_quality(codec, quality)


def test_bits_of_unequal_codebooks_count():
    """By bits, 1 to 6 and 22, the fourth rung is nearest to the sixth point; one is left for every rung above it."""
    stages = [{"name": "vq", "codebook_size": size, "dim": 4} for size in (2, 2, 2, 2, 2, 2, 65536)]
    codec = compact_image(quantizer={"name": "residual", "stages": stages}, **BLOCKS)
    assert [rate.codebooks for rate in ladder(codec)] == [1, 2, 3, 5, 6, 7]
    stages = [{"name": "vq", "codebook_size": size, "dim": 4} for size in (2, 2, 2, 4096, 2, 2, 2, 2, 2)]
    codec = compact_image(quantizer={"name": "residual", "stages": stages}, **BLOCKS)
    assert [rate.codebooks for rate in ladder(codec)] == [1, 2, 3, 4, 5, 9]


def test_the_ladder_of_granularities_goes_from_all_coarse_to_all_fine(granular):
    codec, signal = granular
    rungs = ladder(codec)
    assert len(rungs) == 6 and rungs[0].shares == (1.0, 0.0, 0.0) and rungs[-1].shares == (0.0, 0.0, 1.0)
    sizes = [file_bytes(codec, codec.encode(signal, rate)) for rate in rungs]
    assert sizes == sorted(set(sizes))


# -- shares ------------------------------------------------------------------------------------------------


@pytest.fixture
def granular():
    codec = granular_image(dims=(16, 8, 8), depths=(1, 1, 1), codebook_size=16, latent_dim=4).eval()
    flat = torch.cat((torch.zeros(1, 3, 48, 32), torch.rand(1, 3, 48, 48) * 2 - 1), dim=3)
    return codec, F.avg_pool2d(flat, 3, 1, 1)


def test_sizes_of_several_granularities_are_met_within_3_percent_or_as_near_as_a_block(granular):
    codec, signal = granular
    least, most = (
        file_bytes(codec, codec.encode(signal, Rate(shares=shares))) for shares in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    )
    met = 0
    for size in range(least + 4, most - 16, 5):
        choice = at_size(codec, signal, float(size))
        assert choice.reached == file_bytes(codec, choice.tokens)
        assert choice.met == (abs(choice.reached - size) <= max(0.03 * size, 1))
        assert abs(choice.reached - size) <= 8  # a block of 16 fine codes or of one coarse: 60 bits
        met += choice.met
    assert met > 10
    for size in (least - 5.0, most + 50.0):
        with pytest.raises(
            ValueError, match=f"files of this signal have {least} to {most} bytes, got a target of {size:g}"
        ):
            at_size(codec, signal, size)
    with pytest.raises(ValueError, match=r"for one signal, \[1, C, \*extent\], got \[2, "):
        at_size(codec, torch.cat((signal, signal)), 100.0)


def test_the_lowest_rate_of_several_granularities_is_found(granular):
    codec, signal = granular

    spoken = []

    def encode(*args):
        tokens = unchanged(*args)
        spoken.append(count(tokens))
        return tokens

    def count(tokens):
        return float(sum(int((stream >= 0).sum()) for stream in tokens.streams))

    unchanged, codec.encode = codec.encode, encode
    most = count(unchanged(signal, Rate(shares=(0.0, 0.0, 1.0))))
    for target in (0.0, most / 4, most / 2, most):
        choice = smallest(codec, signal, target, lambda *_: spoken[-1])
        assert choice.met and target <= choice.reached <= target + most / 20 + 15
    assert not smallest(codec, signal, most + 1.0, lambda *_: spoken[-1]).met


# -- size --------------------------------------------------------------------------------------------------


@EVERY
def test_a_size_is_filled_as_far_as_it_goes(kind):
    codec, signal = made(kind)
    tokens = every_point(kind, codec, signal)
    sizes = [file_bytes(codec, each) for each in tokens]
    assert sizes == sorted(set(sizes))
    for size in sorted({size + near for size in sizes for near in (-1, 0, 1)} - {sizes[0] - 1}):
        choice = at_size(codec, signal, float(size))
        expected = sum(other <= size for other in sizes)
        assert choice.met and choice.reached == sizes[expected - 1] <= size
        same(choice, tokens[expected - 1])
    with pytest.raises(ValueError, match=rf"have {sizes[0]} to {sizes[-1]} bytes, got a target of {sizes[0] - 0.5:g}"):
        at_size(codec, signal, sizes[0] - 0.5)


def test_a_rate_is_a_size_per_pixel_of_real_files():
    codec, signal = made("elastic")
    for bits_per_pixel in (0.7, 1.1, 2.0):
        choice = at_rate(codec, signal, bits_per_pixel)
        assert choice.reached == 8 * file_bytes(codec, choice.tokens) / (20 * 35) <= bits_per_pixel
        same(at_size(codec, signal, bits_per_pixel * 20 * 35 / 8), choice.tokens)
        more = codec.encode(signal, Rate(queries=choice.tokens.rate.queries + 1))
        assert 8 * file_bytes(codec, more) / (20 * 35) > bits_per_pixel
    with pytest.raises(ValueError, match=r"have 0\.\d+ to \d\.\d+ bits per pixel, got a target of 0.01; choose"):
        at_rate(codec, signal, 0.01)


def test_a_bit_rate_is_a_size_per_second_of_real_files():
    codec, signal = made("sound")
    seconds, tokens = 900 / codec.spec.sample_rate, every_point("sound", codec, signal)
    rates = [8 * file_bytes(codec, each) / seconds / 1000 for each in tokens]
    for place, kilobits in enumerate(rates):
        choice = at_bitrate(codec, signal, kilobits + 1e-6)
        assert choice.met and choice.reached == pytest.approx(kilobits)
        same(choice, tokens[place])
    with pytest.raises(ValueError, match=r"to [\d.]+ kbit/s, got a target of") as told:
        at_bitrate(codec, signal, rates[0] - 0.01)
    least = float(re.search(r"have ([\d.]+) to", str(told.value))[1])
    same(at_bitrate(codec, signal, least), tokens[0])


def test_kilobits_per_second_are_of_sounds():
    codec, signal = made("elastic")
    with pytest.raises(ValueError, match="per second are of sounds, got image of extent .* ask for bytes with at_size"):
        at_bitrate(codec, signal, 1.0)
    codec, signal = made("sound")
    with pytest.raises(ValueError, match=r"of sounds, got audio of extent \(0,\)"):
        at_bitrate(codec, signal[..., :0], 1.0)


def test_bits_per_pixel_are_of_images():
    codec, signal = made("sound")
    with pytest.raises(ValueError, match="bits per pixel are of images, got audio; ask for bytes with at_size"):
        at_rate(codec, signal, 1.0)


@EVERY
def test_a_point_is_chosen_for_one_signal(kind):
    codec, signal = made(kind)
    for call in (smallest, at_size):
        with pytest.raises(ValueError, match=r"for one signal, \[1, C, \*extent\], got \[2, "):
            call(codec, torch.cat((signal, signal)), 10.0)


def test_first_queries_refuses_what_it_cannot_cut():
    codec, signal = made("elastic")
    tokens = codec.encode(signal, Rate(queries=4))
    assert torch.equal(first_queries(tokens, 4).codes, tokens.codes)
    with pytest.raises(ValueError, match="have 4 queries at strides .* got queries=5"):
        first_queries(tokens, 5)
    with pytest.raises(ValueError, match="has 1 to 9 queries, got 0"):
        first_queries(tokens, 0)
