"""A training run to a model folder: ``sigtok-train release --config C --checkpoint K --out FOLDER``."""

import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from sigtok.codecs.codec import Codec
from sigtok.codecs.pretrained import BUILDERS, describe, save

from .initial import TRAIN_STATE, checkpoint_weights, inside

LOAD = "sigtok.codecs.pretrained.load"


def release(
    config: str,
    checkpoint: str,
    out: str,
    licence: str = "Apache-2.0",
    training_data: str = "not stated",
    measured: dict[str, Any] | None = None,
    card: str | None = None,
    half: bool = True,
    train_state: bool = False,
) -> None:
    """Write the codec of a run as a folder that `sigtok.codecs.pretrained.load` reads.

    Args:
        config: YAML of the run; the ``config.yaml`` in its log folder has every value.
        checkpoint: Lightning checkpoint; its weights are the averaged ones if the run averaged.
        out: Folder to write.
        licence: Of the weights.
        training_data: What they were trained on.
        measured: Figures by name.
        card: File with the model card; a short one is written without it.
        half: Store parameters as float16.
        train_state: Store the discriminators beside them, for runs that start from this model with ``--init_from``.
    Raises:
        ValueError: If the codec is not made by a builder that `load` knows, or the weights are not of this codec.
    """
    settings = codec_settings(config)
    builder, arguments = recipe(settings)
    codec = build(settings)
    load_weights(codec, checkpoint)
    if codec.entropy is not None:
        codec.entropy.freeze()
    adversary = inside(checkpoint_weights(checkpoint), "adversary.")
    if train_state and not adversary:
        raise ValueError(f"the state of training is the discriminators, {checkpoint} has none")
    text = Path(card).read_text() if card else short_card(codec, licence, training_data, measured or {})
    save(
        codec,
        out,
        builder=builder,
        arguments=arguments,
        licence=licence,
        training_data=training_data,
        measured=measured or {},
        card=text,
        half=half,
    )
    if train_state:
        stored = {f"adversary.{name}": value.half() if half else value for name, value in adversary.items()}
        safetensors.torch.save_file(stored, Path(out) / TRAIN_STATE)


def codec_settings(config: str) -> Namespace:
    """Class path and arguments of the codec in a YAML, checked, defaults filled in."""
    values = yaml.safe_load(Path(config).read_text())
    if not isinstance(values, dict) or "codec" not in (values.get("model") or {}):
        raise ValueError(f"the YAML of a run has model.codec, got none in {config}; pass its config.yaml")
    return codec_parser().parse_object({"codec": values["model"]["codec"]})


def codec_parser() -> ArgumentParser:
    """A parser of one codec."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--codec", type=Codec)
    return parser


def build(settings: Namespace) -> Codec:
    """The codec of checked settings, with fresh weights."""
    return codec_parser().instantiate_classes(settings).codec


def recipe(settings: Namespace) -> tuple[str, dict[str, Any]]:
    """Builder name and plain arguments, those of the source if the run fine-tuned a released model."""
    arguments = settings.codec.get("init_args", Namespace()).as_dict()
    if settings.codec.class_path == LOAD:
        record = describe(arguments["name_or_folder"])
        return record["builder"], record["arguments"]
    paths = {f"{module}.{function}": name for name, (module, function) in BUILDERS.items()}
    if settings.codec.class_path not in paths:
        raise ValueError(
            f"a released codec is made by one of {sorted(paths)}, got {settings.codec.class_path}; "
            f"add the builder to sigtok.codecs.pretrained.BUILDERS"
        )
    return paths[settings.codec.class_path], without_artefacts(arguments)


def without_artefacts(value: Any) -> Any:
    """Arguments without files that a quantizer was started from: their contents are among the weights."""
    if isinstance(value, dict):
        return {key: without_artefacts(part) for key, part in value.items() if key != "artefacts"}
    return [without_artefacts(part) for part in value] if isinstance(value, list) else value


def load_weights(codec: Codec, checkpoint: str) -> None:
    """Take the codec's tensors out of a Lightning checkpoint; nothing in it is executed."""
    try:
        codec.load_state_dict(inside(checkpoint_weights(checkpoint), "codec."))
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} holds another codec than the YAML describes: {error}") from None


def short_card(codec: Codec, licence: str, training_data: str, measured: dict[str, Any]) -> str:
    """A model card of what is known."""
    spec = codec.spec
    lines = [f"# {spec.name}", "", f"- licence: {licence}", f"- training data: {training_data}"]
    lines += [f"- {spec.modality}, codebooks {spec.codebook_sizes}, hop {spec.hop}, windows {spec.windows}"]
    return "\n".join(lines + [f"- {name}: {value}" for name, value in measured.items()]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Run from the command line; a mistake ends in one line and exit code 2."""
    parser = ArgumentParser(prog="sigtok-train release", description=__doc__)
    parser.add_function_arguments(release)
    try:
        release(**parser.parse_args(arguments).as_dict())
    except (ArgumentError, yaml.YAMLError, ValueError, TypeError, OSError) as error:
        sys.stderr.write(f"sigtok-train release: error: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
