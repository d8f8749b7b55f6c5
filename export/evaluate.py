"""Rate, quality and speed of a codec over files; the rate is that of the bytes on disk."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sigtok.codecs.codec import Codec
from sigtok.codecs.files import own_coder, tokens_from_bytes, tokens_to_bytes
from sigtok.codecs.metrics.codes import CodeCounts
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import Rate
from sigtok.codecs.tokens import Tokens

from .inputs import Reader
from .metrics import METRICS, SILENCE, Measure

Row = dict[str, Any]
Seen = Callable[[Row, Tensor, Tensor], None]  # a row, its signal and the reconstruction, [C, *extent]
RESAMPLINGS, SEED = 1000, 0  # of the bootstrap
THREADS = 1  # of a codec under the clock


class Trip(NamedTuple):
    """A signal on its way through a file and back.

    Args:
        reconstruction: float32 ``[C, *extent]``.
        tokens: What the file says.
        bytes: Of the file on disk.
        encode_seconds: From signal to file.
        decode_seconds: From file to signal.
    """

    reconstruction: Tensor
    tokens: Tokens
    bytes: int
    encode_seconds: float
    decode_seconds: float


@contextmanager
def threads(count: int = THREADS) -> Iterator[None]:
    """So many threads of the processor; speed is that of one, whatever the machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(codec: Codec) -> Row:
    """The most memory so far, in bytes: of the whole process, with its libraries and all that it measured before, and
    of the device's tensors where the codec runs on CUDA. None where the system does not say."""
    device = next((tensor.device for tensor in codec.parameters()), torch.device("cpu"))
    found: Row = {"process_peak_bytes": None}
    if importlib.util.find_spec("resource"):  # of Unix
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["process_peak_bytes"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if device.type == "cuda":
        found["device_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def round_trip(codec: Codec, signal: Tensor, rate: Rate, file: Path, coder: Any = None) -> Trip:
    """Encode a signal ``[C, *extent]`` into a file and decode it from there, with the clock running, on one thread.

    The entropy coder of a model that has one is given, or made before the clock starts, as the model was loaded.
    """
    coder = coder or own_coder(codec)
    identity = codec.stream_id or stream_id(codec)
    with threads():
        start = perf_counter()
        file.write_bytes(tokens_to_bytes(codec.encode(signal[None], rate), identity, coder))
        middle = perf_counter()
        tokens = tokens_from_bytes(file.read_bytes(), codec.spec, identity, coder=coder)
        reconstruction = codec.decode(tokens)[0].cpu()
        end = perf_counter()
    return Trip(reconstruction, tokens, file.stat().st_size, middle - start, end - middle)


class Evaluation:
    """One codec at one rate over any number of files.

    Args:
        codec: Any codec.
        rate: The operating point; None for all that the codec has.
        reader: Of the files; None for one that mixes nothing down and warns of what it resamples.
        metrics: By name; None for those of `METRICS`.
        coder: The model's own entropy coder, made if there is one to make; or a prior.
        seen: Gets every row with the signals that it is about.

    ``rows`` has one dict per file: ``file``, ``seconds`` or ``pixels``, ``bytes``, ``tokens``,
    ``bits_per_second`` or ``bits_per_pixel``, ``encode_seconds``, ``decode_seconds``, every metric, and under
    ``not_computed`` the reason for each that is None.
    """

    def __init__(
        self,
        codec: Codec,
        rate: Rate | None = None,
        reader: Reader | None = None,
        metrics: Mapping[str, Measure] | None = None,
        coder: Any = None,
        seen: Seen | None = None,
    ) -> None:
        self.codec, self.rate, self.coder = codec, codec.spec.resolve(rate), coder or own_coder(codec)
        self.metrics = METRICS[codec.spec.modality] if metrics is None else metrics
        self.reader = reader or Reader(codec.spec)
        self.counts = CodeCounts(codec.spec.codebook_sizes)
        self.seen, self.memory = seen, peak_memory(codec)
        self.rows: list[Row] = []

    def measure(self, path: str | os.PathLike[str]) -> Row:
        """The row of one more file.

        Raises:
            ValueError: If the codec does not take the file.
        """
        signal = self.reader.read(path)
        with tempfile.TemporaryDirectory(prefix="sigtok") as folder:
            if not self.rows:
                self._warm_up(Path(folder) / "warm.sgt")
            trip = round_trip(self.codec, signal, self.rate, Path(folder) / "file.sgt", self.coder)
        row = {"file": os.fspath(path), **measured(self.codec, signal, trip, self.metrics)}
        self.counts.add(trip.tokens.streams)
        self.memory = peak_memory(self.codec)
        self.rows.append(row)
        if self.seen:
            self.seen(row, signal, trip.reconstruction)
        return row

    def summary(self) -> Row:
        """The set in one row: totals, rates by duration or area, means of metrics, use of codebooks.

        ``bits_per_second`` is all bits over all seconds. A metric has the ``mean`` over the ``files``
        that have it and a 95 % interval of that mean, ``low`` to ``high``, from bootstrap over files. Memory: see
        `peak_memory`.
        """
        return {
            **self.point,
            **summarised(self.rows, self.metrics),
            **self.memory,
            "codes": self.counts.summary(),
        }

    @property
    def point(self) -> Row:
        """The operating point as plain values."""
        return {
            "codebooks": self.rate.codebooks,
            "queries": self.rate.queries,
            "window": list(self.rate.window or ()),
            **({"shares": list(self.rate.shares)} if self.rate.shares else {}),
            **({"quality": self.rate.quality} if self.rate.quality else {}),
        }

    def _warm_up(self, file: Path) -> None:
        """One window through the codec: the first call is slower than all others."""
        window = self.codec.spec.step(self.rate)
        round_trip(self.codec, torch.zeros(self.codec.spec.channels, *window), self.rate, file, self.coder)


def evaluate(codec: Codec, paths: Sequence[str | os.PathLike[str]], rate: Rate | None = None) -> list[Row]:
    """Rate, quality and speed of a codec for each of some files; see `Evaluation` for sums over them.

    Raises:
        ValueError: If the codec does not take a file, or has no such rate.
    """
    evaluation = Evaluation(codec, rate)
    return [evaluation.measure(path) for path in paths]


def measured(codec: Codec, signal: Tensor, trip: Trip, metrics: Mapping[str, Measure] | None = None) -> Row:
    """What can be said about a signal ``[C, *extent]`` and its trip."""
    spec = codec.spec
    row: Row = {"tokens": sum(int((stream >= 0).sum()) for stream in trip.tokens.streams), "bytes": trip.bytes}
    times = {"encode_seconds": trip.encode_seconds, "decode_seconds": trip.decode_seconds}
    if spec.sample_rate is not None:
        row |= {**duration(signal, spec.sample_rate, trip.bytes), **times}
    else:
        row |= {**area(signal, trip.bytes), **times}
    quality, reasons = distances(trip.reconstruction, signal, spec.modality, spec.sample_rate or 0, metrics)
    return row | quality | ({"not_computed": reasons} if reasons else {})


def area(signal: Tensor, size: int) -> Row:
    """The pixels of a picture ``[C, H, W]``, and the rate of a file of so many bytes."""
    pixels = math.prod(signal.shape[1:])
    return {"pixels": pixels, "bits_per_pixel": 8 * size / pixels}


def duration(signal: Tensor, sample_rate: int, size: int) -> Row:
    """The seconds of a sound or of features ``[C, T]``, and the rate of a file of so many bytes."""
    seconds = signal.shape[1] / sample_rate
    return {"seconds": seconds, "bits_per_second": 8 * size / seconds if seconds else None}


def distances(
    reconstruction: Tensor,
    reference: Tensor,
    modality: str,
    sample_rate: int,
    metrics: Mapping[str, Measure] | None = None,
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Every metric of a pair ``[C, *extent]``, None where it says nothing; and why."""
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    for name, metric in (METRICS[modality] if metrics is None else metrics).items():
        try:
            if not reference.numel():
                raise ValueError("the file is empty")
            if modality == "audio" and name != "mel_distance" and float(reference.std(unbiased=False)) < SILENCE:
                raise ValueError("the file is silent")
            value = metric(reconstruction[None], reference[None], sample_rate)
            if not math.isfinite(value):
                raise ValueError(f"it is {value}; both signals are equal" if value > 0 else f"it is {value}")
            values[name] = value
        except (ValueError, ImportError) as error:
            values[name], reasons[name] = None, str(error)
    return values, reasons


def summarised(rows: Sequence[Mapping[str, Any]], metrics: Iterable[str]) -> Row:
    """Rows of files as one: totals, rates by duration or area, and means of metrics with their intervals."""
    return {**_totals(rows), **{name: _interval(rows, name) for name in metrics}}


def _totals(rows: Sequence[Mapping[str, Any]]) -> Row:
    kind = "pixels" if rows and "pixels" in rows[0] else "seconds"
    able = ("tokens", "bytes", kind, "encode_seconds", "decode_seconds")  # other formats have no tokens
    names = [name for name in able if not rows or name in rows[0]]
    totals: Row = {"files": len(rows)} | {name: sum(row[name] for row in rows) for name in names}
    size = totals[kind]
    unit, speed = (
        ("bits_per_pixel", "megapixels_per_second") if kind == "pixels" else ("bits_per_second", "x_real_time")
    )
    if "bytes" in totals:
        totals[unit] = 8 * totals["bytes"] / size if size else None
    if "tokens" in totals and kind == "seconds":
        totals["tokens_per_second"] = totals["tokens"] / size if size else None
    for way in (way for way in ("encode", "decode") if f"{way}_seconds" in totals):
        elapsed = totals[f"{way}_seconds"] * (1e6 if kind == "pixels" else 1)
        totals[f"{way}_{speed}"] = size / elapsed if elapsed else None
    return totals


def _interval(rows: Sequence[Mapping[str, Any]], name: str) -> Row:
    """Mean of a metric over the rows that have it, and the 95 % interval of that mean by bootstrap."""
    return interval([row[name] for row in rows if row[name] is not None])


def interval(found: Sequence[float]) -> Row:
    """The mean of what was found by file, its 95 % interval by bootstrap, and the number of files."""
    values = np.array(found)
    if not len(values):
        return {"mean": None, "low": None, "high": None, "files": 0}
    dice = np.random.default_rng(SEED)
    means = [values[dice.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLINGS)]
    low, high = np.percentile(means, (2.5, 97.5))
    return {"mean": float(values.mean()), "low": float(low), "high": float(high), "files": len(values)}
