"""Files of entropy-coded codes: the model's own tables, adaptive contexts and priors, whole or refused."""

import struct
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from zlib import crc32

import jaxtyping
import numpy as np
import pytest
import torch

from sigtok.codecs import container, container_head, packet, payload, plan
from sigtok.codecs.audio.models import walloc_stereo
from sigtok.codecs.bitstream import BitstreamError, Header, Limits, Stream, check, read, read_header, salvage, write
from sigtok.codecs.files import compress, decompress, tokens_from_bytes, tokens_to_bytes
from sigtok.codecs.header import ADAPTIVE, FIXED_WIDTH, OWN_TABLES, PRIOR
from sigtok.codecs.plan import plan_of
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens

ID = bytes(range(16))
PHOTO = CodecSpec(
    name="photo", modality="image", channels=3, sample_rate=None, hop=(8, 8), codebook_sizes=(255,) * 3 + (2, 1023),
    latent_dim=5, qualities=4, quality_steps=4,
)  # fmt: skip
MUSIC = CodecSpec(
    name="music", modality="audio", channels=1, sample_rate=8000, hop=(40,), codebook_sizes=(255, 16), latent_dim=2,
    qualities=2,
)  # fmt: skip
SPEECH = CodecSpec(
    name="speech", modality="audio", channels=1, sample_rate=8000, hop=(10,), codebook_sizes=(5, 300, 17),
    strides=(1, 2, 4), windows=((4,), (2,)), queries=3, latent_dim=2,
)  # fmt: skip
SETS = CodecSpec(
    name="sets", modality="image", channels=3, sample_rate=None, hop=(8, 8), codebook_sizes=(64,), latent_dim=2,
    windows=((2, 2),), queries=3,
)  # fmt: skip
CASES = {  # spec, extent, rate, coding, positions of a chunk
    "photo_own": (PHOTO, (100, 130), Rate(quality=2.25), OWN_TABLES, None),
    "photo_own_chunks": (PHOTO, (100, 130), Rate(), OWN_TABLES, 51),
    "photo_adaptive": (PHOTO, (30, 20), Rate(quality=1), ADAPTIVE, None),
    "photo_fixed": (PHOTO, (30, 20), Rate(quality=3.5), FIXED_WIDTH, None),
    "music_own_chunks": (MUSIC, (3333,), Rate(quality=1), OWN_TABLES, 30),
    "music_own_empty": (MUSIC, (0,), Rate(), OWN_TABLES, 30),
    "speech_adaptive": (SPEECH, (333,), Rate(codebooks=2, window=(2,)), ADAPTIVE, None),
    "speech_adaptive_chunks": (SPEECH, (333,), Rate(), ADAPTIVE, 8),
    "speech_adaptive_empty": (SPEECH, (0,), Rate(), ADAPTIVE, None),
    "sets_adaptive_chunks": (SETS, (33, 50), Rate(), ADAPTIVE, 7),
    "music_prior": (MUSIC, (333,), Rate(quality=2), PRIOR, None),
    "music_prior_chunks": (MUSIC, (3333,), Rate(quality=1), PRIOR, 30),
    "photo_prior_chunks": (PHOTO, (100, 130), Rate(quality=2), PRIOR, 51),
}
DAMAGED = {  # small
    "photo_own": (PHOTO, (9, 17), Rate(quality=2.25), OWN_TABLES, None),
    "photo_adaptive": (PHOTO, (30, 20), Rate(quality=1), ADAPTIVE, None),
    "photo_fixed": (replace(PHOTO, codebook_sizes=(255,), strides=()), (9, 17), Rate(), FIXED_WIDTH, None),
    "music_own_chunks": (MUSIC, (300,), Rate(quality=1), OWN_TABLES, 4),
    "speech_adaptive_chunks": (SPEECH, (60,), Rate(), ADAPTIVE, 4),
    "music_prior": (MUSIC, (333,), Rate(quality=2), PRIOR, None),
    "music_prior_chunks": (MUSIC, (300,), Rate(quality=1), PRIOR, 4),
}


