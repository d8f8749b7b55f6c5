"""One unit of work: items to the bytes of a shard. Pure: the bytes depend on the items' files, the settings and the
model, and not on machines, threads or what else runs."""

from __future__ import annotations

import hashlib
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sigtok.codecs.codec import Codec, pad_to
from sigtok.codecs.features import read_features
from sigtok.codecs.media import cut_square, read_audio, read_image
from sigtok.codecs.shards import Meaning, Row, shard_bytes
from sigtok.codecs.tokens import Tokens

from .items import Item
from .places import opened, size_of
from .plan import Settings, reason_of

AHEAD_SECONDS, AHEAD_ITEMS = 120.0, 16  # decoded before they are needed, about
UNREACHED = "could not be reached: "  # begins the reason of an item that another run may read


class Made(NamedTuple):
    """A shard and its commit record."""

    data: bytes
    record: dict[str, Any]


def encode_unit(number: int, items: Sequence[Item], codec: Codec, settings: Settings, threads: int = 2) -> Made:
    """The shard of a unit.

    Args:
        number: Of the unit.
        items: Its items, in order.
        codec: The model that the settings name, on any device.
        settings: See `Settings`.
        threads: That decode files ahead of the encoder.
    """
    return made_of(number, rows_of(items, codec, settings, threads), settings.meaning)


def rows_of(items: Sequence[Item], codec: Codec, settings: Settings, threads: int) -> list[Row]:
    """A row for each item, in order; one that cannot be read or encoded has its reason, and touches no other."""
    rows: dict[int, Row] = {}
    for group in grouped(items, settings):
        ready: list[tuple[int, Tensor]] = []
        for index, signal in decoded([(index, items[index]) for index in group], settings, threads):
            if isinstance(signal, str):
                rows[index] = bad_row(items[index], signal)
            elif settings.batch_seconds:
                ready.append((index, signal))
            else:
                rows[index] = _encoded(items[index], signal, codec, settings)
        if ready:
            made = _encoded_together(ready, items, codec, settings)
            rows.update((index, row) for (index, _), row in zip(ready, made, strict=True))
    return [rows[index] for index in range(len(items))]


def made_of(number: int, rows: Sequence[Row], meaning: Meaning) -> Made:
    """The shard of rows, and its record."""
    data = shard_bytes(rows, meaning)
    good = [row for row in rows if row.codes is not None]
    rate = meaning.spec.sample_rate
    record = {
        "unit": number,
        "shard": f"{name_of(number)}.parquet",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "rows": len(rows),
        "bad": len(rows) - len(good),
        "unreached": sum(row.reason.startswith(UNREACHED) for row in rows),
        "codes": sum(len(row.codes) for row in good if row.codes is not None),
        "seconds": sum(row.extent[0] for row in good) / rate if rate else 0.0,
    }
    return Made(data, record)


def name_of(number: int) -> str:
    """Of the files of a unit, without suffix."""
    return f"shard-{number:06d}"


def bad_row(item: Item, reason: str) -> Row:
    """The row of an item that has no codes."""
    return Row(item.id, _start(item), (), None, reason, item.meta)


def _start(item: Item) -> float:
    return item.start / item.sample_rate if item.sample_rate else 0.0


def grouped(items: Sequence[Item], settings: Settings) -> list[list[int]]:
    """Which items are encoded at once, by the plan alone; all in order where they are encoded one by one.

    Like lengths come together, the longest first, so that little is padded.
    """
    if not settings.batch_seconds:
        return [list(range(len(items)))]
    order = sorted(range(len(items)), key=lambda index: (-items[index].seconds, index))
    groups: list[list[int]] = []
    longest = 0.0
    for index in order:
        if not groups or longest * (len(groups[-1]) + 1) > settings.batch_seconds:
            groups.append([])
            longest = items[index].seconds
        groups[-1].append(index)
    return groups


def decoded(items: Sequence[tuple[int, Item]], settings: Settings, threads: int) -> Iterator[tuple[int, Tensor | str]]:
    """Signals in order, or what is wrong with them; threads decode a bounded part of them ahead."""
    waiting: deque[tuple[int, Item, Future[Tensor | str]]] = deque()
    ahead = 0.0
    with ThreadPoolExecutor(threads) as pool:
        rest = iter(items)
        try:
            while True:
                while len(waiting) < AHEAD_ITEMS and (ahead < AHEAD_SECONDS or len(waiting) < 2):
                    following = next(rest, None)
                    if following is None:
                        break
                    index, item = following
                    waiting.append((index, item, pool.submit(signal_of, item, settings)))
                    ahead += item.seconds
                if not waiting:
                    return
                index, item, future = waiting.popleft()
                signal = future.result()
                yield index, signal
                ahead -= item.seconds
        finally:
            for _, _, future in waiting:
                future.cancel()


def signal_of(item: Item, settings: Settings) -> Tensor | str:
    """The signal of an item, as its codec takes it, or what is wrong with it."""
    if item.reason:
        return item.reason
    spec = settings.meaning.spec
    try:
        if size_of(item.place) != item.size:
            return f"had {item.size} bytes when it was planned, has another size now"
        with opened(item.place) as source, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if spec.modality == "image":
                picture = read_image(source)
                return torch.from_numpy(picture if settings.size is None else cut_square(picture, settings.size))
            if spec.modality == "features":
                return torch.from_numpy(read_features(source, spec.channels, item.start, item.frames))
            signal, _ = read_audio(
                source,
                spec.sample_rate,
                spec.channels,
                start=item.start,
                frames=item.frames,
                downmix=settings.downmix,
            )
            return torch.from_numpy(signal)
    except OSError as error:
        return UNREACHED + reason_of(error, item.id, item.place)
    except ValueError as error:
        return reason_of(error, item.id, item.place)


def _row(item: Item, tokens: Tokens, settings: Settings) -> Row:
    return Row(item.id, _start(item), tokens.extents[0], settings.meaning.flat(tokens), meta=item.meta)


def _encoded(item: Item, signal: Tensor, codec: Codec, settings: Settings) -> Row:
    try:
        return _row(item, codec.encode([signal], settings.meaning.rate), settings)
    except ValueError as error:
        return bad_row(item, reason_of(error, item.id, item.place))


@torch.no_grad()
def _encoded_together(
    ready: Sequence[tuple[int, Tensor]], items: Sequence[Item], codec: Codec, settings: Settings
) -> Iterator[Row]:
    """Rows of signals that go through the codec as one batch, padded behind: a causal codec reads nothing there."""
    spec, rate = codec.spec, settings.meaning.rate
    longest = spec.padded((max(signal.shape[1] for _, signal in ready),), rate)
    device = next(codec.parameters()).device
    batch = torch.cat([pad_to(codec.checked(signal)[None], longest) for _, signal in ready]).to(device)
    streams = codec.quantizer.encode(codec.encoder.piecewise(batch, rate), rate.codebooks) if longest[0] else None
    for row, (index, signal) in enumerate(ready):
        extent = tuple(signal.shape[1:])
        counts = spec.token_counts(extent, rate)
        if streams is None:
            parts = tuple(torch.zeros(1, 0, dtype=torch.int64) for _ in counts)
        else:
            parts = tuple(stream[row : row + 1, :count] for stream, count in zip(streams, counts, strict=True))
        yield _row(items[index], Tokens(parts, (extent,), rate, spec), settings)
