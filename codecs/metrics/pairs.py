"""What every distance asks first: that its two signals have one shape."""

from torch import Tensor


def check_pair(reconstruction: Tensor, reference: Tensor) -> None:
    """Raise ValueError unless both have one shape."""
    if reconstruction.shape != reference.shape:
        raise ValueError(
            f"a reconstruction has its reference's shape {tuple(reference.shape)}, got "
            f"{tuple(reconstruction.shape)}; crop both to one extent"
        )
