"""Which metrics there are: what each says and needs, where it comes from, and why it cannot run here if it cannot.

Nothing is loaded until a metric is first used, and nothing is ever fetched: networks are those of installed packages
and of files that the user names.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from sigtok.codecs.metrics import itu, opinion, speaker, words
from sigtok.codecs.metrics.audio import mel_distance, si_sdr, snr, stoi
from sigtok.codecs.metrics.features import cosine, relative_error
from sigtok.codecs.metrics.image import ms_ssim, psnr, ssim
from sigtok.codecs.metrics.intonation import pitch_cents, voicing_error
from sigtok.codecs.metrics.neurograms import RATE as MUSIC_RATE
from sigtok.codecs.metrics.neurograms import ViSQOL
from sigtok.codecs.metrics.perceptual import load_lpips, lpips
from sigtok.codecs.metrics.ssimulacra import ssimulacra
from sigtok.codecs.metrics.texture import dists, load_dists

from .inputs import hash_of

Measure = Callable[[Tensor, Tensor, int], float]  # reconstruction and reference, [1, C, *extent]; Hz
SILENCE = 1e-5  # deviation; below half a step of 16 bits there is no signal to relate a distortion to
WHISPER = "SIGTOK_WHISPER"  # in the environment: a checkpoint of Whisper
ALWAYS, ABLE, ASKED = "always", "where it can run", "on request"


class Tools(NamedTuple):
    """Files that the user names.

    Args:
        perceptual: Weights of a backbone and LPIPS's heads, made by `sigtok-train backbone`.
        whisper: A checkpoint of Whisper.
    """

    perceptual: str | None = None
    whisper: str | None = None


class Package(NamedTuple):
    """A package that a metric needs: how it is imported, what it is called, and how it is installed."""

    module: str
    distribution: str
    install: str

    def missing(self) -> str | None:
        """Why it is of no use here."""
        there = importlib.util.find_spec(self.module)
        return None if there else f"{self.distribution} is not installed; {self.install}"


class Metric(NamedTuple):
    """One metric.

    Args:
        name: In rows and on the command line.
        modality: Of the signals that it measures.
        label: For an axis, with the unit and the better side.
        sign: 1 if more is better, -1 if less is.
        make: What measures, of the paths of the weights in order.
        use: Measured always, where it can run, or on request.
        pictured: Whether pictures show it unless they are asked for others.
        sample_rate: Hz that it resamples to; None for that of the signal.
        needs_reference: Whether it hears the original at all.
        packages: That it needs.
        weights: Each finds a file, or raises ValueError with the reason why there is none.
        licence: Of what computes it, and of its weights.
    """

    name: str
    modality: str
    label: str
    sign: int
    make: Callable[..., Measure]
    use: str = ALWAYS
    pictured: bool = True
    sample_rate: int | None = None
    needs_reference: bool = True
    packages: tuple[Package, ...] = ()
    weights: tuple[Callable[[Tools], Path], ...] = ()
    licence: str = "Apache-2.0"

    def missing(self, tools: Tools) -> str | None:
        """Why it cannot run here and what to do about it; None if it can."""
        if reason := next(filter(None, (package.missing() for package in self.packages)), None):
            return reason
        try:
            for find in self.weights:
                find(tools)
        except ValueError as error:
            return str(error)
        return None

    def origin(self, tools: Tools) -> dict[str, Any]:
        """What its figures come from: versions, weights with their hashes, licence; or why there are none."""
        known = {
            "label": self.label,
            "better": "higher" if self.sign > 0 else "lower",
            "sample_rate": self.sample_rate,
            "needs_reference": self.needs_reference,
            "licence": self.licence,
        }
        if reason := self.missing(tools):
            return {**known, "not_computed": reason}
        names = [package.distribution for package in self.packages] or ["sigtok"]
        files = [find(tools) for find in self.weights]
        weights = [{"file": file.name, "sha256": hash_of(file)["sha256"]} for file in files]
        return {**known, "versions": {name: version_of(name) for name in names}, "weights": weights}


class Lazy:
    """A metric that is made when it is first used; whatever then fails, fails for every file and is not tried again.

    Args:
        metric: Which.
        tools: Files of the user.

    Raises:
        ValueError: When called, if it cannot run here, or says nothing of these signals.
    """

    def __init__(self, metric: Metric, tools: Tools) -> None:
        self.metric, self.tools = metric, tools
        self.measure: Measure | None = None
        self.reason: str | None = None

    def __call__(self, reconstruction: Tensor, reference: Tensor, sample_rate: int) -> float:
        """The metric of a pair ``[1, C, *extent]`` at a rate in Hz, which pictures do not have."""
        if self.measure is None and self.reason is None:
            try:
                if (reason := self.metric.missing(self.tools)) is not None:
                    raise ValueError(reason)
                self.measure = self.metric.make(*(find(self.tools) for find in self.metric.weights))
            except (ValueError, ImportError) as error:
                self.reason = str(error)
        if self.measure is None:
            raise ValueError(self.reason)
        return self.measure(reconstruction, reference, sample_rate)


# -- what they need --------------------------------------------------------------------------------------------


def given(tool: str, advice: str) -> Callable[[Tools], Path]:
    """Weights that the user names."""

    def find(tools: Tools) -> Path:
        path = getattr(tools, tool)
        if path is None:
            raise ValueError(f"it has no weights; {advice}")
        if not Path(path).is_file():
            raise ValueError(f"{path}: weights are a file, got none there; {advice}")
        return Path(path)

    return find


def inside(package: Package, file: str) -> Callable[[Tools], Path]:
    """Weights that a package carries; it is not imported."""

    def find(_: Tools) -> Path:
        spec = importlib.util.find_spec(package.module)
        folders = spec.submodule_search_locations if spec else None
        path = next((Path(folder, file) for folder in folders or () if Path(folder, file).is_file()), None)
        if path is None:
            raise ValueError(f"{package.distribution} has no {file} in it; {package.install}")
        return path

    return find


def extra(module: str, distribution: str, name: str) -> Package:
    """A package of one of our extras."""
    return Package(module, distribution, f"pip install 'sigtok[{name}]'")


def version_of(name: str) -> str:
    """The version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