class Toy:
    """Two bytes a code: what it exceeds the code above by, so that rows matter; a byte of the quality in front."""

    def __init__(self, sizes):
        self.sizes = sizes

    def encode(self, codes, grid, quality):
        rows = [book.reshape(-1, grid[-1]) for book in codes]
        parts = [np.diff(book, axis=0, prepend=0) % size for book, size in zip(rows, self.sizes, strict=True)]
        return bytes([int(16 * quality)]) + b"".join(part.astype("<u2").tobytes() for part in parts)

    def decode(self, payload, grid, quality):
        count = int(np.prod(grid))
        if len(payload) != 1 + 2 * count * len(self.sizes) or payload[0] != int(16 * quality):
            raise ValueError(f"{count} codes of {len(self.sizes)} codebooks at {quality}, got {len(payload)} bytes")
        parts = np.frombuffer(payload, "<u2", offset=1).astype(np.int64).reshape(-1, *(1, *grid)[-2:])
        return tuple((part.cumsum(0) % size).ravel() for part, size in zip(parts, self.sizes, strict=True))


class ToyPrior(Toy):
    fingerprint = 0xFEDCBA98

    def check(self, spec, rate, stream_id):
        pass


class Silent:
    """Codes that are all 0 and cost nothing: what a bomb is made of."""

    def encode(self, codes, grid, quality):
        return b""

    def decode(self, payload, grid, quality):
        return tuple(np.zeros(int(np.prod(grid)), np.int64) for _ in PHOTO.codebook_sizes)


def silence(extent):
    header = Header.of(PHOTO, None, extent, ID, OWN_TABLES)
    return Stream(header, tuple(np.zeros(count, np.int64) for count in PHOTO.token_counts(extent)))


def toy(spec, coding):
    return {OWN_TABLES: Toy, PRIOR: ToyPrior}.get(coding, lambda _: None)(spec.codebook_sizes)


def stream_of(spec, extent, rate, coding, chunk_positions=None, seed=0):
    """Codes that repeat themselves; a container when chunk_positions says how it is cut."""
    rng = np.random.default_rng(seed)
    header = Header.of(spec, rate, extent, ID, coding, ToyPrior.fingerprint if coding == PRIOR else None)
    counts = spec.token_counts(extent, rate)
    codes = tuple(
        rng.integers(0, min(size, 7), count) for size, count in zip(spec.codebook_sizes, counts, strict=False)
    )
    if chunk_positions:
        header = replace(header, profile="container", chunk_positions=chunk_positions)
    return Stream(header, codes)


