"""Codes at a fixed width: every code of a codebook of K takes ceil(log2 K) bits. No torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def width(size: int) -> int:
    """Bits of one code of a codebook of ``size`` codes, at most 32."""
    return (size - 1).bit_length()


def packed_bits(counts: Sequence[int], sizes: Sequence[int]) -> int:
    """Bits of ``counts[q]`` codes of each codebook q of ``sizes[q]`` codes."""
    return sum(count * width(size) for count, size in zip(counts, sizes, strict=True))


def packed_bytes(counts: Sequence[int], sizes: Sequence[int]) -> int:
    """Bytes that `pack` writes: the bits, rounded up once at the end."""
    return (packed_bits(counts, sizes) + 7) // 8


def pack(streams: Sequence[np.ndarray], sizes: Sequence[int]) -> bytes:
    """Codes as bits: codebook after codebook, highest bit first, the last byte filled up with zeros.

    Args:
        streams: Integers ``[N_q]`` per codebook, each in ``0 .. sizes[q] - 1`` (trusted).
        sizes: Codes K of each codebook.
    """
    bits = [np.empty(0, np.uint8)]
    for codes, size in zip(streams, sizes, strict=True):
        words = codes.astype(">u4").view(np.uint8).reshape(-1, 4)
        bits.append(np.unpackbits(words, axis=1)[:, 32 - width(size) :].ravel())
    return np.packbits(np.concatenate(bits)).tobytes()


def unpack(payload: bytes, counts: Sequence[int], sizes: Sequence[int]) -> tuple[np.ndarray, ...]:
    """What `pack` was given, as int64 ``[N_q]``; codes may exceed their codebook, which the caller checks.

    Raises:
        ValueError: If the payload has another size than the counts need, or its last bits are not zero.
    """
    expected = packed_bytes(counts, sizes)
    if len(payload) != expected:
        raise ValueError(f"{tuple(counts)} codes take {expected} bytes, got {len(payload)}")
    bits = np.unpackbits(np.frombuffer(payload, np.uint8))
    end, streams = 0, []
    for count, size in zip(counts, sizes, strict=True):
        start, end = end, end + count * width(size)
        words = np.zeros((count, 32), np.uint8)
        words[:, 32 - width(size) :] = bits[start:end].reshape(count, width(size))
        streams.append(np.packbits(words).view(">u4").astype(np.int64))
    if bits[end:].any():
        raise ValueError(f"the {len(bits) - end} bits after the last code are 0, got {bits[end:].tolist()}")
    return tuple(streams)
