"""The contract of a discriminator, several as one, and the weight-normed convolutions that all are made of.

Salimans and Kingma, "Weight Normalization", 2016, arXiv 1602.07868: unlike batch norm, it lets no item see another.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch.nn.utils.parametrizations import weight_norm


class Judgement(NamedTuple):
    """What one network says of a batch: scores ``[B, 1, *places]``, high for real, and the maps they came from."""

    score: Tensor
    features: list[Tensor]


class Discriminator(nn.Module, ABC):
    """Tells signals from reconstructions, without bounds on the score.

    Laws, tested over all members: the judgement of an item does not depend on its batch mates; silence has finite
    judgements and gradients; any extent is judged, of images from a small one on.
    """

    @abstractmethod
    def forward(self, signal: Float[Tensor, "B C *extent"]) -> list[Judgement]:
        """One judgement per network, always in the same order."""


class Discriminators(Discriminator):
    """Several discriminators of one signal: their judgements, one after another.

    Args:
        members: Discriminators, which may be several themselves.
    """

    def __init__(self, members: Sequence[Discriminator]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, signal: Float[Tensor, "B C *extent"]) -> list[Judgement]:
        """The judgements of all members."""
        return [judgement for member in self.members for judgement in member(signal)]


class ConvStack(nn.Module):
    """Weight-normed convolutions, each followed by a leaky rectifier.

    Args:
        convs: Convolutions in order.
        slope: Of the rectifier below zero.
    """

    def __init__(self, convs: Sequence[nn.Module], slope: float) -> None:
        super().__init__()
        self.convs, self.slope = nn.ModuleList(weight_norm(conv) for conv in convs), slope

    def forward(self, maps: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """The output ``[B, width, H', W']`` of every layer."""
        features = []
        for conv in self.convs:
            maps = leaky_relu(conv(maps), self.slope)
            features.append(maps)
        return features
