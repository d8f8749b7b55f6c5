"""Laws of every front and back of audio codecs, and what they rest on: companding, transforms, a convolution."""

import itertools
import math

import pytest
import torch
from torch import nn

from sigtok.codecs.audio.companding import KNEE, Companding
from sigtok.codecs.audio.ends import KINDS, front_and_back
from sigtok.codecs.layers.conv1d import CausalConvTranspose1d
from sigtok.codecs.metrics.mel import magnitudes

DIM = 6
ENDS = {  # case: kind, samples per position, options
    "spectrum": ("spectrum", 8, {"blocks": 1}),
    "spectrum_stack": ("spectrum", 16, {"stack": 2, "overlap": 5, "blocks": 0}),
    "seanet": ("seanet", 8, {"filters": 4, "strides": [2, 4]}),
    "seanet_deep": ("seanet", 12, {"filters": 2, "strides": [2, 1, 6], "residual_layers": 3}),
    "seanet_bare": ("seanet", 3, {"filters": 4, "strides": [3], "residual_layers": 0}),
    "mdct": ("mdct", 8, {"blocks": 1}),
    "mdct_stack": ("mdct", 24, {"stack": 3, "blocks": 0}),
    "stft": ("stft", 8, {"blocks": 1}),
    "stft_stack": ("stft", 14, {"stack": 2, "overlap": 3, "blocks": 0}),
    "wavelet": ("wavelet", 12, {"levels": 3, "margin": 4, "blocks": 1}),
    "wavelet_stack": ("wavelet", 24, {"stack": 2, "levels": 2, "margin": 12, "blocks": 0}),
}
EXACT = [case for case, (kind, _, _) in ENDS.items() if kind in ("mdct", "stft", "wavelet")]
COUNT = 5  # positions of a signal; all 16 partitions of it are tried
CASES = pytest.mark.parametrize("case", ENDS)


def build(case, dim=DIM):
    """Front, back, and samples per position."""
    kind, hop, options = ENDS[case]
    return *front_and_back(kind, hop, dim, options), hop


def random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def read(front, signal):
    return front(signal, front.initial_state(len(signal)))[0]


def write(back, positions):
    """The stream of a back to its last sample, as late as it comes."""
    samples, state = back(positions, back.initial_state(len(positions)))
    return torch.cat((samples, back.flush(state)), dim=1)


def reconstruct(front, back, signal):
    return write(back, read(front, signal))[:, None, back.delay :]


def partitions():
    """Lists of chunk lengths that add up to `COUNT`."""
    for cuts in itertools.product((False, True), repeat=COUNT - 1):
        ends = [place + 1 for place, cut in enumerate(cuts) if cut] + [COUNT]
        yield [end - start for start, end in zip([0, *ends], ends, strict=False)]


def in_pieces(module, values, axis, lengths, unit):
    parts, state = [], module.initial_state(len(values))
    for chunk in values.split([length * unit for length in lengths], dim=axis):
        part, state = module(chunk, state)
        parts.append(part)
    return parts, state


PRECISION = pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])


# -- laws --------------------------------------------------------------------------------------------------


def test_every_kind_is_in_the_table():
    assert {kind for kind, _, _ in ENDS.values()} == set(KINDS)


@CASES
def test_a_position_is_a_hop_of_samples_and_the_other_way_round(case):
    front, back, hop = build(case)
    for count in (1, 2, COUNT):
        positions = read(front, torch.randn(2, 1, count * hop))
        assert positions.shape == (2, count, DIM)
        samples, state = back(positions, back.initial_state(2))
        assert samples.shape == (2, count * hop) and back.flush(state).shape == (2, back.delay)
        assert reconstruct(front, back, torch.randn(2, 1, count * hop)).shape == (2, 1, count * hop)


@CASES
@PRECISION
def test_pieces_of_a_signal_give_the_positions_of_the_whole(case, dtype, tolerance):
    front, _, hop = build(case)
    front, signal = front.to(dtype), random(2, 1, COUNT * hop, dtype=dtype)
    whole = read(front, signal)
    for lengths in partitions():
        parts, _ = in_pieces(front, signal, 2, lengths, hop)
        assert [part.shape[1] for part in parts] == lengths
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=tolerance, atol=tolerance)


