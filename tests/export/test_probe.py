"""The probe of tokens: it reads what the codes say, no more and no less, and tests on what it has not learned."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.image.models import query_image
from sigtok.codecs.media import write_audio
from sigtok.codecs.pretrained import save
from sigtok.codecs.spec import Rate
from sigtok.codecs.tokens import Tokens
from sigtok.export.probe import (
    code_shares,
    decoded,
    decoded_statistics,
    label_rows,
    mfcc_units,
    table,
    unit_rows,
)

RATE, HOP, WINDOW, SIZE = 8000, 120, 3, 16
TINY = {
    "sample_rate": RATE, "frame_hop": 40, "frame_size": 120, "dim": 16, "heads": 2, "encoder_depth": 1,
    "decoder_depth": 1, "decoder_blocks": 1, "codebooks": 2, "codebook_size": SIZE, "latent_dim": 8, "context": 0.3,
    "windows": (2, WINDOW, 4),
}  # fmt: skip
RATE_3 = Rate(window=(WINDOW,))
SEGMENT = 5 * WINDOW * HOP / RATE  # seconds of five positions


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return query_speech(**TINY).eval()


def tokens_of(codec, *streams, rate=RATE_3):
    """Tokens of a sound that has as many windows as codes."""
    codes = tuple(torch.as_tensor(stream)[None] for stream in streams)
    return Tokens(codes, ((codes[0].shape[1] * codec.spec.step(rate)[0],),), rate, codec.spec)


def told(codec, speaking, labels=4, segments=12, seed=0, half=None):
    """One sound per label; the codebooks ``speaking`` say the label, the others say nothing."""
    generator = torch.Generator().manual_seed(seed)
    sounds = []
    for label in range(labels):
        streams = [torch.randint(SIZE, (5 * segments,), generator=generator) for _ in range(2)]
        for book in speaking:
            streams[book] = torch.full((5 * segments,), label)
            if half is not None:
                streams[book][5 * segments // 2 :] = half(label)
        sounds.append((f"voice {label}", tokens_of(codec, *streams)))
    return sounds


@pytest.mark.parametrize("read", ["latents", "codes"])
def test_codes_that_say_the_label_give_it(codec, read):
    rows = label_rows(codec, told(codec, (0, 1)), (1, 2), SEGMENT, read)
    assert [row["accuracy"] for row in rows] == [1, 1] and [row["chance"] for row in rows] == [0.25, 0.25]
    assert [(row["classes"], row["train"], row["test"]) for row in rows] == [(4, 24, 24)] * 2
    assert all(row["low"] > 0.8 and row["window"] == [WINDOW] and row["queries"] == 1 for row in rows)


@pytest.mark.parametrize("read", ["latents", "codes"])
def test_random_codes_give_chance(codec, read):
    for row in label_rows(codec, told(codec, (), segments=200), (1, 2), SEGMENT, read):
        assert row["low"] <= row["chance"] <= row["high"] and row["chance"] == 0.25


@pytest.mark.parametrize("read", ["latents", "codes"])
def test_a_prefix_reads_only_its_codebooks(codec, read):
    rows = label_rows(codec, told(codec, (1,), segments=40), (1, 2), SEGMENT, read)
    assert rows[0]["low"] <= rows[0]["chance"] <= rows[0]["high"]
    assert rows[1]["accuracy"] > 0.95 and [row["codebooks"] for row in rows] == [1, 2]


def test_the_second_half_of_every_label_is_tested_and_not_learned(codec):
    sounds = told(codec, (0, 1), half=lambda label: (label + 1) % 4)
    assert label_rows(codec, sounds, (2,), SEGMENT)[0]["accuracy"] == 0


def test_halves_are_those_of_the_label_and_not_of_its_sounds(codec):
    """The first sound of each label is learned, the second, which says the other label, is tested."""
    said, unlike = told(codec, (0, 1), labels=2, segments=6), told(codec, (0, 1), labels=2, segments=6)[::-1]
    row = label_rows(codec, [*said, *((label, tokens) for (label, _), (_, tokens) in zip(said, unlike, strict=True))],
                     (2,), SEGMENT)[0]  # fmt: skip
    assert (row["accuracy"], row["train"], row["test"]) == (0, 12, 12)


def test_equal_tokens_give_equal_rows(codec):
    sounds = told(codec, ())
    assert label_rows(codec, sounds, (1, 2), SEGMENT) == label_rows(codec, sounds, (1, 2), SEGMENT)


def test_labels_of_few_segments_and_sounds_without_one_are_left_out(codec):
    few, nameless = told(codec, (0,), segments=3)[0][1], told(codec, (0,), segments=12)[0][1]
    sounds = [*told(codec, (0,), labels=2), ("few", few), ("", nameless)]
    row = label_rows(codec, sounds, (1,), SEGMENT)[0]
    assert (row["classes"], row["train"], row["test"]) == (2, 12, 12)


def test_too_few_labels_are_refused(codec):
    with pytest.raises(ValueError, match=r"at least 2 labels of 4 segments of 0\.225 s apart, got 1; bring more"):
        label_rows(codec, told(codec, (0,), labels=1), (1,), SEGMENT)
    with pytest.raises(ValueError, match="got 0"):
        label_rows(codec, told(codec, (0,), segments=3), (1,), SEGMENT)


def test_a_segment_has_the_positions_of_its_seconds(codec):
    """Ten seconds at windows of 30, 45 and 60 ms."""
    for window, positions in ((2, 333), (3, 222), (4, 166)):
        rate = Rate(window=(window,))
        streams = [torch.zeros(positions, dtype=torch.int64)] * 2
        sounds = [(name, tokens_of(codec, *streams, rate=rate)) for name in "ab"]
        row = label_rows(codec, sounds, (1,), 1.0)[0]
        segments = positions // round(RATE / (window * HOP))
        assert (row["train"], row["test"]) == (2 * (segments // 2), 2 * (segments - segments // 2))


def test_latents_of_a_segment_are_their_mean_and_deviation(codec):
    tokens = tokens_of(codec, *torch.randint(SIZE, (2, 17)))
    latents = codec.quantizer.decode(tokens.streams)[0].detach()
    found = decoded_statistics(codec, tokens, 5)
    assert found.shape == (3, 16)
    for place in range(3):
        part = latents[5 * place : 5 * place + 5]
        torch.testing.assert_close(
            found[place], torch.cat((part.mean(0), (part - part.mean(0)).square().mean(0) ** 0.5))
        )


def test_shares_of_codes_are_counts():
    quantizer = {"name": "multirate", "strides": [2, 1],
                 "stages": {"copies": 2, "name": "ema", "codebook_size": SIZE, "dim": 8}}  # fmt: skip
    codec = query_speech(**TINY, quantizer=quantizer).eval()
    slow, fast = torch.tensor([0, 1, 2, 3]), torch.tensor([7, 7, 7, 5, 4, 4, 9])
    tokens = Tokens((slow[None], fast[None]), ((7 * WINDOW * HOP,),), RATE_3, codec.spec)
    found = code_shares(codec, tokens, 3)
    expected = torch.zeros(2, 2 * SIZE)
    expected[0, [0, 1, SIZE + 7]] = torch.tensor([2, 1, 3]) / 3
    expected[1, [1, 2, SIZE + 5, SIZE + 4]] = torch.tensor([1, 2, 1, 2]) / 3
    torch.testing.assert_close(found, expected)


def test_a_sound_of_no_samples_has_nothing_decoded(codec):
    tokens = codec.encode(torch.zeros(1, 1, 0), RATE_3)[0]
    assert decoded(codec, tokens).shape == (0, 8)


# -- units ---------------------------------------------------------------------------------------------------


def test_codes_that_are_the_unit_in_the_middle_give_it(codec):
    generator = torch.Generator().manual_seed(0)
    units = [torch.randint(SIZE, (181,), generator=generator) for _ in range(4)]  # 1.8 s
    places = [round(180 / 80 + 4.5 * place) for place in range(40)]
    sounds = [tokens_of(codec, unit[places], torch.zeros(40, dtype=torch.int64)) for unit in units]
    rows = unit_rows(codec, sounds, units, (1, 2))
    assert [row["accuracy"] for row in rows] == [1, 1] and (rows[0]["train"], rows[0]["test"]) == (80, 80)
    late = [torch.roll(unit, 5) for unit in units]
    assert unit_rows(codec, sounds, late, (1,))[0]["accuracy"] < 0.3


@pytest.mark.parametrize("slot", [0, 2])
def test_all_queries_of_a_window_are_read(slot):
    """Three slots a window, of which one says the unit in the window's middle."""
    torch.manual_seed(0)
    codec = query_speech(**TINY).eval()
    codec.spec = replace(codec.spec, queries=3)
    units = [torch.randint(SIZE, (181,)) for _ in range(4)]
    sounds = []
    for unit in units:
        codes = torch.randint(SIZE, (40, 3))
        codes[:, slot] = unit[[round(180 / 80 + 4.5 * place) for place in range(40)]]
        sounds.append(Tokens((codes.flatten()[None],), ((40 * 360,),), replace(RATE_3, codebooks=1), codec.spec))
    row = unit_rows(codec, sounds, units, (1,))[0]
    assert (row["train"], row["test"], row["queries"]) == (80, 80, 3) and row["accuracy"] > 0.7


