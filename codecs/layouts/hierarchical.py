"""Hierarchical: codebooks of several rates in one stream, block by block of the coarsest, depth first.

Source: the order in which language models read SNAC (arXiv 2410.14411): c0 c1a c2a c2b c1b c2c c2d.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from sigtok.codecs.spec import CodecSpec, Rate

from .frames import Cells, FrameLayout
from .vocabulary import Vocabulary


class Hierarchical(FrameLayout):
    """Ids ``[B, S]``, a block per code of the coarsest codebook; with strides 4, 2, 1 seven ids in places

        codebook 0 | 0
        codebook 1 | 1       4
        codebook 2 | 2   3   5   6

    Inside a block codes stand in the order of the positions that they begin with, coarse before fine: a code comes
    before those that refine it. The last block ends where the signal does. With strides of 1 this is `Flatten`.

    Raises:
        ValueError: If a stride is no whole number or does not divide the coarsest.
    """

    causal = True
    axes = "B S"
    multirate = True

    def __init__(self, spec: CodecSpec, rate: Rate | None = None, *, vocabulary: Vocabulary | None = None) -> None:
        super().__init__(spec, rate, vocabulary=vocabulary)
        whole = [stride for stride in self.strides if isinstance(stride, int)]
        self.block = max(whole, default=1)
        if len(whole) < self.num_codebooks or any(self.block % stride for stride in whole):
            raise ValueError(
                f"strides divide the coarsest, {max(self.strides)}; {spec.name} has {self._shown()}: use the layout "
                f"scale_wise"
            )
        order = sorted((start, book) for book, stride in enumerate(whole) for start in range(0, self.block, stride))
        self.starts, self.books = zip(*order, strict=True)

    def cells(self, steps: Int[Tensor, " S"], frames: Int[Tensor, " B"]) -> Cells:
        """Place s mod P of block s div P, of P ids each."""
        books, starts, strides = (steps.new_tensor(part) for part in (self.books, self.starts, self.strides))
        block, place = steps // len(books), steps % len(books)
        book = books[place]
        return Cells(book[None, None], ((block * self.block + starts[place]) // strides[book])[None, None])

    def length(self, frames: int) -> int:
        """P steps per block of positions, and of the last block those whose codes begin before the end."""
        blocks, rest = divmod(frames, self.block)
        return blocks * len(self.books) + sum(start < rest for start in self.starts)
