"""The wavelet packet of pictures in place, without gradients: the same numbers as `wavelet`'s, in less time.

Samples are sorted by their place in blocks of ``2 ** levels`` by ``2 ** levels``, one plane for each, so that lifting
adds planes to planes: what `wavelet` cuts out, joins and stacks anew at every step stays where it is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .wavelet import ALPHA, BETA, DELTA, GAMMA, LOW_GAIN


@torch.no_grad()
def packet2d(image: Float[Tensor, "B C H W"], levels: int) -> Float[Tensor, "B F h w"]:
    """What ``WaveletPacket2d(levels)`` gives, to the last bit.

    Args:
        image: Float; height and width are multiples of ``2 ** levels``. It stays as it is.
        levels: 1 or more.
    """
    step = 2**levels
    blocks = image.unflatten(2, (-1, step)).unflatten(4, (-1, step))  # [B, C, h, down, w, across]
    planes = blocks.permute(0, 1, 3, 5, 2, 4).clone(memory_format=torch.contiguous_format)
    for level in range(levels):
        _split(planes, 2, 4, level)
        _split(planes, 3, 5, level)
    digits = planes.unflatten(3, (2,) * levels).unflatten(2, (2,) * levels)  # last level first
    order = [axis for level in range(levels) for axis in (1 + levels - level, 1 + 2 * levels - level)]
    return digits.permute(0, 1, *order, 2 + 2 * levels, 3 + 2 * levels).flatten(1, 1 + 2 * levels)


def _split(planes: Float[Tensor, "B C down across h w"], phase: int, place: int, level: int) -> None:
    """One level along one axis: planes ``phase``, whose samples lie along ``place``."""
    even, odd = planes.unflatten(phase, (-1, 2, 2**level)).unbind(phase + 1)
    evens, odds = even.unbind(phase), odd.unbind(phase)  # in the order of samples, each [.., 2^level, .., h, w]
    axis = place - 6  # from the end
    for coefficient, ahead in ((ALPHA, True), (BETA, False), (GAMMA, True), (DELTA, False)):
        sources, targets = (evens, odds) if ahead else (odds, evens)
        for target, source, beside in zip(targets, sources, _neighbours(sources, axis, ahead), strict=True):
            target.add_(source + beside, alpha=coefficient)
    even.mul_(LOW_GAIN)
    odd.div_(LOW_GAIN)


def _neighbours(planes: tuple[Tensor, ...], axis: int, ahead: bool) -> list[Tensor]:
    """For each sample the one after it, or before it; at the end itself. Samples lie plane by plane, then along an
    axis."""
    first, last, size = planes[0], planes[-1], planes[0].shape[axis]
    if ahead:
        return [*planes[1:], torch.cat((first.narrow(axis, 1, size - 1), last.narrow(axis, size - 1, 1)), axis)]
    return [torch.cat((first.narrow(axis, 0, 1), last.narrow(axis, 0, size - 1)), axis), *planes[:-1]]
