"""Tokens hold what their spec promises, give their items back, and name the place of a wrong code."""

from dataclasses import replace

import pytest
import torch

from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import ABSENT, Tokens, batch_tokens

SPEC = CodecSpec(
    name="voice",
    modality="audio",
    channels=1,
    sample_rate=100,
    hop=(4,),
    windows=((2,), (3,)),
    codebook_sizes=(7, 5, 3),
    latent_dim=2,
)
SCALES = replace(SPEC, name="scales", windows=(), strides=(4, 2, 1))


def speak(size, spec=SPEC, rate=None):
    counts = spec.token_counts((size,), rate)
    streams = tuple(torch.randint(k, (1, n)) for n, k in zip(counts, spec.codebook_sizes, strict=False))
    return Tokens(streams, ((size,),), spec.resolve(rate), spec)


def same(tokens, others):
    assert tokens.extents == others.extents and tokens.rate == others.rate and tokens.spec == others.spec
    assert len(tokens.streams) == len(others.streams)
    assert all(map(torch.equal, tokens.streams, others.streams))


@pytest.mark.parametrize("spec", [SPEC, SCALES])
@pytest.mark.parametrize("sizes", [(17,), (40, 3), (3, 40), (0, 8, 0), (0,), (8, 9, 8)])
def test_a_batch_gives_its_items_back(spec, sizes):
    items = [speak(size, spec) for size in sizes]
    batch = batch_tokens(items)
    assert len(batch) == len(sizes) and batch.extents == tuple((size,) for size in sizes)
    for item, back in zip(items, batch, strict=True):
        same(back, item)
    for index, item in enumerate(items):
        same(batch[index], item)
        same(batch[index - len(items)], item)
    with pytest.raises(IndexError):
        batch[len(items)]


def test_behind_a_shorter_signal_codes_are_absent():
    batch = batch_tokens([speak(9), speak(40), speak(0)])
    assert batch.codes.shape == (3, 3, 5)
    assert batch.mask.tolist() == [[True] * 2 + [False] * 3, [True] * 5, [False] * 5]
    assert torch.equal(batch.codes == ABSENT, ~batch.mask[:, None].expand(3, 3, 5))


def test_batches_of_batches_are_flat():
    items = [speak(size) for size in (9, 40, 3)]
    same(batch_tokens([batch_tokens(items[:2]), items[2]]), batch_tokens(items))


def test_one_batch_has_one_codec_and_one_rate():
    with pytest.raises(ValueError, match="at least one item"):
        batch_tokens([])
    for other in (speak(8, SPEC, Rate(codebooks=2)), speak(8, replace(SPEC, latent_dim=3))):
        with pytest.raises(ValueError, match="one codec and rate"):
            batch_tokens([speak(8), other])


def test_codes_are_dense_where_codebooks_run_at_one_rate():
    tokens = speak(17)
    assert tokens.codes.shape == (1, 3, 3) and tokens.codes.dtype == torch.int64
    for book in range(3):
        assert torch.equal(tokens.codes[:, book], tokens.streams[book])
    with pytest.raises(ValueError, match=r"strides \(4, 2, 1\).*use tokens.streams"):
        _ = speak(17, SCALES).codes


def test_a_prefix_has_the_first_codebooks_and_says_so():
    tokens = speak(17)
    for codebooks in (1, 2, 3):
        prefix = tokens.prefix(codebooks)
        assert prefix.rate == Rate(codebooks=codebooks, queries=1, window=(2,))
        assert torch.equal(prefix.codes, tokens.codes[:, :codebooks])
    for whole, codebooks in ((tokens, 4), (tokens, 0), (tokens.prefix(2), 3)):
        with pytest.raises(ValueError, match=f"codebooks.*{codebooks}"):
            whole.prefix(codebooks)


def test_tokens_move_between_devices():
    tokens = speak(17).to("meta")
    assert {stream.device.type for stream in tokens.streams} == {"meta"} and tokens.extents == ((17,),)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"extents": ((25,),)}, r"\(1, 4\), got torch.int64 \(1, 3\); pass the extents"),
        ({"extents": ((17,), (17,))}, r"2 signals .*\(2, 3\), got torch.int64 \(1, 3\)"),
        ({"extents": ((17, 1),)}, "takes 1 axes"),
        ({"extents": ((-1,),)}, "at least 0"),
        ({"rate": Rate(codebooks=2)}, "rate says 2 codebooks, got 3 streams"),
        ({"rate": Rate(window=(3,))}, r"\(1, 2\), got torch.int64 \(1, 3\)"),
        ({"rate": Rate(codebooks=9)}, "1 to 3 codebooks, got 9"),
        ({"streams": (torch.zeros(1, 3),) * 3}, r"int64 \(1, 3\), got torch.float32"),
        ({"streams": (torch.zeros(1, 3, dtype=torch.int32),) * 3}, "got torch.int32"),
        ({"streams": (torch.zeros(3, dtype=torch.int64),) * 3}, r"got torch.int64 \(3,\)"),
    ],
)
def test_streams_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(speak(17), **change)


@pytest.mark.parametrize("book, item, position, code", [(0, 0, 0, 7), (1, 1, 4, 5), (2, 1, 2, -2), (2, 0, 1, 10**12)])
def test_a_wrong_code_is_named_with_its_place(book, item, position, code):
    batch = batch_tokens([speak(9), speak(40)])
    batch.check_codes()
    batch.streams[book][item, position] = code
    last, place = SPEC.codebook_sizes[book] - 1, f"in item {item} at position {position}"
    with pytest.raises(ValueError, match=f"codebook {book} has codes 0 to {last} .*got {code} {place}"):
        batch.check_codes()
