"""Tiles of positions for quantizers whose codes speak for grids: cut, resampled, and seen with their neighbours."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F


def split(values: Shaped[Tensor, "B N *D"], size: tuple[int, ...]) -> tuple[Shaped[Tensor, "T P *D"], int]:
    """Tiles of ``size``, and how many each item has."""
    (batch, positions), area = values.shape[:2], math.prod(size)
    if positions % area:
        raise ValueError(f"positions come in whole tiles of {size[0]} x {size[1]}, got {positions}")
    count = positions // area
    return values.reshape(batch * count, area, *values.shape[2:]), count


def join(tiles: Shaped[Tensor, "T P *D"], batch: int, count: int) -> Shaped[Tensor, "B N *D"]:
    """Tiles side by side, ``count`` in each item of a batch."""
    return tiles.reshape(batch, count * tiles.shape[1], *tiles.shape[2:])


class Resampling(nn.Module):
    """Tiles of one grid to tiles of another, as `torch.nn.functional.interpolate` does: a matrix along each axis."""

    rows: Tensor
    columns: Tensor

    def __init__(self, source: tuple[int, ...], target: tuple[int, ...], mode: str) -> None:
        super().__init__()
        self.source = source
        rows, columns = (_interpolation(*sizes, mode) for sizes in zip(source, target, strict=True))
        self.register_buffer("rows", rows.float(), persistent=False)
        self.register_buffer("columns", columns.float(), persistent=False)

    def forward(self, tiles: Float[Tensor, "T P D"]) -> Float[Tensor, "T R D"]:
        """All tiles resampled."""
        grid = tiles.unflatten(1, self.source)
        tall = (self.rows @ grid.flatten(2)).unflatten(2, grid.shape[2:])
        return (self.columns @ tall).flatten(1, 2)


def _interpolation(source: int, target: int, mode: str) -> Float[Tensor, "target source"]:
    """Interpolation of ``source`` values to ``target`` along one axis as a matrix, float64: it is linear."""
    basis = torch.eye(source, dtype=torch.float64)[None, :, :, None]
    return F.interpolate(basis, (target, 1), mode=mode)[0, :, :, 0].t()


def neighbourhood(
    tiles: Float[Tensor, "T P D"], grid: tuple[int, ...], weight: Float[Tensor, "E D 3 3"]
) -> Float[Tensor, "T P E"]:
    """A convolution with 3 x 3 weights, zeros around the tile.

    It is a matrix product over nine neighbours, tile by tile: as a convolution it would be rounded otherwise beside
    other tiles, and to ten bits on a GPU.
    """
    height, width = grid
    padded = F.pad(tiles.unflatten(1, grid), (0, 0, 1, 1, 1, 1))
    nine = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    matrix = weight.permute(2, 3, 1, 0).flatten(0, 2).expand(tiles.shape[0], -1, -1)
    return torch.bmm(torch.cat(nine, dim=-1).flatten(1, 2), matrix)
