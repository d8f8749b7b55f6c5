"""Lookup-free quantization: the signs of the latents (Yu et al., 2023, MAGVIT-v2, arXiv 2310.05737)."""

from __future__ import annotations

from torch import Tensor

from .binary import Binary


class LFQ(Binary):
    """One codebook of ``2^bits`` codes in {-1, 1}; see `Binary` for the index and the losses.

    The gradient passes straight through.

    Args:
        bits: Bits of a code, 1 to 62, which are the dimensions D.
        temperature: Of the assignment in the entropy loss, whose bit d has the logit ``4 z_d / temperature``: latents
            far beyond it are certain, and get no gradient. 0.01 is that of Open-MAGVIT2 (arXiv 2409.04410).
        group: Bits of which the entropy sees the joint use, 1 to 12, a divisor of ``bits``.
    """

    def __init__(self, bits: int, temperature: float = 0.01, group: int = 1) -> None:
        super().__init__(bits, scale=1.0, temperature=temperature, group=group)

    def _place(self, latents: Tensor) -> Tensor:
        return latents
