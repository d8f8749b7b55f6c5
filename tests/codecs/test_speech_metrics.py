"""Metrics of speech by packages and networks: against slow references, known figures, and what each refuses."""

import functools
import importlib.util
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from sigtok.codecs.media import read_audio
from sigtok.codecs.metrics import speaker
from sigtok.codecs.metrics.itu import pesq_wideband
from sigtok.codecs.metrics.mel import mel_power
from sigtok.codecs.metrics.neurograms import ViSQOL
from sigtok.codecs.metrics.opinion import DNSMOS, DistillMOS, decibels
from sigtok.codecs.metrics.pairs import voices
from sigtok.codecs.metrics.speaker import SpeakerEncoder, excerpts, load_speaker_encoder, speaker_similarity
from sigtok.codecs.metrics.words import Transcript, Whisper, edits, word_error_rate

RATE = 16_000
SPEECH = Path(__file__).parents[2] / "demo/input/speech.flac"


@functools.cache
def speech():
    return torch.from_numpy(read_audio(SPEECH)[0])[None]


def noise(signal, scale, seed=0):
    return scale * torch.randn(signal.shape, generator=torch.Generator().manual_seed(seed))


def inside(package, file):
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0], file)


def test_voices_are_channels_of_all_items_at_the_rate_asked_for():
    signal = noise(torch.zeros(2, 3, 800), 0.1)
    assert voices(signal, RATE, RATE).shape == (6, 800) and voices(signal, 8000, RATE).shape == (6, 1600)
    assert np.array_equal(voices(signal, RATE, RATE)[4], signal[1, 1].numpy())


