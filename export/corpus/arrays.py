"""Codes as plain arrays that are memory-mapped: what any tool that reads NumPy can use, a signal a slice.

    codes.npy     uint16, or int32 where codes are above 65,535 or absent (-1): [positions of all signals, codebooks];
                  [codes of all signals] where codebooks run at different rates, of each signal one behind the other
    codes.bits    instead of it: of each signal, from a whole byte on, codebook after codebook, ceil(log2 K) bits a code
                  (entropy/packing.py)
    offsets.npy   int64 [signals + 1]: where each begins, in rows of codes.npy or bytes of codes.bits
    extents.npy   int64 [signals, axes]: samples, frames, or height and width
    rows.jsonl    a line a signal: {"id": ..., "start": seconds, "meta": JSON as text, or null}

    codes, offsets = np.load("codes.npy", mmap_mode="r"), np.load("offsets.npy", mmap_mode="r")
    signal = codes[offsets[3] : offsets[4]]                                # [positions, codebooks]

`Arrays` reads either and gives tokens, checked.
"""

from __future__ import annotations

import io
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.entropy.packing import pack, unpack
from sigtok.codecs.shards import Meaning, Shard
from sigtok.codecs.spec import AXES
from sigtok.codecs.tokens import Tokens
from sigtok.export.exits import USAGE, Failure

from .folders import META, Files, Hashed


@dataclass(frozen=True)
class Npy:
    """``codes.npy`` with offsets, extents and ids."""

    name: ClassVar[str] = "npy"

    def write(self, corpus: Corpus, files: Files) -> dict[str, Any]:
        """Write the files; what to say of them.

        Raises:
            ValueError: If a shard is damaged.
        """
        meaning, wide = corpus.meaning, corpus.meaning.rate.codebooks if corpus.meaning.dense else 1
        shape = (corpus.codes // wide, wide) if meaning.dense else (corpus.codes,)
        with ExitStack() as stack:
            codes = stack.enter_context(files.writing("codes.npy"))
            codes.write(_head(meaning.dtype, shape))
            about = _About(corpus, files, stack)
            for shard in corpus:
                codes.write(shard.values.astype(meaning.dtype.newbyteorder("<"), copy=False).data)
                about.write(shard, np.diff(shard.offsets)[shard.good] // wide)
        return {}


@dataclass(frozen=True)
class Bits:
    """``codes.bits`` with offsets, extents and ids: codes at ceil(log2 K) bits, and still any signal at once."""

    name: ClassVar[str] = "bits"

    def write(self, corpus: Corpus, files: Files) -> dict[str, Any]:
        """Write the files; what to say of them.

        Raises:
            Failure: If codes may be absent.
            ValueError: If a shard is damaged.
        """
        spec, books = corpus.meaning.spec, corpus.meaning.rate.codebooks
        if spec.granular:
            raise Failure(USAGE, f"an absent code has no bits, and codebooks of {spec.name} take turns; export npy")
        with ExitStack() as stack:
            codes = stack.enter_context(files.writing("codes.bits"))
            about = _About(corpus, files, stack)
            for shard in corpus:
                rows = np.flatnonzero(shard.good).tolist()
                sizes = [codes.write(pack(shard.streams(row), spec.codebook_sizes[:books])) for row in rows]
                about.write(shard, np.array(sizes, np.int64))
        return {}


class _About:
    """What both formats say of their signals, written as they come."""

    def __init__(self, corpus: Corpus, files: Files, stack: ExitStack) -> None:
        axes = AXES[corpus.meaning.spec.modality]
        self.offsets, self.extents, self.rows = (
            stack.enter_context(files.writing(name)) for name in ("offsets.npy", "extents.npy", "rows.jsonl")
        )
        self.end = 0
        self.extents.write(_head(np.dtype("<i8"), (corpus.signals, axes)))
        self.offsets.write(_head(np.dtype("<i8"), (corpus.signals + 1,)) + bytes(8))

    def write(self, shard: Shard, sizes: Any) -> None:
        ends = self.end + np.cumsum(sizes, dtype=np.int64)
        self.end = int(ends[-1]) if len(ends) else self.end
        _append(self.offsets, ends)
        rows = np.flatnonzero(shard.good).tolist()
        _append(self.extents, np.array([shard.extents[row] for row in rows], np.int64))
        lines = ({"id": shard.ids[row], "start": shard.starts[row], "meta": shard.metas[row] or None} for row in rows)
        self.rows.write("".join(json.dumps(line) + "\n" for line in lines).encode())


def _append(file: Hashed, values: Any) -> None:
    file.write(values.astype("<i8").tobytes())


def _head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    head = io.BytesIO()
    fields = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, fields)
    return head.getvalue()


class Arrays:
    """The signals of an export as `Npy` or `Bits`, memory-mapped; ``len`` of them.

    Args:
        folder: Of the export.

    Raises:
        ValueError: If it is no such export.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        try:
            meta = json.loads((folder / META).read_bytes())
            self.form = meta["request"]["format"]
            self.meaning = Meaning.from_dict(meta["meaning"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}: an export has a whole {META}, got none ({error}); export again") from None
        if self.form not in (Npy.name, Bits.name):
            raise ValueError(f"{folder}: exports as npy or bits are read here, this one is {self.form}")
        self.extents = np.load(folder / "extents.npy", mmap_mode="r")
        self.offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        if self.form == Npy.name:
            self.codes = np.load(folder / "codes.npy", mmap_mode="r")
        else:
            path = folder / "codes.bits"
            self.codes = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)

    def __len__(self) -> int:
        """Signals."""
        return len(self.extents)

    def tokens(self, signal: int) -> Tokens:
        """The tokens of a signal, counted from 0.

        Raises:
            ValueError: If they are not what its extent promises.
        """
        extent = tuple(self.extents[signal].tolist())
        codes = self.codes[self.offsets[signal] : self.offsets[signal + 1]]
        if self.form == Bits.name:
            spec, rate = self.meaning.spec, self.meaning.rate
            streams = unpack(codes.tobytes(), spec.token_counts(extent, rate), spec.codebook_sizes[: rate.codebooks])
            codes = np.stack(streams, 1) if self.meaning.dense else np.concatenate(streams)
        return self.meaning.tokens(codes.reshape(-1), extent)
