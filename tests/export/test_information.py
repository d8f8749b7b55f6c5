"""`sigtok info` of what has several granularities: how much each of them says, in files and models."""

import json
from argparse import Namespace

import numpy as np
import pytest

from sigtok.codecs.bitstream import Header, Stream, write
from sigtok.codecs.image.models import walloc_image
from sigtok.codecs.pretrained import bundled
from sigtok.codecs.spec import CodecSpec
from sigtok.export.information import _rate, info, operating_points

SPEC = CodecSpec(
    name="granules", modality="image", channels=3, sample_rate=None, hop=(4, 4), codebook_sizes=(64, 64, 64),
    strides=(16, 4, 1), windows=((4, 4),), queries=16, latent_dim=2, shares=(0.5, 0.25, 0.25),
)  # fmt: skip


def granular_file(path, profile):
    """One coarse block, one of four quarters, one of two quarters and eight small codes, one of sixteen."""
    coarse, medium, fine = np.array([1, -1, -1, -1]), np.full(16, -1), np.full(64, -1)
    medium[4:10], fine[40:] = 2, 3
    header = Header.of(SPEC, None, (30, 32), bytes(16))
    chunk = {"profile": "container", "chunk_positions": 32} if profile == "container" else {}
    path.write_bytes(write(Stream(Header(**{**vars(header), **chunk}), (coarse, medium, fine))))


def test_a_file_says_how_much_each_granularity_says(tmp_path, capsys):
    granular_file(tmp_path / "a.sgt", "container")
    assert info(Namespace(subject=str(tmp_path / "a.sgt"), model=None, json=True)) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["tokens"] == 1 + 6 + 24 and record["tokens_of_granularities"] == [1, 6, 24]
    assert record["shares"] == [0.25, 0.375, 0.375] and record["checked"] is True
    assert record["bits_per_pixel"] == 8 * record["bytes"] / (30 * 32)
    assert info(Namespace(subject=str(tmp_path / "a.sgt"), model=None, json=False)) == 0
    assert "[0.25, 0.375, 0.375]" in capsys.readouterr().out


def test_a_packet_without_its_model_says_what_its_header_says(tmp_path, capsys):
    granular_file(tmp_path / "a.sgt", "packet")
    assert info(Namespace(subject=str(tmp_path / "a.sgt"), model=None, json=True)) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["profile"], record["extent"], record["checked"]) == ("packet", [30, 32], False)
    assert "tokens" not in record


def test_operating_points_are_each_granularity_alone_and_the_default():
    shares = [rate.shares for rate in operating_points(SPEC)]
    assert shares == [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.25, 0.25)]


@pytest.mark.parametrize(("point", "tokens", "bits"), [(0, 1, 6), (2, 16, 96), (3, 5.5, 33)])
def test_a_rate_counts_what_is_said(point, tokens, bits):
    values = _rate(SPEC, operating_points(SPEC)[point])
    assert values["tokens_per_window"] == tokens
    assert values["nominal_bits_per_pixel"] == pytest.approx(bits / 256, rel=0.1)


def test_a_rate_distortion_codec_has_its_whole_qualities(capsys):
    spec = walloc_image(levels=1, low=0, width=4, depth=1, qualities=3, quality_steps=2, states=1, hidden=1).spec
    points = operating_points(spec)
    assert [rate.quality for rate in points] == [1, 2, 3]
    assert [_rate(spec, rate) for rate in points] == [{"quality": q, "codebooks": 12} for q in (1, 2, 3)]
    assert info(Namespace(subject=None, model=None, json=False)) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in bundled())
