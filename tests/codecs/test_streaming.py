"""Pieces equal the whole: any partition of a stream into legal chunks gives the same numbers."""

import copy
import itertools
import pickle
import random as dice
from dataclasses import replace

import pytest
import torch

from sigtok.codecs.audio import query
from sigtok.codecs.audio.ends import KINDS
from sigtok.codecs.audio.fronts import SpectrumBack, SpectrumFront
from sigtok.codecs.audio.models import (
    almtokenizer,
    elastic_speech,
    frame_speech,
    query_speech,
    query_voice,
    semantic_features,
)
from sigtok.codecs.audio.source_back import SourceBack
from sigtok.codecs.layers.conv1d import CausalBlock, CausalConv1d
from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.spec import Rate
from sigtok.codecs.streaming import (
    decode_chunk,
    encode_chunk,
    fewest_windows,
    flush_decoding,
    flush_encoding,
    join_tokens,
    start_decoding,
    start_encoding,
    state_bytes,
)
from sigtok.codecs.tokens import Tokens

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


def tiny(**options):
    shape = dict(frame_hop=8, frame_size=24, stack=2, windows=(2, 3), context=3 * 32 / 24_000, dim=16, heads=2)
    depth = dict(encoder_depth=2, decoder_depth=2, decoder_blocks=1, codebooks=2, codebook_size=16, latent_dim=4)
    return query_speech(**{**shape, **depth, **options}).eval()


def tiny_voice():
    shape = dict(frame_hop=8, frame_size=24, stack=2, context=3 * 32 / 24_000, dim=16, heads=2, encoder_depth=2)
    sizes = dict(decoder_blocks=1, decoder_depth=2, codebooks=2, codebook_size=16, bands=4, cepstra=(3, 1), learned=2)
    return query_voice(**shape, **sizes).eval()


MAKERS = {"speech": tiny, "voice": tiny_voice}


@pytest.fixture
def codec(request):
    return MAKERS[getattr(request, "param", "speech")]().double()


RATES = pytest.mark.parametrize(
    "codec, window", [("speech", (2,)), ("speech", (3,)), ("voice", (2,))], indirect=["codec"]
)


@pytest.mark.parametrize("kernel, stride, dilation", [(1, 1, 1), (3, 1, 1), (3, 1, 5), (4, 2, 1), (3, 2, 3), (2, 2, 1)])
def test_causal_convolutions_stream(kernel, stride, dilation):
    layer = CausalConv1d(2, 3, kernel, stride, dilation).double()
    pieces_equal_the_whole(layer, random(2, 2, COUNT * stride), layer.initial_state(2), 2, 2, stride)


@pytest.mark.parametrize("kernel", [1, 2, 7, 9])
def test_causal_blocks_stream(kernel):
    block = CausalBlock(4, kernel).double()
    pieces_equal_the_whole(block, random(2, COUNT, 4), block.initial_state(2), 1, 1)


@pytest.mark.parametrize("reach", [0, 1, 2, 3, 8])
def test_window_transformers_stream(reach):
    transformer = WindowTransformer(8, depth=2, heads=2, context=3 * reach).double()
    assert transformer.reach(3) == reach
    places = torch.tensor([[0.0], [1.0], [2.0], [1.1]])

    def step(windows, state):
        return transformer(windows, places, 3, state)

    pieces_equal_the_whole(step, random(2, COUNT, 4, 8), transformer.initial_state(2, 4, 3), 1, 1)


@pytest.mark.parametrize("size, hop, stack", [(24, 8, 1), (40, 8, 2), (8, 8, 1)])
def test_spectra_stream(size, hop, stack):
    front = SpectrumFront(size, hop, stack, 4).double()
    signal = random(2, 1, COUNT * hop * stack)
    pieces_equal_the_whole(front, signal, front.initial_state(2), 2, 1, hop * stack)


