"""How figures came about, so that anybody gets them again: files by their hashes, settings, versions; and the second
run, which says whether its figures are equal."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from sigtok.codecs.entropy.coder import Prior
from sigtok.codecs.spec import CodecSpec, Rate

from .evaluate import RESAMPLINGS, SEED, Evaluation, Row
from .exits import DATA, USAGE, Failure
from .inputs import Inputs, Item, hash_of
from .metrics import KNOWN, Tools, origins, tools_of
from .released import record_of

ASIDE = frozenset(  # what another run may have otherwise
    {
        *("file", "encode_seconds", "decode_seconds", "encode_x_real_time", "decode_x_real_time"),
        *("encode_megapixels_per_second", "decode_megapixels_per_second", "process_peak_bytes", "device_peak_bytes"),
    }
)
SETTLED = (  # by the protocol
    *("inputs", "codebooks", "queries", "windows", "qualities", "where", "exclude", "size", "downmix", "sweep"),
    "metrics",
)


class Files:
    """The files that are measured, by name, SHA-256 and length in bytes, as they come."""

    def __init__(self) -> None:
        self.records: list[Row] = []

    def hashed(self, work: Callable[[Item, str], None]) -> Callable[[Item, str], None]:
        """The same work, which takes down its file first."""

        def taken_down(item: Item, path: str) -> None:
            self.records.append({"file": item.path, **hash_of(path)})
            work(item, path)

        return taken_down


def protocol_of(
    args: Namespace, evaluations: Sequence[Evaluation], files: Files, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The protocol of an evaluation.

    Args:
        args: Of the command.
        evaluations: One per rate.
        files: That were read.
        about: Of `report.report`: stream id and versions.
    """
    first = evaluations[0]
    spec, kind = first.codec.spec, "pixels" if first.codec.spec.sample_rate is None else "seconds"
    extents = {row["file"]: {kind: row[kind]} for row in first.rows}
    return {
        "model": {
            "name": spec.name,
            "stream_id": about["stream_id"],
            "weights_sha256": record_of(args.model)["weights_sha256"],
        },
        "files": [{**record, **extents.get(record["file"], {})} for record in files.records],
        "rates": [evaluation.point for evaluation in evaluations],
        "device": args.device,
        **conditions(
            args, list(first.metrics), spec.sample_rate if spec.modality == "audio" else None, about["versions"]
        ),
    }


def conditions(
    args: Namespace, metrics: Sequence[str], sample_rate: int | None, versions: Mapping[str, str]
) -> dict[str, Any]:
    """What holds for every file, of any command; sounds are resampled to a rate in Hz, None for no sounds."""
    return {
        "where": [list(pair) for pair in args.where],
        "exclude": [list(pair) for pair in args.exclude],
        "size": args.size,
        "crop": "middle square" if args.size else "none",
        "downmix": args.downmix,
        "resampling": f"soxr HQ to {sample_rate} Hz" if sample_rate else "none",
        "metrics": origins(metrics, tools_of(args.perceptual, args.whisper)),
        "perceptual": hash_of(args.perceptual)["sha256"] if args.perceptual else None,
        "bootstrap": {"seed": SEED, "resamplings": RESAMPLINGS},
        "threads": torch.get_num_threads(),
        "versions": dict(versions),
    }


# -- the second run --------------------------------------------------------------------------------------------


