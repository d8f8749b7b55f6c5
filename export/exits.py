"""How the command ends: its exit codes (after BSD sysexits.h) and one line per failure."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress

GOOD, DIFFERENT, USAGE, SOME_BAD = 0, 1, 2, 3
DATA, BUG, NO_OUTPUT, IO, STOPPED, UNTRUSTED = 65, 70, 73, 74, 75, 77

MEANINGS = {
    GOOD: "good",
    DIFFERENT: "finished, but the figures are not those of --protocol",
    USAGE: "the command line is wrong",
    SOME_BAD: "finished, but some inputs are bad",
    DATA: "the input is bad, or all inputs are",
    BUG: "a bug of sigtok",
    NO_OUTPUT: "the output cannot be made",
    IO: "input or output failed: disk full, no permission, no memory",
    STOPPED: "stopped by a signal; run it again",
    UNTRUSTED: "refused: the model could run code",
}


class Failure(Exception):
    """What a person can act on.

    Args:
        code: Of the exit.
        message: The place, what holds, what came, what to do.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[Failure], tuple[int, str]]:
        """What another process raises again."""
        return type(self), (self.code, str(self))


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end; its message is the signal's name."""


def explain(error: BaseException, place: str = "") -> tuple[int, str]:
    """The exit code of an error, and its line, which begins with the place."""
    if isinstance(error, Failure):
        return error.code, str(error)
    if isinstance(error, FileNotFoundError):
        return USAGE, located(place or str(error.filename), "there is no such file; check the path")
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return IO, located(place or str(error.filename or "standard output"), f"{reason}; nothing was written")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error)):
        return IO, located(place, "the machine has too little free memory for it; use shorter or smaller input")
    if isinstance(error, ValueError):
        return DATA, located(place, str(error))
    advice = "a bug of sigtok; SIGTOK_TRACEBACK=1 shows where, please report it"
    return BUG, located(place, f"{type(error).__name__}: {error}; {advice}")


def one_line(text: str) -> str:
    """The text without line breaks or anything else that a terminal would act on."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def say(text: str) -> None:
    """One line on stderr; a progress bar stays below it."""
    from tqdm import tqdm

    with suppress(OSError):  # of stderr, where there is nobody to tell
        tqdm.write(f"sigtok: {one_line(text)}", file=sys.stderr)


def say_error(error: BaseException, place: str = "") -> int:
    """One line for an error, or all of it if SIGTOK_TRACEBACK is set; the exit code."""
    code, line = explain(error, place)
    if os.environ.get("SIGTOK_TRACEBACK"):
        traceback.print_exception(error)
    say(line)
    return code


def located(place: str, message: str) -> str:
    """The message with its place in front, once."""
    return message if not place or message.startswith(f"{place}: ") else f"{place}: {message}"
