"""Laws of every transform, then each against the slow sum that defines it."""

import itertools
import math
from contextlib import contextmanager

import jaxtyping
import numpy as np
import onnxruntime
import pytest
import torch

from sigtok.codecs.transforms.blocks import LappedBlocks
from sigtok.codecs.transforms.colour import YCbCr
from sigtok.codecs.transforms.lifting import packet2d
from sigtok.codecs.transforms.mdct import MDCT, WINDOWS
from sigtok.codecs.transforms.patches import Frames, Patches
from sigtok.codecs.transforms.pyramid import Pyramid2d, kinds
from sigtok.codecs.transforms.stft import STFT, analysis_basis, synthesis_basis
from sigtok.codecs.transforms.wavelet import WaveletPacket1d, WaveletPacket2d

AUDIO = [(0,), (1,), (2,), (7,), (8,), (9,), (50,)]
IMAGE = [(1, 1), (1, 9), (3, 2), (4, 4), (5, 8), (17, 12)]
TRANSFORMS = {  # name: builder, channels, extents
    "stft": (lambda: STFT(16, 8), 1, AUDIO),
    "stft_dense": (lambda: STFT(16, 3), 1, AUDIO),
    "stft_sparse": (lambda: STFT(10, 8), 1, AUDIO),
    "stft_odd": (lambda: STFT(9, 8), 1, AUDIO),
    "stft_touching": (lambda: STFT(8, 8), 1, AUDIO),
    "stft_one": (lambda: STFT(1, 1), 1, AUDIO),
    "mdct_sine": (lambda: MDCT(8), 1, AUDIO),
    "mdct_kbd": (lambda: MDCT(8, "kbd"), 1, AUDIO),
    "mdct_odd": (lambda: MDCT(7), 1, AUDIO),
    "blocks": (lambda: LappedBlocks(8), 2, AUDIO),
    "blocks_of_two": (lambda: LappedBlocks(2), 1, AUDIO),
    "frames": (lambda: Frames(8), 2, AUDIO),
    "packet_1d": (lambda: WaveletPacket1d(3), 2, AUDIO),
    "patches": (lambda: Patches(4), 3, IMAGE),
    "packet_2d": (lambda: WaveletPacket2d(2), 3, IMAGE),
    "pyramid": (lambda: Pyramid2d(3), 3, IMAGE),
    "pyramid_of_none": (lambda: Pyramid2d(0), 1, IMAGE),
    "colour": (lambda: YCbCr(), 3, IMAGE),
}
EVERY = [(name, extent) for name, (_, _, extents) in TRANSFORMS.items() for extent in extents]


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(name):
    return TRANSFORMS[name][0]()


def noise(*shape, dtype=torch.float32):
    uniform = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (2 * uniform - 1).to(dtype)


def signal_of(name, extent, batch=2, dtype=torch.float32):
    return noise(batch, TRANSFORMS[name][1], *extent, dtype=dtype)


