"""Folders of language models: `lm.json` and `model.safetensors`; data, never code.

`lm.json` says what the ids mean (codec by its stream id, rate, layout), the shape of the network, licence and training
data, measured figures, and the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch

from sigtok.codecs.pretrained import replace_file

from .ids import Language
from .network import Shape, TokenTransformer

FORMAT = 1
RECORD, WEIGHTS = "lm.json", "model.safetensors"
RECORD_BYTES = 2**20
FIELDS = ("format", "language", "shape", "weights_sha256", "licence", "training_data", "measured")


class LanguageModel(NamedTuple):
    """A network, and what its ids mean."""

    language: Language
    network: TokenTransformer


def save_language(
    model: LanguageModel,
    folder: str | os.PathLike[str],
    *,
    licence: str,
    training_data: str,
    measured: Mapping[str, Any],
) -> None:
    """Write a folder that `load_language` accepts, weights as float32; every file is whole or not there.

    Args:
        model: On any device.
        folder: Where to; made if missing, its files replaced.
        licence: Of the weights.
        training_data: What they were trained on.
        measured: Figures, by name.
    """
    tensors = {name: value.detach().cpu().float().contiguous() for name, value in model.network.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    record = {
        "format": FORMAT,
        "language": model.language.to_dict(),
        "shape": asdict(model.network.shape),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "licence": licence,
        "training_data": training_data,
        "measured": dict(measured),
    }
    text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / WEIGHTS, weights)
    replace_file(folder / RECORD, text.encode())


def load_language(folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> LanguageModel:
    """A released language model, in eval mode.

    Raises:
        ValueError: If the folder is none of one, damaged or not what it says.
    """
    folder = Path(folder)
    record = _record(folder / RECORD)
    where = folder / WEIGHTS
    if not where.is_file():
        raise ValueError(f"a language model has a file {WEIGHTS}, got none in {folder}")
    weights = where.read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    if digest != record["weights_sha256"]:
        raise ValueError(f"{where} should have SHA-256 {record['weights_sha256']}, got {digest}; fetch it again")
    try:
        language, shape = Language.from_dict(record["language"]), Shape(**record["shape"])
        tensors = safetensors.torch.load(weights)
        return LanguageModel(language, _network(language, shape, tensors).to(device).eval())
    except (ValueError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder}: not a language model of this version: {error}") from None


def _record(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"a language model has a file {RECORD}, got none in {path.parent}; sigtok-train release-lm")
    if path.stat().st_size > RECORD_BYTES:
        raise ValueError(f"{path} may have {RECORD_BYTES} bytes, got {path.stat().st_size}")
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON of a language model: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or set(record) != set(FIELDS):
        raise ValueError(f"{path} has format {FORMAT} and the fields {', '.join(FIELDS)}, got others; update sigtok")
    return record


def _network(language: Language, shape: Shape, tensors: dict[str, torch.Tensor]) -> TokenTransformer:
    """The network of these tensors; nothing is allocated before they are known to fit."""
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    if blocks != shape.depth:
        raise ValueError(f"{shape.depth} blocks are promised, the file has {blocks}")
    with torch.device("meta"):
        network = TokenTransformer(language.size, language.begin, shape)
    expected = network.state_dict()
    if different := sorted(set(expected) ^ set(tensors)):
        raise ValueError(f"the network has {len(expected)} tensors, missing or unknown are {different[:5]}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name} is float32 {list(expected[name].shape)}, got {tensor.dtype} {list(tensor.shape)}")
        if not tensor.isfinite().all():
            raise ValueError(f"weights are finite, got NaN or infinity in {name}")
    network.load_state_dict(tensors, assign=True)
    return network
