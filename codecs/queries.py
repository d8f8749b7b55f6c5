"""Queries: learned vectors that read a window of positions, and the mirror that writes the window back.

A window of P positions (w frames of audio, a tile of patches) is followed by its queries; after the transformer only
the queries are kept. The decoder puts mask vectors where the positions were. A query starts from the position that it
stands on, and a mask from the query nearest to it: the transformer adds what the rest of the window knows. With
``taps`` a linear path joins them: the window, whatever its length, is resampled to so many points, which are mapped to
the query; the mirror maps a query to as many points, between which its positions lie.

ALMTokenizer (arXiv 2504.10344) interleaves one query every w frames; TiTok (arXiv 2406.07550) reads an image into a
1-D set. Queries are ordered from coarse to fine, so that a prefix of them covers the window evenly: `Rate.queries`
chooses how many.
"""

from __future__ import annotations

import math
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sigtok.codecs.layers.transformer import WindowTransformer


def window_positions(window: tuple[int, ...]) -> Float[Tensor, "P axes"]:
    """Coordinates of the positions of a window, row by row."""
    axes = [torch.arange(size, dtype=torch.float32) for size in window]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def query_positions(window: tuple[int, ...], queries: int) -> Float[Tensor, "Q axes"]:
    """Coordinates of the queries of a window, coarse to fine.

    In time, queries stand at the ends of equal parts of the window: first the end of the window itself (half a
    position before the next, so that the query follows all that it reads), then of its half, its quarters, ...
    In two axes they take grid points in order of the finest grid that they belong to: the first 1, 4, 16, ... of
    them are regular grids.

    Raises:
        ValueError: If a window of two axes has fewer positions than queries.
    """
    if len(window) == 1:
        before_end = sorted(range(queries), key=lambda part: -_trailing_zeros(part))
        return torch.tensor([[window[0] - 0.5 - part * window[0] / queries] for part in before_end])
    if queries > math.prod(window):
        raise ValueError(f"a window of {window} holds at most {math.prod(window)} queries, got {queries}")
    points = sorted(product(*map(range, window)), key=lambda point: -min(map(_trailing_zeros, point)))
    return torch.tensor(points[:queries], dtype=torch.float32)