@pytest.mark.parametrize(("name", "extent"), EVERY)
def test_the_inverse_is_exact_at_every_extent(name, extent):
    for dtype, tolerance in [(torch.float32, 1e-5), (torch.float64, 1e-10)]:
        with default_dtype(dtype):
            transform = build(name)
        signal = signal_of(name, extent, dtype=dtype)
        back = transform.inverse(transform(signal), extent)
        torch.testing.assert_close(back, signal, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_coefficients_are_real_and_leave_nothing_in_the_state(name):
    transform = build(name)
    coefficients = transform(signal_of(name, TRANSFORMS[name][2][-1]))
    assert coefficients.dtype == torch.float32
    assert not transform.state_dict()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_flow_both_ways(name):
    with default_dtype(torch.float64):
        transform = build(name)
    extent = TRANSFORMS[name][2][3]
    signal = signal_of(name, extent, batch=1, dtype=torch.float64).requires_grad_()
    coefficients = transform(signal).detach().requires_grad_()
    assert torch.autograd.gradcheck(transform, signal)
    assert torch.autograd.gradcheck(lambda values: transform.inverse(values, extent), coefficients)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_items_of_a_batch_are_independent(name):
    transform, extent = build(name), TRANSFORMS[name][2][-1]
    signal = signal_of(name, extent, batch=3)
    together = transform(signal)
    alone = torch.cat([transform(item[None]) for item in signal])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
    back = torch.cat([transform.inverse(item[None], extent) for item in together])
    torch.testing.assert_close(transform.inverse(together, extent), back, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_mixed_precision_does_not_reach_the_arithmetic(name):
    transform, extent = build(name), TRANSFORMS[name][2][-1]
    signal = signal_of(name, extent)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coefficients = transform(signal)
        back = transform.inverse(coefficients, extent)
    assert torch.equal(coefficients, transform(signal))
    torch.testing.assert_close(back, signal, rtol=0, atol=1e-5)
    rounded = signal.bfloat16()
    assert torch.equal(transform(rounded).float(), transform(rounded.float()))
    rounded = coefficients.bfloat16()
    assert torch.equal(transform.inverse(rounded, extent).float(), transform.inverse(rounded.float(), extent))


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (lambda: STFT(16, 17), r"frame size \(16\), got 17"),
        (lambda: STFT(16, 0), r"frame size \(16\), got 0"),
        (lambda: MDCT(0), "got 0"),
        (lambda: MDCT(8, "hann"), r"\['kbd', 'sine'\], got 'hann'"),
        (lambda: Patches(0), "got 0"),
        (lambda: Frames(0), "got 0"),
        (lambda: WaveletPacket1d(-1), "got -1"),
        (lambda: WaveletPacket2d(-1), "got -1"),
        (lambda: Pyramid2d(-1), "0 or more levels, got -1"),
        (lambda: LappedBlocks(0), "an even number of samples, got 0"),
        (lambda: LappedBlocks(7), "an even number of samples, got 7"),
    ],
)
def test_impossible_sizes_are_refused_with_both_numbers(builder, message):
    with pytest.raises(ValueError, match=message):
        builder()


@pytest.mark.parametrize(("size", "hop"), [(16, 8), (16, 4), (9, 3)])
def test_stft_is_the_fft_of_hann_windowed_frames(size, hop):
    with default_dtype(torch.float64):
        transform = STFT(size, hop)
    signal = noise(1, 1, 45, dtype=torch.float64)
    coefficients = transform(signal)
    window = np.sin(np.pi * np.arange(size) / size) ** 2
    for t in range(transform.frames(45)):
        start = t * hop - (size - hop) // 2
        frame = [signal[0, 0, n].item() if 0 <= n < 45 else 0.0 for n in range(start, start + size)]
        spectrum = np.fft.rfft(frame * window)
        expected = np.concatenate([spectrum.real, spectrum.imag])
        np.testing.assert_allclose(coefficients[0, :, t].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 9, 16])
def test_stft_frames_are_counted_by_hops(size):
    for hop, extent in itertools.product(range(1, size + 1), range(3 * size)):
        transform = STFT(size, hop)
        assert transform.frames(extent) == math.ceil(extent / hop) == transform(noise(1, 1, extent)).shape[-1]


def test_stft_window_sum_is_never_below_a_quarter():
    for size, hop in itertools.combinations_with_replacement(range(1, 20), 2):
        transform = STFT(hop, size) if size <= hop else STFT(size, hop)
        frames = torch.nn.functional.pad(transform.weight, (transform.hop,) * 2)
        lead = transform.hop + transform.lead
        assert frames[lead : lead + transform.hop].min() >= 0.25 - 1e-6, (size, hop)


@pytest.mark.parametrize(("size", "hop"), [(16, 4), (9, 3)])
def test_bases_invert_each_other_by_convolution(size, hop):
    window = torch.hann_window(size, dtype=torch.float64)
    signal = noise(2, 1, 20 * hop + size, dtype=torch.float64)
    coefficients = torch.nn.functional.conv1d(signal, analysis_basis(size, window), stride=hop)
    synthesis = synthesis_basis(size, window)
    added = torch.nn.functional.conv_transpose1d(coefficients, synthesis, stride=hop)
    ones, weight = torch.ones_like(coefficients[:, :1]), window.square()[None, None]
    weight = torch.nn.functional.conv_transpose1d(ones, weight, stride=hop)
    inside = slice(size, -size)
    torch.testing.assert_close((added / weight)[..., inside], signal[..., inside])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", [1, 5, 8])
