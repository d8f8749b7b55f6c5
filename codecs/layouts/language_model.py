"""A codec's ids inside a Hugging Face language model: its tokenizer, its embedding and its sampling.

    first = add_to_tokenizer(tokenizer, lay.vocabulary)
    resize(model, first, lay.vocabulary)
    speech = ModelIds(lay, first)
    ids = speech.to_ids(tokens)                                    # header, codes, EOA: to train on
    prompt = torch.cat((text_ids, speech.prompt(len(text_ids))), 1)  # pad texts on the left
    ids = model.generate(
        prompt, logits_processor=[LegalIds(speech)], eos_token_id=speech.ends, pad_token_id=speech.padding
    )
    tokens = speech.from_ids(ids)

Nothing of transformers is imported: any tokenizer and model with the methods named here will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sigtok.codecs.spec import Extent
from sigtok.codecs.tokens import Tokens

from .base import Layout
from .vocabulary import Vocabulary


def token_names(vocabulary: Vocabulary) -> list[str]:
    """The names of all ids in a tokenizer: codec, the first digits of its digest, and what the id means.

    The digest keeps codecs apart that have one name: ids of one are never taken for ids of another.
    """
    codec = f"{vocabulary.spec.name}.{vocabulary.spec.digest()[:4].hex()}"
    codes = [f"{book}:{code}" for book, size in enumerate(vocabulary.codebook_sizes) for code in range(size)]
    return [f"<{codec}:{meaning}>" for meaning in (*codes, *vocabulary.specials)]


def add_to_tokenizer(tokenizer: Any, vocabulary: Vocabulary) -> int:
    """Add the vocabulary to a tokenizer, unless it is there, as special tokens in one run.

    Args:
        tokenizer: With ``add_tokens(names, special_tokens=True)`` and ``convert_tokens_to_ids(names)``.
        vocabulary: What to add.

    Returns:
        The tokenizer's id of the vocabulary's id 0.

    Raises:
        ValueError: If the tokenizer holds these names, but not in this order.
    """
    names = token_names(vocabulary)
    tokenizer.add_tokens(names, special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(names)
    if ids != list(range(ids[0], ids[0] + len(names))):
        raise ValueError(
            f"the {len(names)} tokens of {vocabulary.spec.name} have ids in one run, this tokenizer has {names[0]} at "
            f"{ids[0]} and {names[-1]} at {ids[-1]}; it knows this codec at another rate: start from one that does not"
        )
    return ids[0]


@torch.no_grad()
def resize(model: Any, first: int, vocabulary: Vocabulary, generator: torch.Generator | None = None) -> None:
    """Give a model rows for the vocabulary: normal, with mean and deviation of the rows below ``first`` by channel.

    Call it once, before training. A model with rows to spare keeps its size; the rows are made new all the same.

    Args:
        model: With ``resize_token_embeddings(rows, mean_resizing=False)``, ``get_input_embeddings()`` and
            ``get_output_embeddings()``; tied tables are filled once.
        first: What `add_to_tokenizer` returned.
        vocabulary: What was added.
        generator: Randomness, on the device of the model; None for the global one.

    Raises:
        ValueError: If there are fewer than two rows to draw from.
    """
    if first < 2:
        raise ValueError(f"new rows are drawn like the old ones, got {first} old rows; add to a tokenizer with words")
    last = first + vocabulary.size
    if model.get_input_embeddings().weight.shape[0] < last:
        model.resize_token_embeddings(last, mean_resizing=False)
    tables = [part for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part is not None]
    for weight in {id(table.weight): table.weight for table in tables}.values():
        old, new = weight[:first].float(), weight[first:last]
        noise = torch.randn(new.shape, generator=generator, device=weight.device)
        new.copy_(old.mean(0) + old.std(0) * noise)
    bias = getattr(tables[-1], "bias", None)
    if bias is not None:
        bias[first:last] = bias[:first].float().mean()


class ModelIds:
    """Tokens to the ids of a model's tokenizer, and back: a header that names the rate, the layout's ids, EOA.

    Args:
        layout: A layout of one stream, as the model has one head.
        first: What `add_to_tokenizer` returned for the layout's vocabulary.

    Raises:
        ValueError: If the layout has a row for each codebook.
    """

    def __init__(self, layout: Layout, first: int) -> None:
        if layout.axes != "B S":
            raise ValueError(
                f"a model with one head reads one stream, {type(layout).__name__} has ids [{layout.axes}]; use "
                f"the layout flatten, or another of one head in layouts/names.py"
            )
        self.layout, self.first, self.vocabulary = layout, first, layout.vocabulary
        self.padding = first + self.vocabulary.special("PAD")
        self.ends = [first + self.vocabulary.special("EOA"), self.padding]

    def prompt(self, items: int = 1) -> Int[Tensor, "B 4"]:
        """The header that asks for a signal at the layout's rate; text may stand before it."""
        return self.first + torch.tensor(self.vocabulary.header(self.layout.rate)).repeat(items, 1)

    def to_ids(self, tokens: Tokens) -> Int[Tensor, "B S"]:
        """Header, codes and EOA of each item, then PAD.

        Raises:
            ValueError: If the tokens are of another spec or rate, or a code is absent or out of range.
        """
        ids = torch.nn.functional.pad(self.layout.to_ids(tokens), (0, 1), value=self.vocabulary.special("PAD"))
        behind = ids == self.vocabulary.special("PAD")
        ids = ids.masked_fill(behind & (behind.long().cumsum(1) == 1), self.vocabulary.special("EOA"))
        return torch.cat((self.prompt(len(ids)).to(ids.device), ids + self.first), dim=1)

    def from_ids(
        self, ids: Int[Tensor, "B S"], extents: Sequence[Extent] | None = None, *, strict: bool = True
    ) -> Tokens:
        """The tokens of the last signal of each row, whatever text stands before its header and behind its EOA.

        Raises:
            ValueError: If a row has no header or one of another rate, or as in `Layout.from_ids`, whose steps count
                from behind the header.
        """
        return self.layout.from_ids(self.body(ids)[0], extents, strict=strict)

    def body(self, ids: Int[Tensor, "B S"]) -> tuple[Int[Tensor, "B S2"], Int[Tensor, " B"]]:
        """The layout's ids behind the last header of each row, PAD behind EOA; and the steps before, with the header.

        Raises:
            ValueError: If a row has no header, or one of another rate.
        """
        if ids.shape[1] == 0:
            raise ValueError("a row has a header of 4 ids, got rows of none")
        ids = ids - self.first
        special, steps = self.vocabulary.special, torch.arange(ids.shape[1], device=ids.device)
        begins = torch.where(ids == special("BOA"), steps, -1).amax(1)
        for item, begin in enumerate(begins.tolist()):
            header = ids[item, begin : begin + 4].tolist() if begin >= 0 else []
            rate = self.vocabulary.rate_of(header)
            if rate != self.layout.rate:
                raise ValueError(f"this layout reads {self.layout.rate}, the header of item {item} says {rate}")
        places = begins[:, None] + 4 + steps
        ids = ids.gather(1, places.clamp(max=ids.shape[1] - 1))
        ends = (ids == special("EOA")).long()
        behind = (ends.cumsum(1) - ends > 0) | (places >= len(steps))
        ids = ids.masked_fill(behind, special("PAD"))
        return ids[:, : len(steps) - 4 - int(begins.min())], begins + 4


class LegalIds:
    """A logits processor: what a model may say behind a header is a signal, and nothing else.

    Args:
        ids: The codec's ids in this model.
        extents: Per row, where they are known, as for images; None lets the model end the signal.
    """

    def __init__(self, ids: ModelIds, extents: Sequence[Extent] | None = None) -> None:
        self.ids, self.extents = ids, extents

    def __call__(self, input_ids: Int[Tensor, "B S"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores with minus infinity at all ids that may not stand next.

        Raises:
            ValueError: If the headers do not end at the same step in all rows, or a row is not a signal so far.
        """
        ids, begins = self.ids.body(input_ids)
        if int(begins.min()) != int(begins.max()):
            raise ValueError(f"headers end at one step in all rows, got {begins.tolist()}; pad the texts on the left")
        legal = self.ids.layout.legal_after(ids, self.extents)
        last = self.ids.first + legal.shape[1]
        if scores.shape[1] < last:
            raise ValueError(f"the model scores {last} ids or more, got {scores.shape[1]}; call `resize` on it first")
        mask = torch.nn.functional.pad(legal, (self.ids.first, scores.shape[1] - last))
        return scores.masked_fill(~mask, -torch.inf)
