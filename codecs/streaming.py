"""A causal codec chunk by chunk, with the state of the stream as a value that goes in and comes out.

::

    state = start_encoding(codec)                         state = start_decoding(codec)
    tokens, state = encode_chunk(codec, chunk, state)     signal, state = decode_chunk(codec, tokens, state)
    tokens = flush_encoding(codec, state)                 signal = flush_decoding(codec, state)

Chunks may have any length: whatever they are, the network runs on pieces of a fixed number of windows, counted from
the start, and what is short of a piece waits in the state. So codes and samples do not depend on the chunks, bit for
bit. Pieces of another size, such as those of `Codec.encode`, add in another order: they are equal in exact arithmetic,
and nearly so in float32 (`tests/benchmarks/streaming.py` counts).

Nothing is changed in place: a state can be kept, copied, moved to another process, and continued more than once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .codec import Codec, pad_to
from .spec import CodecSpec, Rate
from .tokens import ABSENT, Tokens


@dataclass(frozen=True)
class Setting:
    """What holds from the start of a stream to its end: whose it is, the rate, windows per piece, signals B."""

    spec: CodecSpec
    stream_id: bytes | None
    rate: Rate
    windows: int
    batch: int

    @property
    def step(self) -> int:
        """Samples per window."""
        return self.spec.step(self.rate)[0]


@dataclass(frozen=True)
class EncodingState:
    """Where an encoding stands: samples ``[B, C, T]`` that wait for a whole piece, and what the layers keep."""

    setting: Setting
    samples: Tensor
    layers: Any


@dataclass(frozen=True)
class DecodingState:
    """Where a decoding stands: codes that wait for a whole piece, ``[B, N_q]`` for every codebook of the codec, what
    the layers keep, how many samples all tokens so far stand for, and how many windows are decoded.
    """

    setting: Setting
    codes: tuple[Tensor, ...]
    layers: Any
    extent: int = 0
    decoded: int = 0

    @property
    def windows(self) -> int:
        """Windows that wait."""
        return self.setting.spec.grid((self.extent,), self.setting.rate)[0] - self.decoded


def streams(spec: CodecSpec) -> bool:
    """Whether a codec can: one axis, time, and tokens that depend on nothing after their window."""
    return spec.causal and len(spec.hop) == 1


def fewest_windows(spec: CodecSpec, rate: Rate | None = None) -> int:
    """Windows of the shortest piece: 1, or as many as hold whole groups where codebooks run at several rates."""
    group = math.lcm(*(stride.numerator for stride in spec.strides))
    return group // math.gcd(group, spec.resolve(rate).queries)


def delay(codec: Codec) -> int:
    """Samples between the end of a piece and the last that its tokens finish; the flush brings them."""
    return codec.decoder.back.delay if hasattr(codec.decoder, "back") else 0


def state_bytes(state: EncodingState | DecodingState) -> int:
    """Bytes of all tensors of a state."""
    waiting = (state.samples,) if isinstance(state, EncodingState) else state.codes
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors((waiting, state.layers)))


# -- encoding ----------------------------------------------------------------------------------------------


def start_encoding(
    codec: Codec, rate: Rate | None = None, *, batch: int = 1, windows: int | None = None
) -> EncodingState:
    """The state before the first sample.

    Args:
        codec: A causal codec.
        rate: The operating point; None for all that the codec has.
        batch: Signals B side by side; they share matrix products, so that another B is as pieces of another size.
        windows: Windows per piece: more take less time and come later. None for `fewest_windows`.

    Raises:
        ValueError: If the codec is not causal, has no such rate, or cannot work in such pieces.
    """
    setting = _setting(codec, rate, batch, windows)
    samples = torch.zeros(batch, codec.spec.channels, 0, device=next(codec.parameters()).device)
    return EncodingState(setting, samples, codec.encoder.initial_state(batch, setting.rate))


@torch.no_grad()
def encode_chunk(
    codec: Codec, chunk: Float[Tensor, "B C T"], state: EncodingState, rate: Rate | None = None
) -> tuple[Tokens, EncodingState]:
    """Tokens of the pieces that are whole now, perhaps none, and the state after them.

    Args:
        codec: The codec that the stream was started with.
        chunk: The next samples in [-1, 1], any number of them.
        state: What `start_encoding` or the call before returned.
        rate: For these tokens; None for the rate of the stream, from which it may differ in its codebooks only.

    Raises:
        ValueError: If the chunk is no signal of this codec and batch, or the state is of another codec or rate.
    """
    if not isinstance(state, EncodingState):
        raise ValueError(f"chunks are encoded with the state of `start_encoding`, got {type(state).__name__}")
    if chunk.dim() != 3:
        raise ValueError(f"a chunk has shape [batch, channels, samples], got {list(chunk.shape)}")
    setting, rate = state.setting, _resolved(codec, state.setting, rate)
    for signal in chunk:
        codec.checked(signal)
    if len(chunk) != setting.batch:
        raise ValueError(f"this stream has a batch of {setting.batch}, got a chunk of {len(chunk)}; start another")
    samples = torch.cat((state.samples, chunk.to(state.samples.device)), dim=-1)
    piece = setting.windows * setting.step
    whole = samples.shape[-1] // piece * piece
    layers, parts = state.layers, []
    for start in range(0, whole, piece):
        latents, layers = codec.encoder.step(samples[..., start : start + piece], layers, rate)
        parts.append(codec.quantizer.encode(latents, rate.codebooks))
    rest = samples[..., whole:].clone()  # a view would keep the whole chunk
    return _tokens(state, rate, parts, whole), EncodingState(setting, rest, layers)


@torch.no_grad()
def flush_encoding(codec: Codec, state: EncodingState, rate: Rate | None = None) -> Tokens:
    """Tokens of the samples that wait, padded to a whole window as `Codec.encode` does: the end of the stream.

    Their extents count the real samples; those of all chunks add up to what went in.

    Raises:
        ValueError: If the state is of another codec or rate.
    """
    setting, rate = state.setting, _resolved(codec, state.setting, rate)
    count, parts = state.samples.shape[-1], []
    if count:
        padded = pad_to(state.samples, setting.spec.padded((count,), rate), repeat=not setting.spec.bounded)
        latents, _ = codec.encoder.step(padded, state.layers, rate)
        parts.append(codec.quantizer.encode(latents, rate.codebooks))
    return _tokens(state, rate, parts, count)


def join_tokens(chunks: Sequence[Tokens]) -> Tokens:
    """The tokens of a signal from those of its chunks.

    Raises:
        ValueError: If there is none, codecs, rates or batches differ, or a chunk before the last ends inside a window.
    """
    if not chunks:
        raise ValueError("a signal has the tokens of at least one chunk, got none")
    first = chunks[0]
    if other := [chunk for chunk in chunks if (chunk.spec, chunk.rate) != (first.spec, first.rate)]:
        raise ValueError(
            f"chunks of one signal have one codec and rate, got {first.spec.name} with {first.rate} and "
            f"{other[0].spec.name} with {other[0].rate}; cut all to one number of codebooks with `prefix`"
        )
    lengths = [_samples(chunk, len(first)) for chunk in chunks]
    unit = _unit(first.spec, first.rate)
    if ragged := [length for length in lengths[:-1] if length % unit]:
        raise ValueError(f"chunks before the last stand for multiples of {unit} samples, got one of {ragged[0]}")
    codes = tuple(torch.cat(parts, dim=1) for parts in zip(*(chunk.streams for chunk in chunks), strict=True))
    return replace(first, streams=codes, extents=((sum(lengths),),) * len(first))


# -- decoding ----------------------------------------------------------------------------------------------


def start_decoding(
    codec: Codec, rate: Rate | None = None, *, batch: int = 1, windows: int | None = None
) -> DecodingState:
    """The state before the first token. Arguments and errors as `start_encoding`; the windows need not be the same."""
    setting = _setting(codec, rate, batch, windows)
    empty = torch.zeros(batch, 0, dtype=torch.int64, device=next(codec.parameters()).device)
    layers = codec.decoder.initial_state(batch, setting.rate)
    return DecodingState(setting, (empty,) * codec.spec.num_codebooks, layers)


@torch.no_grad()
def decode_chunk(codec: Codec, tokens: Tokens, state: DecodingState) -> tuple[Float[Tensor, "B C T"], DecodingState]:
    """The samples that are finished now, perhaps none, and the state after them.

    The first sample is the first of the signal; the last is the codec's `delay` before the end of its piece.

    Args:
        codec: The codec that the stream was started with.
        tokens: The next tokens, with any number of codebooks; only the last may end inside a window.
        state: What `start_decoding` or the call before returned.

    Raises:
        ValueError: If tokens or state are of another codec, rate or batch, a code is not in its codebook, or the
            tokens before were the last.
    """
    if not isinstance(state, DecodingState):
        raise ValueError(f"tokens are decoded with the state of `start_decoding`, got {type(state).__name__}")
    setting, unit = state.setting, _unit(codec.spec, state.setting.rate)
    if tokens.spec.digest() != codec.spec.digest():
        raise ValueError(f"these tokens are of {tokens.spec.name}, this codec is {codec.spec.name}")
    _resolved(codec, setting, tokens.rate)
    samples = _samples(tokens, setting.batch)
    if samples and state.extent % unit:
        raise ValueError(f"a stream ends with tokens inside {unit} samples, at {state.extent}; start another")
    tokens.check_codes()
    codes = tuple(
        torch.cat((waiting, waiting.new_full((setting.batch, count), ABSENT) if new is None else new.to(waiting)), 1)
        for waiting, count, new in zip_longest(state.codes, _counts(setting, samples), tokens.streams)
    )
    state = replace(state, codes=codes, extent=state.extent + samples)
    return _decode(codec, state, [setting.windows] * (state.windows // setting.windows))


@torch.no_grad()
def flush_decoding(codec: Codec, state: DecodingState) -> Float[Tensor, "B C T"]:
    """The samples still to come: the end of the stream.

    Raises:
        ValueError: If the state is of another codec.
    """
    _resolved(codec, state.setting, None)
    signal, state = _decode(codec, state, [state.windows] if state.windows else [])
    rest = [codec.decoder.back.flush(state.layers[-1])] if delay(codec) else []
    return torch.cat((signal, _timed(codec, state, rest)), dim=-1)


def _decode(codec: Codec, state: DecodingState, pieces: Sequence[int]) -> tuple[Tensor, DecodingState]:
    """The samples that the next pieces of so many windows finish, and the state after them."""
    setting, layers, codes, parts = state.setting, state.layers, state.codes, []
    for windows in pieces:
        counts = _counts(setting, windows * setting.step)
        now = [waiting[:, :count] for waiting, count in zip(codes, counts, strict=True)]
        codes = tuple(waiting[:, count:] for waiting, count in zip(codes, counts, strict=True))
        latents = codec.quantizer.decode(now)[:, : windows * setting.rate.queries]
        samples, layers = codec.decoder.step(latents, layers, setting.rate)
        parts.append(samples)
    codes = tuple(waiting.clone() for waiting in codes)  # a view would keep all tokens of the chunk
    after = replace(state, codes=codes, layers=layers, decoded=state.decoded + sum(pieces))
    return _timed(codec, state, parts), after


def _timed(codec: Codec, state: DecodingState, parts: Sequence[Tensor]) -> Tensor:
    """``[B, C, T]`` of what the decoder says after a state, less what is not between the signal's first and last."""
    spec, start = state.setting.spec, state.decoded * state.setting.step - delay(codec)
    nothing = torch.zeros(state.setting.batch, spec.channels, 0, device=state.codes[0].device)
    signal = torch.cat((nothing, *(part.reshape(*nothing.shape[:2], -1) for part in parts)), dim=-1)
    signal = signal[..., max(0, -start) : max(0, state.extent - start)]
    return signal.clamp(-1, 1) if spec.bounded else signal


