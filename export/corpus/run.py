"""A corpus to tokens: plan it, make what is missing. Killed at any moment, a second call goes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sigtok.codecs.corpus import MANIFEST
from sigtok.codecs.pretrained import bundled
from sigtok.codecs.shards import Meaning, Shard
from sigtok.codecs.spec import Rate
from sigtok.export.exits import DATA, NO_OUTPUT, USAGE, Failure, say
from sigtok.export.released import open_model, spec_of
from sigtok.export.released import record_of as record_of_model

from . import store
from .commits import commit, finish, holds_output, missing, record_of
from .plan import NAME, Plan, Settings, make
from .sources import find
from .unit import Made
from .uris import absolute
from .workers import Workers, devices_of, here

AGAIN = "and the next run tries again what could not be reached; other bad items after sigtok tokenize repair --bad"
Runner = Callable[[Sequence[int]], Iterator[Made]]
Told = Callable[[dict[str, Any], bool], None]
Conditions = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Share:
    """Which units are of this process: every ``of``-th, from ``number`` on."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        """Raise ValueError for what is no share."""
        if not 0 <= self.number < self.of:
            raise ValueError(f"a share is one of 0 to {self.of - 1}, got {self.number}")

    def units(self, plan: Plan) -> range:
        """Its units, in order."""
        return range(self.number, plan.units, self.of)


def planned(
    folder: Path,
    sources: Sequence[str],
    settings: Settings,
    where: Conditions = (),
    exclude: Conditions = (),
    *,
    share: Share | None = None,
    most_bad: float = 1.0,
) -> Plan:
    """The plan of an output, made if there is none; one that is there is of these sources and settings.

    Args:
        folder: Of the output; locked by the caller.
        sources: See `find`; paths count from the current folder, and are absolute in the plan.
        settings: See `Settings`.
        where: Columns of manifests and values of which a row must have one of each column.
        exclude: Columns and values that leave a row out.
        share: Of several processes, which find a plan and make none.
        most_bad: Part of the items that may be unreadable.

    Raises:
        Failure: If there is another plan, shards without one, or too many items cannot be read.
        ValueError: If there is none to share, or it is damaged.
    """
    whole = [absolute(source) for source in sources]
    said = {"sources": whole, "where": [list(pair) for pair in where], "exclude": [list(pair) for pair in exclude]}
    if not (folder / NAME).is_file():
        if holds_output(folder):
            raise Failure(
                NO_OUTPUT, f"{folder}: holds shards and no plan of them, as merged outputs do; choose another output"
            )
        if share is None or share.of == 1:
            found = find(whole, settings.meaning.spec.modality, where, exclude)
            return make(folder, found, settings, said, most_bad)
    plan = Plan(folder)
    different = plan.settings.differences(settings)
    different += [
        f"{name} {plan.said.get(name)} there, {said[name]} here" for name in said if plan.said.get(name) != said[name]
    ]
    if different:
        raise Failure(USAGE, f"{folder}: was planned otherwise: {'; '.join(different)}; choose another output")
    return plan


def go_on(
    folder: Path,
    plan: Plan,
    share: Share,
    runner: Runner,
    told: Told = lambda record, fresh: None,
    most_bad: float = 1.0,
) -> list[int]:
    """Make what is missing of a share of the units; and the manifest, if that was the last.

    Args:
        folder: Of the output; locked by the caller.
        plan: What to do.
        share: Which units are of this process.
        runner: Units to shards, in any order.
        told: Gets the record of every unit, and whether it was made just now.
        most_bad: Part of the items that may be bad; it ends as soon as more of all those of the share are.

    Units with items that could not be reached are made again, which changes nothing if they cannot be reached now.

    Returns:
        Units of others that are missing; none if the output is complete.

    Raises:
        Failure: If more items are bad, or the output cannot be written.
    """
    rows, bad, todo = 0, 0, list[int]()
    units = share.units(plan)
    planned = plan.items * len(units) // plan.units

    def count(record: dict[str, Any], fresh: bool) -> None:
        nonlocal rows, bad
        rows, bad = rows + record["rows"], bad + record["bad"]
        told(record, fresh)
        judge(max(rows, planned))

    def judge(items: int) -> None:
        if bad > most_bad * items:
            raise Failure(
                DATA,
                f"{bad} of {rows} items are bad, {most_bad:.3g} of them may be (--max-bad), such as "
                f"{an_example(folder, units)}; what is done is kept, {AGAIN}",
            )

    for unit in units:
        record = record_of(folder, unit)
        if record and not record["unreached"]:
            count(record, False)
        else:
            todo.append(unit)
    if todo:
        if (folder / MANIFEST).exists():
            store.remove(folder / MANIFEST)
        for made in runner(todo):
            commit(folder, made)
            count(made.record, True)
    judge(rows)
    left = missing(folder, range(plan.units))
    if not left and not (folder / MANIFEST).is_file():
        finish(folder, plan)
    return left


def an_example(folder: Path, units: Iterable[int]) -> str:
    """A bad item, and why it is bad."""
    for unit in units:
        record = record_of(folder, unit)
        if record and record["bad"]:
            shard = Shard(folder / record["shard"])
            row = shard.good.index(False)
            return f"{shard.ids[row]}: {shard.reasons[row]}"
    return "none"


class Progress:
    """A bar on a terminal: units, speed, time left.

    Args:
        plan: What is done.
        share: Of this process.
    """

    def __init__(self, plan: Plan, share: Share) -> None:
        from tqdm import tqdm

        self.begun, self.seconds, self.units = time.monotonic(), 0.0, 0
        self.bar = tqdm(total=len(share.units(plan)), unit="unit", desc="tokenizing", disable=None, smoothing=0)

    def __call__(self, record: dict[str, Any], fresh: bool) -> None:
        """Count a unit."""
        if not fresh:
            if not self.bar.disable:
                self.bar.initial += 1  # of an earlier run: no time of this one
            self.bar.update()
            return
        self.seconds, self.units = self.seconds + record["seconds"], self.units + 1
        self.bar.set_postfix_str(self.speed(), refresh=False)
        self.bar.update()

    def speed(self) -> str:
        """How fast the units were that were made just now, in words."""
        passed = max(time.monotonic() - self.begun, 1e-9)
        if self.seconds:
            return f"{self.seconds / passed:.1f} x real time"
        return f"{self.units / passed:.2f} units/s"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def settings_of(model: str, rate: Rate | None = None, **options: Any) -> Settings:
    """The settings of a model at a rate; ``options`` are the other fields of `Settings`.

    Raises:
        Failure: If there is no such model, it has no such rate, or an option is out of range.
    """
    spec, record = spec_of(model), record_of_model(model)
    for name, modality in (("size", "image"), ("downmix", "audio")):
        if options.get(name) and spec.modality != modality:
            raise Failure(USAGE, f"--{name} is of {modality}, got a model of {spec.modality}; leave it out")
    place = model if model in bundled() else os.path.abspath(model)
    try:
        return Settings(model=place, meaning=Meaning(spec, spec.resolve(rate), record["stream_id"]), **options)
    except ValueError as error:
        raise Failure(USAGE, f"{error}") from error


def tokenize(
    sources: str | Sequence[str],
    out: str | Path,
    model: str,
    rate: Rate | None = None,
    *,
    where: Conditions = (),
    exclude: Conditions = (),
    runner: str = "local",
    workers: int | None = None,
    device: str = "cpu",
    decoders: int = 2,
    address: str | None = None,
    share: Share | None = None,
    most_bad: float = 1.0,
    progress: bool = False,
    tell: Callable[[str], None] = say,
    **options: Any,
) -> list[int]:
    """Tokens of a corpus in a folder of shards.

    Args:
        sources: Folders, globs, manifests, archives, URLs (`find`).
        out: Folder of the output, made if it is missing; one that was begun is gone on with.
        model: Bundled model or model folder.
        rate: The operating point; None for all that the model has.
        where: Columns of manifests and values of which a row must have one of each column.
        exclude: Columns and values that leave a row out.
        runner: "local" for processes of this machine, "ray" for Ray's.
        workers: Processes; by default one for each core, or for each GPU; 0 for this process.
        device: "cpu", "cuda" or one such as "cuda:1".
        decoders: Threads of each process that decode files.
        address: Of a Ray cluster; None for one on this machine.
        share: Which units are of this process, of a plan that was made before; None for all.
        most_bad: Part of the items that may be bad.
        progress: Whether a bar is shown on standard error.
        tell: Gets lines about processes that died.
        options: Other fields of `Settings`: ``downmix``, ``size``, ``part_seconds``, ``unit_seconds``, ...

    Returns:
        Units of other shares that are still missing; none if the output is complete.

    Raises:
        Failure: If the output is being written, was planned otherwise or cannot be written, the model is not there,
            or too many items are bad.
        OSError: If a source cannot be reached.
        ValueError: If a source or the plan is damaged, or a source has no signals.
    """
    folder, share, settings = Path(out), share or Share(), settings_of(model, rate, **options)
    named = [sources] if isinstance(sources, str) else list(sources)
    with store.locked(folder, share.number, share.of):
        plan = planned(folder, named, settings, where, exclude, share=share, most_bad=most_bad)
        if runner == "ray":
            from .on_ray import on_ray

            run = on_ray(plan, model, device, workers, decoders, address)
        elif workers == 0:
            run = partial(here, plan, open_model(model, device), decoders=decoders)
        else:
            run = Workers(plan, model, devices_of(device, workers), decoders, tell).made
        if not progress:
            return go_on(folder, plan, share, run, most_bad=most_bad)
        with Progress(plan, share) as bar:
            return go_on(folder, plan, share, run, bar, most_bad)
