"""A codec in onnxruntime: encode, decode, compress and decompress on numpy, without torch.

The folder is the one that `write_onnx` makes, at one rate (window and queries; any prefix of its codebooks):

    encoder_model.onnx   input_values [B, C, T]        -> audio_codes [B, Q, N]
    decoder_model.onnx   audio_codes [B, Q, N]         -> audio_values [B, C, whole windows]
    onnx.json            spec, rate, stream id, SHA-256 of all files, what was measured

An image codec has ``pixel_values [B, 3, H, W] -> codes [B, Q, rows, columns, queries] -> pixel_values`` instead: the
tiles stand where they are in the picture. A codec of features has ``input_features -> codes -> output_features``.
Graphs of a rate-distortion codec have a second input, ``quality``, a float32 scalar: one folder serves all of them. Its
files are coded by tables and exact networks of whole numbers, which are a third file, ``tables.safetensors``.
The encoder takes any extent and fills up to whole windows; the decoder gives whole windows, to be cut. Codes are int64;
-1 is a code that was not sent and adds nothing, so one graph decodes every prefix.

A graph has no state and works on a signal at once: memory grows with its length. The bundled speech codec takes about
120 bytes a sample, 1.7 GB for ten minutes; cut longer signals.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import safetensors.numpy

from sigtok.codecs.bitstream import Header, Limits, Stream, read, write
from sigtok.codecs.entropy.coder import EntropyCoder
from sigtok.codecs.entropy.stored import coder_of
from sigtok.codecs.header import FIXED_WIDTH, OWN_TABLES
from sigtok.codecs.spec import LOUDEST, CodecSpec, Extent, Rate

ENCODER, DECODER, RECORD = "encoder_model.onnx", "decoder_model.onnx", "onnx.json"
TABLES = "tables.safetensors"  # whole numbers of the entropy coder
FORMAT, RECORD_BYTES = 1, 2**20
NAMES = {  # of the input, the codes and the output
    "audio": ("input_values", "audio_codes", "audio_values"),
    "image": ("pixel_values", "codes", "pixel_values"),
    "features": ("input_features", "codes", "output_features"),
}
QUALITY = "quality"  # the second input of graphs of codecs with qualities
OUTSIDE = b"location"  # every tensor outside its file has this word in the model


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of a batch, int64 ``[B, Q, N]``; -1 where a code is absent, or behind a shorter signal.

    ``extents`` are the samples ``(T,)`` or pixels ``(height, width)`` of each signal, ``rate`` is the operating point.
    """

    codes: np.ndarray
    extents: tuple[Extent, ...]
    rate: Rate


