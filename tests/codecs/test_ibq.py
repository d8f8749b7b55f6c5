"""Index backpropagation: the fused form is the naive one, every code learns, latents give the start."""

import math

import pytest
import torch

from sigtok.codecs.quantizers.ibq import IBQ

LOSSES = ("alignment", "codebook", "commitment", "entropy")


def make(codes=24, dim=5, **options):
    return IBQ(codes, dim, **options).double().train()


def naive(quantizer, latents):
    """Values and losses through one-hot vectors and every score, as the equations are written."""
    codebook, scale = quantizer.codebook, quantizer.log_scale.exp()
    scores = scale * (latents @ codebook.t() - codebook.square().sum(-1) / 2)
    probabilities = scores.softmax(-1)
    onehot = torch.nn.functional.one_hot(scores.argmax(-1), len(codebook)).to(latents.dtype)
    values = (onehot + probabilities - probabilities.detach()) @ codebook
    chosen = onehot @ codebook
    rows = latents.flatten(0, 1)[:: max(1, math.ceil(latents.shape[0] * latents.shape[1] / quantizer.entropy_rows))]
    sharp = scale * (rows @ codebook.t() - codebook.square().sum(-1) / 2) / quantizer.temperature
    assignment, mean = sharp.softmax(-1), sharp.softmax(-1).mean(0)
    return values, {
        "alignment": (values - latents).square().mean(),
        "codebook": (chosen - latents.detach()).square().mean(),
        "commitment": (chosen.detach() - latents).square().mean(),
        "entropy": (mean * mean.log()).sum() - (assignment * assignment.log()).sum(-1).mean(),
    }


def gradients(quantizer, latents, output):
    return torch.autograd.grad(output, (latents, quantizer.codebook, quantizer.log_scale), allow_unused=True)


def agree(some, others):
    for one, other in zip(some, others, strict=True):
        assert (one is None or not one.any()) == (other is None or not other.any())
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def compare(quantizer, latents):
    weights = torch.randn_like(latents)
    quantized = quantizer(latents)
    values, losses = naive(quantizer, latents)
    torch.testing.assert_close(quantized.latents, values, rtol=1e-12, atol=1e-12)
    agree(
        gradients(quantizer, latents, (quantized.latents * weights).sum()),
        gradients(quantizer, latents, (values * weights).sum()),
    )
    assert tuple(quantized.losses) == LOSSES
    for name in LOSSES:
        torch.testing.assert_close(quantized.losses[name], losses[name], rtol=1e-10, atol=1e-12)
        agree(
            gradients(quantizer, latents, quantizer(latents).losses[name]),
            gradients(quantizer, latents, naive(quantizer, latents)[1][name]),
        )


def test_values_losses_and_gradients_are_those_of_the_naive_form():
    compare(make(), torch.randn(3, 11, 5, dtype=torch.float64, requires_grad=True))


def test_they_are_also_where_the_entropy_reads_a_part_of_the_batch():
    compare(make(entropy_rows=8, temperature=0.1), torch.randn(3, 11, 5, dtype=torch.float64, requires_grad=True))


def test_they_are_also_in_chunks():
    """2^21 scores are held at once: 64 rows of 2^15 codes, so 70 rows are two chunks."""
    quantizer, latents = make(2**15, 2), torch.randn(1, 70, 2, dtype=torch.float64, requires_grad=True)
    loss, expected = quantizer(latents).losses["entropy"], naive(quantizer, latents)[1]["entropy"]
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    agree(gradients(quantizer, latents, loss), gradients(quantizer, latents, expected))


def test_the_gradient_reaches_every_code():
    quantizer = IBQ(256, 16)
    latents = torch.randn(1, 20, 16)
    quantized = quantizer(latents)
    (gradient,) = torch.autograd.grad((quantized.latents * torch.randn_like(latents)).sum(), quantizer.codebook)
    assert len(quantized.streams[0].unique()) < 30
    assert (gradient != 0).any(-1).all()


def test_the_codebook_loss_reaches_the_chosen_codes_only():
    quantizer = IBQ(256, 16)
    quantized = quantizer(torch.randn(1, 20, 16))
    (gradient,) = torch.autograd.grad(quantized.losses["codebook"], quantizer.codebook)
    assert torch.equal((gradient != 0).any(-1).nonzero()[:, 0], quantized.streams[0].unique())


