"""`sigtok tokenize export`: what a finished corpus of tokens becomes for other trainers."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from sigtok.export.exits import GOOD, USAGE, Failure

from .folders import Files, whole_folder

if TYPE_CHECKING:
    from sigtok.codecs.corpus import Corpus

FORMS = {
    "nanogpt": ("sequences", "NanoGPT", "train.bin of uint16 ids, and val.bin"),
    "megatron": ("sequences", "Megatron", "train.bin and train.idx of uint16 or int32 ids, and val"),
    "webdataset": ("tars", "WebDataset", "tars of KEY.codes.npy and KEY.json"),
    "npy": ("arrays", "Npy", "codes.npy with offsets.npy, to be memory-mapped"),
    "bits": ("arrays", "Bits", "codes.bits with offsets.npy: ceil(log2 K) bits a code"),
}  # name: the module of ours that has it, its class, what it is


@runtime_checkable
class Form(Protocol):
    """A format with its options: a frozen dataclass."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def write(self, corpus: Corpus, files: Files) -> dict[str, Any]:
        """Write its files; what to say of them in ``meta.json``."""


class Summary(NamedTuple):
    """What an export wrote."""

    signals: int
    bad: int  # rows that have no codes and were left out
    codes: int
    ids: int | None  # of sequences; None where codes are not laid out
    bytes: int  # of all files but meta.json
    seconds: float


def export(folder: str | Path, out: str | Path, form: Form) -> Summary:
    """Write the signals of a corpus in another format into a folder that is whole or not there.

    The bytes are a function of the codes and the form. What a folder holds is replaced only by an export of the same
    codes in the same form.

    Args:
        folder: Where `sigtok tokenize` finished.
        out: A new or empty folder.
        form: A `Form`, such as ``NanoGPT(layout="flatten", val_fraction=0.01)``.

    Raises:
        Failure: If the form does not fit the codec, or ``out`` holds anything else or cannot be written.
        ValueError: If the corpus is not complete, damaged or without signals.
    """
    from sigtok.codecs.corpus import Corpus
    from sigtok.export.outputs import making

    begin = time.perf_counter()
    corpus = Corpus(folder)
    if not corpus.signals:
        raise ValueError(f"{folder}: none of its {corpus.bad} signals has codes, so there is nothing to export")
    request = {"version": 1, "format": form.name, "options": asdict(form), "corpus": corpus.digest}
    with making(Path(out)), whole_folder(Path(out), request) as files:
        said = form.write(corpus, files)
        counts = {"signals": corpus.signals, "bad": corpus.bad, "codes": corpus.codes}
        files.finish({**counts, **said, "meaning": corpus.meaning.to_dict()})
    seconds = time.perf_counter() - begin
    return Summary(corpus.signals, corpus.bad, corpus.codes, said.get("ids"), files.bytes, seconds)


def add_export(commands: Any) -> None:
    """Add `export` to the commands of an argument parser."""
    command = commands.add_parser("export", help="a finished corpus of tokens for other trainers")
    formats = command.add_subparsers(dest="form", required=True, metavar="FORMAT")
    for name, (module, _, text) in FORMS.items():
        form = formats.add_parser(name, help=text)
        form.add_argument("folder", metavar="OUT", help="where sigtok tokenize finished")
        form.add_argument("out", metavar="DEST", help="a new or empty folder; replaced if it is this same export")
        if module == "sequences":
            text = "a layout of one head (codecs/layouts/names.py; default: flatten)"
            form.add_argument("--layout", default="flatten", metavar="L", help=text)
            text = "of the signals, in val; default: 0, without val"
            form.add_argument("--val-fraction", type=_fraction, default=0.0, metavar="F", help=text)
        if module == "tars":
            form.add_argument("--per-tar", type=_count, default=10_000, metavar="N", help="signals (default: 10000)")


def run_export(args: argparse.Namespace) -> int:
    """Export as the command line says; the exit code."""
    if find_spec("pyarrow") is None:
        raise Failure(USAGE, "shards need pyarrow, which is not installed; run pip install 'sigtok[tokenize]'")
    module, kind, _ = FORMS[args.form]
    form = getattr(import_module(f"{__package__}.{module}"), kind)
    done = export(args.folder, args.out, form(**{field.name: getattr(args, field.name) for field in fields(form)}))
    left_out = f", {done.bad:,} bad left out" if done.bad else ""
    ids = "" if done.ids is None else f"{done.ids:,} ids of "
    print(
        f"{args.out}: {done.signals:,} signals{left_out}, {ids}{done.codes:,} codes, {done.bytes:,} bytes in "
        f"{done.seconds:.1f} s"
    )
    return GOOD


def _fraction(text: str) -> float:
    try:
        fraction = float(text)
    except ValueError:
        fraction = -1.0
    if not 0 <= fraction < 1:
        raise argparse.ArgumentTypeError(f"a fraction is from 0 up to 1, got {text!r}")
    return fraction


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"a count is 1 or more, got {text!r}")
    return int(text)
