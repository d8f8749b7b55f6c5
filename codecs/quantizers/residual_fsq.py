"""Residual finite scalar quantization: each stage codes the rest on a finer grid (FSQ, arXiv 2309.15505; residual
as in SoundStream, arXiv 2107.03312)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import straight_through
from .fsq import FSQ

FINEST = 2**23  # steps between 0 and 1 that float32 tells apart


class ResidualFSQ(Quantizer):
    """Q codebooks of ``prod(levels)`` codes, as a number has digits; any prefix of the codes decodes.

    Latents are bounded once, ``u = c tanh(z / c)`` with ``c = L / (L - 1)`` in each dimension: as far as the outermost
    cells of the symmetric grid reach, and with slope 1 at zero. Stage s rounds what the stages before left of u to
    that grid divided by ``(L - 1)^s``, and leaves at most ``(L - 1)^-(s + 1)`` itself. Values lie in [-c, c] up to
    that rest; the gradient is that of the bound. Nothing is learned, and there are no losses.

    Args:
        levels: Levels per dimension, each at least 3 (grids of 2 levels would not become finer); dim D is their
            number.
        stages: Codebooks Q.

    Raises:
        ValueError: If a number of levels is below 3, or the last grid is finer than float32.
    """

    steps: Tensor
    scales: Tensor
    reach: Tensor

    def __init__(self, levels: Sequence[int], stages: int) -> None:
        super().__init__()
        if not levels or min(levels) < 3:
            raise ValueError(f"ResidualFSQ needs at least 3 levels in each dimension, got {list(levels)}")
        if stages < 1 or (max(levels) - 1) ** stages > FINEST:
            raise ValueError(
                f"ResidualFSQ has at least 1 stage and (levels - 1)^stages of at most 2^23, what float32 resolves; "
                f"got {stages} stages of levels {list(levels)}"
            )
        self.grid = FSQ(levels)
        self.dim, self.codebook_sizes = self.grid.dim, self.grid.codebook_sizes * stages
        steps = torch.tensor(levels) - 1
        self.register_buffer("steps", steps, persistent=False)
        self.register_buffer("scales", steps ** torch.arange(stages)[:, None], persistent=False)
        self.register_buffer("reach", (steps + 1) / steps, persistent=False)

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training with the first ``codebooks`` stages; there are no losses."""
        with no_autocast(latents):
            bounded = self._bound(latents)
            streams = self._assign(bounded.detach(), codebooks)
            return Quantized(straight_through(bounded, self.decode(streams)), streams, {})

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]`` per stage in use."""
        with no_autocast(latents):
            return self._assign(self._bound(latents), codebooks)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Sum of the values of the first ``len(streams)`` stages; a code of -1 contributes zero."""
        scales = self.scales[: self.in_use(len(streams))]
        values = [self.grid.decode([stream]) / scale for stream, scale in zip(streams, scales, strict=True)]
        return sum(values[1:], start=values[0])

    def _bound(self, latents: Tensor) -> Tensor:
        return (float32(latents) / self.reach).tanh() * self.reach

    def _assign(self, bounded: Tensor, codebooks: int | None) -> tuple[Tensor, ...]:
        """Codes of the stages; the rest is enlarged to the grid each time."""
        streams: list[Tensor] = []
        for _ in range(self.in_use(codebooks)):
            streams.append(self.grid.assign(bounded))
            bounded = (bounded - self.grid.decode(streams[-1:])) * self.steps
        return tuple(streams)
