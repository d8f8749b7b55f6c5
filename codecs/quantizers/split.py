"""Two quantizers side by side on the same latents, whose values add up (Mimi's split residual quantizer)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from .base import Quantized, Quantizer, float32, touch


class Split(Quantizer):
    """A first quantizer, free to mean something else, beside the rest, which does not refine what the first left.

    Each reads the latents through its own maps, so both are usually `Projected`: the first codebook may be distilled
    from a semantic teacher without taking part in the others' residual. The gradient is the sum of both.

    Source: Défossez et al., "Moshi", 2024, arXiv 2410.00037, section 3.3.2.

    Args:
        first: The quantizer of the first codebooks.
        rest: That of the others, of the same width.

    Raises:
        ValueError: If the widths differ, or codebooks run at several rates.
    """

    def __init__(self, first: Quantizer, rest: Quantizer) -> None:
        super().__init__()
        if first.dim != rest.dim:
            raise ValueError(f"both parts have one width, got {first.dim} and {rest.dim}")
        if {*first.strides, *rest.strides} != {1}:
            raise ValueError(f"both parts have a code per position, got strides {first.strides} and {rest.strides}")
        self.first, self.rest, self.dim = first, rest, first.dim
        self.codebook_sizes = (*first.codebook_sizes, *rest.codebook_sizes)

    @property
    def ready(self) -> bool:
        """Whether both are."""
        return self.first.ready and self.rest.ready

    def forward(
        self, latents: Float[Tensor, "B N D"], codebooks: int | None = None, *, update: bool = True
    ) -> Quantized:
        """Quantize for training; a loss that both have is their mean, weighed by their codebooks in use."""
        latents, (head, tail) = float32(latents), self._shares(codebooks)
        first = self.first(latents, head, update=update)
        if not tail:
            unused = touch(self.rest) if self.training and update else 0.0
            return first._replace(losses={name: loss + unused for name, loss in first.losses.items()})
        rest = self.rest(latents, tail, update=update)
        losses = {
            name: (head * first.losses.get(name, 0) + tail * rest.losses.get(name, 0)) / (head + tail)
            for name in first.losses | rest.losses
        }
        unquantized = self.training and update and not self.ready
        values = latents if unquantized else first.latents + rest.latents
        return Quantized(values, first.streams + rest.streams, losses)

    def encode(self, latents: Float[Tensor, "B N D"], codebooks: int | None = None) -> tuple[Tensor, ...]:
        """Streams of both."""
        head, tail = self._shares(codebooks)
        first = self.first.encode(latents, head)
        return (*first, *self.rest.encode(latents, tail)) if tail else first

    def decode(self, streams: Sequence[Tensor]) -> Float[Tensor, "B N D"]:
        """The sum of both."""
        head, tail = self._shares(len(streams))
        first = self.first.decode(streams[:head])
        return first + self.rest.decode(streams[head:]) if tail else first

    def _shares(self, codebooks: int | None) -> tuple[int, int]:
        """How many codebooks each part uses."""
        own, count = len(self.first.codebook_sizes), self.in_use(codebooks)
        return min(own, count), max(0, count - own)
