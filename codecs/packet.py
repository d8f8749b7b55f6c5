"""The packet profile of `.sgt`: at most 28 bytes beside the payload; `bitstream` has the format. No torch."""

from __future__ import annotations

from zlib import crc32

from sigtok.codecs.entropy.coder import EntropyCoder
from sigtok.codecs.entropy.granules import ABSENT
from sigtok.codecs.entropy.packing import packed_bits

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
    Stream,
    check_end,
    check_length,
    codes_for,
    quality_of,
    same,
    sixteenths,
    take,
    within,
)
from .payload import coder_of, least_bytes, pack_codes, signed, unpack_codes, whole
from .spec import AXES, CodecSpec, Rate

MAGIC = b"\x89s"
PAYLOAD, OVERHEAD = 2**14, 20  # bytes: a packet has less than the first and at most the second
CODED_OVERHEAD = 24  # of the codings from 2 on, which have more codebooks and a quality
FINGERPRINT = 4  # bytes more of coding 4
_VARINT = 7  # bytes at most: 49 bits


def fits(stream: Stream) -> bool:
    """Whether a packet can hold the stream; of an entropy-coded one, whether it can hold all but the payload."""
    header = stream.header
    if header.coded:
        most = CODED_OVERHEAD + FINGERPRINT * (header.coding == PRIOR)
        return _describes(header) and len(_head(header)) + 4 <= most
    counts = [int((codes != ABSENT).sum()) for codes in stream.codes]
    payload = packed_bits(counts, header.spec.codebook_sizes) // 8
    return _describes(header) and payload < PAYLOAD and len(_head(header)) + 4 <= OVERHEAD


def _describes(header: Header) -> bool:
    """Whether a packet has a place for all that the header says."""
    return not header.extras and not header.streamed and (header.coded or header.rate.quality is None)


def write_packet(stream: Stream, coder: EntropyCoder | None = None) -> bytes:
    """The packet of checked codes.

    Raises:
        ValueError: If the header says what only a container can.
    """
    header = stream.header
    if not _describes(header):
        raise ValueError("a packet has no extra fields, and a quality from coding 2 on; write a container")
    head = _head(header)
    payload = pack_codes(stream.codes, whole(header), header, coder_of(header, coder))
    return head + payload + _crc(head, stream.codes, payload, header).to_bytes(4, "little")


def read_packet(data: bytes, spec: CodecSpec | None, limits: Limits, coder: EntropyCoder | None = None) -> Stream:
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
        part, coder = whole(header), coder_of(header, coder)
    except ValueError as error:
        raise BitstreamError(f"byte 7: {error}") from None
    count, least = sum(part.counts), least_bytes(part, header)
    within(7, "codes in all", count, 0, limits.tokens)
    if header.coding == FIXED_WIDTH:
        check_end(len(data), start + least + 4)
    else:
        within(7, "codes in all of such a short file", count, 0, codes_for(len(data), header, limits))
        check_length(len(data), start + least + 4)
    end = len(data) - 4
    codes = unpack_codes(data, start, end, part, header, coder)
    crc = _crc(data[:start], codes, data[start:end], header)
    same(end, "CRC of the packet", int.from_bytes(data[end:], "little"), crc)
    return Stream(header, codes)


def _crc(head: bytes, codes: tuple, payload: bytes, header: Header) -> int:
    """Over the head and the codes, entropy-coded ones also as they are coded."""
    crc = signed(codes, crc32(head))
    return crc32(payload, crc) if header.coded else crc


def read_packet_header(data: bytes, limits: Limits) -> tuple[Header, int]:
    """What a packet says without its model, and the offset of its payload."""
    kind = take(data, 2, 1, "kind")[0]
    coding = kind >> 2 & 7
    same(2, "version", kind >> 5, VERSION)
    within(2, "coding (all others are reserved)", coding, FIXED_WIDTH, PRIOR)
    within(2, "modality", kind & 3, 1, len(MODALITIES))
    modality = MODALITY_NAMES[kind & 3]
    axes = AXES[modality]
    side = (0, limits.samples) if axes == 1 else (1, limits.side)
    bounds = [("extent", *side)] * axes + [("codebooks", 1, limits.codebooks), ("queries", 1, MOST)]
    bounds += [("window", 1, MOST)] * axes + [("quality", 0, MOST)] * (coding > GRANULAR)
    offset, numbers = 7, []
    for name, least, most in bounds:
        number, end = _read_varint(data, offset, name)
        within(offset, name, number, least, most)
        numbers.append(number)
        offset = end
    if axes == 2:
        within(7, "height x width", numbers[0] * numbers[1], 1, limits.pixels)
    extent, (codebooks, queries), window = numbers[:axes], numbers[axes : axes + 2], numbers[axes + 2 : 2 * axes + 2]
    quality = quality_of(sum(numbers[2 * axes + 2 :]))
    prior = None
    if coding == PRIOR:
        prior = int.from_bytes(take(data, offset, FINGERPRINT, "fingerprint of the prior"), "little")
        offset += FINGERPRINT
    header = Header(
        modality=modality,
        extent=tuple(extent),
        rate=Rate(codebooks=codebooks, queries=queries, window=tuple(window), quality=quality),
        stream_id=take(data, 3, 4, "stream id"),
        coding=coding,
        profile="packet",
        prior=prior,
    )
    return header, offset


def _head(header: Header) -> bytes:
    kind = VERSION << 5 | header.coding << 2 | MODALITIES[header.modality]
    rate = header.rate
    assert rate.codebooks is not None and rate.queries is not None and rate.window is not None
    numbers = (*header.extent, rate.codebooks, rate.queries, *rate.window)
    if header.coded:
        numbers = (*numbers, sixteenths(rate))
    fingerprint = b"" if header.prior is None else header.prior.to_bytes(FINGERPRINT, "little")
    return MAGIC + bytes([kind]) + header.stream_id[:4] + b"".join(map(_varint, numbers)) + fingerprint


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
