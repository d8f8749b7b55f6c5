"""Containers by chunks: what a pipe brings is what the file holds, cut anywhere it is refused, and parts are parts."""

import io
import os
import struct
import threading
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from zlib import crc32

import jaxtyping
import numpy as np
import pytest

from sigtok.codecs.bitstream import BitstreamError, Header, Limits, Stream, read, read_header, salvage, write
from sigtok.codecs.container_stream import Reader, Writer, header_of, read_part
from sigtok.codecs.header import ADAPTIVE, FIXED_WIDTH
from sigtok.codecs.spec import CodecSpec, Rate

ID = bytes(range(16))
SPEECH = CodecSpec(
    name="speech", modality="audio", channels=1, sample_rate=8000, hop=(10,), codebook_sizes=(5, 300, 17),
    strides=(1, 2, 4), windows=((4,), (2,)), queries=3, latent_dim=2,
)  # fmt: skip
PICTURE = CodecSpec(
    name="picture", modality="image", channels=3, sample_rate=None, hop=(8, 4), codebook_sizes=(2, 300), latent_dim=2
)
BLOCKS = CodecSpec(
    name="blocks", modality="image", channels=3, sample_rate=None, hop=(4, 4), codebook_sizes=(100, 5),
    strides=(4, 1), windows=((2, 2),), queries=4, latent_dim=2, shares=(0.5, 0.5),
)  # fmt: skip
CASES = {  # spec, extent, coding, positions of a chunk
    "speech": (SPEECH, (900,), FIXED_WIDTH, 20),
    "speech_adaptive": (SPEECH, (900,), ADAPTIVE, 24),
    "speech_whole_chunks": (SPEECH, (800,), FIXED_WIDTH, 20),
    "speech_empty": (SPEECH, (0,), FIXED_WIDTH, 20),
    "picture": (PICTURE, (50, 33), FIXED_WIDTH, 20),
    "picture_adaptive": (PICTURE, (50, 33), ADAPTIVE, 18),
    "blocks": (BLOCKS, (50, 33), FIXED_WIDTH, 48),
}


class Slow:
    """Gives so many bytes at a time, takes so many, and notes the most that was asked for at once."""

    def __init__(self, data=b"", size=1):
        self.file, self.size, self.most = io.BytesIO(data), size, 0

    def read(self, size):
        self.most = max(self.most, size)
        return self.file.read(min(size, self.size))

    def write(self, data):
        return self.file.write(data[: self.size])


def stream_of(name, seed=0):
    spec, extent, coding, chunk = CASES[name]
    rng = np.random.default_rng(seed)
    codes = [
        rng.integers(0, size, count) for size, count in zip(spec.codebook_sizes, spec.token_counts(extent), strict=True)
    ]
    if spec.granular:
        coarse = rng.random(len(codes[0])) < 0.5
        codes = [np.where(coarse, codes[0], -1), np.where(coarse.repeat(4), -1, codes[1])]
    header = Header.of(spec, None, extent, ID, coding)
    return Stream(replace(header, profile="container", chunk_positions=chunk, streamed=True), tuple(codes))


def streamed(stream, pieces, size=2**30):
    """The bytes of a writer that is given the codes in so many pieces."""
    file = Slow(size=size)
    writer = Writer(file, stream.header)
    for piece in range(pieces):
        writer.append([np.array_split(codes, pieces)[piece] for codes in stream.codes])
    writer.close(stream.header.extent[0])
    return file.file.getvalue()


def equal(codes, others):
    return len(codes) == len(others) and all(map(np.array_equal, codes, others))


def joined(pieces, books):
    return tuple(np.concatenate([np.empty(0, int), *(piece.codes[book] for piece in pieces)]) for book in range(books))


def read_by_chunks(data, size=2**30):
    reader = Reader(Slow(data, size))
    pieces = list(reader)
    return Stream(reader.header, joined(pieces, len(reader.header.strides)))


@pytest.fixture(params=CASES)
def stream(request):
    return stream_of(request.param)


