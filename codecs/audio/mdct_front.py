"""Ends of an audio codec from the modified discrete cosine transform: as many numbers as samples, phase included.

Frames of two hops under the sine window; see `sigtok.codecs.transforms.mdct` for source and formula.
"""

from __future__ import annotations

from sigtok.codecs.transforms.mdct import MDCT

from .lapped import LappedBack, LappedFront, frame_hop


def mdct_ends(hop: int, dim: int, stack: int = 1, blocks: int = 3) -> tuple[LappedFront, LappedBack]:
    """Front and back; the back is one frame hop late.

    Args:
        hop: Samples per position.
        dim: Width D of a position.
        stack: Frames per position.
        blocks: Convolution blocks of the back, at the frame rate.
    """
    basis = MDCT(frame_hop(hop, stack)).basis
    return LappedFront(basis.mT, 1, hop, stack, dim), LappedBack(basis, 1, hop, stack, dim, blocks)
