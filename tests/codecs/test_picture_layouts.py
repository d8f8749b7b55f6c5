"""Laws of the layouts of pictures: rows, scales, queries and granularities; orders told by slow loops beside them."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from sigtok.codecs.layouts.flatten import Flatten
from sigtok.codecs.layouts.granularity_blocks import GranularityBlocks
from sigtok.codecs.layouts.grouped import Grouped
from sigtok.codecs.layouts.language_model import ModelIds
from sigtok.codecs.layouts.names import LAYOUTS, layout
from sigtok.codecs.layouts.query_order import QueryOrder
from sigtok.codecs.layouts.raster import Raster
from sigtok.codecs.layouts.scale_wise import ScaleWise
from sigtok.codecs.layouts.vocabulary import Vocabulary
from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.multiscale import MultiScale
from sigtok.codecs.spec import CodecSpec, Rate
from sigtok.codecs.tokens import ABSENT, Tokens, batch_tokens

SIZES = (5, 3, 9, 2)  # unequal K
NINTH = Fraction(16, 9)


def picture(codebooks=2, window=(1, 1), queries=1, **fields):
    values = dict(name="toy", modality="image", channels=1, sample_rate=None, hop=(4, 3), latent_dim=2)
    values |= dict(codebook_sizes=SIZES[:codebooks], windows=(window,), queries=queries)
    return CodecSpec(**{**values, **fields})


def audio(codebooks=2, queries=1, **fields):
    return picture(codebooks, (2,), queries, modality="audio", sample_rate=100, hop=(4,), **fields)


def granular(*strides, queries, make=picture, **fields):
    shares = (0.5,) + (0.5 / (len(strides) - 1),) * (len(strides) - 1)
    return make(len(strides), queries=queries, strides=strides, shares=shares, **fields)


FAMILIES = {
    "raster": [
        picture(1),
        picture(3),
        picture(2, (1, 4), 4),
        picture(2, (2, 3), 6),
        picture(1, (3, 1), 3),
    ],
    "scale_wise": [
        picture(4, (4, 4), 16, strides=(16, 4, NINTH, 1)),
        picture(3, (4, 4), 16, strides=(16, 4, 1)),
        picture(2),
        audio(3, 2, strides=(4, 2, 1)),
    ],
    "query_order": [picture(2, (2, 2), 3), picture(1, (8, 8), 4), picture(2), audio(2, 3)],
    "granularity_blocks": [
        granular(16, 4, 1, queries=16, window=(4, 4)),
        granular(4, 2, 1, queries=8, window=(2, 4)),
        granular(6, 2, queries=6, window=(2, 3)),
        granular(4, 1, queries=8, make=audio),
    ],
}
MEMBERS = [(name, spec) for name in sorted(FAMILIES) for spec in FAMILIES[name]]
IDS = [f"{name}-{spec.modality}-{spec.windows[0]}-{'_'.join(map(str, spec.strides))}" for name, spec in MEMBERS]
EVERY = pytest.mark.parametrize("name, spec", MEMBERS, ids=IDS)
RASTERS = pytest.mark.parametrize("spec", FAMILIES["raster"], ids=lambda spec: f"{spec.windows[0]}")
CAUSAL = {"granularity_blocks": lambda spec: True, "raster": lambda spec: spec.windows[0][0] == 1}
CAUSAL["query_order"] = lambda spec: spec.queries == 1


def batches(spec):
    """Batches of unequal extents: one window, odd ones, many."""
    if spec.modality == "audio":
        return [[(1,)], [(40,), (0,), (17,)], [(0,)]]
    return [[(1, 1)], [(9, 5), (4, 3), (1, 30)], [(33, 25), (16, 12)]]


def split(count, strides, generator):
    """For positions in turn, the codebook that speaks and the position: coarse or finer, at random."""
    codes, start = [], 0
    while start < count:
        books = [book for book, stride in enumerate(strides) if start % stride == 0]
        codes.append((books[int(torch.randint(len(books), (), generator=generator))], start))
        start += strides[codes[-1][0]]
    return codes


def speak(spec, extents, rate=None, seed=0):
    """Random tokens of signals of these extents."""
    generator, items = torch.Generator().manual_seed(seed), []
    for extent in extents:
        streams = [
            torch.randint(size, (1, count), generator=generator)
            for count, size in zip(spec.token_counts(extent, rate), spec.codebook_sizes, strict=False)
        ]
        if spec.granular:
            codes = split(spec.positions(extent), spec.strides, generator)
            for book, stream in enumerate(streams):
                said = [start // spec.strides[book] for each, start in codes if each == book]
                stream[:, [place for place in range(stream.shape[1]) if place not in said]] = ABSENT
        items.append(Tokens(tuple(streams), (extent,), spec.resolve(rate), spec))
    return batch_tokens(items)


def order(name, spec, extent, streams):
    """The codes ``(codebook, index)`` of one signal in their order, None for EOR, by slow loops."""
    counts, books = spec.token_counts(extent), range(spec.num_codebooks)
    if name == "scale_wise":
        return [(book, index) for book in books for index in range(counts[book])]
    if name == "query_order":
        windows = math.prod(spec.grid(extent))
        rounds = itertools.product(range(spec.queries), range(windows), books)
        return [(book, window * spec.queries + query) for query, window, book in rounds]
    if name == "granularity_blocks":
        starts = [(start, book) for book in books for start in range(0, spec.positions(extent), spec.strides[book])]
        codes = [(book, start // spec.strides[book]) for start, book in sorted(starts)]
        return [(book, index) for book, index in codes if streams[book][index] != ABSENT]
    (tall, wide), (down, across), codes = spec.windows[0], spec.grid(extent), []
    for row in range(down * tall):
        for column, book in itertools.product(range(across * wide), books):
            window = row // tall * across + column // wide
            codes.append((book, window * tall * wide + row % tall * wide + column % wide))
        codes.append(None)
    return codes


def slow_ids(lay, name, item):
    streams, vocabulary = [stream[0].tolist() for stream in item.streams], lay.vocabulary
    codes = order(name, item.spec, item.extents[0], streams)
    return [
        vocabulary.special("EOR") if code is None else vocabulary.offsets[code[0]] + streams[code[0]][code[1]]
        for code in codes
    ]


def same(tokens, others):
    assert tokens.extents == others.extents and tokens.rate == others.rate and tokens.spec == others.spec
    assert all(map(torch.equal, tokens.streams, others.streams))


def row(ids):
    return torch.tensor([ids], dtype=torch.int64)


def steps_of(ids):
    """Steps behind which a sequence is looked at: about 25, the first and the last."""
    return sorted({*range(0, len(ids), 1 + len(ids) // 25), len(ids)})


def small(spec):
    """An extent of a few windows."""
    if spec.modality == "audio":
        return (17,)
    down, across = spec.step()
    return down + (spec.queries < 16), across + 1


# -- all members -------------------------------------------------------------------------------------------


@EVERY
def test_ids_round_trip_in_batches_of_unequal_extents(name, spec):
    lay = layout(name, spec)
    for seed, extents in enumerate(batches(spec)):
        tokens = speak(spec, extents, seed=seed)
        ids = lay.to_ids(tokens)
        same(lay.from_ids(ids, extents), tokens)
        same(lay.from_ids(ids, extents, strict=False), tokens)
        same(lay.from_ids(ids.to(torch.int32), extents), tokens)


@EVERY
def test_every_code_stands_once_where_the_slow_loop_says_and_pad_behind(name, spec):
    lay = layout(name, spec)
    for seed, extents in enumerate(batches(spec)):
        tokens = speak(spec, extents, seed=seed)
        said = 0
        ids = lay.to_ids(tokens)
        for ids_of, item in zip(ids.tolist(), tokens, strict=True):
            slow = slow_ids(lay, name, item)
            assert ids_of == slow + [lay.vocabulary.special("PAD")] * (ids.shape[1] - len(slow))
            said += sum(id < lay.vocabulary.num_codes for id in slow)
        assert said == sum(int((stream != ABSENT).sum()) for stream in tokens.streams)


@EVERY
def test_an_item_in_a_batch_has_the_ids_and_masks_it_has_alone(name, spec):
    lay, extents = layout(name, spec), batches(spec)[1]
    tokens = speak(spec, extents)
    ids = lay.to_ids(tokens)
    for step in {0, 1, ids.shape[1] // 2, ids.shape[1]}:
        masks = lay.legal_after(ids[:, :step], extents)
        for mask, alone, extent in zip(masks, ids[:, :step], extents, strict=True):
            assert torch.equal(lay.legal_after(alone[None], [extent])[0], mask)


@EVERY
def test_ids_before_a_position_do_not_change_with_what_is_behind_if_causal(name, spec):
    """And elsewhere they do, or what is before stands behind."""
    lay, extent = layout(name, spec), tuple(3 * step for step in spec.step())
    assert lay.causal == CAUSAL.get(name, lambda spec: False)(spec)
    one, other = speak(spec, [extent], seed=1), speak(spec, [extent], seed=2)
    windows = range(1, math.prod(spec.grid(extent)))
    before = []
    for window in windows:
        cut = [int(window * spec.queries // stride) for stride in spec.strides]
        if any(window * spec.queries % stride for stride in spec.strides):
            continue
        parts = zip(one.streams, other.streams, cut, strict=True)
        mixed = replace(one, streams=tuple(torch.cat((a[:, :n], b[:, n:]), 1) for a, b, n in parts))
        ids, changed = lay.to_ids(one)[0].tolist(), lay.to_ids(mixed)[0].tolist()
        told = sum(int((stream[:, :n] != ABSENT).sum()) for stream, n in zip(one.streams, cut, strict=True))
        codes = itertools.accumulate(id < lay.vocabulary.num_codes for id in ids)
        until = next(step for step, count in enumerate(codes, 1) if count == told)
        before.append(ids[:until] == changed[:until])
    assert before and all(before) == lay.causal


@EVERY
def test_a_mask_allows_what_can_be_read_and_nothing_else(name, spec):
    extent = small(spec)
    tokens, lay = speak(spec, [extent]), layout(name, spec)
    (ids,) = lay.to_ids(tokens).tolist()
    padding, end = lay.vocabulary.special("PAD"), lay.vocabulary.special("EOA")
    read = {0, *(offset + d for offset in lay.vocabulary.offsets for d in (-1, 0))} - {-1}
    read |= {lay.vocabulary.num_codes - 1, end, lay.vocabulary.special("EOB"), lay.vocabulary.size - 1}
    for step in steps_of(ids):
        mask = lay.legal_after(row(ids[:step]), [extent])[0]
        assert bool(mask[padding]) == (step == len(ids)) and not mask[end]
        if step == len(ids):
            assert mask.sum() == 1
            same(lay.from_ids(row([*ids, end, padding]), [extent]), tokens)
            continue
        assert mask[ids[step]]
        for id in sorted(read):
            if mask[id]:
                lay.from_ids(row([*ids[:step], id]), [extent], strict=False)
            elif not (name == "granularity_blocks" and id == end):  # it ends behind windows, as extents say later
                with pytest.raises(ValueError, match=rf"got {id} \(.* in item 0 at step {step}$"):
                    lay.from_ids(row([*ids[:step], id]), [extent], strict=False)


def draw(lay, extents, seed, items=3):
    """A blind model: uniform over legal ids, until only PAD is legal."""
    generator, ids = torch.Generator().manual_seed(seed), torch.zeros(items, 0, dtype=torch.int64)
    marks = [lay.vocabulary.special(mark) for mark in ("EOA", "EOR") if mark in lay.vocabulary.specials]
    for _ in range(900):
        weights = lay.legal_after(ids, extents).double()
        assert weights.any(1).all()
        weights[:, marks] *= 3
        picked = torch.multinomial(weights, 1, generator=generator)
        if (picked == lay.vocabulary.special("PAD")).all():
            return ids
        ids = torch.cat((ids, picked), 1)
    pytest.fail("the signal did not end")


@EVERY
def test_ids_drawn_under_the_mask_are_a_signal(name, spec):
    lay, extents = layout(name, spec), batches(spec)[1]
    for seed in range(2):
        ids = draw(lay, extents, seed)
        tokens = lay.from_ids(ids, extents)
        assert torch.equal(lay.to_ids(tokens), ids)


@EVERY
def test_a_cut_gives_what_came_and_minus_1_elsewhere_or_is_refused(name, spec):
    extent = small(spec)
    tokens, lay = speak(spec, [extent]), layout(name, spec)
    (ids,) = lay.to_ids(tokens).tolist()
    codes = order(name, spec, extent, [stream[0].tolist() for stream in tokens.streams])
    last = max(step for step, code in enumerate(codes) if code is not None)
    for steps in steps_of(ids):
        for cut in (ids[:steps], [*ids[:steps], lay.vocabulary.special("PAD")]):
            part = lay.from_ids(row(cut), [extent], strict=False)
            for book, (stream, whole) in enumerate(zip(part.streams, tokens.streams, strict=True)):
                came = [index for code in codes[:steps] if code is not None and code[0] == book for index in code[1:]]
                expected = torch.full_like(whole, ABSENT)
                expected[0, came] = whole[0, came]
                assert torch.equal(stream, expected)
            if steps <= last:
                with pytest.raises(ValueError, match=rf"item 0 of extent .* has {spec.positions(extent)} positions"):
                    lay.from_ids(row(cut), [extent])


@EVERY
def test_damage_is_named_where_the_mask_says_no(name, spec):
    extent = small(spec)
    lay = layout(name, spec)
    (ids,) = lay.to_ids(speak(spec, [extent], seed=3)).tolist()
    masks = [lay.legal_after(row(ids[:step]), [extent])[0] for step in range(len(ids))]
    ends = [lay.vocabulary.special(mark) for mark in ("EOA", "PAD")]
    for step in range(0, len(ids), max(1, len(ids) // 8)):
        for wrong in (
            -1,
            lay.vocabulary.special("EMPTY"),
            lay.vocabulary.special("EOB"),
            lay.vocabulary.size,
            *range(19),
        ):
            if 0 <= wrong < lay.vocabulary.size and (masks[step][wrong] or wrong in ends):
                continue
            damaged = row([*ids[:step], wrong, *ids[step + 1 :]])
            with pytest.raises(ValueError, match=rf"got {wrong} \(.* in item 0 at step {step}$"):
                lay.from_ids(damaged, [extent])
            with pytest.raises(ValueError, match=rf"got {wrong} \(.* in item 0 at step {step}$"):
                lay.legal_after(damaged, [extent])
    behind = [*ids, lay.vocabulary.special("PAD"), ids[0]]
    with pytest.raises(ValueError, match=rf"got {ids[0]} \(.* in item 0 at step {len(ids) + 1}$"):
        lay.from_ids(row(behind), [extent])


@EVERY
def test_ids_that_hold_more_or_less_than_the_extents_promise_are_refused(name, spec):
    one, two = tuple(spec.step()), tuple(3 * step for step in spec.step())
    lay = layout(name, spec)
    for said, asked in ((one, two), (two, one)):
        with pytest.raises(ValueError, match=r"item 0"):
            lay.from_ids(lay.to_ids(speak(spec, [said])), [asked])
    with pytest.raises(ValueError, match="1 items of ids need 1 extents, got 2"):
        lay.from_ids(lay.to_ids(speak(spec, [one])), [one, one])
    with pytest.raises(ValueError, match="1 items of ids need 1 extents, got 2"):
        lay.legal_after(lay.to_ids(speak(spec, [one])), [one, one])


@EVERY
def test_tokens_of_another_rate_and_codes_out_of_range_are_refused(name, spec):
    lay = layout(name, spec)
    with pytest.raises(ValueError, match="this layout writes toy at"):
        lay.to_ids(speak(replace(spec, hop=tuple(hop + 1 for hop in spec.hop)), [small(spec)]))
    tokens = speak(spec, [small(spec)])
    tokens.streams[0][0, 0] = SIZES[0]
    with pytest.raises(ValueError, match=f"codebook 0 has codes 0 to {SIZES[0] - 1}"):
        lay.to_ids(tokens)
    for ids in (torch.zeros(3, dtype=torch.int64), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match=r"are integers \[B, S\]"):
            lay.from_ids(ids, [small(spec)])


@EVERY
def test_a_code_that_is_absent_is_refused(name, spec):
    tokens = speak(spec, [small(spec)])
    book = next(book for book, stream in enumerate(tokens.streams) if stream.ge(0).any())
    place = int(tokens.streams[book][0].ge(0).nonzero()[-1])
    tokens.streams[book][0, place] = ABSENT
    message = f"got 0 at position {place * spec.strides[book]};" if spec.granular else f"got -1 at {place}; lay out"
    with pytest.raises(ValueError, match=message):
        layout(name, spec).to_ids(tokens)


@EVERY
def test_a_model_with_one_head_reads_them_behind_text_and_a_header(name, spec):
    tokens = speak(spec, batches(spec)[1])
    ids = ModelIds(layout(name, spec), first=5)
    text = torch.tensor([[1, 2, 3]]).expand(len(tokens), -1)
    same(ids.from_ids(torch.cat((text, ids.to_ids(tokens)), 1), tokens.extents), tokens)


@pytest.mark.parametrize("name", ["query_order", "scale_wise"])
def test_an_order_that_follows_from_the_extent_needs_it(name):
    for spec in FAMILIES[name]:
        lay = layout(name, spec)
        ids = lay.to_ids(speak(spec, [small(spec)]))
        for ask in (lay.from_ids, lay.legal_after):
            with pytest.raises(
                ValueError, match=r"follows from the extents of the signals of toy; pass from_ids\(ids, e"
            ):
                ask(ids)


# -- rows --------------------------------------------------------------------------------------------------


@RASTERS
def test_height_and_width_of_a_picture_follow_from_its_rows(spec):
    lay = Raster(spec)
    for extents in batches(spec):
        tokens = speak(spec, extents)
        whole = replace(tokens, extents=tuple(spec.padded(extent) for extent in extents))
        ids = lay.to_ids(tokens)
        same(lay.from_ids(ids), whole)
        same(lay.from_ids(ids, strict=False), whole)
        end = torch.full((len(ids), 1), lay.vocabulary.special("PAD"))
        ended = torch.cat((ids, end), 1)
        ended[0, (ids[0] != end[0]).sum()] = lay.vocabulary.special("EOA")
        same(lay.from_ids(ended), whole)


def test_tiles_stand_side_by_side_as_they_do_in_the_picture():
    spec = picture(1, (2, 3), 6, codebook_sizes=(36,))
    numbers = torch.arange(36).view(4, 9)  # of positions, row by row
    tiles = numbers.view(2, 2, 3, 3).transpose(1, 2).reshape(1, 36)
    lay = Raster(spec)
    ids = lay.to_ids(Tokens((tiles,), ((16, 27),), spec.resolve(), spec)).view(4, 10)
    assert torch.equal(ids[:, :9], numbers) and (ids[:, 9] == lay.vocabulary.special("EOR")).all()


@RASTERS
def test_a_picture_cut_in_a_row_is_as_high_as_the_windows_of_rows_that_came(spec):
    lay, (tall, wide) = Raster(spec), spec.step()
    tokens = speak(spec, [(3 * tall, 2 * wide)])
    (ids,) = lay.to_ids(tokens).tolist()
    length = 2 * spec.windows[0][1] * spec.num_codebooks + 1
    for steps in range(len(ids) + 1):
        rows = steps // length
        begun = math.ceil(math.ceil(steps / length) / lay.tall) if rows else 0
        for strict, down in ((True, rows // lay.tall), (False, begun)):
            if not down:
                with pytest.raises(ValueError, match=rf"has {lay.tall} whole rows or more, got {rows} in item 0; pass"):
                    lay.from_ids(row(ids[:steps]), strict=strict)
                continue
            part = lay.from_ids(row(ids[:steps]), strict=strict)
            assert part.extents == ((down * tall, 2 * wide),)
            came = steps if not strict else down * lay.tall * length
            same(part, lay.from_ids(row(ids[:came]), part.extents, strict=strict))
            said = sum(id < lay.vocabulary.num_codes for id in ids[:came])
            assert sum(int((stream >= 0).sum()) for stream in part.streams) == said


@RASTERS
def test_a_model_ends_rows_and_the_picture_by_itself(spec):
    lay = Raster(spec)
    sizes = set()
    for seed in range(4):
        ids = draw(lay, None, seed)
        tokens = lay.from_ids(ids)
        sizes |= set(tokens.extents)
        ends = ids == lay.vocabulary.special("EOA")
        assert torch.equal(ends.sum(1), torch.ones(3, dtype=torch.int64))
        again = torch.nn.functional.pad(lay.to_ids(tokens), (0, 1), value=lay.vocabulary.special("PAD"))
        assert torch.equal(again, ids.masked_fill(ends, lay.vocabulary.special("PAD")))
    assert len(sizes) > 2


@RASTERS
def test_a_mask_of_rows_without_an_extent_allows_what_can_be_read_and_nothing_else(spec):
    lay, extent = Raster(spec), tuple(2 * step for step in spec.step())
    (ids,) = lay.to_ids(speak(spec, [extent])).tolist()
    end, padding = lay.vocabulary.special("EOA"), lay.vocabulary.special("PAD")
    for step in steps_of(ids):
        mask = lay.legal_after(row(ids[:step]))[0]
        assert not mask[padding]
        for id in (*range(lay.vocabulary.num_codes), end, lay.vocabulary.special("EOR"), lay.vocabulary.special("EOB")):
            longer, message = row([*ids[:step], id]), rf"got {id} \(.* in item 0 at step {step}$"
            if mask[id]:
                lay.legal_after(longer)
            else:
                with pytest.raises(ValueError, match=message):
                    lay.legal_after(longer)
                with pytest.raises(ValueError, match=message):
                    lay.from_ids(longer)
    assert lay.legal_after(row([*ids, end]))[0].nonzero().tolist() == [[padding]]
    assert lay.legal_after(row([*ids, padding]))[0].nonzero().tolist() == [[padding]]


def test_raster_refuses_what_has_no_rows():
    with pytest.raises(ValueError, match="Raster lays out rows of images, toy is of audio; use the layout flatten"):
        Raster(audio())
    for spec, rate in ((picture(2, (2, 2), 3), None), (picture(2, (2, 2), 4), Rate(queries=3))):
        with pytest.raises(
            ValueError, match="has 3 queries in windows of 2 x 2; use the layout flatten or query_order"
        ):
            Raster(spec, rate)


def test_only_images_have_a_mark_of_rows_and_it_moves_no_other_id():
    names = Vocabulary(picture(window=(2, 2), queries=4)).specials
    assert names[-1] == "EOR" and "EOR" not in Vocabulary(audio(queries=4)).specials
    assert Vocabulary(audio(queries=4)).specials[:39] == names[:39] and names[-2] == "N4"


# -- scales ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", FAMILIES["scale_wise"], ids=lambda spec: "_".join(map(str, spec.strides)))
@pytest.mark.parametrize("codebooks", [1, 2, None])
def test_boundaries_and_the_mask_of_blocks_tell_the_scale_of_every_step(spec, codebooks):
    rate, extent = Rate(codebooks=codebooks), small(spec)
    lay = ScaleWise(spec, rate)
    (ids,) = lay.to_ids(speak(spec, [extent], rate)).tolist()
    scales = [lay.vocabulary.codebook_of(id) for id in ids]
    told = [scale for scale, (begin, end) in enumerate(lay.boundaries(extent)) for _ in range(begin, end)]
    assert told == scales and sorted(set(scales)) == list(range(spec.resolve(rate).codebooks))
    mask = lay.block_mask(extent)
    assert mask.shape == (len(ids), len(ids)) and mask.dtype == torch.bool
    for step, other in itertools.product(range(0, len(ids), 3), range(len(ids))):
        assert mask[step, other] == (scales[other] <= scales[step])


def test_first_scales_are_the_ids_of_a_lower_rate():
    spec = FAMILIES["scale_wise"][0]
    tokens = speak(spec, [(17, 13), (4, 4)])
    (ids, _), whole = ScaleWise(spec).to_ids(tokens), ScaleWise(spec).boundaries((17, 13))
    for codebooks in (1, 2, 3, 4):
        few = tokens.prefix(codebooks)
        lay = ScaleWise(spec, few.rate)
        (first, _) = lay.to_ids(few)
        assert lay.boundaries((17, 13)) == whole[:codebooks] and torch.equal(first, ids[: whole[codebooks - 1][1]])
        part = ScaleWise(spec).from_ids(first[None], [(17, 13)], strict=False)
        assert all(map(torch.equal, part.streams[:codebooks], few[0].streams))
        assert all((stream == ABSENT).all() for stream in part.streams[codebooks:])


def test_a_fraction_of_a_scale_completes_the_positions_that_it_covers():
    """Three of nine codes over 16 positions end at 5.33: positions 0 to 5 have begun the code that they read."""
    spec = picture(2, (4, 4), 16, strides=(4, NINTH))
    ids = ScaleWise(spec).to_ids(speak(spec, [(16, 12)]))
    with pytest.raises(ValueError, match="has 16 positions, the ids complete 6 and begin 16"):
        ScaleWise(spec).from_ids(ids[:, :7], [(16, 12)])


def test_scales_of_one_rate_are_groups_of_one_codebook():
    spec = picture(3)
    tokens = speak(spec, [(9, 9), (4, 30)])
    assert torch.equal(ScaleWise(spec).to_ids(tokens), Grouped(spec, group=1).to_ids(tokens))


def test_what_a_pyramid_says_of_two_tiles_round_trips():
    pyramid = MultiScale(EMAVQ(8, 4), (4, 4), (1, 2, 3, 4)).eval()
    values = dict(codebook_sizes=pyramid.codebook_sizes, strides=pyramid.strides, latent_dim=4)
    spec = picture(4, (4, 4), 16, **values)
    streams = pyramid.encode(torch.randn(1, 32, 4, generator=torch.Generator().manual_seed(0)))
    tokens = Tokens(streams, ((16, 24),), spec.resolve(), spec)
    lay = ScaleWise(spec)
    assert lay.boundaries((16, 24)) == ((0, 2), (2, 10), (10, 28), (28, 60))
    same(lay.from_ids(lay.to_ids(tokens), [(16, 24)]), tokens)


# -- queries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", FAMILIES["query_order"], ids=lambda spec: f"{spec.windows[0]}")
def test_first_rounds_are_the_first_queries_of_every_window(spec):
    extent = small(spec)
    tokens, lay, windows = speak(spec, [extent]), QueryOrder(spec), math.prod(spec.grid(extent))
    ids = lay.to_ids(tokens)
    for queries in range(1, spec.queries + 1):
        rate = spec.resolve(Rate(queries=queries))
        first = tuple(stream.view(1, windows, -1)[..., :queries].flatten(1) for stream in tokens.streams)
        few, fewer = Tokens(first, (extent,), rate, spec), ids[:, : windows * queries * spec.num_codebooks]
        assert torch.equal(QueryOrder(spec, rate).to_ids(few), fewer)
        same(QueryOrder(spec, rate).from_ids(fewer, [extent]), few)
        part = lay.from_ids(fewer, [extent], strict=False)
        for stream, whole in zip(part.streams, tokens.streams, strict=True):
            present = torch.arange(whole.shape[1]) % spec.queries < queries
            assert torch.equal(stream[0], torch.where(present, whole[0], ABSENT))


def test_the_order_of_queries_of_one_window_is_flat():
    for spec in (picture(2, (2, 2), 3), audio(2, 3)):
        tokens = speak(spec, [(1,) * len(spec.hop)])
        assert torch.equal(QueryOrder(spec).to_ids(tokens), Flatten(spec).to_ids(tokens))


# -- granularities -----------------------------------------------------------------------------------------

GIC = FAMILIES["granularity_blocks"][0]


def test_a_block_is_one_code_or_four_quarters_of_one_or_four():
    """The tree written out, for all splits of a block: 1 of one code and 2 ** 4 of quarters."""
    lay, seen = GranularityBlocks(GIC), set()
    for quarters in (None, *itertools.product((False, True), repeat=4)):
        streams = [torch.full((1, count), ABSENT) for count in (1, 4, 16)]
        if quarters is None:
            streams[0][0, 0], expected = 3, [3]
        else:
            expected = []
            for quarter, is_fine in enumerate(quarters):
                if is_fine:
                    streams[2][0, 4 * quarter : 4 * quarter + 4] = torch.tensor([8, 7, 0, quarter])
                    expected += [8 + 8, 8 + 7, 8 + 0, 8 + quarter]
                else:
                    streams[1][0, quarter] = 2
                    expected.append(5 + 2)
        tokens = Tokens(tuple(streams), ((16, 12),), GIC.resolve(), GIC)
        assert lay.to_ids(tokens).tolist() == [expected]
        same(lay.from_ids(row(expected), [(16, 12)]), tokens)
        seen.add(tuple(expected))
    assert len(seen) == 17


def test_the_codebooks_that_may_speak_follow_from_the_place_in_the_block():
    lay = GranularityBlocks(GIC)
    coarse, medium, fine, end = 0, 5, 8, lay.vocabulary.special("EOA")
    for said, allowed in (
        ([], {coarse, medium, fine, end}),
        ([coarse], {coarse, medium, fine, end}),
        ([medium], {medium, fine}),
        ([fine], {fine}),
        ([fine] * 3, {fine}),
        ([fine] * 4, {medium, fine}),
        ([medium, *[fine] * 4, medium], {medium, fine}),
        ([medium] * 4, {coarse, medium, fine, end}),
        ([coarse, fine], {fine}),
    ):
        mask = lay.legal_after(row(said))[0]
        assert {int(id) for id in mask.nonzero()} & {coarse, medium, fine, end} == allowed
        books = {lay.vocabulary.codebook_of(int(id)) for id in mask.nonzero() if id < lay.vocabulary.num_codes}
        assert mask.sum() == sum(SIZES[book] for book in books) + (end in allowed)


def test_granularities_of_audio_are_read_without_extents_in_whole_windows():
    spec = FAMILIES["granularity_blocks"][-1]
    lay = GranularityBlocks(spec)
    tokens = speak(spec, [(40,), (0,), (16,)])
    same(lay.from_ids(lay.to_ids(tokens)), tokens)
    (ids,) = lay.to_ids(tokens[0]).tolist()
    reach = [0, *itertools.accumulate(spec.strides[lay.vocabulary.codebook_of(id)] for id in ids)]
    for steps in range(len(ids) + 1):
        assert lay.from_ids(row(ids[:steps])).extents == ((reach[steps] // 8 * 8,),)
        part = lay.from_ids(row(ids[:steps]), strict=False)
        assert part.extents == ((-(-reach[steps] // 8) * 8,),)
        assert sum(int((stream >= 0).sum()) for stream in part.streams) == steps
    for seed in range(3):
        ids = draw(lay, None, seed)
        ended = ids.masked_fill(ids == lay.vocabulary.special("EOA"), lay.vocabulary.special("PAD"))
        assert torch.equal(torch.nn.functional.pad(lay.to_ids(lay.from_ids(ids)), (0, 1), value=ended[0, -1]), ended)


def test_granularities_of_images_need_extents():
    lay = GranularityBlocks(GIC)
    with pytest.raises(ValueError, match="height and width of an image do not follow"):
        lay.from_ids(row([0]))


def test_two_codebooks_that_speak_for_one_position_are_refused():
    tokens = speak(GIC, [(16, 12)])
    coarse, medium, fine = (torch.full_like(stream, ABSENT) for stream in tokens.streams)
    coarse[0, 0] = 0
    fine[0, 5] = 1
    with pytest.raises(
        ValueError, match="first 16 positions of item 0, none behind; got 2 at position 5; pass the codec"
    ):
        GranularityBlocks(GIC).to_ids(replace(tokens, streams=(coarse, medium, fine)))


def test_the_shares_of_an_encoding_are_no_matter_to_its_layout():
    tokens = speak(GIC, [(16, 12)])
    lay = layout("granularity_blocks", GIC, Rate(shares=(0.2, 0.3, 0.5)))
    assert lay.rate == tokens.rate and lay.vocabulary == Vocabulary(GIC)
    same(lay.from_ids(lay.to_ids(tokens), tokens.extents), tokens)
    narrow = Vocabulary(GIC, Rate(shares=(0.2, 0.3, 0.5)))
    same(GranularityBlocks(GIC, vocabulary=narrow).from_ids(lay.to_ids(tokens), tokens.extents), tokens)


def test_strides_that_are_no_tree_are_refused():
    with pytest.raises(
        ValueError, match="take turns, those of toy all speak for every position; use the layout flatten"
    ):
        GranularityBlocks(picture())
    for strides, queries in (((4, 3), 12), ((1, 4), 4), ((4, 2), 6), ((Fraction(8, 2), Fraction(3, 2)), 12)):
        with pytest.raises(ValueError, match=rf"window of {queries} positions; toy has \("):
            GranularityBlocks(granular(*strides, queries=queries, window=(2, 2)))


# -- the right layout for a codec --------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"granularity_blocks"}))
def test_granularities_are_sent_to_their_layout(name):
    with pytest.raises(ValueError, match="those of toy take turns; use the layout granularity_blocks"):
        layout(name, GIC)


@pytest.mark.parametrize("name", sorted(set(LAYOUTS) - {"granularity_blocks", "scale_wise"}))
def test_strides_of_fractions_are_sent_to_scale_wise(name):
    spec = FAMILIES["scale_wise"][0]
    with pytest.raises(ValueError, match=r"\(16, 4, 16/9, 1\)[:;] use the layout scale_wise"):
        layout(name, spec)
