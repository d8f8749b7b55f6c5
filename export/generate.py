"""New signals from a language model of tokens: drawn id by id, decoded by the codec that the tokens are of."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from tqdm import tqdm

from sigtok.codecs.codec import Codec
from sigtok.codecs.language.folder import LanguageModel, load_language
from sigtok.codecs.language.ids import Language
from sigtok.codecs.language.sampling import draw
from sigtok.codecs.pretrained import stream_id
from sigtok.codecs.spec import Extent
from sigtok.codecs.tokens import Tokens

from .exits import GOOD, USAGE, Failure, say
from .inputs import Inputs, Item, Reader
from .outputs import Outputs
from .released import bundled_of, open_model
from .transcode import WRITTEN, write_signal

LONGEST = 30.0  # seconds of a sound that nobody ends
TOGETHER = 16  # signals drawn at once


def generate(args: Namespace) -> int:
    """Sounds or pictures, each a function of the model, the options, the seed and its number."""
    if not Path(args.language).is_dir():
        raise Failure(
            USAGE, f"{args.language}: a language model is a folder, got none; make it: sigtok-train release-lm"
        )
    if args.prompt_seconds is not None and args.prompt is None:
        raise Failure(USAGE, "--prompt-seconds cuts a prompt, got none; name a sound with --prompt")
    model = load_language(args.language)
    extent, most = _length(model.language, args.seconds)
    if model.language.meaning.spec.modality == "image" and args.prompt is not None:
        raise Failure(USAGE, "--prompt is the beginning of a sound, got a model of pictures; leave it out")
    items = tuple(Item(args.prompt or args.language, f"{number:03d}") for number in range(args.count or 1))
    inputs = Inputs(items, single=args.count is None)
    suffixes = WRITTEN[model.language.meaning.spec.modality]
    outputs = Outputs(args.output, inputs, suffixes)
    codec = _codec_of(model.language, args.model, args.device)
    model = LanguageModel(model.language, model.network.to(args.device))
    prompt = None if args.prompt is None else _prompt(codec, model.language, args)
    if prompt is not None and extent is not None and extent[0] <= prompt.extents[0][0]:
        begun = prompt.extents[0][0] / (codec.spec.sample_rate or 1)
        raise Failure(USAGE, f"--seconds counts the prompt of {begun:g} s, got {args.seconds:g}; ask for more")
    for first in tqdm(range(0, len(items), TOGETHER), disable=None):
        numbers = range(first, min(first + TOGETHER, len(items)))
        generators = [_generator(args.seed, number) for number in numbers]
        options = {"temperature": args.temperature, "top_k": args.top_k}
        drawn = draw(model, generators, extent=extent, most=most, prompt=prompt, **options)
        for number, tokens, ended in zip(numbers, drawn.tokens, drawn.ended, strict=True):
            if not ended:
                say(f"{items[number].stem}: did not end within {LONGEST:g} s and is cut there; or set --seconds")
            signal = codec.decode(tokens.to(args.device))[0].cpu()
            with outputs.place(items[number], suffixes) as target:
                write_signal(target, signal, codec.spec)
    return GOOD


def _length(language: Language, seconds: float | None) -> tuple[Extent | None, int | None]:
    """The extent of what is drawn, or the most ids of a sound that the model ends itself."""
    spec, rate = language.meaning.spec, language.meaning.rate
    if spec.sample_rate is None:
        if seconds is not None:
            raise Failure(USAGE, f"--seconds is of sounds, got a model of pictures of {language.extent}; leave it out")
        return language.extent, None
    if seconds is not None:
        return (max(1, round(seconds * spec.sample_rate)),), None
    if not language.ids.layout.causal:
        raise Failure(USAGE, f"signals in the layout {language.layout} are drawn whole, got no length; set --seconds")
    return None, sum(spec.token_counts((round(LONGEST * spec.sample_rate),), rate))


def _codec_of(language: Language, name: str | None, device: str) -> Codec:
    """The codec that the tokens are of."""
    identity = language.meaning.stream_id
    found = name or bundled_of(identity)
    if found is None:
        raise Failure(
            USAGE,
            f"the tokens are of model {language.meaning.spec.name} ({identity}), which is none of the bundled; name "
            f"its folder with --codec",
        )
    codec = open_model(found, device)
    own = (codec.stream_id or stream_id(codec)).hex()
    if own != identity:
        raise Failure(
            USAGE, f"--codec {found}: the tokens are of model {identity}, got {own}; name the folder that made them"
        )
    return codec


def _prompt(codec: Codec, language: Language, args: Namespace) -> Tokens:
    """The tokens of the whole windows of what is to be gone on from."""
    rate = language.meaning.rate
    (step,) = codec.spec.step(rate)
    signal = Reader(codec.spec, args.downmix, say).read(args.prompt)
    samples = signal.shape[1]
    if args.prompt_seconds is not None and codec.spec.sample_rate:
        samples = min(samples, round(args.prompt_seconds * codec.spec.sample_rate))
    samples = samples // step * step
    if not samples:
        raise Failure(USAGE, f"{args.prompt}: a prompt has at least {step} samples, got fewer; use a longer one")
    return codec.encode(signal[None, :, :samples].to(args.device), rate).to("cpu")


def _generator(seed: int, number: int) -> torch.Generator:
    """Its own randomness for every signal of a seed."""
    return torch.Generator().manual_seed(seed * 2**20 + number)