class OnnxCodec:
    """The codec of a folder, in onnxruntime.

    Args:
        folder: As `write_onnx` made it.
        threads: Threads of a session; 0 lets onnxruntime choose.
        providers: Where it runs; codes are promised on the CPU.

    Raises:
        ValueError: If a file is missing, damaged or none that the record names.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        threads: int = 0,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        folder = Path(folder)
        record = read_record(folder)
        self.spec, self.rate, self.stream_id = record.spec, record.rate, record.stream_id
        encoder, decoder = names_of(self.spec)
        self.encoder = open_graph(folder, record, ENCODER, encoder, threads, providers)
        self.decoder = open_graph(folder, record, DECODER, decoder, threads, providers)
        self.coder = open_coder(folder, record)

    def encode(
        self,
        signal: np.ndarray | Sequence[np.ndarray],
        rate: Rate | None = None,
        *,
        sample_rate: int | None = None,
    ) -> Codes:
        """Codes of signals in [-1, 1], one by one, so that they do not depend on their neighbours.

        Args:
            signal: A batch, float32 ``[B, C, *extent]``, or a list of signals ``[C, *extent]`` of any extents.
            rate: How many codebooks, or at which quality; None for all of the graphs.
            sample_rate: Hz of the signal, compared with the codec's.

        Raises:
            ValueError: If rank, channels, type, range or sample rate are not the codec's, a sample is not finite, or
                the graphs were written for another rate.
        """
        if sample_rate is not None and sample_rate != self.spec.sample_rate:
            raise ValueError(
                f"{self.spec.name} works at {self.spec.sample_rate} Hz, got {sample_rate} Hz; resample first"
            )
        rate = self._resolved(rate)
        signals = [self._checked(item) for item in signal]
        if not signals:
            raise ValueError("a batch holds at least one signal, got none")
        items = [self._encode_one(item, rate)[: rate.codebooks] for item in signals]
        longest = max(item.shape[1] for item in items)
        rows = [np.pad(item, ((0, 0), (0, longest - item.shape[1])), constant_values=-1) for item in items]
        return Codes(np.stack(rows), tuple(item.shape[1:] for item in signals), rate)

    def decode(self, codes: Codes) -> np.ndarray | list[np.ndarray]:
        """Signals, exactly as long as they were: ``[B, C, *extent]``, or a list of ``[C, *extent]`` if unequal.

        Raises:
            ValueError: If codes are not as many as their extents need, outside their codebook, or of another rate.
        """
        rate = self._resolved(codes.rate)
        self._check_codes(codes.codes, codes.extents, rate)
        rows = zip(codes.codes, codes.extents, strict=True)
        signals = [self._decode_one(row[:, : self.spec.positions(extent, rate)], extent, rate) for row, extent in rows]
        return np.stack(signals) if len({item.shape for item in signals}) == 1 else signals

    def compress(self, signal: np.ndarray, rate: Rate | None = None, *, sample_rate: int | None = None) -> bytes:
        """The `.sgt` file of one signal ``[1, C, *extent]``; equal codes give the bytes of `sigtok.codecs.files`.

        Raises:
            ValueError: If the signal is not one that the codec takes, or not one signal.
        """
        if len(signal) != 1:
            raise ValueError(f"a file holds one signal, [1, C, *extent], got {len(signal)}; compress them one by one")
        codes = self.encode(signal, rate, sample_rate=sample_rate)
        coding = FIXED_WIDTH if self.coder is None else OWN_TABLES
        header = Header.of(self.spec, codes.rate, codes.extents[0], self.stream_id, coding)
        return write(Stream(header, tuple(codes.codes[0])), self.coder)

    def decompress(self, data: bytes, limits: Limits = Limits()) -> np.ndarray:  # noqa: B008
        """The signal ``[1, C, *extent]`` of a file.

        Raises:
            BitstreamError: If the file is damaged, over a limit, or of another model.
            ValueError: If it was written at another rate than the graphs.
        """
        stream = read(data, self.spec, self.stream_id, limits, self.coder)
        codes = Codes(np.stack(stream.codes)[None], (stream.header.extent,), stream.header.rate)
        signal = self.decode(codes)
        assert isinstance(signal, np.ndarray)
        return signal

    def _encode_one(self, signal: np.ndarray, rate: Rate) -> np.ndarray:
        books = self.rate.codebooks
        if 0 in signal.shape:
            return np.empty((books, 0), np.int64)
        return run_graph(self.encoder, signal[None], rate.quality).reshape(books, -1)

    def _decode_one(self, codes: np.ndarray, extent: Extent, rate: Rate) -> np.ndarray:
        if 0 in extent:
            return np.zeros((self.spec.channels, *extent), np.float32)
        missing = self.rate.codebooks - len(codes)
        filled = np.pad(codes, ((0, missing), (0, 0)), constant_values=-1)
        if self.spec.modality == "image":
            filled = filled.reshape(len(filled), *self.spec.grid(extent, self.rate), -1)
        signal = run_graph(self.decoder, filled[None], rate.quality)[0]
        return signal[(slice(None), *(slice(size) for size in extent))]

    def _resolved(self, rate: Rate | None) -> Rate:
        """The rate, if the graphs have it."""
        rate = rate or Rate()
        filled = {name: value for name, value in vars(self.rate).items() if getattr(rate, name) is None}
        rate = self.spec.resolve(replace(rate, **filled))
        same = replace(rate, codebooks=self.rate.codebooks, quality=self.rate.quality) == self.rate
        if not same or rate.codebooks > self.rate.codebooks:
            raise ValueError(
                f"these graphs have {self.rate} or fewer codebooks, got {rate}; export the model at that rate"
            )
        return rate

    def _checked(self, signal: np.ndarray) -> np.ndarray:
        """The signal, if it is one."""
        spec = self.spec
        if not isinstance(signal, np.ndarray) or signal.dtype != np.float32:
            kind = signal.dtype if isinstance(signal, np.ndarray) else type(signal).__name__
            what = "a signal is a float32 array in [-1, 1]" if spec.bounded else "features are a float32 array"
            raise ValueError(f"{what}, got {kind}")
        if signal.ndim != 1 + len(spec.hop) or signal.shape[0] != spec.channels:
            axes = "height, width" if spec.modality == "image" else "T"
            raise ValueError(
                f"{spec.name} takes signals of shape [{spec.channels}, {axes}] (a batch has one axis more), "
                f"got {list(signal.shape)}"
            )
        spec.check_extent(signal.shape[1:])
        peak = float(np.abs(signal).max(initial=0))  # NaN and inf show in the maximum
        if spec.bounded and not peak <= LOUDEST:
            raise ValueError(f"samples lie in [-1, 1], got one of magnitude {peak:g}; scale or repair the signal")
        if not np.isfinite(peak):
            raise ValueError(f"features are finite numbers, got one of magnitude {peak:g}; repair the features")
        return signal

    def _check_codes(self, codes: np.ndarray, extents: tuple[Extent, ...], rate: Rate) -> None:
        """The codes are as many as the extents need, each inside its codebook."""
        longest = max((self.spec.positions(extent, rate) for extent in extents), default=0)
        expected = (len(extents), rate.codebooks, longest)
        if not extents or codes.shape != expected or codes.dtype != np.int64:
            raise ValueError(
                f"codes of {len(extents)} signals of extents {extents} are int64 {expected}, got {codes.dtype} "
                f"{codes.shape}"
            )
        sizes = np.array(self.spec.codebook_sizes[: rate.codebooks])[:, None]
        for item, book, position in np.argwhere((codes < -1) | (codes >= sizes))[:1]:
            raise ValueError(
                f"codebook {book} has codes 0 to {sizes[book, 0] - 1} (or -1 for absent), got "
                f"{codes[item, book, position]} in item {item} at position {position}"
            )


# -- the folder ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """What `onnx.json` says and a session needs; ``digests`` are the SHA-256 of the files, by name.

    ``entropy`` is the kind and the settings of the entropy coder, as `entropy.stored` reads them, if there is one.
    """

    spec: CodecSpec
    rate: Rate
    stream_id: bytes
    digests: dict[str, str]
    entropy: tuple[str, dict[str, Any]] | None = None


def read_record(folder: Path) -> Record:
    """The record of a folder.

    Raises:
        ValueError: If it is missing, or not of this format.
    """
    path = folder / RECORD
    text = _read(path, RECORD_BYTES + 1)
    if len(text) > RECORD_BYTES:
        raise ValueError(f"{path} may have {RECORD_BYTES} bytes, got more")
    try:
        values = json.loads(text)
        found = values["format"]
        if found != FORMAT:
            raise ValueError(f"format {found!r}, this version reads {FORMAT}; update sigtok")
        return _parse(values)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no record of a codec: {type(error).__name__} {error}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no record of a codec: {error}") from None


def open_graph(
    folder: Path,
    record: Record,
    name: str,
    names: tuple[str, ...],
    threads: int = 0,
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> onnxruntime.InferenceSession:
    """A session of one file, made of the very bytes whose digest was compared.

    Raises:
        ValueError: If the file is missing, another than the record names, needs further files, or is no such graph.
    """
    model = _signed(folder, record, name)
    if OUTSIDE in model:
        raise ValueError(f"{folder / name} keeps tensors in further files, which are not read; export it again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(model, options, providers=list(providers))
    except Exception as error:  # untrusted bytes
        raise ValueError(f"{folder / name} is no graph that onnxruntime takes: {error}") from None
    found = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    identity = session.get_modelmeta().custom_metadata_map.get("stream_id")
    if found != list(names) or identity != record.stream_id.hex():
        raise ValueError(
            f"{folder / name} should map {names} of model {record.stream_id.hex()}, it maps {found} of {identity}"
        )
    return session


def open_coder(folder: Path, record: Record) -> EntropyCoder | None:
    """The entropy coder of a folder, made of the very bytes whose digest was compared; None if it has none.

    Raises:
        ValueError: If the file is missing, another than the record names, of another model, or holds no such coder.
    """
    if record.entropy is None:
        return None
    data = _signed(folder, record, TABLES)
    kind, settings = record.entropy
    try:
        integers = safetensors.numpy.load(data)
        size = int.from_bytes(data[:8], "little")
        said = json.loads(data[8 : 8 + size]).get("__metadata__", {})
        if said.get("stream_id") != record.stream_id.hex():
            raise ValueError(f"should be of model {record.stream_id.hex()}, got {said.get('stream_id')!r:.80}")
        return coder_of(kind, settings, record.spec, integers)
    except Exception as error:  # untrusted bytes
        raise ValueError(f"{folder / TABLES} has no tables of this codec: {error}") from None


def run_graph(session: onnxruntime.InferenceSession, value: np.ndarray, quality: float | None = None) -> np.ndarray:
    """The output of a graph of one input, or of one and a quality."""
    given = {session.get_inputs()[0].name: value}
    if quality is not None:
        given[QUALITY] = np.array(quality, np.float32)
    return session.run(None, given)[0]


def names_of(spec: CodecSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs of the encoder's graph, then of its output, and of the decoder's."""
    given, codes, made = NAMES[spec.modality]
    quality = (QUALITY,) if spec.qualities else ()
    return (given, *quality, codes), (codes, *quality, made)


