"""A codebook of frozen centres of other models' features, each group behind a learned map: a semantic prior.

ALMTokenizer (Yang et al., 2025, arXiv 2504.10344) takes its first codebook from speech and sound models; frozen centres
behind a trained map are VQGAN-LC's (Zhu et al., 2024, arXiv 2406.11837).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.transforms.precision import no_autocast

from .base import Quantized, Quantizer, float32
from .estimators import Estimator, commitment, estimate
from .search import lookup, nearest


class Group(nn.Module):
    """Centres of one teacher's features, and the way from their space to the latents'.

    Args:
        size: Centres K.
        width: Width F of the features.
        dim: Width D of the latents.
    """

    centres: Tensor

    def __init__(self, size: int, width: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.randn(size, width))
        self.projector = nn.Sequential(nn.Linear(width, dim), nn.LayerNorm(dim))

    def forward(self) -> Float[Tensor, "K D"]:
        """The codes."""
        return self.projector(self.centres)


class SemanticPrior(Quantizer):
    """One codebook, all groups in a row; losses "codebook" (moves the projectors) and "commitment" (the latents).

    Spaces of two teachers have nothing in common, so every group has a projector of its own. Centres are buffers: no
    optimizer has them, no average takes them in, and a released model brings them along. As the first stage of a
    `Residual` it holds what is said; the stages behind it hold how.

    Args:
        sizes: Centres in each group; K is their sum.
        widths: Width F of each group's features.
        dim: Width D of the latents.
        artefacts: Files of ``sigtok-train prior``, one per group, opened in the first training pass of a model that has
            no centres yet, and never after: a released model or a resumed run has them among its weights. None when
            they come with weights; until then centres are noise.
        estimator: How the gradient of the value becomes that of the latent.

    Raises:
        ValueError: If the lists differ in length; in the first training pass, if a file is not what ``sizes`` and
            ``widths`` say.
    """

    begun: Tensor

    def __init__(
        self,
        sizes: Sequence[int],
        widths: Sequence[int],
        dim: int,
        artefacts: Sequence[str] | None = None,
        estimator: Estimator = "straight_through",
    ) -> None:
        super().__init__()
        counts = {len(each) for each in (sizes, widths, artefacts) if each is not None}
        if len(counts) != 1 or not sizes:
            raise ValueError(
                f"every group has a size, a width and, if any has, an artefact; got sizes {sizes}, widths {widths} and "
                f"artefacts {artefacts}; give lists of one length"
            )
        self.dim, self.codebook_sizes, self.estimator = dim, (sum(sizes),), estimator
        self.artefacts = artefacts
        self.groups = nn.ModuleList(Group(size, width, dim) for size, width in zip(sizes, widths, strict=True))
        self.register_buffer("begun", torch.zeros((), dtype=torch.int64))

    def values(self) -> Float[Tensor, "K D"]:
        """The codes, group after group."""
        return torch.cat([group() for group in self.groups])

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training."""
        with no_autocast(latents):
            latents = float32(latents)
            if self.training and update and self.artefacts is not None:
                self.read()
            table = self.values()
            codes = nearest(latents, table)
            values = F.embedding(codes, table)
            losses = {"commitment": commitment(latents, values), "codebook": F.mse_loss(values, latents.detach())}
            return Quantized(estimate(self.estimator, latents, values), (codes,), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        with no_autocast(latents):
            return (nearest(float32(latents), self.values()),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Codes; zeros where a code is -1."""
        with no_autocast(self.begun):
            return lookup(self.values(), streams[0])

    @torch.no_grad()
    def read(self) -> None:
        """Take the centres from the artefacts, once in the life of a model."""
        assert self.artefacts is not None
        if not self.begun:
            found = [read_centres(file) for file in self.artefacts]
            groups: list[Any] = list(self.groups)
            for group, centres, file in zip(groups, found, self.artefacts, strict=True):
                if centres.shape != group.centres.shape:
                    raise ValueError(
                        f"{file} should have {list(group.centres.shape)} centres and channels, got "
                        f"{list(centres.shape)}; change sizes and widths of the prior, or make another"
                    )
            for group, centres in zip(groups, found, strict=True):
                group.centres.copy_(centres)
            self.begun.fill_(1)
        self.artefacts = None


def read_centres(file: str) -> Float[Tensor, "K F"]:
    """The centres in a file of ``sigtok-train prior``.

    Raises:
        ValueError: If there is no such file, or it is another.
    """
    try:
        with safetensors.safe_open(file, "pt") as tensors:
            return tensors.get_tensor("centres").float()
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"a new semantic prior reads its centres from {file}, got: {error}; make the file with `sigtok-train prior`"
        ) from None