@CASES
@PRECISION
def test_pieces_of_positions_give_the_samples_of_the_whole_to_the_last(case, dtype, tolerance):
    _, back, hop = build(case)
    back, positions = back.to(dtype), random(2, COUNT, DIM, dtype=dtype)
    whole = write(back, positions)
    for lengths in partitions():
        parts, state = in_pieces(back, positions, 1, lengths, 1)
        assert [part.shape[1] for part in parts] == [length * hop for length in lengths]
        pieces = torch.cat((*parts, back.flush(state)), dim=1)
        torch.testing.assert_close(pieces, whole, rtol=tolerance, atol=tolerance)


@CASES
def test_a_position_hears_its_own_hop_and_nothing_later(case):
    front, _, hop = build(case)
    front, signal = front.double(), random(1, 1, COUNT * hop)
    positions = read(front, signal)
    for count in range(COUNT):
        changed = torch.cat((signal[..., : count * hop], random(1, 1, (COUNT - count) * hop)), dim=2)
        others = read(front, changed)
        torch.testing.assert_close(others[:, :count], positions[:, :count], rtol=1e-12, atol=1e-12)
        assert (others[:, count] - positions[:, count]).abs().max() > 1e-3


@CASES
def test_a_sample_is_late_by_no_more_than_the_delay(case):
    """A position first changes a sample of its own hop in the stream, so nothing comes out before it is known."""
    _, back, hop = build(case)
    back, positions = back.double(), random(1, COUNT, DIM)
    samples = write(back, positions)
    for count in range(COUNT):
        changed = torch.cat((positions[:, :count], random(1, COUNT - count, DIM)), dim=1)
        differ = (write(back, changed) - samples)[0].abs() > 1e-13
        assert count * hop <= int(differ.nonzero()[0]) < (count + 1) * hop
        assert differ[(count + 1) * hop :].any() or back.delay == 0


@CASES
def test_items_of_a_batch_are_independent(case):
    front, back, hop = build(case)
    signal = torch.randn(3, 1, 4 * hop)
    alone = torch.cat([reconstruct(front, back, item[None]) for item in signal])
    torch.testing.assert_close(reconstruct(front, back, signal), alone, rtol=1e-5, atol=1e-6)


@CASES
def test_gradients_reach_every_weight_and_every_hop(case):
    front, back, hop = build(case)
    front, back = front.double(), back.double()
    signal = random(2, 1, COUNT * hop).requires_grad_()
    (reconstruct(front, back, signal) - random(2, 1, COUNT * hop)).square().sum().backward()
    for name, weight in (*front.named_parameters(), *back.named_parameters()):
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name
    assert signal.grad.isfinite().all() and signal.grad.unflatten(2, (COUNT, hop)).any(3).all()


@CASES
def test_silence_and_full_scale_are_finite_with_their_gradients(case):
    for level in (0.0, 1.0):
        front, back, hop = build(case)
        signal = torch.full((1, 1, COUNT * hop), level).requires_grad_()
        output = reconstruct(front, back, signal)
        output.square().sum().backward()
        weights = (*front.parameters(), *back.parameters())
        assert output.isfinite().all() and signal.grad.isfinite().all()
        assert all(weight.grad.isfinite().all() for weight in weights)


@pytest.mark.parametrize("case", KINDS)
def test_ends_export(case):
    """As graphs of any length: no choice depends on data."""
    count = torch.export.Dim("count", min=2, max=4096)
    front, back, hop = build(case)
    signal, positions = torch.randn(1, 1, 3 * hop), torch.randn(1, 3, DIM)
    for module, values, axis, unit in ((front, signal, 2, hop), (back, positions, 1, 1)):
        state = module.initial_state(1)
        axes = ({axis: unit * count}, fixed(state))
        graph = torch.export.export(module, (values, state), dynamic_shapes=axes, strict=False)
        longer = torch.cat((values, values), dim=axis)
        torch.testing.assert_close(graph.module()(longer, state)[0], module(longer, state)[0])
        assert not any(getattr(node.meta.get("val"), "is_complex", bool)() for node in graph.graph.nodes)


def fixed(state):
    """No axis of a state is dynamic."""
    return None if isinstance(state, torch.Tensor) else tuple(fixed(part) for part in state)


# -- beginnings --------------------------------------------------------------------------------------------


