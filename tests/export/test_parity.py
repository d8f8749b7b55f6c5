"""A graph that leaves the house says what its codec says; one that does not, does not leave."""

import functools
import hashlib
import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from sigtok.codecs.spec import Rate
from sigtok.export import write
from sigtok.export.graphs import EncodeGraph
from sigtok.export.parity import Parity, measure
from sigtok.export.runtime import DECODER, ENCODER, RECORD

EXTENTS = {"audio": [(1,), (1919,), (1920,), (1921,), (30_000,)], "image": [(1, 1), (8, 9), (15, 26)]}
LAYOUTS = {
    ("audio", ENCODER): {"input_values": ["batch", 1, "num_samples"], "audio_codes": ["batch", 3, None]},
    ("audio", DECODER): {"audio_codes": ["batch", 3, "num_tokens"], "audio_values": ["batch", 1, None]},
    ("image", ENCODER): {
        "pixel_values": ["batch", 3, "height", "width"],
        "codes": ["batch", 1, None, None, 16],
    },
    ("image", DECODER): {
        "codes": ["batch", 1, "rows", "columns", 16],
        "pixel_values": ["batch", 3, None, None],
    },
}


def noise(items, channels, extent, seed=0):
    return torch.rand(items, channels, *extent, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@functools.cache
def session_of(path):
    return onnxruntime.InferenceSession(path.read_bytes())


def run(folder, name, value):
    session = session_of(folder / name)
    return session.run(None, {session.get_inputs()[0].name: value})[0]


def signals_of(exported):
    spec = exported.codec.spec
    for extent in EXTENTS[spec.modality]:
        for items in (1, 3):
            yield noise(items, spec.channels, extent)
    yield torch.zeros(1, spec.channels, *EXTENTS[spec.modality][-1])


def test_one_graph_encodes_every_batch_and_extent(exported):
    for signal in signals_of(exported):
        wanted = exported.codec.encode(signal).codes.numpy()
        codes = run(exported.folder, ENCODER, signal.numpy())
        assert codes.dtype == np.int64
        np.testing.assert_array_equal(codes.reshape(wanted.shape), wanted)


def test_one_graph_decodes_every_batch_extent_and_prefix(exported):
    for signal in signals_of(exported):
        tokens = exported.codec.encode(signal)
        for kept in range(1, exported.codec.spec.num_codebooks + 1):
            codes = run(exported.folder, ENCODER, signal.numpy())
            codes[:, kept:] = -1
            decoded = run(exported.folder, DECODER, codes)
            assert decoded.shape[2:] == exported.codec.spec.padded(tokens.extents[0])
            inside = (slice(None), slice(None), *map(slice, tokens.extents[0]))
            np.testing.assert_allclose(
                decoded[inside], exported.codec.decode(tokens.prefix(kept)).numpy(), rtol=0, atol=1e-4
            )


def shape_of(value):
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_graphs_are_plain_onnx_of_symbolic_size(exported, name):
    model = onnx.load(exported.folder / name)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version >= 18) for entry in model.opset_import] == [("", True)]
    assert not {"Loop", "If", "Scan"} & {node.op_type for node in model.graph.node} and not model.functions
    assert not any(len(tensor.external_data) for tensor in model.graph.initializer)
    for value in (*model.graph.input, *model.graph.output):
        wanted = LAYOUTS[exported.codec.spec.modality, name][value.name]
        found = shape_of(value)
        assert [size for size in wanted if size] == [size for size, asked in zip(found, wanted, strict=True) if asked]
        assert all(isinstance(size, str) for size, asked in zip(found, wanted, strict=True) if not asked)


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_graphs_say_what_they_are_and_not_where_they_were_made(exported, name):
    model, spec = onnx.load(exported.folder / name), exported.codec.spec
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["stream_id"] == exported.record["stream_id"]
    assert said["sample_rate"] == str(spec.sample_rate or "")
    assert said["hop"] == ",".join(map(str, spec.hop))
    assert said["codebook_sizes"] == ",".join(map(str, spec.codebook_sizes))
    assert said["library"].startswith("sigtok ")
    assert b".py" not in (exported.folder / name).read_bytes()


def test_the_record_is_what_was_measured(exported):
    record = exported.record
    assert {path.name for path in exported.folder.iterdir()} == {ENCODER, DECODER, RECORD}
    for name, file in record["files"].items():
        data = (exported.folder / name).read_bytes()
        assert file == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    parity = record["parity"]
    assert parity["agreement"] >= 0.999 and parity["difference"] <= 1e-3
    assert len(parity["extents"]) == 10 and len(parity["agreement_by_codebook"]) == exported.codec.spec.num_codebooks
    assert parity["codes"] > 100


