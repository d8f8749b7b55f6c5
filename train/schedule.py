"""The learning rate as a function of the step: linear warm-up, then half a cosine."""

import math


def learning_rate_at(step: int, warmup: int, total: int, peak: float, final: float) -> float:
    """Learning rate of a step counted from 0; constant at ``final`` from ``total`` on.

    Without state, so that a resumed run follows the numbers it was started with, not those of its checkpoint.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (peak - final) * (1 + math.cos(math.pi * done)) / 2