def test_mdct_is_the_sum_that_defines_it(window, size):
    with default_dtype(torch.float64):
        transform = MDCT(size, window)
    signal = noise(1, 1, 3 * size + 1, dtype=torch.float64)
    samples = [0.0] * size + signal[0, 0].tolist() + [0.0] * (2 * size)
    shape = WINDOWS[window](size).tolist()
    coefficients = transform(signal)
    assert coefficients.shape == (1, size, 5)
    for t, k in itertools.product(range(5), range(size)):
        expected = sum(
            shape[n]
            * samples[t * size + n]
            * math.cos(math.pi / size * (n + 0.5 + size / 2) * (k + 0.5))
            * math.sqrt(2 / size)
            for n in range(2 * size)
        )
        assert coefficients[0, k, t].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("window", WINDOWS)
def test_mdct_windows_keep_energy(window):
    for size in (1, 5, 64):
        shape = WINDOWS[window](size)
        torch.testing.assert_close(shape[:size] ** 2 + shape[size:] ** 2, torch.ones(size, dtype=torch.float64))
        torch.testing.assert_close(shape, shape.flip(0))
    signal = noise(1, 1, 100)
    energy = MDCT(8, window)(signal).square().sum()
    torch.testing.assert_close(energy, signal.square().sum())


@pytest.mark.parametrize(("size", "count"), [(2, 5), (8, 1), (8, 2), (8, 5), (6, 3)])
def test_lapped_blocks_are_the_sums_of_windowed_cosines_that_define_them(size, count):
    """An MDCT, sine window, whose first and last windows end flat where the signal does."""
    with default_dtype(torch.float64):
        transform = LappedBlocks(size)
    signal = noise(1, 1, size * count, dtype=torch.float64)
    samples, coefficients = signal[0, 0].tolist(), transform(signal)
    assert coefficients.shape == (1, size, count)
    half = size // 2
    for t, k in itertools.product(range(count), range(size)):
        expected = 0.0
        for n in range(-half, size + half):  # counted from the beginning of the block
            window = math.sin(math.pi / (2 * size) * (n + half + 0.5))
            if (t == 0 and n < half) or (t == count - 1 and n >= half):  # the side of an end
                window = 1.0 if 0 <= n < size else 0.0
            if window:
                expected += window * samples[t * size + n] * math.cos(math.pi / size * (n + 0.5) * (k + 0.5))
        assert coefficients[0, k, t].item() == pytest.approx(math.sqrt(2 / size) * expected, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_lapped_blocks_are_orthonormal_and_see_half_a_block_to_each_side(count):
    size = 6
    with default_dtype(torch.float64):
        transform = LappedBlocks(size)
    units = torch.eye(size * count, dtype=torch.float64)[:, None]
    matrix = transform(units)  # a row of samples, then bins, then blocks
    flat = matrix.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(size * count, dtype=torch.float64))
    seen = matrix.abs().amax(1) > 1e-12
    for sample, block in itertools.product(range(size * count), range(count)):
        near = block * size - size // 2 <= sample < (block + 1) * size + size // 2
        assert bool(seen[sample, block]) == near


def test_lapped_blocks_of_each_channel_stand_together_and_the_last_is_filled_with_zeros():
    transform, signal = LappedBlocks(8), noise(1, 3, 21)
    whole = transform(signal)
    assert whole.shape == (1, 24, 3)
    for channel in range(3):
        filled = torch.nn.functional.pad(signal[:, channel : channel + 1], (0, 3))
        torch.testing.assert_close(whole[:, 8 * channel : 8 * channel + 8], transform(filled), rtol=0, atol=1e-6)


# The CDF 9/7 analysis filters as tabulated in ISO/IEC 15444-1, annex F, from the centre outwards; low-pass
# gain 1, high-pass gain 2.
LOW = [
    0.6029490182363579,
    0.2668641184428723,
    -0.07822326652898785,
    -0.01686411844287495,
    0.02674875741080976,
]
HIGH = [1.115087052456994, -0.5912717631142470, -0.05754352622849957, 0.09127176311424948]


def filtered(samples, taps, centre):
    """One output of a symmetric filter, the signal mirrored at its first and last sample."""
    last = len(samples) - 1

    def mirrored(index):
        index = abs(index) % (2 * last) if last else 0
        return samples[2 * last - index if index > last else index]

    sides = range(1, len(taps))
    return taps[0] * mirrored(centre) + sum(taps[k] * (mirrored(centre - k) + mirrored(centre + k)) for k in sides)


