"""Laws of discriminators, over all members; then what each of them looks at, against slow references."""

import math

import pytest
import torch

from sigtok.train.discriminators.base import Discriminators
from sigtok.train.discriminators.patch import PatchGAN
from sigtok.train.discriminators.stft import STFTDiscriminator, mrd, ms_stft, spectrogram
from sigtok.train.discriminators.waveform import fold, mpd
from sigtok.train.losses.adversarial import AdversarialLoss

WIDTHS = (8, 16, 16)
SOUNDS, IMAGES = ((1,), (2,), (37,), (300,)), ((12, 12), (17, 30))
DISCRIMINATORS = {  # made for a number of channels; extents; networks
    "mpd": (lambda channels: mpd((2, 3), WIDTHS, channels), SOUNDS, 2),
    "ms_stft": (lambda channels: ms_stft((64, 32), 4, channels), SOUNDS, 2),
    "mrd": (lambda channels: mrd((64, 32), 4, channels), SOUNDS, 2),
    "several": (lambda channels: Discriminators([mpd((2,), WIDTHS, channels), mrd((64, 32), 4, channels)]), SOUNDS, 3),
    "patch": (lambda channels: PatchGAN(2, 8, channels), IMAGES, 1),
}
CASES = [
    (name, channels, extent)
    for name, (_, extents, _) in DISCRIMINATORS.items()
    for channels in (1, 2)
    for extent in extents
]


def tensors(judgements):
    return [tensor for judgement in judgements for tensor in (judgement.score, *judgement.features)]


@pytest.mark.parametrize(("name", "channels", "extent"), CASES)
def test_any_extent_and_any_channels_are_judged(name, channels, extent):
    make, _, networks = DISCRIMINATORS[name]
    discriminator, signal = make(channels), torch.randn(3, channels, *extent)
    judgements = discriminator(signal)
    assert len(judgements) == networks
    for judgement in judgements:
        assert judgement.score.shape[:2] == (3, 1) and judgement.score.numel()
        assert judgement.features and all(len(maps) == 3 and maps.numel() for maps in judgement.features)
    alone = [tensors(discriminator(item[None])) for item in signal]
    for whole, *items in zip(tensors(judgements), *alone, strict=True):
        torch.testing.assert_close(whole, torch.cat(items))


@pytest.fixture(params=DISCRIMINATORS)
def case(request):
    make, extents, _ = DISCRIMINATORS[request.param]
    return make(1), 0.3 * torch.randn(2, 1, *extents[-1])


def test_every_input_and_every_weight_has_a_say(case):
    discriminator, signal = case
    signal.requires_grad_()
    sum(judgement.score.square().sum() for judgement in discriminator(signal)).backward()
    assert signal.grad.count_nonzero() == signal.numel()
    assert all(weight.grad.count_nonzero() for weight in discriminator.parameters())


def test_silence_is_finite_in_judgement_and_gradient(case):
    discriminator, signal = case
    silence = torch.zeros_like(signal, requires_grad=True)
    judgements = tensors(discriminator(silence))
    sum(values.square().sum() for values in judgements).backward()
    for values in (*judgements, silence.grad, *(weight.grad for weight in discriminator.parameters())):
        assert values.isfinite().all()


def test_a_frozen_discriminator_passes_gradients_and_keeps_none(case):
    discriminator, signal = case
    signal.requires_grad_()
    AdversarialLoss().generator(discriminator.requires_grad_(False)(signal)).backward()
    assert signal.grad.count_nonzero()
    assert all(weight.grad is None for weight in discriminator.parameters())


def test_half_precision_steps_have_finite_judgements(case):
    discriminator, signal = case
    with torch.autocast("cpu", torch.bfloat16):
        judgements = discriminator(signal.bfloat16())
    for low, full in zip(tensors(judgements), tensors(discriminator(signal)), strict=True):
        torch.testing.assert_close(low.float(), full, atol=0.05, rtol=0.05)


def test_noise_is_told_from_tones_after_forty_steps(case):
    discriminator, signal = case
    optimizer, loss = torch.optim.Adam(discriminator.parameters(), 1e-2, (0.5, 0.9)), AdversarialLoss()
    extent = signal.shape[2:]

    def tones_and_noise():
        places = torch.arange(extent.numel()).view(extent)
        tones = torch.sin(places * (0.2 + torch.rand(8, 1, *[1] * len(extent))))
        return tones, torch.randn_like(tones) / 2**0.5

    for _ in range(40):
        real, fake = map(discriminator, tones_and_noise())
        optimizer.zero_grad()
        loss.discriminator(real, fake).backward()
        optimizer.step()
    with torch.no_grad():
        real, fake = (
            torch.stack([judgement.score.flatten(1).mean(1) for judgement in discriminator(batch)]).mean(0)
            for batch in tones_and_noise()
        )
    assert (real[:, None] > fake).float().mean() > 0.9


# -- periods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [1, 2, 5, 11])
def test_a_signal_of_the_period_has_equal_columns(period):
    signal = torch.randn(2, 3, period)
    columns = fold(signal.repeat(1, 1, 4), period)
    assert columns.shape == (2, 3, period, 4)
    assert torch.equal(columns, signal[..., None].expand(-1, -1, -1, 4))


@pytest.mark.parametrize("extent", [1, 4, 9, 10, 11])
def test_a_row_is_every_fifth_sample_then_zeros(extent):
    signal = torch.randn(2, 1, extent)
    for phase, row in enumerate(fold(signal, 5)[0, 0]):
        samples = signal[0, 0, phase::5]
        assert torch.equal(row[: len(samples)], samples) and not row[len(samples) :].any()


