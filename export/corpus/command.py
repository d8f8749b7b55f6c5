"""`sigtok tokenize`: a corpus to shards, and what becomes of them."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sigtok.codecs.corpus import MANIFEST, Corpus
from sigtok.codecs.spec import Rate
from sigtok.export.exits import DATA, GOOD, SOME_BAD, USAGE, Failure, say
from sigtok.export.released import check_alone, open_model, resolve, resolve_quality, spec_of

from . import store
from .check import again, repair, wrongs, wrongs_alone
from .exports import run_export
from .merge import merge
from .plan import NAME, Plan
from .run import Share, planned, settings_of
from .run import tokenize as tokenize_all
from .stats import as_text, stats

SLURM = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "COUNT", "MIN", "MAX", "STEP"))
TORCHRUN = ("RANK", "WORLD_SIZE")


def tokenize(args: Namespace) -> int:
    """Run one verb of the command."""
    try:
        return {
            "run": _run,
            "plan": _plan,
            "verify": _verify,
            "repair": _repair,
            "stats": _stats,
            "merge": _merge,
            "export": run_export,
        }[args.verb](args)
    except ImportError as error:
        if error.name not in ("pyarrow", "fsspec", "ray"):
            raise
        extra = "ray" if error.name == "ray" else "tokenize"
        raise Failure(USAGE, f"{error.name} is not installed; pip install 'sigtok[{extra}]'") from error


def share_of(environment: Mapping[str, str]) -> Share:
    """The share of this process, as an array of Slurm's or torchrun says; all where neither does.

    Raises:
        Failure: If the array has gaps, as one of tasks that failed before; or a variable is missing or no number.
    """
    for count, names in (("SLURM_ARRAY_TASK_COUNT", SLURM), ("WORLD_SIZE", TORCHRUN)):
        if environment.get(count, "1") != "1":
            said = {name: environment.get(name, "nothing") for name in names}
            try:
                return _share(*map(int, said.values()))
            except ValueError:
                shown = ", ".join(f"{name}={value}" for name, value in said.items())
                raise Failure(
                    USAGE,
                    f"tasks 0 to N - 1, or an array from MIN to MAX in equal steps, share the units, got {shown}; say "
                    f"which share this is: --share I/N",
                ) from None
    return Share()


def _share(number: int, of: int, first: int = 0, last: int | None = None, step: int = 1) -> Share:
    """The share of a task of an array.

    Raises:
        ValueError: If the array has gaps.
    """
    if last is not None and (step < 1 or of != (last - first) // step + 1 or (number - first) % step):
        raise ValueError
    return Share((number - first) // step, of)


def _rate(args: Namespace) -> Rate:
    spec = spec_of(args.model)
    check_alone("--quality", args.quality, args.codebooks, args.queries)
    rate = resolve(spec, args.codebooks, args.queries, args.window)
    return rate if args.quality is None else resolve_quality(open_model(args.model), rate, args.quality)


def _options(args: Namespace) -> dict[str, Any]:
    names = ("downmix", "size", "part_seconds", "unit_seconds", "unit_items", "batch_seconds")
    return {name: getattr(args, name) for name in names}


def _run(args: Namespace) -> int:
    share = Share(*args.share) if args.share else share_of(os.environ)
    if args.workers is not None and args.workers < 0:
        raise Failure(USAGE, f"--workers is 0 or more, got {args.workers}")
    left = tokenize_all(
        args.sources,
        args.out,
        args.model,
        _rate(args),
        where=args.where,
        exclude=args.exclude,
        runner="ray" if args.ray or args.ray_address else "local",
        workers=args.workers,
        device=args.device,
        decoders=args.decoders,
        address=args.ray_address,
        share=share,
        most_bad=args.max_bad,
        progress=True,
        **_options(args),
    )
    if left:
        say(f"{args.out}: {len(left)} units of other shares are missing; the last of them to end writes the manifest")
        return GOOD
    return _told(Path(args.out))


def _told(folder: Path) -> int:
    """One line about a complete output."""
    whole = json.loads((folder / MANIFEST).read_bytes())
    hours = f"{whole['seconds'] / 3600:.3f} hours, " if whole["seconds"] else ""
    print(
        f"{folder}: {whole['rows'] - whole['bad']} signals, {hours}{whole['codes']} codes in {len(whole['units'])} "
        f"shards, {whole['bytes']} bytes, {whole['bad']} bad items"
    )
    return DATA if whole["bad"] == whole["rows"] else SOME_BAD if whole["bad"] else GOOD


def _plan(args: Namespace) -> int:
    settings = settings_of(args.model, _rate(args), **_options(args))
    with store.locked(Path(args.out)):
        plan = planned(Path(args.out), args.sources, settings, args.where, args.exclude, most_bad=args.max_bad)
    hours = f", {plan.seconds / 3600:.3f} hours" if plan.seconds else ""
    bad = f", {plan.bad} that cannot be read" if plan.bad else ""
    print(f"{args.out}: {plan.items} items in {plan.units} units{hours}{bad}")
    return GOOD


def _verify(args: Namespace) -> int:
    folder = Path(args.out)
    if is_merged(folder):
        return _verify_merged(folder, args.again)
    plan, count = Plan(folder), 0
    for _, words in wrongs(folder, plan):
        print(words)
        count += 1
    if count:
        say(f"{folder}: {count} things are wrong; sigtok tokenize repair removes them, and another run makes them anew")
        return DATA
    if args.again:
        found = again(folder, plan, open_model(plan.settings.model), args.again)
        print(f"{folder}: {found.items} items encoded again, {found.different} of {found.codes} codes are others")
        if found.different and not plan.settings.batch_seconds:
            return DATA
    print(f"{folder}: {plan.items} items in {plan.units} shards, all as they were written")
    return GOOD


def is_merged(folder: Path) -> bool:
    """Whether an output is complete without a plan."""
    return (folder / MANIFEST).is_file() and not (folder / NAME).is_file()


def _verify_merged(folder: Path, count: int | None) -> int:
    if count:
        raise Failure(
            USAGE, f"{folder}: was merged, and has no plan to encode {count} items again by; leave --again out"
        )
    wrong = 0
    for words in wrongs_alone(folder):
        print(words)
        wrong += 1
    if wrong:
        say(f"{folder}: {wrong} things are wrong; merge again into another folder")
        return DATA
    corpus = Corpus(folder)
    print(f"{folder}: {corpus.rows} items in {len(corpus)} shards, all as they were written")
    return GOOD


def _repair(args: Namespace) -> int:
    folder = Path(args.out)
    if not folder.is_dir():
        raise Failure(USAGE, f"{folder}: an output is a folder, got none; check the path")
    if is_merged(folder):
        raise Failure(USAGE, f"{folder}: has no plan, as it was merged, to make shards anew; merge again")
    with store.locked(folder):
        for words in repair(folder, Plan(folder), args.bad):
            print(f"removed: {words}")
    return GOOD


def _stats(args: Namespace) -> int:
    found = stats(Path(args.out))
    print(json.dumps(found) if args.json else "\n".join(as_text(found)))
    return GOOD


def _merge(args: Namespace) -> int:
    merge([Path(out) for out in args.outs], Path(args.dest), args.codes)
    return _told(Path(args.dest))
