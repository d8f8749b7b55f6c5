"""The signals of a corpus, by name: files, folders, globs, manifests, archives and tables, here or behind URLs.

Names are the same on every machine, and so is their order. A file is named below its folder, below the fixed part of a
glob, or, if there are several sources, below the folder that is common to all. What is in an archive, a table or a
manifest has its name in it, and in front the name of that file and a slash, so that outputs of several files can be one
corpus; only a manifest that is the only source leaves its own name out, as its rows name files themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

from sigtok.export.inputs import SUFFIXES

from .archives import found_in as found_in_tar
from .choice import Choice
from .items import Found, Place
from .manifests import READERS as MANIFESTS
from .manifests import found_in as found_in_manifest
from .tables import found_in as found_in_table
from .uris import (
    files_below,
    files_like,
    in_folder,
    is_folder,
    is_pattern,
    joined,
    plain,
    size_of_file,
    suffix_of,
    way_to,
)

TAR, PARQUET = ".tar", ".parquet"
READERS = {TAR: found_in_tar, PARQUET: found_in_table} | dict.fromkeys(MANIFESTS, found_in_manifest)
COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz)$", re.IGNORECASE)
LONGEST = 1000  # characters of an id


class Listed(NamedTuple):
    """A file of a corpus: its name, its path or URL."""

    name: str
    uri: str


def find(
    sources: str | Sequence[str],
    modality: str,
    where: Sequence[tuple[str, str]] = (),
    exclude: Sequence[tuple[str, str]] = (),
) -> Iterator[Found]:
    """The signals of a corpus: files in the order of their names, what is in a file in the order of the names there.

    Args:
        sources: Files, folders, globs; paths or URLs. Of folders and globs the files of one kind are taken: those of
            the modality, else tars, else Parquet files, else, of globs, manifests.
        modality: "audio", "image" or "features".
        where: Columns of manifests and values of which a row must have one of each column; columns of tables and what
            is said in archives count too.
        exclude: Columns and values that leave a row out.

    Raises:
        OSError: If a source cannot be reached; FileNotFoundError if there is no such file.
        Failure: If the package is missing that reads its URL.
        ValueError: If a source has no such file, or is damaged; if two signals have one name; if none is left.
    """
    sources = [plain(source) for source in ([sources] if isinstance(sources, str) else sources)]
    if "" in sources:
        raise ValueError("a source is a path or URL, got an empty one; name a file or folder")
    choice, seen, files = Choice(where, exclude), set(), _listed(sources, modality)
    alone = len(sources) == 1 and files[0].uri == sources[0] and suffix_of(files[0].uri) in MANIFESTS
    for file in files:
        for found in _found_in(file, alone, modality, choice):
            _check(found)
            if found.id in seen:
                raise ValueError(f"{found.place.uri}: {found.id!r} is named twice; name every signal once")
            seen.add(found.id)
            yield found
    choice.check()
    if not seen:
        asked = "with those columns; change --where or --exclude" if choice.asked else "at all; check the sources"
        raise ValueError(f"{', '.join(sources)}: has no {modality} {asked}")


def _found_in(file: Listed, alone: bool, modality: str, choice: Choice) -> list[Found]:
    reader = READERS.get(suffix_of(file.uri))
    if reader is None:
        return [Found(file.name, Place(file.uri))] if choice.takes({}) else []
    inside = sorted(reader(file.uri, modality, choice), key=lambda found: found.id)
    return inside if alone else [found._replace(id=f"{file.name}/{found.id}") for found in inside]


def _check(found: Found) -> None:
    if not 0 < len(found.id) <= LONGEST or "\0" in found.id + found.place.uri:
        raise ValueError(
            f"{found.place.uri}: names have 1 to {LONGEST} characters, none of them NUL, got {len(found.id)} in "
            f"{found.id[:80]!r}; rename it"
        )
    try:
        f"{found.id}{found.place.uri}".encode()
    except UnicodeEncodeError:
        raise ValueError(f"{found.place.uri!a}: names are UTF-8, got {found.id!a}; rename it") from None


def _listed(sources: Sequence[str], modality: str) -> list[Listed]:
    """The files of all sources, sorted by name."""
    listed = [_files_of(source, modality) for source in sources]
    folders = [way_to(folder) for folder, _ in listed]
    shared = sum(1 for _ in takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)))
    fronts = ["".join(f"{part}/" for part in folder[shared:]) for folder in folders]
    return sorted(
        Listed(front + name, uri) for front, (_, files) in zip(fronts, listed, strict=True) for name, uri in files
    )


def _files_of(source: str, modality: str) -> tuple[str, list[Listed]]:
    """A folder, and the files of a source below it."""
    kinds: list[Collection[str]] = [SUFFIXES[modality], {TAR}, {PARQUET}]
    if is_folder(source):
        folder, names = source, files_below(source)
    elif is_pattern(source) and not os.path.isfile(source):
        folder, names = files_like(source)
        kinds.append(MANIFESTS)
    else:
        folder, name = in_folder(source)
        if COMPRESSED.search(name):
            raise ValueError(f"{source}: members of a compressed tar cannot be sought; decompress it")
        size_of_file(source)
        return folder, [Listed(name, source)]
    groups = [[name for name in names if suffix_of(name) in kind] for kind in kinds]
    if groups[0] and groups[1]:
        raise ValueError(
            f"{source}: has {len(groups[0])} files of {modality} and {len(groups[1])} tars; name one kind with a glob"
        )
    if not any(groups):
        wanted = ", ".join(suffix for kind in kinds for suffix in sorted(kind))
        advice = "decompress its tars" if any(map(COMPRESSED.search, names)) else "check the source"
        raise ValueError(f"{source}: files of {wanted} are read, got none; {advice}")
    return folder, [Listed(name, joined(folder, name)) for name in next(filter(None, groups))]
