"""`sigtok probe`: what a linear classifier can tell of a label from the tokens."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sigtok.codecs.codec import Codec
from sigtok.codecs.metrics.mfcc import FRAME_RATE, mfcc
from sigtok.codecs.metrics.probe import probe_accuracy
from sigtok.codecs.quantizers.kmeans import kmeans
from sigtok.codecs.quantizers.search import nearest
from sigtok.codecs.spec import Rate
from sigtok.codecs.tokens import Tokens

from .evaluate import Row
from .exits import DATA, USAGE, Failure, say
from .inputs import SUFFIXES, Item, Reader, gather
from .outputs import check_not_input, identities
from .released import open_model, resolve, spec_of
from .report import origin, write_json
from .tables import markdown, number, shown
from .transcode import each

UNIT = "unit"  # the label that needs no manifest
LEAST = 4  # segments of a label: two to learn from, two to be tested on


def probe(args: Namespace) -> int:
    """Fit and test a probe at every window and for every prefix of the codebooks."""
    spec = spec_of(args.model)
    sample_rate = spec.sample_rate
    if sample_rate is None:
        raise Failure(USAGE, f"{args.model}: a probe cuts time into segments, got a model of images; name another")
    if args.label == UNIT and (args.read == "codes" or spec.modality != "audio"):
        what = f"{args.read} of {spec.modality}"
        raise Failure(USAGE, f"--label {UNIT}: is read from latents of audio, got {what}; choose a column as label")
    args.codebooks = sorted(set(args.codebooks or (1, spec.num_codebooks)))
    asked = product(args.windows or [None], args.queries or [None])
    rates = [resolve(spec, args.codebooks[-1], queries, window) for window, queries in asked]
    inputs = gather(args.inputs, SUFFIXES[spec.modality], args.where, args.exclude)
    if args.label != UNIT:
        _check_labels(inputs.items, args.label)
    if args.json and args.json != "-":
        check_not_input(Path(args.json), identities([*args.inputs, *(item.path for item in inputs.items)]))
    codec = open_model(args.model, args.device)
    reader = Reader(spec, args.downmix, say)
    labels: list[str] = []
    frames: list[Tensor] = []
    found: list[list[Tokens]] = [[] for _ in rates]

    def work(item: Item, path: str) -> None:
        signal = reader.read(path)
        tokens = [codec.encode(signal[None], rate) for rate in rates]
        if args.label == UNIT:
            frames.append(mfcc(signal.mean(0), sample_rate))
        labels.append((item.row or {}).get(args.label) or "")
        for all_of_rate, one in zip(found, tokens, strict=True):
            all_of_rate.append(one)

    code = each(inputs, work)
    if labels:
        rows = _rows(args, codec, labels, frames, found)
        if args.json != "-":
            print(table(rows))
        how = (
            {"label": "MFCC units", "units": args.units}
            if args.label == UNIT
            else {"label": args.label, "read": args.read, "segment_seconds": args.seconds}
        )
        counts = {"files": len(labels), "bad_files": len(inputs.items) - len(labels)}
        write_json(args.json, {**origin(codec, args.line), **how, **counts, "rows": rows})
    return code


def table(rows: Sequence[Row]) -> str:
    """One line per window and prefix of codebooks, in Markdown."""
    counts = ("queries", "codebooks", "classes", "train", "test")
    shares = ("accuracy", "low", "high", "chance")
    lines = [
        [shown(row["window"]), *(str(row[key]) for key in counts), *(number(row[key]) for key in shares)]
        for row in rows
    ]
    return markdown(["window", *counts, "accuracy", "95 % low", "high", "chance"], lines)


def label_rows(
    codec: Codec,
    sounds: Sequence[tuple[str, Tokens]],
    prefixes: Sequence[int],
    seconds: float = 2.0,
    read: Literal["latents", "codes"] = "latents",
) -> list[Row]:
    """How well a label of whole sounds is read from segments of them, for every prefix of the codebooks.

    The first half of the segments of every label is learned, the second half tested. Labels with fewer than four
    segments, and sounds without a label, are left out. Where each label has its own microphone and room, these are
    read too. The interval takes segments as independent.

    Args:
        codec: Decodes the codes.
        sounds: Label and tokens of each, of one rate.
        prefixes: Numbers of codebooks.
        seconds: Of a segment; what remains at the end of a sound is not used.
        read: "latents", mean and deviation over a segment's positions of what its codes decode to; or "codes",
            how often each code of each codebook occurs in it.
    Raises:
        ValueError: If fewer than two labels have enough segments.
    """
    spec, rate = codec.spec, sounds[0][1].rate
    length = max(1, round(seconds * (spec.sample_rate or 0) * rate.queries / spec.step(rate)[0]))
    counts: dict[str, int] = {}
    for label, tokens in sounds:
        counts[label] = counts.get(label, 0) + spec.positions(tokens.extents[0], rate) // length
    names = [label for label, count in counts.items() if label and count >= LEAST]
    if len(names) < 2:
        raise ValueError(
            f"a probe tells at least 2 labels of {LEAST} segments of {seconds:g} s apart, got {len(names)}; bring more "
            f"files, or shorten --seconds"
        )
    kept = [(names.index(label), tokens) for label, tokens in sounds if label in names]
    kept.sort(key=lambda sound: sound[0])
    sizes = [spec.positions(tokens.extents[0], rate) // length for _, tokens in kept]
    labels = torch.tensor([label for label, _ in kept]).repeat_interleave(torch.tensor(sizes))
    learned = torch.cat([torch.arange(counts[name]) < counts[name] // 2 for name in names])
    summarise = decoded_statistics if read == "latents" else code_shares
    rows = []
    for codebooks in prefixes:
        values = torch.cat([summarise(codec, tokens.prefix(codebooks), length) for _, tokens in kept])
        rows.append(_row(rate, codebooks, values[learned], labels[learned], values[~learned], labels[~learned]))
    return rows


def unit_rows(
    codec: Codec, tokens: Sequence[Tokens], units: Sequence[Int[Tensor, " M"]], prefixes: Sequence[int]
) -> list[Row]:
    """How well the unit at the middle of every window is read from what the window's codes decode to.

    Every other sound is learned, from the first on; the rest is tested. The interval takes windows as independent,
    which neighbours are not: it is too narrow.

    Args:
        codec: Decodes the codes.
        tokens: Of each sound, of one rate.
        units: A unit for every 10 ms of each sound (`mfcc_units`).
        prefixes: Numbers of codebooks.
    """
    hop = (codec.spec.sample_rate or 0) // FRAME_RATE
    rows = []
    for codebooks in prefixes:
        pairs = []
        for item, frames in zip(tokens, units, strict=True):
            windows = _segments(decoded(codec, item.prefix(codebooks)), item.rate.queries).flatten(1)
            middle = (torch.arange(len(windows)) + 0.5) * codec.spec.step(item.rate)[0]
            inside = middle < item.extents[0][0]
            frame = (middle[inside] / hop).round().long().clamp(max=len(frames) - 1)
            pairs.append((windows[inside], frames[frame]))
        sides = [torch.cat(part) for half in (pairs[::2], pairs[1::2]) for part in zip(*half, strict=True)]
        rows.append(_row(tokens[0].rate, codebooks, *sides))
    return rows


def mfcc_units(frames: Sequence[Float[Tensor, "_ 39"]], count: int) -> list[Int[Tensor, " _"]]:
    """MFCC units: the nearest of ``count`` k-means clusters at every frame; a stand-in for phones where no transcripts
    are.

    Clusters and scale are those of every other sound, from the first on.

    Raises:
        ValueError: With fewer than two sounds.
    """
    if len(frames) < 2:
        raise ValueError(f"units are learned from one half of the files and tested on the other, got {len(frames)} file"
                         "; bring at least 2")  # fmt: skip
    learned = torch.cat(list(frames[::2]))
    mean, scale = learned.mean(0), learned.std(0, correction=0).clamp(min=1e-6)
    centres, _ = kmeans((learned - mean) / scale, count, iterations=20)
    return [nearest((part - mean) / scale, centres) for part in frames]


def decoded(codec: Codec, tokens: Tokens) -> Float[Tensor, "N D"]:
    """What the codes of one sound decode to, at every position."""
    positions = codec.spec.positions(tokens.extents[0], tokens.rate)
    if not positions:
        return torch.zeros(0, codec.spec.latent_dim)  # not every quantizer takes nothing
    with torch.no_grad():
        return codec.quantizer.decode(tokens.streams)[0, :positions].cpu()


def decoded_statistics(codec: Codec, tokens: Tokens, length: int) -> Float[Tensor, "M F"]:
    """Mean and deviation of the decoded latents over every whole segment of some positions; F is 2 D."""
    segments = _segments(decoded(codec, tokens), length)
    return torch.cat((segments.mean(1), segments.std(1, correction=0)), dim=-1)


def code_shares(codec: Codec, tokens: Tokens, length: int) -> Float[Tensor, "M F"]:
    """The share of every code of every codebook among the tokens of a segment; F is the sum of all K."""
    shares, positions = [], codec.spec.positions(tokens.extents[0], tokens.rate)
    for stream, stride, size in zip(tokens.streams, codec.spec.strides, codec.spec.codebook_sizes, strict=False):
        places = torch.arange(positions) * stride.denominator // stride.numerator
        codes = _segments(stream[0].cpu()[places], length)
        ones = torch.full(codes.shape, 1 / length)
        shares.append(torch.zeros(len(codes), size).scatter_add_(1, codes, ones))
    return torch.cat(shares, dim=-1)


def _segments(values: Tensor, length: int) -> Tensor:
    """``[N, ...]`` in whole segments ``[M, length, ...]``."""
    count = len(values) // length
    return values[: count * length].unflatten(0, (count, length))


def _row(rate: Rate, codebooks: int, train: Tensor, labels: Tensor, test: Tensor, truth: Tensor) -> Row:
    found = probe_accuracy(train, labels, test, truth)
    return {
        "window": list(rate.window),
        "queries": rate.queries,
        "codebooks": codebooks,
        "classes": len(labels.unique()),
        "train": len(labels),
        "test": len(truth),
        "accuracy": found.value,
        "low": found.low,
        "high": found.high,
        "chance": found.chance,
    }


def _rows(
    args: Namespace, codec: Codec, labels: Sequence[str], frames: Sequence[Tensor], found: Sequence[Sequence[Tokens]]
) -> list[Row]:
    """Of all sounds, at one rate after the other."""
    rows = []
    try:
        units = mfcc_units(frames, args.units) if args.label == UNIT else []
        for tokens in found:
            if args.label == UNIT:
                rows += unit_rows(codec, tokens, units, args.codebooks)
            else:
                pairs = list(zip(labels, tokens, strict=True))
                rows += label_rows(codec, pairs, args.codebooks, args.seconds, args.read)
    except ValueError as error:
        raise Failure(DATA, str(error)) from error
    return rows


def _check_labels(items: Sequence[Item], label: str) -> None:
    """Raise Failure if a file has no such label."""
    for item in items:
        if item.row is None:
            raise Failure(USAGE, f"{item.path}: a label is a column of a CSV manifest, got a file; name its manifest")
        if label not in item.row:
            columns = ", ".join(item.row)
            raise Failure(USAGE, f"{item.path}: its manifest has columns {columns}, got {label!r}; name one of them")
