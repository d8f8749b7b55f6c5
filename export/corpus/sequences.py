"""Sequences for trainers of language models: nanoGPT's ``.bin`` and Megatron's ``.bin`` with its ``.idx``.

A signal is a header that names the rate, the ids of a layout of one head, and EOA: what
``ModelIds(layout, 0).from_ids`` of codecs/layouts/language_model.py reads. Signals stand one behind the other in the
order of the corpus. What ids mean is in ``meta.json``.

nanoGPT:  ``np.memmap("train.bin", np.uint16, "r")``; the rows of its embedding are ``vocabulary.size`` of meta.json.
Megatron: ``--data-path FOLDER/train``; a signal is a sequence and a document. Its index, little endian:

    bytes  | what
    9      | b"MMIDIDX\\0\\0"
    8      | 1, the version
    1      | 8 for uint16 ids, 4 for int32
    8      | S, sequences
    8      | S + 1
    4 S    | int32: ids of each sequence
    8 S    | int64: byte at which each begins
    8 S+8  | int64: the sequence that each document begins with, and S

Source of the index: megatron/core/datasets/indexed_dataset.py of NVIDIA/Megatron-LM, commit 00caa53.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.layouts.language_model import ModelIds
from sigtok.codecs.layouts.names import layout
from sigtok.codecs.shards import Shard
from sigtok.codecs.tokens import ABSENT, Tokens
from sigtok.export.exits import USAGE, Failure

from .folders import Files, Hashed

MAGIC = b"MMIDIDX\0\0"
DTYPE_CODES = {"<u2": 8, "<i4": 4}
LONGEST = 2**31 - 1  # ids of a sequence
BATCH = 2**18  # codes, padding too, that are laid out at once
PIECE = 2**16  # sequences whose places are written at once


@dataclass(frozen=True)
class NanoGPT:
    """Ids as uint16, one file for each part.

    Args:
        layout: The name of a layout of one head.
        val_fraction: The part of the signals in ``val.bin``, from 0 up to 1; parts of one recording stay together.
    """

    layout: str = "flatten"
    val_fraction: float = 0.0
    name: ClassVar[str] = "nanogpt"

    def write(self, corpus: Corpus, files: Files) -> dict[str, Any]:
        """Write the files; what to say of them.

        Raises:
            Failure: If the layout does not fit, or ids are above 65,535.
            ValueError: If a part would have no signal, or a shard is damaged.
        """
        ids = _model_ids(corpus, self.layout)
        if ids.vocabulary.size > 2**16:
            raise Failure(
                USAGE,
                f"nanoGPT reads ids of at most 65,535, {corpus.meaning.spec.name} has {ids.vocabulary.size:,} of them; "
                f"export megatron, whose ids may be int32",
            )
        return _write(corpus, files, ids, self.val_fraction, index=False)


@dataclass(frozen=True)
class Megatron:
    """Ids as uint16, or as int32 where they do not fit, with an index for each part.

    Args:
        layout: The name of a layout of one head.
        val_fraction: The part of the signals in ``val.bin``, from 0 up to 1; parts of one recording stay together.
    """

    layout: str = "flatten"
    val_fraction: float = 0.0
    name: ClassVar[str] = "megatron"

    def write(self, corpus: Corpus, files: Files) -> dict[str, Any]:
        """Write the files; what to say of them.

        Raises:
            Failure: If the layout does not fit.
            ValueError: If a part would have no signal, or a shard is damaged.
        """
        return _write(corpus, files, _model_ids(corpus, self.layout), self.val_fraction, index=True)


def is_validation(name: str, fraction: float) -> bool:
    """Whether a signal is in the validation part: by its name alone, so that it stays there when a corpus grows.

    Parts of one recording, ``NAME#SECONDS``, go with NAME.
    """
    digest = hashlib.sha256((name.rpartition("#")[0] or name).encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def batches(shard: Shard) -> Iterator[tuple[list[int], Tokens]]:
    """The rows of a shard that have codes, and their tokens, in order and as many at once as `BATCH` allows."""
    rows: list[int] = []
    longest = 0
    for row in np.flatnonzero(shard.good).tolist():
        size = int(shard.offsets[row + 1] - shard.offsets[row])
        if rows and max(longest, size) * (len(rows) + 1) > BATCH:
            yield rows, _tokens(shard, rows)
            rows, longest = [], 0
        rows.append(row)
        longest = max(longest, size)
    if rows:
        yield rows, _tokens(shard, rows)


def _tokens(shard: Shard, rows: Sequence[int]) -> Tokens:
    meaning, extents = shard.meaning, tuple(shard.extents[row] for row in rows)
    counts = np.array([meaning.spec.token_counts(extent, meaning.rate) for extent in extents])  # [B, Q]
    starts = shard.offsets[list(rows)]
    streams = []
    for book in range(counts.shape[1]):
        first, step = (starts + book, counts.shape[1]) if meaning.dense else (starts + counts[:, :book].sum(1), 1)
        turns = np.arange(counts[:, book].max())
        codes = shard.values.take(first[:, None] + turns * step, mode="clip").astype(np.int64)
        streams.append(torch.from_numpy(np.where(turns < counts[:, book, None], codes, ABSENT)))
    return Tokens(tuple(streams), extents, meaning.rate, meaning.spec)


def _model_ids(corpus: Corpus, name: str) -> ModelIds:
    try:
        return ModelIds(layout(name, corpus.meaning.spec, corpus.meaning.rate), 0)
    except ValueError as error:
        raise Failure(USAGE, str(error)) from error


class _Part:
    """One ``.bin`` in the making, and how long its sequences are: 4 bytes a signal are kept."""

    def __init__(self, file: Hashed) -> None:
        self.file = file
        self.lengths = [np.zeros(0, np.int32)]

    def write(self, ids: NDArray[Any], lengths: NDArray[Any]) -> None:
        self.file.write(ids.data)
        self.lengths.append(lengths.astype(np.int32))


def _write(corpus: Corpus, files: Files, ids: ModelIds, fraction: float, index: bool) -> dict[str, Any]:
    vocabulary = ids.vocabulary
    dtype = np.dtype("<u2" if vocabulary.size <= 2**16 else "<i4")
    end = vocabulary.special("EOA")
    names = ("train", "val") if fraction else ("train",)
    with ExitStack() as stack:
        parts = [_Part(stack.enter_context(files.writing(f"{name}.bin", dtype=dtype.str))) for name in names]
        for shard in corpus:
            for rows, tokens in batches(shard):
                lines = ids.to_ids(tokens).numpy()
                lengths = (lines == end).argmax(1) + 1
                if lengths.max() > LONGEST:
                    raise ValueError(f"{shard.path}: a sequence has at most {LONGEST} ids, got {lengths.max()}")
                inside = np.arange(lines.shape[1]) < lengths[:, None]
                side = np.array([is_validation(shard.ids[row], fraction) for row in rows])
                for number, part in enumerate(parts):
                    chosen = side == bool(number)
                    part.write(lines[inside & chosen[:, None]].astype(dtype), lengths[chosen])
    total = 0
    for name, part in zip(names, parts, strict=True):
        lengths = np.concatenate(part.lengths)
        if not len(lengths):
            raise ValueError(
                f"{corpus.folder}: of {corpus.signals} signals {name} gets none; choose another val fraction"
            )
        count = int(lengths.sum(dtype=np.int64))
        files.records[f"{name}.bin"] |= {"ids": count, "signals": len(lengths)}
        total += count
        if index:
            with files.writing(f"{name}.idx") as file:
                write_index(file, lengths, dtype)
    marks = {mark: vocabulary.special(mark) for mark in vocabulary.specials}
    sizes = {"size": vocabulary.size, "codebook_sizes": vocabulary.codebook_sizes, "offsets": vocabulary.offsets}
    return {"ids": total, "vocabulary": {**sizes, "specials": marks, "header": vocabulary.header(ids.layout.rate)}}


def write_index(file: Hashed, lengths: NDArray[np.int32], dtype: np.dtype[Any]) -> None:
    """Megatron's index of sequences that stand one behind the other, each a document.

    Args:
        file: Where it goes.
        lengths: Ids of each sequence ``[S]``.
        dtype: Of the ids.
    """
    file.write(MAGIC + struct.pack("<QBQQ", 1, DTYPE_CODES[dtype.str], len(lengths), len(lengths) + 1))
    file.write(lengths.astype("<i4").data)
    begin = 0
    for first in range(0, len(lengths), PIECE):
        ends = begin + np.cumsum(lengths[first : first + PIECE], dtype=np.int64) * dtype.itemsize
        file.write(np.append(begin, ends[:-1]).astype("<i8").data)
        begin = int(ends[-1])
    for first in range(0, len(lengths) + 1, PIECE):
        file.write(np.arange(first, min(first + PIECE, len(lengths) + 1)).astype("<i8").data)
