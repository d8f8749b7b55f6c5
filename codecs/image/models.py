"""Named image codecs: parts in order, numbers once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sigtok.codecs.anchored import AnchoredQueryDecoder, AnchoredQueryEncoder
from sigtok.codecs.codec import Codec
from sigtok.codecs.densities.base import Density
from sigtok.codecs.densities.factorised import FactorisedDensity
from sigtok.codecs.densities.hyperprior import HyperpriorDensity
from sigtok.codecs.densities.neighbours import NeighbourDensity
from sigtok.codecs.layers.ladder import first_steps, geometric
from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.quantizers.base import Quantizer
from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.granular import Granular
from sigtok.codecs.quantizers.ibq import IBQ
from sigtok.codecs.quantizers.lifecycle import Lifecycle
from sigtok.codecs.quantizers.scalar import Scalar
from sigtok.codecs.queries import QueryDecoder, QueryEncoder
from sigtok.codecs.spec import CodecSpec

from .compact import CompactDecoder, CompactEncoder
from .elastic import ElasticImageDecoder, ElasticImageEncoder, RankedCosines, expected_cosines
from .granular import GranularDecoder, GranularEncoder
from .query import ImageQueryDecoder, ImageQueryEncoder, released_scale
from .vqgan import VQGANDecoder, VQGANEncoder
from .walloc import Bands, WallocDecoder, WallocEncoder
from .wavelet_front import WaveletFront


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
    windows, front = ((tile, tile),), WaveletFront(levels, scale=released_scale(levels))
    codes = _quantizer(codebook_size, latent_dim, quantizer)
    return Codec(
        spec=_spec(name, front.hop, tile, queries, codes, latent_dim),
        encoder=ImageQueryEncoder(
            front=front,
            queries=QueryEncoder(WindowTransformer(dim, encoder_depth, heads, base=100.0), windows, queries),
            latent_dim=latent_dim,
        ),
        quantizer=codes,
        decoder=ImageQueryDecoder(
            front=front,
            queries=QueryDecoder(WindowTransformer(dim, decoder_depth, heads, base=100.0), windows, queries),
            latent_dim=latent_dim,
        ),
    )


def compact_image(
    name: str = "compact_image",
    levels: int = 4,
    width: int = 384,
    encoder_depth: int = 8,
    decoder_depth: int = 12,
    codebook_size: int = 16_384,
    latent_dim: int = 16,
    tile: int | None = None,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """A fast codec for RGB photos of any extent: one token of IBQ 16,384 for each 16 x 16 pixels, 0.055 bits per pixel.

    38,000 multiplications a pixel to encode, 57,000 to decode; a VQGAN takes a million and two.

    Args:
        name: The model's name.
        levels: Wavelet packet levels; a position is ``2^levels`` pixels wide.
        width: Channels of the blocks.
        encoder_depth: Blocks of the encoder.
        decoder_depth: Blocks of the decoder.
        codebook_size: Codes K.
        latent_dim: Width of the latents.
        tile: Positions along each side of a window, for quantizers that read tiles (VAR's scales, McQuic); None for
            plain raster order. The networks see across tiles all the same.
        quantizer: Description of another quantizer of that width (`quantizers.build`), as in `query_image`.
    """
    front, codes = WaveletFront(levels), _quantizer(codebook_size, latent_dim, quantizer)
    return Codec(
        spec=_spec(name, front.hop, tile or 1, (tile or 1) ** 2, codes, latent_dim),
        encoder=CompactEncoder(front, width, encoder_depth, latent_dim),
        quantizer=codes,
        decoder=CompactDecoder(front, width, decoder_depth, latent_dim),
    )


def vqgan_image(
    name: str = "vqgan_image",
    multipliers: Sequence[int] = (1, 1, 2, 2, 4),
    width: int = 128,
    blocks: int = 2,
    channels: int = 256,
    codebook_size: int = 16_384,
    latent_dim: int = 16,
    tile: int | None = None,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """The VQGAN's autoencoder with one token of IBQ 16,384 for each 16 x 16 pixels, 0.055 bits per pixel.

    72 M parameters; a million multiplications a pixel to encode, two to decode. The comparison for faster codecs.

    Args:
        name: The model's name.
        multipliers: Of the width, one a resolution, each half the one before: five for 16 pixels a position, four
            (1, 2, 2, 4) for 8.
        width: Channels at the resolution of pixels.
        blocks: Residual blocks of a resolution in the encoder (IBQ has 4); the decoder has one more.
        channels: Between the convolutions and the linear map to latents.
        codebook_size: Codes K.
        latent_dim: Width of the latents; LlamaGen has 8, IBQ 256.
        tile: As in `compact_image`.
        quantizer: As in `query_image`.
    """
    codes = _quantizer(codebook_size, latent_dim, quantizer)
    return Codec(
        spec=_spec(name, 2 ** (len(multipliers) - 1), tile or 1, (tile or 1) ** 2, codes, latent_dim),
        encoder=VQGANEncoder(width, multipliers, blocks, channels, latent_dim),
        quantizer=codes,
        decoder=VQGANDecoder(width, multipliers, blocks, channels, latent_dim),
    )


def _quantizer(codebook_size: int, latent_dim: int, description: Mapping[str, Any] | None) -> Quantizer:
    """The described quantizer, or an IBQ that starts from latents of the first batches and replaces codes that die."""
    if description is not None:
        return build(description)
    return IBQ(codebook_size, latent_dim, lifecycle=Lifecycle(start="samples", start_vectors=1, revive=0.1))


def _spec(name: str, hop: int, tile: int, queries: int, codes: Quantizer, latent_dim: int) -> CodecSpec:
    """The spec of an RGB codec with square positions and windows."""
    return CodecSpec(
        name=name,
        modality="image",
        channels=3,
        sample_rate=None,
        hop=(hop, hop),
        windows=((tile, tile),),
        queries=queries,
        codebook_sizes=codes.codebook_sizes,
        strides=codes.strides,
        latent_dim=latent_dim,
    )


def granular_image(
    name: str = "granular_image",
    dims: Sequence[int] = (256, 128, 64),
    depths: Sequence[int] = (2, 2, 2),
    codebook_size: int = 1024,
    latent_dim: int = 6,
    shares: Sequence[float] = (0.1, 0.4, 0.5),
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """The codec of three granularities for RGB photos of any extent: a code for 16 x 16, 8 x 8 or 4 x 4 pixels.

    From 0.04 (all coarse) over 0.39 to 0.63 (all fine) bits per pixel, map included (`granularity.bits_per_pixel`).

    Args:
        name: The model's name.
        dims: Widths of encoder and decoder at 1/16, 1/8 and 1/4 of the resolution.
        depths: Blocks at each.
        codebook_size: Codes K, of one table for all granularities.
        latent_dim: Width of the codes.
        shares: Of the area by default: coarse, medium, fine.
        quantizer: Description of another quantizer of one codebook and that width (`quantizers.build`), in place of the
            moving averages, which start from centres of latents and replace codes that die.
    """
    front = WaveletFront(2)
    policy = Lifecycle(start="kmeans", revive=0.1)
    codes = Granular(EMAVQ(codebook_size, latent_dim, lifecycle=policy) if quantizer is None else build(quantizer))
    return Codec(
        spec=CodecSpec(
            name=name,
            modality="image",
            channels=3,
            sample_rate=None,
            hop=(4, 4),
            windows=((4, 4),),
            queries=16,
            codebook_sizes=codes.codebook_sizes,
            strides=codes.strides,
            latent_dim=codes.dim,
            shares=tuple(shares),
        ),
        encoder=GranularEncoder(front, dims, depths, latent_dim),
        quantizer=codes,
        decoder=GranularDecoder(front, dims, depths, latent_dim),
    )


def elastic_image(
    name: str = "elastic_image",
    levels: int = 4,
    tile: int = 16,
    tokens: int = 128,
    dim: int = 256,
    heads: int = 4,
    encoder_depth: int = 3,
    decoder_depth: int = 4,
    codebook_size: int = 16_384,
    latent_dim: int = 16,
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """An elastic codec for RGB photos of any extent: a tile of 256 x 256 pixels is 128 tokens, the first k decode.

    ``Rate(queries=k)`` sends k of them; tokens of few are the first of the tokens of many. With IBQ of 16,384 codes 14
    bits a token, 1,792 a tile: up to 0.027 bits per pixel, 0.055 with ``tokens=256``.

    Args:
        name: The model's name.
        levels: Wavelet packet levels; a position is ``2^levels`` pixels wide.
        tile: Positions along each side of a tile.
        tokens: Most tokens per tile: the anchor and at least one query, at most one per position.
        dim: Width of the transformers.
        heads: Attention heads.
        encoder_depth: Transformer blocks of the encoder.
        decoder_depth: Transformer blocks of the decoder.
        codebook_size: Codes K.
        latent_dim: Width of the latents.
        quantizer: As in `query_image`.
    """
    windows, expected = ((tile, tile),), expected_cosines(levels, tile)
    front = WaveletFront(levels, scale=expected.square().mean((0, 1)).sqrt().float())
    codes = _quantizer(codebook_size, latent_dim, quantizer)
    bits = sum(map(math.log2, codes.codebook_sizes))
    cosines = RankedCosines(expected, front.scale.flatten(), tokens, latent_dim, bits)
    reading, writing = (WindowTransformer(dim, depth, heads, base=100.0) for depth in (encoder_depth, decoder_depth))
    return Codec(
        spec=_spec(name, front.hop, tile, tokens, codes, latent_dim),
        encoder=ElasticImageEncoder(front, cosines, AnchoredQueryEncoder(reading, windows, tokens), latent_dim),
        quantizer=codes,
        decoder=ElasticImageDecoder(front, cosines, AnchoredQueryDecoder(writing, windows, tokens), latent_dim),
    )


def multiscale_image(
    name: str = "multiscale_image",
    levels: int = 4,
    width: int = 384,
    encoder_depth: int = 8,
    decoder_depth: int = 12,
    codebook_size: int = 4096,
    latent_dim: int = 32,
    tile: int = 16,
    scales: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    quantizer: Mapping[str, Any] | None = None,
) -> Codec:
    """VAR's tokens: each tile of 256 x 256 pixels in ten scales of one codebook, 680 tokens, 0.125 bits per pixel.

    The first scales decode to a picture; `layouts/scale_wise.py` has their boundaries.

    Args:
        name: The model's name.
        levels: Wavelet packet levels; a position is ``2^levels`` pixels wide.
        width: Channels of the blocks.
        encoder_depth: Blocks of the encoder.
        decoder_depth: Blocks of the decoder.
        codebook_size: Codes K, of one table for all scales.
        latent_dim: Width of the latents.
        tile: Positions along each side of a tile.
        scales: Sides of the grids of codes in a tile, the last ``tile`` itself.
        quantizer: Description of the codebook, in place of the VQ, which starts from centres and replaces codes that
            die.
    """
    policy = {"start": "kmeans", "revive": 0.1}
    table = quantizer or {"name": "vq", "codebook_size": codebook_size, "dim": latent_dim, "lifecycle": policy}
    codes = {"name": "multiscale", "codebook": table, "grid": [tile, tile], "scales": list(scales)}
    return compact_image(
        name, levels, width, encoder_depth, decoder_depth, latent_dim=latent_dim, tile=tile, quantizer=codes
    )


def cascaded_image(
    name: str = "cascaded_image",
    levels: int = 4,
    width: int = 384,
    encoder_depth: int = 8,
    decoder_depth: int = 12,
    groups: int = 4,
    codebook_sizes: Sequence[int] = (8192, 2048, 512),
    group_dim: int = 8,
    tile: int = 16,
) -> Codec:
    """McQuic's tokens: groups of a cascade at 1/16, 1/32 and 1/64 of the resolution, 0.064 bits per pixel a group.

    ``Rate(codebooks=3 * g)`` sends the first g groups.

    Args:
        name: The model's name.
        levels: Wavelet packet levels; a position is ``2^levels`` pixels wide.
        width: Channels of the blocks.
        encoder_depth: Blocks of the encoder.
        decoder_depth: Blocks of the decoder.
        groups: Groups M.
        codebook_sizes: Codes K at each level, the finest first.
        group_dim: Width of the latents of a group.
        tile: Positions along each side of a tile.
    """
    policy = {"start": "samples", "start_vectors": 1, "revive": 0.1}  # levels start one after the other
    table = {"name": "vq", "dim": group_dim, "lifecycle": policy}
    cascade = [table | {"codebook_size": size} for size in codebook_sizes]
    codes = {"name": "grouped", "parts": {"copies": groups, "name": "cascade", "levels": cascade, "grid": [tile, tile]}}
    return compact_image(
        name, levels, width, encoder_depth, decoder_depth, latent_dim=groups * group_dim, tile=tile, quantizer=codes
    )


def walloc_image(
    name: str = "walloc_image",
    levels: int = 2,
    low: int = 4,
    width: int = 128,
    depth: int = 4,
    qualities: int = 6,
    quality_steps: int = 16,
    first: float = 25.0,
    last: float = 3000.0,
    density: Literal["neighbours", "factorised", "hyperprior"] = "neighbours",
    states: int = 24,
    hidden: int = 24,
    bits: int = 14,
) -> Codec:
    """A rate-distortion codec in WaLLoC's shape: linear encoder, deep decoder, entropy coded whole numbers.

    Args:
        name: The model's name.
        levels: Of the wavelet packet, 1 to 3; a position is ``2^levels`` pixels wide.
        low: Further levels of the low band, in its place; WaLLoC has none.
        width: Channels of the decoder's blocks.
        depth: How many.
        qualities: Rungs; their gains are learned.
        quality_steps: Operating points from one rung to the next, by interpolated gains.
        first: Lambda of the lowest quality, from which its steps start (`RateDistortion`).
        last: That of the highest.
        density: What the whole numbers are coded by: their neighbours, one table for each channel and quality, or side
            information (scale and mean).
        states: Of `NeighbourDensity`.
        hidden: Of `NeighbourDensity`.
        bits: Of a whole number, the largest that a file can hold.
    """
    bands = Bands(levels, low)
    steps = first_steps(geometric(first, last, qualities))
    dim = bands.high + 3
    codes = Scalar(dim, bits, compand=False, noise=False)
    spec = CodecSpec(
        name=name,
        modality="image",
        channels=3,
        sample_rate=None,
        hop=(bands.hop, bands.hop),
        codebook_sizes=codes.codebook_sizes,
        latent_dim=dim,
        qualities=qualities,
        quality_steps=quality_steps,
    )
    groups = [9] * (bands.high // 9)
    made: Density
    if density == "neighbours":
        made = NeighbourDensity(codes.codebook_sizes, low, groups, qualities, quality_steps, states, hidden)
    elif density == "factorised":
        made = FactorisedDensity(codes.codebook_sizes, qualities, quality_steps)
    else:
        made = HyperpriorDensity(codes.codebook_sizes, 2, qualities, quality_steps)
    decoder = WallocDecoder(bands, steps, width, depth)
    return Codec(spec, WallocEncoder(bands, steps), codes, decoder, made)
