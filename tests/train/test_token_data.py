"""Contexts hold every signal once an epoch, one behind the other, in an order that (seed, epoch) gives alone."""

import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch

from sigtok.codecs.corpus import Corpus
from sigtok.codecs.shards import Meaning, Row
from sigtok.codecs.spec import CodecSpec
from sigtok.train.data.packed import TRAIN, VAL, drawn, part_of
from sigtok.train.data.tokens import Contexts, TokenContexts

pytest.importorskip("pyarrow")

SPEC = CodecSpec(
    name="test", modality="audio", channels=1, sample_rate=8000, hop=(80,), codebook_sizes=(50, 20), latent_dim=4
)
MEANING = Meaning(SPEC, SPEC.resolve(), "0123456789abcdef" * 2)
PICTURES = Meaning(
    CodecSpec(name="p", modality="image", channels=3, sample_rate=None, hop=(8, 8), codebook_sizes=(9,), latent_dim=4),
    None,
    "f" * 32,
)
PICTURES = PICTURES._replace(rate=PICTURES.spec.resolve())


def row_of(name, extent, meaning=MEANING, meta=""):
    generator = np.random.default_rng(sum(name.encode()))
    counts = meaning.spec.token_counts(extent, meaning.rate)
    sizes = meaning.spec.codebook_sizes
    books = [generator.integers(0, size, count) for count, size in zip(counts, sizes, strict=True)]
    return Row(name, 0.0, extent, np.stack(books, 1).reshape(-1).astype(np.uint16), meta=meta)


def rows_of_three_shards():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 4000, 30)
    lengths[7] = 0
    rows = [row_of(f"{number:02d}", (int(length),)) for number, length in enumerate(lengths)]
    return [[*rows[:10], Row("bad", 0.0, (), None, "no sound")], rows[10:17], rows[17:]]


@pytest.fixture
def folder(tmp_path, write_corpus):
    return write_corpus(tmp_path / "tokens", MEANING, rows_of_three_shards())


def module(folder, **options):
    data = TokenContexts(str(folder), **{"context": 16, "batch_size": 3, "val_fraction": 0.3, **options})
    data.prepare_data()
    data.setup("fit")
    return data


def signals(data):
    """The ids of every signal with codes, by the layout alone."""
    return {
        shard.ids[row]: data.language.ids.to_ids(shard.tokens(row))[0].tolist()
        for shard in Corpus(data.folder)
        for row in range(len(shard))
        if shard.good[row] and len(shard.codes(row))
    }


def cut(ids, begin):
    """A sequence of ids to signals."""
    places = [place for place, id in enumerate(ids) if id == begin]
    assert places[0] == 0
    return [tuple(ids[first:last]) for first, last in zip(places, [*places[1:], len(ids)], strict=True)]


