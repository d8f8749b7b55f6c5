"""Distances between a decoded image and its original, as plain numbers."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from .pairs import check_pair

WINDOW, SIGMA = 11, 1.5  # the Gaussian that weighs a neighbourhood, pixels
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales, finest first


def psnr(reconstruction: Float[Tensor, "*B C H W"], reference: Float[Tensor, "*B C H W"]) -> float:
    """Peak signal-to-noise ratio in dB of the images rounded to 8 bits, the mean over images; inf if equal.

    Args:
        reconstruction: Pixels in [-1, 1].
        reference: Pixels in [-1, 1].
    Raises:
        ValueError: If the shapes differ.
    """
    check_pair(reconstruction, reference)
    error = (eight_bits(reconstruction) - eight_bits(reference)).square().flatten(-3).mean(-1)
    return (20 * math.log10(255) - 10 * error.log10()).mean().item()


def ssim(reconstruction: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """Structural similarity of the images rounded to 8 bits, the mean over images and channels; 1 is equal.

    Raises:
        ValueError: If the shapes differ or a side has fewer than 11 pixels.
    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.
    """
    check_pair(reconstruction, reference)
    pair = eight_bits(reconstruction) / 255, eight_bits(reference) / 255
    return structure(*pair)[0].mean().item()


def ms_ssim(reconstruction: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], scales: int = 5) -> float:
    """Multi-scale structural similarity of the images rounded to 8 bits, the mean over images; 1 is equal.

    Raises:
        ValueError: If the shapes differ or a side is too small for that many scales.
    Source: Wang et al., "Multiscale structural similarity for image quality assessment", 2003.
    """
    check_pair(reconstruction, reference)
    pair = eight_bits(reconstruction) / 255, eight_bits(reference) / 255
    return multiscale_similarity(*pair, scales).mean().item()


def multiscale_similarity(
    reconstruction: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"], scales: int = 5
) -> Float[Tensor, " B"]:
    """MS-SSIM of every image of pixels in [0, 1], differentiable.

    Fewer than five scales use the first weights, scaled to sum to 1. A negative term counts as 1e-4, where the
    power still has a gradient.
    """
    smallest, least = min(reference.shape[-2:]), (WINDOW - 1) * 2 ** (scales - 1) + 1
    if not 1 <= scales <= len(WEIGHTS) or smallest < least:
        raise ValueError(
            f"MS-SSIM has 1 to {len(WEIGHTS)} scales and {scales} of them need {least} pixels a side, got "
            f"{smallest}; use larger images or fewer scales"
        )
    terms = []
    for scale in range(scales):
        similarity, contrast = structure(reconstruction, reference)
        terms.append(similarity if scale == scales - 1 else contrast)
        reconstruction, reference = halve(reconstruction), halve(reference)
    weights = torch.tensor(WEIGHTS[:scales], device=reference.device)
    powers = torch.stack(terms, -1).clamp(min=1e-4) ** (weights / weights.sum())
    return powers.prod(-1).mean(-1)


def halve(image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """Half the resolution by averages of four pixels; a zero is put before and behind an odd side."""
    height, width = image.shape[-2:]
    return avg_pool2d(image, 2, padding=(height % 2, width % 2), count_include_pad=True)


def structure(
    reconstruction: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """SSIM and its contrast-structure factor, per image and channel, of pixels in [0, 1]."""
    if min(reference.shape[-2:]) < WINDOW:
        raise ValueError(
            f"structural similarity needs {WINDOW} pixels a side, got {tuple(reference.shape[-2:])}; use larger images"
        )
    products = (reconstruction, reference, reconstruction**2, reference**2, reconstruction * reference)
    mean_x, mean_y, square_x, square_y, cross = blur(torch.stack(products)).unbind()
    variance_x, variance_y = square_x - mean_x**2, square_y - mean_y**2
    covariance = cross - mean_x * mean_y
    contrast = (2 * covariance + 0.03**2) / (variance_x + variance_y + 0.03**2)
    luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
    return (luminance * contrast).mean((-2, -1)), contrast.mean((-2, -1))


def blur(image: Tensor) -> Tensor:
    """Gaussian average over 11 x 11 pixels, rows then columns; only whole neighbourhoods, so 10 pixels fewer."""
    offsets = torch.arange(WINDOW, device=image.device, dtype=image.dtype) - WINDOW // 2
    kernel = (-offsets.square() / (2 * SIGMA**2)).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = conv2d(conv2d(image.reshape(-1, 1, *image.shape[-2:]), kernel), kernel.mT)
    return flat.view(*image.shape[:-2], *flat.shape[-2:])


def eight_bits(image: Tensor) -> Tensor:
    """Pixels in [-1, 1] as whole numbers 0 to 255, in float32."""
    return ((image.float() + 1) * 127.5).round().clamp(0, 255)
