"""What every distance asks first: that its two signals have one shape; and how a sound comes to a metric's rate."""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sigtok.codecs.media import resampled


def check_pair(reconstruction: Tensor, reference: Tensor) -> None:
    """Raise ValueError unless both have one shape."""
    if reconstruction.shape != reference.shape:
        raise ValueError(
            f"a reconstruction has its reference's shape {tuple(reference.shape)}, got "
            f"{tuple(reconstruction.shape)}; crop both to one extent"
        )


def check_heard(decoded: np.ndarray) -> None:
    """Raise ValueError if what was decoded is nothing but zeros: nothing can be aligned with it."""
    if not decoded.any():
        raise ValueError("the reconstruction is silent")


def voices(signal: Float[Tensor, "B C T"], sample_rate: int, rate: int) -> np.ndarray:
    """Every channel of every item as float32 ``[B * C, samples]`` in [-1, 1], at the rate in Hz that a metric needs."""
    flat = signal.detach().cpu().float().flatten(0, -2).numpy()
    return resampled(flat.clip(-1, 1), sample_rate, rate)
