"""Sound and picture files to signals in [-1, 1] and back: what a file may be is decided once, by content.

No other module imports soundfile, soxr or Pillow. Signals are NumPy float32, audio ``[C, T]``, pictures
``[3, H, W]``. A file that cannot be read rightly is refused with one ``ValueError`` line: the file, what is
wrong with it, what to do. What is converted without asking is documented at the reader. Readers take a path, or an
open binary file that can seek and has a ``name`` for messages; it is read from its first byte and stays open.
"""

import importlib.util
import io
import os
import re
import secrets
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"})
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz
MAX_CHANNELS = 32
MAX_SAMPLES = 2**31  # over all channels: 8 GiB as float32
MAX_PEAK = 8.0  # 18 dB above full scale: no headroom, other units
MAX_SIDE, MAX_PIXELS = 65_535, 100_000_000
MPEG1_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG2_KILOBITS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
OPUS_RATE, OPUS_KILOBITS = 48_000, (6, 256)  # Hz; per second and channel, the ends of libsndfile's levels
BLOCK = 1 << 20  # frames: memory follows what is there, not what a header says
ROWS = 256  # of a picture that are converted at once: large ones are not copied as a whole

PathLike = str | os.PathLike[str]
Source = PathLike | io.IOBase


class AudioInfo(NamedTuple):
    """What a sound file's header says: samples per channel, their rate in Hz, channels, format."""

    frames: int
    sample_rate: int
    channels: int
    format: str

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.sample_rate


def name_of(source: Source) -> PathLike:
    """What messages call a file: its path, or the ``name`` of an open one."""
    return source if isinstance(source, str | os.PathLike) else source.name  # type: ignore[attr-defined]


def kind_of(path: Source) -> str | None:
    """``"audio"`` or ``"image"`` by the first bytes of the file, None when nothing here reads it."""
    with _opened(path) as file:
        if _audio_format(file):
            return "audio"
        return "image" if _image_format(file) else None


def audio_info(path: Source) -> AudioInfo:
    """Length, rate and channels of a sound file, from its header.

    Raises:
        ValueError: As ``read_audio`` does for what a header shows.
    """
    with _opened_audio(path) as sound:
        return AudioInfo(sound.frames, sound.samplerate, sound.channels, sound.format)


def read_audio(
    path: Source,
    sample_rate: int | None = None,
    channels: int | None = None,
    *,
    start: int = 0,
    frames: int | None = None,
    downmix: bool = False,
) -> tuple[np.ndarray, int]:
    """A sound file (WAV, FLAC, Ogg Opus or Vorbis, MP3) as float32 ``[C, T]`` in [-1, 1], and its rate.

    Lossy decoders overshoot full scale a little: their samples beyond it are clipped, as every player does.
    Float WAVs beyond it are clipped with a warning up to a peak of 8, and refused above. Resampling is band
    limited (soxr HQ) and yields ``T * sample_rate / rate`` samples, rounded. Zero samples are a legal signal.

    Args:
        path: The file, or it open.
        sample_rate: Resample to this rate, Hz; None keeps the file's.
        channels: Require so many; stereo becomes mono by averaging if ``downmix`` allows it.
        start: First sample to read, in the file's own samples. A decoder of Opus needs a run-up: what is read
            from the middle differs from the same part of the whole by some -50 dB.
        frames: How many of the file's own samples to read; None reads to the end.
        downmix: Allow stereo to become mono.
    Raises:
        ValueError: If the file is of another kind, truncated, or not what its header says; if it holds NaN,
            infinite or over-range samples, or has an absurd rate or channel count; if the excerpt lies
            outside it.
    """
    name = name_of(path)
    with _opened_audio(path) as sound:
        frames = sound.frames - start if frames is None else frames
        if start < 0 or frames < 0 or start + frames > sound.frames:
            raise ValueError(f"{name}: has {sound.frames} samples, asked for {frames} from {start}; ask for less")
        if frames * sound.channels > MAX_SAMPLES:
            raise ValueError(
                f"{name}: {frames} x {sound.channels} samples are more than {MAX_SAMPLES} in one read; "
                "read parts with start and frames"
            )
        if start:
            sound.seek(start)
        signal = _frames(name, sound, frames)
        rate, lossy = sound.samplerate, sound.format in ("OGG", "MP3")
    signal = _mixed(name, _in_range(name, signal, warn=not lossy), channels, downmix)
    return (signal, rate) if sample_rate is None else (resampled(signal, rate, sample_rate), sample_rate)


