"""A codec: signal to tokens and back, composed of an encoder, a quantizer and a decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sigtok.codecs.layouts.base import Layout
from sigtok.codecs.layouts.names import layout
from sigtok.codecs.quantizers.base import Quantized, Quantizer

from .spec import LOUDEST, CodecSpec, Extent, Rate
from .tokens import Tokens, batch_tokens


class Encoder(Protocol):
    """Signal ``[B, C, *extent]`` of whole windows to latents ``[B, N, D]``."""

    def __call__(self, signal: Tensor, rate: Rate) -> Tensor:
        """All at once, for training and export."""

    def piecewise(self, signal: Tensor, rate: Rate) -> Tensor:
        """The same latents at bounded memory, for inference."""


class Decoder(Protocol):
    """Latents ``[B, N, D]`` back to a signal ``[B, C, *extent]`` of whole windows."""

    def __call__(self, latents: Tensor, extent: Extent, rate: Rate) -> Tensor:
        """All at once, for training and export."""

    def piecewise(self, latents: Tensor, extent: Extent, rate: Rate) -> Tensor:
        """The same signal at bounded memory, for inference."""


class Reconstruction(NamedTuple):
    """What a codec gives to training: the signal ``[B, C, *extent]`` after the codec, what the quantizer says, and the
    latents ``[B, N, D]`` that it read."""

    signal: Tensor
    quantized: Quantized
    latents: Tensor


class Codec(nn.Module):
    """Signals to tokens and back.

    ::

        signal [B,C,*extent] -encoder-> latents [B,N,D] -quantizer-> codes [B,Q,N] = Tokens
        Tokens -quantizer-> latents -decoder-> signal, cropped to its extent

    Args:
        spec: What the codec promises.
        encoder: See `Encoder`.
        quantizer: See `Quantizer`.
        decoder: See `Decoder`.
        entropy: The model's own entropy coder: a module whose ``coder()`` is an `EntropyCoder`, made anew at every call
            as its weights are then, and whose ``bits`` trains it. None where files hold codes as they are.
    """

    encoder: Any
    decoder: Any
    entropy: Any
    stream_id: bytes | None = None  # of a released model: what its files are signed with

    def __init__(
        self,
        spec: CodecSpec,
        encoder: nn.Module,
        quantizer: Quantizer,
        decoder: nn.Module,
        entropy: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if tuple(quantizer.codebook_sizes) != spec.codebook_sizes or quantizer.dim != spec.latent_dim:
            raise ValueError(
                f"the spec says codebooks {spec.codebook_sizes} of width {spec.latent_dim}, the quantizer has "
                f"{tuple(quantizer.codebook_sizes)} of width {quantizer.dim}"
            )
        self.spec = spec
        self.encoder, self.quantizer, self.decoder, self.entropy = encoder, quantizer, decoder, entropy

    @torch.no_grad()
    def encode(
        self,
        signal: Float[Tensor, "B C *extent"] | Sequence[Tensor],
        rate: Rate | None = None,
        *,
        sample_rate: int | None = None,
    ) -> Tokens:
        """Tokens of signals in [-1, 1], or of features.

        Items are encoded one by one, so that the codes of a signal do not depend on its neighbours, and in pieces, so
        that memory does not grow with length.

        Args:
            signal: A batch ``[B, C, *extent]``, or a list of signals ``[C, *extent]`` of any extents.
            rate: The operating point; None for all that the codec has.
            sample_rate: Hz of the signal (frames per second of features), compared with the codec's; codecs never
                resample.

        Raises:
            ValueError: If rank, channels, type, range or sample rate are not the codec's, or a sample is not finite.
        """
        if sample_rate is not None and sample_rate != self.spec.sample_rate:
            raise ValueError(
                f"{self.spec.name} works at {self.spec.sample_rate} Hz, got {sample_rate} Hz; resample first "
                f"(sigtok.codecs.media.read_audio does)"
            )
        rate = self.spec.resolve(rate)
        signals = [self.checked(item) for item in signal]
        if not signals:
            raise ValueError("a batch holds at least one signal, got none")
        return batch_tokens([self._encode_one(item, rate) for item in signals])

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Float[Tensor, "B C *extent"] | list[Tensor]:
        """Signals of tokens, exactly as long as they were: ``[B, C, *extent]``, or a list of ``[C, *extent]`` if
        unequal.

        Raises:
            ValueError: If the tokens are of another codec, or a code is not in its codebook.
        """
        if tokens.spec.digest() != self.spec.digest():
            raise ValueError(f"these tokens are of {tokens.spec.name}, this codec is {self.spec.name}")
        tokens.check_codes()
        signals = [self._decode_one(item) for item in tokens.to(self._device())]
        if len(signals) == 1:
            return signals[0][None]  # without a copy
        if len({signal.shape for signal in signals}) == 1:
            return torch.stack(signals)
        return signals

    def forward(
        self, signal: Float[Tensor, "B C *extent"], rate: Rate | None = None, *, quantize: bool = True
    ) -> Reconstruction:
        """The signal after the codec, with gradients; its extent must be whole windows.

        Args:
            signal: A batch of one extent.
            rate: The operating point.
            quantize: False lets the latents by as they are: an autoencoder, without codes and losses of its own.

        Raises:
            ValueError: If the extent is not a multiple of ``spec.step(rate)``.
        """
        rate = self.spec.resolve(rate)
        extent = tuple(signal.shape[2:])
        if self.spec.padded(extent, rate) != extent:
            raise ValueError(f"training signals are multiples of {self.spec.step(rate)}, got extent {extent}")
        latents = self.encoder(signal, rate)
        quantized = self.quantizer(latents, rate.codebooks) if quantize else Quantized(latents, (), {})
        return Reconstruction(self.decoder(quantized.latents, extent, rate), quantized, latents)

    def layout(self, name: str, rate: Rate | None = None) -> Layout:
        """Tokens for a language model: "flatten", "delay", "hierarchical", "elastic", ...; layouts/names.py has all."""
        return layout(name, self.spec, rate)

    def checked(self, signal: Tensor) -> Tensor:
        """A signal ``[C, *extent]``, if this codec takes it.

        Raises:
            ValueError: If rank, channels, type or range are not the codec's, or a sample is not finite.
        """
        spec = self.spec
        if not isinstance(signal, Tensor) or signal.dtype != torch.float32:
            kind = signal.dtype if isinstance(signal, Tensor) else type(signal).__name__
            what = "a signal is a float32 tensor in [-1, 1]" if spec.bounded else "features are a float32 tensor"
            raise ValueError(f"{what}, got {kind}")
        if signal.dim() != 1 + len(spec.hop) or signal.shape[0] != spec.channels:
            axes = "height, width" if spec.modality == "image" else "T"
            raise ValueError(
                f"{spec.name} takes signals of shape [{spec.channels}, {axes}] (a batch has one axis more), "
                f"got {list(signal.shape)}"
            )
        spec.check_extent(tuple(signal.shape[1:]))
        if signal.numel():
            peak = max(abs(float(end)) for end in torch.aminmax(signal))  # NaN shows in both
            if spec.bounded and not peak <= LOUDEST:
                raise ValueError(f"samples lie in [-1, 1], got one of magnitude {peak:g}; scale or repair the signal")
            if not math.isfinite(peak):
                raise ValueError(f"features are finite numbers, got one of magnitude {peak:g}; repair the features")
        return signal

    def _encode_one(self, signal: Float[Tensor, " C *extent"], rate: Rate) -> Tokens:
        extent = tuple(signal.shape[1:])
        padded = pad_to(signal[None].to(self._device()), self.spec.padded(extent, rate), repeat=not self.spec.bounded)
        if 0 in padded.shape:
            empty = torch.zeros(1, 0, dtype=torch.int64, device=padded.device)
            return Tokens((empty,) * (rate.codebooks), (extent,), rate, self.spec)
        streams = self.quantizer.encode(self.encoder.piecewise(padded, rate), rate.codebooks)
        return Tokens(tuple(streams), (extent,), rate, self.spec)

    def _decode_one(self, tokens: Tokens) -> Float[Tensor, " C *extent"]:
        extent = tokens.extents[0]
        padded = self.spec.padded(extent, tokens.rate)
        if 0 in padded:
            return torch.zeros(self.spec.channels, *extent, device=self._device())
        latents = self.quantizer.decode(tokens.streams)[:, : self.spec.positions(extent, tokens.rate)]
        signal = self.decoder.piecewise(latents, padded, tokens.rate)[0]
        signal = crop_to(signal, extent)
        return signal.clamp_(-1, 1) if self.spec.bounded else signal

    def _device(self) -> torch.device:
        return next(self.parameters()).device


def pad_to(
    signal: Float[Tensor, "B C *extent"], extent: Extent, *, repeat: bool = False
) -> Float[Tensor, "B C *padded"]:
    """The signal with zeros behind its end; images, and features with ``repeat``, with their last values repeated."""
    if not torch.compiler.is_exporting() and tuple(signal.shape[2:]) == extent:  # a graph serves every extent
        return signal
    missing = [wanted - had for wanted, had in zip(extent, signal.shape[2:], strict=True)]
    padding = [amount for size in reversed(missing) for amount in (0, size)]
    return F.pad(signal, padding, mode="replicate" if repeat or len(extent) > 1 else "constant")


def crop_to(signal: Float[Tensor, " C *padded"], extent: Extent) -> Float[Tensor, " C *extent"]:
    """The beginning of a signal along each axis."""
    index: tuple[Any, ...] = (..., *(slice(size) for size in extent))
    return signal[index]
