"""The linear probe: it finds what is linear, its interval is Wilson's, and it is at its optimum."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from sigtok.codecs.metrics.probe import fit_probe, probe_accuracy, wilson


def samples(classes=4, count=200, dim=6, noise=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    means = 3 * torch.randn(classes, dim, generator=torch.Generator().manual_seed(9))
    return means[labels] + noise * torch.randn(count, dim, generator=generator), labels


def test_classes_that_are_apart_are_told_apart():
    found = probe_accuracy(*samples(seed=0), *samples(seed=1))
    assert found[:3] == pytest.approx((1, *wilson(200, 200)))
    assert found.chance == 0.25


def test_features_that_say_nothing_give_chance():
    _, labels = samples()
    generator = torch.Generator().manual_seed(1)
    found = probe_accuracy(torch.randn(200, 6, generator=generator), labels,
                           torch.randn(200, 6, generator=generator), labels)  # fmt: skip
    assert found.low <= found.chance <= found.high


def test_the_fit_is_where_the_gradient_vanishes():
    features, labels = samples(noise=2.0)
    probe = fit_probe(features, labels, penalty=3.0)
    known = (features.double() - probe.mean) / probe.scale
    error = torch.softmax(known @ probe.weight + probe.bias, -1) - one_hot(labels)
    torch.testing.assert_close(known.T @ error + 3.0 * probe.weight, torch.zeros_like(probe.weight), atol=1e-6, rtol=0)
    torch.testing.assert_close(error.sum(0), torch.zeros_like(probe.bias), atol=1e-6, rtol=0)


def test_units_of_features_do_not_matter_nor_do_constant_ones():
    features, labels = samples(noise=2.0)
    unseen, _ = samples(noise=2.0, seed=1)
    scale, shift = torch.tensor([1e-3, 1, 1e3, 5, 7, 2]), torch.arange(6) * 100
    plain = fit_probe(features, labels)(unseen)
    assert (fit_probe(features * scale + shift, labels)(unseen * scale + shift) == plain).float().mean() > 0.98
    wider = [torch.cat((part, torch.full((200, 1), 7.0)), -1) for part in (features, unseen)]
    assert torch.equal(fit_probe(wider[0], labels)(wider[1]), plain)


def test_equal_input_gives_an_equal_probe():
    first, again = (fit_probe(*samples(noise=2.0)) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_chance_is_that_of_the_most_frequent_class_learned():
    features, _ = samples()
    labels, truth = torch.zeros(200, dtype=torch.int64), torch.ones(200, dtype=torch.int64)
    labels[:50], truth[:30] = 1, 0
    assert probe_accuracy(features, labels, features, truth).chance == pytest.approx(30 / 200)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(0, 10, 0, 0.27754), (5, 10, 0.23659, 0.76341), (81, 263, 0.25528, 0.36620), (10, 10, 0.72246, 1)],
)
def test_the_interval_is_the_published_one(right, total, low, high):
    """The third is in Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I."""
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-4)


def test_the_ends_of_the_interval_are_shares_from_which_the_result_is_1_96_deviations_away():
    for share in wilson(13, 40):
        assert abs(13 / 40 - share) == pytest.approx(1.959964 * math.sqrt(share * (1 - share) / 40))


def test_one_class_and_nothing_to_test_are_refused():
    features, labels = samples()
    with pytest.raises(ValueError, match="at least 2 classes apart, got 1"):
        fit_probe(features, torch.zeros_like(labels))
    with pytest.raises(ValueError, match="at least one unseen sample, got none"):
        probe_accuracy(features, labels, features[:0], labels[:0])
