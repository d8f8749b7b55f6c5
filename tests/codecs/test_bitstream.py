"""The `.sgt` format: what is written is read, nothing damaged is, no declared size is believed."""

import itertools
import json
import struct
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import jaxtyping
import numpy as np
import pytest

from sigtok.codecs import container_head
from sigtok.codecs.bitstream import BitstreamError, Header, Limits, Stream, read, read_header, salvage, write
from sigtok.codecs.entropy.packing import pack, packed_bits, unpack
from sigtok.codecs.spec import CodecSpec, Rate
from tests.golden.make import coder_of

ID = bytes(range(16))
GOLDEN = Path(__file__).parents[1] / "golden"
SPECS = {
    "speech": CodecSpec(
        name="speech",
        modality="audio",
        channels=1,
        sample_rate=8000,
        hop=(10,),
        codebook_sizes=(5, 300, 17),
        strides=(1, 2, 4),
        windows=((4,), (2,)),
        queries=3,
        latent_dim=2,
    ),
    "picture": CodecSpec(
        name="picture",
        modality="image",
        channels=3,
        sample_rate=None,
        hop=(8, 4),
        codebook_sizes=(2, 2**18),
        latent_dim=2,
    ),
    "features": CodecSpec(
        name="features",
        modality="features",
        channels=1024,
        sample_rate=50,
        hop=(2,),
        codebook_sizes=(8192,),
        latent_dim=2,
    ),
}
CASES = {
    "speech": ("speech", (90,), Rate(window=(2,)), None),
    "speech_coarse": ("speech", (333,), Rate(codebooks=1, queries=2), None),
    "speech_empty": ("speech", (0,), Rate(), None),
    "picture": ("picture", (17, 9), Rate(), None),
    "speech_chunks": ("speech", (90,), Rate(window=(2,)), 8),
    "speech_no_chunks": ("speech", (0,), Rate(), 20),
    "picture_chunks": ("picture", (17, 8), Rate(), 4),
    "features": ("features", (31,), Rate(), None),
    "features_chunks": ("features", (31,), Rate(), 5),
}


def stream_of(spec, extent, rate=None, chunk_positions=None, seed=0):
    """Random codes; a container when chunk_positions says how it is cut."""
    rng = np.random.default_rng(seed)
    header = Header.of(spec, rate, extent, ID)
    counts = spec.token_counts(extent, rate)
    codes = tuple(rng.integers(0, size, count) for size, count in zip(spec.codebook_sizes, counts, strict=False))
    if chunk_positions:
        header = replace(header, profile="container", chunk_positions=chunk_positions)
    return Stream(header, codes)


@pytest.fixture
def fast(monkeypatch):
    """Without shape checks of every call: for loops over all bits."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(params=CASES)
def case(request):
    name, extent, rate, chunk_positions = CASES[request.param]
    return SPECS[name], stream_of(SPECS[name], extent, rate, chunk_positions)


def three_chunks():
    return stream_of(SPECS["speech"], (333,), Rate(window=(2,)), 20)


def equal(codes, others):
    return len(codes) == len(others) and all(map(np.array_equal, codes, others))


def refused(data, spec):
    """Whether reading raises a BitstreamError with an offset; any other exception passes through."""
    try:
        read(data, spec)
    except BitstreamError as error:
        return str(error).startswith("byte ")
    return False


def repaired(data, offset, value):
    """The container with other bytes at an offset of its header, and a right CRC."""
    size = struct.unpack_from("<I", data, 12)[0]
    head = bytearray(data[: size - 4])
    head[offset : offset + len(value)] = value
    return bytes(head) + crc32(head).to_bytes(4, "little") + data[size:]


def blocks(data):
    """A container's header and its chunks, cut by their own sizes."""
    end = struct.unpack_from("<I", data, 12)[0]
    parts = [data[:end]]
    while data[end : end + 4] == b"CHNK":
        size = 28 + struct.unpack_from("<I", data, end + 4)[0]
        parts.append(data[end : end + size])
        end += size
    return parts


def assembled(head, chunks):
    """A container of any chunks whose index and trailer fit them; only the digest is a guess."""
    index, offset = b"", len(head)
    for chunk in chunks:
        payload, _, positions, start = struct.unpack_from("<IIIQ", chunk, 4)
        index += struct.pack("<QQII", offset, start, positions, payload)
        offset += len(chunk)
    trailer = struct.pack("<QII8s4s4s", offset, len(chunks), crc32(index), bytes(8), bytes(4), b"SGTE")
    return head + b"".join(chunks) + index + trailer


