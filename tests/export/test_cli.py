"""The `sigtok` command: what goes in comes out; what is wrong costs one line and the right exit code."""

import io
import json
import os
import re
import resource
import shlex
import signal
import struct
import subprocess
import sys
import time
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sigtok.codecs import pretrained
from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.bitstream import read_header
from sigtok.codecs.image.models import query_image
from sigtok.codecs.media import read_audio, read_image, write_audio, write_image
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.streaming import start_decoding, start_encoding, state_bytes
from sigtok.export import cli, transcode
from sigtok.export.cli import main
from sigtok.export.exits import MEANINGS, Failure, explain, one_line
from sigtok.export.information import operating_points

SPEECH = {
    "name": "tiny_speech", "sample_rate": 8000, "frame_hop": 40, "frame_size": 120, "dim": 16, "heads": 2,
    "encoder_depth": 1, "decoder_depth": 1, "decoder_blocks": 1, "codebooks": 3, "codebook_size": 64,
    "latent_dim": 8, "context": 0.3,
}  # fmt: skip
IMAGE = {
    "name": "tiny_image", "levels": 2, "tile": 4, "queries": 8, "dim": 16, "heads": 2, "encoder_depth": 1,
    "decoder_depth": 1, "codebook_size": 64, "latent_dim": 8,
}  # fmt: skip
HOP, RATE = 120, 8000


def release(folder, builder, arguments, seed=0):
    torch.manual_seed(seed)
    codec = builder(**arguments)
    save(
        codec, folder, builder=builder.__name__, arguments=arguments, licence="CC0-1.0", training_data="none",
        measured={"loss": 1.5}, card="# Tiny",
    )  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "speech": release(root / "speech", query_speech, SPEECH),
        "other": release(root / "other", query_speech, SPEECH, seed=1),
        "image": release(root / "image", query_image, IMAGE),
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bundle(models, monkeypatch):
    monkeypatch.setattr(pretrained, "WEIGHTS", Path(models["speech"]).parent)


@pytest.fixture
def run(capfdbinary):
    """Run the command: its exit code, stdout, and the lines on stderr, of which every one is ours."""

    def run(*line):
        try:
            code = main([str(part) for part in line])
        except SystemExit as end:
            code = end.code
        out, err = capfdbinary.readouterr()
        lines = err.decode().splitlines()
        assert all(part.startswith("sigtok: ") for part in lines), lines
        assert "Traceback" not in err.decode()
        return code, out, lines

    return run


def tone(samples=2000, channels=1):
    time = np.arange(samples) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 220 * (n + 1) * time) for n in range(channels)]).astype(np.float32)


def float_wav(path, samples, rate=RATE):
    data = np.asarray(samples, "<f4").tobytes()
    form = struct.pack("<HHIIHH", 3, 1, rate, 4 * rate, 4, 32)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    Path(path).write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def photo(height=20, width=30):
    grid = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([grid[0], grid[1], grid.mean(0)]).astype(np.float32) * 2 - 1


# -- what goes in comes out ----------------------------------------------------------------------------------


def test_a_sound_goes_through_a_file_and_comes_back_as_the_codec_says(here, models, run):
    write_audio("a.wav", tone(), RATE)
    assert run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt", "--codebooks", 2) == (0, b"", [])
    assert read_header(Path("a.sgt").read_bytes()).rate.codebooks == 2
    assert run("decode", "a.sgt", "-m", models["speech"], "-o", "b.wav") == (0, b"", [])
    codec, (signal, _) = load(models["speech"]), read_audio("a.wav")
    expected = codec.decode(codec.encode(torch.from_numpy(signal)[None], Rate(codebooks=2)))
    decoded, rate = read_audio("b.wav")
    assert rate == RATE
    np.testing.assert_allclose(decoded, expected[0].numpy(), atol=1 / 32768)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_a_photo_goes_through_a_file_and_comes_back(here, models, run, suffix):
    write_image("a.png", photo())
    assert run("encode", "a.png", "-m", models["image"], "-o", "a.sgt", "--queries", 4) == (0, b"", [])
    assert read_header(Path("a.sgt").read_bytes()).rate.queries == 4
    assert run("decode", "a.sgt", "-m", models["image"], "-o", f"b{suffix}") == (0, b"", [])
    assert read_image(f"b{suffix}").shape == (3, 20, 30)


def test_a_bundled_model_is_found_by_the_file_alone(here, bundle, run, monkeypatch):
    write_audio("a.wav", tone(), RATE)
    write_image("b.png", photo())
    assert run("encode", "a.wav", "-m", "speech", "-o", "a.sgt")[0] == 0
    assert run("encode", "b.png", "-m", "image", "-o", "b.sgt")[0] == 0
    Path("c.sgt").write_bytes(Path("a.sgt").read_bytes())
    loads = []
    monkeypatch.setattr("sigtok.export.released.load", lambda *args: loads.append(args[0]) or load(*args))
    assert run("decode", "a.sgt", "b.sgt", "c.sgt", "-o", "out") == (0, b"", [])
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.wav", "b.png", "c.wav"]
    assert sorted(loads) == ["image", "speech"]