@pytest.fixture
def fast(monkeypatch):
    """Without shape checks of every call: for loops over all bits."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# -- writing and reading -----------------------------------------------------------------------------------


def test_a_stream_is_the_same_however_it_is_cut_and_however_slow_the_file(stream):
    data = write(stream)
    for pieces in (1, 2, 7):
        assert streamed(stream, pieces) == data
    assert streamed(stream, 3, size=5) == data


def test_what_was_streamed_is_read_whole_and_by_chunks_as_it_was(stream):
    data = write(stream)
    for back in (read(data), read_by_chunks(data), read_by_chunks(data, 1), read_by_chunks(data, 7)):
        assert equal(back.codes, stream.codes) and back.header == stream.header
    assert read_header(data) == header_of(io.BytesIO(data)) == stream.header


def test_files_that_know_their_extent_are_read_by_chunks_too(stream):
    plain = Stream(replace(stream.header, streamed=False), stream.codes)
    back = read_by_chunks(write(plain), 3)
    assert equal(back.codes, stream.codes) and back.header == plain.header


def test_chunks_come_before_the_end_is_there():
    """A real pipe: the reader has the first chunk while the writer still holds the last codes."""
    stream = stream_of("speech_adaptive")
    out, into = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    seen, goes = [], threading.Event()

    def produce():
        with into:
            writer = Writer(into, stream.header)
            writer.append([codes[:24] for codes in stream.codes])
            into.flush()
            assert goes.wait(10)
            writer.append([codes[24:] for codes in stream.codes])
            writer.close(900)

    thread = threading.Thread(target=produce)
    thread.start()
    with out:
        for piece in Reader(out):
            seen.append(piece)
            goes.set()
    thread.join()
    assert equal(joined(seen, 3), stream.codes) and seen[0].start == 0 and seen[1].start == 24


def test_a_writer_chooses_chunks_of_whole_windows_and_rows():
    for spec, extent in ((SPEECH, (0,)), (PICTURE, (0, 33))):
        for coding in (FIXED_WIDTH, ADAPTIVE):
            file = io.BytesIO()
            Writer(file, Header.of(spec, None, (1, 33)[: len(extent)], ID, coding))
            chunk = struct.unpack_from("<I", file.getvalue(), 80)[0]
            assert chunk % (12 if spec is SPEECH else 9 if coding == ADAPTIVE else 1) == 0


def test_a_writer_without_an_extent_stands_for_whole_windows(stream):
    file = io.BytesIO()
    writer = Writer(file, stream.header)
    writer.append(stream.codes)
    writer.close()
    back, spec = read(file.getvalue()), stream.header.spec
    assert equal(back.codes, stream.codes)
    assert back.header.extent[0] == spec.padded(stream.header.extent)[0]


@pytest.mark.parametrize("extent", [0, 750, 921, 8000])
def test_an_extent_of_other_codes_is_refused(extent):
    stream = stream_of("speech")
    writer = Writer(io.BytesIO(), stream.header)
    writer.append(stream.codes)
    with pytest.raises(ValueError, match="close with the extent that the codes stand for"):
        writer.close(extent)


def test_a_writer_takes_codes_as_they_must_be():
    stream = stream_of("speech")
    writer = Writer(io.BytesIO(), stream.header)
    with pytest.raises(ValueError, match="integers .* of 3 codebooks, got 2"):
        writer.append(stream.codes[:2])
    with pytest.raises(ValueError, match="integers .* of 3 codebooks, got 0"):
        writer.append([codes.astype(float) for codes in stream.codes])
    with pytest.raises(ValueError, match="codebook 0 has codes 0 to 4, got 300 at position 0"):
        writer.append(stream.codes[1:2] * 3 if stream.codes[1][0] == 300 else [np.full(40, 300)] * 3)
    done = Writer(io.BytesIO(), stream.header)
    done.append(stream.codes)
    done.close(900)
    with pytest.raises(ValueError, match="after close"):
        done.append(stream.codes)


def test_granularities_of_a_stream_are_checked():
    stream = stream_of("blocks")
    writer = Writer(io.BytesIO(), stream.header)
    with pytest.raises(ValueError, match="one codebook has a code at every position, got 0"):
        writer.append([np.full(len(codes), -1) for codes in stream.codes])


# -- damage ------------------------------------------------------------------------------------------------


def refused(data, whole):
    """Whether a streamed file is refused, by chunks or as a whole; any other exception passes through."""
    try:
        _ = read(data) if whole else list(Reader(io.BytesIO(data)))
    except BitstreamError as error:
        return str(error).startswith("byte ")
    return False


@pytest.mark.parametrize("name", ["picture_adaptive", "speech", "speech_empty"])
def test_every_cut_is_found(name, fast):
    data = write(stream_of(name))
    for end in range(len(data)):
        assert refused(data[:end], whole=True) and refused(data[:end], whole=False), end


@pytest.mark.parametrize("name", ["speech", "speech_adaptive", "speech_empty"])
def test_every_flipped_bit_is_found(name, fast):
    stream = stream_of(name)
    header = replace(stream.header, extent=(min(stream.header.extent[0], 80),), chunk_positions=4)
    counts = header.spec.token_counts(header.extent)
    data = write(Stream(header, tuple(codes[:count] for codes, count in zip(stream.codes, counts, strict=True))))
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(damaged), whole=bool(bit % 3)), bit


def test_bytes_behind_the_end_are_refused(stream):
    data = write(stream)
    for tail in (b"\0", bytes(2**17)):
        assert refused(data + tail, True) and refused(data + tail, False)


def ended(data, chunks, extent):
    """A streamed file that says another end, its CRC right."""
    at = data.rindex(b"LAST")
    end = struct.pack("<4sIQ", b"LAST", chunks, extent)
    return data[:at] + end + crc32(end).to_bytes(4, "little") + data[at + 20 :]


@pytest.mark.parametrize("extent", [0, 1, 760, 921, 2**32, 2**63, 2**64 - 1])
def test_a_lying_end_is_refused_without_memory(extent):
    data = write(stream_of("speech"))
    for chunks in (0, 4, 5, 2**32 - 1):
        tracemalloc.start()
        assert refused(ended(data, chunks, extent), True) and refused(ended(data, chunks, extent), False)
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()
    assert not refused(ended(data, 4, 900), True)


def test_a_short_chunk_is_the_last():
    data = write(stream_of("speech"))
    at = data.index(b"CHNK")
    short = data[: at + 12] + struct.pack("<I", 16) + data[at + 16 :]
    with pytest.raises(BitstreamError, match=r"^byte \d+: "):
        list(Reader(io.BytesIO(short)))


def test_a_declared_size_makes_no_room_before_its_bytes_come():
    stream = stream_of("speech_adaptive")
    data = write(stream)
    at = data.index(b"CHNK") + 4
    file = Slow(data[:at] + struct.pack("<I", 2**24) + data[at + 4 :], 2**30)
    tracemalloc.start()
    with pytest.raises(BitstreamError, match="is cut short"):
        list(Reader(file))
    assert tracemalloc.get_traced_memory()[1] < 2**20 and file.most <= 2**16
    tracemalloc.stop()


def test_memory_is_that_of_a_chunk():
    spec = replace(SPEECH, codebook_sizes=(256,), strides=(), windows=(), queries=1)
    header = replace(Header.of(spec, None, (0,), ID), chunk_positions=10_000)

    class Counted:
        size = 0

        def write(self, data):
            self.size += len(data)
            return len(data)

    codes, file = np.arange(10_001) % 256, Counted()
    tracemalloc.start()
    writer = Writer(file, header)
    for _ in range(150):
        writer.append([codes])
    writer.close()
    assert file.size > 1.5e6 and tracemalloc.get_traced_memory()[1] < 1.2e6
    tracemalloc.stop()


def test_limits_are_the_callers(stream):
    if not stream.codes[0].size:
        return
    data = write(stream)
    count = sum(map(len, stream.codes))
    for limits in (Limits(tokens=count - 1), Limits(samples=10, side=10)):
        with pytest.raises(BitstreamError):
            list(Reader(io.BytesIO(data), limits=limits))
        with pytest.raises(BitstreamError):
            read(data, limits=limits)


def test_a_packet_has_no_chunks():
    packet = write(Stream(Header.of(PICTURE, None, (8, 4), ID), (np.array([1]), np.array([7]))))
    with pytest.raises(BitstreamError, match="byte 0: containers are read by chunks, got a packet"):
        Reader(io.BytesIO(packet))


def test_files_of_other_models_are_refused_at_the_start(stream):
    data = write(stream)
    with pytest.raises(BitstreamError, match="written by model 000102"):
        Reader(io.BytesIO(data), None, bytes(16))
    with pytest.raises(BitstreamError, match="byte 16: modality|byte 60: hop"):
        Reader(io.BytesIO(data), replace(SPEECH, hop=(11,)))


# -- salvage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CASES if name != "speech_empty"])
def test_a_stream_that_has_lost_its_end_keeps_its_whole_chunks(name):
    stream, (spec, extent, _, chunk) = stream_of(name), CASES[name]
    data = write(stream)
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"CHNK"]
    kept = salvage(data[: starts[2] + 30])
    for codes, found, stride in zip(stream.codes, kept.codes, spec.strides, strict=True):
        assert np.array_equal(found, codes[: len(found)])
        assert len(found) * stride > 2 * chunk - spec.queries * spec.grid(extent)[-1] * (len(extent) - 1) - spec.queries
    assert kept.header.extent[0] < extent[0] and kept.header.extent[1:] == extent[1:]
    assert equal(salvage(data).codes, stream.codes)
    with suppress(BitstreamError):
        assert not len(salvage(data[: starts[0]]).codes[0])


def test_what_is_missing_in_the_middle_of_a_stream_is_absent():
    stream = stream_of("speech")
    data = write(stream)
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"CHNK"]
    kept = salvage(data[: starts[1]] + data[starts[2] : -40])
    assert np.array_equal(kept.codes[0][:20], stream.codes[0][:20]) and (kept.codes[0][20:40] == -1).all()
    assert np.array_equal(kept.codes[0][40:], stream.codes[0][40 : len(kept.codes[0])])


def test_a_chunk_far_away_is_no_reason_to_make_room():
    data = write(stream_of("speech"))
    at = data.index(b"CHNK")
    head = bytearray(data[at : at + 24])
    head[8:12], head[16:24] = struct.pack("<I", 2**30), struct.pack("<Q", 20 * 2**30)
    tracemalloc.start()
    with suppress(BitstreamError):
        salvage(data[:at] + bytes(head) + data[at + 24 : -40])
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


# -- parts -------------------------------------------------------------------------------------------------


class Counting(io.BytesIO):
    """A file that knows how much of it was read."""

    taken = 0

    def read(self, size=-1):
        found = super().read(size)
        self.taken += len(found)
        return found


@pytest.mark.parametrize("knows", [True, False])
def test_any_part_is_that_part_of_the_whole(stream, knows):
    spec, extent = stream.header.spec, stream.header.extent
    data = write(Stream(replace(stream.header, streamed=not knows), stream.codes))
    positions, chunk = spec.positions(extent), stream.header.chunk_positions
    for first in range(0, max(positions, 1), 11):
        for last in (first + 1, first + 9, positions + 7):
            header, piece = read_part(io.BytesIO(data), first, last)
            assert header.extent == extent
            assert piece.start == first // chunk * chunk
            assert piece.start + piece.positions == min(positions, -(-last // chunk) * chunk)
            for codes, found, stride in zip(stream.codes, piece.codes, spec.strides, strict=True):
                start = piece.start // stride
                assert np.array_equal(found, codes[start : start + len(found)])
                assert len(found) == -(-piece.positions // stride)


def test_a_part_reads_its_chunks_and_no_others():
    spec = replace(SPEECH, codebook_sizes=(256,), strides=(), windows=(), queries=1)
    header = replace(Header.of(spec, None, (100_000,), ID), profile="container", chunk_positions=500)
    data = write(Stream(header, (np.arange(10_000) % 256,)))
    file = Counting(data)
    read_part(file, 5100, 5400)
    assert file.taken < 500 + 28 * 4 + 20 * 24 * 2 + 600 < len(data) / 3
    damaged = bytearray(data)
    damaged[data.index(b"CHNK") + 40] ^= 1  # of the first chunk
    assert equal(read_part(io.BytesIO(damaged), 5100, 5400)[1].codes, read_part(file, 5100, 5400)[1].codes)
    with pytest.raises(BitstreamError, match="CRC of chunk 0"):
        read_part(io.BytesIO(damaged), 0, 10)


def test_a_damaged_index_is_found(fast):
    data = write(stream_of("speech_adaptive"))
    chunks = data.count(b"CHNK")
    for place in range(len(data) - 32 - 24 * chunks, len(data)):
        if not len(data) - 16 <= place < len(data) - 8:  # the digest is of all codes
            damaged = bytearray(data)
            damaged[place] ^= 4
            with pytest.raises(BitstreamError, match="^byte "):
                read_part(io.BytesIO(damaged), 0, 10)


def test_a_packet_is_one_part():
    stream = Stream(Header.of(SPEECH, Rate(), (90,), ID), tuple(codes for codes in stream_of("speech").codes))
    codes = tuple(book[:count] for book, count in zip(stream.codes, SPEECH.token_counts((90,)), strict=True))
    header, piece = read_part(io.BytesIO(write(Stream(stream.header, codes))), 2, 3, SPEECH, ID)
    assert (piece.start, piece.positions, header.profile) == (0, 9, "packet") and equal(piece.codes, codes)
