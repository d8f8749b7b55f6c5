"""What adaptive contexts save of the fixed width on real codes, and how fast they are.

    python -m tests.benchmarks.adaptive [--joined] FILE...

Sounds go through speech_24khz, with all codebooks and with 3, pictures through image_256; with --joined all sounds
are one. Silence, tones, noise and codes by chance follow. A payload is a whole file, without its headers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from sigtok.codecs.entropy.adaptive import AdaptiveCoder
from sigtok.codecs.entropy.packing import packed_bytes
from sigtok.codecs.media import kind_of, read_audio, read_image
from sigtok.codecs.pretrained import load

RATE, SECONDS = 24_000, 30
FEW = 3  # codebooks


def sounds(files: Sequence[str], joined: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Names and signals ``[1, T]``: those of the files, then what a machine makes."""
    read = [(Path(file).name, read_audio(file, RATE, channels=1)[0]) for file in files]
    if joined and read:
        read = [(f"{len(read)} sounds joined", np.concatenate([signal for _, signal in read], axis=1))]
    yield from read
    seconds = np.arange(RATE * SECONDS, dtype=np.float32)[None] / RATE
    yield "silence", 0 * seconds
    for pitch in (440, 1000):
        yield f"{pitch} Hz", (0.3 * np.sin(2 * np.pi * pitch * seconds)).astype(np.float32)
    yield "white noise", (0.1 * np.random.default_rng(0).standard_normal(seconds.shape)).astype(np.float32)


def chance() -> Iterator[tuple[str, np.ndarray, int]]:
    """Names, codes and sizes of codebooks without any order, and of one code alone."""
    rng = np.random.default_rng(0)
    for count, size in ((30_000, 1024), (300_000, 1024), (30_000, 2**18)):
        yield f"chance, {count} of {size}", rng.integers(0, size, count), size
    for count in (30_000, 300_000):
        yield f"bells, {count} of 2047", np.rint(rng.laplace(1023, 8, count)).astype(np.int64).clip(0, 2046), 2047
        yield f"one code, {count} of 1024", np.zeros(count, np.int64), 1024


def row(name: str, codes: Sequence[np.ndarray], sizes: Sequence[int]) -> None:
    """One line: bytes and thousands of codes a second."""
    streams, grid = tuple(codes), (len(codes[0]),)
    coder, count = AdaptiveCoder(sizes, (1,) * len(sizes)), sum(map(len, streams))
    start = time.process_time()
    payload = coder.encode(streams, grid, None)
    middle = time.process_time()
    found = coder.decode(payload, grid, None)
    end = time.process_time()
    assert all(map(np.array_equal, streams, found))
    fixed = packed_bytes([len(stream) for stream in streams], sizes)
    speeds = f"{count / (middle - start) / 1e3:.0f} | {count / (end - middle) / 1e3:.0f}"
    saving = 100 - 100 * len(payload) / fixed
    print(f"| {name} | {count} | {fixed} | {len(payload)} | {saving:.1f} % | {speeds} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--joined", action="store_true", help="all sounds are one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| codes | count | fixed width, bytes | adaptive | saved | encode, thousand per CPU second | decode |")
    print("|---|---|---|---|---|---|---|")
    codec = load("speech_24khz")
    for name, signal in sounds([file for file in args.files if kind_of(file) == "audio"], args.joined):
        streams = [stream[0].numpy() for stream in codec.encode(torch.from_numpy(signal)[None]).streams]
        for books in (codec.spec.num_codebooks, FEW):
            row(f"{name}, {books} codebooks", streams[:books], codec.spec.codebook_sizes[:books])
    codec = load("image_256")
    for file in args.files:
        if kind_of(file) == "image":
            streams = codec.encode(torch.from_numpy(read_image(file))[None]).streams
            row(Path(file).name, [stream[0].numpy() for stream in streams], codec.spec.codebook_sizes)
    for name, codes, size in chance():
        row(name, [codes], [size])


if __name__ == "__main__":
    main()
