"""Residual quantization: prefixes, stages, gradients."""

import math

import pytest
import torch

from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.quantizers.vq import VQ

SIZES = (8, 16, 5, 32)
MEMBERS = pytest.mark.parametrize("member", [VQ, EMAVQ])


def make(member=VQ):
    return Residual([member(size, 4) for size in SIZES])


@MEMBERS
@pytest.mark.parametrize("codebooks", [1, 2, 3, 4])
def test_fewer_codebooks_are_a_prefix(member, codebooks):
    quantizer, latents = make(member).eval(), torch.randn(2, 30, 4)
    streams = quantizer.encode(latents)
    first = quantizer.encode(latents, codebooks)
    assert len(first) == codebooks and all(map(torch.equal, first, streams[:codebooks]))
    quantized = quantizer(latents, codebooks)
    assert all(map(torch.equal, quantized.streams, first))
    value = quantizer.decode(first)
    assert torch.equal(value, quantized.latents)
    absent = torch.full_like(streams[0], -1)
    assert torch.equal(quantizer.decode([*first, *[absent] * (4 - codebooks)]), value)


@MEMBERS
def test_each_stage_reads_what_the_stages_before_left(member):
    quantizer, latents = make(member).eval(), torch.randn(2, 30, 4)
    streams = quantizer.encode(latents)
    for stage, module in enumerate(quantizer.stages):
        rest = latents - (quantizer.decode(streams[:stage]) if stage else 0)
        value = module.decode(streams[stage : stage + 1])
        distance = (rest[..., None, :] - module.codebook).square().sum(-1).amin(-1)
        torch.testing.assert_close((rest - value).square().sum(-1), distance)


def test_training_and_inference_choose_the_same_codes_where_codes_are_far_from_latents():
    quantizer = Residual([VQ(64, 4) for _ in range(6)]).train()
    with torch.no_grad():
        for stage in quantizer.stages:
            stage.codebook.mul_(torch.logspace(-3, 3, 64)[:, None])
    latents = 1000 * torch.randn(1, 20_000, 4)
    assert all(map(torch.equal, quantizer(latents).streams, quantizer.encode(latents)))


@MEMBERS
def test_the_losses_are_the_mean_over_the_stages_in_use(member):
    quantizer, latents = make(member).eval(), torch.randn(2, 30, 4)
    for codebooks in (1, 3):
        rest, expected = latents, []
        for stage, stream in zip(quantizer.stages, quantizer.encode(latents, codebooks), strict=False):
            value = stage.decode([stream])
            expected.append((rest - value).square().mean())
            rest = rest - value
        loss = quantizer(latents, codebooks).losses["commitment"]
        torch.testing.assert_close(loss, torch.stack(expected).mean())


@MEMBERS
def test_the_commitment_of_every_stage_reaches_the_latents(member):
    """A straight-through value between the stages would leave only the first."""
    quantizer, latents = make(member).eval(), torch.randn(1, 10, 4, requires_grad=True)
    streams = quantizer.encode(latents.detach())
    (gradient,) = torch.autograd.grad(quantizer(latents).losses["commitment"], latents)
    rests = [latents.detach() - quantizer.decode(streams[:q]) for q in range(1, 5)]
    torch.testing.assert_close(gradient, sum(2 * rest / rest.numel() for rest in rests) / 4)
    assert all((rest != 0).all() for rest in rests)


def test_every_codebook_learns():
    quantizer = make()
    quantizer(torch.randn(2, 100, 4)).losses["codebook"].backward()
    assert all((stage.codebook.grad != 0).any() for stage in quantizer.stages)


def test_stages_out_of_use_do_not_learn():
    quantizer = make(EMAVQ).train()
    quantizer(torch.randn(2, 30, 4), 2)
    assert [int(stage.updates) for stage in quantizer.stages] == [1, 1, 0, 0]
    quantizer(torch.randn(2, 30, 4), update=False)
    assert [int(stage.updates) for stage in quantizer.stages] == [1, 1, 0, 0]


def test_more_stages_come_closer():
    quantizer, latents = make(EMAVQ).train(), torch.randn(4, 100, 4)
    for _ in range(10):
        quantizer(latents)
    errors = [(latents - quantizer.decode(quantizer.encode(latents, q))).square().mean() for q in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.2 * errors[0]


def test_bits_add_up():
    quantizer = make()
    assert quantizer.codebook_sizes == SIZES and quantizer.dim == 4
    assert sum(map(math.log2, quantizer.codebook_sizes)) == pytest.approx(3 + 4 + math.log2(5) + 5)


@pytest.mark.parametrize("codebooks", [0, 5, -1])
def test_codebooks_that_are_not_there_are_refused(codebooks):
    with pytest.raises(ValueError, match=f"1 to 4 codebooks, got {codebooks}"):
        make().encode(torch.randn(1, 2, 4), codebooks)
