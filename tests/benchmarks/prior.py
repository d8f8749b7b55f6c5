"""Coding with a language model measured: ``python -m tests.benchmarks.prior``.

Thirty seconds of the demo's speech as tokens of `speech_24khz` with 2 codebooks, coded by an exact network of the size
of configs/lm/speech_tiny.yaml, beside the same network in torch's float32, which scores them at once or id by id; and
beside EnCodec 0.1.1 (`make .venv/bench` installs it) at 2 codebooks, whose own language model codes its tokens: what
its files take with the model more than without. Weights are random: speed does not depend on them.

One thread and CPU seconds throughout, so that other work on the machine weighs little. A Markdown table, on stdout.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from sigtok.codecs.language.folder import LanguageModel
from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.network import Shape, TokenTransformer
from sigtok.codecs.language.prior import TokenPrior
from sigtok.codecs.pretrained import load
from sigtok.codecs.shards import Meaning
from sigtok.codecs.spec import Rate
from tests.benchmarks.quantizers import show
from tests.benchmarks.streaming import SPEECH, recording

SECONDS, RUNS = 30, 3
SHAPE = Shape(dim=192, depth=4, heads=4, context=256)


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of some runs."""
    taken = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def ours(signal: Tensor) -> list[list[object]]:
    """Rows of the exact network, and of the same in floats."""
    codec = load("speech_24khz")
    tokens = codec.encode(signal, Rate(codebooks=2))
    assert codec.stream_id is not None
    language = Language(Meaning(codec.spec, tokens.rate, codec.stream_id.hex()), "flatten")
    network = TokenTransformer(language.size, language.begin, SHAPE).eval()
    prior, ids = TokenPrior(LanguageModel(language, network)), language.ids.to_ids(tokens)
    codes = tuple(stream[0].numpy() for stream in tokens.streams)
    grid = (len(codes[0]),)
    payload = prior.encode(codes, grid)

    def step_by_step() -> None:
        state = None
        for place in range(ids.shape[1]):
            _, state = network.step(ids[:, place : place + 1], state)

    count = sum(map(len, codes))
    works: dict[str, Callable[[], object]] = {
        "encode": lambda: prior.encode(codes, grid),
        "decode": lambda: prior.decode(payload, grid),
        "float32, at once, nothing coded": lambda: network(ids),
        "float32, id by id, nothing coded": step_by_step,
    }
    return [[name, count / (taken := seconds(work)), SECONDS / taken] for name, work in works.items()]


def encodec(signal: Tensor) -> list[list[object]]:
    """Rows of EnCodec's language model."""
    from encodec.model import EncodecModel, LMModel

    compress = import_module("encodec.compress")  # its package has a function of that name

    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(1.5)
    prior = LMModel(
        model.quantizer.n_q, model.quantizer.bins, num_layers=5, dim=200, past_context=int(3.5 * model.frame_rate)
    ).eval()
    model.get_lm_model = lambda: prior
    compress.MODELS = {model.name: lambda: model}

    def file(use_lm: bool) -> bytes:
        out = io.BytesIO()
        compress.compress_to_file(model, signal[0], out, use_lm=use_lm)
        return out.getvalue()

    with_prior, without = file(True), file(False)
    tasks = {
        "EnCodec's, encode": (lambda: file(True), lambda: file(False)),
        "EnCodec's, decode": (
            lambda: compress.decompress_from_file(io.BytesIO(with_prior)),
            lambda: compress.decompress_from_file(io.BytesIO(without)),
        ),
    }
    count, rows = 2 * model.frame_rate * SECONDS, list[list[object]]()
    for name, (more, less) in tasks.items():
        taken = seconds(more) - seconds(less)
        rows.append([name, count / taken, SECONDS / taken])
    return rows


@torch.no_grad()
def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    signal = recording([SPEECH], 24_000)[..., : SECONDS * 24_000]
    show("Coding with a language model, one core", ["", "tokens/s", "x real time"], ours(signal) + encodec(signal))


if __name__ == "__main__":
    main()
