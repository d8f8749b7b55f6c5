"""Which model: by name, by folder, or by the identity that a file carries; checkpoints are refused."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sigtok.codecs.bitstream import BitstreamError, Header, Limits, read_header, salvage_header
from sigtok.codecs.codec import Codec
from sigtok.codecs.container_stream import header_of
from sigtok.codecs.control import at_quality
from sigtok.codecs.pretrained import bundled, describe, load, stream_id
from sigtok.codecs.spec import CodecSpec, Rate

from .exits import DATA, UNTRUSTED, USAGE, Failure, located
from .tables import shown

if TYPE_CHECKING:
    from sigtok.codecs.language.prior import TokenPrior

MAGIC = (b"\x89s", b"\x89S")  # packets, containers
CHECKPOINTS = frozenset({".ckpt", ".pt", ".pth", ".pkl", ".bin"})
CODINGS = ("fixed width", "granular", "own tables", "adaptive", "prior")  # by their number
FILE_BYTES = Limits().tokens * 4  # no file within the limits is larger


def check_model(name: str) -> None:
    """Raise Failure unless the name is a bundled model or a folder, and not one of checkpoints."""
    if name in bundled():
        return
    path = Path(name)
    if not path.exists():
        known = ", ".join(bundled()) or "none"
        raise Failure(USAGE, f"{name}: there is no such model or folder; bundled models: {known}")
    inside = [path] if path.is_file() else sorted(path.iterdir())
    if not (path / "spec.json").exists() and any(file.suffix in CHECKPOINTS for file in inside):
        raise Failure(
            UNTRUSTED,
            f"{name}: a model is a folder of spec.json and model.safetensors, got a checkpoint, which can "
            f"run code when it is loaded; where it was trained, make a folder of it: {_release(path)}",
        )
    if path.is_file():
        raise Failure(USAGE, f"{name}: a model is a folder, got a file; name the folder that holds spec.json")


def _release(path: Path) -> str:
    """The command that makes a model folder of a checkpoint; Lightning keeps its YAML two folders up."""
    config = path.parent.parent / "config.yaml"
    known = path.is_file() and config.is_file()
    words = ["--config", str(config) if known else "CONFIG.yaml"]
    words += ["--checkpoint", str(path) if path.is_file() else "CHECKPOINT.ckpt", "--out", "FOLDER"]
    return shlex.join(["sigtok-train", "release", *words])


def open_model(name: str, device: str = "cpu") -> Codec:
    """The codec of a name or folder.

    Raises:
        Failure: If there is none, its folder is damaged, or the device is not there.
    """
    check_model(name)
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise Failure(USAGE, f"--device {device}: is not available here ({reason}); use cpu") from error
    with _named(name):
        return load(name, chosen)


def spec_of(name: str) -> CodecSpec:
    """What a model promises, without its weights."""
    return CodecSpec.from_dict(record_of(name)["spec"])


def record_of(name: str) -> dict[str, Any]:
    """The ``spec.json`` of a model."""
    check_model(name)
    with _named(name):
        return describe(name)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors that begin with the model."""
    try:
        yield
    except ValueError as error:
        raise Failure(DATA, located(name, str(error))) from error


def resolve(
    spec: CodecSpec,
    codebooks: int | None,
    queries: int | None,
    window: int | None = None,
    shares: tuple[float, ...] | None = None,
) -> Rate:
    """The operating point that the command line asks for; the window is as long along every axis.

    Raises:
        Failure: If the model has no such rate.
    """
    shape = None if window is None else (window,) * len(spec.hop)
    try:
        return spec.resolve(Rate(codebooks=codebooks, queries=queries, window=shape, shares=shares))
    except ValueError as error:
        raise Failure(USAGE, f"{error}; choose a rate that it has") from error


def resolve_quality(codec: Codec, rate: Rate, quality: float | None) -> Rate:
    """The rate at a quality of the codec's ladder, if one is asked for.

    Raises:
        Failure: If the ladder has no such rung.
    """
    if quality is None:
        return rate
    try:
        return at_quality(codec, quality, rate)
    except ValueError as error:
        raise Failure(USAGE, str(error)) from error


def check_alone(option: str, given: object, codebooks: object, queries: object) -> None:
    """Raise Failure if an option that chooses codebooks and queries was given, and a number of them."""
    if given and (codebooks or queries):
        raise Failure(USAGE, f"{option} chooses queries and codebooks, got a number of them; leave one out")


