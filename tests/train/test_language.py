"""A language model learns its signals by heart, goes on where it stopped, and becomes a folder."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.language.folder import load_language
from sigtok.codecs.language.sampling import draw
from sigtok.codecs.shards import Meaning, Row
from sigtok.codecs.spec import CodecSpec
from sigtok.train.cli import CodecCLI, main, settings
from sigtok.train.language import LanguageTask
from sigtok.train.task import CodecTask

pytest.importorskip("pyarrow")

ROOT = Path(__file__).parents[2]
TONES = "sigtok.train.data.synthetic.Tones"
SPEC = CodecSpec(
    name="test", modality="audio", channels=1, sample_rate=8000, hop=(80,), codebook_sizes=(40, 10), latent_dim=4
)
MEANING = Meaning(SPEC, SPEC.resolve(), "0123456789abcdef" * 2)


def rows_of(count, seed=0):
    generator, rows = np.random.default_rng(seed), []
    for number in range(count):
        frames = int(generator.integers(6, 12))
        codes = np.stack([generator.integers(0, size, frames) for size in SPEC.codebook_sizes], axis=1)
        rows.append(Row(f"{number}", 0.0, (80 * frames,), codes.reshape(-1).astype(np.uint16)))
    return rows


@pytest.fixture
def tokens(tmp_path, write_corpus):
    rows = [row._replace(meta=json.dumps({"split": "train" if number < 4 else "val"})) for number, row in
            enumerate(rows_of(6))]  # fmt: skip
    return write_corpus(tmp_path / "tokens", MEANING, [rows[:3], rows[3:]])


def fit(tokens, folder, steps, *words, seed=0):
    """A run by the command; its checkpoint."""
    config = {
        "seed_everything": seed,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "check_val_every_n_epoch": 1000,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(folder)}},
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"dirpath": str(folder), "save_last": True, "every_n_train_steps": steps},
                }
            ],
        },
        "model": {
            "class_path": "sigtok.train.language.LanguageTask",
            "init_args": {
                "shape": {"dim": 32, "depth": 2, "heads": 2},
                "learning_rate": 1e-2,
                "warmup_steps": 10,
                "total_steps": 120,
                "weight_decay": 0.0,
            },
        },
        "data": {
            "class_path": "sigtok.train.data.tokens.TokenContexts",
            "init_args": {"folder": str(tokens), "context": 32, "batch_size": 3},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(folder / "run.yaml"), *words])
    return folder / "last.ckpt"


def test_four_signals_are_learned_by_heart_and_drawn_again_from_a_released_folder(tokens, tmp_path):
    checkpoint = fit(tokens, tmp_path / "run", 120)
    main(["release-lm", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "lm"), "--training_data", "noise"])
    model = load_language(tmp_path / "lm")
    assert model.network.shape.context == 32 and json.loads((tmp_path / "lm/lm.json").read_text())["licence"]
    known = [Corpus(tokens)[0].tokens(row) for row in range(3)] + [Corpus(tokens)[1].tokens(0)]
    for signal in known:
        begun = signal.spec.hop[0] * 2
        prompt = type(signal)(tuple(stream[:, :2] for stream in signal.streams), ((begun,),), signal.rate, SPEC)
        again = draw(model, [torch.Generator()], most=40, prompt=prompt, temperature=0.0)
        assert again.ended == [True] and torch.equal(again.tokens.codes, signal.codes)


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(tokens, tmp_path):
    """Stopped within an epoch of three batches."""
    one = ["--data.init_args.batch_size", "1"]
    whole = torch.load(fit(tokens, tmp_path / "whole", 9, *one), weights_only=True)
    stopped = fit(tokens, tmp_path / "parts", 4, *one)
    again = torch.load(fit(tokens, tmp_path / "again", 9, *one, "--ckpt_path", str(stopped)), weights_only=True)
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, again["state_dict"][name]), name


def test_a_checkpoint_of_other_tokens_is_refused(tokens, tmp_path, write_corpus, capsys):
    checkpoint = fit(tokens, tmp_path / "run", 1)
    other = write_corpus(tmp_path / "other", MEANING._replace(stream_id="f" * 32), [rows_of(40)])
    with pytest.raises(SystemExit):
        fit(other, tmp_path / "again", 2, "--ckpt_path", str(checkpoint))
    assert "the checkpoint has another meaning" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        fit(tokens, tmp_path / "again", 2, "--ckpt_path", str(checkpoint), "--data.init_args.context", "16")
    assert "the checkpoint has another shape" in capsys.readouterr().err


def test_bits_per_token_are_all_bits_of_the_validation_signals_over_their_codes(tokens, tmp_path):
    """Beside a plain sum over contexts of whole signals, one by one."""
    checkpoint = fit(tokens, tmp_path / "run", 30, "--trainer.check_val_every_n_epoch", "1")
    with open(next((tmp_path / "run").rglob("metrics.csv"))) as file:
        logged = [row for row in csv.DictReader(file) if row["val/bits_per_token"]][-1]
    main(["release-lm", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "lm")])
    model, shard = load_language(tmp_path / "lm"), Corpus(tokens)[1]
    sequence = torch.cat([model.language.ids.to_ids(shard.tokens(row)) for row in (1, 2)], dim=1)
    nats, codes = 0.0, 0
    with torch.no_grad():
        for first in range(0, sequence.shape[1] - 1, 32):
            part = sequence[:, first : first + 33]
            logits = model.network(part[:, :-1]).log_softmax(-1)
            nats -= float(logits.gather(2, part[:, 1:, None]).sum())
            codes += int((part[:, 1:] < 50).sum())
    assert codes == sum(len(shard.codes(row)) for row in (1, 2))
    assert math.isclose(float(logged["val/bits_per_token"]), nats / math.log(2) / codes, rel_tol=1e-4)
    assert math.isclose(float(logged["val/nats"]), nats / (sequence.shape[1] - 1), rel_tol=1e-4)


def test_a_configuration_that_names_a_class_gets_it_and_the_others_train_codecs(tokens, tmp_path):
    for config, kind in (("audio/tiny_speech", CodecTask), ("lm/speech_tiny", LanguageTask)):
        for words in (["--config", f"{ROOT}/configs/{config}.yaml"], [f"--config={ROOT}/configs/{config}.yaml"]):
            assert type(CodecCLI(**{**settings(words), "run": False}).model) is kind


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.init_args.folder", "nowhere"], "has manifest.json, got none"),
        (["--model.init_args.shape.heads", "3"], "twice the heads"),
        (["--data.init_args.layout", "delay"], "one head reads one stream"),
        (["--data", TONES, "--data.sample_rate=8000", "--data.seconds=1"], "TokenContexts"),
    ],
)
def test_mistakes_end_in_a_line(words, said, tokens, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(tokens, tmp_path / "run", 1, *words)
    assert stop.value.code == 2 and said in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_of_something_else_is_not_released(tmp_path, capsys):
    torch.save({"state_dict": {"network.norm.weight": torch.ones(3)}}, tmp_path / "other.ckpt")
    torch.save({"state_dict": {"codec.weight": torch.ones(3)}}, tmp_path / "codec.ckpt")
    for name, words in (("other", "does not say what its ids mean"), ("codec", "is no checkpoint"), ("no", "got none")):
        with pytest.raises(SystemExit) as stop:
            main(["release-lm", "--checkpoint", str(tmp_path / f"{name}.ckpt"), "--out", str(tmp_path / "lm")])
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and words in line
