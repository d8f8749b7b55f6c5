"""Policies that keep a codebook alive: where it starts, what becomes of unused codes, who gets which latent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .kmeans import kmeans, spread
from .search import nearest

Start = Literal["drawn", "noise", "samples", "kmeans"]
Anchors = Literal["closest", "random", "similar"]


@dataclass(frozen=True)
class Lifecycle:
    """The policies of one codebook; any explicit codebook takes any of them.

    Args:
        start: "drawn" before training; "noise" with mean and deviation of the first batch; "samples": latents of the
            first batches; "kmeans": centres of them. The last two let latents by unquantized until they have enough.
        start_vectors: Latents to collect per code, over all ranks, before "samples" or "kmeans". A run that is stopped
            and resumed before that collects again.
        decay: Of the usage counts of each step (and of the means of `EMAVQ`).
        revive: Fraction of the mean usage below which a code is replaced by a latent of the current batch; 0 never.
        cluster: Online clustering of CVQ-VAE (arXiv 2307.15139): every step moves each code toward an anchor among
            the latents of the batch, the more the less it is used. Which anchor: the "closest" latent, a "random"
            one, or one drawn with the odds of its cosine "similar"ity. None leaves codes where they are.
        balance: Entropy of the plan by which training deals each code an equal share of the batch
            (`assignment.balanced`), about 0.05; 0 assigns the nearest code. Needs M x K scores, without gradient, and
            batches of several K latents.

    Raises:
        ValueError: If a value is out of range.
    """

    start: Start = "drawn"
    start_vectors: int = 10
    decay: float = 0.99
    revive: float = 0.0
    cluster: Anchors | None = None
    balance: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.start not in get_args(Start):
            raise ValueError(f"a codebook starts as one of {get_args(Start)}, got {self.start!r}")
        if self.cluster is not None and self.cluster not in get_args(Anchors):
            raise ValueError(f"anchors are one of {get_args(Anchors)}, got {self.cluster!r}")
        if self.start_vectors < 1:
            raise ValueError(f"a code starts from at least 1 vector, got start_vectors={self.start_vectors}")
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay lies in [0, 1), got {self.decay}")
        if not 0 <= self.revive < 1:
            raise ValueError(f"revive is a fraction of the mean usage in [0, 1), got {self.revive}")
        if self.balance < 0:
            raise ValueError(f"balance is an entropy of at least 0, got {self.balance}")

    @property
    def collects(self) -> bool:
        """Whether the start needs latents before it can quantize any."""
        return self.start in ("samples", "kmeans")

    @property
    def renews(self) -> bool:
        """Whether codes move by other ways than learning."""
        return self.revive > 0 or self.cluster is not None


def first_codes(
    kind: Start, vectors: Float[Tensor, "M D"], count: int
) -> tuple[Float[Tensor, "K D"], Float[Tensor, " K"]]:
    """Codes that start from collected latents, and how many latents each has."""
    if kind == "kmeans":
        return kmeans(vectors, count)
    codes = spread(vectors, count)
    return codes, torch.bincount(nearest(vectors, codes), minlength=count).to(vectors)


def places(doomed: Tensor, available: int) -> tuple[Tensor, Tensor]:
    """Which of the doomed codes ``[K]`` get one of the available vectors, and which vector.

    Every vector serves once: a code without one waits for the next step.
    """
    turn = doomed.cumsum(0) - 1
    return doomed & (turn < available), turn.clamp(0, max(0, available - 1))


def pull(counts: Float[Tensor, " K"], vectors: Float[Tensor, ""], decay: float) -> Float[Tensor, " K"]:
    """How far each code moves to its anchor: 1 for a code never used, 0 for one used at a fiftieth of the mean or more.

    Args:
        counts: Moving average of the codes' counts, started at zero.
        vectors: Latents in a step.
        decay: Of the moving average.
    Source: Zheng and Vedaldi, "Online Clustered Codebook", ICCV 2023, equation 6.
    """
    usage = counts / vectors.clamp_min(1)
    return (-10 * len(counts) * usage / (1 - decay) - 1e-3).exp()


def anchors(kind: Anchors, codebook: Float[Tensor, "K D"], vectors: Float[Tensor, "M D"]) -> Float[Tensor, "K D"]:
    """One of the vectors for every code; with one set of vectors and one state of the random numbers, one answer."""
    if kind == "closest":
        return vectors[nearest(codebook, vectors)]
    if kind == "random":
        rounds = math.ceil(len(codebook) / len(vectors))
        order = torch.cat([torch.randperm(len(vectors), device=vectors.device) for _ in range(rounds)])
        return vectors[order[: len(codebook)]]
    directions = F.normalize(vectors, dim=-1)
    chosen = []
    for codes in F.normalize(codebook, dim=-1).split(max(1, 2**20 // len(vectors))):
        odds = codes @ directions.t()
        chosen.append((odds - torch.empty_like(odds).exponential_().log()).argmax(-1))  # the Gumbel trick draws them
    return vectors[torch.cat(chosen)]
