"""Laws of the voice codec: what its latents say, that it is a vocoder before it is trained, that it saves and loads."""

import math

import pytest
import torch

from sigtok.codecs.audio.models import query_voice
from sigtok.codecs.audio.voice import GAINS, LAG, VoiceCode, cosines
from sigtok.codecs.audio.voice_front import QUIET, VoiceFront, mel_bands
from sigtok.codecs.metrics.pitch import pitch

RATE, SIZE, HOP, STACK = 24_000, 960, 320, 3
WHOLE = (8,) * 6  # all cepstra of 8 bands in 6 frames


def code(cepstra=WHOLE, learned=2):
    return VoiceCode(8, 6, cepstra, learned)


@pytest.mark.parametrize("count", [1, 2, 6, 40])
def test_cosines_are_orthonormal(count):
    torch.testing.assert_close(cosines(count) @ cosines(count).mT, torch.eye(count), atol=1e-5, rtol=0)


def test_all_cepstra_say_all_bands_and_few_say_a_smooth_envelope():
    bands = torch.randn(2, 3, 6, 8)
    level = torch.zeros(2, 3, 6)
    torch.testing.assert_close(code().bands(code()(bands, level, level)), bands, atol=1e-5, rtol=0)
    few = code((3, 1))
    said = few.bands(few(bands, level, level))
    torch.testing.assert_close(few.bands(few(said, level, level)), said, atol=1e-5, rtol=0)
    assert float((said - bands).square().sum()) < float(bands.square().sum())
    constant = torch.full((1, 1, 6, 8), -3.0)
    torch.testing.assert_close(few.bands(few(constant, level[:1, :1], level[:1, :1])), constant, atol=1e-5, rtol=0)


def test_an_error_of_latents_is_an_error_of_log_energies():
    """The squared errors are equal, because rows are orthonormal."""
    latents = torch.randn(1, 4, code().dim)
    error = torch.randn(1, 4, code().cepstra)
    changed = latents.clone()
    changed[..., : code().cepstra] += error
    moved = code().bands(changed) - code().bands(latents)
    assert float(moved.square().sum()) == pytest.approx(float(error.square().sum()), rel=1e-4)


def test_a_voiced_contour_comes_back_a_frame_ahead():
    octaves = 0.3 + 0.1 * torch.linspace(-1, 1, 6)[None, None] ** 2
    found = code().octaves(code()(torch.zeros(1, 1, 6, 8), octaves, torch.ones(1, 1, 6)))
    torch.testing.assert_close(found[..., :-LAG], octaves[..., LAG:].double(), atol=5e-3, rtol=0)
    assert float(found[0, 0, -1]) == pytest.approx(float(octaves[0, 0, -1]), abs=5e-3)


def test_frames_without_a_voice_and_wrong_octaves_are_level():
    octaves, periodic = torch.full((1, 1, 6), 0.2), torch.ones(1, 1, 6)
    bands = torch.zeros(1, 1, 6, 8)
    steady = code()(bands, octaves, periodic)
    octaves[..., 2] += 1
    torch.testing.assert_close(code()(bands, octaves, periodic), steady, atol=0.05 * GAINS[0], rtol=0)
    periodic[..., 2] = 0.2
    torch.testing.assert_close(code()(bands, octaves, periodic), steady, atol=0.02 * GAINS[0], rtol=0)
    assert not code()(bands, octaves, torch.zeros(1, 1, 6)).any()


def test_more_cepstra_than_bands_are_refused():
    with pytest.raises(ValueError, match="6 frames of 8 bands have fewer cepstra"):
        code((9,))
    with pytest.raises(ValueError, match="6 frames of 8 bands have fewer cepstra"):
        code((1,) * 7)


@pytest.mark.parametrize("bands", [8, 40, 64])
def test_mel_bands_average_power_and_a_flat_spectrum_comes_back(bands):
    average, back = mel_bands(SIZE, bands, RATE)
    torch.testing.assert_close(average.sum(0), torch.ones(bands), atol=1e-5, rtol=0)
    torch.testing.assert_close(back.sum(0), torch.ones(SIZE // 2 + 1), atol=1e-5, rtol=0)
    assert (average >= 0).all() and (back >= 0).all()


def test_the_front_hears_level_pitch_and_voice():
    front = VoiceFront(SIZE, HOP, STACK, 16, 40, RATE)
    torch.manual_seed(0)
    noise = 0.1 * torch.randn(1, 1, 90 * HOP)
    (positions, bands, _, periodic), _ = front(noise, front.initial_state(1))
    assert positions.shape == (1, 30, 16) and bands.shape == (1, 90, 40)
    assert float(bands[:, 4:, 10:].exp().mean()) == pytest.approx(0.01, rel=0.1) and float(periodic[:, 4:].mean()) < 0.5
    (_, bands, _, _), _ = front(torch.zeros(1, 1, 9 * HOP), front.initial_state(1))
    torch.testing.assert_close(bands, torch.full_like(bands, math.log(QUIET)))
    turns = torch.arange(90 * HOP) * 140 / RATE
    voice = 0.05 * sum(torch.cos(2 * math.pi * h * turns) for h in range(1, 20))
    (_, _, octaves, periodic), _ = front(voice[None, None], front.initial_state(1))
    wanted = math.log2(140 / (55 * 500) ** 0.5)
    assert float((octaves[0, 4:] - wanted).abs().max()) < 0.02 and float(periodic[0, 4:].min()) > 0.9


def test_an_untrained_codec_is_a_vocoder():
    """Before any training, and without codes, a voice comes back at its pitch and about as loud."""
    torch.manual_seed(0)
    codec = query_voice(encoder_depth=1, decoder_depth=1, decoder_blocks=1, dim=64).eval()
    turns = torch.cumsum(180 * torch.exp2(0.2 * torch.sin(torch.arange(96_000) / 9000)).double() / RATE, 0)
    voice = (0.03 * sum(torch.cos(2 * math.pi * h * turns + h * h) / h**0.5 for h in range(1, 40))).float()[None, None]
    voice = voice[..., : 96_000 // 1920 * 1920]
    with torch.no_grad():
        heard = codec(voice, quantize=False).signal
    wanted, voiced = pitch(voice[:, 0], RATE, HOP)
    found, again = pitch(heard[:, 0], RATE, HOP)
    both = (voiced & again)[0, 10:-10]
    assert float(both.float().mean()) > 0.9
    assert float(1200 * torch.log2(found / wanted)[0, 10:-10][both].abs().median()) < 20
    assert 0.5 < float(heard.std() / voice.std()) < 2