def test_windows_whose_middle_is_behind_the_end_do_not_count(codec):
    codes = torch.arange(8) % 2
    sounds = [Tokens((codes[None],), ((extent,),), Rate(codebooks=1, window=(WINDOW,)), codec.spec) for extent in
              (8 * 360, 8 * 360 - 200)]  # fmt: skip
    sounds += [codec.encode(torch.zeros(1, 1, 0), sounds[0].rate)[0]] * 2
    row = unit_rows(codec, sounds, [torch.arange(37) % 2] * 4, (1,))[0]
    assert (row["train"], row["test"]) == (8, 7)


def test_units_are_learned_from_every_other_sound():
    generator = torch.Generator().manual_seed(0)
    low, high, strange = (place + torch.randn(50, 39, generator=generator) for place in (0, 20, 1000))
    units = mfcc_units([low, strange, high, low, low], 2)
    assert [len(part.unique()) for part in units] == [1] * 5
    assert units[0][0] != units[2][0] and units[3][0] == units[4][0] == units[0][0] and units[1][0] == units[2][0]
    with pytest.raises(ValueError, match="got 1 file; bring at least 2"):
        mfcc_units([low], 2)


# -- the command ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Models, and a manifest of four sounds each of two voices and of a crowd."""
    root = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    image = {"levels": 2, "tile": 4, "queries": 8, "dim": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1,
             "codebook_size": 64, "latent_dim": 8}  # fmt: skip
    for name, builder, arguments in (("speech", query_speech, TINY), ("image", query_image, image)):
        save(
            builder(**arguments), root / name, builder=builder.__name__, arguments=arguments, licence="CC0-1.0",
            training_data="none", measured={}, card="# Tiny",
        )  # fmt: skip
    rng, time, rows = np.random.default_rng(0), np.arange(2 * RATE) / RATE, ["file,speaker,split"]
    for number in range(4):
        voices = {"ann": np.sin(2 * np.pi * 200 * time), "bob": rng.uniform(-1, 1, len(time)), "crowd": 0 * time}
        for speaker, samples in voices.items():
            write_audio(root / f"{speaker}{number}.wav", 0.5 * samples[None], RATE)
            rows.append(f"{speaker}{number}.wav,{speaker},{'val' if number < 3 else 'train'}")
    (root / "m.csv").write_text("\n".join(rows))
    return root


