"""Scalar quantization of a randomly rotated direction: nothing learned, near the optimum for any latents.

TurboQuant (Zandieh et al., 2025, arXiv 2504.19874). After a random rotation every coordinate of a direction has the
same known density, so that one scalar table serves all of them (`lloyd_max`). The value is

    x~ = s P^T c        P rotation, c levels of the codes, s a scale per vector

and the scale, free to choose as a length is sent anyway, is that of EDEN (Vargaftik et al., 2022, arXiv 2108.08842).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import straight_through
from .lloyd_max import lloyd_max
from .random_rotation import Haar, Hadamard, fixed_point, gaussian, product, unit_grid

LENGTHS = 2**16
LENGTHS_PER_OCTAVE = 2**10
TINY = 2.0**-100


class TurboQuant(Quantizer):
    """Streams: the length of the vector, then one code of ``bits`` bits per rotated coordinate.

    A length is 16 bits on a logarithmic grid: code 0 is zero, code k is ``2^((k - 32768) / 1024)``, from 2^-32 to 2^32
    in steps of 0.07 %; longer vectors get the longest. The rate is ``bits + 16 / dim`` per dimension. The first
    codebooks are the length and the first rotated coordinates; coordinates not sent are zero, and the length alone
    decodes to zeros.

    Modes choose what is small:
        ``mse``: the square error, with the scale ``<y, c> / <c, c>`` of a rotated direction y. For reconstruction.
        ``unbiased``: the error of inner products, with the scale ``<y, y> / <y, c>``. For similarity.
        ``qjl``: the paper's unbiased variant: ``bits - 1`` bits for the level and one for the sign of a Gaussian
            projection S of the residual r, whose length is a second stream, after the first; adds
            ``sqrt(pi / 2) / d |r| S^T sign(S r)`` (Zandieh et al., 2024, arXiv 2406.03482). A code is
            ``2 level + sign``, the rate ``bits + 32 / dim``. Worse than ``unbiased`` in both errors; kept to compare.

    Rotations:
        ``haar``: uniform over all rotations, so that the density is exact whatever the latents; dim^2 floats and
            products, in float64. Products are exact, in any order of summation: a code depends on nothing but its
            vector, not on batch or device. (A linear algebra library may put a matrix entry 2^-24 away from
            another's.)
        ``hadamard``: three rounds of random signs and a Walsh-Hadamard transform, O(dim log dim) additions in one
            order, so equally reproducible, entries included; near enough to uniform also for one-hot vectors. There are
            as many coordinates as the next power of two from dim, each paid for.

    Rotations and tables follow from the arguments; the state is empty, and nothing is trained. There are no losses.

    Args:
        dim: Width D, at least 2.
        bits: Per coordinate, 1 to 8.
        mode: See above.
        rotation: See above.
        seed: Of the rotation; 0 or more. Codes decode with the seed they were made with.

    Raises:
        ValueError: If an argument is none of these.
    """

    levels: Tensor
    thresholds: Tensor
    lengths: Tensor
    length_thresholds: Tensor
    signs: Tensor
    sketch: Tensor

    def __init__(
        self,
        dim: int,
        bits: int,
        mode: Literal["mse", "unbiased", "qjl"] = "mse",
        rotation: Literal["haar", "hadamard"] = "haar",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if dim < 2:
            raise ValueError(f"a vector to rotate has at least 2 dimensions, got {dim}")
        if not 1 <= bits <= 8:
            raise ValueError(f"a coordinate takes 1 to 8 bits, got {bits}")
        if mode not in ("mse", "unbiased", "qjl"):
            raise ValueError(f"modes are 'mse', 'unbiased' and 'qjl', got {mode!r}")
        if rotation not in ("haar", "hadamard"):
            raise ValueError(f"rotations are 'haar' and 'hadamard', got {rotation!r}")
        if seed < 0:
            raise ValueError(f"a seed is 0 or more, got {seed}")
        self.dim, self.mode = dim, mode
        random = np.random.Philox(key=seed)
        self.rotation = Haar(dim, random) if rotation == "haar" else Hadamard(dim, random)
        self.coordinates = self.rotation.coordinates
        sketched = mode == "qjl"
        self.heads = 2 if sketched else 1  # streams of lengths
        self.codebook_sizes = (LENGTHS,) * self.heads + (2**bits,) * self.coordinates

        table = lloyd_max(bits - sketched, self.coordinates)
        lengths = _length_grid()
        per_code = np.repeat(table.levels, 2 if sketched else 1)
        self._constant("levels", np.pad(per_code, (0, 1)))  # index -1 finds the zero at the end, here and below
        self._constant("thresholds", table.thresholds)
        self._constant("lengths", np.pad(lengths, (0, 1)))
        self._constant("length_thresholds", (lengths[1:] + lengths[:-1]) / 2)
        if sketched:
            self._constant("signs", np.pad(np.tile([-1.0, 1.0], 2 ** (bits - 1)), (0, 1)))
            self._constant("sketch", fixed_point(gaussian(random, self.coordinates) / math.sqrt(self.coordinates)))

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training: the gradient passes straight through, and there are no losses."""
        latents = float32(latents)
        streams = self.encode(latents, codebooks)
        values = self.decode(streams)
        return Quantized(straight_through(latents, values), streams, {})

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]`` per codebook, lengths first; how many ``codebooks`` are asked for changes none."""
        count = self.in_use(codebooks)
        with no_autocast(latents):
            length, direction = _polar(float32(latents.detach()))
            rotated = self.rotation(direction)
            codes = torch.bucketize(rotated, self.thresholds.to(rotated))  # a tie goes to the lower level
            fit = self._with_residual if self.mode == "qjl" else self._with_scale
            heads, codes = fit(length, rotated, codes)
            return (*heads, *codes.unbind(-1))[:count]

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Vectors of the codes; a length of -1 gives zeros, a coordinate of -1 counts as zero."""
        absent = torch.full_like(streams[0], -1)
        streams = [*streams, *[absent] * (len(self.codebook_sizes) - len(streams))]
        codes = torch.stack(streams[self.heads :], -1)
        with no_autocast(self.levels):
            length, *residual = [self.lengths[stream].unsqueeze(-1) for stream in streams[: self.heads]]
            values = length * self.levels[codes]
            if self.mode == "qjl":
                scale = math.sqrt(math.pi / 2 / self.coordinates)
                values = values + scale * residual[0] * product(self.signs[codes], self.sketch)
            return self.rotation.inverse(values)

    def _with_scale(self, length: Tensor, rotated: Tensor, codes: Tensor) -> tuple[list[Tensor], Tensor]:
        """The stream of lengths, scaled so that the levels fit the direction, and the codes as they are."""
        levels = self.levels.to(rotated)[codes]
        aligned = _sum(rotated * levels)
        if self.mode == "mse":
            fit = aligned / _sum(levels.square())
        else:
            fit = _sum(rotated.square()) / aligned.clamp_min(TINY)
        return [self._length_code(length * fit)], codes

    def _with_residual(self, length: Tensor, rotated: Tensor, codes: Tensor) -> tuple[list[Tensor], Tensor]:
        """The streams of lengths of vector and residual, and the codes with a sign bit."""
        code = self._length_code(length)
        known = self.lengths.to(length)[code].unsqueeze(-1) / length.clamp_min(TINY)  # the decoder's length
        residual = rotated - known * self.levels.to(rotated)[2 * codes]
        signs = product(unit_grid(residual), self.sketch.t()) > 0
        return [code, self._length_code(length * _sum(residual.square()).sqrt())], 2 * codes + signs

    def _length_code(self, length: Float[Tensor, "B N 1"]) -> Tensor:
        """The nearest length of the grid ``[B, N]``."""
        return torch.bucketize(length.squeeze(-1), self.length_thresholds.to(length))

    def _constant(self, name: str, values: NDArray[np.float64]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)


def _polar(vectors: Float[Tensor, "B N D"]) -> tuple[Float[Tensor, "B N 1"], Float[Tensor, "B N D"]]:
    """Length and direction; zeros have the direction zero."""
    largest = vectors.abs().amax(-1, keepdim=True)
    scaled = vectors / largest.clamp_min(TINY)  # no square of it is too large or too small
    length = _sum(scaled.square()).sqrt()
    return largest * length, scaled / length.clamp_min(1)


def _sum(values: Tensor) -> Tensor:
    """Sum over the last axis, which stays; in one order, whatever the batch and the device."""
    while (size := values.shape[-1]) > 1:
        half = (size + 1) // 2
        values = values[..., :half] + F.pad(values[..., half:], (0, size % 2))
    return values


@functools.cache
def _length_grid() -> NDArray[np.float64]:
    """Zero, and the lengths around one."""
    return np.pad(np.exp2(np.arange(1 - LENGTHS // 2, LENGTHS // 2) / LENGTHS_PER_OCTAVE), (1, 0))
