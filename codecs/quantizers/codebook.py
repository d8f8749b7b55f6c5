"""An explicit codebook: a table of codes that is searched, and the course of a training pass over it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sigtok.codecs.transforms.precision import no_autocast

from .assignment import balanced
from .base import Quantized, Quantizer, float32, touch
from .lifecycle import Lifecycle, anchors, first_codes, places, pull
from .ranks import gathered, of_first, summed
from .search import lookup, nearest

POOL = 4  # latents per code, at most, among which anchors are sought


class Codebook(Quantizer):
    """Abstract base of quantizers with one table of K codes.

    Members own ``codebook`` (a parameter or a buffer) and give `keys`, `values` and `quantize`, and, where codes
    follow statistics, `learn`. A training pass starts the codebook, renews codes that died, assigns, counts, and only
    then quantizes; statistics are joined over ranks in every pass, and all decisions follow from what is joined, so
    that codebooks stay bit-equal.

    Codes are replaced before they are searched, from the latents at hand, after the batch before has been counted;
    ``renewed`` then marks them, for an optimizer to forget what it remembers of them and to set the mark to None.

    Args:
        codebook_size: Codes K, at least 1.
        dim: Width D.
        lifecycle: Policies.
        counts: Whether the member needs its counts after a restart even if no policy does.
    """

    codebook: Tensor
    counts: Tensor
    updates: Tensor

    def __init__(self, codebook_size: int, dim: int, lifecycle: Lifecycle, counts: bool = False) -> None:
        super().__init__()
        self.dim, self.codebook_sizes, self.lifecycle = dim, (codebook_size,), lifecycle
        self.register_buffer("counts", torch.zeros(codebook_size), persistent=counts or lifecycle.renews)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.renewed: Tensor | None = None
        self._record: list[Tensor] = []
        self._recorded = 0
        self._begun = False
        self._doomed: Tensor | None = None

    # -- what members give ---------------------------------------------------------------------------------

    @abstractmethod
    def keys(self) -> tuple[Tensor, Tensor | None]:
        """What is searched: vectors ``[K, D]`` and biases ``[K]``, of which `nearest` takes the largest score."""

    @abstractmethod
    def values(self) -> Float[Tensor, "K D"]:
        """What codes decode to."""

    @abstractmethod
    def quantize(self, latents: Float[Tensor, "B N D"], codes: Int[Tensor, "B N"]) -> tuple[Tensor, dict[str, Tensor]]:
        """Values of the codes with a gradient, and losses."""

    @abstractmethod
    def loss_names(self) -> tuple[str, ...]:
        """Names of the losses that `quantize` gives."""

    def follow(self, latents: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Latents as codes: where they lie in the space of the codebook."""
        return latents

    def learn(self, latents: Float[Tensor, "M D"], codes: Int[Tensor, " M"]) -> None:
        """Count the codes of a pass over all ranks; members whose codes are means also move them."""
        if self.lifecycle.renews:
            counts = torch.bincount(codes, minlength=len(self.counts)).to(self.counts)
            self.counts.lerp_(summed(counts), 1 - self.lifecycle.decay)

    # -- the contract --------------------------------------------------------------------------------------

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training; the codebook follows in training mode with ``update``."""
        with no_autocast(latents):
            latents = float32(latents)
            learns = self.training and update
            flat = latents.detach().flatten(0, 1)
            if learns and not self.prepare(flat):
                zero = latents.new_zeros(()) + touch(self)
                absent = torch.full(latents.shape[:-1], -1, device=latents.device)
                return Quantized(latents, (absent,), dict.fromkeys(self.loss_names(), zero))
            codes = self._assign(flat) if learns and self.lifecycle.balance else self.search(flat)
            values, losses = self.quantize(latents, codes.view(latents.shape[:-1]))
            if learns:
                self.conclude(flat, codes)
            return Quantized(values, (codes.view(latents.shape[:-1]),), losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """One stream ``[B, N]``."""
        return (self.search(float32(latents)),)

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """Code vectors; zeros where a code is -1."""
        return lookup(self.values(), streams[0])

    def search(self, latents: Float[Tensor, "*batch D"]) -> Int[Tensor, "*batch"]:
        """The code of each latent."""
        return nearest(latents, *self.keys())

    @property
    def ready(self) -> bool:
        """False while it collects latents to start from."""
        if not self.lifecycle.collects:
            return True
        self._begun = self._begun or bool(self.updates > 0)
        return self._begun

    # -- a pass that learns --------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, latents: Float[Tensor, "M D"]) -> bool:
        """Start or renew the codebook before it is searched; whether it can quantize yet."""
        begun = self._begin(latents)
        if begun:
            self._renew(latents)
        return begun

    @torch.no_grad()
    def conclude(self, latents: Float[Tensor, "M D"], codes: Int[Tensor, " M"]) -> None:
        """Learn from the codes of the pass, after their values have been read."""
        self.learn(latents, codes)
        self.updates += 1

    def reseed(self, doomed: Tensor) -> None:
        """Replace codes by latents of the next training pass.

        Args:
            doomed: Which, bool ``[K]``, the same on every rank.
        """
        self._doomed = doomed

    def _begin(self, latents: Float[Tensor, "M D"]) -> bool:
        """Whether quantization can begin; on the first passes, what has to happen before it does."""
        if self._begun or bool(self.updates > 0):  # the latter in a resumed run
            self._begun = True
            return True
        total = float(summed(latents.new_tensor(float(len(latents)))))
        if self.lifecycle.collects:
            self._recorded += int(total)
            self._record.append(self.follow(latents).clone())
            if self._recorded < self.lifecycle.start_vectors * len(self.counts):
                return False
            own = torch.cat(self._record)
            collected = gathered(own, int(summed(latents.new_tensor(float(len(own))))))
            codes, counts = first_codes(self.lifecycle.start, collected, len(self.counts))
            self.codebook.copy_(codes)
            self.counts.copy_(counts / counts.sum() * total)
            self._record, self._recorded = [], 0
        else:
            if self.lifecycle.start == "noise":
                self._resemble(self.follow(latents))
            self.counts.fill_(total / len(self.counts))
        if self.lifecycle.cluster:
            self.counts.zero_()
        self._begun = True
        return True

    def _resemble(self, latents: Float[Tensor, "M D"]) -> None:
        """Noise like the latents, over all ranks; copies of a small batch would leave residual stages nothing."""
        moments = summed(torch.stack((torch.ones_like(latents), latents, latents.square())).sum(1))
        count = moments[0].clamp_min(1)
        mean = moments[1] / count
        deviation = (moments[2] / count - mean.square()).clamp_min(1e-12).sqrt()
        self.codebook.copy_(of_first(mean + torch.randn_like(self.codebook) * deviation))

    def _renew(self, latents: Float[Tensor, "M D"]) -> None:
        """Replace codes that died and codes that a watchdog doomed; move the others to their anchors."""
        policy = self.lifecycle
        if not policy.renews and self._doomed is None:
            return
        order = torch.randperm(len(latents), device=latents.device)
        pool = gathered(self.follow(latents[order]), len(self.counts) * (POOL if policy.cluster else 1))
        if not len(pool):
            return
        doomed = self.counts < policy.revive * self.counts.mean()
        if self._doomed is not None:
            doomed = doomed | self._doomed.to(doomed.device)
        replaced, place = places(doomed, len(pool))
        if self._doomed is not None:  # those without a latent wait; one shorter batch than codes is no reprieve
            self._doomed = self._doomed.to(doomed.device) & ~replaced if len(pool) < len(doomed) else None
        codes = torch.where(replaced[:, None], pool[place], self.codebook)
        if policy.cluster:
            total = summed(latents.new_tensor(float(len(latents))))
            share = pull(self.counts, total, policy.decay)
            codes = torch.lerp(codes, of_first(anchors(policy.cluster, codes, pool)), share[:, None])
            replaced = replaced | (share > 0.5)
        else:
            self.counts.copy_(torch.where(replaced, self.counts.mean(), self.counts))
        self.codebook.copy_(codes)
        self.renewed = replaced if self.renewed is None else self.renewed | replaced

    @torch.no_grad()
    def _assign(self, latents: Float[Tensor, "M D"]) -> Int[Tensor, " M"]:
        """Codes in equal shares."""
        keys, bias = self.keys()
        if bias is None:
            bias = keys.square().sum(-1) / -2
        return balanced(torch.addmm(bias, latents, keys.t()), self.lifecycle.balance)
