"""A long signal in pieces, with the state of a stream between them: bounded memory, the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

State = Any  # nested tuples of tensors: what a stream carries from chunk to chunk

PIECE = 64  # windows worked on at once on long signals: seconds of audio, tens of megabytes


def in_pieces(
    step: Callable[[Tensor, State], tuple[Tensor, State]], whole: Tensor, size: int, axis: int, state: State
) -> tuple[list[Tensor], State]:
    """What a step makes of pieces of ``size`` along an axis, one after another, and the state after the last."""
    parts = []
    for piece in whole.split(size, dim=axis):
        part, state = step(piece, state)
        parts.append(part)
    return parts, state
