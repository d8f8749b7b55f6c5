"""`sigtok tokenize` and its verbs on the command line. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from sigtok.export.arguments import add_downmix, add_quality, add_rate, amount, count, pair, part, second, side

from .exports import add_export

VERBS = ("run", "plan", "verify", "repair", "stats", "merge", "export")


def with_verb(words: Sequence[str]) -> list[str]:
    """The words of a command line; ``sigtok tokenize SRC OUT`` is ``sigtok tokenize run SRC OUT``."""
    words = list(words)
    if words[:1] == ["tokenize"] and words[1:2] and words[1] not in (*VERBS, "-h", "--help"):
        words.insert(1, "run")
    return words


def add_tokenize(commands: Any, parser: type[argparse.ArgumentParser]) -> None:
    """Add the command to those that there are."""
    text = (
        "a corpus to shards of tokens: sigtok tokenize SRC OUT -m MODEL, or a verb; killed, it goes on when run again"
    )
    tokenize = commands.add_parser("tokenize", help=text)
    verbs = tokenize.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=parser)

    run = verbs.add_parser("run", help="plan if there is no plan, make what is missing (the verb by default)")
    _add_sources(run)
    run.add_argument("--workers", type=int, metavar="N", help="processes; default: a core each, or a GPU; 0: this one")
    run.add_argument("--decoders", type=count, default=2, metavar="N", help="threads of each that decode (default: 2)")
    run.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, cuda:1 (default: cpu)")
    text = "every N-th unit from the I-th on, of a plan that is there; default: of torchrun's or Slurm's environment"
    run.add_argument("--share", type=_share, metavar="I/N", help=text)
    run.add_argument("--ray", action="store_true", help="run on Ray: its cluster, or this machine as one")
    run.add_argument("--ray-address", metavar="ADDRESS", help="of the cluster, such as auto or ray://HOST:10001")

    text = "only decide which signal becomes a row of which shard; files that come later are in no plan that is there"
    plan = verbs.add_parser("plan", help=text)
    _add_sources(plan)

    text = "whether an output is whole: every byte, every code, every item of the plan; exit code 65 if not"
    verify = verbs.add_parser("verify", help=text)
    verify.add_argument("out", metavar="OUT", help="what sigtok tokenize wrote")
    text = "encode so many items again, spread over the output, and compare their codes"
    verify.add_argument("--again", type=count, metavar="N", help=text)

    repair = verbs.add_parser("repair", help="remove what verify finds wrong, so that the next run makes it anew")
    repair.add_argument("out", metavar="OUT", help="what sigtok tokenize wrote")
    repair.add_argument("--bad", action="store_true", help="remove units with bad items too, to try these again")

    stats = verbs.add_parser("stats", help="hours, codes, use of each codebook, duplicates, and why items are bad")
    stats.add_argument("out", metavar="OUT", help="what sigtok tokenize wrote")
    stats.add_argument("--json", action="store_true", help="as JSON")

    merge = verbs.add_parser("merge", help="several outputs of one model and rate, or small shards of one, to one")
    merge.add_argument("outs", nargs="+", metavar="OUT", help="what sigtok tokenize wrote")
    merge.add_argument("dest", metavar="DEST", help="folder of the new output")
    text = "of a shard, about (default: 100 million)"
    merge.add_argument("--codes", type=count, default=100_000_000, metavar="N", help=text)

    add_export(verbs)


def _add_sources(command: argparse.ArgumentParser) -> None:
    text = "folders, globs, manifests (CSV, JSONL, wav.scp), WebDataset tars, Parquet with bytes; any URL of fsspec"
    command.add_argument("sources", nargs="+", metavar="SRC", help=text)
    command.add_argument("out", metavar="OUT", help="folder of the shards")
    command.add_argument("-m", "--model", required=True, metavar="MODEL", help="a bundled model or a model folder")
    add_rate(command, count)
    add_quality(command, amount)
    add_downmix(command)
    text = "part of the items that may be bad before the command ends with code 65 (default: 0.05)"
    command.add_argument("--max-bad", type=part, default=0.05, metavar="X", help=text)
    text = "scale a picture's shorter side to N and cut the middle; default: whole"
    command.add_argument("--size", type=side, metavar="N", help=text)
    for option, rows in {"--where": "rows of a manifest", "--exclude": "without these rows"}.items():
        command.add_argument(
            option, action="append", default=[], type=pair, metavar="COLUMN=VALUE", help=f"{rows}; repeatable"
        )
    for option, default, unit, text in (
        ("--part-seconds", 300.0, "S", "parts of a long sound, about"),
        ("--unit-seconds", 1800.0, "S", "sound of a shard, about"),
        ("--unit-items", 2000, "N", "items of a shard, at most"),
    ):
        kind = count if isinstance(default, int) else amount
        command.add_argument(option, type=kind, default=default, metavar=unit, help=f"{text} (default: {default:g})")
    text = "sound that is encoded at once, padded, of causal models: for GPUs; 0 for one by one (default)"
    command.add_argument("--batch-seconds", type=second, default=0.0, metavar="S", help=text)


def _share(text: str) -> tuple[int, int]:
    index, slash, number = text.partition("/")
    if not (slash and index.isascii() and index.isdigit() and number.isascii() and number.isdigit()):
        raise argparse.ArgumentTypeError(f"a share is I/N, such as 0/16, got {text!r}")
    if not int(index) < int(number):
        raise argparse.ArgumentTypeError(f"a share is I/N with I from 0 to N - 1, got {text!r}")
    return int(index), int(number)