def write_audio(path: PathLike, signal: Any, sample_rate: int) -> None:
    """Write ``[C, T]`` in [-1, 1] as 16-bit WAV or FLAC, by suffix; the file appears whole or not at all.

    A 16-bit file that was read is written back exactly. Samples beyond full scale are clipped.

    Raises:
        ValueError: If the suffix or the shape is another, or a sample is not finite or beyond 8.
    """
    import soundfile

    formats = {".wav": "WAV", ".flac": "FLAC"}
    suffix = _known_suffix(path, formats)
    signal = _of_rank(path, signal, 2, "[channels, samples]")
    _check_rate(path, sample_rate)
    pcm = np.clip(np.rint(_in_range(path, signal, warn=False) * 32768), -32768, 32767).astype(np.int16)
    encoded = io.BytesIO()  # libsndfile cannot tell a full disk from its own faults
    soundfile.write(encoded, pcm.T, sample_rate, format=formats[suffix], subtype="PCM_16")
    with _replacing(path) as file:
        file.write(encoded.getbuffer())


def read_image(path: Source) -> np.ndarray:
    """A picture file (PNG, JPEG, WebP, BMP, GIF, TIFF) as float32 RGB ``[3, H, W]`` in [-1, 1].

    The EXIF orientation is applied. Grey and palette pictures become RGB, 16 bits keep their scale (in colour
    their upper 8), transparency is composited on white, CMYK is converted by complement (inverted or not as
    the file's Adobe marker says). Colour profiles are ignored: numbers are taken as sRGB. Of a multi-picture
    JPEG, as cameras write them, the first picture is read.

    Raises:
        ValueError: If the file is of another kind, truncated, animated or of several pages; if it is larger
            than 100 megapixels or 65535 pixels a side (told from the header, before decoding); if its pixels
            have no agreed range (32-bit, float, LAB).
    """
    from PIL import Image

    name = name_of(path)
    with _opened(path) as file:
        form = _image_format(file)
        if form is None:
            raise ValueError(f"{name}: not a picture that is read here; convert it to PNG, JPEG or WebP")
        try:
            with Image.open(file, formats=[form]) as picture:
                _check_picture(name, picture)
                pixels = _rgb(name, picture)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"{name}: more than {MAX_PIXELS} pixels; scale it down first") from error
        except _Refused:
            raise
        except Image.UnidentifiedImageError as error:
            raise ValueError(f"{name}: damaged or truncated {form} (no whole header); get it again") from error
        except Exception as error:  # decoders of damaged files raise anything
            raise ValueError(f"{name}: damaged or truncated {form} ({error}); get it again") from error
    signal = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel, values in enumerate(np.moveaxis(pixels, -1, 0)):
        np.divide(values, np.float32(255 if pixels.dtype == np.uint8 else 1), out=signal[channel])
    signal *= 2
    signal -= 1
    return signal


def write_image(path: PathLike, signal: Any) -> None:
    """Write ``[3 or 1, H, W]`` in [-1, 1] as 8-bit PNG, WebP (lossless) or JPEG (quality 95), by suffix.

    The file appears whole or not at all. Values are rounded to the nearest of 256, beyond [-1, 1] clipped.

    Raises:
        ValueError: If the suffix or the shape is another, or a value is not finite or beyond 8.
    """
    from PIL import Image

    options: dict[str, dict[str, Any]] = {
        ".png": {"format": "PNG"},
        ".webp": {"format": "WEBP", "lossless": True},
        ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    }
    options[".jpeg"] = options[".jpg"]
    suffix = _known_suffix(path, options)
    signal = _of_rank(path, signal, 3, "[3 or 1, height, width]")
    if signal.shape[0] not in (1, 3) or 0 in signal.shape:
        raise ValueError(f"{path}: a picture is [3 or 1, height, width], got {signal.shape}; pass one picture")
    pixels = to_pixels(_in_range(path, signal, warn=False))
    with _replacing(path) as file:
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, **options[suffix])