@pytest.fixture
def fast(monkeypatch):
    """Without shape checks of every call: for loops over all bits."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(params=CASES)
def case(request):
    spec, extent, rate, coding, chunk_positions = CASES[request.param]
    return spec, stream_of(spec, extent, rate, coding, chunk_positions), toy(spec, coding)


def made(name, cases=CASES):
    spec, extent, rate, coding, chunk_positions = cases[name]
    coder = toy(spec, coding)
    return write(stream_of(spec, extent, rate, coding, chunk_positions), coder), spec, coder


def equal(codes, others):
    return len(codes) == len(others) and all(map(np.array_equal, codes, others))


def refused(data, spec, coder):
    try:
        read(data, spec, None, Limits(), coder)
    except BitstreamError as error:
        return str(error).startswith("byte ")
    return False


def repaired(data, offset, value):
    """The container with other bytes at an offset of its header, and a right CRC."""
    size = struct.unpack_from("<I", data, 12)[0]
    head = bytearray(data[: size - 4])
    head[offset : offset + len(value)] = value
    return bytes(head) + crc32(head).to_bytes(4, "little") + data[size:]


# -- round trips -----------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_written_again_bit_for_bit(case):
    spec, stream, coder = case
    data = write(stream, coder)
    back = read(data, spec, ID, coder=coder)
    assert equal(back.codes, stream.codes) and all(codes.dtype == np.int64 for codes in back.codes)
    chosen = {"profile": back.header.profile, "chunk_positions": back.header.chunk_positions}
    assert back.header == replace(stream.header, **chosen)
    assert write(back, coder) == data


def test_the_quality_travels_with_the_codes(case):
    spec, stream, coder = case
    data = write(stream, coder)
    assert read_header(data).rate == read(data, spec, coder=coder).header.rate == stream.header.rate


def test_a_fixed_file_with_a_quality_is_a_container_and_others_are_as_they_were():
    assert read_header(made("photo_fixed")[0]).profile == "container"
    with pytest.raises(ValueError, match="a packet has no extra fields, and a quality from coding 2 on"):
        stream = stream_of(*CASES["photo_fixed"][:4])
        write(Stream(replace(stream.header, profile="packet"), stream.codes))


def test_a_signal_of_one_chunk_is_a_packet_and_a_longer_one_a_container():
    for extent, profile in (((512, 4096), "packet"), ((520, 4096), "container")):
        data = write(stream_of(PHOTO, extent, Rate(), OWN_TABLES), Toy(PHOTO.codebook_sizes))
        assert read_header(data).profile == profile
    header = read_header(data)
    assert header.chunk_positions == 512 * 4096 // 64


def test_a_packet_has_at_most_24_bytes_beside_its_payload():
    many = replace(PHOTO, codebook_sizes=(3,) * 160, strides=(), qualities=16, latent_dim=160)
    stream = stream_of(many, (3000, 4000), Rate(quality=15.25), OWN_TABLES)
    data = packet.write_packet(stream, Silent())
    assert packet.fits(stream) and 20 < len(data) <= 24
    prior = Stream(replace(stream.header, coding=PRIOR, prior=1), stream.codes)
    assert packet.fits(prior)


def test_a_packet_with_a_prior_has_four_bytes_more():
    stream = stream_of(MUSIC, (333,), Rate(quality=2), PRIOR)
    other = Stream(replace(stream.header, coding=OWN_TABLES, prior=None), stream.codes)
    coder = ToyPrior(MUSIC.codebook_sizes)
    data, without = write(stream, coder), write(other, coder)
    assert len(data) == len(without) + 4 and read_header(data).prior == coder.fingerprint


def test_equal_codebooks_take_twelve_bytes_of_a_header():
    sizes = {}
    for books in (1, 1024):
        spec = replace(PHOTO, codebook_sizes=(3,) * books, strides=(), qualities=0, quality_steps=1)
        stream = stream_of(spec, (8, 8), Rate(), ADAPTIVE, 1)
        data = write(stream)
        sizes[books] = struct.unpack_from("<I", data, 12)[0]
        assert equal(read(data).codes, stream.codes)
    assert sizes == {1: 104, 1024: 104}


def test_a_run_of_codebooks_has_one_spelling():
    stream = stream_of(PHOTO, (30, 20), Rate(), ADAPTIVE, 3)
    data = write(stream)
    assert struct.unpack_from("<9I", data, 88) == (3, 255, 1, 1, 2, 1, 1, 1023, 1)
    assert refused(repaired(data, 100, struct.pack("<3I", 1, 255, 1)), PHOTO, None)
    with pytest.raises(BitstreamError, match="byte 100: a run like the one before it should be False"):
        read(repaired(data, 100, struct.pack("<3I", 1, 255, 1)))
    for count in (0, 6, 2**32 - 1):
        with pytest.raises(BitstreamError, match=f"byte 88: equal codebooks may be 1 to 5, got {count}"):
            read(repaired(data, 88, struct.pack("<I", count)))


# -- grids and chunks ------------------------------------------------------------------------------------


class Grids(Toy):
    def __init__(self, sizes):
        super().__init__(sizes)
        self.seen = []

    def encode(self, codes, grid, quality):
        self.seen.append(grid)
        assert all(len(book) == np.prod(grid) for book in codes)
        return super().encode(codes, grid, quality)


def test_pictures_are_coded_by_rows_and_columns_and_sounds_in_a_row():
    for spec, extent, chunk, grids in (
        (PHOTO, (100, 130), None, [(13, 17)]),
        (PHOTO, (100, 130), 5 * 17, [(5, 17), (5, 17), (3, 17)]),
        (MUSIC, (3333,), None, [(84,)]),
        (MUSIC, (3333,), 50, [(50,), (34,)]),
    ):
        coder = Grids(spec.codebook_sizes)
        write(stream_of(spec, extent, Rate(), OWN_TABLES, chunk), coder)
        assert coder.seen == grids


def test_chunks_that_are_no_whole_rows_are_refused():
    with pytest.raises(ValueError, match="whole rows of 17 positions, got 20"):
        plan_of(stream_of(PHOTO, (100, 130), Rate(), OWN_TABLES, 20).header)
    data = made("photo_own_chunks")[0]
    with pytest.raises(BitstreamError, match="byte 80: an entropy-coded chunk is whole rows of 17 positions, got 52"):
        read(repaired(data, 80, struct.pack("<I", 52)), coder=Toy(PHOTO.codebook_sizes))


def test_chunks_of_sound_are_half_a_minute():
    header = Header.of(MUSIC, None, (8000 * 100,), ID, OWN_TABLES)
    assert plan_of(header).per_chunk == 30 * 200


def test_chunks_of_a_models_own_tables_are_whole_windows(monkeypatch):
    codec = walloc_stereo(bins=64, width=8, depth=1, hidden=4).eval()
    monkeypatch.setattr(plan, "SECONDS", 0.1)
    signal = 0.1 * torch.randn(1, 2, 10_000, generator=torch.Generator().manual_seed(0))
    data = compress(codec, signal)
    cut = plan_of(read_header(data))
    assert cut.per_chunk % 64 == 0 and 0.1 <= cut.per_chunk / 44_100 < 0.102 and len(list(cut)) == 3
    assert torch.equal(decompress(codec, data), codec.decode(codec.encode(signal)))


# -- damage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DAMAGED)
def test_every_cut_is_found(name, fast):
    data, spec, coder = made(name, DAMAGED)
    for end in range(len(data)):
        assert refused(data[:end], spec, coder), end


@pytest.mark.parametrize("name", DAMAGED)
def test_every_flipped_bit_is_found(name, fast):
    data, spec, coder = made(name, DAMAGED)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(damaged), spec, coder), bit


@pytest.mark.parametrize("name", ["music_own_chunks", "photo_own", "speech_adaptive", "music_prior"])
def test_bytes_behind_the_end_are_refused(name):
    data, spec, coder = made(name)
    assert refused(data + b"\0", spec, coder) and refused(data + bytes(2**16), spec, coder)


def test_a_coder_that_disagrees_is_found():
    """Another model's tables give other codes of the same bytes: the CRC over the codes sees it."""
    for name in ("music_own_chunks", "photo_own"):
        data, spec, _ = made(name)
        with pytest.raises(BitstreamError, match=r"CRC of (the packet|chunk 0)|codes of codebook"):
            read(data, spec, coder=Toy((5,) * len(spec.codebook_sizes)))


