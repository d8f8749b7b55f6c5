"""Laws of layouts: ids round-trip, every code stands once, the future is not seen, damage is named, masks are exact."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigtok.codecs.layouts.coarse_first import CoarseFirst
from sigtok.codecs.layouts.delay import Delay
from sigtok.codecs.layouts.elastic import Elastic
from sigtok.codecs.layouts.flatten import Flatten
from sigtok.codecs.layouts.grouped import Grouped
from sigtok.codecs.layouts.hierarchical import Hierarchical
from sigtok.codecs.layouts.names import LAYOUTS, layout
from sigtok.codecs.layouts.unroll import Unroll
from sigtok.codecs.layouts.vocabulary import Vocabulary
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens, batch_tokens

WIDE = 64
SIZES = (5, 3, 9, 2, 4, 7, 2, 6)  # unequal K
PICTURES = ("raster", "scale_wise", "query_order", "granularity_blocks")  # test_picture_layouts.py
MAKERS = {
    **{name: make for name, make in LAYOUTS.items() if name not in PICTURES},
    "delay_0_0_2": lambda s, r=None: Delay(s, r, delays=[2 * (q // 2) for q in books(s, r)]),
    "unroll_to_flatten": lambda s, r=None: Unroll(s, r, inner=books(s, r)),
    "unroll_delayed": lambda s, r=None: Unroll(s, r, inner=[q // 2 for q in books(s, r)], delays=books(s, r)),
    "coarse_first_delayed": lambda s, r=None: CoarseFirst(s, r, delays=books(s, r)[:-1]),
    "grouped_by_1": lambda s, r=None: Grouped(s, r, group=1),
    "grouped_by_all": lambda s, r=None: Grouped(s, r, group=len(books(s, r))),
}
NOT_CAUSAL = {"coarse_first", "coarse_first_delayed", "grouped", "grouped_by_1", "grouped_by_all"}
STREAMS = {"flatten", "grouped", "grouped_by_1", "grouped_by_all", "hierarchical", "elastic"}
EVERY = pytest.mark.parametrize("name", MAKERS)
EACH_STREAM = pytest.mark.parametrize("name", sorted(STREAMS))
EACH_PARALLEL = pytest.mark.parametrize("name", sorted(set(MAKERS) - STREAMS))
WINDOWS = (0, 1, 2, 3, 17)
BOOKS = (1, 2, 3, 8)
STRIDES = ((4, 2, 1), (8, 4, 2, 1), (6, 3, 2), (6, 2, 3, 1), (1, 2), (4, 4, 2), (3,))
EACH_STRIDES = pytest.mark.parametrize("strides", STRIDES, ids=str)


def books(spec, rate=None):
    return list(range(spec.resolve(rate).codebooks))


def audio(codebooks=3, queries=1, **fields):
    values = dict(name="toy", modality="audio", channels=1, sample_rate=100, hop=(4,), latent_dim=2)
    values |= dict(codebook_sizes=SIZES[:codebooks], windows=((2,), (3,)), queries=queries)
    return CodecSpec(**{**values, **fields})


def snac(strides, queries=1):
    return audio(len(strides), queries, strides=strides)


def image():
    return audio(modality="image", sample_rate=None, hop=(4, 4), windows=((1, 1),))


def speak(spec, extents, rate=None, seed=0):
    """Random tokens of signals of these extents."""
    generator = torch.Generator().manual_seed(seed)
    items = []
    for extent in extents:
        counts = spec.token_counts(extent, rate)
        streams = [
            torch.randint(size, (1, n), generator=generator)
            for n, size in zip(counts, spec.codebook_sizes, strict=False)
        ]
        items.append(Tokens(tuple(streams), (extent,), spec.resolve(rate), spec))
    return batch_tokens(items)


def drop_queries(tokens, seed=0):
    """The same tokens with only the first 1 to all queries of each window, and how many each has, ``[B, windows]``."""
    queries, codes = tokens.rate.queries, tokens.codes
    counts = torch.randint(
        1, queries + 1, (len(codes), codes.shape[2] // queries), generator=torch.Generator().manual_seed(seed)
    )
    present = (torch.arange(queries) < counts[..., None]).flatten(1)
    streams = tuple(torch.where(present, stream, -1) for stream in tokens.streams)
    return Tokens(streams, tokens.extents, tokens.rate, tokens.spec), counts


def same(tokens, others):
    assert tokens.extents == others.extents and tokens.rate == others.rate and tokens.spec == others.spec
    assert all(map(torch.equal, tokens.streams, others.streams))


def as_rows(lay, ids):
    """Ids of any layout as a view ``[B, R, S]``."""
    return {"B S": lambda: ids[:, None], "B Q S": lambda: ids, "B S Q": lambda: ids.transpose(1, 2)}[lay.axes]()


def as_ids(lay, rows):
    return {"B S": rows[:, 0], "B Q S": rows, "B S Q": rows.transpose(1, 2)}[lay.axes]


def cut(lay, ids, steps):
    return as_ids(lay, as_rows(lay, ids)[..., :steps])


def wide(spec):
    """The same codec with more codes per codebook than any signal here has."""
    return replace(spec, codebook_sizes=(WIDE,) * spec.num_codebooks)


def places(make, spec, rate, extent):
    """Where each code of a signal stands, ``(codebook, index) -> (row, step)``, told by codes that are all different.

    Nothing of the layout's own map is used.
    """
    counts = spec.token_counts(extent, rate)
    streams = tuple(torch.arange(count)[None] for count in counts)
    lay = make(wide(spec), rate)
    rows = as_rows(lay, lay.to_ids(Tokens(streams, (extent,), lay.rate, lay.spec)))[0]
    found = {}
    for row, step in (rows < lay.vocabulary.num_codes).nonzero().tolist():
        book, index = divmod(int(rows[row, step]), WIDE)
        assert (book, index) not in found
        found[book, index] = row, step
    assert len(found) == sum(counts)
    return found, rows


# -- R1 round trip -----------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("codebooks", BOOKS)
def test_ids_round_trip(name, codebooks):
    lay = MAKERS[name](audio(codebooks))
    for windows in WINDOWS:
        tokens = speak(lay.spec, [(windows * 8,)])
        same(lay.from_ids(lay.to_ids(tokens)), tokens)


@EVERY
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_ragged_batches_of_any_extent_and_rate_round_trip(name, data):
    spec = audio(data.draw(st.sampled_from(BOOKS)), queries=3)
    rate = Rate(
        codebooks=data.draw(st.integers(1, spec.num_codebooks)),
        queries=data.draw(st.integers(1, 3)),
        window=data.draw(st.sampled_from(spec.windows)),
    )
    samples = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=4))
    tokens = speak(spec, [(count,) for count in samples], rate)
    lay = MAKERS[name](spec, rate)
    ids = lay.to_ids(tokens)
    same(lay.from_ids(ids, tokens.extents), tokens)
    same(lay.from_ids(ids, tokens.extents, strict=False), tokens)
    assert torch.equal(lay.from_ids(ids).codes, tokens.codes)
    (step,) = spec.step(rate)
    assert lay.from_ids(ids).extents == tuple((-(-count // step) * step,) for count in samples)


@EACH_STRIDES
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_codebooks_of_several_rates_round_trip(strides, data):
    spec = snac(strides, queries=3)
    rate = Rate(codebooks=data.draw(st.integers(1, len(strides))), queries=data.draw(st.integers(1, 3)))
    samples = data.draw(st.lists(st.integers(0, 150), min_size=1, max_size=4))
    tokens = speak(spec, [(count,) for count in samples], rate)
    lay = Hierarchical(spec, rate)
    ids = lay.to_ids(tokens)
    same(lay.from_ids(ids, tokens.extents), tokens)
    assert all(map(torch.equal, lay.from_ids(ids).streams, tokens.streams))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_windows_of_any_number_of_queries_round_trip(data):
    spec = audio(data.draw(st.sampled_from(BOOKS)), queries=4)
    rate = Rate(codebooks=data.draw(st.integers(1, spec.num_codebooks)), queries=data.draw(st.integers(1, 4)))
    samples = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=4))
    tokens, _ = drop_queries(speak(spec, [(count,) for count in samples], rate), data.draw(st.integers(0, 99)))
    lay = Elastic(spec, rate)
    ids = lay.to_ids(tokens)
    same(lay.from_ids(ids, tokens.extents), tokens)
    assert torch.equal(lay.from_ids(ids).codes, tokens.codes)


@EVERY
def test_images_round_trip_with_their_extents(name):
    spec = image()
    tokens = speak(spec, [(9, 5), (4, 4), (1, 30)])
    lay = MAKERS[name](spec)
    ids = lay.to_ids(tokens)
    same(lay.from_ids(ids, tokens.extents), tokens)
    with pytest.raises(ValueError, match="height and width of an image do not follow"):
        lay.from_ids(ids)


@EVERY
def test_ids_of_every_integer_type_are_read(name):
    tokens = speak(audio(), [(24,), (8,)])
    lay = MAKERS[name](tokens.spec)
    for kind in (torch.int32, torch.uint16, torch.int64):
        same(lay.from_ids(lay.to_ids(tokens).to(kind), tokens.extents), tokens)


# -- R2 order, length, and every coordinate once ------------------------------------------------------------


def steps_of(name, n, q):
    """S of n frames and q codebooks."""
    return {
        "parallel": n,
        "delay": n + q - 1,
        "partial_delay": n + (q > 1),
        "delay_0_0_2": n + 2 * ((q - 1) // 2),
        "unroll": n * (1 + (q > 1)),
        "unroll_to_flatten": n * q,
        "unroll_delayed": (n + q - 1) * ((q - 1) // 2 + 1),
        "coarse_first": n * (1 + (q > 1)),
        "coarse_first_delayed": n * (1 + (q > 1)) + max(q - 2, 0),
        "depth": n,
    }.get(name, n * q)


@EVERY
@pytest.mark.parametrize("codebooks", BOOKS)
def test_lengths_follow_the_formula_and_every_code_stands_once_where_it_says(name, codebooks):
    lay = MAKERS[name](audio(codebooks))
    for windows in WINDOWS:
        found, rows = places(MAKERS[name], lay.spec, None, (windows * 8,))
        assert rows.shape == (1 if name in STREAMS else codebooks, steps_of(name, windows, codebooks))
        assert (rows == Vocabulary(wide(lay.spec)).special("EMPTY")).sum() == rows.numel() - len(found)
        tokens = speak(lay.spec, [(windows * 8,)])
        ids = as_rows(lay, lay.to_ids(tokens))[0]
        for (book, index), (row, step) in found.items():
            assert row == (0 if name in STREAMS else book)
            assert step == slow_step(name, book, index, windows, codebooks)
            assert ids[row, step] == lay.vocabulary.offsets[book] + tokens.streams[book][0, index]


def slow_step(name, q, t, n, count):
    """The step of code (q, t) of n frames and ``count`` codebooks, as the papers have it."""
    half = (count + 1) // 2
    width = half if q < half else count - half
    return {
        "parallel": t,
        "depth": t,
        "delay": t + q,
        "partial_delay": t + (q > 0),
        "delay_0_0_2": t + q // 2 * 2,
        "unroll": 2 * t + (q > 0) if count > 1 else t,
        "unroll_to_flatten": t * count + q,
        "unroll_delayed": (t + q) * ((count - 1) // 2 + 1) + q // 2,
        "coarse_first": t + n * (q > 0),
        "coarse_first_delayed": t + (n + q - 1) * (q > 0),
        "flatten": t * count + q,
        "hierarchical": t * count + q,
        "elastic": t * count + q,
        "grouped": (q >= half) * half * n + t * width + q - (q >= half) * half,
        "grouped_by_1": q * n + t,
        "grouped_by_all": t * count + q,
    }[name]


def depth_first(strides, book, start, positions):
    """The code of a codebook that begins at a position, then those that refine it, finer each time."""
    if start >= positions:
        return []
    codes = [(book, start // strides[book])]
    if book + 1 < len(strides):
        for child in range(start, start + strides[book], strides[book + 1]):
            codes += depth_first(strides, book + 1, child, positions)
    return codes


@pytest.mark.parametrize("strides", [(4, 2, 1), (8, 4, 2, 1), (4, 4, 2), (6, 2), (1, 1, 1), (3,)], ids=str)
@pytest.mark.parametrize("windows", [0, 1, 2, 3, 4, 7, 8, 17])
def test_hierarchical_is_depth_first(strides, windows):
    found, _ = places(Hierarchical, snac(strides), None, (windows * 8,))
    expected = [code for start in range(0, windows, strides[0]) for code in depth_first(strides, 0, start, windows)]
    assert sorted(found, key=found.get) == expected


def test_hierarchical_has_the_slots_of_snac():
    found, _ = places(Hierarchical, snac((4, 2, 1)), None, (4 * 8,))
    slots = [[step for (book, _), (_, step) in sorted(found.items()) if book == q] for q in range(3)]
    assert slots == [[0], [1, 4], [2, 3, 5, 6]]


@EACH_STRIDES
@pytest.mark.parametrize("windows", WINDOWS)
def test_hierarchical_orders_codes_by_where_they_begin_coarse_before_fine(strides, windows):
    found, rows = places(Hierarchical, snac(strides), None, (windows * 8,))
    begins = [(index * strides[book], book) for book, index in sorted(found, key=found.get)]
    assert begins == sorted(begins) and rows.shape == (1, len(begins))


def test_elastic_is_what_the_slow_loop_says():
    tokens, counts = drop_queries(speak(audio(queries=3), [(10 * 8,)]))
    lay = Elastic(tokens.spec)
    expected = []
    for window, count in enumerate(counts[0].tolist()):
        for query, book in itertools.product(range(count), range(3)):
            expected.append(int(tokens.codes[0, book, window * 3 + query]) + lay.vocabulary.offsets[book])
        if count < 3:
            expected.append(lay.vocabulary.special("EOB"))
    assert lay.to_ids(tokens).tolist() == [expected]
    assert {1, 2, 3} == set(counts[0].tolist())


# -- R3 causality ------------------------------------------------------------------------------------------


def first_change(lay, tokens, frame):
    """The first step that differs when all codes from a frame on do."""
    streams = tuple(stream.clone() for stream in tokens.streams)
    for book, (stream, stride) in enumerate(zip(streams, tokens.spec.strides, strict=False)):
        start = -(-frame // stride)
        stream[:, start:] = (stream[:, start:] + 1) % SIZES[book]
    changed = Tokens(streams, tokens.extents, tokens.rate, tokens.spec)
    differ = as_rows(lay, lay.to_ids(tokens)) != as_rows(lay, lay.to_ids(changed))
    return int(differ.any(1).nonzero()[:, 1].min())


@EVERY
@pytest.mark.parametrize("frame", [0, 1, 4])
def test_ids_do_not_change_with_the_future_unless_flagged(name, frame):
    tokens = speak(audio(), [(6 * 8,)])
    lay = MAKERS[name](tokens.spec)
    assert lay.causal == (name not in NOT_CAUSAL)
    found, _ = places(MAKERS[name], tokens.spec, None, (6 * 8,))
    assert first_change(lay, tokens, frame) == found[0, frame][1]
    before = max((step for (book, t), (_, step) in found.items() if t < frame), default=0)
    late = before - found[0, frame][1]  # how long after the next frame begins this one is complete
    assert not lay.causal or late <= max(0, *getattr(lay, "delays", (0,))) * (
        lay.inner[-1] + 1 if "unroll" in name else 1
    )
    if frame and name in NOT_CAUSAL - {"grouped_by_all"}:
        assert late > 1


@EVERY
@pytest.mark.parametrize("frames", range(7))
def test_a_longer_signal_starts_with_the_same_ids_if_causal(name, frames):
    tokens = speak(audio(), [(6 * 8,)])
    start = Tokens(tuple(s[:, :frames] for s in tokens.streams), ((frames * 8,),), tokens.rate, tokens.spec)
    lay = MAKERS[name](tokens.spec)
    whole, part = as_rows(lay, lay.to_ids(tokens)), as_rows(lay, lay.to_ids(start))
    found, _ = places(MAKERS[name], tokens.spec, None, (6 * 8,))
    steps = found.get((0, frames), (0, whole.shape[-1]))[1]
    agrees = torch.equal(whole[..., :steps], part[..., :steps])
    assert agrees or not lay.causal
    if name in NOT_CAUSAL - {"grouped_by_all"}:
        assert not torch.equal(whole, part) or frames == 6


@EACH_STRIDES
def test_hierarchical_does_not_see_the_next_block(strides):
    tokens = speak(snac(strides), [(17 * 8,)])
    lay = Hierarchical(tokens.spec)
    found, _ = places(Hierarchical, tokens.spec, None, (17 * 8,))
    block = max(strides)
    for frame in range(0, 17, block):
        coarse = strides.index(block)
        begins = min(found[book, frame // stride][1] for book, stride in enumerate(strides) if frame % stride == 0)
        assert first_change(lay, tokens, frame) == begins <= found[coarse, frame // block][1]


# -- R4 truncation, R7 flush -------------------------------------------------------------------------------


def frames_in(found, spec, steps, frames, layers):
    """How many of the first frames have all codes of these layers in the first steps."""
    complete = 0
    while complete < frames and all(found[q, complete // spec.strides[q]][1] < steps for q in layers):
        complete += 1
    return complete


CUTS = [
    *((name, audio(queries=queries)) for name in MAKERS for queries in (1, 2)),
    *(("hierarchical", snac(strides, queries)) for strides in STRIDES for queries in (1, 2)),
]
EACH_CUT = pytest.mark.parametrize("name, spec", CUTS, ids=[f"{n}-{s.strides}-{s.queries}" for n, s in CUTS])


@EACH_CUT
@pytest.mark.parametrize("strict", [True, False])
def test_a_cut_anywhere_gives_the_complete_windows(name, spec, strict):
    """Not strict: the windows that codebook 0 has, and -1 for codes that did not come."""
    tokens = speak(spec, [(7 * 8,)])
    lay, frames, layers = MAKERS[name](spec), 7 * spec.queries, range(spec.num_codebooks if strict else 1)
    ids = lay.to_ids(tokens)
    found, rows = places(MAKERS[name], spec, None, (7 * 8,))
    for steps in range(rows.shape[-1] + 1):
        back = lay.from_ids(cut(lay, ids, steps), strict=strict)
        reach = frames_in(found, spec, steps, frames, layers)
        last = frames == reach or min(spec.strides) == 1
        windows = reach // spec.queries
        if name == "elastic" and not strict:
            windows = -(-steps // (3 * spec.queries))  # the queries of a window that did not come are absent
        if last and spec.strides[0] == 1:
            assert back.extents == ((windows * 8,),)
        for book, stream in enumerate(back.streams):
            for index, code in enumerate(stream[0].tolist()):
                if found.get((book, index), (0, steps))[1] < steps:
                    assert code == tokens.streams[book][0, index]
                else:
                    assert code == -1 and not strict
        most = -(-windows * spec.queries // spec.strides[0])
        assert len(back.streams[0][0]) >= most


@EVERY
def test_what_a_cut_left_out_is_absent_up_to_the_extents(name):
    tokens = speak(image(), [(9, 9)])
    lay = MAKERS[name](tokens.spec)
    ids = lay.to_ids(tokens)
    found, rows = places(MAKERS[name], tokens.spec, None, (9, 9))
    for steps in range(rows.shape[-1] + 1):
        part = lay.from_ids(cut(lay, ids, steps), tokens.extents, strict=False)
        for (book, index), (_, step) in found.items():
            assert part.streams[book][0, index] == (tokens.streams[book][0, index] if step < steps else -1)
        if steps <= max(step for _, step in found.values()):
            with pytest.raises(ValueError, match="has 9 positions, the ids complete"):
                lay.from_ids(cut(lay, ids, steps), tokens.extents)


@EVERY
def test_cut_items_padded_to_a_batch_read_like_each_alone(name):
    tokens = speak(audio(), [(6 * 8,)])
    lay = MAKERS[name](tokens.spec)
    rows = as_rows(lay, lay.to_ids(tokens))
    length = rows.shape[-1]
    batch = rows.repeat(length + 1, 1, 1)
    for steps in range(length + 1):
        batch[steps, :, steps:] = lay.vocabulary.special("PAD")
    alone = [lay.from_ids(as_ids(lay, rows[..., :steps])) for steps in range(length + 1)]
    same(lay.from_ids(as_ids(lay, batch)), batch_tokens(alone))


def test_a_window_cut_before_its_end_does_not_count():
    tokens, counts = drop_queries(speak(audio(queries=3), [(6 * 8,)]))
    lay = Elastic(tokens.spec)
    (ids,) = lay.to_ids(tokens).tolist()
    ends, step = [], 0
    for count in counts[0].tolist():
        step += 3 * count + (count < 3)
        ends.append(step)
    assert step == len(ids)
    for steps in range(len(ids) + 1):
        windows = sum(end <= steps for end in ends)
        back = lay.from_ids(torch.tensor([ids[:steps]], dtype=torch.int64))
        assert torch.equal(back.codes, tokens.codes[..., : windows * 3])
        part = lay.from_ids(torch.tensor([ids[:steps]], dtype=torch.int64), strict=False)
        assert (part.codes >= 0).sum() == sum(id < lay.vocabulary.num_codes for id in ids[:steps])


@pytest.mark.parametrize("delays", [(0, 1, 2), (0, 1, 1), (0, 0, 4)])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 9])
def test_delay_completes_all_but_the_last_frames_and_flushes_them(delays, steps):
    tokens = speak(audio(), [(steps * 8,)])
    lay = Delay(tokens.spec, delays=delays)
    ids = lay.to_ids(tokens)
    assert lay.from_ids(ids[..., :steps]).codes.shape[-1] == max(0, steps - max(delays))
    same(lay.from_ids(ids[..., : steps + max(delays)]), tokens)


@EVERY
@pytest.mark.parametrize("strict", [True, False])
def test_ids_must_hold_what_the_extents_promise(name, strict):
    tokens = speak(audio(), [(24,), (16,)])
    lay = MAKERS[name](tokens.spec)
    ids = lay.to_ids(tokens)
    with pytest.raises(ValueError, match=r"item 1 of extent \(8,\) has 1 positions, the ids complete 2 and begin 2"):
        lay.from_ids(ids, [(24,), (8,)], strict=strict)
    with pytest.raises(ValueError, match="2 items of ids need 2 extents, got 1"):
        lay.from_ids(ids, [(24,)], strict=strict)
    if strict:
        with pytest.raises(ValueError, match=r"item 1 of extent \(25,\) has 4 positions, the ids complete 2"):
            lay.from_ids(ids, [(24,), (25,)])


# -- R5 ids out of place -----------------------------------------------------------------------------------


@EACH_PARALLEL
def test_every_id_out_of_its_range_is_named_with_its_place(name):
    tokens = speak(audio(), [(3 * 8,), (4 * 8,)])
    lay = MAKERS[name](tokens.spec)
    ids, vocabulary = lay.to_ids(tokens), lay.vocabulary
    found, _ = places(MAKERS[name], tokens.spec, None, (4 * 8,))
    for (book, _), (row, step) in found.items():
        low, high = vocabulary.offsets[book], vocabulary.offsets[book] + SIZES[book]
        for wrong in {-2, -1, low - 1, high, 0, vocabulary.size - 1, vocabulary.size} - set(range(low, high)):
            damaged = ids.clone()
            as_rows(lay, damaged)[1, row, step] = wrong
            with pytest.raises(ValueError, match=rf"got {wrong} \(.* in item 1 at step {step}$"):
                lay.from_ids(damaged)


@EACH_PARALLEL
def test_every_hole_before_the_end_holds_empty(name):
    tokens = speak(audio(), [(4 * 8,)])
    lay = MAKERS[name](tokens.spec)
    ids, vocabulary = lay.to_ids(tokens), lay.vocabulary
    found, rows = places(MAKERS[name], tokens.spec, None, (4 * 8,))
    ends = {row: max(step for there, step in found.values() if there == row) for row in range(3)}
    holes = [hole for hole in itertools.product(*map(range, rows.shape)) if hole not in found.values()]
    holes = [(row, step) for row, step in holes if step < ends[row]]
    assert bool(holes) == (name not in ("parallel", "depth"))
    for row, step in holes:
        for wrong in (-1, 0, vocabulary.offsets[row], *map(vocabulary.special, ("BOA", "EOA", "PAD"))):
            damaged = ids.clone()
            as_rows(lay, damaged)[0, row, step] = wrong
            with pytest.raises(ValueError, match=rf"has EMPTY .* got {wrong} \(.* in item 0 at step {step}$"):
                lay.from_ids(damaged)


def refused_at(lay, ids):
    """Of each id in place of each other: the damaged ids, and where the mask after the ids before first says no."""
    masks = [lay.legal_after(torch.tensor([ids[:step]], dtype=torch.int64))[0] for step in range(len(ids))]
    marks = (-1, *map(lay.vocabulary.special, ("BOA", "EOA", "EMPTY", "EOB", "N1")), lay.vocabulary.size)
    for step, wrong in itertools.product(range(len(ids)), (*range(lay.vocabulary.num_codes), *marks)):
        damaged, at = [*ids[:step], wrong, *ids[step + 1 :]], step
        if 0 <= wrong < lay.vocabulary.size and masks[step][wrong]:
            at += 1
            while at < len(ids) and lay.legal_after(torch.tensor([damaged[:at]]))[0, damaged[at]]:
                at += 1
        if wrong != ids[step]:
            yield damaged, at


DAMAGED = [
    *((name, audio(queries=queries)) for name in sorted(STREAMS) for queries in (1, 2)),
    *(("hierarchical", snac(strides)) for strides in STRIDES),
]


@pytest.mark.parametrize("name, spec", DAMAGED, ids=[f"{n}-{s.strides}-{s.queries}" for n, s in DAMAGED])
def test_damage_in_a_stream_is_named_where_the_mask_of_sampling_says_no(name, spec):
    tokens = speak(spec, [(2 * 8,)])
    if name == "elastic":
        tokens, _ = drop_queries(tokens)
    lay = MAKERS[name](spec)
    (ids,) = lay.to_ids(tokens).tolist()
    for damaged, step in refused_at(lay, ids):
        if step == len(ids):
            lay.from_ids(torch.tensor([damaged]))
            continue
        with pytest.raises(ValueError, match=rf"got {damaged[step]} \(.* in item 0 at step {step}$"):
            lay.from_ids(torch.tensor([damaged]))


@EVERY
def test_a_signal_does_not_go_on_behind_its_end(name):
    tokens = speak(audio(), [(4 * 8,)])
    lay = MAKERS[name](tokens.spec)
    for mark in ("PAD", "EOA", "EMPTY"):
        ids = lay.to_ids(tokens)
        as_rows(lay, ids)[0, 0, 0] = lay.vocabulary.special(mark)
        with pytest.raises(ValueError, match=r"got \d+ \(.*\) in item 0 at step \d"):
            lay.from_ids(ids)


@EACH_PARALLEL
def test_a_codebook_does_not_end_before_the_others(name):
    tokens = speak(audio(), [(6 * 8,)])
    lay = MAKERS[name](tokens.spec)
    found, _ = places(MAKERS[name], tokens.spec, None, (6 * 8,))
    for book, mark in itertools.product((1, 2), ("PAD", "EMPTY")):
        row, step = found[book, 4]
        ids = lay.to_ids(tokens)
        as_rows(lay, ids)[0, row, step:] = lay.vocabulary.special(mark)
        if step <= max(s for (q, _), (_, s) in found.items() if q != book):
            with pytest.raises(ValueError, match=rf"codebook {book} .*\({mark}\) in item 0 at step {step}"):
                lay.from_ids(ids)


@EACH_PARALLEL
def test_a_codebook_does_not_go_on_behind_codebook_0(name):
    tokens = speak(audio(), [(9 * 8,), (2 * 8,)])
    lay = MAKERS[name](tokens.spec)
    found, _ = places(MAKERS[name], tokens.spec, None, (2 * 8,))
    for row in (1, 2):
        ids = lay.to_ids(tokens)
        step = max(step for (book, _), (_, step) in found.items() if book == row) + 1
        as_rows(lay, ids)[1, row, step] = lay.vocabulary.offsets[row]
        with pytest.raises(ValueError, match=rf"\(code 0 of codebook {row}\) in item 1 at step {step}"):
            lay.from_ids(ids)


@EACH_STREAM
def test_a_stream_ends_only_behind_a_whole_window(name):
    tokens = speak(audio(queries=2), [(3 * 8,)])
    lay = MAKERS[name](tokens.spec)
    (ids,), end = lay.to_ids(tokens).tolist(), lay.vocabulary.special("EOA")
    same(lay.from_ids(torch.tensor([[*ids, end]])), tokens)
    same(lay.from_ids(torch.tensor([[*ids, end, lay.vocabulary.special("PAD")]])), tokens)
    for behind in (end, 0):
        with pytest.raises(ValueError, match=f"in item 0 at step {len(ids) + 1}$"):
            lay.from_ids(torch.tensor([[*ids, end, behind]]))
    for step in (7, 8, 9):
        with pytest.raises(ValueError, match=rf"\(EOA\) in item 0 at step {step}"):
            lay.from_ids(torch.tensor([[*ids[:step], end]]))


@EVERY
def test_ids_of_a_wrong_shape_or_type_are_refused(name):
    lay = MAKERS[name](audio())
    wrong = [torch.zeros(3), torch.zeros(1, 3, 3), torch.zeros(1, 2, 2, dtype=torch.int64)]
    wrong += [torch.zeros(3, dtype=torch.int64), torch.zeros(1, 3, 3, dtype=torch.bool)]
    for ids in wrong:
        with pytest.raises(ValueError, match="are integers"):
            lay.from_ids(ids)
        with pytest.raises(ValueError, match="are integers"):
            lay.legal_after(ids)


# -- R6 batches --------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("windows", [(3, 1), (0, 2), (17, 3, 0, 1)])
def test_an_item_has_the_same_ids_in_a_batch_and_pad_behind(name, windows):
    tokens = speak(audio(queries=2), [(count * 8,) for count in windows])
    if name == "elastic":
        tokens, _ = drop_queries(tokens)
    lay = MAKERS[name](tokens.spec)
    ids = lay.to_ids(tokens)
    for row, item in zip(as_rows(lay, ids), tokens, strict=True):
        (alone,) = as_rows(lay, lay.to_ids(item))
        steps = alone.shape[-1]
        assert torch.equal(row[..., :steps], alone)
        assert (row[..., steps:] == lay.vocabulary.special("PAD")).all()
    for item, back in zip(tokens, lay.from_ids(ids), strict=True):
        same(back, item)
        assert (back.codes >= 0).all() or name == "elastic"


# -- R8 nothing is mixed -----------------------------------------------------------------------------------


@EVERY
def test_tokens_of_another_spec_or_rate_are_refused(name):
    spec = audio()
    lay = MAKERS[name](spec)
    others = [speak(audio(hop=(5,)), [(24,)]), speak(spec, [(24,)], Rate(codebooks=2))]
    others.append(speak(spec, [(24,)], Rate(window=(3,))))
    for tokens in others:
        with pytest.raises(ValueError, match="this layout writes toy at"):
            lay.to_ids(tokens)


@EVERY
def test_codes_that_are_absent_or_out_of_range_are_refused(name):
    absent = "a window has codes of its first" if name == "elastic" else "lay out whole signals"
    for code, message in ((-1, absent), (SIZES[1], "codebook 1 has codes 0 to 2"), (-2, "got -2")):
        tokens = speak(audio(), [(24,), (16,)])
        tokens.streams[1][1, 1] = code
        with pytest.raises(ValueError, match=message):
            MAKERS[name](tokens.spec).to_ids(tokens)


def test_a_window_has_its_first_queries_in_all_codebooks():
    for window, query, books_gone in ((0, 0, (0, 1, 2)), (1, 1, (0, 1, 2)), (1, 2, (1,)), (2, 2, (0,))):
        tokens = speak(audio(queries=3), [(24,)])
        for book in books_gone:
            tokens.streams[book][0, window * 3 + query] = -1
        with pytest.raises(ValueError, match=rf"codes of its first 1 to 3 queries .* in item 0, window {window}"):
            Elastic(tokens.spec).to_ids(tokens)


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"hierarchical"}))
def test_codebooks_of_different_rates_are_refused_by_their_strides(name):
    with pytest.raises(ValueError, match=r"strides \(4, 2, 1\); use the layout hierarchical"):
        MAKERS[name](audio(strides=(4, 2, 1)))


def test_strides_that_do_not_divide_the_coarsest_are_refused():
    with pytest.raises(ValueError, match=r"strides divide the coarsest, 4; toy has \(4, 3, 1\)"):
        Hierarchical(audio(strides=(4, 3, 1)))


def test_headers_name_every_rate_and_nothing_else():
    spec = audio(queries=2)
    vocabulary = Vocabulary(spec)
    seen = set()
    for count, queries, window in itertools.product((1, 2, 3), (1, 2), spec.windows):
        rate = Rate(codebooks=count, queries=queries, window=window)
        header = vocabulary.header(rate)
        assert vocabulary.rate_of(header) == rate
        seen.add(header)
    assert len(seen) == 12
    header = vocabulary.header()
    for place, id in itertools.product(range(4), range(vocabulary.size)):
        changed = (*header[:place], id, *header[place + 1 :])
        if changed not in seen:
            with pytest.raises(ValueError, match=f"at {place}, got {id} "):
                vocabulary.rate_of(changed)
    with pytest.raises(ValueError, match="4 ids"):
        vocabulary.rate_of(header[:3])
    with pytest.raises(ValueError, match="make one without a rate"):
        Vocabulary(spec, Rate(codebooks=2)).header(Rate(codebooks=1))


# -- vocabulary and names ----------------------------------------------------------------------------------


def test_ranges_are_disjoint_and_specials_follow():
    vocabulary = Vocabulary(audio(8))
    expected = [book for book, size in enumerate(SIZES) for _ in range(size)]
    assert [vocabulary.codebook_of(id) for id in range(sum(SIZES))] == expected
    assert [vocabulary.special(name) for name in vocabulary.specials] == list(range(sum(SIZES), vocabulary.size))
    marks = ("BOA", "EOA", "PAD", "EMPTY", "SEP", "EOB", "MASK")
    assert vocabulary.specials == (*marks, *(f"Q{q}" for q in range(1, 33)), "W2", "W3", "N1")
    for id in (-1, sum(SIZES), vocabulary.size):
        with pytest.raises(ValueError, match=f"ids of codes are 0 to 37, got {id}"):
            vocabulary.codebook_of(id)
    with pytest.raises(ValueError, match=r"the specials are BOA, .*got 'BOS'"):
        vocabulary.special("BOS")


def test_an_id_means_the_same_at_every_rate_unless_asked_to_be_small():
    spec, rate = audio(8), Rate(codebooks=2)
    assert Flatten(spec, rate).vocabulary == Flatten(spec).vocabulary
    small = Vocabulary(spec, rate)
    assert small.offsets == (0, 5) and small.special("BOA") == 8
    lay, tokens = Flatten(spec, rate, vocabulary=small), speak(spec, [(24,), (8,)], rate)
    same(lay.from_ids(lay.to_ids(tokens), tokens.extents), tokens)
    with pytest.raises(ValueError, match="got a vocabulary of toy at"):
        Flatten(spec, vocabulary=small)


def test_layouts_are_found_by_name():
    spec, rate = audio(), Rate(codebooks=2)
    for name in sorted(set(LAYOUTS) - {"raster", "granularity_blocks"}):
        lay = layout(name, spec, rate)
        kind = "delay" if name == "partial_delay" else name.replace("_", "")
        assert type(lay).__name__.lower() == kind and lay.spec == spec and lay.rate == spec.resolve(rate)
    assert layout("partial_delay", spec).delays == (0, 1, 1)
    with pytest.raises(ValueError, match="the layouts are parallel, delay, .*, depth; got 'coarse'"):
        layout("coarse", spec)


@pytest.mark.parametrize("delays", [(1, 2, 3), (0, 2, 1), (0, 1), (-1, 0, 1), ()])
def test_delays_that_do_not_ascend_from_0_are_refused(delays):
    for make in (Delay, Unroll, lambda spec, delays: Unroll(spec, inner=delays)):
        with pytest.raises(ValueError, match="delays ascend from 0, one for each of 3"):
            make(audio(), delays=delays)
    with pytest.raises(ValueError, match="delays ascend from 0, one for each of 2"):
        CoarseFirst(audio(), delays=delays if len(delays) != 2 else (1, 0))


@pytest.mark.parametrize("group", [0, 4])
def test_a_group_has_some_of_the_codebooks(group):
    with pytest.raises(ValueError, match=f"a group has 1 to 3 codebooks, got {group}"):
        Grouped(audio(), group=group)


# -- masks of sampling -------------------------------------------------------------------------------------

SPOKEN = [
    *((name, audio(queries=queries)) for name in MAKERS for queries in (1, 2)),
    *(("hierarchical", snac(strides, queries)) for strides in STRIDES for queries in (1, 2)),
]
EACH_SPOKEN = pytest.mark.parametrize("name, spec", SPOKEN, ids=[f"{n}-{s.strides}-{s.queries}" for n, s in SPOKEN])


@EACH_SPOKEN
def test_every_id_written_is_legal_where_it_stands_and_no_other_codebook(name, spec):
    tokens = speak(spec, [(5 * 8,), (0,), (3 * 8,)])
    if name == "elastic":
        tokens, _ = drop_queries(tokens)
    lay = MAKERS[name](spec)
    ids = lay.to_ids(tokens)
    rows = as_rows(lay, ids)
    for step in range(rows.shape[-1]):
        mask = lay.legal_after(cut(lay, ids, step), tokens.extents)
        assert mask.shape == (3, lay.vocabulary.size) if name in STREAMS else (3, 3, lay.vocabulary.size)
        mask = mask.reshape(3, rows.shape[1], -1)
        assert mask.gather(2, rows[..., step, None]).all()
        for legal, id in zip(mask.flatten(0, 1), rows[..., step].flatten().tolist(), strict=True):
            eob = name == "elastic" and bool(legal[lay.vocabulary.special("EOB")])
            if id < lay.vocabulary.num_codes:
                assert legal.sum() == SIZES[lay.vocabulary.codebook_of(id)] + eob
            else:
                assert legal.sum() == 1 or eob


@EVERY
def test_masks_by_step_are_those_after_the_ids(name):
    """`legal` needs no ids where the place alone decides."""
    tokens = speak(audio(queries=2), [(4 * 8,)])
    lay = MAKERS[name](tokens.spec)
    if name == "elastic":
        assert not hasattr(lay, "legal")
        return
    ids = lay.to_ids(tokens)
    found, rows = places(MAKERS[name], tokens.spec, None, (4 * 8,))
    for step in range(rows.shape[-1]):
        so_far = cut(lay, ids, step)
        assert torch.equal(lay.legal(step, frames=8), lay.legal_after(so_far, tokens.extents)[0])
        if not lay.causal:
            with pytest.raises(ValueError, match="follows from the number of frames"):
                lay.legal(step)
        elif step <= max(step for (book, _), (row, step) in found.items() if row == 0):
            assert torch.equal(lay.legal(step), lay.legal_after(so_far)[0])


@EACH_STREAM
@pytest.mark.parametrize("queries", [1, 2])
def test_a_mask_of_a_stream_allows_what_can_be_read_and_nothing_else(name, queries):
    tokens = speak(audio(2, queries=queries), [(2 * 8,)])
    if name == "elastic":
        tokens, _ = drop_queries(tokens)
    lay = MAKERS[name](tokens.spec)
    end, padding = lay.vocabulary.special("EOA"), lay.vocabulary.special("PAD")
    (ids,) = lay.to_ids(tokens).tolist()
    marks = map(lay.vocabulary.special, (*lay.vocabulary.specials[:7], "N1"))
    read = [*range(lay.vocabulary.num_codes), *marks]
    for step in range(len(ids) + 1):
        mask = lay.legal_after(torch.tensor([ids[:step]], dtype=torch.int64))[0]
        assert not mask[~torch.isin(torch.arange(len(mask)), torch.tensor(read))].any()
        for id in read:
            longer = torch.tensor([[*ids[:step], id]])
            if id == padding:
                assert not mask[id]  # a model ends by EOA; PAD is for what was cut
            elif mask[id]:
                lay.from_ids(longer)
            else:
                with pytest.raises(ValueError, match="in item 0 at step"):
                    lay.from_ids(longer)
    after = lay.legal_after(torch.tensor([[*ids, end]]))[0]
    assert after.nonzero().tolist() == [[padding]]


def draw(lay, items, seed, extents=None):
    """A blind language model: uniform over legal ids, EOA a little likelier, until only PAD is legal."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary, drawn = lay.vocabulary, []
    empty = torch.zeros(items, *{"B S": (0,), "B Q S": (3, 0), "B S Q": (0, 3)}[lay.axes], dtype=torch.int64)
    for _ in range(400):
        ids = as_ids(lay, torch.stack(drawn, -1)) if drawn else empty
        mask = lay.legal_after(ids, extents)
        if lay.axes == "B S":
            mask = mask[:, None]
        weights = mask.double()
        assert mask.any(-1).all()
        weights[..., vocabulary.special("EOA")] *= 3
        picked = torch.multinomial(weights.flatten(0, 1), 1, generator=generator).view(mask.shape[:2])
        if extents is None and lay.axes != "B S":
            told = lay.legal_after(ids, lead=picked[:, 0]).double()
            rest = torch.multinomial(told.flatten(0, 1), 1, generator=generator).view(mask.shape[:2])
            picked[:, 1:] = rest[:, 1:]
        if (picked == vocabulary.special("PAD")).all():
            return ids
        drawn.append(picked)
    pytest.fail("the signal did not end")


@EACH_SPOKEN
@pytest.mark.parametrize("known", [False, True])
def test_ids_drawn_under_the_mask_are_a_signal(name, spec, known):
    """And writing the tokens gives the ids again: there are no two ways to say one thing."""
    lay = MAKERS[name](spec)
    extents = ((5 * 8,), (0,), (3 * 8,), (8,)) if known else None
    for seed in range(3):
        ids = draw(lay, 4, seed, extents)
        tokens = lay.from_ids(ids, extents)
        assert extents in (None, tokens.extents)
        again, rows = as_rows(lay, lay.to_ids(tokens)), as_rows(lay, ids)
        ended = rows == lay.vocabulary.special("EOA")
        if known:
            assert not ended.any() and torch.equal(rows, again)
            continue
        assert torch.equal(ended.sum((1, 2)), torch.ones(4, dtype=torch.int64))
        padding, filler = (lay.vocabulary.special(mark) for mark in ("PAD", "EMPTY"))
        again = torch.nn.functional.pad(again, (0, rows.shape[-1] - again.shape[-1]), value=padding)
        assert ((rows == again) | (ended & ((again == padding) | (again == filler)))).all()
