"""Finite scalar quantization: each dimension rounded to a few levels (Mentzer et al., 2023, arXiv 2309.15505)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import straight_through

MARGIN = 1e-3  # the paper's epsilon: how far its bound stays from the ends of the grid, as a fraction of its width


class FSQ(Quantizer):
    """One codebook of ``prod(levels)`` codes: the grid itself, nothing learned, nothing to collapse.

    Latents are bounded by ``tanh``, and a value is the level nearest to the bounded latent. The mixed-radix index has
    the first dimension as its lowest digit. The gradient is that of the bound. Two variants, whose codes mean
    different values:

    - "symmetric": L levels evenly over [-1, 1], bound ``tanh(z)``; an odd number of levels holds zero.
    - "paper": levels ``-1, -1 + 1/h, ...`` with ``h = floor(L / 2)``, so that each L holds zero and an even one ends
      at ``1 - 1/h``; bound ``(tanh(z + shift) half - offset) / h`` as in the listing of appendix A.1.

    Args:
        levels: Levels per dimension, each at least 2 ("paper": 3 to 1000); dim D is their number.
        variant: Which grid and bound, "symmetric" or "paper".

    Raises:
        ValueError: If there is no such variant, a number of levels is out of range, or their product exceeds 2^53,
            to which ONNX Runtime sums exactly.
    """

    levels: Tensor
    basis: Tensor
    span: Tensor
    gain: Tensor
    offset: Tensor
    shift: Tensor

    def __init__(self, levels: Sequence[int], variant: str = "symmetric") -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"FSQ needs at least 2 levels in each dimension, got {list(levels)}")
        if math.prod(levels) > 2**53:
            raise ValueError(f"FSQ has at most 2^53 codes, got levels {list(levels)}; use fewer dimensions or levels")
        if variant not in VARIANTS:
            raise ValueError(f'an FSQ variant is "symmetric" or "paper", got {variant!r}')
        self.dim = len(levels)
        self.codebook_sizes = (math.prod(levels),)
        basis = [math.prod(levels[:index]) for index in range(len(levels))]
        span, gain, offset, shift = zip(*map(VARIANTS[variant], levels), strict=True)
        tables = {"levels": levels, "basis": basis, "span": span, "gain": gain, "offset": offset, "shift": shift}
        for name, numbers in tables.items():
            self.register_buffer(name, torch.tensor(list(numbers)), persistent=False)

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training; there are no losses."""
        with no_autocast(latents):
            bounded = self._bound(latents)
            digits = self._digits(bounded)
            return Quantized(straight_through(bounded, self._values(digits)), (self._index(digits),), {})

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        with no_autocast(latents):
            return (self.assign(self._bound(latents)),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Levels of the codes in [-1, 1]; zeros where a code is -1."""
        codes = streams[0].unsqueeze(-1)
        return self._values(codes // self.basis % self.levels) * (codes >= 0)

    def assign(self, values: Float[Tensor, "B N D"]) -> Int[Tensor, "B N"]:
        """Codes of the levels nearest to values in [-1, 1], without the bound; inverse of `decode`."""
        return self._index(self._digits(values))

    def _bound(self, latents: Tensor) -> Tensor:
        """Latents to the range of the grid, not yet rounded."""
        return (float32(latents) + self.shift).tanh() * self.gain - self.offset

    def _digits(self, values: Tensor) -> Tensor:
        """The nearest level of each dimension, 0 .. levels - 1; a tie goes to the lower one."""
        position = (values.detach() + 1) / 2 * self.span
        return (position - 0.5).ceil().long().clamp_min(0).minimum(self.levels - 1)

    def _index(self, digits: Tensor) -> Tensor:
        return (digits * self.basis).sum(-1)

    def _values(self, digits: Tensor) -> Tensor:
        return digits.float() / self.span * 2 - 1


def _symmetric(levels: int) -> tuple[int, float, float, float]:
    """Of one dimension: steps from -1 to 1; gain, offset and shift of the bound."""
    return levels - 1, 1.0, 0.0, 0.0


def _paper(levels: int) -> tuple[int, float, float, float]:
    """The same of the paper, where the bound of an even number of levels is off centre by half a step."""
    if levels == 2 or (levels - 1) * MARGIN >= 1:
        raise ValueError(f'the paper\'s bound holds for 3 to 1000 levels, got {levels}; use variant="symmetric"')
    half, offset, steps = (levels - 1) * (1 - MARGIN) / 2, (levels + 1) % 2 / 2, levels // 2
    return 2 * steps, half / steps, offset / steps, math.tan(offset / half)


VARIANTS = {"symmetric": _symmetric, "paper": _paper}
