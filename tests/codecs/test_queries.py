"""Queries: where they stand, what they see, and that a prefix of them is a coarser reading."""

import itertools

import numpy as np
import pytest
import torch

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.image.models import query_image
from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.queries import QueryDecoder, QueryEncoder, query_positions, resampling, window_positions
from sigtok.codecs.spec import Rate

DIM = 8


def encoder(windows, queries, context=0):
    return QueryEncoder(WindowTransformer(DIM, 1, 2, context), windows, queries)


def decoder(windows, queries, context=0):
    return QueryDecoder(WindowTransformer(DIM, 1, 2, context), windows, queries)


def points(places):
    return {tuple(place) for place in places.tolist()}


# -- where they stand --------------------------------------------------------------------------------------


def test_positions_of_a_window_go_row_by_row():
    assert window_positions((3,)).tolist() == [[0], [1], [2]]
    assert window_positions((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_the_first_1_4_16_queries_of_a_tile_are_regular_grids(side):
    places = query_positions((side, side), side * side)
    assert len(points(places)) == side * side
    for power in range(side.bit_length()):
        step = side >> power
        grid = itertools.product(range(0, side, step), repeat=2)
        assert points(places[: 4**power]) == set(grid)


@pytest.mark.parametrize("window", [(4, 8), (3, 5), (6, 4)])
def test_all_queries_of_a_tile_are_all_its_positions(window):
    most = window[0] * window[1]
    places = query_positions(window, most)
    assert points(places) == points(window_positions(window)) and len(places) == most
    for queries in range(1, most):
        assert torch.equal(query_positions(window, queries), places[:queries])


@pytest.mark.parametrize("window", [1, 2, 3, 8])
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 8])
def test_queries_in_time_end_the_equal_parts_of_their_window(window, queries):
    places = query_positions((window,), queries)
    ends = torch.arange(1, queries + 1) * window / queries - 0.5
    assert places.shape == (queries, 1)
    torch.testing.assert_close(places[:, 0].sort().values, ends)
    assert places[0] == window - 0.5  # one query alone follows all that it reads


@pytest.mark.parametrize("queries", [2, 4, 8])
def test_the_first_1_2_4_queries_in_time_cover_the_window_evenly(queries):
    places = query_positions((8,), queries)
    for power in range(queries.bit_length()):
        torch.testing.assert_close(places[: 2**power].sort(0).values, query_positions((8,), 2**power).sort(0).values)


def test_a_tile_holds_no_more_queries_than_positions():
    with pytest.raises(ValueError, match=r"\(2, 3\) holds at most 6 queries, got 7"):
        query_positions((2, 3), 7)


# -- what they see -----------------------------------------------------------------------------------------


def reach(output, inputs):
    """Whether item m of the output depends on item n of the inputs, for all pairs ``[M, N]``."""
    rows = []
    for index in range(output.shape[1]):
        (gradient,) = torch.autograd.grad(output[:, index].square().sum(), inputs, retain_graph=True)
        rows.append(gradient[0].abs().flatten(1).sum(-1) > 0)
    return torch.stack(rows)


def band(count, context):
    gap = torch.arange(count)[:, None] - torch.arange(count)
    return (gap >= 0) & (gap <= context)


@pytest.mark.parametrize("window, context", [((3,), 0), ((3,), 2), ((2, 2), 0)])
@pytest.mark.parametrize("queries", [1, 2])
def test_windows_and_queries_see_their_own_window_and_the_context_before(window, context, queries):
    slots = len(window_positions(window))
    positions = torch.randn(1, 4, slots, DIM, requires_grad=True)
    read, _ = encoder((window,), 2, context * window[0])(positions, window, queries)
    assert read.shape == (1, 4, queries, DIM)
    assert torch.equal(reach(read, positions), band(4, context))
    said = torch.randn(1, 4, queries, DIM, requires_grad=True)
    written, _ = decoder((window,), 2, context * window[0])(said, window)
    assert written.shape == (1, 4, slots, DIM)
    assert torch.equal(reach(written, said), band(4, context))


@pytest.mark.parametrize("window, queries", [((5,), 3), ((2, 4), 8)])
def test_every_query_reads_every_position_and_every_position_hears_every_query(window, queries):
    slots = len(window_positions(window))
    positions = torch.randn(1, 1, slots, DIM, requires_grad=True)
    read, _ = encoder((window,), queries)(positions, window, queries)
    for index in range(queries):
        (gradient,) = torch.autograd.grad(read[0, 0, index].square().sum(), positions, retain_graph=True)
        assert (gradient != 0).any(-1).all()
    said = torch.randn(1, 1, queries, DIM, requires_grad=True)
    written, _ = decoder((window,), queries)(said, window)
    for index in range(slots):
        (gradient,) = torch.autograd.grad(written[0, 0, index].square().sum(), said, retain_graph=True)
        assert (gradient != 0).any(-1).all()


def test_queries_and_masks_tell_their_places_apart():
    read, _ = encoder(((4,),), 4)(torch.randn(1, 1, 4, DIM), (4,), 4)
    written, _ = decoder(((4,),), 4)(torch.randn(1, 1, 4, DIM), (4,))
    for slots in (read[0, 0], written[0, 0]):
        assert torch.pdist(slots).min() > 1e-4


