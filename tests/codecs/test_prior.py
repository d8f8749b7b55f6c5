"""The semantic prior: where its centres come from and go to, what learns, and how it heads a residual."""

import pytest
import safetensors.torch
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.kmeans import kmeans, plus_plus
from sigtok.codecs.quantizers.prior import SemanticPrior

SIZES, WIDTHS, DIM = [9, 7], [6, 3], 4


@pytest.fixture
def artefacts(tmp_path):
    files = [tmp_path / "speech.safetensors", tmp_path / "sound.safetensors"]
    for file, size, width in zip(files, SIZES, WIDTHS, strict=True):
        safetensors.torch.save_file({"centres": torch.randn(size, width), "mean": torch.zeros(width)}, file)
    return [str(file) for file in files]


def prior(artefacts=None):
    return SemanticPrior(SIZES, WIDTHS, DIM, artefacts)


def stored(artefacts):
    return [safetensors.torch.load_file(file)["centres"] for file in artefacts]


def centres(quantizer):
    return [group.centres for group in quantizer.groups]


def equal(some, others):
    return all(map(torch.equal, some, others))


# -- where centres come from -------------------------------------------------------------------------------


def test_the_first_training_pass_takes_the_centres_from_the_artefacts(artefacts):
    quantizer, latents = prior(artefacts), torch.randn(2, 5, DIM)
    for passes in (lambda: quantizer.eval()(latents), lambda: quantizer.train()(latents, update=False)):
        passes()
        assert not equal(centres(quantizer), stored(artefacts))
    quantizer.train()(latents)
    assert equal(centres(quantizer), stored(artefacts))


def test_a_model_that_has_centres_never_opens_a_file(artefacts, tmp_path):
    quantizer = prior(artefacts).train()
    quantizer(torch.randn(2, 5, DIM))
    other = prior([str(tmp_path / "gone"), str(tmp_path / "gone")]).train()
    other.load_state_dict(quantizer.state_dict())
    other(torch.randn(2, 5, DIM))
    assert equal(centres(other), stored(artefacts))


def test_a_released_codec_loads_where_its_artefacts_are_not(artefacts, tmp_path):
    arguments = dict(
        sample_rate=8000, frame_hop=40, frame_size=120, stack=2, dim=16, heads=2, encoder_depth=1, decoder_depth=1,
        decoder_blocks=1, latent_dim=DIM,
        quantizer={"name": "residual", "stages": [
            {"name": "prior", "sizes": SIZES, "widths": WIDTHS, "dim": DIM, "artefacts": artefacts},
            {"name": "ema", "codebook_size": 8, "dim": DIM}]},
    )  # fmt: skip
    codec = query_speech(**arguments).train()
    signal = torch.randn(2, 1, 1600).clamp(-1, 1)
    codec(signal)
    assert equal(centres(codec.quantizer.stages[0]), stored(artefacts))
    for half in (False, True):
        save(codec.eval(), tmp_path / "model", builder="query_speech", arguments=arguments, licence="Apache-2.0",
             training_data="noise", measured={}, card="", half=half)  # fmt: skip
        for file in artefacts if half else ():
            (tmp_path / file).unlink()
        loaded = load(tmp_path / "model")
        expected = [each.half().float() if half else each for each in centres(codec.quantizer.stages[0])]
        assert equal(centres(loaded.quantizer.stages[0]), expected)
        loaded.train()(signal)
        assert equal(centres(loaded.quantizer.stages[0]), expected)


@pytest.mark.parametrize("damage", ["missing", "text", "another"])
def test_an_artefact_that_is_none_stops_the_first_step_in_one_line(artefacts, tmp_path, damage):
    if damage == "missing":
        (tmp_path / "sound.safetensors").unlink()
    elif damage == "text":
        (tmp_path / "sound.safetensors").write_text("no tensors")
    else:
        safetensors.torch.save_file({"points": torch.zeros(3, 3)}, tmp_path / "sound.safetensors")
    quantizer = prior(artefacts).train()
    before = [each.clone() for each in centres(quantizer)]
    with pytest.raises(ValueError, match=r"reads its centres from .*sound.safetensors, got: .*sigtok-train prior"):
        quantizer(torch.randn(2, 5, DIM))
    assert equal(centres(quantizer), before)


def test_an_artefact_of_another_size_is_refused_with_both_sizes(artefacts):
    quantizer = SemanticPrior([9, 8], WIDTHS, DIM, artefacts).train()
    with pytest.raises(ValueError, match=r"should have \[8, 3\] centres and channels, got \[7, 3\]"):
        quantizer(torch.randn(2, 5, DIM))


@pytest.mark.parametrize("sizes, widths, files", [([], [], None), ([4], [3, 3], None), ([4, 4], [3, 3], ["a"])])
def test_groups_without_all_their_numbers_are_refused(sizes, widths, files):
    with pytest.raises(ValueError, match="every group has a size, a width"):
        SemanticPrior(sizes, widths, DIM, files)


# -- what it computes and what learns ----------------------------------------------------------------------


