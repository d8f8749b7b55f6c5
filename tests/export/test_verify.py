"""`sigtok verify`, and `sigtok decode` of parts and of what damage left: what is said is what is so."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sigtok.codecs import pretrained
from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.bitstream import Stream, read, read_header, write
from sigtok.codecs.image.models import query_image
from sigtok.codecs.media import read_audio, read_image, write_audio, write_image
from sigtok.codecs.pretrained import load, save
from sigtok.export.cli import main

SPEECH = {
    "name": "tiny_speech", "sample_rate": 8000, "frame_hop": 40, "frame_size": 120, "dim": 16, "heads": 2,
    "encoder_depth": 1, "decoder_depth": 1, "decoder_blocks": 1, "codebooks": 3, "codebook_size": 64,
    "latent_dim": 8, "context": 0.3,
}  # fmt: skip
IMAGE = {
    "name": "tiny_image", "levels": 2, "tile": 4, "queries": 8, "dim": 16, "heads": 2, "encoder_depth": 1,
    "decoder_depth": 1, "codebook_size": 64, "latent_dim": 8,
}  # fmt: skip
RATE = 8000
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, builder, arguments in (("speech", query_speech, SPEECH), ("image", query_image, IMAGE)):
        torch.manual_seed(0)
        save(
            builder(**arguments), root / name, builder=builder.__name__, arguments=arguments, licence="CC0-1.0",
            training_data="none", measured={}, card="# Tiny",
        )  # fmt: skip
    return {name: str(root / name) for name in ("speech", "image")}


@pytest.fixture
def here(tmp_path, monkeypatch, models):
    """A folder with a sound and a picture, and files of them in chunks."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 5 * RATE)).astype(np.float32)
    write_audio("a.wav", noise, RATE)
    write_image("b.png", np.random.default_rng(0).uniform(-1, 1, (3, 80, 64)).astype(np.float32))
    for name, model, chunk in (("a.wav", "speech", 20), ("b.png", "image", 32)):
        assert main(["encode", name, "-m", models[model], "-o", f"{name[0]}.sgt"]) == 0
        codec = load(models[model])
        stream = read(Path(f"{name[0]}.sgt").read_bytes(), codec.spec, codec.stream_id)
        header = replace(stream.header, profile="container", chunk_positions=chunk)
        Path(f"{name[0]}_chunks.sgt").write_bytes(write(Stream(header, stream.codes)))
    return tmp_path


@pytest.fixture
def run(run):
    """Run the command: its exit code, and the lines on stdout and stderr."""

    def lines(*line):
        code, out, err = run(*line)
        return code, out.splitlines(), err

    return lines


def flip(path, mark=b"CHNK", place=0, offset=34):
    data = bytearray(Path(path).read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 4] == mark]
    data[starts[place] + offset] ^= 1
    Path(path).write_bytes(data)


# -- verify ------------------------------------------------------------------------------------------------


def test_whole_files_are_ok_one_line_each(here, models, run):
    code, lines, errors = run("verify", "a.sgt", "a_chunks.sgt", "-m", models["speech"])
    assert (code, errors) == (0, []) and len(lines) == 2
    assert all(line.startswith(f"OK: {name}: ") for line, name in zip(lines, ("a.sgt", "a_chunks.sgt"), strict=True))
    assert f"{3 * 167} codes of {models['speech']}" in lines[0]


def test_a_bundled_model_is_found(here, models, run, monkeypatch):
    monkeypatch.setattr(pretrained, "WEIGHTS", Path(models["speech"]).parent)
    code, lines, _ = run("verify", "a.sgt", "b_chunks.sgt")
    assert code == 0 and "of speech" in lines[0] and "of image" in lines[1]


def test_without_a_model_it_is_said_what_was_not_seen(here, run):
    code, lines, _ = run("verify", "a.sgt", "a_chunks.sgt", GOLDEN / "v1_own_container.sgt")
    assert code == 2
    assert lines[0].startswith("NOT SEEN: a.sgt: ") and lines[2].startswith("OK: ")
    assert "only its header was read" in lines[0] and "name it with -m" in lines[0]
    assert "all codes" in lines[1] and "its codes were not decoded" in lines[2]


def test_a_bad_file_costs_its_own_line_and_the_exit_code(here, models, run):
    flip("a_chunks.sgt")
    Path("cut.sgt").write_bytes(Path("a.sgt").read_bytes()[:-1])
    code, lines, errors = run("verify", "a_chunks.sgt", "a.sgt", "cut.sgt", "-m", models["speech"])
    assert (code, errors) == (65, [])
    assert [line[:2] for line in lines] == ["BA", "OK", "BA"]
    assert lines[0].startswith("BAD: a_chunks.sgt: byte ") and "it is cut short" in lines[2]
    assert run("verify", "a_chunks.sgt")[0] == 65
    assert run("verify", "b.sgt", "-m", models["speech"])[0] == 65


