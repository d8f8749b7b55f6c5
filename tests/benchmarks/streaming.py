"""Streaming measured: ``python -m tests.benchmarks.streaming [FILE ...] [--part PART]``, all parts by default.

memory    an hour of noise in syllables, a minute at a time: resident memory at its peak after the first minute and
          after the last
chunks    the same pieces from chunks of random lengths: codes and samples that differ, which should be none
pieces    pieces of other sizes, and `Codec.encode`: share of codes that differ, largest difference of the samples
latency   CPU milliseconds of one call per window, median and 99th percentile

Ten minutes of the files one after another; without files, of the demo's speech over and over. One thread and CPU
seconds throughout, so that other work on the machine weighs little. Tables are Markdown, on stdout.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sigtok.codecs.codec import Codec
from sigtok.codecs.media import read_audio
from sigtok.codecs.pretrained import load
from sigtok.codecs.streaming import (
    decode_chunk,
    encode_chunk,
    flush_decoding,
    flush_encoding,
    join_tokens,
    start_decoding,
    start_encoding,
    state_bytes,
)
from sigtok.codecs.tokens import Tokens
from tests.benchmarks.quantizers import show
from tests.benchmarks.speech import megabytes

SPEECH = Path(__file__).parents[2] / "demo" / "input" / "speech.flac"
SECONDS, MINUTES, RUNS = 600, 60, 3
LONG_CHUNK = 100_000  # samples


def recording(paths: Sequence[Path], sample_rate: int) -> Tensor:
    """Ten minutes of files, one after another and again, ``[1, 1, T]``."""
    parts, missing = [], SECONDS * sample_rate
    while missing > 0:
        for path in paths:
            parts.append(torch.from_numpy(read_audio(path, sample_rate, 1, downmix=True)[0])[:, :missing])
            missing -= parts[-1].shape[1]
            if missing <= 0:
                break
    return torch.cat(parts, dim=1)[None]


def encoded(codec: Codec, chunks: Sequence[Tensor], windows: int) -> Tokens:
    """Tokens of a stream in chunks."""
    state, parts = start_encoding(codec, windows=windows), []
    for chunk in chunks:
        tokens, state = encode_chunk(codec, chunk, state)
        parts.append(tokens)
    return join_tokens([*parts, flush_encoding(codec, state)])


def decoded(codec: Codec, chunks: Sequence[Tokens], windows: int) -> Tensor:
    """The signal of a stream in chunks."""
    state, parts = start_decoding(codec, windows=windows), []
    for chunk in chunks:
        signal, state = decode_chunk(codec, chunk, state)
        parts.append(signal)
    return torch.cat((*parts, flush_decoding(codec, state)), dim=-1)


def cut(tokens: Tokens, lengths: Sequence[int]) -> Iterator[Tokens]:
    """Tokens of one signal in chunks of so many windows; the last takes what is left."""
    start, step = 0, tokens.spec.step(tokens.rate)[0]
    for length in lengths:
        extent = min(length * step, tokens.extents[0][0] - start * step)
        streams = tuple(codes[:, start : start + length] for codes in tokens.streams)
        yield Tokens(streams, ((extent,),), tokens.rate, tokens.spec)
        start += length


def random_lengths(total: int, most: int, dice: random.Random) -> list[int]:
    """Lengths from 1 up, short ones as likely as long ones, that add up."""
    lengths = []
    while (left := total - sum(lengths)) > 0:
        lengths.append(min(left, round(most ** dice.random())))
    return lengths


def differing(some: Tokens, others: Tokens) -> list[float]:
    """Share of codes that differ, in all and in each codebook, per cent."""
    wrong = (some.codes != others.codes).double()[0]
    return [100 * float(wrong.mean()), *(100 * wrong.mean(1)).tolist()]


def memory(codec: Codec, _: Tensor) -> None:
    """An hour of a stream, there and back."""
    rate = codec.spec.sample_rate or 1
    encoding, decoding = start_encoding(codec, windows=8), start_decoding(codec, windows=8)
    sizes, peaks, start = [], [], time.process_time()
    for minute in range(MINUTES):
        noise = torch.randn(1, 1, 60 * rate, generator=torch.Generator().manual_seed(minute))
        syllables = 0.1 * noise * (torch.sin(torch.arange(60 * rate) / rate * 25) > 0)
        tokens, encoding = encode_chunk(codec, syllables, encoding)
        _, decoding = decode_chunk(codec, tokens, decoding)
        peaks.append(megabytes("VmHWM"))
        sizes.append((state_bytes(encoding) + state_bytes(decoding)) / 2**20)
    speed = MINUTES * 60 / (time.process_time() - start)
    columns = ["minutes", "peak MB after the first", "after the last", "growth MB", "states MB", "x real time, both"]
    show("memory", columns, [[MINUTES, f"{peaks[0]:.1f}", f"{peaks[-1]:.1f}", peaks[-1] - peaks[0], max(sizes), speed]])


def chunks(codec: Codec, signal: Tensor) -> None:
    """Chunks of random lengths against one chunk."""
    whole, dice, rows = encoded(codec, [signal], 1), random.Random(0), []
    heard = decoded(codec, [whole], 1)
    for run in range(RUNS):
        lengths = random_lengths(signal.shape[-1], LONG_CHUNK, dice)
        tokens = encoded(codec, signal.split(lengths, dim=-1), 1)
        windows = random_lengths(whole.streams[0].shape[1], 50, dice)
        samples = decoded(codec, list(cut(whole, windows)), 1)
        wrong = int((tokens.codes != whole.codes).sum())
        rows.append([run, len(lengths), wrong, len(windows), float((samples - heard).abs().max())])
    show("chunks", ["run", "chunks of samples", "codes that differ", "chunks of tokens", "largest difference"], rows)


def pieces(codec: Codec, signal: Tensor) -> None:
    """Pieces of other sizes against pieces of one window: codes of the signal, samples of the same codes."""
    streamed = encoded(codec, [signal], 1)
    heard, rows = decoded(codec, [streamed], 1), []
    for windows in (2, 8, 64):
        samples = decoded(codec, [streamed], windows)
        other = encoded(codec, [signal], windows)
        rows.append([f"{windows} windows", *differing(other, streamed), float((samples - heard).abs().max())])
    whole, samples = codec.encode(signal), codec.decode(streamed)
    rows.append(["Codec", *differing(whole, streamed), float((samples - heard).abs().max())])
    books = [f"{book}" for book in range(1, codec.spec.num_codebooks + 1)]
    show("pieces", ["against 1 window", "codes that differ, %", *books, "largest difference of samples"], rows)
    wrong = (whole.codes != streamed.codes)[0]
    print(f"{int(wrong.sum())} codes at {int(wrong.any(0).sum())} of {wrong.shape[1]} positions")


def latency(codec: Codec, signal: Tensor) -> None:
    """CPU milliseconds of calls of one window."""
    step, calls = codec.spec.step()[0], {"encode": [], "decode": []}
    encoding, decoding = start_encoding(codec), start_decoding(codec)
    for chunk in signal.split(step, dim=-1):
        start = time.process_time()
        tokens, encoding = encode_chunk(codec, chunk, encoding)
        middle = time.process_time()
        _, decoding = decode_chunk(codec, tokens, decoding)
        calls["encode"].append(middle - start)
        calls["decode"].append(time.process_time() - middle)
    seconds, rows = signal.shape[-1] / (codec.spec.sample_rate or 1), []
    for name, times in calls.items():
        median, late = (1000 * torch.tensor(times).quantile(torch.tensor([0.5, 0.99]))).tolist()
        rows.append([name, 1000 * step / (codec.spec.sample_rate or 1), median, late, seconds / sum(times)])
    show("latency", ["one window", "of audio, ms", "p50 ms", "p99 ms", "x real time"], rows)


PARTS = {"memory": memory, "chunks": chunks, "pieces": pieces, "latency": latency}  # what is free would hide growth


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--model", default="speech_24khz")
    parser.add_argument("--part", action="append", choices=list(PARTS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    codec = load(arguments.model)
    signal = recording(arguments.files or [SPEECH], codec.spec.sample_rate or 1)
    for name in arguments.part or PARTS:
        PARTS[name](codec, signal)


if __name__ == "__main__":
    main()
