"""Model folders: what is saved is loaded, and nothing else is."""

import json
import sys
from importlib import import_module

import pytest
import safetensors.torch
import torch
from torch import nn

from sigtok.codecs import pretrained
from sigtok.codecs.codec import Codec
from sigtok.codecs.pretrained import BUILDERS, bundled, describe, load, save, stream_id
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.vq import VQ
from sigtok.codecs.spec import CodecSpec

ARGUMENTS = {"hop": 4, "codebook_size": 6}


class Linear(nn.Module):
    """Hops to latents or back."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.BatchNorm1d(outputs)  # an integer buffer, and two of floats

    def forward(self, values, *_):
        return self.linear(values.unflatten(-1, (-1, self.linear.in_features))[:, 0])

    piecewise = forward


def tiny(hop=4, codebook_size=6):
    """The builder of these tests."""
    spec = CodecSpec(
        name="tiny",
        modality="audio",
        channels=1,
        sample_rate=8000,
        hop=(hop,),
        codebook_sizes=(codebook_size,),
        latent_dim=2,
    )
    return Codec(spec, Linear(hop, 2), VQ(codebook_size, 2), Linear(2, hop))


@pytest.fixture(autouse=True)
def builder(monkeypatch):
    monkeypatch.setitem(sys.modules, "builders_of_this_test", sys.modules[__name__])
    monkeypatch.setitem(BUILDERS, "tiny", ("builders_of_this_test", "tiny"))


def write(codec, folder, **changes):
    values = {
        "builder": "tiny",
        "arguments": ARGUMENTS,
        "licence": "Apache-2.0",
        "training_data": "noise",
        "measured": {"snr_db": 3.5},
        "card": "# tiny\n",
    }
    save(codec, folder, **{**values, **changes})


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    write(tiny(**ARGUMENTS), tmp_path / "model")
    return tmp_path / "model"


def edit(folder, **changes):
    """Change spec.json; a value of None removes its field."""
    record = {**json.loads((folder / "spec.json").read_text()), **changes}
    text = json.dumps({name: value for name, value in record.items() if value is not None})
    (folder / "spec.json").write_text(text)


def replace_weights(folder, change):
    """Other weights with a right SHA-256."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    change(tensors)
    data = safetensors.torch.save(tensors)
    (folder / "model.safetensors").write_bytes(data)
    edit(folder, weights_sha256=pretrained.hashlib.sha256(data).hexdigest())


# -- round trips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [True, False])
def test_what_is_saved_is_loaded(tmp_path, half):
    codec = tiny(**ARGUMENTS)
    write(codec, tmp_path, half=half)
    loaded = load(tmp_path)
    assert loaded.spec == codec.spec and not loaded.training
    for name, tensor in codec.state_dict().items():
        expected = tensor.half().to(tensor.dtype) if half and tensor.is_floating_point() else tensor
        assert torch.equal(loaded.state_dict()[name], expected), name
        assert loaded.state_dict()[name].dtype == tensor.dtype


def test_the_id_is_of_the_weights_as_loaded(folder):
    codec = load(folder)
    assert codec.stream_id == stream_id(codec) == bytes.fromhex(describe(folder)["stream_id"])
    again = folder.parent / "again"
    write(codec, again)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (again / "spec.json").read_text() == (folder / "spec.json").read_text()


def test_the_id_is_what_its_docstring_says():
    codec = tiny(**ARGUMENTS)
    digest = pretrained.hashlib.sha256(b"sgt-id-1\0" + codec.spec.digest())
    for name, tensor in sorted(codec.state_dict().items()):
        if not name.startswith("encoder."):
            kind = str(tensor.dtype).removeprefix("torch.")
            digest.update(f"{name}\0{kind}\0{tuple(tensor.shape)}\0".encode() + tensor.numpy().tobytes())
    assert stream_id(codec) == digest.digest()[:16]


