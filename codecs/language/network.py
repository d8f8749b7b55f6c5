"""A transformer that predicts the next id: pre-norm, rotary positions, one table for what goes in and comes out.

Signals stand one behind the other and do not see each other: each begins with a mark, and what an id sees ends there.
So a signal has the same probability in any company, and alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.layers.rope import rotary_table, rotate

LARGEST = 2**16  # of what a shape may have


@dataclass(frozen=True)
class Shape:
    """The size of a network.

    Args:
        dim: Width D.
        depth: Blocks.
        heads: Of attention; each has an even width.
        expansion: Width of the inner layer of a block over D.
        context: Ids that an id sees, itself one of them.
    """

    dim: int = 256
    depth: int = 6
    heads: int = 4
    expansion: int = 4
    context: int = 1024

    def __post_init__(self) -> None:
        """Raise ValueError for what is no size."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
                raise ValueError(f"{field.name} of a network is 1 to {LARGEST}, got {value!r}")
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim is a multiple of twice the heads, got dim={self.dim}, heads={self.heads}")


class Attention(nn.Module):
    """Multi-head attention with rotary positions, over what a state remembers and what comes."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, hidden: Tensor, table: Tensor, sees: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attended ``[B, S, D]``, and all keys and values ``[2, B, heads, P + S, d]`` with those of the past."""
        query, key, value = rearrange(self.project(hidden), "b s (n h d) -> n b h s d", n=3, h=self.heads)
        query, key = rotate(query, table), rotate(key, table)
        memory = torch.stack((key, value))
        if past is not None:
            memory = torch.cat((past, memory), dim=3)
        attended = F.scaled_dot_product_attention(query, memory[0], memory[1], attn_mask=sees)
        return self.out(rearrange(attended, "b h s d -> b s (h d)")), memory


class Block(nn.Module):
    """Attention, then two linear maps with squared ReLU between (So et al., 2021, arXiv 2109.08668)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.dim, eps=1e-6)
        self.attention = Attention(shape.dim, shape.heads)
        self.norm = nn.RMSNorm(shape.dim, eps=1e-6)
        self.up = nn.Linear(shape.dim, shape.expansion * shape.dim, bias=False)
        self.down = nn.Linear(shape.expansion * shape.dim, shape.dim, bias=False)
        for layer in (self.attention.out, self.down):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features * 2 * shape.depth))

    def forward(self, hidden: Tensor, table: Tensor, sees: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Hidden values of the same shape, and keys and values."""
        attended, memory = self.attention(self.attention_norm(hidden), table, sees, past)
        hidden = hidden + attended
        return hidden + self.down(F.relu(self.up(self.norm(hidden))).square()), memory


@dataclass(frozen=True)
class State:
    """What `TokenTransformer.step` remembers of a signal: keys and values of each block, and how many ids came."""

    memories: tuple[Tensor, ...]
    count: int


class TokenTransformer(nn.Module):
    """Logits of the next id.

    Args:
        size: Ids V.
        begin: The id that begins a signal.
        shape: Of the network.
    """

    def __init__(self, size: int, begin: int, shape: Shape) -> None:
        super().__init__()
        self.begin, self.shape = begin, shape
        self.embed = nn.Embedding(size, shape.dim)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.norm = nn.RMSNorm(shape.dim, eps=1e-6)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        """Logits behind each id, of signals one behind the other; the first may have begun before."""
        signal = (ids == self.begin).cumsum(1)
        sees = self._window(ids, 0, 0) & (signal[:, :, None] == signal[:, None, :])
        return self._run(ids, 0, sees[:, None], (None,) * len(self.blocks))[0]

    def step(self, ids: Int[Tensor, "B S"], state: State | None = None) -> tuple[Float[Tensor, "B S V"], State]:
        """Logits behind each id that comes next in one signal, and the state behind them.

        Args:
            ids: At least one; those of a signal in any parts give the logits of the whole.
            state: What the call before returned; None where the signal begins.
        """
        memories: tuple[Tensor | None, ...] = (None,) * len(self.blocks) if state is None else state.memories
        held, count = (0, 0) if state is None else (state.memories[0].shape[3], state.count)
        logits, kept = self._run(ids, count, self._window(ids, held, count), memories)
        drop = max(0, held + ids.shape[1] - (self.shape.context - 1))
        return logits, State(tuple(memory[..., drop:, :] for memory in kept), count + ids.shape[1])

    def _window(self, ids: Tensor, held: int, count: int) -> Tensor:
        """Which of the ids held and coming each of those coming sees, bool ``[S, held + S]``."""
        places = torch.arange(count - held, count + ids.shape[1], device=ids.device)
        gap = places[held:, None] - places
        return (gap >= 0) & (gap < self.shape.context)

    def _run(
        self, ids: Tensor, count: int, sees: Tensor, memories: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        places = torch.arange(count, count + ids.shape[1], device=ids.device)
        table = rotary_table(places[:, None].double(), self.shape.dim // self.shape.heads)
        hidden, kept = self.embed(ids), []
        for block, past in zip(self.blocks, memories, strict=True):
            hidden, memory = block(hidden, table, sees, past)
            kept.append(memory)
        return F.linear(self.norm(hidden), self.embed.weight), kept
