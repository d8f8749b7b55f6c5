"""The contract of an entropy coder: codes of one model to a payload and back, by integers alone. No torch.

A model that has one says so by its module ``codec.entropy``, whose ``coder()`` gives it: tables and the exact networks
that choose among them, as arrays of whole numbers.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from sigtok.codecs.spec import CodecSpec, Extent, Rate


@runtime_checkable
class EntropyCoder(Protocol):
    """Final classes hold arrays of whole numbers and no state: the same codes give the same bytes on every machine."""

    def encode(self, codes: tuple[np.ndarray, ...], grid: Extent, quality: float | None) -> bytes:
        """The payload of a piece of a signal, complete by itself.

        Args:
            codes: One int64 array ``[N]`` per codebook, each inside its codebook.
            grid: Positions along each axis, ``(N,)`` or ``(rows, columns)``; N is their product.
            quality: Of the rate, None if the codec has none.
        """

    def decode(self, payload: bytes, grid: Extent, quality: float | None) -> tuple[np.ndarray, ...]:
        """The codes of a payload.

        Raises:
            ValueError: If the payload is not one that `encode` makes; damage may also give other codes, which a CRC
                over the codes finds.
        """


@runtime_checkable
class Prior(EntropyCoder, Protocol):
    """A coder that is no part of the model whose codes it codes: a language model of its tokens."""

    @property
    def fingerprint(self) -> int:
        """32 bits of all that its payloads depend on; files carry them, and no other prior reads them."""

    def check(self, spec: CodecSpec, rate: Rate, stream_id: bytes) -> None:
        """Raise ValueError unless it codes the codes of this model at this rate."""
