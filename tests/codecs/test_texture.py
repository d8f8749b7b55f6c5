"""DISTS: a distance of pictures that forgives another sample of a texture, by weights of the user."""

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from sigtok.codecs.metrics.texture import CHANNELS, DISTS, STAGES, dists, load_dists, smooth_pool

WIDTHS = {
    place: (before, width)
    for before, width, places in zip(CHANNELS[:1] + CHANNELS[1:-1], CHANNELS[1:], STAGES, strict=True)
    for place, before, width in [(places[0], before, width)] + [(place, width, width) for place in places[1:]]
}


def backbone():
    """VGG16 at random, with the gain that keeps features alive."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for place, (before, width) in WIDTHS.items():
        gain = (2 / (9 * before)) ** 0.5
        tensors[f"features.{place}.weight"] = gain * torch.randn(width, before, 3, 3, generator=generator)
        tensors[f"features.{place}.bias"] = torch.zeros(width)
    return tensors


@pytest.fixture(scope="module")
def judge():
    generator = torch.Generator().manual_seed(1)
    return DISTS(backbone(), *torch.rand(2, sum(CHANNELS), generator=generator).unbind())


def photo(size=96):
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return interpolate(coarse, size=size, mode="bicubic").clamp(0, 1) * 2 - 1


def grain(seed, scale=0.4):
    return (scale * torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(seed))).clamp(-1, 1)


def test_it_is_zero_for_equal_pictures_symmetric_and_grows_with_noise(judge):
    image = photo()
    found = [dists(judge, (image + grain(1, scale)).clamp(-1, 1), image) for scale in (0, 0.05, 0.2, 0.6)]
    assert found[0] == pytest.approx(0, abs=1e-6) and found == sorted(found) and found[1] > 1e-4
    other = (image + grain(1)).clamp(-1, 1)
    assert dists(judge, other, image) == pytest.approx(dists(judge, image, other), abs=1e-6)


def test_another_sample_of_a_texture_is_nearer_than_none(judge):
    textures = DISTS(judge.backbone, torch.ones(sum(CHANNELS)), torch.zeros(sum(CHANNELS)))  # means alone
    assert dists(textures, grain(2), grain(1)) < 0.1 * dists(textures, torch.zeros(1, 3, 96, 96), grain(1))


def test_it_is_the_formula_of_the_paper(judge):
    """Channel by channel: equations 5 and 6, with torchvision's own VGG16 between our pools."""
    models = pytest.importorskip("torchvision.models")
    network = models.vgg.make_layers(models.vgg.cfgs["D"]).eval()
    network.load_state_dict({name.removeprefix("features."): value for name, value in judge.backbone.items()})
    pair, features = [(photo(64) + 1) / 2, (grain(1)[..., :64, :64] + 1) / 2], [[], []]
    mean, deviation = (
        torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    with torch.no_grad():
        for image, found in zip(pair, features, strict=True):
            seen = (image - mean) / deviation
            found.append(image)
            for place, layer in enumerate(network[:30]):
                seen = smooth_pool(seen) if place in (4, 9, 16, 23) else layer(seen)
                if place in (3, 8, 15, 22, 29):
                    found.append(seen)
        total, channel = 0.0, 0
        for x, y in zip(*(map(torch.Tensor.double, found) for found in features), strict=True):
            for a, b in zip(x[0], y[0], strict=True):
                covariance = ((a - a.mean()) * (b - b.mean())).mean()
                spread = a.var(correction=0) + b.var(correction=0)
                luminance = (2 * a.mean() * b.mean() + 1e-6) / (a.mean() ** 2 + b.mean() ** 2 + 1e-6)
                total += judge.alpha[channel] * luminance + judge.beta[channel] * (2 * covariance + 1e-6) / (
                    spread + 1e-6
                )
                channel += 1
        assert judge(*pair).item() == pytest.approx(1 - total.item(), abs=1e-4)
    assert channel == 1475


def test_a_smooth_pool_is_a_root_of_a_weighted_mean_of_squares():
    features = torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    found = smooth_pool(features)
    assert found.shape == (1, 2, 3, 4)
    for channel in range(2):
        squares = conv2d(features[:, channel : channel + 1].square(), kernel[None, None], padding=1)[..., ::2, ::2]
        torch.testing.assert_close(found[:, channel], (squares[:, 0] + 1e-12).sqrt())


def test_other_pictures_are_refused(judge):
    for shape in ((1, 1, 96, 96), (1, 3, 63, 96)):
        with pytest.raises(ValueError, match="3 channels and 64 pixels a side"):
            dists(judge, torch.zeros(shape), torch.zeros(shape))


def test_weights_are_those_of_files(judge, tmp_path):
    weights = {name: torch.rand(1, 1475, 1, 1) for name in ("alpha", "beta")}
    torch.save(backbone(), tmp_path / "vgg.pth")
    torch.save(weights, tmp_path / "weights.pt")
    found = load_dists(tmp_path / "vgg.pth", tmp_path / "weights.pt")
    assert (found.alpha.sum() + found.beta.sum()).item() == pytest.approx(1)
    assert dists(found, photo(), photo()) == pytest.approx(0, abs=1e-6)
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "alex.pth")
    with pytest.raises(ValueError, match=r"alex\.pth: DISTS looks through VGG16"):
        load_dists(tmp_path / "alex.pth", tmp_path / "weights.pt")
    torch.save({"alpha": torch.zeros(3), "beta": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: weights of DISTS are alpha and beta of 1475 channels"):
        load_dists(tmp_path / "vgg.pth", tmp_path / "other.pt")
