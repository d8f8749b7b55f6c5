"""The modules that become ONNX graphs: signal to dense codes, dense codes to signal.

Whole windows at once, real arithmetic, no loop and no branch: batch and extent stay symbols. `runtime` documents
names and shapes.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import onnx
import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch.export import Dim

from sigtok.codecs.codec import Codec, pad_to
from sigtok.codecs.spec import Rate

from .constants import EXACT
from .runtime import names_of

OPSET = 18
CONTROL_FLOW = {"Loop", "If", "Scan", "SequenceMap"}
LARGEST = 2**31 - 1  # bytes of one ONNX file
Example = tuple[tuple[Tensor, ...], tuple[dict[int, Dim], ...]]  # inputs, and the symbolic axes of each
_FOLDED = 2**24  # elements: tables of positions become constants, so that no graph computes them


@runtime_checkable
class Graph(Protocol):
    """A module that becomes a graph.

    ``names`` are those of its inputs, then of its output; ``exact`` says that constants keep the 53 bits of float64.
    """

    names: tuple[str, ...]
    exact: bool

    def example(self) -> Example:
        """Inputs and their symbolic axes."""

    def eval(self) -> Any:
        """Itself, to run and not to train."""


class EncodeGraph(nn.Module):
    """A signal of any extent to its codes, int64 ``[B, Q, N]``, or ``[B, Q, rows, columns, queries]`` of an image.

    Args:
        codec: The codec.
        rate: The operating point; None for all that the codec has.
    """

    exact = False

    def __init__(self, codec: Codec, rate: Rate | None = None) -> None:
        super().__init__()
        self.codec, self.rate = _dense(codec), codec.spec.resolve(rate)
        self.names = names_of(codec.spec)[0]

    def forward(self, signal: Tensor) -> Tensor:
        """Codes of a batch of signals of one extent."""
        spec, extent = self.codec.spec, tuple(signal.shape[2:])
        padded = pad_to(signal, spec.padded(extent, self.rate), repeat=not spec.bounded)
        latents = self.codec.encoder(padded, self.rate)
        codes = torch.stack(self.codec.quantizer.encode(latents, self.rate.codebooks), dim=1)
        if spec.modality != "image":
            return codes
        return codes.reshape(*codes.shape[:2], *spec.grid(extent, self.rate), self.rate.queries)

    def example(self) -> Example:
        """An input and its symbolic axes."""
        spec = self.codec.spec
        extent = tuple(2 * step + step // 2 for step in spec.step(self.rate))
        axes = {"audio": ("num_samples",), "image": ("height", "width"), "features": ("num_frames",)}[spec.modality]
        names = {0: Dim("batch"), **{axis + 2: Dim(name) for axis, name in enumerate(axes)}}
        return (torch.zeros(2, spec.channels, *extent),), (names,)


class DecodeGraph(nn.Module):
    """Codes as `EncodeGraph` gives them to the signal of whole windows, clamped to [-1, 1] if it is no features; -1
    adds nothing.

    Arguments as `EncodeGraph`.
    """

    def __init__(self, codec: Codec, rate: Rate | None = None) -> None:
        super().__init__()
        self.exact = bool(getattr(codec.decoder, "exact", False))
        self.codec, self.rate = _dense(codec), codec.spec.resolve(rate)
        self.names = names_of(codec.spec)[1]

    def forward(self, codes: Tensor) -> Tensor:
        """The signals of a batch of codes."""
        steps = self.codec.spec.step(self.rate)
        grid = codes.shape[2:4] if len(steps) == 2 else (codes.shape[2] // self.rate.queries,)
        extent = tuple(count * step for count, step in zip(grid, steps, strict=True))
        latents = self.codec.quantizer.decode(codes.flatten(2).unbind(1))
        signal = self.codec.decoder(latents, extent, self.rate)
        return signal.clamp(-1, 1) if self.codec.spec.bounded else signal

    def example(self) -> Example:
        """An input and its symbolic axes."""
        queries, books = self.rate.queries, self.rate.codebooks
        shape: tuple[int, ...]
        if self.codec.spec.modality == "image":
            shape, names = (3, 2, queries), {2: Dim("rows"), 3: Dim("columns")}
        else:
            whole = Dim("num_tokens") if queries == 1 else queries * Dim("num_windows")
            shape, names = (3 * queries,), {2: whole}
        return (torch.zeros(2, books, *shape, dtype=torch.int64),), ({0: Dim("batch"), **names},)


@torch.no_grad()
def to_onnx(graph: Graph, properties: dict[str, str]) -> bytes:
    """The ONNX file of a graph on the CPU, weights inside.

    Args:
        graph: The module.
        properties: Metadata of the file.

    Raises:
        ValueError: If the file has more than 2 GB, a batch or extent is frozen, or it needs more than ONNX's own
            operators without control flow.
    """
    example, axes = graph.example()
    program: Any = torch.onnx.export(
        graph.eval(),
        example,
        dynamo=True,
        dynamic_shapes=axes,
        input_names=graph.names[:-1],
        output_names=graph.names[-1:],
        opset_version=OPSET,
        optimize=False,  # it takes an addend below 1e-8 for zero: a spectrum's floor is gone, and silence is NaN
        verbose=False,
        custom_translation_table=EXACT if graph.exact else None,
    )
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
    optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    if model.ByteSize() > LARGEST:
        raise ValueError(f"an ONNX file has at most {LARGEST} bytes, got {model.ByteSize()}; use a smaller codec")
    _check(model, axes[0])
    _clean(model)
    onnx.helper.set_model_props(model, properties)
    return model.SerializeToString(deterministic=True)


def _dense(codec: Codec) -> Codec:
    if len(set(codec.spec.strides)) != 1:
        raise ValueError(
            f"a graph has dense codes, the codebooks of {codec.spec.name} run at strides {codec.spec.strides}"
        )
    return codec


def _check(model: onnx.ModelProto, axes: dict[int, Dim]) -> None:
    """Nothing is frozen, and any runtime can run it."""
    shape = model.graph.input[0].type.tensor_type.shape.dim
    if frozen := [axis for axis in axes if not shape[axis].dim_param]:
        raise ValueError(
            f"axes {frozen} should be symbols, tracing froze them at {[shape[a].dim_value for a in frozen]}"
        )
    used = {node.op_type for node in model.graph.node}
    domains = {entry.domain for entry in model.opset_import}
    if used & CONTROL_FLOW or domains != {""} or model.functions:
        raise ValueError(f"a graph is ONNX without {sorted(CONTROL_FLOW)}, got {sorted(used)} of domains {domains}")


def _clean(model: onnx.ModelProto) -> None:
    """Without the traces of the machine that exported it."""
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]
    del model.graph.metadata_props[:]
