"""Laws of reconstruction losses, over all members; then the numbers of each."""

import math
import tempfile
import warnings

import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from torchvision import models

from sigtok.codecs.metrics.audio import mel_distance, si_sdr
from sigtok.codecs.metrics.image import multiscale_similarity
from sigtok.train.losses.features import StandardisedMSE
from sigtok.train.losses.image import MSSSIM
from sigtok.train.losses.perceptual import Perceptual, fitting_scales
from sigtok.train.losses.spectral import MultiResolutionSTFT, MultiScaleMel
from sigtok.train.losses.waveform import L1, MSE, SISDR


def lpips():
    """The perceptual loss with random weights."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        torch.manual_seed(0)
        torch.save(models.squeezenet1_1(weights=None).state_dict(), file.name)
        return Perceptual("squeezenet1_1", file.name)


def similarity():
    """The perceptual loss without weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Perceptual()


LOSSES = {
    "l1": (L1, (2, 1, 4000)),
    "mse": (MSE, (2, 1, 4000)),
    "standardised_mse": (StandardisedMSE, (2, 7, 400)),
    "l1_image": (L1, (2, 3, 16, 16)),
    "si_sdr": (SISDR, (2, 1, 4000)),
    "mel": (lambda: MultiScaleMel(16_000), (2, 1, 4000)),
    "mel_subset": (lambda: MultiScaleMel(16_000, [64, 1024], [10, 80]), (2, 2, 4000)),
    "stft": (MultiResolutionSTFT, (2, 1, 4000)),
    "ms_ssim": (lambda: MSSSIM(scales=3), (2, 3, 48, 56)),
    "lpips": (lpips, (2, 3, 48, 56)),
    "perceptual_without_weights": (similarity, (2, 3, 48, 56)),
}


@pytest.fixture(params=LOSSES)
def case(request):
    make, shape = LOSSES[request.param]
    signal = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    error = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return make(), signal.clamp(-1, 1), error


def test_equal_signals_have_the_least_loss(case):
    loss, signal, error = case
    least = loss(signal, signal)
    assert least < loss(signal + 0.1 * error, signal) < loss(signal + error, signal)
    if not isinstance(loss, SISDR):
        assert least.item() == pytest.approx(0, abs=1e-6)


def test_the_gradient_goes_downhill(case):
    loss, signal, error = case
    guess = (signal + error).requires_grad_()
    before = loss(guess, signal)
    before.backward()
    step = 1e-3 * guess.grad / guess.grad.norm()
    assert loss(guess.detach() - step, signal) < before


@pytest.mark.parametrize("silent", ["both", "signal", "reconstruction"])
def test_silence_is_finite_in_value_and_gradient(case, silent):
    loss, signal, _ = case
    target = torch.zeros_like(signal) if silent != "reconstruction" else signal
    guess = (torch.zeros_like(signal) if silent != "signal" else signal.clone()).requires_grad_()
    value = loss(guess, target)
    value.backward()
    assert value.isfinite() and guess.grad.isfinite().all()


def test_half_precision_signals_are_compared_in_float32(case):
    loss, signal, error = case
    guess = (signal + error).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(guess, signal.bfloat16())
    assert value.dtype == torch.float32
    assert value == loss(guess.float(), signal.bfloat16().float())


def test_the_target_has_no_gradient(case):
    loss, signal, error = case
    target = signal.clone().requires_grad_()
    loss((signal + error).requires_grad_(), target).backward()
    assert target.grad is None


def test_a_loss_adds_nothing_to_a_checkpoint(case):
    loss, _, _ = case
    assert not loss.state_dict() and not list(loss.parameters())


def test_other_shapes_are_refused(case):
    loss, signal, _ = case
    with pytest.raises(Exception, match="reconstruction"):
        loss(signal[..., :-1], signal)


def test_seven_scales_are_the_metric(case):
    _, signal, error = case
    if signal.dim() == 3 and signal.shape[1] == 1:
        ours = MultiScaleMel(16_000)(signal + error, signal).item()
        assert ours == pytest.approx(mel_distance(signal + error, signal, 16_000), rel=1e-5)


def test_si_sdr_and_ms_ssim_are_the_metrics():
    signal, error = torch.randn(2, 3, 1, 4000, generator=torch.Generator().manual_seed(0))
    assert SISDR()(signal + error, signal).item() == pytest.approx(-si_sdr(signal + error, signal), rel=1e-4)
    image = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    other = image.flip(-1)
    expected = 1 - multiscale_similarity(other, image, 2).item()
    assert MSSSIM(2)(other * 2 - 1, image * 2 - 1).item() == pytest.approx(expected, abs=1e-5)


def test_spectral_convergence_of_a_gain():
    signal = torch.randn(1, 1, 8000, generator=torch.Generator().manual_seed(0))
    value = MultiResolutionSTFT([512])(0.5 * signal, signal).item()
    assert value == pytest.approx(0.5 + math.log(2), rel=1e-3)


def test_every_scale_has_its_bands():
    with pytest.raises(ValueError, match="3 windows and 2 mels"):
        MultiScaleMel(16_000, [64, 128, 256], [10, 20])


# -- the perceptual loss -------------------------------------------------------------------------------------


def test_without_weights_it_is_ms_ssim_of_as_many_scales_as_fit_and_says_so_once():
    with pytest.warns(
        UserWarning, match=r"no weights of vgg16 and is MS-SSIM; make them with `sigtok-train backbone"
    ) as told:
        loss = Perceptual()
        for side, scales in ((11, 1), (20, 1), (21, 2), (40, 2), (41, 3), (80, 3), (81, 4), (161, 5), (400, 5)):
            image = torch.rand(1, 3, side, side + 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
            assert fitting_scales(side) == scales
            assert loss(image.flip(-1), image) == MSSSIM(scales)(image.flip(-1), image)
    assert len(told) == 1 and "\n" not in str(told[0].message)


def test_a_run_names_the_perceptual_loss_in_its_yaml(tmp_path):
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "model.pth")
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_argument("--losses", type=dict[str, torch.nn.Module])
    arguments = {"backbone": "squeezenet1_1", "weights": str(tmp_path / "model.pth"), "layers": ["features.1"]}
    setting = {"perceptual": {"class_path": "sigtok.train.losses.perceptual.Perceptual", "init_args": arguments}}
    loss = parser.instantiate(parser.parse_object({"losses": setting})).losses["perceptual"]
    assert isinstance(loss, Perceptual) and loss(*torch.rand(2, 1, 3, 48, 48)) > 0


def test_weights_that_are_not_there_are_an_error_and_never_ms_ssim():
    with pytest.raises(ValueError, match="gone.pth: weights of a backbone are a file"):
        Perceptual(weights="gone.pth")
    with pytest.raises(ValueError, match="heads and layers belong to weights"):
        Perceptual(heads="heads.pth")
