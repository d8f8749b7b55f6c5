"""A pyramid of wavelets in the place of its signal: the low band is split again and again, the high ones stay.

Mallat's tree of the CDF 9/7 filters (see `wavelet`), as JPEG 2000 has it, each coefficient left where its sample stood:
of level l (1 is the finest) high ones stand at odd multiples of ``2 ** (l - 1)``, what is left of the low band at
multiples of ``2 ** levels``. Any extent is split: of an odd number of samples, one more is low.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import Transform
from .precision import at_least_float32
from .wavelet import ALPHA, BETA, DELTA, GAMMA, LOW_GAIN


class Pyramid2d(Transform):
    """Maps ``[B, C, Y, X]`` to coefficients of the same shape.

    Raises:
        ValueError: If ``levels`` is below 0.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        if levels < 0:
            raise ValueError(f"a pyramid has 0 or more levels, got {levels}; choose how often the low band is split")
        self.levels = levels

    def forward(self, signal: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C Y X"]:
        """Coefficients in the places of their samples."""
        whole = at_least_float32(signal).clone()
        for level in range(self.levels):
            low = whole[..., :: 2**level, :: 2**level]
            low.copy_(_lift(_lift(low).mT).mT)
        return whole

    def inverse(self, coefficients: Float[Tensor, "B C Y X"], extent: tuple[int, ...]) -> Float[Tensor, "B C Y X"]:
        """The maps; an extent is theirs."""
        whole = at_least_float32(coefficients).clone()
        for level in reversed(range(self.levels)):
            low = whole[..., :: 2**level, :: 2**level]
            low.copy_(_sink(_sink(low.mT).mT))
        return whole[..., : extent[0], : extent[1]]


def kinds(extent: tuple[int, ...], levels: int) -> Int[Tensor, "Y X"]:
    """Which coefficient stands where: 0 the low band, ``3 l - 2``, ``3 l - 1`` and ``3 l`` those of level l that are
    high along the width, along the height, along both."""
    depth = [_depths(size, levels) for size in extent]
    down, across = depth[0][:, None], depth[1][None, :]
    level = torch.minimum(down, across)
    high = 2 * (down == level) + 1 * (across == level)
    return torch.where(level == levels, 0, 3 * level + high)


def _depths(size: int, levels: int) -> Int[Tensor, " n"]:
    """How often each place can be halved, at most `levels` times."""
    place = torch.arange(size)
    return sum((place % 2**level == 0).long() for level in range(1, levels + 1)) + torch.zeros(size, dtype=torch.long)


def _lift(values: Float[Tensor, "*any n"]) -> Float[Tensor, "*any n"]:
    """Low samples at even places, high ones at odd, along the last axis."""
    even, odd = values[..., ::2], values[..., 1::2]
    odd = torch.add(odd, _sum_right(even, odd), alpha=ALPHA)
    even = torch.add(even, _sum_left(even, odd), alpha=BETA)
    odd = torch.add(odd, _sum_right(even, odd), alpha=GAMMA)
    even = torch.add(even, _sum_left(even, odd), alpha=DELTA)
    return _woven(even * LOW_GAIN, odd / LOW_GAIN)


def _sink(values: Float[Tensor, "*any n"]) -> Float[Tensor, "*any n"]:
    """The inverse of :func:`_lift`."""
    even, odd = values[..., ::2] / LOW_GAIN, values[..., 1::2] * LOW_GAIN
    even = torch.sub(even, _sum_left(even, odd), alpha=DELTA)
    odd = torch.sub(odd, _sum_right(even, odd), alpha=GAMMA)
    even = torch.sub(even, _sum_left(even, odd), alpha=BETA)
    odd = torch.sub(odd, _sum_right(even, odd), alpha=ALPHA)
    return _woven(even, odd)


def _sum_right(even: Tensor, odd: Tensor) -> Tensor:
    """The two even samples beside each odd one; past the end, the mirror image of the last."""
    right = even[..., 1:]
    if right.shape[-1] < odd.shape[-1]:
        right = torch.cat((right, even[..., -1:]), -1)
    return even[..., : odd.shape[-1]] + right


def _sum_left(even: Tensor, odd: Tensor) -> Tensor:
    """The two odd samples beside each even one; past an end, the mirror image of the first or last."""
    if not odd.shape[-1]:
        return torch.zeros_like(even)
    left, right = torch.cat((odd[..., :1], odd), -1), odd
    if right.shape[-1] < even.shape[-1]:
        right = torch.cat((right, odd[..., -1:]), -1)
    return left[..., : even.shape[-1]] + right


def _woven(even: Tensor, odd: Tensor) -> Tensor:
    """Even and odd samples in turn."""
    values = even.new_empty(*even.shape[:-1], even.shape[-1] + odd.shape[-1])
    values[..., ::2], values[..., 1::2] = even, odd
    return values
