"""What chance does to files: mutants of the golden files, behind their checksums or with every one repaired.

    python -m tests.fuzz.bitstream --mutants 1000000 --mode enforced --seed 0
    python -m tests.fuzz.bitstream --mutants 1000000 --mode repaired --seed 0
    python -m tests.fuzz.bitstream --damages 100000

A mutant has bits flipped, bytes cut out, repeated or taken from another file, or lies in a field. It is to be refused
with a `BitstreamError`, or, by what a reader may ignore, read as the codes that were written; behind repaired checksums
also as other codes, all in their codebooks. Nothing else may come of it, nor a second of the processor, nor more memory
than twice what `Limits` allow and 64 MiB. "Repaired" is without checksums on both sides: as if an attacker had made
them right.

Damages are flips, bursts, cuts and splices that are never read as other codes. The first failure is printed in
hexadecimal digits and ends the run, with code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sigtok.codecs import container, container_head, packet, payload
from sigtok.codecs.bitstream import BitstreamError, Limits, check, read, read_header, salvage, write
from sigtok.codecs.container_stream import Reader, read_part
from sigtok.codecs.entropy.coder import EntropyCoder
from sigtok.codecs.spec import CodecSpec
from tests.golden.make import coder_of

GOLDEN = Path(__file__).parents[1] / "golden"
LIMITS = Limits(tokens=2**14)  # so that a second is enough for whatever a mutant declares
SECOND, MEMORY = 1.0, 2 * 8 * LIMITS.tokens + 2**26
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**63, 2**64 - 1)
MAGICS = (b"CHNK", b"LAST", b"SGTE", b"\x89SGT\r\n\x1a\n", b"\x89s")


class Seed(NamedTuple):
    """A golden file: its bytes, and what they are read with and as."""

    name: str
    data: bytes
    spec: CodecSpec
    identity: bytes
    coder: EntropyCoder | None
    codes: tuple[np.ndarray, ...]
    fields: tuple[int, ...]


def seeds(folder: Path = GOLDEN) -> list[Seed]:
    """The golden files, written anew, so that their checksums are those of now."""
    found = []
    for path in sorted(folder.glob("*.sgt")):
        told = json.loads(path.with_suffix(".json").read_text())
        spec, identity, coder = CodecSpec.from_dict(told["spec"]), bytes.fromhex(told["stream_id"]), coder_of(told)
        with _checksums(True):
            stream = read(path.read_bytes(), spec, identity, coder=coder)
        data = write(stream, coder)
        found.append(Seed(path.stem, data, spec, identity, coder, stream.codes, fields_of(data)))
    return found


def fields_of(data: bytes) -> tuple[int, ...]:
    """Where numbers stand that say how much there is."""
    if data[:2] == packet.MAGIC:
        return tuple(range(2, min(len(data), 16)))
    chunks = [at for at in range(len(data)) if data[at : at + 4] in (b"CHNK", b"LAST")]
    heads = [at + place for at in chunks for place in (4, 8, 12, 16, 20, 24, 28) if at + place < len(data)]
    tail = range(max(0, len(data) - 32 - 24 * len(chunks)), len(data), 4)
    return tuple(sorted({*container_head.OFFSETS.values(), *range(88, min(140, len(data)), 4), *heads, *tail}))


# -- what is done to them ----------------------------------------------------------------------------------


def flip(data: bytearray, dice: random.Random) -> None:
    """A few bits."""
    for _ in range(dice.choice((1, 1, 2, 5))):
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def burst(data: bytearray, dice: random.Random) -> None:
    """A run of any bytes."""
    start = dice.randrange(len(data))
    for place in range(start, min(len(data), start + dice.randrange(1, 20))):
        data[place] = dice.randrange(256)


def cut(data: bytearray, dice: random.Random) -> None:
    """The end, or something in the middle."""
    start = dice.randrange(len(data))
    del data[start : None if dice.random() < 0.5 else start + dice.randrange(1, 40)]


def splice(data: bytearray, dice: random.Random, other: bytes) -> None:
    """A part of the same or another file, in the place of another or between."""
    part = dice.choice((bytes(data), other, b"".join(MAGICS)))
    first, start = dice.randrange(len(part)), dice.randrange(len(data))
    size = dice.choice((1, 4, 8, 24, 28, 32, dice.randrange(1, 200)))
    data[start : start + dice.choice((0, size))] = part[first : first + size]


def lie(data: bytearray, seed: Seed, dice: random.Random) -> None:
    """A number at the place of a field, or near what it was."""
    at, size = dice.choice(seed.fields), dice.choice((1, 2, 4, 4, 8))
    here = int.from_bytes(data[at : at + size], "little")
    value = dice.choice((*EXTREMES, here + 1, here - 1, 2 * here, here // 2, dice.getrandbits(8 * size)))
    data[at : at + size] = (value % 256**size).to_bytes(size, "little")


def mutant(seed: Seed, others: list[Seed], dice: random.Random) -> bytes:
    """A file after one to three mishaps."""
    data = bytearray(seed.data)
    for _ in range(dice.choice((1, 1, 2, 3))):
        if data:
            what = dice.randrange(6)
            if what < 2:
                lie(data, seed, dice)
            elif what == 2:
                splice(data, dice, dice.choice(others).data)
            else:
                (flip, burst, cut)[what - 3](data, dice)
    return bytes(data)


def damaged(seed: Seed, others: list[Seed], dice: random.Random) -> bytes:
    """A file after one mishap of transport."""
    data = bytearray(seed.data)
    dice.choice((flip, flip, burst, cut, lambda data, dice: splice(data, dice, dice.choice(others).data)))(data, dice)
    return bytes(data)


# -- what comes of it --------------------------------------------------------------------------------------


class Failed(Exception):
    """What must not be."""


def outcome(seed: Seed, data: bytes) -> str:
    """How a file is read: "refused", "equal" or "different"."""
    try:
        back = read(data, seed.spec, seed.identity, LIMITS, seed.coder)
    except BitstreamError as error:
        if not str(error).startswith("byte "):
            raise Failed(f"a message without a place: {error}") from error
        return "refused"
    back.check()
    same = len(back.codes) == len(seed.codes) and all(map(np.array_equal, back.codes, seed.codes))
    return "equal" if same else "different"


def elsewhere(seed: Seed, data: bytes, dice: random.Random) -> None:
    """The other ways to read; what is refused here and there differs, but not how."""
    ways: tuple[Callable[[], object], ...] = (
        lambda: salvage(data, LIMITS, seed.coder),
        lambda: list(Reader(io.BytesIO(data), seed.spec, seed.identity, LIMITS, seed.coder)),
        lambda: read_part(io.BytesIO(data), 5, 12, seed.spec, seed.identity, LIMITS, seed.coder),
        lambda: read_header(data, LIMITS),
        lambda: check(data, LIMITS),
        lambda: read(data, None, None, LIMITS, seed.coder),
    )
    with suppress(BitstreamError):
        dice.choice(ways)()


def run(
    count: int,
    make: Callable[[Seed, list[Seed], random.Random], bytes],
    repaired: bool,
    number: int,
) -> tuple[Counter, float]:
    """Outcomes of so many files, and the slowest in seconds.

    Raises:
        Failed: If one is neither refused nor read as it should be.
    """
    dice, counts, slowest = random.Random(number), Counter[str](), 0.0
    with _checksums(not repaired):
        files = seeds()
        for _ in range(count):
            seed = dice.choice(files)
            data = make(seed, files, dice)
            start = time.process_time()
            try:
                found = outcome(seed, data)
                elsewhere(seed, data, dice)
            except Exception as error:
                raise Failed(f"{seed.name}: {type(error).__name__}: {error}: {data.hex()}") from error
            taken = time.process_time() - start
            if taken > SECOND:
                raise Failed(f"{seed.name}: {taken:.2f} s: {data.hex()}")
            if found == "different" and not repaired:
                raise Failed(f"{seed.name}: other codes: {data.hex()}")
            slowest = max(slowest, taken)
            counts[found] += 1
    return counts, slowest


class _checksums:
    """A context in which checksums are right, or all are 0: those of writers and those of readers."""

    MODULES = (container, container_head, packet, payload)
    depth: list[bool] = []  # noqa: RUF012

    def __init__(self, right: bool) -> None:
        self.right = right

    def __enter__(self) -> None:
        self._set(self.right)
        self.depth.append(self.right)

    def __exit__(self, *_: object) -> None:
        self.depth.pop()
        self._set(self.depth[-1] if self.depth else True)

    def _set(self, right: bool) -> None:
        from zlib import crc32

        for module in self.MODULES:
            module.crc32 = crc32 if right else lambda *_: 0
        container.hashlib = hashlib if right else _NoDigest


class _NoDigest:
    """Stands for `hashlib`: every digest is 0."""

    @staticmethod
    def sha256() -> _NoDigest:
        return _NoDigest()

    def update(self, _: bytes) -> None:
        """Nothing."""

    def digest(self) -> bytes:
        """Zeros."""
        return bytes(32)


def main() -> int:
    """Run, and print what came of it in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--mutants", type=int, metavar="N")
    what.add_argument("--damages", type=int, metavar="N")
    parser.add_argument("--mode", choices=("enforced", "repaired"), default="enforced", help="of mutants")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    make, repaired = (mutant, args.mode == "repaired") if args.mutants else (damaged, False)
    count = args.mutants or args.damages
    try:
        counts, slowest = run(count, make, repaired, args.seed)
    except Failed as error:
        print(f"FAILED: {error}")
        return 1
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{count} {'mutants, ' + args.mode if args.mutants else 'damages'}, seed {args.seed}: refused "
        f"{counts['refused']}, accepted equal {counts['equal']}, accepted different {counts['different']}, "
        f"slowest {1000 * slowest:.1f} ms, peak {peak:.1f} MiB more, "
        f"{count / (time.perf_counter() - start):.0f} a second"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