def speech_like(seconds=2, rate=24_000):
    """A gliding voice of 30 harmonics and a little noise, in syllables; root mean square 0.07."""
    time = torch.arange(seconds * rate) / rate
    pitch = 2 * math.pi * (120 * time + 8 * torch.sin(2 * time))
    voice = sum(torch.sin(number * pitch + number**2) / number for number in range(1, 31))
    signal = (voice + 0.05 * torch.randn(len(time))) * (1 + torch.sin(2 * math.pi * 4 * time))
    return (0.07 * signal / signal.square().mean().sqrt())[None, None]


@pytest.mark.parametrize("kind", KINDS)
def test_positions_of_speech_begin_at_unit_scale(kind):
    front, _ = front_and_back(kind, 320, 64)
    assert 0.4 < float(read(front, speech_like()).detach().square().mean().sqrt()) < 2.5


@pytest.mark.parametrize(
    "kind", sorted(set(KINDS) - {"spectrum"})
)  # that one begins at 0.5, as released models have it
def test_an_untrained_back_is_quiet_but_not_silent(kind):
    _, back = front_and_back(kind, 320, 64)
    assert 1e-5 < float(write(back, torch.randn(1, 75, 64)).detach().square().mean().sqrt()) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_sixty_steps_learn_a_batch_of_tones(kind):
    options = {"filters": 8, "strides": [4, 4, 4]} if kind == "seanet" else {"levels": 4, "margin": 16}
    front, back = front_and_back(kind, 64, 64, options if kind in ("seanet", "wavelet") else {})
    time = torch.arange(16 * 64) / 8000
    tones = torch.stack([0.1 * torch.sin(2 * math.pi * pitch * time) for pitch in (300, 700, 1100, 1700)])[:, None]
    optimizer = torch.optim.Adam([*front.parameters(), *back.parameters()], lr=3e-3)

    def distance():
        """Of spectra, and of samples for those that hear the phase."""
        guess = reconstruct(front, back, tones)
        some, others = (magnitudes(signal, 256) for signal in (guess, tones))
        if kind == "spectrum":
            return (some - others).abs().mean() / others.mean()
        spectral = (some.clamp(min=1e-3).log() - others.clamp(min=1e-3).log()).abs().mean()
        return spectral + 10 * (guess - tones).abs().mean()

    before = float(distance().detach())
    for _ in range(60):
        optimizer.zero_grad()
        distance().backward()
        optimizer.step()
    assert float(distance().detach()) < 0.6 * before


# -- exact transforms --------------------------------------------------------------------------------------


def bare(case):
    """Front and back of a lapped transform with all that is learned taken out, in float64."""
    front, back, hop = build(case)
    front.project = back.expand = back.head = nn.Identity()
    back.blocks = nn.ModuleList()
    front, back = front.double(), back.double()
    back.stack = 1  # coefficients of every frame come in as they are
    return front, back, hop


@pytest.mark.parametrize("case", EXACT)
def test_companded_coefficients_of_a_signal_are_the_signal(case):
    front, back, hop = bare(case)
    signal = 0.3 * random(2, 1, COUNT * hop)
    frames = read(front, signal).unflatten(2, (front.stack, -1)).flatten(1, 2)
    samples = write(back, frames)
    exact = COUNT * hop - back.delay
    torch.testing.assert_close(samples[:, back.delay :][:, :exact], signal[:, 0, :exact], rtol=0, atol=1e-6)
    assert not samples[:, : back.delay].abs().gt(1e-6).any()  # before the beginning is silence


@pytest.mark.parametrize("case", EXACT)
def test_coefficients_are_as_large_as_samples(case):
    front, back, hop = bare(case)
    signal = 0.3 * random(4, 1, 400 * hop)
    values = read(front, signal).unflatten(2, (front.stack, -1))
    power = back.companding.inverse(values).square().mean()
    assert 0.2 * 0.09 < float(power) * front.companding.parts < 2 * 0.09


