"""One codebook at several granularities, and the codec that chooses between them by the picture."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.image.granular import SIZES, deviations, from_blocks, linear_path, strongest_cosines, to_blocks
from sigtok.codecs.image.granularity import counts, route
from sigtok.codecs.image.models import granular_image
from sigtok.codecs.image.tiles import Tiling
from sigtok.codecs.image.wavelet_front import WaveletFront
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.granular import Granular
from sigtok.codecs.quantizers.lifecycle import Lifecycle
from sigtok.codecs.quantizers.vq import VQ
from sigtok.codecs.spec import Rate
from sigtok.codecs.transforms.wavelet import WaveletPacket1d, WaveletPacket2d

CODEBOOKS = {
    "vq": {"name": "vq", "codebook_size": 16, "dim": 3},
    "kmeans": {
        "name": "vq", "codebook_size": 16, "dim": 3,
        "lifecycle": {"start": "kmeans", "start_vectors": 4, "revive": 0.5},
    },
    "ema": {"name": "ema", "codebook_size": 16, "dim": 3},
    "ibq": {"name": "ibq", "codebook_size": 16, "dim": 3},
    "simvq": {"name": "simvq", "codebook_size": 16, "dim": 3},
    "fsq": {"name": "fsq", "levels": [4, 4, 4]},
}  # fmt: skip
EVERY_CODEBOOK = pytest.mark.parametrize("name", CODEBOOKS)
SHARES = [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.1, 0.4, 0.5), (0.6, 0.3, 0.1)]
EVERY_SHARE = pytest.mark.parametrize("shares", SHARES)
EXTENTS = [(16, 16), (1, 1), (33, 17), (47, 80)]
SMALL = {"dims": (12, 8, 8), "depths": (1, 1, 1), "codebook_size": 16, "latent_dim": 3}


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    codec = granular_image(**SMALL).train()
    for _ in range(6):
        codec(picture(2, 64, 64))  # past the passes that only collect
    with torch.no_grad():  # as if trained: networks that say something
        for head in (*codec.encoder.heads, codec.decoder.head):
            head.weight.mul_(100)
        for stage in codec.decoder.blocks:
            stage[0].modulate.weight.normal_(std=0.3)
    return codec.eval()


def picture(*shape):
    """Smooth in some places and rough in others."""
    noise = torch.randn(shape[0], 3, *shape[1:])
    rough = F.interpolate(torch.rand(shape[0], 1, 3, 3), shape[1:])
    return (0.5 * F.avg_pool2d(noise, 5, 1, 2) + noise * rough**3).clamp(-1, 1)


def latents_of(levels, dim=3):
    """Values of any kind behind levels ``[B, quarters]``."""
    values = torch.randn(levels.shape[0], 4 * levels.shape[1], dim)
    return torch.cat((values, levels.repeat_interleave(4, dim=1)[..., None].float()), dim=-1)


def mixed(batch=2):
    """Blocks: coarse; medium; fine; a quarter of each kind that may stand in one block."""
    levels = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 1, 2, 2, 1]]).expand(batch, -1)
    return latents_of(levels)


def covering(streams, strides=(16, 4, 1)):
    """How many codebooks speak at every position."""
    spoken = [(s >= 0).repeat_interleave(n, dim=1).long() for s, n in zip(streams, strides, strict=True)]
    return torch.stack(spoken).sum(0)


# -- the quantizer -----------------------------------------------------------------------------------------


@EVERY_CODEBOOK
def test_a_code_stands_for_the_mean_of_its_group(name):
    quantizer, latents = Granular(build(CODEBOOKS[name])).eval(), mixed()
    streams = quantizer.encode(latents)
    assert [(stream >= 0).sum(1).tolist() for stream in streams] == [[1, 1], [6, 6], [24, 24]]
    values = latents[..., :3]
    groups = {0: [(0, 16)], 1: [(16, 20), (20, 24), (24, 28), (28, 32), (48, 52), (60, 64)]}
    groups[2] = [(place, place + 1) for place in (*range(32, 48), *range(52, 60))]
    for level, spans in groups.items():
        for start, stop in spans:
            code = quantizer.codebook.encode(values[:, start:stop].mean(1, keepdim=True))[0]
            assert torch.equal(streams[level][:, start // quantizer.strides[level]], code[:, 0])
            decoded = quantizer.decode(streams)[:, start:stop]
            assert torch.equal(decoded[..., :3], quantizer.codebook.decode([code]).expand(-1, stop - start, -1))
            assert (decoded[..., 3] == level).all()


def test_whatever_is_asked_every_position_has_one_code():
    quantizer = Granular(VQ(16, 3)).eval()
    for latents in (torch.randn(3, 160, 4), 9 * torch.randn(3, 160, 4), torch.full((1, 16, 4), 0.49)):
        streams = quantizer.encode(latents)
        assert (covering(streams) == 1).all()
        again = quantizer.decode(streams)
        assert all(map(torch.equal, quantizer.encode(again), streams))
        assert torch.equal(again[..., -1], again[:, :, -1].round())


@EVERY_CODEBOOK
def test_each_code_that_is_sent_is_learned_from_once(name):
    """Losses and statistics are those of a pass over the sent means alone; not 16 times for what is coarse."""
    quantizer = Granular(build(CODEBOOKS[name])).train()
    for _ in range(8):
        quantizer(mixed(8))
    assert quantizer.ready
    codebook, latents = copy.deepcopy(quantizer.codebook), mixed().requires_grad_()
    kept = [latents[:, :16], *latents[:, 16:32].split(4, 1), *latents[:, 32:48].split(1, 1)]
    kept += [latents[:, 48:52], *latents[:, 52:60].split(1, 1), latents[:, 60:64]]
    level = [0, *[1] * 4, *[2] * 16, 1, *[2] * 8, 1]
    order = sorted(range(len(kept)), key=lambda place: level[place])
    sent = torch.cat([torch.stack([kept[place][item, :, :3].mean(0) for place in order]) for item in range(2)])[None]
    torch.manual_seed(1)
    quantized = quantizer(latents)
    torch.manual_seed(1)
    expected = codebook(sent)
    assert quantized.losses.keys() == expected.losses.keys()
    for loss, value in expected.losses.items():
        torch.testing.assert_close(quantized.losses[loss], value)
    for statistic, value in codebook.state_dict().items():
        torch.testing.assert_close(quantizer.codebook.state_dict()[statistic], value)


def test_the_gradient_of_a_code_is_shared_by_its_group():
    quantizer, latents = Granular(VQ(16, 3)).train(), mixed().requires_grad_()
    weights = torch.randn(2, 64, 4)
    (quantizer(latents).latents * weights).sum().backward()
    expected = weights.clone()
    expected[..., 3] = 0  # which granularity is not learned
    for start, stop in [(0, 16), *((n, n + 4) for n in (16, 20, 24, 28, 48, 60))]:
        expected[:, start:stop] = expected[:, start:stop].mean(1, keepdim=True)
    torch.testing.assert_close(latents.grad, expected)


def test_what_goes_by_unquantized_keeps_its_means_and_granularity():
    codebook = VQ(16, 3, lifecycle=Lifecycle(start="kmeans", start_vectors=1000))
    quantizer, latents = Granular(codebook).train(), mixed()
    quantized = quantizer(latents)
    assert not quantizer.ready and all((stream == -1).all() for stream in quantized.streams)
    assert torch.equal(quantized.latents[..., 3], latents[..., 3])
    torch.testing.assert_close(
        quantized.latents[:, :16, :3], latents[:, :16, :3].mean(1, keepdim=True).expand(-1, 16, -1)
    )
    torch.testing.assert_close(quantized.latents[:, 32:48], latents[:, 32:48])


def test_granularities_that_are_not_sent_leave_zeros():
    quantizer, latents = Granular(VQ(16, 3)).eval(), mixed()
    streams, whole = quantizer.encode(latents), quantizer(latents).latents
    for count in (1, 2, 3):
        prefix = quantizer.decode(streams[:count])
        assert torch.equal(prefix, quantizer(latents, count).latents)
        present = covering(streams[:count], (16, 4, 1)[:count])[..., None] > 0
        assert torch.equal(prefix, torch.where(present, whole, 0.0))


def test_other_strides_and_what_cannot_be():
    quantizer = Granular(EMAVQ(8, 2), strides=(6, 2, 1))
    assert quantizer.codebook_sizes == (8, 8, 8) and quantizer.strides == (6, 2, 1) and quantizer.dim == 3
    assert (covering(quantizer.encode(torch.randn(2, 18, 3)), (6, 2, 1)) == 1).all()
    with pytest.raises(ValueError, match="groups of 16, got 40"):
        Granular(VQ(16, 3)).encode(torch.randn(1, 40, 4))
    with pytest.raises(ValueError, match="share one codebook, got 2"):
        Granular(build({"name": "residual", "stages": {"copies": 2, **CODEBOOKS["vq"]}}))
    for strides in ((1,), (16, 4), (16, 16, 1), (4, 16, 1), (16, 3, 1), (0, 1), ()):
        with pytest.raises(ValueError, match="strides fall to 1"):
            Granular(VQ(16, 3), strides)


# -- the codec ---------------------------------------------------------------------------------------------


def test_blocks_are_in_raster_order_their_quarters_and_positions_too():
    grid = torch.arange(8 * 12).view(1, 1, 8, 12)
    latents = to_blocks(grid)[0, :, 0]
    assert latents[:16].tolist() == [0, 1, 12, 13, 2, 3, 14, 15, 24, 25, 36, 37, 26, 27, 38, 39]
    assert latents[16] == 4 and latents[48] == 48
    assert torch.equal(from_blocks(to_blocks(grid), (8, 12)), grid)


@EVERY_SHARE
@pytest.mark.parametrize("extent", EXTENTS)
def test_a_picture_comes_back_at_any_shares_and_extent(codec, shares, extent):
    signal, rate = picture(2, *extent), Rate(shares=shares)
    tokens = codec.encode(signal, rate)
    blocks = math.prod(math.ceil(size / 16) for size in extent)
    assert [stream.shape for stream in tokens.streams] == [(2, blocks), (2, 4 * blocks), (2, 16 * blocks)]
    assert (covering(tokens.streams) == 1).all()
    for item in range(2):
        assert tuple(int((stream[item] >= 0).sum()) for stream in tokens.streams) == counts(shares, blocks)
    decoded = codec.decode(tokens)
    assert decoded.shape == signal.shape and decoded.isfinite().all()


@EVERY_SHARE
def test_decode_of_encode_is_forward_and_latents_are_constant_where_one_code_speaks(codec, shares):
    signal, rate = picture(2, 48, 64), Rate(shares=shares)
    found, tokens = codec(signal, rate), codec.encode(signal, rate)
    assert all(map(torch.equal, found.quantized.streams, tokens.streams))
    torch.testing.assert_close(codec.decode(tokens), found.signal.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    latents = found.latents
    for level, stride in enumerate((16, 4)):
        groups = latents.unflatten(1, (-1, stride))
        mine = groups[groups[:, :, 0, -1] == level]
        assert torch.equal(mine, mine[:, :1].expand_as(mine))
    levels = route(signal, shares)
    asked = from_blocks(latents, (12, 16))[:, -1, ::2, ::2]
    assert torch.equal(asked, levels.to(asked))


def test_codes_and_pixels_do_not_depend_on_the_batch(codec):
    signals = [picture(1, *extent)[0] for extent in ((33, 50), (64, 32), (16, 16))]
    together = codec.encode(signals)
    for signal, tokens, decoded in zip(signals, together, codec.decode(together), strict=True):
        alone = codec.encode(signal[None])
        assert all(map(torch.equal, alone.streams, tokens.streams))
        assert torch.equal(codec.decode(alone)[0], decoded)


def test_tiles_with_their_neighbours_are_the_whole(codec):
    """Granularities too, which are chosen over the whole picture."""
    codec, signal = copy.deepcopy(codec), picture(1, 272, 208)
    rate, margin = codec.spec.resolve(), codec.encoder.tiling.margin
    codec.encoder.tiling = codec.decoder.tiling = Tiling(3, margin)
    latents = codec.encoder(signal, rate)
    torch.testing.assert_close(codec.encoder.piecewise(signal, rate), latents, rtol=1e-4, atol=1e-4)
    whole = codec.decoder(latents, (272, 208), rate)
    torch.testing.assert_close(codec.decoder.piecewise(latents, (272, 208), rate), whole, rtol=1e-4, atol=1e-4)
    codec.encoder.tiling = Tiling(3, 0)
    assert (codec.encoder.piecewise(signal, rate) - latents).abs().max() > 0.01


def test_a_margin_is_as_wide_as_the_networks_see(codec):
    """Nothing further away moves a block, and something in its last blocks does."""
    codec, size, margin, rate = copy.deepcopy(codec), 11, codec.encoder.tiling.margin, codec.spec.resolve()
    pixels = picture(1, 16 * size, 16 * size).requires_grad_()
    latents = torch.cat((torch.randn(1, 16 * size**2, 3), torch.ones(1, 16 * size**2, 1)), dim=-1).requires_grad_()
    middle = slice(16 * (size // 2), 16 * (size // 2 + 1))
    positions = slice(middle.start // 4, middle.stop // 4)
    answers = codec.encoder._answers(pixels)[..., positions, positions]
    (seen,) = torch.autograd.grad(answers.sum(), pixels)
    signal = codec.decoder(latents, (16 * size, 16 * size), rate)[..., middle, middle]
    (heard,) = torch.autograd.grad(signal.sum(), latents)
    for reached in (seen[0].abs().sum(0), from_blocks(heard, (4 * size, 4 * size))[0].abs().sum(0)):
        rows = reached.sum(1).view(size, -1).sum(1).nonzero().flatten()
        assert (size // 2 - int(rows[0]), int(rows[-1]) - size // 2) == (margin, margin)


def test_the_decoder_is_told_how_coarsely_a_code_speaks(codec):
    """Also apart from the linear path, whose cosines are others."""
    codec = copy.deepcopy(codec)
    for layer in codec.decoder.linear:
        layer.weight.data.zero_()
    latents = codec.quantizer(codec.encoder(picture(1, 32, 32), codec.spec.resolve())).latents
    alike = [torch.cat((latents[..., :-1], torch.full((1, 64, 1), level)), dim=-1) for level in (0.0, 1.0, 2.0)]
    said = [codec.decoder(each, (32, 32), codec.spec.resolve()) for each in alike]
    assert min((said[0] - said[1]).abs().max(), (said[1] - said[2]).abs().max()) > 0.01


@pytest.mark.parametrize("size", SIZES)
def test_the_linear_path_is_exact_on_what_it_can_say(size):
    into, back = linear_path(WaveletFront(2), size, 6)
    values = torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(into(back(values)), values)


@pytest.mark.parametrize("size", SIZES)
def test_the_cosines_are_the_strongest_in_the_model_of_a_photo(size):
    """Against the coefficients of all bands, by the covariance of all pixels that they read."""
    place = torch.arange(64, dtype=torch.float64)
    covariance = 0.95 ** (place[:, None] - place).abs()
    lines = WaveletPacket1d(2).double()(torch.eye(64, dtype=torch.float64)[:, None])[:, :, 6 : 6 + size]
    cosines = _cosines(size).double()
    found = {}
    for band, (row, column) in enumerate(_bands()):
        for u in range(size):
            for v in range(size):
                rows, columns = lines[:, row] @ cosines[u] / size, lines[:, column] @ cosines[v] / size
                power = (rows @ covariance @ rows) * (columns @ covariance @ columns)
                for colour, share in enumerate((1.0, 0.16, 0.16)):
                    found[16 * colour + band, u, v] = float(share * power)
    strongest = sorted(found, key=found.get, reverse=True)[:6]
    weight, unit = strongest_cosines(size, 6)
    assert 2 * unit == pytest.approx(math.sqrt(sum(found[each] for each in strongest) / 6), rel=1e-6)
    for place, power in found.items():
        assert 2 * float(deviations(size)[place]) == pytest.approx(math.sqrt(power), rel=1e-6)
    for square in weight:
        band = int(square.abs().sum((1, 2)).argmax())
        spectrum = _cosines(size) @ square[band] @ _cosines(size).t()
        u, v = divmod(int(spectrum.abs().argmax()), size)
        assert (band, u, v) in strongest
        torch.testing.assert_close(square.sum(0), torch.outer(_cosines(size)[u], _cosines(size)[v]))


def _cosines(size):
    """Of mean square 1, a row each."""
    angle = torch.outer(torch.arange(size), torch.arange(size) + 0.5) * math.pi / size
    return angle.cos() * torch.tensor([1.0, *[2**0.5] * (size - 1)])[:, None]


def _bands():
    """Of every band of a picture, its band along the height and that along the width: read off a product of lines."""
    lines = torch.randn(2, 1, 32)
    rows, columns = WaveletPacket1d(2)(lines)
    bands = WaveletPacket2d(2)(torch.outer(*lines[:, 0])[None, None])[0]
    pairs = [(row, column) for row in range(4) for column in range(4)]
    return [
        next(p for p in pairs if torch.allclose(torch.outer(rows[p[0]], columns[p[1]]), b, atol=1e-4)) for b in bands
    ]


def test_an_untrained_codec_is_a_quantizer_of_cosines():
    """Without codes it gives back what six numbers a square can say: flat pictures exactly, and more where finer."""
    codec = granular_image(dims=(12, 8, 8), depths=(1, 1, 1)).eval()
    flat = torch.tensor([0.3, -0.2, 0.5])[:, None, None].expand(1, 3, 48, 48)
    smooth = F.avg_pool2d(torch.randn(1, 3, 96, 96), 17, 1, 8) * 4
    errors = []
    for shares in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        rate = Rate(shares=shares)
        assert (codec(flat, rate, quantize=False).signal - flat).abs().max() < 0.02
        errors.append(float((codec(smooth, rate, quantize=False).signal - smooth).square().mean()))
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]


def test_a_codec_learns_a_picture_at_all_its_shares():
    """Coarse codes, which say little by themselves, learn most; fine ones are as good as their 64 codes."""
    codec = granular_image(dims=(32, 16, 16), depths=(1, 1, 1), codebook_size=64, latent_dim=4).train()
    signal = F.avg_pool2d(3 * picture(2, 64, 64), 7, 1, 3).clamp(-1, 1)
    optimizer, first, last = torch.optim.Adam(codec.parameters(), 5e-3), {}, {}
    for step in range(48):
        shares = SHARES[step % 3]
        found = codec(signal, Rate(shares=shares))
        loss = (found.signal - signal).square().mean()
        if codec.quantizer.ready:
            first.setdefault(shares, loss.item())
            last[shares] = loss.item()
        optimizer.zero_grad()
        (loss + 0.1 * found.quantized.losses["commitment"]).backward()
        optimizer.step()
    gains = [last[shares] / first[shares] for shares in SHARES[:3]]
    assert gains[0] < 0.6 and gains[1] < 0.8 and gains[2] < 1.1, gains


def test_every_parameter_learns(codec):
    codec = copy.deepcopy(codec).train()
    found = codec(picture(2, 64, 64))
    (found.signal.square().mean() + found.quantized.losses["commitment"]).backward()
    assert not [name for name, weight in codec.named_parameters() if weight.grad is None or not weight.grad.any()]


def test_a_model_folder_gives_the_same_codec(codec, tmp_path):
    about = {"licence": "none", "training_data": "none", "measured": {}, "card": "# small"}
    arguments = {name: list(value) if isinstance(value, tuple) else value for name, value in SMALL.items()}
    save(codec, tmp_path, builder="granular_image", arguments=arguments, **about, half=False)
    other, signal = load(tmp_path), picture(1, 40, 40)
    assert all(map(torch.equal, other.encode(signal).streams, codec.encode(signal).streams))
    assert other.spec.shares == (0.1, 0.4, 0.5) and other.spec.bits((40, 40)) > 0