PESQ = extra("pesq", "pesq", "eval-itu")
DISTILLMOS = extra("distillmos", "distillmos", "eval-mos")
SPEECHMOS = extra("speechmos", "speechmos", "eval")
ONNXRUNTIME = extra("onnxruntime", "onnxruntime", "eval")
RESEMBLYZER = Package("resemblyzer", "Resemblyzer", "pip install --no-deps Resemblyzer")
OPENAI_WHISPER = extra("whisper", "openai-whisper", "eval-asr")
VISQOL = extra("visqol", "visqol-python", "eval-music")
SSIMULACRA2 = extra("ssimulacra2", "ssimulacra2", "eval")
TORCHVISION = extra("torchvision", "torchvision", "train")
DISTS_PYTORCH = extra("DISTS_pytorch", "dists-pytorch", "eval")
BACKBONE = given("perceptual", "name a file of `sigtok-train backbone` with --perceptual")


# -- what they are ---------------------------------------------------------------------------------------------


def _of_voices(extended: bool) -> Measure:
    """(E)STOI, the mean over channels."""

    def measure(reconstruction: Tensor, reference: Tensor, sample_rate: int) -> float:
        pairs = zip(reconstruction[0], reference[0], strict=True)
        return float(np.mean([stoi(*pair, sample_rate, extended) for pair in pairs]))

    return measure


def _without_rate(measure: Callable[[Tensor, Tensor], float]) -> Measure:
    """A metric that asks for no sample rate."""
    return lambda reconstruction, reference, _: measure(reconstruction, reference)


def _without_reference(measure: Callable[[Tensor, int], float]) -> Measure:
    """A metric that does not hear the original."""
    return lambda reconstruction, _, sample_rate: measure(reconstruction, sample_rate)