def to_pixels(signal: np.ndarray) -> np.ndarray:
    """``[C, H, W]`` in [-1, 1] as uint8 ``[H, W, C]``, rounded; the very 8 bits that ``read_image`` read."""
    pixels = np.empty((*signal.shape[1:], len(signal)), np.uint8)
    for first in range(0, signal.shape[1], ROWS):
        rows = signal[:, first : first + ROWS].transpose(1, 2, 0)
        pixels[first : first + ROWS] = np.rint(np.clip(rows, -1, 1) * 127.5 + 127.5)
    return pixels


def cut_square(signal: np.ndarray, side: int) -> np.ndarray:
    """A picture ``[3, H, W]`` as ``[3, side, side]``: its shorter side scaled, bicubic and antialiased, in 8 bits, then
    its middle; the protocol of ImageNet evaluations."""
    from PIL import Image

    height, width = signal.shape[1:]
    short = min(height, width)
    height, width = side * height // short, side * width // short
    top, left = round((height - side) / 2), round((width - side) / 2)
    picture = Image.fromarray(to_pixels(signal)).resize((width, height), Image.Resampling.BICUBIC)
    return from_pixels(np.asarray(picture.crop((left, top, left + side, top + side))))


LOSSY = ("jpeg", "webp", "avif", "jxl")  # formats that other codecs are measured against


def has_format(form: str) -> bool:
    """Whether the Pillow that is installed writes pictures of a format, "jxl" by the package pillow-jxl-plugin, or
    libsndfile sounds as "opus"."""
    import soundfile
    from PIL import features

    if form == "opus":
        return "OPUS" in soundfile.available_subtypes("OGG")
    if form == "jxl":
        return importlib.util.find_spec("pillow_jxl") is not None
    return features.check("jpg" if form == "jpeg" else form) is True


def image_to_bytes(signal: np.ndarray, form: str, quality: int) -> bytes:
    """The file of a picture ``[3, H, W]`` in [-1, 1], as small as the format makes it at a quality of 1 to 100.

    JPEG has 4:2:0 colour and optimized Huffman tables, WebP its slowest method, AVIF 4:2:0 and the library's default
    speed, JPEG XL ("jxl") the library's default effort, without loss at 100; "png" is exact and has no quality. One
    thread.

    Raises:
        ValueError: If the picture is larger than the format can hold.
    """
    from PIL import Image

    if form == "jxl":
        import pillow_jxl  # noqa: F401 - tells Pillow of the format
    options: dict[str, dict[str, Any]] = {
        "jpeg": {"quality": quality, "subsampling": 2, "optimize": True},
        "webp": {"quality": quality, "method": 6},
        "avif": {"quality": quality, "subsampling": "4:2:0", "max_threads": 1},
        "jxl": {"quality": quality, "lossless": quality == 100, "num_threads": 1},
        "png": {},
    }
    encoded, picture = io.BytesIO(), Image.fromarray(to_pixels(signal))
    try:
        picture.save(encoded, format=form.upper(), **options[form])
    except Exception as error:  # encoders raise anything
        size = "x".join(map(str, picture.size))
        raise ValueError(f"a picture of {size} pixels does not go into {form} ({error}); use a smaller one") from error
    return encoded.getvalue()


