"""Codecs without queries: a frame-wise network, and a strided map from w positions to one latent (EnCodec, Mimi).

::

    samples -front-> positions -transformer-> positions -w of them, one linear map-> latents        (encoder)
    latents -one linear map-> w positions -transformer-> positions -back-> samples                  (decoder)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.queries import window_positions
from sigtok.codecs.spec import Extent, Rate

from .pieces import PIECE, State, in_pieces
from .query import aligned


class FrameEncoder(nn.Module):
    """Waveform to latents, one for every window of w positions.

    Args:
        front: Samples to positions, with a state.
        transformer: Over positions; of depth 0 for a convolutional codec.
        window: Positions w of a latent.
        latent_dim: Width of a latent.
        hop: Samples per position.
    """

    front: Any

    def __init__(
        self, front: nn.Module, transformer: WindowTransformer, window: int, latent_dim: int, hop: int
    ) -> None:
        super().__init__()
        self.front, self.transformer, self.window, self.hop = front, transformer, window, hop
        self.project = nn.Linear(window * transformer.dim, latent_dim)
        self.norm = nn.BatchNorm1d(latent_dim, momentum=0.02, affine=False)  # as in the query codec

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        windows = self.transformer.initial_state(batch, self.window, self.window)
        return self.front.initial_state(batch), windows

    def step(self, chunk: Float[Tensor, "B C T"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Latents ``[B, N, D]`` of the next whole windows of a stream, and the state after them."""
        latents, state = self._read(chunk, state)
        mean, variance = self.norm.running_mean, self.norm.running_var
        return F.batch_norm(latents, mean, variance, eps=self.norm.eps).transpose(1, 2), state

    def forward(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole windows, all at once; in training mode, normalised over the batch."""
        latents, _ = self._read(signal, self.initial_state(signal.shape[0], rate))
        return self.norm(latents).transpose(1, 2)

    def piecewise(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, `PIECE` windows at a time."""
        state, size = self.initial_state(signal.shape[0], rate), PIECE * self.hop * self.window
        latents, _ = in_pieces(partial(self.step, rate=rate), signal, size, -1, state)
        return torch.cat(latents, dim=1)

    def _read(self, chunk: Tensor, state: State) -> tuple[Tensor, State]:
        """Latents ``[B, D, M]`` as they come out of the projection, and the state after them."""
        positions, front_state = self.front(chunk, state[0])
        windows = rearrange(positions, "b (m w) d -> b m w d", w=self.window)
        windows, state = self.transformer(windows, window_positions((self.window,)), self.window, state[1])
        return self.project(windows.flatten(2)).transpose(1, 2), (front_state, state)


class FrameDecoder(nn.Module):
    """Latents to waveform. Arguments mirror `FrameEncoder`."""

    back: Any

    def __init__(self, back: nn.Module, transformer: WindowTransformer, window: int, latent_dim: int) -> None:
        super().__init__()
        self.back, self.transformer, self.window = back, transformer, window
        self.project = nn.Linear(latent_dim, window * transformer.dim)

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        return self.transformer.initial_state(batch, self.window, self.window), self.back.initial_state(batch)

    def step(self, latents: Float[Tensor, "B N D"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Samples ``[B, T]`` of the next whole windows, ``back.delay`` late, and the state after them."""
        windows = rearrange(self.project(latents), "b m (w d) -> b m w d", w=self.window)
        windows, after = self.transformer(windows, window_positions((self.window,)), self.window, state[0])
        samples, back = self.back(windows.flatten(1, 2), state[1])
        return samples, (after, back)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B 1 T"]:
        """The signal of whole windows, all at once."""
        samples, state = self.step(latents, self.initial_state(latents.shape[0], rate), rate)
        return aligned(self.back, [samples], state[1])

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B 1 T"]:
        """The same signal, `PIECE` windows at a time."""
        state = self.initial_state(latents.shape[0], rate)
        samples, state = in_pieces(partial(self.step, rate=rate), latents, PIECE, 1, state)
        return aligned(self.back, samples, state[1])
