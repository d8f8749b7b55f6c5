"""One self-contained page: players, spectrograms, pictures, tokens and the table of a demo run."""

from __future__ import annotations

import base64
import html
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sigtok.codecs.media import write_image
from sigtok.codecs.tokens import Tokens
from sigtok.export.metrics import METRICS
from sigtok.export.spectrogram import coloured, spectrogram, spectrum
from sigtok.export.tables import number

TYPES = {".flac": "audio/flac", ".png": "image/png"}


class Shown(NamedTuple):
    """One file at one rate: its row of figures, the signals, the tokens, and where the files lie."""

    row: dict[str, Any]
    signal: Tensor
    reconstruction: Tensor
    tokens: Tokens
    decoded: Path
    source: Path


def write_page(
    path: Path, folder: Path, speech: Sequence[Shown], photo: Sequence[Shown], small: Sequence[Shown]
) -> None:
    """Write the page of both files at all rates; the photo as tokens, and as small files."""
    page = TEMPLATE
    for name, text in {
        "SPEECH": _speech(speech),
        "PHOTO": _photo(photo),
        "SMALL": _photo(small),
        "TABLES": _table(speech) + _table(photo) + _table(small),
        "LICENCES": _licences(folder / "LICENCES.md"),
    }.items():
        page = page.replace(f"<!--{name}-->", text)
    path.write_text(page, encoding="utf-8")


def _speech(shown: Sequence[Shown]) -> str:
    source, rate = shown[0], shown[0].tokens.spec.sample_rate or 0
    loudest = float(spectrum(source.signal).max())
    original = _card(
        "Original",
        _figures(source, original=True),
        _player(source.source),
        _picture(spectrogram(source.signal, rate, loudest), "Spectrogram of the original, 0 to 8 kHz"),
    )
    cards = []
    for one in shown:
        heard = spectrogram(one.reconstruction, rate, loudest)
        cards.append(
            _card(
                _count(one.row["codebooks"], "codebook"),
                _figures(one),
                _player(one.decoded),
                _picture(heard, "Spectrogram of the decoded sound, 0 to 8 kHz"),
                _strip(one),
            )
        )
    return f'<div class="pairs">{"".join(_pair(original, card) for card in cards)}</div>'


def _photo(shown: Sequence[Shown]) -> str:
    source = shown[0]
    original = _card("Original", _figures(source, original=True), _picture_file(source.source, "The original photo"))
    cards = []
    for one in shown:
        picture = _picture_file(one.decoded, "The decoded photo")
        if "quality" in one.row:
            cards.append(_card(f"quality {one.row['quality']:g}", _figures(one), picture))
        else:
            cards.append(_card(_count(one.row["queries"], "token") + " per tile", _figures(one), picture, _strip(one)))
    return f'<div class="pairs">{"".join(_pair(original, card) for card in cards)}</div>'


def _figures(one: Shown, original: bool = False) -> str:
    """Bytes and rate, of the file that came or of its tokens."""
    row = one.row
    size = one.source.stat().st_size if original else row["bytes"]
    if "seconds" in row:
        rate = f"{number(8 * size / row['seconds'])} bit/s"
    else:
        rate = f"{number(8 * size / row['pixels'])} bit/pixel"
    tokens = "" if original or "quality" in row else f"{row['tokens']:,} tokens · "
    return f"{tokens}{size:,} bytes · {rate}"


def _table(shown: Sequence[Shown]) -> str:
    metrics = list(METRICS[shown[0].tokens.spec.modality])
    sound = "seconds" in shown[0].row
    unit, speed = ("bit/s", "x real time") if sound else ("bit/pixel", "MP/s")
    heads = ["file", "model", *counted(shown[0].row), "bytes", unit, *metrics]
    heads += [f"encode {speed}", f"decode {speed}"]
    body = []
    for row in (one.row for one in shown):
        values = [row[name] for name in (*counted(row), "bytes")]
        values += [row["bits_per_second" if sound else "bits_per_pixel"], *(row[name] for name in metrics)]
        values += speeds(row)
        names = "".join(f"<td>{html.escape(str(row[name]))}</td>" for name in ("sgt", "model"))
        body.append(f"<tr>{names}{''.join(f'<td>{number(value)}</td>' for value in values)}</tr>")
    head = "".join(f"<th scope=col>{head.replace('_', '-')}</th>" for head in heads)
    rows = "".join(body)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def counted(row: dict[str, Any]) -> tuple[str, ...]:
    """What an operating point is told by: the quality of a rate-distortion codec, or counts of tokens."""
    return ("quality",) if "quality" in row else ("codebooks", "queries", "tokens")


def speeds(row: dict[str, Any]) -> list[float]:
    """Of encoding and decoding: times real time, or megapixels per second."""
    size = row["seconds"] if "seconds" in row else row["pixels"] / 1e6
    return [size / row["encode_seconds"], size / row["decode_seconds"]]


