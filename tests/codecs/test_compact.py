"""The compact image codec: what it costs, what it sees, how it starts, and that it learns with any quantizer."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sigtok.codecs.files import compress, decompress
from sigtok.codecs.image.compact import KERNEL
from sigtok.codecs.image.models import compact_image
from sigtok.codecs.image.wavelet_front import REACH, band_scale, interleaved
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.transforms.wavelet import WaveletPacket2d
from sigtok.train.data.synthetic import Shapes

SMALL = dict(levels=2, width=16, encoder_depth=2, decoder_depth=2, codebook_size=32, latent_dim=8)
SCALES = {
    "name": "multiscale",
    "codebook": {"name": "vq", "codebook_size": 32, "dim": 8},
    "grid": [4, 4],
    "scales": [1, 3, 4],
}


def test_a_pixel_costs_at_most_sixty_thousand_multiplications_to_encode_and_a_little_more_to_decode():
    codec, counts = compact_image(codebook_size=16), []
    signal, rate = torch.zeros(1, 3, 128, 128), codec.spec.resolve()
    with torch.no_grad():
        latents = codec.encoder(signal, rate)
        for work in (lambda: codec.encoder(signal, rate), lambda: codec.decoder(latents, (128, 128), rate)):
            with FlopCounterMode(display=False) as flops:
                work()
            counts.append(flops.get_total_flops() / 2 / 128**2)
    assert 35_000 < counts[0] <= 60_000 and counts[0] < counts[1] < 1.6 * counts[0]


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_bands_of_a_markov_field_have_unit_deviation_in_the_order_of_the_packet(levels):
    place = torch.arange(256, dtype=torch.float64)
    root = torch.linalg.cholesky(0.95 ** (place[:, None] - place).abs())
    fields = torch.randn(6, 1, 256, 256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bands = WaveletPacket2d(levels).double()(root @ fields @ root.T)[:, :, 2:-2, 2:-2]
    deviations = bands.square().mean((0, 2, 3)).sqrt() / interleaved(band_scale(levels))
    tolerance = 0.05 * 2 ** max(0, levels - 2)  # fewer samples of a band
    assert (deviations - 1).abs().max() < tolerance, deviations
    assert levels < 2 or not torch.allclose(interleaved(band_scale(levels)), band_scale(levels).flatten())


def test_it_starts_as_its_strongest_bands():
    """Before any training, a smooth picture survives latents that are not quantized; noise does not."""
    codec, generator = compact_image(**SMALL).eval(), torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator) * 2 - 1, (64, 64), mode="bicubic")
    noise = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    lost = []
    for signal in (smooth, noise):
        with torch.no_grad():
            made = codec(signal, quantize=False).signal
        lost.append(float((made - signal).square().mean() / signal.var()))
    assert lost[0] < 0.05 and lost[1] > 0.5


@pytest.mark.parametrize("tile", [None, 4])
def test_a_token_sees_its_margin_across_windows_and_nothing_beyond(tile):
    codec = compact_image(**SMALL, tile=tile)
    nn.init.normal_(codec.encoder.project.weight)
    hop, grid, margin = codec.spec.hop[0], 40, REACH + SMALL["encoder_depth"] * (KERNEL // 2)
    signal = torch.rand(1, 3, hop * grid, hop * grid, requires_grad=True)
    rate = codec.spec.resolve()
    latents = codec.encoder(signal, rate).view(1, *([grid, grid] if tile is None else [10, 10, 16]), 8)
    seen = latents[0, 20, 20] if tile is None else latents[0, 5, 5, 0]  # of position (20, 20) either way
    (gradient,) = torch.autograd.grad(seen.square().sum(), signal)
    rows = gradient[0].abs().sum((0, 2)).nonzero().flatten() // hop
    assert 20 - margin <= int(rows.min()) < 20 - SMALL["encoder_depth"]
    assert 20 + SMALL["encoder_depth"] < int(rows.max()) <= 20 + margin


@pytest.mark.parametrize("tile, quantizer", [(None, None), (4, SCALES)], ids=["raster", "scales"])
def test_fifty_steps_on_shapes_lower_the_loss(tile, quantizer):
    codec = compact_image(**SMALL, tile=tile, quantizer=quantizer).train()
    signal = next(iter(Shapes(crop=32, batch_size=4).train_dataloader()))
    optimizer, losses = torch.optim.Adam(codec.parameters(), 5e-3), []
    for _ in range(50):
        made = codec(signal)
        losses.append((made.signal - signal).square().mean())
        loss = losses[-1] + 0.1 * sum(made.quantized.losses.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.7 * sum(losses[2:7])  # the first are without codes


def test_scales_of_a_tile_go_through_files_and_model_folders(tmp_path):
    """Nine codes to 16 positions: a stride that is a fraction."""
    arguments = {**SMALL, "tile": 4, "quantizer": SCALES}
    codec = compact_image(**arguments).eval()
    signal = torch.rand(1, 3, 21, 40) * 2 - 1
    tokens = codec.encode(signal)
    assert [stream.shape[1] for stream in tokens.streams] == [6, 54, 96]
    assert torch.equal(decompress(codec, compress(codec, signal)), codec.decode(tokens))
    about = {"licence": "none", "training_data": "none", "measured": {}, "card": "# small"}
    save(codec, tmp_path, builder="compact_image", arguments=arguments, **about, half=False)
    assert all(map(torch.equal, load(tmp_path).encode(signal).streams, tokens.streams))