# -- both --------------------------------------------------------------------------------------------------


def _setting(codec: Codec, rate: Rate | None, batch: int, windows: int | None) -> Setting:
    """That of a new stream, or a ValueError."""
    spec, rate = codec.spec, codec.spec.resolve(rate)
    if not streams(spec):
        raise ValueError(f"a codec that streams is causal in time, {spec.name} is not; encode and decode whole signals")
    fewest = fewest_windows(spec, rate)
    windows = fewest if windows is None else windows
    if windows < 1 or windows % fewest:
        raise ValueError(f"a piece of {spec.name} is a multiple of {fewest} windows, got windows={windows}")
    if batch < 1:
        raise ValueError(f"a stream has a batch of at least 1, got {batch}")
    return Setting(spec, codec.stream_id, rate, windows, batch)


def _resolved(codec: Codec, setting: Setting, rate: Rate | None) -> Rate:
    """The rate of a call, that of the stream by default; a ValueError if codec or rate are not those of the stream."""
    if (codec.spec, codec.stream_id) != (setting.spec, setting.stream_id):
        raise ValueError(
            f"a stream goes on with the codec it was started with, {_name(setting.spec, setting.stream_id)}, got "
            f"{_name(codec.spec, codec.stream_id)}"
        )
    rate = setting.rate if rate is None else codec.spec.resolve(rate)
    if (rate.window, rate.queries) != (setting.rate.window, setting.rate.queries):
        raise ValueError(
            f"the rate of a stream changes in its codebooks only: {setting.rate}, got {rate}; start another"
        )
    return rate


