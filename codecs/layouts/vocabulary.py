"""The ids of a language model: one range per codebook, then specials in a fixed order. No torch.

0 .. K_0-1 | K_0 .. K_0+K_1-1 | ... | BOA EOA PAD EMPTY SEP EOB MASK | Q1 .. Q32 | W.. | N1 .. | EOR
codebook 0 | codebook 1       |     | marks                          | rate tags                | of images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from sigtok.codecs.spec import CodecSpec, Rate

# begin and end of a signal; padding behind the shorter of a batch; a place that no code belongs to;
# between two signals; end of a block of queries; a code to be predicted
MARKS = ("BOA", "EOA", "PAD", "EMPTY", "SEP", "EOB", "MASK")
PICTURE_MARKS = ("EOR",)  # end of a row of positions
DEPTH_TAGS = 32  # at least so many, so that a codec may grow codebooks


def window_tag(window: Sequence[int]) -> str:
    """The tag of a query window: "W6" for audio, "W2x2" for images."""
    return "W" + "x".join(str(size) for size in window)


@dataclass(frozen=True)
class Vocabulary:
    """The ids of one codec.

    Without a rate all codebooks have a range, so that an id means the same at every rate and one language
    model can read them all; with a rate only the codebooks it uses have one: the smallest vocabulary.

    Args:
        spec: The codec.
        rate: The only rate that will be written, or None for any.
    """

    spec: CodecSpec
    rate: Rate | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if the codec cannot run at the rate."""
        if self.rate is not None:
            object.__setattr__(self, "rate", self.spec.resolve(replace(self.rate, shares=None)))

    @cached_property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes K of each codebook that has a range."""
        return self.spec.codebook_sizes[: self.rate.codebooks if self.rate else None]

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The id of code 0 of each codebook."""
        return tuple(accumulate(self.codebook_sizes[:-1], initial=0))

    @cached_property
    def specials(self) -> tuple[str, ...]:
        """Names of the ids behind the codes, in order: marks, codebooks, windows, queries, marks of images."""
        depths = max(DEPTH_TAGS, self.spec.num_codebooks)
        return (
            *MARKS,
            *(f"Q{count}" for count in range(1, depths + 1)),
            *(window_tag(window) for window in self.spec.windows),
            *(f"N{count}" for count in range(1, self.spec.queries + 1)),
            *(PICTURE_MARKS if self.spec.modality == "image" else ()),
        )

    @cached_property
    def num_codes(self) -> int:
        """Ids that are codes; specials start here."""
        return sum(self.codebook_sizes)

    @property
    def size(self) -> int:
        """All ids: the rows of an embedding."""
        return self.num_codes + len(self.specials)

    def special(self, name: str) -> int:
        """The id of a special, such as "PAD".

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in self.specials:
            raise ValueError(f"the specials are {', '.join(self.specials)}; got {name!r}")
        return self.num_codes + self.specials.index(name)

    def codebook_of(self, id: int) -> int:
        """The codebook whose range holds an id.

        Raises:
            ValueError: If the id is not a code.
        """
        if not 0 <= id < self.num_codes:
            raise ValueError(f"ids of codes are 0 to {self.num_codes - 1}, got {self.describe(id)}")
        return sum(offset <= id for offset in self.offsets) - 1

    def describe(self, id: int) -> str:
        """An id in words, for messages: "7 (code 2 of codebook 1)"."""
        if 0 <= id < self.num_codes:
            book = self.codebook_of(id)
            return f"{id} (code {id - self.offsets[book]} of codebook {book})"
        if self.num_codes <= id < self.size:
            return f"{id} ({self.specials[id - self.num_codes]})"
        return f"{id} (of no meaning: ids are 0 to {self.size - 1})"

    def header(self, rate: Rate | None = None) -> tuple[int, ...]:
        """What a sequence opens with: BOA and the rate as tags of window, queries and codebooks.

        Raises:
            ValueError: If the codec cannot run at the rate, or this vocabulary was made for another.
        """
        rate = self.spec.resolve(rate or self.rate)
        if self.rate is not None and rate != self.rate:
            raise ValueError(f"this vocabulary holds {self.rate}, got {rate}; make one without a rate to mix rates")
        assert rate.window
        names = "BOA", window_tag(rate.window), f"N{rate.queries}", f"Q{rate.codebooks}"
        return tuple(self.special(name) for name in names)

    def rate_of(self, header: Sequence[int]) -> Rate:
        """The rate that a header names.

        Raises:
            ValueError: If the ids are not a header of this vocabulary, with the place of the first wrong one.
        """
        windows = {self.special(window_tag(window)): window for window in self.spec.windows}
        queries = {self.special(f"N{count}"): count for count in range(1, self.spec.queries + 1)}
        depths = {self.special(f"Q{count}"): count for count in range(1, self.spec.num_codebooks + 1)}
        fields: tuple[dict[int, Any], ...] = ({self.special("BOA"): None}, windows, queries, depths)
        if len(header) != len(fields):
            raise ValueError(f"a header is {len(fields)} ids (BOA, window, queries, codebooks), got {len(header)}")
        for place, (id, meanings) in enumerate(zip(header, fields, strict=True)):
            if id not in meanings:
                raise ValueError(f"a header has one of ids {sorted(meanings)} at {place}, got {self.describe(id)}")
        rate = Rate(window=windows[header[1]], queries=queries[header[2]], codebooks=depths[header[3]])
        return self.spec.resolve(rate)
