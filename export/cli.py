"""The `sigtok` command; heavy imports wait until one of its commands runs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

from sigtok.export.corpus.arguments import add_tokenize, with_verb

from .arguments import (
    add_downmix,
    add_inputs,
    add_model,
    add_output,
    add_page,
    add_pages,
    add_prior,
    add_protocol,
    add_quality,
    add_rate,
    add_rows,
    add_set,
    add_target,
    add_windows,
    amount,
    amounts,
    count,
    counts,
    level,
    second,
    seed,
)
from .exits import IO, MEANINGS, STOPPED, USAGE, Stopped, one_line, say, say_error

COMMANDS = {
    "encode": "transcode",
    "decode": "transcode",
    "tokens": "transcode",
    "verify": "verify",
    "info": "information",
    "evaluate": "report",
    "compare": "compare",
    "score": "score",
    "probe": "probe",
    "tokenize": "corpus.command",
    "generate": "generate",
    "export": "ship",
}  # command: the module of ours that has a function of that name
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code.

    Raises:
        SystemExit: After ``--help`` and ``--version``, and with code 2 if the command line is wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    args = parser().parse_args(with_verb(words))
    args.line = ["sigtok", *words]
    try:
        with _stopped_by_signals(), _without_warnings():
            code = _command(args.command)(args)
            if sys.stdout:  # it may be closed
                sys.stdout.flush()
            return code
    except BrokenPipeError as error:  # the reader of standard output has gone: it knows
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return say_error(error) if os.environ.get("SIGTOK_TRACEBACK") else IO
    except Stopped as error:
        say(f"stopped by {error}; every file that was written is whole; run it again")
        return STOPPED
    except Exception as error:
        return say_error(error)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    codes = ", ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items())
    top = _Parser(
        prog="sigtok",
        description="Signals to tokens: learned audio and image codecs.",
        epilog=f"Exit codes: {codes}. SIGTOK_TRACEBACK=1 adds the traceback to an error.",
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    encode = commands.add_parser("encode", help="sounds, pictures or features (.npy) to .sgt files")
    encode.add_argument("inputs", nargs="+", metavar="IN", help="files, folders, or - for standard input")
    add_model(encode, required=True)
    add_output(encode, "OUT.sgt")
    text = (
        "fixed: as fast as can be, or the model's own tables (default); adaptive: smaller than fixed width, and slower"
    )
    encode.add_argument("--coding", choices=("fixed", "adaptive"), default="fixed", help=text)
    add_prior(encode, "a language model of the model's tokens; smaller files, at its rate, read only with it")
    text = "do not read every file back before it is written: faster where entropy coding counts"
    encode.add_argument("--no-verify", dest="verify", action="store_false", help=text)
    add_rate(encode, count)
    point = encode.add_mutually_exclusive_group()
    add_quality(point, amount)
    add_target(point)
    add_downmix(encode)

    decode = commands.add_parser("decode", help=".sgt files to sounds, pictures or features")
    decode.add_argument("inputs", nargs="+", metavar="IN.sgt", help="files, folders, or - for standard input")
    add_model(decode, required=False)
    add_output(decode, "OUT.wav|.png|.npy")
    for option, name, text in (("--from", "start", "the start"), ("--to", "stop", "the end")):
        decode.add_argument(option, dest=name, type=second, metavar="S", help=f"seconds of a sound; default: {text}")
    add_prior(decode, "the prior of files that were written with one")
    decode.add_argument("--salvage", action="store_true", help="of a damaged file, what is left of it")

    text = "whether .sgt files are whole: one line each, exit code 65 if not, 2 if a packet's model is not known"
    verify = commands.add_parser("verify", help=text)
    verify.add_argument("inputs", nargs="+", metavar="FILE.sgt", help="files, folders, or - for standard input")
    add_model(verify, required=False)
    add_prior(verify, "the prior of files that were written with one")

    tokens = commands.add_parser(
        "tokens", help="the codes of a sound, picture, features or .sgt file, on standard output"
    )
    tokens.add_argument("input", metavar="IN", help="a file, or - for standard input")
    add_model(tokens, required=True)
    add_rate(tokens, count)
    add_quality(tokens, amount)
    add_downmix(tokens)
    add_prior(tokens, "the prior of a file that was written with one")
    tokens.add_argument("--npy", action="store_true", help="a .npy file, int64 [codebooks, positions]; else JSON")

    info = commands.add_parser("info", help="what a model or .sgt file says about itself")
    info.add_argument("subject", nargs="?", metavar="MODEL_OR_FILE", help="default: every bundled model")
    add_model(info, required=False)
    info.add_argument("--json", action="store_true", help="as JSON")

    evaluate = commands.add_parser("evaluate", help="rate, quality and speed of a model over files")
    add_set(evaluate).required = False  # with --protocol; nargs="*" would take no inputs behind an option
    text = "measure again what this result was measured on; exit code 1 if the figures are others"
    evaluate.add_argument("--protocol", metavar="RESULT.json", help=text)
    add_pages(evaluate)
    evaluate.add_argument("--picture", metavar="OUT.svg", help="draw quality over rate, one curve per window")
    add_rate(evaluate, counts)
    add_quality(evaluate, amounts)
    evaluate.add_argument(
        "--sweep", action="store_true", help="every rung, beside JPEG, WebP, AVIF and JPEG XL or Opus, with BD-rates"
    )
    evaluate.add_argument(
        "--beside", action="append", metavar="MODEL", help="another model of the same signals in a sweep; repeatable"
    )
    add_windows(evaluate)
    add_prior(evaluate, "measure files that are written with it")
    add_downmix(evaluate)
    add_protocol(evaluate)

    compare = commands.add_parser("compare", help="several models over the same files, beside JPEG, WebP or Opus")
    add_inputs(compare)
    compare.add_argument(
        "-m",
        "--model",
        action="append",
        required=True,
        metavar="MODEL[:queries=K]",
        help="a bundled model or a model folder, at all rates below or at one of its own, set by codebooks=, queries=, "
        "window=, shares= or quality=; repeatable",
    )
    compare.add_argument(
        "--with",
        dest="formats",
        metavar="jpeg,webp,avif,jxl,opus",
        help="these formats too, at the sizes of the models' files",
    )
    compare.add_argument("--picture", metavar="OUT.svg", help="draw quality over rate, one curve per model and format")
    add_page(compare)
    add_rate(compare, counts)
    add_quality(compare, amounts)
    add_downmix(compare)
    add_protocol(compare)

    text = "decoded files of any codec beside their references: quality, and rate with --bytes"
    score = commands.add_parser("score", help=text)
    score.add_argument("decoded", metavar="DECODED", help="a file, or a folder of files named as their references are")
    score.add_argument("reference", metavar="REFERENCE", help="a file, a folder, or a CSV manifest")
    score.add_argument("--bytes", metavar="FOLDER", help="the coded files, of the same names, for real rates")
    add_rows(score)
    add_pages(score)
    add_downmix(score)
    add_protocol(score)

    probe = commands.add_parser("probe", help="what a linear classifier reads from the tokens")
    add_set(probe)
    probe.add_argument(
        "--label", required=True, metavar="COLUMN|unit", help="a column of the manifest, or MFCC units per window"
    )
    probe.add_argument(
        "--read", choices=("latents", "codes"), default="latents", help="what of the codes (default: decoded latents)"
    )
    probe.add_argument("--seconds", type=amount, default=2.0, metavar="S", help="of a segment (default: 2)")
    probe.add_argument("--units", type=count, default=50, metavar="U", help="MFCC units (default: 50)")
    add_rate(probe, counts, default="1 and all")
    add_windows(probe)
    add_downmix(probe)

    add_tokenize(commands, _Parser)

    generate = commands.add_parser("generate", help="new sounds or pictures from a language model of tokens")
    generate.add_argument("language", metavar="LM", help="a folder that sigtok-train release-lm made")
    add_output(generate, "OUT.wav|.png")
    generate.add_argument(
        "--codec", dest="model", metavar="MODEL", help="decodes the tokens; default: the bundled model they are of"
    )
    text = "of each sound, its prompt included; default: until the model ends it, at most 30"
    generate.add_argument("--seconds", type=amount, metavar="S", help=text)
    text = "below 1 what is likely is drawn more often, 0 always draws the likeliest (default: 1)"
    generate.add_argument("--temperature", type=level, default=1.0, metavar="T", help=text)
    text = "draw one of the K likeliest tokens only; default: of all"
    generate.add_argument("--top-k", type=count, metavar="K", help=text)
    text = "other numbers give other signals, the same number the same (default: 0)"
    generate.add_argument("--seed", type=seed, default=0, metavar="N", help=text)
    generate.add_argument("--prompt", metavar="FILE", help="a sound to go on from")
    text = "how much of it, whole windows (default: all)"
    generate.add_argument("--prompt-seconds", type=amount, metavar="S", help=text)
    generate.add_argument(
        "-n", "--count", type=count, metavar="COUNT", help="several signals, into a folder; default: one"
    )
    add_downmix(generate)

    export = commands.add_parser("export", help="a model in another format")
    formats = export.add_subparsers(dest="format", required=True, metavar="FORMAT", parser_class=_Parser)
    onnx = formats.add_parser("onnx", help="ONNX graphs that give the same codes, checked")
    onnx.add_argument("model", metavar="MODEL", help="a bundled model or a model folder")
    onnx.add_argument("folder", metavar="DIR", help="made if missing")
    onnx.add_argument("--trials", type=count, default=50, metavar="N", help="signals to compare (default: 50)")
    add_rate(onnx, count)

    for command in (encode, decode, tokens, evaluate, compare, probe, generate):
        command.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")
    return top


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    return getattr(import_module(f"{__package__}.{COMMANDS[name]}"), name)


class _Parser(argparse.ArgumentParser):
    """Errors of the command line in one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"sigtok: {one_line(message)}; see {self.prog} --help\n")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"sigtok {version('sigtok')}")
        parser.exit()


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Signals end the command as an error does, so that nothing half written stays."""

    def stop(number: int, _: Any) -> NoReturn:
        raise Stopped(signal.Signals(number).name)

    here = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in SIGNALS if here and hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # nohup
    for number in heard:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Those of the libraries below are none of the user's business; ours are told as lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    sys.exit(main())