def test_loading_leaves_the_callers_dice_alone(folder):
    torch.manual_seed(3)
    load(folder)
    rolled = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(rolled, torch.rand(4))


def test_a_folder_describes_itself_without_being_built(folder, monkeypatch):
    monkeypatch.setitem(BUILDERS, "tiny", ("no_such_module", "tiny"))
    record = describe(folder)
    assert record["licence"] == "Apache-2.0" and record["measured"] == {"snr_db": 3.5}
    assert (folder / "README.md").read_text() == "# tiny\n"
    assert CodecSpec.from_dict(record["spec"]) == tiny(**ARGUMENTS).spec


def test_a_bundled_model_is_found_by_name(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    assert bundled() == ("model",)
    assert load("model").stream_id == load(folder).stream_id


@pytest.mark.parametrize("name", ["nothing", "", "..", "a\0b", "x" * 5000, "http://example.org/model"])
def test_an_unknown_name_is_refused_with_the_known_ones(name, monkeypatch, tmp_path, folder):
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="bundled: model" if name != ".." else "has a file spec.json"):
        load(name)


@pytest.mark.parametrize("name", bundled())
def test_every_bundled_model_loads(name):
    codec = load(name)
    assert codec.stream_id == stream_id(codec)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_builder_exists(name):
    module, function = BUILDERS[name]
    assert callable(getattr(import_module(module), function))


# -- weights ---------------------------------------------------------------------------------------------


def test_every_damaged_byte_of_the_weights_is_found(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ValueError, match="should have SHA-256"):
            load(folder)
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="should have SHA-256"):
        load(folder)


def set_nan(tensors):
    tensors["decoder.linear.bias"][0] = float("nan")


def set_other_value(tensors):
    tensors["decoder.linear.bias"][0] += 1


def drop(tensors):
    del tensors["encoder.linear.bias"]


def add(tensors):
    tensors["decoder.extra"] = torch.zeros(1)


def reshape(tensors):
    tensors["decoder.linear.bias"] = tensors["decoder.linear.bias"][None]


def make_integers(tensors):
    tensors["decoder.linear.bias"] = tensors["decoder.linear.bias"].long()


def make_double(tensors):
    tensors["encoder.linear.bias"] = tensors["encoder.linear.bias"].double()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_nan, r"NaN or infinity in decoder\.linear\.bias"),
        (set_other_value, "should have stream id"),
        (drop, r"missing or unknown are \['encoder\.linear\.bias'\]"),
        (add, r"missing or unknown are \['decoder\.extra'\]"),
        (reshape, r"is torch.float32 \(4,\), got torch.float16 \(1, 4\)"),
        (make_integers, "is torch.float32.* got torch.int64"),
        (make_double, "is torch.float32.* got torch.float64"),
    ],
)
def test_other_tensors_are_refused_though_the_digest_is_right(folder, change, words):
    replace_weights(folder, change)
    with pytest.raises(ValueError, match=words):
        load(folder)