def image_from_bytes(data: bytes) -> np.ndarray:
    """The picture ``[3, H, W]`` in [-1, 1] of a file that ``image_to_bytes`` made."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        return from_pixels(np.asarray(picture.convert("RGB")))


def opus_to_bytes(signal: np.ndarray, sample_rate: int, kilobits: int) -> bytes:
    """The Ogg Opus file of a sound ``[C, T]`` in [-1, 1], resampled to 48 kHz, at about so many kilobits per second.

    The pages of Ogg take some 0.6 kbit/s beside them; libsndfile's comments of 0.8 KB are cut out.

    Raises:
        ValueError: If there is no sample, there are more than 2 channels, or fewer than 6 or more than 256 kbit/s for
            each.
    """
    import soundfile

    channels, samples = signal.shape
    if not samples or channels > 2 or not OPUS_KILOBITS[0] <= kilobits / channels <= OPUS_KILOBITS[1]:
        raise ValueError(
            f"Opus takes 1 or 2 channels at {OPUS_KILOBITS[0]} to {OPUS_KILOBITS[1]} kbit/s each, and at least a "
            f"sample, got {channels} of {samples} samples at {kilobits}; choose others"
        )
    encoded, (least, most) = io.BytesIO(), OPUS_KILOBITS
    level = (most - kilobits / channels) / (most - least)
    sound = resampled(signal, sample_rate, OPUS_RATE).T
    soundfile.write(encoded, sound, OPUS_RATE, format="OGG", subtype="OPUS", compression_level=level)
    return _without_comments(encoded.getvalue())


def opus_from_bytes(data: bytes, sample_rate: int) -> np.ndarray:
    """The sound ``[C, T]`` in [-1, 1] of a file that ``opus_to_bytes`` made, as long as it was and without delay."""
    import soundfile

    sound, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return resampled(np.clip(sound.T, -1, 1), OPUS_RATE, sample_rate)


def _without_comments(data: bytes) -> bytes:
    """An Ogg Opus file whose second page, that of comments, names an empty vendor and nothing else (RFC 7845, 5.2)."""
    pages = [match.start() for match in re.finditer(b"OggS", data[:4096])][:3]
    tags = b"OpusTags" + bytes(8)
    page = bytearray(data[pages[1] : pages[1] + 22] + bytes(4) + bytes((1, len(tags))) + tags)
    check = 0
    for byte in page:
        check ^= byte << 24
        for _ in range(8):
            check = (check << 1 ^ (0x04C11DB7 if check >> 31 else 0)) & 0xFFFFFFFF
    page[22:26] = check.to_bytes(4, "little")
    return data[: pages[1]] + page + data[pages[2] :]


def from_pixels(pixels: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, C]`` as float32 ``[C, H, W]`` in [-1, 1]."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1).astype(np.float32) / 255 * 2 - 1)


class _Refused(ValueError):
    """A refusal that already reads well: passed on as it is."""


# --- sound ----------------------------------------------------------------------------------------


def _audio_format(file: BinaryIO) -> str | None:
    head = _head(file, 0, 64)
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "WAV"
    if head[:4] == b"fLaC":
        return "FLAC"
    if head[:4] == b"OggS":
        return "OGG" if any(mark in head for mark in (b"OpusHead", b"\x01vorbis", b"\x7fFLAC")) else None
    while head[:3] == b"ID3" and len(head) >= 10:  # a tag before the sound; its size is 4 x 7 bits
        offset = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        head = _head(file, file.tell() - len(head) + offset, 64)
    file.seek(-len(head), os.SEEK_CUR)
    return "MP3" if _mp3_frame(head) else "FLAC" if head[:4] == b"fLaC" else None


def _mp3_frame(head: bytes) -> tuple[int, int] | None:
    """Bit rate in kbit/s and bytes of the layer III frame that begins here, if any (ISO 11172-3, 13818-3)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, bitrate, rate, padding = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    kilobits = (MPEG1_KILOBITS if version == 3 else MPEG2_KILOBITS)[bitrate - 1]
    hertz = (44_100, 48_000, 32_000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    return kilobits, (144_000 if version == 3 else 72_000) * kilobits // hertz + padding


@contextmanager
def _opened_audio(path: Source) -> Iterator[Any]:
    import soundfile

    name = name_of(path)
    with _opened(path) as file:
        form = _audio_format(file)
        if form is None:
            raise ValueError(f"{name}: not a sound file that is read here; convert it to WAV, FLAC, Opus or MP3")
        if form == "WAV":
            _check_wav(name, file)
        if form == "OGG":
            _check_ogg(name, file)
        if form == "MP3":
            _check_mp3(name, file)
        file.seek(0)
        try:
            with soundfile.SoundFile(file) as sound:
                _check_rate(name, sound.samplerate)
                if sound.frames >= 2**62:
                    raise ValueError(f"{name}: its header does not say how long it is; rewrite it, for example as FLAC")
                if sound.channels > MAX_CHANNELS:
                    raise ValueError(f"{name}: at most {MAX_CHANNELS} channels, got {sound.channels}; split it first")
                yield sound
        except soundfile.LibsndfileError as error:
            reason = error.error_string.strip(" .")
            raise ValueError(f"{name}: damaged or truncated {form} ({reason}); get it again") from error


def _check_wav(path: PathLike, file: BinaryIO) -> None:
    """Refuse a WAV whose sound is not as long as it says: libsndfile reads what is there and says nothing."""
    end, position, wide = file.seek(0, os.SEEK_END), 12, None
    while len(head := _head(file, position, 8)) == 8:
        name, size = struct.unpack("<4sI", head)
        if name == b"ds64":
            wide = struct.unpack("<Q", _head(file, position + 16, 8).ljust(8, b"\0"))[0]
        if name == b"data":
            size = wide if wide is not None and size == 0xFFFFFFFF else size
            present = end - position - 8
            if size > present or (size == 0 and present and not _is_chunk_name(_head(file, position + 8, 4))):
                raise ValueError(
                    f"{path}: its header says {size} bytes of sound, {present} follow (truncated?); "
                    "get it again or rewrite it"
                )
            return
        position += 8 + size + size % 2
    raise ValueError(f"{path}: truncated, no data chunk in {end} bytes; get it again")


def _is_chunk_name(name: bytes) -> bool:
    return len(name) == 4 and name.isascii() and name.decode().isprintable()


def _check_ogg(path: PathLike, file: BinaryIO) -> None:
    """Refuse an Ogg stream whose last page is cut or does not end it: it would silently be shorter."""
    end = file.seek(0, os.SEEK_END)
    tail = _head(file, max(0, end - 2 * 65_307), 2 * 65_307)  # a page is at most 65307 bytes
    page = tail.rfind(b"OggS\0")
    header = tail[page : page + 27].ljust(27, b"\0")
    lengths = tail[page + 27 : page + 27 + header[26]]
    whole = len(lengths) == header[26] and page + 27 + header[26] + sum(lengths) <= len(tail)
    if page < 0 or not whole or not header[5] & 4:
        raise ValueError(f"{path}: truncated, its end-of-stream page is missing ({end} bytes are there); get it again")


def _check_mp3(path: PathLike, file: BinaryIO) -> None:
    """Refuse an MP3 stream without a length header that is cut, or whose length would be guessed wrongly."""
    position, end, rates = file.tell(), file.seek(0, os.SEEK_END), set()
    if any(mark in _head(file, position, 64) for mark in (b"Xing", b"Info", b"VBRI")):
        return
    while frame := _mp3_frame(_head(file, position, 4)):
        rates.add(frame[0])
        position += frame[1]
    if position > end:
        raise ValueError(f"{path}: truncated, its last frame ends at byte {position} of {end}; get it again")
    if len(rates) > 1:
        raise ValueError(f"{path}: its bit rate varies and no header says how long it is; rewrite it, as FLAC")


def _check_rate(path: PathLike, rate: int) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"{path}: a sample rate is {MIN_RATE} to {MAX_RATE} Hz, got {rate}; correct it")


