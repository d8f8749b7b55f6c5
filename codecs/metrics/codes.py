"""How much of its codebooks a codec uses: usage, perplexity and dead codes, counted over many tokens."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Usage(NamedTuple):
    """How often the codes of one codebook were drawn.

    ``tokens`` were counted, ``used`` of ``size`` codes are among them, ``top`` is the share of the most frequent, and
    ``perplexity`` is ``2 ** entropy``: the number of codes that would say as much if used evenly.
    """

    tokens: int
    size: int
    used: int
    top: float
    perplexity: float

    @property
    def share(self) -> float:
        """Codes that were used, as a fraction of all."""
        return self.used / self.size

    @property
    def shown(self) -> float:
        """The share that as many tokens, drawn evenly, would show: of K codes, N tokens show ``1 - exp(-N / K)``."""
        return -math.expm1(-self.tokens / self.size)


def usage(counts: Tensor) -> Usage:
    """Usage by the counts ``[K]`` of the codes of one codebook; zeros, and a perplexity of 1, if there are none."""
    tokens = int(counts.sum())
    share = counts.double() / max(1, tokens)
    entropy = -torch.xlogy(share, share).sum().item()
    return Usage(tokens, len(counts), int((counts > 0).sum()), share.max().item(), math.exp(entropy))


class CodeCounts:
    """Occurrences of every code of every codebook.

    Args:
        codebook_sizes: Codes K of each codebook.

    ``counts`` is one int64 tensor ``[sum of K + 1]``, so that one all-reduce joins the counts of several machines;
    its last entry counts absent codes.
    """

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        self.sizes = tuple(codebook_sizes)
        self.counts = torch.zeros(sum(self.sizes) + 1, dtype=torch.int64)

    def add(self, streams: Sequence[Tensor]) -> None:
        """Count the codes of streams ``[B, N_q]``, of the first codebooks; waits for no device."""
        offset = 0
        for stream, size in zip(streams, self.sizes, strict=False):
            self.counts = self.counts.to(stream.device)
            entry = torch.where(stream < 0, self.counts.numel() - 1, stream + offset).flatten()
            self.counts.scatter_add_(0, entry, torch.ones_like(entry))
            offset += size

    def per_codebook(self) -> tuple[Tensor, ...]:
        """Counts ``[K]`` of each codebook."""
        return self.counts[:-1].split(self.sizes)

    def summary(self) -> dict[str, float]:
        """Usage, dead fraction, perplexity and top share by codebook, of the codebooks that said anything.

        ``usage_q`` is the fraction of codes seen; ``dead_q`` the rest; ``perplexity_q`` is ``2 ** entropy``, the
        number of codes that would say as much if used evenly; ``top_q`` the share of the most frequent code. ``bits``
        per position is the entropy, summed over codebooks.
        """
        values: dict[str, float] = {}
        bits = 0.0
        for book, counts in enumerate(self.per_codebook()):
            if (seen := usage(counts)).tokens:
                values |= {f"usage_{book}": seen.share, f"dead_{book}": 1 - seen.share}
                values |= {f"perplexity_{book}": seen.perplexity, f"top_{book}": seen.top}
                bits += math.log2(seen.perplexity)
        return values | {"bits": bits}
