"""The quantizer family measured: ``python -m tests.benchmarks.quantizers [PART ...]``, all parts by default.

gaussian  every member on a Gaussian source: rate, distortion, and the gap to Shannon's bound in bits per dimension
speed     seconds over the matrix product that a search cannot do without, and peak memory, beside
          vector-quantize-pytorch 1.32 (`make .venv/bench` installs it) and the naive form of IBQ, in one run
training  the same toy autoencoder, 300 steps with every member that learns: use of the codebooks
collapse  the two settings that are known to collapse, with and without the watchdog

One thread and CPU seconds throughout, so that other work on the machine weighs little. Tables are Markdown, on stdout.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.media import read_audio
from sigtok.codecs.metrics.codes import CodeCounts
from sigtok.codecs.metrics.mel import log_mel, magnitudes, mel_filters
from sigtok.codecs.quantizers.base import Quantizer
from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.codebook import Codebook
from sigtok.codecs.quantizers.search import nearest
from sigtok.train.watchdog import Watchdog, act, tables

INPUT = Path(__file__).parents[2] / "demo" / "input"
WEIGHTS = {"commitment": 0.25, "codebook": 1.0, "alignment": 1.0, "entropy": 0.1}


def table(name: str, codes: int, dim: int, **options: Any) -> dict[str, Any]:
    """The description of a codebook."""
    return {"name": name, "codebook_size": codes, "dim": dim, **options}


def stack(name: str, count: int, one: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A composition of equal parts."""
    parts = "parts" if name == "grouped" else "stages"
    return {"name": name, parts: {"copies": count, **one}, **options}


