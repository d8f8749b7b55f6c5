"""The `.sgt` format: codes <-> bytes, bounded, versioned, and with every damaged bit found. No torch.

Integers are little-endian; a varint has 7 bits a byte, lowest first, in the shortest form. A CRC is CRC-32
(zlib); it runs over the *codes* (as uint32, codebook after codebook), so that a damaged payload and a decoder
that disagrees are one error. There are no holes and no bytes after the end. Version 1:

Packet: short clips and images, at most 20 bytes beside the payload, 24 from coding 2 on, 28 in coding 4. The model
knows the rest (channels, sample rate, hop, codebook sizes, strides): a packet is described without its model, and read
only with its spec.

    bytes   field         rule
    2       magic         89 73
    1       kind          version 1 in bits 5-7, coding in bits 2-4, modality in bits 0-1
                          (1 audio, 2 image, 3 features)
    4       stream id     its first 4 bytes
    varint  extent        samples or frames, or height and width: one varint per axis
    varint  codebooks     how many are sent
    varint  queries       per window
    varint  window        positions, one varint per axis
    varint  quality       sixteenths, 0 for none; from coding 2 on
    4       fingerprint   of the prior; in coding 4 only
    ...     payload       exactly as long as the counts of the spec, or the map of coding 1, need
    4       CRC           of all bytes before the payload, then the codes; from coding 2 on, then the payload

Container: header, chunks, index, trailer. Complete by itself but for the tables of coding 2 and the prior of coding 4.
One chunk holds about 30 s and at least 4 KiB; from coding 2 on, 30 s or about 512 x 4096 pixels.

    offset  bytes   header field    rule
    0       8       magic           89 53 47 54 0D 0A 1A 0A; finds text-mode and 7-bit transfers (PNG's idea)
    8       1, 1    major, minor    1, 0; a newer major is refused, a newer minor read
    10      1, 1    flags           critical: 1 streamed, an unknown bit is refused; optional: ignored
    12      4       header bytes    with extras and CRC
    16      1       modality        1 audio, 2 image, 3 features
    17      1       coding          0 fixed-width bits, 1 granular, 2 the model's own tables, 3 adaptive contexts, 4 a
                                    prior; all others are reserved and refused
    18      2       codebooks       Q
    20      16      stream id       what gives the codes their meaning (pretrained.stream_id)
    36      8, 8    extent          samples or frames, 0; or height, width; of a streamed file the first is 0
    52      4       sample rate     Hz or frames per second; 0 for images
    56      4       channels
    60      4, 4    hop             samples or frames, 0; or pixels down, across
    68      4, 4    window          positions, 0; or down, across
    76      4       queries         per window
    80      4       chunk positions in every chunk but the last; a multiple of every stride, in coding 1 of queries,
                                    from coding 2 on of a row where pictures are grids; in the codings 2 and 4 of what
                                    the coder needs (we write whole windows)
    84      4       chunks          of a streamed file 0
    88      8 Q     codebooks       size, stride: 4 bytes each. From coding 2 on runs of 12 bytes: how many equal
                                    ones, size, stride; neighbours differ
    ...             extras          any number of: type 2 (top bit: refused if unknown), length 4, bytes.
                                    8001 (hex), the first if there: per codebook 4 bytes that divide its stride, lowest
                                    terms, one of them above 1 (not in coding 1). 8002, the next: the quality of the
                                    rate, 4 bytes, sixteenths. 8003, the next, in coding 4: the fingerprint of the
                                    prior, 4 bytes
    end-4   4       CRC             of the header before it

    Chunk   "CHNK", payload bytes 4, sequence 4, positions 4, first position 8, CRC 4 (of the 24 bytes before
            it, then the codes), from coding 2 on CRC 4 (of the 28 bytes before it, then the payload), payload.
            Token n of codebook q lies at position n x stride. Every chunk starts afresh.
    End     of a streamed file only: "LAST", chunks 4, extent 8, CRC 4 (of the 16 bytes before it).
    Index   per chunk: offset 8, first position 8, positions 4, payload bytes 4.
    Trailer index offset 8, chunks 4, CRC of the index 4, first 8 bytes of SHA-256 of all codes in file order,
            4 zero bytes, "SGTE".

Payload, coding 0: every code of every codebook at a fixed width (`entropy.packing`). Coding 1, codecs of several
granularities: at every position one codebook has a code and the others are absent, -1 (2**32 - 1 in CRCs and digest);
a map of who speaks where, then the codes that are there (`entropy.granules`). The map has one spelling and finds its
own end, and says how many codes follow. What lies outside a chunk is no context of its map. Coding 2: by the model's
own coder (`entropy.coder`), which whoever reads the codes needs too; coding 3: by the adaptive one
(`entropy.adaptive`), which needs no model; coding 4: by a language model of the codec's tokens (`language.prior`),
which the fingerprint names. All see the positions of a chunk or packet as rows and columns where a picture has neither
queries nor windows, and otherwise in a row; without positions there is no payload.
In codings 1 to 3 a packet's payload ends 4 bytes before the file, in a container its chunk
head says where, and no header says how long the file is: it ends with the trailer behind the chunks it declares.
A file of n bytes declares at most 512 n codes, absent ones too, in coding 2 16,384 n (`Limits`), from coding 2 on
each chunk by itself too; none of them is made before the payload has room for the codes that are there.

A streamed file is written before its end is known, and read as it comes (`container_stream`); behind its last chunk,
the only one that may be shorter than the others, it says what its header leaves open.

History: version 1 is the first; readers without features refuse modality 3, those without the codings 1 to 4, extra
fields 8001 to 8003, or streamed files refuse them.
"""