def test_codes_are_the_normalised_maps_of_each_groups_own_centres():
    quantizer = prior()
    rows = []
    for group in quantizer.groups:
        linear, norm = group.projector
        for centre in group.centres:
            mapped = linear.weight @ centre + linear.bias
            spread = ((mapped - mapped.mean()).square().mean() + norm.eps).sqrt()
            rows.append((mapped - mapped.mean()) / spread * norm.weight + norm.bias)
    torch.testing.assert_close(quantizer.decode([torch.arange(16)[None]])[0], torch.stack(rows))


def test_projectors_learn_and_centres_do_not():
    torch.manual_seed(0)
    quantizer, latents = prior().train(), 2 + torch.randn(4, 50, DIM)
    before, names = [each.clone() for each in centres(quantizer)], [name for name, _ in quantizer.named_parameters()]
    assert not any("centres" in name for name in names) and len(names) == 8
    optimizer, errors = torch.optim.Adam(quantizer.parameters(), 0.03), []
    for _ in range(60):
        loss = quantizer(latents).losses["codebook"]
        errors.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert errors[-1] < 0.5 * errors[0]
    assert equal(centres(quantizer), before)


def test_the_codebook_loss_moves_the_projectors_and_the_commitment_the_latents():
    quantizer, latents = prior().train(), torch.randn(4, 50, DIM, requires_grad=True)
    quantizer(latents).losses["codebook"].backward()
    assert latents.grad is None
    assert all((weight.grad != 0).any() for weight in quantizer.parameters())
    quantizer.zero_grad()
    quantizer(latents).losses["commitment"].backward()
    assert all(weight.grad is None for weight in quantizer.parameters())
    values = quantizer.decode(quantizer.encode(latents.detach()))
    torch.testing.assert_close(latents.grad, 2 * (latents - values).detach() / latents.numel())


def test_a_group_that_is_never_chosen_has_gradients_of_zero_for_data_parallel_training():
    quantizer = prior().train()
    with torch.no_grad():
        quantizer.groups[1].projector[1].bias.fill_(1e3)
    quantized = quantizer(torch.randn(2, 20, DIM))
    assert quantized.streams[0].max() < SIZES[0]
    quantized.losses["codebook"].backward()
    assert all(torch.equal(weight.grad, torch.zeros_like(weight)) for weight in quantizer.groups[1].parameters())


def test_the_residual_behind_it_reads_what_it_leaves():
    first = {"name": "prior", "sizes": SIZES, "widths": WIDTHS, "dim": DIM}
    both = build({"name": "residual", "stages": [first, {"name": "vq", "codebook_size": 8, "dim": DIM}]}).eval()
    latents = torch.randn(2, 30, DIM)
    said, how = both.encode(latents)
    rest = latents - both.stages[0].decode([said])
    assert torch.equal(both.stages[1].encode(rest)[0], how)


# -- where centres are made --------------------------------------------------------------------------------


def blobs(count=8, each=40, spread=0.05):
    centres = 10 * torch.randn(count, 3)
    return centres, (centres[:, None] + spread * torch.randn(count, each, 3)).flatten(0, 1)


def test_careful_seeds_find_every_blob_and_kmeans_its_middle():
    for seed in range(5):
        centres, vectors = blobs()
        start = plus_plus(vectors, 8, seed)
        assert torch.cdist(start, centres).argmin(1).unique().numel() == 8
        found, counts = kmeans(vectors, 8, 5, start)
        nearest = torch.cdist(centres, found).argmin(1)
        torch.testing.assert_close(found[nearest], vectors.unflatten(0, (8, 40)).mean(1))
        assert (counts == 40).all()


def test_careful_seeds_are_drawn_with_the_odds_of_squared_distances():
    vectors = torch.tensor([[0.0], [1.0], [3.0]])
    pairs = [tuple(plus_plus(vectors, 2, seed)[:, 0].tolist()) for seed in range(3000)]
    after_zero = [second for first, second in pairs if first == 0]
    assert 850 < len(after_zero) < 1150
    assert sum(second == 3 for second in after_zero) / len(after_zero) == pytest.approx(0.9, abs=0.04)


def test_seeds_are_as_many_vectors_and_depend_on_the_seed_alone():
    vectors = torch.randn(50, 3)
    assert torch.equal(plus_plus(vectors, 10, 3), plus_plus(vectors, 10, 3))
    assert not torch.equal(plus_plus(vectors, 10, 3), plus_plus(vectors, 10, 4))
    assert plus_plus(vectors, 50).unique(dim=0).shape == (50, 3)
    assert plus_plus(torch.zeros(5, 2), 3).shape == (3, 2)
    with pytest.raises(ValueError, match="51 centres start from as many vectors, got 50"):
        plus_plus(vectors, 51)


def test_kmeans_leaves_its_start_alone_and_never_gets_worse():
    vectors = torch.randn(300, 3)
    start = plus_plus(vectors, 10)
    kept, errors = start.clone(), []
    for iterations in (0, 1, 2, 5, 10):
        found, _ = kmeans(vectors, 10, iterations, start)
        errors.append(float(torch.cdist(vectors, found).amin(1).square().mean()))
    assert torch.equal(start, kept) and errors == sorted(errors, reverse=True)
