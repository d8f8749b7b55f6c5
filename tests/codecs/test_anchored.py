"""Pool-anchored queries: few are the first of many, in streams too, and what was not sent may differ by window."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from sigtok.codecs.anchored import AnchoredQueryDecoder, AnchoredQueryEncoder, anchored_positions, nested
from sigtok.codecs.audio.models import elastic_speech
from sigtok.codecs.files import tokens_from_bytes, tokens_to_bytes
from sigtok.codecs.layers.transformer import WindowTransformer
from sigtok.codecs.layouts.names import LAYOUTS
from sigtok.codecs.pretrained import load, save
from sigtok.codecs.spec import Rate

DIM, MOST, COUNT = 8, 4, 4  # COUNT windows of a stream; all 8 of its partitions are tried
WINDOWS = [(3,), (2, 2)]
SPEECH = dict(
    frame_hop=8, frame_size=24, stack=2, windows=[4, 3], queries=MOST - 1, context=2 * 64 / 24_000, dim=16, heads=2,
    encoder_depth=2, decoder_depth=2, decoder_blocks=1, codebooks=2, codebook_size=16, latent_dim=4,
)  # fmt: skip
EACH_WINDOW = pytest.mark.parametrize("window", WINDOWS)
EACH_BUDGET = pytest.mark.parametrize("slots", range(1, MOST + 1))
KINDS = pytest.mark.parametrize("context, attention", [(0, "window_causal"), (6, "window_causal"), (6, "local")])


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def encoder(window, context=0, depth=2, attention="window_causal"):
    transformer = WindowTransformer(DIM, depth, 2, context, attention=attention)
    return trained(AnchoredQueryEncoder(transformer, (window, (9,)), MOST))


def decoder(window, context=0, depth=2):
    return trained(AnchoredQueryDecoder(WindowTransformer(DIM, depth, 2, context), (window, (9,)), MOST))


def trained(module):
    """In float64, with no parameter at zero or one."""
    for parameter in module.double().parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module


@pytest.fixture
def codec():
    codec = elastic_speech(**SPEECH)
    codec.encoder.norm.momentum = 1.0
    codec(torch.randn(2, 1, 10 * COUNT * 64))  # statistics of the latents, as if trained: else most codes are equal
    codec.encoder.norm.momentum = 0.02
    return codec.eval()


def cut(tokens, queries):
    """Codes ``[B, Q, M, queries]`` of the first slots of every window."""
    return tokens.codes.unflatten(-1, (-1, tokens.rate.queries))[..., :queries]


def close(some, others):
    torch.testing.assert_close(some, others, rtol=1e-11, atol=1e-11)


# -- few are the first of many -----------------------------------------------------------------------------


@EACH_WINDOW
@KINDS
def test_the_slots_of_few_are_the_first_of_many(window, context, attention):
    part, positions = encoder(window, context, attention=attention), random(2, COUNT, len(anchored(window)), DIM)
    many, _ = part.read(positions, window, MOST)
    for slots in range(1, MOST + 1):
        few, _ = part.read(positions, window, slots)
        assert few.shape[2] == len(anchored(window)) + slots and torch.equal(few, many[:, :, : few.shape[2]])


def test_a_stream_may_change_its_budget(codec):
    signal, unit = torch.rand(1, 1, COUNT * 64) * 2 - 1, 64
    many = codec.encoder(signal, codec.spec.resolve()).unflatten(1, (-1, MOST))
    state = codec.encoder.initial_state(1, codec.spec.resolve())
    for index, slots in enumerate((3, 1, 4, 2)):
        chunk = signal[..., index * unit : (index + 1) * unit]
        latents, state = codec.encoder.step(chunk, state, codec.spec.resolve(Rate(queries=slots)))
        torch.testing.assert_close(latents, many[:, index, :slots], rtol=1e-4, atol=1e-4)


def anchored(window):
    return anchored_positions(window, MOST)[:-MOST]


@EACH_BUDGET
@pytest.mark.parametrize("window", [(4,), (3,)])
def test_tokens_of_few_queries_are_the_first_of_the_tokens_of_many(codec, slots, window):
    for samples in (1, 64, 1000, 5000):
        signal = torch.rand(2, 1, samples) * 2 - 1
        many = codec.encode(signal, Rate(window=window))
        few = codec.encode(signal, Rate(queries=slots, window=window))
        assert torch.equal(few.codes, cut(many, slots).flatten(2))


@EACH_BUDGET
def test_in_training_a_latent_and_its_statistics_do_not_know_of_later_queries(codec, slots):
    codec, signal = codec.double(), random(2, 1, COUNT * 64)
    norm = codec.encoder.norm
    few, many = (codec.spec.resolve(Rate(queries=queries)) for queries in (slots, MOST))
    codec.train()
    latents = codec.encoder(signal, many).unflatten(1, (-1, MOST))[:, :, :slots]
    before, used = norm.running_mean.clone(), slots * 4
    close(codec.encoder(signal, few).unflatten(1, (-1, slots)), latents)
    assert (norm.running_mean[:used] != before[:used]).all() and torch.equal(norm.running_mean[used:], before[used:])
    close(latents.mean((0, 1)), torch.zeros(slots, 4, dtype=torch.float64))


def test_a_slot_sees_positions_and_the_slots_up_to_itself():
    assert nested(2, 3).long().tolist() == [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]  # fmt: skip


@EACH_WINDOW
@pytest.mark.parametrize("context, reach", [(0, 0), (6, 2)])
def test_every_slot_reads_all_it_may_see_and_nothing_later(window, context, reach):
    """In one layer: which positions, and which of the learned queries, move a slot of every window."""
    context = reach * window[0]
    part, positions = encoder(window, context, depth=1), random(1, 4, len(anchored(window)), DIM).requires_grad_()
    read, _ = part(positions, window, MOST)
    for index, slot in itertools.product(range(4), range(MOST)):
        wrt = (positions, part.query, part.order)
        heard, *learned = torch.autograd.grad(read[0, index, slot].square().sum(), wrt, retain_graph=True)
        sources = (heard[0] != 0).any(-1)
        assert sources.all(-1).tolist() == [index - reach <= other <= index for other in range(4)]
        assert sources.any(-1).tolist() == sources.all(-1).tolist()
        for gradient in learned:
            assert (gradient != 0).any(-1).tolist() == [query < slot for query in range(MOST - 1)]


# -- where slots start: a transformer without blocks --------------------------------------------------------


@EACH_WINDOW
def test_slots_are_the_mean_and_queries_that_are_conditioned_on_it(window):
    part, positions = encoder(window, depth=0), random(1, 1, len(anchored(window)), DIM)
    (slots,), _ = part(positions, window, MOST)
    anchor = part.pool.weight @ positions[0, 0].mean(0) + part.pool.bias + part.window_embedding[0]
    expected = [anchor]
    for query, order in zip(part.query, part.order, strict=True):
        hidden = (part.hear.weight @ anchor + part.hear.bias + order).clamp_min(0)
        expected.append(query + part.ask.weight @ hidden + part.ask.bias)
    close(slots[0], part.transformer.norm(torch.stack(expected)))


@EACH_WINDOW
def test_positions_start_from_the_anchor_and_the_nearest_query_that_was_sent(window):
    part, said = decoder(window, depth=0), random(1, 1, MOST, DIM)
    places, size = anchored_positions(window, MOST), len(anchored(window))
    for sent in itertools.product((True, False), repeat=MOST):
        heard = said * torch.tensor(sent)[:, None]
        slots = torch.where(torch.tensor(sent)[:, None], heard[0, 0], part.absent) + part.order
        written, _ = part(heard, window)
        for index in range(size):
            reachable = [slot for slot in range(1, MOST) if sent[slot]] or [1]
            near = min(reachable, key=lambda slot: float((places[size + slot] - places[index]).square().sum()))
            start = slots[0] + slots[near] + part.mask + part.window_embedding[0]
            close(written[0, 0, index], part.transformer.norm(start))


def test_the_anchor_stands_in_the_middle_and_queries_cover_the_window_evenly():
    assert anchored_positions((8,), 5)[8:, 0].tolist() == [3.5, 7.5, 3.5, 5.5, 1.5]
    assert anchored_positions((2, 4), 2)[8:].tolist() == [[0.5, 1.5], [0, 0]]


def test_an_anchor_without_queries_is_refused():
    with pytest.raises(ValueError, match="make 2 slots, got 1; use sigtok.codecs.queries"):
        anchored_positions((4,), 1)


# -- what was not sent -------------------------------------------------------------------------------------


@EACH_WINDOW
@EACH_BUDGET
def test_slots_of_zeros_are_slots_that_were_not_sent(window, slots):
    part, said = decoder(window, context=6), random(2, COUNT, MOST, DIM)
    few, _ = part(said[:, :, :slots], window)
    padded, _ = part(F.pad(said[:, :, :slots], (0, 0, 0, MOST - slots)), window)
    assert torch.equal(few, padded)


@EACH_WINDOW
def test_every_window_may_have_its_own_number_of_queries(window):
    """Windows that stand alone come out as if all had been sent with that number."""
    part, said = decoder(window), random(2, COUNT, MOST, DIM)
    numbers = torch.tensor([4, 1, 0, 2])
    mixed, _ = part(said * (torch.arange(MOST) < numbers[:, None])[..., None], window)
    for index, slots in enumerate(numbers.tolist()):
        close(mixed[:, index], part(said[:, :, :slots], window)[0][:, index])


@EACH_BUDGET
def test_tokens_with_absent_queries_decode_as_tokens_of_few(codec, slots):
    signal = torch.rand(1, 1, 1000) * 2 - 1
    many = codec.encode(signal)
    codes = cut(many, MOST).clone()
    codes[..., slots:] = -1
    absent = replace(many, streams=codes.flatten(2).unbind(1))
    few = codec.encode(signal, Rate(queries=slots))
    torch.testing.assert_close(codec.decode(absent), codec.decode(few))
    codes[:, :, 3] = cut(many, MOST)[:, :, 3]  # one window with all of its queries
    one = codec.decode(replace(many, streams=codes.flatten(2).unbind(1)))
    differs = (one - codec.decode(few)).abs() > 1e-6
    assert differs.any() == (slots < MOST) and not differs[..., : 3 * 64 - codec.decoder.back.delay].any()


# -- streams -----------------------------------------------------------------------------------------------


def pieces_equal_the_whole(step, signal, state, axis, unit):
    whole, after = step(signal, state)
    for cuts in itertools.product((False, True), repeat=COUNT - 1):
        edges = [0, *(index + 1 for index, here in enumerate(cuts) if here), COUNT]
        parts, last = [], state
        for chunk in signal.split([unit * (b - a) for a, b in itertools.pairwise(edges)], dim=axis):
            part, last = step(chunk, last)
            parts.append(part)
        close(torch.cat(parts, dim=1), whole)
        for some, others in zip(leaves(last), leaves(after), strict=True):
            close(some, others)


def leaves(state):
    return [state] if isinstance(state, torch.Tensor) else [leaf for part in state for leaf in leaves(part)]


@EACH_BUDGET
@pytest.mark.parametrize("window", [(4,), (3,)])
def test_pieces_of_a_stream_equal_the_whole_at_every_budget(codec, slots, window):
    codec, rate = codec.double(), codec.spec.resolve(Rate(queries=slots, window=window))
    read, write = codec.encoder, codec.decoder
    unit = codec.spec.step(rate)[0]
    signal, latents = random(2, 1, COUNT * unit), random(2, COUNT * slots, 4)
    state = read.initial_state(2, rate)
    pieces_equal_the_whole(lambda chunk, state: read.step(chunk, state, rate), signal, state, 2, unit)
    state = write.initial_state(2, rate)
    pieces_equal_the_whole(lambda chunk, state: write.step(chunk, state, rate), latents, state, 1, slots)


@EACH_BUDGET
def test_the_future_changes_no_latent(codec, slots):
    codec, rate = codec.double(), codec.spec.resolve(Rate(queries=slots))
    signal = random(1, 1, COUNT * 64)
    latents = codec.encoder(signal, rate)
    for count in range(COUNT):
        changed = signal.clone()
        changed[..., count * 64 :] = random(1, 1, (COUNT - count) * 64)
        others = codec.encoder(changed, rate)
        close(others[:, : count * slots], latents[:, : count * slots])
        assert ((others - latents)[:, count * slots :].abs().amax(-1) > 1e-6).all()


# -- a codec of many budgets -------------------------------------------------------------------------------


def test_everything_learns_and_what_was_not_sent_does_not():
    codec = elastic_speech(**{**SPEECH, "windows": [4]})
    unsent = ("queries.query", "queries.order", "queries.absent")
    for slots in (MOST, 2, 1):
        codec.zero_grad()
        codec(torch.rand(2, 1, COUNT * 64), Rate(queries=slots)).signal.square().sum().backward()
        for name, parameter in codec.named_parameters():
            idle = unsent if slots > 1 else (*unsent, ".hear.", ".ask.")
            assert any(part in name for part in idle) or (parameter.grad != 0).any()
        for learned in (codec.encoder.queries.query, codec.encoder.queries.order):
            assert (learned.grad != 0).any(-1).tolist() == [query < slots for query in range(1, MOST)]
        assert (codec.decoder.queries.order.grad != 0).any(-1).all()
        absent = codec.decoder.queries.absent.grad
        assert (absent is not None and bool((absent != 0).any())) == (slots < MOST)


@EACH_BUDGET
def test_every_budget_is_tokens_ids_and_bytes_and_decodes(codec, slots):
    signal = torch.rand(1, 1, 777) * 2 - 1
    rate = codec.spec.resolve(Rate(queries=slots))
    tokens = codec.encode(signal, rate)
    assert tokens.codes.shape == (1, 2, 13 * slots) == (1, 2, codec.spec.positions((777,), rate))
    decoded = codec.decode(tokens)
    assert decoded.shape == signal.shape and decoded.isfinite().all()
    other = codec.decode(codec.encode(-signal.flip(-1), rate))
    assert (decoded - other).abs().max() > 1e-3  # also the anchor alone says something
    for name in sorted(set(LAYOUTS) - {"raster", "granularity_blocks"}):
        layout = codec.layout(name, rate)
        assert torch.equal(layout.from_ids(layout.to_ids(tokens), [(777,)]).codes, tokens.codes)
    name = bytes(range(16))
    assert torch.equal(tokens_from_bytes(tokens_to_bytes(tokens, name), codec.spec, name).codes, tokens.codes)


def test_a_released_elastic_codec_comes_back(codec, tmp_path):
    facts = dict(licence="none", training_data="none", measured={}, card="none", half=False)
    save(codec, tmp_path / "model", builder="elastic_speech", arguments=SPEECH, **facts)
    signal = torch.rand(1, 1, 777) * 2 - 1
    again = load(tmp_path / "model")
    assert torch.equal(again.encode(signal).codes, codec.encode(signal).codes)