from __future__ import annotations

from dataclasses import replace

from sigtok.codecs.entropy.coder import EntropyCoder, Prior

from .container import check_container, read_container, read_container_header, salvage_container, write_container
from .container_head import read_head
from .header import FIXED_WIDTH, GRANULAR, OWN_TABLES, PRIOR, WITH_CODER, BitstreamError, Header, Limits, Stream, same
from .packet import MAGIC as PACKET_MAGIC
from .packet import fits, read_packet, read_packet_header, write_packet
from .plan import plan_of
from .spec import CodecSpec

__all__ = [
    "BitstreamError",
    "Header",
    "Limits",
    "Stream",
    "check",
    "read",
    "read_header",
    "salvage",
    "salvage_header",
    "write",
]

_DEFAULT = Limits()
_GEOMETRY = {"sample_rate": 52, "channels": 56, "hop": 60, "codebook_sizes": 88, "strides": 88}  # offsets


def write(stream: Stream, coder: EntropyCoder | None = None) -> bytes:
    """The bytes of a stream: a packet if its codes are under 16 KiB and 20 bytes hold what is no payload.

    From coding 2 on a packet has a single chunk of any size, and 24 bytes beside it, or 28.

    Args:
        stream: What is stored.
        coder: The model's own, if the coding is 2; the prior, if it is 4.

    Raises:
        ValueError: If codes are missing, absent (-1) or outside their codebook, with the place of the first; of several
            granularities, if at a position none or more than one is there.
    """
    stream.check()
    header = stream.header
    small = header.profile is None and fits(stream)
    if header.profile == "packet" or (small and not (header.coded and plan_of(header).chunks > 1)):
        return write_packet(stream, coder)
    return write_container(stream, coder)


def read_header(data: bytes, limits: Limits = _DEFAULT) -> Header:
    """What the file says about itself, without a model; codes are not looked at.

    Raises:
        BitstreamError: If the header is damaged, of a newer version, or over a limit.
    """
    if data[:2] == PACKET_MAGIC:
        return read_packet_header(data, limits)[0]
    return read_container_header(data, limits)


def read(
    data: bytes,
    spec: CodecSpec | None = None,
    stream_id: bytes | None = None,
    limits: Limits = _DEFAULT,
    coder: EntropyCoder | None = None,
) -> Stream:
    """The codes of a file, each inside its codebook.

    Args:
        data: The whole file.
        spec: The model's promises; a packet needs them, a container is compared with them.
        stream_id: The model's identity, 16 bytes; a file of another model is refused.
        limits: The most that the file may declare.
        coder: The model's own, which files of coding 2 need; the prior of files of coding 4.

    Raises:
        BitstreamError: If a bit is damaged or missing, bytes follow the end, or another model wrote it.
    """
    header = read_header(data, limits)
    check_model(header, spec, stream_id)
    check_coder(header, coder)
    if header.profile == "container":
        return read_container(data, limits, coder)
    stream = read_packet(data, spec, limits, coder)
    return Stream(replace(stream.header, stream_id=stream_id or header.stream_id), stream.codes)


