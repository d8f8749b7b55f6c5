"""Teachers: frozen models of speech and sound whose features say what is heard, for a codec to say it too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from sigtok.codecs.metrics.mfcc import mfcc
from sigtok.codecs.transforms.precision import no_autocast

RATE = 16_000  # Hz, of what cepstra and all speech models here are made from
SITE = "https://download.pytorch.org/torchaudio/models/"
FLOOR = 1e-3  # of the deviation of a cepstral coefficient: silence does not divide
BUNDLES = [
    name
    for name in dir(torchaudio.pipelines)
    if isinstance(getattr(torchaudio.pipelines, name), torchaudio.pipelines.Wav2Vec2Bundle)
]


class Teacher(ABC):
    """Abstract base: a function from sound to features, frame n speaking for second n / frame_rate to the next.

    No module on purpose: whoever holds a teacher neither trains it, nor puts it into training mode, nor stores it.

    Args:
        name: What it is, for records.
        sample_rate: Hz of the sound it is given.
        own_rate: Hz of the sound it works on.
        hop: Samples of that per frame.
        channels: Width F of its features.
    """

    def __init__(self, name: str, sample_rate: int, own_rate: int, hop: int, channels: int) -> None:
        self.name, self.sample_rate, self.own_rate, self.hop = name, sample_rate, own_rate, hop
        self.channels, self.frame_rate = channels, own_rate / hop

    def __call__(self, audio: Float[Tensor, "B 1 T"]) -> Float[Tensor, "B N F"]:
        """Features of sound in [-1, 1], as many frames as begin in it; float32, without gradient.

        Raises:
            ValueError: Without a single sample.
        """
        if not audio.shape[-1]:
            raise ValueError("a teacher hears at least one sample, got none; leave empty files out")
        with torch.no_grad(), no_autocast(audio):
            signal = torchaudio.functional.resample(audio[:, 0].float(), self.sample_rate, self.own_rate)
            return self.features(F.pad(signal, (0, -signal.shape[-1] % self.hop)))

    @abstractmethod
    def features(self, signal: Float[Tensor, "B T"]) -> Float[Tensor, "B N F"]:
        """Features of whole frames at the teacher's own rate."""


def teacher(
    name: str = "mfcc",
    sample_rate: int = 24_000,
    layers: Sequence[int] | None = None,
    weights: str | None = None,
    download: bool = False,
) -> Teacher:
    """A teacher by name.

    Args:
        name: "mfcc", or a bundle of ``torchaudio.pipelines`` ("HUBERT_BASE", "WAV2VEC2_BASE", "WAVLM_BASE", ...).
        sample_rate: Hz of the sound it will be given.
        layers: Of a bundle: transformer blocks, from 1, whose outputs are averaged; all by default (SpeechTokenizer).
        weights: Of a bundle: file of its state dict, as torchaudio publishes it (``.pth``), or safetensors.
        download: Of a bundle: fetch the weights from torchaudio's site. Nothing else ever does.

    Raises:
        ValueError: If there is no such teacher, or its weights are missing or another's.
    """
    if name != "mfcc":
        return SpeechModel(name, sample_rate, layers, weights, download)
    if layers is not None or weights is not None or download:
        raise ValueError("the teacher mfcc has no layers and no weights; drop layers, weights and download")
    return Cepstra(sample_rate)


