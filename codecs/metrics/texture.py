"""DISTS: distance of pictures that forgives another sample of the same texture (Ding et al., arXiv 2004.07728).

Means and covariances of features of VGG16, whose pools are smooth. Weights of VGG16 are a file of the user, made by
`sigtok-train backbone`; how its channels weigh is in the package dists-pytorch (``DISTS_pytorch/weights.pt``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d

from .image import eight_bits
from .pairs import check_pair
from .perceptual import SCALE, SHIFT, SMALL, read_tensors

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # convolutions of VGG16, by torchvision's numbers
CHANNELS = (3, 64, 128, 256, 512, 512)  # of the picture and of every stage
TINY = 1e-6  # beside a square of a mean, and a variance


class DISTS:
    """One less the weighted similarity of means and of structure, over the picture and five stages; 0 is equal.

    Args:
        backbone: Tensors of VGG16 by torchvision's names, ``features.0.weight``, ...
        alpha: How the means of the 1475 channels weigh.
        beta: How their structure weighs.

    Raises:
        ValueError: When called, on other shapes than ``[B, 3, H, W]``, or pictures of less than 64 pixels a side.
    """

    def __init__(self, backbone: Mapping[str, Tensor], alpha: Float[Tensor, " W"], beta: Float[Tensor, " W"]) -> None:
        self.backbone = backbone
        total = alpha.sum() + beta.sum()
        self.alpha, self.beta = (weights / total for weights in (alpha, beta))

    def __call__(
        self, reconstruction: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, " B"]:
        """The distance of every picture of pixels in [0, 1]."""
        check_pair(reconstruction, reference)
        if reference.shape[1] != 3 or min(reference.shape[-2:]) < SMALL:
            raise ValueError(
                f"DISTS sees pictures of 3 channels and {SMALL} pixels a side, got {tuple(reference.shape[1:])}; use "
                "such pictures"
            )
        means, structures = [], []
        for some, others in zip(self.features(reconstruction), self.features(reference), strict=True):
            pair = [part.flatten(2) for part in (some, others)]
            x, y = (part.mean(-1) for part in pair)
            off_x, off_y = (part - part.mean(-1, keepdim=True) for part in pair)
            variances = off_x.square().mean(-1) + off_y.square().mean(-1)
            means.append((2 * x * y + TINY) / (x.square() + y.square() + TINY))
            structures.append((2 * (off_x * off_y).mean(-1) + TINY) / (variances + TINY))
        return 1 - torch.cat(means, 1) @ self.alpha - torch.cat(structures, 1) @ self.beta

    def features(self, image: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """The picture and what every stage sees of it, ``[B, C, h, w]``."""
        shift, scale = (image.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        found, seen = [image], (2 * image - 1 - shift) / scale
        for stage, places in enumerate(STAGES):
            seen = smooth_pool(seen) if stage else seen
            for place in places:
                name = f"features.{place}"
                seen = conv2d(seen, self.backbone[f"{name}.weight"], self.backbone[f"{name}.bias"], padding=1).relu()
            found.append(seen)
        return found


def smooth_pool(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
    """Half the resolution: the root of a Hann-weighted mean of squares over 3 x 3 places."""
    taper = features.new_tensor([0.5, 1.0, 0.5])
    kernel = (taper[:, None] * taper / 4).expand(features.shape[1], 1, 3, 3)
    return (conv2d(features.square(), kernel, stride=2, padding=1, groups=features.shape[1]) + 1e-12).sqrt()


def load_dists(backbone: str | os.PathLike[str], weights: str | os.PathLike[str]) -> DISTS:
    """DISTS by a file of VGG16 and the weights of the package dists-pytorch.

    Raises:
        ValueError: If one of them is something else.
    """
    tensors, record = read_tensors(backbone)
    needed = [f"features.{place}.{kind}" for places in STAGES for place in places for kind in ("weight", "bias")]
    if record.get("backbone", "vgg16") != "vgg16" or not all(name in tensors for name in needed):
        raise ValueError(
            f"{backbone}: DISTS looks through VGG16, got weights of {record.get('backbone', 'something else')}; make "
            "them with `sigtok-train backbone`"
        )
    found = read_tensors(weights)[0]
    if not {"alpha", "beta"} <= found.keys() or any(found[name].numel() != sum(CHANNELS) for name in ("alpha", "beta")):
        raise ValueError(f"{weights}: weights of DISTS are alpha and beta of {sum(CHANNELS)} channels, got others")
    alpha, beta = (found[name].detach().flatten().float() for name in ("alpha", "beta"))
    return DISTS({name: tensors[name].float() for name in needed}, alpha, beta)


def dists(judge: DISTS, reconstruction: Float[Tensor, "B C H W"], reference: Float[Tensor, "B C H W"]) -> float:
    """DISTS of the images rounded to 8 bits, the mean over images; 0 is equal, 0.3 hardly alike.

    Args:
        judge: With weights.
        reconstruction: Pixels in [-1, 1].
        reference: Pixels in [-1, 1].
    """
    with torch.no_grad():
        return judge(*(eight_bits(image) / 255 for image in (reconstruction, reference))).mean().item()