def test_a_folder_keeps_its_tree_and_other_files_are_left_alone(here, models, run):
    for name in ("in/a.wav", "in/deep/er/b.flac", "in/.hidden.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_audio(name, tone(500), RATE)
    Path("in/notes.txt").write_text("no sound")
    assert run("encode", "in", "-m", models["speech"], "-o", "codes") == (0, b"", [])
    assert sorted(str(p.relative_to("codes")) for p in Path("codes").rglob("*.*")) == [
        "a.sgt",
        "deep/er/b.sgt",
    ]
    assert run("decode", "codes", "-m", models["speech"], "-o", "back") == (0, b"", [])
    assert sorted(str(p.relative_to("back")) for p in Path("back").rglob("*.*")) == ["a.wav", "deep/er/b.wav"]


def test_the_model_loads_once_for_all_files(here, models, run, monkeypatch):
    loads = []
    monkeypatch.setattr(transcode, "open_model", lambda *args: loads.append(args) or load(models["speech"]))
    for name in "abc":
        write_audio(f"{name}.wav", tone(300), RATE)
    assert run("encode", "a.wav", "b.wav", "c.wav", "-m", models["speech"], "-o", "out")[0] == 0
    assert len(loads) == 1 and len(list(Path("out").iterdir())) == 3


def shell(*line, **options):
    command = [sys.executable, "-m", "sigtok.export.cli", *map(str, line)]
    return subprocess.run(command, timeout=120, **options)


def test_a_pipe_from_sound_to_sound(here, models, run, monkeypatch):
    class Bytes:
        def __init__(self, data=b""):
            self.buffer = io.BytesIO(data)

        def isatty(self):
            return False

        def flush(self):
            pass

    def piped(data, *line):
        out = Bytes()
        monkeypatch.setattr(sys, "stdin", Bytes(data))
        monkeypatch.setattr(sys, "stdout", out)
        code, _, lines = run(*line)
        return code, out.buffer.getvalue(), lines

    write_audio("a.wav", tone(), RATE)
    code, data, lines = piped(Path("a.wav").read_bytes(), "encode", "-", "-m", models["speech"], "-o", "-")
    assert (code, lines) == (0, [])
    run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    assert data == Path("a.sgt").read_bytes()
    code, data, lines = piped(data, "decode", "-", "-m", models["speech"], "-o", "-")
    assert (code, lines, data[:4]) == (0, [], b"RIFF")
    code, data, lines = piped(b"nonsense", "encode", "-", "-m", models["speech"], "-o", "-")
    assert (code, data, len(lines)) == (65, b"", 1) and lines[0].startswith("sigtok: -: ")


def test_tokens_are_the_codes_of_the_codec(here, models, run):
    write_audio("a.wav", tone(), RATE)
    codec, (signal, _) = load(models["speech"]), read_audio("a.wav")
    expected = codec.encode(torch.from_numpy(signal)[None], Rate(codebooks=2)).codes[0].numpy()
    code, out, _ = run("tokens", "a.wav", "-m", models["speech"], "--codebooks", 2, "--npy")
    assert code == 0
    np.testing.assert_array_equal(np.load(io.BytesIO(out), allow_pickle=False), expected)
    record = json.loads(run("tokens", "a.wav", "-m", models["speech"], "--codebooks", 2)[1])
    assert record["codes"] == expected.tolist()
    assert (record["model"], record["extent"], record["codebooks"]) == ("tiny_speech", [2000], 2)
    run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt", "--codebooks", 2)
    assert json.loads(run("tokens", "a.sgt", "-m", models["speech"])[1]) == record
    fewer = json.loads(run("tokens", "a.sgt", "-m", models["speech"], "--codebooks", 1)[1])
    assert fewer["codes"] == record["codes"][:1]
    assert run("tokens", "a.sgt", "-m", models["speech"], "--codebooks", 3)[0] == 65  # the file has two


def test_a_window_is_chosen_per_run(here, tmp_path, run):
    model = release(tmp_path / "windows", query_speech, SPEECH | {"windows": [2, 3, 5]})
    write_audio("a.wav", tone(3000), RATE)
    for window in (2, 3, 5):
        assert run("encode", "a.wav", "-m", model, "-o", "a.sgt", "--window", window) == (0, b"", [])
        assert read_header(Path("a.sgt").read_bytes()).rate.window == (window,)
        assert run("decode", "a.sgt", "-m", model, "-o", "b.wav")[0] == 0
        assert read_audio("b.wav")[0].shape == (1, 3000)
        record = json.loads(run("tokens", "a.wav", "-m", model, "--window", window)[1])
        assert record["window"] == [window] and len(record["codes"][0]) == -(-3000 // (HOP * window))
    code, _, [line] = run("encode", "a.wav", "-m", model, "-o", "a.sgt", "--window", 4)
    assert code == 2 and "windows ((2,), (3,), (5,)), got (4,)" in line


def test_operating_points_vary_one_thing_at_a_time():
    spec = CodecSpec(
        name="x", modality="audio", channels=1, sample_rate=100, hop=(4,), latent_dim=2, codebook_sizes=(8, 8),
        windows=((6,), (3,)), queries=4,
    )  # fmt: skip
    points = [(rate.window, rate.codebooks, rate.queries) for rate in operating_points(spec)]
    assert points == [((6,), 1, 4), ((6,), 2, 1), ((6,), 2, 2), ((6,), 2, 4), ((3,), 2, 4)]


def test_info_tells_of_models_and_files(here, bundle, models, run):
    write_audio("a.wav", tone(RATE), RATE)
    run("encode", "a.wav", "-m", "speech", "-o", "a.sgt")
    about = json.loads(run("info", "speech", "--json")[1])
    assert about["licence"] == "CC0-1.0" and about["measured"] == {"loss": 1.5}
    assert [rate["codebooks"] for rate in about["rates"]] == [1, 2, 3]
    spec = load("speech").spec
    assert about["rates"][0]["nominal_bits_per_second"] == spec.nominal_bits_per_second(Rate(codebooks=1))
    chunk, late = spec.step()[0], load("speech").decoder.back.delay
    streaming = about["streaming"]
    assert streaming["chunk_samples"] == chunk and streaming["encoder_latency_ms"] == 1000 * chunk / RATE
    assert streaming["decoder_latency_ms"] == 1000 * late / RATE
    assert streaming["encoder_state_bytes"] == state_bytes(start_encoding(load("speech")))
    assert streaming["decoder_state_bytes"] == state_bytes(start_decoding(load("speech")))
    assert json.loads(run("info", "image", "--json")[1])["streaming"] == "not streamable"
    file = json.loads(run("info", "a.sgt", "--json")[1])
    assert file["model"] == "speech" and file["checked"] is True and file["seconds"] == 1
    assert file["bits_per_second"] == 8 * Path("a.sgt").stat().st_size == 8 * file["bytes"]
    assert file["tokens"] == sum(spec.token_counts((RATE,)))
    assert b"tiny_speech" in run("info", "speech")[1] and b"packet" in run("info", "a.sgt")[1]
    assert len(json.loads(run("info", "--json")[1])) == 3
    Path("a.sgt").write_bytes(Path("a.sgt").read_bytes()[:-1])
    assert run("info", "a.sgt")[0] == 65


def test_evaluate_writes_figures_with_their_origin(here, models, run):
    write_audio("a.wav", tone(), RATE)
    code, out, lines = run("evaluate", models["speech"], "a.wav", "--codebooks", "1,3", "--json", "r.json")
    assert (code, lines) == (0, []) and b"bits per second" in out
    record = json.loads(Path("r.json").read_text())
    assert record["command"] == f"sigtok evaluate {models['speech']} a.wav --codebooks 1,3 --json r.json"
    assert [rate["codebooks"] for rate in record["rates"]] == [1, 3]
    assert record["stream_id"] == load(models["speech"]).stream_id.hex()
    assert (record["files"], record["bad_files"], record["seconds"]) == (1, 0, 0.25)
    assert record["versions"]["torch"] == torch.__version__.split("+")[0] or record["versions"]["torch"]
    assert json.loads(run("evaluate", models["speech"], "a.wav", "--json", "-")[1])["model"] == "tiny_speech"


def test_evaluate_takes_the_rows_of_a_manifest(here, models, run):
    Path("set").mkdir()
    for name in "abc":
        write_audio(f"set/{name}.wav", tone(), RATE)
    rows = ["file,kind,split", "a.wav,speech,val", "b.wav,speech,train", "c.wav,speech,val"]
    Path("set/m.csv").write_text("\n".join(rows))
    line = ("evaluate", models["speech"], "set/m.csv", "--json", "r.json", "--where", "kind=speech")
    assert run(*line, "--where", "split=val")[0] == 0
    files = [row["file"] for row in json.loads(Path("r.json").read_text())["rates"][0]["rows"]]
    assert files == ["set/a.wav", "set/c.wav"]
    assert run(*line, "--where", "split=test", "--where", "split=val")[0] == 0  # either
    assert run(*line, "--where", "speaker=x")[0] == 2
    assert run(*line, "--where", "split=test")[0] == 65


def test_one_model_two_commands_the_same_bytes(here, models, run):
    write_audio("a.wav", tone(), RATE)
    for name in ("a.sgt", "b.sgt"):
        run("encode", "a.wav", "-m", models["speech"], "-o", name)
    assert Path("a.sgt").read_bytes() == Path("b.sgt").read_bytes()


# -- what a file should reach --------------------------------------------------------------------------------


def test_a_size_or_a_quality_is_asked_for_and_the_point_is_told(here, models, run):
    write_image("a.png", photo())
    write_audio("a.wav", tone(), RATE)
    for option, amount, model, name, said in (
        ("--target-bytes", 30, "image", "a.png", r"a.png: [1-7] of 8 queries, \d+ bytes"),
        ("--target-bpp", 0.4, "image", "a.png", r"a.png: [1-7] of 8 queries, 0\.\d{4} bits per pixel"),
        ("--target-psnr", 1, "image", "a.png", r"a.png: 1 of 8 queries, \d+\.\d\d dB"),
        ("--target-bytes", 30, "speech", "a.wav", r"a.wav: [12] of 3 codebooks, \d+ bytes"),
    ):
        code, _, (line,) = run("encode", name, "-m", models[model], "-o", "a.sgt", option, amount)
        assert code == 0 and re.fullmatch(f"sigtok: {said}", line), line
        size, header = Path("a.sgt").stat().st_size, read_header(Path("a.sgt").read_bytes())
        assert option != "--target-bytes" or (size <= amount and f"{size} bytes" in line)
        assert option != "--target-bpp" or f"{8 * size / 600:.4f} bits" in line
        used = header.rate.queries if model == "image" else header.rate.codebooks
        assert f": {used} of" in line
        assert run("decode", "a.sgt", "-m", models[model], "-o", "b.wav" if model == "speech" else "b.png")[0] == 0


def test_a_quality_out_of_reach_is_told_and_the_nearest_written(here, models, run):
    write_image("a.png", photo())
    code, _, (line,) = run("encode", "a.png", "-m", models["image"], "-o", "a.sgt", "--target-psnr", 90)
    assert code == 0
    assert re.fullmatch(r"sigtok: a.png: 90.00 dB are out of reach; the nearest is \d of 8 queries, \d+\.\d\d dB", line)
    assert Path("a.sgt").exists()


def test_a_size_out_of_reach_is_refused_with_what_there_is(here, models, run):
    write_image("a.png", photo())
    sizes = []
    for queries in (1, 8):
        run("encode", "a.png", "-m", models["image"], "-o", "a.sgt", "--queries", queries)
        sizes.append(Path("a.sgt").stat().st_size)
    code, _, (line,) = run("encode", "a.png", "-m", models["image"], "-o", "b.sgt", "--target-bytes", sizes[0] - 1)
    assert code == 65 and f"files of this signal have {sizes[0]} to {sizes[1]} bytes, got a target of" in line
    assert not Path("b.sgt").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--target-psnr", "20", "--target-bpp", "1"], "not allowed with argument --target-psnr"),
        (["--target-bpp", "1", "--queries", "3"], "--target-bpp chooses queries and codebooks, got a number of them"),
        (["--target-bytes", "99", "--codebooks", "1"], "--target-bytes chooses queries and codebooks"),
        (["--target-psnr", "0"], "a number is more than 0 here, got '0'"),
        (["--target-psnr", "much"], "a number is more than 0 here, got 'much'"),
    ],
)
def test_targets_that_contradict_are_refused(here, models, run, options, message):
    write_image("a.png", photo())
    code, _, (line,) = run("encode", "a.png", "-m", models["image"], "-o", "a.sgt", *options)
    assert code == 2 and message in line


