"""A transformer over windows: each window holds S slots and sees itself and the windows just before it.

``context = 0`` keeps windows apart (tiles of an image); ``context = P`` is window-causal attention over the P windows
before (audio), with the state of a stream as a value. Positions inside a block of windows never grow, so an hour
is as exact as a second.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .rope import rotary_table, rotate


class WindowAttention(nn.Module):
    """Multi-head attention of windows ``[B, M, S, dim]`` over their own slots and those of ``context`` windows before.

    Windows are worked on in blocks of ``context``: the keys of a block are the block before it and itself, so time
    and memory are linear in M. Before the beginning stand zeros.
    """

    def __init__(self, dim: int, heads: int, context: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={dim}, heads={heads}")
        self.heads, self.context = heads, context
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, windows: Tensor, table: Tensor, mask: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Attended windows, and keys and values ``[2, B, context, S, dim]`` for the next chunk."""
        query, key, value = self.project(windows).chunk(3, dim=-1)
        if not self.context:
            return self.out(self._attend(query, key, value, table, None)), state
        key, value = torch.cat((state[0], key), dim=1), torch.cat((state[1], value), dim=1)
        count = windows.shape[1]
        kept = torch.stack((key, value))[:, :, count:]
        blocks = (count + self.context - 1) // self.context
        attended = self._attend(
            self._blocks(query, blocks), self._pairs(key, blocks), self._pairs(value, blocks), table, mask
        )
        attended = rearrange(attended, "b n (p s) d -> b (n p) s d", p=self.context)[:, :count]
        return self.out(attended), kept

    def _blocks(self, windows: Tensor, blocks: int) -> Tensor:
        """``[B, M, S, dim]`` -> ``[B, blocks, context * S, dim]``, filled up with zeros."""
        windows = F.pad(windows, (0, 0, 0, 0, 0, blocks * self.context - windows.shape[1]))
        return windows.reshape(windows.shape[0], blocks, self.context * windows.shape[2], windows.shape[3])

    def _pairs(self, windows: Tensor, blocks: int) -> Tensor:
        """Each block of keys behind the block before it: ``[B, blocks, 2 * context * S, dim]``."""
        before, own = windows[:, : blocks * self.context], windows[:, self.context :]
        return torch.cat((self._blocks(before, blocks), self._blocks(own, blocks)), dim=2)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, table: Tensor, mask: Tensor | None) -> Tensor:
        """Fused attention of ``[B, M, S, dim]`` over ``[B, M, S', dim]``; queries stand last among the positions."""
        batch = query.shape[0]
        query, key, value = (
            rearrange(part, "b m s (h d) -> (b m) h s d", h=self.heads) for part in (query, key, value)
        )
        query, key = rotate(query, table[:, -query.shape[2] :]), rotate(key, table)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return rearrange(attended, "(b m) h s d -> b m s (h d)", b=batch)


class Block(nn.Module):
    """Pre-norm attention, then two linear maps with squared ReLU between (So et al., 2021, arXiv 2109.08668)."""

    def __init__(self, dim: int, heads: int, context: int, expansion: int, depth: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=1e-6)
        self.attention = WindowAttention(dim, heads, context)
        self.norm = nn.RMSNorm(dim, eps=1e-6)
        self.up = nn.Linear(dim, expansion * dim, bias=False)
        self.down = nn.Linear(expansion * dim, dim, bias=False)
        for layer in (self.attention.out, self.down):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features * 2 * depth))

    def forward(self, windows: Tensor, table: Tensor, mask: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Windows of the same shape, and the state for the next chunk."""
        attended, state = self.attention(self.attention_norm(windows), table, mask, state)
        windows = windows + attended
        return windows + self.down(F.relu(self.up(self.norm(windows))).square()), state


class WindowTransformer(nn.Module):
    """A stack of blocks over windows of slots, with rotary positions, and a norm at the end.

    Args:
        dim: Width D.
        depth: Number of blocks.
        heads: Attention heads.
        context: Windows before its own that a window sees; 0 for windows that stand alone.
        expansion: Width of the linear maps over D.
        base: Of the rotary positions; the longest wave is about ``2 pi base`` positions.
    """

    def __init__(
        self, dim: int, depth: int, heads: int, context: int = 0, expansion: int = 4, base: float = 1000.0
    ) -> None:
        super().__init__()
        self.base = base
        self.dim, self.heads, self.context = dim, heads, context
        self.blocks = nn.ModuleList(Block(dim, heads, context, expansion, depth) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-6)

    def initial_state(self, batch: int, slots: int) -> Tensor:
        """Keys and values before the beginning: zeros ``[depth, 2, B, context, S, dim]``."""
        weight = self.norm.weight
        return weight.new_zeros(len(self.blocks), 2, batch, self.context, slots, self.dim)

    def forward(
        self,
        windows: Float[Tensor, "B M S dim"],
        positions: Float[Tensor, "S axes"],
        window: int,
        state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Windows of the same shape, and the state after them.

        Args:
            windows: M windows of S slots.
            positions: Place of each slot in its window, in positions, the same for all windows.
            window: Positions from one window to the next (only used where windows see each other).
            state: What `initial_state` or the call before returned.
        """
        slots = windows.shape[2]
        if state is None:
            state = self.initial_state(windows.shape[0], slots)
        table, mask = self._geometry(positions.to(windows.device, torch.float64), window, slots)
        table, states = table.to(windows.dtype), []
        for block, before in zip(self.blocks, state.unbind(0), strict=True):
            windows, after = block(windows, table, mask, before)
            states.append(after)
        return self.norm(windows), torch.stack(states)

    def _geometry(self, positions: Tensor, window: int, slots: int) -> tuple[Tensor, Tensor | None]:
        """Rotary table and mask of one block of windows behind the block before it."""
        head_dim = self.dim // self.heads
        if not self.context:
            return rotary_table(positions, head_dim, self.base), None
        index = torch.arange(2 * self.context, device=positions.device)
        places = (index[:, None, None] * window + positions).flatten(0, 1)
        index = index.repeat_interleave(slots)
        gap = index[self.context * slots :, None] - index
        return rotary_table(places, head_dim, self.base), (gap >= 0) & (gap <= self.context)
