"""WebDataset: uncompressed tars, of each signal its codes and what is known of it.

    000000000.codes.npy    uint16, or int32 where codes are above 65,535 or absent (-1): [codebooks, positions]
    000000000.json         {"id": ..., "start": seconds, "extent": [...], "meta": what the manifest says, or null}

A key is the number of the signal in the corpus: WebDataset ends keys at the first dot and groups what has one key, and
an id may hold dots, slashes or anything. Where codebooks run at different rates codes are ``[codes]``, one codebook
behind the other, and "counts" in the JSON says how many each has (``np.split(codes, np.cumsum(counts)[:-1])``).

    wds.WebDataset("FOLDER/codes-{000000..000009}.tar").decode().to_tuple("codes.npy", "json")

Bytes are a function of the codes: times, owners and modes are fixed.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.shards import Shard

from .folders import Files


@dataclass(frozen=True)
class WebDataset:
    """Tars ``codes-000000.tar``, ...

    Args:
        per_tar: Signals in each; the last has what is left.
    """

    per_tar: int = 10_000
    name: ClassVar[str] = "webdataset"

    def write(self, corpus: Corpus, files: Files) -> dict[str, Any]:
        """Write the files; what to say of them.

        Raises:
            ValueError: If a shard is damaged, or what it says of a signal is no JSON.
        """
        tars = 0
        with ExitStack() as stack:
            for number, members in enumerate(_members(corpus)):
                if number % self.per_tar == 0:
                    stack.close()
                    file = stack.enter_context(files.writing(f"codes-{tars:06d}.tar"))
                    tar = stack.enter_context(
                        tarfile.open(mode="w|", fileobj=file, format=tarfile.USTAR_FORMAT)  # type: ignore[call-overload]
                    )
                    tars += 1
                for suffix, data in members:
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size, member.mode = len(data), 0o644
                    tar.addfile(member, io.BytesIO(data))
        return {"tars": tars}


def _members(corpus: Corpus) -> Iterator[tuple[tuple[str, bytes], tuple[str, bytes]]]:
    for shard in corpus:
        for row in np.flatnonzero(shard.good).tolist():
            yield _pair(shard, row)


def _pair(shard: Shard, row: int) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    codes, meaning = shard.codes(row), shard.meaning
    try:
        meta = json.loads(shard.metas[row] or "null")
    except ValueError as error:
        raise ValueError(f"{shard.path}: meta of {shard.ids[row]} is JSON, got other text ({error})") from None
    said = {"id": shard.ids[row], "start": shard.starts[row], "extent": shard.extents[row], "meta": meta}
    if meaning.dense:
        codes = np.ascontiguousarray(codes.reshape(-1, meaning.rate.codebooks).T)
    else:
        said["counts"] = meaning.spec.token_counts(shard.extents[row], meaning.rate)
    array = io.BytesIO()
    np.lib.format.write_array(array, codes, version=(1, 0), allow_pickle=False)
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return ("codes.npy", array.getvalue()), ("json", text.encode())
