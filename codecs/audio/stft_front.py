"""Ends of an audio codec from complex short-time spectra: real and imaginary parts, companded in magnitude.

Where `SpectrumFront` hears magnitudes only, the phase comes along; see `sigtok.codecs.transforms.stft` for the source.
"""

from __future__ import annotations

from sigtok.codecs.transforms.stft import STFT

from .lapped import LappedBack, LappedFront, frame_hop


def stft_ends(hop: int, dim: int, stack: int = 1, overlap: int = 2, blocks: int = 3) -> tuple[LappedFront, LappedBack]:
    """Front and back; the back is ``overlap - 1`` frame hops late.

    Args:
        hop: Samples per position.
        dim: Width D of a position.
        stack: Frames per position.
        overlap: Frames over every sample, at least 2.
        blocks: Convolution blocks of the back, at the frame rate.

    Raises:
        ValueError: If the frames do not overlap.
    """
    if overlap < 2:
        raise ValueError(f"2 or more frames overlap, got overlap={overlap}; choose 2 for the least delay")
    step = frame_hop(hop, stack)
    transform = STFT(overlap * step, step)
    unit = transform.weight.sum().sqrt()  # noise has coefficients as large as its samples
    envelope = transform.weight.unflatten(0, (overlap, step)).sum(0).repeat(overlap)
    synthesis = transform.synthesis * (unit / envelope)
    return (
        LappedFront(transform.analysis.mT / unit, 2, hop, stack, dim),
        LappedBack(synthesis, 2, hop, stack, dim, blocks),
    )
