"""LPIPS: distance of pictures in the features of a network that classifies them (Zhang et al., arXiv 1801.03924).

Weights are always a file of the user, nothing here fetches any; `sigtok-train backbone` makes such a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from jaxtyping import Float
from torch import Tensor, nn

from .image import eight_bits
from .pairs import check_pair

LAYERS: dict[str, tuple[str, ...]] = {  # whose outputs are compared, by torchvision's names
    "alexnet": ("features.1", "features.4", "features.7", "features.9", "features.11"),
    "vgg16": ("features.3", "features.8", "features.15", "features.22", "features.29"),
    "squeezenet1_1": (
        "features.1", "features.4", "features.7", "features.9", "features.10", "features.11", "features.12"
    ),
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "convnext_small": ("features.1", "features.3", "features.5", "features.7"),
}  # fmt: skip
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # mean and deviation of ImageNet, for pixels in [-1, 1]
TINY = 1e-10  # beside the norm of features
HEAD = "heads."  # with a number, the name of a linear head in a file; all other names are torchvision's
RECORD = "perceptual"  # of the metadata: JSON with backbone, layers, source and licence
SMALL = 64  # pixels a side; no backbone fails on more
COMMAND = "`sigtok-train backbone SOURCE -o FILE.safetensors` (README, Perceptual loss)"


class LPIPS:
    """Squared differences of normalised features, weighed by channel, averaged over places, summed over layers.

    No module: whoever holds it has no further parameters and nothing more in its state dict.

    Args:
        name: Of the backbone, for messages.
        network: Pictures to features, one tensor ``[B, C, h, w]`` per layer, as a dict in order.
        heads: Weights ``[C]`` per layer; None weighs every channel of a layer by ``1 / C``.

    Raises:
        ValueError: When called, on other shapes than ``[B, 3 or 1, H, W]``, or pictures that are too small.
    """

    def __init__(self, name: str, network: nn.Module, heads: Sequence[Tensor] | None = None) -> None:
        self.name, self.network = name, network.eval().requires_grad_(False)
        self.heads = None if heads is None else [head.float() for head in heads]

    def __call__(
        self, reconstruction: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, " B"]:
        """The distance of every picture of pixels in [-1, 1]; 0 is equal. No gradient for the reference."""
        check_pair(reconstruction, reference)
        if reference.shape[1] not in (1, 3):
            raise ValueError(f"LPIPS sees pictures of 3 channels or 1, got {reference.shape[1]}; convert them")
        with torch.no_grad():
            truth = self.features(reference)
        total = reference.new_zeros(len(reference))
        for layer, (some, others) in enumerate(zip(self.features(reconstruction), truth, strict=True)):
            difference = (normalised(some) - normalised(others)).square().mean((-2, -1))
            weights = None if self.heads is None else self.heads[layer].to(difference)
            total = total + (difference.mean(-1) if weights is None else difference @ weights)
        return total

    def features(self, image: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """What each layer sees, ``[B, D, h, w]``."""
        self.network.to(image.device)
        shift, scale = (image.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        try:
            return list(self.network((image - shift) / scale).values())
        except RuntimeError as error:
            if min(image.shape[-2:]) >= SMALL:
                raise
            raise ValueError(
                f"{self.name} halves a picture again and again, got one of {tuple(image.shape[-2:])} pixels; "
                f"use pictures of at least {SMALL}"
            ) from error


def normalised(features: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
    """Features of length 1 at every place; nothing stays nothing, and has a gradient."""
    return features / (features.square().sum(1, keepdim=True).clamp_min(TINY**2).sqrt() + TINY)


def lpips(judge: LPIPS, reconstruction: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """LPIPS of the images rounded to 8 bits, the mean over images; 0 is equal, 0.5 hardly alike.

    A megapixel takes AlexNet 0.2 GB and VGG16 1.8 GB.
    """
    with torch.no_grad():
        pair = (eight_bits(image) / 127.5 - 1 for image in (reconstruction, reference))
        return judge(*pair).mean().item()


# -- from files ------------------------------------------------------------------------------------------------


def load_lpips(
    weights: str | os.PathLike[str],
    backbone: str | None = None,
    heads: str | os.PathLike[str] | None = None,
    layers: Sequence[str] | None = None,
) -> LPIPS:
    """LPIPS from files.

    Args:
        weights: Of the backbone: a file of ``sigtok-train backbone``, or a state dict of torchvision, of the whole
            model or of what stands under ``features``, as safetensors or ``.pth``.
        backbone: torchvision's name of a classification model; None takes the name that the file says.
        heads: Linear heads: a ``.pth`` of the package lpips (``lpips/weights/v0.1``), or a file of ours. None takes
            those in ``weights``, if there are any.
        layers: Names of modules of the backbone whose outputs are compared; None takes the usual ones.

    Raises:
        ValueError: If a file is missing or holds something else, or there is no such model or layer.
    """
    tensors, record = read_tensors(weights)
    name = backbone or record.get("backbone")
    if name is None:
        raise ValueError(f"{weights}: says nothing of its backbone; name it, or make the file with {COMMAND}")
    if record.get("backbone", name) != name:
        raise ValueError(f"{weights}: holds {record['backbone']}, got backbone {name}; name the file of {name}")
    chosen = tuple(layers or record.get("layers") or LAYERS.get(name, ()))
    network = extractor(name, chosen)
    fill(network, tensors, f"{weights}", name)
    channels = widths(network, name)
    found = head_weights(tensors if heads is None else read_tensors(heads)[0])
    if heads is not None and not found:
        raise ValueError(f"{heads}: linear heads are tensors lin0, lin1, ..., got none; name lpips/weights/v0.1/*.pth")
    if found:
        check_heads(found, channels, f"{heads or weights}", name)
    return LPIPS(name, network, found or None)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name of a file, safetensors or a state dict, and what a file of ours says of itself.

    Raises:
        ValueError: If there is no such file, or it is neither.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: weights of a backbone are a file, got none there; make one with {COMMAND}")
    try:
        if Path(path).suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as file:
                record = json.loads((file.metadata() or {}).get(RECORD, "{}"))
                return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118 - no mapping
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of three libraries
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: weights are safetensors or a state dict, this is not read ({reason:.200}); make a file with "
            f"{COMMAND}"
        ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path}: a state dict is tensors by name, got something else; save model.state_dict()")
    return dict(state), {}


def extractor(name: str, layers: Sequence[str]) -> nn.Module:
    """A torchvision model without weights, cut after the last of some layers; it returns their outputs by name.

    Raises:
        ValueError: If torchvision is not installed, or has no such model, or the model no such layer.
    """
    try:
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor
    except ImportError:
        raise ValueError("LPIPS needs torchvision, which is not here; pip install 'sigtok[train]'") from None
    if name not in (known := models.list_models(module=models)):
        raise ValueError(f"a backbone is one of {len(known)} models of torchvision ({', '.join(LAYERS)}), got {name!r}")
    with torch.device("meta"):  # weights come from a file
        network = models.get_model(name, weights=None).eval()
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # or it would change what was just kept
    inside = {place for place, _ in network.named_modules() if place}
    if not layers or not inside.issuperset(layers):
        wrong = sorted(set(layers) - inside) or "none"
        raise ValueError(f"layers are modules of {name}, such as {sorted(inside)[:3]}, got {wrong}; name some of it")
    return create_feature_extractor(network, list(layers), suppress_diff_warning=True)


def fill(network: nn.Module, tensors: Mapping[str, Tensor], file: str, name: str) -> None:
    """Give a network without weights those of a file, whatever else the file holds.

    Raises:
        ValueError: If one is missing or has another shape.
    """
    found = {}
    for key, empty in network.state_dict().items():
        tensor = tensors.get(key, tensors.get(key.removeprefix("features.")))
        if tensor is None or tensor.shape != empty.shape:
            got = "none" if tensor is None else list(tensor.shape)
            raise ValueError(
                f"{file}: weights of {name} have {key} {list(empty.shape)}, got {got}; name the file of {name}, or "
                f"make one with {COMMAND}"
            )
        found[key] = tensor.to(empty.dtype)
    network.load_state_dict(found, assign=True)


def head_weights(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Linear heads ``[C]`` in order: ``heads.0``, ... of ours, ``lin0.model.1.weight``, ... of the package lpips."""
    heads: list[Tensor] = []
    while True:
        number = len(heads)
        names = (f"{HEAD}{number}", f"lin{number}.model.1.weight", f"lin{number}.model.0.weight")
        head = next((tensors[name] for name in names if name in tensors), None)
        if head is None:
            return heads
        heads.append(head.flatten().float())


def check_heads(heads: Sequence[Tensor], channels: Sequence[int], file: str, name: str) -> None:
    """Raise ValueError unless there is one head per layer, of its channels, without negative weights."""
    if (got := [len(head) for head in heads]) != list(channels):
        raise ValueError(f"{file}: heads of {name} have {list(channels)} channels, got {got}; name those of {name}")
    if any(not (head >= 0).all() for head in heads):
        raise ValueError(f"{file}: heads weigh by 0 or more, got less; a distance would be negative")


def widths(network: nn.Module, name: str) -> list[int]:
    """Channels of each layer's output, found by a small grey picture.

    Raises:
        ValueError: If the network takes no such picture, or a layer's output is no ``[B, C, h, w]``.
    """
    try:
        with torch.no_grad():
            found = network(torch.zeros(1, 3, SMALL, SMALL)).values()
            return [width for _, width, _, _ in (features.shape for features in found)]
    except Exception as error:  # whatever a network raises
        raise ValueError(
            f"layers of a backbone are [B, C, h, w] of pictures of any size, those of {name} are not "
            f"({error!s:.100}); take a convolutional one"
        ) from None
