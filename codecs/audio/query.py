"""The query codec for audio (ALMTokenizer, arXiv 2504.10344): few tokens per second read by queries, as a stream.

::

    samples -front-> positions -windows + queries-> latents          (encoder)
    latents -queries + masks-> positions -back-> samples             (decoder)
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.anchored import AnchoredQueryDecoder, AnchoredQueryEncoder
from sigtok.codecs.queries import QueryDecoder, QueryEncoder
from sigtok.codecs.spec import Extent, Rate

from .pieces import PIECE, State, in_pieces


class AudioQueryEncoder(nn.Module):
    """Waveform to latents, one per query.

    Args:
        front: Samples to positions, with a state (`SpectrumFront`).
        queries: Positions to queries.
        latent_dim: Width of a latent.
        hop: Samples per position.
    """

    front: Any  # its forward is that of `SpectrumFront`
    norm: Any  # has statistics and a momentum

    def __init__(
        self, front: nn.Module, queries: QueryEncoder | AnchoredQueryEncoder, latent_dim: int, hop: int
    ) -> None:
        super().__init__()
        self.front, self.queries, self.hop, self.nested = front, queries, hop, queries.nested
        self.project = nn.Linear(queries.transformer.dim, latent_dim)
        features = queries.most * latent_dim  # each query by itself, so that it does not matter how many are sent
        self.norm = nn.BatchNorm1d(features, momentum=0.02, affine=False)  # else they share most of their length

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        return self.front.initial_state(batch), self.queries.initial_state(batch, rate.window, rate.queries)

    def step(self, chunk: Float[Tensor, "B C T"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Latents ``[B, N, D]`` of the next whole windows of a stream, and the state after them."""
        latents, state = self._read(chunk, state, rate)
        return self._normalise(latents, training=False), state

    def forward(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole windows, all at once; in training mode, normalised over the batch."""
        latents, _ = self._read(signal, self.initial_state(signal.shape[0], rate), rate)
        return self._normalise(latents, self.training)

    def piecewise(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, `PIECE` windows at a time; where windows see what follows, only the front works so."""
        if self.queries.transformer.attention != "window_causal":
            return self._normalise(self._look(signal, rate), training=False)
        state, size = self.initial_state(signal.shape[0], rate), PIECE * self.hop * rate.window[0]
        latents, _ = in_pieces(partial(self.step, rate=rate), signal, size, -1, state)
        return torch.cat(latents, dim=1)

    def _read(self, chunk: Tensor, state: State, rate: Rate) -> tuple[Tensor, State]:
        """Latents ``[B, M, Q, D]`` as they come out of the queries, and the state after them."""
        positions, front_state = self.front(chunk, state[0])
        windows = rearrange(positions, "b (m w) d -> b m w d", w=rate.window[0])
        queries, query_state = self.queries(windows, rate.window, rate.queries, state[1])
        return self.project(queries), (front_state, query_state)

    def _look(self, signal: Tensor, rate: Rate) -> Tensor:
        """Latents ``[B, M, Q, D]`` of a whole signal whose windows see what follows."""
        state, size = self.front.initial_state(signal.shape[0]), PIECE * self.hop * rate.window[0]
        positions, _ = in_pieces(self.front, signal, size, -1, state)
        windows = rearrange(torch.cat(positions, dim=1), "b (m w) d -> b m w d", w=rate.window[0])
        return self.project(self.queries(windows, rate.window, rate.queries)[0])

    def _normalise(self, latents: Float[Tensor, "B M Q D"], training: bool) -> Float[Tensor, "B N D"]:
        """Latents of mean 0 and deviation 1, by the running statistics or, in training, those of the batch."""
        features = rearrange(latents, "b m q d -> b (q d) m")
        used, norm = features.shape[1], self.norm
        mean, variance = norm.running_mean[:used], norm.running_var[:used]
        features = F.batch_norm(features, mean, variance, training=training, momentum=norm.momentum, eps=norm.eps)
        return rearrange(features, "b (q d) m -> b (m q) d", q=latents.shape[2])


class AudioQueryDecoder(nn.Module):
    """Latents to waveform. Arguments mirror `AudioQueryEncoder`; without ``bias``, latents of zeros arrive as zeros."""

    back: Any  # its forward is that of `SpectrumBack`

    def __init__(
        self, back: nn.Module, queries: QueryDecoder | AnchoredQueryDecoder, latent_dim: int, bias: bool = True
    ) -> None:
        super().__init__()
        self.back, self.queries = back, queries
        self.project = nn.Linear(latent_dim, queries.transformer.dim, bias=bias)

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        return self.queries.initial_state(batch, rate.window, rate.queries), self.back.initial_state(batch)

    def step(self, latents: Float[Tensor, "B N D"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Samples ``[B, T]`` of the next whole windows, ``back.delay`` late, and the state after them."""
        positions, query_state = self._spread(latents, rate, state[0])
        samples, back_state = self.back(positions.flatten(1, 2), state[1])
        return samples, (query_state, back_state)

    def _spread(self, latents: Tensor, rate: Rate, state: State | None = None) -> tuple[Tensor, State]:
        """Positions ``[B, M, P, D]`` of latents, and the state of the queries."""
        windows = rearrange(self.project(latents), "b (m q) d -> b m q d", q=rate.queries)
        return self.queries(windows, rate.window, state)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B 1 T"]:
        """The signal of whole windows, all at once."""
        samples, state = self.step(latents, self.initial_state(latents.shape[0], rate), rate)
        return aligned(self.back, [samples], state[1])

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B 1 T"]:
        """The same signal, `PIECE` windows at a time; where windows see what follows, only the back works so."""
        state = self.initial_state(latents.shape[0], rate)
        if self.queries.transformer.attention != "window_causal":
            positions = self._spread(latents, rate)[0].flatten(1, 2)
            samples, back = in_pieces(self.back, positions, PIECE * rate.window[0], 1, state[1])
            return aligned(self.back, samples, back)
        samples, state = in_pieces(partial(self.step, rate=rate), latents, PIECE * rate.queries, 1, state)
        return aligned(self.back, samples, state[1])


def aligned(back: Any, samples: list[Tensor], state: State) -> Float[Tensor, "B 1 T"]:
    """What a back made, without its delay and with the samples that were still to come."""
    return torch.cat((*samples, back.flush(state)), dim=-1)[:, None, back.delay :]
