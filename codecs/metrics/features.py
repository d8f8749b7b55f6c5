"""Distances between decoded features and their originals, as plain numbers."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .pairs import check_pair


def relative_error(reconstruction: Float[Tensor, "B F T"], reference: Float[Tensor, "B F T"]) -> float:
    """Norm of the error over the norm of the reference about its mean frame, the mean over items.

    0 is equal, 1 is no better than the mean frame; inf or nan if all frames of a reference are equal.

    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(reconstruction, reference)
    reference = reference.double()
    spread = (reference - reference.mean(-1, keepdim=True)).square().sum((-2, -1))
    error = (reconstruction.double() - reference).square().sum((-2, -1))
    return (error / spread).sqrt().mean().item()


def cosine(reconstruction: Float[Tensor, "B F T"], reference: Float[Tensor, "B F T"]) -> float:
    """Cosine of the angle between a frame and its original, the mean over frames and items; 1 is equal.

    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(reconstruction, reference)
    return cosine_similarity(reconstruction.double(), reference.double(), dim=-2).mean().item()
