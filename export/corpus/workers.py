"""Processes that encode units, each with a codec of its own; one that dies takes no unit with it.

`concurrent.futures` raises where `multiprocessing.Pool` waits for ever for a process that was killed. A unit whose
process died twice is encoded item by item, each in a fresh process, and the item that kills it becomes a bad row.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from sigtok.codecs.codec import Codec
from sigtok.codecs.shards import Row
from sigtok.export.released import open_model

from .plan import Plan
from .unit import Made, bad_row, encode_unit, made_of, rows_of

TRIES = 2  # of a unit whose process died, before its items are tried one by one
AHEAD = 1  # units that wait for each process
T = TypeVar("T")
DIED = "the process that encoded it died"

_worker: tuple[Plan, Codec, int] | Exception


def prepare(codec: Codec) -> Codec:
    """The codec as units are encoded: one thread, full precision; other settings could give other tokens."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    return codec.eval()


def _begin(folder: Path, model: str, devices: Any, decoders: int) -> None:
    """Begin a process: it ends when the one that made it does, and leaves signals to it."""
    global _worker
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        _worker = Plan(folder), prepare(open_model(model, devices.get())), decoders
    except Exception as error:  # told by the first unit: a process that fails to begin is taken for one that died
        _worker = error


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _begun() -> tuple[Plan, Codec, int]:
    if isinstance(_worker, Exception):
        raise _worker
    return _worker


def _unit(number: int) -> Made:
    plan, codec, decoders = _begun()
    return encode_unit(number, plan.unit(number), codec, plan.settings, decoders)


def _item(number: int, index: int) -> Row:
    """One item of a unit, alone."""
    plan, codec, decoders = _begun()
    return rows_of([plan.unit(number)[index]], codec, plan.settings, decoders)[0]


class Workers:
    """Processes for the units of a plan.

    Args:
        plan: What to do.
        model: Name or folder.
        devices: Of each process, such as ``["cpu", "cpu"]``.
        decoders: Threads of each that decode files.
        tell: Gets a line when a process died.
    """

    def __init__(self, plan: Plan, model: str, devices: list[str], decoders: int, tell: Callable[[str], None]) -> None:
        self.plan, self.model, self.devices, self.decoders, self.tell = plan, model, devices, decoders, tell
        self.deaths: Counter[int] = Counter()

    def made(self, units: Iterable[int]) -> Iterator[Made]:
        """The shards of units, each as soon as it is made."""
        rest, again = iter(units), deque[int]()
        while True:
            running: dict[Future[Made], int] = {}
            pool = self._pool(len(self.devices))
            try:
                while True:
                    while len(running) < len(self.devices) * (1 + AHEAD):
                        again.extend(islice(rest, 0 if again else 1))
                        if not again:
                            break
                        future = submitted(pool, _unit, again[0])
                        running[future] = again.popleft()
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        made = future.result()
                        del running[future]
                        yield made
            except BrokenProcessPool:
                lost = sorted(number for future, number in running.items() if not _finished(future))
                yield from (future.result() for future in running if _finished(future))
                self.deaths.update(lost)
                self.tell(f"a process died while it encoded units {', '.join(map(str, lost))}; they are tried again")
                again.extend(number for number in lost if self.deaths[number] < TRIES)
                for number in lost:
                    if self.deaths[number] >= TRIES:
                        yield self._alone(number)
            finally:
                _stop(pool)

    def _alone(self, number: int) -> Made:
        """A unit item by item; each that kills its process is a bad row."""
        items, rows, pool = self.plan.unit(number), [], self._pool(1)
        try:
            for index, item in enumerate(items):
                try:
                    rows.append(submitted(pool, _item, number, index).result())
                except BrokenProcessPool:
                    self.tell(f"{item.id}: {DIED}; left out")
                    rows.append(bad_row(item, DIED))
                    _stop(pool)
                    pool = self._pool(1)
        finally:
            _stop(pool)
        return made_of(number, rows, self.plan.settings.meaning)

    def _pool(self, count: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        devices = context.Queue()
        for device in self.devices[:count]:
            devices.put(device)
        arguments = (self.plan.path.parent, self.model, devices, self.decoders)
        return ProcessPoolExecutor(count, context, _begin, arguments)


def submitted(pool: ProcessPoolExecutor, work: Callable[..., T], *arguments: int) -> Future[T]:
    """A call to come. The processes that it may begin never hear Ctrl-C, not even while they load their libraries."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # is inherited
    try:
        return pool.submit(work, *arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _finished(future: Future[Made]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _stop(pool: ProcessPoolExecutor) -> None:
    """End the processes now: what they do is done again or was given back."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()


def here(plan: Plan, codec: Codec, units: Iterable[int], decoders: int) -> Iterator[Made]:
    """The same in this process, with a codec that is there."""
    prepare(codec)
    for number in units:
        yield encode_unit(number, plan.unit(number), codec, plan.settings, decoders)


def devices_of(device: str, workers: int | None) -> list[str]:
    """A device for each process: as many as cores that this process may use, or one for each GPU."""
    if device == "cuda" and torch.cuda.is_available():
        count = torch.cuda.device_count()
        return [f"cuda:{index % count}" for index in range(workers or count)]
    return [device] * (workers or len(os.sched_getaffinity(0)) or 1)