@pytest.mark.parametrize("name", [name for name in CASES if not name.endswith("empty")])
def test_mutants_with_right_crcs_are_refused_or_other_codes(name, monkeypatch, fast):
    """Every CRC is 0 on both sides: the parser itself meets what chance does to its bytes."""
    for module in (container, container_head, packet, payload):
        monkeypatch.setattr(module, "crc32", lambda *_: 0)
    data, spec, coder = made(name)
    rng = np.random.default_rng(0)
    for _ in range(100):
        mutant = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            mutant[place] = rng.choice([0, 1, 127, 128, 255, rng.integers(256), mutant[place] ^ 1 << rng.integers(8)])
        with suppress(BitstreamError):
            back = read(bytes(mutant), spec, None, Limits(tokens=2**16), coder)
            back.check()
        with suppress(BitstreamError):
            salvage(bytes(mutant), Limits(tokens=2**16), coder)


# -- declared sizes --------------------------------------------------------------------------------------


def test_few_bytes_are_no_bomb():
    tiny = packet.write_packet(silence((1600, 1600)), Silent())
    most = Limits().own_codes_per_byte * len(tiny)
    assert sum(PHOTO.token_counts((1600, 1600))) <= most
    assert equal(read(tiny, PHOTO, coder=Silent()).codes, Silent().decode(b"", (200, 200), None))
    bomb = packet.write_packet(silence((8000, 12_000)), Silent())
    tracemalloc.start()
    with pytest.raises(BitstreamError, match=r"codes in all of such a short file may be 0 to \d+, got 7500000"):
        read(bomb, PHOTO, coder=Silent())
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_chunk_has_no_more_codes_than_its_own_bytes_allow():
    """Bytes elsewhere in the file do not pay for it: a reader of chunks does not see them."""
    stream = stream_of(MUSIC, (3333,), Rate(quality=1), OWN_TABLES, 30)
    data = write(stream, Toy(MUSIC.codebook_sizes))
    limits = Limits(own_codes_per_byte=1)
    with pytest.raises(BitstreamError, match="codes of so short a chunk 0 may be 0 to 32, got 60"):
        at = data.index(b"CHNK")
        head = data[:at] + struct.pack("<4sIIIQ", b"CHNK", 0, 0, 30, 0) + bytes(8) + bytes(len(data))
        read(head, coder=Toy(MUSIC.codebook_sizes), limits=limits)