def slow_split(samples):
    centres = range(0, len(samples), 2)
    low = [math.sqrt(2) * filtered(samples, LOW, centre) for centre in centres]
    high = [filtered(samples, HIGH, centre + 1) / math.sqrt(2) for centre in centres]
    return np.stack([low, high])


def slow_packet(samples, levels):
    if levels == 0:
        return samples[None]
    return np.concatenate([slow_packet(half, levels - 1) for half in slow_split(samples)])


@pytest.mark.parametrize("extent", [2, 4, 8, 13, 32])
def test_wavelet_packet_is_a_filter_bank_tree(extent):
    levels = 2
    signal = noise(1, 2, extent, dtype=torch.float64)
    coefficients = WaveletPacket1d(levels)(signal).unflatten(1, (2, -1))
    for channel in range(2):
        padded = np.pad(signal[0, channel].numpy(), (0, -extent % 4), mode="edge")
        np.testing.assert_allclose(coefficients[0, channel].numpy(), slow_packet(padded, levels), rtol=0, atol=1e-12)


def test_image_packet_filters_height_and_width():
    image = noise(1, 2, 12, 8, dtype=torch.float64)
    coefficients = WaveletPacket2d(2)(image)
    assert coefficients.shape == (1, 32, 3, 2)
    for channel, (down, across) in itertools.product(range(2), itertools.product(range(4), repeat=2)):
        rows = np.stack([slow_packet(column, 2)[down] for column in image[0, channel].numpy().T], axis=1)
        expected = np.stack([slow_packet(row, 2)[across] for row in rows])
        band = 4 * (2 * (down >> 1) + (across >> 1)) + 2 * (down & 1) + (across & 1)
        np.testing.assert_allclose(coefficients[0, 16 * channel + band].numpy(), expected, rtol=0, atol=1e-12)


def slow_place(samples):
    """One level of a pyramid: low samples at even places, high ones at odd."""
    if len(samples) == 1:
        return samples * math.sqrt(2) / 1.230174104914001  # the gain of what is low, and nothing beside it
    made = np.empty_like(samples)
    for place in range(len(samples)):
        taps, scale = (HIGH, 1 / math.sqrt(2)) if place % 2 else (LOW, math.sqrt(2))
        made[place] = scale * filtered(samples, taps, place)
    return made


PYRAMIDS = [(1, 1), (1, 9), (7, 1), (2, 3), (5, 8), (16, 16), (17, 12), (11, 21)]


@pytest.mark.parametrize("extent", PYRAMIDS)
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_a_pyramid_filters_what_is_left_of_the_low_band_again_in_its_place(extent, levels):
    image = noise(1, 2, *extent, dtype=torch.float64)
    expected = image[0].numpy().copy()
    for channel, level in itertools.product(range(2), range(levels)):
        low = expected[channel, :: 2**level, :: 2**level]
        rows = np.stack([slow_place(row) for row in low])
        low[:] = np.stack([slow_place(column) for column in rows.T], axis=1)
    np.testing.assert_allclose(Pyramid2d(levels)(image)[0].numpy(), expected, rtol=0, atol=1e-11)


def test_a_pyramid_leaves_what_it_is_given_as_it_is():
    image = noise(1, 1, 6, 6)
    before, transform = image.clone(), Pyramid2d(2)
    transform(image), transform.inverse(image, (6, 6))
    assert torch.equal(image, before)


