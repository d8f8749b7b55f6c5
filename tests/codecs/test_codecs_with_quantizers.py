"""Every quantizer inside a codec: described by plain values, through tokens, files and a model folder and back."""

import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.files import compress, decompress
from sigtok.codecs.image.models import query_image
from sigtok.codecs.pretrained import load, save

WIDTH = 8


def table(name, **options):
    return {"name": name, "codebook_size": 16, "dim": WIDTH, **options}


QUANTIZERS = {
    "vq": table("vq", metric="cosine", lifecycle={"start": "kmeans", "revive": 0.1}),
    "ibq": table("ibq"),
    "simvq": table("simvq"),
    "projected": {"name": "projected", "dim": WIDTH, "inner": {"name": "fsq", "levels": [5, 5, 3]}},
    "residual": {"name": "residual", "stages": {"copies": 3, **table("ema")}, "sample_dropout": 0.25},
    "split": {
        "name": "split",
        "first": {"name": "projected", "dim": WIDTH, "inner": {"name": "fixed", "codebook_size": 9, "dim": 3}},
        "rest": {"name": "residual", "stages": {"copies": 2, **table("ema")}},
    },
    "grouped": {"name": "grouped", "parts": {"copies": 2, "name": "vq", "codebook_size": 16, "dim": 4}},
    "additive": {"name": "additive", "stages": {"copies": 2, **table("vq")}},
    "multirate": {"name": "multirate", "stages": {"copies": 3, **table("ema")}, "strides": [4, 2, 1]},
    "bsq": {"name": "bsq", "bits": WIDTH},
    "lfq": {"name": "lfq", "bits": WIDTH},
    "scalar": {"name": "scalar", "dim": WIDTH, "bits": 4},
    "residual_fsq": {"name": "residual_fsq", "levels": [3] * WIDTH, "stages": 2},
    "turboquant": {"name": "turboquant", "dim": WIDTH, "bits": 2},
}
SMALL = {"dim": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "latent_dim": WIDTH}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_speech_goes_through_files_and_model_folders(name, tmp_path):
    arguments = {"name": "small", "decoder_blocks": 1, "context": 0.3, "quantizer": QUANTIZERS[name], **SMALL}
    codec = query_speech(**arguments).eval()
    signal = 0.1 * torch.randn(1, 1, 24_001)
    tokens = codec.encode(signal)
    assert [len(stream[0]) for stream in tokens.streams] == list(codec.spec.token_counts((24_001,)))
    heard = codec.decode(tokens)
    assert heard.shape == signal.shape
    again = decompress(codec, compress(codec, signal))
    torch.testing.assert_close(again[None] if again.dim() == 2 else again, heard)
    about = {"licence": "none", "training_data": "none", "measured": {}, "card": "# small"}
    save(codec, tmp_path, builder="query_speech", arguments=arguments, **about, half=False)
    other = load(tmp_path)
    assert all(map(torch.equal, other.encode(signal).streams, tokens.streams))


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "multirate"])
def test_a_picture_goes_through_tokens(name):
    codec = query_image(levels=2, tile=4, queries=16, quantizer=QUANTIZERS[name], **SMALL).eval()
    signal = torch.rand(1, 3, 21, 17) * 2 - 1
    tokens = codec.encode(signal)
    assert tokens.codes.shape[1] == codec.spec.num_codebooks and codec.decode(tokens).shape == signal.shape


@pytest.mark.parametrize("name", QUANTIZERS)
def test_one_training_step_moves_encoder_and_decoder(name):
    codec = query_speech(decoder_blocks=1, context=0.3, quantizer=QUANTIZERS[name], **SMALL).train()
    reconstruction = codec(0.1 * torch.randn(2, 1, 1920 * 4))
    (reconstruction.signal.square().mean() + sum(reconstruction.quantized.losses.values())).backward()
    for part in (codec.encoder, codec.decoder):
        assert any((weight.grad != 0).any() for weight in part.parameters() if weight.grad is not None)
