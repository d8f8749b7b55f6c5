"""Two orders of the positions of a picture: a grid ``[B, D, Y, X]``, and latents ``[B, N, D]`` window after window.

Windows run in raster order over the picture, positions in raster order inside a window; windows of one position are
plain raster order. This is the order of latents and tokens of codecs with one query for every position.
"""

from __future__ import annotations

import math

from einops import rearrange
from jaxtyping import Shaped
from torch import Tensor

from sigtok.codecs.spec import Extent, Rate


def to_windows(grid: Shaped[Tensor, "B D Y X"], rate: Rate) -> Shaped[Tensor, "B N D"]:
    """Latents of a grid of whole windows.

    Raises:
        ValueError: If the rate has fewer queries than a window has positions.
    """
    height, width = _window(rate)
    return rearrange(grid, "b d (m y) (n x) -> b (m n y x) d", y=height, x=width)


def from_windows(latents: Shaped[Tensor, "B N D"], grid: Extent, rate: Rate) -> Shaped[Tensor, "B D Y X"]:
    """The grid of so many rows and columns of positions, of its latents: the inverse of `to_windows`.

    Raises:
        ValueError: If the rate has fewer queries than a window has positions.
    """
    height, width = _window(rate)
    rows, columns = grid[0] // height, grid[1] // width
    return rearrange(latents, "b (m n y x) d -> b d (m y) (n x)", m=rows, n=columns, y=height, x=width)


def _window(rate: Rate) -> tuple[int, ...]:
    if rate.queries != math.prod(rate.window):
        raise ValueError(
            f"this codec has one query for each of the {math.prod(rate.window)} positions of a window, got "
            f"{rate.queries}; leave the rate's queries out"
        )
    return tuple(rate.window)
