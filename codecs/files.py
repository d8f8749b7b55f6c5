"""Signals and tokens to the bytes of an `.sgt` file, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .bitstream import Header, Limits, Stream, read, write
from .codec import Codec
from .pretrained import stream_id as identity
from .spec import CodecSpec, Rate
from .tokens import Tokens


def compress(codec: Codec, signal: Tensor, rate: Rate | None = None, *, sample_rate: int | None = None) -> bytes:
    """The file of one signal.

    Args:
        codec: Any codec; the file names it by ``codec.stream_id``.
        signal: float32 ``[1, C, *extent]`` in [-1, 1].
        rate: The operating point; None for all that the codec has.
        sample_rate: Hz of the signal, compared with the codec's.

    Raises:
        ValueError: If the signal is not one that the codec takes, or not one signal.
    """
    if len(signal) != 1:
        raise ValueError(
            f"a file holds one signal, [1, C, *extent], got {list(signal.shape)}; compress them one by one"
        )
    return tokens_to_bytes(codec.encode(signal, rate, sample_rate=sample_rate), _identity(codec))


def decompress(codec: Codec, data: bytes, limits: Limits = Limits()) -> Tensor:  # noqa: B008
    """The signal ``[1, C, *extent]`` of a file.

    Raises:
        BitstreamError: If the file is damaged, over a limit, or of another model.
    """
    signal = codec.decode(tokens_from_bytes(data, codec.spec, _identity(codec), limits))
    assert isinstance(signal, Tensor)
    return signal


def tokens_to_bytes(tokens: Tokens, stream_id: bytes) -> bytes:
    """The file of one signal's tokens; read back before it is returned.

    Args:
        tokens: A batch of 1, without absent codes but where another granularity speaks.
        stream_id: The 16 bytes of `pretrained.stream_id`: the model that can decode them.

    Raises:
        ValueError: If there is more than one item, or a code is absent or outside its codebook.
        BitstreamError: If the extent, or what the codes unpack to, is over the default limits.
    """
    if len(tokens) != 1:
        raise ValueError(f"a file holds the tokens of one signal, got {len(tokens)}; iterate over the batch")
    if len(stream_id) != 16:
        raise ValueError(f"a stream id has 16 bytes, got {len(stream_id)}")
    header = Header.of(tokens.spec, tokens.rate, tokens.extents[0], stream_id)
    codes = tuple(stream[0].cpu().numpy() for stream in tokens.streams)
    data = write(Stream(header, codes))
    back = read(data, tokens.spec, stream_id)
    if not all(map(np.array_equal, codes, back.codes)) or back.header.extent != header.extent:
        raise RuntimeError("the file did not read back as it was written; the machine's memory may be faulty")
    return data


def tokens_from_bytes(data: bytes, spec: CodecSpec, stream_id: bytes, limits: Limits = Limits()) -> Tokens:  # noqa: B008
    """The tokens of a file, a batch of 1.

    Raises:
        BitstreamError: If the file is damaged, over a limit, or of another model (both ids are named).
    """
    stream = read(data, spec, stream_id, limits)
    streams = tuple(torch.from_numpy(codes)[None] for codes in stream.codes)
    return Tokens(streams, (stream.header.extent,), stream.header.rate, spec)


def _identity(codec: Codec) -> bytes:
    return codec.stream_id or identity(codec)
