"""The header of a container, to bytes and back; `bitstream` has the format. No torch."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from itertools import groupby
from zlib import crc32

from .header import (
    FIXED_WIDTH,
    GRANULAR,
    MODALITIES,
    MODALITY_NAMES,
    MOST,
    PRIOR,
    VERSION,
    BitstreamError,
    Header,
    Limits,
    Source,
    quality_of,
    same,
    sixteenths,
    take,
    within,
)
from .plan import CRC, Plan
from .spec import AXES, QUALITY_UNIT, Modality, Rate

MAGIC = b"\x89SGT\r\n\x1a\n"
STREAMED = 1  # a critical flag: the extent stands behind the chunks
DENOMINATORS = 0x8001  # an extra field: 4 bytes a codebook, what its stride is divided by
QUALITY = 0x8002  # an extra field: 4 bytes, sixteenths
FINGERPRINT = 0x8003  # an extra field: 4 bytes, of the prior

_FIELDS = (
    ("magic", "8s"), ("major", "B"), ("minor", "B"), ("critical flags", "B"), ("optional flags", "B"),
    ("header bytes", "I"), ("modality", "B"), ("coding", "B"), ("codebooks", "H"), ("stream id", "16s"),
    ("extent", "Q"), ("extent across", "Q"), ("sample rate", "I"), ("channels", "I"), ("hop", "I"),
    ("hop across", "I"), ("window", "I"), ("window across", "I"), ("queries", "I"), ("chunk positions", "I"),
    ("chunks", "I"),
)  # fmt: skip
_HEADER = struct.Struct("<" + "".join(code for _, code in _FIELDS))
OFFSETS = {
    name: struct.calcsize("<" + "".join(code for _, code in _FIELDS[:place])) for place, (name, _) in enumerate(_FIELDS)
}
_BOOK, _RUN, _EXTRA = struct.Struct("<II"), struct.Struct("<III"), struct.Struct("<HI")


def pack_head(plan: Plan) -> bytes:
    """The header."""
    header = plan.header
    assert header.hop and header.rate.window and header.codebook_sizes and header.strides
    if len(header.stream_id) != 16:
        raise ValueError(f"a container stores a stream id of 16 bytes, got {len(header.stream_id)}")
    strides = [Fraction(stride) for stride in header.strides]
    books = _books(header.codebook_sizes, [stride.numerator for stride in strides], header.coded)
    below = b"".join(CRC.pack(stride.denominator) for stride in strides)
    fields = [(DENOMINATORS, below)] * any(stride.denominator > 1 for stride in strides)
    fields += [(QUALITY, CRC.pack(sixteenths(header.rate)))] * (header.rate.quality is not None)
    if header.prior is not None:
        fields.append((FINGERPRINT, CRC.pack(header.prior)))
    extras = b"".join(_EXTRA.pack(kind, len(value)) + value for kind, value in (*fields, *header.extras))
    extent, chunks = ((0, *header.extent[1:]), 0) if header.streamed else (header.extent, plan.chunks)
    head = _HEADER.pack(
        MAGIC, VERSION, 0, STREAMED * header.streamed, 0, _HEADER.size + len(books) + len(extras) + CRC.size,
        MODALITIES[header.modality], header.coding, len(header.codebook_sizes), header.stream_id,
        *_two(extent), header.sample_rate or 0, header.channels, *_two(header.hop),
        *_two(header.rate.window), header.rate.queries, plan.per_chunk, chunks,
    )  # fmt: skip
    head += books + extras
    return head + CRC.pack(crc32(head))


def _books(sizes: tuple[int, ...], strides: list[int], runs: bool) -> bytes:
    """Sizes and strides of the codebooks, equal neighbours together or each by itself."""
    books = list(zip(sizes, strides, strict=True))
    if runs:
        return b"".join(_RUN.pack(len(list(equal)), *book) for book, equal in groupby(books))
    return b"".join(_BOOK.pack(*book) for book in books)


def _two(values: tuple[int, ...]) -> tuple[int, ...]:
    return (*values, 0)[:2]


def read_head(data: Source, limits: Limits) -> tuple[Plan, int]:
    """The plan of a file, and the offset of its first chunk."""
    same(0, "magic of an .sgt file", bytes(data[:8]), MAGIC)
    values = dict(zip(OFFSETS, _HEADER.unpack(take(data, 0, _HEADER.size, "header")), strict=True))
    same(8, "major version", values["major"], VERSION)
    within(10, "critical flags", values["critical flags"], 0, STREAMED)
    size = values["header bytes"]
    within(12, "header bytes", size, _HEADER.size + _BOOK.size + CRC.size, limits.header_bytes)
    head = take(data, 0, size, "header")
    crc = CRC.unpack(head[-4:])[0]
    same(size - 4, "CRC of the header", crc, crc32(head[:-4]))
    within(OFFSETS["modality"], "modality", values["modality"], 1, len(MODALITIES))
    modality, streamed = MODALITY_NAMES[values["modality"]], bool(values["critical flags"])
    for name, (least, most) in _ranges(modality, streamed, limits).items():
        within(OFFSETS[name], name, values[name], least, most)
    if modality == "image" and not streamed:
        within(OFFSETS["extent"], "height x width", values["extent"] * values["extent across"], 1, limits.pixels)
    header = _header(head, values, modality, limits)
    try:
        plan = Plan(header, values["chunk positions"], known=not streamed)
    except ValueError as error:
        raise BitstreamError(f"byte {OFFSETS['chunk positions']}: {error}") from None
    within(OFFSETS["extent"], "codes in all", sum(plan.counts), 0, limits.tokens)
    same(OFFSETS["chunks"], "chunks", values["chunks"], plan.chunks)
    first = plan[0] if plan.known else plan.chunk(0, plan.per_chunk)
    within(OFFSETS["chunk positions"], "payload of a chunk", first.least, 0, limits.chunk_bytes)
    within(OFFSETS["chunk positions"], "codes of a chunk", sum(first.part.counts), 0, limits.tokens)
    return plan, size


def _ranges(modality: Modality, streamed: bool, limits: Limits) -> dict[str, tuple[int, int]]:
    image = modality == "image"
    across = (1, MOST) if image else (0, 0)
    extent = (1, limits.side) if image else (0, limits.samples)
    return {
        "coding": (FIXED_WIDTH, PRIOR),
        "codebooks": (1, limits.codebooks),
        "extent": (0, 0) if streamed else extent,
        "extent across": (1, limits.side) if image else (0, 0),
        "sample rate": (0, 0) if image else (1, limits.sample_rate),
        "channels": (1, limits.features if modality == "features" else limits.channels),
        "hop": (1, MOST),
        "hop across": across,
        "window": (1, MOST),
        "window across": across,
        "queries": (1, MOST),
        "chunk positions": (1, MOST),
    }


def _header(head: bytes, values: dict, modality: Modality, limits: Limits) -> Header:
    """What a header says whose CRC is right."""
    inside = head[: -CRC.size]
    coding = values["coding"]
    read_books = _read_books if coding in (FIXED_WIDTH, GRANULAR) else _read_runs
    books, offset = read_books(inside, values, limits)
    strides, offset = _read_denominators(inside, offset, [stride for _, stride in books])
    quality, offset = _read_quality(inside, offset)
    prior, offset = _read_fingerprint(inside, offset) if coding == PRIOR else (None, offset)
    axes = AXES[modality]
    extent, hop, window = ((values[name], values[f"{name} across"])[:axes] for name in ("extent", "hop", "window"))
    return Header(
        modality=modality,
        extent=extent,
        rate=Rate(codebooks=len(books), queries=values["queries"], window=window, quality=quality),
        stream_id=values["stream id"],
        coding=coding,
        channels=values["channels"],
        sample_rate=values["sample rate"] or None,
        hop=hop,
        codebook_sizes=tuple(size for size, _ in books),
        strides=strides,
        extras=_read_extras(inside, offset),
        profile="container",
        chunk_positions=values["chunk positions"],
        streamed=bool(values["critical flags"]),
        prior=prior,
    )


def _read_books(head: bytes, values: dict, limits: Limits) -> tuple[list[tuple[int, int]], int]:
    offset, books = _HEADER.size, []
    within(OFFSETS["codebooks"], "bytes of the codebooks", _BOOK.size * values["codebooks"], 0, len(head) - offset)
    for _ in range(values["codebooks"]):
        size, stride = _BOOK.unpack_from(head, offset)
        books.append(_checked_book(offset, size, stride, values, limits))
        offset += _BOOK.size
    return books, offset


def _read_runs(head: bytes, values: dict, limits: Limits) -> tuple[list[tuple[int, int]], int]:
    offset, books = _HEADER.size, list[tuple[int, int]]()
    while len(books) < values["codebooks"]:
        count, size, stride = _RUN.unpack(take(head, offset, _RUN.size, "codebooks"))
        within(offset, "equal codebooks", count, 1, values["codebooks"] - len(books))
        checked = _checked_book(offset + 4, size, stride, values, limits)
        same(offset, "a run like the one before it", books[-1:] == [checked], False)
        books += [checked] * count
        offset += _RUN.size
    return books, offset


def _checked_book(offset: int, codes: int, stride: int, values: dict, limits: Limits) -> tuple[int, int]:
    """Size and stride that stand at an offset."""
    within(offset, "codebook size", codes, 2, limits.codebook_size)
    within(offset + 4, "stride", stride, 1, MOST)
    same(offset + 4, "chunk positions beyond whole strides", values["chunk positions"] % stride, 0)
    return codes, stride


def _read_quality(head: bytes, offset: int) -> tuple[float | None, int]:
    """The quality, and the offset of the other extra fields."""
    if head[offset : offset + 2] != QUALITY.to_bytes(2, "little"):
        return None, offset
    size = _EXTRA.unpack(take(head, offset, _EXTRA.size, "quality"))[1]
    same(offset + 2, "bytes of the quality", size, CRC.size)
    number = CRC.unpack(take(head, offset + _EXTRA.size, size, "quality"))[0]
    within(offset + _EXTRA.size, "quality in sixteenths", number, QUALITY_UNIT, MOST)
    return quality_of(number), offset + _EXTRA.size + size


def _read_fingerprint(head: bytes, offset: int) -> tuple[int, int]:
    """The fingerprint of the prior, and the offset of the other extra fields."""
    kind, size = _EXTRA.unpack(take(head, offset, _EXTRA.size, "fingerprint of the prior"))
    same(offset, "the extra field of coding 4", kind, FINGERPRINT)
    same(offset + 2, "bytes of the fingerprint", size, CRC.size)
    start = offset + _EXTRA.size
    return CRC.unpack(take(head, start, size, "fingerprint of the prior"))[0], start + size


def _read_denominators(head: bytes, offset: int, strides: list[int]) -> tuple[tuple[int | Fraction, ...], int]:
    """The strides, and the offset of the other extra fields: of fractions, the first field divides them."""
    if head[offset : offset + 2] != DENOMINATORS.to_bytes(2, "little"):
        return tuple(strides), offset
    size = _EXTRA.unpack(take(head, offset, _EXTRA.size, "denominators"))[1]
    same(offset + 2, "bytes of the denominators", size, CRC.size * len(strides))
    start = offset + _EXTRA.size
    below = [number for (number,) in CRC.iter_unpack(take(head, start, size, "denominators"))]
    within(start, "the largest denominator", max(below), 2, MOST)
    for place, (stride, divisor) in enumerate(zip(strides, below, strict=True)):
        within(start + 4 * place, "a denominator", divisor, 1, stride)
        same(start + 4 * place, "the divisor of a stride and its denominator", math.gcd(stride, divisor), 1)
    pairs = zip(strides, below, strict=True)
    return tuple(Fraction(*pair) if pair[1] > 1 else pair[0] for pair in pairs), start + size


def _read_extras(head: bytes, offset: int) -> tuple[tuple[int, bytes], ...]:
    extras = []
    while offset < len(head):
        kind, size = _EXTRA.unpack(take(head, offset, _EXTRA.size, "extra field"))
        within(offset, "type of an extra field (critical ones are of a newer version)", kind, 0, 2**15 - 1)
        extras.append((kind, bytes(take(head, offset + _EXTRA.size, size, f"extra field {kind}"))))
        offset += _EXTRA.size + size
    return tuple(extras)