@pytest.mark.parametrize("extent", PYRAMIDS)
@pytest.mark.parametrize("levels", [0, 1, 2, 4])
def test_kinds_are_those_of_halving_the_picture_step_by_step(extent, levels):
    expected = torch.zeros(extent, dtype=torch.int64)
    left = list(itertools.product(*map(range, extent)))
    for level in range(1, levels + 1):
        spacing = 2 ** (level - 1)
        for y, x in left:
            down, across = y // spacing % 2, x // spacing % 2
            expected[y, x] = 3 * (level - 1) + 2 * down + across
        left = [(y, x) for y, x in left if y // spacing % 2 == 0 and x // spacing % 2 == 0]
    for y, x in left:
        expected[y, x] = 0
    assert torch.equal(kinds(extent, levels), expected)


def test_stripes_are_high_along_the_axis_that_they_change_on():
    levels, extent = 3, (16, 24)
    where = kinds(extent, levels)
    stripes = noise(1, 1, 1, 24).expand(1, 1, *extent)
    for picture, absent in ((stripes, (1, 2)), (noise(1, 1, 16, 1).expand(1, 1, *extent), (0, 2))):
        coefficients = Pyramid2d(levels)(picture)[0, 0].abs()
        for level, kind in itertools.product(range(1, levels + 1), range(3)):
            there = coefficients[where == 3 * level - 2 + kind].max()
            assert (there < 1e-5) == (kind in absent)


def test_a_constant_is_all_in_the_first_band_at_every_level():
    constant = torch.ones(1, 1, 16, 16, dtype=torch.float64)
    coefficients = WaveletPacket2d(3)(constant)[0]
    torch.testing.assert_close(coefficients[0], torch.full_like(coefficients[0], 8.0), rtol=0, atol=1e-9)
    assert coefficients[1:].abs().max() < 1e-9


def test_patches_are_ordered_channel_row_column():
    image = noise(1, 3, 6, 4)
    patches = Patches(2)(image)
    for c, row, column in itertools.product(range(3), range(2), range(2)):
        assert torch.equal(patches[0, 4 * c + 2 * row + column], image[0, c, row::2, column::2])


def test_padding_repeats_the_edge_of_images_and_silences_the_end_of_audio():
    assert torch.equal(Patches(2)(torch.ones(1, 1, 3, 3)), torch.ones(1, 4, 2, 2))
    assert torch.equal(Frames(2)(torch.ones(1, 1, 3)), torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]))


def test_colours_land_where_bt601_puts_them():
    black, white, red, blue = [-1.0, -1, -1], [1.0, 1, 1], [1.0, -1, -1], [-1.0, -1, 1]
    image = torch.tensor([black, white, red, blue]).T[None, :, None]
    luma, to_blue, to_red = YCbCr()(image)[0, :, 0]
    torch.testing.assert_close(luma, torch.tensor([-1.0, 1, 2 * 0.299 - 1, 2 * 0.114 - 1]))
    torch.testing.assert_close(to_blue[[0, 1, 3]], torch.tensor([0.0, 0, 1]))
    torch.testing.assert_close(to_red[:3], torch.tensor([0.0, 0, 1]))


class RoundTrip(torch.nn.Module):
    """Both directions in one graph; the extent is the signal's own."""

    def __init__(self, transform):
        super().__init__()
        self.transform = transform

    def forward(self, signal):
        coefficients = self.transform(signal)
        return coefficients, self.transform.inverse(coefficients, tuple(signal.shape[2:]))


EXPORTED = {"packet_1d": lambda: WaveletPacket1d(1)}  # one level is the loop's body; tracing more takes long


@pytest.mark.parametrize("name", ["stft_sparse", "mdct_sine", "packet_1d", "patches"])
def test_one_graph_serves_every_batch_and_extent(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # extents are symbols while tracing
    module, extents = RoundTrip(EXPORTED.get(name, TRANSFORMS[name][0])()).eval(), TRANSFORMS[name][2]
    signal = signal_of(name, (21, 22)[: len(extents[0])])
    axes = {axis: torch.export.Dim.DYNAMIC for axis in range(signal.ndim) if axis != 1}
    program = torch.onnx.export(module, (signal,), dynamo=True, dynamic_shapes=(axes,), verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for batch, extent in itertools.product((1, 3), (extent for extent in extents if min(extent) > 0)):
        signal = signal_of(name, extent, batch)
        coefficients, back = session.run(None, {session.get_inputs()[0].name: signal.numpy()})
        np.testing.assert_allclose(coefficients, module.transform(signal).numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(back, signal.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("blocks", [(1, 1), (1, 2), (3, 1), (5, 4)])
def test_the_packet_in_place_is_the_packet_to_the_last_bit(levels, blocks):
    height, width = (2**levels * count for count in blocks)
    image = torch.rand(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(levels))
    before = image.clone()
    assert torch.equal(packet2d(image, levels), WaveletPacket2d(levels)(image))
    assert torch.equal(image, before)
