"""The semantic codec: no frame is lost, pieces equal the whole, features of any range come back in their range."""

import itertools
import math

import numpy as np
import pytest
import torch

from sigtok.codecs.audio import semantic
from sigtok.codecs.audio.models import semantic_features
from sigtok.codecs.features import features_info, npy_of, open_features, read_features
from sigtok.codecs.files import compress, decompress
from sigtok.codecs.layers.standardise import Standardise
from sigtok.codecs.metrics.features import cosine, relative_error
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.spec import Rate

STRIDES = pytest.mark.parametrize("stride", [1, 2, 4])
RATE = Rate(codebooks=1, queries=1, window=(1,))
CODE = {"name": "vq", "codebook_size": 32, "dim": 4, "metric": "sphere"}
SMALL = {
    "channels": 3,
    "dim": 8,
    "depth": 2,
    "latent_dim": 6,
    "quantizer": {"name": "projected", "inner": CODE, "dim": 6},
}


def tiny(stride=2, **options):
    codec = semantic_features(**{**SMALL, "stride": stride, **options}).eval()
    codec.encoder.scale.set(torch.tensor([10.0, 0.0, -300.0]), torch.tensor([1.0, 0.1, 50.0]), 7)
    return codec


def features(*shape):
    return torch.tensor([10.0, 0.0, -300.0])[:, None] + torch.tensor([1.0, 0.1, 50.0])[:, None] * torch.randn(*shape)


def close(some, others):
    torch.testing.assert_close(some, others, rtol=1e-10, atol=1e-10)


# -- lengths -----------------------------------------------------------------------------------------------


@STRIDES
def test_every_length_comes_back_and_costs_one_code_per_stride_begun(stride):
    codec = tiny(stride)
    for length in range(10):
        signal = features(2, 3, length)
        tokens = codec.encode(signal, sample_rate=50)
        assert tokens.codes.shape == (2, 1, math.ceil(length / stride))
        assert codec.decode(tokens).shape == signal.shape
        data = compress(codec, signal[:1])
        assert torch.equal(decompress(codec, data), codec.decode(tokens)[:1])


@pytest.mark.parametrize("stride", [2, 4])
def test_the_frames_that_hang_over_change_the_last_code_alone(stride):
    codec = tiny(stride)
    signal = features(1, 3, 4 * stride + 1)
    latents = []
    codec.quantizer.encode = lambda z, books: latents.append(z) or (torch.zeros(z.shape[:2], dtype=torch.int64),)
    codec.encode(signal)
    signal[..., -1] += 1
    codec.encode(signal)
    first, second = latents
    assert first.shape == (1, 5, 6)
    assert torch.equal(first[:, :4], second[:, :4]) and not torch.allclose(first[:, 4], second[:, 4])


def test_what_is_missing_of_a_window_is_the_last_frame_again():
    codec = tiny(4)
    signal = features(1, 3, 6)
    whole = torch.cat((signal, signal[..., -1:], signal[..., -1:]), dim=-1)
    assert torch.equal(codec.encode(signal).codes, codec.encode(whole).codes)


def test_the_spec_counts_frames_and_seconds():
    spec = semantic_features(dim=8, depth=1).spec
    assert (spec.modality, spec.sample_rate, spec.hop, spec.bounded) == ("features", 50, (2,), False)
    assert spec.token_rate() == 25 and spec.nominal_bits_per_second() == 325


# -- values ------------------------------------------------------------------------------------------------


def test_features_of_any_size_go_in_and_come_out():
    codec = tiny()
    codec.encoder.scale.set(torch.zeros(3), torch.full((3,), 1e6), 1)
    decoded = codec.decode(codec.encode(1e6 * torch.randn(1, 3, 20)))
    assert decoded.abs().max() > 1e3


@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda x: x.double(), "features are a float32 tensor, got torch.float64"),
        (
            lambda x: torch.where(torch.arange(x.shape[-1]) == 2, math.nan, x),
            "finite numbers, got one of magnitude nan",
        ),
        (
            lambda x: torch.where(torch.arange(x.shape[-1]) == 2, math.inf, x),
            "finite numbers, got one of magnitude inf",
        ),
        (lambda x: x[:2], r"takes signals of shape \[3, T\] .* got \[2, 9\]"),
    ],
)
def test_what_is_no_feature_is_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        tiny().encode([broken(features(3, 9))])


def test_another_frame_rate_is_refused():
    with pytest.raises(ValueError, match="works at 50 Hz, got 25 Hz"):
        tiny().encode(features(1, 3, 9), sample_rate=25)