@pytest.fixture
def run(place, monkeypatch, run):
    monkeypatch.chdir(place)
    return run


def test_the_command_writes_rows_with_their_origin(run):
    line = ("probe", "speech", "m.csv", "--label", "speaker", "--where", "split=val", "--exclude", "speaker=crowd")
    code, out, lines = run(*line, "--seconds", 0.5, "--windows", "2,4", "--json", "r.json")
    assert (code, lines) == (0, [])
    record = json.loads(Path("r.json").read_text())
    assert (record["label"], record["read"], record["segment_seconds"]) == ("speaker", "latents", 0.5)
    assert (record["files"], record["bad_files"], record["model"]) == (6, 0, "query_speech")
    assert [(row["window"], row["codebooks"], row["classes"]) for row in record["rows"]] == [
        ([2], 1, 2), ([2], 2, 2), ([4], 1, 2), ([4], 2, 2),
    ]  # fmt: skip
    assert all(row["accuracy"] == 1 for row in record["rows"])  # a tone and noise
    assert out.rstrip("\n") == table(record["rows"]) and out.startswith("| window |")
    counted = json.loads(run(*line, "--seconds", 0.5, "--read", "codes", "--json", "-")[1])
    assert counted["read"] == "codes" and counted["rows"] != record["rows"]


