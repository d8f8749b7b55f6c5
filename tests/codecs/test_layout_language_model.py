"""A tiny random language model, with a tokenizer made in memory, learns the codec's ids and says only legal ones."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from sigtok.codecs.layouts.language_model import LegalIds, ModelIds, add_to_tokenizer, resize, token_names
from sigtok.codecs.layouts.names import LAYOUTS, layout
from sigtok.codecs.layouts.vocabulary import Vocabulary
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens

WORDS = ("<unk>", "say", "a", "word", "slowly")
STREAMS = sorted(name for name in LAYOUTS if name in ("flatten", "grouped", "hierarchical", "elastic"))
EVERY = pytest.mark.parametrize("name", STREAMS)
PICTURES = {
    "granularity_blocks": {"windows": ((2, 2),), "queries": 4, "strides": (4, 2, 1), "shares": (0.2, 0.3, 0.5)},
    "query_order": {"windows": ((2, 2),), "queries": 3},
    "raster": {"windows": ((2, 2),), "queries": 4},
    "scale_wise": {"windows": ((3, 3),), "queries": 9, "strides": (9, Fraction(9, 4), 1)},
}


def spec_of(name, **fields):
    strides = (4, 2, 1) if name == "hierarchical" else (1, 1, 1)
    values = dict(name="toy", modality="audio", channels=1, sample_rate=100, hop=(4,), latent_dim=2)
    values |= dict(codebook_sizes=(5, 3, 9), windows=((2,), (3,)), queries=2, strides=strides)
    return CodecSpec(**{**values, **fields})


@pytest.fixture
def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: id for id, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


def llama(rows, tied):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


def speak(spec, extents, rate=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = torch.tensor([spec.token_counts(extent, rate) for extent in extents])
    streams = []
    for size, count in zip(spec.codebook_sizes, counts.T, strict=False):
        codes = torch.randint(size, (len(extents), int(count.max())), generator=generator)
        streams.append(torch.where(torch.arange(int(count.max())) < count[:, None], codes, -1))
    return Tokens(tuple(streams), tuple(extents), spec.resolve(rate), spec)


def same(tokens, others):
    assert tokens.extents == others.extents and tokens.rate == others.rate and tokens.spec == others.spec
    assert all(map(torch.equal, tokens.streams, others.streams))


# -- tokenizer ---------------------------------------------------------------------------------------------


def test_the_vocabulary_follows_the_words_and_is_added_once(tokenizer):
    vocabulary = Vocabulary(spec_of("flatten"))
    first = add_to_tokenizer(tokenizer, vocabulary)
    assert first == len(WORDS) and len(tokenizer) == first + vocabulary.size
    assert add_to_tokenizer(tokenizer, vocabulary) == first and len(tokenizer) == first + vocabulary.size
    names = token_names(vocabulary)
    assert tokenizer("say " + "".join(names)).input_ids == [1, *range(first, first + vocabulary.size)]
    assert names[6].endswith(":1:1>") and names[vocabulary.special("EOA")].endswith(":EOA>")


def test_two_codecs_share_a_tokenizer_and_never_an_id(tokenizer):
    one, other = Vocabulary(spec_of("flatten")), Vocabulary(spec_of("flatten", hop=(5,)))
    assert one.spec.name == other.spec.name and not set(token_names(one)) & set(token_names(other))
    assert add_to_tokenizer(tokenizer, other) == len(WORDS)
    assert add_to_tokenizer(tokenizer, one) == len(WORDS) + other.size


def test_a_tokenizer_that_knows_the_codec_at_another_rate_is_refused(tokenizer):
    spec = spec_of("flatten")
    add_to_tokenizer(tokenizer, Vocabulary(spec, Rate(codebooks=1)))
    with pytest.raises(ValueError, match="it knows this codec at another rate"):
        add_to_tokenizer(tokenizer, Vocabulary(spec))


# -- model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [0, 200])
def test_new_rows_are_like_the_old_and_old_rows_stay(tied, spare):
    vocabulary, first = Vocabulary(spec_of("flatten", codebook_sizes=(2000, 3, 9))), 50
    model = llama(first + spare, tied)
    with torch.no_grad():
        model.get_input_embeddings().weight[:first].mul_(3).add_(torch.arange(16.0))
    before = [part.weight[:first].clone() for part in (model.get_input_embeddings(), model.get_output_embeddings())]
    resize(model, first, vocabulary, torch.Generator().manual_seed(0))
    after = [part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings())]
    assert (after[0] is after[1]) == tied and model.config.vocab_size == first + vocabulary.size
    for old, weight in zip(before, after, strict=True):
        new = weight[first:]
        assert torch.equal(weight[:first], old) and weight.requires_grad
        torch.testing.assert_close(new.mean(0), old.mean(0), atol=0.2 * float(old.std(0).max()), rtol=0)
        torch.testing.assert_close(new.std(0), old.std(0), atol=0, rtol=0.1)


def test_a_model_with_rows_to_spare_keeps_its_size():
    vocabulary = Vocabulary(spec_of("flatten"))
    model = llama(500, tied=False)
    unused = model.get_input_embeddings().weight[50 + vocabulary.size :].clone()
    resize(model, 50, vocabulary)
    assert torch.equal(model.get_input_embeddings().weight[50 + vocabulary.size :], unused)
    assert len(model.get_output_embeddings().weight) == 500


def test_an_output_bias_starts_at_the_mean_of_the_old():
    class Model(torch.nn.Module):
        def __init__(self, rows):
            super().__init__()
            self.table, self.head = torch.nn.Embedding(rows, 4), torch.nn.Linear(4, rows)
            self.get_input_embeddings, self.get_output_embeddings = lambda: self.table, lambda: self.head

    vocabulary = Vocabulary(spec_of("flatten"))
    model = Model(9 + vocabulary.size)
    resize(model, 9, vocabulary)
    torch.testing.assert_close(model.head.bias[9:], model.head.bias[:9].mean().expand(vocabulary.size))


# -- ids ---------------------------------------------------------------------------------------------------


@EVERY
def test_tokens_round_trip_with_text_around(name):
    tokens = speak(spec_of(name), [(40,), (0,), (16,)])
    speech = ModelIds(layout(name, tokens.spec), first=5)
    ids = speech.to_ids(tokens)
    same(speech.from_ids(ids), tokens)
    text = torch.tensor([[1, 2, 3]]).expand(3, -1)
    same(speech.from_ids(torch.cat((text, ids), 1), tokens.extents), tokens)
    assert ids[:, :4].tolist() == speech.prompt(3).tolist()
    ended = [row.tolist().index(speech.ends[0]) for row in ids]
    assert all((row[end + 1 :] == speech.padding).all() for row, end in zip(ids, ended, strict=True))
    longer = torch.cat((ids[:1], text[:1]), 1)  # the model went on to talk
    same(speech.from_ids(longer), tokens[0])
    same(speech.from_ids(torch.cat((speech.to_ids(tokens[2]), ids[:1]), 1)), tokens[0])  # the last signal counts


def test_headers_of_another_rate_and_rows_without_one_are_refused():
    spec = spec_of("flatten")
    tokens = speak(spec, [(16,)], Rate(codebooks=2))
    other = ModelIds(layout("flatten", spec, Rate(codebooks=2)), first=5).to_ids(tokens)
    speech = ModelIds(layout("flatten", spec), first=5)
    with pytest.raises(ValueError, match=r"codebooks=3.*the header of item 0 says .*codebooks=2"):
        speech.from_ids(other)
    with pytest.raises(ValueError, match="a header is 4 ids"):
        speech.from_ids(torch.tensor([[1, 2, 3, 4, 5, 6]]))
    ids = speech.to_ids(speak(spec, [(16,)]))
    ids[0, 6] = 2
    with pytest.raises(ValueError, match=r"got -3 \(of no meaning.* in item 0 at step 2"):
        speech.from_ids(ids)


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - set(STREAMS) - set(PICTURES)))
def test_a_layout_with_a_row_per_codebook_is_refused(name):
    with pytest.raises(ValueError, match="a model with one head reads one stream"):
        ModelIds(layout(name, spec_of(name)), first=0)


# -- generation --------------------------------------------------------------------------------------------


def generate(tokenizer, name, spec, texts, extents=None, steps=60, **options):
    tokenizer.pad_token, tokenizer.padding_side = "<unk>", "left"
    vocabulary = Vocabulary(spec)
    first = add_to_tokenizer(tokenizer, vocabulary)
    model = llama(len(WORDS), tied=True)
    resize(model, first, vocabulary)
    speech = ModelIds(layout(name, spec), first)
    read = tokenizer(texts, return_tensors="pt", padding=True)
    prompt = torch.cat((read.input_ids, speech.prompt(len(texts))), 1)
    ids = model.generate(
        prompt,
        attention_mask=torch.nn.functional.pad(read.attention_mask, (0, 4), value=1),
        logits_processor=[LegalIds(speech, extents)],
        max_new_tokens=steps,
        eos_token_id=speech.ends,
        pad_token_id=speech.padding,
        **options,
    )
    return speech, prompt, ids


@EVERY
@pytest.mark.parametrize("options", [{"do_sample": True}, {"do_sample": True, "num_beams": 2}], ids=["sample", "beams"])
def test_everything_generated_is_a_signal(tokenizer, name, options):
    spec = spec_of(name)
    speech, prompt, ids = generate(tokenizer, name, spec, ["say a word", "slowly"], **options)
    assert torch.equal(ids[:, : prompt.shape[1]], prompt)
    tokens = speech.from_ids(ids)
    for item, row in zip(tokens, ids[:, prompt.shape[1] :], strict=True):
        if speech.ends[0] in row:  # it ended by itself: saying it again gives the same ids
            (again,) = speech.to_ids(item)
            assert torch.equal(row[: len(again) - 4], again[4:])
            assert (row[len(again) - 4 :] == speech.padding).all()


@EVERY
def test_a_signal_of_known_extent_is_said_to_its_end(tokenizer, name):
    spec = spec_of(name)
    extents = ((24,), (17,))
    speech, prompt, ids = generate(tokenizer, name, spec, ["say", "slowly"], extents, do_sample=True)
    tokens = speech.from_ids(ids, extents)
    assert tokens.extents == extents
    body = speech.layout.to_ids(tokens) + speech.first
    said = ids[:, prompt.shape[1] :]
    assert torch.equal(said[:, : body.shape[1]], body) and (said[:, body.shape[1] :] == speech.padding).all()


def image_of(name):
    return spec_of("flatten", modality="image", sample_rate=None, hop=(4, 4), **PICTURES[name])


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_a_picture_of_known_extent_is_said_to_its_end(tokenizer, name):
    extents = ((9, 17), (8, 8))
    options = dict(do_sample=True, steps=120)
    speech, prompt, ids = generate(tokenizer, name, image_of(name), ["say", "slowly"], extents, **options)
    tokens = speech.from_ids(ids, extents)
    body, said = speech.layout.to_ids(tokens) + speech.first, ids[:, prompt.shape[1] :]
    assert tokens.extents == extents and torch.equal(said[:, : body.shape[1]], body)
    assert (said[:, body.shape[1] :] == speech.padding).all()


def test_a_model_says_how_high_and_wide_its_picture_is(tokenizer):
    spec = replace(image_of("raster"), windows=((2, 1),), queries=2, codebook_sizes=(2,), strides=())
    speech, prompt, ids = generate(tokenizer, "raster", spec, ["say", "a"], do_sample=True, steps=100)
    for item, row in zip(speech.from_ids(ids), ids[:, prompt.shape[1] :] - speech.first, strict=True):
        ends = (row == speech.vocabulary.special("EOR")).nonzero()[:, 0].tolist()
        assert item.extents == ((len(ends) // 2 * 8, ends[0] * 4),)
        assert torch.equal(speech.layout.to_ids(item)[0], row[: len(ends) // 2 * 2 * (ends[0] + 1)])


def test_without_the_mask_a_random_model_says_no_signal(tokenizer):
    speech, prompt, ids = generate(tokenizer, "flatten", spec_of("flatten"), ["say"], steps=8, do_sample=True)
    ids = ids.clone()
    scores = torch.zeros(1, speech.first + speech.vocabulary.size)
    legal = LegalIds(speech)(prompt, scores).isfinite()[0]
    assert legal.nonzero()[:, 0].tolist() == [*range(speech.first, speech.first + 5), speech.ends[0]]
    ids[0, prompt.shape[1]] = 1
    with pytest.raises(ValueError, match="in item 0 at step 0"):
        LegalIds(speech)(ids, scores)


def test_headers_that_end_at_different_steps_are_refused():
    speech = ModelIds(layout("flatten", spec_of("flatten")), first=5)
    (header,) = speech.prompt().tolist()
    ids = torch.tensor([[1, *header], [*header, 5]])
    with pytest.raises(ValueError, match=r"got \[5, 4\]; pad the texts on the left"):
        LegalIds(speech)(ids, torch.zeros(2, 100))


def test_a_model_without_words_or_without_the_new_rows_is_refused():
    vocabulary = Vocabulary(spec_of("flatten"))
    with pytest.raises(ValueError, match="drawn like the old ones, got 1 old rows"):
        resize(llama(5, tied=False), 1, vocabulary)
    ids = ModelIds(layout("flatten", spec_of("flatten")), 5)
    header = torch.tensor([ids.vocabulary.header(ids.layout.rate)]) + 5
    with pytest.raises(ValueError, match="call `resize` on it first"):
        LegalIds(ids)(header, torch.zeros(1, 7))
    with pytest.raises(ValueError, match="a header of 4 ids, got rows of none"):
        ids.from_ids(torch.zeros(1, 0, dtype=torch.int64))
