"""Codecs in WaLLoC's shape: transform codecs at the start, whole numbers of float64, pieces that equal the whole."""

import copy
import math

import numpy as np
import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from sigtok.codecs.audio import walloc as audio
from sigtok.codecs.audio.models import walloc_stereo
from sigtok.codecs.audio.walloc import Mixing, Spectrum, WallocAudioEncoder
from sigtok.codecs.codec import pad_to
from sigtok.codecs.image import walloc as image
from sigtok.codecs.image.models import walloc_image
from sigtok.codecs.image.walloc import Bands, WallocDecoder, of_high, of_low
from sigtok.codecs.layers.ladder import Gains, first_steps, geometric
from sigtok.codecs.spec import LOUDEST, Rate
from sigtok.codecs.transforms.blocks import LappedBlocks
from sigtok.codecs.transforms.colour import YCbCr
from sigtok.codecs.transforms.pyramid import Pyramid2d, kinds
from sigtok.codecs.transforms.wavelet import WaveletPacket1d, WaveletPacket2d

TINY_IMAGE = dict(width=8, depth=2, qualities=3, quality_steps=4, states=3, hidden=3)
TINY_AUDIO = dict(sample_rate=8000, width=8, depth=2, qualities=3, quality_steps=4, hidden=4)
QUALITIES = [1.0, 1.75, 2.5, 3.0]
LEVELS = [(1, 0), (2, 2), (3, 1)]
SPECTRA = [("mdct", 16, False), ("mdct", 48, True), ("wavelet", 32, False), ("wavelet", 16, True)]


def picture_codec(levels=2, low=2, **options):
    return walloc_image(levels=levels, low=low, **(TINY_IMAGE | options)).eval()


def sound_codec(spectrum="mdct", bins=32, full=False, **options):
    return walloc_stereo(bins=bins, spectrum=spectrum, full=full, **(TINY_AUDIO | options)).eval()


