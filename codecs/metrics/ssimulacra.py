"""SSIMULACRA2: how much of a picture compression spoilt, by the package of that name (Sneyers, Cloudinary, 2023)."""

import io

from jaxtyping import Float
from torch import Tensor

from sigtok.codecs.media import image_to_bytes

from .pairs import check_pair

LEAST = 8  # pixels a side of the finest of its six scales


def ssimulacra(reconstruction: Float[Tensor, "1 C H W"], reference: Float[Tensor, "1 C H W"]) -> float:
    """100 is equal, 90 looks so, 70 is high, 30 low quality, negative very low; of the images rounded to 8 bits.

    Strict about alignment: a shift by one pixel is very low quality.

    Raises:
        ValueError: If the shapes differ, or a side has fewer than 8 pixels.
        ImportError: Without the package ssimulacra2 (extra ``eval``).
    """
    import ssimulacra2

    check_pair(reconstruction, reference)
    if min(reference.shape[-2:]) < LEAST:
        raise ValueError(
            f"SSIMULACRA2 needs {LEAST} pixels a side, got {tuple(reference.shape[-2:])}; use larger images"
        )
    pair = (io.BytesIO(image_to_bytes(image[0].cpu().numpy(), "png", 100)) for image in (reference, reconstruction))
    return float(ssimulacra2.compute_ssimulacra2(*pair))
