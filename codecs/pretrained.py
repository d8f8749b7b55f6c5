"""Model folders: `spec.json`, `model.safetensors` and `README.md`; data, never code.

``spec.json`` names a builder of a literal table and its plain arguments, and holds what the built codec must
equal: its spec, the SHA-256 of the weights file, and the stream id that its files are signed with.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .codec import Codec
from .spec import CodecSpec

BUILDERS: dict[str, tuple[str, str]] = {
    "almtokenizer": ("sigtok.codecs.audio.models", "almtokenizer"),
    "frame_speech": ("sigtok.codecs.audio.models", "frame_speech"),
    "query_speech": ("sigtok.codecs.audio.models", "query_speech"),
    "query_voice": ("sigtok.codecs.audio.models", "query_voice"),
    "elastic_image": ("sigtok.codecs.image.models", "elastic_image"),
    "elastic_speech": ("sigtok.codecs.audio.models", "elastic_speech"),
    "query_image": ("sigtok.codecs.image.models", "query_image"),
    "multiscale_image": ("sigtok.codecs.image.models", "multiscale_image"),
    "cascaded_image": ("sigtok.codecs.image.models", "cascaded_image"),
    "granular_image": ("sigtok.codecs.image.models", "granular_image"),
    "compact_image": ("sigtok.codecs.image.models", "compact_image"),
    "walloc_stereo": ("sigtok.codecs.audio.models", "walloc_stereo"),
    "walloc_image": ("sigtok.codecs.image.models", "walloc_image"),
    "vqgan_image": ("sigtok.codecs.image.models", "vqgan_image"),
    "semantic_features": ("sigtok.codecs.audio.models", "semantic_features"),
}
WEIGHTS = Path(__file__).parent / "weights"  # the bundled models
FORMAT = 1
RECORD_BYTES = 2**20  # the most that spec.json may hold
LARGEST_ARGUMENT, DEEPEST_ARGUMENT = 2**20, 8  # no width, size or count of ours comes near
_KINDS: dict[str, Any] = {
    "format": int, "builder": str, "arguments": dict, "spec": dict, "stream_id": str, "weights_sha256": str,
    "licence": str, "training_data": (str, list), "measured": dict,
}  # fmt: skip


def load(name_or_folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> Codec:
    """A released codec, in eval mode, float32.

    Args:
        name_or_folder: The name of a bundled model, or a model folder; ``./name`` is always a folder.
        device: Where it runs.

    Raises:
        ValueError: If there is no such model, or its folder is damaged, incomplete or not what it says.
    """
    folder = locate(name_or_folder)
    record = describe(folder)
    return _build(record, _read(folder / "model.safetensors"), str(folder)).to(device)


def save(
    codec: Codec,
    folder: str | os.PathLike[str],
    *,
    builder: str,
    arguments: Mapping[str, Any],
    licence: str,
    training_data: str | list[str],
    measured: Mapping[str, Any],
    card: str,
    half: bool = True,
) -> None:
    """Write a model folder that `load` accepts; every file is whole or not there.

    Args:
        codec: The codec, on any device.
        folder: Where to; made if missing, its files replaced.
        builder: A key of `BUILDERS`.
        arguments: Plain values from which the builder makes a codec of the same spec.
        licence: Of the weights.
        training_data: What they were trained on.
        measured: Figures, by name.
        card: The text of ``README.md``.
        half: Store floating tensors as float16 where their range allows it: half the bytes, rounded here, computed in
            float32.

    Raises:
        ValueError: If `load` would refuse the folder: another spec, weights not finite or too large.
    """
    tensors = _stored(codec, half)
    weights = safetensors.torch.save(tensors)
    loaded = {name: _float32(tensor) for name, tensor in tensors.items()}
    record = {
        "format": FORMAT,
        "builder": builder,
        "arguments": dict(arguments),
        "spec": codec.spec.to_dict(),
        "stream_id": _identity(codec.spec, loaded).hex(),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "licence": licence,
        "training_data": training_data,
        "measured": dict(measured),
    }
    try:
        text = json.dumps(record, indent=2, allow_nan=False) + "\n"
    except TypeError as error:
        raise ValueError(f"a model folder holds plain values: {error}") from None
    _build(_parse(text.encode(), "this codec"), weights, "this codec")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "model.safetensors", weights)
    replace_file(folder / "README.md", card.encode())
    replace_file(folder / "spec.json", text.encode())


def stream_id(codec: Codec) -> bytes:
    """What gives a codec's files their meaning: spec, quantizer, decoder and entropy coder as they are now, 16 bytes.

    The first half of SHA-256 over ``sgt-id-1``, the spec's digest, and name, type, shape and little-endian
    float32 (or integer) values of the tensors of quantizer, decoder and entropy coder, by name. The encoder may change.
    """
    return _identity(codec.spec, codec.state_dict())


def bundled() -> tuple[str, ...]:
    """Names of the models that come with the library."""
    return tuple(sorted(path.parent.name for path in WEIGHTS.glob("*/spec.json")))


def describe(name_or_folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``spec.json`` says (licence, training data, measured figures, ...), without building the model.

    Raises:
        ValueError: If there is no such model, or the file is not of this format.
    """
    path = locate(name_or_folder) / "spec.json"
    return _parse(_read(path, RECORD_BYTES + 1), str(path))


