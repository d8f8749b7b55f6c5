"""Named audio codecs: parts in order, numbers once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sigtok.codecs.anchored import AnchoredQueryDecoder, AnchoredQueryEncoder
from sigtok.codecs.codec import Codec
from sigtok.codecs.densities.spectral import SpectralDensity
from sigtok.codecs.layers.ladder import first_steps, geometric
from sigtok.codecs.layers.standardise import Standardise
from sigtok.codecs.layers.transformer import Attention, WindowTransformer
from sigtok.codecs.quantizers.base import Quantizer
from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.scalar import Scalar
from sigtok.codecs.queries import QueryDecoder, QueryEncoder
from sigtok.codecs.spec import CodecSpec

from .ends import front_and_back
from .frames import FrameDecoder, FrameEncoder
from .fronts import SpectrumBack, SpectrumFront
from .query import AudioQueryDecoder, AudioQueryEncoder
from .semantic import SemanticDecoder, SemanticEncoder
from .source_back import SourceBack
from .voice import VoiceCode, VoiceDecoder, VoiceEncoder
from .voice_front import VoiceFront
from .walloc import Spectrum, WallocAudioDecoder, WallocAudioEncoder


def residual(codebooks: int, codebook_size: int, dim: int) -> dict[str, Any]:
    """The description of a residual VQ of codes that are moving averages."""
    stages = {"copies": codebooks, "name": "ema", "codebook_size": codebook_size, "dim": dim}
    return {"name": "residual", "stages": stages}


def mono(
    name: str,
    sample_rate: int,
    hop: int,
    windows: Sequence[int],
    codes: Quantizer,
    latent_dim: int,
    queries: int = 1,
    causal: bool = True,
    lookahead: int = 0,
) -> CodecSpec:
    """The spec of a codec of one channel of sound."""
    return CodecSpec(
        name=name,
        modality="audio",
        channels=1,
        sample_rate=sample_rate,
        hop=(hop,),
        windows=tuple((window,) for window in windows),
        queries=queries,
        codebook_sizes=codes.codebook_sizes,
        strides=codes.strides,
        latent_dim=latent_dim,
        causal=causal,
        lookahead=lookahead,
    )


def query_speech(
    name: str = "query_speech",
    sample_rate: int = 24_000,
    frame_hop: int = 320,
    frame_size: int = 960,
    stack: int = 3,
    windows: Sequence[int] = (2,),
    context: float = 2.0,
    dim: int = 256,
    heads: int = 4,
    encoder_depth: int = 3,
    decoder_depth: int = 3,
    decoder_blocks: int = 3,
    codebooks: int = 8,
    codebook_size: int = 2048,
    latent_dim: int = 32,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """A causal query codec for speech: spectra at 75 Hz, positions at 25 Hz, one query every 2 positions, residual VQ.

    12.5 Hz x 8 codebooks of 2048: 0.14 to 1.1 kbps by the number of codebooks. A token depends on nothing after its
    window.

    Args:
        name: The model's name.
        sample_rate: Hz.
        frame_hop: Samples between spectra.
        frame_size: Samples in a spectrum; an odd multiple of ``frame_hop``.
        stack: Spectra per position.
        windows: Positions per query, the default first.
        context: Seconds before its own window that a window sees, per layer.
        dim: Width of the transformers.
        heads: Attention heads.
        encoder_depth: Transformer blocks of the encoder.
        decoder_depth: Transformer blocks of the decoder.
        decoder_blocks: Convolution blocks at the rate of spectra.
        codebooks: Codebooks Q.
        codebook_size: Codes K in each.
        latent_dim: Width of the latents.
        quantizer: Description of another quantizer of that width (`quantizers.build`), in place of the residual VQ.
    """
    hop = frame_hop * stack
    shapes = tuple((window,) for window in windows)
    codes = build(quantizer or residual(codebooks, codebook_size, latent_dim))
    past = max(1, round(context * sample_rate / (hop * windows[0]))) * windows[0]  # positions
    return Codec(
        spec=mono(name, sample_rate, hop, windows, codes, latent_dim),
        encoder=AudioQueryEncoder(
            front=SpectrumFront(frame_size, frame_hop, stack, dim),
            queries=QueryEncoder(WindowTransformer(dim, encoder_depth, heads, past), shapes, queries=1),
            latent_dim=latent_dim,
            hop=hop,
        ),
        quantizer=codes,
        decoder=AudioQueryDecoder(
            back=SpectrumBack(frame_size, frame_hop, stack, dim, decoder_blocks),
            queries=QueryDecoder(WindowTransformer(dim, decoder_depth, heads, past), shapes, queries=1),
            latent_dim=latent_dim,
        ),
    )


def query_voice(
    name: str = "query_voice",
    sample_rate: int = 24_000,
    frame_hop: int = 320,
    frame_size: int = 960,
    stack: int = 3,
    window: int = 2,
    context: float = 2.0,
    dim: int = 256,
    heads: int = 4,
    encoder_depth: int = 2,
    decoder_depth: int = 3,
    decoder_blocks: int = 3,
    taps: int = 2,
    bands: int = 40,
    cepstra: Sequence[int] = (29, 11, 6, 3, 1),
    learned: int = 8,
    codebooks: int = 8,
    codebook_size: int = 2048,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """A causal query codec for voices: cepstra, pitch and what queries add, of windows of 80 ms, residual VQ.

    12.5 Hz x 8 codebooks of 2048: 0.14 to 1.1 kbps by the number of codebooks. A token depends on nothing after its
    window. `voice` says how it works.

    Args:
        name: The model's name.
        sample_rate: Hz.
        frame_hop: Samples between spectra.
        frame_size: Samples in a spectrum; an odd multiple of ``frame_hop``.
        stack: Spectra per position.
        window: Positions per query.
        context: Seconds before its own window that a window sees, per layer.
        dim: Width of the transformers.
        heads: Attention heads.
        encoder_depth: Transformer blocks of the encoder.
        decoder_depth: Transformer blocks of the decoder.
        decoder_blocks: Convolution blocks at the rate of spectra.
        taps: Points of a window that a linear path around the transformers reads and writes, 0 for none.
        bands: Mel bands of the envelope.
        cepstra: Coefficients over the bands for every one over time (`VoiceCode`).
        learned: Numbers of a latent that only queries say.
        codebooks: Codebooks Q.
        codebook_size: Codes K in each.
        quantizer: Description of another quantizer of that width (`quantizers.build`), in place of residual VQ with a
            beam search.
    """
    hop, frames, shapes = frame_hop * stack, stack * window, ((window,),)
    code = VoiceCode(bands, frames, cepstra, learned)
    stages = {"copies": codebooks, "name": "vq", "codebook_size": codebook_size, "dim": code.dim}
    codes = build(quantizer or {"name": "additive", "stages": stages, "beam": 8})
    past = max(1, round(context * sample_rate / (hop * window))) * window  # positions
    reading, writing = (WindowTransformer(dim, depth, heads, past) for depth in (encoder_depth, decoder_depth))
    return Codec(
        spec=mono(name, sample_rate, hop, (window,), codes, code.dim),
        encoder=VoiceEncoder(
            front=VoiceFront(frame_size, frame_hop, stack, dim, bands, sample_rate),
            queries=QueryEncoder(reading, shapes, queries=1, taps=taps),
            code=code,
        ),
        quantizer=codes,
        decoder=VoiceDecoder(
            back=SourceBack(frame_size, frame_hop, stack, dim, decoder_blocks, bands, sample_rate),
            queries=QueryDecoder(writing, shapes, queries=1, taps=taps),
            code=code,
        ),
    )


def almtokenizer(
    name: str = "almtokenizer",
    sample_rate: int = 24_000,
    hop: int = 320,
    front: str = "spectrum",
    front_options: Mapping[str, Any] | None = None,
    windows: Sequence[int] = (6, 2, 3, 4, 5, 7, 8, 9, 10),
    attention: Attention = "window_causal",
    context: float = 2.0,
    dim: int = 256,
    heads: int = 4,
    encoder_depth: int = 4,
    decoder_depth: int = 4,
    taps: int = 4,
    codebooks: int = 8,
    codebook_size: int = 2048,
    latent_dim: int = 32,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """ALMTokenizer (arXiv 2504.10344): a query after every w frames of 75 Hz, w from 2 to 10 per run, residual VQ.

    At w = 6: 12.5 Hz x 8 codebooks of 2048, 0.14 to 1.1 kbps by the number of codebooks; 37.5 Hz at w = 2 and 7.5 Hz at
    w = 10 from the same weights.

    Args:
        name: The model's name.
        sample_rate: Hz.
        hop: Samples per frame.
        front: What makes frames of samples and samples of frames, a key of `ends.KINDS`.
        front_options: Its options.
        windows: Frames w per query, the default first; training draws from them.
        attention: Which windows a window sees: "window_causal" streams, "local" sees both sides, "full" all.
        context: Seconds beside its own window that a window sees, per layer; not used by "full".
        dim: Width of the transformers.
        heads: Attention heads.
        encoder_depth: Transformer blocks of the encoder.
        decoder_depth: Transformer blocks of the decoder.
        taps: Points of a window that a linear path around the transformers reads and writes, 0 for none.
        codebooks: Codebooks Q.
        codebook_size: Codes K in each.
        latent_dim: Width of the latents.
        quantizer: Description of another quantizer of that width (`quantizers.build`), in place of the residual VQ.
    """
    shapes = tuple((window,) for window in windows)
    codes = build(quantizer or residual(codebooks, codebook_size, latent_dim))
    reach = 0 if attention == "full" else max(1, round(context * sample_rate / hop))
    farthest = max(-(-reach // window) * window for window in windows)  # attention sees whole windows
    into, back = front_and_back(front, hop, dim, front_options)
    reading, writing = (
        WindowTransformer(dim, depth, heads, reach, attention=attention) for depth in (encoder_depth, decoder_depth)
    )
    return Codec(
        spec=mono(
            name,
            sample_rate,
            hop,
            windows,
            codes,
            latent_dim,
            causal=attention == "window_causal",
            lookahead=encoder_depth * farthest * hop if attention == "local" else 0,
        ),
        encoder=AudioQueryEncoder(into, QueryEncoder(reading, shapes, 1, taps), latent_dim, hop),
        quantizer=codes,
        decoder=AudioQueryDecoder(back, QueryDecoder(writing, shapes, 1, taps), latent_dim),
    )


def frame_speech(
    name: str = "frame_speech",
    sample_rate: int = 24_000,
    hop: int = 320,
    front: str = "seanet",
    front_options: Mapping[str, Any] | None = None,
    window: int = 1,
    context: float = 2.0,
    dim: int = 256,
    heads: int = 4,
    depth: int = 0,
    codebooks: int = 8,
    codebook_size: int = 1024,
    latent_dim: int = 128,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """A causal codec without queries: a latent is a linear map of w frames, behind a transformer if it has depth.

    With the SEANet front and no depth this is EnCodec's shape (arXiv 2210.13438); with depth, w = 2 of 25 Hz frames and
    a split quantizer, Mimi's (arXiv 2410.00037); with one codebook, WavTokenizer's (arXiv 2408.16532).

    Args:
        name: The model's name.
        sample_rate: Hz.
        hop: Samples per frame.
        front: What makes frames of samples and samples of frames, a key of `ends.KINDS`.
        front_options: Its options.
        window: Frames w per latent.
        context: Seconds before its own window that a window sees, per layer.
        dim: Width of the frames.
        heads: Attention heads.
        depth: Transformer blocks of the encoder, and of the decoder.
        codebooks: Codebooks Q.
        codebook_size: Codes K in each.
        latent_dim: Width of the latents.
        quantizer: Description of another quantizer of that width (`quantizers.build`), in place of the residual VQ.
    """
    codes = build(quantizer or residual(codebooks, codebook_size, latent_dim))
    reach = max(1, round(context * sample_rate / hop))
    into, back = front_and_back(front, hop, dim, front_options)
    reading, writing = (WindowTransformer(dim, depth, heads, reach) for _ in range(2))
    return Codec(
        spec=mono(name, sample_rate, hop, (window,), codes, latent_dim),
        encoder=FrameEncoder(into, reading, window, latent_dim, hop),
        quantizer=codes,
        decoder=FrameDecoder(back, writing, window, latent_dim),
    )


def elastic_speech(
    name: str = "elastic_speech",
    sample_rate: int = 24_000,
    frame_hop: int = 320,
    frame_size: int = 960,
    stack: int = 3,
    windows: Sequence[int] = (8,),
    queries: int = 8,
    context: float = 2.0,
    dim: int = 256,
    heads: int = 4,
    encoder_depth: int = 3,
    decoder_depth: int = 3,
    decoder_blocks: int = 3,
    codebooks: int = 8,
    codebook_size: int = 2048,
    latent_dim: int = 32,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """A causal query codec for speech of many budgets: an anchor and up to 8 queries for 320 ms, residual VQ.

    ``Rate(queries=1 + k)`` sends the anchor and k queries: 3.125 Hz for the anchor alone, 28.125 Hz for all, times the
    codebooks in use; 0.03 to 2.5 kbps. Positions at 25 Hz make half the slots that single spectra at 75 Hz would, and
    lose none of them: a position is a linear map of three.

    Args:
        name: The model's name.
        sample_rate: Hz.
        frame_hop: Samples between spectra.
        frame_size: Samples in a spectrum; an odd multiple of ``frame_hop``.
        stack: Spectra per position.
        windows: Positions per window, the default first.
        queries: Queries per window beside the anchor, at least 1.
        context: Seconds before its own window that a window sees, per layer.
        dim: Width of the transformers.
        heads: Attention heads.
        encoder_depth: Transformer blocks of the encoder.
        decoder_depth: Transformer blocks of the decoder.
        decoder_blocks: Convolution blocks at the rate of spectra.
        codebooks: Codebooks Q.
        codebook_size: Codes K in each.
        latent_dim: Width of the latents.
        quantizer: Description of another quantizer of that width (`quantizers.build`), in place of the residual VQ.
    """
    hop, slots = frame_hop * stack, 1 + queries
    shapes = tuple((window,) for window in windows)
    codes = build(quantizer or residual(codebooks, codebook_size, latent_dim))
    past = max(1, round(context * sample_rate / (hop * windows[0]))) * windows[0]  # positions
    return Codec(
        spec=mono(name, sample_rate, hop, windows, codes, latent_dim, slots),
        encoder=AudioQueryEncoder(
            front=SpectrumFront(frame_size, frame_hop, stack, dim),
            queries=AnchoredQueryEncoder(WindowTransformer(dim, encoder_depth, heads, past), shapes, slots),
            latent_dim=latent_dim,
            hop=hop,
        ),
        quantizer=codes,
        decoder=AudioQueryDecoder(
            back=SpectrumBack(frame_size, frame_hop, stack, dim, decoder_blocks),
            queries=AnchoredQueryDecoder(WindowTransformer(dim, decoder_depth, heads, past), shapes, slots),
            latent_dim=latent_dim,
            bias=False,
        ),
    )


def semantic_features(
    name: str = "semantic_features",
    channels: int = 1024,
    frame_rate: int = 50,
    stride: int = 2,
    dim: int = 384,
    depth: int = 12,
    codebook_size: int = 8192,
    codebook_dim: int = 8,
    latent_dim: int = 256,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """A causal codec of features, not of sound: 50 Hz of a frozen network in and out, one code of 8192 at 25 Hz.

    325 bits per second. The codes are those of direction in few dimensions, k-means first, unused ones renewed.

    Args:
        name: The model's name.
        channels: Feature channels F.
        frame_rate: Frames of features per second.
        stride: Frames per code; published ones have 1, 2 or 4.
        dim: Width of the convolution blocks.
        depth: Blocks of the encoder, and of the decoder.
        codebook_size: Codes K.
        codebook_dim: Width in which codes are compared.
        latent_dim: Width of the latents.
        quantizer: Description of another quantizer of that width (`quantizers.build`), in place of the one codebook.
    """
    policy = {"start": "kmeans", "revive": 0.1}
    code = {"name": "vq", "codebook_size": codebook_size, "dim": codebook_dim, "metric": "sphere", "lifecycle": policy}
    codes = build(quantizer or {"name": "projected", "inner": code, "dim": latent_dim})
    scale = Standardise(channels)
    return Codec(
        spec=CodecSpec(
            name=name,
            modality="features",
            channels=channels,
            sample_rate=frame_rate,
            hop=(stride,),
            codebook_sizes=codes.codebook_sizes,
            strides=codes.strides,
            latent_dim=latent_dim,
            causal=True,
        ),
        encoder=SemanticEncoder(scale, channels, stride, dim, depth, latent_dim),
        quantizer=codes,
        decoder=SemanticDecoder(scale, channels, stride, dim, depth, latent_dim),
    )


def walloc_stereo(
    name: str = "walloc_stereo",
    sample_rate: int = 44_100,
    bins: int = 2048,
    spectrum: Literal["mdct", "wavelet"] = "mdct",
    full: bool = False,
    width: int = 256,
    depth: int = 4,
    qualities: int = 6,
    quality_steps: int = 16,
    first: float = 200.0,
    last: float = 1e6,
    bits: int = 16,
    hidden: int = 32,
) -> Codec:
    """A rate-distortion codec of stereo sound in WaLLoC's shape: linear encoder, deep decoder, entropy coded numbers.

    Tokens are mid and side of bin after bin, frame after frame; `SpectralDensity` codes them.

    Args:
        name: The model's name.
        sample_rate: Hz.
        bins: Of a frame, and samples of it.
        spectrum: "mdct", or "wavelet" for WaLLoC's packet (256 bins there).
        full: Whether the linear maps mix all bins, as WaLLoC's do, or only mid with side.
        width: Channels of the decoder's blocks.
        depth: How many.
        qualities: Rungs; their gains are learned.
        quality_steps: Operating points from one rung to the next, by interpolated gains.
        first: Lambda of the lowest quality, from which its steps start (`RateDistortion`).
        last: That of the highest.
        bits: Of a whole number, the largest that a file can hold.
        hidden: Of `SpectralDensity`.
    """
    parts = Spectrum(bins, spectrum)
    steps = first_steps(geometric(first, last, qualities))
    codes = Scalar(2, bits, compand=False, noise=False)
    spec = CodecSpec(
        name=name,
        modality="audio",
        channels=2,
        sample_rate=sample_rate,
        hop=(bins,),
        queries=bins,
        codebook_sizes=codes.codebook_sizes,
        latent_dim=2,
        lookahead=parts.lookahead,
        qualities=qualities,
        quality_steps=quality_steps,
    )
    encoder = WallocAudioEncoder(parts, steps, full)
    decoder = WallocAudioDecoder(parts, steps, full, width, depth, sample_rate)
    density = SpectralDensity(codes.codebook_sizes[0], bins, qualities, quality_steps, hidden)
    return Codec(spec, encoder, codes, decoder, density)
