"""A codec to a folder of ONNX graphs, if they give the same codes."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.numpy

from sigtok.codecs.codec import Codec
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import Rate

from .graphs import OPSET, DecodeGraph, EncodeGraph, Graph, to_onnx
from .parity import AGREEMENT, TOLERANCE, Parity, measure
from .runtime import DECODER, ENCODER, FORMAT, RECORD, TABLES, OnnxCodec
from .walloc import graphs_of

SEED = 0


def write_onnx(
    codec: Codec, folder: str | os.PathLike[str], rate: Rate | None = None, trials: int = 50
) -> dict[str, Any]:
    """Write the graphs of a codec at one rate, and the record of what they were compared with.

    The graphs run in onnxruntime over ``trials`` batches of other extents before anything is written: the folder holds
    graphs that passed, or is as it was. With the graphs of a rate-distortion codec, which serve all its qualities, go
    the whole numbers of its entropy coder.

    Args:
        codec: On any device; it stays as it is.
        folder: Made if missing; ``encoder_model.onnx``, ``decoder_model.onnx``, ``tables.safetensors`` and
            ``onnx.json`` in it are replaced.
        rate: Window, queries and most codebooks of the graphs; None for all that the codec has. Its quality is the one
            that they have when nobody asks for another.
        trials: Batches compared.

    Returns:
        What ``onnx.json`` says.

    Raises:
        ValueError: If fewer than 99.9 % of the codes agree, or equal codes decode more than 1e-3 apart, with the
        figures;
            or the codec cannot be a graph, or its density is not frozen.
    """
    if trials < 1:
        raise ValueError(f"graphs are written after at least 1 trial, got {trials}")
    folder, rate = Path(folder), codec.spec.resolve(rate)
    identity = codec.stream_id or stream_id(codec)
    codec = copy.deepcopy(codec).cpu().eval().requires_grad_(False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as made:
        record = _write(codec, Path(made), rate, identity, trials)
        folder.mkdir(exist_ok=True)
        for name in (*record["files"], RECORD):
            os.replace(Path(made) / name, folder / name)
    return record


def _write(codec: Codec, folder: Path, rate: Rate, identity: bytes, trials: int) -> dict[str, Any]:
    """The folder, complete and compared."""
    properties = _properties(codec, identity)
    data, coder = {}, {}
    if codec.entropy is not None:
        data[TABLES] = safetensors.numpy.save(dict(codec.entropy.stored()), {"stream_id": identity.hex()})
        coder["entropy"] = {"kind": codec.entropy.kind, "settings": codec.entropy.settings()}
    for name, graph in zip((ENCODER, DECODER), _graphs(codec, rate), strict=True):
        data[name] = to_onnx(graph, properties)
    for name, content in data.items():
        (folder / name).write_bytes(content)
    files = {name: {"sha256": hashlib.sha256(each).hexdigest(), "bytes": len(each)} for name, each in data.items()}
    record = {
        "format": FORMAT,
        "library": properties["library"],
        "opset": OPSET,
        "spec": codec.spec.to_dict(),
        "rate": vars(rate),
        "stream_id": identity.hex(),
        "files": files,
        **coder,
    }
    _save(folder, record)
    exported = OnnxCodec(folder)
    parity = measure(codec, exported.encoder, exported.decoder, rate, trials, SEED)
    parity.check()
    record["parity"] = _figures(parity)
    _save(folder, record)
    return record


def _graphs(codec: Codec, rate: Rate) -> tuple[Graph, Graph]:
    """Of the encoder and the decoder."""
    return graphs_of(codec, rate) if codec.spec.qualities else (EncodeGraph(codec, rate), DecodeGraph(codec, rate))


def _properties(codec: Codec, identity: bytes) -> dict[str, str]:
    """What the graphs say about themselves."""
    spec = codec.spec
    return {
        "library": f"sigtok {version('sigtok')}",
        "model": spec.name,
        "stream_id": identity.hex(),
        "sample_rate": str(spec.sample_rate or ""),
        "hop": ",".join(map(str, spec.hop)),
        "codebook_sizes": ",".join(map(str, spec.codebook_sizes)),
    }


def _figures(parity: Parity) -> dict[str, Any]:
    return {
        "seed": SEED,
        "extents": [list(extent) for extent in parity.extents],
        **({"qualities": parity.qualities} if parity.qualities else {}),
        "codes": sum(parity.compared),
        "agreement": parity.agreement,
        "agreement_by_codebook": [
            equal / compared for equal, compared in zip(parity.equal, parity.compared, strict=True)
        ],
        "agreement_least": AGREEMENT,
        "difference": parity.difference,
        "tolerance": TOLERANCE,
    }


def _save(folder: Path, record: dict[str, Any]) -> None:
    (folder / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
