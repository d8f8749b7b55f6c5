"""The packet profile of `.sgt`: at most 20 bytes beside the payload; `bitstream` has the format. No torch."""

from __future__ import annotations

from zlib import crc32

from sigtok.codecs.entropy.granules import ABSENT
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
    take,
    unpack_codes,
    windows_of,
    within,
)
from .spec import AXES, CodecSpec, Rate

MAGIC = b"\x89s"
PAYLOAD, OVERHEAD = 2**14, 20  # bytes: a packet has less than the first and at most the second
_VARINT = 7  # bytes at most: 49 bits


def fits(stream: Stream) -> bool:
    """Whether a packet can hold the stream."""
    counts = [int((codes != ABSENT).sum()) for codes in stream.codes]
    payload = packed_bits(counts, stream.header.spec.codebook_sizes) // 8
    return not stream.header.extras and payload < PAYLOAD and len(_head(stream.header)) + 4 <= OVERHEAD


def write_packet(stream: Stream) -> bytes:
    """The packet of checked codes."""
    head = _head(stream.header)
    crc = crc32(code_bytes(stream.codes), crc32(head))
    spec = stream.header.spec
    payload = pack_codes(stream.codes, spec.codebook_sizes, windows_of(spec, stream.header.extent))
    return head + payload + crc.to_bytes(4, "little")


def read_packet(data: bytes, spec: CodecSpec | None, limits: Limits) -> Stream:
    """The codes of a packet, its header filled in from the model's spec.

    Raises:
        BitstreamError: If there is no spec, or a bit is damaged or missing.
    """
    header, start = read_packet_header(data, limits)
    if spec is None:
        raise BitstreamError(
            f"byte 3: a packet is read with the spec of its model {header.stream_id.hex()}..., got none"
        )
    header = header.with_spec(spec)
    try:
        spec = header.spec
        windows = windows_of(spec, header.extent)
    except ValueError as error:
        raise BitstreamError(f"byte 7: {error}") from None
    counts = spec.token_counts(header.extent)
    within(7, "codes in all", sum(counts), 0, limits.tokens)
    if windows is None:
        end = start + packed_bytes(counts, spec.codebook_sizes)
        check_end(data, end + 4)
    else:
        within(7, "codes in all of such a short file", sum(counts), 0, limits.codes_per_byte * len(data))
        check_length(data, start + windows.least_bits(spec.codebook_sizes) // 8 + 4)
        end = len(data) - 4
    codes = unpack_codes(data, start, end, header, counts, windows)
    crc = crc32(code_bytes(codes), crc32(data[:start]))
    same(end, "CRC of the packet", int.from_bytes(data[end:], "little"), crc)
    return Stream(header, codes)


def read_packet_header(data: bytes, limits: Limits) -> tuple[Header, int]:
    """What a packet says without its model, and the offset of its payload."""
    kind = take(data, 2, 1, "kind")[0]
    same(2, "version", kind >> 5, VERSION)
    within(2, "coding (all others are reserved)", kind >> 2 & 7, FIXED_WIDTH, GRANULAR)
    within(2, "modality", kind & 3, 1, len(MODALITIES))
    modality = MODALITY_NAMES[kind & 3]
    axes = AXES[modality]
    side = (0, limits.samples) if axes == 1 else (1, limits.side)
    bounds = [("extent", *side)] * axes + [("codebooks", 1, limits.codebooks), ("queries", 1, MOST)]
    offset, numbers = 7, []
    for name, least, most in [*bounds, *[("window", 1, MOST)] * axes]:
        number, end = _read_varint(data, offset, name)
        within(offset, name, number, least, most)
        numbers.append(number)
        offset = end
    if axes == 2:
        within(7, "height x width", numbers[0] * numbers[1], 1, limits.pixels)
    header = Header(
        modality=modality,
        extent=tuple(numbers[:axes]),
        rate=Rate(codebooks=numbers[axes], queries=numbers[axes + 1], window=tuple(numbers[axes + 2 :])),
        stream_id=take(data, 3, 4, "stream id"),
        granular=kind >> 2 & 7 == GRANULAR,
        profile="packet",
    )
    return header, offset


def _head(header: Header) -> bytes:
    kind = VERSION << 5 | header.coding << 2 | MODALITIES[header.modality]
    rate = header.rate
    assert rate.codebooks is not None and rate.queries is not None and rate.window is not None
    numbers = (*header.extent, rate.codebooks, rate.queries, *rate.window)
    return MAGIC + bytes([kind]) + header.stream_id[:4] + b"".join(map(_varint, numbers))


def _varint(value: int) -> bytes:
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes(group | 128 for group in groups[:-1]) + bytes(groups[-1:])


def _read_varint(data: bytes, offset: int, name: str) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(take(data, offset, 1, name) + data[offset + 1 : offset + _VARINT]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            same(offset, f"bytes of {name}", place + 1, len(_varint(value)))
            return value, offset + place + 1
    raise BitstreamError(f"byte {offset}: {name} takes at most {_VARINT} bytes and {len(data) - offset} are here")
