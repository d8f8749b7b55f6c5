"""Figures of a codec over files: their rate is that of real bytes, and sums are sums."""

import json
import math
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.files import compress
from sigtok.codecs.image.models import query_image
from sigtok.codecs.media import read_audio, write_audio, write_image
from sigtok.codecs.metrics.audio import mel_distance, si_sdr, stoi
from sigtok.codecs.metrics.image import psnr
from sigtok.codecs.pretrained import save
from sigtok.codecs.spec import Rate
from sigtok.export.cli import main
from sigtok.export.evaluate import Evaluation, distances, evaluate, round_trip
from sigtok.export.metrics import METRICS
from sigtok.export.report import number, picture, report, table, verdict, worst_rise

RATE = 8000


@pytest.fixture(scope="module")
def speech():
    torch.manual_seed(0)
    return query_speech(
        sample_rate=RATE, frame_hop=40, frame_size=120, dim=16, heads=2, encoder_depth=1, decoder_depth=1,
        decoder_blocks=1, codebooks=3, codebook_size=64, latent_dim=8, context=0.3,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def image():
    torch.manual_seed(0)
    return query_image(
        levels=2, tile=4, queries=8, dim=16, heads=2, encoder_depth=1, decoder_depth=1, codebook_size=64,
        latent_dim=8,
    ).eval()  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def voice(samples, seed=0):
    """Bursts of noise and tone: enough like speech for its metrics."""
    rng, time = np.random.default_rng(seed), np.arange(samples) / RATE
    loudness = np.abs(np.sin(2 * np.pi * 3 * time))
    return (0.3 * loudness * (np.sin(2 * np.pi * 300 * time) + 0.3 * rng.standard_normal(samples)))[None]


def test_the_rate_is_that_of_the_bytes_of_the_file(here, speech):
    write_audio("a.wav", voice(RATE), RATE)
    row = evaluate(speech, ["a.wav"], Rate(codebooks=2))[0]
    data = compress(speech, torch.from_numpy(read_audio("a.wav")[0])[None], Rate(codebooks=2))
    assert row["bytes"] == len(data)
    assert row["seconds"] == 1 and row["bits_per_second"] == 8 * len(data)
    assert row["tokens"] == sum(speech.spec.token_counts((RATE,), Rate(codebooks=2)))


def test_the_bytes_of_a_trip_are_those_on_disk(here, speech):
    signal = torch.from_numpy(voice(700)).float()
    trip = round_trip(speech, signal, speech.spec.resolve(), Path("a.sgt"))
    assert trip.bytes == Path("a.sgt").stat().st_size
    expected = speech.decode(speech.encode(signal[None]))[0]
    torch.testing.assert_close(trip.reconstruction, expected)


def test_speed_is_that_of_one_thread_and_the_others_come_back(here, speech, monkeypatch):
    seen, encode, decode = [], speech.encode, speech.decode
    monkeypatch.setattr(speech, "encode", lambda *given: seen.append(torch.get_num_threads()) or encode(*given))
    monkeypatch.setattr(speech, "decode", lambda *given: seen.append(torch.get_num_threads()) or decode(*given))
    torch.set_num_threads(2)
    round_trip(speech, torch.from_numpy(voice(700)).float(), speech.spec.resolve(), Path("a.sgt"))
    assert seen == [1, 1] and torch.get_num_threads() == 2


def test_the_metrics_are_those_of_the_reconstruction(here, speech):
    write_audio("a.wav", voice(RATE), RATE)
    row = evaluate(speech, ["a.wav"])[0]
    signal = torch.from_numpy(read_audio("a.wav")[0])[None]
    decoded = speech.decode(speech.encode(signal))
    assert row["mel_distance"] == pytest.approx(mel_distance(decoded, signal, RATE))
    assert row["si_sdr"] == pytest.approx(si_sdr(decoded, signal), rel=1e-4)
    assert row["stoi"] == pytest.approx(stoi(decoded[0, 0], signal[0, 0], RATE), abs=1e-6)
    assert row["estoi"] == pytest.approx(stoi(decoded[0, 0], signal[0, 0], RATE, extended=True), abs=1e-6)
    assert "not_computed" not in row


def test_pictures_are_measured_in_pixels(here, image):
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 200, 180))
    write_image("a.png", pixels)
    evaluation = Evaluation(image, Rate(queries=4))
    row = evaluation.measure("a.png")
    assert row["pixels"] == 36_000 and row["bits_per_pixel"] == 8 * row["bytes"] / 36_000
    assert {"psnr", "ssim", "ms_ssim"} <= set(row) and "not_computed" not in row
    assert evaluation.summary()["bits_per_pixel"] == row["bits_per_pixel"]
    assert "MP/s" in table("image", [evaluation.summary()])


