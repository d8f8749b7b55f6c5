"""The query codec for audio (ALMTokenizer, arXiv 2504.10344): few tokens per second read by queries, as a stream.

::

    samples -front-> positions -windows + queries-> latents          (encoder)
    latents -queries + masks-> positions -back-> samples             (decoder)
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.queries import QueryDecoder, QueryEncoder
from sigtok.codecs.spec import Extent, Rate

State = Any  # nested tuples of tensors: what a stream carries from chunk to chunk

PIECE = 64  # windows worked on at once on long signals: seconds of audio, tens of megabytes


class AudioQueryEncoder(nn.Module):
    """Waveform to latents, one per query.

    Args:
        front: Samples to positions, with a state (`SpectrumFront`).
        queries: Positions to queries.
        latent_dim: Width of a latent.
        hop: Samples per position.
    """

    front: Any  # its forward is that of `SpectrumFront`

    def __init__(self, front: nn.Module, queries: QueryEncoder, latent_dim: int, hop: int) -> None:
        super().__init__()
        self.front, self.queries, self.hop = front, queries, hop
        self.project = nn.Linear(queries.transformer.dim, latent_dim)
        self.norm = nn.BatchNorm1d(latent_dim, momentum=0.02, affine=False)  # else they share most of their length

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        return self.front.initial_state(batch), self.queries.initial_state(batch, rate.window, rate.queries)

    def step(self, chunk: Float[Tensor, "B C T"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Latents ``[B, N, D]`` of the next whole windows of a stream, and the state after them."""
        latents, state = self._read(chunk, state, rate)
        mean, variance = self.norm.running_mean, self.norm.running_var
        return F.batch_norm(latents, mean, variance, eps=self.norm.eps).transpose(1, 2), state

    def forward(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole windows, all at once; in training mode, normalised over the batch."""
        latents, _ = self._read(signal, self.initial_state(signal.shape[0], rate), rate)
        return self.norm(latents).transpose(1, 2)

    def piecewise(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, `PIECE` windows at a time."""
        state, latents = self.initial_state(signal.shape[0], rate), []
        for chunk in signal.split(PIECE * self.hop * rate.window[0], dim=-1):
            part, state = self.step(chunk, state, rate)
            latents.append(part)
        return torch.cat(latents, dim=1)

    def _read(self, chunk: Tensor, state: State, rate: Rate) -> tuple[Tensor, State]:
        """Latents ``[B, D, N]`` as they come out of the queries, and the state after them."""
        positions, front_state = self.front(chunk, state[0])
        windows = rearrange(positions, "b (m w) d -> b m w d", w=rate.window[0])
        queries, query_state = self.queries(windows, rate.window, rate.queries, state[1])
        return self.project(queries).flatten(1, 2).transpose(1, 2), (front_state, query_state)


class AudioQueryDecoder(nn.Module):
    """Latents to waveform. Arguments mirror `AudioQueryEncoder`."""

    back: Any  # its forward is that of `SpectrumBack`

    def __init__(self, back: nn.Module, queries: QueryDecoder, latent_dim: int) -> None:
        super().__init__()
        self.back, self.queries = back, queries
        self.project = nn.Linear(latent_dim, queries.transformer.dim)

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        return self.queries.initial_state(batch, rate.window, rate.queries), self.back.initial_state(batch)

    def step(self, latents: Float[Tensor, "B N D"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Samples ``[B, T]`` of the next whole windows, ``back.delay`` late, and the state after them."""
        windows = rearrange(self.project(latents), "b (m q) d -> b m q d", q=rate.queries)
        positions, query_state = self.queries(windows, rate.window, state[0])
        samples, back_state = self.back(positions.flatten(1, 2), state[1])
        return samples, (query_state, back_state)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B 1 T"]:
        """The signal of whole windows, all at once."""
        samples, state = self.step(latents, self.initial_state(latents.shape[0], rate), rate)
        return self._align([samples], state)

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B 1 T"]:
        """The same signal, `PIECE` windows at a time."""
        state, samples = self.initial_state(latents.shape[0], rate), []
        for chunk in latents.split(PIECE * rate.queries, dim=1):
            part, state = self.step(chunk, state, rate)
            samples.append(part)
        return self._align(samples, state)

    def _align(self, samples: list[Tensor], state: State) -> Tensor:
        """The stream without its delay, and with the samples that were still to come."""
        return torch.cat((*samples, self.back.flush(state[1])), dim=-1)[:, None, self.back.delay :]
