"""The container profile of `.sgt`: header, chunks, index, trailer; `bitstream` has the format. No torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np

from sigtok.codecs.entropy.coder import EntropyCoder
from sigtok.codecs.entropy.granules import ABSENT

from .container_head import OFFSETS, pack_head, read_head
from .header import (
    FIXED_WIDTH,
    BitstreamError,
    Header,
    Limits,
    Source,
    Stream,
    check_end,
    check_length,
    codes_for,
    same,
    same_fields,
    take,
    within,
)
from .payload import coder_of, pack_codes, signed, unpack_codes
from .plan import CHUNK, CRC, END, ENTRY, TRAILER, Chunk, Plan, plan_of
from .spec import Extent

_CHUNK_FIELDS = ("mark", "payload bytes", "sequence", "positions", "first position")
_END_FIELDS = ("mark of the end", "chunks", "extent")
_ENTRY_FIELDS = ("offset", "first position", "positions", "payload bytes")
_TRAILER_FIELDS = (
    "index offset",
    "chunks",
    "CRC of the index",
    "digest of the codes",
    "reserved bytes",
    "end mark",
)


# -- writing -----------------------------------------------------------------------------------------------


def write_container(stream: Stream, coder: EntropyCoder | None = None) -> bytes:
    """The container of checked codes."""
    plan, coder = plan_of(stream.header), coder_of(stream.header, coder)
    parts, tail = [pack_head(plan)], Tail()
    offset = len(parts[0])
    for chunk in plan:
        codes = tuple(book[part] for book, part in zip(stream.codes, chunk.slices, strict=True))
        parts.append(pack_chunk(plan, chunk, codes, coder, offset, tail))
        offset += len(parts[-1])
    return b"".join([*parts, pack_tail(plan.header, offset, tail)])


class Tail:
    """What stands behind the chunks, as it grows: the index, the digest of all codes."""

    def __init__(self) -> None:
        self.index, self.digest = bytearray(), hashlib.sha256()

    @property
    def chunks(self) -> int:
        """Chunks so far."""
        return len(self.index) // ENTRY.size


def pack_chunk(
    plan: Plan, chunk: Chunk, codes: tuple[np.ndarray, ...], coder: EntropyCoder | None, offset: int, tail: Tail
) -> bytes:
    """A chunk at an offset of the file."""
    payload = pack_codes(codes, chunk.part, plan.header, coder)
    head = chunk.head(len(payload))
    head += CRC.pack(signed(codes, crc32(head), tail.digest))
    if plan.header.coded:
        head += CRC.pack(crc32(payload, crc32(head)))
    tail.index += ENTRY.pack(*chunk.entry(offset, len(payload)))
    return head + payload


def pack_tail(header: Header, offset: int, tail: Tail) -> bytes:
    """The end of a streamed file, the index and the trailer."""
    end = pack_end(tail.chunks, header.extent[0]) if header.streamed else b""
    trailer = (offset + len(end), tail.chunks, crc32(tail.index), tail.digest.digest()[:8], bytes(4), b"SGTE")
    return end + tail.index + TRAILER.pack(*trailer)


def pack_end(chunks: int, extent: int) -> bytes:
    """What a streamed file says behind its last chunk."""
    end = END.pack(b"LAST", chunks, extent)
    return end + CRC.pack(crc32(end))


# -- reading -----------------------------------------------------------------------------------------------


def read_container(data: bytes, limits: Limits, coder: EntropyCoder | None = None) -> Stream:
    """The codes of a container.

    Raises:
        BitstreamError: If a bit is damaged or missing, or bytes follow the end.
    """
    plan, parts = _scan(data, limits, coder, codes=True)
    return Stream(plan.header, joined(parts, plan.counts))


def check_container(data: bytes, limits: Limits) -> None:
    """All of an entropy-coded container but its codes, which only the model's coder reads.

    Raises:
        BitstreamError: If a bit is damaged or missing, or bytes follow the end.
    """
    _scan(data, limits, None, codes=False)


def _scan(
    data: bytes, limits: Limits, coder: EntropyCoder | None, codes: bool
) -> tuple[Plan, list[tuple[np.ndarray, ...]]]:
    """Go through a file from its first byte to its last."""
    plan, offset = read_head(data, limits)
    if plan.header.streamed:
        plan = with_end(plan, *find_end(data, len(data), offset), limits)
    coder = make_coder(plan.header, coder)
    check_size(len(data), offset, plan, limits)
    parts, tail = [], Tail()
    for chunk in plan:
        payload = read_chunk_head(data, offset, chunk, plan, limits)
        if codes:
            parts.append(read_codes(data, offset, payload, chunk, plan, coder, tail.digest))
        tail.index += ENTRY.pack(*chunk.entry(offset, payload))
        offset += plan.overhead + payload
    end = read_tail(data, offset, plan, tail, codes)
    check_end(len(data), end)
    return plan, parts


def make_coder(header: Header, coder: EntropyCoder | None) -> EntropyCoder | None:
    """The coder of a file.

    Raises:
        BitstreamError: If the adaptive coder has no contexts for such codebooks.
    """
    try:
        return coder_of(header, coder)
    except ValueError as error:
        raise BitstreamError(f"byte {OFFSETS['coding']}: {error}") from None


def joined(parts: list[tuple[np.ndarray, ...]], counts: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """The codes of chunks, codebook by codebook."""
    if len(parts) == 1:
        return parts[0]
    empty = tuple(np.empty(0, np.int64) for _ in counts)
    return tuple(np.concatenate(book) for book in zip(empty, *parts, strict=True))


def salvage_container(data: bytes, limits: Limits, coder: EntropyCoder | None = None) -> Stream:
    """Every undamaged chunk of a container whose header is whole, -1 elsewhere.

    A streamed file that has lost its end is taken to end with its last whole chunk.

    Raises:
        BitstreamError: If the header is damaged, or the file holds less than 1/64 of its declared payload.
    """
    plan, offset = read_head(data, limits)
    if plan.header.streamed:
        with suppress(BitstreamError):
            plan = with_end(plan, *find_end(data, len(data), offset), limits)
    coder = make_coder(plan.header, coder)
    if plan.known:
        _check_salvage(len(data), plan, limits)
    found = {chunk.sequence: (chunk, values) for chunk, values in _surviving(data, offset, plan, limits, coder)}
    if not plan.known:
        positions = max((chunk.start + chunk.positions for chunk, _ in found.values()), default=0)
        plan = _with_extent(plan, plan.extent_of(positions), 0, limits)
        _check_salvage(len(data), plan, limits)
    codes = tuple(np.full(count, ABSENT, np.int64) for count in plan.counts)
    for chunk, values in found.values():
        for book, part, part_values in zip(codes, chunk.slices, values, strict=True):
            book[part] = part_values[: len(book[part])]
    return Stream(plan.header, codes)


def _surviving(
    data: bytes, offset: int, plan: Plan, limits: Limits, coder: EntropyCoder | None
) -> Iterator[tuple[Chunk, tuple[np.ndarray, ...]]]:
    """Whole chunks in the order of the file, with their codes."""
    most = plan.chunks if plan.known else 1 + 64 * len(data) // (plan.overhead + plan.chunk(0, plan.per_chunk).least)
    left = 2 * min(most, len(data) // plan.overhead) + 64  # marks to look at: more would be a payload full of them
    while (offset := data.find(b"CHNK", offset)) >= 0 and left:
        left -= 1
        try:
            chunk = _chunk_at(data, offset, plan, most)
            payload = read_chunk_head(data, offset, chunk, plan, limits)
            values = read_codes(data, offset, payload, chunk, plan, coder, None)
        except BitstreamError:
            offset += 1
            continue
        yield chunk, values
        offset += plan.overhead + payload


def _chunk_at(data: bytes, offset: int, plan: Plan, most: int) -> Chunk:
    """The chunk that a head says it is."""
    sequence, positions = CHUNK.unpack(take(data, offset, CHUNK.size, "a chunk"))[2:4]
    within(offset + 8, "sequence", sequence, 0, most - 1)
    if plan.known:
        return plan[sequence]
    return chunk_of(plan, sequence, positions, offset)


def _check_salvage(size: int, plan: Plan, limits: Limits) -> None:
    within(OFFSETS["extent"], "declared payload", plan.least, 0, 64 * size)
    _check_codes(size, plan, limits)


def read_container_header(data: bytes, limits: Limits) -> Header:
    """What a container says about itself; of a streamed one, its end too."""
    plan, offset = read_head(data, limits)
    return with_end(plan, *find_end(data, len(data), offset), limits).header if plan.header.streamed else plan.header


def check_size(size: int, offset: int, plan: Plan, limits: Limits) -> None:
    """The file is as long as its header says; in other codings long enough for what it will be unpacked to."""
    if plan.header.coding == FIXED_WIDTH:
        check_end(size, offset + plan.body)
    else:
        check_length(size, offset + plan.body)
        _check_codes(size, plan, limits)


def _check_codes(size: int, plan: Plan, limits: Limits) -> None:
    """Codes, absent ones too, are in proportion to the file."""
    if plan.header.coding != FIXED_WIDTH:
        most = codes_for(size, plan.header, limits)
        within(OFFSETS["extent"], "codes in all of such a short file", sum(plan.counts), 0, most)


# -- the end of a streamed file ----------------------------------------------------------------------------


def find_end(data: Source, size: int, offset: int) -> tuple[int, int, int]:
    """Chunks and extent of a streamed file of so many bytes, and where it says so, found by its trailer."""
    start = size - TRAILER.size
    if start < offset:
        raise BitstreamError(f"byte {size}: a streamed file has a trailer of {TRAILER.size} bytes, got its head")
    index, _, _, _, _, mark = TRAILER.unpack(take(data, start, TRAILER.size, "trailer"))
    if mark != b"SGTE":
        raise BitstreamError(f"byte {size - 4}: a streamed file ends with SGTE, got {mark!r}; it is cut short")
    least = offset + END.size + CRC.size
    within(start, "index offset", index, least, start)
    at = index - END.size - CRC.size
    return (*read_end(data, at), at)


def read_end(data: Source, offset: int) -> tuple[int, int]:
    """Chunks and extent that stand at an offset."""
    mark, chunks, extent = END.unpack(take(data, offset, END.size, _END_FIELDS[0]))
    same(offset, _END_FIELDS[0], mark, b"LAST")
    crc = CRC.unpack(take(data, offset + END.size, CRC.size, "CRC of the end"))[0]
    same(offset + END.size, "CRC of the end", crc, crc32(END.pack(mark, chunks, extent)))
    return chunks, extent


def with_end(plan: Plan, chunks: int, extent: int, offset: int, limits: Limits) -> Plan:
    """The plan of a streamed file when its end is known, which stands at an offset."""
    plan = _with_extent(plan, (extent, *plan.header.extent[1:]), offset + 8, limits)
    same(offset + 4, "chunks", chunks, plan.chunks)
    return plan


def _with_extent(plan: Plan, extent: Extent, offset: int, limits: Limits) -> Plan:
    image = len(extent) > 1
    within(offset, "extent", extent[0], int(image), limits.side if image else limits.samples)
    if image:
        within(offset, "height x width", math.prod(extent), 1, limits.pixels)
    plan = Plan(replace(plan.header, extent=extent), plan.per_chunk)
    within(offset, "codes in all", sum(plan.counts), 0, limits.tokens)
    return plan


# -- chunks, index and trailer -----------------------------------------------------------------------------


def chunk_of(plan: Plan, sequence: int, positions: int, offset: int) -> Chunk:
    """The chunk that a head at an offset says it is, where only it says how long."""
    within(offset + 12, f"positions of chunk {sequence}", positions, 1, plan.per_chunk)
    same(offset + 12, f"positions of chunk {sequence} beyond whole rows or windows", positions % plan.unit, 0)
    return plan.chunk(sequence, positions)


def read_chunk_head(data: Source, offset: int, chunk: Chunk, plan: Plan, limits: Limits) -> int:
    """The bytes of the payload of a chunk, if its head is right and they are there; checked as far as they need no
    coder."""
    names = tuple(f"{name} of chunk {chunk.sequence}" for name in _CHUNK_FIELDS)
    payload, header = chunk.least, plan.header
    if header.coding != FIXED_WIDTH:
        payload = CHUNK.unpack(take(data, offset, CHUNK.size, names[0]))[1]
        within(offset + 4, names[1], payload, chunk.least, limits.chunk_bytes)
    head = chunk.head(payload)
    same_fields(data, offset, CHUNK, names, CHUNK.unpack(head))
    sums = take(data, offset + CHUNK.size, plan.overhead - CHUNK.size, f"CRC of chunk {chunk.sequence}")
    if header.coded:
        most = codes_for(plan.overhead + payload, header, limits)
        within(offset + 12, f"codes of so short a chunk {chunk.sequence}", sum(chunk.part.counts), 0, most)
        coded = take(data, offset + plan.overhead, payload, f"payload of chunk {chunk.sequence}")
        crc = crc32(coded, crc32(head + sums[: CRC.size]))
        same(offset + CHUNK.size + CRC.size, f"CRC of the payload of chunk {chunk.sequence}", _unpacked(sums), crc)
    return payload


def _unpacked(sums: bytes) -> int:
    return CRC.unpack(sums[-CRC.size :])[0]


def read_codes(
    data: Source, offset: int, payload: int, chunk: Chunk, plan: Plan, coder: EntropyCoder | None, digest: Any
) -> tuple[np.ndarray, ...]:
    """The codes of a chunk whose head is right."""
    start = offset + plan.overhead
    head = take(data, offset, plan.overhead, f"chunk {chunk.sequence}")
    take(data, start, payload, f"payload of chunk {chunk.sequence}")
    codes = unpack_codes(data, start, start + payload, chunk.part, plan.header, coder)
    crc = signed(codes, crc32(head[: CHUNK.size]), digest)
    expected = CRC.unpack_from(head, CHUNK.size)[0]
    same(offset + CHUNK.size, f"CRC of chunk {chunk.sequence}", expected, crc)
    return codes


def read_tail(data: Source, offset: int, plan: Plan, tail: Tail, codes: bool = True) -> int:
    """The end of the file, if it says what its chunks say: the end of a streamed one, the index and the trailer."""
    if plan.header.streamed:
        end = END.pack(b"LAST", plan.chunks, plan.header.extent[0])
        same_fields(data, offset, END, _END_FIELDS, END.unpack(end))
        read_end(data, offset)
        offset += END.size + CRC.size
    start = offset
    for number, entry in enumerate(ENTRY.iter_unpack(tail.index)):
        names = tuple(f"{name} of chunk {number} in the index" for name in _ENTRY_FIELDS)
        same_fields(data, offset, ENTRY, names, entry)
        offset += ENTRY.size
    found = take(data, offset, TRAILER.size, _TRAILER_FIELDS[0])
    digest = tail.digest.digest()[:8] if codes else found[16:24]
    trailer = (start, plan.chunks, crc32(tail.index), digest, bytes(4), b"SGTE")
    same_fields(data, offset, TRAILER, _TRAILER_FIELDS, trailer)
    return offset + TRAILER.size


def read_index(data: Source, size: int, offset: int, plan: Plan, limits: Limits) -> list[tuple[int, int]]:
    """Offset and payload bytes of every chunk of a file of so many bytes, from its index alone."""
    end = (END.size + CRC.size) * plan.header.streamed
    start = size - TRAILER.size - plan.chunks * ENTRY.size
    at, chunks, crc, _, zeros, mark = TRAILER.unpack(take(data, size - TRAILER.size, TRAILER.size, "trailer"))
    names = ("index offset", "chunks", "reserved bytes", "end mark")
    for name, value, right in zip(
        names, (at, chunks, zeros, mark), (start, plan.chunks, bytes(4), b"SGTE"), strict=True
    ):
        same(size - TRAILER.size, name, value, right)
    index = take(data, start, plan.chunks * ENTRY.size, "index")
    same(size - TRAILER.size + 12, "CRC of the index", crc, crc32(index))
    places = []
    for number, entry in enumerate(ENTRY.iter_unpack(index)):
        chunk, here = plan[number], start + number * ENTRY.size
        within(here + 20, "payload bytes", entry[3], chunk.least, limits.chunk_bytes)
        same(here, f"entry of chunk {number} in the index", entry, chunk.entry(offset, entry[3]))
        places.append((offset, entry[3]))
        offset += plan.overhead + entry[3]
    same(size - TRAILER.size, "end of the chunks", offset, start - end)
    return places