def stirred(codec, seed=0):
    """The same codec with weights as if it had learned something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (codec.encoder, codec.decoder):
            for weight in part.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
        for rungs in (codec.encoder.gains.shrink, codec.decoder.steps.outward):
            rungs.uniform_(0, 0.4, generator=generator)
    return codec


def pink(channels, *extent, seed=0):
    """Noise ``[1, C, *extent]`` whose spectrum falls as those of photos and music do."""
    noise = np.random.default_rng(seed).standard_normal((channels, *extent))
    axes = [np.fft.fftfreq(size) for size in extent]
    away = np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))
    signal = np.fft.ifftn(
        np.fft.fftn(noise, axes=range(1, noise.ndim)) / (away + 1 / max(extent)), axes=range(1, noise.ndim)
    ).real
    return torch.tensor(0.9 * signal / np.abs(signal).max(), dtype=torch.float32)[None]


def filled(codec, signal):
    """Whole positions."""
    return pad_to(signal, codec.spec.padded(tuple(signal.shape[2:]), Rate(quality=1.0)))


def codes_of(codec, signal, quality=3.0):
    return torch.stack(codec.encode(signal, Rate(quality=quality)).streams)


def entropy(codes):
    """Bits of codes under the histogram of each channel."""
    total = 0.0
    for channel in codes.flatten(1).numpy():
        count = np.unique(channel, return_counts=True)[1]
        total -= (count * np.log2(count / count.sum())).sum()
    return total


# -- bands of pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "low"), LEVELS)
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (6, 3)])
def test_bands_join_to_the_pixels_that_were_split(levels, low, grid):
    bands = Bands(levels, low)
    pixels = 2 * torch.rand(2, 3, *(size * 2**levels for size in grid)) - 1
    split = bands.split(pixels)
    assert split.shape == (2, 3 * 4**levels, *grid) and bands.hop == 2**levels and not bands.state_dict()
    torch.testing.assert_close(bands.join(split), pixels, rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_bands_are_those_of_the_packet_low_numbers_first_and_of_these_colours_in_turn(levels):
    size, pixels = 4**levels, torch.rand(1, 3, 3 * 2**levels, 2 * 2**levels)
    packet = WaveletPacket2d(levels)(YCbCr()(pixels)).unflatten(1, (3, size))[0]

    def number(band):
        """Of the band along both axes together, of its digits to the base 4, the first level first."""
        digits = np.base_repr(band, 4).zfill(levels)
        down, across = ("".join(str(int(digit) >> 1 - axis & 1) for digit in digits) for axis in range(2))
        return int(down, 2) + int(across, 2)

    expected = []
    for least in range(2 * 2**levels):
        for colour in range(3):
            expected += [packet[colour, band] for band in range(1, size) if number(band) == least]
    bands = Bands(levels, 1)
    assert bands.high == len(expected)
    assert torch.equal(bands.split(pixels)[0], torch.stack([*expected, *packet[:, 0]]))


@pytest.mark.parametrize(("levels", "low"), [(1, 0), (1, 2), (2, 1), (3, 0)])
def test_norms_are_those_of_the_pixels_of_one_coefficient_far_from_the_edges(levels, low):
    bands, side = Bands(levels, low), 12 * 2**low
    norms, where, middle = bands.norms(), kinds((side, side), low), side // 2
    assert norms.shape == (bands.high + 3 * (3 * low + 1),)

    def measured(channel, y, x):
        unit = torch.zeros(1, bands.high + 3, side, side)
        unit[0, channel, y, x] = 1
        unit[:, bands.high :] = bands.pyramid.inverse(unit[:, bands.high :], (side, side))
        return bands.join(unit).norm()

    for channel in range(0, bands.high, 1 + bands.high // 24):
        assert norms[channel] == pytest.approx(float(measured(channel, middle, middle)), rel=1e-4)
    for colour in range(3):
        for kind in range(3 * low + 1):
            place = next(p for p in (where == kind).nonzero().tolist() if min(p) >= middle)
            found = norms[bands.high + colour * (3 * low + 1) + kind]
            assert found == pytest.approx(float(measured(bands.high + colour, *place)), rel=0.03)


def test_laws_of_kinds_stand_where_their_coefficients_do():
    bands, grid = Bands(1, 2), (5, 9)
    values, where = torch.arange(9.0 + 3 * 7), kinds(grid, 2)
    assert torch.equal(of_high(values, bands), torch.arange(9.0)[:, None, None])
    assert torch.equal(
        of_low(values, bands, grid), torch.stack([9 + 7 * colour + where for colour in range(3)]).float()
    )


# -- spectra of sound --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "bins", "full"), SPECTRA)
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_spectra_join_to_the_sound_that_was_split(kind, bins, full, frames):
    spectrum, sound = Spectrum(bins, kind), torch.randn(2, 2, frames * bins)
    split = spectrum.split(sound)
    assert split.shape == (2, 2, bins, frames) and not spectrum.state_dict()
    torch.testing.assert_close(spectrum.join(split), sound, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["mdct", "wavelet"])
def test_bins_are_in_the_order_of_frequencies_and_channels_are_mid_and_side(kind):
    spectrum, bins, places = Spectrum(16, kind), 16, torch.arange(64 * 16)
    found = []
    for bin in range(bins):
        tone = torch.sin(math.pi * (bin + 0.5) / bins * places + 0.3)
        mid, side = spectrum.split(torch.stack((tone, tone))[None])[0]
        assert side.abs().max() < 1e-5
        found.append(int(mid.square().sum(1).argmax()))
        other = spectrum.split(torch.stack((tone, -tone))[None])[0]
        torch.testing.assert_close(other, torch.stack((side, mid)))
        if kind == "mdct":  # wavelets keep energy only about
            assert float(mid.square().sum()) == pytest.approx(2 * float(tone.square().sum()), rel=1e-4)
    assert all(abs(place - bin) <= (kind == "wavelet") for bin, place in enumerate(found))  # wavelets overlap


@pytest.mark.parametrize(("kind", "bins"), [("mdct", 16), ("mdct", 48), ("wavelet", 16), ("wavelet", 32)])
def test_a_frame_sees_its_lookahead_and_margin_and_no_further(kind, bins):
    spectrum, frames = Spectrum(bins, kind), 13
    sound = torch.randn(1, 2, frames * bins, requires_grad=True)
    middle = spectrum.split(sound)[0, :, :, frames // 2]
    (seen,) = torch.autograd.grad(middle.square().sum(), sound)
    places = seen.abs().amax((0, 1)).nonzero()[:, 0]
    start, end = frames // 2 * bins, (frames // 2 + 1) * bins
    assert int(places.max()) == end - 1 + spectrum.lookahead
    assert start - spectrum.margin * bins <= int(places.min()) < start
    values = torch.randn(1, 2, bins, frames, requires_grad=True)
    (seen,) = torch.autograd.grad(spectrum.join(values)[..., start:end].square().sum(), values)
    told = seen.abs().amax((0, 1, 2)).nonzero()[:, 0]
    assert frames // 2 - spectrum.margin <= int(told.min()) and int(told.max()) <= frames // 2 + spectrum.margin
    assert sound_codec(kind, bins).spec.lookahead == spectrum.lookahead


@pytest.mark.parametrize("full", [False, True])
def test_mixing_starts_as_the_identity_and_is_a_matrix_of_a_frame(full):
    mixing, spectrum = Mixing(32, full), torch.randn(2, 2, 32, 3)
    assert torch.equal(mixing(spectrum), spectrum)
    torch.nn.init.normal_(mixing.weight)
    whole = torch.zeros(2, 32, 2, 32)  # to channel and bin, from channel and bin
    for bin in range(32):
        if not full:
            whole[:, bin, :, bin] = mixing.weight[bin // 16]
    whole = mixing.weight.view(2, 32, 2, 32) if full else whole
    expected = torch.einsum("dgcf,bcft->bdgt", whole, spectrum)
    torch.testing.assert_close(mixing(spectrum), expected, rtol=0, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(mixing(spectrum), expected, rtol=0, atol=1e-4)


# -- what a fresh codec is ---------------------------------------------------------------------------------

FRESH = {  # name: codec, a signal, how far errors of its coefficients are from independent
    "image": (lambda **options: picture_codec(**options), lambda: pink(3, 96, 80), 0.06),
    "image_8": (lambda **options: picture_codec(3, 1, **options), lambda: pink(3, 96, 80), 0.1),
    "sound": (lambda **options: sound_codec(**options), lambda: pink(2, 200 * 32), 0.06),
    "sound_wavelet": (lambda **options: sound_codec("wavelet", **options), lambda: pink(2, 200 * 32), 0.14),
}


@pytest.mark.parametrize("name", FRESH)
def test_a_fresh_codec_is_a_transform_codec_whose_error_is_that_of_its_steps(name):
    """A twelfth of the squared step, and what values are off as they shrink by 0.1 and return by 0.05."""
    build, signal, near = FRESH[name][0], FRESH[name][1](), FRESH[name][2]
    codec = build(first=1e6, last=2e7, bits=16)
    for quality, step in zip([1.0, 2.0, 3.0], first_steps(geometric(1e6, 2e7, 3)).tolist(), strict=True):
        error = (codec.decode(codec.encode(signal, Rate(quality=quality))) - signal).square().mean()
        assert float(error) == pytest.approx(step**2 * (1 / 12 + 0.05**2), rel=near)


@pytest.mark.parametrize("name", FRESH)
def test_bits_and_fidelity_rise_with_every_step_of_quality(name):
    build, signal = FRESH[name][0], FRESH[name][1]()
    codec = build()
    points = [1 + step / 4 for step in range(9)]
    errors, bits = [], []
    for quality in points:
        codes = codes_of(codec, signal, quality)
        errors.append(float((codec.decode(codec.encode(signal, Rate(quality=quality))) - signal).square().mean()))
        bits.append(entropy(codes))
    assert all(np.diff(errors) < 0) and all(np.diff(bits) > 0)
    assert torch.equal(torch.stack(codec.encode(signal).streams), codes_of(codec, signal, 3.0))  # unless asked for less


@pytest.mark.parametrize("name", FRESH)
def test_silence_and_grey_are_zeros_at_every_quality(name):
    codec, signal = FRESH[name][0](), torch.zeros_like(FRESH[name][1]())
    for quality in QUALITIES:
        tokens = codec.encode(signal, Rate(quality=quality))
        zero = codec.spec.codebook_sizes[0] // 2
        assert all((stream == zero).all() for stream in tokens.streams)
        assert not codec.decode(tokens).any()


@pytest.mark.parametrize("density", ["neighbours", "factorised", "hyperprior"])
def test_every_density_codes_pictures_of_its_codec(density):
    codec = stirred(picture_codec(1, 1, density=density))
    codes = codes_of(codec, pink(3, 9, 14), 1.5)[:, 0].numpy()
    coder = codec.entropy.coder()
    decoded = coder.decode(coder.encode(tuple(codes), (5, 7), 1.5), (5, 7), 1.5)
    assert np.array_equal(np.stack(decoded), codes)


def test_a_codec_of_one_quality_needs_no_ladder():
    codec, signal = picture_codec(1, 1, qualities=1, first=1e4, last=1e4), pink(3, 20, 30)
    step = float(first_steps(torch.tensor([1e4])))
    assert float((codec.decode(codec.encode(signal, Rate(quality=1.0))) - signal).square().mean()) < step**2 / 10


# -- any extent --------------------------------------------------------------------------------------------

PICTURES = [(1, 1), (1, 13), (9, 1), (7, 10), (33, 18), (16, 16)]
SOUNDS = [(1,), (15,), (16,), (17,), (101,)]


@pytest.mark.parametrize(("levels", "low"), LEVELS)
@pytest.mark.parametrize("extent", PICTURES)
def test_pictures_of_every_extent_come_back_at_every_quality(levels, low, extent):
    codec, signal = picture_codec(levels, low, first=1e4, last=1e6), pink(3, *extent)
    assert codec.spec.hop == (2**levels, 2**levels)
    for quality, most in zip(QUALITIES, [0.1, 0.05, 0.03, 0.01], strict=True):
        tokens = codec.encode(signal, Rate(quality=quality))
        assert len(tokens.streams) == 3 * 4**levels and tokens.streams[0].shape[1] == math.prod(
            -(-size // 2**levels) for size in extent
        )
        back = codec.decode(tokens)
        assert back.shape == signal.shape and (back - signal).square().mean().sqrt() < most


@pytest.mark.parametrize(("kind", "bins", "full"), SPECTRA)
@pytest.mark.parametrize("extent", SOUNDS)
def test_sounds_of_every_length_come_back_at_every_quality(kind, bins, full, extent):
    codec, signal = sound_codec(kind, bins, full, first=1e4, last=1e6), pink(2, *extent)
    for quality, most in zip(QUALITIES, [0.04, 0.03, 0.02, 0.01], strict=True):
        tokens = codec.encode(signal, Rate(quality=quality))
        assert [stream.shape for stream in tokens.streams] == [(1, -(-extent[0] // bins) * bins)] * 2
        back = codec.decode(tokens)
        assert back.shape == signal.shape and (back - signal).square().mean().sqrt() < most


def test_what_is_filled_beyond_an_end_is_as_if_it_were_there():
    for codec, signal in ((picture_codec(), pink(3, 9, 14)), (sound_codec(), pink(2, 75))):
        whole = filled(codec, signal)
        assert whole.shape != signal.shape and torch.equal(codes_of(codec, signal), codes_of(codec, whole))


# -- whole numbers -----------------------------------------------------------------------------------------


def slow_picture_values(encoder, signal, rate):
    """What is rounded, in numpy's float64, with bands and pyramid as their own tests have them."""
    high = encoder.bands.high
    split = encoder.bands.split(signal.double())[0].numpy()
    grid = split.shape[1:]
    low = Pyramid2d(encoder.bands.low)(torch.tensor(split[None, high:]))[0].numpy()
    matrix = encoder.linear.detach().double().numpy()
    mapped = np.stack([sum(matrix[out, into] * split[into] for into in range(high)) for out in range(high)])
    gains, shrinks = (law.detach().numpy() for law in encoder.gains.at(rate.quality))
    values = np.empty_like(split)
    for y in range(grid[0]):
        for x in range(grid[1]):
            kind = int(kinds(grid, encoder.bands.low)[y, x])
            for channel in range(high + 3):
                law = channel if channel < high else high + (channel - high) * (3 * encoder.bands.low + 1) + kind
                value = mapped[channel, y, x] if channel < high else low[channel - high, y, x]
                scaled = value * gains[law]
                values[channel, y, x] = np.sign(scaled) * max(abs(scaled) - shrinks[law], 0)
    return values.reshape(high + 3, -1).T


