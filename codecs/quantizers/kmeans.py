"""Lloyd's k-means, and k-means++ to start it: where a codebook may start, and the centres of a semantic prior."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .search import nearest


@torch.no_grad()
def kmeans(
    vectors: Float[Tensor, "M D"], clusters: int, iterations: int = 10, start: Float[Tensor, "K D"] | None = None
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """Centres and how many vectors each has. Equal input gives equal output, on every rank.

    Starts from vectors drawn evenly, or from the centres in ``start``; a centre that lost all vectors takes the place
    of one of the vectors farthest from theirs. With fewer vectors than clusters, vectors repeat with a little noise, so
    that no two centres are equal.

    Source: Lloyd, "Least squares quantization in PCM", 1982.

    Raises:
        ValueError: Without vectors.
    """
    if not len(vectors):
        raise ValueError("k-means needs at least one vector, got none")
    centres = spread(vectors, clusters) if start is None else start
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


@torch.no_grad()
def plus_plus(vectors: Float[Tensor, "M D"], count: int, seed: int = 0) -> Float[Tensor, "K D"]:
    """``count`` of the vectors, each drawn with the odds of its squared distance to the nearest of those before it.

    One pass over the vectors for every centre: for priors that are made once, not for codebooks that start in a run.

    Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.

    Raises:
        ValueError: If there are fewer vectors than that.
    """
    if len(vectors) < count:
        raise ValueError(f"{count} centres start from as many vectors, got {len(vectors)}; collect more")
    draws = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(vectors.device)
    norms = vectors.square().sum(-1)
    chosen = torch.empty(count, dtype=torch.int64, device=vectors.device)
    distances = torch.full_like(norms, torch.inf)
    odds = torch.ones_like(norms)
    for turn in range(count):
        bounds = odds.double().cumsum(0)
        place = torch.searchsorted(bounds, draws[turn] * bounds[-1], right=True).clamp_max(len(vectors) - 1)
        chosen[turn] = place
        apart = torch.addmv(norms + norms[place], vectors, vectors[place], alpha=-2).clamp_min(0)
        distances = odds = torch.minimum(distances, apart.index_fill(0, place, 0))
    return vectors[chosen]