@pytest.mark.parametrize("option", ["--target-psnr", "--target-bpp"])
def test_targets_of_pictures_are_refused_for_sounds(here, models, run, option):
    write_audio("a.wav", tone(), RATE)
    code, _, (line,) = run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt", option, 20)
    assert code == 2 and f"{option} is for pictures, tiny_speech takes audio; use --target-bytes" in line


# -- nothing is converted in silence -------------------------------------------------------------------------


def test_resampling_is_told_once_for_every_rate(here, models, run):
    for name, rate in (("a", 16000), ("b", 16000), ("c", 11025), ("d", RATE)):
        write_audio(f"{name}.wav", tone(1000), rate)
    code, _, lines = run("encode", "a.wav", "b.wav", "c.wav", "d.wav", "-m", models["speech"], "-o", "out")
    assert code == 0
    assert [line.split(",")[0] for line in lines] == [
        "sigtok: a.wav: resampled from 16000 to 8000 Hz", "sigtok: c.wav: resampled from 11025 to 8000 Hz",
    ]  # fmt: skip
    assert read_header(Path("out/a.sgt").read_bytes()).extent == (500,)


def test_stereo_is_mixed_only_if_asked(here, models, run):
    write_audio("a.wav", tone(1000, channels=2), RATE)
    line = ("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    code, _, lines = run(*line)
    assert code == 65 and lines == [
        "sigtok: a.wav: tiny_speech takes 1 channel, got 2; allow their average with --downmix"
    ]
    assert not Path("a.sgt").exists()
    assert run(*line, "--downmix") == (0, b"", [])


def test_clipping_is_told(here, models, run):
    float_wav("a.wav", 3 * tone()[0])
    code, _, lines = run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    assert code == 0 and len(lines) == 1 and "a.wav: peak 1.5 is clipped to 1" in lines[0]


# -- whatever comes in ---------------------------------------------------------------------------------------


def sound(name):
    """A nasty sound file by name."""
    if name == "empty file":
        Path("x.wav").write_bytes(b"")
    elif name == "text":
        Path("x.wav").write_text("this is no sound")
    elif name == "picture":
        write_image("x.png", photo())
        os.replace("x.png", "x.wav")
    elif name in ("NaN", "infinity", "over-range"):
        value = {"NaN": np.nan, "infinity": np.inf, "over-range": 1e30}[name]
        float_wav("x.wav", [0.0] * 700 + [value] + [0.0] * 700)
    elif name == "truncated":
        write_audio("x.wav", tone(), RATE)
        Path("x.wav").write_bytes(Path("x.wav").read_bytes()[:1000])
    elif name in ("1 Hz", "2 GHz"):
        float_wav("x.wav", [0.0] * 100, rate={"1 Hz": 1, "2 GHz": 2**29}[name])
    elif name == "6 channels":
        write_audio("x.wav", tone(500, channels=6), RATE)
    elif name == "cut FLAC":
        write_audio("x.flac", np.random.default_rng(0).uniform(-1, 1, (1, 9000)), RATE)
        Path("x.wav").write_bytes(Path("x.flac").read_bytes()[:5000])


BAD_SOUNDS = [
    "empty file", "text", "picture", "NaN", "infinity", "over-range", "truncated", "1 Hz", "2 GHz",
    "6 channels", "cut FLAC",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_SOUNDS)
def test_a_bad_sound_costs_one_line_and_makes_no_file(here, models, run, name):
    sound(name)
    code, _, lines = run("encode", "x.wav", "-m", models["speech"], "-o", "x.sgt", "--downmix")
    assert code == 65 and len(lines) == 1 and lines[0].startswith("sigtok: x.wav: ")
    assert not Path("x.sgt").exists()


LEGAL_SOUNDS = {
    "empty": np.zeros((1, 0)), "one sample": np.full((1, 1), 0.5), "hop - 1": tone(2 * HOP - 1),
    "hop": tone(2 * HOP), "hop + 1": tone(2 * HOP + 1), "silence": np.zeros((1, 5000)),
    "constant": np.full((1, 999), 0.9), "square": np.sign(tone(3000)),
    "denormal": np.full((1, 700), 1e-40),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL_SOUNDS)
def test_every_legal_sound_comes_back_as_long_as_it_was(here, models, run, name):
    float_wav("a.wav", LEGAL_SOUNDS[name][0])
    assert run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt") == (0, b"", [])
    assert run("decode", "a.sgt", "-m", models["speech"], "-o", "b.wav") == (0, b"", [])
    with wave.open("b.wav") as file:
        assert (file.getnframes(), file.getframerate()) == (LEGAL_SOUNDS[name].shape[1], RATE)


def pictures():
    """Pictures of every kind by name, and the size that comes back, (width, height)."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (13, 17, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return {
        "16 bits": (
            Image.fromarray(np.arange(221, dtype=np.uint16).reshape(13, 17) * 256),
            "png",
            {},
            (17, 13),
        ),
        "grey": (colour.convert("L"), "png", {}, (17, 13)),
        "alpha": (colour.convert("RGBA"), "png", {}, (17, 13)),
        "grey and alpha": (colour.convert("LA"), "png", {}, (17, 13)),
        "CMYK": (colour.convert("CMYK"), "jpg", {}, (17, 13)),
        "palette": (colour.convert("P"), "png", {}, (17, 13)),
        "one bit": (colour.convert("1"), "png", {}, (17, 13)),
        "EXIF turned": (colour, "jpg", {"exif": exif}, (13, 17)),
        "1 x 1": (colour.crop((0, 0, 1, 1)), "png", {}, (1, 1)),
        "1 x 300": (colour.resize((1, 300)), "png", {}, (1, 300)),
        "7 x 13": (colour.resize((7, 13)), "webp", {}, (7, 13)),
    }


@pytest.mark.parametrize("name", pictures())
def test_every_legal_picture_comes_back_as_large_as_it_was(here, models, run, name):
    picture, suffix, options, size = pictures()[name]
    picture.save(f"a.{suffix}", **options)
    assert run("encode", f"a.{suffix}", "-m", models["image"], "-o", "a.sgt") == (0, b"", [])
    assert run("decode", "a.sgt", "-m", models["image"], "-o", "b.png") == (0, b"", [])
    assert Image.open("b.png").size == size


@pytest.mark.parametrize("name", ["sound", "cut", "bomb", "animated", "float", "SVG"])
def test_a_bad_picture_costs_one_line_and_makes_no_file(here, models, run, name):
    if name == "sound":
        write_audio("x.wav", tone(), RATE)
        os.replace("x.wav", "x.png")
    elif name == "cut":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 50, 3), dtype=np.uint8)).save("x.png")
        Path("x.png").write_bytes(Path("x.png").read_bytes()[:3000])
    elif name == "bomb":
        Image.new("1", (12000, 12000)).save("x.png")
    elif name == "animated":
        frames = [Image.new("RGB", (5, 5), (n, 0, 0)) for n in (0, 99)]
        frames[0].save("x.png", format="GIF", save_all=True, append_images=frames[1:])
    elif name == "float":
        Image.fromarray(np.zeros((5, 5), np.float32)).save("x.png", format="TIFF")
    else:
        Path("x.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    code, _, lines = run("encode", "x.png", "-m", models["image"], "-o", "x.sgt")
    assert code == 65 and len(lines) == 1 and lines[0].startswith("sigtok: x.png: ")
    assert not Path("x.sgt").exists()


def test_every_cut_and_every_flipped_bit_of_a_file_is_refused(here, models, run):
    write_audio("a.wav", tone(HOP), RATE)
    run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt", "--codebooks", 1)
    data = Path("a.sgt").read_bytes()
    damaged = [data[:end] for end in range(len(data))]
    for bit in range(8 * len(data)):
        damaged.append(bytearray(data))
        damaged[-1][bit // 8] ^= 1 << bit % 8
    damaged += [data + b"\0", b"PK\3\4" + data]
    Path("bad").mkdir()
    for number, bytes_ in enumerate(damaged):
        Path(f"bad/{number:04}.sgt").write_bytes(bytes_)
    code, _, lines = run("decode", "bad", "-m", models["speech"], "-o", "out")
    assert code == 65 and len(lines) == len(damaged) + 1
    assert not Path("out").exists()


def test_a_file_of_another_model_is_refused_and_both_are_named(here, models, run):
    write_audio("a.wav", tone(), RATE)
    run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    for model, mark in (("other", load(models["other"]).stream_id.hex()[:8]), ("image", "")):
        code, _, lines = run("decode", "a.sgt", "-m", models[model], "-o", "b.wav")
        assert code == 65 and len(lines) == 1
        assert load(models["speech"]).stream_id.hex()[:8] in lines[0] and mark in lines[0]
        assert run("tokens", "a.sgt", "-m", models[model])[0] == 65
        assert run("info", "a.sgt", "-m", models[model])[0] == 65
    assert not Path("b.wav").exists()


# -- exit codes ----------------------------------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_rest(here, models, run):
    for name in "abc":
        write_audio(f"{name}.wav", tone(500), RATE)
    Path("b.wav").write_text("nothing")
    code, _, lines = run("encode", "a.wav", "b.wav", "c.wav", "gone.wav", "-m", models["speech"], "-o", "out")
    assert code == 3
    assert [line.split(": ")[1] for line in lines] == [
        "b.wav",
        "gone.wav",
        "2 of 4 files are done, 2 are bad",
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.sgt", "c.sgt"]


def test_all_bad_is_bad_data(here, models, run):
    for name in "ab":
        Path(f"{name}.wav").write_text("nothing")
    assert run("encode", "a.wav", "b.wav", "-m", models["speech"], "-o", "out")[0] == 65


USAGE = {
    "no command": [],
    "unknown command": ["transmogrify"],
    "no model": ["encode", "a.wav", "-o", "a.sgt"],
    "no such model": ["encode", "a.wav", "-m", "gone", "-o", "b.sgt"],
    "no such file": ["encode", "gone.wav", "-m", "SPEECH", "-o", "b.sgt"],
    "too many codebooks": ["encode", "a.wav", "-m", "SPEECH", "-o", "b.sgt", "--codebooks", "4"],
    "no codebooks": ["encode", "a.wav", "-m", "SPEECH", "-o", "b.sgt", "--codebooks", "0"],
    "too many queries": ["encode", "a.wav", "-m", "SPEECH", "-o", "b.sgt", "--queries", "2"],
    "output of another kind": ["encode", "a.wav", "-m", "SPEECH", "-o", "b.wav"],
    "decoded to another kind": ["decode", "a.sgt", "-m", "SPEECH", "-o", "b.png"],
    "unknown model of a file": ["decode", "a.sgt", "-o", "b.wav"],
    "over its input": ["encode", "link.sgt", "-m", "SPEECH", "-o", "a.sgt"],
    "one name twice": ["encode", "a.wav", "a.flac", "-m", "SPEECH", "-o", "out"],
    "several to stdout": ["encode", "a.wav", "b.wav", "-m", "SPEECH", "-o", "-"],
    "stdin and more": ["encode", "-", "a.wav", "-m", "SPEECH", "-o", "out"],
    "no such device": ["encode", "a.wav", "-m", "SPEECH", "-o", "b.sgt", "--device", "abacus"],
    "conditions of no manifest": ["evaluate", "SPEECH", "a.wav", "--where", "split=val"],
    "several into a file": ["encode", "a.wav", "link.sgt", "-m", "SPEECH", "-o", "b.sgt"],
    "queries of a file": ["tokens", "a.sgt", "-m", "SPEECH", "--queries", "1"],
    "windows of a file": ["tokens", "a.sgt", "-m", "SPEECH", "--window", "2"],
    "one file for two": ["evaluate", "SPEECH", "a.wav", "--json", "x.svg", "--picture", "x.svg"],
    "condition": ["evaluate", "SPEECH", "a.wav", "--where", "split"],
    "file as model": ["info", "a.wav"],
    "report over input": ["evaluate", "SPEECH", "a.wav", "--json", "a.wav"],
}


@pytest.mark.parametrize("name", USAGE)
def test_a_wrong_command_line_ends_with_2(here, models, run, name):
    write_audio("a.wav", tone(), RATE)
    run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    os.link("a.sgt", "link.sgt")
    before = Path("a.wav").read_bytes()
    code, _, lines = run(*(models["speech"] if part == "SPEECH" else part for part in USAGE[name]))
    assert code == 2 and len(lines) == 1
    assert Path("a.wav").read_bytes() == before and not Path("out").exists() and not Path("b.sgt").exists()


def test_an_output_that_cannot_be_made_ends_with_73(here, models, run):
    write_audio("a.wav", tone(), RATE)
    line = ("encode", "a.wav", "-m", models["speech"], "-o")
    assert run(*line, "no/such/folder/a.sgt")[0] == 73
    Path("file").write_text("in the way")
    code, _, lines = run("encode", "a.wav", "a.wav", "-m", models["speech"], "-o", "file")
    assert code == 73 and len(lines) == 1
    for option, name in (("--json", "r.json"), ("--picture", "r.svg")):
        assert run("evaluate", models["speech"], "a.wav", option, f"no/such/{name}")[0] == 73


def limited(write):
    """The function, with room for 16 bytes in every file."""

    def limited(*args):
        ignored, before = (
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            resource.getrlimit(resource.RLIMIT_FSIZE),
        )
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
        try:
            write(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)

    return limited


def test_a_full_disk_ends_with_74_and_leaves_what_was_there(here, models, run, monkeypatch):
    write_audio("a.wav", tone(), RATE)
    run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    Path("old.sgt").write_text("what was there")
    monkeypatch.setattr(transcode, "write_file", limited(transcode.write_file))
    code, _, lines = run("encode", "a.wav", "-m", models["speech"], "-o", "old.sgt")
    assert code == 74 and len(lines) == 1 and "old.sgt" in lines[0]
    assert Path("old.sgt").read_text() == "what was there"
    assert sorted(path.name for path in here.iterdir()) == ["a.sgt", "a.wav", "old.sgt"]
    code, _, lines = run("encode", "a.wav", "a.wav", "-m", models["speech"], "-o", "out")
    assert code == 74 and len(lines) == 1  # the second was not tried


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["speech", "image"])
def test_a_full_disk_ends_decoding_with_74(here, models, run, monkeypatch, kind):
    source, target = ("a.wav", "b.wav") if kind == "speech" else ("a.png", "b.png")
    write_audio("a.wav", tone(), RATE)
    write_image("a.png", photo())
    run("encode", source, "-m", models[kind], "-o", "a.sgt")
    monkeypatch.setattr(transcode, "write_signal", limited(transcode.write_signal))
    code, _, lines = run("decode", "a.sgt", "-m", models[kind], "-o", target)
    assert code == 74 and len(lines) == 1 and target in lines[0]
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "a.sgt", "a.wav"]


def test_a_pipe_is_written_and_not_replaced(here, models, run):
    write_audio("a.wav", tone(), RATE)
    run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    os.mkfifo("pipe.sgt")
    end = os.open("pipe.sgt", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run("encode", "a.wav", "-m", models["speech"], "-o", "pipe.sgt")[0] == 0
        assert os.read(end, 2**16) == Path("a.sgt").read_bytes()
        assert Path("pipe.sgt").is_fifo()
    finally:
        os.close(end)


def test_a_file_that_may_not_be_read_ends_with_74(here, models, run, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied", "a.wav")

    write_audio("a.wav", tone(), RATE)
    monkeypatch.setattr("sigtok.export.inputs.kind_of", denied)
    code, _, lines = run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    assert code == 74 and "a.wav: Permission denied" in lines[0]


def test_checkpoints_are_refused_with_77(here, run):
    write_audio("a.wav", tone(), RATE)
    Path("run").mkdir()
    for name in ("last.ckpt", "run/model.pt"):
        Path(name).write_bytes(b"PK\3\4")
    for model in ("last.ckpt", "run", "run/model.pt"):
        code, _, lines = run("encode", "a.wav", "-m", model, "-o", "a.sgt")
        assert code == 77 and len(lines) == 1 and "can run code" in lines[0]
        assert "sigtok-train release --config CONFIG.yaml --checkpoint" in lines[0]
    checkpoint = Path("logs/version_0/checkpoints/a b.ckpt")
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"PK\3\4")
    (checkpoint.parent.parent / "config.yaml").write_text("")
    (line,) = run("evaluate", checkpoint, "a.wav")[2]
    words = shlex.split(line[line.index("sigtok-train") :])
    assert words == ["sigtok-train", "release", "--config", "logs/version_0/config.yaml", "--checkpoint",
                     str(checkpoint), "--out", "FOLDER"]  # fmt: skip


def test_a_damaged_model_is_bad_data(here, models, run):
    folder = Path("model")
    folder.mkdir()
    for path in Path(models["speech"]).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    write_audio("a.wav", tone(), RATE)
    code, _, lines = run("encode", "a.wav", "-m", "model", "-o", "a.sgt")
    assert code == 65 and len(lines) == 1 and lines[0].startswith("sigtok: model: ")
    (folder / "spec.json").write_text("{")
    assert run("info", "model")[0] == 65


def test_our_bug_is_one_line_and_a_hint_and_does_not_stop_the_rest(here, models, run, monkeypatch):
    def broken(codec, signal, rate):
        raise KeyError("two\nlines")

    for name in "ab":
        write_audio(f"{name}.wav", tone(500), RATE)
    monkeypatch.setattr(transcode, "compress", broken)
    code, _, lines = run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt")
    assert code == 70 and len(lines) == 1 and "SIGTOK_TRACEBACK=1" in lines[0]
    code, _, lines = run("encode", "a.wav", "b.wav", "-m", models["speech"], "-o", "out")
    assert code == 70 and len(lines) == 3


def test_the_traceback_is_there_for_those_who_ask(here, models, monkeypatch, capfd):
    monkeypatch.setenv("SIGTOK_TRACEBACK", "1")
    Path("a.wav").write_text("nothing")
    assert main(["encode", "a.wav", "-m", models["speech"], "-o", "a.sgt"]) == 65
    assert "Traceback" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_with_75_and_leaves_nothing_half_written(here, models, run, monkeypatch, name):
    written = transcode.write_file

    def interrupted(target, data):
        if target.name == "b.sgt":
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(10)
        written(target, data)

    for stem in "abc":
        write_audio(f"{stem}.wav", tone(500), RATE)
    monkeypatch.setattr(transcode, "write_file", interrupted)
    before = signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        code, _, lines = run("encode", "a.wav", "b.wav", "c.wav", "-m", models["speech"], "-o", "out")
        assert signal.getsignal(getattr(signal, name)) == signal.SIG_DFL
    finally:
        signal.signal(getattr(signal, name), before)
    assert code == 75 and len(lines) == 1 and f"{name} after 1 of 3 files" in lines[0]
    assert [path.name for path in Path("out").iterdir()] == ["a.sgt"]


def test_a_signal_that_is_ignored_stays_ignored(here, models, run, monkeypatch):
    """As under nohup."""
    written = transcode.write_file

    def hung_up(target, data):
        os.kill(os.getpid(), signal.SIGHUP)
        written(target, data)

    write_audio("a.wav", tone(500), RATE)
    monkeypatch.setattr(transcode, "write_file", hung_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("encode", "a.wav", "-m", models["speech"], "-o", "a.sgt") == (0, b"", [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_errors_become_codes_that_are_documented(run):
    out_of_memory = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    for error, code in {
        Failure(77, "x"): 77, ValueError("x"): 65, FileNotFoundError(2, "x", "f"): 2, OSError(28, "x"): 74,
        MemoryError(): 74, out_of_memory: 74, RuntimeError("x"): 70, AssertionError(): 70,
    }.items():  # fmt: skip
        assert explain(error, "f")[0] == code and code in MEANINGS
    text = " ".join(run("--help")[1].decode().split())
    assert all(f"{code} {meaning}" in text for code, meaning in MEANINGS.items())


def test_file_names_cannot_steer_the_terminal():
    assert one_line("a\nb\x1b[31mc\u202e") == "a b?[31mc?"


def test_a_closed_pipe_is_quiet(models):
    reader, writer = os.pipe()
    os.close(reader)
    done = shell("info", models["speech"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (74, b"")


def test_export_writes_graphs_or_says_why_not(here, models, run, monkeypatch):
    asked = []

    def write_onnx(codec, folder, rate=None, trials=50):
        asked.append((codec.spec.name, str(folder), rate, trials))
        if trials == 13:
            raise ValueError("the graphs give other codes, got 40 %; nothing was written")
        if trials == 14:
            raise OSError(28, "No space left on device")
        return {"parity": {"codes": 1.0}}

    monkeypatch.setitem(sys.modules, "sigtok.export.write", SimpleNamespace(write_onnx=write_onnx))
    line = ("export", "onnx", models["speech"], "out")
    assert run(*line) == (0, b'out: {"codes": 1.0}\n', [])
    assert run(*line, "--codebooks", 2, "--trials", 3)[0] == 0
    rate = load(models["speech"]).spec.resolve(Rate(codebooks=2))
    assert asked == [("tiny_speech", "out", None, 50), ("tiny_speech", "out", rate, 3)]
    assert [run(*line, "--trials", trials)[0] for trials in (13, 14)] == [65, 74]
    assert run(*line, "--codebooks", 4)[0] == 2
    monkeypatch.setattr("sigtok.export.ship.find_spec", lambda name: None)
    code, _, lines = run(*line)
    assert code == 2 and "pip install 'sigtok[export]'" in lines[0]


# -- help ----------------------------------------------------------------------------------------------------

HEAVY = ("torch", "numpy", "tqdm", "PIL", "soundfile", "onnx", "onnxruntime", "safetensors")


@pytest.mark.parametrize("command", ["", *cli.COMMANDS, "export onnx"])
def test_help_loads_nothing_heavy(command, capsys):
    """In a process of its own, in which those imports fail."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))\n"
        f"from sigtok.export.cli import main; main({[*command.split(), '--help']})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "" and "usage: sigtok" in done.stdout


def test_version(run):
    code, out, _ = run("--version")
    assert code == 0 and out.decode().startswith("sigtok ")


def test_every_command_has_its_function():
    assert all(callable(cli._command(name)) for name in cli.COMMANDS)
    listed = cli.parser()._subparsers._group_actions[0].choices
    assert set(listed) == set(cli.COMMANDS)
