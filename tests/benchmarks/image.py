"""Image codecs per core at 256 x 256 pixels, as ratios of one run to a VQGAN with 16 pixels a position.

    python -m tests.benchmarks.image [REPEATS]

Random weights: speed does not depend on them. Every figure is megapixels per CPU second of one thread, the median of
some runs with all codecs in turn; quantizers (IBQ 16,384 of width 16) are counted in. Multiplications are those of
encoder or decoder alone, as PyTorch counts them in matrix products and convolutions.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from sigtok.codecs.codec import Codec
from sigtok.codecs.image.models import compact_image, query_image, vqgan_image

SIDE = 256  # pixels
CODECS = {"vqgan_image": vqgan_image, "query_image": query_image, "compact_image": compact_image}


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def multiplications(work: Callable[[], object]) -> float:
    """Thousands a pixel."""
    with FlopCounterMode(display=False) as flops:
        work()
    return flops.get_total_flops() / 2 / SIDE**2 / 1e3


@torch.no_grad()
def measured(codecs: dict[str, Codec], repeats: int) -> dict[str, list[float]]:
    """Of each codec: parameters in millions, thousand multiplications, then megapixels per second; encode, decode."""
    signal, speeds, figures = torch.rand(1, 3, SIDE, SIDE) * 2 - 1, {}, {}
    for name, codec in codecs.items():
        rate = codec.spec.resolve()
        latents = codec.encoder(signal, rate)
        sizes = [sum(w.numel() for w in part.parameters()) / 1e6 for part in (codec.encoder, codec.decoder)]
        works = (
            lambda c=codec, r=rate: c.encoder(signal, r),
            lambda c=codec, r=rate, z=latents: c.decoder(z, (SIDE, SIDE), r),
        )
        figures[name] = sizes + [multiplications(work) for work in works]
        codec.decode(codec.encode(signal))
    for _ in range(repeats):
        for name, codec in codecs.items():
            tokens = codec.encode(signal)
            works = (lambda c=codec: c.encode(signal), lambda c=codec, t=tokens: c.decode(t))
            for way, work in enumerate(works):
                speeds.setdefault((name, way), []).append(SIDE**2 / 1e6 / cpu_seconds(work))
    return {name: [*figures[name], *(statistics.median(speeds[name, way]) for way in (0, 1))] for name in codecs}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1), torch.manual_seed(0)
    figures = measured({name: build().eval() for name, build in CODECS.items()}, int((sys.argv[1:] or ["3"])[0]))
    heads = "codec", "parameters, M", "k multiplications a pixel", "encode MP/s", "decode MP/s", "/ VQGAN", "/ VQGAN"
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    *_, slow_encode, slow_decode = figures["vqgan_image"]
    for name, (encoder, decoder, reads, writes, encode, decode) in figures.items():
        print(
            f"| {name} | {encoder:.1f} + {decoder:.1f} | {reads:.0f} + {writes:.0f} | {encode:.3g} | {decode:.3g} | "
            f"{encode / slow_encode:.3g} | {decode / slow_decode:.3g} |"
        )


if __name__ == "__main__":
    main()
