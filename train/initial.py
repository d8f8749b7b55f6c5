"""Where a run starts from: the weights of a released model or of another run's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from sigtok.codecs.pretrained import load, locate

from .parts import belongs

TRAIN_STATE = "train_state.safetensors"  # in a released folder: discriminators, for those who train on


def stored_weights(source: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the codec and, where they were kept, of the adversary, from a checkpoint or a released model.

    Raises:
        ValueError: If the source is neither.
    """
    path = Path(source)
    if path.is_file():
        tensors = checkpoint_weights(path)
        return inside(tensors, "codec."), inside(tensors, "adversary.")
    codec = load(source)
    state = locate(source) / TRAIN_STATE
    return codec.state_dict(), inside(safetensors.torch.load_file(state), "adversary.") if state.is_file() else {}


def checkpoint_weights(path: str | Path) -> dict[str, Tensor]:
    """All weights of a run, averaged ones if it averaged; nothing in the file is executed.

    Raises:
        ValueError: If the file is not a checkpoint of one that trained a codec.
    """
    return read_checkpoint(path, "codec")["state_dict"]


def read_checkpoint(path: str | Path, part: str) -> dict[str, Any]:
    """A checkpoint with weights of that part; nothing in the file is executed.

    Raises:
        ValueError: If it is none.
    """
    if not Path(path).is_file():
        raise ValueError(f"a checkpoint is a file, got none at {path}")
    try:
        stored = torch.load(path, weights_only=True, map_location="cpu")
    except Exception:  # whatever other bytes make of it
        stored = None
    tensors = stored.get("state_dict") if isinstance(stored, dict) else None
    if not isinstance(tensors, dict) or not any(name.startswith(f"{part}.") for name in tensors):
        raise ValueError(f"{path} is no checkpoint of sigtok-train with a {part}; name a .ckpt that a run has written")
    return stored


def inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def initialise(module: nn.Module, tensors: Mapping[str, Tensor], source: str, fresh: Sequence[str] = ()) -> None:
    """Take all weights of a module from elsewhere, except those of parts that start fresh.

    Raises:
        ValueError: If a weight is missing there, has another shape, or is not of this module.
    """
    state = module.state_dict()
    wanted = {name for name in state if not any(belongs(name, part) for part in fresh)}
    given = {name for name in tensors if not any(belongs(name, part) for part in fresh)}
    if different := sorted(wanted ^ given):
        raise ValueError(
            f"{source} should hold the {len(wanted)} tensors of this codec, missing or unknown there are "
            f"{different[:5]}; name what may start anew under model.fresh"
        )
    for name in wanted:
        if tensors[name].shape != state[name].shape:
            raise ValueError(
                f"{name} has shape {list(state[name].shape)}, in {source} {list(tensors[name].shape)}; the codec of "
                f"the YAML and the one there differ"
            )
    module.load_state_dict({**state, **{name: tensors[name].to(state[name]) for name in wanted}})
