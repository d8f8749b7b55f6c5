"""Files read one by one, with one rule for those that cannot be: stop the run, or warn and pass over them."""

import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from .sources import Entry, Filter, entries, name_hash, split

OnError = Literal["raise", "skip"]
Split = Literal["train", "val", "all"]
T = TypeVar("T")


class Selection:
    """Train and val entries; val is ordered by a hash of the name, so that its first are a fair sample."""

    def __init__(
        self,
        root: str | None,
        manifest: str | None,
        suffixes: Collection[str],
        where: Filter | None,
        exclude: str | Filter | None,
        val_fraction: float | None,
    ):
        train, val = split(entries(root, manifest, suffixes, where, exclude), val_fraction)
        if not train:
            raise ValueError(
                f"{manifest or root}: no file is left to train on; lower val_fraction or mark some 'train'"
            )
        self.train = train
        self.val = sorted(val, key=lambda entry: name_hash(entry.name))

    def of(self, which: Split) -> list[Entry]:
        """The entries of a split, or of both."""
        return {"train": self.train, "val": self.val, "all": self.train + self.val}[which]


class WholeFiles(Dataset):
    """Pairs ``(signal, path)`` of whole files, by index."""

    def __init__(self, files: list[Entry], read: Callable[[Entry], Tensor]):
        self.files, self.read = files, read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        return self.read(self.files[index]), str(self.files[index].path)


def read_or_skip(read: Callable[[Entry], T], file: Entry, on_error: OnError) -> T | None:
    """What ``read`` makes of the file; None, with a warning, if it cannot and ``on_error`` is ``"skip"``."""
    try:
        return read(file)
    except (ValueError, OSError) as error:
        if on_error == "raise":
            raise ValueError(f"{error} (or set on_error: skip)") from error
        warnings.warn(f"skipped: {error}", stacklevel=2)
        return None


def read_all(
    read: Callable[[Entry], T],
    files: Sequence[Entry],
    on_error: OnError,
    threads: int = 1,
    what: str = "reading",
) -> list[tuple[Entry, T]]:
    """Files with what ``read`` makes of them, without those skipped; decoders run in threads.

    Raises:
        ValueError: If a file cannot be read and may not be skipped, or if none can.
    """
    with ThreadPoolExecutor(max(1, threads)) as pool:
        results = pool.map(lambda file: read_or_skip(read, file, on_error), files)
        made = list(tqdm(results, what, len(files), disable=None))
    kept = [(file, item) for file, item in zip(files, made, strict=True) if item is not None]
    if files and not kept:
        raise ValueError(f"none of {len(files)} files can be read, the first is {files[0].path}; see the warnings")
    return kept


def readable(read: Callable[[Entry], object], files: Sequence[Entry], threads: int = 1) -> list[Entry]:
    """The files that can be read, found out by reading them; the others are warned about."""
    return [file for file, _ in read_all(lambda file: read(file) is not None, files, "skip", threads, "checking")]
