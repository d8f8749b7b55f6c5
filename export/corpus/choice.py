"""Which rows of manifests are taken: conditions on their columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sigtok.export.inputs import is_chosen


class Choice:
    """Takes rows that have, of each column of ``where``, one of its values, and none of ``exclude``.

    Args:
        where: Columns and values.
        exclude: Columns and values.
    """

    def __init__(self, where: Sequence[tuple[str, str]] = (), exclude: Sequence[tuple[str, str]] = ()) -> None:
        self.where, self.exclude = where, exclude
        self.asked = {name for name, _ in (*where, *exclude)}
        self.columns: set[str] = set()

    def takes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is taken; numbers are compared as JSON writes them."""
        if not self.asked:
            return True
        self.columns.update(row)
        return is_chosen({name: _text(row[name]) for name in self.asked & row.keys()}, self.where, self.exclude)

    def check(self) -> None:
        """After the last row.

        Raises:
            ValueError: If no row had a column that is asked for.
        """
        if missing := sorted(self.asked - self.columns):
            has = f"has columns {', '.join(sorted(self.columns))}" if self.columns else "has no columns"
            raise ValueError(f"the corpus {has}, got {missing[0]!r}; change --where or --exclude")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
