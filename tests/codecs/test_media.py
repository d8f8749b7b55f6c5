"""Every file is read rightly or refused in one line; what is written is read back."""

import functools
import io
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from sigtok.codecs.media import (
    MAX_PEAK,
    audio_info,
    kind_of,
    read_audio,
    read_image,
    to_pixels,
    write_audio,
    write_image,
)


def noise(channels=1, samples=2000, seed=0):
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (channels, samples)).astype(np.float32)


def sine(samples, rate, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate))[None].astype(np.float32)


def sound(path, signal, rate=16_000, **options):
    soundfile.write(path, signal.T, rate, **options)
    return path


def wav(samples=b"\0\0" * 100, *, rate=16_000, channels=1, size=None, form=1, bits=16, after=b""):
    size = len(samples) if size is None else size
    block = channels * bits // 8
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, channels, rate, rate * block & 0xFFFFFFFF, block, bits)
    data = struct.pack("<4sI", b"data", size) + samples + after
    return b"RIFF" + struct.pack("<I", 4 + len(fmt) + len(data) & 0xFFFFFFFF) + b"WAVE" + fmt + data


def floats(values):
    return wav(np.asarray(values, "<f4").tobytes(), form=3, bits=32)


def put(path, content):
    path.write_bytes(content)
    return path


def refused(read, path, *words):
    with pytest.raises(ValueError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and ";" in message and "\n" not in message
    for word in words:
        assert word in message, message


# --- sound


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_sound_written_is_read_back_to_half_a_step(tmp_path, suffix, channels):
    signal = noise(channels)
    write_audio(tmp_path / f"a{suffix}", signal, 22_050)
    read, rate = read_audio(tmp_path / f"a{suffix}")
    assert rate == 22_050 and read.dtype == np.float32 and read.shape == signal.shape
    assert np.abs(read - signal).max() <= 0.5 / 32_768 + 1e-7


def test_sixteen_bits_read_and_written_are_the_same_bits(tmp_path):
    every = np.arange(-32_768, 32_768, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", every, 8000, subtype="PCM_16")
    write_audio(tmp_path / "b.wav", *read_audio(tmp_path / "a.wav"))
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b.wav", dtype="int16")[0], every)


@pytest.mark.parametrize(
    "suffix, options, loss",
    [
        (".wav", {"subtype": "PCM_24"}, 1e-6),
        (".wav", {"subtype": "FLOAT"}, 1e-7),
        (".wav", {"format": "RF64"}, 1e-4),
        (".wav", {"format": "WAVEX"}, 1e-4),
        (".flac", {}, 1e-4),
        (".ogg", {"subtype": "VORBIS"}, 0.1),
        (".opus", {"format": "OGG", "subtype": "OPUS"}, 0.1),
        (".mp3", {}, 0.1),
    ],
)
def test_every_format_is_known_by_content_not_by_name(tmp_path, suffix, options, loss):
    rate = 24_000
    path = sound(tmp_path / f"a{suffix}", sine(6000, rate), rate, **options)
    liar = path.rename(tmp_path / "a.raw")
    assert kind_of(liar) == "audio"
    assert audio_info(liar)[:3] == (6000, rate, 1) and audio_info(liar).seconds == 0.25
    signal, _ = read_audio(liar)
    assert signal.shape == (1, 6000) and np.abs(signal - sine(6000, rate))[:, 500:-500].max() < loss


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_part_is_the_same_part_of_the_whole(tmp_path, suffix):
    path = sound(tmp_path / f"a{suffix}", noise(2, 12_000))
    whole, _ = read_audio(path)
    part, _ = read_audio(path, start=5001, frames=3000)
    np.testing.assert_allclose(part, whole[:, 5001:8001], atol=1e-6)
    assert read_audio(path, start=12_000)[0].shape == (2, 0)
    for start, frames in ((12_001, None), (0, 12_001), (-1, 5)):
        refused(lambda p, a=start, b=frames: read_audio(p, start=a, frames=b), path, "12000")


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 321])
def test_short_sounds_keep_their_length(tmp_path, samples):
    write_audio(tmp_path / "a.wav", noise(1, samples), 16_000)
    assert read_audio(tmp_path / "a.wav")[0].shape == (1, samples)
    resampled, rate = read_audio(tmp_path / "a.wav", 24_000)
    assert rate == 24_000 and abs(resampled.shape[1] - samples * 1.5) <= 0.5


