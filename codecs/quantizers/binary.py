"""Binary quantization: a code is a row of signs, and the bits of its soft assignment are independent.

Under ``p(c | u) ~ exp(2 u . c / temperature)`` over all ``2^L`` codes ``c`` in ``{-a, a}^L``, bit d is one with
probability ``sigmoid(4 a u_d / temperature)`` whatever the others are. So entropies over the codebook are sums over
bits (BSQ, arXiv 2406.07548), and no matrix of latents by codes exists.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import commitment, straight_through
from .ranks import summed, world_size

WIDEST = 62  # bits of a code: below the sign of int64
LARGEST_GROUP = 12  # bits whose 2^12 combinations the entropy counts


class Binary(Quantizer):
    """Abstract: one codebook of ``2^bits`` codes in ``{-scale, scale}^bits``; nothing is learned.

    Bit d of a code is one where latent d is above zero (zero itself gives a zero bit). Dimension 0 is the most
    significant bit of the index.

    Losses: "commitment" draws the placed latents to their codes. "entropy", in nats, is the mean entropy of the
    assignments, which is exact, less the entropy of the mean assignment, which is the sum over groups of bits of the
    exact entropy within a group, and so an upper bound: sharp choices, all codes in use. In training the mean is over
    all ranks.

    Args:
        bits: Bits of a code, 1 to 62, which are the dimensions D; a file holds codes of at most 32 bits.
        scale: Magnitude of a code in each dimension.
        temperature: Of the soft assignment, above zero.
        group: Bits of which the entropy sees the joint use, 1 to 12, a divisor of ``bits``; 1 sees each bit alone.

    Raises:
        ValueError: If an argument is out of range.
    """

    weights: Tensor

    def __init__(self, bits: int, scale: float, temperature: float, group: int) -> None:
        super().__init__()
        if not 1 <= bits <= WIDEST:
            raise ValueError(f"a code has 1 to {WIDEST} bits, got {bits}")
        if not 1 <= group <= LARGEST_GROUP or bits % group:
            raise ValueError(f"a group has 1 to {LARGEST_GROUP} bits and divides all {bits}, got {group}")
        if not temperature > 0:
            raise ValueError(f"temperature is above 0, got {temperature}")
        self.dim, self.codebook_sizes = bits, (2**bits,)
        self.scale, self.temperature, self.group = scale, temperature, group
        weights = torch.tensor([2 ** (bits - 1 - index) for index in range(bits)])
        self.register_buffer("weights", weights, persistent=False)

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training; in training mode a collective, which every rank must enter."""
        with no_autocast(latents):
            placed = self._place(float32(latents))
            bits = (latents > 0).long()
            values = self._values(bits)
            logits = placed.flatten(0, 1) * (4 * self.scale / self.temperature)
            losses = {
                "commitment": commitment(placed, values.to(placed.dtype)),
                "entropy": mean_entropy(logits) - entropy_of_mean(logits, self.group, all_ranks=self.training),
            }
            return Quantized(straight_through(placed, values), (self._index(bits),), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        return (self._index((latents > 0).long()),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Signs times the scale; zeros where a code is -1."""
        codes = streams[0].unsqueeze(-1)
        return self._values(codes // self.weights % 2) * (codes >= 0)

    @abstractmethod
    def _place(self, latents: Tensor) -> Tensor:
        """Latents to the space of the codes, signs kept."""

    def _index(self, bits: Tensor) -> Tensor:
        """Half by half: sums of ONNX Runtime are exact to 53 bits only."""
        halves = [half.sum(-1) for half in (bits * self.weights).chunk(2, dim=-1)]
        return sum(halves[1:], start=halves[0])

    def _values(self, bits: Tensor) -> Tensor:
        return (bits * 2 - 1).float() * self.scale


def mean_entropy(logits: Float[Tensor, "M L"]) -> Float[Tensor, ""]:
    """Mean over M assignments of the entropy of L independent bits, in nats; exact also where bits are certain."""
    size = logits.abs()
    return (F.softplus(-size) + size * torch.sigmoid(-size)).sum() / max(1, len(logits))


def entropy_of_mean(logits: Float[Tensor, "M L"], group: int = 1, *, all_ranks: bool = False) -> Float[Tensor, ""]:
    """Entropy of the mean of M assignments, in nats, as a sum over groups of neighbouring bits.

    Args:
        logits: Of a bit being one.
        group: Bits of a group, a divisor of L; with L itself the entropy is that of the codebook.
        all_ranks: Take the mean over the ranks too, which is a collective. Its gradient is this rank's part: averaged
            over ranks, as data-parallel training averages gradients, it is that of the joint entropy.
    """
    mean = _mean_assignment(logits, group)
    if all_ranks:
        mean = straight_through(mean, summed(mean.detach().clone()) / world_size())
    return -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()


def _mean_assignment(logits: Float[Tensor, "M L"], group: int) -> Float[Tensor, "G K"]:
    """Mean probabilities of the ``K = 2^group`` combinations in each group.

    A combination is an upper and a lower half, so the mean is one matrix product of ``2^(group / 2)`` columns a side.
    """
    bits = torch.stack((torch.sigmoid(-logits), torch.sigmoid(logits)), dim=-1).unflatten(1, (-1, group))
    upper, lower = (_combinations(half) for half in bits.split((group // 2, group - group // 2), dim=2))
    return torch.einsum("mgu,mgl->gul", upper, lower).flatten(1) / max(1, len(logits))


def _combinations(bits: Float[Tensor, "M G W 2"]) -> Float[Tensor, "M G K"]:
    """Probabilities of the ``K = 2^W`` combinations of W independent bits."""
    joint = bits.new_ones(*bits.shape[:2], 1)
    for bit in bits.unbind(2):
        joint = (joint.unsqueeze(-1) * bit.unsqueeze(-2)).flatten(2)
    return joint