def slow_sound_values(encoder, signal, rate):
    """The same of sound: mid and side of bin after bin, frame after frame."""
    bins = encoder.spectrum.bins
    left, right = signal[0].double().numpy()
    turned = np.stack((left + right, left - right)) / math.sqrt(2)
    transform = encoder.spectrum.transform
    coefficients = transform(torch.tensor(turned)[None])[0].numpy().reshape(2, bins, -1)
    numbers = range(bins)
    if isinstance(transform, WaveletPacket1d):  # Gray's code: high bands are turned around
        coefficients = coefficients[:, [number ^ number >> 1 for number in numbers]]
    else:
        assert isinstance(transform, LappedBlocks)
    weight = encoder.mixing.weight.detach().double().numpy()
    gains, shrinks = (law.detach().numpy() for law in encoder.gains.at(rate.quality))
    values = []
    for frame in range(coefficients.shape[2]):
        here = coefficients[:, :, frame]
        for bin in range(bins):
            for channel in range(2):
                if weight.ndim == 2:
                    mapped = weight[channel * bins + bin] @ here.ravel()
                else:
                    mapped = weight[bin // 16, channel] @ here[:, bin]
                law = channel * (bins // 16) + bin // 16
                scaled = mapped * gains[law]
                values.append(np.sign(scaled) * max(abs(scaled) - shrinks[law], 0))
    return np.reshape(values, (-1, 2))


FINE = {"first": 1e9, "last": 1e10, "bits": 16}  # steps so fine that float32 finds other whole numbers
WHOLE = {
    "image": (lambda: picture_codec(2, 2, **FINE), (3, 28, 40), slow_picture_values),
    "image_of_one_level": (lambda: picture_codec(1, 0, **FINE), (3, 18, 22), slow_picture_values),
    "mdct": (lambda: sound_codec("mdct", 48, **FINE), (2, 480), slow_sound_values),
    "mdct_full": (lambda: sound_codec("mdct", 32, True, **FINE), (2, 480), slow_sound_values),
    "wavelet": (lambda: sound_codec("wavelet", 16, **FINE), (2, 480), slow_sound_values),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_are_those_of_float64(name):
    build, shape, slow = WHOLE[name]
    codec, signal, others = stirred(build()), 2 * torch.rand(1, *shape) - 1, 0
    for quality in QUALITIES:
        rate = codec.spec.resolve(Rate(quality=quality))
        values = np.clip(np.rint(slow(codec.encoder, signal, rate)), -32767, 32767)
        found = codes_of(codec, signal, quality)[:, 0].T.numpy() - codec.spec.codebook_sizes[0] // 2
        assert np.array_equal(found, values)
        with torch.no_grad():
            fast = codec.encoder(signal, rate)
        np.testing.assert_allclose(fast[0].clamp(-32767, 32767).numpy(), values, rtol=1e-4, atol=0.6)
        others += int((fast[0].round().clamp(-32767, 32767).numpy() != values).sum())
    assert others  # or this test could not fail


BOTH = {"image": (lambda **options: picture_codec(**options), lambda seed=0: pink(3, 52, 40, seed=seed))} | {
    kind: (
        lambda kind=kind, full=full, **options: sound_codec(kind, 32, full, **options),
        lambda seed=0: pink(2, 1000, seed=seed),
    )
    for kind, full in (("mdct", False), ("wavelet", True))
}


@pytest.mark.parametrize("name", BOTH)
def test_whole_numbers_depend_on_no_threads_mates_or_mixed_precision(name):
    codec = stirred(BOTH[name][0]())
    signals = [BOTH[name][1](seed)[0] for seed in range(3)]
    signals[1] = signals[1][..., :37]
    alone = [codes_of(codec, signal[None], 2.5)[:, 0] for signal in signals]
    together = codec.encode(signals, Rate(quality=2.5))
    for item, codes in zip(together, alone, strict=True):
        assert torch.equal(torch.stack(item.streams)[:, 0, : codes.shape[1]], codes)
    torch.set_num_threads(2)
    assert torch.equal(codes_of(codec, signals[0][None], 2.5)[:, 0], alone[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codes_of(codec, signals[0][None], 2.5)[:, 0], alone[0])


@pytest.mark.parametrize("name", BOTH)
def test_training_under_mixed_precision_makes_the_same_latents(name):
    codec = stirred(BOTH[name][0]())
    signal = filled(codec, BOTH[name][1]())
    rate = codec.spec.resolve(Rate(quality=1.5))
    with torch.no_grad():
        plain = codec.encoder(signal, rate)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(codec.encoder(signal, rate), plain)


@pytest.mark.parametrize("name", BOTH)
def test_the_loudest_signals_are_clamped_and_decoded_at_every_quality(name):
    codec, shape = stirred(BOTH[name][0](first=1e6, last=1e7, bits=6)), BOTH[name][1]().shape
    grid = codec.spec.grid(tuple(shape[2:]), Rate(quality=1.0))
    for signal in ((torch.rand(shape) - 0.5).sign(), LOUDEST * (torch.rand(shape) - 0.5).sign()):
        for quality in (1.0, 2.75, 3.0):
            tokens = codec.encode(signal, Rate(quality=quality))
            codes = torch.cat(tokens.streams)
            assert int(codes.min()) == 0 and int(codes.max()) == 62
            back = codec.decode(tokens)
            assert back.isfinite().all() and back.abs().max() <= 1
            grid = grid if len(grid) == 2 else (codes.shape[1],)
            coder = codec.entropy.coder()
            decoded = coder.decode(coder.encode(tuple(codes.numpy()), grid, quality), grid, quality)
            assert np.array_equal(np.stack(decoded), codes.numpy())


# -- pieces ------------------------------------------------------------------------------------------------


def same_pixels(codec, latents, extent, rate):
    with torch.no_grad():
        whole = codec.decoder(latents, extent, rate)
        parts = codec.decoder.piecewise(latents, extent, rate)
    assert whole.shape == parts.shape == (1, codec.spec.channels, *extent)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)


def exact_values(codec, signal, rate):
    """What the whole encoder says in float64."""
    with torch.no_grad():
        return copy.deepcopy(codec.encoder).double()(signal.double(), rate)


@pytest.mark.parametrize(("levels", "low"), LEVELS)
@pytest.mark.parametrize("extent", [(72, 104), (8, 136), (104, 40)])
def test_pictures_in_tiles_are_whole_pictures(levels, low, extent, monkeypatch):
    monkeypatch.setattr(image, "TILE", 32)
    codec = stirred(picture_codec(levels, low, bits=16, first=1e4, last=1e7))
    signal, rate = pink(3, *extent), codec.spec.resolve(Rate(quality=2.25))
    with torch.no_grad():
        latents = codec.encoder.piecewise(signal, rate)
    assert torch.equal(latents, exact_values(codec, signal, rate).round().float())
    same_pixels(codec, latents, extent, rate)


def test_a_picture_just_over_a_tile_is_cut_and_equals_the_whole():
    codec = stirred(picture_codec(3, 0, depth=1, width=4))
    extent, rate = (8, 3 * image.TILE // 2 + 8), codec.spec.resolve(Rate(quality=3.0))
    assert len(codec.encoder.tiling.tiles((1, extent[1] // 8))) == 2
    signal = pink(3, *extent)
    with torch.no_grad():
        latents = codec.encoder.piecewise(signal, rate)
    assert torch.equal(latents, exact_values(codec, signal, rate).round().float())
    same_pixels(codec, latents, extent, rate)


@pytest.mark.parametrize(("kind", "bins", "full"), SPECTRA)
@pytest.mark.parametrize("frames", [1, 3, 4, 11, 24])
def test_sounds_in_pieces_are_whole_sounds(kind, bins, full, frames, monkeypatch):
    monkeypatch.setattr(audio, "PIECE", 3)
    codec = stirred(sound_codec(kind, bins, full, first=1e4, last=1e7))
    signal, rate = pink(2, frames * bins), codec.spec.resolve(Rate(quality=2.25))
    with torch.no_grad():
        latents = codec.encoder.piecewise(signal, rate)
    assert torch.equal(latents, exact_values(codec, signal, rate).round().float())
    same_pixels(codec, latents, (frames * bins,), rate)


def test_pieces_are_of_bounded_size(monkeypatch):
    monkeypatch.setattr(audio, "PIECE", 3)
    codec, seen = sound_codec("mdct", 16), []
    codec.encoder.mixing.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[3]))
    codec.decoder.mixing.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[3]))
    codec.decode(codec.encode(pink(2, 20 * 16), Rate(quality=3.0)))
    assert len(seen) == 14 and max(seen) <= 3 + 2 * (codec.decoder.reach + 1)


# -- the decoder -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("levels", "low"), LEVELS)
@pytest.mark.parametrize("grid", [(4, 8), (3, 5)])
def test_a_picture_is_its_bands_and_what_the_network_adds_in_blocks_of_8(levels, low, grid):
    codec = stirred(picture_codec(levels, low))
    decoder, hop, high = codec.decoder, 2**levels, codec.encoder.bands.high
    rate, fold, norms = codec.spec.resolve(Rate(quality=2.5)), 8 // hop, Bands(levels, low).norms()
    whole = torch.randint(-9, 10, (1, grid[0] * grid[1], high + 3)).float()
    steps = (decoder.steps.log_step[1] / 2 + decoder.steps.log_step[2] / 2).exp()
    outward = decoder.steps.outward[1] / 2 + decoder.steps.outward[2] / 2
    values, where = rearrange(whole, "b (y x) d -> b d y x", y=grid[0]), kinds(grid, low)
    bands = torch.zeros_like(values)
    for channel in range(high + 3):
        law = torch.full(grid, channel) if channel < high else high + (channel - high) * (3 * low + 1) + where
        here = values[0, channel]
        bands[0, channel] = (here + here.sign() * outward[law]) * steps[law]
    mixed = torch.einsum("dc,bcyx->bdyx", decoder.linear, bands[:, :high])
    bands = torch.cat((mixed, Pyramid2d(low).inverse(bands[:, high:], grid)), 1)
    unit = torch.cat((0.05 / norms[:high], torch.full((3,), float(hop))))[:, None, None]
    padded = F.pad(bands / unit, (0, -grid[1] % fold, 0, -grid[0] % fold), mode="replicate")
    folded = rearrange(padded, "b c (y v) (x h) -> b (c v h) y x", v=fold, h=fold)
    rung = (decoder.rungs[1] + decoder.rungs[2])[:, None, None] / 2
    told = decoder.head(decoder.blocks(decoder.embed(folded) + rung))
    added = rearrange(told, "b (c v h) y x -> b c (y v) (x h)", v=fold, h=fold)[..., : grid[0], : grid[1]] * unit
    found = decoder(whole, (grid[0] * hop, grid[1] * hop), rate)
    torch.testing.assert_close(found, Bands(levels, low).join(bands + added), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "bins", "full"), SPECTRA)
def test_a_sound_is_its_bins_and_what_the_network_adds_frame_by_frame(kind, bins, full):
    codec = stirred(sound_codec(kind, bins, full))
    decoder, rate, frames = codec.decoder, codec.spec.resolve(Rate(quality=1.25)), 5
    whole = torch.randint(-9, 10, (1, frames * bins, 2)).float()
    steps = (0.75 * decoder.steps.log_step[0] + 0.25 * decoder.steps.log_step[1]).exp()
    outward = 0.75 * decoder.steps.outward[0] + 0.25 * decoder.steps.outward[1]
    spectrum = torch.zeros(1, 2, bins, frames)
    for channel in range(2):
        for bin in range(bins):
            law, here = channel * (bins // 16) + bin // 16, whole[0, bin::bins, channel]
            spectrum[0, channel, bin] = (here + here.sign() * outward[law]) * steps[law]
    mixed = decoder.mixing(spectrum)
    hertz = torch.tensor([(bin + 0.5) * 4000 / bins for bin in range(bins)])
    unit = 1 / (1 + hertz / 200)
    frames_in = rearrange(mixed / unit[:, None], "b c f t -> b (c f) t")
    rung = (0.75 * decoder.rungs[0] + 0.25 * decoder.rungs[1])[:, None]
    told = decoder.head(decoder.blocks(decoder.embed(frames_in) + rung))
    added = rearrange(told, "b (c f) t -> b c f t", c=2) * unit[:, None]
    found = decoder(whole, (frames * bins,), rate)
    torch.testing.assert_close(found, Spectrum(bins, kind).join(mixed + added), rtol=1e-4, atol=1e-4)


def test_the_network_starts_as_nothing_whatever_it_is_told():
    for codec, extent in ((picture_codec(), (24, 16)), (sound_codec(), (96,))):
        rate = codec.spec.resolve(Rate(quality=1.0))
        latents = torch.randn(1, codec.spec.positions(extent, rate), codec.spec.latent_dim)
        before = codec.decoder(latents, extent, rate)
        for weight in codec.decoder.blocks.parameters():
            torch.nn.init.normal_(weight)
        assert torch.equal(codec.decoder(latents, extent, rate), before)


def test_a_frame_is_heard_by_its_neighbours_through_every_block():
    codec = stirred(sound_codec("mdct", 16, depth=3))
    latents = torch.randn(1, 15 * 16, 2, requires_grad=True)
    heard = codec.decoder(latents, (15 * 16,), codec.spec.resolve(Rate(quality=3.0)))[..., 7 * 16 : 8 * 16]
    (gradient,) = torch.autograd.grad(heard.square().sum(), latents)
    frames = gradient[0].unflatten(0, (15, 16)).abs().amax((1, 2)).nonzero()[:, 0]
    assert frames.tolist() == list(range(7 - 3 - 1, 7 + 3 + 2)) and codec.decoder.reach == 3


# -- mistakes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (lambda: Bands(0, 2), "at least 1 level, got 0"),
        (lambda: Bands(2, -1), "0 or more levels, got -1"),
        (lambda: WallocDecoder(Bands(4, 0), torch.tensor([1.0]), 8, 1), "blocks are of 8 pixels, got a hop of 16"),
        (lambda: walloc_image(levels=4, **TINY_IMAGE), "blocks are of 8 pixels, got a hop of 16"),
        (lambda: Spectrum(24, "mdct"), "a multiple of 16, of wavelets a power of 2, got 24"),
        (lambda: Spectrum(48, "wavelet"), "a multiple of 16, of wavelets a power of 2, got 48"),
        (lambda: Spectrum(8, "wavelet"), "a multiple of 16, of wavelets a power of 2, got 8"),
        (lambda: sound_codec("mdct", 40), "a multiple of 16, of wavelets a power of 2, got 40"),
        (lambda: Spectrum(0, "mdct"), "got 0"),
    ],
)
def test_impossible_parts_are_refused_with_the_number(builder, message):
    with pytest.raises(ValueError, match=message):
        builder()


def test_parts_of_the_codec_have_gains_of_their_own():
    """One for each band and each kind of low coefficient, or for each 16 bins of mid and of side."""
    codec = picture_codec(2, 3)
    assert codec.encoder.gains.log_gain.shape == codec.decoder.steps.log_step.shape == (3, 45 + 3 * 10)
    encoder = WallocAudioEncoder(Spectrum(48, "mdct"), torch.tensor([0.5, 0.25]), False)
    assert isinstance(encoder.gains, Gains) and encoder.gains.log_gain.shape == (2, 2 * 3)
