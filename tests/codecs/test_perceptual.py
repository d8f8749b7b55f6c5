"""LPIPS is what its paper says, whatever file its weights come in, and nothing is fetched."""

import json
import sys

import pytest
import safetensors.torch
import torch
from torch import nn
from torchvision import models

from sigtok.codecs.media import from_pixels, image_from_bytes, image_to_bytes
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.metrics.perceptual import LAYERS, LPIPS, load_lpips, lpips
from sigtok.codecs.metrics.ssimulacra import ssimulacra

WIDTHS = {"alexnet": (64, 192, 384, 256, 256), "squeezenet1_1": (64, 128, 256, 384, 384, 512, 512)}


def network(name="squeezenet1_1", seed=0):
    """The model and random heads."""
    torch.manual_seed(seed)
    make = models.squeezenet1_1 if name == "squeezenet1_1" else models.alexnet
    return make(weights=None).eval(), [torch.rand(width) for width in WIDTHS[name]]


def files(folder, name="squeezenet1_1"):
    """A state dict of torchvision and heads as the package lpips stores them."""
    model, heads = network(name)
    state = {key: weight for key, weight in model.state_dict().items() if name != "alexnet" or "features" in key}
    torch.save(state, folder / "model.pth")  # AlexNet's classifier has 58 million weights
    torch.save(
        {f"lin{place}.model.1.weight": head.view(1, -1, 1, 1) for place, head in enumerate(heads)}, folder / "heads.pth"
    )
    return model, heads


def pair(*shape):
    first, second = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return first, second


