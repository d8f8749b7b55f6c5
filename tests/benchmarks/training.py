"""Steps of training: the query codec against an EnCodec-sized SEANet with the same losses, as ratios of one run.

    python -m tests.benchmarks.training [SECONDS OF AUDIO IN A STEP]

Both codecs see the same batch with one thread, take turns, and the best of five steps of each counts: forward, losses,
backward, AdamW.
"""

import sys
import time
from collections.abc import Callable

import torch

from sigtok.codecs.audio.models import almtokenizer, frame_speech
from sigtok.codecs.codec import Codec
from sigtok.train.losses.spectral import MultiResolutionSTFT, MultiScaleMel

ITEM = 2.4  # seconds of one item
STEPS = 5


def stepper(codec: Codec, signal: torch.Tensor) -> Callable[[], None]:
    """One step of training on a fixed batch."""
    mel, stft = MultiScaleMel(24_000), MultiResolutionSTFT((256, 1024))
    optimizer = torch.optim.AdamW(codec.train().parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        made = codec(signal)
        loss = mel(made.signal, signal) + stft(made.signal, signal) + made.quantized.losses["commitment"]
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Print the table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 4 * ITEM
    torch.set_num_threads(1), torch.manual_seed(0)
    signal = 0.1 * torch.randn(max(1, round(seconds / ITEM)), 1, round(ITEM * 24_000))
    codecs = {
        "almtokenizer, 75 Hz frames, w = 6": almtokenizer(),
        "the same behind a SEANet": almtokenizer(front="seanet"),
        "SEANet of EnCodec's size, 75 Hz, no queries": frame_speech(dim=128),
    }
    steps = {name: stepper(codec, signal) for name, codec in codecs.items()}
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(1 + STEPS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - start)
    slowest = best["SEANet of EnCodec's size, 75 Hz, no queries"]
    print(f"{signal.shape[0]} x {ITEM} s a step, one thread\n")
    print("| codec | parameters, M | steps per second | times SEANet |\n|---|---|---|---|")
    for name, codec in codecs.items():
        size = sum(weight.numel() for weight in codec.parameters()) / 1e6
        print(f"| {name} | {size:.1f} | {1 / best[name]:.2f} | {slowest / best[name]:.2f} |")


if __name__ == "__main__":
    main()
