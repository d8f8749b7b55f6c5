"""`sigtok score`: files that anything decoded, beside their references; rates too where the coded files are named."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from sigtok.codecs.media import AUDIO_SUFFIXES, IMAGE_SUFFIXES, audio_info, kind_of
from sigtok.codecs.metrics.alignment import lag
from sigtok.codecs.spec import CodecSpec

from .evaluate import Row, area, distances, duration, summarised
from .exits import DATA, USAGE, Failure, say
from .inputs import Inputs, Item, Reader, gather, hash_of
from .metrics import Measure, default_metrics, metric_names, metrics_of, tools_of
from .outputs import writing_lines
from .page import score_page
from .protocol import conditions
from .report import (
    UNITS,
    asked_metrics,
    check_judge,
    check_outputs,
    check_pictures_only,
    circumstances,
    write_json,
    write_text,
)
from .report import protocol as about_pictures
from .tables import markdown, number
from .transcode import each
from .worst import Worst, worst_of

LONGEST = 0.1  # seconds by which a decoded sound may be longer or shorter, and that a lag is looked for
LEAST = 0.3  # correlation from which a lag is believed


def score(args: Namespace) -> int:
    """Measure every decoded file beside its reference."""
    for path in (args.decoded, args.reference):
        if not Path(path).exists():
            raise Failure(USAGE, f"{path}: there is no such file or folder; check the path")
    suffixes = AUDIO_SUFFIXES | IMAGE_SUFFIXES
    decoded = gather([args.decoded], suffixes)
    references = gather([args.reference], suffixes, args.where, args.exclude)
    args.inputs = [args.decoded, args.reference]
    check_outputs(args, Inputs((*decoded.items, *references.items), single=False))
    spec = spec_of_files(references.items[0].path)
    check_pictures_only(spec.modality, {"--size": args.size, "--perceptual": args.perceptual})
    tools = tools_of(args.perceptual, args.whisper)
    chosen = asked_metrics(args, spec.modality, tools, default_metrics(spec.modality, tools))
    check_judge(args.perceptual)
    metrics, reader = metrics_of(spec.modality, tools, chosen), Reader(spec, args.downmix, say, args.size)
    pair = decoded.single and references.single  # whatever their names
    partners = Partners(references.items, args.reference, alone=pair)
    coded = Partners(_below(args.bytes), args.bytes, alone=pair and Path(args.bytes).is_file()) if args.bytes else None
    worst = worst_of(chosen, tools, spec.modality, spec.sample_rate)
    scores = Scores(reader, metrics, worst if args.html else None)

    with writing_lines(args.jsonl) as write:

        def work(item: Item, path: str) -> None:
            write(scores.measure(item.path, partners.of(item).path, coded.of(item).path if coded else None))

        code = each(decoded, work)
    if scores.rows:
        if left := len(references.items) - len({row["reference"] for row in scores.rows}):
            say(f"{left} of {len(references.items)} references have no decoded file that was measured")
        _tell(args, scores, worst, len(decoded.items))
    return code


def spec_of_files(path: str) -> CodecSpec:
    """What all files are read as: the kind, rate and channels of the first reference.

    Raises:
        Failure: If it is neither a sound nor a picture.
    """
    kind = kind_of(path)
    if kind is None:
        raise Failure(DATA, f"{path}: sounds and pictures are scored, got another file; convert it")
    sound = audio_info(path) if kind == "audio" else None
    return CodecSpec(
        name="the first reference",
        modality="audio" if sound else "image",
        channels=sound.channels if sound else 3,
        sample_rate=sound.sample_rate if sound else None,
        hop=(1,) if sound else (1, 1),
        latent_dim=1,
        codebook_sizes=(2,),
    )


class Partners:
    """Files by name: that of an item has its path below the folder, without suffix, or else its bare name.

    Args:
        items: The files.
        where: They come from, to be named in errors.
        alone: There is one, and it belongs to any item.
    """

    def __init__(self, items: Iterable[Item], where: str, alone: bool = False) -> None:
        self.where, items = where, list(items)
        self.alone = items[0] if alone else None
        self.by_stem: dict[str, list[Item]] = {}
        self.by_name: dict[str, list[Item]] = {}
        for item in items:
            self.by_stem.setdefault(item.stem, []).append(item)
            self.by_name.setdefault(Path(item.stem).name, []).append(item)

    def of(self, item: Item) -> Item:
        """The one file that belongs to an item.

        Raises:
            ValueError: If there is none, or several.
        """
        if self.alone:
            return self.alone
        found = self.by_stem.get(item.stem) or self.by_name.get(Path(item.stem).name, [])
        if len(found) != 1:
            several = f"{len(found)} ({', '.join(other.path for other in found[:3])})" if found else "none"
            raise ValueError(f"{item.path}: has one file of its name in {self.where}, got {several}; rename it")
        return found[0]


def _below(path: str) -> list[Item]:
    """All files of a folder, or the one file.

    Raises:
        Failure: If there is none.
    """
    if Path(path).is_file():
        return [Item(path, Path(path).stem)]
    found = [file for file in sorted(Path(path).rglob("*")) if file.is_file() and not file.name.startswith(".")]
    if not found:
        raise Failure(USAGE, f"--bytes {path}: is the folder of coded files, got none; check the path")
    return [Item(str(file), str(file.relative_to(path).with_suffix(""))) for file in found]


class Scores:
    """Rows of decoded files.

    Args:
        reader: Of all files.
        metrics: By name.
        worst: What keeps files for a page.

    A row has ``file``, ``reference``, ``seconds`` or ``pixels``, every metric and under ``not_computed`` why one is
    None; of sounds also ``lag_samples``, which is 0 where all is well and None where the waveforms do not follow each
    other; with coded files ``bytes`` and a rate.
    """

    def __init__(self, reader: Reader, metrics: Mapping[str, Measure], worst: Worst | None = None) -> None:
        self.reader, self.metrics, self.worst = reader, metrics, worst
        self.rows: list[Row] = []
        self.files: list[Row] = []

    def measure(self, path: str, reference: str, coded: str | None = None) -> Row:
        """The row of one more file.

        Raises:
            ValueError: If a file is damaged, or the decoded one is longer, shorter or of another kind.
        """
        spec = self.reader.spec
        hashes = {"file": path, **hash_of(path)}
        hashes |= {"reference": reference, "reference_sha256": hash_of(reference)["sha256"]}
        wanted, signal = self.reader.read(reference), self.reader.read(path)
        signal, wanted = cut_alike(path, signal, wanted, spec.sample_rate)
        size = Path(coded).stat().st_size if coded else 0
        extent = area(wanted, size) if spec.sample_rate is None else duration(wanted, spec.sample_rate, size)
        sized = ("seconds", "pixels") if coded is None else tuple(extent)
        row: Row = {"file": path, "reference": reference, **({"bytes": size} if coded else {})}
        row |= {name: value for name, value in extent.items() if name in sized}
        values, reasons = distances(signal, wanted, spec.modality, spec.sample_rate or 0, self.metrics)
        if spec.sample_rate is not None:
            late, why = delay(path, signal, wanted, spec.sample_rate)
            row["lag_samples"], reasons = late, reasons | ({"lag_samples": why} if why else {})
        row |= values | ({"not_computed": reasons} if reasons else {})
        self.rows.append(row)
        self.files.append(hashes)
        if self.worst:
            self.worst.see(row, wanted, signal)
        return row

    def summary(self) -> Row:
        """All rows in one; see `Evaluation.summary`."""
        lags = [row["lag_samples"] for row in self.rows if row.get("lag_samples") is not None]
        aligned = {"aligned_files": lags.count(0), "late_files": len(lags) - lags.count(0)}
        sound = self.reader.spec.sample_rate is not None
        return {**summarised(self.rows, self.metrics), **(aligned if sound else {})}


def cut_alike(path: str, signal: Tensor, wanted: Tensor, sample_rate: int | None) -> tuple[Tensor, Tensor]:
    """A decoded signal and its reference, sounds cut to the shorter.

    Raises:
        ValueError: If the extents differ, of sounds by more than a tenth of a second.
    """
    if sample_rate is None:
        if signal.shape != wanted.shape:
            size, got = (f"{width}x{height}" for _, height, width in (wanted.shape, signal.shape))
            raise ValueError(f"{path}: has the {size} pixels of its reference, got {got}; decode it at full size")
        return signal, wanted
    if abs(signal.shape[1] - wanted.shape[1]) > LONGEST * sample_rate:
        length, got = (f"{each.shape[1] / sample_rate:.3f} s" for each in (wanted, signal))
        raise ValueError(
            f"{path}: is as long as its reference of {length}, to {LONGEST:g} s, got {got}; cut them alike"
        )
    shorter = min(signal.shape[1], wanted.shape[1])
    return signal[:, :shorter], wanted[:, :shorter]


def delay(path: str, signal: Tensor, wanted: Tensor, sample_rate: int) -> tuple[int | None, str]:
    """Samples that a sound is late, or why that is not known; told if it is not 0."""
    if not wanted.numel():
        return None, "the file is empty"
    found = lag(signal, wanted, round(LONGEST * sample_rate))
    if abs(found.correlation) < LEAST:
        return None, f"the waveforms do not follow each other (correlation {found.correlation:.2f})"
    if found.samples:
        side, count = ("late" if found.samples > 0 else "early"), abs(found.samples)
        say(f"{path}: is {count} samples {side} (correlation {found.correlation:.2f}); align it, metrics suffer")
    elif found.correlation < 0:
        say(f"{path}: has the opposite polarity of its reference; waveform metrics suffer")
    return found.samples, ""


# -- what is told ----------------------------------------------------------------------------------------------


def _tell(args: Namespace, scores: Scores, worst: Worst, asked: int) -> None:
    spec = scores.reader.spec
    modality, about, summary = spec.modality, circumstances(args.line), scores.summary()
    kind = "seconds" if spec.sample_rate else "pixels"
    record = {
        **about,
        **(about_pictures(args.size, args.perceptual) if modality == "image" else {}),
        "model": Path(args.decoded).name,
        "files": len(scores.rows),
        "bad_files": asked - len(scores.rows),
        kind: summary[kind],
        "protocol": {
            "files": scores.files,
            **conditions(
                args, list(scores.metrics), spec.sample_rate if modality == "audio" else None, about["versions"]
            ),
        },
        "rates": [{**summary, "rows": scores.rows}],
    }
    if args.json != "-":
        print(table(modality, summary))
    if args.html:
        write_text(args.html, score_page(record, modality, list(scores.metrics), worst))
    write_json(args.json, record)


def table(modality: str, summary: Row) -> str:
    """The summary as a line of Markdown."""
    unit, metrics = UNITS[modality][0], metric_names(modality, summary)
    sizes: Sequence[str] = ("bytes", unit) if "bytes" in summary else ()
    heads = ["files", *(name.replace("_", " ") for name in sizes), *metrics]
    line = [str(summary["files"]), *(number(summary[name]) for name in sizes)]
    return markdown(heads, [[*line, *(number(summary[metric]["mean"]) for metric in metrics)]])
