"""Both ends of a query-based audio codec by a plain name: samples to positions (patchify), and positions to samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch import nn

from .fronts import SpectrumBack, SpectrumFront
from .lapped import frame_hop
from .mdct_front import mdct_ends
from .seanet import seanet_ends
from .stft_front import stft_ends
from .wavelet_front import wavelet_ends


def front_and_back(
    name: str, hop: int, dim: int, options: Mapping[str, Any] | None = None
) -> tuple[nn.Module, nn.Module]:
    """The front and the back of a kind, untrained.

    Args:
        name: A key of `KINDS`.
        hop: Samples per position.
        dim: Width D of a position.
        options: Further arguments of that kind's function, plain values.

    Raises:
        ValueError: If the kind or an option is unknown, or the numbers do not fit together.
    """
    if name not in KINDS:
        raise ValueError(f"fronts are {', '.join(KINDS)}; got {name!r}")
    known = list(signature(KINDS[name]).parameters)[2:]
    if unknown := sorted(set(options or {}) - set(known)):
        raise ValueError(f"options of front {name!r} are {', '.join(known)}; got {', '.join(map(repr, unknown))}")
    return KINDS[name](hop, dim, **(options or {}))


def spectrum_ends(
    hop: int, dim: int, stack: int = 1, overlap: int = 3, blocks: int = 3
) -> tuple[SpectrumFront, SpectrumBack]:
    """Log-magnitude spectra, and magnitude and phase back; the back is ``(overlap - 1) / 2`` frame hops late.

    Args:
        hop: Samples per position.
        dim: Width D of a position.
        stack: Frames per position.
        overlap: Frames over every sample, odd.
        blocks: Convolution blocks of the back, at the frame rate.
    """
    step = frame_hop(hop, stack)
    size = overlap * step
    return SpectrumFront(size, step, stack, dim), SpectrumBack(size, step, stack, dim, blocks)


KINDS: dict[str, Callable[..., tuple[nn.Module, nn.Module]]] = {
    "spectrum": spectrum_ends,
    "seanet": seanet_ends,
    "mdct": mdct_ends,
    "stft": stft_ends,
    "wavelet": wavelet_ends,
}
