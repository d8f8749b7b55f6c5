"""Nearest code: one matrix product per chunk of vectors, never an N x K matrix."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

CHUNK = 2**19  # scores held at once: 2 MB of float32 stay in the cache


def nearest(
    vectors: Float[Tensor, "*batch D"],
    codebook: Float[Tensor, "K D"],
    bias: Float[Tensor, " K"] | None = None,
) -> Int[Tensor, "*batch"]:
    """Index of the code with the largest ``z . c + bias``; ties go to the lowest index. Never in half precision.

    Args:
        vectors: Latents.
        codebook: Codes.
        bias: None means ``-|c|^2 / 2``, which makes the winner the nearest code in Euclidean distance.
    """
    vectors, codebook = vectors.detach(), codebook.detach()
    if bias is None:
        bias = codebook.square().sum(-1) / -2
    with no_autocast(vectors):
        return _largest(vectors.reshape(-1, vectors.shape[-1]), codebook, bias).reshape(vectors.shape[:-1])


def _largest(flat: Float[Tensor, "M D"], codebook: Float[Tensor, "K D"], bias: Float[Tensor, " K"]) -> Tensor:
    """The index ``[M]``, chunk by chunk."""
    rows = max(1, CHUNK // len(codebook))
    if torch.compiler.is_exporting() or len(flat) <= rows:
        return torch.addmm(bias, flat, codebook.t()).argmax(-1)
    index = torch.empty(len(flat), dtype=torch.int64, device=flat.device)
    scores = flat.new_empty(rows, len(codebook))
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows]
        torch.argmax(
            torch.addmm(bias, part, codebook.t(), out=scores[: len(part)]),
            dim=-1,
            out=index[start : start + len(part)],
        )
    return index


def lookup(codebook: Float[Tensor, "K D"], codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
    """Codes of their indices; an index of -1 gives zeros."""
    values = F.embedding(codes.clamp_min(0), codebook)
    return values * (codes >= 0).unsqueeze(-1).to(values.dtype)
