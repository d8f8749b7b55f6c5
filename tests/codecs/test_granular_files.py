"""Files of several granularities and of fractional strides: whole or refused, whatever a byte or a header says."""

import struct
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from zlib import crc32

import jaxtyping
import numpy as np
import pytest
import torch

from sigtok.codecs import container, container_head, packet, payload
from sigtok.codecs.bitstream import BitstreamError, Header, Limits, Stream, read, read_header, salvage, write
from sigtok.codecs.entropy.granules import payload_bytes
from sigtok.codecs.files import tokens_from_bytes, tokens_to_bytes
from sigtok.codecs.header import windows_of
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens

ID = bytes(range(16))
PICTURE = CodecSpec(
    name="picture", modality="image", channels=3, sample_rate=None, hop=(4, 4), codebook_sizes=(100, 5, 300),
    strides=(16, 4, 1), windows=((4, 4),), queries=16, latent_dim=2, shares=(0.2, 0.3, 0.5),
)  # fmt: skip
SOUND = CodecSpec(
    name="sound", modality="audio", channels=1, sample_rate=8000, hop=(10,), codebook_sizes=(16, 2),
    strides=(4, 2), windows=((8,),), queries=8, latent_dim=2, shares=(0.5, 0.5),
)  # fmt: skip
SCALES = replace(PICTURE, name="scales", codebook_sizes=(300,) * 4, strides=(16, 4, Fraction(16, 9), 1), shares=())
CASES = {  # spec, extent, rate, positions of a chunk
    "picture": (PICTURE, (33, 50), Rate(), None),
    "one_window": (PICTURE, (1, 7), Rate(), None),
    "picture_chunks": (PICTURE, (17, 17), Rate(), 48),  # 2 windows in a row, 3 in a chunk
    "sound": (SOUND, (333,), Rate(shares=(1.0, 0.0)), None),
    "sound_chunks": (SOUND, (190,), Rate(), 16),
    "no_chunks": (SOUND, (0,), Rate(), 16),
    "scales": (SCALES, (9, 7), Rate(), None),
    "scales_chunks": (SCALES, (9, 7), Rate(codebooks=3), 16),
}
DAMAGED = ("one_window", "picture_chunks", "scales_chunks", "sound")  # small, in both profiles


def stream_of(spec, extent, rate=None, chunk_positions=None, seed=0, split=0.5):
    """Random codes; a container when chunk_positions says how it is cut."""
    rng = np.random.default_rng(seed)
    header = Header.of(spec, rate, extent, ID)
    counts = spec.token_counts(extent, rate)
    codes = tuple(rng.integers(0, size, count) for size, count in zip(spec.codebook_sizes, counts, strict=False))
    if spec.granular:
        codes = tuple(
            np.where(there, book, -1) for there, book in zip(speakers(counts, rng, split), codes, strict=True)
        )
    if chunk_positions:
        header = replace(header, profile="container", chunk_positions=chunk_positions)
    return Stream(header, codes)


