"""Signals to tokens to bytes, and back: the library.

    file -media-> signal -encoder-> latents -quantizer-> codes = Tokens -layout-> ids of a language model
                                                                    \\-bitstream-> bytes (.sgt)

In the order to read it:

spec        what a codec can say (CodecSpec) and at which operating point (Rate); every count comes from here
tokens      what was said: codes, extents, rate
codec       the data path: encode, decode, forward; streaming does the same piece by piece
transforms  exact and invertible: MDCT, STFT, wavelet packets, patches, colour
layers      what networks are made of; queries turns positions into learned queries and back
quantizers  latents to codes and back, one idea a file
audio, image    what only one kind of signal needs, and the builders of the named codecs
layouts     tokens to ids of a language model
densities   what a rate-distortion codec learns its bits by; frozen, they are whole numbers
entropy     whole numbers to bits
bitstream   the container, written above the code that reads it; files goes from signals to bytes in one call
control     the operating point of one signal: a quality or a size is asked for
pretrained  load and save a codec with its spec; weights holds the codecs that come along
media       the one place that reads and writes audio and image files
metrics     how close a reconstruction is

The public names below load on first use, so that spec, bitstream and media never import torch. Modules of
sigtok import from each other, never from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bitstream import BitstreamError as BitstreamError
    from .codec import Codec as Codec
    from .control import at_bitrate as at_bitrate
    from .control import at_quality as at_quality
    from .control import at_rate as at_rate
    from .control import at_size as at_size
    from .control import ladder as ladder
    from .control import smallest as smallest
    from .layouts.base import Layout as Layout
    from .pretrained import load as load
    from .pretrained import save as save
    from .quantizers.base import Quantized as Quantized
    from .quantizers.base import Quantizer as Quantizer
    from .spec import CodecSpec as CodecSpec
    from .spec import Rate as Rate
    from .tokens import Tokens as Tokens
    from .transforms.base import Transform as Transform

_HOMES = {
    "BitstreamError": "bitstream",
    "Codec": "codec",
    "CodecSpec": "spec",
    "Layout": "layouts.base",
    "Quantized": "quantizers.base",
    "Quantizer": "quantizers.base",
    "Rate": "spec",
    "Tokens": "tokens",
    "Transform": "transforms.base",
    "at_bitrate": "control",
    "at_quality": "control",
    "at_rate": "control",
    "at_size": "control",
    "ladder": "control",
    "load": "pretrained",
    "save": "pretrained",
    "smallest": "control",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """A public name, from the module that defines it (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"sigtok.codecs offers {', '.join(_HOMES)}; it has no {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
