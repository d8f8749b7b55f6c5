"""Statistics over all ranks. Every call here is a collective: never behind a branch that a rank takes alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Ranks that train together; 1 without ``torch.distributed``."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def of_first(values: Tensor) -> Tensor:
    """The values of rank 0, in place."""
    if world_size() > 1:
        dist.broadcast(values, 0)
    return values


def gathered(vectors: Float[Tensor, "M D"], most: int) -> Float[Tensor, "R D"]:
    """At most about ``most`` vectors, from all ranks in equal parts and in turn; equal on every rank.

    A rank with fewer vectors than its part sends what it has: batches may be uneven, even empty.
    """
    ranks = world_size()
    if ranks == 1:
        return vectors[:most]
    part = -(-most // ranks)
    sent = vectors.new_zeros(part, vectors.shape[1] + 1)  # the last column says which rows are vectors
    sent[: len(vectors), :-1] = vectors[:part]
    sent[: len(vectors), -1] = 1
    received = [torch.empty_like(sent) for _ in range(ranks)]
    dist.all_gather(received, sent)
    rows = torch.stack(received, dim=1).flatten(0, 1)
    return rows[rows[:, -1] > 0, :-1]


def log_sum_exp(logs: Float[Tensor, "M K"]) -> Float[Tensor, " K"]:
    """``log sum exp`` over the rows of all ranks; minus infinity where there are none."""
    total = logs.logsumexp(0) if len(logs) else logs.new_full(logs.shape[1:], float("-inf"))
    if world_size() == 1:
        return total
    received = [torch.empty_like(total) for _ in range(world_size())]
    dist.all_gather(received, total)
    return torch.stack(received).logsumexp(0)
