"""Laws of codecs, over one tiny codec of each kind of signal: extents, rates, batches, refusals, learning."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sigtok.codecs.audio.models import almtokenizer, frame_speech
from sigtok.codecs.codec import Codec, crop_to, pad_to
from sigtok.codecs.files import tokens_from_bytes, tokens_to_bytes
from sigtok.codecs.image.models import compact_image, elastic_image, vqgan_image
from sigtok.codecs.layouts.names import LAYOUTS
from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.spec import Rate

KINDS = ("audio", "image", "elastic", "features", "frames", "local", "compact", "vqgan")
EVERY = pytest.mark.parametrize("kind", KINDS)
IN_RANGE = pytest.mark.parametrize(
    "kind", ("audio", "image", "elastic", "frames", "local", "compact", "vqgan")
)  # other values are refused
EXTENTS = {
    "audio": [(0,), (1,), (959,), (960,), (961,), (1919,), (1920,), (1921,), (3840,), (5761,)],
    "image": [(1, 1), (1, 40), (7, 13), (16, 16), (16, 17), (17, 16), (33, 5)],
    "elastic": [(1, 1), (1, 40), (15, 13), (16, 16), (17, 33)],
    "features": [(count,) for count in range(10)],
    "frames": [(0,), (1,), (31,), (32,), (33,), (100,)],
    "local": [(0,), (1,), (59,), (60,), (61,), (400,)],
    "compact": [(1, 1), (1, 40), (8, 8), (9, 15), (16, 17), (33, 5)],
    "vqgan": [(1, 1), (1, 23), (4, 4), (5, 7), (16, 17), (33, 5)],
}
RATES = {
    "audio": [None, Rate(codebooks=1), Rate(codebooks=2)],
    "image": [None, Rate(queries=1), Rate(queries=5)],
    "elastic": [None, Rate(queries=1), Rate(queries=5)],
    "features": [None],
    "frames": [None, Rate(codebooks=1)],
    "local": [None, Rate(codebooks=1), Rate(window=(2,))],
    "compact": [None],
    "vqgan": [None],
}
EACH_EXTENT = pytest.mark.parametrize("kind, extent", [(kind, extent) for kind in KINDS for extent in EXTENTS[kind]])


@pytest.fixture
def codecs(tiny_audio_codec, tiny_image_codec, tiny_feature_codec):
    small = dict(dim=16, heads=2, codebooks=2, codebook_size=16, latent_dim=4, context=0.01)
    seanet = {"filters": 2, "strides": [2, 4]}
    code = dict(codebook_size=16, latent_dim=4)
    return {
        "audio": tiny_audio_codec.eval(),
        "image": tiny_image_codec.eval(),
        "elastic": elastic_image(
            levels=2, tile=4, tokens=7, dim=16, heads=2, encoder_depth=1, decoder_depth=1, **code
        ).eval(),
        "features": tiny_feature_codec.eval(),
        "frames": frame_speech(hop=8, front_options=seanet, window=4, depth=1, **small).eval(),
        "local": almtokenizer(
            hop=20, windows=(3, 2), attention="local", encoder_depth=1, decoder_depth=1, front="mdct", **small
        ).eval(),
        "compact": compact_image(levels=2, width=16, encoder_depth=1, decoder_depth=1, tile=2, **code).eval(),
        "vqgan": vqgan_image(multipliers=(1, 1, 2), width=8, blocks=1, channels=16, tile=2, **code).eval(),
    }


def signal_of(codec, extent, batch=None):
    shape = (codec.spec.channels, *extent) if batch is None else (batch, codec.spec.channels, *extent)
    return torch.rand(shape) * 2 - 1


def same(tokens, others):
    assert tokens.extents == others.extents and tokens.rate == others.rate and tokens.spec == others.spec
    assert all(map(torch.equal, tokens.streams, others.streams))


# -- extents -----------------------------------------------------------------------------------------------


@EACH_EXTENT
def test_a_signal_of_any_extent_comes_back_as_long_as_it_was(codecs, kind, extent):
    codec = codecs[kind]
    signal = signal_of(codec, extent, batch=2)
    for rate in RATES[kind]:
        tokens = codec.encode(signal, rate)
        decoded = codec.decode(tokens)
        assert tokens.extents == (extent, extent)
        assert decoded.shape == signal.shape and decoded.dtype == torch.float32
        assert decoded.isfinite().all() and (not codec.spec.bounded or (decoded.abs() <= 1).all())


@EACH_EXTENT
def test_spec_tokens_layout_and_bytes_agree_on_the_counts(codecs, kind, extent):
    codec = codecs[kind]
    spec, name = codec.spec, bytes(range(16))
    for rate in RATES[kind]:
        tokens = codec.encode(signal_of(codec, extent, batch=1), rate)
        counts = spec.token_counts(extent, rate)
        assert tuple(stream.shape[1] for stream in tokens.streams) == counts
        assert codec.layout("flatten", rate).to_ids(tokens).shape[-1] == sum(counts)
        assert codec.layout("parallel", rate).to_ids(tokens).shape[-1] == counts[0]
        for stream, size in zip(tokens.streams, spec.codebook_sizes, strict=False):
            assert ((stream >= 0) & (stream < size)).all()
        data = tokens_to_bytes(tokens, name)
        assert 0 <= len(data) - math.ceil(spec.bits(extent, rate) / 8) <= 20
        same(tokens_from_bytes(data, spec, name), tokens)


def test_the_whole_range_of_extents_of_audio_keeps_its_length(tiny_audio_codec):
    step = tiny_audio_codec.spec.step()[0]
    sizes = [*range(1, 3 * step + 2, 397), step - 1, step, step + 1, 3 * step, 3 * step + 1]
    signals = [signal_of(tiny_audio_codec, (size,)) for size in sizes]
    tokens = tiny_audio_codec.encode(signals)
    assert [len(item.codes[0, 0]) for item in tokens] == [math.ceil(size / step) for size in sizes]
    assert [signal.shape for signal in tiny_audio_codec.decode(tokens)] == [signal.shape for signal in signals]


def test_zero_samples_are_zero_tokens_and_zero_samples_again(tiny_audio_codec):
    tokens = tiny_audio_codec.encode(torch.zeros(2, 1, 0))
    assert tokens.codes.shape == (2, 3, 0)
    assert tiny_audio_codec.decode(tokens).shape == (2, 1, 0)
    mixed = tiny_audio_codec.encode([torch.zeros(1, 0), torch.zeros(1, 10)])
    assert [signal.shape for signal in tiny_audio_codec.decode(mixed)] == [(1, 0), (1, 10)]


def test_audio_is_padded_with_silence_and_images_with_their_edge():
    signal = torch.arange(6.0).reshape(1, 1, 6)
    assert pad_to(signal, (8,)).flatten().tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    image = torch.tensor([[[[1.0, 2.0]]]])
    assert pad_to(image, (2, 3)).tolist() == [[[[1, 2, 2], [1, 2, 2]]]]
    assert torch.equal(crop_to(pad_to(image, (3, 3))[0], (1, 2)), image[0])


# -- what encode, decode and forward are to each other -----------------------------------------------------


@EVERY
def test_decode_of_encode_is_forward(codecs, kind):
    codec = codecs[kind]
    with torch.no_grad():
        last = [weight for name, weight in codec.decoder.named_parameters() if name.endswith("weight")][-1]
        last.mul_(3)  # louder than what a fresh decoder says
    for rate in RATES[kind]:
        signal = signal_of(codec, tuple(3 * step for step in codec.spec.step(rate)), batch=2)
        reconstruction = codec(signal, rate)
        tokens = codec.encode(signal, rate)
        assert all(map(torch.equal, tokens.streams, reconstruction.quantized.streams))
        expected = reconstruction.signal.detach()
        expected = expected.clamp(-1, 1) if codec.spec.bounded else expected
        torch.testing.assert_close(codec.decode(tokens), expected, rtol=1e-4, atol=1e-5)


def test_fewer_codebooks_are_a_prefix_of_the_tokens(tiny_audio_codec):
    signal = signal_of(tiny_audio_codec, (5000,), batch=1)
    tokens = tiny_audio_codec.encode(signal)
    for codebooks in (1, 2):
        fewer = tiny_audio_codec.encode(signal, Rate(codebooks=codebooks))
        same(tokens.prefix(codebooks), fewer)
        assert not torch.equal(tiny_audio_codec.decode(fewer), tiny_audio_codec.decode(tokens))


def test_tokens_of_the_past_do_not_wait_for_the_future(tiny_audio_codec):
    spec = tiny_audio_codec.spec
    signal = signal_of(tiny_audio_codec, (6 * spec.step()[0],), batch=1)
    tokens = tiny_audio_codec.encode(signal)
    assert spec.causal
    for count in range(1, 6):
        prefix = tiny_audio_codec.encode(signal[..., : count * spec.step()[0]])
        assert torch.equal(prefix.codes, tokens.codes[..., :count])


def test_tiles_are_read_alone(tiny_image_codec):
    """Up to the overlap of the wavelet: a far tile does not change."""
    assert not tiny_image_codec.spec.causal
    signal = signal_of(tiny_image_codec, (16, 64), batch=1)
    changed = signal.clone()
    changed[..., 48:] = -changed[..., 48:]
    codes = [tiny_image_codec.encode(each).codes[0, 0].view(4, 16) for each in (signal, changed)]
    assert torch.equal(codes[0][:2], codes[1][:2]) and not torch.equal(codes[0][3], codes[1][3])


@pytest.mark.parametrize("tile", range(6))
def test_a_tile_of_tokens_is_a_tile_of_pixels(tiny_image_codec, tile):
    """Two rows of three tiles, row by row, 16 tokens each; their pixels overlap by the wavelet only."""
    row, column = divmod(tile, 3)
    inside = (slice(None), slice(16 * row + 6, 16 * row + 10), slice(16 * column + 6, 16 * column + 10))
    signal = signal_of(tiny_image_codec, (32, 48), batch=1)
    tokens = tiny_image_codec.encode(signal)
    signal[0][inside] = -signal[0][inside]
    others = tiny_image_codec.encode(signal)
    differ = (others.codes != tokens.codes).view(6, 16).sum(-1)
    assert differ.argmax() == tile
    spoken = tokens.codes.clone()
    spoken.view(6, 16)[tile] = (spoken.view(6, 16)[tile] + 1) % 64
    changed = tiny_image_codec.decode(replace(tokens, streams=(spoken[:, 0],)))
    change = (changed - tiny_image_codec.decode(tokens)).square().sum((0, 1))
    loud = change.unflatten(1, (3, 16)).unflatten(0, (2, 16)).sum((1, 3))
    assert loud.argmax() == tile and loud.flatten()[tile] > 0.5 * loud.sum()


@EVERY
def test_encode_and_decode_change_nothing_and_say_the_same_twice(codecs, kind):
    codec = codecs[kind].train()
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    signal = signal_of(codec, EXTENTS[kind][4], batch=1)
    first, second = codec.encode(signal), codec.encode(signal)
    same(first, second)
    assert torch.equal(codec.decode(first), codec.decode(second))
    assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())
    assert codec.training
    same(codec.eval().encode(signal), first)


@EVERY
def test_what_a_codec_says_can_be_learned_from(codecs, kind):
    codec = codecs[kind]
    tokens = codec.encode(signal_of(codec, EXTENTS[kind][4], batch=1))
    decoded = codec.decode(tokens)
    assert not decoded.requires_grad
    nn.Embedding(64, 2)(tokens.streams[0]).sum().backward()
    scale = torch.ones((), requires_grad=True)
    (decoded * scale).square().sum().backward()
    assert scale.grad is not None


@EVERY
def test_signals_of_half_precision_runs_are_encoded_alike(codecs, kind):
    """Under autocast the network rounds, the quantizer does not: values are still codes."""
    codec = codecs[kind]
    signal = signal_of(codec, EXTENTS[kind][4], batch=1)
    with torch.autocast("cpu", torch.bfloat16):
        tokens = codec.encode(signal)
        decoded = codec.decode(tokens)
    assert decoded.isfinite().all() and decoded.shape == signal.shape
    agreement = (tokens.codes == codec.encode(signal).codes).float().mean()
    assert agreement > 0.5


# -- batches -----------------------------------------------------------------------------------------------


@EVERY
def test_a_signal_has_the_same_tokens_alone_and_in_any_company(codecs, kind):
    codec = codecs[kind]
    signals = [signal_of(codec, extent) for extent in EXTENTS[kind]]
    for rate in RATES[kind]:
        alone = [codec.encode(signal[None], rate) for signal in signals]
        together = codec.encode(signals, rate)
        turned = codec.encode(signals[::-1], rate)
        for item, other, single in zip(together, reversed(list(turned)), alone, strict=True):
            same(item, single)
            same(other, single)
        for decoded, single in zip(codec.decode(together), alone, strict=True):
            assert torch.equal(decoded, codec.decode(single)[0])


@EVERY
def test_a_tensor_is_a_batch_of_its_items(codecs, kind):
    codec = codecs[kind]
    signal = signal_of(codec, EXTENTS[kind][4], batch=3)
    same(codec.encode(signal), codec.encode(list(signal)))
    assert isinstance(codec.decode(codec.encode(signal)), torch.Tensor)


# -- refusals ----------------------------------------------------------------------------------------------


@IN_RANGE
@pytest.mark.parametrize(
    "broken, message",
    [
        (lambda x: (x * 100).to(torch.int16), r"float32 tensor in \[-1, 1\], got torch.int16"),
        (lambda x: x.double(), r"float32 tensor in \[-1, 1\], got torch.float64"),
        (lambda x: torch.full_like(x, 1e30), r"\[-1, 1\], got one of magnitude 1e\+30"),
        (lambda x: torch.full_like(x, -9.0), r"\[-1, 1\], got one of magnitude 9"),
        (lambda x: torch.where(torch.arange(x.shape[-1]) == 2, math.nan, x), "magnitude nan"),
        (lambda x: torch.where(torch.arange(x.shape[-1]) == 2, -math.inf, x), "magnitude inf"),
        (lambda x: x[0], r"takes signals of shape \[[13], (T|height, width)\] .* got \["),
        (lambda x: x[None], r"takes signals of shape \[[13], (T|height, width)\] .* got \["),
        (lambda x: torch.cat((x, x)), r"takes signals of shape \[[13], (T|height, width)\] .* got \[[26], "),
    ],
)
def test_what_is_no_signal_is_refused(codecs, kind, broken, message):
    codec = codecs[kind]
    signal = signal_of(codec, EXTENTS[kind][4])
    codec.encode([signal])
    for signals in ([broken(signal)], [signal, broken(signal)]):
        with pytest.raises(ValueError, match=message):
            codec.encode(signals)


def test_images_without_pixels_and_batches_without_signals_are_refused(codecs):
    for extent in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match=rf"at least 1, got extent \({extent[0]}, {extent[1]}\)"):
            codecs["image"].encode(torch.zeros(1, 3, *extent))
    for codec in codecs.values():
        with pytest.raises(ValueError, match="at least one signal, got none"):
            codec.encode([])


def test_another_sample_rate_is_refused(codecs):
    signal = torch.zeros(1, 1, 100)
    same(codecs["audio"].encode(signal, sample_rate=24_000), codecs["audio"].encode(signal))
    with pytest.raises(ValueError, match="works at 24000 Hz, got 16000 Hz; resample"):
        codecs["audio"].encode(signal, sample_rate=16_000)
    with pytest.raises(ValueError, match="got 16000"):
        codecs["image"].encode(torch.zeros(1, 3, 8, 8), sample_rate=16_000)


def test_tokens_of_another_codec_are_refused(codecs):
    audio, image = codecs["audio"], codecs["image"]
    tokens = audio.encode(torch.zeros(1, 1, 100))
    with pytest.raises(ValueError, match="of query_speech, this codec is query_image"):
        image.decode(tokens)
    other = replace(tokens, spec=replace(audio.spec, sample_rate=16_000))
    with pytest.raises(ValueError, match="these tokens are of query_speech"):
        audio.decode(other)
    renamed = replace(tokens, spec=replace(audio.spec, name="renamed"))
    assert torch.equal(audio.decode(renamed), audio.decode(tokens))


@pytest.mark.parametrize("code", [64, -2, 2**40])
def test_codes_out_of_their_codebook_are_refused_with_their_place(tiny_audio_codec, code):
    tokens = tiny_audio_codec.encode([torch.zeros(1, 100), torch.zeros(1, 5000)])
    tokens.streams[1][1, 2] = code
    with pytest.raises(ValueError, match=rf"codebook 1 has codes 0 to 63 .*got {code} in item 1 at position 2"):
        tiny_audio_codec.decode(tokens)


@EVERY
def test_training_signals_are_whole_windows(codecs, kind):
    codec = codecs[kind]
    extent = tuple(step + 1 for step in codec.spec.step())
    with pytest.raises(ValueError, match=rf"multiples of .*, got extent \({extent[0]}"):
        codec(signal_of(codec, extent, batch=1))


def test_a_quantizer_that_is_not_the_spec_s_is_refused(tiny_audio_codec):
    parts = (tiny_audio_codec.encoder, EMAVQ(64, 8), tiny_audio_codec.decoder)
    with pytest.raises(ValueError, match=r"codebooks \(64, 64, 64\) of width 8, the quantizer has \(64,\) of width 8"):
        Codec(tiny_audio_codec.spec, *parts)


# -- tokens further on -------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("raster", "granularity_blocks")])
def test_layouts_give_the_tokens_back(codecs, kind, name):
    codec = codecs[kind]
    for extent, rate in itertools.product(EXTENTS[kind][-3:], RATES[kind]):
        tokens = codec.encode(signal_of(codec, extent, batch=2), rate)
        layout = codec.layout(name, rate)
        back = layout.from_ids(layout.to_ids(tokens), tokens.extents)
        same(back, tokens)
        assert torch.equal(codec.decode(back), codec.decode(tokens))


# -- learning ----------------------------------------------------------------------------------------------


def fit(codec, signal, steps, losses, rate=3e-3):
    """The signal's loss before and after some steps on it alone."""
    optimizer = torch.optim.Adam(codec.parameters(), rate)
    codec.train()
    first = None
    for _ in range(steps):
        reconstruction = codec(signal)
        loss = distance = (reconstruction.signal - signal).square().mean()
        for name, weight in losses.items():
            loss = loss + weight * reconstruction.quantized.losses[name]
        first = first or float(distance.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return first, float((codec.eval().decode(codec.encode(signal)) - signal).square().mean())


def test_a_codec_learns_one_tone(tiny_audio_codec):
    time = torch.arange(13 * 1920) / 24_000
    tone = (0.5 * torch.sin(2 * math.pi * 75 * time))[None, None]
    first, last = fit(tiny_audio_codec, tone, 60, {"commitment": 0.1})
    assert last < first / 2


def test_a_codec_learns_one_picture(tiny_image_codec):
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    picture = torch.stack((rows, columns, (4 * rows * columns).sin()))[None]
    first, last = fit(tiny_image_codec, picture, 60, {"codebook": 1.0, "commitment": 0.25, "alignment": 1.0})
    assert last < first / 2


@EVERY
def test_every_parameter_learns_at_some_rate(codecs, kind):
    codec = codecs[kind].train()
    for rate in RATES[kind]:
        extent = tuple(2 * step for step in codec.spec.step(rate))
        signal = signal_of(codec, extent, batch=2)
        reconstruction = codec(signal, rate)
        loss = (reconstruction.signal - signal).square().mean() + sum(reconstruction.quantized.losses.values())
        loss.backward()
    still = [name for name, value in codec.named_parameters() if value.grad is None or not value.grad.any()]
    assert not still


def test_tokens_of_local_attention_wait_for_no_more_than_the_lookahead(codecs):
    codec = codecs["local"]
    for window in codec.spec.windows:
        rate, step = codec.spec.resolve(Rate(window=window)), codec.spec.step(Rate(window=window))[0]
        signal = torch.randn(1, 1, 40 * step, requires_grad=True)
        (gradient,) = torch.autograd.grad(codec.encoder(signal, rate)[0, 9].square().sum(), signal)
        last = int(gradient[0, 0].nonzero().max())
        assert 10 * step <= last < 10 * step + codec.spec.lookahead