def geometry(window: tuple[int, ...], most: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the slots of a window stand: positions, then the first ``queries`` of ``most`` queries.

    Returns:
        Coordinates ``[P + Q, axes]``; the position nearest to each query ``[Q]``; the query nearest to each position
        ``[P]``. Ties go to the first.
    """
    positions, points = window_positions(window), query_positions(window, most)[:queries]
    distance = (positions[:, None] - points).square().sum(-1)
    return torch.cat((positions, points)), distance.argmin(0), distance.argmin(1)


def resampling(window: int, taps: int) -> Float[Tensor, "P taps"]:
    """How positions of a window lie between points that divide it evenly: weights of linear interpolation.

    Positions before the first point and behind the last take its value, so rows sum to 1.
    """
    places = ((torch.arange(window) + 0.5) / window * taps - 0.5).clamp(0, taps - 1)
    return (1 - (places[:, None] - torch.arange(taps)).abs()).clamp_min(0)


def check_taps(taps: int, windows: tuple[tuple[int, ...], ...], queries: int) -> None:
    """Raise ValueError unless a linear path has one query to go to, and time to divide."""
    if taps and (queries > 1 or any(len(window) > 1 for window in windows)):
        raise ValueError(f"a linear path is for one query in time, got taps={taps}, queries={queries}, {windows[0]}")


def _trailing_zeros(number: int) -> int:
    """How often 2 divides a whole number; 32 for 0."""
    return (number & -number).bit_length() - 1 if number else 32


class QueryEncoder(nn.Module):
    """Positions to queries.

    Args:
        transformer: Over windows of positions and queries.
        windows: The window shapes it is trained with (positions along each axis).
        queries: Most queries per window.
        taps: Points of the linear path, 0 for none; for one query in time.
    """

    nested = False  # queries see each other: few of them read something else than the first of many

    def __init__(
        self, transformer: WindowTransformer, windows: tuple[tuple[int, ...], ...], queries: int, taps: int = 0
    ) -> None:
        super().__init__()
        check_taps(taps, windows, queries)
        self.transformer, self.windows, self.most, self.taps = transformer, windows, queries, taps
        self.gather = nn.Linear(taps * transformer.dim, transformer.dim) if taps else None
        self.query = nn.Parameter(torch.randn(queries, transformer.dim) * 0.5)
        self.window_embedding = nn.Parameter(torch.zeros(len(windows), transformer.dim))

    def initial_state(self, batch: int, window: tuple[int, ...], queries: int) -> Tensor:
        """The state before the beginning."""
        return self.transformer.initial_state(batch, math.prod(window) + queries, window[0])

    def forward(
        self,
        positions: Float[Tensor, "B M P D"],
        window: tuple[int, ...],
        queries: int,
        state: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M Q D"], Tensor]:
        """The queries of each of M windows after reading, and the state of the stream."""
        read, state = self.read(positions, window, queries, state)
        return read[:, :, positions.shape[2] :], state

    def read(
        self,
        positions: Float[Tensor, "B M P D"],
        window: tuple[int, ...],
        queries: int,
        state: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M S D"], Tensor]:
        """All slots after reading, positions then queries, and the state of the stream."""
        query = self.query[:queries] + self.window_embedding[self.windows.index(window)]
        places, near, _ = geometry(window, self.most, queries)
        start = positions[:, :, near] + query
        if self.gather is not None:
            shares = resampling(window[0], self.taps).to(positions)
            points = (shares / shares.sum(0).clamp_min(1e-6)).mT @ positions
            start = start + self.gather(points.flatten(2))[:, :, None]
        slots = torch.cat((positions, start), dim=2)
        return self.transformer(slots, places, window[0], state)


class QueryDecoder(nn.Module):
    """Queries back to positions: mask vectors stand where the positions were, and read the queries.

    The mask is block-lower-triangular over windows as in the encoder, so no query is invisible to its own window.
    Arguments as `QueryEncoder`.
    """

    def __init__(
        self, transformer: WindowTransformer, windows: tuple[tuple[int, ...], ...], queries: int, taps: int = 0
    ) -> None:
        super().__init__()
        check_taps(taps, windows, queries)
        self.transformer, self.windows, self.most, self.taps = transformer, windows, queries, taps
        self.spread = nn.Linear(transformer.dim, taps * transformer.dim) if taps else None
        self.mask = nn.Parameter(torch.randn(transformer.dim) * 0.5)
        self.order = nn.Parameter(torch.randn(queries, transformer.dim) * 0.5)
        self.window_embedding = nn.Parameter(torch.zeros(len(windows), transformer.dim))

    def initial_state(self, batch: int, window: tuple[int, ...], queries: int) -> Tensor:
        """The state before the beginning."""
        return self.transformer.initial_state(batch, math.prod(window) + queries, window[0])

    def forward(
        self,
        queries: Float[Tensor, "B M Q D"],
        window: tuple[int, ...],
        state: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B M P D"], Tensor]:
        """The positions of each of M windows, and the state of the stream."""
        used = queries.shape[2]
        places, _, nearest = geometry(window, self.most, used)
        mask = queries[:, :, nearest] + self.mask + self.window_embedding[self.windows.index(window)]
        if self.spread is not None:
            points = self.spread(queries[:, :, 0]).unflatten(2, (self.taps, -1))
            mask = mask + resampling(window[0], self.taps).to(points) @ points
        slots = torch.cat((mask, queries + self.order[:used]), dim=2)
        written, state = self.transformer(slots, places, window[0], state)
        return written[:, :, : math.prod(window)], state
