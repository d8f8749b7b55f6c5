"""Overlapping frames of a whole number of hops, and their sum, by reshaping alone.

With them a lapped transform is one matrix product. A strided convolution computes the same, but PyTorch lets
convolutions on a GPU round to TF32 unless told otherwise, three digits where an exact inverse needs six.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def overhang(extent: int, hop: int) -> int:
    """What a signal lacks to a whole number of hops.

    Written with quotients of what is not negative, because ONNX rounds towards zero, and as a multiple less
    the extent, so that a tracer sees at once that the padded extent divides by the hop.
    """
    return (extent + hop - 1) // hop * hop - extent


def frame(signal: Float[Tensor, "B T"], hop: int, hops: int) -> Float[Tensor, "B frames size"]:
    """Every run of ``hops`` hops in a signal of ``(frames + hops - 1) * hop`` samples."""
    blocks = signal.unflatten(1, (signal.shape[1] // hop, hop))
    frames = blocks.shape[1] - hops + 1
    return torch.cat([blocks[:, first : first + frames] for first in range(hops)], dim=2)


def overlap_add(frames: Float[Tensor, "B frames size"], hops: int) -> Float[Tensor, "B T"]:
    """The sum of frames, each one hop after the one before: the adjoint of :func:`frame`."""
    blocks = frames.unflatten(2, (hops, frames.shape[2] // hops)).unbind(2)
    shifted = (F.pad(block, (0, 0, first, hops - 1 - first)) for first, block in enumerate(blocks))
    return reduce(torch.add, shifted).flatten(1)


def overlap_add_stream(
    frames: Float[Tensor, "B frames size"], hops: int, tail: Float[Tensor, "B rest"]
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B rest"]]:
    """A stream's next frames on top of what the frames before left unfinished: ``frames * hop`` samples, a new tail.

    The tail lasts ``hops - 1`` hops; the first is zeros.
    """
    total, rest = overlap_add(frames, hops), tail.shape[1]
    total = torch.cat((total[:, :rest] + tail, total[:, rest:]), dim=1)
    done = total.shape[1] - rest
    return total[:, :done], total[:, done:]
