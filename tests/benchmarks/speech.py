"""Speech codecs per core, as ratios of one run: `make bench`, or ``python tests/benchmarks/speech.py [MODEL]``.

EnCodec 24 kHz runs with random weights at 6 kbps (its code and shapes are the published ones; speed does not depend on
the weights). Every figure is seconds of audio per CPU second of one thread, the median of some runs, both codecs in
turn; the matrix product rate of the same process stands beside them. Memory is the peak above the loaded model, of a
process that encodes and decodes 60 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.codec import Codec
from sigtok.codecs.pretrained import load

SECONDS = (10, 60)


def speech_like(seconds: int) -> torch.Tensor:
    """Noise in syllables, ``[1, 1, T]``."""
    time_axis = torch.arange(seconds * 24_000) / 24_000
    noise = torch.randn(len(time_axis), generator=torch.Generator().manual_seed(0))
    return (0.1 * noise * (torch.sin(time_axis * 25) > 0))[None, None]


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def ours(name: str) -> Codec:
    """The released model, or its shape with random weights where there is none."""
    try:
        return load(name)
    except ValueError as error:
        print(f"random weights: {error}", file=sys.stderr)
        return query_speech().eval()


def memory(name: str) -> None:
    """Print megabytes above the loaded model after 60 s through it. Run in a process of its own."""
    codec, signal = ours(name), speech_like(60)
    codec.decode(codec.encode(signal[..., :2_000]))  # what torch itself loads on first use
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    codec.decode(codec.encode(signal))
    print(json.dumps(megabytes("VmHWM") - before))


def megabytes(field: str) -> float:
    """Resident memory of this process now ("VmRSS") or at its peak ("VmHWM"); Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def gemm_rate() -> float:
    """GFLOP/s of a float32 product of 2048."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / min(cpu_seconds(lambda: a @ a) for _ in range(3)) / 1e9


@torch.inference_mode()
def speeds(name: str, repeats: int) -> dict[str, float]:
    """Seconds of audio per CPU second, by codec, direction and length."""
    from encodec import EncodecModel

    torch.set_num_threads(1)
    peer = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    peer.set_target_bandwidth(6.0)
    codec = ours(name)
    runs: dict[str, list[float]] = {}
    for seconds in SECONDS:
        signal = speech_like(seconds)
        frames, tokens = peer.encode(signal[..., :24_000]), codec.encode(signal[..., :24_000])
        peer.decode(frames), codec.decode(tokens)
        for _ in range(repeats):
            frames, tokens = peer.encode(signal), codec.encode(signal)
            works = {
                f"encodec encode {seconds}": lambda signal=signal: peer.encode(signal),
                f"sigtok encode {seconds}": lambda signal=signal: codec.encode(signal),
                f"encodec decode {seconds}": lambda frames=frames: peer.decode(frames),
                f"sigtok decode {seconds}": lambda tokens=tokens: codec.decode(tokens),
            }
            for what, work in works.items():
                runs.setdefault(what, []).append(seconds / cpu_seconds(work))
    return {what: statistics.median(values) for what, values in runs.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="speech_24khz")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        return memory(arguments.model)
    rates = speeds(arguments.model, arguments.repeats)
    print(f"one thread, float32 matrix product {gemm_rate():.0f} GFLOP/s; seconds of audio per CPU second")
    print(f"{'':10}{'EnCodec 24k':>14}{arguments.model:>16}{'ratio':>8}")
    for direction in ("encode", "decode"):
        for seconds in SECONDS:
            theirs, own = rates[f"encodec {direction} {seconds}"], rates[f"sigtok {direction} {seconds}"]
            print(f"{direction} {seconds:>2} s{theirs:>14.1f}{own:>16.1f}{own / theirs:>8.1f}")
    for direction in ("encode", "decode"):
        ratio = rates[f"sigtok {direction} 60"] / rates[f"sigtok {direction} 10"]
        print(f"{direction} at 60 s relative to 10 s: {ratio:.2f}")
    command = [sys.executable, __file__, arguments.model, "--memory"]
    peak = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    print(f"peak memory of encoding and decoding 60 s above the loaded model: {peak:.0f} MB")


if __name__ == "__main__":
    main()
