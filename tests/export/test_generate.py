"""New signals are legal, decode, are a function of the seed, and mistakes are told in a line."""

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.image.models import query_image
from sigtok.codecs.language.folder import LanguageModel, save_language
from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.network import Shape, TokenTransformer
from sigtok.codecs.media import read_audio, read_image, write_audio
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.shards import Meaning
from sigtok.codecs.spec import Rate
from sigtok.export import generate
from sigtok.export.cli import main

TINY = dict(dim=32, heads=2, encoder_depth=1, decoder_depth=1, codebook_size=64, latent_dim=8)
SPEECH = dict(TINY, decoder_blocks=1, codebooks=3, context=0.3)
PICTURES = dict(TINY, levels=1, tile=4, queries=16)


def saved(codec, folder, builder, arguments):
    torch.manual_seed(0)
    words = {"licence": "CC0", "training_data": "none", "measured": {}, "card": ""}
    save(codec, folder, builder=builder, arguments=arguments, **words)
    return load(folder)


def language_model(codec, folder, layout="flatten", extent=None, rate=None):
    torch.manual_seed(0)
    language = Language(Meaning(codec.spec, codec.spec.resolve(rate), codec.stream_id.hex()), layout, extent)
    network = TokenTransformer(language.size, language.begin, Shape(dim=16, depth=1, heads=1, context=64))
    save_language(LanguageModel(language, network), folder, licence="CC0", training_data="none", measured={})
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of codecs and language models."""
    root = tmp_path_factory.mktemp("models")
    speech = saved(query_speech(**SPEECH), root / "speech", "query_speech", SPEECH)
    pictures = saved(query_image(**PICTURES), root / "pictures", "query_image", PICTURES)
    language_model(speech, root / "speech_lm", rate=Rate(codebooks=2))
    language_model(speech, root / "grouped_lm", layout="grouped")
    language_model(pictures, root / "pictures_lm", extent=(17, 24))
    language_model(load("speech_24khz"), root / "bundled_lm", rate=Rate(codebooks=1))
    return root


def run(*words):
    return main(["generate", *map(str, words)])


def spoken(models, out, *words):
    assert run(models / "speech_lm", "--codec", models / "speech", "-o", out, *words) == 0
    return read_audio(out)[0]


def test_a_sound_has_the_length_asked_for(models, tmp_path):
    sound = spoken(models, tmp_path / "new.wav", "--seconds", 1.3)
    assert sound.shape == (1, round(1.3 * 24_000)) and np.isfinite(sound).all()


def test_a_seed_gives_one_sound_and_another_gives_another(models, tmp_path):
    first, again, other = (
        spoken(models, tmp_path / f"{name}.wav", "--seconds", 1, "--seed", seed)
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_several_sounds_go_into_a_folder_and_the_first_is_the_one_of_its_seed(models, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "TOGETHER", 2)
    words = [models / "speech_lm", "--codec", models / "speech", "-o", tmp_path / "many", "--seconds", 0.5]
    assert run(*words, "-n", 3) == 0
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert names == ["000.wav", "001.wav", "002.wav"]
    sounds = [read_audio(tmp_path / "many" / name)[0] for name in names]
    assert not np.array_equal(sounds[0], sounds[1])
    assert np.array_equal(sounds[0], spoken(models, tmp_path / "one.wav", "--seconds", 0.5))


def test_a_sound_that_does_not_end_is_cut_and_it_is_told(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "LONGEST", 0.6)
    (step,) = load(models / "speech").spec.step()
    samples = spoken(models, tmp_path / "new.wav").shape[1]
    assert 0 < samples < 0.6 * 24_000 + step and samples % step == 0
    assert "did not end within 0.6 s" in capsys.readouterr().err


def test_a_prompt_is_gone_on_from(models, tmp_path):
    codec, rate = load(models / "speech"), Rate(codebooks=2)
    time = np.arange(30_000) / 24_000
    write_audio(tmp_path / "prompt.wav", 0.3 * np.sin(2 * np.pi * 200 * time)[None].astype(np.float32), 24_000)
    words = ["--prompt", tmp_path / "prompt.wav", "--prompt-seconds", 1]
    sound = spoken(models, tmp_path / "new.wav", "--seconds", 2, *words)
    (step,) = codec.spec.step(codec.spec.resolve(rate))
    whole = 24_000 // step * step
    begun = torch.from_numpy(read_audio(tmp_path / "prompt.wav")[0])[None, :, :whole]
    wanted = codec.decode(codec.encode(begun, rate))[0].numpy()
    assert sound.shape == (1, 48_000)
    heard = whole - 2 * step  # what comes later may change the end
    assert np.abs(sound[:, :heard] - wanted.clip(-1, 1)[:, :heard]).max() < 1e-3


def test_pictures_have_the_extent_that_was_learned(models, tmp_path):
    words = [models / "pictures_lm", "--codec", models / "pictures", "-o", tmp_path / "new.png"]
    assert run(*words, "--temperature", 0) == 0
    assert read_image(tmp_path / "new.png").shape == (3, 17, 24)


def test_the_bundled_codec_is_found_by_its_identity(models, tmp_path):
    assert run(models / "bundled_lm", "-o", tmp_path / "new.wav", "--seconds", 0.5) == 0
    assert read_audio(tmp_path / "new.wav")[0].shape == (1, 12_000)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 2, "nowhere: a language model is a folder, got none"),
        (["speech"], 65, "got none in"),
        (["speech_lm"], 2, "none of the bundled; name its folder with --codec"),
        (["speech_lm", "--codec", "speech_24khz"], 2, "--codec speech_24khz: the tokens are of model"),
        (["speech_lm", "--prompt-seconds", "1"], 2, "cuts a prompt, got none"),
        (["speech_lm", "--codec", "speech", "--prompt", "absent.wav"], 2, "absent.wav: there is no such file"),
        (["grouped_lm", "--codec", "speech"], 2, "got no length; set --seconds"),
        (["pictures_lm", "--codec", "pictures", "--seconds", "1"], 2, "--seconds is of sounds"),
        (["pictures_lm", "--codec", "pictures", "--prompt", "x.wav"], 2, "--prompt is the beginning of a sound"),
    ],
)
def test_mistakes_end_in_a_line(words, code, said, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(models)
    out = tmp_path / ("new.png" if "pictures_lm" in words else "new.wav")
    assert run(*words, "-o", out) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--temperature", "-1"], "a temperature is 0 or more"),
        (["--seed", "-1"], "a seed is 0 to"),
        (["--top-k", "0"], "a count is 1 or more"),
    ],
)
def test_numbers_out_of_range_are_told(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        run("lm", "-o", "x.wav", *words)
    assert stop.value.code == 2 and said in capsys.readouterr().err
