"""Pieces equal the whole: any partition of a stream into legal chunks gives the same numbers."""

import itertools

import pytest
import torch

from sigtok.codecs.audio import query
from sigtok.codecs.audio.fronts import SpectrumBack, SpectrumFront
from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.layers.conv1d import CausalBlock, CausalConv1d
from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.spec import Rate

COUNT = 6  # units of a stream; all 32 of its partitions are tried


def partitions(count=COUNT):
    """Lists of chunk lengths that add up to count."""
    for cuts in itertools.product((False, True), repeat=count - 1):
        lengths = [1]
        for cut in cuts:
            lengths = [*lengths, 1] if cut else [*lengths[:-1], lengths[-1] + 1]
        yield lengths


def in_pieces(step, signal, axis, lengths, unit, state):
    parts = []
    for chunk in signal.split([length * unit for length in lengths], dim=axis):
        part, state = step(chunk, state)
        parts.append(part)
    return parts, state


def leaves(state):
    return [state] if isinstance(state, torch.Tensor) else [leaf for part in state for leaf in leaves(part)]


def pieces_equal_the_whole(step, signal, state, axis, out_axis, unit=1):
    whole, after = step(signal, state)
    for lengths in partitions(signal.shape[axis] // unit):
        parts, last = in_pieces(step, signal, axis, lengths, unit, state)
        torch.testing.assert_close(torch.cat(parts, dim=out_axis), whole, rtol=1e-12, atol=1e-12)
        for some, others in zip(leaves(last), leaves(after), strict=True):
            torch.testing.assert_close(some, others, rtol=1e-12, atol=1e-12)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.fixture
def codec():
    return (
        query_speech(
            frame_hop=8,
            frame_size=24,
            stack=2,
            windows=(2, 3),
            context=3 * 32 / 24_000,
            dim=16,
            heads=2,
            encoder_depth=2,
            decoder_depth=2,
            decoder_blocks=1,
            codebooks=2,
            codebook_size=16,
            latent_dim=4,
        )
        .double()
        .eval()
    )


RATES = pytest.mark.parametrize("window", [(2,), (3,)])


@pytest.mark.parametrize("kernel, stride, dilation", [(1, 1, 1), (3, 1, 1), (3, 1, 5), (4, 2, 1), (3, 2, 3), (2, 2, 1)])
def test_causal_convolutions_stream(kernel, stride, dilation):
    layer = CausalConv1d(2, 3, kernel, stride, dilation).double()
    pieces_equal_the_whole(layer, random(2, 2, COUNT * stride), layer.initial_state(2), 2, 2, stride)


@pytest.mark.parametrize("kernel", [1, 2, 7, 9])
def test_causal_blocks_stream(kernel):
    block = CausalBlock(4, kernel).double()
    pieces_equal_the_whole(block, random(2, COUNT, 4), block.initial_state(2), 1, 1)


@pytest.mark.parametrize("context", [0, 1, 2, 3, 8])
def test_window_transformers_stream(context):
    transformer = WindowTransformer(8, depth=2, heads=2, context=context).double()
    places = torch.tensor([[0.0], [1.0], [2.0], [1.1]])

    def step(windows, state):
        return transformer(windows, places, 3, state)

    pieces_equal_the_whole(step, random(2, COUNT, 4, 8), transformer.initial_state(2, 4), 1, 1)


@pytest.mark.parametrize("size, hop, stack", [(24, 8, 1), (40, 8, 2), (8, 8, 1)])
def test_spectra_stream(size, hop, stack):
    front = SpectrumFront(size, hop, stack, 4).double()
    signal = random(2, 1, COUNT * hop * stack)
    pieces_equal_the_whole(front, signal, front.initial_state(2), 2, 1, hop * stack)


@pytest.mark.parametrize("size, hop, stack", [(24, 8, 1), (40, 8, 2), (8, 8, 1)])
def test_synthesis_streams_to_the_last_sample(size, hop, stack):
    back = SpectrumBack(size, hop, stack, 4, blocks=2).double()
    positions, state = random(2, COUNT, 4), back.initial_state(2)
    pieces_equal_the_whole(back, positions, state, 1, 1)
    rest = back.flush(back(positions, state)[1])
    assert rest.shape == (2, back.delay)
    for lengths in partitions():
        parts, last = in_pieces(back, positions, 1, lengths, 1, state)
        assert [part.shape[1] for part in parts] == [length * hop * stack for length in lengths]
        torch.testing.assert_close(back.flush(last), rest, rtol=1e-12, atol=1e-12)


@RATES
def test_encoders_stream(codec, window):
    rate = codec.spec.resolve(Rate(window=window))
    unit = codec.spec.step(rate)[0]

    def step(chunk, state):
        return codec.encoder.step(chunk, state, rate)

    pieces_equal_the_whole(step, random(2, 1, COUNT * unit), codec.encoder.initial_state(2, rate), 2, 1, unit)


@RATES
def test_decoders_stream(codec, window):
    rate = codec.spec.resolve(Rate(window=window))

    def step(latents, state):
        return codec.decoder.step(latents, state, rate)

    pieces_equal_the_whole(step, random(2, COUNT, 4), codec.decoder.initial_state(2, rate), 1, 1)


@RATES
@pytest.mark.parametrize("piece", [1, 2, 4, 5, 64])
def test_piecewise_is_all_at_once(codec, monkeypatch, window, piece):
    monkeypatch.setattr(query, "PIECE", piece)
    rate = codec.spec.resolve(Rate(window=window))
    extent = (COUNT * codec.spec.step(rate)[0],)
    signal, latents = random(2, 1, *extent), random(2, COUNT, 4)
    torch.testing.assert_close(
        codec.encoder.piecewise(signal, rate), codec.encoder(signal, rate), rtol=1e-12, atol=1e-12
    )
    decoded = codec.decoder(latents, extent, rate)
    assert decoded.shape == (2, 1, *extent)
    torch.testing.assert_close(codec.decoder.piecewise(latents, extent, rate), decoded, rtol=1e-12, atol=1e-12)


def test_pieces_of_a_long_signal_are_as_small_as_they_say(codec, monkeypatch):
    monkeypatch.setattr(query, "PIECE", 2)
    rate, seen = codec.spec.resolve(), []
    for part, axis in ((codec.encoder, 2), (codec.decoder, 1)):
        step = part.step

        def spy(chunk, state, rate, step=step, axis=axis):
            seen.append(chunk.shape[axis])
            return step(chunk, state, rate)

        monkeypatch.setattr(part, "step", spy)
    codec.encoder.piecewise(random(1, 1, 5 * 32), rate)
    codec.decoder.piecewise(random(1, 5, 4), (5 * 32,), rate)
    assert seen == [64, 64, 32, 2, 2, 1]


# -- causality ---------------------------------------------------------------------------------------------


@RATES
def test_the_future_changes_no_latent(codec, window):
    rate = codec.spec.resolve(Rate(window=window))
    unit = codec.spec.step(rate)[0]
    assert codec.spec.causal and codec.spec.lookahead == 0
    signal = random(1, 1, COUNT * unit)
    latents = codec.encoder(signal, rate)
    for count in range(COUNT):
        changed = signal.clone()
        changed[..., count * unit :] = random(1, 1, (COUNT - count) * unit)
        others = codec.encoder(changed, rate)
        torch.testing.assert_close(others[:, :count], latents[:, :count], rtol=1e-12, atol=1e-12)
        assert (others[:, count] - latents[:, count]).abs().max() > 1e-3


@RATES
def test_a_latent_changes_no_sample_before_its_window_but_the_overlap(codec, window):
    rate = codec.spec.resolve(Rate(window=window))
    unit, extent = codec.spec.step(rate)[0], (COUNT * codec.spec.step(rate)[0],)
    latents = random(1, COUNT, 4)
    signal = codec.decoder(latents, extent, rate)
    for count in range(1, COUNT):
        changed = torch.cat((latents[:, :count], random(1, COUNT - count, 4)), dim=1)
        differ = (codec.decoder(changed, extent, rate) - signal)[0, 0].abs() > 1e-12
        first = int(differ.nonzero()[0])
        assert count * unit - codec.decoder.back.delay <= first < count * unit


def test_a_change_is_forgotten_after_the_context(codec):
    """Memory is bounded: two layers of three windows, and the windows of the spectra."""
    rate = codec.spec.resolve()
    unit, past = codec.spec.step(rate)[0], codec.encoder.queries.transformer.context
    assert past == 3
    signal = random(1, 1, 12 * unit)
    changed = signal.clone()
    changed[..., :unit] = random(1, 1, unit)
    differ = (codec.encoder(changed, rate) - codec.encoder(signal, rate)).abs().amax(-1)[0] > 1e-12
    assert differ.nonzero().max() == 2 * past + 1