def locate(name_or_folder: str | os.PathLike[str]) -> Path:
    """The folder of a model, given by name or by path.

    Raises:
        ValueError: If there is no such model.
    """
    name = os.fspath(name_or_folder)
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name)
    if isinstance(name_or_folder, str) and plain and (WEIGHTS / name / "spec.json").is_file():
        return WEIGHTS / name
    if os.path.isdir(name):
        return Path(name)
    known = ", ".join(bundled()) or "none"
    raise ValueError(f"{name[:200]!r} is no model folder and no bundled model; bundled: {known}")


def _read(path: Path, most: int = -1) -> bytes:
    if not path.is_file():
        raise ValueError(f"a model folder has a file {path.name}, got none in {path.parent}")
    with path.open("rb") as file:
        return file.read(most)


# -- reading ---------------------------------------------------------------------------------------------


def _parse(text: bytes, where: str) -> dict[str, Any]:
    if len(text) > RECORD_BYTES:
        raise ValueError(f"{where} may have {RECORD_BYTES} bytes, got more")
    try:
        record = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON of a model: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or record["format"] is True:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{where} has format {found!r}, this version reads {FORMAT}; update sigtok")
    if different := sorted(set(record) ^ set(_KINDS)):
        raise ValueError(f"{where} has the fields {sorted(_KINDS)}, missing or unknown are {different[:5]}")
    for name, kind in _KINDS.items():
        if not isinstance(record[name], kind):
            raise ValueError(f"{where}: {name} has another type, got {type(record[name]).__name__}")
    for name, size in (("stream_id", 32), ("weights_sha256", 64)):
        if not re.fullmatch(f"[0-9a-f]{{{size}}}", record[name]):
            raise ValueError(f"{where}: {name} is {size} hexadecimal digits, got {record[name][:80]!r}")
    if record["builder"] not in BUILDERS:
        raise ValueError(f"{where}: builders are {sorted(BUILDERS)}, got {record['builder'][:80]!r}; update sigtok")
    _check_arguments(record["arguments"], where)
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"a key stands twice among {[name for name, _ in pairs][:20]}")
    return values


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _check_arguments(value: Any, where: str, depth: int = 0) -> None:
    if depth > DEEPEST_ARGUMENT:
        raise ValueError(f"{where}: arguments may be {DEEPEST_ARGUMENT} lists deep, got more")
    if isinstance(value, (int, float)) and abs(value) > LARGEST_ARGUMENT:
        raise ValueError(f"{where}: an argument may be up to {LARGEST_ARGUMENT}, got {value!r:.80}")
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_arguments(item, where, depth + 1)


