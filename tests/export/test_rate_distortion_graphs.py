"""Rate-distortion codecs without torch: one folder for all qualities, and the very codes and bytes of the codec."""

import copy
import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys

import jaxtyping
import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.numpy
import torch

from sigtok.codecs.audio.models import walloc_stereo
from sigtok.codecs.bitstream import BitstreamError, read_header
from sigtok.codecs.files import compress, decompress
from sigtok.codecs.image.models import walloc_image
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.spec import Rate
from sigtok.export import write
from sigtok.export.cli import main
from sigtok.export.graphs import to_onnx
from sigtok.export.parity import measure
from sigtok.export.runtime import DECODER, ENCODER, RECORD, TABLES, OnnxCodec

LADDER = dict(width=16, depth=1, qualities=3, quality_steps=4, hidden=4)
PICTURE = dict(levels=1, low=2, states=4, last=1e6, **LADDER)  # steps so fine that a constant in float32 shows
SOUND = dict(bins=32, last=1e9, **LADDER)
CODECS = {
    "neighbours": lambda: walloc_image(**PICTURE, density="neighbours"),
    "factorised": lambda: walloc_image(**PICTURE, density="factorised"),
    "hyperprior": lambda: walloc_image(**PICTURE, density="hyperprior"),
    "mdct": lambda: walloc_stereo(**SOUND, spectrum="mdct"),
    "wavelet": lambda: walloc_stereo(**SOUND, spectrum="wavelet"),
}
QUALITIES = (1.0, 1.25, 2.5, 3.0)
EXTENTS = {
    "image": [(1, 1), (1, 7), (2, 2), (3, 5), (8, 16), (9, 2), (17, 23), (40, 33)],
    "audio": [(1,), (31,), (32,), (33,), (501,)],
}

NO_TORCH = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx"):
            raise ImportError(f"{name} is blocked")


sys.meta_path.insert(0, Blocker())
import numpy as np
from sigtok.codecs.spec import Rate
from sigtok.export.runtime import OnnxCodec

