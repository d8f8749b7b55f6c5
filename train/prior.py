"""`sigtok-train prior`: centres of a teacher's features, the codebook of `codecs/quantizers/prior.py`.

A prior is a safetensors file: ``centres`` ``[K, F]`` of features normalised by ``mean`` and ``std`` ``[F]``, and in its
metadata, under "prior", JSON that says how it was made. Two teachers or two kinds of sound make two files, in two runs.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from jaxtyping import Float
from jsonargparse import Namespace
from torch import Tensor

from sigtok.codecs.quantizers.kmeans import kmeans, plus_plus
from sigtok.codecs.quantizers.search import nearest
from sigtok.train.data.files import OnError
from sigtok.train.data.sources import Entry

from .features import Features, Heard, Saved, each, hearing, parser_of, run, sounds

LEAST = 10  # frames that a centre is a mean of, or it is noise
ROUNDS, SETTLE = 10, 5  # times that smaller centres are moved, and iterations of k-means after each
CONSTANT = 1e-4  # deviation of a channel that says nothing


class Prior(NamedTuple):
    """Centres ``[K, F]`` of features normalised by ``mean`` and ``std`` ``[F]``; the frames of each ``[K]``; and the
    squared error that they leave, as a part of the variance."""

    centres: Tensor
    mean: Tensor
    std: Tensor
    counts: Tensor
    error: float


def fit(frames: Float[Tensor, "M F"], centres: int, iterations: int, seed: int) -> Prior:
    """k-means of normalised features, started by k-means++.

    k-means++ likes outliers: centres that end with fewer than 10 frames move to frames drawn evenly, where there is
    company, until there are none or ten rounds are over. Warns if there are fewer than 10 frames per centre.

    Args:
        frames: Features.
        centres: Centres K.
        iterations: Of k-means, each over all frames.
        seed: Of the start.

    Raises:
        ValueError: If there are fewer frames than centres.
    """
    if len(frames) < LEAST * centres:
        warnings.warn(
            f"a centre is a mean of {LEAST} frames or more, got {len(frames)} frames for {centres} centres; take more "
            f"files or fewer centres",
            stacklevel=2,
        )
    mean, std = frames.mean(0), frames.std(0, correction=0).clamp_min(CONSTANT)
    normal = (frames - mean) / std
    table, counts = kmeans(normal, centres, iterations, plus_plus(normal, centres, seed))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(ROUNDS):
        small = counts < LEAST
        if not small.any():
            break
        table[small] = normal[torch.randperm(len(normal), generator=generator)[: int(small.sum())]]
        table, counts = kmeans(normal, centres, SETTLE, table)
    error = (normal - table[nearest(normal, table)]).square().mean() / normal.square().mean()
    return Prior(table, mean, std, counts, float(error))


def collect(
    files: Sequence[Entry], source: Features, frames: int, seed: int, on_error: OnError
) -> tuple[Float[Tensor, "M F"], int]:
    """Features of whole files in random order, until there are enough frames; and of how many files they are."""
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(seed)).tolist()
    found: list[Tensor] = []
    missing = frames
    for _, features in each([files[index] for index in order], source, on_error):
        found.append(features[:missing])
        missing -= len(found[-1])
        if not missing:
            break
    if not found:
        raise ValueError(f"a prior needs features, got none in {len(files)} files; see the warnings")
    return torch.cat(found), len(found)


def make(
    out: str,
    source: Heard | Saved,
    files: Sequence[Entry],
    data: dict[str, Any],
    centres: int = 1024,
    frames: int = 200_000,
    iterations: int = 30,
    seed: int = 0,
    on_error: OnError = "raise",
) -> str:
    """Make a prior and write it; what it is like, in one line.

    Args:
        out: File to write.
        source: Of the features.
        files: Sound files.
        data: What they are, for the record.
        centres: Centres K.
        frames: Frames to take, at most, of files in random order.
        iterations: Of k-means.
        seed: Of the order of files and the start of k-means.
        on_error: ``"raise"`` stops at an unreadable file, ``"skip"`` warns and goes on without it.
    """
    for name, count in (("centres", centres), ("frames", frames), ("iterations", iterations)):
        if count < 1:
            raise ValueError(f"{name} are at least 1, got {count}")
    if Path(out).is_dir() or not Path(out).absolute().parent.is_dir():
        raise ValueError(f"a prior is a file in a folder that exists, got {out}; make the folder, or name a file in it")
    begun = time.monotonic()
    features, heard = collect(files, source, frames, seed, on_error)
    collected = time.monotonic()
    prior = fit(features, centres, iterations, seed)
    record = {
        "teacher": source.name,
        "frame_rate": source.frame_rate,
        "data": {**data, "files": heard},
        "seed": seed,
        "frames": len(features),
        "iterations": iterations,
        "error": round(prior.error, 4),
    }
    tensors = {name: getattr(prior, name).contiguous() for name in ("centres", "mean", "std")}
    safetensors.torch.save_file(tensors, out, {"prior": json.dumps(record)})
    few = int((prior.counts < LEAST).sum())
    return (
        f"{centres} centres of {source.name} in {out}: {len(features)} frames of {heard} files "
        f"({len(features) / source.frame_rate / 60:.1f} min), {len(features) / centres:.0f} per centre, "
        f"{few} centres with fewer than {LEAST}; squared error {prior.error:.3f} of the variance; "
        f"{collected - begun:.0f} s for features, {time.monotonic() - collected:.0f} s for centres"
    )


def told(data: Namespace) -> dict[str, Any]:
    """What ``data.*`` says, without folders of this machine."""
    values = {name: value for name, value in data.as_dict().items() if value is not None}
    names = {name: Path(value).name for name, value in values.items() if name in ("root", "manifest")}
    if isinstance(values.get("exclude"), str):
        names["exclude"] = Path(values["exclude"]).name
    return {**values, **names, "split": "train"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``sigtok-train prior``."""

    def command() -> str:
        parser = parser_of("prior", str(__doc__), make)
        parser.add_argument("--features", type=str, help="A folder of sigtok-train features, in place of a teacher.")
        settings = parser.parse_args(arguments)
        files = sounds(**settings.data.as_dict()).train
        source = Saved(settings.features) if settings.features else hearing(settings)
        own = {name: settings[name] for name in ("out", "centres", "frames", "iterations", "seed", "on_error")}
        return make(source=source, files=files, data=told(settings.data), **own)

    run("prior", command)


if __name__ == "__main__":
    main()
