"""Control-GIC's closed form and its rate control against real bytes, photo by photo.

    python -m tests.benchmarks.granularity MODEL SIZE PHOTO...

The shorter side of every photo is scaled to SIZE pixels and the middle cut.
The closed form is of the shares alone, over the pixels of whole blocks; bytes are of the whole file with its headers.
"""

import math
import sys
from collections.abc import Callable

import torch

from sigtok.codecs.codec import Codec
from sigtok.codecs.control import at_rate
from sigtok.codecs.files import compress
from sigtok.codecs.image.granularity import bits_per_pixel
from sigtok.codecs.media import cut_square, read_image
from sigtok.codecs.pretrained import load
from sigtok.codecs.spec import Rate

SHARES = ((1.0, 0.0, 0.0), (0.6, 0.3, 0.1), (0.3, 0.4, 0.3), (0.1, 0.4, 0.5), (0.0, 0.0, 1.0))
TARGETS = (0.1, 0.2, 0.3, 0.4, 0.5)  # bits per pixel


def by_shares(codec: Codec, photos: list[torch.Tensor], shares: tuple[float, ...]) -> tuple[float, list[float]]:
    """The closed form in bits per pixel, and real over expected bytes of each photo."""
    expected, ratios = bits_per_pixel(shares, codec.spec.codebook_sizes[0]), []
    for photo in photos:
        padded = math.prod(codec.spec.padded(tuple(photo.shape[2:])))
        ratios.append(8 * len(compress(codec, photo, Rate(shares=shares))) / (expected * padded))
    return expected, ratios


def by_target(codec: Codec, photos: list[torch.Tensor], target: float) -> tuple[float, list[float]]:
    """The target, and real over wanted bits per pixel of each photo."""
    return target, [at_rate(codec, photo, target).reached / target for photo in photos]


def table(head: str, measure: Callable, codec: Codec, photos: list[torch.Tensor], points: tuple) -> None:
    """One row a point."""
    print(f"| {head} | bits per pixel | real / that: lowest | mean | highest | within 3 % |\n|---|---|---|---|---|---|")
    for point in points:
        expected, ratios = measure(codec, photos, point)
        near = sum(abs(ratio - 1) <= 0.03 for ratio in ratios)
        mean = sum(ratios) / len(ratios)
        cells = (expected, min(ratios), mean, max(ratios))
        print(f"| {point} | {' | '.join(f'{cell:.4f}' for cell in cells)} | {near} of {len(ratios)} |", flush=True)


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    codec = load(sys.argv[1])
    photos = [torch.from_numpy(cut_square(read_image(path), int(sys.argv[2])))[None] for path in sys.argv[3:]]
    table("shares", by_shares, codec, photos, SHARES)
    print()
    table("target", by_target, codec, photos, TARGETS)


if __name__ == "__main__":
    main()