def test_every_bad_golden_container_is_bad_without_its_model(run):
    paths = [path for path in sorted((GOLDEN / "bad").glob("*.sgt")) if "other_" not in path.stem]
    seen = [path for path in paths if path.read_bytes()[:2] != b"\x89s"]
    code, lines, _ = run("verify", *seen)
    assert code == 65 and len(lines) == len(seen) >= 30
    assert all(line.startswith("BAD: ") and "byte " in line for line in lines)


def test_every_good_golden_container_is_ok_without_its_model(run):
    containers = [path for path in sorted(GOLDEN.glob("*.sgt")) if path.read_bytes()[:2] != b"\x89s"]
    code, lines, _ = run("verify", *containers)
    assert code == 0 and len(lines) == len(containers) >= 10 and all(line.startswith("OK: ") for line in lines)


def test_a_file_that_is_not_there_is_no_bad_file(here, run):
    code, lines, _ = run("verify", "a.sgt", "nowhere.sgt")
    assert code == 2 and lines[1] == "BAD: nowhere.sgt: there is no such file; check the path"


# -- codings -----------------------------------------------------------------------------------------------


def test_a_coding_is_chosen_and_read_again(here, models, run):
    assert run("encode", "a.wav", "-m", models["speech"], "-o", "c.sgt", "--coding", "adaptive") == (0, [], [])
    assert read_header(Path("c.sgt").read_bytes()).coding == 3
    assert run("decode", "c.sgt", "-m", models["speech"], "-o", "c.wav")[0] == 0
    assert run("decode", "a.sgt", "-m", models["speech"], "-o", "d.wav")[0] == 0
    assert Path("c.wav").read_bytes() == Path("d.wav").read_bytes()
    assert "adaptive" in " ".join(run("info", "c.sgt", "-m", models["speech"])[1])
    assert run("encode", "a.wav", "-m", models["speech"], "-o", "c.sgt", "--coding", "best")[0] == 2
    line = ("encode", "a.wav", "-m", models["speech"], "-o", "c.sgt", "--coding", "adaptive", "--target-bytes", 300)
    assert run(*line)[0] == 2


# -- parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.sgt", "a_chunks.sgt"])
def test_a_part_is_cut_out_to_the_sample(here, models, run, name):
    assert run("decode", name, "-m", models["speech"], "-o", "whole.wav")[0] == 0
    whole = read_audio("whole.wav")[0]
    for options, start, stop in (
        (("--from", 1.5, "--to", 2.25), 12_000, 18_000),
        (("--to", 0.001), 0, 8),
        (("--from", 4.9), 39_200, 40_000),
    ):
        assert run("decode", name, "-m", models["speech"], "-o", "part.wav", *options) == (0, [], [])
        np.testing.assert_allclose(read_audio("part.wav")[0], whole[:, start:stop], atol=2 / 32768)


def test_parts_that_are_not_there_cost_a_line(here, models, run):
    for options, exits, words in (
        (("--from", 2, "--to", 1), 65, "between 0 and the 5 s"),
        (("--to", 5.5), 65, "between 0 and the 5 s"),
        (("--from", -1), 2, "seconds are 0 or more"),
        (("--from", "x"), 2, "seconds are 0 or more"),
    ):
        code, _, [line] = run("decode", "a.sgt", "-m", models["speech"], "-o", "part.wav", *options)
        assert code == exits and words in line
    code, _, [line] = run("decode", "b.sgt", "-m", models["image"], "-o", "part.png", "--from", 1)
    assert code == 2 and "seconds are of sounds and features" in line


# -- salvage -----------------------------------------------------------------------------------------------


def test_what_is_left_is_decoded_and_what_is_missing_is_said(here, models, run):
    run("decode", "a_chunks.sgt", "-m", models["speech"], "-o", "whole.wav")
    flip("a_chunks.sgt", place=2)
    assert run("decode", "a_chunks.sgt", "-m", models["speech"], "-o", "left.wav")[0] == 65
    code, _, [line] = run("decode", "a_chunks.sgt", "-m", models["speech"], "-o", "left.wav", "--salvage")
    assert code == 0 and "byte " in line and line.endswith("missing seconds: 1.2 to 1.8")
    whole, left = read_audio("whole.wav")[0], read_audio("left.wav")[0]
    np.testing.assert_array_equal(left[:, : int(1.1 * RATE)], whole[:, : int(1.1 * RATE)])


def test_rows_of_pictures_are_said(here, models, run):
    flip("b_chunks.sgt", place=0)
    code, _, [line] = run("decode", "b_chunks.sgt", "-m", models["image"], "-o", "left.png", "--salvage")
    assert code == 0 and line.endswith("missing rows: 0 to 16") and read_image("left.png").shape == (3, 80, 64)


def test_a_whole_file_is_whole_and_a_packet_has_no_rest(here, models, run):
    assert run("decode", "a.sgt", "-m", models["speech"], "-o", "c.wav", "--salvage") == (0, [], [])
    Path("cut.sgt").write_bytes(Path("a.sgt").read_bytes()[:-1])
    code, _, [line] = run("decode", "cut.sgt", "-m", models["speech"], "-o", "c.wav", "--salvage")
    assert code == 65 and "got a packet" in line
