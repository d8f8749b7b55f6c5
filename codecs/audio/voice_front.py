"""The front of a codec for voices: log spectra for its network, and the bands and pitch that its latents begin with."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.metrics.mel import to_hertz, to_mel
from sigtok.codecs.transforms.overlap import frame
from sigtok.codecs.transforms.periodicity import HIGHEST, LOWEST, Periodicity
from sigtok.codecs.transforms.precision import no_autocast
from sigtok.codecs.transforms.stft import analysis_basis

from .spectra import half_basis, half_spectrum

QUIET = 1e-6  # energy of a bin at which log energies level out; noise of deviation 1 has about 1
OCTAVE_COST = 0.06  # in periodicity: a voice is as periodic at twice its period
SHARPNESS = 150.0  # of the choice among pitches
LOWEST_BAND = 60.0  # Hz

Heard = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # positions [B,N,D], bands [B,frames,K], octaves and periodicity [B,frames]


class VoiceFront(nn.Module):
    """Waveform to positions, and to log band energies, pitch and periodicity of each frame.

    Frame t sees ``size`` samples that end where hop t ends: causal, no lookahead.

    Args:
        size: Window of a frame, samples; a multiple of ``hop``.
        hop: Samples from frame to frame.
        stack: Frames per position.
        dim: Width D of a position.
        bands: Mel bands.
        sample_rate: Hz.
    """

    basis: Tensor
    mel: Tensor

    def __init__(self, size: int, hop: int, stack: int, dim: int, bands: int, sample_rate: int) -> None:
        super().__init__()
        if size % hop:
            raise ValueError(f"size must be a multiple of hop, got size={size}, hop={hop}")
        self.size, self.hop, self.stack = size, hop, stack
        window = torch.hann_window(size)
        basis = analysis_basis(size, window).squeeze(1) / window.square().sum().sqrt()
        self.register_buffer("basis", half_basis(basis).transpose(1, 2).contiguous(), persistent=False)
        self.register_buffer("mel", mel_bands(size, bands, sample_rate)[0], persistent=False)
        self.periodicity = Periodicity(size, size, sample_rate)
        self.project = nn.Linear(stack * (size // 2 + 3), dim)

    def initial_state(self, batch: int) -> Tensor:
        """The samples before the beginning: zeros ``[B, 1, size - hop]``."""
        return self.basis.new_zeros(batch, 1, self.size - self.hop)

    def forward(self, signal: Float[Tensor, "B 1 T"], state: Tensor) -> tuple[Heard, Tensor]:
        """What is heard in a chunk (T a multiple of ``stack * hop``), and the state after it."""
        signal = torch.cat((state, signal), dim=-1)
        frames = frame(signal[:, 0], self.hop, self.size // self.hop)
        with no_autocast(frames):
            real, imaginary = half_spectrum(frames, self.basis)
            power = real.square() + imaginary.square()
            bands = (power @ self.mel + QUIET).log()
            octaves, periodic = self._pitches(power)
        heard = torch.cat(((power + QUIET).log() / 2, octaves[..., None], periodic[..., None]), dim=-1)
        positions = self.project(rearrange(heard, "b (n s) f -> b n (s f)", s=self.stack))
        return (positions, bands, octaves, periodic), signal[:, :, signal.shape[-1] - self.size + self.hop :]

    def _pitches(self, power: Float[Tensor, "B N F"]) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
        """The pitch to be expected, in octaves from the middle of the range, and how periodic the frame is there.

        Higher pitches come before their fractions, and frames of a position agree.
        """
        octaves = torch.log2(self.periodicity.pitches / (LOWEST * HIGHEST) ** 0.5)
        periodic, _ = self.periodicity(power + 1e-6)
        together = F.max_pool1d(periodic, 5, 1, 2).unflatten(1, (-1, self.stack)).mean(2)
        score = periodic + together.repeat_interleave(self.stack, 1) + OCTAVE_COST * octaves
        likely = (score * SHARPNESS).softmax(-1)
        return likely @ octaves, (likely * periodic).sum(-1)


def mel_bands(size: int, bands: int, sample_rate: int) -> tuple[Float[Tensor, "F K"], Float[Tensor, "K F"]]:
    """Weights that average the power of bins in triangular mel bands, and linear interpolation back to bins."""
    low, high = to_mel(torch.tensor([LOWEST_BAND, sample_rate / 2], dtype=torch.float64))
    points = to_hertz(torch.linspace(float(low), float(high), bands + 2, dtype=torch.float64))
    bins = torch.arange(size // 2 + 1, dtype=torch.float64) * sample_rate / size
    below, centre, above = points[:-2], points[1:-1], points[2:]
    width = sample_rate / size  # at least a bin to each side
    rise = (bins[:, None] - below) / (centre - below).clamp_min(width)
    fall = (above - bins[:, None]) / (above - centre).clamp_min(width)
    weights = torch.minimum(rise, fall).clamp_min(0)
    nearest = (bins[:, None] - centre).abs().argmin(0)
    weights[nearest, torch.arange(bands)] += 1e-6  # a band between two bins is that of the nearest
    place = torch.searchsorted(to_mel(centre), to_mel(bins)).clamp(1, bands - 1)
    start, end = to_mel(centre)[place - 1], to_mel(centre)[place]
    share = ((to_mel(bins) - start) / (end - start)).clamp(0, 1)
    back = torch.zeros(bands, len(bins), dtype=torch.float64)
    back[place - 1, torch.arange(len(bins))] = 1 - share
    back[place, torch.arange(len(bins))] += share
    return (weights / weights.sum(0)).float(), back.float()
