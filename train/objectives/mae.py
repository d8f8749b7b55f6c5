"""Masked autoencoding inside a query codec: what frames were is told from what the others and the queries say."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.codec import Codec, Reconstruction
from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.queries import geometry
from sigtok.codecs.spec import Rate

from .base import Found, Objective


class MaskedAutoencoder(Objective):
    """Loss "mae": mean squared error of the front's features at masked positions.

    Runs of positions are hidden from the encoder, each item its own; queries never are. A small transformer reads all
    that the encoder puts out, at positions and queries, and predicts the features at the hidden positions. The target
    is the codec's own feature, normalised over its width and without gradient: else a constant would be the answer.

    Source: ALMTokenizer, arXiv 2504.10344; masking after He et al., 2021, arXiv 2111.06377.

    Args:
        dim: Width of the codec's positions.
        width: Width of the predicting transformer.
        depth: Its blocks.
        heads: Its attention heads.
        ratio: Least and largest share of positions that is hidden, drawn evenly for each item.
        span: Longest run of hidden positions that is drawn at once.
    """

    def __init__(
        self,
        dim: int,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        ratio: tuple[float, float] = (0.2, 0.3),
        span: int = 3,
    ) -> None:
        super().__init__()
        if not 0 < ratio[0] <= ratio[1] < 1 or span < 1:
            raise ValueError(f"shares lie between 0 and 1 and runs are at least 1 long, got {ratio} and {span}")
        self.ratio, self.span = ratio, span
        self.mask = nn.Parameter(torch.randn(dim) * 0.5)
        self.into = nn.Linear(dim, width)
        self.transformer = WindowTransformer(width, depth, heads, context=2)
        self.out = nn.Linear(width, dim)

    def forward(self, codec: Codec, signal: Tensor, reconstruction: Reconstruction, rate: Rate) -> Found:
        """One more pass of the encoder, over what is left visible."""
        encoder = codec.encoder
        if not hasattr(encoder, "queries"):
            raise ValueError(f"masked autoencoding needs an encoder with queries, {codec.spec.name} has none")
        window, queries = rate.window, rate.queries
        positions, _ = encoder.front(signal, encoder.front.initial_state(len(signal)))
        hidden = self.draw(len(signal), positions.shape[1]).to(positions.device)
        seen = torch.where(hidden[..., None], self.mask.to(positions.dtype), positions)
        read, _ = encoder.queries.read(rearrange(seen, "b (m w) d -> b m w d", w=window[0]), window, queries)
        places, _, _ = geometry(window, encoder.queries.most, queries)
        guess, _ = self.transformer(self.into(read), places, window[0])
        guess = self.out(guess[:, :, : window[0]]).flatten(1, 2)
        target = F.layer_norm(positions.detach().float(), positions.shape[-1:])
        error = (guess.float() - target).square().mean(-1)
        return Found({"mae": (error * hidden).sum() / hidden.sum()}, {})

    def draw(self, items: int, positions: int) -> Bool[Tensor, "B N"]:
        """Which positions are hidden: runs of 1 to ``span`` until each item has its share, at least one."""
        low, high = self.ratio
        share = low + (high - low) * torch.rand(items, 1)
        count = (share * positions).round().clamp(1, max(1, positions - 1))
        lengths = torch.randint(1, self.span + 1, (items, positions))
        order = torch.rand(items, positions).argsort(1)  # runs begin at positions in this order
        rank = order.argsort(1)
        reach = torch.arange(self.span)
        begins = torch.arange(positions)[:, None] - reach  # a position is hidden by a run that began so far before
        inside = (begins >= 0)[None] & (lengths[:, begins.clamp_min(0)] > reach)
        turn = torch.where(inside, rank[:, begins.clamp_min(0)], positions).amin(-1)  # earliest run that hides it
        return turn.argsort(dim=1, stable=True).argsort(1) < count
