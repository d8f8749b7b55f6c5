"""Index backpropagation quantization: the gradient reaches every code (IBQ, arXiv 2412.02692; SEED-Voken).

With scores ``s_k = scale (z . e_k - |e_k|^2 / 2)`` and ``p = softmax(s)``, the value is exactly the code of the
largest score and the gradient is that of ``sum_k o_k e_k`` with ``o = onehot(argmax) + p - sg(p)``. The part in p is
attention with queries z, keys e and values ``sg(e)``: fused attention gives its gradient, and no N x K matrix is
kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .base import Quantized, Quantizer, float32
from .search import lookup, nearest


class IBQ(Quantizer):
    """One codebook of K codes under Euclidean scores: the winner is the nearest code, so a code encodes to itself.

    For its first ``warmup`` training passes latents go by unquantized, with no losses, while the codebook keeps a
    rolling record of them: it starts where the latents are (first-batches initialisation), and the encoder starts
    with a meaning.

    Losses: "alignment" (value to latent, through the index path), "codebook", "commitment" as in the paper, and
    "entropy" (mean entropy of a latent's assignment, less the entropy of the mean assignment): sharp choices, all
    codes in use.

    Args:
        codebook_size: Codes K.
        dim: Width D.
        spread: Standard deviation of the scores at the start; a saturated softmax would starve all codes but one.
        temperature: Of the softmax in the entropy loss, relative to the scores.
        entropy_rows: Latents of a batch, evenly spaced, that the entropy loss reads.
        warmup: Training passes before quantization begins.
    """

    updates: Tensor

    def __init__(
        self,
        codebook_size: int,
        dim: int,
        spread: float = 2.5,
        temperature: float = 0.5,
        entropy_rows: int = 256,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.codebook_sizes = dim, (codebook_size,)
        self.temperature, self.entropy_rows, self.warmup = temperature, entropy_rows, warmup
        self.codebook = nn.Parameter(torch.randn(codebook_size, dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(spread / math.sqrt(1.5 * dim))))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training."""
        with torch.autocast(latents.device.type, enabled=False):
            latents = float32(latents)
            codes = nearest(latents.detach(), self.codebook.detach())
            if self.training and update and self._warming_up(latents.detach()):
                names = ("alignment", "codebook", "commitment", "entropy")
                return Quantized(latents, (codes,), {name: latents.new_zeros(()) for name in names})
            hard = F.embedding(codes, self.codebook)
            soft = self._expectation(latents)
            values = hard + (soft - soft.detach())
            losses = {
                "alignment": F.mse_loss(values, latents),
                "codebook": F.mse_loss(hard, latents.detach()),
                "commitment": F.mse_loss(latents, hard.detach()),
                "entropy": self._entropy(latents),
            }
            return Quantized(values, (codes,), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        return (nearest(float32(latents), self.codebook),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Code vectors; zeros where a code is -1."""
        return lookup(self.codebook, streams[0])

    @torch.no_grad()
    def _warming_up(self, latents: Tensor) -> bool:
        """Whether quantization has yet to begin; counts the pass, and records its latents in the codebook if so."""
        self.updates += 1
        if self.updates > self.warmup:
            return False
        rows = latents.flatten(0, 1)[: len(self.codebook)]
        start = int(self.updates - 1) * len(rows)
        self.codebook[torch.arange(start, start + len(rows), device=rows.device) % len(self.codebook)] = rows
        if dist.is_available() and dist.is_initialized():
            dist.broadcast(self.codebook, 0)  # a parameter: nothing else would make ranks equal again
        return True

    def _expectation(self, latents: Tensor) -> Tensor:
        """``sum_k p_k sg(e_k)`` by fused attention; ``-|e|^2 / 2`` rides as one more dimension of the keys."""
        keys = torch.cat((self.codebook, self.codebook.square().sum(-1, keepdim=True) / -2), dim=-1)
        queries = F.pad(latents.flatten(0, 1), (0, 1), value=1.0) * self.log_scale.exp()
        values = F.pad(self.codebook.detach(), (0, 1))  # as wide as the keys: the fused kernel asks for it
        attended = F.scaled_dot_product_attention(queries[None, None], keys[None, None], values[None, None], scale=1.0)
        return attended[0, 0, :, :-1].reshape(latents.shape)

    def _entropy(self, latents: Tensor) -> Tensor:
        """Mean entropy of the assignments less entropy of the mean assignment, in nats, chunk by chunk."""
        flat = latents.flatten(0, 1)
        flat = flat[:: max(1, -(-len(flat) // self.entropy_rows))]
        entropy, mean = flat.new_zeros(()), flat.new_zeros(len(self.codebook))
        for rows in flat.split(max(1, 2**21 // len(self.codebook))):
            row_entropy, row_sum = checkpoint(self._assignments, rows, use_reentrant=False)
            entropy, mean = entropy + row_entropy, mean + row_sum
        mean = mean / len(flat)
        return entropy / len(flat) + torch.special.xlogy(mean, mean).sum()

    def _assignments(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Summed entropy and summed probabilities of some latents."""
        scores = torch.addmm(self.codebook.square().sum(-1) / -2, rows, self.codebook.t())
        logs = (scores * (self.log_scale.exp() / self.temperature)).log_softmax(-1)
        probabilities = logs.exp()
        return -(probabilities * logs).sum(), probabilities.sum(0)
