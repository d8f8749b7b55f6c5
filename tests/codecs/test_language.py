"""A language model steps as it reads, keeps signals apart, draws only what is a signal, and is believed only whole."""

import json

import pytest
import safetensors.torch
import torch

from sigtok.codecs.language.folder import LanguageModel, load_language, save_language
from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.network import Shape, TokenTransformer
from sigtok.codecs.language.sampling import draw
from sigtok.codecs.layouts.names import LAYOUTS, layout
from sigtok.codecs.layouts.vocabulary import Vocabulary
from sigtok.codecs.shards import Meaning
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens

SOUND = CodecSpec(
    name="s", modality="audio", channels=1, sample_rate=8000, hop=(80,), windows=((2,),), codebook_sizes=(30, 12),
    latent_dim=4, queries=2,
)  # fmt: skip
PICTURE = CodecSpec(
    name="p", modality="image", channels=3, sample_rate=None, hop=(8, 8), codebook_sizes=(9, 5), latent_dim=4
)
SHAPE = Shape(dim=32, depth=2, heads=2, context=24)
STREAMS = {"flatten": SOUND, "grouped": SOUND, "elastic": SOUND, "raster": PICTURE, "query_order": PICTURE}


def language_of(name):
    spec = STREAMS[name]
    meaning = Meaning(spec, spec.resolve(), "0123456789abcdef" * 2)
    return Language(meaning, name, (16, 24) if spec is PICTURE else None)


def model_of(name, shape=SHAPE):
    torch.manual_seed(0)
    language = language_of(name)
    network = TokenTransformer(language.size, language.begin, shape).eval()
    torch.nn.init.normal_(network.embed.weight, std=0.3)  # an opinion on every id
    return LanguageModel(language, network)


def network_of(context=24):
    torch.manual_seed(0)
    network = TokenTransformer(20, 19, Shape(dim=32, depth=2, heads=2, context=context)).eval()
    torch.nn.init.normal_(network.embed.weight, std=0.3)
    return network


def dice(count, seed=0):
    return [torch.Generator().manual_seed(seed + number) for number in range(count)]


@pytest.mark.parametrize("parts", [[16], [1] * 16, [5, 1, 1, 9], [15, 1]])
@pytest.mark.parametrize("context", [24, 6])
@torch.no_grad()
def test_steps_in_any_parts_give_the_logits_of_the_whole(parts, context):
    network, ids = network_of(context), torch.randint(0, 19, (3, 16))
    ids[:, 0] = 19
    whole, state, steps = network(ids), None, []
    for part in ids.split(parts, dim=1):
        logits, state = network.step(part, state)
        steps.append(logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-5)
    assert state.count == 16 and all(memory.shape[3] == min(16, context - 1) for memory in state.memories)


@torch.no_grad()
def test_a_signal_is_predicted_the_same_in_any_company():
    network = network_of()
    first, second = torch.randint(0, 19, (1, 9)), torch.randint(0, 19, (1, 11))
    first[:, 0] = second[:, 0] = 19
    rest = torch.randint(0, 19, (1, 4))
    packed = network(torch.cat((rest, first, second), dim=1))
    for part, place in ((rest, 0), (first, 4), (second, 13)):
        torch.testing.assert_close(packed[:, place : place + part.shape[1]], network(part), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_id_knows_nothing_of_the_future_and_only_its_context():
    """One block: what is further back than the context reaches no logit."""
    torch.manual_seed(0)
    network = TokenTransformer(20, 19, Shape(dim=32, depth=1, heads=2, context=5)).eval()
    ids = torch.randint(0, 19, (1, 16))
    whole = network(ids)
    for place in range(16):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % 19
        moved = (network(changed) - whole).abs().amax((0, 2)) > 1e-6
        assert moved.nonzero().flatten().tolist() == list(range(place, min(16, place + 5)))


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"temperature": 2.0, "top_k": 3}])
def test_what_is_drawn_is_a_signal(name, options):
    model = model_of(name)
    extent = model.language.extent or (None if model.language.ids.layout.causal else (640,))
    drawn = draw(model, dice(3), extent=extent, most=None if extent else 40, **options)
    drawn.tokens.check_codes()
    assert len(drawn.tokens) == 3 and all(item.mask.any() for item in drawn.tokens)
    if extent:
        assert drawn.tokens.extents == (extent,) * 3 and drawn.ended == [True] * 3


def test_a_sound_of_known_length_has_it():
    drawn = draw(model_of("flatten"), dice(2), extent=(1000,))
    assert drawn.tokens.extents == ((1000,),) * 2 and drawn.tokens.codes.min() >= 0


def test_a_sound_that_does_not_end_is_cut_behind_a_window():
    drawn = draw(model_of("flatten"), dice(30), most=23)
    assert {True, False} == set(drawn.ended)
    for (samples,), ended in zip(drawn.tokens.extents, drawn.ended, strict=True):
        assert samples % 160 == 0 and (0 < samples <= 800 if ended else samples == 800)


def test_a_draw_is_a_function_of_its_generator_alone():
    model = model_of("flatten")
    together = draw(model, dice(4), extent=(900,)).tokens
    assert torch.equal(together.codes, draw(model, dice(4), extent=(900,)).tokens.codes)
    for number, item in enumerate(together):
        assert torch.equal(item.codes, draw(model, dice(1, number), extent=(900,)).tokens.codes)
    assert not torch.equal(together.codes[0], together.codes[1])


