"""A language model out of its run: ``sigtok-train release-lm --checkpoint K --out FOLDER``."""

from __future__ import annotations

import sys
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from sigtok.codecs.language.folder import LanguageModel, save_language
from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.network import Shape, TokenTransformer

from .initial import inside, read_checkpoint
from .language import LANGUAGE


def release_language(
    checkpoint: str,
    out: str,
    licence: str = "Apache-2.0",
    training_data: str = "not stated",
    measured: dict[str, Any] | None = None,
) -> None:
    """Write the language model of a run as a folder that ``sigtok generate`` reads.

    Args:
        checkpoint: Lightning checkpoint; it says what its ids mean.
        out: Folder to write.
        licence: Of the weights.
        training_data: What they were trained on.
        measured: Figures by name.
    Raises:
        ValueError: If the file is no checkpoint of a language model.
    """
    stored = read_checkpoint(checkpoint, "network")
    values = stored.get(LANGUAGE)
    if not isinstance(values, dict):
        raise ValueError(f"{checkpoint} does not say what its ids mean; name one of a LanguageTask")
    language, shape = Language.from_dict(values), Shape(**values["shape"])
    network = TokenTransformer(language.size, language.begin, shape)
    network.load_state_dict(inside(stored["state_dict"], "network."))
    model = LanguageModel(language, network)
    save_language(model, out, licence=licence, training_data=training_data, measured=measured or {})


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; a mistake ends in one line and exit code 2."""
    parser = ArgumentParser(prog="sigtok-train release-lm", description=__doc__, exit_on_error=False)
    parser.add_function_arguments(release_language)
    try:
        release_language(**parser.parse_args(arguments).as_dict())
    except (ArgumentError, ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
        sys.stderr.write(f"sigtok-train release-lm: error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None
