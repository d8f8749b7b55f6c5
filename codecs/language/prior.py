"""A language model as an entropy coder: the likelier a code is behind those before it, the fewer bits it takes.

LLMZip is the name of the idea for text (Valmeekam et al., 2023, arXiv 2306.04050); EnCodec codes its tokens so
(Defossez et al., 2022, arXiv 2210.13438). Here the network is `sigtok.codecs.entropy.network`, whose whole numbers are
the same in every process, with any number of threads, for a signal at once and code by code.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from functools import cached_property
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from sigtok.codecs.entropy.network import ExactTransformer, Memory
from sigtok.codecs.entropy.ranges import SLACK, RangeReader, RangeWriter
from sigtok.codecs.spec import CodecSpec, Extent, Rate
from sigtok.codecs.tokens import Tokens

from .folder import LanguageModel, load_language

TOGETHER = 128  # ids that are read at once
SHARES = 2**16  # of several places that are computed at once
PROBES = 64  # ids of the signal that tells priors and machines apart
CODES_PER_BYTE = 512  # at most, since a code costs a bit's 64th or more
MOST = 2**18  # codes of a piece: files are cut into half minutes, and one that says otherwise costs no hours


class Steps(NamedTuple):
    """The ids of a signal: where codes stand, and of each the first id of its codebook and how many there are."""

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    firsts: NDArray[np.int64]
    counts: NDArray[np.int64]


class TokenPrior:
    """An `EntropyCoder` of the tokens of one codec at one rate, whose `fingerprint` its files carry.

    Each piece of a signal is coded as a signal by itself: behind the header of the language, up to its last code.

    Args:
        model: On the CPU.

    Raises:
        ValueError: If the codec has several granularities, or the network is too wide for exact sums.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.language = model.language
        if self.language.meaning.spec.granular:
            name = self.language.meaning.spec.name
            raise ValueError(f"{name} has several granularities, whose files have a coding of their own, got a prior")
        self._shape = shape = model.network.shape
        tensors = {name: value.detach().cpu().float().numpy() for name, value in model.network.state_dict().items()}
        self._network = ExactTransformer(tensors, shape.heads, shape.context)
        self._prompt = self.language.ids.prompt()[0].numpy()

    @cached_property
    def fingerprint(self) -> int:
        """CRC-32 of what the ids mean, the shape of the network, and the shares that it gives in a fixed signal.

        Another prior has another one, and so has a machine that does not calculate as IEEE 754 says.
        """
        about = {**self.language.to_dict(), "shape": asdict(self._shape)}
        crc = crc32(json.dumps(about, sort_keys=True).encode())
        size, memory = self._network.size, self._network.memory(PROBES + 1)
        ids = np.concatenate(([self.language.begin], np.arange(PROBES) ** 2 * 7919 % size))
        for place in range(len(ids)):
            thought = self._network.read(ids[place : place + 1], memory)
            crc = crc32(self._network.shares(thought, 0, size).astype("<u4").tobytes(), crc)
        return crc

    def check(self, spec: CodecSpec, rate: Rate, stream_id: bytes) -> None:
        """Raise ValueError unless it is a prior of this codec at this rate."""
        mine = self.language.meaning
        if stream_id.hex() != mine.stream_id or spec != mine.spec:
            raise ValueError(
                f"the prior is of tokens of {mine.spec.name} ({mine.stream_id}), got those of {spec.name} "
                f"({stream_id.hex()}); train one on them"
            )
        if spec.resolve(rate) != mine.rate:
            raise ValueError(f"the prior is of tokens at {mine.rate}, got {spec.resolve(rate)}; encode at its rate")

    def encode(self, codes: tuple[np.ndarray, ...], grid: Extent, quality: float | None = None) -> bytes:
        """The payload of a piece of a signal.

        Raises:
            ValueError: If the codes are not those of such a piece.
        """
        writer = RangeWriter()
        for start, share, whole in self._shares(codes, grid).tolist():
            writer.put(start, share, whole)
        writer.settle()
        return writer.payload()

    def decode(self, payload: bytes, grid: Extent, quality: float | None = None) -> tuple[np.ndarray, ...]:
        """The codes of a payload.

        Raises:
            ValueError: If the payload is too short for the grid, or not one that `encode` makes.
        """
        meaning, extent = self.language.meaning, self._extent(grid)
        count = sum(meaning.spec.token_counts(extent, meaning.rate))
        if count > (most := CODES_PER_BYTE * (len(payload) + SLACK)):
            raise ValueError(
                f"a payload of {len(payload)} bytes has {most} codes at most, got a grid {grid} of {count}; it is cut "
                f"short or of another grid"
            )
        steps = self._steps(extent)
        reader, ids, read = RangeReader(payload), steps.ids.copy(), 0
        memory, thought = self._memory(len(ids)), np.empty((0, 0))
        known = np.concatenate((self._prompt, ids))
        for place, first, count in zip(*(part.tolist() for part in steps[1:]), strict=True):
            end = len(self._prompt) + place
            while read < end:
                thought = self._network.read(known[read : min(end, read + TOGETHER)], memory)
                read = memory.count
            sums = self._network.shares(thought[-1], first, count).cumsum()
            code = int(np.searchsorted(sums, reader.find(int(sums[-1])), side="right"))
            start = int(sums[code - 1]) if code else 0
            reader.take(start, int(sums[code]) - start)
            known[end] = first + code
        reader.end()
        tokens = self.language.ids.layout.from_ids(torch.from_numpy(known[None, len(self._prompt) :]), [extent])
        return tuple(stream[0].numpy() for stream in tokens.streams)

    def bits(self, tokens: Tokens) -> float:
        """The bits that the codes of one signal take, coded as one piece: the score of the signal.

        Raises:
            ValueError: If the tokens are of another codec or rate than the prior.
        """
        streams = tuple(stream[0].cpu().numpy() for stream in tokens.streams)
        grid = (tokens.spec.positions(tokens.extents[0], tokens.rate),)
        return math.fsum(math.log2(whole / share) for _, share, whole in self._shares(streams, grid).tolist())

    def _shares(self, codes: tuple[np.ndarray, ...], grid: Extent) -> NDArray[np.int64]:
        """Of each code where its share starts, its size, and that of the whole ``[N, 3]``."""
        extent, language = self._extent(grid), self.language
        steps = self._steps(extent)
        streams = tuple(torch.from_numpy(np.asarray(book, np.int64))[None] for book in codes)
        tokens = Tokens(streams, (extent,), language.meaning.rate, language.meaning.spec)
        ids = language.ids.layout.to_ids(tokens)[0].numpy()
        said = ids[steps.places] - steps.firsts
        known, memory = np.concatenate((self._prompt, ids)), self._memory(len(ids))
        before = len(self._prompt) - 1 + steps.places  # the ids behind which codes are predicted
        found = np.empty((len(said), 3), np.int64)
        for start in range(0, len(known) - 1, TOGETHER):
            thought = self._network.read(known[start : start + TOGETHER], memory)
            here = np.flatnonzero((before >= start) & (before < start + TOGETHER))
            for first in np.unique(steps.firsts[here]).tolist():
                places = here[steps.firsts[here] == first]
                count = int(steps.counts[places[0]])
                for some in np.split(places, range(rows := max(1, SHARES // count), len(places), rows)):
                    sums = self._network.shares(thought[before[some] - start], first, count).cumsum(1)
                    row, code = np.arange(len(some)), said[some]
                    begin = np.where(code > 0, sums[row, code - 1], 0)
                    found[some] = np.stack((begin, sums[row, code] - begin, sums[:, -1]), 1)
        return found

    def _memory(self, ids: int) -> Memory:
        return self._network.memory(len(self._prompt) + ids)

    def _extent(self, grid: Extent) -> Extent:
        """The extent of a piece of so many positions.

        Raises:
            ValueError: If there are no such pieces.
        """
        spec, rate, extent = self.language.meaning.spec, self.language.meaning.rate, self.language.extent
        if extent is None:
            (positions,), (step,) = grid, spec.step(rate)
            if positions % rate.queries:
                raise ValueError(f"a prior codes whole windows of {rate.queries} positions, got {positions}")
            return (positions // rate.queries * step,)
        if math.prod(grid) != spec.positions(extent, rate):
            raise ValueError(
                f"the prior is of pictures of {extent}, {spec.positions(extent, rate)} positions, got one of "
                f"{math.prod(grid)}; encode such pictures"
            )
        return extent

    def _steps(self, extent: Extent) -> Steps:
        """What is known of the ids of a signal before its codes are: those of the first codes."""
        language = self.language
        spec, rate = language.meaning.spec, language.meaning.rate
        counts = spec.token_counts(extent, rate)
        if sum(counts) > MOST:
            raise ValueError(f"a prior codes pieces of at most {MOST} codes, got one of {sum(counts)}; cut the signal")
        zeros = tuple(torch.zeros(1, count, dtype=torch.int64) for count in counts)
        ids = language.ids.layout.to_ids(Tokens(zeros, (extent,), rate, spec))[0].numpy()
        places = np.flatnonzero(ids < language.num_codes)
        vocabulary = language.ids.vocabulary
        books = np.searchsorted(vocabulary.offsets, ids[places], side="right") - 1
        return Steps(ids, places, np.array(vocabulary.offsets)[books], np.array(vocabulary.codebook_sizes)[books])


def load_prior(folder: str | os.PathLike[str]) -> TokenPrior:
    """The prior of a folder that ``sigtok-train release-lm`` wrote.

    Raises:
        ValueError: If the folder is none, is damaged, or its network is too wide.
    """
    return TokenPrior(load_language(folder))
