"""Shards give back what they were given, are the same bytes every time, and believe nothing."""

import json

import numpy as np
import pytest
import torch

from sigtok.codecs.shards import KEY, Meaning, Row, Shard, shard_bytes
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens

pa = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

SPECS = {
    "one codebook": dict(modality="audio", sample_rate=16_000, hop=(320,), codebook_sizes=(1024,)),
    "eight": dict(modality="audio", sample_rate=24_000, hop=(1920,), codebook_sizes=(2048,) * 8),
    "unequal sizes": dict(modality="audio", sample_rate=24_000, hop=(320,), codebook_sizes=(16, 65_536, 3)),
    "large": dict(modality="image", sample_rate=None, hop=(16, 16), codebook_sizes=(262_144,), channels=3),
    "strides": dict(
        modality="audio", sample_rate=24_000, hop=(320,), codebook_sizes=(64,) * 3, queries=4, strides=(4, 2, 1)
    ),
    "granular": dict(
        modality="image",
        sample_rate=None,
        hop=(4, 4),
        windows=((4, 4),),
        queries=16,
        codebook_sizes=(512,) * 3,
        strides=(16, 4, 1),
        shares=(0.1, 0.4, 0.5),
        channels=3,
    ),
}


def meaning_of(name, rate=None):
    spec = CodecSpec(**{"name": "test", "channels": 1, "latent_dim": 4} | SPECS[name])
    return Meaning(spec, spec.resolve(rate), "0123456789abcdef" * 2)


def rows_of(meaning, extents, seed=0):
    generator, spec, rows = np.random.default_rng(seed), meaning.spec, []
    for number, extent in enumerate(extents):
        counts = spec.token_counts(extent, meaning.rate)
        least = -1 if spec.granular else 0
        streams = [
            torch.from_numpy(generator.integers(least, size, (1, count)))
            for count, size in zip(counts, spec.codebook_sizes, strict=False)
        ]
        tokens = Tokens(tuple(streams), (extent,), meaning.rate, spec)
        rows.append(Row(f"é/{number}", number / 3, extent, meaning.flat(tokens), meta=json.dumps({"text": "ü\n"})))
    rows.insert(1, Row("bad", 0.0, (), None, "no sound"))
    return rows


def extents_of(meaning):
    return [(1, 1), (64, 80), (7, 200)] if meaning.spec.modality == "image" else [(0,), (1,), (24_001,), (100_000,)]


def shard_of(rows, meaning, folder, name="shard.parquet"):
    (folder / name).write_bytes(shard_bytes(rows, meaning))
    return Shard(folder / name)


@pytest.mark.parametrize("name", SPECS)
def test_rows_come_back_and_become_tokens(name, tmp_path):
    meaning = meaning_of(name)
    rows = rows_of(meaning, extents_of(meaning))
    shard = shard_of(rows, meaning, tmp_path)
    assert shard.meaning == meaning
    for number, (row, again) in enumerate(zip(rows, shard, strict=True)):
        assert again._replace(codes=None) == row._replace(codes=None)
        if row.codes is None:
            assert again.codes is None
            with pytest.raises(ValueError, match="no sound"):
                shard.tokens(number)
            continue
        assert again.codes.tolist() == row.codes.tolist()
        assert meaning.flat(shard.tokens(number)).tolist() == row.codes.tolist()
        for stream, whole in zip(shard.streams(number), shard.tokens(number).streams, strict=True):
            assert stream.tolist() == whole[0].tolist()
    assert shard_bytes(list(shard), meaning) == shard_bytes(rows, meaning)


def test_a_shard_of_no_rows_and_one_of_bad_rows_are_read(tmp_path):
    meaning = meaning_of("eight")
    assert len(shard_of([], meaning, tmp_path)) == 0
    assert shard_of([Row("x", 0.0, (), None, "why")] * 1, meaning, tmp_path).reasons == ["why"]


def test_fewer_codebooks_are_a_meaning_of_their_own(tmp_path):
    meaning = meaning_of("eight", Rate(codebooks=3))
    shard = shard_of(rows_of(meaning, [(30_000,)]), meaning, tmp_path)
    assert shard.tokens(0).rate.codebooks == 3
    assert len(shard.codes(0)) == 3 * 16


def test_any_reader_of_parquet_reads_positions(tmp_path):
    meaning = meaning_of("eight")
    rows = rows_of(meaning, [(30_000,)])
    shard_of(rows, meaning, tmp_path)
    table = parquet.read_table(tmp_path / "shard.parquet")
    codes = np.array(table["codes"][0].as_py()).reshape(-1, 8)
    shard = Shard(tmp_path / "shard.parquet")
    assert codes.T.tolist() == shard.tokens(0).codes[0].tolist()


def test_codes_take_the_bits_of_their_codebook(tmp_path):
    """A dictionary of 2,048 entries is 11 bits a code, and itself at most 4 bytes an entry."""
    meaning = meaning_of("eight")
    rows = rows_of(meaning, [(24_000 * 600,)])
    bits = 8 * len(shard_bytes(rows, meaning)) - 8 * 4 * 2048
    assert bits / len(rows[0].codes) < 11.1


def changed(path, edit):
    table = parquet.read_table(path)
    parquet.write_table(edit(table), path)
    return path


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.replace_schema_metadata({}), "says what its codes mean"),
        (lambda t: t.replace_schema_metadata({KEY: b"[1"}), "says what its codes mean"),
        (
            lambda t: t.replace_schema_metadata({KEY: t.schema.metadata[KEY].replace(b'"version":1', b'"version":9')}),
            "9",
        ),
        (lambda t: t.drop_columns(["extent"]), "'extent' is missing"),
        (lambda t: with_codes(t, lambda codes: codes[:-1]), "has 128 codes, got 127"),
        (lambda t: with_codes(t, lambda codes: [*codes[:-1], 2048]), "codebook 7 are 0 to 2047, got"),
        (lambda t: with_codes(t, lambda codes: codes, pa.int64()), "codes are uint16, got int64"),
    ],
)
def test_what_is_wrong_is_refused(edit, words, tmp_path):
    meaning = meaning_of("eight")
    shard_of(rows_of(meaning, [(30_000,)])[:1], meaning, tmp_path)
    with pytest.raises(ValueError, match=words):
        Shard(changed(tmp_path / "shard.parquet", edit))


def with_codes(table, change, kind=None):
    lists = [change(codes) for codes in table["codes"].to_pylist()]
    column = pa.array(lists, pa.list_(kind or pa.uint16()))
    return table.set_column(table.column_names.index("codes"), "codes", column)


def test_damage_is_found(tmp_path):
    """Every cut, and a flip of one bit in every byte: an error, or the very same rows."""
    meaning = meaning_of("eight")
    rows = rows_of(meaning, [(30_000,)])
    data, path = shard_bytes(rows, meaning), tmp_path / "shard.parquet"
    codes = rows[0].codes.tolist()
    for end in range(0, len(data), 97):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="shard"):
            Shard(path)
    for place in range(0, len(data), 7):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        try:
            shard = Shard(path)
        except ValueError:
            continue
        assert shard.codes(0).tolist() == codes
