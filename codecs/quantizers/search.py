"""Nearest code: one matrix product per chunk of vectors, never an N x K matrix."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

CHUNK = 2**18  # scores held at once, four times as many where vectors are wide: they stay in the cache
ROWS = 16  # vectors at once, at least: fewer do not make a matrix product


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
    rows = max(ROWS, CHUNK * (4 if codebook.shape[1] >= 32 else 1) // len(codebook))
    if torch.compiler.is_exporting():
        return torch.addmm(bias, flat, codebook.t()).argmax(-1)
    index = torch.empty(len(flat), dtype=torch.int64, device=flat.device)
    scores = flat.new_empty(rows, len(codebook))
    block = _block(len(codebook))
    for start in range(0, len(flat), rows):
        part = flat[start : start + rows]
        product = torch.addmm(bias, part, codebook.t(), out=scores[: len(part)])
        index[start : start + len(part)] = _first_largest(product, block)
    return index


def _block(codes: int) -> int:
    """Columns per block for `_first_largest`: a power of two that divides the codes, near the cheapest; or 1."""
    divisor = codes & -codes
    while divisor * divisor > 4 * codes:
        divisor //= 2
    return divisor if divisor >= 32 else 1


def _first_largest(scores: Float[Tensor, "M K"], block: int) -> Int[Tensor, " M"]:
    """Index of the largest score of each row, the lowest of equals.

    First the block that holds it, then its place there: a maximum alone runs on vector units, one with its index does
    not, and costs as much as the product that made the scores.
    """
    if block == 1:
        return scores.argmax(-1)
    blocks = scores.unflatten(-1, (-1, block))
    best = blocks.amax(-1).argmax(-1)
    return best * block + blocks[torch.arange(len(scores), device=scores.device), best].argmax(-1)


def lookup(codebook: Float[Tensor, "K D"], codes: Int[Tensor, "B N"]) -> Float[Tensor, "B N D"]:
    """Codes of their indices; an index of -1 gives zeros."""
    values = F.embedding(codes.clamp_min(0), codebook)
    return values * (codes >= 0).unsqueeze(-1).to(values.dtype)
