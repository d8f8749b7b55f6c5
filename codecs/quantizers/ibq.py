"""Index backpropagation quantization: the gradient reaches every code (IBQ, arXiv 2412.02692; SEED-Voken).

With scores ``s_k`` and ``p = softmax(s)``, the value is exactly the code of the largest score and the gradient is that
of ``sum_k o_k e_k`` with ``o = onehot(argmax) + p - sg(p)``. The part in p is attention with queries z, keys e and
values ``sg(e)``: fused attention gives its gradient, and no N x K matrix is kept.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .codebook import Codebook
from .lifecycle import Lifecycle
from .ranks import summed, world_size

Scores = Literal["euclidean", "dot", "cosine"]
HELD = 2**21  # scores held at once by the entropy, or as many as half the numbers of the codebook


class IBQ(Codebook):
    """One codebook of K codes, all of which learn from every latent.

    Losses: "alignment" (value to latent, through the index path), "codebook" (chosen codes to latents), "commitment"
    (latents to chosen codes) and "entropy" (mean entropy of a latent's assignment, less the entropy of the mean
    assignment over all ranks: sharp choices, all codes in use). The paper weighs them 1, 1, 0.25 and 0.05; its
    released code exchanges codebook and commitment, 1, 0.25, 1 and 0.05.

    Args:
        codebook_size: Codes K.
        dim: Width D.
        scores: "euclidean": ``scale (z . e - |e|^2 / 2)``, so that the winner is the nearest code and a code encodes to
            itself; "dot": ``scale z . e``, as published; "cosine": of directions, and latents and codes are brought
            to length one.
        scale: Of the scores; 1 as published. None: such that at the start, for latents of unit variance, the scores
            have the deviation ``spread``.
        spread: Standard deviation of the scores at the start; a saturated softmax would starve all codes but one.
        learned: Whether the scale learns.
        temperature: Of the softmax in the entropy loss, relative to the scores; 0.01 as published.
        entropy_rows: Latents of a batch, evenly spaced, that the entropy loss reads; None for all.
        lifecycle: Policies.
    """

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        scores: Scores = "euclidean",
        scale: float | None = None,
        spread: float = 2.5,
        learned: bool = True,
        temperature: float = 0.5,
        entropy_rows: int | None = 256,
        lifecycle: Lifecycle = Lifecycle(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(codebook_size, dim, lifecycle)
        self.scores, self.temperature, self.entropy_rows = scores, temperature, entropy_rows
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        deviation = {"euclidean": math.sqrt(1.5 * dim), "dot": math.sqrt(dim), "cosine": 1 / math.sqrt(dim)}[scores]
        start = torch.tensor(math.log(spread / deviation if scale is None else scale))
        self.log_scale = nn.Parameter(start, requires_grad=learned)

    def keys(self) -> tuple[Tensor, Tensor | None]:
        """Codes, or their directions; a dot product has no bias."""
        return self.values(), (torch.zeros_like(self.counts) if self.scores == "dot" else None)

    def values(self) -> Float[Tensor, "K D"]:
        """Codes, on the sphere if scores are cosines."""
        return F.normalize(self.codebook, dim=-1) if self.scores == "cosine" else self.codebook

    def quantize(self, latents: Float[Tensor, "B N D"], codes: Int[Tensor, "B N"]) -> tuple[Tensor, dict[str, Tensor]]:
        """Values and all four losses."""
        table = self.values()
        if self.scores == "cosine":
            latents = F.normalize(latents, dim=-1)
        hard = F.embedding(codes, table)
        soft = self._expectation(latents, table)
        values = hard + (soft - soft.detach())
        return values, {
            "alignment": F.mse_loss(values, latents),
            "codebook": F.mse_loss(hard, latents.detach()),
            "commitment": F.mse_loss(latents, hard.detach()),
            "entropy": self._entropy(latents, table),
        }

    def loss_names(self) -> tuple[str, ...]:
        """Of `quantize`."""
        return ("alignment", "codebook", "commitment", "entropy")

    @torch.no_grad()
    def soften(self, factor: float) -> None:
        """Divide the scale of the scores: a warmer softmax reaches more codes."""
        self.log_scale.sub_(math.log(factor))

    def _bias(self, table: Tensor) -> Tensor:
        """What is added to dot products: ``-|e|^2 / 2`` for Euclidean scores, else zeros ``[K, 1]``."""
        lengths = table.square().sum(-1, keepdim=True)
        return lengths / -2 if self.scores == "euclidean" else torch.zeros_like(lengths)

    def _expectation(self, latents: Tensor, table: Tensor) -> Tensor:
        """``sum_k p_k sg(e_k)`` by fused attention; the bias rides as one more dimension of the keys."""
        keys = torch.cat((table, self._bias(table)), dim=-1)
        queries = F.pad(latents.flatten(0, 1), (0, 1), value=1.0) * self.log_scale.exp()
        values = F.pad(table.detach(), (0, 1))  # as wide as the keys: the fused kernel asks for it
        attended = F.scaled_dot_product_attention(queries[None, None], keys[None, None], values[None, None], scale=1.0)
        return attended[0, 0, :, :-1].reshape(latents.shape)

    def _entropy(self, latents: Tensor, table: Tensor) -> Tensor:
        """Mean entropy of the assignments less entropy of their mean over all ranks, in nats, chunk by chunk."""
        flat = latents.flatten(0, 1)
        if self.entropy_rows is not None:
            flat = flat[:: max(1, -(-len(flat) // self.entropy_rows))]
        entropy, mean = flat.new_zeros(()), flat.new_zeros(len(table))
        for rows in flat.split(max(1, HELD // len(table), self.dim // 2)):  # each chunk costs a codebook's gradient
            row_entropy, row_sum = checkpoint(self._assignments, rows, table, use_reentrant=False)
            entropy, mean = entropy + row_entropy, mean + row_sum
        count = max(1, len(flat))
        return entropy / count + _negative_entropy(mean / count, all_ranks=self.training)

    def _assignments(self, rows: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Summed entropy and summed probabilities of some latents."""
        scores = torch.addmm(self._bias(table)[:, 0], rows, table.t())
        logs = (scores * (self.log_scale.exp() / self.temperature)).log_softmax(-1)
        probabilities = logs.exp()
        return -(probabilities * logs).sum(), probabilities.sum(0)


def _negative_entropy(local: Float[Tensor, " K"], all_ranks: bool) -> Tensor:
    """``sum q log q`` of the mean q of all ranks' distributions, with the gradient that reaches this rank's.

    Averaged over ranks, as data-parallel training averages gradients, it is the gradient of the joint entropy. In
    evaluation a rank speaks for itself, as it may be alone.
    """
    joint = summed(local.detach().clone()) / world_size() if all_ranks else local.detach()
    slope = joint.clamp_min(torch.finfo(joint.dtype).tiny).log() + 1
    return torch.special.xlogy(joint, joint).sum() + (slope * (local - local.detach())).sum()