@pytest.mark.parametrize(
    "data", [b"", (2**40).to_bytes(8, "little") + b"{}", b"\x80\x04cos\nsystem\n", b"PK\3\4" + bytes(99)]
)
def test_what_is_no_safetensors_file_is_refused(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    edit(folder, weights_sha256=pretrained.hashlib.sha256(data).hexdigest())
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "spec.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"has a file {name}"):
        load(folder)


# -- spec.json -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"format": True}, "format True"),
        ({"format": "1"}, "format '1'"),
        ({"builder": "os.system"}, "got 'os.system'"),
        ({"builder": ["tiny"]}, "builder has another type, got list"),
        ({"arguments": [4, 6]}, "arguments has another type"),
        ({"arguments": {"hop": 4, "codebook_size": 6, "callback": "os.system"}}, "refuses its arguments"),
        ({"arguments": {"hop": "4"}}, "refuses its arguments"),
        ({"arguments": {"hop": 2**40}}, "an argument may be up to 1048576"),
        ({"arguments": {"hop": [[[[[[[[[4]]]]]]]]]}}, "8 lists deep"),
        ({"arguments": {"hop": 4, "codebook_size": 7}}, r"codebook_sizes of its spec is \(6,\)"),
        ({"spec": {"name": "tiny"}}, "incomplete"),
        ({"spec": {"hop": 4}}, "its spec is none"),
        ({"spec": None}, "missing or unknown are .'spec'"),
        ({"stream_id": "00" * 16}, "should have stream id 0000"),
        ({"stream_id": "00" * 17}, "stream_id is 32 hexadecimal digits"),
        ({"weights_sha256": "00" * 32}, "should have SHA-256 0000"),
        ({"weights_sha256": "../../etc/passwd"}, "weights_sha256 is 64 hexadecimal digits"),
        ({"class_path": "os.system"}, "missing or unknown are .'class_path'"),
    ],
)
def test_a_hostile_record_is_refused(folder, changes, words):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "format 'list'"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"format": 1, "format": 1}', "a key stands twice"),
        (b'{"format": NaN}', "NaN is no number"),
        (b'{"format": 1' + b" " * 2**20 + b"}", "may have 1048576 bytes"),
        (b"\x80\x04cos\nsystem\n", "not JSON"),
    ],
)
def test_what_is_no_record_is_refused(folder, text, words):
    (folder / "spec.json").write_bytes(text)
    with pytest.raises(ValueError, match=words):
        load(folder)


# -- saving ----------------------------------------------------------------------------------------------


def test_nothing_is_saved_that_would_not_load(tmp_path):
    codec = tiny(**ARGUMENTS)
    for changes, words in (
        ({"builder": "unknown"}, "builders are"),
        ({"arguments": {"hop": 5}}, r"hop of its spec is \(4,\), its builder gives \(5,\)"),
        ({"arguments": {"hop": torch.tensor(4)}}, "plain values"),
        ({"measured": {"snr_db": float("nan")}}, "JSON"),
    ):
        with pytest.raises(ValueError, match=words):
            write(codec, tmp_path / "model", **changes)
    with torch.no_grad():
        codec.decoder.linear.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"infinity in decoder\.linear\.weight"):
        write(codec, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_is_beyond_float16_stays_float32(tmp_path):
    codec = tiny(**ARGUMENTS)
    with torch.no_grad():
        codec.decoder.linear.weight[0] = torch.tensor([1e6, 1 / 3])
    write(codec, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert torch.equal(loaded.decoder.linear.weight, codec.decoder.linear.weight)
    assert torch.equal(loaded.encoder.linear.weight, codec.encoder.linear.weight.half().float())


def test_a_failed_write_leaves_the_old_file(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(pretrained.os, name, fail)
            with pytest.raises(OSError, match="No space"):
                write(tiny(**ARGUMENTS), folder)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_half_replaced_is_refused(folder, monkeypatch):
    honest, calls = pretrained.os.replace, []

    def fail_later(*paths):
        if calls:
            raise OSError(5, "Input/output error")
        calls.append(honest(*paths))

    monkeypatch.setattr(pretrained.os, "replace", fail_later)
    with pytest.raises(OSError, match="Input/output"):
        write(tiny(**ARGUMENTS), folder)
    with pytest.raises(ValueError, match="should have SHA-256"):
        load(folder)


def test_a_quantizer_without_tensors_saves_too(tmp_path, monkeypatch):
    def plain():
        spec = CodecSpec(
            name="plain",
            modality="audio",
            channels=1,
            sample_rate=8000,
            hop=(4,),
            codebook_sizes=(9,),
            latent_dim=2,
        )
        return Codec(spec, Linear(4, 2), FSQ([3, 3]), Linear(2, 4))

    monkeypatch.setattr(sys.modules[__name__], "tiny", plain)
    write(plain(), tmp_path, arguments={})
    assert load(tmp_path).spec.name == "plain"