class Earlier:
    """A result whose protocol is run again.

    Args:
        path: JSON of `sigtok evaluate`.

    Raises:
        Failure: If it is no such file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, encoding="utf-8") as file:
                self.record: dict[str, Any] = json.load(file)
            self.protocol: dict[str, Any] = self.record["protocol"]
            self.size, self.downmix = self.protocol["size"], self.protocol["downmix"]
            self.where = [(str(name), str(value)) for name, value in self.protocol["where"]]
            self.exclude = [(str(name), str(value)) for name, value in self.protocol["exclude"]]
            self.metrics, self.threads = list(self.protocol["metrics"]), int(self.protocol["threads"])
            computed = {name: by for name, by in dict(self.protocol["metrics"]).items() if "not_computed" not in by}
            self._weights, self._versions = {name: hashes(by) for name, by in computed.items()}, versions(self.protocol)
            self._files = [(str(file["file"]), str(file["sha256"])) for file in self.protocol["files"]]
            self._rates = [_rate(point) for point in self.protocol["rates"]]
            self._model, self._judge = dict(self.protocol["model"]), self.protocol["perceptual"]
            self._before: list[Row] = [dict(rate) for rate in self.record["rates"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(
                DATA,
                f"{path}: a protocol is in the JSON of sigtok evaluate, got another file "
                f"({type(error).__name__}: {error}); check it",
            ) from error

    def check(self, args: Namespace) -> None:
        """Raise Failure if the command asks for what the protocol says, or brings another model or other weights."""
        if given := [name for name in SETTLED if getattr(args, name)]:
            what = "files" if given[0] == "inputs" else f"--{given[0]}"
            raise Failure(USAGE, f"--protocol {self.path} says everything, got {what} as well; leave one out")
        found = record_of(args.model)
        for name in ("stream_id", "weights_sha256"):
            if found[name] != self._model.get(name):
                raise Failure(
                    USAGE,
                    f"{self.path}: was measured with {self._model.get('name')} of {name.replace('_', ' ')} "
                    f"{self._model.get(name)}, got {args.model} of {found[name]}; name that model",
                )
        judge = hash_of(args.perceptual)["sha256"] if args.perceptual else None
        if judge != self._judge:
            raise Failure(
                USAGE, f"{self.path}: weights of --perceptual are {self._judge or 'none'}, got {judge or 'none'}"
            )
        self._check_metrics(tools_of(args.perceptual, args.whisper))

    def check_prior(self, prior: Prior | None) -> None:
        """Raise Failure if files were written with a prior, and this is another, or the other way round."""
        found = None if prior is None else f"{prior.fingerprint:08x}"
        before = self.protocol.get("prior")
        if found != before:
            raise Failure(
                USAGE,
                f"{self.path}: the fingerprint of --prior is {before or 'none'}, got {found or 'none'}; name that one",
            )

    def _check_metrics(self, tools: Tools) -> None:
        """Raise Failure if a metric that was computed does not run here, or has other weights."""
        for name, before in self._weights.items():
            now = KNOWN[name].origin(tools) if name in KNOWN else {"not_computed": "this version does not know it"}
            if reason := now.get("not_computed"):
                raise Failure(USAGE, f"{self.path}: was measured by {name}, which does not run here ({reason})")
            if (found := hashes(now)) != before:
                raise Failure(
                    USAGE, f"{self.path}: was measured by {name} of weights {before}, got {found}; name those"
                )

    def inputs(self) -> Inputs:
        """The same files, from here or from beside the result.

        Raises:
            Failure: If one is missing or has other bytes.
        """
        items = tuple(Item(self._find(name, digest), Path(name).stem) for name, digest in self._files)
        return Inputs(items, single=len(items) == 1)

    def _find(self, name: str, digest: str) -> str:
        places = [path for path in (Path(name), Path(self.path).parent / name) if path.is_file()]
        for path in places:
            if hash_of(path)["sha256"] == digest:
                return str(path)
        if places:
            raise Failure(DATA, f"{places[0]}: has other bytes than {self.path} was measured on; get that file again")
        raise Failure(DATA, f"{name}: {self.path} was measured on it, it is neither here nor beside it; get it again")

    def rates(self, spec: CodecSpec) -> list[Rate]:
        """The same operating points.

        Raises:
            Failure: If the model has none such.
        """
        try:
            return [spec.resolve(rate) for rate in self._rates]
        except ValueError as error:
            raise Failure(DATA, f"{self.path}: {error}; check it") from error

    def verdict(self, record: Mapping[str, Any]) -> Row:
        """Whether figures are equal, and the first that are not; libraries of other versions."""
        found = list(differences(self._before, record["rates"]))
        before, now = self._versions, versions(record["protocol"])
        others = [
            f"{name} {before.get(name)}, now {now.get(name)}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        return {"protocol": self.path, "equal": not found, "differences": found[:10], "count": len(found),
                "versions": others}  # fmt: skip


def versions(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Of libraries, and of the packages that metrics come from, by name."""
    found = dict(protocol["versions"])
    for by in protocol["metrics"].values():
        found |= by.get("versions", {})
    return found


def hashes(origin: Mapping[str, Any]) -> str:
    """SHA-256 of the weights of a metric."""
    return ", ".join(weights["sha256"] for weights in origin["weights"]) or "none"


def told(verdict: Mapping[str, Any]) -> str:
    """A verdict in one line."""
    if verdict["equal"]:
        return f"all figures are those of {verdict['protocol']}, times and memory aside"
    others = f"; other versions: {', '.join(verdict['versions'])}" if verdict["versions"] else ""
    return f"{verdict['count']} figures are not those of {verdict['protocol']}: {verdict['differences'][0]}{others}"


def differences(before: Any, now: Any, place: str = "rates") -> Iterator[str]:
    """Where two records differ, but for times, memory and names of files."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if key not in ASIDE:
                yield from differences(before.get(key), now.get(key), f"{place}.{key}")
    elif isinstance(before, list) and isinstance(now, list):
        for index, pair in enumerate(zip_longest(before, now)):
            yield from differences(*pair, f"{place}[{index}]")
    elif before != now:
        yield f"{place} was {before!r:.60}, is {now!r:.60}"


def _rate(point: Mapping[str, Any]) -> Rate:
    shares, window = point.get("shares"), point["window"]
    return Rate(
        codebooks=point["codebooks"],
        queries=point["queries"],
        window=tuple(window) if window else None,
        shares=tuple(shares) if shares else None,
        quality=point.get("quality"),
    )