# -- round trips -----------------------------------------------------------------------------------------


def test_what_is_written_is_read(case):
    spec, stream = case
    back = read(write(stream), spec, ID)
    assert equal(back.codes, stream.codes)
    assert all(codes.dtype == np.int64 for codes in back.codes)
    chosen = {"profile": back.header.profile, "chunk_positions": back.header.chunk_positions}
    assert back.header == replace(stream.header, **chosen)


def test_what_was_read_is_written_again_bit_for_bit(case):
    spec, stream = case
    data = write(stream)
    assert write(read(data, spec, ID)) == data


def test_every_extent_round_trips(fast):
    for extent in range(130):
        stream = stream_of(SPECS["speech"], (extent,), seed=extent)
        assert equal(read(write(stream), SPECS["speech"]).codes, stream.codes)


def test_a_header_is_read_without_codes_or_model(case):
    spec, stream = case
    header = read_header(write(stream))
    assert (header.modality, header.extent, header.rate) == (
        spec.modality,
        stream.header.extent,
        stream.header.rate,
    )
    assert ID.startswith(header.stream_id)


def test_packing_is_the_bits_one_after_another():
    sizes, counts = (2, 5, 256, 2**20, 2**32), (3, 7, 0, 4, 2)
    rng = np.random.default_rng(0)
    streams = [rng.integers(0, size, count) for size, count in zip(sizes, counts, strict=True)]
    bits = "".join(f"{c:0{(k - 1).bit_length()}b}" for s, k in zip(streams, sizes, strict=True) for c in s)
    slow = bytes(int(bits[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(bits), 8))
    assert pack(streams, sizes) == slow
    assert equal(unpack(slow, counts, sizes), streams)
    assert packed_bits(counts, sizes) == len(bits)


def test_the_payload_is_as_large_as_the_spec_says():
    for extent in (0, 1, 333, 4000):
        stream = stream_of(SPECS["speech"], (extent,))
        assert len(pack(stream.codes, SPECS["speech"].codebook_sizes)) == -(-SPECS["speech"].bits((extent,)) // 8)


# -- sizes -----------------------------------------------------------------------------------------------


def test_a_packet_has_at_most_20_bytes_beside_its_payload():
    picture = CodecSpec(
        name="", modality="image", channels=3, sample_rate=None, hop=(512, 512), codebook_sizes=(4096,),
        queries=256, latent_dim=1,
    )  # fmt: skip
    stream = stream_of(picture, (16_000, 512))
    data = write(stream)
    assert read_header(data).profile == "packet"
    assert len(data) - picture.bits((16_000, 512)) // 8 <= 20


def test_long_signals_become_containers_of_at_most_2_percent_overhead():
    spec = replace(SPECS["speech"], hop=(320,), windows=(), queries=1, strides=(), codebook_sizes=(1024,) * 6)
    stream = stream_of(spec, (8000 * 120,))  # 1.5 kbit/s
    data = write(stream)
    header, payload = read_header(data), spec.bits((8000 * 120,)) // 8
    assert header.profile == "container" and payload >= 2**14
    assert len(data) - payload <= 0.02 * payload
    assert header.chunk_positions >= 30 * spec.frame_rate


def test_chunks_are_whole_strides_of_every_codebook():
    spec = replace(SPECS["speech"], windows=(), queries=1, strides=(1, 7), codebook_sizes=(256, 256))
    stream = stream_of(spec, (400_000,))
    back = read(write(stream), spec)
    assert back.header.profile == "container" and back.header.chunk_positions % 7 == 0
    assert equal(back.codes, stream.codes)


# -- damage ----------------------------------------------------------------------------------------------


def test_every_cut_is_found(case, fast):
    spec, stream = case
    data = write(stream)
    for end in range(len(data)):
        assert refused(data[:end], spec), end


def test_every_flipped_bit_is_found(case, fast):
    spec, stream = case
    data = write(stream)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(damaged), spec), bit


@pytest.mark.parametrize("tail", [b"\0", b"PK\3\4" + bytes(50), bytes(2**20)])
def test_bytes_behind_the_end_are_refused(case, tail):
    spec, stream = case
    data = write(stream) + tail
    with pytest.raises(BitstreamError, match=f"byte {len(data) - len(tail)}.* {len(tail)} bytes follow"):
        read(data, spec)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 0, 2), (0, 2), (0, 1), (0, 1, 2, 2), ()])
