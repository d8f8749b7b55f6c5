"""Rungs of a rate-distortion codec: the step of every channel at every quality, and how values come back from it.

One set of weights serves all rates by gains of each quality, learned with it and interpolated between two (Cui et al.,
2021, arXiv 2003.02012; Chen and Ma, 2020). Values shrink towards zero before they are rounded, as where the rate counts
small ones are not worth their bits (Sullivan, "Efficient scalar quantization of exponential and Laplacian random
variables", 1996); how far is learned as well.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.densities.base import between

WORTH = 26.0  # squared step times weight: 12 / (2 ln 2) for each of three channels, whose squared errors are averaged
SHRINK, MOST = 0.1, 0.45  # of a step, at the start; at most


def first_steps(trade: Float[Tensor, " S"]) -> Float[Tensor, " S"]:
    """Steps to start from, of the weights of squared errors against bits: what uniform quantization at a high rate has.

    The rate of a value changes by ``d(bits) = -d(D) / (2 ln 2 D)``, and D is a twelfth of the squared step.
    """
    return (WORTH / trade).sqrt()


def geometric(first: float, last: float, count: int) -> Float[Tensor, " S"]:
    """Numbers in even proportion."""
    return torch.exp(torch.linspace(math.log(first), math.log(last), count))


class Gains(nn.Module):
    """The encoder's end: values to steps.

    Args:
        steps: Quantization step of a channel of unit norm at each of S qualities.
        norms: By how much an error in each of D channels is larger in the signal.
    """

    def __init__(self, steps: Float[Tensor, " S"], norms: Float[Tensor, " D"]) -> None:
        super().__init__()
        self.log_gain = nn.Parameter((norms / steps[:, None]).log())
        self.shrink = nn.Parameter(torch.full((len(steps), len(norms)), SHRINK))

    def at(self, quality: float) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """Steps per unit of each channel, and by how many steps magnitudes shrink; in float64, as rounding follows."""
        return between(self.log_gain.double(), quality).exp(), between(self.shrink.double(), quality).clamp(0, MOST)


class Steps(nn.Module):
    """The decoder's end: whole numbers to values. Arguments as of `Gains`."""

    def __init__(self, steps: Float[Tensor, " S"], norms: Float[Tensor, " D"]) -> None:
        super().__init__()
        self.log_step = nn.Parameter((steps[:, None] / norms).log())
        self.outward = nn.Parameter(torch.full((len(steps), len(norms)), SHRINK / 2))

    def at(self, quality: float) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """Units per step of each channel, and by how many steps whole numbers move away from zero."""
        return between(self.log_step, quality).exp(), between(self.outward, quality)


def shrunk(values: Tensor, dead: Tensor) -> Tensor:
    """Values in steps, nearer to zero by so much, at most to zero."""
    return values - torch.minimum(torch.maximum(values, -dead), dead)


def moved(values: Tensor, outward: Tensor) -> Tensor:
    """Whole numbers further from zero by so much; zero stays."""
    return values + values.detach().sign() * outward
