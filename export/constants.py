"""Constants of float64 in ONNX graphs: torch's exporter writes every number of a formula as float32, whatever it meets.

A wavelet's filter is then 1e-7 off. These translations of three operators keep all 53 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import ir, opset18


def _scalar(s: float, dtype: int = 1, layout: str = "", device: str = "", pin_memory: bool = False) -> Any:
    return opset18.Constant(value=ir.tensor(s, dtype=ir.DataType(dtype)))


def _add(self: Any, other: Any, alpha: float = 1.0) -> Any:
    return opset18.Add(self, _times(other, alpha))


def _sub(self: Any, other: Any, alpha: float = 1.0) -> Any:
    return opset18.Sub(self, _times(other, alpha))


def _times(values: Any, factor: float) -> Any:
    return values if factor == 1 else opset18.Mul(values, opset18.Constant(value=ir.tensor(factor, values.dtype)))


EXACT: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.scalar_tensor.default: _scalar,
    torch.ops.aten.add.Tensor: _add,
    torch.ops.aten.sub.Tensor: _sub,
}
