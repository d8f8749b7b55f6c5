"""Options that several commands of `sigtok` share, and what their values may be. No torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

LARGEST_SIDE = 8192  # of a picture that is scaled to be measured


def add_model(command: argparse.ArgumentParser, required: bool) -> None:
    """``-m``."""
    default = "" if required else " (default: the bundled model that wrote the file)"
    command.add_argument(
        "-m",
        "--model",
        required=required,
        metavar="MODEL",
        help=f"a bundled model or a model folder{default}",
    )


def add_output(command: argparse.ArgumentParser, name: str) -> None:
    """``-o``."""
    text = "a file, replaced if there is one; a folder for several inputs; - for standard output"
    command.add_argument("-o", "--output", required=True, metavar=name, help=text)


def add_set(command: argparse.ArgumentParser) -> argparse.Action:
    """A model, and what it is measured on."""
    command.add_argument("model", metavar="MODEL", help="a bundled model or a model folder")
    return add_inputs(command)


def add_inputs(command: argparse.ArgumentParser) -> argparse.Action:
    """Files, and which rows of manifests."""
    inputs = command.add_argument(
        "inputs", nargs="+", default=[], metavar="INPUT", help="files, folders, or CSV manifests"
    )
    add_rows(command)
    return inputs


def add_rows(command: argparse.ArgumentParser) -> None:
    """Which rows, and where figures go."""
    command.add_argument("--json", metavar="OUT", help="write every row and where it comes from; - for stdout")
    for option, rows in {"--where": "rows of a manifest", "--exclude": "without these rows"}.items():
        command.add_argument(
            option, action="append", default=[], type=pair, metavar="COLUMN=VALUE", help=f"{rows}; repeatable"
        )


def add_page(command: argparse.ArgumentParser) -> None:
    """``--html``."""
    text = "one page that needs no network: curves, tables, files as players or pictures"
    command.add_argument("--html", metavar="OUT.html", help=text)


def add_pages(command: argparse.ArgumentParser) -> None:
    """``--html`` and ``--jsonl``."""
    add_page(command)
    command.add_argument(
        "--jsonl", metavar="OUT.jsonl", help="write a line per file and rate as soon as it is measured"
    )


def add_protocol(command: argparse.ArgumentParser) -> None:
    """How quality is measured."""
    command.add_argument(
        "--size",
        type=side,
        metavar="N",
        help="scale a picture's shorter side to N and cut the middle; default: whole",
    )
    command.add_argument(
        "--perceptual", metavar="FILE", help="measure LPIPS by these weights, made by sigtok-train backbone"
    )
    text = "these metrics, a list of names (README, Metrics), of default and of all; default: the fast ones"
    command.add_argument("--metrics", metavar="NAMES", help=text)
    command.add_argument("--whisper", metavar="FILE", help="a checkpoint of Whisper for word_error_rate (.pt)")


def add_windows(command: argparse.ArgumentParser) -> None:
    """``--windows``."""
    command.add_argument(
        "--windows", type=counts, metavar="W", help="positions per window; default: the model's (several: 3,6,10)"
    )


def add_rate(command: argparse.ArgumentParser, kind: Callable[[str], Any], default: str = "all") -> None:
    """``--codebooks``, ``--queries``, and ``--window`` where one is taken."""
    several = " (several: 1,3,8)" if kind is counts else ""
    command.add_argument("--codebooks", type=kind, metavar="Q", help=f"how many are used; default: {default}{several}")
    command.add_argument("--queries", type=kind, metavar="K", help=f"tokens per window; default: all{several}")
    if kind is count:
        command.add_argument("--window", type=kind, metavar="W", help="positions per window; default: the model's")


def add_quality(command: argparse._ActionsContainer, kind: Callable[[str], Any]) -> None:
    """A rung of a rate-distortion codec, or several."""
    text = "of the model's ladder, 1 for the smallest files; instead of --codebooks and --queries"
    if kind is amounts:
        command.add_argument("--qualities", type=kind, metavar="1,2,3", help=f"rungs {text}")
    else:
        command.add_argument("--quality", type=kind, metavar="Q", help=f"a rung {text}")


def add_prior(command: argparse.ArgumentParser, text: str) -> None:
    """``--prior``."""
    command.add_argument("--prior", metavar="LM", help=f"a folder of sigtok-train release-lm: {text}")


def add_target(command: argparse._ActionsContainer) -> None:
    """What the size of each file is chosen by."""
    for option, letter, text in (
        ("--target-psnr", "DB", "the least of each picture with that PSNR; instead of --queries and --codebooks"),
        ("--target-bpp", "X", "the most of each picture in X bits per pixel; with granularities within 3 percent"),
        ("--target-kbps", "X", "the most of each sound in X kilobits per second of its file"),
        ("--target-bytes", "N", "the most of each input in N bytes; with granularities within 3 percent"),
    ):
        command.add_argument(option, type=amount, metavar=letter, help=text)


def add_downmix(command: argparse.ArgumentParser) -> None:
    """``--downmix``."""
    command.add_argument("--downmix", action="store_true", help="average stereo where one channel is taken")


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"a count is 1 or more, got {text!r}")
    return int(text)


def side(text: str) -> int:
    """A side in pixels."""
    pixels = count(text)
    if pixels > LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"a side is 1 to {LARGEST_SIDE} pixels, got {pixels}")
    return pixels


def counts(text: str) -> list[int]:
    """Several counts."""
    return [count(part) for part in text.split(",")]


def amount(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number is more than 0 here, got {text!r}")
    return number


def amounts(text: str) -> list[float]:
    """Several amounts."""
    return [amount(part) for part in text.split(",")]


def second(text: str) -> float:
    """A number of seconds of at least 0."""
    return _not_negative(text, "seconds are")


def level(text: str) -> float:
    """A temperature of at least 0."""
    return _not_negative(text, "a temperature is")


def part(text: str) -> float:
    """A part of a whole, from 0 to 1."""
    number = _not_negative(text, "a part is")
    if number > 1:
        raise argparse.ArgumentTypeError(f"a part is 0 to 1, got {text!r}")
    return number


def _not_negative(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{what} 0 or more, got {text!r}")
    return number


def seed(text: str) -> int:
    """A whole number of 32 bits."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"a seed is 0 to {2**32 - 1}, got {text!r}")
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """A column of a manifest and its value."""
    column, equals, value = text.partition("=")
    if not column or not equals:
        raise argparse.ArgumentTypeError(f"a condition is COLUMN=VALUE, got {text!r}")
    return column, value