class Cepstra(Teacher):
    """39 cepstral features (13, their slopes, the slopes of these) at 50 Hz; needs no weights.

    Every channel of every item has mean 0 and deviation 1 over time. The first clusters of HuBERT were made of cepstra
    and their slopes (Hsu et al., 2021, arXiv 2106.07447), at 100 Hz; these are every second frame.

    Args:
        sample_rate: Hz of the sound it is given.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__("mfcc", sample_rate, RATE, hop=RATE // 50, channels=39)

    def features(self, signal: Float[Tensor, "B T"]) -> Float[Tensor, "B N F"]:
        """Frames 1, 3, 5, ... of 100 Hz: those centred in frames of 50 Hz."""
        cepstra = torch.stack([mfcc(item, RATE)[1::2] for item in signal])
        centred = cepstra - cepstra.mean(1, keepdim=True)
        return centred / centred.square().mean(1, keepdim=True).sqrt().clamp_min(FLOOR)


class SpeechModel(Teacher):
    """A self-supervised model of a torchaudio bundle: the mean of the outputs of some of its transformer blocks.

    The signal is lengthened at both ends by half of what a frame sees beyond its hop, so that frame n is centred in its
    hop and none is missing at the end (SpeechTokenizer's issue 4).

    Args:
        name: Of the bundle.
        sample_rate: Hz of the sound it is given.
        layers: Blocks, from 1; None for all.
        weights: File of the state dict.
        download: Whether to fetch it.

    Raises:
        ValueError: If there is no such bundle or block, or weights are missing or another model's.
    """

    def __init__(
        self, name: str, sample_rate: int, layers: Sequence[int] | None, weights: str | None, download: bool
    ) -> None:
        bundle: Any = getattr(torchaudio.pipelines, name, None)
        if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle):
            raise ValueError(
                f"teachers are mfcc and the bundles of torchaudio.pipelines ({', '.join(BUNDLES)}), got {name!r}"
            )
        parameters = {**bundle._params, "aux_num_out": None}  # features need no head
        depth = parameters["encoder_num_layers"]
        self.layers = tuple(range(1, depth + 1)) if layers is None else tuple(layers)
        if not self.layers or not all(1 <= layer <= depth for layer in self.layers):
            raise ValueError(f"{name} has layers 1 to {depth}, got {list(self.layers)}")
        _, kernels, strides = zip(*parameters["extractor_conv_layer_config"], strict=True)
        steps = [prod(strides[:index]) for index in range(len(strides))]
        hop = prod(strides)
        said = "all layers" if layers is None else f"layers {','.join(map(str, self.layers))}"
        super().__init__(f"{name} {said}", sample_rate, int(bundle.sample_rate), hop, parameters["encoder_embed_dim"])
        beyond = sum((kernel - 1) * step for kernel, step in zip(kernels, steps, strict=True)) + 1 - hop
        self.ends = (beyond // 2, beyond - beyond // 2)
        self.normalises = bundle._normalize_waveform
        state = stored(bundle, name, weights, download)
        make = torchaudio.models.wavlm_model if bundle._model_type == "WavLM" else torchaudio.models.wav2vec2_model
        with torch.random.fork_rng(devices=[]):  # initial values are overwritten; the caller's dice stay
            self.network = make(**parameters)
        try:
            self.network.load_state_dict({key: value for key, value in state.items() if not key.startswith("aux.")})
        except RuntimeError as error:
            message = " ".join(str(error).split())
            raise ValueError(f"{weights or SITE} does not hold the weights of {name}: {message:.300}") from None
        self.network.eval().requires_grad_(False)

    def features(self, signal: Float[Tensor, "B T"]) -> Float[Tensor, "B N F"]:
        """The mean over layers."""
        self.network.to(signal.device)
        if self.normalises:
            signal = F.layer_norm(signal, signal.shape[-1:])  # item by item; the bundle itself takes the batch as one
        outputs, _ = self.network.extract_features(F.pad(signal, self.ends), num_layers=max(self.layers))
        return torch.stack([outputs[layer - 1] for layer in self.layers]).mean(0)


def stored(bundle: Any, name: str, weights: str | None, download: bool) -> dict[str, Tensor]:
    """The state dict of a bundle.

    Raises:
        ValueError: If it is neither given nor to be fetched, or cannot be read.
    """
    if weights is None:
        if not download:
            raise ValueError(
                f"teacher {name} needs weights and none are given; fetch {SITE}{bundle._path} and set weights to the "
                f"file, or set download: true, or take the teacher mfcc"
            )
        return bundle._get_state_dict(None)
    try:
        if Path(weights).suffix == ".safetensors":
            return safetensors.torch.load_file(weights)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # of three libraries
        raise ValueError(f"weights of {name} are a state dict, {weights} is not read: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"weights of {name} are a state dict, tensors by name, {weights} holds something else")
    return state