def _licences(path: Path) -> str:
    """The paragraphs and table rows of the file, as text."""
    rows = [line.strip("|").split("|") for line in path.read_text().splitlines() if line.startswith("| ")][1:]
    items = "".join(
        f"<li>{html.escape(name.strip())}: {_plain(who)}, {_plain(licence)}</li>" for name, licence, who, _ in rows
    )
    text = path.read_text().rpartition("|\n")[2]
    return f"<ul>{items}</ul><p>{_plain(text)}</p>"


def _plain(text: str) -> str:
    """Markdown as plain text: links keep their words, for the page needs nothing from outside."""
    return html.escape(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text.replace("`", "")).strip())


# -- pictures --------------------------------------------------------------------------------------------


def _strip(one: Shown) -> str:
    """The codes as colours: a row per codebook, or of 64 tokens of a picture."""
    sizes = one.tokens.spec.codebook_sizes
    codes = np.stack([stream[0].numpy() / size for stream, size in zip(one.tokens.streams, sizes, strict=False)])
    if len(codes) == 1 and one.tokens.spec.modality == "image":
        codes = codes.reshape(-1, 64 if codes.size % 64 == 0 else codes.size)
    name = f"The tokens, {codes.shape[0]} x {codes.shape[1]}, coloured by code"
    return f'<div class="codes">{_picture(coloured(codes), name)}</div>'


# -- parts of the page -----------------------------------------------------------------------------------


def _pair(left: str, right: str) -> str:
    return f'<div class="pair">{left}{right}</div>'


def _card(title: str, figures: str, *parts: str) -> str:
    return f"<article><header><h3>{title}</h3><p>{figures}</p></header>{''.join(parts)}</article>"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _player(path: Path) -> str:
    return f'<audio controls preload="metadata" src="{_data(path)}"></audio>'


def _picture_file(path: Path, text: str) -> str:
    return f'<img src="{_data(path)}" alt="{text}">'


def _picture(colours: np.ndarray, text: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        write_image(path, colours)
        return _picture_file(path, text)


def _data(path: Path) -> str:
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sigtok: signals to tokens and back</title>
<style>
:root { color-scheme: light dark; --paper: #faf8f5; --card: #fff; --ink: #1d1b26; --soft: #625d70;
  --line: #e4dfd8; --accent: #962a74; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12111a; --card: #1b1a26; --ink: #eeeaf4; --soft: #a49fb4; --line: #2e2c3d;
    --accent: #f58c3e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1rem 4rem; }
h1 { font-size: clamp(1.7rem, 5vw, 2.6rem); line-height: 1.15; margin: 0 0 .5rem; letter-spacing: -.02em; }
h1 span { color: var(--accent); }
h2 { margin: 3rem 0 .25rem; font-size: 1.35rem; letter-spacing: -.01em; }
.lead, h2 + p, footer { color: var(--soft); max-width: 46rem; margin-top: 0; }
.pairs { display: grid; gap: 1.25rem; }
.pair { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
  align-items: start; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .9rem;
  padding: 1rem; min-width: 0; }
article header { display: flex; flex-wrap: wrap; gap: 0 .75rem; justify-content: space-between;
  align-items: baseline; margin-bottom: .6rem; }
article h3 { margin: 0; font-size: 1rem; }
article p { margin: 0; color: var(--soft); font-size: .86rem; font-variant-numeric: tabular-nums; }
audio { width: 100%; display: block; margin-bottom: .6rem; }
img { display: block; width: 100%; height: auto; border-radius: .5rem; }
audio + img { height: 11rem; }
.codes { margin-top: .6rem; }
.codes img { height: 2.4rem; image-rendering: pixelated; }
.scroll { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: .9rem;
  background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .75rem; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 1px solid var(--line); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
tr + tr td { border-top: 1px solid var(--line); }
footer { font-size: .86rem; margin-top: 3rem; }
</style>
<main>
<h1><span>sigtok</span>: signals to tokens and back</h1>
<p class="lead">Each original on the left went through an <code>.sgt</code> file of the size that is written
above its reconstruction on the right. The coloured strip is all that the decoder saw: one cell per token.</p>
<h2>Speech</h2>
<p>One model, several rates: more codebooks say more about every moment.</p>
<!--SPEECH-->
<h2>Photo</h2>
<p>One model, several budgets: more tokens per tile of the picture.</p>
<!--PHOTO-->
<h2>Photo, for people</h2>
<p>The same photo through a rate-distortion codec, whose files are small and near to the original. Its whole numbers are
entropy coded, and no tokens for a language model.</p>
<!--SMALL-->
<h2>Figures</h2>
<p>Bytes are those of the files; speeds are of this run on this machine.</p>
<!--TABLES-->
<footer><!--LICENCES--></footer>
</main>
</html>
"""