# -- spectrograms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window, bands", [(321, 120), (400, 40)])
def test_mel_power_is_a_sum_over_frames_bins_and_triangles(window, bands):
    """By the book: Slaney's scale, triangles between neighbours' centres, their area 1, zeros beyond the edges."""
    signal, hop = noise(torch.zeros(2000), 0.3), 160
    top = 15 + 27 * math.log(8) / math.log(6.4)  # mel of 8 kHz
    mels = [top * place / (bands + 1) for place in range(bands + 2)]
    edges = [mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27) for mel in mels]
    padded = np.pad(signal.numpy().astype(np.float64), window // 2)
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = [padded[start : start + window] * taper for start in range(0, len(padded) - window + 1, hop)]
    power = np.abs(np.fft.rfft(np.array(frames))) ** 2
    expected = np.zeros((bands, len(frames)))
    for band in range(bands):
        left, centre, right = edges[band : band + 3]
        for place in range(window // 2 + 1):
            hertz = place * RATE / window
            height = min((hertz - left) / (centre - left), (right - hertz) / (right - centre))
            expected[band] += max(0, height) * 2 / (right - left) * power[:, place]
    np.testing.assert_allclose(mel_power(signal, RATE, window, hop, bands).numpy(), expected, rtol=2e-4, atol=1e-9)


def test_decibels_end_at_80_below_the_loudest():
    found = decibels(torch.cat((speech()[0, 0], torch.zeros(3000))))
    assert found.shape[0] == 120 and found.max() == 1 and found.min() == -1


# -- PESQ ------------------------------------------------------------------------------------------------------


def test_pesq_of_a_long_sound_is_the_mean_of_equal_pieces():
    pytest.importorskip("pesq")
    clean = speech().repeat(1, 1, 5)[..., : 20 * RATE]
    coded = clean + noise(clean, 0.003)
    halves = [
        pesq_wideband(coded[..., part], clean[..., part], RATE) for part in (slice(160_000), slice(160_000, None))
    ]
    assert pesq_wideband(coded, clean, RATE) == pytest.approx(np.mean(halves)) and halves[0] != halves[1]


def test_pesq_survives_more_utterances_than_its_tables_hold():
    """The reference code ends the process: so another one is put at risk."""
    pytest.importorskip("pesq")
    code = f"""
import torch
from sigtok.codecs.media import read_audio
from sigtok.codecs.metrics.itu import pesq_wideband
word = torch.from_numpy(read_audio({str(SPEECH)!r})[0])[None, :, 16000:24000]
clean = torch.cat((word, torch.zeros(1, 1, 8000)), -1).repeat(1, 1, 60)
print(pesq_wideband(clean, clean, 16000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) == pytest.approx(4.644, abs=1e-3)


def test_pieces_in_which_nobody_speaks_do_not_count():
    pytest.importorskip("pesq")
    clean = torch.cat((speech()[..., :64_000], torch.zeros(1, 1, 448_000)), -1)  # the last of three is silent
    assert pesq_wideband(clean, clean, RATE) == pytest.approx(4.644, abs=1e-3)


@pytest.mark.parametrize(
    "clean, coded, message",
    [
        (torch.zeros(1, 1, 16_000), torch.zeros(1, 1, 16_000) + 0.1, "hears no utterance in the reference"),
        (torch.ones(1, 1, 3000), torch.ones(1, 1, 3000), r"needs 0\.25 s of speech, got 0\.19 s"),
        (torch.ones(1, 1, 16_000), torch.zeros(1, 1, 16_000), "the reconstruction is silent"),
    ],
)
def test_pesq_says_why_not(clean, coded, message):
    pytest.importorskip("pesq")
    with pytest.raises(ValueError, match=message):
        pesq_wideband(coded, clean, RATE)


def test_pairs_have_one_shape():
    pair = torch.ones(1, 1, 8000), torch.ones(1, 1, 8001)
    for measure in (
        pesq_wideband,
        functools.partial(word_error_rate, Ear()),
        functools.partial(speaker_similarity, SpeakerEncoder()),
    ):
        with pytest.raises((ValueError, TypeCheckError)):
            measure(*pair, RATE)


# -- opinions --------------------------------------------------------------------------------------------------


def test_distillmos_is_that_of_its_package_at_any_length():
    package = pytest.importorskip("distillmos")
    theirs, ours = package.ConvTransformerSQAModel().eval(), DistillMOS()
    assert ours(speech(), RATE) == pytest.approx(4.1006, abs=2e-3)
    long = speech().repeat(1, 1, 2)[..., :130_000]  # two crops
    with torch.no_grad():
        assert ours(long, RATE) == pytest.approx(theirs(long[0]).item(), abs=1e-4)


def test_dnsmos_is_that_of_its_package():
    """The figures are those of speechmos 0.0.1.1 with librosa 0.11."""
    ours = DNSMOS(inside("speechmos", "dnsmos_models/model_v8.onnx"))
    assert ours(speech(), RATE) == pytest.approx(3.66699, abs=1e-3)
    assert ours(speech().repeat(1, 1, 3), RATE) == pytest.approx(3.62725, abs=1e-3)  # five excerpts
    with pytest.raises(ValueError, match="needs a sample"):
        ours(speech()[..., :0], RATE)


# -- speakers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [0, 1, 9000, 25_600, 30_000, 79_360, 238_080])
def test_excerpts_cover_a_sound_but_for_a_rest_that_is_short(samples):
    starts = excerpts(samples)
    assert starts[0] == 0 and all(after - before == 77 for before, after in pairwise(starts))
    covered = [(samples / 160 - start) / 160 for start in starts]
    assert len(starts) == 1 or min(covered) >= 0.75
    assert (samples / 160 - starts[-1] - 77) / 160 < 0.75  # one more would have too little


def test_an_embedding_has_length_1_and_hears_no_volume_below_30_db():
    encoder, voice = SpeakerEncoder().eval(), speech()[0, 0, :30_000]
    loud, quiet = encoder.embedding(0.1 * voice), encoder.embedding(0.01 * voice)
    assert loud.shape == (256,) and loud.norm().item() == pytest.approx(1) and loud.min() >= 0
    torch.testing.assert_close(loud, quiet, atol=1e-5, rtol=1e-4)
    assert encoder.embedding(torch.zeros(20_000)).isfinite().all()


def test_the_encoder_is_resemblyzers():
    """The figures are those of Resemblyzer 0.1.4 with librosa 0.11, its detector of speech left out."""
    encoder = load_speaker_encoder(inside("resemblyzer", "pretrained.pt"))
    found = encoder.embedding(speech()[0, 0])
    assert found.argmax() == 173 and found.sort().values[-3:].tolist() == pytest.approx(
        [0.1901, 0.2091, 0.2407], abs=1e-3
    )
    assert speaker_similarity(encoder, speech(), speech(), RATE) == pytest.approx(1)


def test_other_weights_of_a_speaker_encoder_are_refused(tmp_path):
    torch.save({"model_state": {"lstm": torch.zeros(2)}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: weights of GE2E are Resemblyzer's pretrained\.pt"):
        load_speaker_encoder(tmp_path / "a.pt")


def test_weights_of_a_speaker_encoder_come_back(tmp_path):
    encoder = SpeakerEncoder()
    torch.save({"model_state": {**encoder.state_dict(), "similarity_weight": torch.ones(1)}}, tmp_path / "a.pt")
    again = load_speaker_encoder(tmp_path / "a.pt")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_similarity_falls_with_the_voice(monkeypatch):
    monkeypatch.setattr(speaker.SpeakerEncoder, "embedding", lambda self, voice: voice[:2])
    pair = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    assert speaker_similarity(SpeakerEncoder(), *pair, RATE) == pytest.approx((1 + 0.6) / 2)


# -- words -----------------------------------------------------------------------------------------------------


class Ear(Whisper):
    """A sound's first samples say how many words are heard, and how many of them are wrong."""

    def __init__(self):
        self.languages, self.kept = [], {}

    def __call__(self, voice, language=None):
        self.languages.append(language)
        words, wrong = round(float(voice[0]) * 100), round(float(voice[1]) * 100)
        return Transcript(("other",) * wrong + ("word",) * (words - wrong), "de")


def sound(*hundredths):
    return torch.tensor([[[words / 100, wrong / 100, 0.0] for words, wrong in hundredths]])


@functools.cache
def distance(some, others):
    if not some or not others:
        return len(some) + len(others)
    if some[-1] == others[-1]:
        return distance(some[:-1], others[:-1])
    return 1 + min(distance(some[:-1], others), distance(some, others[:-1]), distance(some[:-1], others[:-1]))


def test_edits_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    for _ in range(200):
        pair = ["".join(rng.choice(list("abc"), rng.integers(0, 7))) for _ in range(2)]
        assert edits(*pair) == distance(*pair) == edits(*reversed(pair))


@pytest.mark.parametrize("heard, rate", [((8, 0), 0), ((8, 2), 0.25), ((6, 0), 0.25), ((10, 2), 0.25), ((90, 90), 1)])
def test_word_error_rate_counts_words_of_the_reference_and_ends_at_1(heard, rate):
    assert word_error_rate(Ear(), sound(heard), sound((8, 0)), RATE) == rate


def test_word_error_rate_is_a_mean_over_channels_in_the_language_of_the_reference():
    ear = Ear()
    assert word_error_rate(ear, sound((8, 2), (8, 4)), sound((8, 0), (4, 0)), RATE) == (0.25 + 1) / 2
    assert ear.languages == [None, "de", None, "de"]


def test_a_reference_is_heard_once():
    ear = Ear()
    for wrong in range(3):
        word_error_rate(ear, sound((8, wrong)), sound((8, 0)), RATE)
    assert ear.languages == [None, "de", "de"]  # and what is equal to it not at all
    for words in range(1, 80):
        word_error_rate(ear, sound((words, 0)), sound((words, 0)), RATE)
    assert len(ear.kept) == 64


def test_a_reference_without_a_word_is_refused():
    with pytest.raises(ValueError, match="hears no word in the reference"):
        word_error_rate(Ear(), sound((8, 0)), sound((0, 0)), RATE)


def test_other_weights_of_whisper_are_refused(tmp_path):
    pytest.importorskip("whisper")
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    for name, reason in (("a.pt", "is no checkpoint of Whisper"), ("b.pt", "are a file, got none there")):
        with pytest.raises(ValueError, match=rf"{name}: .*{reason}"):
            Whisper(tmp_path / name)


# -- music -----------------------------------------------------------------------------------------------------


def test_visqol_says_why_not():
    pytest.importorskip("visqol")
    judge = ViSQOL()
    with pytest.raises(ValueError, match=r"needs 1 s, got 0\.50 s"):
        judge(speech()[..., :8000], speech()[..., :8000], RATE)
    with pytest.raises(ValueError, match="the reconstruction is silent"):
        judge(torch.zeros_like(speech()), speech(), RATE)