def test_scores_start_with_the_spread_asked_for():
    for dim in (4, 16, 64):
        quantizer = IBQ(4096, dim, spread=2.5)
        latents, codebook = torch.randn(200, dim), quantizer.codebook
        scores = quantizer.log_scale.exp() * (latents @ codebook.t() - codebook.square().sum(-1) / 2)
        assert float(scores.detach().std(-1).mean()) == pytest.approx(2.5, rel=0.1)


def test_the_entropy_loss_lies_between_minus_log_k_and_zero():
    quantizer = make(16, 4, entropy_rows=10_000)
    with torch.no_grad():
        quantizer.codebook.mul_(100)
    used = quantizer(quantizer.codebook.detach()[None]).losses["entropy"]
    assert float(used) == pytest.approx(-math.log(16))
    collapsed = quantizer(quantizer.codebook.detach()[:1].expand(1, 50, 4)).losses["entropy"]
    assert float(collapsed) == pytest.approx(0, abs=1e-9)
    for scale in (0.0, 1e-3, 1.0, 1e4):
        loss = quantizer(scale * torch.randn(1, 300, 4, dtype=torch.float64)).losses["entropy"]
        assert -math.log(16) - 1e-9 <= float(loss) <= 1e-9


def test_warm_up_lets_latents_by_and_fills_the_codebook_with_them():
    quantizer = IBQ(16, 4, warmup=3).train()
    batches = [torch.randn(1, 5, 4, requires_grad=True) for _ in range(3)]
    before = quantizer.codebook.detach().clone()
    for count, batch in enumerate(batches, start=1):
        quantized = quantizer(batch)
        assert torch.equal(quantized.latents, batch)
        assert tuple(quantized.losses) == LOSSES and not any(quantized.losses.values())
        seen = torch.cat(batches[:count], dim=1)[0]
        assert torch.equal(quantizer.codebook[: 5 * count], seen)
        assert torch.equal(quantizer.codebook[5 * count :], before[5 * count :])
    quantized = quantizer(batches[0])
    assert torch.equal(quantized.streams[0][0], torch.arange(5))
    assert torch.equal(quantized.latents, batches[0])  # each latent is a code by now
    assert quantized.losses["entropy"] != 0
    fresh = torch.randn(1, 50, 4)
    assert not torch.equal(quantizer(fresh).latents, fresh)
    assert torch.equal(quantizer.codebook[:15], torch.cat(batches, dim=1)[0])


def test_the_record_rolls_over_and_large_batches_fill_it_at_once():
    quantizer = IBQ(8, 4, warmup=4).train()
    first, second = torch.randn(1, 5, 4), torch.randn(1, 5, 4)
    quantizer(first), quantizer(second)
    assert torch.equal(quantizer.codebook, torch.cat((second[0, 3:], first[0, 2:], second[0, :3])))
    large = torch.randn(3, 10, 4)
    quantizer(large)
    assert torch.equal(quantizer.codebook.sort(0).values, large.flatten(0, 1)[:8].sort(0).values)


def test_warm_up_passes_the_gradient_of_the_latents():
    latents = torch.randn(2, 5, 4, requires_grad=True)
    IBQ(8, 4, warmup=1).train()(latents).latents.sum().backward()
    assert torch.equal(latents.grad, torch.ones(2, 5, 4))


@pytest.mark.parametrize("training, update", [(False, True), (True, False)])
def test_warm_up_is_for_passes_that_learn(training, update):
    quantizer, latents = IBQ(8, 4, warmup=2).train(training), torch.randn(2, 5, 4)
    quantized = quantizer(latents, update=update)
    assert int(quantizer.updates) == 0
    assert not torch.equal(quantized.latents, latents)


def test_warm_up_goes_on_where_a_checkpoint_stopped():
    quantizer, other = IBQ(8, 4, warmup=2).train(), IBQ(8, 4, warmup=2).train()
    latents = torch.randn(1, 9, 4)
    quantizer(latents)
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(latents).latents, latents)
    assert torch.equal(other(latents + 1).latents, other.decode(other.encode(latents + 1)))
