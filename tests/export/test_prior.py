"""Files with a prior from the command line: smaller or not, they are read with it alone, and mistakes cost a line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.bitstream import read_header
from sigtok.codecs.language.folder import LanguageModel, save_language
from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.network import Shape, TokenTransformer
from sigtok.codecs.media import write_audio
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.shards import Meaning
from sigtok.codecs.spec import Rate

SPEECH = dict(dim=16, heads=2, encoder_depth=1, decoder_depth=1, codebook_size=64, latent_dim=8, decoder_blocks=1,
              codebooks=3, context=0.3, sample_rate=8000, frame_hop=40, frame_size=120, name="tiny_speech")  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a codec, two priors of its tokens at 2 codebooks, and a sound."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    words = {"licence": "CC0", "training_data": "none", "measured": {}, "card": ""}
    save(query_speech(**SPEECH), "codec", builder="query_speech", arguments=SPEECH, **words)
    codec = load("codec")
    meaning = Meaning(codec.spec, codec.spec.resolve(Rate(codebooks=2)), codec.stream_id.hex())
    language = Language(meaning, "flatten")
    for name in ("lm", "other"):
        network = TokenTransformer(language.size, language.begin, Shape(dim=16, depth=1, heads=1, context=64))
        save_language(LanguageModel(language, network), name, licence="CC0", training_data="none", measured={})
    write_audio("a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (1, 20_000)).astype(np.float32), 8000)
    return tmp_path


def test_a_file_with_a_prior_is_the_file_without(here, run):
    """The rate is the prior's, where none is asked for; what is decoded is the same."""
    assert run("encode", "a.wav", "-m", "codec", "--prior", "lm", "-o", "a.sgt")[0] == 0
    assert run("encode", "a.wav", "-m", "codec", "--codebooks", 2, "-o", "plain.sgt")[0] == 0
    header = read_header(Path("a.sgt").read_bytes())
    assert header.coding == 4 and header.rate.codebooks == 2
    assert run("decode", "a.sgt", "-m", "codec", "--prior", "lm", "-o", "a_again.wav")[0] == 0
    assert run("decode", "plain.sgt", "-m", "codec", "-o", "plain.wav")[0] == 0
    assert Path("a_again.wav").read_bytes() == Path("plain.wav").read_bytes()
    part = ("--from", 0.5, "--to", 1, "-m", "codec")
    assert run("decode", "a.sgt", "--prior", "lm", "-o", "part.wav", *part)[0] == 0
    assert run("decode", "plain.sgt", "-o", "plain_part.wav", *part)[0] == 0
    assert Path("part.wav").read_bytes() == Path("plain_part.wav").read_bytes()
    code, said, _ = run("tokens", "a.sgt", "-m", "codec", "--prior", "lm")
    assert code == 0 and json.loads(said)["codes"] == json.loads(run("tokens", "plain.sgt", "-m", "codec")[1])["codes"]


def test_without_its_prior_a_file_is_not_read_and_it_is_said(here, run):
    assert run("encode", "a.wav", "-m", "codec", "--prior", "lm", "-o", "a.sgt")[0] == 0
    fingerprint = f"{read_header(Path('a.sgt').read_bytes()).prior:08x}"
    for words in ((), ("--prior", "other")):
        code, _, err = run("decode", "a.sgt", "-m", "codec", "-o", "a_again.wav", *words)
        assert code == 65 and fingerprint in err[0] and len(err) == 1
    code, out, _ = run("verify", "a.sgt", "-m", "codec")
    assert code == 2 and out.startswith("NOT SEEN: a.sgt")
    assert f"of prior {fingerprint}, name it with --prior to check the rest" in out
    code, out, _ = run("verify", "a.sgt", "-m", "codec", "--prior", "lm")
    assert code == 0 and out.startswith("OK: a.sgt")
    code, out, _ = run("info", "a.sgt", "-m", "codec", "--json")
    said = json.loads(out)
    assert code == 0 and (said["coding"], said["prior"], said["checked"]) == ("prior", fingerprint, False)
    assert said["seconds"] == 2.5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--prior", "nowhere"), "nowhere: a prior is a folder, got none"),
        (("--prior", "codec"), "codec: a language model has a file lm.json"),
        (("--prior", "lm", "--codebooks", 1), "--prior: the prior is of tokens at"),
        (("--prior", "lm", "--coding", "adaptive"), "--prior is a coding by itself, got --coding adaptive too"),
        (("--prior", "lm", "--target-kbps", 1), "targets count files of --coding fixed, got --prior"),
    ],
)
def test_mistakes_cost_a_line(here, run, words, says):
    code, _, err = run("encode", "a.wav", "-m", "codec", "-o", "a.sgt", *words)
    assert code in (2, 65) and says in err[0] and len(err) == 1 and not Path("a.sgt").exists()


def test_files_with_a_prior_are_measured_and_measured_again(here, run):
    assert run("evaluate", "codec", "a.wav", "--prior", "lm", "--json", "r.json")[0] == 0
    record = json.loads(Path("r.json").read_text())
    assert run("encode", "a.wav", "-m", "codec", "--prior", "lm", "-o", "a.sgt")[0] == 0
    data = Path("a.sgt").read_bytes()
    assert record["rates"][0]["bytes"] == len(data) and record["rates"][0]["codebooks"] == 2
    assert record["protocol"]["prior"] == f"{read_header(data).prior:08x}"
    assert run("evaluate", "codec", "--protocol", "r.json", "--prior", "lm")[0] == 0
    for words, says in (((), "got none"), (("--prior", "other"), "got ")):
        code, _, err = run("evaluate", "codec", "--protocol", "r.json", *words)
        assert code == 2 and "the fingerprint of --prior is" in err[0] and says in err[0]
    code, _, err = run("evaluate", "codec", "a.wav", "--prior", "lm", "--codebooks", "1,2")
    assert code == 2 and "the prior is of tokens at" in err[0]
    code, _, err = run("evaluate", "codec", "a.wav", "--prior", "lm", "--sweep")
    assert code == 2 and "--sweep takes every rung, got --prior as well" in err[0]