def test_chunks_out_of_order_are_refused_though_index_and_crcs_are_right(order):
    head, *chunks = blocks(write(three_chunks()))
    assert len(chunks) == 3
    with pytest.raises(BitstreamError):
        read(assembled(head, [chunks[at] for at in order]))


def test_a_chunk_of_another_place_is_named():
    head, first, second, third = blocks(write(three_chunks()))
    with pytest.raises(BitstreamError, match=f"byte {len(head)}: sequence of chunk 0 should be 0, got 1"):
        read(assembled(head, [second, first, third]))


@pytest.mark.parametrize("offset", [0, 2**40, 2**64 - 1])
def test_an_index_that_points_elsewhere_is_refused_though_its_crc_is_right(offset):
    data = write(three_chunks())
    start = len(data) - 32 - 3 * 24
    index = struct.pack("<Q", offset) + data[start + 8 : -32]
    trailer = data[-32:-20] + crc32(index).to_bytes(4, "little") + data[-16:]
    with pytest.raises(BitstreamError, match=f"byte {start}: offset of chunk 0 in the index .* got {offset}"):
        read(data[:start] + index + trailer)


def test_codes_outside_their_codebook_are_refused_though_crcs_are_right():
    spec = replace(SPECS["speech"], codebook_sizes=(8, 300, 17))
    stream = stream_of(spec, (333,), chunk_positions=40)
    data = repaired(write(stream), 88, struct.pack("<I", 5))  # 3 bits as before
    with pytest.raises(BitstreamError, match=r"codes of codebook 0 may be 0 to 4, got 7"):
        read(data)


def test_a_number_has_one_spelling_though_the_crc_is_right():
    stream = stream_of(SPECS["picture"], (17, 9))
    data = write(stream)
    head, payload = data[:7] + b"\x91\0" + data[8:13], data[13:-4]
    values = b"".join(codes.astype("<u4").tobytes() for codes in stream.codes)
    crc = crc32(values, crc32(head)).to_bytes(4, "little")
    with pytest.raises(BitstreamError, match="byte 7: bytes of extent should be 1, got 2"):
        read(head + payload + crc, SPECS["picture"])
    assert data[-4:] == crc32(values, crc32(data[:13])).to_bytes(4, "little")


# -- declared sizes --------------------------------------------------------------------------------------

EXTREMES = (0, 1, 2, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1)


@pytest.mark.parametrize("name", list(container_head.OFFSETS))
def test_a_lying_header_never_gives_other_codes_nor_memory(name, fast):
    """The CRC is right; what reads anyway may differ in what codes do not depend on."""
    stream = three_chunks()
    data, offset = write(stream), container_head.OFFSETS[name]
    width = struct.calcsize("<" + dict(container_head._FIELDS)[name])
    for value in EXTREMES if width != 16 else ():
        if value < 2 ** (8 * width):
            lying = repaired(data, offset, value.to_bytes(width, "little")) if name != "header bytes" else (
                data[:offset] + value.to_bytes(width, "little") + data[offset + width :]
            )  # fmt: skip
            tracemalloc.start()
            with suppress(BitstreamError):
                assert equal(read(lying).codes, stream.codes)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 2**20


@pytest.mark.parametrize("name", ["extent", "codebooks", "window", "queries", "chunk positions", "chunks"])
def test_a_lying_count_is_refused(name):
    data, offset = write(three_chunks()), container_head.OFFSETS[name]
    width = struct.calcsize("<" + dict(container_head._FIELDS)[name])
    right = int.from_bytes(data[offset : offset + width], "little")
    for value in {*EXTREMES, right + 40} - {right, right - 1, right + 1}:
        if value < 2 ** (8 * width):
            with pytest.raises(BitstreamError, match=r"^byte \d+: .*\d.*\d"):
                read(repaired(data, offset, value.to_bytes(width, "little")))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("value", [b"\xff\xff\xff\xff\xff\xff\x7f", b"\xff" * 8, b"\x80\x00", b"\xff\xff\xff\xff\x7f"])
