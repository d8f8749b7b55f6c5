"""Full precision inside a transform: mixed-precision training must not round a basis to 8 bits."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half-precision values in float32; float32 and float64 stay."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def no_autocast(values: Tensor) -> AbstractContextManager[object]:
    """A context without autocast, and nothing at all where none is on, so that graphs export clean."""
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
