"""Where a picture needs fine codes: routing by local entropy, and its rate in closed form (Control-GIC, ICLR 2025).

A block of 16 x 16 pixels has one coarse code, or each of its quarters of 8 x 8 pixels has one medium code or four fine
ones. Which, nothing learned decides: blocks of lowest entropy are coarse, quarters of lowest entropy among the others
medium, in shares that are asked for. So shares say the rate before anything is encoded::

    bits per pixel = log2 K (coarse / 256 + medium / 64 + fine / 16) + the map of granularities

A map is a grid of levels, one for each quarter: 0 coarse, 1 medium, 2 fine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.codec import Codec, pad_to
from sigtok.codecs.transforms.precision import at_least_float32, no_autocast

Shares = tuple[float, float, float]  # of the area: coarse, medium, fine
LUMA = (0.2989, 0.587, 0.114)
BINS, WIDTH = 32, 0.01  # of the histogram on [-1, 1]; the deviation of its kernels
COARSE: Shares = (1.0, 0.0, 0.0)
FINE: Shares = (0.0, 0.0, 1.0)
AT_ONCE = 2**17  # pixels: few enough to stay in the cache
STEPS = 16  # halvings of the family of shares: the last is 1e-5 bits per pixel wide

# -- routing ---------------------------------------------------------------------------------------------


@torch.no_grad()
def route(signal: Float[Tensor, "B 3 H W"], shares: Sequence[float]) -> Int[Tensor, "B Y X"]:
    """Levels of the quarters of each picture, by its own entropies: no picture knows of the others in its batch.

    Args:
        signal: RGB in [-1, 1], H and W multiples of 16.
        shares: Of the area, as of `counts`.
    """
    return torch.stack([assign(*entropies(picture), shares) for picture in signal])


def counts(shares: Sequence[float], blocks: int) -> tuple[int, int, int]:
    """Codes of each granularity in a picture of so many blocks: exact, and all that shares decide.

    The share of coarse blocks is rounded, then the quarters that are left are dealt to medium and fine in proportion.
    """
    coarse = math.floor(shares[0] * blocks + 0.5)
    quarters, detailed = 4 * (blocks - coarse), shares[1] + shares[2]
    medium = math.floor(shares[1] / detailed * quarters + 0.5) if detailed else 0
    return coarse, medium, 4 * (quarters - medium)


def assign(blocks: Float[Tensor, "y x"], quarters: Float[Tensor, "Y X"], shares: Sequence[float]) -> Int[Tensor, "Y X"]:
    """Levels by the entropies of blocks and quarters: the lowest first, of equals those that come first."""
    coarse, medium, _ = counts(shares, blocks.numel())
    chosen = torch.zeros(blocks.numel(), dtype=torch.bool, device=blocks.device)
    chosen[blocks.flatten().sort(stable=True).indices[:coarse]] = True
    is_coarse = chosen.view(blocks.shape).repeat_interleave(2, 0).repeat_interleave(2, 1)
    order = quarters.masked_fill(is_coarse, math.inf).flatten().sort(stable=True).indices
    levels = torch.full((quarters.numel(),), 2, device=blocks.device)
    levels[order[:medium]] = 1
    return levels.view(quarters.shape).masked_fill(is_coarse, 0)


@torch.no_grad()
def entropies(picture: Float[Tensor, "3 H W"]) -> tuple[Float[Tensor, "y x"], Float[Tensor, "Y X"]]:
    """Entropy of the luma in every block of 16 x 16 pixels and in every quarter of 8 x 8, in nats.

    A histogram sums a Gaussian kernel of deviation 0.01 around each of 32 values from -1 to 1 over the pixels, and is
    then made to sum to 1. Rows of blocks are taken a few at a time, so that memory beyond the answer does not grow.
    """
    with no_autocast(picture):
        rows = max(1, AT_ONCE // (16 * picture.shape[-1]))
        parts = [_entropies(part) for part in at_least_float32(picture).split(16 * rows, dim=1)]
        blocks, quarters = zip(*parts, strict=True)
        return torch.cat(blocks), torch.cat(quarters)


def _entropies(picture: Float[Tensor, "3 H W"]) -> tuple[Tensor, Tensor]:
    red, green, blue = picture
    luma = (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).clamp_(-1, 1)[None]  # beyond, no kernel would reach
    step = 2 / (BINS - 1)
    kernels = ((luma - (bin * step - 1)).square_().mul_(-0.5 / WIDTH**2).exp_() for bin in range(BINS))
    quarters = torch.cat([F.avg_pool2d(kernel, 8) for kernel in kernels])
    return _entropy(F.avg_pool2d(quarters[None], 2)[0]), _entropy(quarters)


def _entropy(histograms: Float[Tensor, "K Y X"]) -> Float[Tensor, "Y X"]:
    odds = histograms / histograms.sum(0)
    return torch.special.entr(odds).sum(0)


# -- rate ------------------------------------------------------------------------------------------------


def bits_per_pixel(shares: Sequence[float], codebook_size: int) -> float:
    """The rate of any picture at these shares, when a code takes log2 K bits and the map its order-0 entropy."""
    coarse, medium, fine = shares
    rest = medium + fine
    masks = _binary(coarse) / 256 + (rest * _binary(medium / rest) / 64 if rest else 0)
    return math.log2(codebook_size) * (coarse / 256 + medium / 64 + fine / 16) + masks


def map_bits(levels: Int[Tensor, "Y X"]) -> float:
    """Bits of a map at the order-0 entropy of its two masks: coarse or not by block, then medium or not by quarter."""
    quarters, coarse, medium = levels.numel(), int((levels == 0).sum()), int((levels == 1).sum())
    rest = quarters - coarse
    return quarters / 4 * _binary(coarse / quarters) + (rest * _binary(medium / rest) if rest else 0)


def between(position: float, shares: Sequence[float]) -> Shares:
    """One family of shares: all coarse at position 0, the given ones at 1/2, all fine at 1, straight in between."""
    ends = (COARSE, shares) if position <= 0.5 else (shares, FINE)
    part = 2 * position if position <= 0.5 else 2 * position - 1
    coarse, medium, _ = (some + part * (other - some) for some, other in zip(*ends, strict=True))
    return coarse, medium, max(0.0, 1 - coarse - medium)


def shares_for(target: float, shares: Sequence[float], codebook_size: int) -> Shares:
    """The shares whose closed form is a rate, of the family through the given ones; the inverse of `bits_per_pixel`.

    Args:
        target: Bits per pixel.
        shares: Of the middle of the family, a codec's default.
        codebook_size: Codes K.

    Raises:
        ValueError: If the target lies below all coarse or above all fine.
    """
    return _largest(lambda these: bits_per_pixel(these, codebook_size), target, shares, steps=50)


@torch.no_grad()
def shares_at(
    codec: Codec,
    signal: Float[Tensor, "3 H W"],
    target: float,
    map_bits: Callable[[Int[Tensor, "Y X"]], float] = map_bits,
) -> Shares:
    """The shares at which one picture takes at most a rate, and next to it; for ``Rate(shares=...)``.

    Pixels that pad the picture to whole blocks are paid for. No network runs: entropies are found once, and the codes
    of a map are counted.

    Args:
        codec: Of three granularities.
        signal: RGB in [-1, 1].
        target: Bits per pixel, of codes at log2 K bits and of the map; headers come on top.
        map_bits: What a map costs in bits; called about 18 times.

    Raises:
        ValueError: If the target lies below the picture's rate all coarse, or above that all fine.
    """
    spec, extent = codec.spec, tuple(signal.shape[1:])
    blocks, quarters = entropies(pad_to(signal[None], spec.padded(extent))[0])
    pixels, code = math.prod(extent), math.log2(spec.codebook_sizes[0])

    def spent(shares: Shares) -> float:
        bits = code * sum(counts(shares, blocks.numel())) + map_bits(assign(blocks, quarters, shares))
        return bits / pixels

    return _largest(spent, target, spec.shares, STEPS)


def _largest(rate: Callable[[Shares], float], target: float, shares: Sequence[float], steps: int) -> Shares:
    """The last shares of the family, by halving, whose rate is not above the target."""
    least, most = rate(COARSE), rate(FINE)
    if not least <= target <= most:
        raise ValueError(f"the rate lies from {least:.4f} to {most:.4f} bits per pixel, got {target}")
    if target == most:
        return FINE
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(between(middle, shares)) <= target else (low, middle)
    return between(low, shares)


def _binary(odds: float) -> float:
    """Entropy of a choice of two, in bits."""
    return -sum(each * math.log2(each) for each in (odds, 1 - odds) if each > 0)
