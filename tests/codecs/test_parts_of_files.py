"""Files by chunks and in part: the same samples as the whole, from as few bytes; and what damage leaves."""

import io
from pathlib import Path

import jaxtyping
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.bitstream import BitstreamError, Stream, read, read_header, write
from sigtok.codecs.files import (
    compress,
    compress_chunks,
    decompress,
    decompress_chunks,
    decompress_part,
    decompress_rest,
    tokens_from_bytes,
)
from sigtok.codecs.media import read_audio
from sigtok.codecs.metrics.audio import mel_distance, stoi
from sigtok.codecs.pretrained import load, stream_id
from sigtok.codecs.spec import Rate

SPEECH = Path(__file__).parents[2] / "demo" / "input" / "speech.flac"
RATE = 8000
TINY = dict(
    sample_rate=RATE, frame_hop=40, frame_size=120, dim=16, heads=2, encoder_depth=1, decoder_depth=2,
    decoder_blocks=1, codebooks=3, codebook_size=64, latent_dim=8, context=0.3,
)  # fmt: skip


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    made = query_speech(**TINY).eval()
    made.stream_id = bytes(range(16))
    return made


@pytest.fixture
def fast(monkeypatch):
    """Without shape checks of every call: for many small steps."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def noise(samples, seed=0):
    return torch.rand(1, 1, samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def chunked(codec, signal, chunk_positions):
    """The file of a signal, a container of such chunks."""
    stream = read(compress(codec, signal), codec.spec, codec.stream_id or stream_id(codec))
    header = vars(stream.header) | {"profile": "container", "chunk_positions": chunk_positions}
    return write(Stream(type(stream.header)(**header), stream.codes))


# -- streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["fixed", "adaptive"])
@pytest.mark.parametrize("samples", [0, 1, 119, 120, 5000])
def test_a_file_written_and_read_by_chunks_is_the_file_of_the_whole(codec, samples, coding, fast):
    signal, file = noise(samples), io.BytesIO()
    compress_chunks(codec, signal.split(700, -1) if samples else [], file, Rate(codebooks=2), coding=coding)
    data = file.getvalue()
    assert read_header(data).streamed and read_header(data).extent == (samples,)
    whole = compress(codec, signal, Rate(codebooks=2))
    tokens = tokens_from_bytes(data, codec.spec, codec.stream_id)
    assert torch.equal(tokens.codes, tokens_from_bytes(whole, codec.spec, codec.stream_id).codes)
    for written in (data, chunked(codec, signal, 7)):
        parts = list(decompress_chunks(codec, io.BytesIO(written)))
        torch.testing.assert_close(torch.cat(parts, -1), decompress(codec, written), rtol=0, atol=1e-5)


def test_adaptive_files_are_smaller_where_codes_repeat_and_decode_to_the_same(codec, fast):
    signal = noise(120).repeat(1, 1, 300)
    fixed, adaptive = (compress(codec, signal, coding=coding) for coding in ("fixed", "adaptive"))
    assert len(adaptive) < len(fixed) / 2
    assert torch.equal(decompress(codec, fixed), decompress(codec, adaptive))


# -- parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_positions", [50, 333])
def test_a_part_is_that_part_of_the_whole_signal(codec, chunk_positions, fast):
    data = chunked(codec, noise(40_000), chunk_positions)
    whole = decompress(codec, data)
    for start, stop in ((0, 5), (0, 0.01), (2.34567, 2.5), (4.9, 5), (1, 4.00013)):
        first, last = round(start * RATE), round(stop * RATE)
        part = decompress_part(codec, io.BytesIO(data), start, stop)
        assert part.shape == (1, 1, last - first)
        torch.testing.assert_close(part, whole[..., first:last], rtol=0, atol=1e-5)


def test_a_margin_of_all_that_the_decoder_hears_is_exact_and_a_shorter_one_is_not(codec, fast):
    """Two layers that hear 0.3 s each."""
    data = chunked(codec, noise(40_000), 50)
    whole = decompress(codec, data)[..., 3 * RATE : 4 * RATE]
    error = {
        margin: float((decompress_part(codec, io.BytesIO(data), 3, 4, margin=margin) - whole).abs().max())
        for margin in (0.0, 0.7)
    }
    assert error[0.7] < 1e-5 < error[0.0]


def test_a_part_of_a_voice_is_the_same_voice_of_other_pulses_and_noise(fast):
    """The bundled model's pulses run on from the beginning: magnitudes agree and samples do not."""
    codec, clip = load("speech_24khz"), read_audio(SPEECH, 24_000, 1)[0]
    data = compress(codec, torch.from_numpy(clip)[None])
    whole = decompress(codec, data)[..., 2 * 24_000 : 4 * 24_000]
    part = decompress_part(codec, io.BytesIO(data), 2, 4, margin=1.0)
    assert part.shape == whole.shape and not torch.allclose(part, whole, atol=1e-2)
    assert mel_distance(part, whole, 24_000) < 0.5 * mel_distance(torch.zeros_like(whole), whole, 24_000) / 4
    assert stoi(part[0, 0], whole[0, 0], 24_000) > 0.9