def _name(spec: CodecSpec, stream_id: bytes | None) -> str:
    return f"{spec.name} ({stream_id.hex() if stream_id else 'no release'})"


def _unit(spec: CodecSpec, rate: Rate) -> int:
    """Samples that whole windows and whole groups of all codebooks stand for."""
    return fewest_windows(spec, rate) * spec.step(rate)[0]


def _samples(tokens: Tokens, batch: int) -> int:
    """How many samples the tokens stand for, the same for each of a batch, or a ValueError."""
    if len(tokens) != batch or len(set(tokens.extents)) != 1:
        raise ValueError(f"this stream is a batch of {batch} of one extent, got extents {tokens.extents!r:.80}")
    return tokens.extents[0][0]


def _counts(setting: Setting, samples: int) -> tuple[int, ...]:
    """Tokens of so many samples in each codebook of the codec."""
    return setting.spec.token_counts((samples,), replace(setting.rate, codebooks=None))


def _tokens(state: EncodingState, rate: Rate, parts: Iterable[Sequence[Tensor]], samples: int) -> Tokens:
    """The codes of pieces in a row, as tokens of so many samples."""
    batch, device = state.setting.batch, state.samples.device
    none = (torch.zeros(batch, 0, dtype=torch.int64, device=device),) * rate.codebooks
    codes = tuple(torch.cat(each, dim=1) for each in zip(none, *parts, strict=True))
    return Tokens(codes, ((samples,),) * batch, rate, state.setting.spec)


def _tensors(tree: Any) -> list[Tensor]:
    """The leaves of nested tuples."""
    return [tree] if isinstance(tree, Tensor) else [leaf for part in tree for leaf in _tensors(part)]
