"""Seeds, one thread, and three tiny codecs."""

import pytest
import torch

from sigtok.codecs.audio.models import query_speech, semantic_features
from sigtok.codecs.image.models import query_image


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
