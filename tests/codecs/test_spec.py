"""Counts: what a codec promises of every extent and rate, against counting by hand."""

import json
import math
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction

import pytest

from sigtok.codecs.spec import CodecSpec, Rate

AUDIO = CodecSpec(
    name="voice",
    modality="audio",
    channels=1,
    sample_rate=24_000,
    hop=(5,),
    windows=((2,), (3,)),
    queries=2,
    codebook_sizes=(8, 5, 1024),
    latent_dim=4,
    causal=True,
)
IMAGE = CodecSpec(
    name="photo",
    modality="image",
    channels=3,
    sample_rate=None,
    hop=(4, 2),
    windows=((2, 3),),
    queries=6,
    codebook_sizes=(100,),
    latent_dim=4,
)
SCALES = replace(AUDIO, windows=(), queries=1, strides=(4, 2, 1))
SIDES = (1, 2, 3, 5, 6)
VAR = replace(
    IMAGE,
    windows=((6, 6),),
    queries=36,
    codebook_sizes=(16,) * 5,
    strides=tuple(Fraction(36, side**2) if 36 % side**2 else 36 // side**2 for side in SIDES),
)
GRANULAR = replace(
    IMAGE,
    windows=((4, 4),),
    queries=16,
    codebook_sizes=(1000, 1000, 1000),
    strides=(16, 4, 1),
    shares=(0.25, 0.25, 0.5),
)


def by_hand(extent, hop, window, queries):
    """Windows that begin before the end of the signal, times queries."""
    count = queries
    for size, step in zip(extent, (h * w for h, w in zip(hop, window, strict=True)), strict=True):
        count *= len(range(0, size, step))
    return count


# -- extents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [(2,), (3,)])
@pytest.mark.parametrize("queries", [1, 2])
def test_counts_of_audio_are_those_by_hand(window, queries):
    rate = Rate(window=window, queries=queries)
    for size in range(3 * 5 * 3 + 2):
        positions = by_hand((size,), (5,), window, queries)
        assert AUDIO.positions((size,), rate) == positions
        assert AUDIO.token_counts((size,), rate) == (positions,) * 3
        assert AUDIO.bits((size,), rate) == positions * (3 + 3 + 10)
        (padded,) = AUDIO.padded((size,), rate)
        assert padded % (5 * window[0]) == 0 and 0 <= padded - size < 5 * window[0]
        assert padded * queries == AUDIO.step(rate)[0] * positions


def test_counts_of_images_are_those_by_hand():
    for height in range(1, 20):
        for width in range(1, 15):
            extent = (height, width)
            positions = by_hand(extent, (4, 2), (2, 3), 6)
            assert IMAGE.token_counts(extent) == (positions,)
            assert IMAGE.bits(extent) == 7 * positions
            assert math.prod(IMAGE.grid(extent)) * 6 == positions
            assert all(
                had <= got < had + step for had, got, step in zip(extent, IMAGE.padded(extent), (8, 6), strict=True)
            )


def test_codebooks_of_lower_rates_have_fewer_tokens():
    assert SCALES.token_counts((40,)) == (2, 4, 8)
    assert SCALES.token_counts((41,)) == (3, 5, 9)
    assert SCALES.token_counts((41,), Rate(codebooks=2)) == (3, 5)
    assert SCALES.bits((41,)) == 3 * 3 + 5 * 3 + 9 * 10


def test_zero_samples_are_zero_tokens_and_an_image_has_a_pixel():
    assert AUDIO.token_counts((0,)) == (0, 0, 0) and AUDIO.padded((0,)) == (0,) and AUDIO.bits((0,)) == 0
    for extent in ((0, 5), (5, 0), (5,), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"takes 2 axes of at least 1, got extent"):
            IMAGE.token_counts(extent)
    for extent in ((-1,), (), (1, 2)):
        with pytest.raises(ValueError, match=r"takes 1 axes of at least 0, got extent"):
            AUDIO.padded(extent)


# -- rates -------------------------------------------------------------------------------------------------


def test_none_means_all_that_the_codec_has():
    assert AUDIO.resolve() == AUDIO.resolve(Rate()) == Rate(codebooks=3, queries=2, window=(2,))
    assert AUDIO.resolve(Rate(codebooks=1, window=(3,))) == Rate(codebooks=1, queries=2, window=(3,))
    assert IMAGE.resolve() == Rate(codebooks=1, queries=6, window=(2, 3))
    assert SCALES.windows == ((1,),)


@pytest.mark.parametrize(
    "rate, message",
    [
        (Rate(codebooks=4), "1 to 3 codebooks, got 4"),
        (Rate(codebooks=0), "1 to 3 codebooks, got 0"),
        (Rate(queries=3), "1 to 2 queries, got 3"),
        (Rate(queries=-1), "1 to 2 queries, got -1"),
        (Rate(window=(4,)), r"windows \(\(2,\), \(3,\)\), got \(4,\)"),
        (Rate(window=(2, 2)), r"windows \(\(2,\), \(3,\)\), got \(2, 2\)"),
    ],
)
def test_rates_that_a_codec_cannot_run_at_are_refused(rate, message):
    for method in (AUDIO.resolve, AUDIO.step, AUDIO.token_rate, AUDIO.nominal_bits_per_second):
        with pytest.raises(ValueError, match=message):
            method(rate)
    for method in (AUDIO.positions, AUDIO.token_counts, AUDIO.bits, AUDIO.padded):
        with pytest.raises(ValueError, match=message):
            method((10,), rate)


def test_rates_per_second_are_those_of_a_long_signal():
    hour = (3600 * 24_000,)
    assert AUDIO.frame_rate == Fraction(4800)
    assert SCALES.frame_rate == Fraction(4800) and replace(AUDIO, hop=(7,)).frame_rate == Fraction(24_000, 7)
    rates = [(spec, Rate(codebooks=q)) for spec in (AUDIO, SCALES) for q in (1, 2, 3)]
    rates += [(AUDIO, Rate(window=(3,), queries=1))]
    for spec, rate in rates:
        counts = spec.token_counts(hour, rate)
        assert spec.token_rate(rate) * 3600 == pytest.approx(sum(counts))
        bits = sum(count * math.log2(size) for count, size in zip(counts, spec.codebook_sizes, strict=False))
        assert spec.nominal_bits_per_second(rate) * 3600 == pytest.approx(bits)


def test_the_speech_codec_s_rate_is_the_one_it_is_named_for(tiny_audio_codec):
    spec = tiny_audio_codec.spec
    assert spec.frame_rate == 25 and spec.token_rate() == 12.5 * 3 and spec.nominal_bits_per_second() == 12.5 * 18


def test_an_image_has_no_frame_rate():
    for ask in (lambda: IMAGE.frame_rate, IMAGE.token_rate, IMAGE.nominal_bits_per_second):
        with pytest.raises(ValueError, match="photo is an image codec"):
            ask()


# -- scales and granularities ------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [(1, 1), (24, 12), (25, 12), (24, 13), (100, 37)])
def test_scales_have_their_grids_in_every_window_whatever_divides(extent):
    windows = math.prod(VAR.grid(extent))
    assert VAR.token_counts(extent) == tuple(windows * side**2 for side in SIDES)
    assert VAR.bits(extent) == 4 * windows * sum(side**2 for side in SIDES)
    assert all(type(count) is int for count in VAR.token_counts(extent))


def test_a_window_holds_whole_tokens():
    with pytest.raises(ValueError, match="a window of 36 positions holds whole tokens, got stride 72/7"):
        replace(VAR, strides=(*VAR.strides[:4], Fraction(72, 7)))
    with pytest.raises(ValueError, match="stride must be a whole number of at least 1, got Fraction"):
        replace(VAR, strides=(*VAR.strides[:4], Fraction(36, 49)))
    with pytest.raises(ValueError, match="incomplete"):
        CodecSpec.from_dict({**VAR.to_dict(), "strides": ("36/0",) * 5})


def test_shares_are_the_codecs_unless_asked_for_and_parts_of_a_whole():
    assert GRANULAR.granular and not VAR.granular
    assert GRANULAR.resolve().shares == (0.25, 0.25, 0.5) and VAR.resolve().shares is None
    assert GRANULAR.resolve(Rate(shares=[1.0, 0.0, 0.0])).shares == (1, 0, 0)
    for spec, shares, message in [
        (GRANULAR, (0.5, 0.5), "shares are 3 for this codec, got 2"),
        (GRANULAR, (0.5, 0.4, 0.0), "sum to 1"),
        (GRANULAR, (1.5, -0.5, 0.0), "at least 0"),
        (VAR, (1.0,), "shares are 0 for this codec, got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            spec.resolve(Rate(shares=shares))
    for rate in (Rate(codebooks=2), Rate(queries=4)):
        with pytest.raises(ValueError, match="granularities by shares"):
            GRANULAR.resolve(rate)


def test_bits_of_granularities_are_those_of_their_shares():
    extent = (16 * 7, 8 * 5)  # 35 windows of 16 x 8 pixels
    assert GRANULAR.token_counts(extent) == (35, 140, 560)
    assert GRANULAR.bits(extent, Rate(shares=(1.0, 0.0, 0.0))) == 350
    assert GRANULAR.bits(extent, Rate(shares=(0.0, 0.0, 1.0))) == 5600
    assert GRANULAR.bits(extent, Rate(shares=(0.2, 0.4, 0.4))) == 10 * (7 + 56 + 224)


def test_a_spec_without_shares_is_written_as_before():
    assert "shares" not in AUDIO.to_dict() and "shares" in GRANULAR.to_dict()
    assert replace(GRANULAR, shares=(0.5, 0.25, 0.25)).digest() != GRANULAR.digest()


# -- fields ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"channels": 0}, "channels must be a whole number of at least 1, got 0"),
        ({"queries": 0}, "queries must be a whole number of at least 1, got 0"),
        ({"latent_dim": -2}, "latent_dim must be a whole number of at least 1, got -2"),
        ({"channels": True}, "channels must be .* got True"),
        ({"codebook_sizes": (8, 1)}, "a codebook size must be a whole number of at least 2, got 1"),
        ({"codebook_sizes": ()}, "one stride per codebook: 0 codebooks, 3 strides"),
        ({"strides": (1, 1)}, "one stride per codebook: 3 codebooks, 2 strides"),
        ({"strides": (2, 1, 0)}, "a stride must be a whole number of at least 1, got 0"),
        ({"hop": (0,)}, "a hop or window must be a whole number of at least 1, got 0"),
        ({"hop": (4, 4)}, r"audio has 1 axes, got \(4, 4\)"),
        ({"windows": ((2, 2),)}, r"audio has 1 axes, got \(2, 2\)"),
        ({"sample_rate": None}, "audio has a sample rate and an image has none, got None"),
        ({"sample_rate": 0}, "sample_rate must be a whole number of at least 1, got 0"),
        ({"lookahead": -1}, "lookahead must be a whole number of at least 0, got -1"),
        ({"lookahead": 5}, "causal codec looks 0 samples ahead, got lookahead=5"),
    ],
)
def test_specs_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(AUDIO, **fields)


def test_an_image_has_no_sample_rate():
    with pytest.raises(ValueError, match="got 8000"):
        replace(IMAGE, sample_rate=8000)


def test_specs_do_not_change():
    with pytest.raises(FrozenInstanceError):
        AUDIO.channels = 2
    assert hash(AUDIO) == hash(replace(AUDIO)) and replace(AUDIO) == AUDIO


@pytest.mark.parametrize("spec", [AUDIO, IMAGE, SCALES, VAR, GRANULAR])
def test_specs_travel_as_json(spec):
    values = json.loads(json.dumps(spec.to_dict()))
    assert CodecSpec.from_dict(values) == spec
    assert CodecSpec.from_dict(values).digest() == spec.digest()


def test_json_that_is_no_spec_is_refused():
    values = AUDIO.to_dict()
    with pytest.raises(ValueError, match="no field 'hopp'"):
        CodecSpec.from_dict({**values, "hopp": 3})
    for name in ("name", "modality", "channels", "latent_dim"):
        with pytest.raises(ValueError, match=f"incomplete.*{name}"):
            CodecSpec.from_dict({key: value for key, value in values.items() if key != name})
    for name in ("hop", "codebook_sizes"):
        with pytest.raises(ValueError):
            CodecSpec.from_dict({key: value for key, value in values.items() if key != name})
    for name, value in (("hop", 5), ("windows", 3), ("codebook_sizes", None), ("windows", [3])):
        with pytest.raises(ValueError, match="incomplete"):
            CodecSpec.from_dict({**values, name: value})


def test_the_digest_is_of_all_that_gives_codes_their_meaning_and_not_of_the_name():
    assert replace(AUDIO, name="other").digest() == AUDIO.digest() and len(AUDIO.digest()) == 32
    changes = [
        {"channels": 2},
        {"sample_rate": 16_000},
        {"hop": (6,)},
        {"windows": ((3,), (2,))},
        {"queries": 1},
        {"codebook_sizes": (8, 5, 1023)},
        {"strides": (2, 1, 1)},
        {"latent_dim": 5},
        {"causal": False},
        {"causal": False, "lookahead": 3},
    ]
    digests = {replace(AUDIO, **change).digest() for change in changes}
    assert len(digests | {AUDIO.digest(), IMAGE.digest()}) == len(changes) + 2


def test_windows_differ_and_are_counts_per_axis():
    values = dict(name="x", modality="audio", channels=1, sample_rate=8, hop=(4,), codebook_sizes=(4,), latent_dim=2)
    with pytest.raises(ValueError, match="windows differ"):
        CodecSpec(**values, windows=((2,), (2,)))
    with pytest.raises(ValueError, match=r"one count per axis, such as \(2,\), got 3"):
        CodecSpec(**values, windows=((2,), (3,))).resolve(Rate(window=3))
