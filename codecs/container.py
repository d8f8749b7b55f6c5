"""The container profile of `.sgt`: header, chunks, index, trailer; `bitstream` has the format. No torch."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from zlib import crc32

import numpy as np

from sigtok.codecs.entropy.granules import ABSENT, Windows
from sigtok.codecs.entropy.packing import packed_bits, packed_bytes

from .header import (
    FIXED_WIDTH,
    GRANULAR,
    MODALITIES,
    MODALITY_NAMES,
    MOST,
    VERSION,
    BitstreamError,
    Header,
    Limits,
    Stream,
    check_end,
    check_length,
    code_bytes,
    pack_codes,
    same,
    same_fields,
    take,
    unpack_codes,
    windows_of,
    within,
)
from .spec import AXES, CodecSpec, Extent, Modality, Rate

MAGIC = b"\x89SGT\r\n\x1a\n"
DENOMINATORS = 0x8001  # an extra field: 4 bytes a codebook, what its stride is divided by
SECONDS, POSITIONS, PAYLOAD = (
    30,
    2**15,
    2**12,
)  # a chunk has the smaller of the first two, and at least the third

_FIELDS = (
    ("magic", "8s"), ("major", "B"), ("minor", "B"), ("critical flags", "B"), ("optional flags", "B"),
    ("header bytes", "I"), ("modality", "B"), ("coding", "B"), ("codebooks", "H"), ("stream id", "16s"),
    ("extent", "Q"), ("extent across", "Q"), ("sample rate", "I"), ("channels", "I"), ("hop", "I"),
    ("hop across", "I"), ("window", "I"), ("window across", "I"), ("queries", "I"), ("chunk positions", "I"),
    ("chunks", "I"),
)  # fmt: skip
_HEADER = struct.Struct("<" + "".join(code for _, code in _FIELDS))
_OFFSETS = {
    name: struct.calcsize("<" + "".join(code for _, code in _FIELDS[:place])) for place, (name, _) in enumerate(_FIELDS)
}
_BOOK, _EXTRA = struct.Struct("<II"), struct.Struct("<HI")
_CHUNK, _CRC = struct.Struct("<4sIIIQ"), struct.Struct("<I")
_ENTRY, _TRAILER = struct.Struct("<QQII"), struct.Struct("<QII8s4s4s")
_CHUNK_FIELDS = ("mark", "payload bytes", "sequence", "positions", "first position")
_ENTRY_FIELDS = ("offset", "first position", "positions", "payload bytes")
_TRAILER_FIELDS = (
    "index offset",
    "chunks",
    "CRC of the index",
    "digest of the codes",
    "reserved bytes",
    "end mark",
)


# -- the plan: what both sides count by --------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunk:
    """Everything about a chunk but its codes; of several granularities its payload is known only to be no smaller."""

    sequence: int
    start: int
    positions: int
    slices: tuple[slice, ...]
    counts: tuple[int, ...]
    windows: Windows | None
    least: int

    def head(self, payload: int) -> bytes:
        return _CHUNK.pack(b"CHNK", payload, self.sequence, self.positions, self.start)

    def entry(self, offset: int, payload: int) -> tuple[int, int, int, int]:
        return offset, self.start, self.positions, payload


class _Plan:
    """The chunks of a container; their heads, their sizes and the index all follow from it."""

    def __init__(self, spec: CodecSpec, extent: Extent, per_chunk: int) -> None:
        if bad := [stride for stride in spec.strides if per_chunk % stride]:
            raise ValueError(f"a chunk is a multiple of every stride, got {per_chunk} positions, stride {bad[0]}")
        if spec.granular and per_chunk % spec.queries:
            raise ValueError(
                f"a chunk of several granularities is whole windows of {spec.queries} positions, got {per_chunk}"
            )
        self.spec, self.per_chunk, self.windows = spec, per_chunk, windows_of(spec, extent)
        self.positions, self.counts = spec.positions(extent), spec.token_counts(extent)
        self.chunks = -(-self.positions // per_chunk)

    def __getitem__(self, sequence: int) -> _Chunk:
        start, end = sequence * self.per_chunk, (sequence + 1) * self.per_chunk
        slices = tuple(
            slice(start // stride, min(end // stride, count))
            for stride, count in zip(self.spec.strides, self.counts, strict=True)
        )
        counts = tuple(part.stop - part.start for part in slices)
        positions, sizes = min(end, self.positions) - start, self.spec.codebook_sizes
        windows = self.windows
        if windows is not None:
            windows = windows.part(start // windows.queries, positions // windows.queries)
        least = packed_bytes(counts, sizes) if windows is None else -(-windows.least_bits(sizes) // 8)
        return _Chunk(sequence, start, positions, slices, counts, windows, least)

    def __iter__(self) -> Iterator[_Chunk]:
        return (self[sequence] for sequence in range(self.chunks))

    @property
    def least(self) -> int:
        """Bytes of all payloads at least; every chunk but the last has the size of the first."""
        return (self.chunks - 1) * self[0].least + self[self.chunks - 1].least if self.chunks else 0

    @property
    def body(self) -> int:
        """Bytes of a file behind its header: exactly, or at least of several granularities."""
        return self.least + self.chunks * (_CHUNK.size + _CRC.size + _ENTRY.size) + _TRAILER.size


def _choose_chunk(spec: CodecSpec) -> int:
    step = math.lcm(spec.queries if spec.granular else 1, *(Fraction(stride).numerator for stride in spec.strides))
    counts = [int(step / stride) for stride in spec.strides]
    size = POSITIONS
    if spec.sample_rate is not None:
        size = min(size, int(spec.frame_rate * SECONDS * spec.queries / spec.windows[0][0]))
    spoken = 1 if spec.granular else len(counts)  # codebooks that have a code at every position, if need be
    bits = packed_bits(counts[:spoken], spec.codebook_sizes[:spoken])
    size = max(size, PAYLOAD * 8 * step // bits, 1)
    return -(-size // step) * step


# -- writing -----------------------------------------------------------------------------------------------


def write_container(stream: Stream) -> bytes:
    """The container of checked codes."""
    spec = stream.header.spec
    plan = _Plan(spec, stream.header.extent, stream.header.chunk_positions or _choose_chunk(spec))
    parts, index, digest = [_head(stream.header, plan)], b"", hashlib.sha256()
    offset = len(parts[0])
    for chunk in plan:
        codes = tuple(book[part] for book, part in zip(stream.codes, chunk.slices, strict=True))
        values = code_bytes(codes)
        payload = pack_codes(codes, spec.codebook_sizes, chunk.windows)
        head = chunk.head(len(payload))
        block = head + _CRC.pack(crc32(values, crc32(head))) + payload
        index += _ENTRY.pack(*chunk.entry(offset, len(payload)))
        offset += len(block)
        digest.update(values)
        parts.append(block)
    trailer = _TRAILER.pack(offset, plan.chunks, crc32(index), digest.digest()[:8], bytes(4), b"SGTE")
    return b"".join([*parts, index, trailer])


def _head(header: Header, plan: _Plan) -> bytes:
    assert header.hop and header.rate.window and header.codebook_sizes and header.strides
    if len(header.stream_id) != 16:
        raise ValueError(f"a container stores a stream id of 16 bytes, got {len(header.stream_id)}")
    strides = [Fraction(stride) for stride in header.strides]
    sizes = zip(header.codebook_sizes, strides, strict=True)
    books = b"".join(_BOOK.pack(size, stride.numerator) for size, stride in sizes)
    below = b"".join(_CRC.pack(stride.denominator) for stride in strides)
    fields = [(DENOMINATORS, below)] * any(stride.denominator > 1 for stride in strides) + list(header.extras)
    extras = b"".join(_EXTRA.pack(kind, len(value)) + value for kind, value in fields)
    head = _HEADER.pack(
        MAGIC, VERSION, 0, 0, 0, _HEADER.size + len(books) + len(extras) + _CRC.size,
        MODALITIES[header.modality], header.coding, len(header.codebook_sizes), header.stream_id,
        *_two(header.extent), header.sample_rate or 0, header.channels, *_two(header.hop),
        *_two(header.rate.window), header.rate.queries, plan.per_chunk, plan.chunks,
    )  # fmt: skip
    head += books + extras
    return head + _CRC.pack(crc32(head))


def _two(values: tuple[int, ...]) -> tuple[int, ...]:
    return (*values, 0)[:2]


# -- reading -----------------------------------------------------------------------------------------------


def read_container(data: bytes, limits: Limits) -> Stream:
    """The codes of a container.

    Raises:
        BitstreamError: If a bit is damaged or missing, or bytes follow the end.
    """
    header, plan, offset = _read_head(data, limits)
    _check_size(data, offset, plan, limits)
    parts, index, digest = [], [], hashlib.sha256()
    for chunk in plan:
        codes, payload = _read_chunk(data, offset, chunk, header, limits)
        parts.append(codes)
        digest.update(code_bytes(codes))
        index.append(chunk.entry(offset, payload))
        offset += _CHUNK.size + _CRC.size + payload
    start = offset
    for number, entry in enumerate(index):
        names = tuple(f"{name} of chunk {number} in the index" for name in _ENTRY_FIELDS)
        same_fields(data, offset, _ENTRY, names, entry)
        offset += _ENTRY.size
    trailer = (start, plan.chunks, crc32(data[start:offset]), digest.digest()[:8], bytes(4), b"SGTE")
    same_fields(data, offset, _TRAILER, _TRAILER_FIELDS, trailer)
    check_end(data, offset + _TRAILER.size)
    empty = tuple(np.empty(0, np.int64) for _ in plan.counts)
    return Stream(header, tuple(np.concatenate(book) for book in zip(empty, *parts, strict=True)))


def salvage_container(data: bytes, limits: Limits) -> Stream:
    """Every undamaged chunk of a container whose header is whole, -1 elsewhere.

    Raises:
        BitstreamError: If the header is damaged, or the file holds less than 1/64 of its declared payload.
    """
    header, plan, offset = _read_head(data, limits)
    within(_OFFSETS["extent"], "declared payload", plan.least, 0, 64 * len(data))
    _check_codes(data, plan, limits)
    codes = tuple(np.full(count, ABSENT, np.int64) for count in plan.counts)
    left = 2 * plan.chunks + 64  # marks to look at: more would be a payload full of them, and quadratic time
    while (offset := data.find(b"CHNK", offset)) >= 0 and left:
        left -= 1
        sequence = int.from_bytes(data[offset + 8 : offset + 12], "little")
        try:
            within(offset, "sequence", sequence, 0, plan.chunks - 1)
            found, payload = _read_chunk(data, offset, plan[sequence], header, limits)
        except BitstreamError:
            offset += 1
            continue
        for book, part, values in zip(codes, plan[sequence].slices, found, strict=True):
            book[part] = values
        offset += _CHUNK.size + _CRC.size + payload
    return Stream(header, codes)


def read_container_header(data: bytes, limits: Limits) -> Header:
    """What a container says about itself."""
    return _read_head(data, limits)[0]


def _check_size(data: bytes, offset: int, plan: _Plan, limits: Limits) -> None:
    """The file is as long as its header says; of several granularities long enough for what it will be unpacked to."""
    if plan.spec.granular:
        check_length(data, offset + plan.body)
        _check_codes(data, plan, limits)
    else:
        check_end(data, offset + plan.body)


def _check_codes(data: bytes, plan: _Plan, limits: Limits) -> None:
    """Codes, absent ones too, are in proportion to the file."""
    if plan.spec.granular:
        most = limits.codes_per_byte * len(data)
        within(_OFFSETS["extent"], "codes in all of such a short file", sum(plan.counts), 0, most)


def _read_chunk(
    data: bytes, offset: int, chunk: _Chunk, header: Header, limits: Limits
) -> tuple[tuple[np.ndarray, ...], int]:
    """The codes of a chunk, and the bytes of its payload."""
    names = tuple(f"{name} of chunk {chunk.sequence}" for name in _CHUNK_FIELDS)
    payload = chunk.least
    if chunk.windows is not None:
        payload = _CHUNK.unpack(take(data, offset, _CHUNK.size, names[0]))[1]
        within(offset + 4, names[1], payload, chunk.least, limits.chunk_bytes)
    head = chunk.head(payload)
    same_fields(data, offset, _CHUNK, names, _CHUNK.unpack(head))
    crc = _CRC.unpack(take(data, offset + _CHUNK.size, _CRC.size, f"CRC of chunk {chunk.sequence}"))[0]
    start = offset + _CHUNK.size + _CRC.size
    take(data, start, payload, f"payload of chunk {chunk.sequence}")
    codes = unpack_codes(data, start, start + payload, header, chunk.counts, chunk.windows)
    same(offset + _CHUNK.size, f"CRC of chunk {chunk.sequence}", crc, crc32(code_bytes(codes), crc32(head)))
    return codes, payload


def _read_head(data: bytes, limits: Limits) -> tuple[Header, _Plan, int]:
    same(0, "magic of an .sgt file", bytes(data[:8]), MAGIC)
    values = dict(zip(_OFFSETS, _HEADER.unpack(take(data, 0, _HEADER.size, "header")), strict=True))
    same(8, "major version", values["major"], VERSION)
    same(10, "critical flags", values["critical flags"], 0)
    size = values["header bytes"]
    within(12, "header bytes", size, _HEADER.size + _BOOK.size + _CRC.size, limits.header_bytes)
    crc = _CRC.unpack(take(data, 0, size, "header")[-4:])[0]
    same(size - 4, "CRC of the header", crc, crc32(data[: size - 4]))
    within(_OFFSETS["modality"], "modality", values["modality"], 1, len(MODALITIES))
    modality = MODALITY_NAMES[values["modality"]]
    for name, (least, most) in _ranges(modality, limits).items():
        within(_OFFSETS[name], name, values[name], least, most)
    if modality == "image":
        within(_OFFSETS["extent"], "height x width", values["extent"] * values["extent across"], 1, limits.pixels)
    header = _header(data, values, modality, size - 4, limits)
    try:
        plan = _Plan(header.spec, header.extent, values["chunk positions"])
    except ValueError as error:
        raise BitstreamError(f"byte {_OFFSETS['chunk positions']}: {error}") from None
    within(_OFFSETS["extent"], "codes in all", sum(plan.counts), 0, limits.tokens)
    same(_OFFSETS["chunks"], "chunks", values["chunks"], plan.chunks)
    within(_OFFSETS["chunk positions"], "payload of a chunk", plan[0].least, 0, limits.chunk_bytes)
    return header, plan, size


def _ranges(modality: Modality, limits: Limits) -> dict[str, tuple[int, int]]:
    image = modality == "image"
    across = (1, MOST) if image else (0, 0)
    return {
        "coding": (FIXED_WIDTH, GRANULAR),
        "codebooks": (1, limits.codebooks),
        "extent": (1, limits.side) if image else (0, limits.samples),
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


def _header(data: bytes, values: dict, modality: Modality, end: int, limits: Limits) -> Header:
    books, offset = _read_books(data, values, end, limits)
    strides, offset = _read_denominators(data[:end], offset, [stride for _, stride in books])
    axes = AXES[modality]
    extent, hop, window = ((values[name], values[f"{name} across"])[:axes] for name in ("extent", "hop", "window"))
    return Header(
        modality=modality,
        extent=extent,
        rate=Rate(codebooks=len(books), queries=values["queries"], window=window),
        stream_id=values["stream id"],
        granular=values["coding"] == GRANULAR,
        channels=values["channels"],
        sample_rate=values["sample rate"] or None,
        hop=hop,
        codebook_sizes=tuple(size for size, _ in books),
        strides=strides,
        extras=_read_extras(data[:end], offset),
        profile="container",
        chunk_positions=values["chunk positions"],
    )


def _read_books(data: bytes, values: dict, end: int, limits: Limits) -> tuple[list[tuple[int, int]], int]:
    offset, books = _HEADER.size, []
    within(_OFFSETS["codebooks"], "bytes of the codebooks", _BOOK.size * values["codebooks"], 0, end - offset)
    for _ in range(values["codebooks"]):
        codes, stride = _BOOK.unpack_from(data, offset)
        within(offset, "codebook size", codes, 2, limits.codebook_size)
        within(offset + 4, "stride", stride, 1, MOST)
        same(offset + 4, "chunk positions beyond whole strides", values["chunk positions"] % stride, 0)
        books.append((codes, stride))
        offset += _BOOK.size
    return books, offset


def _read_denominators(head: bytes, offset: int, strides: list[int]) -> tuple[tuple[int | Fraction, ...], int]:
    """The strides, and the offset of the other extra fields: of fractions, the first field divides them."""
    if head[offset : offset + 2] != DENOMINATORS.to_bytes(2, "little"):
        return tuple(strides), offset
    size = _EXTRA.unpack(take(head, offset, _EXTRA.size, "denominators"))[1]
    same(offset + 2, "bytes of the denominators", size, _CRC.size * len(strides))
    start = offset + _EXTRA.size
    below = [number for (number,) in _CRC.iter_unpack(take(head, start, size, "denominators"))]
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
