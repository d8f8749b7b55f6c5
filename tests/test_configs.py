"""Every YAML under configs/ builds, says what it is, and its codec reconstructs or its language model predicts."""

from pathlib import Path

import pytest
import torch
import yaml

from sigtok.codecs.language.network import TokenTransformer
from sigtok.train.cli import CodecCLI, settings

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
LANGUAGES = [path for path in CONFIGS if path.parent.name == "lm"]

MANIFEST = """file,kind,split,speaker,source
a.flac,speech,train,anna,here
b.flac,speech,val,bert,here
a.flac,music,train,,here
b.flac,music,val,,here
a.png,photo,train,,here
b.png,photo,val,,here
"""


def test_there_are_configs_for_both_signals_and_for_tokens():
    assert {path.parent.name for path in CONFIGS} == {"audio", "image", "lm"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_head_says_what_and_the_command(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"sigtok-train fit --config configs/{path.parent.name}/{path.name}" in line for line in head)
    assert any(line.startswith("# Expect") for line in head)


@pytest.mark.parametrize("path", LANGUAGES, ids=lambda path: path.stem)
def test_every_language_model_builds_and_predicts(path):
    cli = CodecCLI(**{**settings(["--config", str(path)]), "run": False})
    network = TokenTransformer(100, 90, cli.model.shape)
    assert network(torch.zeros(1, cli.datamodule.context, dtype=torch.int64)).shape[1] == cli.datamodule.context


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in LANGUAGES], ids=lambda path: path.stem)
def test_every_config_builds_and_reconstructs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = yaml.safe_load(path.read_text())["data"]["init_args"].get("manifest")
    if manifest:
        target = tmp_path / manifest
        target.parent.mkdir(parents=True)
        target.write_text(MANIFEST)
    if "FeatureFiles" in path.read_text():
        (tmp_path / "data/features").mkdir(parents=True)
        (tmp_path / "data/features/features.json").write_text('{"teacher": "mfcc", "frame_rate": 50, "channels": 39}')
    cli = CodecCLI(**{**settings(["--config", str(path)]), "run": False})
    spec = cli.model.codec.spec
    signal = 0.1 * torch.randn(1, spec.channels, *spec.step())
    with torch.no_grad():
        assert cli.model.codec.eval()(signal).signal.shape == signal.shape