def show(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A Markdown table."""
    print(f"\n{title}\n\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    sys.stdout.flush()


# -- a Gaussian source -------------------------------------------------------------------------------------

KMEANS = {"lifecycle": {"start": "kmeans", "start_vectors": 20, "revive": 0.05}}
GAUSSIAN: dict[str, list[dict[str, Any]]] = {
    "VQ, gradient": [table("vq", 256, 8, **KMEANS), table("vq", 4096, 6, **KMEANS), table("vq", 4096, 4, **KMEANS)],
    "VQ, moving averages": [
        table("ema", 256, 8, **KMEANS), table("ema", 4096, 6, **KMEANS), table("ema", 4096, 4, **KMEANS),
        table("ema", 4096, 3, **KMEANS),
    ],
    "VQ, rotation": [table("vq", 4096, 6, estimator="rotation", **KMEANS)],
    "VQ, online clustering": [table("vq", 4096, 6, lifecycle={"cluster": "similar"})],
    "VQ, balanced": [table("vq", 256, 4, lifecycle={"start": "kmeans", "balance": 0.05})],
    "IBQ": [table("ibq", 256, 8, **KMEANS), table("ibq", 4096, 6, **KMEANS), table("ibq", 4096, 4, **KMEANS)],
    "SimVQ": [table("simvq", 256, 8), table("simvq", 4096, 6), table("simvq", 4096, 4)],
    "fixed, Gaussian points": [table("fixed", 256, 8), table("fixed", 4096, 6), table("fixed", 4096, 4)],
    "projected VQ (4 of 6 dimensions)": [{"name": "projected", "dim": 6, "inner": table("vq", 4096, 4, **KMEANS)}],
    "residual VQ": [stack("residual", stages, table("ema", 256, 8, **KMEANS)) for stages in (1, 2, 3, 4)],
    "residual IBQ": [stack("residual", 2, table("ibq", 256, 8, **KMEANS), estimator="stages")],
    "split": [{"name": "split", "first": table("ema", 256, 8, **KMEANS), "rest": table("ema", 256, 8, **KMEANS)}],
    "additive, beam 8": [stack("additive", stages, table("vq", 256, 8, **KMEANS), beam=8) for stages in (2, 3, 4)],
    "product of scalars": [stack("grouped", 4, table("ema", 2**bits, 1, **KMEANS)) for bits in (1, 2, 3, 4)],
    "product VQ": [stack("grouped", 2, table("ema", codes, 4, **KMEANS)) for codes in (256, 4096)],
    "multi-rate (strides 2, 1)": [stack("multirate", 2, table("ema", 256, 4, **KMEANS), strides=[2, 1])],
    "multi-scale (1, 2, 4)": [
        {"name": "multiscale", "codebook": table("ema", 1024, 4, **KMEANS), "grid": (4, 4), "scales": [1, 2, 4]}
    ],
    "FSQ": [{"name": "fsq", "levels": [2**bits] * 4} for bits in (1, 2, 3)],
    "FSQ, paper": [{"name": "fsq", "levels": [2**bits] * 4, "variant": "paper"} for bits in (2, 3)],
    "residual FSQ": [{"name": "residual_fsq", "levels": [4] * 4, "stages": 2}],
    "LFQ": [{"name": "lfq", "bits": 8}],
    "BSQ": [{"name": "bsq", "bits": 8}],
    "scalar": [{"name": "scalar", "dim": 8, "bits": bits} for bits in (2, 3, 4)],
    "TurboQuant": [{"name": "turboquant", "dim": 128, "bits": bits} for bits in (1, 2, 3, 4)],
    "TurboQuant, Hadamard": [{"name": "turboquant", "dim": 128, "bits": 2, "rotation": "hadamard"}],
    "TurboQuant, unbiased": [{"name": "turboquant", "dim": 128, "bits": 2, "mode": "unbiased"}],
    "TurboQuant, QJL": [{"name": "turboquant", "dim": 128, "bits": 2, "mode": "qjl"}],
}  # fmt: skip


RANGED = ("fsq", "residual_fsq", "lfq", "bsq", "scalar")  # members whose values have a range of their own


class Scaled(nn.Module):
    """A gain before and one after, learned where the range of a member is its own, so that all meet the same source."""

    def __init__(self, inner: Quantizer, learns: bool) -> None:
        super().__init__()
        self.inner, self.gain = inner, nn.Parameter(torch.ones(2), requires_grad=learns)

    def forward(self, latents: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Values and losses."""
        quantized = self.inner(latents * self.gain[0])
        return quantized.latents * self.gain[1], quantized.losses


def fit(model: Scaled, positions: int, dim: int, steps: int) -> None:
    """Train gain and codes on the source."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights or [torch.zeros(1)], lr=0.02)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        latents = torch.randn(8, positions // 8, dim)
        values, losses = model.train()(latents)
        loss = F.mse_loss(values, latents) + sum(0.1 * WEIGHTS[name] * loss for name, loss in losses.items())
        if weights:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def rate(quantizer: Any, positions: int, streams: tuple[Tensor, ...]) -> float:
    """Nominal bits per dimension."""
    bits = sum(
        math.log2(size) * stream.shape[1] for size, stream in zip(quantizer.codebook_sizes, streams, strict=True)
    )
    return bits / (positions * quantizer.dim)


def gaussian(steps: int = 300) -> None:
    """Distortion of every member at its rates."""
    rows = []
    for name, descriptions in GAUSSIAN.items():
        for description in descriptions:
            torch.manual_seed(0)
            quantizer = build(description)
            model = Scaled(quantizer, description["name"] in RANGED)
            fit(model, 2048, quantizer.dim, steps)
            latents = torch.randn(1, 20_000, quantizer.dim, generator=torch.Generator().manual_seed(7))
            with torch.no_grad():
                streams = quantizer.eval().encode(latents * model.gain[0])
                values = quantizer.decode(streams) * model.gain[1]
                distortion = float((values - latents).square().mean())
            bits = rate(quantizer, 20_000, streams)
            shape = "x".join(map(str, quantizer.codebook_sizes[:4])) + (
                "..." if len(quantizer.codebook_sizes) > 4 else ""
            )
            rows.append([name, quantizer.dim, shape, bits, distortion, bits + math.log2(distortion) / 2])
    columns = ["member", "D", "codes", "bits per dimension", "mean square error", "gap to Shannon, bits"]
    show(f"A Gaussian source of variance 1, {steps} steps of 2,048 vectors, measured on 20,000 others.", columns, rows)


# -- speed and memory --------------------------------------------------------------------------------------


def cpu_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median CPU seconds of a call, after one that is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def peak_megabytes(work: Callable[[], object]) -> float:
    """Memory above what the process held before, of one call."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls left to the allocator would hide what this one takes
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    work()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def backward(module: nn.Module, latents: Tensor) -> None:
    """A training pass and its gradients."""
    module.zero_grad()
    quantized = module(latents)
    (quantized.latents.square().mean() + sum(quantized.losses.values())).backward()


def naive_ibq(latents: Tensor, codebook: Tensor) -> Tensor:
    """Index backpropagation as it is written: scores, softmax, one-hot."""
    probabilities = (latents @ codebook.t()).softmax(-1)
    onehot = F.one_hot(probabilities.argmax(-1), len(codebook)).to(latents)
    return (onehot + probabilities - probabilities.detach()) @ codebook


def speed() -> None:
    """Times over the bare matrix product."""
    try:
        from vector_quantize_pytorch import VectorQuantize
    except ImportError:
        VectorQuantize = None
    rows = []
    for count, dim, codes in (
        (8192, 8, 1024), (8192, 64, 1024), (8192, 256, 1024), (8192, 8, 16_384), (2048, 64, 16_384),
        (2048, 256, 16_384), (256, 8, 262_144), (256, 256, 262_144),
    ):  # fmt: skip
        latents = torch.randn(1, count, dim, requires_grad=True)
        flat, keys = torch.randn(2048, 2048), torch.randn(2048, 2048)
        limit = cpu_seconds(lambda flat=flat, keys=keys: flat @ keys) / 2048**3 * count * dim * codes
        ours = build(table("ema", codes, dim, lifecycle={"start": "noise"})).train()
        ours(latents)
        points = ours.codebook
        search = cpu_seconds(lambda latents=latents, points=points: nearest(latents[0], points))
        quiet = torch.no_grad()(lambda ours=ours, latents=latents: ours(latents))
        forward, both = cpu_seconds(quiet), cpu_seconds(lambda ours=ours, latents=latents: backward(ours, latents))
        megabytes = peak_megabytes(quiet)
        row = [f"{count}, {dim}, {codes}", 1e3 * limit, search / limit, forward / limit, both / limit, megabytes]
        if VectorQuantize is not None:
            peer = VectorQuantize(dim=dim, codebook_size=codes).train()
            call = torch.no_grad()(lambda peer=peer, latents=latents: peer(latents))
            row += [cpu_seconds(call, 1) / forward, peak_megabytes(call)]
        rows.append(row)
    columns = ["N, D, K", "GEMM ms", "search / GEMM", "forward / GEMM", "forward + backward / GEMM", "forward MB"]
    columns += ["vector-quantize-pytorch forward / ours", "its MB"] * (VectorQuantize is not None)
    show("VQ by moving averages, and its search alone, over the bare product.", columns, rows)
    rows = []
    for count, dim, codes in ((1024, 8, 16_384), (1024, 256, 16_384), (256, 256, 262_144), (4096, 64, 262_144)):
        latents = torch.randn(1, count, dim, requires_grad=True)
        limit = cpu_seconds(lambda flat=flat, keys=keys: flat @ keys) / 2048**3 * count * dim * codes
        quantizer = build(table("ibq", codes, dim)).train()
        work = lambda quantizer=quantizer, latents=latents: backward(quantizer, latents)  # noqa: E731
        start = time.process_time()
        megabytes = peak_megabytes(work)
        once = time.process_time() - start
        ours = cpu_seconds(work, 2) if once < 10 else once
        row = [f"{count}, {dim}, {codes}", ours, ours / limit, megabytes]
        if count * codes <= 2**26:
            codebook = torch.randn(codes, dim, requires_grad=True)
            form = lambda latents=latents, codebook=codebook: naive_ibq(latents[0], codebook).square().sum().backward()  # noqa: E731
            naive = peak_megabytes(form)
            row += [cpu_seconds(form, 1) / ours, naive, naive / (4 * count * codes / 2**20)]
            held = row[-1]
        else:
            row += ["-", f"{held * 4 * count * codes / 2**20:.0f} (extrapolated)", "-"]
        rows.append(row)
    columns = [
        "N, D, K",
        "seconds",
        "forward + backward / GEMM",
        "MB",
        "naive / ours",
        "naive MB",
        "N x K matrices it holds",
    ]
    show("IBQ with all four losses (the naive form without them), forward and backward.", columns, rows)
    rows = []
    for name, description in FORWARD.items():
        quantizer = build(description).train()
        latents = torch.randn(1, 4096, quantizer.dim, requires_grad=True)
        for _ in range(60):
            quantizer(latents)
            if quantizer.ready:
                break
        quiet = torch.no_grad()(lambda quantizer=quantizer, latents=latents: quantizer(latents))
        forward = cpu_seconds(quiet)
        both = cpu_seconds(lambda quantizer=quantizer, latents=latents: backward(quantizer, latents))
        rows.append([name, quantizer.dim, 1e3 * forward, 1e3 * both, peak_megabytes(quiet)])
    show(
        "Every member, training passes of 4,096 vectors.",
        ["member", "D", "forward ms", "forward + backward ms", "MB"],
        rows,
    )


FORWARD: dict[str, dict[str, Any]] = {
    "VQ 1,024": table("vq", 1024, 64),
    "VQ 1,024, cosine": table("vq", 1024, 64, metric="cosine"),
    "VQ 1,024, rotation": table("vq", 1024, 64, estimator="rotation"),
    "VQ 1,024, online clustering": table("vq", 1024, 64, lifecycle={"cluster": "closest"}),
    "VQ 1,024, balanced": table("vq", 1024, 64, lifecycle={"balance": 0.05}),
    "VQ 1,024, moving averages": table("ema", 1024, 64),
    "IBQ 1,024": table("ibq", 1024, 64),
    "SimVQ 1,024": table("simvq", 1024, 64),
    "fixed 1,024": table("fixed", 1024, 64),
    "projected VQ 1,024 in 8": {"name": "projected", "dim": 64, "inner": table("vq", 1024, 8)},
    "residual VQ 8 x 1,024": stack("residual", 8, table("ema", 1024, 64)),
    "additive 4 x 256, beam 4": stack("additive", 4, table("vq", 256, 64), beam=4),
    "product 8 x 256": stack("grouped", 8, table("vq", 256, 8)),
    "multi-rate 3 x 1,024": stack("multirate", 3, table("ema", 1024, 64), strides=[4, 2, 1]),
    "multi-scale 1,024": {
        "name": "multiscale", "codebook": table("ema", 1024, 64), "grid": (16, 16), "scales": [1, 2, 4, 8, 16],
    },
    "FSQ 8 5 5 5": {"name": "fsq", "levels": [8, 5, 5, 5]},
    "residual FSQ 4 x 5^4": {"name": "residual_fsq", "levels": [5] * 4, "stages": 4},
    "LFQ 18": {"name": "lfq", "bits": 18},
    "BSQ 36": {"name": "bsq", "bits": 36},
    "scalar 64 x 4 bits": {"name": "scalar", "dim": 64, "bits": 4},
    "TurboQuant 64, 2 bits": {"name": "turboquant", "dim": 64, "bits": 2},
}  # fmt: skip


# -- training ----------------------------------------------------------------------------------------------

WIDTH, SIZE, BATCH = 32, 192, 1024


def projected(inner: dict[str, Any]) -> dict[str, Any]:
    """A quantizer of its own width behind linear maps."""
    return {"name": "projected", "dim": WIDTH, "inner": inner}


STARTED = {
    "lifecycle": {"start": "kmeans", "start_vectors": 4, "revive": 0.1, "decay": 0.9}
}  # a short run forgets soon
SAMPLED = {"lifecycle": {"start": "samples", "start_vectors": 1, "revive": 0.1, "decay": 0.9}}
TRAINED: dict[str, dict[str, Any]] = {
    "VQ, no policy": table("vq", 4096, WIDTH),
    "VQ, k-means and revival": table("vq", 4096, WIDTH, **STARTED),
    "VQ, online clustering (CVQ)": table("vq", 4096, WIDTH, lifecycle={"cluster": "similar", "decay": 0.9}),
    "VQ, rotation, k-means and revival": table("vq", 4096, WIDTH, estimator="rotation", **STARTED),
    "VQ, balanced": table("vq", 512, WIDTH, lifecycle={"start": "kmeans", "balance": 0.05}),
    "VQ, moving averages": table("ema", 4096, WIDTH),
    "projected cosine VQ": projected(table("vq", 4096, 8, metric="cosine", **STARTED)),
    "IBQ": table("ibq", 4096, WIDTH, **SAMPLED),
    "IBQ, cosine": table("ibq", 4096, WIDTH, scores="cosine", **SAMPLED),
    "SimVQ": table("simvq", 4096, WIDTH),
    "residual VQ 3 x 1,024": stack("residual", 3, table("ema", 1024, WIDTH, **STARTED)),
    "residual IBQ 2 x 1,024": stack(
        "residual", 2, table("ibq", 1024, WIDTH, **SAMPLED), estimator="stages"
    ),
    "split 2 x 1,024": {
        "name": "split",
        "first": projected(table("vq", 1024, 8, **STARTED)),
        "rest": projected(table("ema", 1024, 16)),
    },
    "product 4 x 256": stack("grouped", 4, table("vq", 256, 8, **STARTED)),
    "additive 3 x 256": stack("additive", 3, table("vq", 256, WIDTH, **STARTED)),
    "multi-rate 2 x 1,024": stack("multirate", 2, table("ema", 1024, WIDTH), strides=[2, 1]),
    "multi-scale 1,024": {
        "name": "multiscale", "codebook": table("ema", 1024, WIDTH), "grid": (4, 4), "scales": [1, 2, 4],
    },
    "FSQ 8^4": projected({"name": "fsq", "levels": [8] * 4}),
    "residual FSQ 2 x 5^4": projected({"name": "residual_fsq", "levels": [5] * 4, "stages": 2}),
    "LFQ 12": projected({"name": "lfq", "bits": 12}),
    "BSQ 12": projected({"name": "bsq", "bits": 12}),
    "scalar 6 x 4 bits": projected({"name": "scalar", "dim": 6, "bits": 4}),
}  # fmt: skip


class Causes:
    """A source whose codes have no reason to go unused: 192 numbers that 8 Gaussian causes make, by a curved map, with
    a little noise; ``[tiles, 16, 192]``."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.bend = torch.randn(8, 64, generator=generator) / math.sqrt(2)
        self.spread = torch.randn(64, SIZE, generator=generator) / 8

    def draw(self, tiles: int, generator: torch.Generator) -> Tensor:
        """Fresh vectors."""
        causes = torch.randn(tiles, 16, 8, generator=generator)
        noise = torch.randn(tiles, 16, SIZE, generator=generator)
        return (causes @ self.bend).tanh() @ self.spread + 0.05 * noise


class Toy(nn.Module):
    """Vector to latent and back, one hidden layer each way."""

    def __init__(self, quantizer: nn.Module, width: int = WIDTH, size: int = SIZE) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(size, 256), nn.GELU(), nn.Linear(256, width))
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.quantizer = quantizer
        self.decoder = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, size))

    def forward(self, vectors: Tensor) -> tuple[Tensor, Any]:
        """Vectors after the codes, and what the quantizer gave."""
        quantized = self.quantizer(self.read(vectors))
        return self.decoder(quantized.latents), quantized

    def read(self, vectors: Tensor) -> Tensor:
        """Latents of mean 0 and variance 1."""
        return self.norm(self.encoder(vectors).transpose(1, 2)).transpose(1, 2)


def train(toy: Toy, source: Any, steps: int, after: Callable[[int, Any], None] | None = None) -> None:
    """Adam with Adam's memory of renewed codes erased, as `CodecTask` does it."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam([weight for weight in toy.parameters() if weight.requires_grad], lr=4e-3)
    for step in range(steps):
        batch = source.draw(BATCH // 16, generator)
        decoded, quantized = toy.train()(batch)
        loss = F.mse_loss(decoded, batch) + sum(0.1 * WEIGHTS[name] * loss for name, loss in quantized.losses.items())
        optimizer.zero_grad()
        loss.backward()
        for module in toy.modules():
            if (
                isinstance(module, Codebook)
                and module.renewed is not None
                and isinstance(module.codebook, nn.Parameter)
            ):
                for memory in optimizer.state.get(module.codebook, {}).values():
                    if memory.shape == module.codebook.shape:
                        memory[module.renewed] = 0
        optimizer.step()
        if after is not None:
            after(step, quantized.streams)


def usage(toy: Toy, source: Causes) -> tuple[list[float], float, float]:
    """Use of each table and bits per vector over 20 K fresh vectors, and the signal-to-noise ratio in dB."""
    sizes = toy.quantizer.codebook_sizes
    counts, generator = CodeCounts(sizes), torch.Generator().manual_seed(2)
    toy.eval()
    with torch.no_grad():
        for _ in range(math.ceil(20 * max(sizes) / 16 / 256)):
            counts.add(toy.quantizer.encode(toy.read(source.draw(256, generator))))
        held = source.draw(1024, generator)
        error = float(F.mse_loss(toy(held)[0], held) / held.square().mean())
    books = counts.per_codebook()
    used = [float((sum(books[book] for book in served) > 0).double().mean()) for _, served in tables(toy.quantizer)]
    return used, counts.summary()["bits"], -10 * math.log10(error)


def training(steps: int = 300) -> None:
    """Use of the codebooks after some steps."""
    source, rows = Causes(), []
    for name, description in TRAINED.items():
        torch.manual_seed(0)
        toy = Toy(build(copy.deepcopy(description)))
        start = time.process_time()
        train(toy, source, steps)
        used, bits, quality = usage(toy, source)
        rows.append([name, min(used), bits, quality, (time.process_time() - start) / steps * 1e3])
    columns = [
        "member",
        "use of its least used codebook",
        "entropy of the codes, bits",
        "SNR, dB",
        "ms per step",
    ]
    show(f"One autoencoder, {steps} steps of {BATCH:,} vectors; measured on fresh ones.", columns, rows)


class Spectra:
    """Log-mel spectra of the demo's speech, mean 0 and variance 1 in every band: ``[tiles, 16, 80]``."""

    def __init__(self) -> None:
        speech = torch.from_numpy(read_audio(str(INPUT / "speech.flac"), 24_000)[0])[None, None]
        frames = log_mel(magnitudes(speech, 1024), mel_filters(24_000, 1024, 80)).reshape(80, -1).t()
        self.frames = (frames - frames.mean(0)) / frames.std(0)

    def draw(self, tiles: int, generator: torch.Generator) -> Tensor:
        """Frames at random, with a little noise, as there are few."""
        rows = torch.randint(len(self.frames), (tiles, 16), generator=generator)
        return self.frames[rows] + 0.1 * torch.randn(tiles, 16, 80, generator=generator)


def collapse(steps: int = 400, window: int = 50) -> None:
    """Two settings that collapse, left alone and watched."""
    cases = {
        "IBQ, K = 1,024, D = 256, dot products unscaled, speech": (
            table("ibq", 1024, 256, scores="dot", scale=1.0, learned=False), Spectra(), 80,
        ),
        "the same with Euclidean scores, calibrated (the default)": (table("ibq", 1024, 256), Spectra(), 80),
        "VQ, K = 16,384, D = 32, no policy": (table("vq", 16_384, WIDTH), Causes(), SIZE),
    }  # fmt: skip
    rows = []
    for name, (description, source, size) in cases.items():
        for watched in (False, True):
            torch.manual_seed(0)
            toy = Toy(build(description), description["dim"], size)
            watchdog, counts, did, used = Watchdog(), CodeCounts(toy.quantizer.codebook_sizes), [], []

            def after(step: int, streams: Any) -> None:
                counts.add(streams)  # noqa: B023
                if (step + 1) % window == 0:
                    used.append(counts.summary()["usage_0"])  # noqa: B023
                    for order in watchdog.judge(toy.quantizer, counts) if watched else ():  # noqa: B023
                        act(order)
                        did.append(f"{step + 1} {order.action}")  # noqa: B023
                    counts.counts.zero_()  # noqa: B023

            train(toy, source, steps, after)
            share = ", ".join(f"{value:.0%}" for value in used)
            rows.append([name, "yes" if watched else "no", share, ", ".join(did) or "-"])
    columns = ["setting", "watchdog", f"use of the codes, per {window} steps", "what it did, at step"]
    show(f"Collapse and watchdog, {steps} steps of {BATCH:,} latents.", columns, rows)


RUNS = {"gaussian": gaussian, "speed": speed, "training": training, "collapse": collapse}


def main(names: list[str]) -> None:
    """Run the named parts, or all."""
    if unknown := set(names) - set(RUNS):
        sys.exit(f"the parts are {', '.join(RUNS)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    for name in names or RUNS:
        RUNS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
