"""The semantic codec (IndexTTS 2.5, arXiv 2601.03888): features of a frozen network in, features out, fewer a second.

::

    features -standardise-> -strided convolution-> -blocks-> latents                              (encoder)
    latents -blocks-> -repeat, convolution-> -linear-> -standardise back-> features               (decoder)

Causal on both sides, so that it streams; the published one sees both sides.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.layers.conv1d import CausalBlock, CausalConv1d
from sigtok.codecs.layers.standardise import Standardise
from sigtok.codecs.spec import Extent, Rate

from .pieces import State, in_pieces

PIECE = 1024  # positions worked on at once on long signals


class SemanticEncoder(nn.Module):
    """Features to latents, one per ``stride`` frames.

    Args:
        scale: Standardisation, one with the decoder's.
        channels: Feature channels F.
        stride: Frames per latent.
        dim: Width of the blocks.
        depth: Blocks.
        latent_dim: Width D of a latent.
    """

    blocks: Any  # of CausalBlock

    def __init__(self, scale: Standardise, channels: int, stride: int, dim: int, depth: int, latent_dim: int) -> None:
        super().__init__()
        self.scale, self.stride = scale, stride
        self.down = CausalConv1d(channels, dim, stride + 1, stride)
        self.blocks = nn.ModuleList(CausalBlock(dim) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.project = nn.Linear(dim, latent_dim)

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning: mean features."""
        return self.down.initial_state(batch), *(block.initial_state(batch) for block in self.blocks)

    def step(self, chunk: Float[Tensor, "B F T"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Latents ``[B, N, D]`` of the next frames of a stream (T a multiple of ``stride``), and the state after."""
        latents, first = self.down(self.scale(chunk), state[0])
        latents, states = through(self.blocks, F.gelu(latents).transpose(1, 2), state[1:])
        return self.project(self.norm(latents)), (first, *states)

    def forward(self, signal: Float[Tensor, "B F T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole windows, all at once."""
        return self.step(signal, self.initial_state(signal.shape[0], rate), rate)[0]

    def piecewise(self, signal: Float[Tensor, "B F T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, `PIECE` positions at a time."""
        state = self.initial_state(signal.shape[0], rate)
        latents, _ = in_pieces(partial(self.step, rate=rate), signal, PIECE * self.stride, -1, state)
        return torch.cat(latents, dim=1)


class SemanticDecoder(nn.Module):
    """Latents to features. Arguments mirror `SemanticEncoder`."""

    blocks: Any  # of CausalBlock

    def __init__(self, scale: Standardise, channels: int, stride: int, dim: int, depth: int, latent_dim: int) -> None:
        super().__init__()
        self.scale, self.stride = scale, stride
        self.project = nn.Linear(latent_dim, dim)
        self.blocks = nn.ModuleList(CausalBlock(dim) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.up = CausalConv1d(dim, dim, stride + 1)
        self.head = nn.Linear(dim, channels)

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        return *(block.initial_state(batch) for block in self.blocks), self.up.initial_state(batch)

    def step(self, latents: Float[Tensor, "B N D"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Features ``[B, F, T]`` of the next positions of a stream, ``stride`` each, and the state after them."""
        positions, states = through(self.blocks, self.project(latents), state[:-1])
        repeated = self.norm(positions).repeat_interleave(self.stride, dim=1).transpose(1, 2)
        frames, last = self.up(repeated, state[-1])
        return self.scale.inverse(self.head(F.gelu(frames).transpose(1, 2)).transpose(1, 2)), (*states, last)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B F T"]:
        """The features of whole windows, all at once."""
        return self.step(latents, self.initial_state(latents.shape[0], rate), rate)[0]

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B F T"]:
        """The same features, `PIECE` positions at a time."""
        state = self.initial_state(latents.shape[0], rate)
        frames, _ = in_pieces(partial(self.step, rate=rate), latents, PIECE, 1, state)
        return torch.cat(frames, dim=-1)


def through(blocks: Any, positions: Float[Tensor, "B N D"], states: State) -> tuple[Tensor, list[Tensor]]:
    """Positions after all blocks, and the state of each."""
    after = []
    for block, before in zip(blocks, states, strict=True):
        positions, state = block(positions, before)
        after.append(state)
    return positions, after