def test_units_need_no_manifest(run):
    code, out, lines = run("probe", "speech", "ann0.wav", "bob0.wav", "ann1.wav", "bob1.wav", "ann2.wav", "bob2.wav",
                           "--label", "unit", "--units", 4, "--json", "-")  # fmt: skip
    record = json.loads(out)
    assert (code, lines) == (0, []) and (record["label"], record["units"]) == ("MFCC units", 4)
    assert [row["codebooks"] for row in record["rows"]] == [1, 2]
    assert record["rows"][0]["train"] == 3 * -(-2 * RATE // (2 * HOP))


WRONG = {
    "unknown label": (["speech", "m.csv", "--label", "age"], 2, "'age'"),
    "label of no manifest": (["speech", "ann0.wav", "--label", "speaker"], 2, "manifest"),
    "exclusion of no manifest": (["speech", "ann0.wav", "--label", "unit", "--exclude", "a=b"], 2, "--exclude"),
    "exclusion of all": (["speech", "m.csv", "--label", "speaker", "--where", "speaker=ann", "--exclude",
                          "speaker=ann"], 65, "not speaker=ann"),
    "one speaker": (["speech", "m.csv", "--label", "speaker", "--where", "speaker=ann"], 65, "at least 2 labels"),
    "one file": (["speech", "ann0.wav", "--label", "unit"], 65, "bring at least 2"),
    "an image model": (["image", "m.csv", "--label", "speaker"], 2, "images"),
    "no such window": (["speech", "m.csv", "--label", "speaker", "--windows", "5"], 2, "windows"),
    "too many codebooks": (["speech", "m.csv", "--label", "speaker", "--codebooks", "1,3"], 2, "codebooks"),
    "no seconds": (["speech", "m.csv", "--label", "speaker", "--seconds", "0"], 2, "more than 0"),
    "no label": (["speech", "m.csv"], 2, "--label"),
    "counted units": (["speech", "m.csv", "--label", "unit", "--read", "codes"], 2, "choose a column"),
    "over its input": (["speech", "m.csv", "--label", "speaker", "--json", "m.csv"], 2, "overwritten"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_costs_one_line(run, name):
    line, expected, mark = WRONG[name]
    code, out, lines = run("probe", *line)
    assert (code, out, len(lines)) == (expected, "", 1) and lines[0].startswith("sigtok: ") and mark in lines[0]


def test_one_bad_file_does_not_stop_the_rest(run):
    rows = Path("m.csv").read_text() + "\ngone.wav,ann,val"
    Path("n.csv").write_text(rows)
    code, out, lines = run("probe", "speech", "n.csv", "--label", "speaker", "--seconds", 0.5)
    assert code == 3 and out.startswith("| window |") and "gone.wav" in lines[0]
