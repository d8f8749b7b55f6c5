"""Signals and tokens to the bytes of an `.sgt` file, and back: whole, in part, as a stream, or what damage left."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sigtok.codecs.entropy.coder import Prior

from .bitstream import (
    BitstreamError,
    Header,
    Limits,
    Stream,
    check_model,
    read,
    read_header,
    salvage,
    salvage_header,
    write,
)
from .codec import Codec
from .container_stream import Reader, Writer, header_of, read_part
from .header import ADAPTIVE, FIXED_WIDTH, OWN_TABLES, PRIOR
from .pretrained import stream_id as identity
from .spec import CodecSpec, Extent, Rate
from .streaming import (
    decode_chunk,
    delay,
    encode_chunk,
    fewest_windows,
    flush_decoding,
    flush_encoding,
    start_decoding,
    start_encoding,
)
from .tokens import Tokens

Coding = Literal["fixed", "adaptive"]
MARGIN = 8.0  # seconds


def compress(
    codec: Codec,
    signal: Tensor,
    rate: Rate | None = None,
    *,
    sample_rate: int | None = None,
    coding: Coding = "fixed",
    prior: Prior | None = None,
    verify: bool = True,
) -> bytes:
    """The file of one signal.

    Args:
        codec: Any codec; the file names it by ``codec.stream_id``.
        signal: float32 ``[1, C, *extent]`` in [-1, 1].
        rate: The operating point; None for all that the codec has.
        sample_rate: Hz of the signal, compared with the codec's.
        coding: As for `tokens_to_bytes`.
        prior: A language model of the codec's tokens at this rate (`sigtok.codecs.language.prior`): the smallest files,
            which nobody reads without it.
        verify: As for `tokens_to_bytes`.

    Raises:
        ValueError: If the signal is not one that the codec takes, or not one signal; or the prior is of other tokens.
    """
    if len(signal) != 1:
        raise ValueError(
            f"a file holds one signal, [1, C, *extent], got {list(signal.shape)}; compress them one by one"
        )
    tokens = codec.encode(signal, rate, sample_rate=sample_rate)
    return tokens_to_bytes(tokens, _identity(codec), prior or own_coder(codec, coding), coding, verify)


def decompress(
    codec: Codec,
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008
    *,
    prior: Prior | None = None,
) -> Tensor:
    """The signal ``[1, C, *extent]`` of a file; ``prior`` is the one that it was written with, if it was.

    Raises:
        BitstreamError: If the file is damaged, over a limit, or of another model or prior.
    """
    coder = coder_for(codec, read_header(data, limits), prior)
    signal = codec.decode(tokens_from_bytes(data, codec.spec, _identity(codec), limits, coder))
    assert isinstance(signal, Tensor)
    return signal


def tokens_to_bytes(
    tokens: Tokens, stream_id: bytes, coder: Any = None, coding: Coding = "fixed", verify: bool = True
) -> bytes:
    """The file of one signal's tokens.

    Args:
        tokens: A batch of 1, without absent codes but where another granularity speaks.
        stream_id: The 16 bytes of `pretrained.stream_id`: the model that can decode them.
        coder: The `EntropyCoder` of the model, if it has one: its tables make the file, and read it. Or a `Prior` of
            these tokens, which does.
        coding: "fixed": by the coder if there is one, otherwise every code at its width, or of several granularities
            what they have. "adaptive": by contexts that are learned on the way, which need no model; smaller than fixed
            width, and slower.
        verify: Read the file back and compare, before it is returned.

    Raises:
        ValueError: If there is more than one item, a code is absent or outside its codebook, or a prior is of other
            tokens or goes with another coding than fixed.
        BitstreamError: If the extent, or what the codes unpack to, is over the default limits.
    """
    if len(tokens) != 1:
        raise ValueError(f"a file holds the tokens of one signal, got {len(tokens)}; iterate over the batch")
    if len(stream_id) != 16:
        raise ValueError(f"a stream id has 16 bytes, got {len(stream_id)}")
    header = _header(tokens.spec, tokens.rate, tokens.extents[0], stream_id, coder, coding)
    codes = tuple(stream[0].cpu().numpy() for stream in tokens.streams)
    data = write(Stream(header, codes), coder)
    if verify:
        back = read(data, tokens.spec, stream_id, coder=coder)
        if not all(map(np.array_equal, codes, back.codes)) or back.header.extent != header.extent:
            raise RuntimeError("the file did not read back as it was written; the machine's memory may be faulty")
    return data


def tokens_from_bytes(
    data: bytes,
    spec: CodecSpec,
    stream_id: bytes,
    limits: Limits = Limits(),  # noqa: B008
    coder: Any = None,
) -> Tokens:
    """The tokens of a file, a batch of 1; ``coder`` is the model's `EntropyCoder` or a `Prior`, as the file needs it.

    Raises:
        BitstreamError: If the file is damaged, over a limit, or of another model or prior (both are named).
    """
    stream = read(data, spec, stream_id, limits, coder)
    return _tokens(stream.codes, stream.header.extent, stream.header.rate, spec)


def own_coder(codec: Codec, coding: Coding = "fixed") -> Any:
    """The `EntropyCoder` of a model, or None if it has none or another coding is asked for; making it takes a while."""
    return None if codec.entropy is None or coding != "fixed" else codec.entropy.coder()


def coder_for(codec: Codec, header: Header, prior: Prior | None = None) -> Any:
    """What reads the codes of a file of a model: its own coder, the prior, or None where neither is needed."""
    return own_coder(codec) if header.coding == OWN_TABLES else prior if header.coding == PRIOR else None


# -- streams -----------------------------------------------------------------------------------------------


def compress_chunks(
    codec: Codec,
    chunks: Iterable[Tensor],
    file: Any,
    rate: Rate | None = None,
    *,
    coding: Coding = "fixed",
    prior: Prior | None = None,
    windows: int | None = None,
) -> None:
    """Write a streamed file of a signal that comes in chunks, each part of it as soon as it is whole.

    Args:
        codec: A causal codec.
        chunks: float32 ``[1, C, T]`` in [-1, 1], of any lengths.
        file: Anything with ``write``.
        rate: The operating point; None for all that the codec has.
        coding: As for `tokens_to_bytes`.
        prior: As for `compress`.
        windows: As for `streaming.start_encoding`.

    Raises:
        ValueError: If the codec is not causal, or does not take a chunk.
    """
    state, coder, samples = start_encoding(codec, rate, windows=windows), prior or own_coder(codec, coding), 0
    header = _header(codec.spec, state.setting.rate, (0,), _identity(codec), coder, coding)
    writer = Writer(file, header, coder)
    for chunk in chunks:
        samples += chunk.shape[-1]
        tokens, state = encode_chunk(codec, chunk, state)
        writer.append([stream[0].cpu().numpy() for stream in tokens.streams])
    writer.append([stream[0].cpu().numpy() for stream in flush_encoding(codec, state).streams])
    writer.close(samples)


def decompress_chunks(
    codec: Codec,
    file: Any,
    limits: Limits = Limits(),  # noqa: B008
    *,
    prior: Prior | None = None,
) -> Iterator[Tensor]:
    """The signal of a container in chunks ``[1, C, T]``, each as soon as its bytes are there.

    Args:
        codec: The causal codec that wrote it.
        file: Anything with ``read``.
        limits: The most that the file may declare.
        prior: The one that it was written with, if it was.

    Raises:
        ValueError: If the codec is not causal.
        BitstreamError: If the file is damaged, over a limit, or of another model; what came before is right.
    """
    coder = prior or own_coder(codec)
    reader = Reader(file, codec.spec, _identity(codec), limits, coder)
    rate = reader.header.rate
    state, step = start_decoding(codec, rate), codec.spec.step(rate)[0]
    unit = fewest_windows(codec.spec, rate) * rate.queries
    waiting, positions, samples = (np.empty(0, np.int64),) * rate.codebooks, 0, 0
    for piece in reader:
        waiting = tuple(map(np.concatenate, zip(waiting, piece.codes, strict=True)))
        positions += piece.positions
        whole = max(0, positions - 1) // unit * unit  # the last window may be cut: what it stands for comes at the end
        extent, positions = whole // rate.queries * step, positions - whole
        counts = codec.spec.token_counts((extent,), rate)
        now = tuple(codes[:count] for codes, count in zip(waiting, counts, strict=True))
        waiting = tuple(codes[count:] for codes, count in zip(waiting, counts, strict=True))
        signal, state = decode_chunk(codec, _tokens(now, (extent,), rate, codec.spec), state)
        samples += extent
        yield signal
    rest = (reader.header.extent[0] - samples,)
    signal, state = decode_chunk(codec, _tokens(waiting, rest, rate, codec.spec), state)
    yield torch.cat((signal, flush_decoding(codec, state)), dim=-1)


# -- parts -------------------------------------------------------------------------------------------------


def decompress_part(
    codec: Codec,
    file: Any,
    start: float,
    stop: float,
    *,
    margin: float = MARGIN,
    limits: Limits = Limits(),  # noqa: B008
    prior: Prior | None = None,
) -> Tensor:
    """The samples ``[1, C, T]`` of a file from one second to another; only the chunks that they need are read.

    The codes are exact. The samples are those of `decompress`, but for the order of sums in float32, if nothing that
    the decoder hears lies more than ``margin`` seconds before the part, and behind it unless the codec is causal. What
    lies beyond is silence to it: of a decoder with more context (the depth of its transformer times ``context``), and
    of one that hears everything, samples near the start of the part differ. A decoder of voices
    (`sigtok.codecs.audio.voice`) goes on from the first sample of the file: a part of it is the same voice from other
    pulses and other noise.

    Args:
        codec: The codec that wrote the file, of sounds or features.
        file: Open for bytes, with ``seek``.
        start: Seconds, 0 or more.
        stop: Seconds, at most the signal's.
        margin: Seconds that are decoded around the part and thrown away.
        limits: The most that the file may declare.
        prior: The one that it was written with, if it was.

    Raises:
        ValueError: If it is a picture's, or ends before the part.
        BitstreamError: If these chunks, the index or the header are damaged, or another model wrote the file.
    """
    spec, header = codec.spec, header_of(file, limits)
    check_model(header, spec, _identity(codec))
    if spec.sample_rate is None:
        raise ValueError(f"sounds and features are decoded in part, {spec.name} is of pictures; decode the whole file")
    step, queries, samples = spec.step(header.rate)[0], header.rate.queries, header.extent[0]
    first, last = round(start * spec.sample_rate), round(stop * spec.sample_rate)
    if not 0 <= first < last <= samples:
        raise ValueError(
            f"a part lies between 0 and the {samples / spec.sample_rate:g} s of the signal, got {start:g} to {stop:g} s"
        )
    group, ahead = fewest_windows(spec, header.rate), math.ceil(margin * spec.sample_rate / step)
    behind = math.ceil(delay(codec) / step) + 1 if spec.causal else ahead
    start_window = max(0, first // step - ahead) // group * group
    origin, end = start_window * step, min(samples, (-(-last // step) + behind) * step)
    extent, place = (end - origin,), start_window * queries
    counts = spec.token_counts(extent, header.rate)
    coder, stop_place = coder_for(codec, header, prior), place + spec.positions(extent, header.rate)
    _, piece = read_part(file, place, stop_place, spec, _identity(codec), limits, coder)
    offsets = (int((place - piece.start) // stride) for stride in spec.strides)
    codes = tuple(
        book[offset : offset + count] for book, offset, count in zip(piece.codes, offsets, counts, strict=False)
    )
    signal = codec.decode(_tokens(codes, extent, header.rate, spec))
    assert isinstance(signal, Tensor)
    return signal[..., first - origin : last - origin].clone()


# -- what damage left --------------------------------------------------------------------------------------


def decompress_rest(
    codec: Codec,
    data: bytes,
    limits: Limits = Limits(),  # noqa: B008
    *,
    prior: Prior | None = None,
) -> tuple[Tensor, list[tuple[int, int]]]:
    """The signal ``[1, C, *extent]`` of a damaged container, and which samples, frames or rows of it are missing.

    Where chunks are damaged or gone, codes are absent: quantizers give zeros for them.

    Raises:
        BitstreamError: If it is a packet, its header is damaged, no chunk is whole, or another model wrote it.
    """
    spec, header = codec.spec, salvage_header(data, limits)
    check_model(header, spec, _identity(codec))
    stream = salvage(data, limits, coder_for(codec, header, prior))
    extent, rate = stream.header.extent, stream.header.rate
    if not any((codes >= 0).any() for codes in stream.codes) and (header.streamed or any(map(len, stream.codes))):
        raise BitstreamError(f"byte {len(data)}: none of its chunks is whole, nothing is left; get the file again")
    signal = codec.decode(_tokens(stream.codes, extent, rate, spec))
    assert isinstance(signal, Tensor)
    return signal, _missing(stream, spec)


def _missing(stream: Stream, spec: CodecSpec) -> list[tuple[int, int]]:
    """Runs of samples, frames or rows without codes."""
    extent, rate = stream.header.extent, stream.header.rate
    there = np.zeros(spec.positions(extent, rate), bool)
    for codes, stride in zip(stream.codes, spec.strides, strict=False):
        place = np.arange(len(there)) * stride.denominator // stride.numerator
        there |= codes[place] >= 0
    lines = there.reshape(spec.grid(extent, rate)[0], -1).all(axis=1)
    edges = spec.step(rate)[0] * np.flatnonzero(np.diff(lines, prepend=True, append=True))
    ends = np.minimum(edges, extent[0]).tolist()
    return list(zip(ends[::2], ends[1::2], strict=True))


def _header(spec: CodecSpec, rate: Rate | None, extent: Extent, stream_id: bytes, coder: Any, coding: Coding) -> Header:
    """The header of a file, with its coding."""
    if not isinstance(coder, Prior):
        return Header.of(spec, rate, extent, stream_id, _number(spec, coder, coding))
    if coding != "fixed":
        raise ValueError(f"a prior is a coding by itself, got {coding!r} too; leave one of them out")
    coder.check(spec, spec.resolve(rate), stream_id)
    return Header.of(spec, rate, extent, stream_id, PRIOR, coder.fingerprint)


def _number(spec: CodecSpec, coder: Any, coding: Coding) -> int:
    """The coding of a file without a prior."""
    if coding not in ("fixed", "adaptive"):
        raise ValueError(f"a coding is fixed or adaptive, got {coding!r}")
    if coding == "adaptive" and spec.granular:
        raise ValueError(f"{spec.name} has several granularities, whose files have a coding of their own; use fixed")
    return ADAPTIVE if coding == "adaptive" else FIXED_WIDTH if coder is None else OWN_TABLES


def _tokens(codes: tuple[np.ndarray, ...], extent: Extent, rate: Rate, spec: CodecSpec) -> Tokens:
    streams = tuple(torch.from_numpy(book)[None] for book in codes)
    return Tokens(streams, (extent,), rate, spec)


def _identity(codec: Codec) -> bytes:
    return codec.stream_id or identity(codec)