def test_a_sample_is_seen_by_its_own_phase_alone():
    discriminator, signal = mpd((7,), WIDTHS), torch.randn(1, 1, 210)
    louder = signal.clone()
    louder[..., 3::7] += 1
    changed = (discriminator(louder)[0].score != discriminator(signal)[0].score).any(-1)
    assert changed.flatten().tolist() == [phase == 3 for phase in range(7)]


# -- spectrograms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [1, 7, 16, 50])
def test_the_spectrogram_is_the_sum_over_windowed_samples(extent):
    signal, window = torch.randn(2, 2, extent, dtype=torch.float64), 16
    taper = [math.sin(math.pi * n / window) ** 2 for n in range(window)]
    length = math.sqrt(sum(weight**2 for weight in taper))
    frames = spectrogram(signal, window)
    assert frames.shape == (2, 4, extent // 4 + 1, 9)
    for frame in range(extent // 4 + 1):
        for bin in range(9):
            expected = torch.zeros(2, 2, dtype=torch.complex128)
            for n in range(window):
                if 0 <= (at := frame * 4 - window // 2 + n) < extent:
                    turn = -2 * math.pi * bin * n / window
                    expected += signal[..., at] * taper[n] / length * complex(math.cos(turn), math.sin(turn))
            torch.testing.assert_close(frames[:, :2, frame, bin], expected.real)
            torch.testing.assert_close(frames[:, 2:, frame, bin], expected.imag)


def test_noise_of_power_one_has_power_one_at_every_resolution():
    noise = torch.randn(1, 1, 200_000)
    for window in (32, 512):
        assert spectrogram(noise, window)[..., 1:-1].square().mean().item() == pytest.approx(0.5, rel=0.02)


def test_a_band_sees_its_own_frequencies_alone():
    low = STFTDiscriminator(64, (0.0, 0.5), (1,), 4, 0.1)
    high = STFTDiscriminator(64, (0.5, 1.0), (1,), 4, 0.1)
    steps, noise = torch.arange(600), 0.1 * torch.randn(1, 1, 600)
    for frequency, moved, still in ((0.1, low, high), (0.9, high, low)):
        tone = torch.sin(math.pi * frequency * steps).expand(1, 1, -1) * torch.hann_window(600)
        change = [(judge(noise + tone)[0].score - judge(noise)[0].score).abs().max().item() for judge in (moved, still)]
        assert change[0] > 100 * change[1]


@pytest.mark.parametrize(("make", "reach"), [(ms_stft, 1 + 1 + 2 + 4 + 1 + 1), (mrd, 1 + 1 + 1 + 1 + 1 + 1)])
def test_a_score_reaches_over_the_published_frames(make, reach):
    discriminator, signal = make((32,), 4), torch.randn(1, 1, 800)
    clicked = signal.clone()
    clicked[..., 400] += 100  # the centre of a frame; its two neighbours hear it too
    changed = (discriminator(clicked)[0].score != discriminator(signal)[0].score).any(-1).flatten()
    assert changed.nonzero().flatten().tolist() == list(range(50 - 1 - reach, 50 + 1 + reach + 1))


def test_bands_cut_every_bin_once():
    members = mrd((64, 2048), 4).members
    for window, member in zip((64, 2048), members, strict=True):
        taken = [bin for band in member.bands for bin in range(window // 2 + 1)[band]]
        assert taken == list(range(window // 2 + 1)) and len(member.bands) == 5


def test_an_empty_band_is_refused():
    with pytest.raises(ValueError, match="at least one of the 9 bins"):
        mrd((16,))


# -- patches, sizes ------------------------------------------------------------------------------------------


def test_a_score_sees_seventy_pixels():
    """The published patch: two scores are 8 pixels apart."""
    image = torch.zeros(1, 3, 160, 160, requires_grad=True)
    (judgement,) = PatchGAN(width=2)(image)
    for row, column in ((8, 9), (9, 10)):
        (seen,) = torch.autograd.grad(judgement.score[0, 0, row, column], image, retain_graph=True)
        rows = seen[0].abs().sum((0, 2)).nonzero().flatten()
        columns = seen[0].abs().sum((0, 1)).nonzero().flatten()
        assert (len(rows), len(columns)) == (70, 70)
        assert columns[0] - rows[0] == 8


def test_an_image_below_one_score_is_refused():
    discriminator = PatchGAN(2, 4)
    with pytest.raises(ValueError, match=r"at least 12 pixels a side, got \(11, 30\)"):
        discriminator(torch.zeros(1, 3, 11, 30))


def parameters(*convolutions):
    """Of weight-normed convolutions (inputs, outputs, kernel), with gains and biases."""
    return sum(inputs * outputs * kernel + 2 * outputs for inputs, outputs, kernel in convolutions)


SIZES = {  # from the layer tables of the published programs
    "mpd": (
        mpd,
        5 * parameters((1, 32, 5), (32, 128, 5), (128, 512, 5), (512, 1024, 5), (1024, 1024, 5), (1024, 1, 3)),
    ),
    "ms_stft": (ms_stft, 5 * parameters((2, 32, 27), *[(32, 32, 27)] * 3, (32, 32, 9), (32, 1, 9))),
    "mrd": (mrd, 3 * parameters(*[(2, 32, 27), *[(32, 32, 27)] * 3, (32, 32, 9)] * 5, (32, 1, 9))),
    "patch": (PatchGAN, parameters((3, 64, 16), (64, 128, 16), (128, 256, 16), (256, 512, 16), (512, 1, 16))),
}


@pytest.mark.parametrize("name", SIZES)
def test_defaults_have_the_published_size(name):
    make, expected = SIZES[name]
    with torch.device("meta"):
        assert sum(weight.numel() for weight in make().parameters()) == expected
