"""A watchdog over codebooks: sees in the use of their codes that a collapse is coming, and says what to do, in steps.

It knows no trainer and no ranks: counts of a window go in, orders come out, and equal counts give equal orders. What
calls it joins the counts of all ranks first, so that all ranks act alike::

    watchdog = Watchdog()
    for order in watchdog.judge(quantizer, counts):
        act(order)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sigtok.codecs.metrics.codes import CodeCounts, Usage, usage
from sigtok.codecs.quantizers.base import Quantizer

Action = Literal["warn", "reseed", "soften", "slow"]
ACTIONS: tuple[Action, ...] = get_args(Action)


@dataclass(frozen=True)
class Alarm:
    """When a collapse of a codebook is taken to be coming: any of three signs in a window of tokens.

    Usage and perplexity are held against what as many evenly drawn codes would show (`Usage.shown`), so that a window
    too short for its codebook is no sign. Such a window cannot tell a rare code from a dead one: of K codes drawn
    evenly, K tokens show 63 %, 3 K tokens 95 %, and 20 K tokens all.

    Args:
        usage: Of the codes that even use would show, the fraction below which there are too few, from 0 (never) to
            less than 1. A codebook of 10 codes or fewer cannot fall below a tenth; its sign is the top share.
        top: Share of the most frequent code above which it is too large, from more than 0 to 1 (never). Silence and
            plain background are frequent for good reason.
        fall: Factor by which perplexity, from one window to the next, falls too fast, more than 1; inf for never.
        tokens: Tokens below which a codebook is not judged by a window, at least 1: it was rarely in use, or has yet
            to start.

    Raises:
        ValueError: If a value is out of range.
    """

    usage: float = 0.1
    top: float = 0.8
    fall: float = 2.0
    tokens: int = 1000

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.usage < 1:
            raise ValueError(f"the alarm's usage is a fraction in [0, 1), got {self.usage}")
        if not 0 < self.top <= 1:
            raise ValueError(f"the alarm's top share lies in (0, 1], got {self.top}")
        if not self.fall > 1:
            raise ValueError(f"the alarm's fall is a factor of more than 1, got {self.fall}")
        if self.tokens < 1:
            raise ValueError(f"a codebook is judged by at least 1 token, got {self.tokens}")

    def judges(self, seen: Usage) -> bool:
        """Whether there is enough to judge by."""
        return seen.tokens >= self.tokens and seen.size > 1

    def signs(self, seen: Usage, before: float | None) -> dict[str, str]:
        """The signs there are, each in words.

        Args:
            seen: A window that can be judged.
            before: `evenness` of the last such window.
        """
        signs = {}
        if seen.share < self.usage * seen.shown:
            signs["usage"] = f"uses {seen.share:.2%} of its codes, where even use would show {seen.shown:.2%}"
        if seen.top > self.top:
            signs["top"] = f"says one code in {seen.top:.1%} of its tokens"
        if before is not None and evenness(seen) * self.fall < before:
            times = before / evenness(seen)
            signs["fall"] = f"fell in one window by a factor of {times:.1f} to a perplexity of {seen.perplexity:.1f}"
        return signs


class Order(NamedTuple):
    """What is to be done about a codebook, and why.

    ``codebooks`` are more than one where they share a table; ``signs`` are those of `Alarm`, by name and in words;
    ``seen`` is the window they were read in; ``owner`` is who has the table, and ``unseen`` ``[K]`` the codes that the
    window lacks.
    """

    codebooks: tuple[int, ...]
    action: Action
    signs: dict[str, str]
    seen: Usage
    owner: Quantizer
    unseen: Tensor


class Watchdog:
    """Judges window after window, and answers a lasting alarm with one action after the other.

    Each codebook begins with the first action, goes one further with every window in which the alarm lasts, over those
    its quantizer has no means for, and after the last round again. A healthy window ends the alarm; a window with too
    few tokens changes nothing. Codebooks that share a table are judged as one.

    ``turns`` and ``before``, by first codebook, are all its state.

    Args:
        alarm: The signs.
        actions: Some of "warn", "reseed" (codes unseen in the window become latents), "soften" (raises the temperature
            of the scores) and "slow" (lowers the learning rate), in the order in which they are taken.

    Raises:
        ValueError: If an action is none of these.
    """

    def __init__(self, alarm: Alarm = Alarm(), actions: Sequence[str] = ACTIONS) -> None:
        if unknown := sorted(set(actions) - set(ACTIONS)):
            raise ValueError(f"actions are {', '.join(ACTIONS)}; got {', '.join(unknown)}")
        self.alarm, self.actions = alarm, tuple(actions)
        self.turns: dict[int, int] = {}
        self.before: dict[int, float] = {}

    def judge(self, quantizer: Quantizer, counts: CodeCounts) -> list[Order]:
        """What to do after a window, by its counts over all ranks."""
        books = counts.per_codebook()
        orders = [
            self._order(owner, shared, torch.stack([books[book] for book in shared]).sum(0))
            for owner, shared in tables(quantizer)
        ]
        return [order for order in orders if order is not None]

    def _order(self, owner: Quantizer, codebooks: tuple[int, ...], counts: Tensor) -> Order | None:
        """What to do about one table."""
        first, seen, unseen = codebooks[0], usage(counts), counts == 0
        if not self.alarm.judges(seen):
            return None
        signs = self.alarm.signs(seen, self.before.get(first))
        self.before[first] = evenness(seen)
        if not signs:
            self.turns.pop(first, None)
            return None
        able = {"warn", "slow"} | {method for method in ("reseed", "soften") if hasattr(owner, method)}
        turn = self.turns.get(first, 0)
        for step in range(turn, turn + len(self.actions)):
            action: Any = self.actions[step % len(self.actions)]
            if action in able and (action != "reseed" or seen.used < seen.size):
                self.turns[first] = step + 1
                return Order(codebooks, action, signs, seen, owner, unseen)
        return None


def act(order: Order, warmer: float = 2.0) -> None:
    """Do to the table what an order says; "warn" and "slow" ask nothing of it.

    Args:
        order: Of `Watchdog`.
        warmer: Factor of the temperature for "soften", more than 1.
    """
    owner: Any = order.owner
    if order.action == "reseed":
        owner.reseed(order.unseen)
    elif order.action == "soften":
        owner.soften(warmer)


def evenness(seen: Usage) -> float:
    """Perplexity as a fraction of the codes that even use would show."""
    return seen.perplexity / (seen.size * seen.shown)


def tables(quantizer: Quantizer) -> list[tuple[Quantizer, tuple[int, ...]]]:
    """Every table of codes: who has it, and the codebooks that it serves."""
    shared: dict[tuple[int, int], list[int]] = {}
    found = owners(quantizer)
    for book, owner in enumerate(found):
        own = 0 if len(owner.codebook_sizes) == 1 else book  # a quantizer of several codebooks has as many tables
        shared.setdefault((id(owner), own), []).append(book)
    return [(found[books[0]], tuple(books)) for books in shared.values()]


def owners(quantizer: Quantizer) -> tuple[Quantizer, ...]:
    """The innermost quantizer of every codebook.

    Composed quantizers hold their parts in the order of their codebooks, or one part for all; of one that does
    neither nothing is known, and it is itself the owner of its codebooks.
    """
    sizes = tuple(quantizer.codebook_sizes)
    parts = [(owner, size) for part in _parts(quantizer) for owner, size in _owned(part)]
    if len(parts) == 1:
        parts *= len(sizes)
    return (
        tuple(owner for owner, _ in parts) if tuple(size for _, size in parts) == sizes else (quantizer,) * len(sizes)
    )


def _owned(quantizer: Quantizer) -> list[tuple[Quantizer, int]]:
    """Owners with the sizes of their codebooks."""
    return list(zip(owners(quantizer), quantizer.codebook_sizes, strict=True))


def _parts(module: nn.Module) -> list[Quantizer]:
    """The outermost quantizers inside a module, in order."""
    found: list[Quantizer] = []
    for child in module.children():
        found += [child] if isinstance(child, Quantizer) else _parts(child)
    return found
