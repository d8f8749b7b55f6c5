"""Index backpropagation: the fused form is the naive one, every code learns, for every kind of score."""

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
    if quantizer.scores == "cosine":
        codebook, latents = (part / part.norm(dim=-1, keepdim=True) for part in (codebook, latents))
    bias = codebook.square().sum(-1) / 2 if quantizer.scores == "euclidean" else 0
    scores = scale * (latents @ codebook.t() - bias)
    probabilities = scores.softmax(-1)
    onehot = torch.nn.functional.one_hot(scores.argmax(-1), len(codebook)).to(latents.dtype)
    values = (onehot + probabilities - probabilities.detach()) @ codebook
    chosen = onehot @ codebook
    most = quantizer.entropy_rows or 10**9
    rows = latents.flatten(0, 1)[:: max(1, math.ceil(latents.shape[0] * latents.shape[1] / most))]
    sharp = scale * (rows @ codebook.t() - bias) / quantizer.temperature
    assignment, mean = sharp.softmax(-1), sharp.softmax(-1).mean(0)
    return values, {
        "alignment": (values - latents).square().mean(),
        "codebook": (chosen - latents.detach()).square().mean(),
        "commitment": (chosen.detach() - latents).square().mean(),
        "entropy": (mean * mean.log()).sum() - (assignment * assignment.log()).sum(-1).mean(),
    }


def gradients(quantizer, latents, output):
    weights = [quantizer.codebook] + [quantizer.log_scale] * quantizer.log_scale.requires_grad
    return torch.autograd.grad(output, (latents, *weights), allow_unused=True)


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


@pytest.mark.parametrize("scores", ["euclidean", "dot", "cosine"])
@pytest.mark.parametrize("options", [{}, {"scale": 1.0, "learned": False}, {"scale": 3.0, "entropy_rows": None}])
def test_values_losses_and_gradients_are_those_of_the_naive_form(scores, options):
    """I6, to 1e-10 in float64: latents, codes, scale; alignment, both draws, entropy."""
    compare(make(scores=scores, **options), torch.randn(3, 11, 5, dtype=torch.float64, requires_grad=True))


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


@pytest.mark.parametrize("kind", ["euclidean", "dot", "cosine"])
def test_scores_start_with_the_spread_asked_for(kind):
    for dim in (4, 16, 64):
        quantizer = IBQ(4096, dim, scores=kind, spread=2.5)
        latents, (keys, bias) = torch.randn(200, dim), quantizer.keys()
        if kind == "cosine":
            latents = torch.nn.functional.normalize(latents, dim=-1)
        bias = keys.square().sum(-1) / -2 if bias is None else bias
        scores = quantizer.log_scale.exp() * (latents @ keys.t() + bias)
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


def test_a_softer_scale_spreads_the_probabilities():
    quantizer, latents = IBQ(64, 4), torch.randn(1, 20, 4)
    before = quantizer(latents).losses["entropy"]
    quantizer.soften(4.0)
    assert quantizer(latents).losses["entropy"] > before
    torch.testing.assert_close(quantizer.log_scale.exp(), IBQ(64, 4).log_scale.exp() / 4)


def test_codes_of_dot_products_may_fail_to_encode_to_themselves():
    """Why Euclidean scores are the default."""
    quantizer = IBQ(2, 1, scores="dot")
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[1.0], [3.0]]))
    assert quantizer.encode(quantizer.decode([torch.tensor([[0, 1]])]))[0].tolist() == [[1, 1]]