def _frames(path: PathLike, sound: Any, count: int) -> np.ndarray:
    blocks, missing = [np.zeros((0, sound.channels), np.float32)], count
    while missing and len(block := sound.read(min(missing, BLOCK), dtype="float32", always_2d=True)):
        blocks.append(block)
        missing -= len(block)
    if missing:
        raise ValueError(f"{path}: its header says {missing} more samples than it holds (truncated); get it again")
    return np.ascontiguousarray(np.concatenate(blocks).T)


def _mixed(path: PathLike, signal: np.ndarray, channels: int | None, downmix: bool) -> np.ndarray:
    if channels in (None, len(signal)):
        return signal
    if channels == 1 and len(signal) == 2 and downmix:
        return signal.mean(0, keepdims=True)
    advice = "allow downmix=True" if (channels, len(signal)) == (1, 2) else "convert it first"
    raise ValueError(f"{path}: {channels} channels are required, got {len(signal)}; {advice}")


def resampled(signal: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """A sound ``[C, T]`` in [-1, 1] at another rate in Hz, band limited (soxr HQ), clipped to [-1, 1]."""
    import soxr

    _check_rate("resampling", sample_rate)
    if rate == sample_rate:
        return signal
    if not signal.shape[1]:
        return signal
    resampled = soxr.resample(signal.T, rate, sample_rate, quality="HQ").T
    return np.ascontiguousarray(np.clip(resampled, -1, 1))  # band limiting rings a little over full scale


# --- pictures -------------------------------------------------------------------------------------


def _image_format(file: BinaryIO) -> str | None:
    head = _head(file, 0, 18)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[15:18] == b"\0\0\0":  # its second header is shorter than 256 bytes
        return "BMP"
    magics = {
        b"\x89PNG\r\n\x1a\n": "PNG",
        b"\xff\xd8\xff": "JPEG",
        b"GIF8": "GIF",
        b"II*\0": "TIFF",
        b"MM\0*": "TIFF",
    }
    return next((form for magic, form in magics.items() if head.startswith(magic)), None)


def _check_picture(path: PathLike, picture: Any) -> None:
    width, height = picture.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _Refused(
            f"{path}: at most {MAX_PIXELS} pixels and {MAX_SIDE} a side, got {width}x{height}; scale it down"
        )
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise _Refused(f"{path}: one picture is read, this file has several (animation or pages); extract one first")
    if picture.mode in ("I", "F", "LAB", "HSV"):
        raise _Refused(f"{path}: pixels of mode {picture.mode} have no agreed range; save it with 8 or 16 bits first")


def _rgb(path: PathLike, picture: Any) -> np.ndarray:
    """Decoded pixels ``[H, W, 3]``, upright: uint8, or float32 in [0, 1]."""
    from PIL import Image, ImageOps

    adobe = picture.format not in ("JPEG", "MPO") or "adobe" in picture.info
    transparency = picture.info.get("transparency")
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I;16"):
        return _grey16(np.asarray(picture), transparency)
    if picture.mode == "CMYK" and not adobe:  # Pillow takes every CMYK JPEG for an inverted one
        picture = Image.fromarray(255 - np.asarray(picture), "CMYK")
    if picture.has_transparency_data:
        pixels = np.asarray(picture.convert("RGBA"), np.float32) / 255
        return pixels[..., :3] * pixels[..., 3:] + (1 - pixels[..., 3:])
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _grey16(grey: np.ndarray, transparent: int | None) -> np.ndarray:
    grey = grey if transparent is None else np.where(grey == transparent, 65_535, grey)
    return np.repeat(grey[..., None].astype(np.float32) / 65_535, 3, axis=-1)


# --- both -----------------------------------------------------------------------------------------


class _Nameless(io.BufferedReader):
    """A file whose suffix soundfile cannot see: it would take a ``.raw`` for headerless samples."""

    name = ""  # type: ignore[assignment]


class _Lent(io.RawIOBase):
    """A file that someone else opened and closes. Decoders take a failure to read for damage: it is kept here."""

    mode = "rb"

    def __init__(self, file: Any) -> None:
        self.file = file
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.file.read(len(buffer))
        except OSError as error:
            self.failure = error
            return 0
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, str | os.PathLike):
        with _Nameless(io.FileIO(source)) as file:
            yield file
        return
    lent = _Lent(source)
    try:
        with _Nameless(lent) as file:
            yield file
    finally:
        if lent.failure:
            raise lent.failure


