"""Graphs of rate-distortion codecs: a signal and a quality to whole numbers, in float64, and back in float32.

The gains of all operating points are rows of a table, as the codec computes them, so that a graph knows no exponential:
runtimes differ in its last bit. Sums are of float64 up to the rounding, as in the codec's own encoder, and each
constant of theirs keeps its 53 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from sigtok.codecs.audio.walloc import Spectrum, WallocAudioEncoder
from sigtok.codecs.codec import Codec, pad_to
from sigtok.codecs.densities.base import between, points
from sigtok.codecs.entropy.spectral import BAND
from sigtok.codecs.image.walloc import BLOCK, Bands, WallocEncoder, of_high, of_low
from sigtok.codecs.image.windows import from_windows, to_windows
from sigtok.codecs.layers.ladder import moved, shrunk
from sigtok.codecs.spec import CodecSpec, Extent, Rate
from sigtok.codecs.transforms.blocks import LappedBlocks
from sigtok.codecs.transforms.overlap import overhang
from sigtok.codecs.transforms.wavelet import ALPHA, BETA, DELTA, GAMMA, LOW_GAIN, WaveletPacket1d

from .graphs import Example, Graph
from .runtime import names_of

LIFTING = ((ALPHA, True), (BETA, False), (GAMMA, True), (DELTA, False))  # and whether it is the odd samples that change


class ImageEncode(nn.Module):
    """Pixels of any extent and a quality to codes, int64 ``[B, Q, rows, columns, 1]``.

    Args:
        codec: Of `walloc_image`, on the CPU.
        rate: The operating point; its quality does not count.
    """

    exact = True
    linear: Tensor

    def __init__(self, codec: Codec, rate: Rate) -> None:
        super().__init__()
        self.spec, self.rate, encoder = codec.spec, rate, codec.encoder
        self.bands, self.quantizer = encoder.bands, codec.quantizer
        self.pyramid, self.laws = LatticePyramid(self.bands.low), Laws(codec.spec, encoder.gains.at)
        self.register_buffer("linear", encoder.linear.detach().double())
        self.names = names_of(codec.spec)[0]

    def forward(self, signal: Float[Tensor, "B C H W"], quality: Float[Tensor, ""]) -> Int[Tensor, "B Q Y X one"]:
        """Codes of a batch of pictures of one extent."""
        padded = pad_to(signal, self.spec.padded(tuple(signal.shape[2:]), self.rate))
        split, first = self.bands.split(padded.double()), self.bands.high
        grid = tuple(split.shape[2:])
        high = (self.linear @ split[:, :first].flatten(2)).unflatten(2, grid)
        values = torch.cat((high, self.pyramid(split[:, first:])), 1)
        gain, dead = (_placed(law.double(), self.bands, grid) for law in self.laws(quality))
        latents = to_windows(shrunk(values * gain, dead).round().float(), self.rate)
        codes = torch.stack(self.quantizer.encode(latents), 1)
        return codes.reshape(*codes.shape[:2], *grid, 1)

    def example(self) -> Example:
        """Inputs and their symbolic axes."""
        axes = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
        extent = (5 * self.spec.hop[0] - 1, 7 * self.spec.hop[1] - 1)
        return (torch.zeros(2, 3, *extent), torch.tensor(1.0)), (axes, {})


class ImageDecode(nn.Module):
    """Codes as of `ImageEncode` and a quality to pixels of whole positions, clamped to [-1, 1]. Arguments as there."""

    exact = True

    def __init__(self, codec: Codec, rate: Rate) -> None:
        super().__init__()
        self.spec, self.rate, self.quantizer, self.decoder = codec.spec, rate, codec.quantizer, codec.decoder
        self.bands, self.pyramid = self.decoder.bands, LatticePyramid(self.decoder.bands.low)
        self.laws = Laws(codec.spec, self.decoder.steps.at)
        self.rungs = Laws(codec.spec, lambda quality: (between(codec.decoder.rungs, quality),))
        self.names = names_of(codec.spec)[1]

    def forward(self, codes: Int[Tensor, "B Q Y X one"], quality: Float[Tensor, ""]) -> Float[Tensor, "B C H W"]:
        """The pictures of a batch of codes."""
        grid, first = tuple(codes.shape[2:4]), self.bands.high
        latents = self.quantizer.decode(codes.flatten(2).unbind(1))
        step, outward = (_placed(law, self.bands, grid) for law in self.laws(quality))
        values = moved(from_windows(latents, grid, self.rate), outward) * step
        high = (self.decoder.linear @ values[:, :first].flatten(2)).unflatten(2, grid)
        bands = torch.cat((high, self.pyramid.inverse(values[:, first:])), 1)
        return self.bands.join(bands + self._found(bands, quality)).clamp(-1, 1)

    def example(self) -> Example:
        """Inputs and their symbolic axes."""
        axes = {0: Dim("batch"), 2: Dim("rows"), 3: Dim("columns")}
        codes = torch.zeros(2, self.spec.num_codebooks, 5, 7, 1, dtype=torch.int64)
        return (codes, torch.tensor(1.0)), (axes, {})

    def _found(self, bands: Float[Tensor, "B F Y X"], quality: Tensor) -> Float[Tensor, "B F Y X"]:
        """What the network adds."""
        decoder, fold = self.decoder, BLOCK // self.bands.hop
        rows, columns = bands.shape[2:]
        down, across = (overhang(size, fold) for size in (rows, columns))
        whole = F.pad(bands / decoder.unit, (0, across, 0, down), mode="replicate")
        folded = decoder.embed(rearrange(whole, "b f (y m) (x n) -> b (f m n) y x", m=fold, n=fold))
        found = decoder.head(decoder.blocks(folded + self.rungs(quality)[0][:, None, None]))
        unfolded = rearrange(found, "b (f m n) y x -> b f (y m) (x n)", m=fold, n=fold) * decoder.unit
        return unfolded[..., :rows, :columns]


class StereoEncode(nn.Module):
    """Stereo of any length and a quality to codes, int64 ``[B, Q, N]``. Arguments as of `ImageEncode`."""

    exact = True

    def __init__(self, codec: Codec, rate: Rate) -> None:
        super().__init__()
        self.spec, self.rate, encoder = codec.spec, rate, codec.encoder
        self.spectrum, self.mixing, self.quantizer = encoder.spectrum, encoder.mixing, codec.quantizer
        self.lapped, self.laws = lapped(self.spectrum), Laws(codec.spec, encoder.gains.at)
        self.names = names_of(codec.spec)[0]

    def forward(self, signal: Float[Tensor, "B C T"], quality: Float[Tensor, ""]) -> Int[Tensor, "B Q N"]:
        """Codes of a batch of sounds of one length."""
        padded = pad_to(signal, self.spec.padded(tuple(signal.shape[2:]), self.rate)).double()
        turned = self.lapped(_turned(padded)).unflatten(1, (2, self.spectrum.bins))
        gain, dead = (_per_bin(law.double()) for law in self.laws(quality))
        values = shrunk(self.mixing(turned[:, :, self.spectrum.order]) * gain, dead)
        latents = values.round().float().mT.flatten(2).mT
        return torch.stack(self.quantizer.encode(latents), 1)

    def example(self) -> Example:
        """Inputs and their symbolic axes."""
        signal = torch.zeros(2, 2, 4 * self.spectrum.bins - 3)
        return (signal, torch.tensor(1.0)), ({0: Dim("batch"), 2: Dim("num_samples")}, {})


class StereoDecode(nn.Module):
    """Codes as of `StereoEncode` and a quality to stereo of whole frames, clamped to [-1, 1]."""

    exact = True

    def __init__(self, codec: Codec, rate: Rate) -> None:
        super().__init__()
        self.quantizer, self.decoder, self.spectrum = codec.quantizer, codec.decoder, codec.decoder.spectrum
        self.lapped, self.laws = lapped(self.spectrum), Laws(codec.spec, self.decoder.steps.at)
        self.rungs = Laws(codec.spec, lambda quality: (between(codec.decoder.rungs, quality),))
        self.names = names_of(codec.spec)[1]

    def forward(self, codes: Int[Tensor, "B Q N"], quality: Float[Tensor, ""]) -> Float[Tensor, "B C T"]:
        """The sounds of a batch of codes."""
        decoder, bins = self.decoder, self.spectrum.bins
        frames = codes.shape[2] // bins
        values = self.quantizer.decode(codes.unbind(1)).mT.unflatten(2, (frames, bins)).mT
        step, outward = (_per_bin(law) for law in self.laws(quality))
        spectrum = decoder.mixing(moved(values, outward) * step)
        rung = self.rungs(quality)[0][:, None]
        found = decoder.head(decoder.blocks(decoder.embed((spectrum / decoder.unit).flatten(1, 2)) + rung))
        made = spectrum + found.unflatten(1, (2, bins)) * decoder.unit
        turned = self.lapped.inverse(made[:, :, self.spectrum.back].flatten(1, 2), (frames * bins,))
        return _turned(turned).clamp(-1, 1)

    def example(self) -> Example:
        """Inputs and their symbolic axes."""
        bins = self.spectrum.bins
        axes = {0: Dim("batch"), 2: bins * Dim("num_frames")}
        return (torch.zeros(2, 2, 3 * bins, dtype=torch.int64), torch.tensor(1.0)), (axes, {})


GRAPHS: dict[type, tuple[Callable[[Codec, Rate], Graph], Callable[[Codec, Rate], Graph]]] = {
    WallocEncoder: (ImageEncode, ImageDecode),
    WallocAudioEncoder: (StereoEncode, StereoDecode),
}


def graphs_of(codec: Codec, rate: Rate) -> tuple[Graph, Graph]:
    """The graphs of encoder and decoder of a rate-distortion codec.

    Raises:
        ValueError: If it is of another shape.
    """
    found = GRAPHS.get(type(codec.encoder))
    if found is None:
        known = ", ".join(kind.__name__ for kind in GRAPHS)
        raise ValueError(f"graphs with a quality are of {known}, got {type(codec.encoder).__name__}; write them first")
    encode, decode = found
    return encode(codec, rate), decode(codec, rate)


# -- parts -------------------------------------------------------------------------------------------------


class Laws(nn.Module):
    """Gains of all operating points, and those of a quality.

    Args:
        spec: Which points there are.
        at: The laws ``[D]`` of a quality.
    """

    def __init__(self, spec: CodecSpec, at: Callable[[float], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.steps = spec.quality_steps
        with torch.no_grad():
            rows = [at(quality) for quality in points(spec.qualities, spec.quality_steps) if quality is not None]
        self.tables = nn.ParameterList(nn.Parameter(torch.stack(law), False) for law in zip(*rows, strict=True))

    def forward(self, quality: Float[Tensor, ""]) -> list[Float[Tensor, " D"]]:
        """The laws of the nearest operating point."""
        point = ((quality - 1) * self.steps).round().long().clamp(0, len(self.tables[0]) - 1)
        return [table.index_select(0, point[None])[0] for table in self.tables]


class LatticePyramid(nn.Module):
    """`Pyramid2d` of an extent that is a symbol: every place computes; those that are not on a level's lattice stay.

    Args:
        levels: As there.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, whole: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C Y X"]:
        """Coefficients in the places of their samples."""
        for level in range(self.levels):
            for axis in (3, 2):
                line = _Line(whole, axis, 2**level)
                lifted = whole
                for coefficient, odd in LIFTING:
                    lifted = lifted + line.neighbours(lifted, odd, coefficient)
                whole = torch.where(line.there, lifted * line.scale(LOW_GAIN), whole)
        return whole

    def inverse(self, whole: Float[Tensor, "B C Y X"]) -> Float[Tensor, "B C Y X"]:
        """The samples of coefficients."""
        for level in reversed(range(self.levels)):
            for axis in (2, 3):
                line = _Line(whole, axis, 2**level)
                sunk = whole * line.scale(1 / LOW_GAIN)
                for coefficient, odd in reversed(LIFTING):
                    sunk = sunk - line.neighbours(sunk, odd, coefficient)
                whole = torch.where(line.there, sunk, whole)
        return whole


