"""Units on Ray Data: actors that hold a codec each, on this machine or a cluster; the shards are those of `workers`.

A row is a unit with its items, so that nodes share no folder but what they read. Shards come back to the process that
asked, the one writer; so many units are on their way as the actors can take, and the next wait (backpressure).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from sigtok.export.released import open_model

from .items import Item, Place
from .plan import Plan, Settings
from .unit import Made, encode_unit
from .workers import devices_of, prepare

IN_FLIGHT = 2  # units of an actor: one that it encodes, one that waits
RESTARTS = 3  # of an actor that died
AT_ONCE = 4096  # units whose items are handed to Ray, so that a plan of any length fits into memory


class Encode:
    """An actor: rows of units to rows of shards.

    Args:
        model: Name, or a folder that every node can read.
        settings: Of the plan, as plain values.
        device: "cpu" or "cuda".
        decoders: Threads that decode files.
    """

    def __init__(self, model: str, settings: dict[str, Any], device: str, decoders: int) -> None:
        self.settings, self.decoders = Settings.from_dict(settings), decoders
        self.codec = prepare(open_model(model, device))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The shards of a batch of units."""
        made = [self._made(int(unit), items) for unit, items in zip(batch["unit"], batch["items"], strict=True)]
        return {"data": [one.data for one in made], "record": [json.dumps(one.record) for one in made]}

    def _made(self, unit: int, items: str) -> Made:
        read = [Item(name, Place(*place), *rest) for name, place, *rest in json.loads(items)]
        return encode_unit(unit, read, self.codec, self.settings, self.decoders)


def on_ray(plan: Plan, model: str, device: str, workers: int | None, decoders: int, address: str | None) -> Any:
    """A runner of Ray's.

    Args:
        plan: What to do.
        model: Name, or a folder that every node can read.
        device: "cpu" or "cuda", of which each actor takes one.
        workers: Actors at most; by default as many as the cluster has cores or GPUs.
        decoders: Threads of each that decode files.
        address: Of a cluster; None for one on this machine, unless ``RAY_ADDRESS`` names another.
    """

    def run(units: Sequence[int]) -> Iterator[Made]:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        begun = not ray.is_initialized()
        if begun:
            local: dict[str, Any] = {} if address else {"num_cpus": workers or len(devices_of("cpu", None))}
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **local)
        context = DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        need: dict[str, Any] = {"num_gpus": 1} if device.startswith("cuda") else {"num_cpus": 1}
        most = workers or int(ray.cluster_resources().get("GPU" if "num_gpus" in need else "CPU", 1))
        try:
            for first in range(0, len(units), AT_ONCE):
                rows = [_row(plan, unit) for unit in units[first : first + AT_ONCE]]
                made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                    Encode,
                    batch_size=1,
                    fn_constructor_args=(model, plan.settings.to_dict(), device, decoders),
                    compute=ActorPoolStrategy(
                        min_size=1, max_size=max(1, most), max_tasks_in_flight_per_actor=IN_FLIGHT
                    ),
                    max_restarts=RESTARTS,
                    max_task_retries=RESTARTS,
                    **need,
                )
                for row in made.iter_rows():
                    yield Made(bytes(row["data"]), json.loads(row["record"]))
        finally:
            if begun:
                ray.shutdown()

    return run


def _row(plan: Plan, unit: int) -> dict[str, Any]:
    return {"unit": unit, "items": json.dumps(plan.unit(unit))}