# -- the linear path ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("taps", [1, 2, 4, 7])
def test_positions_lie_between_taps_as_linear_interpolation_says(window, taps):
    places, points = (np.arange(window) + 0.5) / window, (np.arange(taps) + 0.5) / taps
    for tap in range(taps):
        expected = np.interp(places, points, np.eye(taps)[tap])
        np.testing.assert_allclose(resampling(window, taps)[:, tap], expected, atol=1e-6)


def test_a_window_of_a_steady_signal_is_read_alike_at_every_length():
    windows = ((2,), (3,), (5,), (10,))
    part = QueryEncoder(WindowTransformer(DIM, 0, 2), windows, 1, taps=3)
    torch.nn.init.zeros_(part.query)
    steady = torch.randn(DIM)
    reads = [part(steady.expand(1, 1, size, DIM), (size,), 1)[0] for (size,) in windows[1:]]
    for read in reads:  # of two positions, three points are not all seen
        torch.testing.assert_close(read, reads[0])


def test_the_linear_path_tells_positions_apart_without_a_transformer():
    part = QueryDecoder(WindowTransformer(DIM, 0, 2), ((6,),), 1, taps=4)
    written, _ = part(torch.randn(1, 1, 1, DIM), (6,))
    assert torch.pdist(written[0, 0]).min() > 1e-3
    bare = QueryDecoder(WindowTransformer(DIM, 0, 2), ((6,),), 1)(torch.randn(1, 1, 1, DIM), (6,))[0]
    assert torch.pdist(bare[0, 0]).max() < 1e-3


@pytest.mark.parametrize("windows, queries", [(((4,),), 2), (((2, 2),), 1)])
def test_a_linear_path_is_for_one_query_in_time(windows, queries):
    for part in (QueryEncoder, QueryDecoder):
        with pytest.raises(ValueError, match=f"one query in time, got taps=3, queries={queries}"):
            part(WindowTransformer(DIM, 1, 2), windows, queries, taps=3)


def test_swapped_queries_do_not_say_the_same():
    said = torch.randn(1, 1, 4, DIM)
    mirror = decoder(((4,),), 4)
    assert not torch.allclose(mirror(said, (4,))[0], mirror(said.flip(2), (4,))[0], atol=1e-4)


def test_the_embedding_of_its_window_reaches_each_query():
    windows = ((2,), (3,))
    for part, shape in ((encoder(windows, 2), (3,)), (decoder(windows, 2), (2,))):
        arguments = ((3,), 2) if isinstance(part, QueryEncoder) else ((3,),)
        part(torch.randn(1, 2, *shape, DIM), *arguments)[0].square().sum().backward()
        assert (part.window_embedding.grad != 0).any(-1).tolist() == [False, True]


# -- rates, one set of weights -----------------------------------------------------------------------------


def test_every_number_of_queries_decodes(tiny_image_codec):
    signal = torch.rand(1, 3, 20, 16) * 2 - 1
    seen = set()
    for queries in range(1, 17):
        tokens = tiny_image_codec.encode(signal, Rate(queries=queries))
        assert tokens.codes.shape == (1, 1, 2 * queries)
        decoded = tiny_image_codec.decode(tokens)
        assert decoded.shape == signal.shape and decoded.isfinite().all()
        seen.add(float(decoded.sum()))
    assert len(seen) == 16
    with pytest.raises(ValueError, match="1 to 16 queries, got 17"):
        tiny_image_codec.encode(signal, Rate(queries=17))


def test_queries_that_are_not_sent_do_not_learn():
    codec = query_image(
        levels=1,
        tile=2,
        queries=4,
        dim=8,
        heads=2,
        encoder_depth=1,
        decoder_depth=1,
        codebook_size=16,
        latent_dim=4,
    )
    codec(torch.rand(1, 3, 4, 4), Rate(queries=3)).signal.square().sum().backward()
    for parameter in (codec.encoder.queries.query, codec.decoder.queries.order):
        assert (parameter.grad != 0).any(-1).tolist() == [True, True, True, False]


def test_every_window_decodes():
    codec = query_speech(
        frame_hop=8,
        frame_size=24,
        stack=2,
        windows=(2, 3, 5),
        context=0.004,
        dim=16,
        heads=2,
        encoder_depth=1,
        decoder_depth=1,
        decoder_blocks=1,
        codebooks=2,
        codebook_size=16,
        latent_dim=4,
    )
    signal = torch.rand(1, 1, 330) * 2 - 1
    for window, count in (((2,), 11), ((3,), 7), ((5,), 5)):
        tokens = codec.encode(signal, Rate(window=window))
        assert tokens.codes.shape == (1, 2, count) and tokens.rate.window == window
        assert codec.decode(tokens).shape == signal.shape
    with pytest.raises(ValueError, match=r"trained with windows \(\(2,\), \(3,\), \(5,\)\), got \(4,\)"):
        codec.encode(signal, Rate(window=(4,)))