@pytest.mark.parametrize("old, new", [(16_000, 24_000), (44_100, 24_000), (8_000, 48_000)])
def test_resampling_keeps_a_tone_and_removes_what_does_not_fit(tmp_path, old, new):
    path = sound(tmp_path / "a.wav", sine(old, old), old, subtype="FLOAT")
    signal, _ = read_audio(path, new)
    assert signal.shape == (1, new) and signal.dtype == np.float32
    assert np.abs(signal - sine(new, new))[:, 2000:-2000].max() < 1e-3
    high = sound(tmp_path / "b.wav", sine(old, old, 0.49 * old), old, subtype="FLOAT")
    assert new > old or np.abs(read_audio(high, new)[0][:, 2000:-2000]).max() < 1e-4


def test_channels_are_mixed_only_when_allowed(tmp_path):
    stereo, mono = sound(tmp_path / "s.wav", noise(2)), sound(tmp_path / "m.wav", noise(1))
    mixed, _ = read_audio(stereo, channels=1, downmix=True)
    np.testing.assert_allclose(mixed, read_audio(stereo)[0].mean(0, keepdims=True))
    refused(lambda path: read_audio(path, channels=1), stereo, "1 channels", "got 2", "downmix=True")
    refused(lambda path: read_audio(path, channels=2, downmix=True), mono, "2 channels", "got 1")
    six = sound(tmp_path / "six.wav", noise(6))
    assert read_audio(six)[0].shape == (6, 2000)
    refused(lambda path: read_audio(path, channels=1, downmix=True), six, "got 6")
    refused(read_audio, put(tmp_path / "k.wav", wav(b"\0\0" * 1024, channels=1024)), "1024")


@pytest.mark.parametrize("value, index", [(np.nan, 7), (np.inf, 0), (-np.inf, 99)])
def test_a_sample_that_is_no_number_is_named(tmp_path, value, index):
    values = np.zeros(100)
    values[index] = value
    refused(read_audio, put(tmp_path / "a.wav", floats(values)), f"(0, {index})", "finite")


def test_over_range_is_refused_or_clipped_with_a_warning(tmp_path):
    refused(read_audio, put(tmp_path / "a.wav", floats([0, 1e30])), "1e+30", "over-range")
    refused(read_audio, put(tmp_path / "b.wav", floats([0, -MAX_PEAK * 1.01])), "8.08")
    with pytest.warns(UserWarning, match=r"peak 1\.5 is clipped"):
        signal, _ = read_audio(put(tmp_path / "c.wav", floats([0.25, -1.5])))
    np.testing.assert_array_equal(signal, [[0.25, -1.0]])


def test_square_waves_denormals_and_silence_are_signals(tmp_path):
    for values in (np.tile([1, -1], 50), np.full(100, 1e-40), np.zeros(100), np.full(100, 0.9)):
        signal, _ = read_audio(put(tmp_path / "a.wav", floats(values)), 24_000)
        assert np.isfinite(signal).all() and np.abs(signal).max() <= 1


def test_lossy_overshoot_is_clipped_in_silence(tmp_path):
    square = np.sign(sine(24_000, 24_000, 300.0))
    path = sound(tmp_path / "a.ogg", square, 24_000)
    assert np.abs(soundfile.read(path)[0]).max() > 1
    assert np.abs(read_audio(path)[0]).max() == 1


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_absurd_rates_are_refused(tmp_path, rate):
    refused(read_audio, put(tmp_path / "a.wav", wav(rate=rate)), str(rate))
    refused(lambda path: write_audio(path, noise(), rate), tmp_path / "b.wav", str(rate))
    with pytest.raises(ValueError, match=str(rate)):
        read_audio(put(tmp_path / "c.wav", wav()), rate)