def check(data: bytes, limits: Limits = _DEFAULT) -> bool:
    """Whether a file is whole, as far as that shows without its model; False if its codes were not looked at.

    Of a packet only the header is seen; of a container everything, but in the codings 2 and 4 the codes: their chunks
    have CRCs of their bytes.

    Raises:
        BitstreamError: If a bit is damaged or missing, or bytes follow the end.
    """
    header = read_header(data, limits)
    if header.profile == "packet":
        return False
    if header.coding in WITH_CODER:
        check_container(data, limits)
        return False
    read_container(data, limits)
    return True


def salvage(data: bytes, limits: Limits = _DEFAULT, coder: EntropyCoder | None = None) -> Stream:
    """What is left of a damaged container whose header is whole: every undamaged chunk, -1 elsewhere.

    A streamed file that has lost its end is taken to end with its last whole chunk.

    Raises:
        BitstreamError: If the file is a packet, its header is damaged, or next to nothing of it is there.
    """
    check_coder(salvage_header(data, limits), coder)
    return salvage_container(data, limits, coder)


def salvage_header(data: bytes, limits: Limits = _DEFAULT) -> Header:
    """What a damaged container says about itself; the extent of a streamed one may be missing.

    Raises:
        BitstreamError: If the file is a packet, or its header is damaged.
    """
    if data[:2] == PACKET_MAGIC:
        raise BitstreamError("byte 0: containers have chunks to salvage, got a packet, which has one CRC")
    return read_head(data, limits)[0].header


def check_coder(header: Header, coder: EntropyCoder | None) -> None:
    """Raise BitstreamError if the codes of a file are coded by what is not there: its model's tables, or its prior."""
    at = 2 if header.profile == "packet" else 17
    if header.coding == OWN_TABLES and coder is None:
        raise BitstreamError(
            f"byte {at}: coding 2 is read with the entropy coder of its model {header.stream_id.hex()}, got none; "
            f"load that model"
        )
    if header.coding != PRIOR:
        return
    assert header.prior is not None
    if not isinstance(coder, Prior):
        raise BitstreamError(
            f"byte {at}: coding 4 is read with the prior that wrote it, of fingerprint {header.prior:08x}, got none; "
            f"name its folder"
        )
    if coder.fingerprint != header.prior:
        raise BitstreamError(
            f"byte {at}: the file was written with a prior of fingerprint {header.prior:08x}, this one has "
            f"{coder.fingerprint:08x}; name the folder of the one that wrote it"
        )


def check_model(header: Header, spec: CodecSpec | None, stream_id: bytes | None) -> None:
    """Raise BitstreamError if another model wrote a file, as far as its header says."""
    packet, size = header.profile == "packet", len(header.stream_id)
    if stream_id is not None and stream_id[:size] != header.stream_id:
        raise BitstreamError(
            f"byte {3 if packet else 20}: the file was written by model {header.stream_id.hex()}, this model "
            f"is {stream_id[:size].hex()}; load the model that wrote it"
        )
    if spec is None:
        return
    same(2 if packet else 16, f"modality of {spec.name}", header.modality, spec.modality)
    if spec.granular or not header.coded:
        same(2 if packet else 17, f"coding of {spec.name}", header.coding, GRANULAR if spec.granular else FIXED_WIDTH)
    if spec.qualities and header.rate.quality is None:
        raise BitstreamError(f"byte {7 if packet else 88}: files of {spec.name} say their quality, got none")
    try:
        spec.resolve(header.rate)
    except ValueError as error:
        raise BitstreamError(f"byte {7 if packet else 68}: {error}") from None
    if not packet:
        mine = header.with_spec(spec)
        for name, offset in _GEOMETRY.items():
            same(offset, f"{name} of {spec.name}", getattr(header, name), getattr(mine, name))
