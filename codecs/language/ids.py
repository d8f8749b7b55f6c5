"""What the ids of a language model mean: a codec at a rate, and the layout that lines its codes up."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from sigtok.codecs.layouts.language_model import ModelIds
from sigtok.codecs.layouts.names import layout
from sigtok.codecs.layouts.vocabulary import Vocabulary
from sigtok.codecs.shards import Meaning
from sigtok.codecs.spec import Extent

LARGEST = 2**24  # ids


class Language:
    """The signals of one codec at one rate as sequences: a header, codes in the order of a layout, EOA.

    Args:
        meaning: Of the codes.
        layout: The name of a layout of one stream.
        extent: Of every picture, which its ids do not tell; None for sounds, which end where their ids do.

    Raises:
        ValueError: If there is no such layout, it is not for this codec, or it has a row for each codebook.
    """

    def __init__(self, meaning: Meaning, layout: str, extent: Extent | None = None) -> None:
        self.meaning, self.layout, self.extent = meaning, layout, extent
        if (extent is None) == (meaning.spec.modality == "image"):
            raise ValueError(f"a language of pictures has their extent, and no other; got extent {extent}")
        if extent is not None:
            meaning.spec.check_extent(extent)
        spec = meaning.spec
        if (most := sum(spec.codebook_sizes) + spec.queries + len(spec.windows)) > LARGEST:
            raise ValueError(f"a language has at most {LARGEST} ids, got {most}; take a codec of fewer codes")
        self.ids  # noqa: B018 - raises what the docstring says

    @cached_property
    def ids(self) -> ModelIds:
        """Tokens to ids and back; the vocabulary has the codebooks of this rate alone."""
        spec, rate = self.meaning.spec, self.meaning.rate
        return ModelIds(layout(self.layout, spec, rate, vocabulary=Vocabulary(spec, rate)), first=0)

    @property
    def size(self) -> int:
        """Ids."""
        return self.ids.vocabulary.size

    @property
    def begin(self) -> int:
        """The id that begins every signal."""
        return self.ids.vocabulary.special("BOA")

    @property
    def num_codes(self) -> int:
        """Ids below this one are codes."""
        return self.ids.vocabulary.num_codes

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        extent = None if self.extent is None else list(self.extent)
        return {"meaning": self.meaning.to_dict(), "layout": self.layout, "extent": extent}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Language:
        """What `to_dict` made.

        Raises:
            ValueError: If a field is missing or out of range.
        """
        try:
            extent = None if values["extent"] is None else tuple(map(int, values["extent"]))
            return cls(Meaning.from_dict(values["meaning"]), str(values["layout"]), extent)
        except (KeyError, TypeError) as error:
            raise ValueError(f"meaning, layout and extent are needed, got other fields ({error})") from None
