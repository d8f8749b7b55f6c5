"""Speech and a photo to tokens and back at several rates, through real files; a table and a page show it.

python demo/demo.py [--speech MODEL] [--image MODEL] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from page import Shown, counted, speeds, write_page

from sigtok.codecs.codec import Codec
from sigtok.codecs.media import write_audio, write_image
from sigtok.codecs.spec import Rate
from sigtok.export.evaluate import measured, round_trip
from sigtok.export.exits import Failure
from sigtok.export.inputs import Reader
from sigtok.export.metrics import METRICS
from sigtok.export.released import open_model
from sigtok.export.tables import columns, number

HERE = Path(__file__).parent
CODEBOOKS, QUERIES, QUALITIES = (1, 3, 8), (64, 256), (1, 3)  # the rates, as far as the models have them


def main() -> int:
    """Run the demo; 0 if all went well."""
    args = arguments()
    out = args.folder / "out"
    out.mkdir(parents=True, exist_ok=True)
    try:
        speech = shown(open_model(args.speech), HERE / "input/speech.flac", out)
        photo = shown(open_model(args.image), HERE / "input/photo.png", out)
        small = shown(open_model(args.photo), HERE / "input/photo.png", out)
    except Failure as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return failure.code
    print("\n\n".join(map(table, (speech, photo, small))))
    rows = [one.row for one in speech + photo + small]
    origin = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    (args.folder / "results.json").write_text(json.dumps({"origin": origin, "rows": rows}, indent=2) + "\n")
    write_page(args.folder / "report.html", HERE / "input", speech, photo, small)
    print(f"\nlisten and look: {args.folder / 'report.html'}")
    return 0


def arguments() -> argparse.Namespace:
    """The models, and where results go."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", default="speech_24khz", metavar="MODEL")
    parser.add_argument("--image", default="image_256", metavar="MODEL")
    parser.add_argument("--photo", default="photo", metavar="MODEL")
    parser.add_argument("--folder", default=HERE, type=Path, help="where results go")
    return parser.parse_args()


def rates(codec: Codec) -> list[Rate]:
    """The operating points to show."""
    spec = codec.spec
    if spec.qualities:
        return [spec.resolve(Rate(quality=n)) for n in sorted({min(n, spec.qualities) for n in QUALITIES})]
    if spec.modality == "audio":
        return [spec.resolve(Rate(codebooks=n)) for n in sorted({min(n, spec.num_codebooks) for n in CODEBOOKS})]
    return [spec.resolve(Rate(queries=n)) for n in sorted({min(n, spec.queries) for n in QUERIES})]


def shown(codec: Codec, source: Path, out: Path) -> list[Shown]:
    """A file through the codec at every rate; what came out lies in the folder."""
    spec = codec.spec
    signal = Reader(spec, tell=print).read(source)
    results = []
    round_trip(codec, signal, rates(codec)[0], warm := out / "warm.sgt")  # the first call is slow: not measured
    warm.unlink()
    for rate in rates(codec):
        name = f"{source.stem}_{point(rate, spec.modality)}"
        trip = round_trip(codec, signal, rate, out / f"{name}.sgt")
        decoded = out / (f"{name}.flac" if spec.modality == "audio" else f"{name}.png")
        if spec.sample_rate:
            write_audio(decoded, trip.reconstruction, spec.sample_rate)
        else:
            write_image(decoded, trip.reconstruction)
        about = {
            "file": f"input/{source.name}",
            "sgt": f"out/{name}.sgt",
            "decoded": f"out/{decoded.name}",
            "model": spec.name,
            "stream_id": codec.stream_id.hex() if codec.stream_id else None,
            "codebooks": rate.codebooks,
            "queries": rate.queries,
            **({"quality": rate.quality} if rate.quality else {}),
        }
        row = about | measured(codec, signal, trip)
        results.append(Shown(row, signal, trip.reconstruction, trip.tokens, decoded, source))
    return results


def point(rate: Rate, modality: str) -> str:
    """What varies, in the name of a file."""
    if rate.quality:
        return f"quality_{rate.quality:g}"
    return str(rate.codebooks if modality == "audio" else rate.queries)


def table(shown: list[Shown]) -> str:
    """The rows of one file in columns."""
    sound = "seconds" in shown[0].row
    metrics = METRICS["audio" if sound else "image"]
    rate, speed = ("bits_per_second", "x real time") if sound else ("bits_per_pixel", "MP/s")
    counts = counted(shown[0].row)
    heads = ["file", "model", *counts, "bytes", rate.replace("_", " "), *metrics]
    lines = []
    for row in (one.row for one in shown):
        texts = [Path(row["sgt"]).name, row["model"]]
        numbers = [row[name] for name in (*counts, "bytes", rate, *metrics)]
        lines.append([*texts, *map(number, numbers + speeds(row))])
    return columns([*heads, f"encode {speed}", f"decode {speed}"], lines)


if __name__ == "__main__":
    sys.exit(main())