def reference(model, layers, heads, some, others):
    """LPIPS place by place, slowly."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    distances = []
    for one, other in zip(some, others, strict=True):
        seen = []
        for picture in (one, other):
            x, kept = ((picture - shift[:, None, None]) / scale[:, None, None])[None], []
            for number, module in enumerate(model.features):
                x = nn.functional.relu(x) if isinstance(module, nn.ReLU) else module(x)
                if f"features.{number}" in layers:
                    kept.append(x[0].clone())
            seen.append(kept)
        total = 0.0
        for first, second, head in zip(*seen, heads, strict=True):
            places = []
            for row in range(first.shape[1]):
                for column in range(first.shape[2]):
                    a, b = first[:, row, column].double(), second[:, row, column].double()
                    a, b = a / (a.norm() + 1e-10), b / (b.norm() + 1e-10)
                    places.append((head.double() * (a - b) ** 2).sum().item())
            total += sum(places) / len(places)
        distances.append(total)
    return torch.tensor(distances)


@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_lpips_is_the_sum_over_layers_of_weighed_differences(tmp_path, name):
    model, heads = files(tmp_path, name)
    some, others = pair(2, 3, 64, 72)
    judge = load_lpips(tmp_path / "model.pth", name, tmp_path / "heads.pth")
    with torch.no_grad():
        expected = reference(model, LAYERS[name], heads, some, others)
    torch.testing.assert_close(judge(some, others), expected.float(), atol=1e-5, rtol=1e-5)
    even = load_lpips(tmp_path / "model.pth", name)
    with torch.no_grad():
        expected = reference(model, LAYERS[name], [torch.ones(width) / width for width in WIDTHS[name]], some, others)
    torch.testing.assert_close(even(some, others), expected.float(), atol=1e-6, rtol=1e-5)


def test_lpips_is_that_of_the_package(tmp_path):
    package = pytest.importorskip("lpips")
    model, heads = files(tmp_path, "alexnet")
    theirs = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    convolutions = [module for module in theirs.net.modules() if isinstance(module, nn.Conv2d)]
    own = [module for module in model.features if isinstance(module, nn.Conv2d)]
    for to, module in zip(convolutions, own, strict=True):
        to.load_state_dict(module.state_dict())
    for to, head in zip(theirs.lins, heads, strict=True):
        to.model[-1].weight.data = head.view(1, -1, 1, 1)
    some, others = pair(2, 3, 64, 72)
    with torch.no_grad():
        expected = theirs(some, others).flatten()
    ours = load_lpips(tmp_path / "model.pth", "alexnet", tmp_path / "heads.pth")(some, others)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_weights_may_be_a_whole_model_or_its_features_in_either_format(tmp_path):
    model, _ = files(tmp_path)
    some, others = pair(1, 3, 64, 64)
    expected = load_lpips(tmp_path / "model.pth", "squeezenet1_1")(some, others)
    torch.save(model.features.state_dict(), tmp_path / "features.pth")
    record = {"perceptual": json.dumps({"backbone": "squeezenet1_1"})}
    safetensors.torch.save_file(model.state_dict(), tmp_path / "named.safetensors", record)
    assert torch.equal(load_lpips(tmp_path / "features.pth", "squeezenet1_1")(some, others), expected)
    assert torch.equal(load_lpips(tmp_path / "named.safetensors")(some, others), expected)


def test_any_convolutional_model_judges_by_its_named_layers(tmp_path):
    torch.manual_seed(0)
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "model.pth")
    some, others = pair(1, 3, 64, 64)
    deep = load_lpips(tmp_path / "model.pth", "resnet18", layers=["layer1", "layer4"])(some, others)
    shallow = load_lpips(tmp_path / "model.pth", "resnet18", layers=["layer1"])(some, others)
    assert 0 < shallow < deep
    with pytest.raises(ValueError, match="layers are modules of resnet18"):
        load_lpips(tmp_path / "model.pth", "resnet18", layers=["layer9"])


def test_layers_see_what_was_there_before_a_rectifier_in_place(tmp_path):
    files(tmp_path)
    judge = load_lpips(tmp_path / "model.pth", "squeezenet1_1", layers=["features.0", "features.2"])
    assert judge.features(pair(1, 3, 64, 64)[0])[0].min() < 0


def test_only_the_reconstruction_has_a_gradient_and_the_network_learns_nothing(tmp_path):
    files(tmp_path)
    judge = load_lpips(tmp_path / "model.pth", "squeezenet1_1", tmp_path / "heads.pth")
    some, others = (image.requires_grad_() for image in pair(1, 3, 64, 64))
    judge(some, others).sum().backward()
    assert some.grad.isfinite().all() and some.grad.abs().sum() > 0 and others.grad is None
    assert not any(weight.requires_grad for weight in judge.network.parameters()) and not judge.network.training


def test_features_of_nothing_have_a_finite_gradient():
    class Nothing(nn.Module):
        def forward(self, image):
            return {"a": image * 0}

    some, others = (image.requires_grad_() for image in pair(1, 3, 8, 8))
    distance = LPIPS("nothing", Nothing(), [torch.ones(3)])(some, others)
    distance.backward()
    assert distance == 0 and some.grad.isfinite().all()


def test_equal_pictures_are_0_apart_and_grey_ones_are_seen(tmp_path):
    files(tmp_path)
    judge = load_lpips(tmp_path / "model.pth", "squeezenet1_1")
    some, others = pair(1, 1, 64, 64)
    assert judge(some, some).item() == 0
    torch.testing.assert_close(judge(some, others), judge(some.expand(1, 3, 64, 64), others.expand(1, 3, 64, 64)))


def test_the_metric_is_that_of_pictures_of_8_bits(tmp_path):
    files(tmp_path)
    judge = load_lpips(tmp_path / "model.pth", "squeezenet1_1")
    some, others = pair(1, 3, 64, 64)
    rounded = [((image + 1) * 127.5).round() / 127.5 - 1 for image in (some, others)]
    assert lpips(judge, some, others) == pytest.approx(judge(*rounded).item(), rel=1e-6)


def wrong(folder, kind):
    """Arguments of `load_lpips` that are wrong, and what the message says."""
    model, heads = network()
    if kind == "missing":
        return [
            folder / "gone.pth",
            "squeezenet1_1",
        ], "gone.pth: weights of a backbone are a file.*sigtok-train backbone"
    if kind == "no weights":
        (folder / "a.pth").write_text("nothing")
        return [folder / "a.pth", "squeezenet1_1"], "a.pth: weights are safetensors or a state dict"
    if kind == "a whole model":
        torch.save(nn.Linear(2, 2), folder / "a.pth")
        return [folder / "a.pth", "squeezenet1_1"], "a.pth: weights are safetensors or a state dict"
    if kind == "a list":
        torch.save([torch.zeros(2)], folder / "a.pth")
        return [folder / "a.pth", "squeezenet1_1"], "tensors by name"
    torch.save(model.state_dict(), folder / "a.pth")
    torch.save({f"lin{place}.model.1.weight": head for place, head in enumerate(heads[:3])}, folder / "few.pth")
    torch.save({f"lin{place}.model.1.weight": -head for place, head in enumerate(heads)}, folder / "less.pth")
    named = {"perceptual": json.dumps({"backbone": "squeezenet1_1"})}
    safetensors.torch.save_file(model.state_dict(), folder / "a.safetensors", named)
    return {
        "another model's": (
            [folder / "a.pth", "alexnet"],
            r"weights of alexnet have features.0.weight \[64, 3, 11, 11\]",
        ),
        "no such model": ([folder / "a.pth", "vgg99"], "a backbone is one of .* got 'vgg99'"),
        "no name": ([folder / "a.pth"], "says nothing of its backbone"),
        "another name": ([folder / "a.safetensors", "alexnet"], "holds squeezenet1_1, got backbone alexnet"),
        "few heads": ([folder / "a.pth", "squeezenet1_1", folder / "few.pth"], "few.pth: heads of squeezenet1_1 have"),
        "negative heads": ([folder / "a.pth", "squeezenet1_1", folder / "less.pth"], "weigh by 0 or more"),
        "no heads": ([folder / "a.pth", "squeezenet1_1", folder / "a.pth"], "linear heads are tensors lin0"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "a list", "a whole model", "another model's", "another name", "few heads", "missing", "negative heads",
        "no heads", "no name", "no such model", "no weights",
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_in_one_line_that_says_what_is_expected(tmp_path, kind):
    arguments, message = wrong(tmp_path, kind)
    with pytest.raises(ValueError, match=message) as caught:
        load_lpips(*arguments)
    assert "\n" not in str(caught.value)


def test_pictures_that_are_too_small_are_refused(tmp_path):
    files(tmp_path)
    judge = load_lpips(tmp_path / "model.pth", "squeezenet1_1")
    with pytest.raises(ValueError, match="halves a picture again and again"):
        judge(*pair(1, 3, 4, 4))
    with pytest.raises(ValueError, match="3 channels or 1, got 2"):
        judge(*pair(1, 2, 64, 64))


def test_without_torchvision_one_line_says_so(tmp_path, monkeypatch):
    files(tmp_path)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ValueError, match="needs torchvision"):
        load_lpips(tmp_path / "model.pth", "squeezenet1_1")


def test_ssimulacra_is_100_of_equal_pictures_and_falls(tmp_path):
    pytest.importorskip("ssimulacra2")
    first = pair(1, 3, 64, 64)[0]
    near, far = (first + scale * torch.randn_like(first) for scale in (0.02, 0.2))
    assert ssimulacra(first, first) == 100 > ssimulacra(near, first) > ssimulacra(far, first)
    with pytest.raises(ValueError, match="8 pixels a side"):
        ssimulacra(first[..., :7], first[..., :7])


# -- the formats that codecs are measured against ------------------------------------------------------------


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_higher_quality_is_a_larger_file_and_a_closer_picture(form):
    picture = nn.functional.interpolate(pair(1, 3, 8, 8)[0], (64, 80), mode="bicubic").clamp(-1, 1)
    data = [image_to_bytes(picture[0].numpy(), form, quality) for quality in (1, 50, 95)]
    values = [psnr(torch.from_numpy(image_from_bytes(file))[None], picture) for file in data]
    assert len(data[0]) < len(data[1]) < len(data[2]) and values[0] < values[1] < values[2]
    exact = image_from_bytes(image_to_bytes(picture[0].numpy(), "png", 1))
    assert psnr(torch.from_numpy(exact)[None], picture) == float("inf")


def test_a_picture_that_a_format_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="16400x1 pixels does not go into webp"):
        image_to_bytes(torch.zeros(3, 1, 16_400).numpy(), "webp", 1)


def test_pixels_are_pixels():
    pixels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(16, 16, 3).numpy()
    assert (((from_pixels(pixels) + 1) * 127.5).round() == pixels.transpose(2, 0, 1)).all()
