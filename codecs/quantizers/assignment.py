"""Balanced assignment: every code receives its share of a batch, by optimal transport."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch import distributed as dist

from .ranks import log_sum_exp, summed, world_size


@torch.no_grad()
def transport(scores: Float[Tensor, "M K"], epsilon: float = 0.05, iterations: int = 10) -> Float[Tensor, "M K"]:
    """Log of the plan that sends each of M vectors (over all ranks) to K codes, every code an equal mass.

    Sinkhorn's iterations in the log domain on scores centred and scaled to [-1, 1], ending with the rows: each row of
    ``exp`` of the result sums to one, each column to about M / K.

    Args:
        scores: Larger is closer; any scale, at least one row on some rank.
        epsilon: Entropy of the plan; small is sharp, and slower to balance.
        iterations: Of both normalisations.
    Source: Xiang et al., "RepCONC", WSDM 2022, arXiv 2110.05789; Cuturi, "Sinkhorn distances", 2013.
    """
    ends = torch.stack((-scores.amin(), scores.amax())) if len(scores) else scores.new_full((2,), -math.inf)
    if world_size() > 1:
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    low, high = -ends[0], ends[1]
    logs = (scores - (low + high) / 2) / ((high - low).clamp_min(1e-12) / 2) / epsilon
    share = summed(scores.new_tensor(float(len(scores)))).log() - math.log(scores.shape[1])
    for _ in range(iterations):
        logs = logs + (share - log_sum_exp(logs))
        logs = logs - logs.logsumexp(1, keepdim=True)
    return logs


def balanced(scores: Float[Tensor, "M K"], epsilon: float, iterations: int = 10) -> Int[Tensor, " M"]:
    """The likeliest code of each vector under `transport`; for training, where M is several times K."""
    return transport(scores, epsilon, iterations).argmax(-1)