codec, signal = OnnxCodec(sys.argv[1], threads=1), np.load(sys.argv[2])
data = codec.compress(signal, Rate(quality=1.75))
np.savez(sys.argv[3], data=np.frombuffer(data, np.uint8), decompressed=codec.decompress(data))
assert not {"torch", "onnx"} & set(sys.modules)
"""


def noise(spec, extent, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (1, spec.channels, *extent)).astype(np.float32)


_traced = {}


@functools.cache
def made(kind):
    """A codec that has learned something, however little: no weight is 0 or 1, and its tables are frozen."""
    torch.manual_seed(0)
    codec = CODECS[kind]().eval()
    if kind in ("factorised", "hyperprior"):
        codec.encoder.load_state_dict(made("neighbours").encoder.state_dict())
        codec.decoder.load_state_dict(made("neighbours").decoder.state_dict())
        parts = [codec.entropy]
    else:
        parts = [codec.encoder, codec.decoder, codec.entropy]
    with torch.no_grad():
        for weight in (weight for part in parts for weight in part.parameters()):
            weight.add_(0.05 * torch.randn_like(weight))
    codec.entropy.freeze()
    return codec


def trace_once(graph, properties):
    """`to_onnx`, whose graphs of pictures are traced once: densities have no part in them."""
    spectrum = getattr(graph, "spectrum", None)
    key = type(graph), spectrum and spectrum.margin
    if key not in _traced:
        _traced[key] = to_onnx(graph, {})
    model = onnx.load_from_string(_traced[key])
    onnx.helper.set_model_props(model, properties)
    return model.SerializeToString(deterministic=True)


@pytest.fixture(scope="session")
def export_one(tmp_path_factory):
    base = tmp_path_factory.mktemp("rate_distortion")

    @functools.cache
    def export(kind):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # extents are symbols while tracing
            patch.setattr(write, "to_onnx", trace_once)
            write.write_onnx(made(kind), base / kind, trials=8)
        return base / kind

    return export


@pytest.fixture(params=CODECS)
def kind(request):
    return request.param


@pytest.fixture
def folder(export_one, kind):
    return export_one(kind)


@pytest.fixture
def codec(kind):
    return made(kind)


@pytest.fixture
def opened(folder):
    return OnnxCodec(folder, threads=1)


@pytest.fixture
def copied(export_one, tmp_path):
    return lambda kind: shutil.copytree(export_one(kind), tmp_path / kind)


def signals(codec):
    for place, extent in enumerate(EXTENTS[codec.spec.modality]):
        for quality in QUALITIES:
            yield noise(codec.spec, extent, place), Rate(quality=quality)


# -- what is promised --------------------------------------------------------------------------------------


def test_one_folder_gives_the_codes_of_all_qualities(codec, opened):
    for signal, rate in signals(codec):
        tokens, codes = codec.encode(torch.from_numpy(signal), rate), opened.encode(signal, rate)
        np.testing.assert_array_equal(codes.codes, tokens.codes.numpy())
        assert codes.rate == tokens.rate and codes.extents == tokens.extents
        np.testing.assert_allclose(opened.decode(codes), codec.decode(tokens).numpy(), rtol=0, atol=1e-4)
    assert len(np.unique(codes.codes)) > 20  # of the last one: there is something to code


def test_not_one_code_of_many_is_another(codec, opened):
    """With constants in float32, some are."""
    extent = (300, 300) if codec.spec.modality == "image" else (60_000,)
    signal = noise(codec.spec, extent)
    codes, tokens = opened.encode(signal), codec.encode(torch.from_numpy(signal))
    np.testing.assert_array_equal(codes.codes, tokens.codes.numpy())


def test_files_are_the_bytes_of_the_codec_at_all_qualities(codec, opened):
    for signal, rate in signals(codec):
        data = opened.compress(signal, rate)
        assert data == compress(codec, torch.from_numpy(signal), rate)
        assert read_header(data).rate.quality == rate.quality
        wanted = decompress(codec, data).numpy()
        np.testing.assert_allclose(opened.decompress(data), wanted, rtol=0, atol=1e-4)


def test_without_a_quality_it_is_the_highest(codec, opened):
    signal = noise(codec.spec, EXTENTS[codec.spec.modality][3])
    assert opened.rate == codec.spec.resolve() and opened.rate.quality == 3
    assert opened.compress(signal) == compress(codec, torch.from_numpy(signal))


def test_signals_of_all_extents_are_those_of_each_alone(codec, opened):
    several = [noise(codec.spec, extent)[0] for extent in EXTENTS[codec.spec.modality]]
    codes = opened.encode(several, Rate(quality=1.5))
    wanted = codec.encode([torch.from_numpy(signal) for signal in several], Rate(quality=1.5))
    np.testing.assert_array_equal(codes.codes, wanted.codes.numpy())
    assert [signal.shape for signal in opened.decode(codes)] == [signal.shape for signal in several]


def test_no_samples_are_no_codes_and_no_samples_again(export_one):
    opened, nothing = OnnxCodec(export_one("mdct")), np.zeros((1, 2, 0), np.float32)
    assert opened.compress(nothing) == compress(made("mdct"), torch.from_numpy(nothing))
    assert opened.decompress(opened.compress(nothing)).shape == nothing.shape


def test_files_do_not_depend_on_threads(codec, folder, opened):
    two, signal = OnnxCodec(folder, threads=2), noise(codec.spec, EXTENTS[codec.spec.modality][-1])
    for quality in QUALITIES:
        assert two.compress(signal, Rate(quality=quality)) == opened.compress(signal, Rate(quality=quality))


def test_adaptive_files_are_read_too(codec, opened):
    signal = torch.from_numpy(noise(codec.spec, EXTENTS[codec.spec.modality][3]))
    data = compress(codec, signal, Rate(quality=2.0), coding="adaptive")
    np.testing.assert_allclose(opened.decompress(data), decompress(codec, data).numpy(), rtol=0, atol=1e-4)


def test_everything_works_where_torch_does_not(codec, folder, tmp_path):
    signal = noise(codec.spec, EXTENTS[codec.spec.modality][-1])
    np.save(tmp_path / "signal.npy", signal)
    places = [str(folder), str(tmp_path / "signal.npy"), str(tmp_path / "out.npz")]
    done = subprocess.run([sys.executable, "-c", NO_TORCH, *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    out = np.load(tmp_path / "out.npz")
    data = compress(codec, torch.from_numpy(signal), Rate(quality=1.75))
    assert out["data"].tobytes() == data
    np.testing.assert_allclose(out["decompressed"], decompress(codec, data).numpy(), rtol=0, atol=1e-4)


def test_the_record_names_all_files_and_what_was_measured(codec, folder):
    record = json.loads((folder / RECORD).read_text())
    assert {path.name for path in folder.iterdir()} == {ENCODER, DECODER, TABLES, RECORD}
    for name, file in record["files"].items():
        data = (folder / name).read_bytes()
        assert file == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    assert record["entropy"]["kind"] == codec.entropy.kind
    parity = record["parity"]
    assert parity["agreement"] == 1.0 and parity["difference"] < 1e-4 and parity["codes"] > 1000
    assert len(parity["qualities"]) == 8 and {1, 2, 3} < {*parity["qualities"], 1, 2, 3}
    assert all(codec.spec.resolve(Rate(quality=quality)) for quality in parity["qualities"])


# -- what is refused ---------------------------------------------------------------------------------------


class Deaf(onnxruntime.InferenceSession):
    """A session that runs at one quality, whatever it is asked."""

    def __init__(self, session):
        self.session = session

    def get_inputs(self):
        return self.session.get_inputs()

    def run(self, names, values):
        return self.session.run(names, {**values, "quality": np.array(3, np.float32)})


def test_graphs_that_ignore_the_quality_do_not_agree(codec, opened):
    assert measure(codec, opened.encoder, opened.decoder, opened.rate, trials=6).agreement == 1
    assert measure(codec, Deaf(opened.encoder), opened.decoder, opened.rate, trials=6).agreement < 0.999
    assert measure(codec, opened.encoder, Deaf(opened.decoder), opened.rate, trials=6).difference > 1e-3


def test_a_density_is_frozen_before_it_travels(codec, tmp_path):
    codec = copy.deepcopy(codec)
    codec.entropy.thaw()
    with pytest.raises(ValueError, match=r"got one that is not; call freeze\(\)"):
        write.write_onnx(codec, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_rates_that_do_not_apply_are_refused(codec, opened):
    signal = noise(codec.spec, EXTENTS[codec.spec.modality][0])
    for quality in (0.75, 1.1, 3.25):
        with pytest.raises(ValueError, match=r"has qualities 1 to 3 in steps of 1/4, got"):
            opened.compress(signal, Rate(quality=quality))
    with pytest.raises(ValueError, match="sends all codebooks and queries at every quality, got codebooks=1"):
        opened.compress(signal, Rate(codebooks=1))


def test_a_file_of_another_model_is_refused(export_one):
    signal = noise(made("neighbours").spec, (9, 9))
    data = OnnxCodec(export_one("factorised")).compress(signal)
    with pytest.raises(BitstreamError, match="was written by model"):
        OnnxCodec(export_one("neighbours")).decompress(data)


def refusal(folder):
    with pytest.raises(ValueError) as caught:
        OnnxCodec(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


def sign(folder, change=lambda record: None):
    """The record, made to fit a changed file."""
    record = json.loads((folder / RECORD).read_text())
    record["files"][TABLES]["sha256"] = hashlib.sha256((folder / TABLES).read_bytes()).hexdigest()
    change(record)
    (folder / RECORD).write_text(json.dumps(record))


def test_damaged_missing_and_swapped_tables_are_refused(copied, export_one):
    folder = copied("neighbours")
    whole = (folder / TABLES).read_bytes()
    for data in (
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole[:-1],
        b"",
        (export_one("factorised") / TABLES).read_bytes(),
    ):
        (folder / TABLES).write_bytes(data)
        assert f"{TABLES} should have SHA-256" in refusal(folder)
    sign(folder)
    assert f"{TABLES} has no tables of this codec: should be of model" in refusal(folder)
    (folder / TABLES).write_bytes(b"no tables")
    sign(folder)
    assert f"{TABLES} has no tables of this codec" in refusal(folder)
    (folder / TABLES).unlink()
    assert f"has a file {TABLES}, got none" in refusal(folder)


def put(name, place, value):
    """One number of an array, changed."""

    def change(arrays):
        arrays[name] = arrays[name].astype(np.int64)  # which may be stored too
        arrays[name].flat[place] = value

    return change


CHANGED = {
    "a frequency of 0": ("neighbours", put("frequencies", 0, 0), "sums to"),
    "frequencies that sum to more": ("factorised", put("frequencies", 3, 9999), "sum to 65536"),
    "a negative frequency": ("spectral", put("frequencies", 0, -1), "frequencies of a table"),
    "an odd length": ("hyperprior", put("lengths", 0, 7), "an even number"),
    "a negative length": ("factorised", put("lengths", 0, -4), "an even number"),
    "a negative length of side information": ("hyperprior", put("side.lengths", 0, -(2**30)), "an even number"),
    "weights whose sums are not exact": ("neighbours", put("hidden_second_1", 0, 2**40), r"below 2\*\*52"),
    "weights of a layer that are not exact": ("hyperprior", put("local_bias_0", 0, 2**52), r"below 2\*\*52"),
    "more than float64 has": ("hyperprior", put("local_bias_0", 0, -(2**63)), r"stay below 2\*\*53"),
    "a shift to the left": ("hyperprior", put("mean_shift_0", 0, -1), "its shift below 53"),
    "a missing array": ("spectral", lambda arrays: arrays.pop("out_3"), "has whole numbers out_3, got none"),
    "an array too many": ("factorised", lambda arrays: arrays.update(more=np.zeros(1, np.int32)), "has no 'more'"),
    "floats": (
        "neighbours",
        lambda a: a.update(state_0=a["state_0"].astype(np.float32)),
        "of 32 or 64 bits .* float32",
    ),
    "another shape": ("neighbours", lambda a: a.update(state_0=a["state_0"].T.copy()), r"shape \[4, 6\], got int32"),
    "no axes": ("spectral", lambda arrays: arrays.update(out_0=np.array(1, np.int32)), "shape"),
    "an even kernel": (
        "hyperprior",
        lambda arrays: arrays.update(synthesis_weight_0=arrays["synthesis_weight_0"][:, :, :2].copy()),
        "odd sizes",
    ),
    "channels that nobody gives": (
        "hyperprior",
        lambda arrays: arrays.update(analysis_weight_0=arrays["analysis_weight_0"][:, :-1].copy()),
        "a layer of analysis reads",
    ),
    "no compander": ("hyperprior", lambda arrays: arrays.update(compander=np.zeros(0, np.int32)), "at least 1 number"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_signed_tables_that_are_none_are_refused(copied, name):
    kind, change, message = CHANGED[name]
    folder = copied({"spectral": "mdct"}.get(kind, kind))
    with safetensors.safe_open(folder / TABLES, "numpy") as file:
        metadata = file.metadata()
    arrays = safetensors.numpy.load((folder / TABLES).read_bytes())
    change(arrays)
    (folder / TABLES).write_bytes(safetensors.numpy.save(arrays, metadata))
    sign(folder)
    refused = refusal(folder)
    assert TABLES in refused and re.search(message, refused)


def setting(**values):
    return lambda record: record["entropy"]["settings"].update(values)


def network(name, **values):
    return lambda record: record["entropy"]["settings"]["networks"][name].update(values)


RECORDS = {
    "no coder": ("mdct", lambda record: record.pop("entropy"), "has an entropy coder, got none"),
    "no file": ("mdct", lambda record: record["files"].pop(TABLES), TABLES),
    "a list": ("mdct", lambda record: record.update(entropy=[]), "no record of a codec"),
    "no kind": ("mdct", lambda record: record["entropy"].pop("kind"), "no record of a codec"),
    "another kind": ("mdct", lambda record: record["entropy"].update(kind="pickle"), "is one of .* got 'pickle'"),
    "a kind that is none": (
        "mdct",
        lambda record: record["entropy"].update(kind=[]),
        "a kind and settings by name, got",
    ),
    "the kind of others": (
        "factorised",
        lambda record: record["entropy"].update(kind="spectral"),
        "have bins, got none",
    ),
    "no settings": ("mdct", lambda record: record["entropy"].update(settings=None), "a kind and settings by name, got"),
    "a setting too many": ("mdct", setting(more=1), "have no 'more'"),
    "bins of part of a band": ("mdct", setting(bins=65), "a multiple of 16, got 65"),
    "a text": ("mdct", setting(bins="32"), "a whole number of 1 to 65536, got '32'"),
    "a fraction": ("neighbours", setting(states=4.5), "a whole number of 1 to 65536, got 4.5"),
    "a truth": ("neighbours", setting(low=True), "a whole number of 0 to 10, got True"),
    "a deep pyramid": ("neighbours", setting(low=40), "a whole number of 0 to 10, got 40"),
    "groups of fewer bands": ("neighbours", setting(channels=[8]), "groups share 9 high bands"),
    "groups that are none": ("neighbours", setting(channels=9), "channels .* are a list, got 9"),
    "an unknown step": ("hyperprior", network("mean", steps=[["exec", 1, 2]]), "a step is convolution, fold or unfold"),
    "an endless fold": ("hyperprior", network("local", steps=[["fold", 10**9, 1]]), "a whole number of 1 to 4"),
    "a huge result": ("hyperprior", network("mean", steps=[["convolution", 0, 10**30]]), "a whole number of"),
    "indices of other tables": ("hyperprior", network("scale", steps=[["convolution", 0, 64]]), "are 0 to 63"),
    "a fold too few": ("hyperprior", network("local", steps=[["convolution", 0, 9]]), "reads|resolution|no '"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_makes_no_coder_is_refused(copied, name):
    kind, change, message = RECORDS[name]
    folder = copied(kind)
    sign(folder, change)
    assert re.search(message, refusal(folder))


# -- the command -------------------------------------------------------------------------------------------


def test_the_command_exports_a_model_folder_and_refuses_rates(export_one, tmp_path, monkeypatch, capsys):
    export_one("neighbours")
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(write, "to_onnx", trace_once)
    monkeypatch.chdir(tmp_path)
    told = dict(licence="", training_data="", measured={}, card="", half=False)
    save(made("neighbours"), "model", builder="walloc_image", arguments=PICTURE, **told)
    assert main(["export", "onnx", "model", "out", "--trials", "3"]) == 0
    assert '"agreement": 1.0' in capsys.readouterr().out
    signal = noise(made("neighbours").spec, (19, 12))
    for quality in QUALITIES:
        rate = Rate(quality=quality)
        assert OnnxCodec("out").compress(signal, rate) == compress(load("./model"), torch.from_numpy(signal), rate)
    for option in ("--codebooks", "--queries", "--window"):
        assert main(["export", "onnx", "model", "other", option, "1"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and "serve all its qualities" in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]
