"""The contract of a layout: tokens to the integer sequence of a language model, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from sigtok.codecs.spec import CodecSpec, Extent, Rate
from sigtok.codecs.tokens import Tokens

from .vocabulary import Vocabulary


class Layout(ABC):
    """Abstract base; members are final.

    Laws, tested over all members: ``from_ids(to_ids(tokens), extents)`` gives the tokens back; every code
    stands exactly once; ids of different codebooks are disjoint; with ``causal`` True, id s depends only on
    codes of positions <= s.

    Args:
        spec: The codec.
        rate: The operating point of all tokens that pass, None for the codec's default.
        vocabulary: What ids mean; None for ranges that are the same at every rate.
    """

    causal: bool

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        self.spec = spec
        self.rate = spec.resolve(rate)
        self.vocabulary = vocabulary or Vocabulary(spec)
        if self.vocabulary.spec != spec or self.vocabulary.rate not in (None, self.rate):
            raise ValueError(
                f"this layout writes {spec.name} at {self.rate}, got a vocabulary of "
                f"{self.vocabulary.spec.name} at {self.vocabulary.rate}; make it of the same spec and "
                f"rate, or without a rate"
            )

    @abstractmethod
    def to_ids(self, tokens: Tokens) -> Tensor:
        """int64 ids ``[B, S]`` (one stream) or ``[B, Q, S]`` (parallel heads).

        Raises:
            ValueError: If the tokens are of another spec or rate, or a code is absent or out of range.
        """

    @abstractmethod
    def from_ids(self, ids: Tensor, extents: Sequence[Extent] | None = None) -> Tokens:
        """The tokens of ids; without extents, each signal is as long as its tokens reach.

        Raises:
            ValueError: If an id stands where it may not, with its place.
        """
