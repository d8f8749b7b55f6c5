"""Parts of a codec by the beginning of their weights' names: which are frozen, and how fast the others learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def belongs(name: str, part: str) -> bool:
    """Whether a weight is in a part: "encoder.front" holds "encoder.front.project.weight"."""
    return name == part or name.startswith(f"{part}.")


def check_parts(codec: nn.Module, parts: Iterable[str]) -> None:
    """Raise ValueError if a part holds nothing of the codec."""
    names = list(codec.state_dict())
    for part in parts:
        if not any(belongs(name, part) for name in names):
            known = sorted({".".join(name.split(".")[:2]) for name in names})
            raise ValueError(f"parts of this codec are {known} and what is inside them, got {part!r}")


def freeze(codec: nn.Module, parts: Sequence[str]) -> None:
    """Take the weights of some parts out of training."""
    check_parts(codec, parts)
    for name, weight in codec.named_parameters():
        if any(belongs(name, part) for part in parts):
            weight.requires_grad_(False)


def hold(codec: nn.Module, parts: Sequence[str]) -> None:
    """Put modules of frozen parts in eval mode: running statistics and codebooks stay as they are."""
    for name, module in codec.named_modules():
        if any(belongs(name, part) for part in parts):
            module.eval()


def parameter_groups(named: Iterable[tuple[str, Tensor]], scales: Mapping[str, float]) -> list[dict[str, Any]]:
    """Groups of an optimizer: by the scale of the learning rate, and by whether weight decay applies.

    It applies to matrices, not to biases, norms, gains and codebooks. Of several parts that hold a weight, the
    longest name has the say.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, weight in named:
        found = [part for part in scales if belongs(name.removeprefix("codec."), part)]
        scale = scales[max(found, key=len)] if found else 1.0
        groups.setdefault((scale, weight.ndim > 1 and "codebook" not in name), []).append(weight)
    return [{"params": weights, "scale": scale, "decays": decays} for (scale, decays), weights in groups.items()]