EXTREMES = (0, 1, 2, 16, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1)


@pytest.mark.parametrize(
    "name", [name for name in container_head.OFFSETS if name not in ("stream id", "magic", "header bytes")]
)
def test_a_lying_header_never_gives_other_codes_nor_memory(name, fast):
    for which in ("photo_own_chunks", "speech_adaptive_chunks"):
        data, _, coder = made(which)
        codes = stream_of(*CASES[which]).codes
        offset = container_head.OFFSETS[name]
        width = struct.calcsize("<" + dict(container_head._FIELDS)[name])
        for value in EXTREMES:
            if value < 2 ** (8 * width):
                lying = repaired(data, offset, value.to_bytes(width, "little"))
                tracemalloc.start()
                with suppress(BitstreamError):
                    assert equal(read(lying, coder=coder).codes, codes)
                with suppress(BitstreamError):
                    salvage(lying, coder=coder)
                assert tracemalloc.get_traced_memory()[1] < 2**21
                tracemalloc.stop()


# -- models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "at"), [("music_own_chunks", 17), ("photo_own", 2)])
def test_own_tables_are_read_only_with_their_coder(name, at):
    data, spec, _ = made(name)
    with pytest.raises(
        BitstreamError, match=f"byte {at}: coding 2 is read with the entropy coder of its model 00010203"
    ):
        read(data, spec)
    with pytest.raises(ValueError, match="coding 2 are written with their coder, got none"):
        write(stream_of(*CASES[name]))


@pytest.mark.parametrize(("name", "at"), [("music_prior_chunks", 17), ("music_prior", 2)])
def test_a_prior_is_read_only_with_itself(name, at):
    data, spec, coder = made(name)
    for wrong in (None, Toy(spec.codebook_sizes)):
        with pytest.raises(BitstreamError, match=f"byte {at}: coding 4 is read with the prior .* fedcba98, got none"):
            read(data, spec, coder=wrong)
        with pytest.raises(ValueError, match="with the prior of their header"):
            write(stream_of(*CASES[name]), wrong)
    coder.fingerprint = 1
    with pytest.raises(BitstreamError, match=f"byte {at}: .*fingerprint fedcba98, this one has 00000001"):
        read(data, spec, coder=coder)
    with pytest.raises(ValueError, match="with the prior of their header"):
        write(stream_of(*CASES[name]), coder)


def test_adaptive_containers_need_no_model():
    data = made("speech_adaptive_chunks")[0]
    assert equal(read(data).codes, stream_of(*CASES["speech_adaptive_chunks"]).codes)


def test_a_quality_is_asked_for_and_compared():
    data, spec, coder = made("photo_own")
    with pytest.raises(BitstreamError, match="byte 7: photo has qualities 1 to 2 in steps of 1/4, got 2.25"):
        read(data, replace(spec, qualities=2), coder=coder)
    with pytest.raises(BitstreamError, match="byte 7: photo has no qualities, got quality=2.25"):
        read(data, replace(spec, qualities=0, quality_steps=1), coder=coder)
    plain = replace(spec, qualities=0, quality_steps=1)
    for chunk, at in ((None, 7), (3, 88)):
        without = write(stream_of(plain, (30, 20), Rate(), FIXED_WIDTH, chunk))
        with pytest.raises(BitstreamError, match=f"byte {at}: files of photo say their quality, got none"):
            read(without, spec)