def _build(record: dict[str, Any], weights: bytes, where: str) -> Codec:
    """The codec of a record, equal to all that the record says, or a ValueError."""
    digest = hashlib.sha256(weights).hexdigest()
    if digest != record["weights_sha256"]:
        raise ValueError(
            f"{where}: model.safetensors should have SHA-256 {record['weights_sha256']}, got {digest}; fetch it again"
        )
    try:
        tensors = safetensors.torch.load(weights)
    except Exception as error:  # untrusted bytes
        raise ValueError(f"{where}: model.safetensors is not a safetensors file: {error}") from None
    codec = _call_builder(record, where)
    _check_spec(codec.spec, record["spec"], where)
    _load_tensors(codec, tensors, where)
    identity = stream_id(codec)
    if identity.hex() != record["stream_id"]:
        raise ValueError(f"{where} should have stream id {record['stream_id']}, its weights give {identity.hex()}")
    codec.stream_id = identity
    return codec.eval()


def _call_builder(record: dict[str, Any], where: str) -> Codec:
    module, function = BUILDERS[record["builder"]]
    builder = getattr(import_module(module), function)
    try:
        with torch.random.fork_rng(devices=[]):  # initial values are overwritten; the caller's dice stay
            return builder(**record["arguments"])
    except Exception as error:  # untrusted arguments
        raise ValueError(f"{where}: {record['builder']} refuses its arguments: {error}") from error


def _check_spec(built: CodecSpec, values: dict[str, Any], where: str) -> None:
    try:
        stored = CodecSpec.from_dict(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: its spec is none: {error}") from None
    for field in fields(CodecSpec):
        value, found = getattr(stored, field.name), getattr(built, field.name)
        if value != found:
            raise ValueError(f"{where}: {field.name} of its spec is {value!r:.200}, its builder gives {found!r:.200}")


def _load_tensors(codec: Codec, tensors: dict[str, Tensor], where: str) -> None:
    expected = codec.state_dict()
    if different := sorted(set(expected) ^ set(tensors)):
        raise ValueError(
            f"{where}: the model has {len(expected)} tensors, the file {len(tensors)}; missing or unknown "
            f"are {different[:5]}"
        )
    for name, tensor in tensors.items():
        kinds = {expected[name].dtype} | ({torch.float16} if expected[name].is_floating_point() else set())
        if tensor.shape != expected[name].shape or tensor.dtype not in kinds:
            raise ValueError(
                f"{where}: {name} is {expected[name].dtype} {tuple(expected[name].shape)}, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where}: weights are finite, got NaN or infinity in {name}")
    codec.load_state_dict(tensors, strict=True)


# -- writing ---------------------------------------------------------------------------------------------


def _stored(codec: Codec, half: bool) -> dict[str, Tensor]:
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in codec.state_dict().items()}
    if half:
        tensors = {name: _half(tensor) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    return tensors


def _half(tensor: Tensor) -> Tensor:
    """As float16, unless a finite value has no place there."""
    half = tensor.half()
    return half if torch.equal(half.isfinite(), tensor.isfinite()) else tensor


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _identity(spec: CodecSpec, tensors: Mapping[str, Tensor]) -> bytes:
    digest = hashlib.sha256(b"sgt-id-1\0" + spec.digest())
    for name in sorted(tensors):
        if name.startswith(("quantizer.", "decoder.", "entropy.")):
            values = _float32(tensors[name].detach().cpu()).contiguous().numpy()
            little = values.astype(values.dtype.newbyteorder("<"))
            digest.update(f"{name}\0{little.dtype.name}\0{little.shape}\0".encode())
            digest.update(little.tobytes())
    return digest.digest()[:16]


def replace_file(path: Path, data: bytes) -> None:
    """The file with these bytes, or the file as it was: written beside it, synced, renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