def test_contexts_one_behind_the_other_are_all_signals_once_in_every_epoch(folder):
    data = module(folder)
    train = data.train_set()
    wanted = signals(data)
    mine = sorted(tuple(ids) for name, ids in wanted.items() if drawn(name) >= 0.3)
    assert sum(map(len, mine)) == train.total
    contexts = [train[index] for index in range(-(-3 * train.total // 16))]
    ids = torch.cat([context[:-1] for context in contexts]).tolist()
    epochs = [cut(ids[epoch * train.total : (epoch + 1) * train.total], data.language.begin) for epoch in range(3)]
    assert all(sorted(epoch) == mine for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    for before, after in pairwise(contexts):
        assert before[-1] == after[0]


def test_validation_predicts_every_id_of_the_others_once(folder):
    data = module(folder)
    batches = list(data.val_dataloader())
    flat = torch.cat([batch[:, :-1].flatten() for batch in batches])
    targets = torch.cat([batch[:, 1:].flatten() for batch in batches])
    padding = data.language.ids.padding
    held = [tuple(ids) for name, ids in signals(data).items() if drawn(name) < 0.3]
    assert cut(flat[flat != padding].tolist(), data.language.begin)[:-1] == held[:-1]
    assert targets[targets != padding].tolist() == [id for ids in held for id in ids][1:]
    assert all((batch[:, 1:] != padding).any(1).all() for batch in batches)


def test_training_and_validation_share_no_signal_and_parts_of_a_sound_stay_together():
    names = [f"{number}#{start}" for number in range(300) for start in (0, 5, 10.5)]
    draws = {}
    for name in names:
        draws.setdefault(name.split("#")[0], set()).add(drawn(name))
    assert all(len(found) == 1 for found in draws.values())
    values = [next(iter(found)) for found in draws.values()]
    assert all(0 <= value < 1 for value in values) and 0.2 < np.mean([value < 0.25 for value in values]) < 0.3


def test_the_split_of_a_manifest_has_the_word(tmp_path, write_corpus):
    parts = {"a": "train", "b": "val", "c": "test", "d": "Validation"}
    rows = [row_of(name, (400,), meta=json.dumps({"split": part})) for name, part in parts.items()]
    data = module(write_corpus(tmp_path, MEANING, [rows]), val_fraction=0.0)
    counts = {name: len(ids) for name, ids in signals(data).items()}
    assert data.train_set().total == counts["a"] and data.val_set().total == counts["b"] + counts["d"]
    assert part_of("") == part_of("{}") == part_of("[1]") == part_of('{"split": ""}') == 0
    assert part_of('{"split": "train"}') == TRAIN and part_of('{"split": "dev"}') == VAL


def stream(data, epochs=2):
    batches = data.train_dataloader()
    return [batch for _ in range(epochs) for batch in batches]


def test_a_run_that_resumes_after_any_batch_goes_on_with_the_same_ones(folder):
    whole = stream(module(folder))
    for done in (1, 4, len(whole) // 2, len(whole) - 1):
        data = module(folder)
        batches = data.train_dataloader()
        for _ in zip(range(done), (batch for _ in range(2) for batch in batches), strict=False):
            pass
        again = module(folder)
        again.load_state_dict(data.state_dict())
        rest = stream(again)
        assert all(torch.equal(a, b) for a, b in zip(whole[done:], rest, strict=False))


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"cache": "elsewhere"}])
def test_neither_workers_nor_the_place_of_the_ids_change_a_batch(options, folder, tmp_path):
    if "cache" in options:
        options = {"cache": str(tmp_path / "elsewhere")}
    for one, other in zip(stream(module(folder)), stream(module(folder, **options)), strict=True):
        assert torch.equal(one, other)


def test_ranks_share_the_batches_of_one_device(folder):
    data = module(folder, batch_size=4)
    whole = stream(data, epochs=1)
    parts = []
    for rank in range(2):
        half = module(folder, batch_size=2)
        half.ranks = lambda rank=rank: (rank, 2)
        half.setup("fit")
        parts.append(stream(half, epochs=1))
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(batch, torch.cat((first, second)))


def test_other_seeds_give_other_orders(folder):
    one, other = (module(folder, seed=seed).train_set() for seed in (0, 1))
    assert any(not torch.equal(one[index], other[index]) for index in range(len(one)))


def test_ids_are_made_once_and_again_if_the_corpus_or_the_layout_is_another(folder, write_corpus):
    module(folder)
    cache = folder / "ids-flatten"
    made = (cache / "ids.bin").stat().st_mtime_ns
    module(folder)
    assert (cache / "ids.bin").stat().st_mtime_ns == made
    module(folder, layout="grouped")
    assert (folder / "ids-grouped/ids.json").exists()
    whole = (cache / "ids.bin").read_bytes()
    (cache / "ids.bin").write_bytes(whole[:-2])
    module(folder)
    assert (cache / "ids.bin").read_bytes() == whole
    shards = rows_of_three_shards()[:2]
    write_corpus(folder, MEANING, shards)
    assert len(module(folder).packed.rows) == sum(len(row.codes) > 0 for row in shards[0][:-1] + shards[1])
    assert not list(cache.glob(".*"))


def test_large_vocabularies_take_four_bytes(tmp_path, write_corpus):
    spec = CodecSpec(
        name="w", modality="audio", channels=1, sample_rate=8000, hop=(80,), codebook_sizes=(65_536,), latent_dim=4
    )
    meaning = Meaning(spec, spec.resolve(), "0" * 32)
    rows = [Row("a", 0.0, (240,), np.array([0, 65_535, 7], np.uint16))]
    data = module(write_corpus(tmp_path, meaning, [rows]), val_fraction=0.0, context=4)
    assert data.packed.ids.dtype == np.int32
    assert data.train_set().read(4, 3).tolist() == [0, 65_535, 7]


def test_another_process_maps_the_file_and_gets_no_copy(folder):
    train = module(folder).train_set()
    data = pickle.dumps(train)
    assert len(data) < train.packed.ids.nbytes / 2
    assert torch.equal(pickle.loads(data)[5], train[5])


def test_pictures_of_several_extents_are_refused_and_of_one_are_read(tmp_path, write_corpus):
    same = [row_of(name, (16, 24), PICTURES) for name in "ab"]
    data = module(write_corpus(tmp_path / "same", PICTURES, [same]), val_fraction=0.0)
    assert data.language.extent == (16, 24)
    with pytest.raises(ValueError, match="pictures of one extent are read"):
        module(write_corpus(tmp_path / "two", PICTURES, [[*same, row_of("c", (24, 16), PICTURES)]]))


def test_mistakes_are_told_in_a_line(folder, tmp_path, write_corpus):
    with pytest.raises(ValueError, match="no such layout|the layouts are"):
        module(folder, layout="alphabet")
    with pytest.raises(ValueError, match="a model with one head reads one stream"):
        module(folder, layout="delay")
    with pytest.raises(ValueError, match="got none to validate"):
        module(folder, val_fraction=0.0).val_set()
    with pytest.raises(ValueError, match="got none with codes"):
        module(write_corpus(tmp_path / "none", MEANING, [[row_of("a", (0,))]]))
    with pytest.raises(ValueError, match="call setup"):
        TokenContexts(str(folder)).train_set()


def test_contexts_are_a_dataset_of_any_subset(folder):
    data = module(folder)
    some = np.array([5, 2])
    ids = Contexts(data.packed, some, 7, None)
    names = list(signals(data))
    wanted = [id for row in some for id in signals(data)[names[row]]]
    assert ids.read(0, ids.total).tolist() == wanted
