"""Megapixels per second of `photo`, beside the hyperprior of compressai, where it is installed.

``python -m tests.benchmarks.rate_distortion [PICTURE...]``: one thread, signal to bytes and back, the best of three
runs, entropy coding included on both sides; compressai reads no file back. Weights do not change the work of its
networks, and are random here: nothing is fetched. It holds NumPy below 2, so give it an environment of its own:
``make peers``.
"""

import sys
import time

import torch

from sigtok.codecs.control import ANY
from sigtok.codecs.files import own_coder, tokens_from_bytes, tokens_to_bytes
from sigtok.codecs.image.models import walloc_image
from sigtok.codecs.media import read_image
from sigtok.codecs.pretrained import load
from sigtok.codecs.spec import Rate

RUNS = 3
QUALITIES = (1.0, 3.0, 6.0)


def best(work):
    """Seconds of the fastest of a few calls, and what it gave."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), found


def pictures(paths):
    """float32 ``[1, 3, H, W]`` each, whole multiples of 64 pixels, as compressai's networks need."""
    for path in paths:
        signal = torch.as_tensor(read_image(path))[None]
        height, width = (size // 64 * 64 for size in signal.shape[2:])
        yield signal[..., :height, :width]


def report(name, megapixels, encode, decode, size):
    print(
        f"| {name} | {megapixels / encode:.3g} | {megapixels / decode:.3g} | {size * 8 / megapixels / 1e6:.3g} |",
        flush=True,
    )


def static_bits(streams):
    """Bits of codes under one table for each channel that was fitted to them."""
    total = 0.0
    for codes in streams:
        counts = codes.unique(return_counts=True)[1].double()
        total -= float((counts * (counts / counts.sum()).log2()).sum())
    return total


def files_at(codec, coder, signals, quality, verify):
    """Encoding, and its bytes."""
    encoded = (codec.encode(signal, Rate(quality=quality)) for signal in signals)
    return [tokens_to_bytes(tokens, ANY, coder, verify=verify) for tokens in encoded]


def measure_static(signals, megapixels):
    """The shape of `photo` with a table for each channel in place of neighbours: its speed, untrained."""
    codec = walloc_image(density="factorised").eval()
    codec.entropy.freeze()
    coder = own_coder(codec)
    encode, _ = best(lambda: files_at(codec, coder, signals, 3.0, False))
    print(f"\nwith static tables, untrained, files not read back: {megapixels / encode:.3g} MP/s\n")


def measure_neighbours(codec, coder, signals):
    """What neighbours save: bytes of static tables, fitted to these pictures, over those of `photo`."""
    for quality in QUALITIES:
        tokens = [codec.encode(signal, Rate(quality=quality)) for signal in signals]
        ours = sum(len(tokens_to_bytes(each, ANY, coder, verify=False)) for each in tokens)
        streams = [torch.cat([each.streams[place][0] for each in tokens]) for place in range(codec.spec.num_codebooks)]
        print(f"quality {quality:g}: static tables take {100 * (static_bits(streams) / 8 / ours - 1):.1f} % more bytes")


def main(paths):
    torch.set_num_threads(1)
    signals = list(pictures(paths or ["demo/input/photo.png"]))
    megapixels = sum(signal[0, 0].numel() for signal in signals) / 1e6
    print(f"{len(signals)} pictures, {megapixels:.3g} megapixels\n")
    print("| codec | encode MP/s | decode MP/s | bpp |\n|---|---|---|---|")
    codec = load("photo")
    coder, fastest = own_coder(codec), []

    def signals_of(files):
        return [codec.decode(tokens_from_bytes(file, codec.spec, ANY, coder=coder)) for file in files]

    for quality in QUALITIES:
        for verify in (True, False):
            encode, files = best(lambda q=quality, v=verify: files_at(codec, coder, signals, q, v))
            decode, _ = best(lambda f=files: signals_of(f))
            what = "" if verify else ", files not read back"
            report(f"photo, quality {quality:g}{what}", megapixels, encode, decode, sum(map(len, files)))
        fastest.append(encode)
    measure_static(signals, megapixels)
    measure_neighbours(codec, coder, signals)
    try:
        from compressai.zoo import bmshj2018_hyperprior
    except ImportError:
        print("\ncompressai is not installed: run this in the environment of `make peers`")
        return
    for quality in (3, 6):
        torch.manual_seed(0)
        model = bmshj2018_hyperprior(quality, pretrained=False).eval()
        model.update()
        with torch.no_grad():
            encode, files = best(lambda m=model: [m.compress((signal + 1) / 2) for signal in signals])
            decode, _ = best(lambda m=model, f=files: [m.decompress(file["strings"], file["shape"]) for file in f])
        size = sum(len(part) for file in files for strings in file["strings"] for part in strings)
        report(f"compressai hyperprior {quality}, random weights", megapixels, encode, decode, size)
        print(f"\nphoto encodes {encode / max(fastest):.3g} times as fast at its slowest\n")


if __name__ == "__main__":
    main(sys.argv[1:])
