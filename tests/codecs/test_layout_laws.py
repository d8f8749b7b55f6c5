"""Laws of layouts: ids round-trip, every code stands once, the future is not seen, damage is named."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigtok.codecs.layouts.delay import Delay
from sigtok.codecs.layouts.flatten import Flatten
from sigtok.codecs.layouts.names import LAYOUTS, layout
from sigtok.codecs.layouts.parallel import Parallel
from sigtok.codecs.layouts.vocabulary import Vocabulary
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import Tokens, batch_tokens

SIZES = (5, 3, 9, 2, 4, 7, 2, 6)  # unequal K
MAKERS = {**LAYOUTS, "partial_delay": lambda s, r=None: Delay(s, r, delays=partial(s, r))}
EVERY = pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
WINDOWS = (0, 1, 2, 3, 17)
BOOKS = (1, 2, 3, 8)


def partial(spec, rate=None):
    return (0,) + (1,) * (spec.resolve(rate).codebooks - 1)


def audio(codebooks=3, queries=1, **fields):
    values = dict(name="toy", modality="audio", channels=1, sample_rate=100, hop=(4,), latent_dim=2)
    values |= dict(codebook_sizes=SIZES[:codebooks], windows=((2,), (3,)), queries=queries)
    return CodecSpec(**{**values, **fields})


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


def same(tokens, others):
    assert tokens.extents == others.extents and tokens.rate == others.rate and tokens.spec == others.spec
    assert torch.equal(tokens.codes, others.codes)


def at_step(lay, steps):
    """Ids ``[B, S]`` or ``[B, Q, S]`` as rows ``[B, R, S]``."""
    return steps[:, None] if lay.stream else steps


# -- R1 round trip -----------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("codebooks", BOOKS)
@pytest.mark.parametrize("windows", WINDOWS)
def test_ids_round_trip(maker, codebooks, windows):
    spec = audio(codebooks)
    tokens = speak(spec, [(windows * 8,)])
    lay = maker(spec)
    same(lay.from_ids(lay.to_ids(tokens)), tokens)


@EVERY
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ragged_batches_of_any_extent_and_rate_round_trip(maker, data):
    spec = audio(data.draw(st.sampled_from(BOOKS)), queries=3)
    rate = Rate(
        codebooks=data.draw(st.integers(1, spec.num_codebooks)),
        queries=data.draw(st.integers(1, 3)),
        window=data.draw(st.sampled_from(spec.windows)),
    )
    samples = data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=4))
    tokens = speak(spec, [(count,) for count in samples], rate)
    lay = maker(spec, rate)
    ids = lay.to_ids(tokens)
    same(lay.from_ids(ids, tokens.extents), tokens)
    assert torch.equal(lay.from_ids(ids).codes, tokens.codes)
    (step,) = spec.step(rate)
    assert lay.from_ids(ids).extents == tuple((-(-count // step) * step,) for count in samples)


@EVERY
def test_images_round_trip_with_their_extents(maker):
    spec = image()
    tokens = speak(spec, [(9, 5), (4, 4), (1, 30)])
    lay = maker(spec)
    ids = lay.to_ids(tokens)
    same(lay.from_ids(ids, tokens.extents), tokens)
    with pytest.raises(ValueError, match="height and width of an image do not follow"):
        lay.from_ids(ids)


@EVERY
def test_ids_of_every_integer_type_are_read(maker):
    tokens = speak(audio(), [(24,), (8,)])
    lay = maker(tokens.spec)
    for kind in (torch.int32, torch.uint16, torch.int64):
        same(lay.from_ids(lay.to_ids(tokens).to(kind), tokens.extents), tokens)


# -- R2 length, and every coordinate once -------------------------------------------------------------------


def slow_delay(codes, offsets, delays, empty):
    """One item, code by code: ``codes[q][t]`` -> ``ids[q][s]``."""
    frames = len(codes[0])
    ids = [[empty] * (frames + max(delays)) for _ in codes]
    for q, t in itertools.product(range(len(codes)), range(frames)):
        ids[q][t + delays[q]] = offsets[q] + codes[q][t]
    return ids


@pytest.mark.parametrize("codebooks", BOOKS)
@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("step", [0, 1, 2])
def test_delay_is_what_the_slow_loop_says(codebooks, windows, step):
    tokens = speak(audio(codebooks), [(windows * 8,)])
    delays = tuple(q * step for q in range(codebooks))
    offsets = [sum(SIZES[:q]) for q in range(codebooks)]
    lay = Delay(tokens.spec, delays=delays)
    expected = slow_delay(tokens.codes[0].tolist(), offsets, delays, lay.vocabulary.special("EMPTY"))
    assert lay.to_ids(tokens)[0].tolist() == expected


@pytest.mark.parametrize("codebooks", BOOKS)
def test_flatten_puts_code_q_of_frame_t_at_t_times_q_plus_q(codebooks):
    tokens = speak(audio(codebooks), [(17 * 8,)])
    offsets = Vocabulary(tokens.spec).offsets
    ids = Flatten(tokens.spec).to_ids(tokens)[0]
    for q, t in itertools.product(range(codebooks), range(17)):
        assert ids[t * codebooks + q] == offsets[q] + tokens.codes[0, q, t]


@EVERY
@pytest.mark.parametrize("codebooks", BOOKS)
@pytest.mark.parametrize("windows", WINDOWS)
def test_lengths_follow_the_formula_and_every_code_stands_once(maker, codebooks, windows):
    tokens = speak(audio(codebooks), [(windows * 8,)])
    lay = maker(tokens.spec)
    ids = lay.to_ids(tokens)
    late = max(getattr(lay, "delays", (0,)))
    steps = windows * codebooks if lay.stream else windows + late
    assert ids.shape == ((1, steps) if lay.stream else (1, codebooks, steps))
    assert steps == lay.length(windows)
    expected = tokens.codes[0] + torch.tensor(lay.vocabulary.offsets)[:, None]
    stand = ids[ids < lay.vocabulary.num_codes]
    assert torch.equal(stand.sort().values, expected.flatten().sort().values)
    assert (ids[ids >= lay.vocabulary.num_codes] == lay.vocabulary.special("EMPTY")).all()
    book, frame = lay.cells(torch.arange(steps))
    inside = (frame >= 0) & (frame < windows)
    cells = list(zip(book[inside].tolist(), frame[inside].tolist(), strict=True))
    assert sorted(cells) == list(itertools.product(range(codebooks), range(windows)))


# -- R3 causality ------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("frame", [0, 1, 4])
def test_ids_do_not_change_with_the_future(maker, frame):
    tokens = speak(audio(), [(6 * 8,)])
    streams = tuple(stream.clone() for stream in tokens.streams)
    for stream, size in zip(streams, SIZES, strict=False):
        stream[:, frame:] = (stream[:, frame:] + 1) % size
    changed = Tokens(streams, tokens.extents, tokens.rate, tokens.spec)
    lay = maker(tokens.spec)
    assert lay.causal
    differ = (at_step(lay, lay.to_ids(tokens)) != at_step(lay, lay.to_ids(changed))).any((0, 1))
    assert differ.nonzero().min() == frame * (3 if lay.stream else 1)


@EVERY
@pytest.mark.parametrize("frames", range(7))
def test_a_longer_signal_starts_with_the_same_ids(maker, frames):
    tokens = speak(audio(), [(6 * 8,)])
    start = Tokens(tuple(s[:, :frames] for s in tokens.streams), ((frames * 8,),), tokens.rate, tokens.spec)
    lay = maker(tokens.spec)
    whole, part = lay.to_ids(tokens), lay.to_ids(start)
    steps = frames * 3 if lay.stream else frames
    assert torch.equal(whole[..., :steps], part[..., :steps])


# -- R4 truncation, R7 flush -------------------------------------------------------------------------------


def complete_frames(lay, steps, codebooks, windows):
    if lay.stream:
        return steps // codebooks
    return min(windows, max(0, steps - max(getattr(lay, "delays", (0,)))))


@EVERY
@pytest.mark.parametrize("queries", [1, 2])
def test_a_cut_anywhere_gives_the_complete_windows(maker, queries):
    tokens = speak(audio(queries=queries), [(5 * 8,)])
    lay = maker(tokens.spec)
    ids = lay.to_ids(tokens)
    for steps in range(ids.shape[-1] + 1):
        cut = lay.from_ids(ids[..., :steps])
        windows = complete_frames(lay, steps, 3, 5 * queries) // queries
        assert cut.extents == ((windows * 8,),)
        assert torch.equal(cut.codes, tokens.codes[..., : windows * queries])


@EVERY
def test_cut_items_padded_to_a_batch_read_like_each_alone(maker):
    tokens = speak(audio(), [(6 * 8,)])
    lay = maker(tokens.spec)
    ids = lay.to_ids(tokens)
    batch = ids.repeat(ids.shape[-1] + 1, *[1] * (ids.ndim - 1))
    for steps in range(ids.shape[-1] + 1):
        batch[steps, ..., steps:] = lay.vocabulary.special("PAD")
    alone = [lay.from_ids(ids[..., :steps]) for steps in range(ids.shape[-1] + 1)]
    same(lay.from_ids(batch), batch_tokens(alone))


@pytest.mark.parametrize("delays", [(0, 1, 2), (0, 1, 1), (0, 0, 4)])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 9])
def test_delay_completes_all_but_the_last_frames_and_flushes_them(delays, steps):
    tokens = speak(audio(), [(steps * 8,)])
    lay = Delay(tokens.spec, delays=delays)
    ids = lay.to_ids(tokens)
    assert lay.from_ids(ids[..., :steps]).codes.shape[-1] == max(0, steps - max(delays))
    same(lay.from_ids(ids[..., : steps + max(delays)]), tokens)


@EVERY
def test_ids_must_hold_what_the_extents_promise(maker):
    tokens = speak(audio(), [(24,), (16,)])
    lay = maker(tokens.spec)
    ids = lay.to_ids(tokens)
    for extents in ([(24,), (25,)], [(24,), (8,)], [(24,)]):
        with pytest.raises(ValueError, match=r"(item 1 .*has [41] frames, the ids hold 2)|(2 extents, got 1)"):
            lay.from_ids(ids, extents)


# -- R5 ids out of place -----------------------------------------------------------------------------------


@EVERY
def test_every_id_out_of_its_range_is_named_with_its_place(maker):
    tokens = speak(audio(), [(3 * 8,), (4 * 8,)])
    lay = maker(tokens.spec)
    ids = lay.to_ids(tokens)
    vocabulary, rows = lay.vocabulary, at_step(lay, ids)
    ends = {vocabulary.special(name) for name in ("PAD", "EOA", "EMPTY")}
    book, frame = lay.cells(torch.arange(rows.shape[-1]))
    for row, step in itertools.product(range(rows.shape[1]), range(rows.shape[2])):
        if not 0 <= frame[row, step] < 4:
            continue
        q = int(book[row, step])
        low, high = vocabulary.offsets[q], vocabulary.offsets[q] + SIZES[q]
        for wrong in set(range(-2, vocabulary.size + 2)) - ends - set(range(low, high)):
            damaged = ids.clone()
            at_step(lay, damaged)[1, row, step] = wrong
            with pytest.raises(ValueError, match=rf"got {wrong} \(.* in item 1 at step {step}$"):
                lay.from_ids(damaged)


@EVERY
def test_a_signal_does_not_go_on_behind_its_end(maker):
    tokens = speak(audio(), [(4 * 8,)])
    lay = maker(tokens.spec)
    for name in ("PAD", "EOA", "EMPTY"):
        ids = lay.to_ids(tokens)
        at_step(lay, ids)[0, 0, 0] = lay.vocabulary.special(name)
        with pytest.raises(ValueError, match=rf"got \d+ \({name}\) in item 0 at step 0"):
            lay.from_ids(ids)


def test_a_codebook_does_not_end_before_the_others():
    tokens = speak(audio(), [(6 * 8,)])
    lay = Delay(tokens.spec)
    for row, name in itertools.product((1, 2), ("PAD", "EMPTY")):
        ids = lay.to_ids(tokens)
        ids[0, row, 4:] = lay.vocabulary.special(name)
        with pytest.raises(ValueError, match=rf"codebook {row} .*\({name}\) in item 0 at step 4"):
            lay.from_ids(ids)


def test_a_codebook_does_not_go_on_behind_codebook_0():
    tokens = speak(audio(), [(6 * 8,), (2 * 8,)])
    lay = Delay(tokens.spec)
    for row, step in ((1, 3), (2, 4), (2, 7)):
        ids = lay.to_ids(tokens)
        ids[1, row, step] = lay.vocabulary.offsets[row]
        with pytest.raises(ValueError, match=rf"\(code 0 of codebook {row}\) in item 1 at step {step}"):
            lay.from_ids(ids)


def test_delay_starts_with_its_holes():
    tokens = speak(audio(), [(3 * 8,)])
    lay = Delay(tokens.spec)
    for wrong in (0, SIZES[0], lay.vocabulary.special("PAD"), lay.vocabulary.special("EOA")):
        ids = lay.to_ids(tokens)
        ids[0, 2, 1] = wrong
        with pytest.raises(ValueError, match=r"codebook 2 starts with 2 EMPTY .* in item 0 at step 1"):
            lay.from_ids(ids)


def test_only_codebook_0_ends_a_signal_and_only_behind_a_window():
    tokens = speak(audio(queries=2), [(3 * 8,)])
    lay = Flatten(tokens.spec)
    ids, end = lay.to_ids(tokens)[0].tolist(), lay.vocabulary.special("EOA")
    same(lay.from_ids(torch.tensor([[*ids, end]])), tokens)
    for step in (7, 8, 9):
        with pytest.raises(ValueError, match=rf"\(EOA\) in item 0 at step {step}"):
            lay.from_ids(torch.tensor([[*ids[:step], end]]))


@EVERY
def test_ids_of_a_wrong_shape_or_type_are_refused(maker):
    lay = maker(audio())
    for ids in (torch.zeros(3), torch.zeros(1, 3, 4), torch.zeros(1, 2, 3, dtype=torch.int64)):
        with pytest.raises(ValueError, match="are integers"):
            lay.from_ids(ids)


# -- R6 batches --------------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("windows", [(3, 1), (0, 2), (17, 3, 0, 1)])
def test_an_item_has_the_same_ids_in_a_batch_and_pad_behind(maker, windows):
    tokens = speak(audio(), [(count * 8,) for count in windows])
    lay = maker(tokens.spec)
    ids = lay.to_ids(tokens)
    for row, item in zip(ids, tokens, strict=True):
        (alone,) = lay.to_ids(item)
        steps = alone.shape[-1]
        assert torch.equal(row[..., :steps], alone)
        assert (row[..., steps:] == lay.vocabulary.special("PAD")).all()
    for item, back in zip(tokens, lay.from_ids(ids), strict=True):
        same(back, item)
        assert (back.codes >= 0).all()


# -- R8 nothing is mixed -----------------------------------------------------------------------------------


@EVERY
def test_tokens_of_another_spec_or_rate_are_refused(maker):
    spec = audio()
    lay = maker(spec)
    others = [speak(audio(hop=(5,)), [(24,)]), speak(spec, [(24,)], Rate(codebooks=2))]
    others.append(speak(spec, [(24,)], Rate(window=(3,))))
    for tokens in others:
        with pytest.raises(ValueError, match="this layout writes toy at"):
            lay.to_ids(tokens)


@EVERY
def test_codes_that_are_absent_or_out_of_range_are_refused(maker):
    for code, message in (
        (-1, "lay out whole signals"),
        (SIZES[1], "codebook 1 has codes 0 to 2"),
        (-2, "got -2"),
    ):
        tokens = speak(audio(), [(24,), (16,)])
        tokens.streams[1][1, 1] = code
        with pytest.raises(ValueError, match=message):
            maker(tokens.spec).to_ids(tokens)


@EVERY
def test_codebooks_of_different_rates_are_refused_by_their_strides(maker):
    with pytest.raises(ValueError, match=r"strides \(4, 2, 1\)"):
        maker(audio(strides=(4, 2, 1)))


def test_headers_name_every_rate_and_nothing_else():
    spec = audio(queries=2)
    vocabulary = Vocabulary(spec)
    seen = set()
    for books, queries, window in itertools.product((1, 2, 3), (1, 2), spec.windows):
        rate = Rate(codebooks=books, queries=queries, window=window)
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


# -- vocabulary, names, masks ------------------------------------------------------------------------------


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
    kinds = {"parallel": Parallel, "delay": Delay, "flatten": Flatten}
    for name, kind in kinds.items():
        lay = layout(name, spec, rate)
        assert type(lay) is kind and lay.spec == spec and lay.rate == spec.resolve(rate)
    with pytest.raises(ValueError, match="the layouts are parallel, delay, flatten; got 'coarse'"):
        layout("coarse", spec)


@pytest.mark.parametrize("delays", [(1, 2, 3), (0, 2, 1), (0, 1), (-1, 0, 1)])
def test_delays_that_do_not_ascend_from_0_are_refused(delays):
    with pytest.raises(ValueError, match="delays ascend from 0"):
        Delay(audio(), delays=delays)


@EVERY
def test_every_id_written_is_legal_where_it_stands(maker):
    tokens = speak(audio(), [(5 * 8,)])
    lay = maker(tokens.spec)
    rows = at_step(lay, lay.to_ids(tokens))[0]
    for step in range(rows.shape[-1]):
        mask = lay.legal(step, frames=5).reshape(len(rows), -1)
        assert mask[torch.arange(len(rows)), rows[:, step]].all()
        assert mask.sum() == sum(
            SIZES[book] if 0 <= frame < 5 else 1
            for book, frame in zip(*(part[:, 0].tolist() for part in lay.cells(torch.tensor([step]))), strict=True)
        )


def legal(lay, step, frames):
    return lay.legal(step, frames).double().reshape(-1, lay.vocabulary.size)


@EVERY
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("windows", [0, 1, 4])
def test_ids_drawn_under_the_mask_are_a_signal(maker, queries, windows):
    """A blind language model: uniform over legal ids, told only when to end."""
    lay = maker(audio(queries=queries))
    generator = torch.Generator().manual_seed(windows)
    end, drawn, frames, step = lay.vocabulary.special("EOA"), [], None, 0
    while frames is None or step < lay.length(frames):
        weights = legal(lay, step, frames)
        book, frame = (part[0, 0] for part in lay.cells(torch.tensor([step])))
        may_end = book == 0 and frame % queries == 0
        assert bool(weights[0, end]) == (frames is None and bool(may_end))
        if may_end and frame == windows * queries and frames is None:
            frames = int(frame)
            weights[1:] = legal(lay, step, frames)[1:]
            weights[0] = torch.nn.functional.one_hot(torch.tensor(end), lay.vocabulary.size)
        elif frames is None:
            weights[:, end] = 0
        drawn.append(torch.multinomial(weights, 1, generator=generator)[:, 0])
        step += 1
    ids = torch.stack(drawn, dim=-1)
    tokens = lay.from_ids(ids if lay.stream else ids[None])
    assert tokens.extents == ((windows * 8,),)
