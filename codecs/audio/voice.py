"""A query codec for voices whose latents begin as what a vocoder is told: the envelope of a window and its pitch.

Most of a latent is the two-dimensional cepstrum of the window's log band energies, so that an error of the quantizer is
an error in decibels, and six numbers are the cosine transform of its pitch. Queries add what context knows, and numbers
of their own. The decoder lays pulses and noise (`SourceBack`) under the envelope that the latents say; its network
corrects it. So the untrained codec is a channel vocoder, and training starts from there.

Source and filter as in Dudley's vocoder (1939) and, with a network for the filter, in DDSP (Engel et al., 2020, arXiv
2001.04643); queries as in ALMTokenizer (arXiv 2504.10344).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.queries import QueryDecoder, QueryEncoder
from sigtok.codecs.spec import Extent, Rate

from .pieces import PIECE, State, in_pieces
from .query import aligned

GAINS = (100.0, 100.0, 80.0, 60.0, 40.0, 40.0)  # latents per octave; a quantizer errs by about 1
VOICED = 0.3, 0.33  # periodicity from which a frame has a pitch, and how much more it takes to be sure
NEAR = 0.4  # octaves from the mean beyond which a pitch is a mistake
LAG = 1  # frames that the front hears late: its frames end where those of the back have their middle


class VoiceCode(nn.Module):
    """What windows say in numbers: bands and pitch of their frames to latents and back.

    Latents are cepstra row by row, learned numbers, then the pitch.

    Args:
        bands: Log energies of a frame.
        frames: Of a window, at least as many as pitch coefficients and rows.
        cepstra: Coefficients over the bands for every one over time, the constant first.
        learned: Numbers that only the queries say.
    """

    rows: Tensor
    time: Tensor
    scale: Tensor
    gains: Tensor

    def __init__(self, bands: int, frames: int, cepstra: Sequence[int], learned: int) -> None:
        super().__init__()
        if len(cepstra) > frames or max(cepstra) > bands:
            raise ValueError(f"{frames} frames of {bands} bands have fewer cepstra than {list(cepstra)}")
        self.frames, self.learned, self.cepstra = frames, learned, sum(cepstra)
        self.pitches = min(frames, len(GAINS))
        self.dim = self.cepstra + learned + self.pitches
        time, band = cosines(frames), cosines(bands)
        kept = [(row, column) for row, count in enumerate(cepstra) for column in range(count)]
        rows = torch.stack([torch.outer(time[row], band[column]).flatten() for row, column in kept])
        expected = torch.tensor([1 + 24 / ((1 + row) * (1 + column)) for row, column in kept])
        gains = torch.tensor(GAINS[: self.pitches])
        scale = torch.cat((expected, torch.ones(learned), gains / 2))
        for name, values in (("rows", rows), ("time", time), ("scale", scale), ("gains", gains)):
            self.register_buffer(name, values, persistent=False)

    def forward(
        self, bands: Float[Tensor, "B M P K"], octaves: Float[Tensor, "B M P"], periodic: Float[Tensor, "B M P"]
    ) -> Float[Tensor, "B M D"]:
        """Latents, zeros where queries speak alone.

        Args:
            bands: Log energies.
            octaves: Pitches, in octaves from the middle.
            periodic: How periodic frames are, to 1.
        """
        cepstra = bands.flatten(2) @ self.rows.mT
        free = cepstra.new_zeros(*cepstra.shape[:2], self.learned)
        return torch.cat((cepstra, free, self._contour(octaves, periodic)), dim=-1)

    def bands(self, latents: Float[Tensor, "B M D"]) -> Float[Tensor, "B M P K"]:
        """Log energies that latents say."""
        return (latents[..., : self.cepstra] @ self.rows).unflatten(-1, (self.frames, -1))

    def octaves(self, latents: Float[Tensor, "B M D"]) -> Float[Tensor, "B M P"]:
        """Pitches that latents say, a frame ahead of what was heard, in float64: `SourceBack` adds them up.

        Codebooks of half precision have exact sums, so a pitch is the same wherever codes are decoded.
        """
        contour = (latents[..., -self.pitches :].double() / self.gains.double()) @ self.time.double()[: self.pitches]
        return torch.cat((contour[..., LAG:], contour[..., -1:].expand(*contour.shape[:-1], LAG)), dim=-1)

    def _contour(self, octaves: Tensor, periodic: Tensor) -> Float[Tensor, "B M pitches"]:
        """Cosine transform of the pitch, which is level where there is no voice and where it is an octave off."""
        weights = ((periodic - VOICED[0]) / VOICED[1]).clamp(0, 1).square()
        for _ in range(2):
            mean = (weights * octaves).sum(-1, keepdim=True) / (weights.sum(-1, keepdim=True) + 0.02)
            weights = weights * torch.exp(-((octaves - mean) / NEAR).square())
        level = mean + weights * (octaves - mean)
        return (level @ self.time[: self.pitches].mT) * self.gains


def cosines(count: int) -> Float[Tensor, "count count"]:
    """Rows of the orthonormal cosine transform (DCT-II)."""
    index = torch.arange(count)
    rows = torch.cos(math.pi / count * index[:, None] * (index + 0.5)) * (2 / count) ** 0.5
    return rows * torch.where(index[:, None] == 0, 0.5**0.5, 1.0)


class VoiceEncoder(nn.Module):
    """Waveform to latents, one per window; at first those of `VoiceCode` alone.

    Args:
        front: Samples to positions, with the bands and pitch of every frame (`VoiceFront`).
        queries: Positions to queries.
        code: What windows say in numbers.
    """

    front: Any  # its forward is that of `VoiceFront`
    nested = False

    def __init__(self, front: nn.Module, queries: QueryEncoder, code: VoiceCode) -> None:
        super().__init__()
        self.front, self.queries, self.code = front, queries, code
        self.project = nn.Linear(queries.transformer.dim, code.dim - code.pitches)
        with torch.no_grad():
            self.project.weight[: code.cepstra].zero_()
            self.project.bias.zero_()

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        return self.front.initial_state(batch), self.queries.initial_state(batch, rate.window, rate.queries)

    def step(self, chunk: Float[Tensor, "B C T"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Latents ``[B, N, D]`` of the next whole windows of a stream, and the state after them."""
        (positions, bands, octaves, periodic), front = self.front(chunk, state[0])
        windows = rearrange(positions, "b (m w) d -> b m w d", w=rate.window[0])
        queries, states = self.queries(windows, rate.window, 1, state[1])
        frames = self.code.frames
        bands, octaves, periodic = (part.unflatten(1, (-1, frames)) for part in (bands, octaves, periodic))
        said, learned = self.code(bands, octaves, periodic), self.project(queries[:, :, 0])
        latents = said + torch.cat((learned, learned.new_zeros(*learned.shape[:2], self.code.pitches)), dim=-1)
        return latents, (front, states)

    def forward(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """Latents of whole windows, all at once."""
        return self.step(signal, self.initial_state(signal.shape[0], rate), rate)[0]

    def piecewise(self, signal: Float[Tensor, "B C T"], rate: Rate) -> Float[Tensor, "B N D"]:
        """The same latents, `PIECE` windows at a time."""
        state, size = self.initial_state(signal.shape[0], rate), PIECE * self.front.hop * self.code.frames
        latents, _ = in_pieces(partial(self.step, rate=rate), signal, size, -1, state)
        return torch.cat(latents, dim=1)


class VoiceDecoder(nn.Module):
    """Latents to waveform. Arguments mirror `VoiceEncoder`.

    Pulses and noise run on from the beginning of a stream: what is decoded from its middle is the same voice from other
    pulses and other noise.
    """

    back: Any  # its forward is that of `SourceBack`
    exact = True  # a graph keeps the 53 bits of its constants: phases add up

    def __init__(self, back: nn.Module, queries: QueryDecoder, code: VoiceCode) -> None:
        super().__init__()
        self.back, self.queries, self.code = back, queries, code
        self.project = nn.Linear(code.dim, queries.transformer.dim)

    def initial_state(self, batch: int, rate: Rate) -> State:
        """The state before the beginning."""
        return self.queries.initial_state(batch, rate.window, rate.queries), self.back.initial_state(batch)

    def step(self, latents: Float[Tensor, "B N D"], state: State, rate: Rate) -> tuple[Tensor, State]:
        """Samples ``[B, T]`` of the next whole windows, ``back.delay`` late, and the state after them."""
        queries = self.project(latents / self.code.scale)
        positions, states = self.queries(queries[:, :, None], rate.window, state[0])
        bands, octaves = self.code.bands(latents).flatten(1, 2), self.code.octaves(latents).flatten(1)
        samples, back = self.back(positions.flatten(1, 2), state[1], bands, octaves)
        return samples, (states, back)

    def forward(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B 1 T"]:
        """The signal of whole windows, all at once."""
        samples, state = self.step(latents, self.initial_state(latents.shape[0], rate), rate)
        return aligned(self.back, [samples], state[1])

    def piecewise(self, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate) -> Float[Tensor, "B 1 T"]:
        """The same signal, `PIECE` windows at a time."""
        state = self.initial_state(latents.shape[0], rate)
        samples, state = in_pieces(partial(self.step, rate=rate), latents, PIECE, 1, state)
        return aligned(self.back, samples, state[1])
