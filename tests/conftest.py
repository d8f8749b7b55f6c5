"""Seeds, one thread, four tiny codecs, and folders of tokens."""

import json
import math
import zlib
from hashlib import sha256

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from sigtok.codecs.audio.models import query_speech, semantic_features
from sigtok.codecs.codec import Codec
from sigtok.codecs.corpus import MANIFEST
from sigtok.codecs.image.models import query_image
from sigtok.codecs.quantizers.scalar import Scalar
from sigtok.codecs.shards import shard_bytes
from sigtok.codecs.spec import CodecSpec


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def tiny_audio_codec():
    return query_speech(
        dim=32,
        heads=2,
        encoder_depth=1,
        decoder_depth=1,
        decoder_blocks=1,
        codebooks=3,
        codebook_size=64,
        latent_dim=8,
        context=0.3,
    )


@pytest.fixture
def tiny_image_codec():
    return query_image(
        levels=2,
        tile=4,
        queries=16,
        dim=32,
        heads=2,
        encoder_depth=1,
        decoder_depth=1,
        codebook_size=64,
        latent_dim=8,
    )


@pytest.fixture
def tiny_feature_codec():
    code = {"name": "vq", "codebook_size": 64, "dim": 4, "metric": "sphere"}
    codec = semantic_features(
        channels=5,
        dim=16,
        depth=1,
        latent_dim=8,
        quantizer={"name": "projected", "inner": code, "dim": 8},
    )
    codec.encoder.scale.set(torch.arange(5.0), 1 + torch.arange(5.0), 100)
    return codec


class Steps(nn.Module):
    """Latents of patches of 4 x 4 pixels in whole numbers of a step of the quality: each takes 3 dB."""

    def __init__(self):
        super().__init__()
        self.per_unit = nn.Parameter(torch.tensor(2.0))

    def gain(self, rate):
        return self.per_unit * 2 ** (rate.quality / 2)


class StepsEncoder(Steps):
    def forward(self, signal, rate):
        return pixel_unshuffle(signal, 4).flatten(2).mT * self.gain(rate)

    piecewise = forward


class StepsDecoder(Steps):
    def forward(self, latents, extent, rate):
        height, width = (size // 4 for size in extent)
        return pixel_shuffle((latents / self.gain(rate)).mT.unflatten(2, (height, width)), 4)

    piecewise = forward


class Deflate(nn.Module):
    """An entropy coder that knows nothing of its model; ``made`` counts how often it was asked for."""

    made = 0

    def coder(self):
        self.made += 1
        return self

    def encode(self, codes, grid, quality):
        return zlib.compress(np.stack(codes).astype("<i4").tobytes(), 9)

    def decode(self, payload, grid, quality):
        try:
            data = zlib.decompress(payload)
        except zlib.error as error:
            raise ValueError(str(error)) from None
        codes = np.frombuffer(data, "<i4").astype(np.int64).reshape(-1, math.prod(grid))
        return tuple(codes)


@pytest.fixture
def rate_distortion_image():
    """Builds a rate-distortion codec of pictures, exact but for its steps."""

    def build(name="steps", qualities=4, quality_steps=4):
        spec = CodecSpec(
            name=name,
            modality="image",
            channels=3,
            sample_rate=None,
            hop=(4, 4),
            codebook_sizes=(255,) * 48,
            latent_dim=48,
            qualities=qualities,
            quality_steps=quality_steps,
        )
        quantizer = Scalar(48, 8, compand=False)
        return Codec(spec, StepsEncoder(), quantizer, StepsDecoder(), Deflate()).eval()

    return build


@pytest.fixture
def write_corpus():
    """Writes a folder of tokens, a shard for each list of rows."""

    def write(folder, meaning, shards):
        folder.mkdir(parents=True, exist_ok=True)
        units = []
        for number, rows in enumerate(shards):
            data, name = shard_bytes(rows, meaning), f"shard-{number:06d}.parquet"
            (folder / name).write_bytes(data)
            codes = [len(row.codes) for row in rows if row.codes is not None]
            counts = {"rows": len(rows), "bad": len(rows) - len(codes), "codes": sum(codes)}
            units.append(
                {"unit": number, "shard": name, "bytes": len(data), "sha256": sha256(data).hexdigest(), **counts}
            )
        manifest = {"version": 1, "meaning": meaning.to_dict(), "units": units}
        (folder / MANIFEST).write_text(json.dumps(manifest))
        return folder

    return write
