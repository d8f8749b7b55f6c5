"""A language model as entropy coder: any tokens come back, at the size that it says, and only with itself."""

import json
import math
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.bitstream import BitstreamError, read_header
from sigtok.codecs.entropy.coder import EntropyCoder, Prior
from sigtok.codecs.files import (
    compress,
    decompress,
    decompress_chunks,
    decompress_part,
    decompress_rest,
    tokens_from_bytes,
    tokens_to_bytes,
)
from sigtok.codecs.language.folder import LanguageModel, save_language
from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.network import Shape, TokenTransformer
from sigtok.codecs.language.prior import TokenPrior, load_prior
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.shards import Meaning
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens

ROOT = Path(__file__).parents[2]
ID = bytes(range(16))
SOUND = CodecSpec(
    name="s", modality="audio", channels=1, sample_rate=8000, hop=(80,), windows=((2,), (3,)),
    codebook_sizes=(30, 12, 5), latent_dim=4, queries=2,
)  # fmt: skip
RATES = CodecSpec(
    name="r", modality="audio", channels=1, sample_rate=8000, hop=(80,), codebook_sizes=(9, 40), strides=(1, 2),
    latent_dim=4,
)  # fmt: skip
PICTURE = CodecSpec(
    name="p", modality="image", channels=3, sample_rate=None, hop=(8, 8), codebook_sizes=(9, 5), latent_dim=4
)
GRAINS = CodecSpec(
    name="g", modality="audio", channels=1, sample_rate=8000, hop=(10,), codebook_sizes=(16, 4), strides=(4, 2),
    windows=((8,),), queries=8, latent_dim=2, shares=(0.5, 0.5),
)  # fmt: skip
CASES = {
    "flatten": (SOUND, "flatten", Rate(codebooks=2)),
    "grouped": (SOUND, "grouped", Rate(window=(3,))),
    "query_order": (SOUND, "query_order", Rate(queries=1)),
    "hierarchical": (RATES, "hierarchical", Rate()),
    "raster": (PICTURE, "raster", Rate()),
    "picture": (PICTURE, "flatten", Rate(codebooks=1)),
}
EXTENT = (16, 24)


def prior_of(*arguments, **settings):
    return TokenPrior(model_of(*arguments, **settings))


def model_of(spec, layout, rate, scale=0.3):
    torch.manual_seed(0)
    meaning = Meaning(spec, spec.resolve(rate), ID.hex())
    language = Language(meaning, layout, EXTENT if spec is PICTURE else None)
    network = TokenTransformer(language.size, language.begin, Shape(dim=16, depth=2, heads=2, context=40))
    torch.nn.init.normal_(network.embed.weight, std=scale)
    return LanguageModel(language, network.eval())


def tokens_of(prior, extent, seed=0):
    spec, rate = prior.language.meaning.spec, prior.language.meaning.rate
    rng, counts = np.random.default_rng(seed), spec.token_counts(extent, rate)
    streams = tuple(
        torch.from_numpy(rng.integers(0, size, (1, count)))
        for size, count in zip(spec.codebook_sizes, counts, strict=False)
    )
    return Tokens(streams, (extent,), rate, spec)


def extents(name):
    return [EXTENT] if CASES[name][0] is PICTURE else [(0,), (1,), (161,), (3000,)]


def same(tokens, others):
    return all(map(torch.equal, tokens.streams, others.streams)) and tokens.extents == others.extents


@pytest.mark.parametrize("name", CASES)
def test_any_tokens_come_back_at_the_size_that_the_prior_says(name):
    prior = prior_of(*CASES[name])
    assert isinstance(prior, Prior) and isinstance(prior, EntropyCoder)
    for seed, extent in enumerate(extents(name)):
        tokens = tokens_of(prior, extent, seed)
        data = tokens_to_bytes(tokens, ID, prior)
        assert same(tokens_from_bytes(data, tokens.spec, ID, coder=prior), tokens)
        header, bits = read_header(data), prior.bits(tokens)
        assert (header.prior, header.profile) == (prior.fingerprint, "packet")
        grid = tuple(tokens.spec.grid(extent, tokens.rate)) if tokens.spec is PICTURE else None
        grid = grid or (tokens.spec.positions(extent, tokens.rate),)
        payload = prior.encode(tuple(stream[0].numpy() for stream in tokens.streams), grid)
        assert abs(8 * len(payload) - bits) <= 16  # zeros behind the last share are not written
        assert len(data) - len(payload) <= 28


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_what_a_signal_costs_is_its_cross_entropy_among_the_codes_that_may_stand(name):
    spec, layout, rate = CASES[name]
    model = model_of(spec, layout, rate, scale=0.05)
    prior, ids = TokenPrior(model), model.language.ids
    for seed, extent in enumerate(extents(name)[1:] or extents(name)):
        tokens = tokens_of(prior, extent, seed)
        whole = ids.to_ids(tokens)
        logits, nats, codes = model.network.double()(whole)[0], 0.0, 0
        for place in range(3, whole.shape[1] - 1):
            after = int(whole[0, place + 1])
            if after < model.language.num_codes:
                book = ids.vocabulary.codebook_of(after)
                first = ids.vocabulary.offsets[book]
                legal = logits[place, first : first + ids.vocabulary.codebook_sizes[book]]
                nats -= float(legal.log_softmax(0)[after - first])
                codes += 1
        assert codes == sum(spec.token_counts(extent, tokens.rate))
        assert abs(prior.bits(tokens) - nats / math.log(2)) < 0.05 * codes


