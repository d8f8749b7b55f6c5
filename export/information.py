"""What a model or a file says about itself: `sigtok info`."""

from __future__ import annotations

import json
import math
import os
from argparse import Namespace
from typing import Any

from sigtok.codecs.bitstream import Header, read
from sigtok.codecs.files import own_coder
from sigtok.codecs.header import OWN_TABLES, PRIOR
from sigtok.codecs.pretrained import bundled
from sigtok.codecs.spec import CodecSpec, Extent, Rate
from sigtok.codecs.streaming import delay, start_decoding, start_encoding, state_bytes, streams

from .exits import DATA, GOOD, Failure, located
from .released import is_sgt, open_model, plain, read_file, record_of, writer_of
from .tables import columns


def info(args: Namespace) -> int:
    """Print about a model or file; about every bundled model if none is named."""
    names = [args.subject] if args.subject else list(bundled())
    records = [_of_file(name, args.model) if _is_file(name) else _of_model(name) for name in names]
    if args.json:
        print(json.dumps(records[0] if args.subject else records, indent=2))
    else:
        print("\n\n".join(_text(record) for record in records) or "there are no bundled models")
    return GOOD


def _is_file(name: str) -> bool:
    return name not in bundled() and os.path.isfile(name) and (name.endswith(".sgt") or is_sgt(name))


def _of_model(name: str) -> dict[str, Any]:
    record = record_of(name)
    spec = CodecSpec.from_dict(record["spec"])
    rates = [_rate(spec, rate) for rate in operating_points(spec)]
    return {"model": name, **record, "streaming": _streaming(name, spec), "rates": rates}


def _of_file(path: str, model: str | None) -> dict[str, Any]:
    try:
        return _record(path, *read_file(path), model)
    except ValueError as error:
        raise Failure(DATA, located(path, str(error))) from error


def _record(path: str, data: bytes, header: Header, model: str | None) -> dict[str, Any]:
    """What a file says, and whether its codes are whole; a packet needs its model for that, a prior is not asked."""
    name = model or writer_of(header)
    about = record_of(name) if name else None
    spec = CodecSpec.from_dict(about["spec"]) if about else None
    own = header.coding == OWN_TABLES
    alone = header.profile == "container" and not own
    whole = header.coding != PRIOR and (spec is not None or alone)
    record = {"file": path, "bytes": len(data), "model": name, **plain(header), "checked": whole}
    if whole:
        coder = own_coder(open_model(name)) if own and name else None
        stream = read(data, spec, bytes.fromhex(about["stream_id"]) if about else None, coder=coder)
        header = stream.header
        there = [int((codes >= 0).sum()) for codes in stream.codes]
        record["tokens"] = sum(there)
        if header.granular:
            record |= {"tokens_of_granularities": there, "shares": _shares(header.spec, header.extent, there)}
    elif spec is not None:
        header = header.with_spec(spec)
    if header.sample_rate:
        record |= {"sample_rate": header.sample_rate, "seconds": header.extent[0] / header.sample_rate}
        if header.extent[0]:
            record["bits_per_second"] = 8 * record["bytes"] / record["seconds"]
    if header.modality == "image":
        record["bits_per_pixel"] = 8 * record["bytes"] / math.prod(header.extent)
    return record


def _shares(spec: CodecSpec, extent: Extent, there: list[int]) -> list[float]:
    """Of a file of several granularities, the part of the signal that each codebook speaks for."""
    pairs = zip(there, spec.token_counts(extent), strict=True)
    return [round(count / most, 4) if most else 0.0 for count, most in pairs]


def _streaming(name: str, spec: CodecSpec) -> dict[str, Any] | str:
    """The shortest chunk, how much later tokens and samples come, and the states, all at the default rate."""
    if spec.sample_rate is None or not streams(spec):
        return "not streamable"
    codec = open_model(name)
    encoding, decoding = start_encoding(codec), start_decoding(codec)
    chunk = encoding.setting.windows * encoding.setting.step
    return {
        "chunk_samples": chunk,
        "encoder_latency_ms": 1000 * chunk / spec.sample_rate,
        "decoder_latency_ms": 1000 * delay(codec) / spec.sample_rate,
        "encoder_state_bytes": state_bytes(encoding),
        "decoder_state_bytes": state_bytes(decoding),
    }


def operating_points(spec: CodecSpec) -> list[Rate]:
    """One thing at a time: numbers of codebooks, of queries in halves, and windows; all else as it is by default.

    Of several granularities, each alone and then the windows; of a rate-distortion codec, its whole qualities.
    """
    if spec.qualities:
        return [spec.resolve(Rate(quality=quality)) for quality in range(1, spec.qualities + 1)]
    if spec.granular:
        alone = [
            tuple(float(book == other) for other in range(spec.num_codebooks)) for book in range(spec.num_codebooks)
        ]
        points = [Rate(shares=shares) for shares in alone] + [Rate(window=window) for window in spec.windows]
        return [spec.resolve(point) for point in points]
    halvings = range(min(6, spec.queries.bit_length() - 1), 0, -1)
    points = [Rate(codebooks=count) for count in range(1, spec.num_codebooks)]
    points += [Rate(queries=spec.queries >> halving) for halving in halvings]
    points += [Rate(window=window) for window in spec.windows]  # the first is all by default
    return [spec.resolve(point) for point in points]


def _rate(spec: CodecSpec, rate: Rate) -> dict[str, Any]:
    if spec.qualities:  # whole numbers whose bits depend on the signal
        return {"quality": rate.quality, "codebooks": rate.codebooks}
    window = "x".join(map(str, rate.window or ()))
    values: dict[str, Any] = {"window": window, "codebooks": rate.codebooks, "queries": rate.queries}
    if spec.granular:
        values["shares"] = list(rate.shares or ())
    if spec.modality != "image":
        values["tokens_per_second"] = round(spec.token_rate(rate), 3)
        values["nominal_bits_per_second"] = round(spec.nominal_bits_per_second(rate), 1)
    else:
        pixels = spec.step(rate)
        pairs = zip(spec.token_counts(pixels, rate), rate.shares or (1,) * spec.num_codebooks, strict=False)
        values["tokens_per_window"] = round(sum(count * share for count, share in pairs), 3)
        values["nominal_bits_per_pixel"] = round(spec.bits(pixels, rate) / math.prod(pixels), 5)
    return values


def _text(record: dict[str, Any]) -> str:
    """Names and values in two columns, operating points as a table."""
    lines = []
    for name, value in _flat(record).items():
        lines.append(f"{name:<22} {value}")
    if rates := record.get("rates"):
        lines += ["", columns(list(rates[0]), [list(map(_value, rate.values())) for rate in rates])]
    return "\n".join(lines)


def _flat(record: dict[str, Any]) -> dict[str, str]:
    hidden = ("format", "arguments", "rates", "weights_sha256")
    flat: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, dict) and name not in hidden:
            flat |= {inner: _value(found) for inner, found in value.items()}
        elif name not in hidden:
            flat[name] = _value(value)
    return flat


def _value(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
