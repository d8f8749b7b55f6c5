"""Transforms: signals to coefficients and back, exactly."""

from .colour import YCbCr as YCbCr
from .mdct import MDCT as MDCT
from .patches import Frames as Frames
from .patches import Patches as Patches
from .stft import STFT as STFT
from .wavelet import WaveletPacket1d as WaveletPacket1d
from .wavelet import WaveletPacket2d as WaveletPacket2d
