"""The contract of a layout: tokens to the integer sequence of a language model, and back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from sigtok.codecs.spec import CodecSpec, Extent, Rate
from sigtok.codecs.tokens import ABSENT, Tokens

from .vocabulary import Vocabulary


class Layout(ABC):
    """Abstract base; members are final.

    Laws, tested over all members: ``from_ids(to_ids(tokens), extents)`` gives the tokens back; every code
    stands exactly once; ids of different codebooks are disjoint; with ``causal`` True, id s depends only on
    codes of positions <= s; what is drawn under `legal_after` is a signal.

    ``axes`` is the shape of ids: "B S" of one stream, "B Q S" of parallel heads, "B S Q" of a depth model.

    Args:
        spec: The codec.
        rate: The operating point of all tokens that pass, None for the codec's default. Its shares do not matter: ids
            say themselves which code stands where.
        vocabulary: What ids mean; None for ranges that are the same at every rate.
    """

    causal: bool
    axes: str

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        self.spec = spec
        self.rate = spec.resolve(replace(rate or Rate(), shares=None))  # as in `Tokens`
        self.vocabulary = vocabulary or Vocabulary(spec)
        if self.vocabulary.spec != spec or self.vocabulary.rate not in (None, self.rate):
            raise ValueError(
                f"this layout writes {spec.name} at {self.rate}, got a vocabulary of "
                f"{self.vocabulary.spec.name} at {self.vocabulary.rate}; make it of the same spec and "
                f"rate, or without a rate"
            )

    @abstractmethod
    def to_ids(self, tokens: Tokens) -> Tensor:
        """int64 ids, shaped as ``axes`` says; PAD behind the shorter signals.

        Raises:
            ValueError: If the tokens are of another spec or rate, or a code is absent or out of range.
        """

    @abstractmethod
    def from_ids(self, ids: Tensor, extents: Sequence[Extent] | None = None, *, strict: bool = True) -> Tokens:
        """The tokens of ids that end with EOA, PAD or the cut of the sequence.

        Args:
            ids: Integers, shaped as ``axes`` says.
            extents: Per item, samples or pixels. None where they follow from the ids, for audio as the samples of the
                whole windows that came.
            strict: Whether a position counts only once all its codebooks came. False counts it from codebook 0
                on, and gives -1 (which decodes to nothing) for what the extents promise and the ids do not hold.

        Raises:
            ValueError: If an id stands where it may not, with its item and step; if the ids do not hold
                what the extents promise; if the extents of images are missing.
        """

    @abstractmethod
    def legal_after(self, ids: Tensor, extents: Sequence[Extent] | None = None) -> Bool[Tensor, "B *rows V"]:
        """Which ids may stand next: a mask for sampling.

        Args:
            ids: The steps so far, shaped as ``axes`` says; S may be 0.
            extents: Per item, where they are known: behind the end stands PAD. With None the model ends a signal
                itself, by one EOA behind any whole window.

        Raises:
            ValueError: If an id stands where it may not, with its item and step.
        """

    # -- what members share ------------------------------------------------------------------------------

    @property
    def num_codebooks(self) -> int:
        """Codebooks in use."""
        return len(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes K of the codebooks in use."""
        return self.spec.codebook_sizes[: self.rate.codebooks]

    @property
    def strides(self) -> tuple[int | Fraction, ...]:
        """Positions per code of the codebooks in use."""
        return self.spec.strides[: self.rate.codebooks]

    def _all_speak(self) -> None:
        """Raise unless all codebooks have all their codes."""
        if self.spec.granular:
            raise ValueError(
                f"{type(self).__name__} lays out codebooks that speak for every position, those of {self.spec.name} "
                f"take turns; use the layout granularity_blocks"
            )

    def _one_rate(self) -> None:
        """Raise unless all codebooks have a code for each position."""
        self._all_speak()
        if set(self.spec.strides) != {1}:
            whole = all(isinstance(stride, int) for stride in self.spec.strides)
            raise ValueError(
                f"{type(self).__name__} lays out codebooks of one rate (strides of 1), {self.spec.name} has "
                f"strides {self._shown()}; use the layout {'hierarchical' if whole else 'scale_wise'}"
            )

    def _shown(self) -> str:
        """The strides of all codebooks, for messages."""
        return f"({', '.join(map(str, self.spec.strides))})"

    def _checked(self, tokens: Tokens) -> tuple[Int[Tensor, "B Q M"], Bool[Tensor, "B Q M"], Int[Tensor, " B"]]:
        """The codes of tokens that this layout may write, which of them belong to a signal, and its positions."""
        if tokens.spec != self.spec or tokens.rate != self.rate:
            raise ValueError(
                f"this layout writes {self.spec.name} at {self.rate}, got tokens of {tokens.spec.name} at "
                f"{tokens.rate}; make the layout with their spec and rate"
            )
        tokens.check_codes()
        most = max(stream.shape[1] for stream in tokens.streams)
        streams = [pad(stream, (0, most - stream.shape[1]), value=ABSENT) for stream in tokens.streams]
        codes = torch.stack(streams, dim=1)
        return codes, self._within(codes, tokens.extents), self._frames(codes, tokens.extents)

    def _check_whole(self, codes: Int[Tensor, "B Q M"], within: Bool[Tensor, "B Q M"]) -> None:
        """Raise unless the codes are those that belong to the signals."""
        wrong = ((codes == ABSENT) == within).nonzero()
        if len(wrong):
            item, book, place = wrong[0].tolist()
            raise ValueError(
                f"item {item} has codes at its first {int(within[item, book].sum())} places of codebook {book} and -1 "
                f"behind, got {int(codes[item, book, place])} at {place}; lay out whole signals, or use the layout "
                f"elastic where queries are absent"
            )

    def _frames(self, items: Tensor, extents: Sequence[Extent]) -> Int[Tensor, " B"]:
        """Positions of the signals of these extents, one for each of the items ``[B, ...]``."""
        if len(extents) != len(items):
            raise ValueError(f"{len(items)} items of ids need {len(items)} extents, got {len(extents)}")
        return items.new_tensor([self.spec.positions(tuple(extent), self.rate) for extent in extents])

    def _within(self, codes: Int[Tensor, "B Q M"], extents: Sequence[Extent]) -> Bool[Tensor, "B Q M"]:
        """Which places belong to the signals of these extents."""
        counts = codes.new_tensor([self.spec.token_counts(extent, self.rate) for extent in extents])
        places = torch.arange(codes.shape[-1], device=codes.device)
        return places < counts.view(len(extents), self.num_codebooks, 1)

    def _rows(self, ids: Tensor) -> Int[Tensor, "B R S"]:
        """Ids as int64 rows."""
        shape = {"B S": ids.shape[:1], "B Q S": ids.shape[:2], "B S Q": (*ids.shape[:1], *ids.shape[2:])}[self.axes]
        fits = ids.ndim == len(self.axes.split()) and tuple(shape[1:]) in ((), (self.num_codebooks,))
        if ids.is_floating_point() or ids.dtype == torch.bool or not fits:
            wanted = self.axes.replace("Q", str(self.num_codebooks)).replace(" ", ", ")
            raise ValueError(
                f"ids of {type(self).__name__} are integers [{wanted}], got {ids.dtype} {tuple(ids.shape)}"
            )
        return {"B S": ids[:, None], "B Q S": ids, "B S Q": ids.transpose(1, -1)}[self.axes].long()

    def _ranges(self, book: Int[Tensor, "*cells"]) -> tuple[Int[Tensor, "*cells"], Int[Tensor, "*cells"]]:
        """The first id of each codebook, and the one behind its last."""
        low = book.new_tensor(self.vocabulary.offsets[: self.num_codebooks])[book]
        return low, low + book.new_tensor(self.sizes)[book]

    def _tokens(
        self,
        codes: Int[Tensor, "B Q M"],
        said: Bool[Tensor, "B Q M"],
        extents: Sequence[Extent] | None,
        strict: bool,
    ) -> Tokens:
        """The tokens of codes, of which the ids said some; M is at least the positions that they begin."""
        over, under = self._ratios(codes)
        places = torch.arange(codes.shape[-1] + int(max(self.strides)), device=codes.device)
        places = (places * under[:, None] // over[:, None]).clamp(max=codes.shape[-1])
        held = pad(said, (0, 1)).gather(2, places.expand(len(codes), -1, -1))  # [B, Q, positions]
        counted = held.all(1) if strict else held[:, 0]
        found = counted.long().cumprod(-1).sum(-1).tolist()
        exact = extents is not None
        extents = self._reached(found) if extents is None else [tuple(extent) for extent in extents]
        frames = self._frames(codes, extents).tolist()
        counts = [self.spec.token_counts(extent, self.rate) for extent in extents]
        longest = [max((count[book] for count in counts), default=0) for book in range(self.num_codebooks)]
        missing = max(0, max(longest) - codes.shape[-1])
        codes, said = pad(codes, (0, missing), value=ABSENT), pad(said, (0, missing), value=False)
        within = self._within(codes, extents)
        wrong = ((said & ~within) | (strict & within & ~said)).any(2).any(1).nonzero()
        if exact and len(wrong):
            item = int(wrong[0])
            raise ValueError(
                f"item {item} of extent {extents[item]} has {frames[item]} positions, the ids complete "
                f"{int(counted[item].sum())} and begin {int(held[item].any(0).sum())}; pass the extents of these ids, "
                f"or strict=False where ids were cut"
            )
        codes = codes.masked_fill(~within, ABSENT)
        streams = tuple(codes[:, book, :count] for book, count in enumerate(longest))
        return Tokens(streams, tuple(extents), self.rate, self.spec)

    def _ratios(self, like: Tensor) -> tuple[Int[Tensor, " Q"], Int[Tensor, " Q"]]:
        """Numerators and denominators of the strides of the codebooks in use."""
        over, under = ([getattr(stride, part) for stride in self.strides] for part in ("numerator", "denominator"))
        return like.new_tensor(over), like.new_tensor(under)

    def _reached(self, found: list[int]) -> list[Extent]:
        """Extents of whole windows; what hangs over the last one was cut midway."""
        if self.spec.modality == "image":
            raise ValueError(
                f"height and width of an image do not follow from its tokens; pass from_ids(ids, extents) "
                f"for the {len(found)} images of {self.spec.name}"
            )
        (step,) = self.spec.step(self.rate)
        return [(count // self.rate.queries * step,) for count in found]
