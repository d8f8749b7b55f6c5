"""Tiny untrained codecs, exported once a session; each level of a wavelet packet makes tracing slower."""

import functools
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import pytest
import torch
from filelock import FileLock

from sigtok.codecs.audio.models import query_speech, query_voice
from sigtok.codecs.codec import Codec
from sigtok.codecs.image.models import query_image
from sigtok.export.cli import main
from sigtok.export.runtime import RECORD
from sigtok.export.write import write_onnx

TRANSFORMER = dict(dim=32, heads=2, encoder_depth=1, decoder_depth=1, codebook_size=64, latent_dim=8)
TINY = {
    "audio": lambda: query_speech(**TRANSFORMER, decoder_blocks=1, codebooks=3, context=0.3),
    "voice": lambda: query_voice(
        dim=32,
        heads=2,
        encoder_depth=1,
        decoder_depth=1,
        decoder_blocks=1,
        bands=8,
        cepstra=(6, 2),
        learned=2,
        codebooks=3,
        codebook_size=64,
        context=0.3,
    ),
    "image": lambda: query_image(**TRANSFORMER, levels=1, tile=4, queries=16),
}


class Exported(NamedTuple):
    codec: Codec
    folder: Path
    record: dict[str, Any]


@pytest.fixture(scope="session")
def export_once(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # workers of one run share it

    @functools.cache
    def export(kind):
        torch.manual_seed(0)
        codec, folder = TINY[kind]().eval(), base / "onnx" / kind
        with FileLock(base / f"{kind}.lock"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # extents are symbols while tracing
            if not folder.exists():
                write_onnx(codec, folder, trials=10)
        return Exported(codec, folder, json.loads((folder / RECORD).read_text()))

    return export


@pytest.fixture(scope="session", params=TINY)
def exported(request, export_once):
    return export_once(request.param)


@pytest.fixture(scope="session")
def audio(export_once):
    return export_once("audio")


@pytest.fixture(scope="session")
def image(export_once):
    return export_once("image")


@pytest.fixture
def run(capfd):
    """Run the command: its exit code, what it says on stdout, and its lines on stderr."""

    def run(*line):
        try:
            code = main([str(part) for part in line])
        except SystemExit as end:
            code = end.code
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out, err.splitlines()

    return run