def test_a_quality_in_a_container_is_one_field_of_one_spelling():
    data = made("photo_fixed")[0]
    at = 88 + 8 * 5
    assert data[at : at + 10] == struct.pack("<HII", container_head.QUALITY, 4, 56)
    for value in (0, 15):
        with pytest.raises(BitstreamError, match=f"byte {at + 6}: quality in sixteenths may be 16 to .*, got {value}"):
            read(repaired(data, at + 6, struct.pack("<I", value)))
    with pytest.raises(BitstreamError, match="bytes of the quality should be 4, got 5"):
        read(repaired(data, at + 2, struct.pack("<I", 5)))


def test_check_says_what_it_saw(fast):
    for name, seen in (
        ("music_own_chunks", False),
        ("speech_adaptive_chunks", True),
        ("photo_own", False),
        ("music_prior_chunks", False),
        ("music_prior", False),
    ):
        data = made(name, DAMAGED)[0]
        assert check(data) is seen
        if name.endswith("chunks"):
            digest = range(len(data) - 16, len(data) - 8)  # of codes that nobody saw
            for place in sorted(set(range(0, len(data), 3)) - set(() if seen else digest)):
                with pytest.raises(BitstreamError):
                    check(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])


# -- salvage, tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["music_own_chunks", "photo_own_chunks", "speech_adaptive_chunks"])
def test_salvage_gives_every_chunk_but_the_damaged_one(name, fast):
    data, spec, coder = made(name)
    stream = stream_of(*CASES[name])
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"CHNK"]
    assert len(starts) >= 3
    for number, start in enumerate(starts):
        damaged = bytearray(data)
        damaged[start + 34] ^= 1
        kept = salvage(bytes(damaged), coder=coder).codes
        for codes, found, stride in zip(stream.codes, kept, spec.strides, strict=False):
            lost = np.arange(len(codes)) * stride // CASES[name][4] == number
            assert (found[lost] == -1).all() and lost.any()
            assert np.array_equal(found[~lost], codes[~lost])
    if coder:
        with pytest.raises(BitstreamError, match="coding 2 is read with"):
            salvage(data)


@pytest.mark.parametrize("coding", ["fixed", "adaptive"])
def test_tokens_of_files_are_those_that_were_written(coding):
    for spec, extent, rate, coder in (
        (PHOTO, (60, 70), Rate(quality=1.75), Toy(PHOTO.codebook_sizes)),
        (PHOTO, (60, 70), Rate(quality=1.75), None),
        (SPEECH, (333,), Rate(codebooks=2), None),
    ):
        codes = stream_of(spec, extent, rate, FIXED_WIDTH).codes
        tokens = Tokens(tuple(torch.from_numpy(book)[None] for book in codes), (extent,), rate, spec)
        data = tokens_to_bytes(tokens, ID, coder, coding)
        expected = ADAPTIVE if coding == "adaptive" else OWN_TABLES if coder else FIXED_WIDTH
        assert read_header(data).coding == expected
        back = tokens_from_bytes(data, spec, ID, coder=coder)
        assert (back.extents, back.rate) == (tokens.extents, tokens.rate)
        assert all(map(torch.equal, back.streams, tokens.streams))


def test_granularities_have_a_coding_of_their_own():
    spec = replace(SPEECH, codebook_sizes=(5, 5), strides=(2, 1), queries=4, shares=(0.5, 0.5))
    streams = tuple(
        torch.full((1, count), value) for count, value in zip(spec.token_counts((40,)), (1, -1), strict=True)
    )
    with pytest.raises(ValueError, match="speech has several granularities, .* use fixed"):
        tokens_to_bytes(Tokens(streams, ((40,),), Rate(), spec), ID, None, "adaptive")