def test_standardised_channels_have_mean_0_and_deviation_1_and_come_back():
    scale, signal = Standardise(3), features(2, 3, 400)
    assert torch.equal(scale(signal), signal) and scale.frames == 0
    scale.set(signal.mean((0, 2)), signal.std((0, 2)), 800)
    assert scale(signal).mean((0, 2)).abs().max() < 1e-4
    torch.testing.assert_close(scale(signal).std((0, 2)), torch.ones(3))
    torch.testing.assert_close(scale.inverse(scale(signal)), signal)
    with pytest.raises(ValueError, match="of 3 channels, got 2"):
        scale.set(torch.zeros(2), torch.ones(2), 1)
    for mean, deviation in ((torch.zeros(3), torch.zeros(3)), (torch.full((3,), math.nan), torch.ones(3))):
        with pytest.raises(ValueError, match="means are finite and deviations positive"):
            scale.set(mean, deviation, 1)


def test_codes_do_not_depend_on_the_units():
    codec, other = tiny(), tiny()
    other.load_state_dict(codec.state_dict())
    unit, zero = torch.tensor([8.0, 0.5, 4.0]), torch.tensor([1.0, 2.0, -4.0])
    scale = codec.encoder.scale
    other.encoder.scale.set(scale.mean * unit + zero, scale.deviation * unit, 7)
    signal = features(1, 3, 64)
    tokens = codec.encode(signal)
    assert (other.encode(signal * unit[:, None] + zero[:, None]).codes == tokens.codes).float().mean() > 0.95
    restored = other.decode(tokens)
    torch.testing.assert_close(restored, codec.decode(tokens) * unit[:, None] + zero[:, None], rtol=1e-4, atol=1e-3)


def test_statistics_are_released_with_the_model(tmp_path):
    codec = tiny()
    save(codec, tmp_path, builder="semantic_features", arguments=SMALL, licence="CC0-1.0", training_data="none",
         measured={}, card="# Tiny", half=False)  # fmt: skip
    loaded, signal = load(tmp_path), features(1, 3, 21)
    assert loaded.encoder.scale is loaded.decoder.scale and loaded.encoder.scale.frames == 7
    assert torch.equal(loaded.decode(loaded.encode(signal)), codec.decode(codec.encode(signal)))


def test_any_quantizer_serves():
    codec = tiny(quantizer={"name": "fsq", "levels": [3] * 6})
    assert codec.spec.codebook_sizes == (729,)
    assert codec.decode(codec.encode(features(1, 3, 5))).shape == (1, 3, 5)


# -- streams -----------------------------------------------------------------------------------------------


def partitions(count):
    for cuts in itertools.product((False, True), repeat=count - 1):
        lengths = [1]
        for cut in cuts:
            lengths = [*lengths, 1] if cut else [*lengths[:-1], lengths[-1] + 1]
        yield lengths


@STRIDES
def test_pieces_equal_the_whole(stride):
    codec = tiny(stride).double()
    signal, latents = features(2, 3, 5 * stride).double(), torch.randn(2, 5, 6).double()
    for part, values, axis, unit, whole in (
        (codec.encoder, signal, 2, stride, codec.encoder(signal, RATE)),
        (codec.decoder, latents, 1, 1, codec.decoder(latents, (5 * stride,), RATE).transpose(1, 2)),
    ):
        for lengths in partitions(5):
            state, parts = part.initial_state(2, RATE), []
            for chunk in values.split([length * unit for length in lengths], dim=axis):
                out, state = part.step(chunk, state, RATE)
                parts.append(out if part is codec.encoder else out.transpose(1, 2))
            close(torch.cat(parts, dim=1), whole)


@STRIDES
@pytest.mark.parametrize("piece", [1, 2, 5])
def test_piecewise_is_all_at_once(monkeypatch, stride, piece):
    monkeypatch.setattr(semantic, "PIECE", piece)
    codec = tiny(stride).double()
    signal, latents = features(1, 3, 5 * stride).double(), torch.randn(1, 5, 6).double()
    close(codec.encoder.piecewise(signal, RATE), codec.encoder(signal, RATE))
    close(codec.decoder.piecewise(latents, (5 * stride,), RATE), codec.decoder(latents, (5 * stride,), RATE))


