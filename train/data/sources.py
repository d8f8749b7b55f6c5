"""Which files a run reads: a folder or a CSV manifest, filtered, split into train and val."""

import csv
import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Filter = Mapping[str, Any]  # column -> value or list of values


class Entry(NamedTuple):
    """One file: where it is, its name in the list, its manifest row (empty for folders)."""

    path: Path
    name: str
    row: dict[str, str]


def entries(
    root: str | None,
    manifest: str | None,
    suffixes: Collection[str],
    where: Filter | None = None,
    exclude: str | Filter | None = None,
) -> list[Entry]:
    """The files of a folder (searched through) or of a manifest, with one of the suffixes, sorted by name.

    Args:
        root: The folder; with a manifest, what its names are relative to (default: the manifest's folder).
        manifest: CSV with a column ``file``; other columns serve ``where``, ``exclude`` and the split.
        suffixes: Suffixes to keep, lower case with the dot; other files are passed over.
        where: Keep rows whose columns hold the value, or one of the values.
        exclude: Drop rows by the same rule, or the names a text file lists, one a line.
    Raises:
        ValueError: If neither root nor manifest is given, a column does not exist, or nothing is left.
    """
    found = _of_manifest(Path(manifest), root) if manifest else _of_folder(root)
    kept = [entry for entry in found if entry.path.suffix.lower() in suffixes]
    if where:
        kept = [entry for entry in kept if _matches(entry, where, manifest)]
    if isinstance(exclude, Mapping):
        kept = [entry for entry in kept if not _matches(entry, exclude, manifest)]
    elif exclude:
        names = set(Path(exclude).read_text(encoding="utf-8").splitlines())
        kept = [entry for entry in kept if entry.name not in names]
    if not kept:
        raise ValueError(
            f"{manifest or root}: {len(found)} files, none left with suffix {', '.join(sorted(suffixes))}, "
            f"where {where}, exclude {exclude}; loosen one of them"
        )
    return sorted(kept, key=lambda entry: entry.name)


def split(files: list[Entry], val_fraction: float | None) -> tuple[list[Entry], list[Entry]]:
    """Train and val files.

    By the manifest's column ``split`` (``train``, ``val``; other values are in neither) when there is one and
    no fraction is given. Else by a hash of the name, which moves no file when others come or go; 5 % by
    default.
    """
    if val_fraction is None and "split" in files[0].row:
        return [f for f in files if f.row["split"] == "train"], [f for f in files if f.row["split"] == "val"]
    fraction = 0.05 if val_fraction is None else val_fraction
    held_out = [name_hash(file.name) < fraction * 2**64 for file in files]
    return (
        [file for file, out in zip(files, held_out, strict=True) if not out],
        [file for file, out in zip(files, held_out, strict=True) if out],
    )


def name_hash(name: str) -> int:
    """64 bits of a name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _of_folder(root: str | None) -> list[Entry]:
    if root is None:
        raise ValueError("files come from a root folder or a manifest, got neither; set data.root or data.manifest")
    folder = Path(root)
    if not folder.is_dir():
        raise ValueError(f"{root}: not a folder; set data.root to one that exists")
    return [Entry(path, path.relative_to(folder).as_posix(), {}) for path in folder.rglob("*") if path.is_file()]


def _of_manifest(manifest: Path, root: str | None) -> list[Entry]:
    folder = Path(root) if root else manifest.parent
    with open(manifest, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "file" not in (reader.fieldnames or ()):
            raise ValueError(f"{manifest}: a manifest has a column 'file', got {reader.fieldnames}; name it so")
        return [Entry(folder / row["file"], row["file"], row) for row in reader]


def _matches(entry: Entry, rule: Filter, manifest: str | None) -> bool:
    for column, wanted in rule.items():
        if column not in entry.row:
            raise ValueError(
                f"{manifest or 'a folder'}: columns are {sorted(entry.row)}, got {column!r}; use one of them"
            )
        values = wanted if isinstance(wanted, list | tuple | set) else [wanted]
        if entry.row[column] not in {str(value) for value in values}:
            return False
    return True
