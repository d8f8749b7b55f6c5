"""WebDataset tars: samples in archives that are read in place. Names in them never become paths.

Members ``KEY.flac``, ``KEY.json`` and ``KEY.txt`` are one sample: a sound and what is said of it (the key ends at the
first dot of a name). Only regular members are read; folders, links and devices are passed over. Headers are those of
POSIX 1003.1-2001 (pax) and of GNU tar.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BufferedIOBase
from os.path import splitext
from typing import Any, NamedTuple

from sigtok.export.inputs import SUFFIXES

from .choice import Choice
from .items import Found, Place
from .manifests import json_of, meta_of
from .uris import open_file

BLOCK = 512
LONGEST = 1 << 20  # bytes of a name, or of what is said of a file
WITHOUT_DATA = b"123456"  # links, devices, folders, pipes
COMPRESSED = re.compile(rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ|\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, Zstandard


class Member(NamedTuple):
    """A regular file in an archive: its name, its first byte there, its bytes."""

    name: str
    offset: int
    size: int


def found_in(uri: str, modality: str, choice: Choice) -> Iterator[Found]:
    """The sounds or pictures of an archive, in its order.

    Raises:
        ValueError: If it is no tar, compressed, damaged or cut, or names files outside itself.
    """
    files: list[Member] = []
    notes: dict[str, dict[str, Any]] = {}
    with open_file(uri) as tar:
        try:
            for member in members(tar):
                suffix = splitext(member.name)[1].lower()
                if suffix in SUFFIXES[modality]:
                    files.append(member)
                elif suffix in (".json", ".txt"):
                    notes.setdefault(_key(member.name), {}).update(_note(tar, member, suffix))
            for name, offset, size in files:
                note = notes.get(_key(name), {})
                if choice.takes(note):
                    yield Found(name, Place(uri, offset, size), meta_of(note))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{uri}: {error}; make the archive again") from None


def members(tar: BufferedIOBase) -> Iterator[Member]:
    """The regular members of an archive that can be sought, those with hidden names left out.

    Raises:
        ValueError: If it is none or not whole.
    """
    end, position = tar.seek(0, 2), 0
    tar.seek(0)
    if COMPRESSED.match(tar.read(16)):
        raise ValueError("members of a compressed tar cannot be sought: decompress it")
    said: dict[str, str] = {}  # by extended headers, of the next member
    while True:
        head = _read(tar, position, BLOCK, end)
        if not any(head):
            return
        kind = head[156:157]
        size = int(said.get("size", -1)) if "size" in said else _number(head[124:136])
        start, size = position + BLOCK, 0 if kind in WITHOUT_DATA else size
        _check_head(head, position, size)
        if start + size > end:
            raise ValueError(f"truncated, its member at byte {position} ends at {start + size} of {end}")
        position = start + -(-size // BLOCK) * BLOCK
        if kind in (b"L", b"x"):
            data = _read(tar, start, size, end)
            said |= {"path": _text(data.rstrip(b"\0"))} if kind == b"L" else _records(data)
        elif kind not in (b"K", b"g"):
            name = _checked(said.get("path") or _name(head))
            if kind in b"\x000" and not name.endswith("/") and not any(p.startswith(".") for p in name.split("/")):
                yield Member(name, start, size)
            said = {}


def _check_head(head: bytes, position: int, size: int) -> None:
    if sum(head[:148]) + sum(b" " * 8) + sum(head[156:]) != _number(head[148:156]):
        raise ValueError(f"no tar, or damaged at byte {position}")
    if head[156:157] == b"S":
        raise ValueError(f"the member at byte {position} is sparse")
    if head[156:157] in (b"L", b"x") and size > LONGEST:
        raise ValueError(f"the member at byte {position} has a name of {size} bytes")


def _read(tar: BufferedIOBase, position: int, size: int, end: int) -> bytes:
    tar.seek(position)
    data = tar.read(size)
    if len(data) < size:
        raise ValueError(f"truncated, its end is missing after {end} bytes")
    return data


def _number(field: bytes) -> int:
    """Octal digits, or, after a first bit, binary."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):
        raise ValueError(f"no tar, or damaged: a number is {field!r}")
    return int(digits or b"0", 8)


def _name(head: bytes) -> str:
    name, prefix = (part.partition(b"\0")[0] for part in (head[:100], head[345:500]))
    return _text(prefix + b"/" + name if prefix and head[257:263] == b"ustar\0" else name)


def _records(data: bytes) -> dict[str, str]:
    """What a pax header says: records of ``LENGTH KEY=VALUE`` and a line break."""
    said = {}
    while data:
        digits = data.partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not equals or length > len(data) or data[length - 1 : length] != b"\n":
            raise ValueError("damaged, an extended header has no records")
        if key.startswith(b"GNU.sparse"):
            raise ValueError("a member is sparse")
        if key == b"size" and not value.isdigit():
            raise ValueError(f"damaged, a size is {value!r}")
        said[_text(key)] = _text(value)
        data = data[length:]
    return said


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise ValueError(f"names are UTF-8, got {name[:80]!r}") from None


def _checked(name: str) -> str:
    name = name.removeprefix("./")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"names stay inside an archive, got {name[:80]!r}")
    return name


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _note(tar: BufferedIOBase, member: Member, suffix: str) -> dict[str, Any]:
    if member.size > LONGEST:
        raise ValueError(f"what is said of a file has at most {LONGEST} bytes, got {member.size} in {member.name!r}")
    tar.seek(member.offset)
    text = tar.read(member.size)
    try:
        if suffix == ".txt":
            return {"text": text.decode().strip()}
        values = json_of(text.decode())
    except ValueError as error:
        raise ValueError(f"{member.name!r} is no text: {error}") from None
    return values if isinstance(values, dict) else {"json": values}
