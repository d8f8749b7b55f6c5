"""What was said: the integer codes of a batch of signals, with their extents, rate and spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .spec import CodecSpec, Extent, Rate

ABSENT = -1  # a code that was not sent, or padding behind a shorter signal of the batch


@dataclass(frozen=True)
class Tokens:
    """Codes of a batch.

    Args:
        streams: One int64 tensor ``[B, N_q]`` per codebook in use; ``-1`` marks a code that is absent.
        extents: Per item, samples ``(T,)`` or pixels ``(height, width)`` of the signal without padding.
        rate: The operating point, resolved, with the default shares.
        spec: The codec that gives the codes their meaning.

    Iterating gives the items one by one, each a `Tokens` of batch 1 without padding.
    """

    streams: tuple[Tensor, ...]
    extents: tuple[Extent, ...]
    rate: Rate
    spec: CodecSpec

    def __post_init__(self) -> None:
        """Raise ValueError unless the streams have the shape that spec, rate and extents promise."""
        object.__setattr__(self, "rate", self.spec.resolve(replace(self.rate, shares=None)))  # the codes have them
        if len(self.streams) != self.rate.codebooks:
            raise ValueError(f"rate says {self.rate.codebooks} codebooks, got {len(self.streams)} streams")
        counts = [self.spec.token_counts(extent, self.rate) for extent in self.extents]
        for book, stream in enumerate(self.streams):
            expected = (len(self.extents), max((count[book] for count in counts), default=0))
            if tuple(stream.shape) != expected or stream.dtype != torch.int64:
                raise ValueError(
                    f"codebook {book} of {len(self.extents)} signals of extents {self.extents} is int64 "
                    f"{expected}, got {stream.dtype} {tuple(stream.shape)}; pass the extents of the signals"
                )

    @property
    def codes(self) -> Tensor:
        """The dense view, int64 ``[B, Q, N]``.

        Raises:
            ValueError: If the codebooks run at different rates; use ``streams``.
        """
        if len({stream.shape for stream in self.streams}) != 1:
            raise ValueError(
                f"codebooks of {self.spec.name} run at strides {self.spec.strides} and have no dense view; "
                f"use tokens.streams"
            )
        return torch.stack(self.streams, dim=1)

    @property
    def mask(self) -> Tensor:
        """True where a position of the first codebook holds a token, bool ``[B, N_0]``."""
        return self.streams[0] != ABSENT

    def __len__(self) -> int:
        """Items in the batch."""
        return len(self.extents)

    def __getitem__(self, index: int) -> Tokens:
        """One item without padding, as a batch of 1."""
        extent = self.extents[index]
        counts = self.spec.token_counts(extent, self.rate)
        streams = tuple(
            stream[index : index + 1 or None, :count] for stream, count in zip(self.streams, counts, strict=True)
        )
        return replace(self, streams=streams, extents=(extent,))

    def __iter__(self) -> Iterator[Tokens]:
        """The items, one by one."""
        return (self[index] for index in range(len(self)))

    def prefix(self, codebooks: int) -> Tokens:
        """The same tokens with only the first codebooks: a lower rate of the same encoding."""
        rate = self.spec.resolve(replace(self.rate, codebooks=codebooks))
        if codebooks > len(self.streams):
            raise ValueError(f"these tokens have {len(self.streams)} codebooks, got codebooks={codebooks}")
        return replace(self, streams=self.streams[:codebooks], rate=rate)

    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on another device."""
        return replace(self, streams=tuple(stream.to(device) for stream in self.streams))

    def check_codes(self) -> None:
        """Raise ValueError with the position of the first code outside its codebook. For untrusted codes."""
        for book, (stream, size) in enumerate(zip(self.streams, self.spec.codebook_sizes, strict=False)):
            bad = ((stream < ABSENT) | (stream >= size)).nonzero()
            if len(bad):
                item, position = bad[0].tolist()
                raise ValueError(
                    f"codebook {book} has codes 0 to {size - 1} (or -1 for absent), got "
                    f"{int(stream[item, position])} in item {item} at position {position}"
                )


def batch_tokens(items: Sequence[Tokens]) -> Tokens:
    """One batch of several, padded with -1; all of one spec and rate.

    Raises:
        ValueError: If there is none, or specs or rates differ.
    """
    if not items:
        raise ValueError("a batch of tokens needs at least one item, got none")
    first = items[0]
    for item in items[1:]:
        if item.spec != first.spec or item.rate != first.rate:
            raise ValueError(f"one batch has one codec and rate, got {first.rate} and {item.rate}")
    streams = []
    for book in range(len(first.streams)):
        rows = [row for item in items for row in item.streams[book]]
        streams.append(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=ABSENT))
    return replace(first, streams=tuple(streams), extents=tuple(e for item in items for e in item.extents))
