"""Short-time Fourier transform in real arithmetic: one matrix product there, one and an overlap-add back.

Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984: the inverse is the
overlap-add of windowed inverse transforms over the overlap-added squared window, the least-squares signal
of any coefficients.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .base import Transform
from .overlap import frame, overlap_add
from .precision import at_least_float32, no_autocast


class STFT(Transform):
    """Frames of ``size`` samples every ``hop`` as real parts, then imaginary parts.

    Frame t is centred on samples ``[t * hop, (t + 1) * hop)`` (half a sample early where ``size - hop`` is
    odd); outside the signal is silence. The window is the periodic Hann window, flat in the middle where a
    hop above half the size leaves less to fade. It is at least 1/2 over the frame's own hop, so the squared
    window sum is at least 1/4 everywhere and ``ceil(T / hop)`` frames give back every extent, even none.
    Buffers have torch's default dtype and are not saved.

    Args:
        size: Samples of a frame; ``size // 2 + 1`` frequencies.
        hop: Samples from frame to frame, 1 to ``size``.

    Raises:
        ValueError: If ``hop`` is not in 1 to ``size``.
    """

    analysis: Tensor
    synthesis: Tensor
    weight: Tensor

    def __init__(self, size: int, hop: int) -> None:
        super().__init__()
        if not 1 <= hop <= size:
            raise ValueError(f"a hop is 1 sample to the frame size ({size}), got {hop}; choose one in between")
        self.size, self.hop, self.hops = size, hop, -(-size // hop)
        self.lead = (size - hop + 1) // 2
        window = hann(size, hop)
        self._constant("analysis", analysis_basis(size, window).squeeze(1))
        self._constant("synthesis", synthesis_basis(size, window).squeeze(1))
        self._constant("weight", window.square())

    def frames(self, extent: int) -> int:
        """Frames of a signal of ``extent`` samples: ``ceil(extent / hop)``."""
        return (extent + self.hop - 1) // self.hop

    def forward(self, signal: Float[Tensor, "B 1 T"]) -> Float[Tensor, "B F frames"]:
        """Coefficients, ``F = 2 * (size // 2 + 1)``."""
        extent = signal.shape[2]
        tail = (self.frames(extent) + self.hops - 1) * self.hop - self.lead - extent
        with no_autocast(signal):
            padded = F.pad(at_least_float32(signal[:, 0]), (self.lead, tail))
            return (frame(padded, self.hop, self.hops) @ self.analysis.mT).mT

    def inverse(self, coefficients: Float[Tensor, "B F frames"], extent: tuple[int, ...]) -> Float[Tensor, "B 1 T"]:
        """The signal whose frames are nearest to the coefficients."""
        with no_autocast(coefficients):
            added = overlap_add(at_least_float32(coefficients).mT @ self.synthesis, self.hops)
            weight = overlap_add(self.weight.expand(1, coefficients.shape[2], -1), self.hops)
        kept = slice(self.lead, self.lead + extent[0])
        return (added[:, kept] / weight[:, kept]).unsqueeze(1)

    def _constant(self, name: str, values: Tensor) -> None:
        """A buffer whose frames last a whole number of hops."""
        padded = F.pad(values, (0, self.hops * self.hop - self.size))
        self.register_buffer(name, padded.to(torch.get_default_dtype()), persistent=False)


def hann(size: int, hop: int) -> Float[Tensor, " size"]:
    """The window in float64: rises over the overlap, at most half the size, and falls as it rose."""
    ramp = min(size - hop, size / 2)
    index = torch.arange(size, dtype=torch.float64)
    if ramp == 0:
        return torch.ones_like(index)
    return torch.sin(math.pi / 2 * torch.minimum(index, size - index).clamp(max=ramp) / ramp).square()


def analysis_basis(size: int, window: Float[Tensor, " size"]) -> Float[Tensor, "F 1 size"]:
    """Rows of the windowed real Fourier transform, as kernels of a strided convolution."""
    return (_fourier(size) * window.double()).unsqueeze(1).to(window.dtype)


def synthesis_basis(size: int, window: Float[Tensor, " size"]) -> Float[Tensor, "F 1 size"]:
    """Rows of the inverse transform, windowed again: kernels for a transposed convolution.

    That convolution of the coefficients, over the one of ones with ``window ** 2``, is the signal.
    """
    scale = torch.full((size // 2 + 1,), 2.0 / size, dtype=torch.float64)
    scale[0] = 1.0 / size
    if size % 2 == 0:
        scale[-1] = 1.0 / size
    return (scale.repeat(2).unsqueeze(1) * _fourier(size) * window.double()).unsqueeze(1).to(window.dtype)


def _fourier(size: int) -> Float[Tensor, "F size"]:
    """Cosines, then negative sines, of the frequencies 0 to ``size // 2``."""
    index = torch.arange(size)
    turns = torch.outer(index[: size // 2 + 1], index) % size
    angles = turns.double() * (2 * math.pi / size)
    return torch.cat([angles.cos(), -angles.sin()])
