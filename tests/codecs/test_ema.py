"""Codebooks of moving averages: they find the means, dead codes live again."""

import pytest
import torch

from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.lifecycle import Lifecycle

CENTRES = torch.tensor([[0.0, 9.0], [9.0, 0.0], [-9.0, 0.0], [0.0, -9.0]])


def clusters(count=40, noise=0.5):
    """Four clusters ``[1, 4 * count, 2]``, shuffled, and the mean of each."""
    points = CENTRES.repeat_interleave(count, 0) + noise * torch.randn(4 * count, 2)
    return points[torch.randperm(4 * count)][None], points.unflatten(0, (4, count)).mean(1)


def make(codes, dim, decay=0.99, revive=0.2, **options):
    return EMAVQ(codes, dim, lifecycle=Lifecycle(start="noise", decay=decay, revive=revive), **options).train()


def trained(latents, steps, codes=4, **options):
    quantizer = make(codes, latents.shape[-1], **options)
    for _ in range(steps):
        quantizer(latents)
    return quantizer


def test_constant_data_converge_to_the_means_of_their_clusters():
    latents, means = clusters()
    quantizer = make(4, 2, decay=0.8)
    quantizer.codebook.copy_(CENTRES + torch.randn(4, 2)), quantizer.updates.fill_(1)
    for _ in range(100):
        quantizer(latents)
    codes = quantizer.encode(means[None])[0][0]
    assert sorted(codes.tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(quantizer.codebook[codes], means, rtol=0, atol=1e-4)
    torch.testing.assert_close(quantizer.counts, torch.full((4,), 40.0), rtol=1e-3, atol=0)


def test_one_step_is_the_moving_average_of_counts_and_sums():
    quantizer = make(4, 2, decay=0.9, revive=0.0)
    codebook, counts = torch.randn(4, 2), torch.rand(4) + 1
    quantizer.codebook.copy_(codebook), quantizer.counts.copy_(counts), quantizer.updates.fill_(7)
    latents = torch.randn(2, 30, 2)
    codes = quantizer.encode(latents)[0]
    quantizer(latents)
    for k in range(4):
        chosen = latents[codes == k]
        count = 0.9 * counts[k] + 0.1 * len(chosen)
        torch.testing.assert_close(quantizer.counts[k], count)
        mean = (0.9 * counts[k] * codebook[k] + 0.1 * chosen.sum(0)) / count
        torch.testing.assert_close(quantizer.codebook[k], mean)
    assert int(quantizer.updates) == 8


@pytest.mark.parametrize("positions", [5, 500])
def test_the_codebook_starts_as_noise_like_the_first_batch(positions):
    """Also where the batch is smaller than the codebook: no two codes are equal."""
    latents = torch.randn(2, positions, 3) * torch.tensor([0.1, 1.0, 4.0]) + torch.tensor([3.0, 0.0, -5.0])
    quantizer = trained(latents, 1, codes=4096, decay=0.999)
    flat = latents.flatten(0, 1)
    deviation = flat.std(0, correction=0)
    assert ((quantizer.codebook.mean(0) - flat.mean(0)).abs() < 0.1 * deviation).all()
    torch.testing.assert_close(quantizer.codebook.std(0), deviation, rtol=0.1, atol=0)
    assert len(quantizer.codebook.unique(dim=0)) == 4096
    assert float(quantizer.counts.sum()) == pytest.approx(2 * positions, rel=1e-3)


def test_a_dead_code_is_replaced_together_with_its_count():
    """Replaced alone, it would be overwritten by its old average in the next step."""
    latents, _ = clusters(noise=0.0)
    quantizer = trained(latents, 30, decay=0.8)
    with torch.no_grad():
        quantizer.codebook[2], quantizer.counts[2] = 1e4, 1e-3
    quantizer(latents)
    revived = quantizer.codebook[2].clone()
    assert (revived == CENTRES).all(-1).any()
    assert float(quantizer.counts[2]) == pytest.approx(float(quantizer.counts.sum() / 4), rel=0.4)
    quantizer(latents)
    torch.testing.assert_close(quantizer.codebook[2], revived)


def test_codes_above_the_threshold_are_not_replaced():
    latents, _ = clusters(noise=0.0)
    quantizer = trained(latents, 30, decay=0.99, revive=0.1)
    with torch.no_grad():
        quantizer.codebook[2], quantizer.counts[2] = 1e4, 0.2 * quantizer.counts.mean()
    quantizer(latents)
    assert (quantizer.codebook[2] == 1e4).all()


def test_the_threshold_is_relative_to_the_use_of_the_codebook():
    quantizer = make(1024, 2)
    latents = torch.randn(1, 64, 2)
    for _ in range(3):
        quantizer(latents)
    assert quantizer.counts.mean() < 0.1  # far below one hit a step, as K is far above the batch
    before = quantizer.codebook.clone()
    quantizer(latents)
    assert (quantizer.codebook == before).all(-1).sum() > 512


def test_a_code_that_is_never_chosen_stays_where_it_is():
    quantizer = make(4, 2, decay=0.5, revive=0.0)
    latents = torch.randn(1, 8, 2)
    quantizer(latents)
    quantizer.codebook[3] = 1e4
    for _ in range(200):
        quantizer(latents)
    assert (quantizer.codebook[3] == 1e4).all()


def test_all_codes_of_a_codebook_come_into_use():
    latents = torch.randn(4, 500, 4)
    quantizer = trained(latents, 60, codes=64, decay=0.8)
    assert len(quantizer.encode(latents)[0].unique()) >= 62


def test_codes_on_the_sphere_follow_the_mean_direction():
    latents, means = clusters()
    quantizer = make(4, 2, decay=0.8, metric="sphere")
    quantizer.codebook.copy_(CENTRES + torch.randn(4, 2)), quantizer.updates.fill_(1)
    for _ in range(100):
        quantizer(latents * torch.rand(1, 160, 1).exp())  # lengths say nothing
    values = quantizer.decode(quantizer.encode(means[None]))[0]
    torch.testing.assert_close(values.norm(dim=-1), torch.ones(4))
    assert (torch.nn.functional.cosine_similarity(values, means) > 0.999).all()


def test_values_are_those_from_before_the_step():
    quantizer, latents = make(8, 4), torch.randn(1, 50, 4)
    quantizer(latents)
    before = quantizer.decode(quantizer.encode(latents))
    assert torch.equal(quantizer(latents).latents, before)
    assert not torch.equal(quantizer.decode(quantizer.encode(latents)), before)