def test_a_summary_weighs_rates_by_duration_and_metrics_by_file(here, speech):
    for name, samples in (("long", 2 * RATE), ("short", RATE // 2), ("blip", 50)):
        write_audio(f"{name}.wav", voice(samples), RATE)
    evaluation = Evaluation(speech)
    rows = [evaluation.measure(f"{name}.wav") for name in ("long", "short", "blip")]
    summary = evaluation.summary()
    assert summary["files"] == 3 and summary["seconds"] == sum(row["seconds"] for row in rows)
    assert summary["bits_per_second"] == 8 * sum(row["bytes"] for row in rows) / summary["seconds"]
    assert summary["bits_per_second"] < np.mean([row["bits_per_second"] for row in rows])
    assert summary["encode_x_real_time"] == summary["seconds"] / sum(row["encode_seconds"] for row in rows)
    mel = summary["mel_distance"]
    assert mel["mean"] == pytest.approx(np.mean([row["mel_distance"] for row in rows])) and mel["files"] == 3
    assert mel["low"] <= mel["mean"] <= mel["high"] and mel["low"] < mel["high"]
    assert summary["stoi"]["files"] == 2  # the blip has no third of a second


def test_codes_are_counted_over_the_whole_set(here, speech):
    for seed in range(3):
        write_audio(f"{seed}.wav", voice(2000, seed), RATE)
    evaluation = Evaluation(speech, Rate(codebooks=2))
    seen = [set(), set()]
    for seed in range(3):
        evaluation.measure(f"{seed}.wav")
        signal = torch.from_numpy(read_audio(f"{seed}.wav")[0])[None]
        for book, stream in enumerate(speech.encode(signal, Rate(codebooks=2)).streams):
            seen[book] |= set(stream.flatten().tolist())
    codes = evaluation.summary()["codes"]
    assert [codes["usage_0"], codes["usage_1"]] == [len(found) / 64 for found in seen]
    assert 1 <= codes["perplexity_0"] <= len(seen[0]) + 1e-9 and "usage_2" not in codes


def test_the_warm_up_is_not_counted(here, speech):
    write_audio("a.wav", np.zeros((1, 0)), RATE)
    evaluation = Evaluation(speech)
    evaluation.measure("a.wav")
    assert evaluation.summary()["tokens"] == 0 and "usage_0" not in evaluation.summary()["codes"]


def test_what_cannot_be_computed_is_none_and_says_why(here, speech, image):
    write_audio("empty.wav", np.zeros((1, 0)), RATE)
    row = evaluate(speech, ["empty.wav"])[0]
    assert row["bits_per_second"] is None and row["mel_distance"] is None
    assert row["not_computed"] == dict.fromkeys(METRICS["audio"], "the file is empty")
    write_audio("short.wav", voice(500), RATE)
    row = evaluate(speech, ["short.wav"])[0]
    assert row["stoi"] is None and "0.4 s" in row["not_computed"]["stoi"] and row["mel_distance"] > 0
    write_image("dot.png", np.zeros((3, 1, 1)))
    row = evaluate(image, ["dot.png"])[0]
    assert set(row["not_computed"]) >= {"ssim", "ms_ssim"} and "11 pixels" in row["not_computed"]["ssim"]


def test_equal_pictures_have_no_finite_psnr():
    picture = torch.zeros(3, 20, 20)
    assert math.isinf(psnr(picture, picture))
    values, reasons = distances(picture, picture, "image", 0)
    assert values["psnr"] is None and "equal" in reasons["psnr"] and values["ssim"] == pytest.approx(1)


def test_a_report_is_json_and_carries_its_origin(here, speech):
    write_audio("a.wav", voice(500), RATE)
    evaluation = Evaluation(speech)
    evaluation.measure("a.wav")
    record = report(speech, [evaluation], ["sigtok", "evaluate", "a model", "a.wav"], asked=2)
    assert record["command"] == "sigtok evaluate 'a model' a.wav"
    assert (record["files"], record["bad_files"], record["model"]) == (1, 1, "query_speech")
    assert {"sigtok", "torch", "numpy", "python"} <= set(record["versions"])
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_resampling_is_never_silent(here, speech):
    write_audio("a.wav", voice(2000), 2 * RATE)
    with pytest.warns(UserWarning, match=r"a\.wav: resampled from 16000 to 8000 Hz"):
        row = evaluate(speech, ["a.wav"])[0]
    assert row["seconds"] == 2000 / 16000
    write_audio("b.wav", voice(2000), RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(speech, ["b.wav"])


def test_numbers_are_short():
    assert [number(value) for value in (None, 0.012345, 12.3456, 1234.5, 99)] == [
        "-", "0.01235", "12.35", "1234", "99",
    ]  # fmt: skip


def test_silence_has_no_distortion_to_relate_to():
    signal = torch.zeros(1, 4000)
    values, reasons = distances(signal, signal, "audio", 24_000)
    assert values["mel_distance"] == 0 and values["si_sdr"] is values["stoi"] is values["estoi"] is None
    assert set(reasons.values()) == {"the file is silent"}


# -- sweeps over windows, codebooks and queries --------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A model of three windows."""
    torch.manual_seed(0)
    arguments = {
        "sample_rate": RATE, "frame_hop": 40, "frame_size": 120, "dim": 16, "heads": 2, "encoder_depth": 1,
        "decoder_depth": 1, "decoder_blocks": 1, "codebooks": 3, "codebook_size": 64, "latent_dim": 8,
        "context": 0.3, "windows": (2, 3, 4),
    }  # fmt: skip
    codec, folder = query_speech(**arguments).eval(), tmp_path_factory.mktemp("models") / "several"
    save(codec, folder, builder="query_speech", arguments=arguments, licence="CC0-1.0", training_data="none",
         measured={}, card="# Tiny")  # fmt: skip
    return codec, str(folder)


def summarised(codebooks, mel, window=(2,), queries=1, bits=None):
    return {
        "codebooks": codebooks, "queries": queries, "window": list(window),
        "bits_per_second": bits or 100.0 * codebooks, "mel_distance": {"mean": mel}, "stoi": {"mean": None},
    }  # fmt: skip


def test_a_sweep_measures_every_window_at_every_number_of_codebooks(here, several, capsys):
    codec, folder = several
    write_audio("a.wav", voice(RATE), RATE)
    line = ["evaluate", folder, "a.wav", "--windows", "2,4", "--codebooks", "1,2,3"]
    assert main([*line, "--json", "r.json", "--picture", "r.svg"]) == 0
    record, signal = json.loads(Path("r.json").read_text()), torch.from_numpy(read_audio("a.wav")[0])[None]
    points = [(rate["window"], rate["codebooks"]) for rate in record["rates"]]
    assert points == [([window], codebooks) for window in (2, 4) for codebooks in (1, 2, 3)]
    for rate in record["rates"]:
        data = compress(codec, signal, Rate(codebooks=rate["codebooks"], window=tuple(rate["window"])))
        assert rate["bits_per_second"] == 8 * len(data)
    out = capsys.readouterr().out.splitlines()
    assert out[:-1] == table("audio", record["rates"]).splitlines()
    assert out[-1] == verdict(record["mel_distance_rise"])
    assert Path("r.svg").read_text() == picture("query_speech", "audio", record["rates"])


def test_a_table_is_markdown_that_a_terminal_shows_in_columns():
    rates = [{**summarised(1, 2.5), **dict.fromkeys(("files", "tokens", "bytes"), 7), "si_sdr": {"mean": -3.25},
              "estoi": {"mean": None}, "encode_x_real_time": 12345.6, "decode_x_real_time": 3.0}]  # fmt: skip
    lines = table("audio", rates).splitlines()
    assert len({len(line) for line in lines}) == 1 and len(lines) == 3
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][:3] == ["window", "codebooks", "queries"] and all(re.fullmatch("-+:", cell) for cell in rows[1])
    assert rows[2] == ["2", "1", "1", "7", "7", "7", "100", "2.5", "-3.25", "-", "-", "12346", "3"]


def test_the_worst_rise_is_between_neighbours_of_one_window():
    rates = [
        summarised(3, 1.9), summarised(1, 2.0), summarised(2, 1.8), summarised(4, None),
        summarised(1, 9.0, window=(3,)), summarised(2, 1.0, window=(3,)),
        summarised(3, 8.0, queries=2),
    ]  # fmt: skip
    rise = worst_rise(rates)
    assert rise.pop("rise") == pytest.approx(1.9 / 1.8 - 1)
    assert rise == {"window": [2], "queries": 1, "from": 2, "to": 3}
    falling = worst_rise([summarised(1, 2.0), summarised(2, 1.0), summarised(3, 0.9)])
    assert falling["rise"] == pytest.approx(-0.1) and (falling["from"], falling["to"]) == (2, 3)
    assert worst_rise([summarised(1, 2.0), summarised(1, 3.0, window=(3,))]) is None


@pytest.mark.parametrize(
    ("after", "answer"), [(1.0, "yes (worst -50.0 %"), (2.019, "yes (worst +1"), (2.1, "no (worst +5.0 %")]
)
def test_the_verdict_is_one_line(after, answer):
    text = verdict(worst_rise([summarised(1, 2.0), summarised(2, after)]))
    assert text.startswith(f"mel distance never rises by more than 1 % from one codebook to the next: {answer}")
    assert text.endswith(", 1 to 2 codebooks, window 2)")


def drawn(text):
    """Panels' names of curves, and the titles of points."""
    root = ElementTree.fromstring(text)
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    titles = [node.text for node in root.iter("{http://www.w3.org/2000/svg}title")][1:]
    return [name for name in texts if name.startswith("window")], titles, texts


def test_a_picture_has_a_curve_per_window_and_units():
    rates = [summarised(count, 3.0 - count, (window,), bits=600.5 * count / window) for window in (2, 3)
             for count in (2, 1)]  # fmt: skip
    names, titles, texts = drawn(picture("a model", "audio", rates))
    assert names == ["window 2", "window 3"] and "rate of real bytes, bit/s" in texts
    assert titles[:2] == ["1 codebooks, 1 queries: 300.2 bit/s, mel_distance 2",
                          "2 codebooks, 1 queries: 600.5 bit/s, mel_distance 1"]  # fmt: skip
    assert len(titles) == 4  # STOI has no figure


def test_pictures_of_images_are_over_queries():
    rates = [{"codebooks": 1, "queries": queries, "window": [8, 8], "bits_per_pixel": queries / 100,
              "psnr": {"mean": 20.0 + queries}, "ms_ssim": {"mean": 0.5}} for queries in (1, 2, 4)]  # fmt: skip
    names, titles, texts = drawn(picture("a model", "image", rates))
    assert names == ["window 8x8"] and len(titles) == 6 and "PSNR, dB (higher is better)" in texts
    by_queries = picture(
        "a", "audio", [summarised(count, 2.0, queries=queries) for count in (1, 2) for queries in (1, 2)]
    )
    assert drawn(by_queries)[0] == ["window 2, 1 queries", "window 2, 2 queries"]


@pytest.mark.parametrize(
    ("options", "mark"),
    [
        (["--windows", "5"], "windows"),
        (["--windows", "0"], "a count is 1 or more"),
        (["--picture", "r.png"], ".svg"),
        (["--exclude", "a=b"], "--exclude"),
    ],
)
def test_a_wrong_sweep_costs_one_line(here, several, options, mark, capsys):
    write_audio("a.wav", voice(RATE), RATE)
    try:
        code = main(["evaluate", several[1], "a.wav", *options])
    except SystemExit as end:
        code = end.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1 and mark in lines[0]


def test_excluded_rows_are_not_measured(here, several):
    for name in "abc":
        write_audio(f"{name}.wav", voice(2000), RATE)
    Path("m.csv").write_text("file,speaker\na.wav,ann\nb.wav,bob\nc.wav,crowd")
    line = ["evaluate", several[1], "m.csv", "--json", "r.json", "--exclude", "speaker=crowd"]
    assert main([*line, "--exclude", "speaker=ann"]) == 0
    assert [row["file"] for row in json.loads(Path("r.json").read_text())["rates"][0]["rows"]] == ["b.wav"]
    assert main([*line, "--exclude", "age=3"]) == 2
