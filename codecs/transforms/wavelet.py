"""Wavelet packets of the CDF 9/7 filters: every band split again at every level, by lifting.

Cohen, Daubechies and Feauveau, "Biorthogonal bases of compactly supported wavelets", 1992, as JPEG 2000's
irreversible transform uses them (ISO/IEC 15444-1); Daubechies and Sweldens, "Factoring wavelet transforms
into lifting steps", 1998: four steps that each add to one half of the samples what the other half predicts.
Undone in reverse order they give the samples back whatever the constants. At the ends the signal is
mirrored at its first and last sample.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .base import Transform
from .overlap import overhang
from .precision import at_least_float32

ALPHA, BETA, GAMMA, DELTA = -1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971
LOW_GAIN = math.sqrt(2) / 1.230174104914001  # a constant comes out sqrt(2) times larger: energy is about kept


class WaveletPacket1d(Transform):
    """``2 ** levels`` bands of a waveform ``[B, C, T]``, each at ``T / 2 ** levels``.

    Coefficient ``c * 2 ** levels + band`` belongs to channel c; the bits of the band, first level first,
    say low (0) or high (1). An extent that is no multiple of ``2 ** levels`` is filled by repeating the
    last sample.

    Raises:
        ValueError: If ``levels`` is below 0.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = _checked(levels)

    def forward(self, signal: Float[Tensor, "B C T"]) -> Float[Tensor, "B F t"]:
        """Coefficients, ``F = C * 2 ** levels``."""
        extent, step = signal.shape[2], 2**self.levels
        mode = "replicate" if extent else "constant"  # nothing has no last sample to repeat
        bands = F.pad(at_least_float32(signal), (0, overhang(extent, step)), mode=mode).unsqueeze(3)
        for _ in range(self.levels):
            bands = _split(bands)
        return bands.squeeze(3)

    def inverse(self, coefficients: Float[Tensor, "B F t"], extent: tuple[int, ...]) -> Float[Tensor, "B C T"]:
        """The signal of the bands."""
        bands = at_least_float32(coefficients).unsqueeze(3)
        for _ in range(self.levels):
            bands = _merge(bands)
        return bands[:, :, : extent[0], 0]


class WaveletPacket2d(Transform):
    """``4 ** levels`` bands of an image ``[B, C, H, W]``, each ``[H / 2 ** levels, W / 2 ** levels]``.

    Coefficient ``c * 4 ** levels + band`` belongs to channel c; the base-4 digits of the band, first level
    first, are ``2 * (high along the height) + (high along the width)``. An extent that is no multiple of
    ``2 ** levels`` is filled by repeating the last row and column.

    Raises:
        ValueError: If ``levels`` is below 0.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = _checked(levels)

    def forward(self, signal: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F h w"]:
        """Coefficients, ``F = C * 4 ** levels``."""
        step = 2**self.levels
        height, width = signal.shape[2:]
        bands = F.pad(at_least_float32(signal), (0, overhang(width, step), 0, overhang(height, step)), mode="replicate")
        for _ in range(self.levels):
            bands = _split(_split(bands).mT).mT
        return bands

    def inverse(self, coefficients: Float[Tensor, "B F h w"], extent: tuple[int, ...]) -> Float[Tensor, "B C H W"]:
        """The image of the bands."""
        bands = at_least_float32(coefficients)
        for _ in range(self.levels):
            bands = _merge(_merge(bands.mT).mT)
        return bands[:, :, : extent[0], : extent[1]]


def _split(bands: Float[Tensor, "B F n m"]) -> Float[Tensor, "B two_F half m"]:
    """Low and high half of every band along the third dimension, of even length, as neighbouring channels."""
    even, odd = bands.unflatten(2, (bands.shape[2] // 2, 2)).unbind(3)
    odd = torch.add(odd, even + _after(even), alpha=ALPHA)
    even = torch.add(even, odd + _before(odd), alpha=BETA)
    odd = torch.add(odd, even + _after(even), alpha=GAMMA)
    even = torch.add(even, odd + _before(odd), alpha=DELTA)
    return torch.stack([even * LOW_GAIN, odd / LOW_GAIN], dim=2).flatten(1, 2)


def _merge(bands: Float[Tensor, "B two_F half m"]) -> Float[Tensor, "B F n m"]:
    """The inverse of :func:`_split`."""
    low, high = bands.unflatten(1, (bands.shape[1] // 2, 2)).unbind(2)
    even, odd = low / LOW_GAIN, high * LOW_GAIN
    even = torch.sub(even, odd + _before(odd), alpha=DELTA)
    odd = torch.sub(odd, even + _after(even), alpha=GAMMA)
    even = torch.sub(even, odd + _before(odd), alpha=BETA)
    odd = torch.sub(odd, even + _after(even), alpha=ALPHA)
    return torch.stack([even, odd], dim=3).flatten(2, 3)


def _after(even: Tensor) -> Tensor:
    """The even sample after each odd one; past the end, the mirror image of the last."""
    return torch.cat([even[:, :, 1:], even[:, :, -1:]], dim=2)


def _before(odd: Tensor) -> Tensor:
    """The odd sample before each even one; before the start, the mirror image of the first."""
    return torch.cat([odd[:, :, :1], odd[:, :, :-1]], dim=2)


def _checked(levels: int) -> int:
    if levels < 0:
        raise ValueError(f"a wavelet packet has 0 or more levels, got {levels}; choose how often to halve the extent")
    return levels