@pytest.mark.parametrize("size, hop, stack", [(24, 8, 1), (40, 8, 2), (8, 8, 1)])
@pytest.mark.parametrize("voice", [False, True])
def test_synthesis_streams_to_the_last_sample(voice, size, hop, stack):
    back = SourceBack(size, hop, stack, 4, 2, 3, 4000) if voice else SpectrumBack(size, hop, stack, 4, 2)

    def step(positions, state):
        """Bands and pitch of the frames of a position ride on it."""
        if not voice:
            return back(positions, state)
        positions, bands, octaves = positions.split([4, 3 * stack, stack], dim=-1)
        return back(positions, state, bands.unflatten(-1, (stack, 3)).flatten(1, 2), octaves.flatten(1))

    back.double()
    positions, state = random(2, COUNT, 4 + 4 * stack if voice else 4), back.initial_state(2)
    pieces_equal_the_whole(step, positions, state, 1, 1)
    rest = back.flush(step(positions, state)[1])
    assert rest.shape == (2, back.delay)
    for lengths in partitions():
        parts, last = in_pieces(step, positions, 1, lengths, 1, state)
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

    latents = random(2, COUNT, codec.spec.latent_dim)
    pieces_equal_the_whole(step, latents, codec.decoder.initial_state(2, rate), 1, 1)


@RATES
@pytest.mark.parametrize("piece", [1, 2, 4, 5, 64])
def test_piecewise_is_all_at_once(codec, monkeypatch, window, piece):
    monkeypatch.setattr(query, "PIECE", piece)
    rate = codec.spec.resolve(Rate(window=window))
    extent = (COUNT * codec.spec.step(rate)[0],)
    signal, latents = random(2, 1, *extent), random(2, COUNT, codec.spec.latent_dim)
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
    codec.decoder.piecewise(random(1, 5, codec.spec.latent_dim), (5 * 32,), rate)
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
    latents = random(1, COUNT, codec.spec.latent_dim)
    signal = codec.decoder(latents, extent, rate)
    for count in range(1, COUNT):
        changed = torch.cat((latents[:, :count], random(1, COUNT - count, codec.spec.latent_dim)), dim=1)
        differ = (codec.decoder(changed, extent, rate) - signal)[0, 0].abs() > 1e-12
        first = int(differ.nonzero()[0])
        assert count * unit - codec.decoder.back.delay <= first < count * unit


def test_a_change_is_forgotten_after_the_context(codec):
    """Memory is bounded: two layers of three windows, and the windows of the spectra."""
    rate = codec.spec.resolve()
    unit, past = codec.spec.step(rate)[0], codec.encoder.queries.transformer.reach(rate.window[0])
    assert past == 3
    signal = random(1, 1, 12 * unit)
    changed = signal.clone()
    changed[..., :unit] = random(1, 1, unit)
    differ = (codec.encoder(changed, rate) - codec.encoder(signal, rate)).abs().amax(-1)[0] > 1e-12
    assert differ.nonzero().max() == 2 * past + 1


# -- streams of codecs -------------------------------------------------------------------------------------

EMA = {"copies": 3, "name": "ema", "codebook_size": 16, "dim": 4}
CODECS = {
    "residual": {},
    "groups of 4": {"quantizer": {"name": "multirate", "stages": EMA, "strides": [4, 2, 1]}},
    "groups of 6, never of 1": {"quantizer": {"name": "multirate", "stages": {**EMA, "copies": 2}, "strides": [3, 2]}},
    "halves": {"quantizer": {"name": "grouped", "parts": {"copies": 2, "name": "vq", "codebook_size": 16, "dim": 2}}},
    "delay above a window": {"frame_size": 88},
    "no delay": {"frame_size": 8},
}  # a window is 32 samples
ALL = pytest.mark.parametrize("name", CODECS)
SAMPLES = [0, 1, 32, 33, 84, 7 * 32 + 5, 24 * 32]  # 84: less than a window, more than a delay, is padding


def noise(samples, batch=1):
    return 0.3 * torch.randn(batch, 1, samples)


def lengths_of(total, most):
    """Random lengths, zeros among them, that add up to the total."""
    lengths = []
    while sum(lengths) < total:
        lengths.append(min(dice.choice([0, 1, dice.randint(1, most)]), total - sum(lengths)))
    return lengths or [0]


def encoded(codec, signal, lengths, rate=None, **options):
    state, parts = start_encoding(codec, rate, batch=len(signal), **options), []
    for chunk in signal.split(lengths, dim=-1):
        tokens, state = encode_chunk(codec, chunk, state)
        parts.append(tokens)
    return [*parts, flush_encoding(codec, state)]