@STRIDES
def test_the_future_changes_nothing(stride):
    codec = tiny(stride).double()
    signal, latents = features(1, 3, 5 * stride).double(), torch.randn(1, 5, 6).double()
    whole, decoded = codec.encoder(signal, RATE), codec.decoder(latents, (5 * stride,), RATE)
    for count in range(5):
        changed, others = signal.clone(), latents.clone()
        changed[..., count * stride :] += 1
        others[:, count:] += torch.randn(6)
        difference = (codec.encoder(changed, RATE) - whole).abs().amax(-1)[0]
        assert (difference[:count] < 1e-10).all() and difference[count] > 1e-6
        difference = (codec.decoder(others, (5 * stride,), RATE) - decoded).abs().amax(1)[0]
        assert (difference[: count * stride] < 1e-10).all() and difference[count * stride] > 1e-6


@pytest.mark.parametrize("stride", [2, 4])
def test_frames_of_one_code_differ(stride):
    frames = tiny(stride).double().decoder(torch.randn(1, 1, 6).double(), (stride,), RATE)[0]
    assert all((frames[:, one] - frames[:, other]).abs().max() > 1e-6 for one in range(stride) for other in range(one))


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_files_of_features_are_read_whole_and_in_part(tmp_path, kind):
    array = np.arange(21, dtype=kind).reshape(7, 3)
    np.save(tmp_path / "a.npy", array)
    found = read_features(tmp_path / "a.npy", 3)
    assert found.dtype == np.float32 and np.array_equal(found, array.T)
    assert np.array_equal(read_features(tmp_path / "a.npy", 3, 2, 3), array[2:5].T)
    assert np.array_equal(read_features(tmp_path / "a.npy", 3, 5, 9), array[5:].T)
    with (tmp_path / "a.npy").open("rb") as file:
        assert np.array_equal(read_features(file, 3, 2, 3), array[2:5].T)
    (tmp_path / "b.npy").write_bytes(npy_of(found))
    assert np.array_equal(np.load(tmp_path / "b.npy"), array) and np.load(tmp_path / "b.npy").dtype == np.float32
    np.save(tmp_path / "c.npy", np.zeros((0, 3), kind))
    assert read_features(tmp_path / "c.npy", 3).shape == (3, 0)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((4, 2), np.float32), r"\[frames, 3\], got float32 \[4, 2\]"),
        (np.zeros(3, np.float32), r"got float32 \[3\]"),
        (np.zeros((4, 3), np.int16), r"got int16 \[4, 3\]"),
        (np.full((4, 3), np.nan, np.float16), "finite numbers, got nan or inf"),
        (np.array([{}]), "features are a .npy file, got another"),
    ],
)
def test_other_arrays_are_refused(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        read_features(tmp_path / "a.npy", 3)
    with (tmp_path / "a.npy").open("rb") as file, pytest.raises(ValueError, match=rf"a\.npy: .*{message}"):
        read_features(file, 3)


@pytest.mark.parametrize("data", [b"", b"RIFF", npy_of(np.zeros((3, 9), np.float32))[:-4]])
def test_other_files_are_refused(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match="a.npy: features are a .npy file, got another"):
        open_features(tmp_path / "a.npy", 3)
    with (tmp_path / "a.npy").open("rb") as file, pytest.raises(ValueError, match="a.npy: features are a .npy file"):
        open_features(file, 3)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"teacher": "x"}', '{"teacher": "x", "frame_rate": 12.5, "channels": 3}',
             '{"teacher": "x", "frame_rate": 50, "channels": 0}'],
)  # fmt: skip
def test_a_record_that_lacks_a_number_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match="has features.json, got none"):
        features_info(tmp_path)
    (tmp_path / "features.json").write_text(text)
    with pytest.raises(ValueError, match="frame_rate and channels"):
        features_info(tmp_path)
    (tmp_path / "features.json").write_text('{"teacher": "x", "frame_rate": 50, "channels": 3}')
    assert features_info(tmp_path) == ("x", 50, 3)


# -- distances ---------------------------------------------------------------------------------------------


def test_the_error_is_relative_to_the_spread_about_the_mean_frame():
    signal = features(2, 3, 50)
    assert relative_error(signal, signal) == 0 and cosine(signal, signal) == pytest.approx(1)
    mean = signal.mean(-1, keepdim=True).expand_as(signal)
    assert relative_error(mean, signal) == pytest.approx(1)
    assert relative_error(7 * mean + 3, 7 * signal + 3) == pytest.approx(1, rel=1e-4)
    halfway = (signal + mean) / 2
    assert relative_error(halfway, signal) == pytest.approx(0.5, rel=1e-4)
    assert cosine(2 * signal, signal) == pytest.approx(1) and cosine(-signal, signal) == pytest.approx(-1)
