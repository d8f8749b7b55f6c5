"""Densities: bytes of their tables are the bits that they train, frozen whole numbers stay, any grid and quality."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.densities.base import LEAST_BITS, between, bits_between, points
from sigtok.codecs.densities.factorised import FactorisedDensity
from sigtok.codecs.densities.hyperprior import HyperpriorDensity
from sigtok.codecs.entropy.static import StaticCoder, StaticLaws
from sigtok.codecs.entropy.tables import WHOLE, integer_table, stacked
from sigtok.codecs.spec import Rate

SIZES = (63, 63, 64, 2, 15)
DENSITIES = {
    "factorised": lambda: FactorisedDensity(SIZES, qualities=3, quality_steps=4),
    "factorised_one_quality": lambda: FactorisedDensity(SIZES),
    "hyperprior": lambda: HyperpriorDensity(SIZES, qualities=3, quality_steps=4, width=16, side=4),
    "hyperprior_one_quality": lambda: HyperpriorDensity(SIZES, width=16, side=4),
    "hyperprior_sound": lambda: HyperpriorDensity(SIZES, axes=1, qualities=3, quality_steps=4, width=16, side=4),
}


@pytest.fixture(params=DENSITIES)
def density(request):
    torch.manual_seed(0)
    return DENSITIES[request.param]().eval()


def grids(density):
    return ((1,), (4,), (30,)) if getattr(density, "axes", 1) == 1 else ((1, 1), (4, 4), (5, 7), (3, 9))


def rate(density, quality=1.75):
    return Rate(quality=quality if density.qualities else None)


def random_codes(count, seed=0, sizes=SIZES):
    """Codes near their middles, and both ends once."""
    rng = np.random.default_rng(seed)
    codes = [np.rint(rng.laplace(size=count) * 2).astype(np.int64) + size // 2 for size in sizes]
    for book, size in zip(codes, sizes, strict=True):
        book[:1], book[-1:] = 0, size - 1
        np.clip(book, 0, size - 1, out=book)
    return tuple(codes)


def equal(codes, others):
    return len(codes) == len(others) and all(map(np.array_equal, codes, others))


def smooth_field(shape, seed, qualities=1.0):
    """Whole-number latents ``[B, D, Y, X]`` plus fractions: slow means and scales, in units of the channel."""
    generator = torch.Generator().manual_seed(seed)
    batch, dim, rows, columns = shape

    def slow(channels):
        coarse = torch.randn(batch, channels, rows // 8 + 2, columns // 8 + 2, generator=generator)
        return F.interpolate(coarse, size=(rows, columns), mode="bicubic", align_corners=True)

    spread = torch.linspace(1.5, -2, dim)[None, :, None, None]
    return (torch.randn(shape, generator=generator) * (1.5 * slow(1)).exp() + 4 * slow(1)) * spread.exp() * qualities


# -- laws of all members -----------------------------------------------------------------------------------


def test_what_a_coder_encodes_it_decodes(density):
    coder = density.coder()
    for grid in grids(density):
        codes = random_codes(math.prod(grid))
        payload = coder.encode(codes, grid, rate(density).quality)
        decoded = coder.decode(payload, grid, rate(density).quality)
        assert equal(decoded, codes) and all(book.dtype == np.int64 for book in decoded)


def test_no_positions_are_no_bytes(density):
    grid = tuple(0 for _ in grids(density)[0])
    coder, codes = density.coder(), tuple(np.empty(0, np.int64) for _ in SIZES)
    assert coder.encode(codes, grid, rate(density).quality) == b""
    assert equal(coder.decode(b"", grid, rate(density).quality), codes)


def test_every_quality_has_tables(density):
    grid, codes = grids(density)[2], random_codes(math.prod(grids(density)[2]))
    coder = density.coder()
    for quality in points(density.qualities, density.quality_steps):
        assert equal(coder.decode(coder.encode(codes, grid, quality), grid, quality), codes)


def test_frozen_numbers_stay_and_travel_with_the_weights(density):
    """Also where the weights are rounded on the way, as in a model folder."""
    grid, codes = grids(density)[2], random_codes(math.prod(grids(density)[2]))
    density.freeze()
    payload = density.coder().encode(codes, grid, rate(density).quality)
    state = {name: t.half() if t.is_floating_point() else t for name, t in density.state_dict().items()}
    other = copy.deepcopy(density)
    other.thaw()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in state.items()})
    assert other.coder().encode(codes, grid, rate(density).quality) == payload
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.mul_(1.5)
    assert density.coder().encode(codes, grid, rate(density).quality) == payload
    density.thaw()
    assert density.coder().encode(codes, grid, rate(density).quality) != payload


def test_shapes_of_stored_numbers_do_not_depend_on_the_weights(density):
    shapes = {name: tensor.shape for name, tensor in density.state_dict().items()}
    with torch.no_grad():
        for parameter in density.parameters():
            parameter.add_(0.2)
    density.freeze()
    assert {name: tensor.shape for name, tensor in density.state_dict().items()} == shapes


def test_a_frozen_density_measures_and_does_not_train(density):
    grid = grids(density)[2]
    values = torch.randn(2, math.prod(grid), len(SIZES))
    expected = density(values, grid, rate(density))
    density.freeze()
    assert torch.equal(density(values, grid, rate(density)), expected)
    density.train()
    with pytest.raises(ValueError, match="thaw"):
        density(values, grid, rate(density))
    density.thaw()
    density(values, grid, rate(density))


def test_bits_have_gradients_for_values_and_weights(density):
    density.train()
    grid = grids(density)[2]
    values = (3 * torch.randn(2, math.prod(grid), len(SIZES))).requires_grad_()
    bits = density(values, grid, rate(density))
    assert bits.shape == (2,) and (bits > 0).all()
    bits.sum().backward()
    assert values.grad.isfinite().all() and (values.grad != 0).float().mean() > 0.9
    for name, parameter in density.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_bits_of_an_item_do_not_depend_on_the_others(density):
    grid = grids(density)[2]
    values = torch.randn(3, math.prod(grid), len(SIZES)).round()
    together = density(values, grid, rate(density))
    apart = torch.cat([density(value[None], grid, rate(density)) for value in values])
    torch.testing.assert_close(together, apart)


def test_values_of_other_shapes_are_refused(density):
    grid = grids(density)[1]
    with pytest.raises(ValueError, match="values on grid"):
        density(torch.zeros(1, math.prod(grid) + 1, len(SIZES)), grid, rate(density))


def test_damaged_payloads_give_codes_or_a_value_error(density):
    coder, grid = density.coder(), grids(density)[2]
    quality, rng = rate(density).quality, np.random.default_rng(0)
    payload = coder.encode(random_codes(math.prod(grid)), grid, quality)
    mutants = [payload[:end] for end in range(0, len(payload), 3)]
    for bit in range(0, 8 * len(payload), 5):
        mutant = bytearray(payload)
        mutant[bit // 8] ^= 1 << bit % 8
        mutants.append(bytes(mutant))
    mutants += [rng.bytes(int(rng.integers(0, 100))) for _ in range(100)]
    for mutant in mutants:
        try:
            codes = coder.decode(mutant, grid, quality)
        except ValueError:
            continue
        assert all(book.min() >= 0 and book.max() < size for book, size in zip(codes, SIZES, strict=True))


# -- static tables -----------------------------------------------------------------------------------------


def static_coder(index=((0, 1), (1, 1), (1, 0)), centres=((0, 5), (0, 0), (-3, 0)), steps=2):
    tables = stacked([integer_table([1, 2, 9, 3, 1, 1]), [WHOLE]])
    return StaticCoder((64, 31), StaticLaws(tables, np.array(index), np.array(centres), steps))


def test_static_tables_count_from_their_centres():
    coder = static_coder()
    codes = (np.array([32, 33, 0]), np.array([20, 20, 20]))
    payload = coder.encode(codes, (3,), 1.0)
    assert equal(coder.decode(payload, (3,), 1.0), codes)
    with pytest.raises(ValueError, match="all values are 0"):
        coder.encode(codes, (3,), 1.5)


def test_static_tables_refuse_other_qualities_and_channels():
    coder, codes = static_coder(), (np.array([32]), np.array([15]))
    for quality in (0.5, 1.25, 2.5, 3.0, None):
        with pytest.raises(ValueError, match="qualities 1 to 2 by 1/2"):
            coder.encode(codes, (1,), quality)
    with pytest.raises(ValueError, match="of 2 codebooks, got 1"):
        coder.encode(codes[:1], (1,), 1.0)
    with pytest.raises(ValueError, match="tables 0 to 1"):
        static_coder(index=((0, 2),), centres=((0, 0),))
    with pytest.raises(ValueError, match="points, channels"):
        static_coder(centres=((0, 0),))


def test_codes_outside_their_codebook_are_a_value_error():
    coder = StaticCoder((4,), StaticLaws(stacked([integer_table([1] * 8)]), *np.zeros((2, 1, 1), int)))
    payload = StaticCoder((9,), coder.laws).encode((np.array([4, 7]),), (2,), None)
    with pytest.raises(ValueError, match="codes below 4, got 5"):
        coder.decode(payload, (2,), None)


# -- the factorised density --------------------------------------------------------------------------------


def fitted(steps=300):
    """A density of three channels after some steps on normal, Laplace and one-sided values at three qualities."""
    torch.manual_seed(0)
    density = FactorisedDensity((1023,) * 3, qualities=3, quality_steps=2)
    optimizer = torch.optim.Adam(density.parameters(), 2e-2)
    for step in range(steps):
        quality = 1 + step % 5 / 2
        values = drawn(2000, quality, step)
        bits = density((values + torch.rand_like(values) - 0.5)[None], (2000,), Rate(quality=quality)).sum()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
    return density.eval()


def drawn(count, quality, seed):
    rng = np.random.default_rng(seed)
    normal, laplace, one_sided = rng.normal(size=count), rng.laplace(size=count), rng.exponential(size=count)
    values = np.stack((normal * 4, laplace * 0.5, one_sided * 2 + 3), 1) * 2 ** (quality - 2)
    return torch.from_numpy(values).float()


def test_bytes_are_the_bits_of_a_fitted_density():
    density, coder = fitted(), None
    density.freeze()
    coder = density.coder()
    for quality in (1.0, 1.5, 3.0):
        values = drawn(20_000, quality, 10_000 + int(quality * 2)).round()
        codes = tuple(values.T.long().numpy() + 511)
        real = len(coder.encode(codes, (20_000,), quality))
        laws = coder.laws
        point = int((quality - 1) * 2)
        whole = values.T.long().numpy() - laws.centres[point][:, None]
        ideal = laws.tables.bits(whole, laws.index[point][:, None]).sum() / 8
        assert real <= 1.001 * ideal + 8
        with torch.no_grad():
            bits = density(values[None], (20_000,), Rate(quality=quality)).item()
        assert real == pytest.approx(bits / 8, rel=0.01)
        source = sum(entropy_of(column) for column in values.T.long().numpy())
        assert real * 8 / 20_000 <= 1.03 * source


def entropy_of(values):
    share = np.unique(values, return_counts=True)[1] / len(values)
    return -(share * np.log2(share)).sum()


def test_masses_of_a_density_sum_to_one():
    density = FactorisedDensity((64,), filters=(3, 3))
    for parameter in density.factors:
        torch.nn.init.uniform_(parameter, -1, 1)
    values = torch.arange(-4000.0, 4001)[None, :, None]
    costs = density.costs(values, None)
    assert torch.exp2(-costs.double()).sum().item() == pytest.approx(1, abs=1e-3)
    assert density.costs(torch.tensor([[[1e6]]]), None).isfinite().all()


def test_wide_densities_find_room_for_their_tables():
    density = FactorisedDensity((1023,) * 4, symbols=20)
    with torch.no_grad():
        density.log_width.copy_(torch.tensor([[4.0, 0.0, -3.0, 1.0]]))
    numbers = density.integers()
    assert numbers["lengths"].sum() <= 80 and len(numbers["frequencies"]) == 80
    codes = random_codes(50, sizes=(1023,) * 4)
    coder = density.coder()
    assert equal(coder.decode(coder.encode(codes, (50,), None), (50,), None), codes)


def test_a_table_stands_at_the_median():
    density = FactorisedDensity((1023, 1023))
    with torch.no_grad():
        for bias in density.biases:
            bias.zero_()
        density.biases[-1].copy_(torch.tensor([3.0, -3.0])[:, None, None])
    centres = density.integers()["centres"]
    values = torch.arange(-100.0, 100)
    for channel, centre in enumerate(centres):
        logits = density._logits(values.expand(2, -1), None)[channel]
        crossing = values[(logits > 0).int().argmax()].item()
        assert abs(centre - crossing) <= 1
    assert centres[0] == -centres[1] != 0


def test_the_density_is_its_formula():
    """Layer by layer in float64, at a width of its quality."""
    torch.manual_seed(1)
    density = FactorisedDensity((15, 15), qualities=2, filters=(3, 2))
    for parameter in density.parameters():
        torch.nn.init.normal_(parameter)
    values = torch.randn(1, 6, 2) * 3
    found = density.costs(values, 1.5)
    width = density.log_width.detach().double().mean(0).exp()

    def distribution(number, channel):
        hidden = torch.tensor([number / width[channel]]).double()
        for layer in range(3):
            weight = torch.log1p(torch.exp(density.matrices[layer][channel].double()))
            hidden = weight @ hidden + density.biases[layer][channel, :, 0].double()
            if layer < 2:
                hidden = hidden + density.factors[layer][channel, :, 0].double().tanh() * hidden.tanh()
        return 1 / (1 + torch.exp(-hidden[0]))

    for place in range(6):
        for channel in range(2):
            number = values[0, place, channel].double()
            mass = distribution(number + 0.5, channel) - distribution(number - 0.5, channel)
            assert found[0, place, channel].item() == pytest.approx(-math.log2(mass.item()), abs=1e-3)


def test_the_density_is_compressai_s():
    entropy_models = pytest.importorskip("compressai.entropy_models")
    other, density = entropy_models.EntropyBottleneck(5).eval(), FactorisedDensity((255,) * 5)
    with torch.no_grad():
        for kind, own in (("matri", density.matrices), ("bias", density.biases), ("factor", density.factors)):
            named = [parameter for name, parameter in other.named_parameters() if kind in name]
            for parameter, value in zip(named, own, strict=True):
                parameter.copy_(value.copy_(torch.randn(value.shape)))
        values = 5 * torch.randn(2, 5, 40).round()
        likelihood = other._likelihood(values)
        likelihood = likelihood[0] if isinstance(likelihood, tuple) else likelihood
    torch.testing.assert_close(density.costs(values.mT, None).mT, -torch.log2(likelihood), rtol=1e-3, atol=1e-3)


# -- the hyperprior ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [1, 2])
def test_bytes_of_a_trained_hyperprior_are_its_bits_and_fewer(axes):
    """On smooth fields, whose scales side information tells: fewer than single tables per channel could reach."""
    torch.manual_seed(0)
    dim = 8
    density = HyperpriorDensity((255,) * dim, axes=axes, qualities=2, quality_steps=4, width=32, side=6)
    optimizer = torch.optim.Adam(density.parameters(), 5e-3)

    def field(rows, columns, quality, seed):
        values = smooth_field((4 if seed else 1, dim, rows, columns), seed, 2 ** (quality - 1))
        return values if axes == 2 else values[:, :, :1]

    for step in range(300):
        quality = 1 + step % 5 / 4
        values = field(32, 32 if axes == 2 else 512, quality, 1 + step)
        grid = tuple(values.shape[2:])
        values = (values + torch.rand_like(values) - 0.5).flatten(2).mT
        loss = density(values, grid if axes == 2 else grid[1:], Rate(quality=quality)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    density.eval().freeze()
    coder = density.coder()
    for quality in (1.0, 1.25, 2.0):
        plane = field(61, 50 if axes == 2 else 3001, quality, 0).round().clamp(-127, 127)
        grid = tuple(plane.shape[2:]) if axes == 2 else (plane.shape[3],)
        values = plane.flatten(2).mT
        codes = tuple(values[0].T.long().numpy() + 127)
        payload = coder.encode(codes, grid, quality)
        assert equal(coder.decode(payload, grid, quality), codes)
        with torch.no_grad():
            bits = density(values, grid, Rate(quality=quality)).item()
        assert len(payload) == pytest.approx(bits / 8, rel=0.02)
        single = sum(entropy_of(book) for book in codes) * len(codes[0]) / 8
        assert len(payload) < 0.99 * single


def test_a_hyperprior_has_one_or_two_axes():
    with pytest.raises(ValueError, match="1 or 2 axes, got 3"):
        HyperpriorDensity((15, 15), axes=3)


def test_weights_too_large_to_store_are_refused():
    density = HyperpriorDensity((15, 15), width=4, side=2)
    with torch.no_grad():
        density.synthesis.layers[0].weight.fill_(2.0**25)
    with pytest.raises(ValueError, match=r"synthesis_weight_0 take 32 bits|stay below"):
        density.freeze()


# -- pieces ------------------------------------------------------------------------------------------------


def test_bits_between_logits_are_exact_far_out():
    upper = torch.tensor([0.5, 40.5, -39.5, 500.0])
    lower = upper - 1
    exact = torch.log2(torch.sigmoid(upper.double()) - torch.sigmoid(lower.double()))
    found = bits_between(upper, lower)
    torch.testing.assert_close(found[0], -exact[0].float())
    assert found[1] == pytest.approx((39.5 - math.log(1 - math.exp(-1))) / math.log(2), rel=1e-6)
    assert found[1].item() == pytest.approx(found[2].item()) and found[3].isfinite()
    assert bits_between(torch.tensor(50.0), torch.tensor(-50.0)) == pytest.approx(LEAST_BITS)


def test_rows_between_qualities_are_their_means():
    rows = torch.tensor([[0.0], [4.0], [-4.0]])
    assert [between(rows, quality).item() for quality in (1.0, 1.25, 2.0, 2.5, 3.0)] == [0, 1, 4, 0, -4]
    assert between(rows[:1], None).item() == 0
    assert points(0, 4) == [None] and points(2, 4) == [1, 1.25, 1.5, 1.75, 2]
