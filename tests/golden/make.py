"""Golden files: good ones of every coding, and bad ones with the message that refuses them.

    python -m tests.golden.make

Files that are there stay as they are: they are those of released versions. A good file has its spec, codes and, in
coding 2, its tables beside it, in coding 4 the fingerprint of a prior that codes as coding 3 does; a bad one is a good
one after the damage below, with right CRCs where it says so.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np

from sigtok.codecs.bitstream import BitstreamError, Header, Stream, read, write
from sigtok.codecs.entropy.adaptive import AdaptiveCoder
from sigtok.codecs.entropy.coder import EntropyCoder
from sigtok.codecs.entropy.static import StaticCoder, StaticLaws
from sigtok.codecs.entropy.tables import integer_table, stacked
from sigtok.codecs.header import ADAPTIVE, FIXED_WIDTH, GRANULAR, OWN_TABLES, PRIOR
from sigtok.codecs.spec import CodecSpec, Extent, Rate

HERE = Path(__file__).parent
ID = bytes(range(16))
PHOTO = CodecSpec(
    name="photo", modality="image", channels=3, sample_rate=None, hop=(8, 8), codebook_sizes=(255, 255, 63, 3),
    latent_dim=4, qualities=2, quality_steps=2,
)  # fmt: skip
MUSIC = CodecSpec(
    name="music", modality="audio", channels=2, sample_rate=8000, hop=(40,), codebook_sizes=(255, 31, 3),
    latent_dim=3, qualities=2, quality_steps=2, causal=True,
)  # fmt: skip
SPEECH = CodecSpec(
    name="speech", modality="audio", channels=1, sample_rate=8000, hop=(10,), codebook_sizes=(5, 300, 17),
    strides=(1, 2, 4), windows=((4,), (2,)), queries=3, latent_dim=2,
)  # fmt: skip
SOUND = CodecSpec(
    name="sound", modality="audio", channels=1, sample_rate=8000, hop=(10,), codebook_sizes=(16, 2),
    strides=(4, 2), windows=((8,),), queries=8, latent_dim=2, shares=(0.5, 0.5),
)  # fmt: skip
GOOD: dict[str, tuple[CodecSpec, Extent, Rate, int, int | None, bool]] = {  # ..., coding, chunk positions, streamed
    "v1_own_packet": (PHOTO, (50, 90), Rate(quality=1.5), OWN_TABLES, None, False),
    "v1_own_container": (PHOTO, (50, 90), Rate(quality=2), OWN_TABLES, 36, False),
    "v1_own_sound_container": (MUSIC, (3333,), Rate(quality=1), OWN_TABLES, 30, False),
    "v1_own_streamed": (MUSIC, (3333,), Rate(), OWN_TABLES, 30, True),
    "v1_adaptive_packet": (SPEECH, (333,), Rate(window=(2,)), ADAPTIVE, None, False),
    "v1_adaptive_container": (SPEECH, (333,), Rate(codebooks=2, window=(2,)), ADAPTIVE, 20, False),
    "v1_adaptive_picture_container": (PHOTO, (30, 40), Rate(quality=1), ADAPTIVE, 10, False),
    "v1_adaptive_streamed": (SPEECH, (333,), Rate(window=(2,)), ADAPTIVE, 24, True),
    "v1_quality_container": (PHOTO, (9, 17), Rate(quality=1.5), FIXED_WIDTH, None, False),
    "v1_streamed_container": (SPEECH, (333,), Rate(window=(2,)), FIXED_WIDTH, 24, True),
    "v1_granular_streamed": (SOUND, (190,), Rate(), GRANULAR, 16, True),
    "v1_prior_packet": (SPEECH, (333,), Rate(window=(2,)), PRIOR, None, False),
    "v1_prior_container": (PHOTO, (30, 40), Rate(quality=1), PRIOR, 10, False),
    "v1_prior_streamed": (SPEECH, (333,), Rate(codebooks=2, window=(2,)), PRIOR, 24, True),
}
FINGERPRINT = 0x12345678


class StandIn(AdaptiveCoder):
    """In the place of a prior: files are what this is about."""

    fingerprint = FINGERPRINT

    def check(self, spec: CodecSpec, rate: Rate, stream_id: bytes) -> None:
        """Takes any."""


def tables_of(spec: CodecSpec) -> dict:
    """Tables of several widths for the channels of every operating point; the last channel is certain."""
    widths, points = (20, 6, 2, 1), 1 + (spec.qualities - 1) * spec.quality_steps
    counts = [[int(4000 * 0.5 ** (abs(value) / width)) for value in range(-12, 13)] + [9] for width in widths]
    tables = [integer_table(count).tolist() for count in counts] + [[65536]]
    channels = spec.num_codebooks
    index = [[(channel + point) % 4 for channel in range(channels - 1)] + [4] for point in range(points)]
    return {"tables": tables, "index": index, "centres": [[point] * (channels - 1) + [0] for point in range(points)]}


def coder_of(told: dict) -> EntropyCoder | None:
    """The entropy coder of a good file, from what stands beside it."""
    if "prior" in told:
        spec = CodecSpec.from_dict(told["spec"])
        return StandIn(spec.codebook_sizes[: told["codebooks"]], spec.strides[: told["codebooks"]])
    if "tables" not in told:
        return None
    index, centres = np.array(told["index"]), np.array(told["centres"])
    laws = StaticLaws(stacked(told["tables"]), index, centres, told["spec"]["quality_steps"])
    return StaticCoder(told["spec"]["codebook_sizes"], laws)


def codes_of(spec: CodecSpec, extent: Extent, rate: Rate, coding: int) -> tuple[np.ndarray, ...]:
    """Codes: around the middle of the codebook for tables, else any, repeated; of granularities by chance."""
    rng, counts = np.random.default_rng(1), spec.token_counts(extent, rate)
    pairs = list(zip(spec.codebook_sizes, counts, strict=False))
    if coding == OWN_TABLES:
        codes = [np.rint(rng.normal(size // 2, 4, count)).clip(0, size - 1) for size, count in pairs]
        return (*(book.astype(np.int64) for book in codes[:-1]), np.full(counts[-1], spec.codebook_sizes[-1] // 2))
    codes = [np.resize(rng.integers(0, size, max(count * 2 // 3, 1)), count) for size, count in pairs]
    if not spec.granular:
        return tuple(codes)
    opened, there = np.ones(counts[0], bool), []
    for count, finer in pairwise((*counts, counts[-1])):
        splits = opened & (rng.random(count) < 0.5) if finer > count else np.zeros(count, bool)
        there.append(opened & ~splits)
        opened = splits.repeat(finer // count)
    return tuple(np.where(here, book, -1) for here, book in zip(there, codes, strict=True))


def good(name: str) -> tuple[bytes, dict]:
    """A file, and what stands beside it."""
    spec, extent, rate, coding, chunk_positions, streamed = GOOD[name]
    header = Header.of(spec, rate, extent, ID, coding, FINGERPRINT if coding == PRIOR else None)
    if chunk_positions:
        header = replace(header, profile="container", chunk_positions=chunk_positions, streamed=streamed)
    told = {"spec": spec.to_dict(), "stream_id": ID.hex(), "extent": list(extent)}
    told |= tables_of(spec) if coding == OWN_TABLES else {}
    told |= {"prior": header.prior, "codebooks": header.rate.codebooks} if coding == PRIOR else {}
    coder = coder_of(told)
    data = write(Stream(header, codes_of(spec, extent, rate, coding)), coder)
    back = read(data, spec, ID, coder=coder)
    told |= {"profile": back.header.profile, "quality": back.header.rate.quality}
    return data, {**told, "codes": [codes.tolist() for codes in back.codes]}


# -- damage ------------------------------------------------------------------------------------------------

Damage = Callable[[bytes], bytes]


def put(offset: int, value: bytes) -> Damage:
    """Other bytes at an offset; a negative one counts from the end."""

    def damage(data: bytes) -> bytes:
        at = offset % len(data)
        return data[:at] + value + data[at + len(value) :]

    return damage


def head(offset: int, value: bytes) -> Damage:
    """Other bytes in the header of a container, whose CRC is right."""

    def damage(data: bytes) -> bytes:
        size = struct.unpack_from("<I", data, 12)[0]
        other = put(offset, value)(data)[: size - 4]
        return other + crc32(other).to_bytes(4, "little") + data[size:]

    return damage


def behind(mark: bytes, offset: int, value: bytes) -> Damage:
    """Other bytes behind the first of such marks."""
    return lambda data: put(data.index(mark) + offset, value)(data)


def number(value: int, size: int = 4) -> bytes:
    """A number as it is stored."""
    return value.to_bytes(size, "little")


def chunks(order: tuple[int, ...]) -> Damage:
    """Chunks in another order."""

    def damage(data: bytes) -> bytes:
        starts = [at for at in range(len(data)) if data[at : at + 4] == b"CHNK"]
        sizes = [28 + struct.unpack_from("<I", data, at + 4)[0] for at in starts]
        parts = [data[at : at + size] for at, size in zip(starts, sizes, strict=True)]
        return data[: starts[0]] + b"".join(parts[place] for place in order) + data[starts[-1] + sizes[-1] :]

    return damage


def end(offset: int, value: bytes) -> Damage:
    """Other bytes in what a streamed file says behind its chunks, with a right CRC."""

    def damage(data: bytes) -> bytes:
        at = data.index(b"LAST")
        other = put(offset, value)(data[at : at + 16])
        return data[:at] + other + crc32(other).to_bytes(4, "little") + data[at + 20 :]

    return damage


BAD: dict[str, tuple[str, Damage]] = {
    "empty": ("v1_speech_packet", lambda data: b""),
    "packet_cut": ("v1_speech_packet", lambda data: data[:-1]),
    "packet_head_cut": ("v1_speech_packet", lambda data: data[:9]),
    "packet_tail": ("v1_speech_packet", lambda data: data + b"\0"),
    "packet_flip": ("v1_speech_packet", put(-6, b"\x77")),
    "packet_newer": ("v1_speech_packet", put(2, b"\x41")),
    "packet_reserved_coding": ("v1_speech_packet", put(2, b"\x35")),
    "packet_no_modality": ("v1_speech_packet", put(2, b"\x20")),
    "packet_other_model": ("v1_speech_packet", put(3, b"\xff")),
    "packet_endless_number": ("v1_speech_packet", put(7, b"\xff" * 7)),
    "packet_long_number": ("v1_picture_packet", lambda data: data[:7] + b"\x91\0" + data[8:]),
    "own_packet_flip": ("v1_own_packet", put(-20, b"\0")),
    "own_packet_quality": ("v1_own_packet", put(13, b"\x0b")),
    "adaptive_packet_cut": ("v1_adaptive_packet", lambda data: data[:20] + data[-4:]),
    "granular_packet_flip": ("v1_granular_packet", put(30, b"\x55")),
    "container_text_mode": ("v1_speech_container", lambda data: data.replace(b"\r\n", b"\n")),
    "container_newer": ("v1_speech_container", head(8, b"\2")),
    "container_unknown_flag": ("v1_speech_container", head(10, b"\2")),
    "container_header_size": ("v1_speech_container", put(12, number(2**31))),
    "container_header_crc": ("v1_speech_container", put(40, b"\1")),
    "container_no_modality": ("v1_speech_container", head(16, b"\0")),
    "container_reserved_coding": ("v1_speech_container", head(17, b"\5")),
    "container_no_codebooks": ("v1_speech_container", head(18, number(0, 2))),
    "container_codebooks": ("v1_speech_container", head(18, number(65535, 2))),
    "container_other_model": ("v1_speech_container", head(20, b"\xff")),
    "container_endless": ("v1_speech_container", head(36, number(2**63, 8))),
    "container_no_rate": ("v1_speech_container", head(52, number(0))),
    "container_no_hop": ("v1_speech_container", head(60, number(0))),
    "container_odd_chunks": ("v1_speech_container", head(80, number(21))),
    "container_chunks": ("v1_speech_container", head(84, number(99))),
    "container_codebook_of_one": ("v1_speech_container", head(88, number(1))),
    "container_unknown_extra": ("v1_extras_container", head(113, b"\x80")),
    "container_swapped": ("v1_speech_container", chunks((1, 0))),
    "container_repeated": ("v1_speech_container", chunks((0, 0))),
    "container_code_crc": ("v1_speech_container", behind(b"CHNK", 24, number(0))),
    "container_payload_bytes": ("v1_speech_container", behind(b"CHNK", 4, number(2**24))),
    "container_payload_flip": ("v1_speech_container", behind(b"CHNK", 29, b"\x5a")),
    "container_index": ("v1_speech_container", put(-56, number(0, 8))),
    "container_index_crc": ("v1_speech_container", put(-20, number(0))),
    "container_digest": ("v1_speech_container", put(-16, bytes(8))),
    "container_end_mark": ("v1_speech_container", put(-4, b"SGTF")),
    "container_cut": ("v1_speech_container", lambda data: data[: len(data) // 2]),
    "container_archive": ("v1_speech_container", lambda data: data + b"PK\3\4" + bytes(40)),
    "scales_denominator": ("v1_scales_container", head(134, number(10))),
    "own_payload_flip": ("v1_own_container", behind(b"CHNK", 40, b"\x5a")),
    "own_part_of_a_row": ("v1_own_container", head(80, number(35))),
    "own_quality": ("v1_own_container", head(88 + 36 + 6, number(15))),
    "own_equal_runs": ("v1_own_container", head(100, number(1) + number(255) + number(1))),
    "prior_payload_flip": ("v1_prior_container", behind(b"CHNK", 34, b"\x5a")),
    "other_prior_packet": ("v1_prior_packet", put(13, number(0x12345679))),
    "other_prior_container": ("v1_prior_container", head(88 + 36 + 10 + 6, number(0))),
    "prior_wrong_field": ("v1_prior_container", head(88 + 36 + 10, number(0x8004, 2))),
    "prior_short_field": ("v1_prior_container", head(88 + 36 + 10 + 2, number(3))),
    "adaptive_payload_flip": ("v1_adaptive_container", behind(b"CHNK", 34, b"\x5a")),
    "streamed_without_end": ("v1_streamed_container", lambda data: data[: data.index(b"LAST")]),
    "streamed_end_crc": ("v1_streamed_container", behind(b"LAST", 8, b"\1")),
    "streamed_extent": ("v1_streamed_container", end(8, number(400, 8))),
    "streamed_endless": ("v1_streamed_container", end(8, number(2**60, 8))),
    "streamed_chunks": ("v1_streamed_container", end(4, number(1))),
    "streamed_known_extent": ("v1_streamed_container", head(36, number(333, 8))),
}  # fmt: skip


def main() -> None:
    """Write what is missing."""
    for name in GOOD:
        path = HERE / f"{name}.sgt"
        if not path.exists():
            data, told = good(name)
            path.write_bytes(data)
            path.with_suffix(".json").write_text(json.dumps(told))
    (HERE / "bad").mkdir(exist_ok=True)
    place = HERE / "bad" / "messages.json"
    messages = json.loads(place.read_text()) if place.exists() else {}
    for name, (of, damage) in BAD.items():
        path = HERE / "bad" / f"{name}.sgt"
        if not path.exists():
            told = json.loads((HERE / f"{of}.json").read_text())
            path.write_bytes(damage((HERE / f"{of}.sgt").read_bytes()))
            try:
                identity = bytes.fromhex(told["stream_id"])
                read(path.read_bytes(), CodecSpec.from_dict(told["spec"]), identity, coder=coder_of(told))
                raise RuntimeError(f"{name} is read as if it were whole")
            except BitstreamError as error:
                messages[name] = {"of": of, "message": str(error)}
    place.write_text(json.dumps(messages, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