SOUND: Any = partial(Metric, modality="audio")
IMAGE: Any = partial(Metric, modality="image")
FEATURES: Any = partial(Metric, modality="features")
KNOWN: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        SOUND(
            name="mel_distance",
            label="mel distance, in log10 (lower is better)",
            sign=-1,
            make=lambda: mel_distance,
        ),
        SOUND(
            name="si_sdr",
            label="SI-SDR, dB (higher is better)",
            sign=1,
            make=lambda: _without_rate(si_sdr),
            pictured=False,
        ),
        SOUND(
            name="stoi",
            label="STOI, 0 to 1 (higher is better)",
            sign=1,
            make=lambda: _of_voices(extended=False),
            sample_rate=10_000,
        ),
        SOUND(
            name="estoi",
            label="ESTOI, 0 to 1 (higher is better)",
            sign=1,
            make=lambda: _of_voices(extended=True),
            pictured=False,
            sample_rate=10_000,
        ),
        SOUND(
            name="pitch_cents",
            label="pitch error, cents (lower is better)",
            sign=-1,
            make=lambda: pitch_cents,
            pictured=False,
        ),
        SOUND(
            name="voicing_error",
            label="voicing error, 0 to 1 (lower is better)",
            sign=-1,
            make=lambda: voicing_error,
            pictured=False,
        ),
        SOUND(
            name="pesq",
            label="PESQ wide band, MOS-LQO (higher is better)",
            sign=1,
            make=lambda: itu.pesq_wideband,
            use=ABLE,
            sample_rate=itu.RATE,
            packages=(PESQ,),
            licence="MIT around the reference code of ITU-T P.862, on the terms of ITU-T",
        ),
        SOUND(
            name="snr",
            label="SNR, dB (higher is better)",
            sign=1,
            make=lambda: _without_rate(snr),
            use=ASKED,
        ),
        SOUND(
            name="distillmos",
            label="DistillMOS, 1 to 5 (higher is better)",
            sign=1,
            make=lambda _: _without_reference(opinion.DistillMOS()),
            use=ASKED,
            sample_rate=opinion.RATE,
            needs_reference=False,
            packages=(DISTILLMOS,),
            weights=(inside(DISTILLMOS, "weights/distill_mos_v7.pt"),),
            licence="MIT",
        ),
        SOUND(
            name="dnsmos",
            label="DNSMOS P.808, 1 to 5 (higher is better)",
            sign=1,
            make=lambda path: _without_reference(opinion.DNSMOS(path)),
            use=ASKED,
            sample_rate=opinion.RATE,
            needs_reference=False,
            packages=(SPEECHMOS, ONNXRUNTIME),
            weights=(inside(SPEECHMOS, "dnsmos_models/model_v8.onnx"),),
            licence="MIT",
        ),
        SOUND(
            name="speaker_similarity",
            label="speaker similarity, cosine (higher is better)",
            sign=1,
            make=lambda path: partial(speaker.speaker_similarity, speaker.load_speaker_encoder(path)),
            use=ASKED,
            sample_rate=speaker.RATE,
            packages=(RESEMBLYZER,),
            weights=(inside(RESEMBLYZER, "pretrained.pt"),),
        ),
        SOUND(
            name="word_error_rate",
            label="word error rate, 0 to 1 (lower is better)",
            sign=-1,
            make=lambda path: partial(words.word_error_rate, words.Whisper(path)),
            use=ASKED,
            sample_rate=words.RATE,
            packages=(OPENAI_WHISPER,),
            weights=(given("whisper", f"name a checkpoint of Whisper with --whisper or in {WHISPER}"),),
            licence="MIT",
        ),
        SOUND(
            name="visqol",
            label="ViSQOL audio, MOS-LQO (higher is better)",
            sign=1,
            make=lambda _: ViSQOL(),
            use=ASKED,
            sample_rate=MUSIC_RATE,
            packages=(VISQOL,),
            weights=(inside(VISQOL, "model/libsvm_nu_svr_model.txt"),),
        ),
        IMAGE(
            name="psnr",
            label="PSNR, dB (higher is better)",
            sign=1,
            make=lambda: _without_rate(psnr),
        ),
        IMAGE(
            name="ssim",
            label="SSIM, 0 to 1 (higher is better)",
            sign=1,
            make=lambda: _without_rate(ssim),
            pictured=False,
        ),
        IMAGE(
            name="ms_ssim",
            label="MS-SSIM, 0 to 1 (higher is better)",
            sign=1,
            make=lambda: _without_rate(ms_ssim),
        ),
        IMAGE(
            name="lpips",
            label="LPIPS, 0 is equal (lower is better)",
            sign=-1,
            make=lambda path: _without_rate(partial(lpips, load_lpips(path))),
            use=ABLE,
            packages=(TORCHVISION,),
            weights=(BACKBONE,),
            licence="Apache-2.0; of the weights: as their file says",
        ),
        IMAGE(
            name="ssimulacra2",
            label="SSIMULACRA2, up to 100 (higher is better)",
            sign=1,
            make=lambda: _without_rate(ssimulacra),
            use=ABLE,
            pictured=False,
            packages=(SSIMULACRA2,),
            licence="BSD-3-Clause",
        ),
        IMAGE(
            name="dists",
            label="DISTS, 0 is equal (lower is better)",
            sign=-1,
            make=lambda *paths: _without_rate(partial(dists, load_dists(*paths))),
            use=ASKED,
            packages=(DISTS_PYTORCH,),
            weights=(BACKBONE, inside(DISTS_PYTORCH, "weights.pt")),
            licence="Apache-2.0; of the weights: MIT, and as the backbone's file says",
        ),
        FEATURES(
            name="relative_error",
            label="relative error (lower is better)",
            sign=-1,
            make=lambda: _without_rate(relative_error),
        ),
        FEATURES(
            name="cosine",
            label="cosine (higher is better)",
            sign=1,
            make=lambda: _without_rate(cosine),
        ),
    )
}
METRICS: dict[str, dict[str, Measure]] = {  # that need nothing and are measured always
    modality: {
        name: metric.make() for name, metric in KNOWN.items() if (metric.modality, metric.use) == (modality, ALWAYS)
    }
    for modality in ("audio", "image", "features")
}