def described(spec: CodecSpec, rate: Rate) -> str:
    """An operating point in words: what this codec can vary."""
    if spec.granular:
        return f"shares {','.join(f'{share:g}' for share in rate.shares)}"
    if spec.qualities:
        return f"quality {rate.quality:g}"
    several = {
        f"{rate.codebooks} codebooks": spec.num_codebooks > 1,
        f"{rate.queries} queries": spec.queries > 1,
        f"window {shown(rate.window)}": len(spec.windows) > 1,
    }
    return ", ".join(words for words, varies in several.items() if varies) or "its one rate"


def is_sgt(path: str) -> bool:
    """Whether a file begins as ``.sgt`` files do."""
    with open(path, "rb") as file:
        return file.read(2) in MAGIC


def read_file(path: str, salvage: bool = False) -> tuple[bytes, Header]:
    """The bytes of an ``.sgt`` file, and its header; to salvage it, the rest of the file may be damaged.

    Raises:
        BitstreamError: If it is another kind of file, or its header is damaged.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:2] not in MAGIC:
            raise BitstreamError(
                f"byte 0: an .sgt file begins with 89 53 or 89 73, got {head[:2].hex(' ') or 'nothing'}"
            )
        data = head + file.read(FILE_BYTES)
    return data, salvage_header(data) if salvage and head[:2] == MAGIC[1] else read_header(data)


def header_at(path: str) -> Header:
    """The header of an ``.sgt`` file, whose codes are not read.

    Raises:
        BitstreamError: If it is another kind of file, or its header is damaged.
    """
    with open(path, "rb") as file:
        return header_of(file)


def writer_of(header: Header) -> str | None:
    """The bundled model that wrote a file, if one did."""
    return bundled_of(header.stream_id.hex())


def bundled_of(identity: str) -> str | None:
    """The bundled model whose stream id begins with these hexadecimal digits, if there is one."""
    for name in bundled():
        if describe(name)["stream_id"].startswith(identity):
            return name
    return None


def open_prior(folder: str | None) -> TokenPrior | None:
    """The prior of a folder; None for none.

    Raises:
        Failure: If it is no folder of a language model, or damaged.
    """
    if folder is None:
        return None
    from sigtok.codecs.language.prior import load_prior

    if not folder or not Path(folder).is_dir():
        raise Failure(USAGE, f"{folder or '--prior'}: a prior is a folder, got none; make it: sigtok-train release-lm")
    with _named(folder):
        return load_prior(folder)


def at_rate_of(prior: TokenPrior | None, codec: Codec, rate: Rate, asked: bool) -> Rate:
    """The rate of a command: that of its prior, if it has one and asks for none.

    Raises:
        Failure: If the prior is of another model or rate.
    """
    if prior is None:
        return rate
    rate = rate if asked else prior.language.meaning.rate
    try:
        prior.check(codec.spec, rate, codec.stream_id or stream_id(codec))
    except ValueError as error:
        raise Failure(USAGE, f"--prior: {error}") from error
    return rate


class Models:
    """Codecs for files, each loaded once.

    Args:
        name: The model of all files; None to find it by what they carry.
        device: Where it runs.
    """

    def __init__(self, name: str | None, device: str) -> None:
        self.name, self.device = name, device
        self.loaded: dict[str, Codec] = {}
        if name is not None:
            self._open(name)

    def of(self, path: str, header: Header) -> Codec:
        """The codec of a file.

        Raises:
            Failure: If no bundled model wrote it and none was named.
        """
        name = self.name or writer_of(header)
        if name is None:
            known = ", ".join(bundled()) or "none"
            raise Failure(
                USAGE,
                f"{path}: written by model {header.stream_id.hex()}, which is none of the bundled ({known}); "
                f"name it with -m",
            )
        return self._open(name)

    def _open(self, name: str) -> Codec:
        if name not in self.loaded:
            self.loaded[name] = open_model(name, self.device)
        return self.loaded[name]


def plain(header: Header) -> dict[str, Any]:
    """What a header says, for JSON."""
    return {
        "modality": header.modality,
        "profile": header.profile,
        "stream_id": header.stream_id.hex(),
        "extent": list(header.extent),
        "codebooks": header.rate.codebooks,
        "queries": header.rate.queries,
        "window": list(header.rate.window or ()),
        "coding": CODINGS[header.coding],
        **({} if header.prior is None else {"prior": f"{header.prior:08x}"}),
        **({"quality": header.rate.quality} if header.rate.quality else {}),
        **({"streamed": True} if header.streamed else {}),
    }
