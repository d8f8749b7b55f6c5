"""Lloyd's k-means: where a codebook may start."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .search import nearest


@torch.no_grad()
def kmeans(
    vectors: Float[Tensor, "M D"], clusters: int, iterations: int = 10
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """Centres and how many vectors each has. Equal input gives equal output, on every rank.

    Starts from vectors drawn evenly; a centre that lost all vectors takes the place of one of the vectors farthest
    from theirs. With fewer vectors than clusters, vectors repeat with a little noise, so that no two centres are equal.

    Source: Lloyd, "Least squares quantization in PCM", 1982.

    Raises:
        ValueError: Without vectors.
    """
    if not len(vectors):
        raise ValueError("k-means needs at least one vector, got none")
    centres = spread(vectors, clusters)
    counts = vectors.new_zeros(clusters)
    for iteration in range(iterations + 1):
        codes = nearest(vectors, centres)
        counts = torch.bincount(codes, minlength=clusters).to(vectors)
        if iteration == iterations:
            break
        sums = torch.zeros_like(centres).index_add_(0, codes, vectors)
        centres = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], centres)
        empty = (counts == 0).nonzero()[:, 0]
        far = (vectors - centres[codes]).square().sum(-1).argsort(descending=True, stable=True)[: len(empty)]
        centres[empty[: len(far)]] = vectors[far]
    return centres, counts


def spread(vectors: Float[Tensor, "M D"], count: int) -> Float[Tensor, "K D"]:
    """``count`` of the vectors in an order that depends on nothing else; repeated, with noise, when there are fewer."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    rows = vectors[order[torch.arange(count, device=vectors.device) % len(vectors)]]
    if count > len(vectors):
        noise = torch.randn(count - len(vectors), vectors.shape[1], generator=generator).to(vectors)
        rows[len(vectors) :] += 0.01 * vectors.std(0, correction=0) * noise
    return rows
