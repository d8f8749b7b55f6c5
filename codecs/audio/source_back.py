"""The back of a codec for voices: pulses at a pitch and noise, under an envelope that is told and a network corrects.

The spectra of both sources come from a formula and from a table; no network draws a harmonic. See `voice`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.layers.conv1d import CausalBlock
from sigtok.codecs.transforms.overlap import overlap_add_stream
from sigtok.codecs.transforms.periodicity import HIGHEST, LOWEST
from sigtok.codecs.transforms.precision import at_least_float32, no_autocast
from sigtok.codecs.transforms.stft import analysis_basis, synthesis_basis

from .spectra import half_basis, half_spectrum, mirrored_waves
from .voice_front import mel_bands

MIDDLE, OCTAVES = (LOWEST * HIGHEST) ** 0.5, 1.7  # of pitch, in Hz: 51 to 539
NOISE_FRAMES = 256  # until the noise repeats
GRID = 4096  # pitches in an octave
LOUDEST = 4.0  # natural logarithm of an amplitude in a bin


class SourceBack(nn.Module):
    """Positions to waveform: convolution blocks at the frame rate, then pulses and noise, filtered and overlapped.

    A frame's pulses run on from those of the frame before it, so a stream carries how far they have come, in periods.
    Frames are centred on their hops, so a stream comes out ``delay`` samples late.

    Args:
        size: Window of a frame, samples; an odd multiple of ``hop``.
        hop: Samples from frame to frame.
        stack: Frames per position.
        dim: Width of a position and of a frame.
        blocks: Convolution blocks.
        bands: Mel bands of the envelope.
        sample_rate: Hz.
    """

    analysis: Tensor
    synthesis: Tensor
    envelope: Tensor
    noise: Tensor
    interpolation: Tensor
    times: Tensor
    blocks: Any  # of CausalBlock

    def __init__(self, size: int, hop: int, stack: int, dim: int, blocks: int, bands: int, sample_rate: int) -> None:
        super().__init__()
        if size % hop or size // hop % 2 == 0:
            raise ValueError(f"size must be an odd multiple of hop, got size={size}, hop={hop}")
        self.size, self.hop, self.stack, self.sample_rate = size, hop, stack, sample_rate
        self.delay, self.bins = (size - hop) // 2, size // 2 + 1
        self.expand = nn.Linear(dim, stack * dim)
        self.blocks = nn.ModuleList(CausalBlock(dim) for _ in range(blocks))
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 3 * self.bins)
        nn.init.normal_(self.head.weight, std=0.005)
        with torch.no_grad():
            self.head.bias.copy_(torch.tensor([0.0, 0.0, -1.0]).repeat_interleave(self.bins))  # at first less noise
        window = torch.hann_window(size)
        analysis = half_basis(analysis_basis(size, window).squeeze(1)).transpose(1, 2).contiguous()
        self.register_buffer("analysis", analysis, persistent=False)
        self.register_buffer("synthesis", half_basis(synthesis_basis(size, window).squeeze(1)), persistent=False)
        self.register_buffer("envelope", window.square(), persistent=False)
        self.register_buffer("times", (torch.arange(size) - size / 2) / sample_rate, persistent=False)
        self.register_buffer("interpolation", mel_bands(size, bands, sample_rate)[1] / 2, persistent=False)
        self.register_buffer("noise", _noise(size, hop, window), persistent=False)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """Before the beginning: inputs of the convolutions; periods so far, the last pitch and the number of the frame;
        the unfinished samples and window sums."""
        tail = self.envelope.new_zeros(batch, self.size - self.hop)
        source = torch.zeros(batch, 3, dtype=torch.float64, device=tail.device)
        return *(block.initial_state(batch) for block in self.blocks), source, tail, tail

    def forward(
        self,
        positions: Float[Tensor, "B N D"],
        state: tuple[Tensor, ...],
        bands: Float[Tensor, "B frames K"],
        octaves: Float[Tensor, "B frames"],
    ) -> tuple[Float[Tensor, "B T"], tuple[Tensor, ...]]:
        """The next ``N * stack * hop`` samples, ``delay`` late, and the state after them.

        Args:
            positions: What corrections are made of.
            state: Of the stream.
            bands: Log energies, 0 for those of noise of deviation 1.
            octaves: Pitch of every frame above `MIDDLE`.
        """
        frames = rearrange(self.expand(positions), "b n (s d) -> b (n s) d", s=self.stack)
        states = []
        for block, before in zip(self.blocks, state[:-3], strict=True):
            frames, after = block(frames, before)
            states.append(after)
        corrections = at_least_float32(self.head(self.norm(frames)))
        with no_autocast(frames):
            pulses, noise, source = self._sources(octaves, state[-3])
            waves = self._filtered(at_least_float32(bands) @ self.interpolation, corrections, pulses, noise)
        hops = self.size // self.hop
        samples, tail = overlap_add_stream(waves, hops, state[-2])
        weights, weight_tail = overlap_add_stream(self.envelope.expand_as(waves), hops, state[-1])
        return samples / weights.clamp_min(1e-6), (*states, source, tail, weight_tail)

    def flush(self, state: tuple[Tensor, ...]) -> Float[Tensor, "B T"]:
        """The samples that no later frame adds to."""
        return (state[-2] / state[-1].clamp_min(1e-6))[:, : self.delay]

    def _filtered(
        self,
        envelope: Float[Tensor, "B N bins"],
        corrections: Float[Tensor, "B N F"],
        pulses: tuple[Tensor, Tensor],
        noise: tuple[Tensor, Tensor],
    ) -> Float[Tensor, "B N size"]:
        """Windowed frames of both sources, at log amplitudes that are those of the envelope and a correction."""
        loud, phase, breath = corrections.chunk(3, dim=-1)
        loud, breath = ((part + envelope).clamp_max(LOUDEST).exp() for part in (loud, breath))
        cosine, sine = loud * phase.cos(), loud * phase.sin()
        real = cosine * pulses[0] - sine * pulses[1] + breath * noise[0]
        imaginary = cosine * pulses[1] + sine * pulses[0] + breath * noise[1]
        return mirrored_waves(real, imaginary, self.synthesis, self.size)

    @torch.no_grad()
    def _sources(
        self, octaves: Float[Tensor, "B N"], state: Float[Tensor, "B 3"]
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
        """Real and imaginary spectra ``[B, N, bins]`` of pulses and of noise, each of power 1, and the state after.

        Periods add up and harmonics multiply them, so they are exact: pitches lie on a grid, and all else until the
        phase is wrapped has 53 bits.
        """
        octaves = (octaves.double().clamp(-OCTAVES, OCTAVES) * GRID).round() / GRID
        pitch = MIDDLE * torch.exp2(octaves)
        periods, last, index = state[:, :1], state[:, 1:2], state[:, 2:]
        before = torch.cat((torch.where(last > 0, last, pitch[:, :1]), pitch[:, :-1]), dim=1)
        periods = periods + ((before + pitch) * (self.hop / 2 / self.sample_rate)).cumsum(1)
        periods = periods - periods.floor()
        index = index + torch.arange(pitch.shape[1], device=pitch.device)
        state = torch.cat((periods[:, -1:], pitch[:, -1:], (index[:, -1:] + 1) % NOISE_FRAMES), dim=1)
        glide = (pitch - before) * (self.sample_rate / self.hop / 2)  # half the rise, Hz per second
        times = self.times.double()
        turns = periods[..., None] + pitch[..., None] * times + glide[..., None] * times.square()
        turns = (turns - turns.round()).to(self.times.dtype)
        harmonics = (self.sample_rate / 2 / pitch).to(turns.dtype)
        frames = pulse_train(turns, harmonics[..., None])
        noise = self.noise[:, index.remainder(NOISE_FRAMES).long()]
        return half_spectrum(frames, self.analysis), (noise[0], noise[1]), state


def pulse_train(periods: Float[Tensor, "*N T"], harmonics: Float[Tensor, "*N 1"]) -> Float[Tensor, "*N T"]:
    """Equal cosines of all whole multiples of a pitch, up to a limit, with power 1: the Dirichlet kernel.

    Args:
        periods: How far the pitch has come, in periods; between -0.5 and 0.5 it is exact.
        harmonics: The limit, of which the whole part counts; at least 1.
    """
    count = harmonics.floor()
    half = math.pi * periods
    below = half.sin()
    ratio = torch.where(below.abs() < 1e-4, 2 * count + 1, ((2 * count + 1) * half).sin() / below)
    return (ratio - 1) / (2 * count).sqrt()


def _noise(size: int, hop: int, window: Tensor) -> Float[Tensor, "2 frames bins"]:
    """Spectra of overlapping frames of white noise with power 1, the last followed by the first.

    The samples are those of a linear congruential generator (Knuth's MMIX constants), the same everywhere.
    """
    state, samples = 1, []
    for _ in range(NOISE_FRAMES * hop):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        samples.append(state / 2**63 - 1)
    noise = torch.tensor(samples, dtype=torch.float64) * 3**0.5
    frames = torch.cat((noise, noise[: size - hop])).unfold(0, size, hop).to(window.dtype)
    basis = half_basis(analysis_basis(size, window).squeeze(1)).transpose(1, 2)
    return torch.stack(half_spectrum(frames, basis))
