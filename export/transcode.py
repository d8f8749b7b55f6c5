"""Files to `.sgt` files and back, and to bare codes; a bad one does not stop the rest."""

from __future__ import annotations

import io
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from sigtok.codecs.bitstream import BitstreamError
from sigtok.codecs.codec import Codec
from sigtok.codecs.entropy.coder import Prior
from sigtok.codecs.features import npy_of
from sigtok.codecs.files import (
    coder_for,
    compress,
    decompress,
    decompress_part,
    decompress_rest,
    own_coder,
    tokens_from_bytes,
    tokens_to_bytes,
)
from sigtok.codecs.media import write_audio, write_image
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import CodecSpec
from sigtok.codecs.tokens import Tokens

from .exits import BUG, DATA, GOOD, IO, NO_OUTPUT, SOME_BAD, USAGE, Failure, Stopped, say, say_error
from .inputs import SUFFIXES, Inputs, Item, Reader, gather, on_disk
from .outputs import Outputs, check_stdout_is_no_terminal, write_file
from .released import (
    Models,
    at_rate_of,
    check_alone,
    described,
    header_at,
    is_sgt,
    open_model,
    open_prior,
    read_file,
    resolve,
    resolve_quality,
    spec_of,
)
from .targets import target_of

SGT = (".sgt",)
WRITTEN = {"audio": (".wav", ".flac"), "image": (".png", ".webp", ".jpg", ".jpeg"), "features": (".npy",)}


def encode(args: Namespace) -> int:
    """Every input to its ``.sgt`` file."""
    spec = spec_of(args.model)
    rate = resolve(spec, args.codebooks, args.queries, args.window)
    check_alone("--quality", args.quality, args.codebooks, args.queries)
    wanted = target_of(args, spec)
    if wanted and (args.coding != "fixed" or args.prior):
        given = "--prior" if args.prior else args.coding
        raise Failure(USAGE, f"targets count files of --coding fixed, got {given}; leave one of them out")
    if args.prior and args.coding != "fixed":
        raise Failure(USAGE, f"--prior is a coding by itself, got --coding {args.coding} too; leave one of them out")
    inputs = gather(args.inputs, SUFFIXES[spec.modality])
    outputs = Outputs(args.output, inputs, SGT)
    codec, reader, prior = open_model(args.model, args.device), Reader(spec, args.downmix, say), open_prior(args.prior)
    rate = resolve_quality(codec, rate, args.quality)
    rate = at_rate_of(prior, codec, rate, bool(args.codebooks or args.queries or args.window or args.quality))

    def work(item: Item, path: str) -> None:
        signal = reader.read(path)[None]
        if wanted is None:
            data = compress(codec, signal, rate, coding=args.coding, prior=prior, verify=args.verify)
        else:
            chosen, line = wanted.choose(codec, signal, rate)
            identity = codec.stream_id or stream_id(codec)
            data = tokens_to_bytes(chosen, identity, own_coder(codec), verify=args.verify)
            say(f"{item.path}: {line}")
        with outputs.place(item, SGT) as target:
            write_file(target, data)

    return each(inputs, work)


def decode(args: Namespace) -> int:
    """Every ``.sgt`` file to a sound, a picture or features, by the model that wrote it."""
    if args.salvage and (args.start, args.stop) != (None, None):
        raise Failure(USAGE, "--salvage decodes all that is left of a file, got --from or --to as well; leave one out")
    inputs = gather(args.inputs, SGT)
    outputs = Outputs(args.output, inputs, [suffix for kind in WRITTEN.values() for suffix in kind])
    models, prior = Models(args.model, args.device), open_prior(args.prior)

    def work(item: Item, path: str) -> None:
        if args.start is not None or args.stop is not None:
            codec, signal = _part(models, prior, item, path, args.start or 0.0, args.stop)
        else:
            data, header = read_file(path, salvage=args.salvage)
            codec = models.of(item.path, header)
            signal = _rest(codec, prior, item, data) if args.salvage else decompress(codec, data, prior=prior)[0]
        signal = signal.cpu()
        with outputs.place(item, WRITTEN[codec.spec.modality]) as target:
            write_signal(target, signal, codec.spec)

    return each(inputs, work)


def _part(
    models: Models, prior: Prior | None, item: Item, path: str, start: float, stop: float | None
) -> tuple[Codec, Tensor]:
    """The codec of a file, and its signal from one second to another or to its end."""
    header = header_at(path)
    if header.modality == "image":
        raise Failure(USAGE, f"{item.path}: is a picture, got --from or --to; seconds are of sounds and features")
    codec = models.of(item.path, header)
    assert codec.spec.sample_rate is not None
    end = header.extent[0] / codec.spec.sample_rate if stop is None else stop
    with open(path, "rb") as file:
        return codec, decompress_part(codec, file, start, end, prior=prior)[0]


