"""The contract of an objective: losses that look inside a codec, with networks of their own that training alone has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn

from sigtok.codecs.codec import Codec, Reconstruction
from sigtok.codecs.spec import Rate


class Found(NamedTuple):
    """What an objective found: unweighted losses by name, and figures that are only logged."""

    losses: dict[str, Tensor]
    figures: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """Abstract base; members are final. Their weights learn with the codec's and stay behind at its release."""

    @abstractmethod
    def forward(self, codec: Codec, signal: Tensor, reconstruction: Reconstruction, rate: Rate) -> Found:
        """Judge one pass of the codec.

        Args:
            codec: What made the reconstruction.
            signal: What it was made of, ``[B, C, *extent]`` of whole windows.
            reconstruction: With the latents and codes of the pass.
            rate: Of the pass.

        Raises:
            ValueError: If the codec lacks the part that the objective looks at.
        """
