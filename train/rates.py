"""The operating point of every training step, so that one set of weights learns all of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from sigtok.codecs.spec import CodecSpec, Rate


@dataclass(frozen=True)
class Draw:
    """One count, drawn per step.

    Args:
        full: Probability of using all there are.
        choices: What else is drawn; 1 to all of them when empty.
        weights: How often each choice is drawn, in proportion; evenly when empty.
    """

    full: float = 1.0
    choices: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError unless the probability is one and every choice has a weight."""
        if not 0 <= self.full <= 1:
            raise ValueError(f"full is a probability from 0 to 1, got {self.full}")
        if self.weights and (len(self.weights) != len(self.choices) or min(self.weights) <= 0):
            raise ValueError(f"one weight above 0 per choice: choices {self.choices}, got weights {self.weights}")

    def count(self, most: int, generator: random.Random) -> int:
        """A count of 1 to ``most``."""
        choices = self.choices or range(1, most + 1)
        partial = generator.choices(choices, self.weights)[0] if self.weights else generator.choice(choices)
        return most if generator.random() < self.full else partial


@dataclass(frozen=True)
class Rates:
    """How the operating point is drawn: codebooks (quantizer dropout), queries (nested dropout), window, shares,
    quality.

    Args:
        codebooks: How many codebooks are in use.
        queries: How many queries per window are in use.
        windows: Windows drawn evenly, each a list of positions along every axis; the codec's default when empty.
        shares: For a codec of several granularities, shares drawn evenly, each a list of parts of the signal that sum
            to 1; the codec's default when empty.
        qualities: For a codec of several qualities, those drawn evenly; all whole ones when empty.
        seed: With the step, all that a draw depends on: every machine agrees and a resumed run repeats it.
    """

    codebooks: Draw = field(default_factory=Draw)
    queries: Draw = field(default_factory=Draw)
    windows: Sequence[Sequence[int]] = ()
    shares: Sequence[Sequence[float]] = ()
    qualities: Sequence[float] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError unless the parts of all shares are a whole."""
        for parts in self.shares:
            if min(parts, default=-1) < 0 or abs(sum(parts) - 1) > 1e-6:
                raise ValueError(f"shares are at least 0 and sum to 1, got {tuple(parts)} among those to draw")

    def at(self, step: int, spec: CodecSpec) -> Rate:
        """The rate of one step.

        Raises:
            ValueError: If the codec cannot run at a rate that is drawn.
        """
        generator = random.Random(f"{self.seed}/{step}")
        window = generator.choice(self.windows) if self.windows else spec.windows[0]
        codebooks = self.codebooks.count(spec.num_codebooks, generator)
        queries = self.queries.count(spec.queries, generator)
        shares = tuple(generator.choice(self.shares)) if self.shares else None
        rungs = self.qualities or range(1, spec.qualities + 1)
        quality = generator.choice(rungs) if rungs else None
        rate = Rate(codebooks=codebooks, queries=queries, window=tuple(window), shares=shares, quality=quality)
        return spec.resolve(rate)