# -- refusals --------------------------------------------------------------------------------------------


def broken(path, kind, other):
    """The graph with its last node of a kind replaced by another kind."""
    model = onnx.load(path)
    next(node for node in reversed(model.graph.node) if node.op_type == kind).op_type = other
    return model.SerializeToString()


def writes(monkeypatch, audio, **models):
    """`write_onnx` without tracing: these graphs, or those of the fixture."""
    stored = {
        "EncodeGraph": (audio.folder / ENCODER).read_bytes(),
        "DecodeGraph": (audio.folder / DECODER).read_bytes(),
    }
    models = {**stored, **models}
    monkeypatch.setattr(write, "to_onnx", lambda graph, properties: models[type(graph).__name__])


def test_good_graphs_are_written_and_the_codec_stays_as_it_was(audio, monkeypatch, tmp_path):
    writes(monkeypatch, audio)
    audio.codec.train()
    try:
        record = write.write_onnx(audio.codec, tmp_path / "new" / "onnx", trials=3)
        assert audio.codec.training and next(audio.codec.parameters()).requires_grad
    finally:
        audio.codec.eval()
    assert record["files"] == audio.record["files"] and len(record["parity"]["extents"]) == 3
    assert json.loads((tmp_path / "new" / "onnx" / RECORD).read_text()) == json.loads(json.dumps(record))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["onnx"]


BROKEN = {
    "EncodeGraph": (ENCODER, "Log", "Abs", r"99.90% of its codec's codes, got \d+\.\d+% of \d+ \("),
    "DecodeGraph": (DECODER, "Cos", "Sin", r"within 0.001 of its codec, got \d+\.\d+"),
}


@pytest.mark.parametrize("graph", BROKEN)
def test_a_broken_graph_is_refused_and_nothing_left_behind(audio, monkeypatch, tmp_path, graph):
    name, kind, other, message = BROKEN[graph]
    writes(monkeypatch, audio, **{graph: broken(audio.folder / name, kind, other)})
    with pytest.raises(ValueError, match=message):
        write.write_onnx(audio.codec, tmp_path / "onnx", trials=6)
    assert not list(tmp_path.iterdir())


def test_a_refusal_leaves_the_old_files(audio, monkeypatch, tmp_path):
    (tmp_path / ENCODER).write_bytes(b"old")
    writes(monkeypatch, audio, EncodeGraph=broken(audio.folder / ENCODER, "Log", "Abs"))
    with pytest.raises(ValueError, match="nothing was written"):
        write.write_onnx(audio.codec, tmp_path, trials=6)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


class Deaf(onnxruntime.InferenceSession):
    """A session that says one number, whatever it is asked."""

    name = "value"

    def __init__(self, shape, value):
        self.shape, self.value = shape, value

    def get_inputs(self):
        return [self]

    def run(self, _, values):
        return [np.full(self.shape(*next(iter(values.values())).shape), self.value)]


def test_graphs_of_another_shape_or_without_numbers_do_not_agree(audio):
    rate, spec = audio.codec.spec.resolve(), audio.codec.spec
    codes = Deaf(lambda items, _, samples: (items, 3, *spec.grid((samples,))), 0)
    short = Deaf(lambda items, _, tokens: (items, 1, 1920 * tokens - 1920), 0.0)
    for decoder in (short, Deaf(lambda items, _, tokens: (items, 1, 1920 * tokens), np.nan)):
        parity = measure(audio.codec, codes, decoder, rate, trials=2)
        assert parity.difference == np.inf and parity.agreement < 0.999


@pytest.mark.parametrize(("equal", "difference"), [(9989, 0.0), (9990, 1.01e-3), (9990, float("inf"))])
def test_figures_below_the_promise_are_refused(equal, difference):
    Parity([10_000], [9990], 1e-3).check()
    with pytest.raises(ValueError, match="nothing was written"):
        Parity([10_000], [equal], difference).check()


def test_a_codec_without_dense_codes_is_no_graph(audio):
    spec = replace(audio.codec.spec, strides=(1, 2, 4))
    codec = type(audio.codec)(spec, audio.codec.encoder, audio.codec.quantizer, audio.codec.decoder)
    with pytest.raises(ValueError, match=r"strides \(1, 2, 4\)"):
        EncodeGraph(codec)


def test_a_rate_that_the_codec_has_not_is_refused(audio, tmp_path):
    with pytest.raises(ValueError, match="1 to 3 codebooks"):
        write.write_onnx(audio.codec, tmp_path / "onnx", Rate(codebooks=4))
    with pytest.raises(ValueError, match="at least 1 trial, got 0"):
        write.write_onnx(audio.codec, tmp_path / "onnx", trials=0)
    assert not list(tmp_path.iterdir())
