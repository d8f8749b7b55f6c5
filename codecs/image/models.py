"""Named image codecs: parts in order, numbers once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigtok.codecs.codec import Codec
from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.ibq import IBQ
from sigtok.codecs.quantizers.lifecycle import Lifecycle
from sigtok.codecs.queries import QueryDecoder, QueryEncoder
from sigtok.codecs.spec import CodecSpec

from .query import ImageQueryDecoder, ImageQueryEncoder, WaveletFront


def query_image(
    name: str = "query_image",
    levels: int = 4,
    tile: int = 16,
    queries: int = 256,
    dim: int = 256,
    heads: int = 4,
    encoder_depth: int = 3,
    decoder_depth: int = 4,
    codebook_size: int = 16_384,
    latent_dim: int = 16,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """A query codec for RGB photos of any extent: tiles of 256 x 256 pixels, up to 256 tokens of IBQ 16,384 each.

    3,584 bits a tile, 0.055 bits per pixel; fewer with fewer queries.

    Args:
        name: The model's name.
        levels: Wavelet packet levels; a position is ``2^levels`` pixels wide.
        tile: Positions along each side of a tile.
        queries: Most queries per tile.
        dim: Width of the transformers.
        heads: Attention heads.
        encoder_depth: Transformer blocks of the encoder.
        decoder_depth: Transformer blocks of the decoder.
        codebook_size: Codes K.
        latent_dim: Width of the latents.
        quantizer: Description of another quantizer of that width (`quantizers.build`), in place of the IBQ, which
            starts from latents of the first batches and replaces codes that die.
    """
    bands, windows = 3 * 4**levels, ((tile, tile),)
    front = WaveletFront(levels)
    policy = Lifecycle(start="samples", start_vectors=1, revive=0.1)
    codes = IBQ(codebook_size, latent_dim, lifecycle=policy) if quantizer is None else build(quantizer)
    return Codec(
        spec=CodecSpec(
            name=name,
            modality="image",
            channels=3,
            sample_rate=None,
            hop=(2**levels, 2**levels),
            windows=windows,
            queries=queries,
            codebook_sizes=codes.codebook_sizes,
            strides=codes.strides,
            latent_dim=latent_dim,
        ),
        encoder=ImageQueryEncoder(
            front=front,
            queries=QueryEncoder(WindowTransformer(dim, encoder_depth, heads, base=100.0), windows, queries),
            bands=bands,
            latent_dim=latent_dim,
        ),
        quantizer=codes,
        decoder=ImageQueryDecoder(
            front=front,
            queries=QueryDecoder(WindowTransformer(dim, decoder_depth, heads, base=100.0), windows, queries),
            bands=bands,
            latent_dim=latent_dim,
            pixels=2**levels,
        ),
    )
