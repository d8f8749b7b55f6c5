"""One file as several codecs gave it, for a page."""

from __future__ import annotations

from torch import Tensor

from .evaluate import Row, Seen
from .excerpts import Excerpt, excerpt


class Sight:
    """One file, and the largest of what every model and format made of it.

    Args:
        file: Its name.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.original: list[Excerpt] = []  # one, once there is a row
        self.found: dict[str, tuple[str, Row, Excerpt]] = {}  # by name: point, row and reconstruction

    def taker(self, name: str, point: str, sample_rate: int | None) -> Seen:
        """What takes the rows of a model at one point."""

        def take(row: Row, signal: Tensor, reconstruction: Tensor) -> None:
            self.original = self.original or [excerpt(signal, sample_rate)]
            if name not in self.found or self.found[name][1]["bytes"] < row["bytes"]:
                self.found[name] = point, row, excerpt(reconstruction, sample_rate)

        return take
