"""A codec without torch: the same codes, signals and bytes, and no stranger's files."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from sigtok.codecs.bitstream import BitstreamError, read_header
from sigtok.codecs.files import compress, decompress, tokens_to_bytes
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import Rate
from sigtok.codecs.tokens import Tokens
from sigtok.export.runtime import DECODER, ENCODER, RECORD, Codes, OnnxCodec

EXTENTS = {"audio": [(5000,), (1,), (1920,)], "image": [(20, 35), (1, 1), (16, 16)]}

NO_TORCH = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx"):
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocker())
import numpy as np
from sigtok.export.runtime import OnnxCodec

codec, signal = OnnxCodec(sys.argv[1], threads=1), np.load(sys.argv[2])
codes = codec.encode(signal, sample_rate=codec.spec.sample_rate)
data = codec.compress(signal)
np.savez(sys.argv[3], codes=codes.codes, decoded=codec.decode(codes), data=np.frombuffer(data, np.uint8),
         decompressed=codec.decompress(data))
assert not {"torch", "onnx"} & set(sys.modules)
"""


def noise(channels, extent, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (channels, *extent)).astype(np.float32)


@pytest.fixture
def opened(exported):
    return OnnxCodec(exported.folder, threads=1)


@pytest.fixture
def audio_codec(audio):
    return OnnxCodec(audio.folder, threads=1)


@pytest.fixture
def copied(audio, tmp_path):
    return shutil.copytree(audio.folder, tmp_path / "copied")