def test_probabilities_are_those_of_the_softmax():
    """What falls out of 1,500 first draws, beside the distribution over the legal ids."""
    model = model_of("flatten")
    tokens = draw(model, dice(1500), most=4).tokens
    counts = torch.bincount(tokens.streams[0][:, 0], minlength=30) / 1500
    logits = model.network.step(model.language.ids.prompt())[0][0, -1, :30]
    assert (counts - logits.softmax(0)).abs().max() < 0.05


def test_a_prompt_is_how_the_signal_begins():
    model = model_of("flatten")
    codes = torch.stack((torch.randint(0, 30, (1, 4)), torch.randint(0, 12, (1, 4))), dim=1)
    prompt = Tokens(tuple(codes.unbind(1)), ((320,),), model.language.meaning.rate, SOUND)
    tokens = draw(model, dice(2), extent=(1600,), prompt=prompt).tokens
    assert torch.equal(tokens.codes[..., :4], codes.repeat(2, 1, 1)) and tokens.extents == ((1600,),) * 2
    with pytest.raises(ValueError, match="grouped are drawn whole, of an extent; got a prompt"):
        draw(model_of("grouped"), dice(1), extent=(1600,), prompt=prompt)
    with pytest.raises(ValueError, match="got no extent"):
        draw(model_of("grouped"), dice(1), most=40)


def test_a_language_has_the_codebooks_of_its_rate_alone():
    meaning = Meaning(SOUND, SOUND.resolve(Rate(codebooks=1)), "0" * 32)
    language = Language(meaning, "flatten")
    assert language.num_codes == 30 <= language.begin < language.size
    assert Language.from_dict(json.loads(json.dumps(language.to_dict()))).to_dict() == language.to_dict()
    for name in LAYOUTS:
        if LAYOUTS[name].__name__ in ("Flatten", "Delay", "partial_delay", "Elastic"):
            made = layout(name, SOUND, meaning.rate, vocabulary=Vocabulary(SOUND, meaning.rate))
            assert made.vocabulary.size == language.size


@pytest.mark.parametrize(
    ("spec", "name", "extent", "words"),
    [
        (SOUND, "delay", None, "one head reads one stream"),
        (SOUND, "nonsense", None, "the layouts are"),
        (SOUND, "flatten", (100,), "language of pictures has their extent"),
        (PICTURE, "raster", None, "language of pictures has their extent"),
        (PICTURE, "raster", (0, 5), "at least 1"),
    ],
)
def test_a_language_that_cannot_be_is_refused(spec, name, extent, words):
    with pytest.raises(ValueError, match=words):
        Language(Meaning(spec, spec.resolve(), "0" * 32), name, extent)


@pytest.fixture
def released(tmp_path):
    folder = tmp_path / "lm"
    save_language(model_of("raster"), folder, licence="CC0", training_data="none", measured={"bits": 1.5})
    return folder


def test_a_folder_gives_the_model_back(released):
    model, again = model_of("raster"), load_language(released)
    assert again.language.to_dict() == model.language.to_dict() and again.network.shape == SHAPE
    assert not again.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
    assert sorted(path.name for path in released.iterdir()) == ["lm.json", "model.safetensors"]


def edit(folder, change):
    record = json.loads((folder / "lm.json").read_text())
    change(record)
    (folder / "lm.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(format=9), "has format 1"),
        (lambda record: record.pop("licence"), "has format 1 and the fields"),
        (lambda record: record["shape"].update(dim=64), "is float32"),
        (lambda record: record["shape"].update(depth=60_000), "60000 blocks are promised"),
        (lambda record: record["shape"].update(dim=2**40), "dim of a network is 1 to"),
        (lambda record: record["shape"].update(heads=5), "twice the heads"),
        (lambda record: record["shape"].update(width=5), "not a language model"),
        (lambda record: record["language"].pop("layout"), "meaning, layout and extent"),
        (lambda record: record["language"]["meaning"]["spec"].update(codebook_sizes=[9, 500]), "is float32"),
        (lambda record: record.update(weights_sha256="0" * 64), "should have SHA-256"),
    ],
)
def test_a_folder_that_is_not_what_it_says_is_refused(change, words, released):
    edit(released, change)
    with pytest.raises(ValueError, match=words) as error:
        load_language(released)
    assert "\n" not in str(error.value)


def test_damaged_and_missing_files_are_told(released):
    weights = (released / "model.safetensors").read_bytes()
    (released / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(ValueError, match="should have SHA-256"):
        load_language(released)
    (released / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="got none in"):
        load_language(released)
    (released / "lm.json").write_text("[")
    with pytest.raises(ValueError, match="is not JSON"):
        load_language(released)
    with pytest.raises(ValueError, match="has a file lm.json"):
        load_language(released / "nowhere")


def test_weights_that_are_no_numbers_are_refused(tmp_path, released):
    model = model_of("raster")
    model.network.norm.weight.data[0] = torch.nan
    save_language(model, released, licence="CC0", training_data="none", measured={})
    with pytest.raises(ValueError, match="weights are finite"):
        load_language(released)
    tensors = safetensors.torch.load_file(released / "model.safetensors")
    assert "norm.weight" in tensors
