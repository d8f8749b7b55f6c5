"""Signals and tokens as files: exactly back, signed by their model, refused by any other."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from sigtok.codecs import files
from sigtok.codecs.bitstream import BitstreamError, Limits, Stream, read_header
from sigtok.codecs.codec import Codec
from sigtok.codecs.files import compress, decompress, tokens_from_bytes, tokens_to_bytes
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.quantizers.vq import VQ
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens, batch_tokens

ID = bytes(range(16))


class Frames(nn.Module):
    """One linear layer over hops of audio."""

    def __init__(self, hop, dim):
        super().__init__()
        self.hop, self.linear = hop, nn.Linear(hop, dim)

    def forward(self, signal, rate):
        return self.linear(signal.unflatten(-1, (-1, self.hop))[:, 0])

    piecewise = forward


class Samples(nn.Module):
    """One linear layer back to hops of audio."""

    def __init__(self, hop, dim):
        super().__init__()
        self.linear = nn.Linear(dim, hop)

    def forward(self, latents, extent, rate):
        return self.linear(latents).flatten(1)[:, None]

    piecewise = forward


def tiny_codec(quantizer=None, hop=16):
    torch.manual_seed(0)
    quantizer = quantizer or Residual([VQ(8, 3), VQ(5, 3)])
    spec = CodecSpec(
        name="tiny",
        modality="audio",
        channels=1,
        sample_rate=8000,
        hop=(hop,),
        codebook_sizes=quantizer.codebook_sizes,
        latent_dim=quantizer.dim,
    )
    return Codec(spec, Frames(hop, quantizer.dim), quantizer, Samples(hop, quantizer.dim)).eval()


def noise(samples, seed=0):
    return torch.rand(1, 1, samples, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("samples", [0, 1, 15, 16, 17, 333])
@pytest.mark.parametrize("codebooks", [1, 2])
def test_a_file_decodes_to_what_its_tokens_decode_to(samples, codebooks):
    codec, rate, signal = tiny_codec(), Rate(codebooks=codebooks), noise(samples)
    data = compress(codec, signal, rate)
    torch.testing.assert_close(decompress(codec, data), codec.decode(codec.encode(signal, rate)), rtol=0, atol=0)
    assert decompress(codec, data).shape == signal.shape


def test_a_file_holds_the_tokens():
    codec = tiny_codec(FSQ([5, 3]))
    tokens = codec.encode(noise(333))
    back = tokens_from_bytes(tokens_to_bytes(tokens, ID), codec.spec, ID)
    assert (back.extents, back.rate, back.spec) == (tokens.extents, tokens.rate, tokens.spec)
    assert all(map(torch.equal, back.streams, tokens.streams))


def test_a_long_signal_round_trips_in_chunks():
    codec = tiny_codec(FSQ([8, 8, 8, 8]), hop=4)
    tokens = codec.encode(noise(60_000))
    data = tokens_to_bytes(tokens, ID)
    assert read_header(data).profile == "container"
    assert torch.equal(tokens_from_bytes(data, codec.spec, ID).codes, tokens.codes)


def test_tokens_may_come_from_a_batch_item_by_item():
    codec = tiny_codec()
    batch = codec.encode([noise(100)[0], noise(333)[0]])
    alone = tokens_to_bytes(codec.encode(noise(100)), ID)
    assert tokens_to_bytes(batch[0], ID) == alone


def test_a_file_holds_one_signal():
    codec = tiny_codec()
    with pytest.raises(ValueError, match=r"one signal.* got \[2, 1, 50\]"):
        compress(codec, noise(100).reshape(2, 1, 50))
    one = codec.encode(noise(100))
    with pytest.raises(ValueError, match="one signal, got 2"):
        tokens_to_bytes(batch_tokens([one, one]), ID)


def test_absent_codes_are_refused():
    codec = tiny_codec()
    tokens = codec.encode(noise(100))
    streams = (tokens.streams[0], torch.full_like(tokens.streams[1], -1))
    with pytest.raises(ValueError, match="codebook 1 has codes 0 to 4, got -1 at position 0; absent"):
        tokens_to_bytes(Tokens(streams, tokens.extents, tokens.rate, tokens.spec), ID)


def test_one_changed_weight_is_another_model():
    codec = tiny_codec()
    data = compress(codec, noise(100))
    for part in ("quantizer.stages.0.codebook", "decoder.linear.bias"):
        other = copy.deepcopy(codec)
        weight = dict(other.named_parameters())[part].detach().flatten()
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
        with pytest.raises(BitstreamError, match=f"{stream_id(codec)[:4].hex()}.*{stream_id(other)[:4].hex()}"):
            decompress(other, data)


def test_a_changed_encoder_is_the_same_model():
    codec = tiny_codec()
    data = compress(codec, noise(100))
    with torch.no_grad():
        codec.encoder.linear.weight.add_(1)
    assert decompress(codec, data).shape == (1, 1, 100)


def test_a_released_model_signs_with_its_stored_id():
    codec = tiny_codec()
    codec.stream_id = ID
    assert read_header(compress(codec, noise(100))).stream_id == ID[:4]
    with pytest.raises(ValueError, match="16 bytes, got 4"):
        tokens_to_bytes(codec.encode(noise(100)), ID[:4])


def test_a_container_of_another_spec_is_refused():
    codec = tiny_codec(FSQ([8, 8, 8, 8]), hop=4)
    data = tokens_to_bytes(codec.encode(noise(60_000)), ID)
    with pytest.raises(BitstreamError, match=r"byte 52: sample_rate of tiny should be 16000, got 8000"):
        tokens_from_bytes(data, replace(codec.spec, sample_rate=16_000), ID)


def test_the_sample_rate_is_the_codecs():
    codec = tiny_codec()
    with pytest.raises(ValueError, match="8000 Hz, got 16000 Hz"):
        compress(codec, noise(100), sample_rate=16_000)
    assert compress(codec, noise(100), sample_rate=8000)


def test_limits_reach_the_reader():
    codec = tiny_codec()
    with pytest.raises(BitstreamError, match="extent may be 0 to 99, got 100"):
        decompress(codec, compress(codec, noise(100)), Limits(samples=99))


def test_what_was_written_is_read_back_before_it_is_returned(monkeypatch):
    def faulty(stream, coder):
        return honest(Stream(stream.header, tuple(codes ^ 1 for codes in stream.codes)), coder)

    honest = files.write
    monkeypatch.setattr(files, "write", faulty)
    codec = tiny_codec(FSQ([4, 4]))
    tokens = codec.encode(noise(100))
    with pytest.raises(RuntimeError, match="did not read back"):
        tokens_to_bytes(tokens, ID)