@torch.no_grad()
def test_what_the_prior_would_say_is_small():
    model = model_of(*CASES["flatten"], scale=3.0)
    prior, ids = TokenPrior(model), model.language.ids
    said = ids.prompt()
    for step in range(sum(SOUND.token_counts((3000,), model.language.meaning.rate))):
        first, size = ids.vocabulary.offsets[step % 2], SOUND.codebook_sizes[step % 2]
        likeliest = model.network(said)[0, -1, first : first + size].argmax() + first
        said = torch.cat((said, likeliest[None, None]), 1)
    expected, other = ids.layout.from_ids(said[:, 4:], [(3000,)]), tokens_of(prior, (3000,))
    fixed = len(tokens_to_bytes(other, ID))
    assert len(tokens_to_bytes(expected, ID, prior)) < fixed / 2 < len(tokens_to_bytes(other, ID, prior))


@given(payload=some.binary(max_size=60), positions=some.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_refused_or_codes(payload, positions):
    prior = prior_of(*CASES["flatten"])
    try:
        codes = prior.decode(payload, (2 * positions,))
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert all(book.min() >= 0 and book.max() < size for book, size in zip(codes, (30, 12), strict=True) if len(book))
    assert prior.encode(codes, (2 * positions,)) == payload


def test_a_grid_that_the_payload_cannot_hold_is_refused_without_memory():
    prior = prior_of(*CASES["flatten"])
    with pytest.raises(ValueError, match="a payload of 3 bytes has 2560 codes at most, got a grid .* of 400000"):
        prior.decode(b"abc", (200_000,))
    with pytest.raises(ValueError, match="pieces of at most 262144 codes, got one of 400000"):
        prior.decode(bytes(1000), (200_000,))
    with pytest.raises(ValueError, match="whole windows of 2 positions, got 3"):
        prior.decode(b"abc", (3,))


def test_absent_codes_and_granularities_are_refused():
    prior = prior_of(SOUND, "elastic", Rate(codebooks=2))
    tokens = tokens_of(prior, (800,))
    assert same(tokens_from_bytes(tokens_to_bytes(tokens, ID, prior), SOUND, ID, coder=prior), tokens)
    for stream in tokens.streams:
        stream[0, -1] = -1
    with pytest.raises(ValueError, match=r"\(-1\) cannot be stored"):
        tokens_to_bytes(tokens, ID, prior)
    with pytest.raises(ValueError, match="g has several granularities, whose files have a coding of their own"):
        prior_of(GRAINS, "granularity_blocks", Rate())


# -- files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech():
    torch.manual_seed(0)
    arguments = dict(
        dim=32, heads=2, encoder_depth=1, decoder_depth=1, codebook_size=64, latent_dim=8, decoder_blocks=1
    )
    codec = query_speech(**arguments, codebooks=3, context=0.3).eval()
    codec.stream_id = stream_id(codec)
    rate = codec.spec.resolve(Rate(codebooks=2))
    language = Language(Meaning(codec.spec, rate, codec.stream_id.hex()), "flatten")
    network = TokenTransformer(language.size, language.begin, Shape(dim=16, depth=1, heads=2, context=30)).eval()
    return codec, rate, LanguageModel(language, network)


def test_a_sound_through_files_chunks_parts_and_what_is_left(speech, monkeypatch):
    codec, rate, model = speech
    prior = TokenPrior(model)
    monkeypatch.setattr("sigtok.codecs.plan.SECONDS", 1)
    signal = 0.1 * torch.randn(1, 1, 80_000, generator=torch.Generator().manual_seed(0))
    data = compress(codec, signal, rate, prior=prior)
    header = read_header(data)
    assert (header.profile, header.prior) == ("container", prior.fingerprint)
    expected = codec.decode(codec.encode(signal, rate))
    assert torch.equal(decompress(codec, data, prior=prior), expected)
    torch.testing.assert_close(torch.cat(list(decompress_chunks(codec, io(data), prior=prior)), -1), expected)
    part = decompress_part(codec, io(data), 1.0, 2.0, prior=prior)
    torch.testing.assert_close(part, expected[..., 24_000:48_000])
    damaged = bytearray(data)
    damaged[data.index(b"CHNK", data.index(b"CHNK") + 9) + 40] ^= 1
    _, missing = decompress_rest(codec, bytes(damaged), prior=prior)
    assert len(missing) == 1 and missing[0][0] > 0
    for end in (data.index(b"CHNK"), data.index(b"CHNK") + 20):
        with pytest.raises(BitstreamError, match="none of its chunks is whole, nothing is left"):
            decompress_rest(codec, data[:end], prior=prior)
    with pytest.raises(BitstreamError, match=f"fingerprint {prior.fingerprint:08x}, got none"):
        decompress(codec, data)


def io(data):
    from io import BytesIO

    return BytesIO(data)


def test_other_tokens_are_refused(speech):
    codec, rate, model = speech
    prior = TokenPrior(model)
    signal = torch.zeros(1, 1, 4000)
    with pytest.raises(ValueError, match="the prior is of tokens at .*encode at its rate"):
        compress(codec, signal, prior=prior)
    with pytest.raises(ValueError, match="a prior is a coding by itself, got 'adaptive' too"):
        compress(codec, signal, rate, coding="adaptive", prior=prior)
    other = tokens_of(prior_of(*CASES["flatten"]), (800,))
    with pytest.raises(ValueError, match="the prior is of tokens of .*got those of s"):
        tokens_to_bytes(other, ID, prior)
    picture = prior_of(*CASES["picture"])
    with pytest.raises(ValueError, match=r"the prior is of pictures of \(16, 24\)"):
        tokens_to_bytes(tokens_of(picture, (16, 16)), ID, picture)


def test_long_signals_take_no_more_memory_than_the_network_sees(speech):
    _, _, model = speech
    prior = TokenPrior(model)
    memory = prior._network.memory(10**9)
    for _ in range(50):
        prior._network.read(np.zeros(100, np.int64), memory)
    assert memory.count == 5000 and memory.kept.nbytes + memory.table.nbytes < 10**6


def test_a_language_of_absurd_sizes_is_refused_at_once(speech):
    _, _, model = speech
    spec = replace(model.language.meaning.spec, queries=2**70)
    with pytest.raises(ValueError, match="a language has at most 16777216 ids"):
        Language(Meaning(spec, spec.resolve(), "0" * 32), "flatten")


def test_a_prior_of_other_weights_or_meaning_is_another(speech):
    _, _, model = speech
    prior = TokenPrior(model)
    weights = {name: value.clone() for name, value in model.network.state_dict().items()}
    weights["blocks.0.up.weight"][0, 0] += 0.01
    network = TokenTransformer(model.language.size, model.language.begin, model.network.shape)
    network.load_state_dict(weights)
    changed = LanguageModel(model.language, network.eval())
    assert len({TokenPrior(changed).fingerprint, prior.fingerprint, prior_of(*CASES["flatten"]).fingerprint}) == 3
    other = TokenTransformer(model.language.size, model.language.begin, replace(model.network.shape, context=2000))
    other.load_state_dict(model.network.state_dict())  # sees more, where a signal is long
    assert TokenPrior(LanguageModel(model.language, other.eval())).fingerprint != prior.fingerprint
    grouped = LanguageModel(Language(model.language.meaning, "grouped"), model.network)
    assert TokenPrior(grouped).fingerprint != prior.fingerprint == TokenPrior(model).fingerprint


CODE = """
import json, sys, numpy as np
from sigtok.codecs.language.prior import load_prior
prior, codes = load_prior(sys.argv[1]), tuple(np.load(sys.argv[2]))
print(json.dumps([prior.fingerprint, prior.encode(codes, (len(codes[0]),)).hex()]))
"""


@pytest.mark.parametrize(
    "machine",
    [{"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}, {"OPENBLAS_CORETYPE": "Prescott", "OMP_NUM_THREADS": "2"}],
    ids=["one", "two", "old"],
)
def test_another_process_writes_the_same_bytes(tmp_path, speech, machine):
    _, _, model = speech
    save_language(model, tmp_path / "lm", licence="", training_data="", measured={})
    prior, codes = load_prior(tmp_path / "lm"), np.random.default_rng(0).integers(0, 64, (2, 500))
    np.save(tmp_path / "codes.npy", codes)
    line = [sys.executable, "-c", CODE, str(tmp_path / "lm"), str(tmp_path / "codes.npy")]
    done = subprocess.run(line, cwd=ROOT, env={**os.environ, **machine}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [prior.fingerprint, prior.encode(tuple(codes), (500,)).hex()]


def test_memory_is_of_what_is_read_at_once():
    """Shares of all ids at all places at once would be 20 MB here."""
    prior = prior_of(replace(SOUND, codebook_sizes=(2000,), strides=()), "flatten", Rate())
    tokens = tokens_of(prior, (50_000,))
    prior.fingerprint  # noqa: B018 - computed before
    tracemalloc.start()
    tokens_to_bytes(tokens, ID, prior)
    assert tracemalloc.get_traced_memory()[1] < 6e6
    tracemalloc.stop()
