"""Ends of an audio codec from wavelet packets: each frame its own transform, short against smearing, cross-faded back.

A frame is its hop and a margin before it, so a packet never looks beyond the frame and any chunking gives the same
numbers; see `sigtok.codecs.transforms.wavelet` for the filters and their source.
"""

from __future__ import annotations

import math

import torch

from sigtok.codecs.transforms.wavelet import WaveletPacket1d

from .lapped import LappedBack, LappedFront, frame_hop


def wavelet_ends(
    hop: int, dim: int, stack: int = 1, levels: int = 6, margin: int = 64, blocks: int = 3
) -> tuple[LappedFront, LappedBack]:
    """Front and back; the back is ``margin`` samples late.

    Args:
        hop: Samples per position.
        dim: Width D of a position.
        stack: Frames per position.
        levels: Every frame is split into ``2 ** levels`` bands.
        margin: Samples that a frame shares with the one before, 1 to the frame hop.
        blocks: Convolution blocks of the back, at the frame rate.

    Raises:
        ValueError: If a frame and its margin are no multiple of ``2 ** levels``, or the margin is no part of a frame.
    """
    step = frame_hop(hop, stack)
    size, bands = step + margin, 2**levels
    if size % bands or not 1 <= margin <= step:
        raise ValueError(
            f"a frame and a margin within it are a multiple of {bands} samples for levels={levels}, "
            f"got {step} + margin={margin}; choose another margin"
        )
    packet, units = WaveletPacket1d(levels), torch.eye(size, dtype=torch.float64)
    analysis = packet(units[:, None]).flatten(1)
    rise = torch.sin((torch.arange(margin, dtype=torch.float64) + 0.5) * (math.pi / (2 * margin))).square()
    fade = torch.cat((rise, rise.new_ones(step - margin), rise.flip(0)))
    synthesis = packet.inverse(units.unflatten(1, (bands, size // bands)), (size,)).flatten(1) * fade
    kind = torch.get_default_dtype()
    return (
        LappedFront(analysis.to(kind), 1, hop, stack, dim),
        LappedBack(synthesis.to(kind), 1, hop, stack, dim, blocks),
    )