def _parse(values: dict[str, Any]) -> Record:
    spec = CodecSpec.from_dict(values["spec"])
    given = dict(values["rate"])
    rate = spec.resolve(Rate(**{**given, "window": tuple(given["window"])}))
    entropy = values.get("entropy")
    if spec.qualities and entropy is None:
        raise ValueError("a codec with qualities has an entropy coder, got none; export the model again")
    if entropy is not None:
        entropy = entropy["kind"], entropy["settings"]
        if not isinstance(entropy[0], str) or not isinstance(entropy[1], dict):
            raise ValueError(f"an entropy coder has a kind and settings by name, got {entropy!r:.80}; export it again")
    files = (ENCODER, DECODER) if entropy is None else (ENCODER, DECODER, TABLES)
    digests = {name: values["files"][name]["sha256"] for name in files}
    if not re.fullmatch("[0-9a-f]{32}", values["stream_id"]):
        raise ValueError(f"a stream id is 32 hexadecimal digits, got {values['stream_id']!r:.80}")
    return Record(spec, rate, bytes.fromhex(values["stream_id"]), digests, entropy)


def _signed(folder: Path, record: Record, name: str) -> bytes:
    """The bytes of a file, if they are those that the record names."""
    data = _read(folder / name)
    digest = hashlib.sha256(data).hexdigest()
    if digest != record.digests[name]:
        raise ValueError(f"{folder / name} should have SHA-256 {record.digests[name]}, got {digest}; export it again")
    return data


def _read(path: Path, most: int = -1) -> bytes:
    if not path.is_file():
        raise ValueError(f"an exported codec has a file {path.name}, got none in {path.parent}")
    with path.open("rb") as file:
        return file.read(most)
