"""Whether two sounds lie on top of each other: a delay ruins every metric of waveforms, so it is looked for first."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from .pairs import check_pair


class Lag(NamedTuple):
    """Samples that a reconstruction is late, below 0 if it is early, and the correlation there, between -1 and 1."""

    samples: int
    correlation: float


def lag(reconstruction: Float[Tensor, "*B T"], reference: Float[Tensor, "*B T"], most: int) -> Lag:
    """Where the cross-correlation of two sounds is strongest, channels averaged; of either polarity.

    The correlation says whether to believe it: waveforms of a generative codec may follow each other nowhere.

    Args:
        reconstruction: Samples.
        reference: Samples.
        most: Samples that are tried to either side, at least 0.

    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(reconstruction, reference)
    decoded, wanted = (signal.double().reshape(-1, signal.shape[-1]).mean(0) for signal in (reconstruction, reference))
    energy = float((decoded.square().sum() * wanted.square().sum()).sqrt())
    if not energy:
        return Lag(0, 0.0)
    size, reach = 2 * len(wanted), min(most, len(wanted) - 1)
    spectrum = torch.fft.rfft(decoded, size) * torch.fft.rfft(wanted, size).conj()
    products = torch.fft.irfft(spectrum, size)
    places = torch.tensor(sorted(range(-reach, reach + 1), key=abs))  # of equal peaks the one nearest to 0
    best = int(places[products[places].abs().argmax()])
    return Lag(best, float(products[best]) / energy)
