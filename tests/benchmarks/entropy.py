"""The entropy coder measured: ``python -m tests.benchmarks.entropy [PART ...]``, all parts by default.

tables      a static table of Laplace values of a few scales, and 64 scales at random: bytes over their ideal length,
            and symbols per second; beside CompressAI's rANS where it is installed
hyperprior  latents per second of the hyperprior coder at random weights, 160 channels, from codes to bytes and back
bottleneck  a factorised density's bytes, beside CompressAI's EntropyBottleneck of the same weights

One thread. CompressAI is no dependency: it holds numpy below 2. Tables are Markdown, on stdout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from sigtok.codecs.densities.factorised import FactorisedDensity
from sigtok.codecs.densities.hyperprior import HyperpriorDensity
from sigtok.codecs.entropy.ans import TableReader, TableWriter
from sigtok.codecs.entropy.tables import SCALES, Tables, scale_tables

COUNT = 2_000_000  # symbols
CHANNELS, GRID = 160, (64, 96)  # of the hyperprior: a picture of 512 x 768 pixels at 8 x 8
REPEATS = 3


def best(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and the least seconds of some."""
    least = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = call()
        least = min(least, time.perf_counter() - start)
    return result, least


def show(columns: list[str], rows: list[list[Any]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    print(flush=True)


def compressai() -> Any:
    """The package, or None."""
    try:
        import compressai.ans
        import compressai.entropy_models
    except ImportError:
        print("compressai is not installed\n")
        return None
    return compressai


# -- tables ------------------------------------------------------------------------------------------------


def sources(tables: Tables) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Names, values and the tables of each."""
    rng = np.random.default_rng(0)
    drawn = [(f"one table, deviation {scale:g}", np.argmin(np.abs(np.array(SCALES) - scale))) for scale in (0.3, 1, 5)]
    found = [(name, np.full(COUNT, index)) for name, index in drawn]
    found.append(("64 tables at random", rng.integers(0, len(SCALES), COUNT)))
    deviations = np.array(SCALES) / 2**0.5
    return [(name, np.rint(rng.laplace(size=COUNT) * deviations[index]).astype(int), index) for name, index in found]


def ours(tables: Tables, values: np.ndarray, index: np.ndarray) -> tuple[int, float, float]:
    """Bytes, seconds to encode, seconds to decode; runs where there is one table."""
    single = index.min() == index.max()

    def write() -> bytes:
        writer = TableWriter(tables)
        if single:
            writer.put_run(values, int(index[0]))
        else:
            writer.put(values, index)
        return writer.payload()

    def read() -> np.ndarray:
        reader = TableReader(tables, payload)
        found = reader.get_run(len(index), int(index[0])) if single else reader.get(index)
        reader.finish()
        return found

    payload, encoding = best(write)
    found, decoding = best(read)
    assert np.array_equal(found, values)
    return len(payload), encoding, decoding


def theirs(package: Any, tables: Tables, values: np.ndarray, index: np.ndarray) -> tuple[int, float, float]:
    """The same by CompressAI's rANS with the same tables, from and to numpy."""
    widest = int(tables.lengths.max()) + 1
    cdfs = [np.pad(np.cumsum([0, *tables.table(k)]), (0, widest - tables.lengths[k] - 1)) for k in range(len(tables))]
    lists = (np.stack(cdfs).tolist(), (tables.lengths + 1).tolist(), (-tables.radii).tolist())
    coders = package.ans.RansEncoder(), package.ans.RansDecoder()
    payload, encoding = best(lambda: coders[0].encode_with_indexes(values.tolist(), index.tolist(), *lists))
    found, decoding = best(lambda: np.array(coders[1].decode_with_indexes(payload, index.tolist(), *lists)))
    assert np.array_equal(found, values)
    return len(payload), encoding, decoding


def measure_tables() -> None:
    """Both coders on every source."""
    tables, package = scale_tables("laplace"), compressai()
    rows = []
    for name, values, index in sources(tables):
        ideal = tables.bits(values, index).sum() / 8
        coders = [("ours", ours(tables, values, index))]
        if package:
            coders.append(("compressai", theirs(package, tables, values, index)))
        for coder, (size, encoding, decoding) in coders:
            speeds = [len(values) / seconds / 1e6 for seconds in (encoding, decoding)]
            rows.append([name, coder, 8 * size / len(values), size - ideal, 100 * (size / ideal - 1), *speeds])
    show(["source", "coder", "bits per symbol", "bytes over ideal", "%", "encoded, M/s", "decoded, M/s"], rows)


# -- the hyperprior ----------------------------------------------------------------------------------------


def measure_hyperprior() -> None:
    """Codes to bytes and back."""
    torch.manual_seed(0)
    density = HyperpriorDensity((2047,) * CHANNELS, qualities=8, quality_steps=4)
    density.freeze()
    coder, rng = density.coder(), np.random.default_rng(0)
    spread = np.exp(np.linspace(2, -3, CHANNELS))[:, None]
    codes = tuple(np.rint(rng.laplace(size=(CHANNELS, GRID[0] * GRID[1])) * spread).astype(np.int64) + 1023)
    payload, encoding = best(lambda: coder.encode(codes, GRID, 3.25))
    found, decoding = best(lambda: coder.decode(payload, GRID, 3.25))
    assert all(map(np.array_equal, found, codes))
    latents = CHANNELS * GRID[0] * GRID[1]
    tensor = torch.from_numpy(np.stack(codes).T - 1023).float()[None]
    _, network = best(lambda: coder._laws(np.zeros((16, GRID[0] // 4, GRID[1] // 4), int), GRID, 3.25))
    show(
        ["latents", "encoded, M/s", "decoded, M/s", "of that networks, %", "positions"],
        [[latents, latents / encoding / 1e6, latents / decoding / 1e6, 100 * network / decoding, tensor.shape[1]]],
    )


# -- the factorised density --------------------------------------------------------------------------------


def measure_bottleneck() -> None:
    """The same weights on both sides, from tensors to bytes and back."""
    package = compressai()
    torch.manual_seed(0)
    density, count = FactorisedDensity((1023,) * 64), 64 * 96
    values = (torch.randn(1, 64, count, 1) * 5).round()
    density.freeze()
    coder, codes = density.coder(), tuple(values[0, :, :, 0].long().numpy() + 511)
    payload, encoding = best(lambda: coder.encode(codes, (count,), None))
    _, decoding = best(lambda: coder.decode(payload, (count,), None))
    rows = [["ours", len(payload), encoding * 1e3, decoding * 1e3]]
    if package:
        other = package.entropy_models.EntropyBottleneck(64)
        with torch.no_grad():
            for kind, own in (("matri", density.matrices), ("bias", density.biases), ("factor", density.factors)):
                named = [parameter for name, parameter in other.named_parameters() if kind in name]
                for parameter, value in zip(named, own, strict=True):
                    parameter.copy_(value)
        for _ in range(2000):  # its quantiles, by its own loss
            loss = other.loss()
            other.quantiles.grad = torch.autograd.grad(loss, other.quantiles)[0]
            with torch.no_grad():
                other.quantiles -= 0.01 * other.quantiles.grad
        other.update(force=True)
        strings, encoding = best(lambda: other.compress(values))
        found, decoding = best(lambda: other.decompress(strings, (count, 1)))
        assert (found - values).abs().max() < 1
        rows.append(["compressai", len(strings[0]), encoding * 1e3, decoding * 1e3])
    show(["coder", "bytes", "encoded, ms", "decoded, ms"], rows)


PARTS = {"tables": measure_tables, "hyperprior": measure_hyperprior, "bottleneck": measure_bottleneck}


def main() -> None:
    """Run the parts that are named."""
    torch.set_num_threads(1)
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
