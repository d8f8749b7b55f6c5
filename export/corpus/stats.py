"""What an output holds: signals, hours, codes, the use of every codebook, duplicates, and why items are bad."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.shards import Shard
from sigtok.codecs.tokens import ABSENT
from sigtok.export.exits import one_line

REASONS = 10  # most frequent ones that are told


def stats(folder: Path) -> dict[str, Any]:
    """Figures of a complete output, a shard in memory at a time.

    Entropy is of each codebook alone, in bits a code; usage the part of its codes that occur; a duplicate is a signal
    whose codes are those of another.
    """
    corpus = Corpus(folder)
    meaning, size = corpus.meaning, sum(part.bytes for part in corpus.parts)
    seconds, seen, doubles, reasons = 0.0, set[bytes](), 0, Counter[str]()
    counts = [np.zeros(most, np.int64) for most in meaning.spec.codebook_sizes[: meaning.rate.codebooks]]
    for shard in corpus:
        for row in range(len(shard)):
            if not shard.good[row]:
                reasons[shard.reasons[row]] += 1
                continue
            codes = shard.codes(row)
            if meaning.spec.sample_rate:
                seconds += shard.extents[row][0] / meaning.spec.sample_rate
            digest = hashlib.sha256(repr(shard.extents[row]).encode() + codes.tobytes()).digest()[:12]
            doubles += digest in seen
            seen.add(digest)
        for book, codes in enumerate(_by_codebook(shard)):
            counts[book] += np.bincount(codes[codes != ABSENT], minlength=len(counts[book]))
    codes_in_all = int(sum(count.sum() for count in counts))
    nominal = sum(float(count.sum()) * math.log2(len(count)) for count in counts)
    return {
        "model": meaning.spec.name,
        "signals": corpus.signals,
        "bad": corpus.bad,
        "hours": seconds / 3600,
        "codes": codes_in_all,
        "bytes": size,
        "bits_per_code": 8 * size / codes_in_all if codes_in_all else 0.0,
        "nominal_bits_per_code": nominal / max(1, codes_in_all),
        "duplicates": doubles,
        "codebooks": [
            {"codes": len(count), "usage": float((count > 0).mean()), "entropy": _entropy(count)} for count in counts
        ],
        "reasons": dict(reasons.most_common(REASONS)),
    }


def _by_codebook(shard: Shard) -> list[np.ndarray]:
    """All codes of each codebook."""
    if shard.meaning.dense:
        return list(shard.values.reshape(-1, shard.meaning.rate.codebooks).T.astype(np.int64))
    rows = [shard.streams(row) for row in range(len(shard)) if shard.good[row]]
    return [np.concatenate(streams).astype(np.int64) for streams in zip(*rows, strict=True)]


def _entropy(count: np.ndarray) -> float:
    """Bits of a code that is drawn as often as it was counted."""
    part = count[count > 0] / max(1, count.sum())
    return float(-(part * np.log2(part)).sum()) + 0.0


def as_text(found: dict[str, Any]) -> list[str]:
    """The figures in lines."""
    lines = [
        f"{found['model']}: {found['signals']} signals, {found['bad']} bad items, {found['duplicates']} duplicates"
    ]
    if found["hours"]:
        lines.append(f"{found['hours']:.3f} hours, {found['bytes'] * 8 / (found['hours'] * 3600):.0f} bit/s on disk")
    lines.append(
        f"{found['codes']} codes in {found['bytes']} bytes: {found['bits_per_code']:.2f} bits a code, nominal "
        f"{found['nominal_bits_per_code']:.2f}"
    )
    for number, book in enumerate(found["codebooks"]):
        lines.append(
            f"codebook {number}: {book['usage']:.1%} of {book['codes']} codes used, entropy {book['entropy']:.2f} bits"
        )
    return lines + [f"bad, {count}: {one_line(reason)}" for reason, count in found["reasons"].items()]