def test_everything_works_where_torch_does_not(exported, tmp_path):
    spec = exported.codec.spec
    signal = noise(spec.channels, EXTENTS[spec.modality][0])[None]
    np.save(tmp_path / "signal.npy", signal)
    places = [str(exported.folder), str(tmp_path / "signal.npy"), str(tmp_path / "out.npz")]
    done = subprocess.run([sys.executable, "-c", NO_TORCH, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = np.load(tmp_path / "out.npz")
    tokens = exported.codec.encode(torch.from_numpy(signal))
    np.testing.assert_array_equal(out["codes"], tokens.codes.numpy())
    assert out["data"].tobytes() == compress(exported.codec, torch.from_numpy(signal))
    wanted = exported.codec.decode(tokens).numpy()
    np.testing.assert_allclose(out["decoded"], wanted, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(out["decompressed"], out["decoded"])
    assert out["decoded"].shape == signal.shape


def test_codes_of_signals_of_all_lengths_are_those_of_each_alone(exported, opened):
    signals = [noise(opened.spec.channels, extent, seed) for seed, extent in enumerate(EXTENTS[opened.spec.modality])]
    codes = opened.encode(signals)
    wanted = exported.codec.encode([torch.from_numpy(signal) for signal in signals])
    np.testing.assert_array_equal(codes.codes, wanted.codes.numpy())
    assert codes.extents == wanted.extents and codes.rate == wanted.rate
    decoded = opened.decode(codes)
    assert [item.shape for item in decoded] == [signal.shape for signal in signals]
    for item, signal in zip(decoded, signals, strict=True):
        np.testing.assert_array_equal(item, opened.decode(opened.encode(signal[None]))[0])


@pytest.mark.parametrize("codebooks", [1, 2, 3])
def test_a_file_of_any_prefix_is_the_file_of_its_codes(audio, audio_codec, codebooks):
    signal, rate = noise(1, (9000,))[None], Rate(codebooks=codebooks)
    data, codes = audio_codec.compress(signal, rate), audio_codec.encode(signal, rate)
    streams = tuple(torch.from_numpy(codes.codes).unbind(1))
    tokens = Tokens(streams, codes.extents, codes.rate, audio.codec.spec)
    assert data == tokens_to_bytes(tokens, stream_id(audio.codec))
    assert read_header(data).rate.codebooks == codebooks
    wanted = decompress(audio.codec, data).numpy()
    np.testing.assert_allclose(audio_codec.decompress(data), wanted, rtol=0, atol=1e-4)


def test_no_samples_are_no_codes_and_no_samples_again(audio, audio_codec):
    nothing = np.zeros((1, 1, 0), np.float32)
    codes = audio_codec.encode(nothing)
    assert codes.codes.shape == (1, 3, 0)
    assert audio_codec.decompress(audio_codec.compress(nothing)).shape == (1, 1, 0)
    assert audio_codec.compress(nothing) == compress(audio.codec, torch.from_numpy(nothing))
    both = audio_codec.encode([nothing[0], noise(1, (1,))])
    np.testing.assert_array_equal(both.codes[0], -1)


# -- what is refused -------------------------------------------------------------------------------------

SIGNALS = {
    "float64": (np.zeros((1, 1, 9)), "float32 array in .* got float64"),
    "channels": (np.zeros((1, 2, 9), np.float32), r"shape \[1, T\].* got \[2, 9\]"),
    "rank": (np.zeros((1, 9), np.float32), r"shape \[1, T\].* got \[9\]"),
    "nan": (np.full((1, 1, 9), np.nan, np.float32), "magnitude nan"),
    "inf": (np.full((1, 1, 9), -np.inf, np.float32), "magnitude inf"),
    "integers": (np.full((1, 1, 9), 32767, np.float32), "magnitude 32767"),
    "none": (np.zeros((0, 1, 9), np.float32), "at least one signal, got none"),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_what_is_no_signal_is_refused(audio_codec, name):
    signal, message = SIGNALS[name]
    with pytest.raises(ValueError, match=message):
        audio_codec.encode(signal)


def test_another_sample_rate_or_operating_point_is_refused(audio_codec, image):
    signal = noise(1, (100,))[None]
    with pytest.raises(ValueError, match="24000 Hz, got 16000 Hz"):
        audio_codec.encode(signal, sample_rate=16_000)
    with pytest.raises(ValueError, match="1 to 3 codebooks, got 4"):
        audio_codec.encode(signal, Rate(codebooks=4))
    with pytest.raises(ValueError, match="fewer codebooks, got .*queries=4.*export the model at that rate"):
        OnnxCodec(image.folder).encode(noise(3, (9, 9))[None], Rate(queries=4))
    with pytest.raises(ValueError, match="one signal, .* got 2"):
        audio_codec.compress(np.concatenate([signal, signal]))


def test_graphs_of_fewer_codebooks_give_no_more(copied):
    record = json.loads((copied / RECORD).read_text())
    record["rate"]["codebooks"] = 2
    (copied / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"have Rate\(codebooks=2, .* got Rate\(codebooks=3, "):
        OnnxCodec(copied).encode(noise(1, (100,))[None], Rate(codebooks=3))


def test_codes_that_do_not_fit_are_refused(audio_codec):
    good = audio_codec.encode(noise(1, (4000,))[None])
    for value in (-2, 64):
        codes = good.codes.copy()
        codes[0, 1, 2] = value
        with pytest.raises(ValueError, match=f"codebook 1 has codes 0 to 63 .* got {value} in item 0 at position 2"):
            audio_codec.decode(Codes(codes, good.extents, good.rate))
    for codes in (good.codes[:, :, 1:], good.codes[:, :2], good.codes.astype(np.int32)):
        with pytest.raises(ValueError, match=r"are int64 \(1, 3, 3\), got"):
            audio_codec.decode(Codes(codes, good.extents, good.rate))


def test_a_file_of_another_model_or_rate_is_refused(audio, audio_codec, image):
    signal = torch.from_numpy(noise(1, (4000,))[None])
    tokens = audio.codec.encode(signal)
    with pytest.raises(BitstreamError, match="written by model 00000000"):
        audio_codec.decompress(tokens_to_bytes(tokens, bytes(16)))
    picture = torch.from_numpy(noise(3, (9, 9))[None])
    fewer = compress(image.codec, picture, Rate(queries=4))
    with pytest.raises(ValueError, match="export the model at that rate"):
        OnnxCodec(image.folder).decompress(fewer)


def sign(folder, name):
    """The record, made to fit a changed file."""
    record = json.loads((folder / RECORD).read_text())
    record["files"][name]["sha256"] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / RECORD).write_text(json.dumps(record))


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_a_changed_file_is_refused(copied, name):
    data = bytearray((copied / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} should have SHA-256"):
        OnnxCodec(copied)


@pytest.mark.parametrize("name", [ENCODER, DECODER, RECORD])
def test_a_missing_file_is_refused(copied, name):
    (copied / name).unlink()
    with pytest.raises(ValueError, match=f"has a file {name}, got none"):
        OnnxCodec(copied)


def test_a_signed_stranger_is_refused(copied, image):
    shutil.copy(image.folder / ENCODER, copied / ENCODER)
    sign(copied, ENCODER)
    with pytest.raises(ValueError, match="should map .*input_values.* it maps .*pixel_values"):
        OnnxCodec(copied)
    (copied / ENCODER).write_bytes(b"no graph")
    sign(copied, ENCODER)
    with pytest.raises(ValueError, match="no graph that onnxruntime takes"):
        OnnxCodec(copied)


def test_graphs_of_another_model_are_refused(copied):
    record = json.loads((copied / RECORD).read_text())
    record["stream_id"] = "00" * 16
    (copied / RECORD).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"of model {'00' * 16}, it maps .* of {'[0-9a-f]' * 32}"):
        OnnxCodec(copied)


def test_a_graph_that_reads_further_files_is_refused(copied):
    model = onnx.load(copied / DECODER)
    onnx.save(model, copied / DECODER, save_as_external_data=True, location="weights", size_threshold=0,
              convert_attribute=True)  # fmt: skip
    sign(copied, DECODER)
    with pytest.raises(ValueError, match="further files"):
        OnnxCodec(copied)


RECORDS = {
    "no JSON": lambda record: "{",
    "a list": lambda record: [],
    "a newer format": lambda record: {**record, "format": 2},
    "no spec": lambda record: {key: record[key] for key in record if key != "spec"},
    "an unknown field": lambda record: {**record, "spec": {**record["spec"], "colour": 1}},
    "a wrong type": lambda record: {**record, "spec": {**record["spec"], "hop": 5}},
    "a wrong rate": lambda record: {**record, "rate": {**record["rate"], "codebooks": 4}},
    "no rate": lambda record: {**record, "rate": {}},
    "no files": lambda record: {**record, "files": {}},
    "a short id": lambda record: {**record, "stream_id": "00"},
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_none_is_refused(copied, name):
    changed = RECORDS[name](json.loads((copied / RECORD).read_text()))
    (copied / RECORD).write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(ValueError, match=r"onnx\.json"):
        OnnxCodec(copied)


def test_a_record_beyond_its_size_is_not_parsed(copied):
    with (copied / RECORD).open("a") as file:
        file.write(" " * 2**20)
    with pytest.raises(ValueError, match="may have 1048576 bytes, got more"):
        OnnxCodec(copied)