class _Line:
    """Places along an axis whose lattice has a step: even and odd ones, their neighbours, the lines they stand on."""

    there: Bool[Tensor, ...]

    def __init__(self, whole: Tensor, axis: int, step: int) -> None:
        size, other = whole.shape[axis], whole.shape[5 - axis]
        place = torch.arange(size)
        before, behind = place - step, place + step
        last = (before >= 0).logical_or(behind < size)  # a single sample has no neighbour
        self.axis, self.shape = axis, [1, 1, -1, 1] if axis == 2 else [1, 1, 1, -1]
        self.left = torch.where(before < 0, behind, before).clamp(0, size - 1)
        self.right = torch.where(behind >= size, before, behind).clamp(0, size - 1)
        self.odd, self.even = (place % (2 * step) == step), (place % (2 * step) == 0)
        self.changed = {True: self.odd.to(whole), False: self.even.logical_and(last).to(whole)}
        self.there = (torch.arange(other) % step == 0).view([1, 1, 1, -1] if axis == 2 else [1, 1, -1, 1])

    def neighbours(self, values: Tensor, odd: bool, coefficient: float) -> Tensor:
        """So much of both neighbours, at odd or at even places; past the end, the mirror image."""
        weight = (self.changed[odd] * coefficient).view(self.shape)
        return weight * (values.index_select(self.axis, self.left) + values.index_select(self.axis, self.right))

    def scale(self, gain: float) -> Tensor:
        """A gain at even places, its inverse at odd ones."""
        even, odd = self.even.to(self.changed[True]), self.changed[True]
        return (even * gain + odd * (1 / gain) + (1 - even - odd)).view(self.shape)


