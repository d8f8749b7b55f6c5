"""`sigtok-train fit | validate | test | predict`, and tools without a trainer: YAML to a run, mistakes to one line."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from . import backbones, codebooks, curves, features, prior, release, release_language
from .task import CodecTask

COMMANDS = {  # without a trainer
    "codebooks": codebooks.main,
    "curves": curves.main,
    "features": features.main,
    "prior": prior.main,
    "backbone": backbones.main,
    "release": release.main,
    "release-lm": release_language.main,
}
MISTAKES = (ArgumentError, MisconfigurationException, ValueError, TypeError, ArithmeticError, RuntimeError, OSError)


class CodecCLI(LightningCLI):
    """LightningCLI that takes settings from the YAML and the command line only, and says what is wrong in a line."""

    trainer: Any = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One word for what a run that trains a codec starts from."""
        if self.subclass_mode_model:
            return
        parser.add_argument("--init_from", type=str | None, help="Released model or checkpoint to start from.")
        parser.link_arguments("init_from", "model.init_from")

    def _parse_ckpt_path(self) -> None:
        """Leave the settings alone: Lightning would let those inside a resumed checkpoint win, silently."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    A mistake found before the first step is done ends in one line and exit code 2; set ``SIGTOK_TRACEBACK=1`` to see
    where it was found. Later errors keep their traceback.

    Args:
        arguments: Words of the command line, those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in COMMANDS:
        return COMMANDS[words[0]](words[1:])
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")  # it does what it says
    cli = CodecCLI.__new__(CodecCLI)
    try:
        cli.__init__(**settings(arguments))  # type: ignore[misc]
    except MISTAKES as error:
        under_way = cli.trainer is not None and cli.trainer.global_step > 0
        if under_way or os.environ.get("SIGTOK_TRACEBACK"):
            raise
        sys.stderr.write(f"sigtok-train: error: {one_line(error)}\n")
        raise SystemExit(2) from None


def settings(arguments: Sequence[str] | None) -> dict[str, Any]:
    """What makes LightningCLI ours; the model is a `CodecTask`, unless a configuration names another class."""
    named = names_task(sys.argv[1:] if arguments is None else arguments)
    return {
        "model_class": LightningModule if named else CodecTask,
        "subclass_mode_model": named,
        "datamodule_class": LightningDataModule,
        "subclass_mode_data": True,
        "seed_everything_default": 0,
        "save_config_kwargs": {"overwrite": True},
        "auto_configure_optimizers": False,
        "parser_kwargs": {"exit_on_error": False},
        "args": None if arguments is None else list(arguments),
    }


def names_task(words: Sequence[str]) -> bool:
    """Whether a YAML among the words has ``model.class_path``; what is no YAML is refused where it is read."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    paths = [word.partition("=")[2] or after for word, after in pairs if word.partition("=")[0] in ("--config", "-c")]
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                values = yaml.safe_load(file)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        model = values.get("model") if isinstance(values, dict) else None
        if isinstance(model, dict) and "class_path" in model:
            return True
    return False


def one_line(error: Exception) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