# -- which are measured ----------------------------------------------------------------------------------------


def default_metrics(modality: str, tools: Tools = Tools()) -> list[str]:  # noqa: B008 - it cannot change
    """Metrics that are measured unless others are asked for: the cheap ones that can run here."""
    here = (metric for metric in KNOWN.values() if metric.modality == modality and metric.use != ASKED)
    return [metric.name for metric in here if not metric.missing(tools)]


def metrics_of(
    modality: str,
    tools: Tools = Tools(),  # noqa: B008
    names: Sequence[str] | None = None,
) -> dict[str, Measure]:
    """Metrics by name, the default ones if none are named; one that cannot run says why when it is used."""
    names = default_metrics(modality, tools) if names is None else names
    return {name: METRICS[modality].get(name) or Lazy(KNOWN[name], tools) for name in names}


def chosen(modality: str, text: str, default: Sequence[str]) -> list[str]:
    """The metrics that a list of names means, in which "default" and "all" stand for several.

    Raises:
        ValueError: If a name is none of a metric of that modality.
    """
    every = [metric.name for metric in KNOWN.values() if metric.modality == modality]
    names: list[str] = []
    for name in text.lower().split(","):
        if name not in (*every, "default", "all"):
            raise ValueError(
                f"metrics of {modality} are {', '.join(every)}, and default and all, got {name!r}; name some of them"
            )
        names += {"default": list(default), "all": every}.get(name, [name])
    return list(dict.fromkeys(names))


def metric_names(modality: str, summary: Mapping[str, Any]) -> list[str]:
    """Metrics of a modality that a summary has, in the order in which they are known."""
    return [metric.name for metric in KNOWN.values() if metric.modality == modality and metric.name in summary]


def origins(names: Sequence[str], tools: Tools) -> dict[str, dict[str, Any]]:
    """What the figures of some metrics come from, by name."""
    return {name: KNOWN[name].origin(tools) for name in names}


def tools_of(perceptual: str | None, whisper: str | None) -> Tools:
    """Files named on the command line or, of Whisper, in the environment."""
    return Tools(perceptual, whisper or os.environ.get(WHISPER) or None)