def speakers(counts, rng, split):
    """Which codes are there: those of cells that are not split, coarse to fine, by chance."""
    opened = np.ones(counts[0], bool)
    for count, finer in pairwise(counts):
        splits = opened & (rng.random(count) < split)
        yield opened & ~splits
        opened = splits.repeat(finer // max(count, 1))
    yield opened


@pytest.fixture
def fast(monkeypatch):
    """Without shape checks of every call: for loops over all bits."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(params=CASES)
def case(request):
    spec, *rest = CASES[request.param]
    return spec, stream_of(spec, *rest)


def equal(codes, others):
    return len(codes) == len(others) and all(map(np.array_equal, codes, others))


def refused(data, spec, words="byte "):
    """Whether reading raises a BitstreamError that begins with these words; any other exception passes through."""
    try:
        read(data, spec)
    except BitstreamError as error:
        return str(error).startswith(words)
    return False


def repaired(data, offset, value):
    """The container with other bytes at an offset of its header, and a right CRC."""
    size = struct.unpack_from("<I", data, 12)[0]
    head = bytearray(data[: size - 4])
    head[offset : offset + len(value)] = value
    return bytes(head) + crc32(head).to_bytes(4, "little") + data[size:]


# -- round trips -----------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_written_again_bit_for_bit(case):
    spec, stream = case
    data = write(stream)
    back = read(data, spec, ID)
    assert equal(back.codes, stream.codes) and all(codes.dtype == np.int64 for codes in back.codes)
    chosen = {"profile": back.header.profile, "chunk_positions": back.header.chunk_positions}
    assert back.header == replace(stream.header, **chosen)
    assert write(back) == data


def test_a_container_is_counted_without_its_model(case):
    spec, stream = case
    stream = Stream(replace(stream.header, profile="container", chunk_positions=16), stream.codes)
    data = write(stream)
    header = read_header(data)
    assert header.granular == spec.granular and header.strides == spec.strides[: len(stream.codes)]
    assert header.spec.granular == spec.granular
    assert header.spec.token_counts(header.extent) == tuple(len(codes) for codes in stream.codes)
    assert equal(read(data).codes, stream.codes)


@pytest.mark.parametrize("split", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("chunk_positions", [None, 32])
def test_pictures_of_all_extents_round_trip(split, chunk_positions):
    for height in (1, 15, 16, 17, 40):
        for width in (1, 16, 31, 33, 49):
            stream = stream_of(PICTURE, (height, width), None, chunk_positions, height * width, split)
            assert equal(read(write(stream), PICTURE).codes, stream.codes)


def test_a_packet_is_its_head_its_payload_and_a_crc():
    stream = stream_of(PICTURE, (333, 500))
    present = [codes >= 0 for codes in stream.codes]
    size = payload_bytes(present, PICTURE.codebook_sizes, windows_of(PICTURE, (333, 500)))
    data = write(stream)
    assert read_header(data).profile == "packet" and len(data) == 15 + size + 4


def test_large_pictures_become_containers_of_whole_windows():
    stream = stream_of(PICTURE, (1600, 1601))
    data = write(stream)
    header = read_header(data)
    assert header.profile == "container" and header.chunk_positions % 16 == 0
    assert equal(read(data, PICTURE).codes, stream.codes)
    present, windows = [codes >= 0 for codes in stream.codes], windows_of(PICTURE, (1600, 1601))
    assert len(data) <= 1.01 * payload_bytes(present, PICTURE.codebook_sizes, windows) + 300


def test_a_size_depends_on_the_map_alone():
    for chunk_positions in (None, 64):
        stream = stream_of(PICTURE, (100, 101), None, chunk_positions)
        blank = tuple(np.minimum(codes, 0) for codes in stream.codes)
        assert len(write(Stream(stream.header, blank))) == len(write(stream))


@pytest.mark.parametrize("extent", [(33, 50), (1600, 1601)])
def test_tokens_of_files_are_those_that_were_written(extent):
    for spec in (PICTURE, SCALES):
        codes = stream_of(spec, extent).codes
        tokens = Tokens(tuple(torch.from_numpy(book)[None] for book in codes), (extent,), Rate(), spec)
        back = tokens_from_bytes(tokens_to_bytes(tokens, ID), spec, ID)
        assert (back.extents, back.rate, back.spec) == (tokens.extents, tokens.rate, tokens.spec)
        assert all(map(torch.equal, back.streams, tokens.streams))


# -- what cannot be written ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("book", "place", "code", "words"),
    [
        (0, 0, -1, "got 0 of them at position 0, of window 0"),
        (1, 5, 3, "got 2 of them at position 20, of window 1"),
        (2, 191, -1, "got 0 of them at position 191, of window 11"),
        (2, 4, 300, r"codebook 2 has codes 0 to 299, got 300 at position 4; absent codes are -1"),
        (1, 7, -2, r"codebook 1 has codes 0 to 4, got -2 at position 7; absent codes are -1"),
    ],
)
def test_exactly_one_codebook_speaks_at_every_position(book, place, code, words):
    stream = stream_of(PICTURE, (33, 50))
    coarse, medium, fine = stream.codes
    coarse[:], medium[:], fine[:] = 7, -1, -1
    coarse[11], fine[176:] = -1, 9
    stream.check()
    stream.codes[book][place] = code
    with pytest.raises(ValueError, match=words):
        write(stream)


def test_granularities_that_are_not_nested_are_not_written():
    spec = replace(PICTURE, strides=(16, 3, 1))
    codes = tuple(np.full(count, -1) for count in spec.token_counts((16, 16)))
    codes[0][:] = 1
    with pytest.raises(ValueError, match="each a multiple of the next"):
        write(Stream(Header.of(spec, None, (16, 16), ID), codes))
    with pytest.raises(ValueError, match="whole windows of 16 positions, got 24"):
        write(stream_of(replace(PICTURE, strides=(8, 4, 1)), (33, 50), None, 24))


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGED)
def test_every_cut_is_found(name, fast):
    spec, *rest = CASES[name]
    data = write(stream_of(spec, *rest))
    for end in range(len(data)):
        assert refused(data[:end], spec), end


@pytest.mark.parametrize("name", DAMAGED)
def test_every_flipped_bit_is_found(name, fast):
    spec, *rest = CASES[name]
    data = write(stream_of(spec, *rest))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(damaged), spec), bit


@pytest.mark.parametrize("tail", [b"\0", b"PK\3\4" + bytes(50), bytes(2**20)])
def test_bytes_behind_the_end_are_refused(case, tail):
    spec, stream = case
    data = write(stream) + tail
    words = f"byte {len(data) - len(tail)}: " if stream.header.profile == "container" else "byte "
    assert refused(data, spec, words)


@pytest.mark.parametrize("name", [name for name, (spec, *_) in CASES.items() if spec.granular])
def test_mutants_with_right_crcs_are_refused_or_one_spelling_of_other_codes(name, monkeypatch, fast):
    """Every CRC is 0 on both sides: the parser itself meets what chance does to its bytes."""
    for module in (container, container_head, packet, payload):
        monkeypatch.setattr(module, "crc32", lambda *_: 0)
    spec, *rest = CASES[name]
    data, rng, accepted = write(stream_of(spec, *rest)), np.random.default_rng(0), 0
    for _ in range(400):
        mutant = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            mutant[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256), mutant[place] ^ 1 << rng.integers(8)])
        start, size = rng.integers(0, len(data)), int(rng.integers(0, 9)) * int(rng.random() < 0.3)
        mutant[start : start + size] = mutant[: int(rng.integers(0, 9))] if size else mutant[start : start + size]
        with suppress(BitstreamError):
            back = read(bytes(mutant), spec)
            back.check()
            accepted += bytes(mutant) != data
            assert write(back) == bytes(mutant) or back.header.profile == "container"  # whose flags are free
        with suppress(BitstreamError):
            salvage(bytes(mutant))
    assert accepted or read_header(data).profile == "container"  # whose digest is still right


# -- declared sizes --------------------------------------------------------------------------------------

EXTREMES = (0, 1, 2, 15, 16, 17, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1)


@pytest.mark.parametrize(
    "name", [name for name in container_head.OFFSETS if name not in ("stream id", "magic", "header bytes")]
)
def test_a_lying_header_never_gives_other_codes_nor_memory(name, fast):
    for spec, extent in ((PICTURE, (17, 33)), (SOUND, (190,)), (SCALES, (9, 17))):
        stream = stream_of(spec, extent, None, 64)
        data, offset = write(stream), container_head.OFFSETS[name]
        width = struct.calcsize("<" + dict(container_head._FIELDS)[name])
        for value in EXTREMES:
            if value < 2 ** (8 * width):
                lying = repaired(data, offset, value.to_bytes(width, "little"))
                tracemalloc.start()
                with suppress(BitstreamError):
                    assert equal(read(lying).codes, stream.codes)
                with suppress(BitstreamError):
                    salvage(lying)
                assert tracemalloc.get_traced_memory()[1] < 2**21
                tracemalloc.stop()


@pytest.mark.parametrize("change", [-1, 1, 2**24, 2**32 - 1])
def test_a_lying_payload_size_is_refused(change):
    data = write(stream_of(PICTURE, (17, 33), None, 64))
    at = data.index(b"CHNK") + 4
    size = (int.from_bytes(data[at : at + 4], "little") + change) % 2**32
    with pytest.raises(BitstreamError, match=r"^byte \d+: "):
        read(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])


def test_limits_are_the_callers():
    for chunk_positions in (None, 64):
        data = write(stream_of(PICTURE, (170, 330), None, chunk_positions, split=0.0))
        codes = 11 * 21 * 21
        with pytest.raises(BitstreamError, match=f"codes in all may be 0 to 99, got {codes}"):
            read(data, PICTURE, limits=Limits(tokens=99))
        with pytest.raises(BitstreamError, match=f"such a short file may be 0 to {len(data)}, got {codes}"):
            read(data, PICTURE, limits=Limits(codes_per_byte=1))
    data = write(stream_of(PICTURE, (17, 33), None, 64, split=1.0))
    with pytest.raises(BitstreamError, match=r"payload bytes of chunk 0 may be \d+ to 60, got \d+"):
        read(data, PICTURE, limits=Limits(chunk_bytes=60))


def test_a_picture_of_one_granularity_is_no_bomb():
    """The least file of 100 megapixels takes no more memory than its codes need."""
    spec = replace(PICTURE, codebook_sizes=(2, 2, 2))
    head = write(stream_of(spec, (9_000, 9_000), split=0.0))
    assert sum(spec.token_counts((9_000, 9_000))) <= 512 * len(head)
    with pytest.raises(BitstreamError, match=r"such a short file may be 0 to \d+|by its header; it is cut short"):
        read(head[:200], spec)


# -- other models, other codings -------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_positions", [None, 64])
def test_a_file_of_the_other_coding_is_refused(chunk_positions):
    plain = replace(PICTURE, shares=())
    at = 17 if chunk_positions else 2
    for wrote, reads, words in ((PICTURE, plain, "should be 0, got 1"), (plain, PICTURE, "should be 1, got 0")):
        data = write(stream_of(wrote, (33, 50), None, chunk_positions))
        with pytest.raises(BitstreamError, match=f"byte {at}: coding of picture {words}"):
            read(data, reads)


def test_a_container_with_strides_that_are_not_nested_is_refused_though_the_crc_is_right():
    data = write(stream_of(PICTURE, (17, 33), None, 48))
    with pytest.raises(BitstreamError, match="byte 80: windows of 16 positions .* multiple of the next, got"):
        read(repaired(data, 88 + 8 + 4, struct.pack("<I", 3)))
    with pytest.raises(BitstreamError, match="byte 80: a chunk of several granularities is whole windows of 32"):
        read(repaired(data, 76, struct.pack("<I", 32)))


# -- fractions -------------------------------------------------------------------------------------------


def with_denominators(numbers, kind=container_head.DENOMINATORS, behind=b""):
    """The head of a container of scales whose field of denominators says something else, its CRC right."""
    data = write(stream_of(SCALES, (9, 17), None, 16))
    end = struct.unpack_from("<I", data, 12)[0]
    field = struct.pack(f"<HI{len(numbers)}I", kind, 4 * len(numbers), *numbers)
    head = data[:12] + struct.pack("<I", 120 + len(behind) + len(field) + 4) + data[16:120] + behind + field
    return head + crc32(head).to_bytes(4, "little") + data[end:]


def test_denominators_stand_in_a_critical_field_of_their_own():
    data = write(stream_of(SCALES, (9, 17), None, 16))
    assert data[120:142] == struct.pack("<HI4I", 0x8001, 16, 1, 1, 9, 1) and with_denominators((1, 1, 9, 1)) == data
    assert struct.unpack_from("<8I", data, 88) == (300, 16, 300, 4, 300, 16, 300, 1)
    whole = write(stream_of(replace(SCALES, strides=(16, 4, 2, 1)), (9, 17), None, 16))
    assert len(whole) < len(data) and read_header(whole).extras == () == read_header(data).extras
    extra = Stream(replace(stream_of(SCALES, (9, 17), None, 16).header, extras=((7, b"hello"),)), read(data).codes)
    assert read_header(write(extra)).extras == ((7, b"hello"),) and read_header(write(extra)).strides == SCALES.strides


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((1, 1, 1, 1), "the largest denominator may be 2 to"),
        ((1, 1, 10, 1), "byte 134: the divisor of a stride and its denominator should be 1, got 2"),
        ((1, 1, 0, 9), "byte 134: a denominator may be 1 to 16, got 0"),
        ((1, 1, 17, 1), "byte 134: a denominator may be 1 to 16, got 17"),
        ((1, 1, 9), "bytes of the denominators should be 16, got 12"),
        ((1, 1, 9, 1, 1), "bytes of the denominators should be 16, got 20"),
    ],
)
def test_denominators_have_one_spelling(numbers, words):
    data = with_denominators(numbers)
    with pytest.raises(BitstreamError, match=words):
        read(data)


def test_fractions_make_whole_tokens_of_a_window():
    with pytest.raises(BitstreamError, match="byte 80: a window of 24 positions holds whole tokens, got stride 16/9"):
        read(repaired(write(stream_of(SCALES, (9, 17), None, 16)), 76, struct.pack("<I", 24)))


def test_denominators_come_first_and_once():
    for behind in (struct.pack("<HI", 7, 0), struct.pack("<HI4I", container_head.DENOMINATORS, 16, 1, 1, 9, 1)):
        with pytest.raises(BitstreamError, match=f"byte {120 + len(behind)}: .*critical"):
            read(with_denominators((1, 1, 9, 1), behind=behind))


def test_a_packet_at_a_rate_without_whole_tokens_is_refused():
    data = write(stream_of(SCALES, (9, 7)))
    with pytest.raises(BitstreamError, match="byte 7: a window of 15 positions holds whole tokens, got stride 16/9"):
        read(data[:10] + b"\x0f" + data[11:], SCALES)


# -- salvage ---------------------------------------------------------------------------------------------


def test_salvage_gives_every_chunk_but_the_damaged_one(fast):
    stream = stream_of(PICTURE, (33, 50), None, 80)
    data = write(stream)
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"CHNK"]
    assert len(starts) == 3
    for number, start in enumerate(starts):
        damaged = bytearray(data)
        damaged[start + 30] ^= 1
        for codes, kept, stride in zip(stream.codes, salvage(bytes(damaged)).codes, PICTURE.strides, strict=True):
            lost = np.arange(len(codes)) * stride // 80 == number
            assert (kept[lost] == -1).all() and lost.any()
            assert np.array_equal(kept[~lost], codes[~lost])
    assert equal(salvage(data).codes, stream.codes)


def test_salvage_looks_at_no_more_marks_than_a_file_can_have():
    """A file full of marks would otherwise take the square of its size."""
    data = write(stream_of(PICTURE, (1600, 1600), None, 2**18))
    start = data.index(b"CHNK")
    full = data[:start] + (data[start : start + 28] * 40_000)[: len(data)]
    looks = []
    original = container.read_codes
    try:
        container.read_codes = lambda *args: looks.append(1) or original(*args)
        assert all((codes == -1).all() for codes in salvage(full).codes)
    finally:
        container.read_codes = original
    assert len(looks) == 66
