"""Adversarial losses and feature matching against sums written out. As a script this file is a rank."""

import subprocess
import sys

import pytest
import torch
from torch import distributed as dist

from sigtok.train.discriminators.base import Judgement
from sigtok.train.losses.adversarial import AdversarialLoss, LeCam, feature_matching

SHAPES = ([(2, 1, 3), (2, 4, 5)], [(2, 1, 2, 6), (2, 8, 3), (2, 2, 2, 2)])  # per network: the score, then features


def judged(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    made = [[scale * torch.randn(shape, generator=generator) for shape in shapes] for shapes in SHAPES]
    return [Judgement(score, features) for score, *features in made]


def average(values):
    values = list(values)
    return sum(values) / len(values)


def mean_of(term, judgements):
    """One number at a time."""
    return average(average(term(s) for s in judgement.score.flatten().tolist()) for judgement in judgements)


TERMS = {
    "hinge": (lambda s: max(0, 1 - s), lambda s: max(0, 1 + s), lambda s: -s),
    "least_squares": (lambda s: (1 - s) ** 2, lambda s: s**2, lambda s: (1 - s) ** 2),
}


@pytest.mark.parametrize("form", TERMS)
def test_both_players_have_their_loss(form):
    loss, real, fake = AdversarialLoss(form), judged(0), judged(1)
    of_real, of_fake, fooled = TERMS[form]
    expected = mean_of(of_real, real) + mean_of(of_fake, fake)
    assert loss.discriminator(real, fake).item() == pytest.approx(expected, rel=1e-5)
    assert loss.generator(fake).item() == pytest.approx(mean_of(fooled, fake), rel=1e-5)


@pytest.mark.parametrize("form", TERMS)
def test_the_players_pull_a_fake_score_apart(form):
    loss, real = AdversarialLoss(form), judged(0)
    score = torch.full((2, 1, 3), 0.3, requires_grad=True)
    fake = [Judgement(score, [])]
    (down,) = torch.autograd.grad(loss.discriminator(real, fake), score)
    (up,) = torch.autograd.grad(loss.generator(fake), score)
    assert (down > 0).all() and (up < 0).all()


@pytest.mark.parametrize("relative", [False, True])
def test_feature_matching_is_the_mean_difference(relative):
    real, fake = judged(0), judged(1)

    def of_map(signal, guess):
        pairs = list(zip(signal.flatten().tolist(), guess.flatten().tolist(), strict=True))
        difference = average(abs(r - f) for r, f in pairs)
        return difference / average(abs(r) for r, _ in pairs) if relative else difference

    expected = average(
        average(of_map(*pair) for pair in zip(r.features, f.features, strict=True))
        for r, f in zip(real, fake, strict=True)
    )
    assert feature_matching(real, fake, relative).item() == pytest.approx(expected, rel=1e-5)
    assert feature_matching(real, real, relative) == 0


def test_relative_matching_does_not_know_the_scale_of_features():
    values = [feature_matching(judged(0, scale), judged(1, scale), relative=True) for scale in (1, 1000)]
    torch.testing.assert_close(*values)


def test_features_of_signals_are_constants():
    real, fake = judged(0), judged(1)
    for judgement in real + fake:
        for features in judgement.features:
            features.requires_grad_()
    feature_matching(real, fake, relative=True).backward()
    assert all(features.grad is None for judgement in real for features in judgement.features)
    assert all(features.grad.count_nonzero() for judgement in fake for features in judgement.features)


@pytest.mark.parametrize("relative", [False, True])
def test_silent_features_are_finite(relative):
    real, fake = judged(0, 0.0), judged(0, 0.0)
    for judgement in fake:
        judgement.features[0].requires_grad_()
    loss = feature_matching(real, fake, relative)
    loss.backward()
    assert loss == 0 and all(judgement.features[0].grad.isfinite().all() for judgement in fake)


def test_networks_that_differ_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        feature_matching(judged(0), judged(1)[:1])


LOSSES = {
    "hinge": lambda real, fake: AdversarialLoss().discriminator(real, fake),
    "least_squares": lambda real, fake: AdversarialLoss("least_squares").generator(fake),
    "lecam": lambda real, fake: AdversarialLoss(lecam=LeCam()).discriminator(real, fake),
    "matching": feature_matching,
    "relative": lambda real, fake: feature_matching(real, fake, relative=True),
}


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_judgements_are_compared_in_float32(name):
    low = [[Judgement(j.score.bfloat16(), [f.bfloat16() for f in j.features]) for j in judged(s)] for s in (0, 1)]
    full = [[Judgement(j.score.float(), [f.float() for f in j.features]) for j in player] for player in low]
    with torch.autocast("cpu", torch.bfloat16):
        value = LOSSES[name](*low)
    assert value.dtype == torch.float32
    assert value == LOSSES[name](*full)


# -- LeCam ---------------------------------------------------------------------------------------------------


def test_lecam_holds_scores_to_the_average_of_the_other_side():
    plain, lecam = AdversarialLoss(), AdversarialLoss(lecam=LeCam(weight=0.5, decay=0.9))
    reals, fakes, weights = [], [], []
    for step in range(5):
        real, fake = judged(2 * step), judged(2 * step + 1)
        reals.append(mean_of(lambda s: s, real))
        fakes.append(mean_of(lambda s: s, fake))
        weights = [0.9 * weight for weight in weights] + [1.0]
        real_average = sum(w * m for w, m in zip(weights, reals, strict=True)) / sum(weights)
        fake_average = sum(w * m for w, m in zip(weights, fakes, strict=True)) / sum(weights)
        above = mean_of(lambda s, far=fake_average: max(0, s - far) ** 2, real)
        below = mean_of(lambda s, far=real_average: max(0, far - s) ** 2, fake)
        difference = lecam.discriminator(real, fake) - plain.discriminator(real, fake)
        assert difference.item() == pytest.approx(0.5 * (above + below), rel=1e-4)


def test_lecam_draws_far_scores_together():
    score = {side: torch.full((2, 1, 3), value, requires_grad=True) for side, value in (("real", 9.0), ("fake", -9.0))}
    LeCam()([score["real"]], [score["fake"]]).backward()
    assert (score["real"].grad > 0).all() and (score["fake"].grad < 0).all()


def test_averages_travel_with_a_checkpoint_and_rest_outside_training():
    loss, other = AdversarialLoss(lecam=LeCam()), AdversarialLoss(lecam=LeCam())
    loss.discriminator(judged(0), judged(1))
    other.load_state_dict(loss.state_dict())
    expected = loss.eval().discriminator(judged(2), judged(3))
    assert other.eval().discriminator(judged(2), judged(3)) == expected
    assert loss.discriminator(judged(2), judged(3)) == expected
    assert other.train().discriminator(judged(2), judged(3)) != expected
    assert not AdversarialLoss().state_dict()


def run_rank(rank, folder):
    """Judge this rank's share, and write down the averages."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    lecam = LeCam()
    for step in range(3):
        lecam([torch.full((2, 1), step + 1.0 + rank)], [torch.full((2, 1), -10.0 * rank)])
    torch.save(lecam.totals / lecam.steps, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_have_the_averages_of_both(tmp_path):
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, torch.tensor([2.5, -5.0]), atol=1e-3, rtol=0)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