def test_damage_elsewhere_does_not_matter(codec, fast):
    data = bytearray(chunked(codec, noise(40_000), 50))
    whole = decompress(codec, bytes(data))
    data[data.index(b"CHNK") + 40] ^= 1
    with pytest.raises(BitstreamError):
        decompress(codec, bytes(data))
    part = decompress_part(codec, io.BytesIO(data), 4, 5, margin=0.7)
    torch.testing.assert_close(part, whole[..., 4 * RATE :], rtol=0, atol=1e-5)
    with pytest.raises(BitstreamError, match="chunk 0"):
        decompress_part(codec, io.BytesIO(data), 0.1, 0.2)


@pytest.mark.parametrize(("start", "stop"), [(0, 5.01), (3, 3), (4, 2), (-1, 2), (6, 7)])
def test_a_part_lies_in_the_signal(codec, start, stop, fast):
    data = compress(codec, noise(40_000))
    with pytest.raises(ValueError, match=r"between 0 and the 5 s of the signal"):
        decompress_part(codec, io.BytesIO(data), start, stop)


def test_pictures_have_no_seconds(tiny_image_codec):
    data = compress(tiny_image_codec.eval(), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="is of pictures; decode the whole file"):
        decompress_part(tiny_image_codec, io.BytesIO(data), 0.0, 1.0)


def test_features_have_parts(tiny_feature_codec, fast):
    codec = tiny_feature_codec.eval()
    features = torch.randn(1, 5, 400)
    data, rate = compress(codec, features), codec.spec.sample_rate
    whole = decompress(codec, data)
    part = decompress_part(codec, io.BytesIO(data), 100 / rate, 131 / rate)
    torch.testing.assert_close(part, whole[..., 100:131], rtol=0, atol=1e-4)


# -- what damage left --------------------------------------------------------------------------------------


def test_what_is_left_of_a_sound_is_as_it_was_and_the_rest_is_named(codec, fast):
    data = bytearray(chunked(codec, noise(80_000), 50))
    whole, lost = decompress(codec, bytes(data)), 50 * codec.spec.step()[0]
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"CHNK"]
    data[starts[2] + 40] ^= 1
    signal, missing = decompress_rest(codec, bytes(data))
    assert missing == [(2 * lost, 3 * lost)] and signal.shape == whole.shape
    before = 2 * lost - codec.spec.step()[0]  # windows overlap
    torch.testing.assert_close(signal[..., :before], whole[..., :before], rtol=0, atol=1e-5)
    behind = 3 * lost + RATE  # beyond what the decoder hears
    torch.testing.assert_close(signal[..., behind:], whole[..., behind:], rtol=0, atol=1e-5)
    signal, missing = decompress_rest(codec, bytes(data[: starts[4]]))
    assert missing == [(2 * lost, 3 * lost), (4 * lost, 80_000)]


def test_rows_of_a_picture_are_missing(tiny_image_codec, fast):
    codec = tiny_image_codec.eval()
    signal = torch.rand(1, 3, 80, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    grid = codec.spec.grid((80, 64))
    rows = codec.spec.step()[0]
    data = bytearray(chunked(codec, signal, grid[1] * codec.spec.queries))
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"CHNK"]
    data[starts[1] + 30] ^= 1
    left, missing = decompress_rest(codec, bytes(data))
    assert missing == [(rows, 2 * rows)] and left.shape == signal.shape and left.isfinite().all()


def test_nothing_is_missing_of_a_whole_file_and_packets_have_no_rest(codec, fast):
    data = chunked(codec, noise(4000), 50)
    signal, missing = decompress_rest(codec, data)
    assert missing == [] and torch.equal(signal, decompress(codec, data))
    with pytest.raises(BitstreamError, match="got a packet"):
        decompress_rest(codec, compress(codec, noise(4000)))
    other = query_speech(**TINY).eval()
    other.stream_id = bytes(16)
    with pytest.raises(BitstreamError, match="written by model"):
        decompress_rest(other, data)