def _head(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _in_range(path: PathLike, signal: np.ndarray, *, warn: bool) -> np.ndarray:
    """The signal clipped to [-1, 1]; refused where clipping would hide nonsense."""
    peak = float(max(signal.max(initial=0.0), -signal.min(initial=0.0)))
    if not np.isfinite(peak):
        where = tuple(int(index) for index in np.argwhere(~np.isfinite(signal))[0])
        raise ValueError(f"{path}: samples are finite, got {signal[where]} at {where}; repair it first")
    if peak > MAX_PEAK:
        raise ValueError(f"{path}: samples are in [-1, 1], got a peak of {peak:.3g} (over-range); scale it first")
    if warn and peak > 1 + 1e-3:
        warnings.warn(f"{path}: peak {peak:.3g} is clipped to 1; scale it to keep its shape", stacklevel=3)
    return np.clip(signal, -1, 1) if peak > 1 else signal


def _of_rank(path: PathLike, signal: Any, rank: int, shape: str) -> np.ndarray:
    signal = np.asarray(signal, dtype=np.float32)
    if signal.ndim != rank:
        raise ValueError(f"{path}: the signal is {shape}, got shape {signal.shape}; pass one item of the batch")
    return signal


def _known_suffix(path: PathLike, known: Any) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(f"{path}: written are {', '.join(known)}, got {suffix or 'no suffix'!r}; rename it")
    return suffix


@contextmanager
def _replacing(path: PathLike) -> Iterator[BinaryIO]:
    """A file beside the path that takes its place once it is complete."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