def cut(tokens, lengths):
    """Tokens in chunks of so many groups of windows; the last takes what is left."""
    start = 0
    group, step = fewest_windows(tokens.spec, tokens.rate), tokens.spec.step(tokens.rate)[0]
    for length in lengths:
        samples = min(length * group * step, tokens.extents[0][0] - start * step)
        begin, end = (tokens.spec.token_counts((at * step,), tokens.rate) for at in (start, start + length * group))
        streams = tuple(codes[:, b:e] for codes, b, e in zip(tokens.streams, begin, end, strict=True))
        yield replace(tokens, streams=streams, extents=((samples,),) * len(tokens))
        start += length * group


def decoded(codec, chunks, **options):
    state, parts = start_decoding(codec, chunks[0].rate, batch=len(chunks[0]), **options), []
    for chunk in chunks:
        signal, state = decode_chunk(codec, chunk, state)
        parts.append(signal)
    return [*parts, flush_decoding(codec, state)]


def groups(tokens):
    return -(-tokens.extents[0][0] // (32 * fewest_windows(tokens.spec, tokens.rate)))


@ALL
@pytest.mark.parametrize("pieces", [1, 3])
def test_codes_do_not_depend_on_the_chunks(name, pieces):
    """Bit for bit, in float32."""
    torch.manual_seed(9)  # weights whose codes differ from window to window
    codec, signal = tiny(**CODECS[name]), noise(40 * 32 + 7)
    windows = pieces * fewest_windows(codec.spec)
    whole = join_tokens(encoded(codec, signal, [signal.shape[-1]], windows=windows))
    assert len(whole.streams[-1].unique()) > 3
    for most in (5, 100, 1000):
        parts = encoded(codec, signal, lengths_of(signal.shape[-1], most), windows=windows)
        assert all(part.extents[0][0] % (32 * windows) == 0 for part in parts[:-1])
        tokens = join_tokens(parts)
        assert tokens.extents == whole.extents == ((signal.shape[-1],),)
        assert all(map(torch.equal, tokens.streams, whole.streams))


@ALL
@pytest.mark.parametrize("pieces", [1, 3])
def test_samples_do_not_depend_on_the_chunks(name, pieces):
    codec = tiny(**CODECS[name])
    tokens = codec.encode(noise(40 * 32 + 7))
    windows = pieces * fewest_windows(codec.spec)
    whole = torch.cat(decoded(codec, [tokens], windows=windows), dim=-1)
    assert whole.shape == (1, 1, 40 * 32 + 7) and whole.abs().max() > 1e-4
    for most in (1, 3, 30):
        chunks = list(cut(tokens, lengths_of(groups(tokens), most)))
        assert torch.equal(torch.cat(decoded(codec, chunks, windows=windows), dim=-1), whole)


@ALL
@pytest.mark.parametrize("samples", SAMPLES)
def test_a_stream_is_the_codec(name, samples):
    """In float64, whatever the pieces: codes of `Codec.encode`, samples of `Codec.decode`, to the last."""
    codec, signal = tiny(**CODECS[name]).double(), noise(samples)
    whole = codec.encode(signal)
    heard = codec.decode(whole)
    for pieces in (1, 2, 50):
        windows = pieces * fewest_windows(codec.spec)
        tokens = join_tokens(encoded(codec, signal, lengths_of(samples, 50), windows=windows))
        assert tokens.extents == whole.extents and all(map(torch.equal, tokens.streams, whole.streams))
        chunks = list(cut(whole, lengths_of(groups(whole), 2)))
        parts = decoded(codec, chunks, windows=windows)
        torch.testing.assert_close(torch.cat(parts, dim=-1).double(), heard.double(), rtol=0, atol=1e-12)


SMALL = dict(dim=16, heads=2, codebooks=2, codebook_size=16, latent_dim=4, context=0.3)
DEPTHS = dict(encoder_depth=1, decoder_depth=1)
NAMED = {
    **{front: lambda front=front: almtokenizer(front=front, **SMALL, **DEPTHS) for front in KINDS},
    "frames": lambda: frame_speech(**SMALL, depth=1, window=2),
    "anchors": lambda: elastic_speech(**SMALL, **DEPTHS, decoder_blocks=1),
    "features": lambda: semantic_features(channels=6, dim=16, depth=1, codebook_size=16, codebook_dim=4, latent_dim=8),
}


@pytest.mark.parametrize("name", NAMED)
def test_every_causal_codec_streams(name):
    codec = NAMED[name]().double().eval()
    spec = codec.spec
    signal = 0.3 * torch.randn(1, spec.channels, 3 * spec.step()[0] + spec.step()[0] // 3)
    for rate in {spec.resolve(), spec.resolve(Rate(queries=1))}:
        whole = codec.encode(signal, rate)
        lengths = lengths_of(signal.shape[-1], spec.step()[0])
        tokens = join_tokens(encoded(codec, signal, lengths, rate))
        assert tokens.extents == whole.extents and all(map(torch.equal, tokens.streams, whole.streams))
        heard = torch.cat(decoded(codec, [tokens]), dim=-1)
        torch.testing.assert_close(heard, codec.decode(whole), rtol=0, atol=1e-12)


@RATES
def test_streams_run_at_every_rate(codec, window):
    signal, rate = noise(500), Rate(window=window, codebooks=1)
    tokens = join_tokens(encoded(codec, signal, [100] * 5, rate))
    assert tokens.rate == codec.spec.resolve(rate) and torch.equal(tokens.codes, codec.encode(signal, rate).codes)
    heard = torch.cat(decoded(codec, [tokens]), dim=-1)
    torch.testing.assert_close(heard, codec.decode(tokens), rtol=0, atol=1e-12)


def test_loud_streams_are_clipped_as_loud_signals_are(codec):
    with torch.no_grad():
        codec.decoder.back.head.bias += 5
    tokens = codec.encode(noise(200))
    heard = torch.cat(decoded(codec, [tokens]), dim=-1)
    assert heard.abs().max() == 1
    torch.testing.assert_close(heard, codec.decode(tokens), rtol=0, atol=1e-12)


def test_a_batch_streams_as_its_signals_do(codec):
    signal = noise(10 * 32 + 1, batch=3)
    tokens, alone = join_tokens(encoded(codec, signal, [50] * 6 + [21])), codec.encode(signal)
    assert tokens.extents == alone.extents and torch.equal(tokens.codes, alone.codes)
    heard = torch.cat(decoded(codec, [tokens]), dim=-1)
    torch.testing.assert_close(heard, codec.decode(alone), rtol=0, atol=1e-12)


def test_tokens_come_with_the_last_sample_of_their_piece_and_samples_a_delay_later():
    codec, late = tiny(), tiny().decoder.back.delay
    for windows in (1, 2):
        encoding, decoding = start_encoding(codec, windows=windows), start_decoding(codec, windows=windows)
        said = heard = 0
        for sample in range(1, 5 * 32):
            tokens, encoding = encode_chunk(codec, noise(1), encoding)
            signal, decoding = decode_chunk(codec, tokens, decoding)
            said, heard = said + tokens.codes.shape[-1], heard + signal.shape[-1]
            whole = sample // (32 * windows) * windows
            assert (said, heard) == (whole, max(0, 32 * whole - late))
            assert encoding.samples.shape[-1] == sample % (32 * windows)


def test_the_codebooks_may_change_on_the_way():
    codec, signal = tiny(codebooks=3), noise(6 * 32)
    whole = join_tokens(encoded(codec, signal, [6 * 32]))
    counts, state, parts = [3, 1, 2, 3, 1, 2], start_encoding(codec), []
    for chunk, count in zip(signal.split(32, dim=-1), counts, strict=True):
        tokens, state = encode_chunk(codec, chunk, state, Rate(codebooks=count))
        parts.append(tokens)
    for place, (part, count) in enumerate(zip(parts, counts, strict=True)):
        assert torch.equal(part.codes, whole.codes[:, :count, place : place + 1])
    sent = [torch.where(torch.tensor(counts) > book, whole.streams[book], -1) for book in range(3)]
    expected = torch.cat(decoded(codec, [replace(whole, streams=tuple(sent))], windows=4), dim=-1)
    state, heard = start_decoding(codec, windows=4), []
    for part in parts:
        samples, state = decode_chunk(codec, part, state)
        heard.append(samples)
    assert torch.equal(torch.cat([*heard, flush_decoding(codec, state)], dim=-1), expected)


def test_a_state_is_a_value():
    """It can be kept, copied and continued twice; nothing that a call does reaches it."""
    codec, signal = tiny(), noise(10 * 32)
    tokens, encoding = encode_chunk(codec, signal[..., :100], start_encoding(codec))
    _, decoding = decode_chunk(codec, tokens, start_decoding(codec, windows=2))
    before = copy.deepcopy((encoding, decoding))
    more = encode_chunk(codec, signal[..., 100:], encoding)[0]
    heard = decode_chunk(codec, more, decoding)[0]
    ends = flush_encoding(codec, encoding).codes, flush_decoding(codec, decoding)
    for one, other in ((encoding, decoding), before, pickle.loads(pickle.dumps(before))):
        assert torch.equal(encode_chunk(codec, signal[..., 100:], one)[0].codes, more.codes)
        assert torch.equal(decode_chunk(codec, more, other)[0], heard)
        assert torch.equal(flush_encoding(codec, one).codes, ends[0])
        assert torch.equal(flush_decoding(codec, other), ends[1])


def test_the_samples_of_the_caller_are_his():
    codec, signal = tiny(), noise(100)
    expected = join_tokens(encoded(codec, signal, [100]))
    state, parts, buffer = start_encoding(codec), [], torch.empty(1, 1, 20)
    for chunk in signal.split(20, dim=-1):
        tokens, state = encode_chunk(codec, buffer.copy_(chunk), state)
        parts.append(tokens)
    buffer.fill_(1)
    assert torch.equal(join_tokens([*parts, flush_encoding(codec, state)]).codes, expected.codes)


# -- long streams ------------------------------------------------------------------------------------------


ONE_LAYER = {"encoder_depth": 1, "decoder_depth": 1}


def held(state):
    """Bytes that a state keeps in memory, what its tensors are views of included."""
    waiting = state.samples if hasattr(state, "samples") else state.codes
    return sum(tensor.untyped_storage().nbytes() for tensor in leaves((waiting, state.layers)))


def test_a_thousand_windows_are_as_exact_and_as_small_as_a_few():
    """Three windows over and over: once the beginning is forgotten, codes, samples and states repeat bit for bit."""
    codec, period = tiny(**ONE_LAYER), noise(3 * 32)
    encoding, decoding, seen = start_encoding(codec), start_decoding(codec), []
    first = state_bytes(encoding), state_bytes(decoding)
    for _ in range(334):
        tokens, encoding = encode_chunk(codec, period, encoding)
        signal, decoding = decode_chunk(codec, tokens, decoding)
        seen.append((tokens, signal, encoding, decoding))
        assert (state_bytes(encoding), state_bytes(decoding)) == first
    for early, late in ((10, 333), (11, 332)):
        (some, heard, *before), (others, again, *after) = seen[early], seen[late]
        assert torch.equal(some.codes, others.codes) and torch.equal(heard, again)
        for one, other in zip(before, after, strict=True):
            assert all(map(torch.equal, leaves(one.layers), leaves(other.layers)))
        assert list(map(held, before)) == list(map(held, after))
    assert decoding.extent == 334 * 3 * 32 and not torch.equal(seen[0][1], seen[10][1])


def test_a_long_chunk_leaves_no_more_behind_than_short_ones():
    codec = tiny(**ONE_LAYER)
    tokens, encoding = encode_chunk(codec, noise(500 * 32 + 5), start_encoding(codec))
    _, decoding = decode_chunk(codec, tokens, start_decoding(codec, windows=3))
    _, small = encode_chunk(codec, noise(32 + 5), start_encoding(codec))
    _, other = decode_chunk(codec, codec.encode(noise(5 * 32)), start_decoding(codec, windows=3))
    assert (held(encoding), held(decoding)) == (held(small), held(other))


def test_states_are_as_large_as_their_parts():
    codec = tiny()
    keys_and_values = 2 * 2 * 3 * (2 + 1) * 16  # depth, keys and values, windows, slots, width
    assert state_bytes(start_encoding(codec)) == 4 * (keys_and_values + 16)  # 16 samples before a spectrum
    assert state_bytes(start_decoding(codec, batch=5)) == 5 * 4 * (keys_and_values + 6 * 16 + 2 * 16)
    _, state = encode_chunk(codec, noise(40), start_encoding(codec))
    assert state_bytes(state) == 4 * (keys_and_values + 16 + 8)


# -- refusals ----------------------------------------------------------------------------------------------


def chunk_of(codec, samples=64, batch=1, **rate):
    return codec.encode(noise(samples, batch), Rate(**rate))


def named(codec, stream_id):
    codec.stream_id = stream_id
    return codec


def not_causal(codec):
    codec.spec = replace(codec.spec, causal=False)
    return codec


ENCODE, DECODE = start_encoding, start_decoding
REFUSED = {
    "not causal": (lambda c: ENCODE(not_causal(c)), "is causal in time, query_speech is not"),
    "not causal decoder": (lambda c: DECODE(not_causal(c)), "is causal in time"),
    "no such rate": (lambda c: ENCODE(c, Rate(codebooks=3)), "1 to 2 codebooks, got 3"),
    "no windows": (lambda c: ENCODE(c, windows=0), "multiple of 1 windows, got windows=0"),
    "half a group": (lambda _: DECODE(tiny(**CODECS["groups of 4"]), windows=6), "of 4 windows, got windows=6"),
    "no batch": (lambda c: ENCODE(c, batch=0), "at least 1, got 0"),
    "stereo": (lambda c: encode_chunk(c, noise(9).expand(1, 2, 9), ENCODE(c)), r"shape \[1, T\].*got \[2, 9\]"),
    "too loud": (lambda c: encode_chunk(c, 99 * torch.ones(1, 1, 9), ENCODE(c)), "magnitude 99"),
    "not a number": (lambda c: encode_chunk(c, torch.full((1, 1, 9), torch.nan), ENCODE(c)), "magnitude nan"),
    "another batch": (lambda c: encode_chunk(c, noise(9, 3), ENCODE(c, batch=2)), "batch of 2, got a chunk of 3"),
    "another codec": (lambda c: encode_chunk(c, noise(9), ENCODE(tiny(name="other"))), r"other \(no release\), got q"),
    "other weights": (lambda c: flush_encoding(c, ENCODE(named(tiny(), b"a"))), r"\(61\), got query_speech \(no rel"),
    "another window": (lambda c: encode_chunk(c, noise(9), ENCODE(c), Rate(window=(3,))), r"codebooks only: .*\(3,\)"),
    "tokens of another codec": (lambda c: decode_chunk(c, chunk_of(tiny(codebooks=3)), DECODE(c)), "these tokens are"),
    "tokens of another window": (lambda c: decode_chunk(c, chunk_of(c, window=(3,)), DECODE(c)), "codebooks only"),
    "tokens of another batch": (lambda c: decode_chunk(c, chunk_of(c, batch=2), DECODE(c)), "batch of 1 of one extent"),
    "decoder state of another": (lambda c: flush_decoding(c, DECODE(tiny(name="other"))), "goes on with the codec"),
    "unequal extents": (
        lambda c: decode_chunk(c, c.encode([noise(64)[0], noise(32)[0]]), DECODE(c, batch=2)), "extents ..64,., .32"
    ),
    "code too large": (
        lambda c: decode_chunk(c, Tokens((torch.tensor([[16]]),) * 2, ((32,),), Rate(), c.spec), DECODE(c)), "0 to 15"
    ),
    "after the end": (
        lambda c: decode_chunk(c, chunk_of(c), decode_chunk(c, chunk_of(c, 40), DECODE(c))[1]), "32 samples, at 40"
    ),
    "nothing to join": (lambda c: join_tokens([]), "at least one chunk"),
    "joined rates": (lambda c: join_tokens([chunk_of(c), chunk_of(c, codebooks=1)]), "with `prefix`"),
    "joined batches": (lambda c: join_tokens([chunk_of(c), chunk_of(c, batch=2)]), "batch of 1 of one extent"),
    "joined after the end": (lambda c: join_tokens([chunk_of(c, 63), chunk_of(c, 63)]), "of 32 samples, got one of 63"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case):
    work, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        work(tiny())
    assert "\n" not in str(error.value)
