"""Tiny models, and corpora that they take."""

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.image.models import query_image
from sigtok.codecs.media import write_audio, write_image
from sigtok.codecs.pretrained import save

TINY = dict(dim=32, heads=2, encoder_depth=1, decoder_depth=1, codebook_size=64, latent_dim=8)
SOUND = dict(TINY, decoder_blocks=1, codebooks=3, context=0.3)
PICTURE = dict(TINY, levels=2, tile=4, queries=16)


def saved(build, arguments, folder):
    """The folder of a tiny model, of random weights."""
    torch.manual_seed(0)
    words = dict(licence="CC0-1.0", training_data="none", measured={}, card="tiny")
    save(build(**arguments).eval(), folder, builder=build.__name__, arguments=arguments, **words)
    return str(folder)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return saved(query_speech, SOUND, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def picture_model(tmp_path_factory):
    return saved(query_image, PICTURE, tmp_path_factory.mktemp("models") / "picture")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Sounds of several lengths and rates; one is cut into parts, one is none, one holds nothing."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    for number, (rate, samples) in enumerate(
        (
            (24_000, 9_000),
            (16_000, 20_000),
            (24_000, 1),
            (44_100, 200_000),
            (24_000, 0),
            (24_000, 24_000),
            (8_000, 9_999),
        )
    ):
        write_audio(
            folder / f"{number}.{'flac' if samples else 'wav'}", 0.1 * generator.standard_normal((1, samples)), rate
        )
    (folder / "broken.wav").write_bytes(b"RIFF....WAVE")
    (folder / "readme.txt").write_text("no sound")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number, (height, width) in enumerate(((40, 56), (16, 16), (1, 9))):
        write_image(folder / f"{number}.png", generator.uniform(-1, 1, (3, height, width)))
    return folder