def test_a_lying_packet_is_refused_without_memory(place, value):
    data = write(stream_of(SPECS["picture"], (17, 9)))
    lying = data[: 7 + place] + value + data[8 + place :]
    tracemalloc.start()
    with pytest.raises(BitstreamError, match=r"^byte \d+: "):
        read(lying, SPECS["picture"])
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(samples=332), "extent may be 0 to 332, got 333"),
        (Limits(tokens=89), "codes in all may be 0 to 89, got "),
        (Limits(codebooks=2), "codebooks may be 1 to 2, got 3"),
        (Limits(codebook_size=299), "codebook size may be 2 to 299, got 300"),
        (Limits(chunk_bytes=8), "payload of a chunk may be 0 to 8, got "),
        (Limits(header_bytes=115), "header bytes may be 100 to 115, got 116"),
    ],
)
def test_limits_are_the_callers(limits, words):
    with pytest.raises(BitstreamError, match=words):
        read(write(three_chunks()), limits=limits)


def test_image_limits_hold_in_both_profiles():
    for chunk_positions in (None, 4):
        data = write(stream_of(SPECS["picture"], (17, 9), chunk_positions=chunk_positions))
        with pytest.raises(BitstreamError, match="height x width may be 1 to 152, got 153"):
            read(data, SPECS["picture"], limits=Limits(pixels=152))
        with pytest.raises(BitstreamError, match=r"extent may be 1 to 16, got 17"):
            read_header(data, Limits(side=16))


# -- versions --------------------------------------------------------------------------------------------


def test_unknown_optional_fields_are_kept_and_critical_ones_refused():
    stream = three_chunks()
    stream = Stream(replace(stream.header, extras=((7, b"hello"), (9, b""))), stream.codes)
    data = write(stream)
    back = read(data)
    assert back.header.extras == ((7, b"hello"), (9, b"")) and equal(back.codes, stream.codes)
    at = data.index(b"\x07\0\x05\0\0\0hello")
    with pytest.raises(BitstreamError, match=f"byte {at}: .*critical"):
        read(repaired(data, at + 1, b"\x80"))


def test_newer_files_are_refused_when_they_must_be():
    data = write(three_chunks())
    assert equal(read(repaired(data, 9, b"\x63")).codes, three_chunks().codes)  # minor version
    assert equal(read(repaired(data, 11, b"\xff")).codes, three_chunks().codes)  # optional flags
    for offset, words, value in ((8, "major version", 2), (10, "critical flags", 2), (17, "coding", 5)):
        with pytest.raises(BitstreamError, match=f"byte {offset}: {words}.* got {value}"):
            read(repaired(data, offset, bytes([value])))
    packet = write(stream_of(SPECS["picture"], (17, 9)))
    for kind in (packet[2] | 5 << 2, packet[2] + (1 << 5)):
        with pytest.raises(BitstreamError, match=r"byte 2: (coding|version)"):
            read_header(packet[:2] + bytes([kind]) + packet[3:])


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sgt")), ids=lambda path: path.stem)
def test_files_of_released_versions_open_for_ever(path):
    told = json.loads(path.with_suffix(".json").read_text())
    spec, coder = CodecSpec.from_dict(told["spec"]), coder_of(told)
    stream = read(path.read_bytes(), spec, bytes.fromhex(told["stream_id"]), coder=coder)
    assert [codes.tolist() for codes in stream.codes] == told["codes"]
    assert list(stream.header.extent) == told["extent"]
    assert stream.header.profile == told["profile"]
    assert stream.header.rate.quality == told.get("quality")
    assert write(stream, coder) == path.read_bytes()  # as long as version 1.0 is what is written


@pytest.mark.parametrize("path", sorted((GOLDEN / "bad").glob("*.sgt")), ids=lambda path: path.stem)
def test_damaged_files_are_refused_by_the_same_message_for_ever(path):
    told = json.loads((GOLDEN / "bad" / "messages.json").read_text())[path.stem]
    good = json.loads((GOLDEN / f"{told['of']}.json").read_text())
    with pytest.raises(BitstreamError) as caught:
        read(
            path.read_bytes(), CodecSpec.from_dict(good["spec"]), bytes.fromhex(good["stream_id"]), coder=coder_of(good)
        )
    assert str(caught.value) == told["message"]