def _rest(codec: Codec, prior: Prior | None, item: Item, data: bytes) -> Tensor:
    """The signal of a file, or of what is left of it; a line says what is missing."""
    try:
        return decompress(codec, data, prior=prior)[0]
    except BitstreamError as error:
        signal, missing = decompress_rest(codec, data, prior=prior)
        rate, what = (1, "rows") if codec.spec.sample_rate is None else (codec.spec.sample_rate, "seconds")
        runs = ", ".join(f"{first / rate:g} to {last / rate:g}" for first, last in missing) or "none"
        say(f"{item.path}: {error}; missing {what}: {runs}")
        return signal[0]


def tokens(args: Namespace) -> int:
    """The codes of one input, a signal or an ``.sgt`` file, on standard output."""
    if args.npy:
        check_stdout_is_no_terminal()
    spec = spec_of(args.model)
    rate = resolve(spec, args.codebooks, args.queries, args.window)
    check_alone("--quality", args.quality, args.codebooks, args.queries)
    codec, prior = open_model(args.model, args.device), open_prior(args.prior)
    rate = resolve_quality(codec, rate, args.quality)
    rate = at_rate_of(prior, codec, rate, bool(args.codebooks or args.queries or args.window or args.quality))

    def work(item: Item, path: str) -> None:
        if is_sgt(path):
            (data, header), identity = read_file(path), codec.stream_id or stream_id(codec)
            found = tokens_from_bytes(data, codec.spec, identity, coder=coder_for(codec, header, prior))
            if args.queries:
                raise Failure(USAGE, f"{path}: has {found.rate.queries} queries; encode the signal with --queries")
            if args.window:
                raise Failure(USAGE, f"{path}: has windows of {found.rate.window}; encode the signal with --window")
            if args.quality:
                raise Failure(USAGE, f"{path}: has {described(spec, found.rate)}; encode the signal with --quality")
            if args.codebooks:
                found = found.prefix(args.codebooks)
        else:
            found = codec.encode(Reader(spec, args.downmix, say).read(path)[None], rate).to("cpu")
        sys.stdout.buffer.write(as_npy(found) if args.npy else as_json(found).encode())

    return each(Inputs((Item(args.input, ""),), single=True), work)


def as_npy(found: Tokens) -> bytes:
    """Codes of one signal as a NumPy file, int64 ``[Q, N]``.

    Raises:
        ValueError: If the codebooks run at different rates.
    """
    buffer = io.BytesIO()
    np.save(buffer, found.codes[0].numpy(), allow_pickle=False)
    return buffer.getvalue()


def as_json(found: Tokens) -> str:
    """Codes of one signal and where they come from: one list per codebook."""
    record = {
        "model": found.spec.name,
        "extent": list(found.extents[0]),
        "codebooks": found.rate.codebooks,
        "queries": found.rate.queries,
        "window": list(found.rate.window or ()),
        **({"quality": found.rate.quality} if found.rate.quality else {}),
        "codes": [stream[0].tolist() for stream in found.streams],
    }
    return json.dumps(record) + "\n"


def write_signal(path: Path, signal: Tensor, spec: CodecSpec) -> None:
    """Write a signal ``[C, *extent]`` as the suffix says."""
    if spec.sample_rate is None:
        write_image(path, signal)
    elif spec.modality == "features":
        write_file(path, npy_of(signal.numpy()))
    else:
        write_audio(path, signal, spec.sample_rate)


def each(inputs: Inputs, work: Callable[[Item, str], None]) -> int:
    """Work on every item; the exit code.

    A bad item costs one line on stderr; only an output that cannot be written stops the rest.
    """
    worst, bad = GOOD, 0
    with tqdm(inputs.items, disable=inputs.single or not sys.stderr.isatty(), file=sys.stderr) as bar:
        for done, item in enumerate(bar):
            try:
                _one(item, work)
            except Stopped as error:
                raise Stopped(f"{error} after {done} of {len(inputs.items)} files") from None
            except Exception as error:
                if isinstance(error, Failure) and error.code in (IO, NO_OUTPUT):
                    raise
                code = say_error(error, item.path)
                if inputs.single:
                    return code
                worst, bad = BUG if BUG in (code, worst) else SOME_BAD, bad + 1
    if bad:
        say(f"{len(inputs.items) - bad} of {len(inputs.items)} files are done, {bad} are bad")
    return DATA if bad == len(inputs.items) and worst == SOME_BAD else worst


def _one(item: Item, work: Callable[[Item, str], None]) -> None:
    """Work on one item; errors of standard input do not name the file that it is kept in."""
    with on_disk(item.path) as path:
        try:
            work(item, path)
        except ValueError as error:
            if path == item.path:
                raise
            raise ValueError(str(error).replace(path, item.path)) from error
