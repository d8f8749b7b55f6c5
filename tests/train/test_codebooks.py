"""`sigtok-train codebooks`: k-means of what the stages before left, in a checkpoint that a run starts from."""

import re
from itertools import pairwise

import pytest
import torch
import yaml

from sigtok.codecs.audio.models import query_voice
from sigtok.train.codebooks import collected, distinct, main, parts_of
from sigtok.train.initial import initialise, stored_weights

VOICE = dict(
    sample_rate=8000, frame_hop=40, frame_size=120, dim=16, heads=2, encoder_depth=1, decoder_depth=1, decoder_blocks=1,
    bands=8, cepstra=[6, 2], learned=2, codebooks=3, codebook_size=8, context=0.1,
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A YAML and a checkpoint whose quantizer is another."""
    values = {
        "model": {"codec": {"class_path": "sigtok.codecs.audio.models.query_voice", "init_args": dict(VOICE)}},
        "data": {
            "class_path": "sigtok.train.data.synthetic.Tones",
            "init_args": {"sample_rate": 8000, "seconds": 0.3, "batch_size": 4, "steps_per_epoch": 3},
        },
    }
    config, checkpoint = tmp_path / "run.yaml", tmp_path / "old.ckpt"
    config.write_text(yaml.safe_dump(values))
    torch.manual_seed(0)
    stages = {"copies": 2, "name": "ema", "codebook_size": 4, "dim": 16}
    old = query_voice(**VOICE, quantizer={"name": "residual", "stages": stages})
    torch.save({"state_dict": {f"codec.{name}": value for name, value in old.state_dict().items()}}, checkpoint)
    return config, checkpoint, tmp_path / "new.ckpt"


def words(run, *more):
    config, checkpoint, out = run
    return ["--config", str(config), "--checkpoint", str(checkpoint), "--out", str(out), *more]


def test_codebooks_are_fitted_one_after_another_and_the_rest_is_kept(run, capsys):
    main(words(run, "--vectors", "200"))
    assert "latents: " in capsys.readouterr().err
    codec, data = parts_of(str(run[0]))
    weights, _ = stored_weights(str(run[2]))
    initialise(codec, weights, "new")
    old = torch.load(run[1], weights_only=True)["state_dict"]
    for name, value in codec.state_dict().items():
        if not name.startswith("quantizer."):
            assert torch.equal(value, old[f"codec.{name}"]), name
    latents = distinct(collected(codec.eval(), data, 200))
    left = [latents.square().mean()]
    for stage in codec.quantizer.stages:
        latents = latents - stage.values()[stage.search(latents)]
        left.append(latents.square().mean())
    assert all(after < 0.8 * before for before, after in pairwise(left))


def test_one_table_is_a_codebook_too(run):
    values = yaml.safe_load(run[0].read_text())
    table = {"name": "ibq", "codebook_size": 16, "dim": 16}
    values["model"]["codec"]["init_args"]["quantizer"] = table
    run[0].write_text(yaml.safe_dump(values))
    main(words(run, "--vectors", "200"))
    codec, data = parts_of(str(run[0]))
    initialise(codec, stored_weights(str(run[2]))[0], "new")
    latents = distinct(collected(codec.eval(), data, 200))
    codes = codec.quantizer.search(latents)
    assert codes.unique().numel() > 10
    rest = latents - codec.quantizer.codebook[codes]
    assert rest.square().mean() < 0.5 * latents.var(0).mean()


def test_vectors_that_are_equal_but_for_a_little_count_once():
    torch.manual_seed(0)
    apart, silence = 10 * torch.randn(50, 4), torch.full((200, 4), 3.1)
    kept = distinct(torch.cat((apart, silence + 1e-4 * torch.randn(200, 4))))
    assert torch.equal(kept[:50], apart) and 1 <= len(kept) - 50 <= 16  # at worst at a corner of cells


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda run: run[1].unlink(), "a checkpoint is a file"),
        (lambda run: run[0].write_text("model: {codec: 3}"), "model.codec and data"),
        (lambda run: run[0].write_text(run[0].read_text().replace("dim: 16", "dim: 32")), "in the YAML|the YAML and"),
        (
            lambda run: run[0].write_text(
                run[0].read_text().replace("learned: 2", "learned: 2\n      quantizer: {name: fsq, levels: [3]}")
            ),
            "one or those of stages|cannot be built|width",
        ),
    ],
)
def test_mistakes_are_one_line(run, capsys, change, said):
    change(run)
    with pytest.raises(SystemExit, match="2"):
        main(words(run))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("sigtok-train codebooks: error: ")
    assert re.search(said, line), line
    assert not run[2].exists()