def test_there_are_golden_files_of_every_coding_in_both_profiles_good_and_bad():
    headers = [read_header(path.read_bytes()) for path in GOLDEN.glob("*.sgt")]
    kinds = {(header.profile, header.coding) for header in headers}
    assert kinds == set(itertools.product(("packet", "container"), range(5)))
    assert {header.coding for header in headers if header.streamed} == set(range(5))
    messages = json.loads((GOLDEN / "bad" / "messages.json").read_text())
    assert sorted(messages) == sorted(path.stem for path in (GOLDEN / "bad").glob("*.sgt")) and len(messages) >= 30


# -- models ----------------------------------------------------------------------------------------------


def test_a_file_of_another_model_is_refused_and_both_are_named(case):
    spec, stream = case
    other = bytes([0, 1, 2, 0xEE]) + bytes(12)
    with pytest.raises(BitstreamError, match=r"00010203.*000102ee"):
        read(write(stream), spec, other)


@pytest.mark.parametrize(
    "change",
    [{"hop": (11,)}, {"sample_rate": 16_000}, {"codebook_sizes": (5, 300, 18)}, {"strides": (1, 1, 4)}],
)
def test_a_container_that_contradicts_the_model_is_refused(change):
    with pytest.raises(BitstreamError, match=next(iter(change))):
        read(write(three_chunks()), replace(SPECS["speech"], **change))


def test_a_rate_that_the_model_lacks_is_refused():
    for stream in (three_chunks(), stream_of(SPECS["speech"], (333,))):
        with pytest.raises(BitstreamError, match="speech has 1 to 2 queries, got 3"):
            read(write(stream), replace(SPECS["speech"], queries=2))
        with pytest.raises(BitstreamError, match="modality"):
            read(write(stream), SPECS["picture"])


def test_a_packet_is_read_only_with_its_spec():
    data = write(stream_of(SPECS["speech"], (333,)))
    with pytest.raises(BitstreamError, match="packet is read with the spec"):
        read(data)
    with pytest.raises(ValueError, match="read it with spec="):
        _ = read_header(data).spec


# -- what cannot be written ------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "words"), [(-1, "got -1 at position 3; absent"), (17, "0 to 16, got 17")])
def test_codes_outside_their_codebook_are_not_written(code, words):
    stream = stream_of(SPECS["speech"], (333,))
    stream.codes[2][3] = code
    with pytest.raises(ValueError, match=words):
        write(stream)


def test_codes_of_another_extent_or_type_are_not_written():
    stream = stream_of(SPECS["speech"], (333,))
    longer = replace(stream.header, extent=(3333,))
    with pytest.raises(ValueError, match=r"extent \(3333,\)"):
        write(Stream(longer, stream.codes))
    with pytest.raises(ValueError, match="has integers"):
        write(Stream(stream.header, tuple(codes.astype(float) for codes in stream.codes)))


# -- salvage ---------------------------------------------------------------------------------------------


def test_salvage_gives_every_chunk_but_the_damaged_one(fast):
    stream = three_chunks()
    head, *chunks = blocks(write(stream))
    at = len(head)
    for number, chunk in enumerate(chunks):
        damaged = bytearray(write(stream))
        damaged[at + 28] ^= 1
        at += len(chunk)
        saved = salvage(bytes(damaged))
        for codes, kept, stride in zip(stream.codes, saved.codes, (1, 2, 4), strict=True):
            lost = np.arange(len(codes)) * stride // 20 == number
            assert (kept[lost] == -1).all() and lost.any()
            assert np.array_equal(kept[~lost], codes[~lost])


def test_salvage_of_a_cut_file_gives_its_whole_chunks():
    stream = three_chunks()
    head, first, second, _ = blocks(write(stream))
    saved = salvage(head + first + second[:-1])
    assert np.array_equal(saved.codes[0][:20], stream.codes[0][:20])
    assert (saved.codes[0][20:] == -1).all()
    assert equal(salvage(write(stream)).codes, stream.codes)


def test_salvage_allocates_no_more_than_the_file_can_hold():
    spec = replace(SPECS["speech"], codebook_sizes=(2,), strides=())
    head = blocks(write(stream_of(spec, (4_000_000,), chunk_positions=10_000)))[0]
    with pytest.raises(BitstreamError, match="declared payload"):
        salvage(head)
    with pytest.raises(BitstreamError, match="packet"):
        salvage(write(stream_of(spec, (400,))))


def test_the_parser_imports_no_torch():
    code = "import sys, sigtok.codecs.bitstream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
