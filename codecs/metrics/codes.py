"""How much of its codebooks a codec uses: usage, perplexity and dead codes, counted over many tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor


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
        offset, self.counts = 0, self.counts.to(streams[0].device)
        for stream, size in zip(streams, self.sizes, strict=False):
            entry = torch.where(stream < 0, self.counts.numel() - 1, stream + offset).flatten()
            self.counts.scatter_add_(0, entry, torch.ones_like(entry))
            offset += size

    def per_codebook(self) -> tuple[Tensor, ...]:
        """Counts ``[K]`` of each codebook."""
        return self.counts[:-1].split(self.sizes)

    def summary(self) -> dict[str, float]:
        """Usage, perplexity and dead fraction by codebook, of the codebooks that said anything.

        ``usage_q`` is the fraction of codes seen; ``dead_q`` the rest; ``perplexity_q`` is ``2 ** entropy``, the
        number of codes that would say as much if used evenly. ``bits`` per position is the entropy, summed over
        codebooks.
        """
        values: dict[str, float] = {}
        bits = 0.0
        for book, counts in enumerate(self.per_codebook()):
            if total := int(counts.sum()):
                share = counts.double() / total
                entropy = -torch.xlogy(share, share).sum().item() / torch.log(torch.tensor(2.0)).item()
                usage = (counts > 0).double().mean().item()
                values |= {f"usage_{book}": usage, f"dead_{book}": 1 - usage, f"perplexity_{book}": 2**entropy}
                bits += entropy
        return values | {"bits": bits}
