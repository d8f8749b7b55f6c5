"""Modified discrete cosine transform: N coefficients for every N samples, no redundancy and no block edges.

Princen, Johnson and Bradley, "Subband/transform coding using filter bank designs based on time domain
aliasing cancellation", 1987: with ``w[n]^2 + w[n + N]^2 = 1`` the aliases of neighbouring frames cancel in
the overlap-add.
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


class MDCT(Transform):
    """``size`` coefficients every ``size`` samples, from windows of twice that; an orthonormal transform.

    Frame t covers samples ``[(t - 1) * size, (t + 1) * size)``, silence outside the signal: the first and the
    last frame hold what its two ends need to be exact. Buffers have torch's default dtype and are not saved.

    Args:
        size: Coefficients of a frame, and its hop in samples.
        window: ``"sine"`` separates near frequencies best; ``"kbd"``, the Kaiser-Bessel-derived window of
            alpha 4, leaks less from loud to far ones.

    Raises:
        ValueError: If ``size`` is below 1 or the window is unknown.
    """

    basis: Tensor

    def __init__(self, size: int, window: str = "sine") -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"an MDCT has at least 1 coefficient a frame, got {size}; choose the hop in samples")
        if window not in WINDOWS:
            raise ValueError(f"an MDCT window is one of {sorted(WINDOWS)}, got {window!r}; choose one of them")
        self.size = size
        basis = (WINDOWS[window](size) * _cosines(size)).to(torch.get_default_dtype())
        self.register_buffer("basis", basis, persistent=False)

    def frames(self, extent: int) -> int:
        """Frames of a signal of ``extent`` samples: ``ceil(extent / size) + 1``."""
        return (extent + self.size - 1) // self.size + 1

    def forward(self, signal: Float[Tensor, "B 1 T"]) -> Float[Tensor, "B size frames"]:
        """Coefficients of every frame, low frequencies first."""
        extent = signal.shape[2]
        tail = self.frames(extent) * self.size - extent
        with no_autocast(signal):
            padded = F.pad(at_least_float32(signal[:, 0]), (self.size, tail))
            return (frame(padded, self.size, hops=2) @ self.basis.mT).mT

    def inverse(self, coefficients: Float[Tensor, "B size frames"], extent: tuple[int, ...]) -> Float[Tensor, "B 1 T"]:
        """The signal of the coefficients."""
        with no_autocast(coefficients):
            added = overlap_add(at_least_float32(coefficients).mT @ self.basis, hops=2)
        return added[:, None, self.size : self.size + extent[0]]


def sine_window(size: int) -> Float[Tensor, " two_size"]:
    """``sin(pi (n + 1/2) / 2N)``, in float64."""
    return torch.sin((torch.arange(2 * size, dtype=torch.float64) + 0.5) * (math.pi / (2 * size)))


def kbd_window(size: int, alpha: float = 4.0) -> Float[Tensor, " two_size"]:
    """Roots of the running sums of a Kaiser window, in float64 (ISO/IEC 13818-7)."""
    kaiser = torch.kaiser_window(size + 1, periodic=False, beta=math.pi * alpha, dtype=torch.float64)
    rise = (kaiser.cumsum(0)[:-1] / kaiser.sum()).sqrt()
    return torch.cat([rise, rise.flip(0)])


WINDOWS = {"sine": sine_window, "kbd": kbd_window}


def _cosines(size: int) -> Float[Tensor, "size two_size"]:
    """``sqrt(2 / N) cos(pi / N (n + 1/2 + N/2) (k + 1/2))``."""
    frequency = 2 * torch.arange(size) + 1
    time = 2 * torch.arange(2 * size) + 1 + size
    turns = torch.outer(frequency, time) % (8 * size)
    return torch.cos(turns.double() * (math.pi / (4 * size))) * math.sqrt(2 / size)
