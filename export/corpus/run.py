"""A corpus to tokens: plan it, make what is missing. Killed at any moment, a second call goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sigtok.codecs.corpus import MANIFEST
from sigtok.codecs.shards import Meaning
from sigtok.codecs.spec import Rate
from sigtok.export.exits import DATA, USAGE, Failure, say
from sigtok.export.released import open_model, spec_of
from sigtok.export.released import record_of as record_of_model

from . import store
from .commits import commit, finish, missing, record_of
from .plan import NAME, Plan, Settings, make
from .sources import find
from .unit import Made
from .workers import Workers, devices_of, here

Runner = Callable[[Sequence[int]], Iterator[Made]]
Told = Callable[[dict[str, Any], bool], None]
Conditions = Sequence[tuple[str, str]]


class Share(NamedTuple):
    """Which units are of this process: every ``of``-th, from ``number`` on."""

    number: int = 0
    of: int = 1

    @property
    def part(self) -> str:
        """Its name in locks; empty for all."""
        return f".{self.number}-of-{self.of}" if self.of > 1 else ""

    def units(self, plan: Plan) -> range:
        """Its units, in order."""
        return range(self.number, plan.units, self.of)


def planned(
    folder: Path, sources: Sequence[str], settings: Settings, where: Conditions = (), exclude: Conditions = ()
) -> Plan:
    """The plan of an output, made if there is none.

    Args:
        folder: Of the output; locked by the caller.
        sources: See `find`.
        settings: See `Settings`.
        where: Columns of manifests and values of which a row must have one of each column.
        exclude: Columns and values that leave a row out.

    Raises:
        Failure: If there is another.
    """
    said = {"sources": list(sources), "where": [list(pair) for pair in where], "exclude": [list(p) for p in exclude]}
    if not (folder / NAME).is_file():
        found = find(sources, settings.meaning.spec.modality, where, exclude)
        return make(folder, found, settings, said)
    return checked(folder, settings, said)


def checked(folder: Path, settings: Settings, said: dict[str, Any] | None = None) -> Plan:
    """The plan that is there, if it is of these settings, and of these sources.

    Raises:
        Failure: If it is not.
    """
    plan = Plan(folder)
    different = plan.settings.differences(settings)
    if said is not None and plan.said != said:
        different.append(f"sources {plan.said} there, {said} here")
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
                f"{bad} of {rows} items are bad, {most_bad:.3g} of them may be (--max-bad); what is done is kept; with "
                f"--max-bad 1 the output is completed and sigtok tokenize stats says why they are",
            )

    for unit in units:
        if record := record_of(folder, unit):
            count(record, False)
        else:
            todo.append(unit)
    if todo:
        for made in runner(todo):
            commit(folder, made)
            count(made.record, True)
    judge(rows)
    left = missing(folder, range(plan.units))
    if not left and not (folder / MANIFEST).is_file():
        finish(folder, plan)
    return left


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
    try:
        return Settings(model=model, meaning=Meaning(spec, spec.resolve(rate), record["stream_id"]), **options)
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
        Failure: If the output is being written, was planned otherwise or cannot be written, the model or a source is
            not there, or too many items are bad.
    """
    folder, share, settings = Path(out), share or Share(), settings_of(model, rate, **options)
    with store.locked(folder, share.part):
        if share.of > 1:
            plan = checked(folder, settings)
        else:
            plan = planned(folder, [sources] if isinstance(sources, str) else list(sources), settings, where, exclude)
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
