"""The README runs as written, and the files that it names exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from sigtok.codecs import Rate, load, pretrained
from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.language.folder import LanguageModel, save_language
from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.network import Shape, TokenTransformer
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.shards import Meaning
from sigtok.export import cli
from sigtok.train.callbacks.usage import CodebookUsage
from sigtok.train.cli import CodecCLI, settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def language_model(folder):
    """An untrained one of speech_24khz, where the README has a trained one."""
    codec = load("speech_24khz")
    meaning = Meaning(codec.spec, codec.spec.resolve(Rate(codebooks=2)), codec.stream_id.hex())
    language = Language(meaning, "flatten")
    network = TokenTransformer(language.size, language.begin, Shape(dim=16, depth=1, heads=1, context=16))
    save_language(LanguageModel(language, network), folder, licence="", training_data="", measured={})
    return str(folder)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    names: dict = {"__name__": "__main__"}
    block = block.replace('"tokens', f'"{tmp_path}/tokens')
    if "speech_lm" in block:
        block = block.replace("speech_lm", language_model(tmp_path / "speech_lm"))
    exec(compile(block, "README.md", "exec"), names)  # the README is ours
    if "shard" in names:
        assert names["shard"].tokens(0).codes.shape[:2] == (1, 8)
        return
    if "prior" in names:
        assert names["again"].shape == names["signal"].shape
        assert names["bits"] <= 8 * len(names["data"]) < names["bits"] + 8 * 32
        return
    if "photo" in names:
        assert psnr(names["again"], names["signal"]) > 30
        assert names["choice"].met and names["choice"].reached <= 0.5
        return
    assert names["tokens"].codes.shape[1] == 3
    assert names["ids"].shape[0] == 1
    assert names["signal"].abs().max() > 0.01


def test_the_readme_opens_with_the_two_commands():
    assert [line.split("#")[0].strip() for line in blocks("sh")[0].splitlines()] == ["make demo", "make test"]


@pytest.mark.parametrize(
    "line", [line for block in blocks("sh") for line in block.splitlines() if line[:7] == "sigtok "]
)
def test_every_sigtok_command_parses(line):
    arguments = cli.parser().parse_args(cli.with_verb(shlex.split(line.split("#")[0])[1:]))
    named = getattr(arguments, "model", None) or []
    assert set([named] if isinstance(named, str) else named) <= set(pretrained.bundled())


def test_the_quantizer_of_the_yaml_builds():
    values = yaml.safe_load(blocks("yaml")[0])
    codec = query_speech(**values["model"]["codec"]["init_args"])
    assert codec.spec.codebook_sizes == (1024,) * 8
    assert {callback["class_path"] for callback in values["trainer"]["callbacks"]} == {
        f"{CodebookUsage.__module__}.{CodebookUsage.__name__}"
    }


def test_the_training_of_the_yaml_builds(tmp_path):
    block = tmp_path / "block.yaml"
    block.write_text(blocks("yaml")[1])
    configs = ["--config", str(ROOT / "configs/audio/tiny_speech.yaml"), "--config", str(block)]
    task = CodecCLI(**{**settings(configs), "run": False}).model
    assert task.init_from == "speech_24khz" and task.accumulate == 4 and task.adversary.start == 2000
    assert set(task.objectives) == {"depth"} and task.frozen == ("encoder.front",)


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:\w+/)+(?:\w+\.\w+)?)`", README))))
def test_named_files_exist(path):
    assert (ROOT / path).exists()