@pytest.mark.parametrize("case", EXACT)
def test_mixed_precision_does_not_reach_the_transform(case):
    front, back, hop = bare(case)
    front, back, signal = front.float(), back.float(), 0.3 * torch.randn(1, 1, COUNT * hop)
    values = read(front, signal)
    frames = values.unflatten(2, (front.stack, -1)).flatten(1, 2)
    samples = write(back, frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(read(front, signal), values)
        assert torch.equal(write(back, frames), samples)


@pytest.mark.parametrize("parts", [1, 2])
def test_companding_is_undone_from_the_faintest_to_the_loudest(parts):
    companding = Companding(parts)
    levels = torch.logspace(-7, 1.2, 200, dtype=torch.float64)[:, None]
    numbers = levels * random(200, 3 * parts).sign()
    values = companding(numbers)
    torch.testing.assert_close(companding.inverse(values), numbers, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(companding(-numbers), -values)
    assert (values[levels[:, 0] > 1].abs() < 6).all() and values.sign().equal(numbers.sign())


def test_companding_keeps_the_phase_and_bends_the_magnitude():
    numbers = torch.complex(random(500, 3), random(500, 3)) * torch.logspace(-5, 1, 500, dtype=torch.float64)[:, None]
    values = Companding(2)(torch.cat((numbers.real, numbers.imag), dim=1))
    values = torch.complex(*values.chunk(2, dim=1))
    torch.testing.assert_close(values.angle(), numbers.angle())
    magnitudes_alone = Companding(1)(numbers.abs())
    torch.testing.assert_close(values.abs(), magnitudes_alone, rtol=1e-6, atol=1e-9)
    faint, loud = Companding(1)(torch.tensor([[KNEE / 50, KNEE / 100], [1.0, 0.5]], dtype=torch.float64))
    assert float(faint[0] / faint[1]) == pytest.approx(2, abs=1e-3)
    assert float(loud[0] - loud[1]) == pytest.approx(math.log(2) / 2, abs=1e-3)


def test_expansion_stops_where_no_sound_is():
    for parts in (1, 2):
        values = torch.full((1, 2), 1e4).requires_grad_()
        loudest = Companding(parts).inverse(values)
        loudest.sum().backward()
        assert 20 < float(loudest.detach().abs().max()) < 40 and values.grad.isfinite().all()


# -- a transposed convolution that streams -----------------------------------------------------------------


@pytest.mark.parametrize("kernel, stride", [(1, 1), (3, 1), (4, 2), (2, 2), (16, 8), (5, 3), (7, 2)])
def test_a_transposed_convolution_is_the_sum_of_kernels(kernel, stride):
    layer = CausalConvTranspose1d(3, 2, kernel, stride).double()
    nn.init.normal_(layer.bias)
    signal, state = random(2, 3, COUNT), layer.initial_state(2)
    output, state = layer(signal, state)
    expected = torch.zeros(2, 2, COUNT * stride + kernel - stride, dtype=torch.float64)
    for place in range(COUNT):
        kernels = torch.einsum("bi,iok->bok", signal[:, :, place], layer.conv.weight)
        expected[:, :, place * stride : place * stride + kernel] += kernels
    done = COUNT * stride
    torch.testing.assert_close(output, expected[..., :done] + layer.bias[:, None])
    torch.testing.assert_close(state, expected[..., done:])
    for lengths in partitions():
        parts, last = in_pieces(layer, signal, 2, lengths, 1)
        torch.testing.assert_close(torch.cat(parts, dim=2), output, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(last, state, rtol=1e-12, atol=1e-12)


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "hop", "options", "message"),
    [
        ("fourier", 8, None, "fronts are spectrum, seanet, mdct, stft, wavelet; got 'fourier'"),
        ("mdct", 8, {"block": 3}, "options of front 'mdct' are stack, blocks; got 'block'"),
        ("stft", 8, {"dim": 3, "hop": 4}, "options of front 'stft' are stack, overlap, blocks; got 'dim', 'hop'"),
        ("seanet", 480, {}, r"strides multiply to the hop, got \(2, 4, 5, 8\) for hop=480"),
        ("stft", 8, {"overlap": 1}, "2 or more frames overlap, got overlap=1"),
        ("wavelet", 320, {"margin": 60}, "multiple of 64 samples for levels=6, got 320 \\+ margin=60"),
        ("wavelet", 8, {"levels": 1, "margin": 10}, "got 8 \\+ margin=10"),
        ("wavelet", 8, {"levels": 1, "margin": 0}, "got 8 \\+ margin=0"),
        *((kind, 10, {"stack": 3}, "got hop=10 for stack=3") for kind in ("spectrum", "mdct", "stft", "wavelet")),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(kind, hop, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        front_and_back(kind, hop, DIM, options)
    assert "\n" not in str(caught.value)


def test_a_kernel_shorter_than_its_stride_is_refused():
    with pytest.raises(ValueError, match="kernel=2, stride=3"):
        CausalConvTranspose1d(1, 1, 2, 3)
