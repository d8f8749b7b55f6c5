"""Conventional codecs: signals come back where they were, files grow with settings, and what is missing is told."""

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import frame_speech
from sigtok.codecs.media import (
    has_format,
    image_from_bytes,
    image_to_bytes,
    opus_from_bytes,
    opus_to_bytes,
    read_audio,
)
from sigtok.codecs.metrics.audio import snr
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.spec import CodecSpec
from sigtok.export import peers
from sigtok.export.peers import KILOBITS, NAMES, QUALITIES, Peer, peers_of

FORMS = [form for form in QUALITIES if has_format(form)]
IMAGE = CodecSpec(
    name="picture", modality="image", channels=3, sample_rate=None, hop=(8, 8), codebook_sizes=(16,), latent_dim=4
)


def sound(seconds, rate, channels=2, seed=0):
    """Noise of a falling spectrum, in bursts: unlike itself at any delay."""
    generator = np.random.default_rng(seed)
    spectrum = np.fft.rfft(generator.standard_normal((channels, int(seconds * rate))))
    spectrum /= 1 + np.arange(spectrum.shape[1]) / (seconds * 300)
    waves = np.fft.irfft(spectrum, int(seconds * rate))
    waves *= 1 + np.sin(2 * np.pi * 3 * np.arange(waves.shape[1]) / rate)
    return (0.4 * waves / np.abs(waves).max()).astype(np.float32)


def photo(height, width):
    blots = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = torch.nn.functional.interpolate(blots, (height, width), mode="bicubic")[0]
    noise = 0.05 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))
    return (picture + noise).clamp(-1, 1).numpy()


# -- Opus --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [24_000, 44_100, 48_000])
def test_opus_gives_back_every_sample_without_delay(rate, channels):
    signal = sound(1.003, rate, channels)
    decoded = opus_from_bytes(opus_to_bytes(signal, rate, 64 * channels), rate)
    assert decoded.shape == signal.shape and decoded.dtype == np.float32
    size = 2 * signal.shape[1]
    pair = (np.fft.rfft(each.astype(float).mean(0), size) for each in (decoded, signal))
    spectrum = np.prod([next(pair), np.conj(next(pair))], axis=0)
    assert np.fft.irfft(spectrum, size).argmax() == 0
    assert snr(torch.from_numpy(decoded), torch.from_numpy(signal)) > 12


@pytest.mark.parametrize("kilobits", [12, 48, 128, 384])
def test_opus_files_have_the_rate_that_was_asked_for_and_their_pages(kilobits):
    data = opus_to_bytes(sound(6, 48_000), 48_000, kilobits)
    assert 0.9 * kilobits <= 8 * len(data) / 6000 <= 1.05 * kilobits + 1


def test_the_comments_of_an_opus_file_are_empty_and_it_is_a_file(tmp_path):
    signal = sound(0.5, 48_000)
    data = opus_to_bytes(signal, 48_000, 96)
    assert data[27:].count(b"OpusTags" + bytes(8) + b"OggS") == 1
    (tmp_path / "a.opus").write_bytes(data)
    decoded, rate = read_audio(tmp_path / "a.opus")
    assert rate == 48_000
    np.testing.assert_array_equal(decoded, opus_from_bytes(data, 48_000))


@pytest.mark.parametrize(("channels", "samples", "kilobits"), [(3, 90, 64), (1, 0, 64), (2, 90, 11), (1, 90, 257)])
def test_opus_refuses_what_it_does_not_hold(channels, samples, kilobits):
    with pytest.raises(ValueError, match=f"got {channels} of {samples} samples at {kilobits}; choose others"):
        opus_to_bytes(np.zeros((channels, samples), np.float32), 48_000, kilobits)


# -- ladders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_files_and_quality_grow_along_the_ladder_of_a_format(form):
    signal = torch.from_numpy(photo(64, 80))
    trips = [Peer(form, QUALITIES[form]).round_trip(signal, setting) for setting in QUALITIES[form]]
    sizes, qualities = [trip[1] for trip in trips], [psnr(trip[0], signal) for trip in trips]
    assert sizes == sorted(set(sizes)) and qualities == sorted(qualities)
    assert qualities[-1] > qualities[0] + 6 and all(min(trip[2:]) > 0 for trip in trips)
    assert sizes[3] == len(image_to_bytes(signal.numpy(), form, QUALITIES[form][3]))


def test_files_and_quality_grow_along_the_ladder_of_opus():
    (peer,), _ = peers_of(frame_speech(codebooks=1).spec)
    signal = torch.from_numpy(sound(1.5, peer.sample_rate, 1))
    trips = [peer.round_trip(signal, setting) for setting in peer.settings[2:]]
    sizes, qualities = [trip[1] for trip in trips], [snr(trip[0], signal) for trip in trips]
    assert sizes == sorted(set(sizes)) and qualities == sorted(qualities)


def test_jpeg_xl_is_exact_at_100():
    pytest.importorskip("pillow_jxl")
    signal = photo(24, 40)
    exact = image_from_bytes(image_to_bytes(signal, "png", 100))
    np.testing.assert_array_equal(image_from_bytes(image_to_bytes(signal, "jxl", 100)), exact)


# -- which are there ---------------------------------------------------------------------------------------


def test_pictures_are_beside_formats_of_pictures_and_sounds_beside_opus(monkeypatch):
    monkeypatch.setattr(peers, "has_format", lambda form: True)
    found, missing = peers_of(IMAGE)
    assert [peer.form for peer in found] == ["jpeg", "webp", "avif", "jxl"] and missing == {}
    audio = dict(modality="audio", sample_rate=44_100, hop=(8,), codebook_sizes=(16,), latent_dim=4)
    found, missing = peers_of(CodecSpec(name="music", channels=2, **audio))
    assert [(peer.form, peer.settings[0], peer.settings[-1]) for peer in found] == [("opus", 12, 512)]
    assert found[0].sample_rate == 44_100 and missing == {}
    found, missing = peers_of(CodecSpec(name="round", channels=6, **audio))
    assert found == [] and missing == {"Opus": "Opus is compared on 1 or 2 channels, round has 6"}


def test_what_is_not_installed_is_told_and_the_others_stay(monkeypatch):
    monkeypatch.setattr(peers, "has_format", lambda form: form not in ("jxl", "avif"))
    found, missing = peers_of(IMAGE)
    assert [NAMES[peer.form] for peer in found] == ["JPEG", "WebP"]
    assert missing["JPEG XL"] == "nothing here writes it; pip install 'sigtok[eval]'" and "Pillow" in missing["AVIF"]


def test_features_have_no_peers(tiny_feature_codec):
    assert peers_of(tiny_feature_codec.spec) == ([], {})


def test_settings_rise():
    assert all(list(settings) == sorted(set(settings)) for settings in (*QUALITIES.values(), KILOBITS))
