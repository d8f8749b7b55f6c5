"""Ends of an audio codec from a lapped transform: overlapping frames, coefficients, companded, and a linear map.

::

    samples -frames-> [size] -analysis-> [F] -companding-> [F] -``stack`` of them, linear-> positions
    positions -linear, blocks, linear-> [F] -expansion-> [F] -synthesis-> [size] -overlap-add-> samples

Frame t ends where hop t ends: the front looks at nothing later. The back puts frame t where the front saw it, so that
the transform and its inverse are exact, and its samples come ``size - hop`` late; the last ``size - hop`` samples of a
signal fade out, for no later frame completes them.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.layers.conv1d import CausalBlock
from sigtok.codecs.transforms.overlap import frame, overhang, overlap_add_stream
from sigtok.codecs.transforms.precision import at_least_float32, no_autocast

from .companding import Companding


class LappedFront(nn.Module):
    """Waveform to positions.

    Args:
        analysis: Columns that give the coefficients of a frame, about as large as its samples.
        parts: Of a coefficient, see `Companding`.
        hop: Samples per position.
        stack: Frames per position.
        dim: Width D of a position.

    Raises:
        ValueError: If a position is no whole number of frames.
    """

    analysis: Tensor

    def __init__(self, analysis: Float[Tensor, "size F"], parts: int, hop: int, stack: int, dim: int) -> None:
        super().__init__()
        self.hop, self.stack, self.frame_hop = hop, stack, frame_hop(hop, stack)
        unseen = overhang(len(analysis), self.frame_hop)
        self.register_buffer("analysis", F.pad(analysis, (0, 0, unseen, 0)), persistent=False)
        self.hops = len(self.analysis) // self.frame_hop
        self.companding = Companding(parts)
        self.project = nn.Linear(stack * analysis.shape[1], dim)
        nn.init.normal_(self.project.weight, std=self.project.in_features**-0.5)

    def initial_state(self, batch: int) -> Tensor:
        """The samples before the beginning: zeros."""
        return self.analysis.new_zeros(batch, (self.hops - 1) * self.frame_hop)

    def forward(self, signal: Float[Tensor, "B 1 T"], state: Tensor) -> tuple[Float[Tensor, "B N D"], Tensor]:
        """Positions of a chunk (T a multiple of ``hop``), and the state after it."""
        samples = torch.cat((state, at_least_float32(signal[:, 0])), dim=1)
        with no_autocast(signal):
            values = self.companding(frame(samples, self.frame_hop, self.hops) @ self.analysis)
        positions = self.project(rearrange(values, "b (n s) f -> b n (s f)", s=self.stack))
        return positions, samples[:, samples.shape[1] - state.shape[1] :]


class LappedBack(nn.Module):
    """Positions to waveform; arguments mirror `LappedFront`.

    Args:
        synthesis: Rows that give a frame of its coefficients, faded so that overlapping frames add up to the signal.
        parts: Of a coefficient.
        hop: Samples per position.
        stack: Frames per position.
        dim: Width D of a position and of a frame.
        blocks: Convolution blocks at the frame rate.

    Raises:
        ValueError: If a position is no whole number of frames.
    """

    synthesis: Tensor
    blocks: Any  # of CausalBlock

    def __init__(
        self, synthesis: Float[Tensor, "F size"], parts: int, hop: int, stack: int, dim: int, blocks: int
    ) -> None:
        super().__init__()
        self.hop, self.stack, self.frame_hop = hop, stack, frame_hop(hop, stack)
        coefficients, size = synthesis.shape
        self.register_buffer("synthesis", F.pad(synthesis, (0, overhang(size, self.frame_hop))), persistent=False)
        self.hops = self.synthesis.shape[1] // self.frame_hop
        self.delay = size - self.frame_hop
        self.expand = nn.Linear(dim, stack * dim)
        self.blocks = nn.ModuleList(CausalBlock(dim) for _ in range(blocks))
        self.head = nn.Linear(dim, coefficients)
        nn.init.normal_(self.head.weight, std=0.02)
        self.companding = Companding(parts)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs of the convolutions, and the unfinished samples, before the beginning: zeros."""
        tail = self.synthesis.new_zeros(batch, (self.hops - 1) * self.frame_hop)
        return *(block.initial_state(batch) for block in self.blocks), tail

    def forward(
        self, positions: Float[Tensor, "B N D"], state: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "B T"], tuple[Tensor, ...]]:
        """The next ``N * hop`` samples, ``delay`` late, and the state after them."""
        frames = rearrange(self.expand(positions), "b n (s d) -> b (n s) d", s=self.stack)
        states = []
        for block, before in zip(self.blocks, state[:-1], strict=True):
            frames, after = block(frames, before)
            states.append(after)
        values = at_least_float32(self.head(frames))
        with no_autocast(values):
            waves = self.companding.inverse(values) @ self.synthesis
        samples, tail = overlap_add_stream(waves, self.hops, state[-1])
        return samples, (*states, tail)

    def flush(self, state: tuple[Tensor, ...]) -> Float[Tensor, "B T"]:
        """The samples that no later frame adds to."""
        return state[-1][:, : self.delay]


def frame_hop(hop: int, stack: int) -> int:
    """Samples from frame to frame where ``stack`` frames make a position of ``hop`` samples.

    Raises:
        ValueError: If they do not.
    """
    if hop % stack:
        raise ValueError(f"a position is a whole number of frames, got hop={hop} for stack={stack}; choose a divisor")
    return hop // stack
