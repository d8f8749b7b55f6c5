"""Tiles that a network reads alone, behind wavelets that overlap them, at bounded memory.

The wavelet packet sees past the border of a tile, so no seam shows where tiles meet. On large pictures the bands of a
few tiles at a time are computed from their pixels and true neighbours, and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from sigtok.codecs.spec import Extent, Rate

from .tiles import Tile, spans
from .wavelet_front import REACH, WaveletFront

PIECE = 32  # positions a side whose bands are computed at once on large pictures, or one window

Read = Callable[[Tensor, Rate], Tensor]  # bands of tiles [B, M, P, F] to queries [B, M, Q, D]
Write = Callable[[Tensor, Rate], Tensor]  # latents [B, N, D] to bands of tiles [B, M, P, F]


def read_whole(front: WaveletFront, signal: Float[Tensor, "B C H W"], rate: Rate, read: Read) -> Float[Tensor, "B N D"]:
    """Latents of whole tiles, row by row, all at once."""
    return read(_tiles(front(signal), rate), rate).flatten(1, 2)


def read_in_pieces(
    front: WaveletFront, signal: Float[Tensor, "B C H W"], rate: Rate, read: Read
) -> Float[Tensor, "B N D"]:
    """The same latents, one tile at a time, and the bands of a few."""
    height, width = rate.window
    size, rows = _piece(rate), []
    for down in spans(signal.shape[2] // front.hop, size, REACH):
        strip = []
        for across in spans(signal.shape[3] // front.hop, size, REACH):
            piece = Tile(down, across)
            bands = piece.cut(front(piece.read(signal, front.hop)))
            made = [read(tile, rate) for tile in _tiles(bands, rate).split(1, dim=1)]
            strip.append(torch.cat(made, dim=1).unflatten(1, (bands.shape[2] // height, bands.shape[3] // width)))
        rows.append(torch.cat(strip, dim=2))
    return torch.cat(rows, dim=1).flatten(1, 3)


def write_whole(
    front: WaveletFront, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate, write: Write
) -> Float[Tensor, "B C H W"]:
    """The signal of whole tiles, all at once."""
    rows = extent[0] // (rate.window[0] * front.hop)
    bands = rearrange(write(latents, rate), "b (m n) (y x) f -> b f (m y) (n x)", m=rows, y=rate.window[0])
    return front.inverse(bands, extent)


def write_in_pieces(
    front: WaveletFront, latents: Float[Tensor, "B N D"], extent: Extent, rate: Rate, write: Write
) -> Float[Tensor, "B C H W"]:
    """The same signal, one tile at a time; the bands of a few rows of tiles are held."""
    height, size, hop = rate.window[0], _piece(rate), front.hop
    across_all = spans(extent[1] // hop, size, REACH)
    per_row = extent[1] // (hop * rate.window[1]) * rate.queries  # latents
    signal = latents.new_zeros(latents.shape[0], 3, *extent)
    strips: dict[int, Tensor] = {}
    for down in spans(extent[0] // hop, size, REACH):
        needed = range(down.start // height, -(-down.stop // height))
        for row in needed:
            if row not in strips:
                parts = latents[:, row * per_row : (row + 1) * per_row].split(rate.queries, dim=1)
                written = torch.cat([write(part, rate) for part in parts], dim=1)
                strips[row] = rearrange(written, "b n (y x) f -> b f y (n x)", y=height)
        strips = {row: strips[row] for row in needed}
        for across in across_all:
            rows = torch.cat([strips[row][..., across.start : across.stop] for row in needed], dim=2)
            bands = rows[:, :, down.start - needed.start * height : down.stop - needed.start * height]
            pixels = front.inverse(bands, (bands.shape[2] * hop, bands.shape[3] * hop))
            piece = Tile(down, across)
            piece.place(signal, hop).copy_(piece.cut(pixels, hop))
    return signal


def _tiles(bands: Float[Tensor, "B F Y X"], rate: Rate) -> Float[Tensor, "B M P F"]:
    """Bands of each tile."""
    height, width = rate.window
    return rearrange(bands, "b f (m y) (n x) -> b (m n) (y x) f", y=height, x=width)


def _piece(rate: Rate) -> int:
    """Positions of a piece along each axis: whole tiles."""
    tile = math.lcm(*rate.window)
    return max(1, PIECE // tile) * tile
