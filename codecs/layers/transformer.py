"""A transformer over windows: each window holds S slots and sees itself and, by the kind of attention, its neighbours.

"window_causal" sees the windows just before (audio that streams, with the state of a stream as a value); "local" those
on both sides; "full" the whole signal; with ``context = 0`` windows stand alone (tiles of an image). Except under
"full", positions inside a block of windows never grow, so an hour is as exact as a second.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from .rope import rotary_table, rotate

Attention = Literal["window_causal", "local", "full"]
PIECE = 256  # windows worked on at once under local attention when nothing is trained


class WindowAttention(nn.Module):
    """Multi-head attention of windows ``[B, M, S, dim]`` over their own slots and those of ``reach`` windows before.

    Windows are worked on in blocks of ``reach``: the keys of a block are the block before it, itself and, if ``ahead``,
    the block after it, so time and memory are linear in M. Before the beginning and behind the end stand zeros.
    """

    def __init__(self, dim: int, heads: int, ahead: bool = False) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got dim={dim}, heads={heads}")
        self.heads, self.ahead = heads, ahead
        self.project = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, windows: Tensor, table: Tensor, mask: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        """Attended windows, and keys and values ``[2, B, reach, S, dim]`` for the next chunk."""
        query, key, value = self.project(windows).chunk(3, dim=-1)
        reach = state.shape[2]
        if not reach:
            return self.out(self._attend(query, key, value, table, 0, mask)), state
        key, value = torch.cat((state[0], key), dim=1), torch.cat((state[1], value), dim=1)
        count = windows.shape[1]
        kept = torch.stack((key, value))[:, :, count:]
        blocks = (count + reach - 1) // reach
        query = _blocks(query, reach, blocks)
        key, value = (_neighbours(part, reach, blocks, 2 + self.ahead) for part in (key, value))
        attended = self._attend(query, key, value, table, query.shape[2], mask)
        attended = rearrange(attended, "b n (p s) d -> b (n p) s d", p=reach)[:, :count]
        return self.out(attended), kept

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, table: Tensor, first: int, mask: Tensor | None
    ) -> Tensor:
        """Fused attention of ``[B, M, S, dim]`` over ``[B, M, S', dim]``; queries stand at positions from ``first``."""
        batch = query.shape[0]
        query, key, value = (
            rearrange(part, "b m s (h d) -> (b m) h s d", h=self.heads) for part in (query, key, value)
        )
        query, key = rotate(query, table[:, first : first + query.shape[2]]), rotate(key, table)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return rearrange(attended, "(b m) h s d -> b m s (h d)", b=batch)


def _blocks(windows: Tensor, size: int, blocks: int) -> Tensor:
    """``[B, M, S, dim]`` -> ``[B, blocks, size * S, dim]``, filled up with zeros."""
    windows = F.pad(windows, (0, 0, 0, 0, 0, blocks * size - windows.shape[1]))
    return windows.reshape(windows.shape[0], blocks, size * windows.shape[2], windows.shape[3])


def _neighbours(windows: Tensor, size: int, blocks: int, parts: int) -> Tensor:
    """Blocks side by side, each a block later than the one before: ``[B, blocks, parts * size * S, dim]``."""
    shifted = [windows[:, part * size : (part + blocks) * size] for part in range(parts)]
    return torch.cat([_blocks(part, size, blocks) for part in shifted], dim=2)


class Block(nn.Module):
    """Pre-norm attention, then two linear maps with squared ReLU between (So et al., 2021, arXiv 2109.08668)."""

    def __init__(self, dim: int, heads: int, expansion: int, depth: int, ahead: bool = False) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps=1e-6)
        self.attention = WindowAttention(dim, heads, ahead)
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
        context: Positions before its own window that a window sees (and behind it, if local), rounded up to whole
            windows; 0 for windows that stand alone.
        expansion: Width of the linear maps over D.
        base: Of the rotary positions; the longest wave is about ``2 pi base`` positions.
        attention: Which windows a window sees; "full" takes no context.

    Raises:
        ValueError: If the attention is unknown, or context and attention contradict each other.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        context: int = 0,
        expansion: int = 4,
        base: float = 1000.0,
        attention: Attention = "window_causal",
    ) -> None:
        super().__init__()
        if attention not in get_args(Attention):
            raise ValueError(f"attention is one of {', '.join(get_args(Attention))}; got {attention!r}")
        if depth < 0 or context < 0:
            raise ValueError(f"depth and context are at least 0, got depth={depth}, context={context}")
        if context and attention == "full":
            raise ValueError(f"full attention has no context, got {context} positions")
        self.base, self.attention = base, attention
        self.dim, self.heads, self.context = dim, heads, context
        local = attention == "local"
        self.blocks = nn.ModuleList(Block(dim, heads, expansion, depth, local) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=1e-6)

    def reach(self, window: int) -> int:
        """Windows before its own that a window of so many positions sees in one block."""
        return -(-self.context // window)

    def initial_state(self, batch: int, slots: int, window: int = 1) -> Tensor:
        """Keys and values before the beginning: zeros ``[depth, 2, B, reach, S, dim]``."""
        weight = self.norm.weight
        return weight.new_zeros(len(self.blocks), 2, batch, self.reach(window), slots, self.dim)

    def forward(
        self,
        windows: Float[Tensor, "B M S dim"],
        positions: Float[Tensor, "S axes"],
        window: int,
        state: Tensor | None = None,
        sees: Bool[Tensor, "S S"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Windows of the same shape, and the state after them.

        Args:
            windows: M windows of S slots.
            positions: Place of each slot in its window, in positions, the same for all windows.
            window: Positions from one window to the next (only used where windows see each other).
            state: What `initial_state` or the call before returned.
            sees: Which slots (columns) a slot (row) sees, in its own window and those before; None for all.
        """
        if self.attention == "full":
            return self._full(windows, positions, window, sees), windows.new_zeros(0)
        slots, reach = windows.shape[2], self.reach(window)
        margin = len(self.blocks) * reach
        trained = torch.is_grad_enabled() or torch.compiler.is_exporting()
        if self.attention == "local" and not trained and windows.shape[1] > PIECE + 2 * margin:
            return self._in_pieces(windows, positions, window, sees, margin), windows.new_zeros(0)
        if state is None or self.attention == "local":
            state = self.initial_state(windows.shape[0], slots, window)
        table, mask = self._geometry(positions.to(windows.device, torch.float64), window, reach, slots, sees)
        table, states = table.to(windows.dtype), []
        for block, before in zip(self.blocks, state.unbind(0), strict=True):
            windows, after = block(windows, table, mask, before)
            states.append(after)
        return self.norm(windows), torch.stack(states) if states else state

    def _full(self, windows: Tensor, positions: Tensor, window: int, sees: Tensor | None) -> Tensor:
        """All windows as one sequence."""
        count, slots = windows.shape[1:3]
        starts = torch.arange(count, device=windows.device, dtype=torch.float64)[:, None, None] * window
        places = (starts + positions.to(windows.device, torch.float64)).flatten(0, 1)
        table = rotary_table(places, self.dim // self.heads, self.base).to(windows.dtype)
        mask = None if sees is None else sees.repeat(count, count)
        sequence = windows.flatten(1, 2)[:, None]
        nothing = self.initial_state(windows.shape[0], slots)
        for block, before in zip(self.blocks, nothing.unbind(0), strict=True):
            sequence, _ = block(sequence, table, mask, before)
        return self.norm(sequence)[:, 0].unflatten(1, (count, slots))

    def _in_pieces(self, windows: Tensor, positions: Tensor, window: int, sees: Tensor | None, margin: int) -> Tensor:
        """The same at bounded memory: pieces with all that their windows see through all blocks, which is cut off."""
        parts = []
        for first in range(0, windows.shape[1], PIECE):
            start = max(0, first - margin)
            part, _ = self(windows[:, start : first + PIECE + margin], positions, window, None, sees)
            parts.append(part[:, first - start : first - start + PIECE])
        return torch.cat(parts, dim=1)

    def _geometry(
        self, positions: Tensor, window: int, reach: int, slots: int, sees: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Rotary table and mask of one block of windows among its neighbours."""
        head_dim = self.dim // self.heads
        if not reach:
            return rotary_table(positions, head_dim, self.base), sees
        ahead = self.attention == "local"
        index = torch.arange((2 + ahead) * reach, device=positions.device)
        places = (index[:, None, None] * window + positions).flatten(0, 1)
        index = index.repeat_interleave(slots)
        gap = index[reach * slots : 2 * reach * slots, None] - index
        mask = (gap >= (-reach if ahead else 0)) & (gap <= reach)
        if sees is not None:
            mask = mask & sees.repeat(reach, (2 + ahead) * reach)
        return rotary_table(places, head_dim, self.base), mask
