"""The container profile of `.sgt`: header, chunks, index, trailer; `bitstream` has the format. No torch."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from sigtok.codecs.entropy.packing import pack, packed_bits, packed_bytes

from .header import (
    FIXED_WIDTH,
    MODALITIES,
    MODALITY_NAMES,
    MOST,
    VERSION,
    BitstreamError,
    Header,
    Limits,
    Stream,
    check_end,
    code_bytes,
    same,
    same_fields,
    take,
    unpack_codes,
    within,
)
from .spec import AXES, CodecSpec, Extent, Modality, Rate

MAGIC = b"\x89SGT\r\n\x1a\n"
ABSENT = -1  # what `salvage_container` puts where a code is lost
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
    """Everything about a chunk but its codes."""

    sequence: int
    start: int
    positions: int
    slices: tuple[slice, ...]
    counts: tuple[int, ...]
    payload: int

    def head(self) -> bytes:
        return _CHUNK.pack(b"CHNK", self.payload, self.sequence, self.positions, self.start)

    def entry(self, offset: int) -> tuple[int, int, int, int]:
        return offset, self.start, self.positions, self.payload


class _Plan:
    """The chunks of a container; their heads, their sizes and the index all follow from it."""

    def __init__(self, spec: CodecSpec, extent: Extent, per_chunk: int) -> None:
        if bad := [stride for stride in spec.strides if per_chunk % stride]:
            raise ValueError(f"a chunk is a multiple of every stride, got {per_chunk} positions, stride {bad[0]}")
        self.spec, self.per_chunk = spec, per_chunk
        self.positions, self.counts = spec.positions(extent), spec.token_counts(extent)
        self.chunks = -(-self.positions // per_chunk)

    def __getitem__(self, sequence: int) -> _Chunk:
        start, end = sequence * self.per_chunk, (sequence + 1) * self.per_chunk
        slices = tuple(
            slice(start // stride, min(end // stride, count))
            for stride, count in zip(self.spec.strides, self.counts, strict=True)
        )
        counts = tuple(part.stop - part.start for part in slices)
        payload = packed_bytes(counts, self.spec.codebook_sizes)
        return _Chunk(sequence, start, min(end, self.positions) - start, slices, counts, payload)

    def __iter__(self) -> Iterator[_Chunk]:
        return (self[sequence] for sequence in range(self.chunks))

    @property
    def payload(self) -> int:
        """Bytes of all payloads; every chunk but the last has the size of the first."""
        return (self.chunks - 1) * self[0].payload + self[self.chunks - 1].payload if self.chunks else 0

    @property
    def body(self) -> int:
        """Bytes of a file behind its header."""
        return self.payload + self.chunks * (_CHUNK.size + _CRC.size + _ENTRY.size) + _TRAILER.size


def _choose_chunk(spec: CodecSpec) -> int:
    step = math.lcm(*spec.strides)
    counts = [step // stride for stride in spec.strides]
    size = POSITIONS
    if spec.sample_rate is not None:
        size = min(size, int(spec.frame_rate * SECONDS * spec.queries / spec.windows[0][0]))
    size = max(size, PAYLOAD * 8 * step // packed_bits(counts, spec.codebook_sizes), 1)
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
        block = chunk.head() + _CRC.pack(crc32(values, crc32(chunk.head()))) + pack(codes, spec.codebook_sizes)
        index += _ENTRY.pack(*chunk.entry(offset))
        offset += len(block)
        digest.update(values)
        parts.append(block)
    trailer = _TRAILER.pack(offset, plan.chunks, crc32(index), digest.digest()[:8], bytes(4), b"SGTE")
    return b"".join([*parts, index, trailer])


def _head(header: Header, plan: _Plan) -> bytes:
    assert header.hop and header.rate.window and header.codebook_sizes and header.strides
    if len(header.stream_id) != 16:
        raise ValueError(f"a container stores a stream id of 16 bytes, got {len(header.stream_id)}")
    books = b"".join(_BOOK.pack(*book) for book in zip(header.codebook_sizes, header.strides, strict=True))
    extras = b"".join(_EXTRA.pack(kind, len(value)) + value for kind, value in header.extras)
    head = _HEADER.pack(
        MAGIC, VERSION, 0, 0, 0, _HEADER.size + len(books) + len(extras) + _CRC.size,
        MODALITIES[header.modality], FIXED_WIDTH, len(header.codebook_sizes), header.stream_id,
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
    check_end(data, offset + plan.body)
    parts, index, digest = [], [], hashlib.sha256()
    for chunk in plan:
        parts.append(_read_chunk(data, offset, chunk, header))
        digest.update(code_bytes(parts[-1]))
        index.append(chunk.entry(offset))
        offset += _CHUNK.size + _CRC.size + chunk.payload
    start = offset
    for number, entry in enumerate(index):
        names = tuple(f"{name} of chunk {number} in the index" for name in _ENTRY_FIELDS)
        same_fields(data, offset, _ENTRY, names, entry)
        offset += _ENTRY.size
    trailer = (start, plan.chunks, crc32(data[start:offset]), digest.digest()[:8], bytes(4), b"SGTE")
    same_fields(data, offset, _TRAILER, _TRAILER_FIELDS, trailer)
    empty = tuple(np.empty(0, np.int64) for _ in plan.counts)
    return Stream(header, tuple(np.concatenate(book) for book in zip(empty, *parts, strict=True)))


def salvage_container(data: bytes, limits: Limits) -> Stream:
    """Every undamaged chunk of a container whose header is whole, -1 elsewhere.

    Raises:
        BitstreamError: If the header is damaged, or the file holds less than 1/64 of its declared payload.
    """
    header, plan, offset = _read_head(data, limits)
    within(_OFFSETS["extent"], "declared payload", plan.payload, 0, 64 * len(data))
    codes = tuple(np.full(count, ABSENT, np.int64) for count in plan.counts)
    while (offset := data.find(b"CHNK", offset)) >= 0:
        sequence = int.from_bytes(data[offset + 8 : offset + 12], "little")
        try:
            within(offset, "sequence", sequence, 0, plan.chunks - 1)
            found = _read_chunk(data, offset, plan[sequence], header)
        except BitstreamError:
            offset += 1
            continue
        for book, part, values in zip(codes, plan[sequence].slices, found, strict=True):
            book[part] = values
        offset += _CHUNK.size + _CRC.size + plan[sequence].payload
    return Stream(header, codes)


def read_container_header(data: bytes, limits: Limits) -> Header:
    """What a container says about itself."""
    return _read_head(data, limits)[0]


def _read_chunk(data: bytes, offset: int, chunk: _Chunk, header: Header) -> tuple[np.ndarray, ...]:
    names = tuple(f"{name} of chunk {chunk.sequence}" for name in _CHUNK_FIELDS)
    same_fields(data, offset, _CHUNK, names, _CHUNK.unpack(chunk.head()))
    crc = _CRC.unpack(take(data, offset + _CHUNK.size, _CRC.size, f"CRC of chunk {chunk.sequence}"))[0]
    start = offset + _CHUNK.size + _CRC.size
    take(data, start, chunk.payload, f"payload of chunk {chunk.sequence}")
    codes = unpack_codes(data, start, start + chunk.payload, header, chunk.counts)
    expected = crc32(code_bytes(codes), crc32(chunk.head()))
    same(offset + _CHUNK.size, f"CRC of chunk {chunk.sequence}", crc, expected)
    return codes


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
    plan = _Plan(header.spec, header.extent, values["chunk positions"])
    within(_OFFSETS["extent"], "codes in all", sum(plan.counts), 0, limits.tokens)
    same(_OFFSETS["chunks"], "chunks", values["chunks"], plan.chunks)
    within(_OFFSETS["chunk positions"], "payload of a chunk", plan[0].payload, 0, limits.chunk_bytes)
    return header, plan, size


def _ranges(modality: Modality, limits: Limits) -> dict[str, tuple[int, int]]:
    image = modality == "image"
    across = (1, MOST) if image else (0, 0)
    return {
        "coding": (FIXED_WIDTH, FIXED_WIDTH),
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
    axes = AXES[modality]
    extent, hop, window = ((values[name], values[f"{name} across"])[:axes] for name in ("extent", "hop", "window"))
    return Header(
        modality=modality,
        extent=extent,
        rate=Rate(codebooks=len(books), queries=values["queries"], window=window),
        stream_id=values["stream id"],
        channels=values["channels"],
        sample_rate=values["sample rate"] or None,
        hop=hop,
        codebook_sizes=tuple(size for size, _ in books),
        strides=tuple(stride for _, stride in books),
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


def _read_extras(head: bytes, offset: int) -> tuple[tuple[int, bytes], ...]:
    extras = []
    while offset < len(head):
        kind, size = _EXTRA.unpack(take(head, offset, _EXTRA.size, "extra field"))
        within(offset, "type of an extra field (critical ones are of a newer version)", kind, 0, 2**15 - 1)
        extras.append((kind, bytes(take(head, offset + _EXTRA.size, size, f"extra field {kind}"))))
        offset += _EXTRA.size + size
    return tuple(extras)
