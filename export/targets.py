"""What `sigtok encode` may be asked to reach, input by input: a quality, or a size."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from sigtok.codecs.codec import Codec
from sigtok.codecs.control import Choice, at_bitrate, at_rate, at_size, searched, smallest
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import ABSENT, Tokens

from .exits import USAGE, Failure
from .released import check_alone

KINDS: dict[str, tuple[Callable[..., Choice], str]] = {  # option: the search, and how it says what it reached
    "psnr": (smallest, "{:.2f} dB"),
    "bpp": (at_rate, "{:.4f} bits per pixel"),
    "kbps": (at_bitrate, "{:.3f} kbit/s"),
    "bytes": (at_size, "{:.0f} bytes"),
}
ONLY = {"psnr": ("image", "pictures"), "bpp": ("image", "pictures"), "kbps": ("audio", "sounds")}


class Target(NamedTuple):
    """One of `KINDS`, and how much of it."""

    search: Callable[..., Choice]
    text: str
    amount: float

    def choose(self, codec: Codec, signal: Tensor, rate: Rate) -> tuple[Tokens, str]:
        """Tokens of a signal ``[1, C, *extent]`` at the point that reaches it, and a line that says which one."""
        choice = self.search(codec, signal, self.amount, rate=rate)
        line = f"{point(codec, choice.tokens)}, {self.text.format(choice.reached)}"
        if not choice.met:
            line = f"{self.text.format(self.amount)} are out of reach; the nearest is {line}"
        return choice.tokens, line


def target_of(args: Namespace, spec: CodecSpec) -> Target | None:
    """What the command line asks for, if it does.

    Raises:
        Failure: If it names the point as well, or the model has no such quality or size.
    """
    asked = {kind: amount for kind in KINDS if (amount := getattr(args, f"target_{kind}")) is not None}
    if not asked:
        return None
    ((kind, amount),) = asked.items()
    check_alone(f"--target-{kind}", kind, args.codebooks, args.queries)
    modality, what = ONLY.get(kind, (spec.modality, ""))
    if spec.modality != modality:
        raise Failure(USAGE, f"--target-{kind} is for {what}, {spec.name} takes {spec.modality}; use --target-bytes")
    return Target(*KINDS[kind], amount)


def point(codec: Codec, tokens: Tokens) -> str:
    """The operating point of one signal's tokens, in words."""
    spec, rate, axis = tokens.spec, tokens.rate, searched(codec)
    if axis == "quality":
        return f"quality {rate.quality:g} of {spec.qualities}"
    if axis == "shares":
        spoken = [int((stream != ABSENT).sum()) / stream.shape[1] for stream in tokens.streams]
        return f"shares {', '.join(f'{share:.3f}' for share in spoken)}"
    used, most = (rate.queries, spec.queries) if axis == "queries" else (rate.codebooks, spec.num_codebooks)
    return f"{used} of {most} {axis}"
