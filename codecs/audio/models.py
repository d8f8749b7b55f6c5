"""Named audio codecs: parts in order, numbers once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sigtok.codecs.codec import Codec
from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.queries import QueryDecoder, QueryEncoder
from sigtok.codecs.spec import CodecSpec

from .fronts import SpectrumBack, SpectrumFront
from .query import AudioQueryDecoder, AudioQueryEncoder


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
    residual = [EMAVQ(codebook_size, latent_dim) for _ in range(codebooks)]
    codes = Residual(residual) if quantizer is None else build(quantizer)
    past = max(1, round(context * sample_rate / (hop * windows[0])))
    return Codec(
        spec=CodecSpec(
            name=name,
            modality="audio",
            channels=1,
            sample_rate=sample_rate,
            hop=(hop,),
            windows=shapes,
            codebook_sizes=codes.codebook_sizes,
            strides=codes.strides,
            latent_dim=latent_dim,
            causal=True,
        ),
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
