"""The VQGAN's autoencoder: its published size, what it sees, and that it learns."""

import pytest
import torch

from sigtok.codecs.files import compress, decompress
from sigtok.codecs.image.models import vqgan_image
from sigtok.codecs.image.vqgan import GridAttention, ResidualBlock, VQGANDecoder, VQGANEncoder, norm
from sigtok.codecs.pretrained import load, save
from sigtok.train.data.synthetic import Shapes

SMALL = dict(multipliers=[1, 2], width=16, blocks=1, channels=16, codebook_size=32, latent_dim=8)


def millions(module):
    return sum(weight.numel() for weight in module.parameters()) / 1e6


@pytest.mark.parametrize("multipliers, published", [((1, 1, 2, 2, 4), 72), ((1, 2, 2, 4), 70)], ids=["f16", "f8"])
def test_it_has_the_size_that_llamagen_publishes(multipliers, published):
    with torch.device("meta"):
        parts = [part(128, multipliers, 2, 256, 8) for part in (VQGANEncoder, VQGANDecoder)]
    assert round(sum(map(millions, parts))) == published
    if published == 72:
        assert [round(millions(part), 1) for part in parts] == [29.3, 42.5]


def test_attention_is_at_the_coarsest_resolution_alone():
    with torch.device("meta"):
        encoder, decoder = (part(128, (1, 1, 2, 2, 4), 2, 256, 8) for part in (VQGANEncoder, VQGANDecoder))
    for part, count in ((encoder, 2 + 1), (decoder, 3 + 1)):
        attention = [module for module in part.modules() if isinstance(module, GridAttention)]
        assert [module.out.in_channels for module in attention] == [512] * count
    count = {part: sum(isinstance(each, ResidualBlock) for each in part.modules()) for part in (encoder, decoder)}
    assert count == {encoder: 5 * 2 + 2, decoder: 5 * 3 + 2}


def test_attention_is_what_its_formula_says():
    block, grid = GridAttention(8).double(), torch.randn(2, 8, 3, 4).double()
    query, key, value = block.project(block.norm(grid)).flatten(2).chunk(3, dim=1)
    shares = (query.mT @ key / 8**0.5).softmax(-1)
    expected = grid + block.out((value @ shares.mT).unflatten(2, (3, 4)))
    torch.testing.assert_close(block(grid), expected)


@pytest.mark.parametrize("width, groups", [(512, 32), (256, 32), (128, 32), (64, 16), (16, 4), (12, 1), (9, 1), (2, 1)])
def test_narrow_layers_have_fewer_groups_of_at_least_four_channels(width, groups):
    assert norm(width).num_groups == groups


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 1, 2)])
def test_a_position_is_a_power_of_two_pixels(multipliers):
    codec = vqgan_image(**{**SMALL, "multipliers": multipliers, "width": 8}).eval()
    hop = 2 ** (len(multipliers) - 1)
    assert codec.spec.hop == (hop, hop)
    assert codec.encode(torch.zeros(1, 3, 3 * hop, 5 * hop)).codes.shape == (1, 1, 15)


def test_every_token_sees_the_whole_picture():
    codec = vqgan_image(**SMALL)
    signal = torch.rand(1, 3, 20, 20, requires_grad=True)
    latents = codec.encoder(signal, codec.spec.resolve())
    (gradient,) = torch.autograd.grad(latents[0, 0].square().sum(), signal)
    assert (gradient[0].abs().sum(0) > 0).all()


def test_fifty_steps_on_shapes_lower_the_loss():
    codec = vqgan_image(**SMALL, tile=4).train()
    signal = next(iter(Shapes(crop=16, batch_size=4).train_dataloader()))
    optimizer, losses = torch.optim.Adam(codec.parameters(), 2e-3), []
    for _ in range(50):
        made = codec(signal)
        losses.append((made.signal - signal).square().mean())
        loss = losses[-1] + 0.1 * sum(made.quantized.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.7 * sum(losses[2:7])  # the first are without codes


def test_files_and_model_folders_give_the_same_codes(tmp_path):
    codec = vqgan_image(**SMALL).eval()
    signal = torch.rand(1, 3, 9, 14) * 2 - 1
    tokens = codec.encode(signal)
    assert torch.equal(decompress(codec, compress(codec, signal)), codec.decode(tokens))
    about = {"licence": "none", "training_data": "none", "measured": {}, "card": "# small"}
    save(codec, tmp_path, builder="vqgan_image", arguments=SMALL, **about, half=False)
    assert all(map(torch.equal, load(tmp_path).encode(signal).streams, tokens.streams))