@pytest.mark.parametrize("size", [0, 202, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_that_lies_about_its_length_is_refused(tmp_path, size):
    refused(read_audio, put(tmp_path / "a.wav", wav(size=size)), str(size), "200", "truncated")


def test_chunks_around_the_sound_are_passed_over(tmp_path):
    tags = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    assert audio_info(put(tmp_path / "a.wav", wav(after=tags))).frames == 100
    assert audio_info(put(tmp_path / "b.wav", wav(b"", after=b"id3 \4\0\0\0abcd"))).frames == 0


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3"])
def test_a_cut_is_never_silent(tmp_path, suffix):
    options = {"format": "OGG", "subtype": "OPUS"} if suffix == ".opus" else {}
    whole = sound(tmp_path / f"a{suffix}", noise(1, 72_000), 24_000, **options).read_bytes()
    for end in (10, 40, 43, 200, len(whole) // 3, len(whole) // 2, len(whole) - 500):
        refused(read_audio, put(tmp_path / f"cut{suffix}", whole[:end]))


def test_an_mp3_behind_a_large_picture_tag_is_read(tmp_path):
    plain = sound(tmp_path / "a.mp3", sine(24_000, 24_000), 24_000).read_bytes()
    size = 3_000_000
    tag = b"ID3\3\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)
    tagged = put(tmp_path / "b.mp3", tag + plain)
    assert kind_of(tagged) == "audio"
    np.testing.assert_allclose(read_audio(tagged)[0], read_audio(tmp_path / "a.mp3")[0], atol=1e-6)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_cut_between_two_pages_is_refused(tmp_path, subtype):
    whole = sound(tmp_path / "a.ogg", noise(1, 96_000), 24_000, format="OGG", subtype=subtype).read_bytes()
    last = whole.rindex(b"OggS")
    assert last > 4000
    refused(read_audio, put(tmp_path / "b.ogg", whole[:last]), "end-of-stream")


def bare_mp3(path, mode):
    """A stream without the length header that libsndfile writes into its first frame."""
    content = sound(path, sine(24_000, 24_000), 24_000, bitrate_mode=mode, compression_level=0.5).read_bytes()
    return content[content.index(content[:2], 40) :]


def test_an_mp3_without_a_length_header_is_whole_or_refused(tmp_path):
    constant = bare_mp3(tmp_path / "a.mp3", "CONSTANT")
    assert abs(audio_info(put(tmp_path / "b.mp3", constant)).frames - 24_000) < 3 * 1152
    tagged = put(tmp_path / "c.mp3", constant + b"TAG" + bytes(125))
    assert read_audio(tagged)[0].shape[1] == audio_info(tagged).frames
    refused(read_audio, put(tmp_path / "d.mp3", constant[:-37]), "truncated")
    refused(read_audio, put(tmp_path / "e.mp3", bare_mp3(tmp_path / "a.mp3", "VARIABLE")), "varies")


@pytest.mark.parametrize("content", [b"", b"RIFF", b"not sound at all" * 9, b"\xff\xd8\xff\xe0" + bytes(99)])
def test_what_is_no_sound_is_refused_whatever_its_name(tmp_path, content):
    refused(read_audio, put(tmp_path / "a.wav", content))


def test_a_flac_that_promises_more_than_it_has_costs_no_memory(tmp_path):
    content = bytearray(sound(tmp_path / "a.flac", noise(1, 9000)).read_bytes())
    content[22:26] = (1_900_000_000).to_bytes(4, "big")  # low 32 bits of STREAMINFO's total samples
    refused(read_audio, put(tmp_path / "b.flac", bytes(content)))
    content[22:26] = b"\xff" * 4
    refused(read_audio, put(tmp_path / "c.flac", bytes(content)), "4294967295")
    content[22:26] = bytes(4)  # 0 is unknown
    refused(read_audio, put(tmp_path / "d.flac", bytes(content)), "how long")


def test_bad_sound_is_not_written_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.wav"
    refused(lambda p: write_audio(p, np.full((1, 3), np.nan), 16_000), path, "finite")
    refused(lambda p: write_audio(p, np.full((1, 3), 9.0), 16_000), path, "over-range")
    refused(lambda p: write_audio(p, np.zeros((1, 1, 3)), 16_000), path, "(1, 1, 3)")
    refused(lambda p: write_audio(p, noise(), 16_000), tmp_path / "a.mp3", ".mp3")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_audio(path, noise(), 16_000)
    old = path.read_bytes()

    def fail(file, *_, **__):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        write_audio(path, noise(seed=1), 16_000)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [old]


# --- pictures


def colours(height=24, width=32, seed=0):
    """Smooth colour noise that JPEG keeps well."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def save(path, picture, **options):
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(path, **options)
    return path


def pixels_of(path):
    return to_pixels(read_image(path)).astype(int)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tif"])
def test_lossless_pictures_keep_their_bits(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", colours(), **({"lossless": True} if suffix == ".webp" else {}))
    liar = path.rename(tmp_path / "a.txt")
    signal = read_image(liar)
    assert kind_of(liar) == "image" and signal.shape == (3, 24, 32) and signal.dtype == np.float32
    assert np.abs(signal).max() <= 1
    np.testing.assert_array_equal(pixels_of(liar), colours())


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_pictures_written_are_read_back_to_half_a_step(tmp_path, suffix):
    signal = np.random.default_rng(0).uniform(-1, 1, (3, 7, 13)).astype(np.float32)
    write_image(tmp_path / f"a{suffix}", signal)
    assert np.abs(read_image(tmp_path / f"a{suffix}") - signal).max() <= 1 / 255 + 1e-6
    write_image(tmp_path / f"grey{suffix}", signal[:1])
    grey = read_image(tmp_path / f"grey{suffix}")
    assert grey.shape == (3, 7, 13) and np.abs(grey - signal[:1]).max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg"])
def test_jpeg_is_written_well(tmp_path, suffix):
    write_image(tmp_path / f"a{suffix}", colours().transpose(2, 0, 1) / np.float32(127.5) - 1)
    assert np.abs(pixels_of(tmp_path / f"a{suffix}") - colours()).max() < 16


def test_bad_pictures_are_not_written_and_leave_nothing(tmp_path):
    path = tmp_path / "a.png"
    refused(lambda p: write_image(p, np.full((3, 2, 2), np.nan)), path, "finite")
    refused(lambda p: write_image(p, np.full((3, 2, 2), 200.0)), path, "200")
    for shape in ((1, 3, 4, 4), (4, 5, 5), (3, 0, 5)):
        refused(lambda p, s=shape: write_image(p, np.zeros(s)), path, str(shape))
    refused(lambda p: write_image(p, np.zeros((3, 2, 2))), tmp_path / "a.gif", ".gif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("height, width", [(1, 1), (1, 65_535), (65_535, 1), (7, 13)])
def test_extreme_extents_are_kept(tmp_path, height, width):
    path = save(tmp_path / "a.png", np.zeros((height, width, 3), np.uint8))
    assert read_image(path).shape == (3, height, width)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_upright(tmp_path, orientation):
    picture, exif = Image.fromarray(colours()), Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # transpositions that a reader's own turn takes back
    stored = picture.transpose(undo[orientation]) if orientation > 1 else picture
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "a.png", stored, exif=exif)), colours())
    np.testing.assert_array_equal(pixels_of(save(tmp_path / "a.tif", stored, exif=exif)), colours())
    jpeg = pixels_of(save(tmp_path / "a.jpg", stored, exif=exif, quality=95, subsampling=0))
    assert np.abs(jpeg - colours()).max() < 16


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bit_grey_keeps_its_scale(tmp_path, suffix):
    ramp = np.tile(np.linspace(0, 65_535, 512).astype(np.uint16), (3, 1))
    signal = read_image(save(tmp_path / f"a{suffix}", Image.fromarray(ramp)))
    assert np.abs(signal - (ramp / 32_767.5 - 1)).max() < 1e-6
    assert len(np.unique(to_pixels(signal))) == 256


def png(width, height, depth, colour, rows, *extra):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*e) for e in extra) + data + chunk(b"IEND", b"")


def test_sixteen_bit_colour_and_alpha_are_within_one_step(tmp_path):
    rgb = np.linspace(0, 65_535, 8 * 3).astype(">u2")
    read = pixels_of(put(tmp_path / "a.png", png(8, 1, 16, 2, b"\0" + rgb.tobytes())))
    assert np.abs(read.reshape(-1) - rgb / 257.0).max() <= 1
    grey, alpha = np.linspace(0, 65_535, 8), np.linspace(65_535, 0, 8)
    rows = np.stack([grey, alpha], -1).astype(">u2").tobytes()
    read = pixels_of(put(tmp_path / "b.png", png(8, 1, 16, 4, b"\0" + rows)))
    assert np.abs(read[0, :, 0] - (grey * alpha / 65_535 + 65_535 - alpha) / 257).max() <= 2
    keyed = png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 1000, 1001), (b"tRNS", struct.pack(">H", 1000)))
    assert pixels_of(put(tmp_path / "c.png", keyed))[0, :, 0].tolist() == [255, 4]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_transparency_is_white(tmp_path, suffix):
    red = np.zeros((2, 2, 4), np.uint8)
    red[..., 0], red[..., 3] = 255, [[0, 255], [51, 204]]
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    read = pixels_of(save(tmp_path / f"a{suffix}", red, **options))
    assert read.reshape(4, 3).tolist() == [[255, 255, 255], [255, 0, 0], [255, 204, 204], [255, 51, 51]]


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palettes_with_and_without_transparency_are_rgb(tmp_path, suffix):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    opaque = pixels_of(save(tmp_path / f"a{suffix}", picture))
    assert opaque.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    keyed = pixels_of(save(tmp_path / f"b{suffix}", picture, transparency=1))
    assert keyed.tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_become_rgb(tmp_path, mode):
    picture = Image.fromarray(np.array([[0, 255]], np.uint8)).convert(mode)
    assert pixels_of(save(tmp_path / "a.png", picture)).tolist() == [[[0] * 3, [255] * 3]]


def without_adobe_marker(jpeg):
    at = jpeg.index(b"\xff\xee")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def test_cmyk_is_never_a_negative(tmp_path):
    inks = np.tile(np.array([0, 255, 255, 0], np.uint8), (16, 16, 1))  # magenta and yellow: red
    adobe = save(tmp_path / "a.jpg", Image.fromarray(inks, "CMYK"), quality=100)
    tiff = save(tmp_path / "a.tif", Image.fromarray(inks, "CMYK"))
    content = save(io.BytesIO(), Image.fromarray(255 - inks, "CMYK"), format="JPEG", quality=100).getvalue()
    plain = put(tmp_path / "b.jpg", without_adobe_marker(content))
    for path in (adobe, tiff, plain):
        assert np.abs(pixels_of(path) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_animations_and_pages_are_refused(tmp_path, suffix):
    frames = [Image.fromarray(colours(seed=seed)) for seed in range(4)]
    path = save(tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:])
    refused(read_image, path, "several")
    assert kind_of(path) == "image"


def test_a_camera_jpeg_of_two_pictures_is_its_first(tmp_path):
    path = tmp_path / "a.jpg"
    first, second = Image.fromarray(colours()), Image.fromarray(colours(8, 8, 1))
    first.save(path, format="MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(pixels_of(path) - colours()).max() < 40


@pytest.mark.parametrize(
    "width, height", [(12_000, 12_000), (65_536, 1), (1, 70_000), (10_001, 10_000), (2**31 - 1,) * 2]
)
def test_bombs_die_in_the_header(tmp_path, width, height):
    path = put(tmp_path / "a.png", png(width, height, 1, 0, b""))
    begun = time.process_time()
    refused(read_image, path, "100000000", "scale it down")
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".gif", ".tif"])
def test_cut_pictures_are_refused(tmp_path, suffix):
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    whole = save(tmp_path / f"a{suffix}", picture).read_bytes()
    for end in (10, 20, 60, len(whole) // 4, len(whole) // 2, len(whole) - 100):
        refused(read_image, put(tmp_path / f"cut{suffix}", whole[:end]))


def test_pixels_without_an_agreed_range_are_refused(tmp_path):
    for mode in ("F", "I"):
        picture = Image.fromarray(np.zeros((4, 4), np.float32 if mode == "F" else np.int32))
        refused(read_image, save(tmp_path / f"{mode}.tif", picture), f"mode {mode}")
    refused(read_image, save(tmp_path / "lab.tif", Image.new("LAB", (4, 4))), "mode LAB")


@pytest.mark.parametrize("content", [b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>", wav(), b"BM is text" * 9])
def test_what_is_no_picture_is_refused_whatever_its_name(tmp_path, content):
    refused(read_image, put(tmp_path / "a.png", content), "not a picture")


def test_a_picture_is_no_sound_and_a_text_is_neither(tmp_path):
    picture = save(tmp_path / "a.mp3", colours(), format="PNG")
    assert kind_of(picture) == "image" and kind_of(put(tmp_path / "a.wav", b"text")) is None
    refused(read_audio, picture, "not a sound file")


def test_missing_files_say_so():
    for read in (read_audio, read_image, kind_of):
        with pytest.raises(FileNotFoundError):
            read("nowhere.wav")


def lent(content, name="lent"):
    file = io.BytesIO(content)
    file.name = name
    return file


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.png", "a.jpg", "a.tif", "a.webp"])
def test_an_open_file_is_read_as_its_path_is_and_stays_open(tmp_path, name):
    if name.endswith((".wav", ".flac", ".ogg", ".mp3")):
        path, kind = sound(tmp_path / name, sine(9000, 24_000), 24_000), "audio"
        read = functools.partial(read_audio, sample_rate=16_000, start=500, frames=4000)
        expected = read(path)[0]
    else:
        path, kind, read = save(tmp_path / name, colours()), "image", lambda file: (read_image(file),)
        expected = read_image(path)
    with path.open("rb") as file, lent(path.read_bytes(), "a.raw") as copy:
        for opened in (file, copy):
            assert kind_of(opened) == kind
            assert kind == "image" or audio_info(opened) == audio_info(path)
            np.testing.assert_array_equal(read(opened)[0], expected)
            assert not opened.closed


def test_messages_name_an_open_file():
    for read in (read_audio, audio_info, read_image):
        with pytest.raises(ValueError, match=r"^s3://a/b.wav: not a"):
            read(lent(b"text", "s3://a/b.wav"))
    with pytest.raises(ValueError, match=r"^cut: its header says"):
        read_audio(lent(wav()[:100], "cut"))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.png", "a.jpg"])
def test_a_failure_to_read_is_not_taken_for_damage(tmp_path, name, capfd):
    audio = name.endswith(("wav", "flac", "mp3"))
    path = sound(tmp_path / name, noise(samples=90_000)) if audio else save(tmp_path / name, colours(900, 900))
    content = path.read_bytes()

    class Failing(io.BytesIO):
        name = "remote"

        def read(self, size=-1):
            if self.tell() + size > len(content) // 2:
                raise OSError("connection reset")
            return super().read(size)

    with pytest.raises(OSError, match="connection reset"):
        (read_audio if audio else read_image)(Failing(content))
    assert capfd.readouterr() == ("", "")


def test_importing_media_loads_no_decoder():
    program = "import sys, sigtok.codecs.media; print({'soundfile', 'soxr', 'PIL', 'torch'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"
