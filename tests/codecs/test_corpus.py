"""A folder of tokens opens when it is complete and one, and says in a line why it does not."""

import json

import numpy as np
import pytest

from sigtok.codecs.corpus import MANIFEST, Corpus
from sigtok.codecs.shards import Meaning, Row, shard_bytes
from sigtok.codecs.spec import CodecSpec, Rate

pytest.importorskip("pyarrow")

SPEC = CodecSpec(
    name="test", modality="audio", channels=1, sample_rate=8000, hop=(80,), codebook_sizes=(50,) * 2, latent_dim=4
)
MEANING = Meaning(SPEC, SPEC.resolve(), "0123456789abcdef" * 2)


def rows_of(number, meaning=MEANING):
    generator = np.random.default_rng(number)
    extents = [(int(generator.integers(80, 2000)),) for _ in range(3)]
    counts = [sum(meaning.spec.token_counts(extent, meaning.rate)) for extent in extents]
    rows = [
        Row(f"{number}/{each}", 0.0, extents[each], generator.integers(0, 50, counts[each]).astype(np.uint16))
        for each in range(3)
    ]
    return [*rows, Row(f"{number}/bad", 0.0, (), None, "no sound")]


@pytest.fixture
def folder(tmp_path, write_corpus):
    return write_corpus(tmp_path, MEANING, [rows_of(number) for number in range(3)])


def test_shards_come_in_order_and_have_what_the_manifest_says(folder):
    corpus = Corpus(folder)
    assert corpus.meaning == MEANING and len(corpus) == 3
    rows = [row for shard in corpus for row in shard]
    assert [row.id for row in rows] == [row.id for number in range(3) for row in rows_of(number)]
    assert len(rows) == corpus.rows
    assert sum(len(row.codes) for row in rows if row.codes is not None) == corpus.codes


def test_an_empty_corpus_is_one(tmp_path, write_corpus):
    assert list(Corpus(write_corpus(tmp_path, MEANING, []))) == []


def edited(folder, edit):
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda manifest: manifest.update(version=2), "version 1 is read here, got 2"),
        (lambda manifest: manifest.pop("units"), "no 'units'"),
        (lambda manifest: manifest["meaning"].pop("spec"), "spec, rate and stream_id"),
        (lambda manifest: manifest["units"][0].update(shard="../shard-000000.parquet"), "a file of the folder"),
        (lambda manifest: manifest["units"][0].update(rows=-1), "are counts"),
        (lambda manifest: manifest["units"][0].update(bytes=7), "a shard of 7 bytes, got"),
    ],
)
def test_what_the_manifest_may_not_say_is_told_when_the_folder_opens(edit, words, folder):
    edited(folder, edit)
    with pytest.raises(ValueError, match=words) as error:
        Corpus(folder)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


def test_without_a_manifest_a_folder_is_not_complete(folder):
    (folder / MANIFEST).unlink()
    with pytest.raises(ValueError, match=r"has manifest.json, got none; run sigtok tokenize again"):
        Corpus(folder)


def test_a_missing_and_a_cut_shard_are_found_before_any_is_read(folder):
    (folder / "shard-000002.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"shard-000002.parquet: a shard of \d+ bytes, got 4"):
        Corpus(folder)
    (folder / "shard-000002.parquet").unlink()
    with pytest.raises(ValueError, match=r"shard-000002.parquet: a shard of \d+ bytes, got none"):
        Corpus(folder)


@pytest.mark.parametrize(
    "other",
    [MEANING._replace(stream_id="f" * 32), MEANING._replace(rate=SPEC.resolve(Rate(codebooks=1)))],
    ids=["model", "rate"],
)
def test_a_shard_of_another_meaning_is_refused(other, folder):
    data = shard_bytes(rows_of(0, other), other)
    (folder / "shard-000000.parquet").write_bytes(data)
    edited(folder, lambda manifest: manifest["units"][0].update(bytes=len(data)))
    corpus = Corpus(folder)
    with pytest.raises(ValueError, match=r"as manifest.json says, got test"):
        corpus[0]
    assert len(corpus[1]) == 4


@pytest.mark.parametrize("field", ["rows", "bad", "codes"])
def test_a_shard_of_other_counts_is_refused(field, folder):
    edited(folder, lambda manifest: manifest["units"][1].update({field: 0}))
    with pytest.raises(ValueError, match="as manifest.json says, got"):
        list(Corpus(folder))