class Lapped(nn.Module):
    """`LappedBlocks` without a branch for a single block. The argument is that of which it is the graph."""

    basis: Tensor
    rotation: Tensor

    def __init__(self, blocks: LappedBlocks) -> None:
        super().__init__()
        self.size, self.basis, self.rotation = blocks.size, blocks.basis, blocks.rotation

    def forward(self, signal: Float[Tensor, "B C T"]) -> Float[Tensor, "B F t"]:
        """Coefficients of whole blocks."""
        blocks = rearrange(signal, "b c (n size) -> b c n size", size=self.size)
        return (self._rotated(blocks, 1.0) @ self.basis.to(signal)).transpose(2, 3).flatten(1, 2)

    def inverse(self, coefficients: Float[Tensor, "B F t"], extent: tuple[int, ...]) -> Float[Tensor, "B C T"]:
        """The signal of blocks."""
        blocks = coefficients.unflatten(1, (-1, self.size)).transpose(2, 3) @ self.basis.to(coefficients)
        return self._rotated(blocks, -1.0).flatten(2)

    def _rotated(self, blocks: Float[Tensor, "B C n size"], way: float) -> Float[Tensor, "B C n size"]:
        half = self.size // 2
        sine, cosine = self.rotation.to(blocks).unbind(0)
        after, before = blocks[:, :, 1:, :half], blocks[:, :, :-1, half:].flip(-1)
        starts = torch.cat((blocks[:, :, :1, :half], sine * after + way * (cosine * before)), 2)
        ends = torch.cat(((sine * before - way * (cosine * after)).flip(-1), blocks[:, :, -1:, half:]), 2)
        return torch.cat((starts, ends), 3)


def lapped(spectrum: Spectrum) -> Lapped | WaveletPacket1d:
    """The transform of a spectrum, of any number of frames."""
    transform = spectrum.transform
    return Lapped(transform) if isinstance(transform, LappedBlocks) else transform


def _turned(signal: Float[Tensor, "B C T"]) -> Float[Tensor, "B C T"]:
    """Left and right to mid and side, and back."""
    left, right = signal.unbind(1)
    return torch.stack((left + right, left - right), 1) * math.sqrt(0.5)


def _placed(law: Float[Tensor, " kinds"], bands: Bands, grid: Extent) -> Float[Tensor, "F Y X"]:
    """One value for each kind of coefficient, where they stand."""
    return torch.cat((of_high(law, bands).expand(-1, *grid), of_low(law, bands, grid)))


def _per_bin(law: Float[Tensor, " D"]) -> Float[Tensor, "C bins one"]:
    return law.view(2, -1, 1).expand(-1, -1, BAND).flatten(1)[..., None]
