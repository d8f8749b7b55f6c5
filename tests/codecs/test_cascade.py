"""Cascaded quantization: each level codes at half the resolution what the one before left; groups of cascades."""

import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.cascade import Cascade
from sigtok.codecs.quantizers.grouped import Grouped
from sigtok.codecs.quantizers.vq import VQ

GRID = (8, 4)
TILE = 32


def make(levels=3, dim=4, codes=16, **options):
    torch.manual_seed(3)
    cascade = Cascade([VQ(codes, dim) for _ in range(levels)], GRID, **options).eval()
    for name, weight in cascade.named_parameters():
        if "narrow" in name:
            torch.nn.init.normal_(weight, std=0.2)  # blocks that are no identity
    return cascade


def speak(items=2, tiles=3, dim=4, seed=0):
    return torch.randn(items, tiles * TILE, dim, generator=torch.Generator().manual_seed(seed))


def block(part, tiles):
    """A block as a plain convolution of maps ``[T, D, H, W]``."""
    hidden = F.gelu(F.conv2d(tiles, part.widen, padding=1))
    return tiles + torch.einsum("ed,tdyx->teyx", part.narrow.weight, hidden)


def nearest(table, maps):
    """Codes and values of the nearest entries."""
    flat = maps.permute(0, 2, 3, 1).double()
    codes = (flat[..., None, :] - table.double()).square().sum(-1).argmin(-1)
    return codes, table[codes].permute(0, 3, 1, 2)


def by_convolutions(cascade, latents):
    """The paper's picture: maps, strided means, nearest codes, and back up."""
    maps = latents.reshape(-1, *GRID, latents.shape[-1]).permute(0, 3, 1, 2)
    streams, values = [], []
    for place, level in enumerate(cascade.levels):
        codes, value = nearest(level.codebook.detach(), block(cascade.heads[place], maps))
        streams.append(codes.flatten(1))
        values.append(value)
        if place + 1 < len(cascade.levels):
            maps = F.avg_pool2d(block(cascade.tails[place], maps) - value, 2)
    total = values[-1]
    for place in (1, 0):
        up = F.interpolate(total, scale_factor=2, mode="bicubic")
        total = values[place] + block(cascade.rises[place], up)
    return streams, total.permute(0, 2, 3, 1).reshape(latents.shape)


@torch.no_grad()
def test_it_is_the_cascade_of_convolutions_and_nearest_codes():
    cascade, latents = make(), speak()
    streams, total = by_convolutions(cascade, latents)
    found = cascade.encode(latents)
    for mine, reference in zip(found, streams, strict=True):
        assert torch.equal(mine, reference.reshape(mine.shape))
    torch.testing.assert_close(cascade.decode(found), total, atol=1e-5, rtol=1e-5)


def test_levels_have_a_quarter_of_the_codes_each():
    cascade, latents = make(), speak()
    assert cascade.strides == (1, 4, 16)
    assert [stream.shape[1] for stream in cascade.encode(latents)] == [96, 24, 6]
    assert [stream.shape[1] for stream in cascade.encode(latents, 2)] == [96, 24]


def test_finer_codes_do_not_depend_on_whether_coarser_ones_are_sent():
    cascade, latents = make(), speak()
    full = cascade.encode(latents)
    for count in (1, 2):
        assert all(map(torch.equal, cascade.encode(latents, count), full[:count]))


@torch.no_grad()
def test_fresh_levels_refine_by_what_is_left():
    """With blocks that are the identity, coarse levels lessen the error of the means that the fine level leaves."""
    levels = [VQ(len(values), 1) for values in ((-1, 1), (-0.5, 0, 0.5), (-0.2, 0, 0.2))]
    for level, values in zip(levels, ((-1, 1), (-0.5, 0, 0.5), (-0.2, 0, 0.2)), strict=True):
        level.codebook.copy_(torch.tensor(values)[:, None])
    cascade, latents = Cascade(levels, GRID).eval(), 0.3 * speak(4, 8, dim=1) + 0.6
    errors = [(cascade.decode(cascade.encode(latents, count)) - latents).square().mean() for count in (1, 2, 3)]
    assert errors[0] > 1.2 * errors[1] > 1.2 * errors[2] > 0


def test_every_level_and_every_block_learns_from_the_signal():
    cascade = make().train()
    latents = speak().requires_grad_()
    (cascade(latents).latents - speak(seed=1)).square().mean().backward()
    assert (latents.grad != 0).any(-1).all()
    for name, weight in cascade.named_parameters():
        if not name.startswith("levels"):
            assert (weight.grad != 0).any(), name


def test_levels_that_collect_hold_up_those_behind_them_only():
    policy = {"start": "samples", "start_vectors": 2}
    level = {"name": "vq", "codebook_size": 8, "dim": 4, "lifecycle": policy}
    cascade = build({"name": "cascade", "levels": {"copies": 3, **level}, "grid": list(GRID)}).train()
    for _ in range(40):
        quantized = cascade(speak(4, 4))
        collected = [bool((stream >= 0).all()) for stream in quantized.streams]
        assert collected == sorted(collected, reverse=True)
        if cascade.ready:
            break
    assert cascade.ready and all((stream >= 0).all() for stream in cascade(speak()).streams)


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_quality_by_the_number_of_groups(groups):
    """M groups of L levels: any first groups decode, and their codes do not depend on how many are sent."""
    torch.manual_seed(0)
    latents = speak(dim=6)
    quantizer = Grouped([Cascade([VQ(32, 2) for _ in range(3)], GRID) for _ in range(3)]).eval()
    assert quantizer.strides == (1, 4, 16) * 3 and len(quantizer.codebook_sizes) == 9
    full = quantizer.encode(latents)
    first = quantizer.encode(latents, 3 * groups)
    assert all(map(torch.equal, first, full)) and len(first) == 3 * groups
    decoded = quantizer.decode(first)
    assert (decoded[..., 2 * groups :] == 0).all()
    errors = [float((quantizer.decode(full[: 3 * count]) - latents).square().mean()) for count in (1, 2, 3)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("codebooks", range(1, 10))
def test_any_number_of_codebooks_of_groups_decodes(codebooks):
    torch.manual_seed(0)
    quantizer, latents = Grouped([make(dim=2) for _ in range(3)]).eval(), speak(dim=6)
    streams = quantizer.encode(latents, codebooks)
    assert len(streams) == codebooks and quantizer.decode(streams).shape == latents.shape
    quantized = quantizer(latents, codebooks)
    torch.testing.assert_close(quantized.latents, quantizer.decode(streams))
