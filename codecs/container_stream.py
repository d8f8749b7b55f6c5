"""Containers chunk by chunk: to and from pipes at bounded memory, and any part of a file by its index. No torch.

::

    writer = Writer(file, Header.of(spec, rate, (0,), stream_id))    for piece in Reader(file, spec, stream_id):
    writer.append(codes)  # any number of times                          piece.codes  # from position piece.start on
    writer.close()

A `Writer` of an extent that is not known writes a streamed file (`bitstream` has the format). Memory is that of a chunk
and of 24 bytes per chunk for the index.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sigtok.codecs.entropy.coder import EntropyCoder

from .bitstream import check_coder, check_model, read, read_header
from .container import (
    Tail,
    check_size,
    chunk_of,
    find_end,
    joined,
    make_coder,
    pack_chunk,
    pack_tail,
    read_chunk_head,
    read_codes,
    read_end,
    read_index,
    read_tail,
    with_end,
)
from .container_head import pack_head, read_head
from .header import BitstreamError, Header, Limits, Source, check_codes, same, take, within
from .packet import MAGIC as PACKET_MAGIC
from .payload import coder_of
from .plan import CHUNK, ENTRY, Chunk, Plan, plan_of
from .spec import CodecSpec

_DEFAULT = Limits()
_BLOCK = 2**16  # bytes that are asked of a pipe at once: what is declared is no reason to make room


@dataclass(frozen=True, eq=False)
class Piece:
    """Codes of a part of a signal.

    Args:
        start: Its first position.
        positions: How many it has.
        codes: One int64 array per codebook in use; token n lies at position ``start + n x stride``.
    """

    start: int
    positions: int
    codes: tuple[np.ndarray, ...]


# -- writing -----------------------------------------------------------------------------------------------


class Writer:
    """Writes a streamed container to anything with ``write``, chunk by chunk; without `close` it has no end.

    Args:
        file: A pipe, socket or file, open for bytes; it stays open.
        header: Of the codes; its extent is told at the end, of a picture but the width.
        coder: The model's own, if the coding is 2; the prior, if it is 4.

    Raises:
        ValueError: If a container cannot have such a header.
    """

    def __init__(self, file: Any, header: Header, coder: EntropyCoder | None = None) -> None:
        header = replace(header, profile="container", streamed=True, extent=(0, *header.extent[1:]))
        self._file, self._plan, self._coder = file, plan_of(header, known=False), coder_of(header, coder)
        self._tail, self._offset, self._closed = Tail(), 0, False
        self._waiting = (np.empty(0, np.int64),) * len(self._plan.spec.strides)
        self._write(pack_head(self._plan))

    def append(self, codes: Sequence[np.ndarray]) -> None:
        """Write the chunks that are whole now.

        Args:
            codes: The next codes of each codebook, any number of them; in the end they are as many as the extent needs.

        Raises:
            ValueError: If codes are missing, absent or outside their codebook, or the file is closed.
        """
        if self._closed:
            raise ValueError("codes are appended before the end, got some after close(); start another file")
        shapes = [new.ndim for new in codes if new.dtype.kind in "iu"]
        if shapes != [1] * len(self._waiting):
            raise ValueError(f"codes are integers [N] of {len(self._waiting)} codebooks, got {len(shapes)} such arrays")
        pairs = zip(self._waiting, codes, strict=True)
        self._waiting = tuple(np.concatenate((waiting, new.astype(np.int64))) for waiting, new in pairs)
        while self._has(chunk := self._plan.chunk(self._tail.chunks, self._plan.per_chunk)):
            self._put(chunk)

    def close(self, extent: int | None = None) -> None:
        """Write what waits, and the end.

        Args:
            extent: Samples or frames, or rows of a picture, that the codes stand for; None for whole windows.

        Raises:
            ValueError: If an extent has more codes than there are, or fewer.
        """
        start = self._tail.chunks * self._plan.per_chunk
        waiting = int(len(self._waiting[0]) * self._plan.spec.strides[0])
        whole = self._plan.extent_of(start + waiting)
        plan = Plan(
            replace(self._plan.header, extent=(extent, *whole[1:]) if extent is not None else whole),
            self._plan.per_chunk,
        )
        last = plan.chunk(self._tail.chunks, plan.positions - start)
        found = tuple(map(len, self._waiting))
        if found != last.part.counts:
            raise ValueError(
                f"an extent of {plan.header.extent} has {last.part.counts} codes behind position {start}, got {found}; "
                f"close with the extent that the codes stand for"
            )
        if last.positions:
            self._put(last)
        self._write(pack_tail(plan.header, self._offset, self._tail))
        self._closed = True

    def _has(self, chunk: Chunk) -> bool:
        """Whether all codes of a chunk wait."""
        return all(len(codes) >= count for codes, count in zip(self._waiting, chunk.part.counts, strict=True))

    def _put(self, chunk: Chunk) -> None:
        pairs = tuple(zip(self._waiting, chunk.part.counts, strict=True))
        codes = tuple(waiting[:count] for waiting, count in pairs)
        self._waiting = tuple(waiting[count:] for waiting, count in pairs)
        check_codes(codes, self._plan.spec.codebook_sizes, chunk.part.windows)
        self._write(pack_chunk(self._plan, chunk, codes, self._coder, self._offset, self._tail))

    def _write(self, data: bytes) -> None:
        """All of the bytes, if the file takes a few at a time."""
        self._offset += len(data)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


# -- reading -----------------------------------------------------------------------------------------------


class Reader:
    """The chunks of a container as they come from anything with ``read``, which may give fewer bytes than asked for.

    Iterating gives every chunk as a `Piece` when its CRCs are right, once, and ends when the end of the file is right.

    Args:
        file: A pipe, socket or file, open for bytes.
        spec: The model's promises, compared with the file's.
        stream_id: The model's identity, 16 bytes; a file of another model is refused.
        limits: The most that the file may declare.
        coder: The model's own, which files of coding 2 need; the prior of files of coding 4.

    Raises:
        BitstreamError: If the file is no container, its header is damaged or over a limit, or another model wrote it;
            while iterating, if a bit is damaged or missing, or bytes follow the end.
    """

    def __init__(
        self,
        file: Any,
        spec: CodecSpec | None = None,
        stream_id: bytes | None = None,
        limits: Limits = _DEFAULT,
        coder: EntropyCoder | None = None,
    ) -> None:
        self._data, self._limits = _Forward(file), limits
        self._plan, self._offset = _open(self._data, spec, stream_id, limits, coder)
        self._coder = make_coder(self._plan.header, coder)

    @property
    def header(self) -> Header:
        """What the file says about itself; of a streamed one, the extent once the last chunk has been read."""
        return self._plan.header

    def __iter__(self) -> Iterator[Piece]:
        """The chunks."""
        tail, end, codes = Tail(), 0, 0
        while chunk := self._next(tail.chunks, end):
            payload = read_chunk_head(self._data, self._offset, chunk, self._plan, self._limits)
            piece = read_codes(self._data, self._offset, payload, chunk, self._plan, self._coder, tail.digest)
            tail.index += ENTRY.pack(*chunk.entry(self._offset, payload))
            end, codes = chunk.start + chunk.positions, codes + sum(chunk.part.counts)
            within(self._offset + 12, "codes in all", codes, 0, self._limits.tokens)
            self._forward(self._plan.overhead + payload)
            yield Piece(chunk.start, chunk.positions, piece)
        if not self._plan.known:
            self._plan = with_end(self._plan, *read_end(self._data, self._offset), self._offset, self._limits)
            same(self._offset + 8, "positions of the extent", self._plan.positions, end)
        after = read_tail(self._data, self._offset, self._plan, tail)
        if more := self._data[after : after + _BLOCK]:
            raise BitstreamError(f"byte {after}: the file ends here by its header, {len(more)} bytes or more follow")

    def _next(self, sequence: int, end: int) -> Chunk | None:
        """The next chunk, or None behind the last, which ends at a position."""
        if self._plan.known:
            return self._plan[sequence] if sequence < self._plan.chunks else None
        if end < sequence * self._plan.per_chunk or take(self._data, self._offset, 4, "a mark") == b"LAST":
            return None
        positions = CHUNK.unpack(take(self._data, self._offset, CHUNK.size, f"mark of chunk {sequence}"))[3]
        return chunk_of(self._plan, sequence, positions, self._offset)

    def _forward(self, size: int) -> None:
        self._offset += size
        self._data.forget(self._offset)


def read_part(
    file: Any,
    first: int,
    last: int,
    spec: CodecSpec | None = None,
    stream_id: bytes | None = None,
    limits: Limits = _DEFAULT,
    coder: EntropyCoder | None = None,
) -> tuple[Header, Piece]:
    """The chunks that hold the positions from ``first`` to before ``last``; of all others only the index is read.

    Args:
        file: Open for bytes, with ``seek``; a packet is read as a whole.
        first: A position, 0 or more.
        last: A position behind it; beyond the end it stands for the end.
        spec, stream_id, limits, coder: As for `Reader`.

    Raises:
        BitstreamError: If the header, the index or one of these chunks is damaged, or another model wrote the file.
    """
    data = _Pages(file)
    if data[:2] == PACKET_MAGIC:
        stream = read(data[: data.size], spec, stream_id, limits, coder)
        header = stream.header
        return header, Piece(0, header.spec.positions(header.extent), stream.codes)
    plan, offset = _open(data, spec, stream_id, limits, coder)
    if plan.header.streamed:
        plan = with_end(plan, *find_end(data, data.size, offset), limits)
    check_size(data.size, offset, plan, limits)
    places = read_index(data, data.size, offset, plan, limits)
    numbers = range(first // plan.per_chunk, -(-min(last, plan.positions) // plan.per_chunk))
    own, parts = make_coder(plan.header, coder), []
    for number in numbers:
        at = places[number][0]
        payload = read_chunk_head(data, at, plan[number], plan, limits)
        same(at + 4, f"payload bytes of chunk {number} in the index", places[number][1], payload)
        parts.append(read_codes(data, at, payload, plan[number], plan, own, None))
    start = numbers.start * plan.per_chunk
    end = min(numbers.stop * plan.per_chunk, plan.positions)
    return plan.header, Piece(start, max(0, end - start), joined(parts, plan.counts))


def header_of(file: Any, limits: Limits = _DEFAULT) -> Header:
    """What a file with ``seek`` says about itself, packet or container, of which only the ends are read.

    Raises:
        BitstreamError: If the header is damaged, of a newer version, or over a limit.
    """
    data = _Pages(file)
    if data[:2] == PACKET_MAGIC:
        return read_header(data[:_BLOCK], limits)
    plan, offset = read_head(data, limits)
    return with_end(plan, *find_end(data, data.size, offset), limits).header if plan.header.streamed else plan.header


def _open(
    data: Source, spec: CodecSpec | None, stream_id: bytes | None, limits: Limits, coder: EntropyCoder | None
) -> tuple[Plan, int]:
    """The plan of a container of this model, and the offset of its first chunk."""
    if data[:2] == PACKET_MAGIC:
        raise BitstreamError("byte 0: containers are read by chunks, got a packet, which has none; read it as a whole")
    plan, offset = read_head(data, limits)
    check_model(plan.header, spec, stream_id)
    check_coder(plan.header, coder)
    return plan, offset


class _Forward:
    """The bytes of a pipe from those on that are not yet forgotten."""

    def __init__(self, file: Any) -> None:
        self.file, self.start, self.kept = file, 0, bytearray()

    def __getitem__(self, part: slice, /) -> bytes:
        first, last = (part.start or 0) - self.start, part.stop - self.start
        while len(self.kept) < last and (block := self.file.read(min(_BLOCK, last - len(self.kept)))):
            self.kept += block
        return bytes(self.kept[first:last])

    def forget(self, offset: int) -> None:
        """What lies before an offset."""
        del self.kept[: offset - self.start]
        self.start = offset


class _Pages:
    """The bytes of a file that can be read anywhere."""

    def __init__(self, file: Any) -> None:
        self.file, self.size = file, file.seek(0, io.SEEK_END)

    def __getitem__(self, part: slice, /) -> bytes:
        first, last = part.start or 0, min(part.stop, self.size)
        self.file.seek(first)
        found = bytearray()
        while len(found) < last - first and (block := self.file.read(last - first - len(found))):
            found += block
        return bytes(found)
