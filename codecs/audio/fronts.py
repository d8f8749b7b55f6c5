"""Fronts of audio codecs: a strided spectrum before the network, and overlapping spectra after it.

The network never runs at sample rate. Both ends stream: what the next chunk needs of this one is a value that goes in
and comes out.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.layers.conv1d import CausalBlock
from sigtok.codecs.transforms.overlap import overlap_add_stream
from sigtok.codecs.transforms.precision import at_least_float32, no_autocast
from sigtok.codecs.transforms.stft import analysis_basis, synthesis_basis

from .spectra import half_basis, half_spectrum, mirrored_waves

FLOOR = 1e-5  # magnitudes below are silence; the full scale of a bin is about 1


class SpectrumFront(nn.Module):
    """Waveform to positions: log-magnitude spectra of overlapping frames, ``stack`` of them in one linear map.

    Frame t sees ``size`` samples that end where hop t ends: causal, no lookahead.

    Args:
        size: Window of a frame, samples; a multiple of ``hop``.
        hop: Samples from frame to frame.
        stack: Frames per position.
        dim: Width D of a position.
    """

    basis: Tensor

    def __init__(self, size: int, hop: int, stack: int, dim: int) -> None:
        super().__init__()
        if size % hop:
            raise ValueError(f"size must be a multiple of hop, got size={size}, hop={hop}")
        self.size, self.hop, self.stack = size, hop, stack
        window = torch.hann_window(size)
        basis = analysis_basis(size, window).squeeze(1) * (2 / window.sum())
        self.register_buffer("basis", half_basis(basis).transpose(1, 2).contiguous(), persistent=False)
        self.project = nn.Linear(stack * (size // 2 + 1), dim)

    def initial_state(self, batch: int) -> Tensor:
        """The samples before the beginning: zeros ``[B, 1, size - hop]``."""
        return self.basis.new_zeros(batch, 1, self.size - self.hop)

    def forward(self, signal: Float[Tensor, "B 1 T"], state: Tensor) -> tuple[Float[Tensor, "B N D"], Tensor]:
        """Positions of a chunk (T a multiple of ``stack * hop``), and the state after it."""
        signal = torch.cat((state, signal), dim=-1)
        hops = signal.reshape(signal.shape[0], -1, self.hop)
        overlap = self.size // self.hop
        count = hops.shape[1] - overlap + 1
        frames = torch.cat([hops[:, start : start + count] for start in range(overlap)], dim=-1)
        with no_autocast(frames):
            real, imaginary = half_spectrum(frames, self.basis)
            power = real.square() + imaginary.square()
            spectra = ((power + FLOOR**2).log() + 9) / 4  # -3.5 for silence, about 0 for speech, 2 for full scale
        positions = self.project(rearrange(spectra, "b (n s) f -> b n (s f)", s=self.stack))
        return positions, signal[:, :, signal.shape[-1] - self.size + self.hop :]


class SpectrumBack(nn.Module):
    """Positions to waveform: convolution blocks at the frame rate, then magnitude and phase of overlapping frames.

    The inverse transform is two half-size matrix products and shifted sums; every sample is divided by the sum of the
    squared windows over it, so the ends of a signal are as loud as its middle. Frames are centred on their hops, so a
    stream comes out ``delay`` samples late. The head is that of Vocos (arXiv 2306.00814).

    Args:
        size: Window of a frame, samples; an odd multiple of ``hop``.
        hop: Samples from frame to frame.
        stack: Frames per position.
        dim: Width of a position and of a frame.
        blocks: Convolution blocks.
    """

    basis: Tensor
    envelope: Tensor
    blocks: Any  # of CausalBlock

    def __init__(self, size: int, hop: int, stack: int, dim: int, blocks: int) -> None:
        super().__init__()
        if size % hop or size // hop % 2 == 0:
            raise ValueError(f"size must be an odd multiple of hop, got size={size}, hop={hop}")
        self.size, self.hop, self.stack = size, hop, stack
        self.delay = (size - hop) // 2
        self.expand = nn.Linear(dim, stack * dim)
        self.blocks = nn.ModuleList(CausalBlock(dim) for _ in range(blocks))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 2 * (size // 2 + 1))
        nn.init.normal_(self.head.weight, std=0.02)
        window = torch.hann_window(size)
        basis = synthesis_basis(size, window).squeeze(1) * (window.sum() / 2)
        self.register_buffer("basis", half_basis(basis), persistent=False)
        self.register_buffer("envelope", window.square(), persistent=False)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs of the convolutions, and the unfinished samples and window sums, before the beginning: zeros."""
        tail = self.basis.new_zeros(batch, self.size - self.hop)
        return *(block.initial_state(batch) for block in self.blocks), tail, tail

    def forward(
        self, positions: Float[Tensor, "B N D"], state: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "B T"], tuple[Tensor, ...]]:
        """The next ``N * stack * hop`` samples, ``delay`` late, and the state after them."""
        frames = rearrange(self.expand(positions), "b n (s d) -> b (n s) d", s=self.stack)
        states = []
        for block, before in zip(self.blocks, state[:-2], strict=True):
            frames, after = block(frames, before)
            states.append(after)
        log_magnitude, phase = at_least_float32(self.head(self.norm(frames))).chunk(2, dim=-1)
        magnitude = log_magnitude.sub(4).clamp_max(2).exp()
        with no_autocast(frames):
            waves = mirrored_waves(magnitude * phase.cos(), magnitude * phase.sin(), self.basis, self.size)
        hops = self.size // self.hop
        samples, tail = overlap_add_stream(waves, hops, state[-2])
        weights, weight_tail = overlap_add_stream(self.envelope.expand_as(waves), hops, state[-1])
        return samples / weights.clamp_min(1e-6), (*states, tail, weight_tail)

    def flush(self, state: tuple[Tensor, ...]) -> Float[Tensor, "B T"]:
        """The samples that no later frame adds to."""
        return (state[-2] / state[-1].clamp_min(1e-6))[:, : self.delay]
