"""The contract of a reconstruction loss: one float32 scalar, whatever precision the step runs in."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.metrics.pairs import check_pair


class Loss(nn.Module, ABC):
    """Abstract base; members give `distance`.

    Laws, tested over all members: zero or its minimum on equal signals, finite value and gradient on silence,
    float32 under autocast, no gradient for the target.
    """

    def forward(
        self, reconstruction: Float[Tensor, "B C *extent"], signal: Float[Tensor, "B C *extent"]
    ) -> Float[Tensor, ""]:
        """The loss of a batch.

        Raises:
            ValueError: If the shapes differ.
        """
        check_pair(reconstruction, signal)
        with torch.autocast(signal.device.type, enabled=False):
            return self.distance(reconstruction.float(), signal.detach().float())

    @abstractmethod
    def distance(self, reconstruction: Tensor, signal: Tensor) -> Tensor:
        """The scalar, of float32 tensors ``[B, C, *extent]``."""
