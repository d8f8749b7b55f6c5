"""Layers against slow references: rotary positions, window attention, convolutions in time, spectra."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sigtok.codecs.audio.fronts import FLOOR, SpectrumBack, SpectrumFront
from sigtok.codecs.audio.spectra import half_spectrum
from sigtok.codecs.layers import transformer as transformer_module
from sigtok.codecs.layers.conv1d import CausalBlock, CausalConv1d
from sigtok.codecs.layers.rope import rotary_table, rotate
from sigtok.codecs.layers.transformer import Block, WindowTransformer


def close(some, others, tolerance=1e-12):
    torch.testing.assert_close(some, others, rtol=tolerance, atol=tolerance)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# -- rotary positions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes, head_dim", [(1, 2), (1, 8), (2, 4), (2, 16), (3, 12)])
def test_products_depend_on_the_difference_of_positions_only(axes, head_dim):
    query, key = random(head_dim), random(head_dim)
    places, shift = 20 * random(50, axes), 100 * random(1, axes)

    def products(places):
        turned = rotate(query.expand(50, -1), rotary_table(places, head_dim))
        return turned @ rotate(key.expand(50, -1), rotary_table(places, head_dim)).t()

    close(products(places + shift), products(places), 1e-10)
    assert (products(2 * places) - products(places)).abs().max() > 0.1


def test_each_axis_turns_its_own_pairs():
    heads = random(1, 8)
    for axis in (0, 1):
        place = torch.zeros(1, 2)
        place[0, axis] = 1.5
        turned = rotate(heads, rotary_table(place, 8)) - heads
        moved = (turned != 0)[0].view(2, 2, 2).all(0).all(-1)  # pairs are (i, i + 4)
        assert moved.tolist() == [axis == 0, axis == 1]


def test_a_rotation_is_that_of_complex_numbers():
    heads, places = random(5, 6), 7 * random(5, 1)
    complex_heads = torch.complex(heads[:, :3], heads[:, 3:])
    angles = places * 10_000.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    expected = complex_heads * torch.polar(torch.ones_like(angles), angles)
    close(rotate(heads, rotary_table(places, 6)), torch.cat((expected.real, expected.imag), dim=-1))


def test_heads_of_odd_pairs_are_refused():
    with pytest.raises(ValueError, match="multiple of 4 for 2 axes, got 6"):
        rotary_table(torch.zeros(1, 2), 6)


# -- windows -----------------------------------------------------------------------------------------------


def reference_attention(attention, windows, positions, window, base, before, after):
    """Window by window, head by head, over a list of keys; zeros stand before the beginning and behind the end."""
    count, dim = windows.shape[1], windows.shape[3]
    query, key, value = attention.project(windows).chunk(3, dim=-1)
    width, rows = dim // attention.heads, []
    for index in range(count):
        places, keys, values = [], [], []
        for other in range(index - before, index + after + 1):
            places.append(positions + other * window)
            keys.append(key[:, other] if 0 <= other < count else torch.zeros_like(key[:, 0]))
            values.append(value[:, other] if 0 <= other < count else torch.zeros_like(key[:, 0]))
        keys, values, places = torch.cat(keys, dim=1), torch.cat(values, dim=1), torch.cat(places)
        heads = []
        for head in range(attention.heads):
            part = slice(head * width, (head + 1) * width)
            turned = rotate(query[:, index, :, part], rotary_table(positions + index * window, width, base))
            scores = turned @ rotate(keys[..., part], rotary_table(places, width, base)).mT / math.sqrt(width)
            heads.append(scores.softmax(-1) @ values[..., part])
        rows.append(torch.cat(heads, dim=-1))
    return attention.out(torch.stack(rows, dim=1))


def reference(transformer, windows, positions, window):
    before = -(-transformer.context // window)
    after = before if transformer.attention == "local" else 0
    for block in transformer.blocks:
        heard, base = block.attention_norm(windows), transformer.base
        attended = reference_attention(block.attention, heard, positions, window, base, before, after)
        windows = windows + attended
        windows = windows + block.down(block.up(block.norm(windows)).relu() ** 2)
    return transformer.norm(windows)


@pytest.mark.parametrize("attention", ["window_causal", "local"])
@pytest.mark.parametrize("context", [0, 1, 2, 3, 5, 10])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_window_attention_is_the_slow_one(context, count, attention):
    transformer = WindowTransformer(8, depth=2, heads=2, context=context, expansion=2, attention=attention).double()
    windows, positions = random(2, count, 3, 8), torch.tensor([[0.0], [1.0], [1.5]])
    close(transformer(windows, positions, 2)[0], reference(transformer, windows, positions.double(), 2))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_full_attention_is_one_window_of_the_whole_signal(count):
    full = WindowTransformer(8, depth=2, heads=2, attention="full").double()
    alone = WindowTransformer(8, depth=2, heads=2).double()
    alone.load_state_dict(full.state_dict())
    windows, positions = random(2, count, 3, 8), torch.tensor([[0.0], [1.0], [1.5]])
    places = torch.cat([positions + 2 * index for index in range(count)])
    whole, _ = alone(windows.flatten(1, 2)[:, None], places, 2)
    close(full(windows, positions, 2)[0], whole.unflatten(2, (count, 3))[:, 0])


def test_local_attention_in_pieces_is_that_of_the_whole(monkeypatch):
    transformer = WindowTransformer(8, depth=2, heads=2, context=4, attention="local").double()
    windows, positions = random(1, 23, 2, 8), torch.arange(2.0)[:, None]
    whole, _ = transformer(windows, positions, 2)
    monkeypatch.setattr(transformer_module, "PIECE", 3)
    with torch.no_grad():
        close(transformer(windows, positions, 2)[0], whole)


def test_full_attention_has_no_context():
    with pytest.raises(ValueError, match="full attention has no context, got 3"):
        WindowTransformer(8, 1, 2, context=3, attention="full")


def test_tiles_of_two_axes_attend_as_the_slow_form_does():
    transformer = WindowTransformer(dim=16, depth=1, heads=2).double()
    windows, positions = random(2, 3, 5, 16), 4 * torch.rand(5, 2)
    close(transformer(windows, positions, 4)[0], reference(transformer, windows, positions.double(), 4))


@pytest.mark.parametrize("context", [0, 1, 2])
def test_a_window_sees_itself_and_the_context_before(context):
    transformer = WindowTransformer(dim=8, depth=1, heads=2, context=2 * context).double()
    windows = random(1, 6, 2, 8).requires_grad_()
    seen, _ = transformer(windows, torch.arange(2.0)[:, None], 2)
    for index in range(6):
        (gradient,) = torch.autograd.grad(seen[:, index].square().sum(), windows, retain_graph=True)
        sources = (gradient[0].abs().sum((1, 2)) > 0).nonzero()[:, 0].tolist()
        assert sources == list(range(max(0, index - context), index + 1))


def test_windows_that_stand_alone_are_the_same_wherever_they_stand():
    transformer = WindowTransformer(dim=8, depth=2, heads=2).double()
    windows, positions = random(1, 1, 3, 8), torch.arange(3.0)[:, None]
    alone, _ = transformer(windows, positions, 3)
    close(transformer(windows.expand(1, 4, 3, 8), positions, 3)[0], alone.expand(1, 4, 3, 8))


def test_an_hour_is_as_exact_as_a_second():
    """A window far into a stream is what it would be at the beginning, after the same past."""
    transformer = WindowTransformer(dim=8, depth=1, heads=2, context=4).double()
    windows, positions = random(1, 3, 2, 8), torch.arange(2.0)[:, None]
    far, _ = transformer(torch.cat((random(1, 1000, 2, 8), windows), dim=1), positions, 2)
    close(far[:, -1:], transformer(windows, positions, 2)[0][:, -1:])


def test_residual_branches_start_small():
    for depth in (1, 8):
        block = Block(dim=256, heads=4, expansion=4, depth=depth)
        for layer in (block.attention.out, block.down):
            assert float(layer.weight.detach().std()) == pytest.approx(
                0.5 / math.sqrt(2 * depth * layer.in_features), rel=0.05
            )


def test_heads_share_the_width_evenly():
    with pytest.raises(ValueError, match="dim=8, heads=3"):
        WindowTransformer(dim=8, depth=1, heads=3)


# -- convolutions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel, stride, dilation", [(1, 1, 1), (3, 1, 1), (4, 2, 1), (2, 2, 1), (3, 2, 2), (5, 3, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_causal_convolution_is_the_sum_over_its_past(kernel, stride, dilation, groups):
    layer = CausalConv1d(4, 6, kernel, stride, dilation, groups).double()
    signal = random(2, 4, 6 * stride)
    output, state = layer(signal, layer.initial_state(2))
    weight = layer.conv.weight
    assert output.shape == (2, 6, 6) and state.shape == (2, 4, layer.memory)
    for out in range(6):
        sources = slice(out // (6 // groups) * (4 // groups), (out // (6 // groups) + 1) * (4 // groups))
        for time in range(6):
            total = layer.conv.bias[out].expand(2)
            for tap in range(kernel):
                place = time * stride + stride - 1 - (kernel - 1 - tap) * dilation
                if place >= 0:
                    total = total + (signal[:, sources, place] * weight[out, :, tap]).sum(-1)
            close(output[:, out, time], total)


def test_a_kernel_shorter_than_its_stride_is_refused():
    with pytest.raises(ValueError, match="kernel=2, stride=3"):
        CausalConv1d(1, 1, 2, 3)


def test_a_block_is_a_depthwise_convolution_and_two_maps():
    block = CausalBlock(6, kernel=4).double()
    positions = random(2, 9, 6)
    padded = F.pad(positions.mT, (3, 0))
    mixed = F.conv1d(padded, block.kernel.t()[:, None], groups=6).mT
    expected = positions + block.down(block.up(block.norm(mixed)).relu() ** 2)
    output, state = block(positions, block.initial_state(2))
    close(output, expected)
    assert torch.equal(state, positions[:, -3:])


# -- spectra -----------------------------------------------------------------------------------------------


def plain_front(size, hop, stack=1):
    front = SpectrumFront(size, hop, stack, dim=4).double()
    front.project = nn.Identity()
    return front


@pytest.mark.parametrize("size, hop, stack", [(24, 8, 1), (24, 8, 3), (16, 8, 2), (8, 8, 1)])
def test_a_spectrum_is_the_log_magnitude_of_the_frame_that_ends_with_its_hop(size, hop, stack):
    front, signal = plain_front(size, hop, stack), 0.3 * random(2, 1, 6 * hop)
    positions, state = front(signal, front.initial_state(2))
    window = torch.hann_window(size).double()
    frames = F.pad(signal[:, 0], (size - hop, 0)).unfold(1, size, hop)
    magnitude = torch.fft.rfft(frames * window).abs() * 2 / window.sum()
    expected = ((magnitude.square() + FLOOR**2).log() + 9) / 4
    close(positions, expected.flatten(1).view(2, 6 // stack, -1), 1e-5)
    assert torch.equal(state, F.pad(signal, (size - hop, 0))[..., 6 * hop :])


def test_a_bin_at_full_scale_has_magnitude_one_and_silence_is_finite():
    front = plain_front(64, 32)
    tone = torch.cos(2 * math.pi * 8 / 64 * torch.arange(640, dtype=torch.float64))[None, None]
    spectra, _ = front(tone, front.initial_state(1))
    assert float(spectra[0, -1, 8]) == pytest.approx(9 / 4, abs=1e-6) and spectra[0, -1].argmax() == 8
    silence, _ = front(torch.zeros(1, 1, 64).double(), front.initial_state(1))
    close(silence, torch.full_like(silence, (9 + 2 * math.log(FLOOR)) / 4))


@pytest.mark.parametrize("size, hop", [(24, 8), (40, 8), (9, 3)])
def test_spectra_of_a_signal_come_back_as_the_signal(size, hop):
    """Analysis and synthesis are inverse: heads that say the true spectra give the true samples."""
    front, bins = plain_front(size, hop), size // 2 + 1
    back = SpectrumBack(size, hop, stack=1, dim=2 * bins, blocks=0).double()
    back.expand = back.norm = back.head = nn.Identity()
    signal = 0.3 * random(2, 20 * hop)
    frames = F.pad(signal, (size - hop, 0)).unfold(1, size, hop)
    real, imaginary = half_spectrum(frames, front.basis)
    spectrum = torch.complex(real, imaginary)
    positions = torch.cat((spectrum.abs().clamp_min(1e-30).log() + 4, spectrum.angle()), dim=-1)
    samples, state = back(positions, back.initial_state(2))
    late = size - hop  # frames that end with their hop come out as frames that start with it
    close(samples[:, late:], signal[:, : samples.shape[1] - late], 1e-5)
    rest = back.flush(state)
    assert rest.shape == (2, back.delay)
    close(rest, signal[:, samples.shape[1] - late :][:, : back.delay], 1e-5)


def test_the_ends_are_as_loud_as_the_middle():
    back = SpectrumBack(24, 8, stack=2, dim=4, blocks=1)
    with torch.no_grad():
        back.head.weight.zero_(), back.head.bias.zero_()
    samples, state = back(torch.randn(1, 10, 4), back.initial_state(1))
    whole = torch.cat((samples, back.flush(state)), dim=1)[:, back.delay :]
    assert whole.shape == (1, 10 * 16)
    loudness = whole.unflatten(1, (20, 8)).abs().amax(-1)
    assert loudness[:, [0, -1]].amin() > 0.5 * loudness.median() and loudness.max() < 2 * loudness.median()


@pytest.mark.parametrize("size, hop", [(16, 8), (20, 8)])
def test_frames_of_back_are_an_odd_number_of_hops(size, hop):
    with pytest.raises(ValueError, match=f"odd multiple of hop, got size={size}, hop={hop}"):
        SpectrumBack(size, hop, 1, 4, 1)


def test_frames_of_front_are_whole_hops():
    with pytest.raises(ValueError, match="multiple of hop, got size=20, hop=8"):
        SpectrumFront(20, 8, 1, 4)
