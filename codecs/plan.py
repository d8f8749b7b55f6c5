"""The plan of a container: which chunks a header means, where their codes lie, what they take. No torch."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from sigtok.codecs.entropy.packing import packed_bits

from .header import WITH_CODER, Header, windows_of
from .payload import Part, least_bytes, on_grid
from .spec import Extent

SECONDS, POSITIONS, PAYLOAD = (
    30,
    2**15,
    2**12,
)  # a chunk has the smaller of the first two, and at least the third
PIXELS = 512 * 4096  # of an entropy-coded chunk of a picture, about
CHUNK, CRC = struct.Struct("<4sIIIQ"), struct.Struct("<I")
END = struct.Struct("<4sIQ")  # and a CRC
ENTRY, TRAILER = struct.Struct("<QQII"), struct.Struct("<QII8s4s4s")


@dataclass(frozen=True)
class Chunk:
    """Everything about a chunk but its codes; what it takes is at least ``least`` bytes, at a fixed width exactly."""

    sequence: int
    start: int
    positions: int
    slices: tuple[slice, ...]
    part: Part
    least: int

    def head(self, payload: int) -> bytes:
        """Its first fields, without CRCs."""
        return CHUNK.pack(b"CHNK", payload, self.sequence, self.positions, self.start)

    def entry(self, offset: int, payload: int) -> tuple[int, int, int, int]:
        """What the index says of it."""
        return offset, self.start, self.positions, payload


class Plan:
    """The chunks of a container; their heads, their sizes and the index all follow from it.

    Args:
        header: With the extent, as far as it is known.
        per_chunk: Positions of every chunk but the last.
        known: Whether the extent is; if not, chunks are counted by what they say.

    Raises:
        ValueError: If such chunks cannot be of such a codec.
    """

    def __init__(self, header: Header, per_chunk: int, known: bool = True) -> None:
        spec = header.spec
        if bad := [stride for stride in spec.strides if per_chunk % stride]:
            raise ValueError(f"a chunk is a multiple of every stride, got {per_chunk} positions, stride {bad[0]}")
        if spec.granular and per_chunk % spec.queries:
            raise ValueError(
                f"a chunk of several granularities is whole windows of {spec.queries} positions, got {per_chunk}"
            )
        columns = _columns(header)
        if columns and per_chunk % columns:
            raise ValueError(f"an entropy-coded chunk is whole rows of {columns} positions, got {per_chunk}")
        self.header, self.spec, self.per_chunk, self.columns, self.known = header, spec, per_chunk, columns, known
        self.unit = columns or (spec.queries if spec.granular else 1)  # positions that stand in one chunk
        self.windows = windows_of(spec, _above_a_row(header))
        self.positions = spec.positions(header.extent) if self.known else 0
        self.counts = spec.token_counts(header.extent) if self.known else (0,) * len(spec.strides)
        self.chunks = -(-self.positions // per_chunk)

    def chunk(self, sequence: int, positions: int) -> Chunk:
        """The chunk of a place, of so many positions."""
        start = sequence * self.per_chunk
        firsts = [int(start // stride) for stride in self.spec.strides]
        counts = tuple(int(-(-positions // stride)) for stride in self.spec.strides)
        slices = tuple(slice(first, first + count) for first, count in zip(firsts, counts, strict=True))
        windows = self.windows
        if windows is not None:
            windows = windows.part(start // windows.queries, positions // windows.queries)
        grid = (positions // self.columns, self.columns) if self.columns else (positions,)
        part = Part(counts, grid, windows)
        return Chunk(sequence, start, positions, slices, part, least_bytes(part, self.header))

    def __getitem__(self, sequence: int) -> Chunk:
        return self.chunk(sequence, min(self.per_chunk, self.positions - sequence * self.per_chunk))

    def __iter__(self) -> Iterator[Chunk]:
        return (self[sequence] for sequence in range(self.chunks))

    def extent_of(self, positions: int) -> Extent:
        """The largest of the whole windows, or rows of them, of so many positions."""
        extent, step = _above_a_row(self.header), self.spec.step()
        row = self.spec.grid(extent)[-1] if len(extent) > 1 else 1
        return (positions // (self.spec.queries * row) * step[0], *extent[1:])

    @property
    def overhead(self) -> int:
        """Bytes of a chunk before its payload."""
        return CHUNK.size + CRC.size * (1 + self.header.coded)

    @property
    def least(self) -> int:
        """Bytes of all payloads at least; every chunk but the last has the size of the first."""
        return (self.chunks - 1) * self[0].least + self[self.chunks - 1].least if self.chunks else 0

    @property
    def body(self) -> int:
        """Bytes of a file behind its header: exactly at a fixed width, at least in all other codings."""
        end = (END.size + CRC.size) * self.header.streamed
        return self.least + self.chunks * (self.overhead + ENTRY.size) + end + TRAILER.size


def plan_of(header: Header, known: bool = True) -> Plan:
    """The plan of what will be written; ``known`` as for `Plan`."""
    return Plan(header, header.chunk_positions or _choose_chunk(header), known)


def _choose_chunk(header: Header) -> int:
    spec = header.spec
    whole = spec.granular or header.streamed or header.coding in WITH_CODER  # which may know windows
    windows = spec.queries if whole else 1
    step = math.lcm(windows, *(Fraction(stride).numerator for stride in spec.strides))
    size, image = POSITIONS, spec.sample_rate is None
    if not image:
        seconds = int(spec.frame_rate * SECONDS * spec.queries / spec.windows[0][0])
        size = seconds if header.coded else min(size, seconds)
    if header.coded:
        step = math.lcm(step, _columns(header) or 1)
        size = PIXELS * spec.queries // math.prod(spec.step()) if image else size
    else:
        counts = [int(step / stride) for stride in spec.strides]
        spoken = 1 if spec.granular else len(counts)  # codebooks that have a code at every position, if need be
        bits = packed_bits(counts[:spoken], spec.codebook_sizes[:spoken])
        size = max(size, PAYLOAD * 8 * step // bits)
    return -(-max(size, 1) // step) * step


def _columns(header: Header) -> int:
    """Positions in a row where an entropy coder sees rows and columns; otherwise 0."""
    spec = header.spec
    return spec.grid(_above_a_row(header))[-1] if header.coded and on_grid(spec) else 0


def _above_a_row(header: Header) -> Extent:
    """The extent, or that of a single row where the number of rows is still to come."""
    return (max(header.extent[0], 1), *header.extent[1:]) if len(header.extent) > 1 else header.extent
