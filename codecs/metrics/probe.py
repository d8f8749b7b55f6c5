"""A linear probe: how much of a label a linear classifier reads from features (Alain and Bengio, arXiv 1610.01644)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

Z_95 = 1.959964  # deviations of a normal distribution that hold 95 % of it
CONSTANT = 1e-9  # a feature that varies less says nothing


class LinearProbe(NamedTuple):
    """Multinomial logistic regression on standardised features."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Float[Tensor, "M D"]) -> Int[Tensor, " M"]:
        """The likeliest class of each row."""
        return ((features.double() - self.mean) / self.scale @ self.weight + self.bias).argmax(-1)


def fit_probe(features: Float[Tensor, "M D"], labels: Int[Tensor, " M"], penalty: float = 1.0) -> LinearProbe:
    """The classifier with the least sum of cross entropies plus ``penalty / 2`` times the squared weights.

    The minimum is one and the start is zero, so equal input gives an equal probe. Float64.

    Args:
        features: One row per sample.
        labels: Its class, from 0 up.
        penalty: Strength of L2; the bias pays none.
    Raises:
        ValueError: With fewer than two classes.
    """
    if len(labels.unique()) < 2:
        raise ValueError(f"a probe tells at least 2 classes apart, got {len(labels.unique())}; bring more labels")
    features, classes = features.double(), int(labels.max()) + 1
    mean, deviation = features.mean(0), features.std(0, correction=0)
    scale = torch.where(deviation > CONSTANT, deviation, 1.0)
    known = (features - mean) / scale
    weight = known.new_zeros(known.shape[1], classes, requires_grad=True)
    bias = known.new_zeros(classes, requires_grad=True)
    search = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-9, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        search.zero_grad()
        value = cross_entropy(known @ weight + bias, labels) + penalty / (2 * len(known)) * weight.square().sum()
        value.backward()
        return value

    search.step(loss)
    return LinearProbe(mean, scale, weight.detach(), bias.detach())


class Accuracy(NamedTuple):
    """Share of right answers, its 95 % interval from ``low`` to ``high``, and that of the best constant answer."""

    value: float
    low: float
    high: float
    chance: float


def probe_accuracy(
    features: Float[Tensor, "M D"], labels: Int[Tensor, " M"], unseen: Float[Tensor, "N D"], truth: Int[Tensor, " N"]
) -> Accuracy:
    """How often a probe fitted to features and labels is right about unseen ones.

    Chance is what always naming the most frequent class of the fit would get.

    Raises:
        ValueError: With fewer than two classes to fit, or nothing unseen.
    """
    if not len(truth):
        raise ValueError("accuracy needs at least one unseen sample, got none; bring more")
    right = int((fit_probe(features, labels)(unseen) == truth).sum())
    chance = float((truth == labels.mode().values).double().mean())
    return Accuracy(right / len(truth), *wilson(right, len(truth)), chance)


def wilson(right: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, if the samples are independent.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share, spread = right / total, Z_95**2 / total
    middle = share + spread / 2
    reach = Z_95 * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))
