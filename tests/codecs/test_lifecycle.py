"""Codebooks stay alive: the eight rules, each a bug seen in the wild; starts, revivals, anchors, balance."""

import math
from types import SimpleNamespace

import pytest
import torch

from sigtok.codecs.quantizers.assignment import balanced, transport
from sigtok.codecs.quantizers.codebook import Codebook
from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.ibq import IBQ
from sigtok.codecs.quantizers.kmeans import kmeans, spread
from sigtok.codecs.quantizers.lifecycle import Lifecycle, anchors, places, pull
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.quantizers.search import nearest
from sigtok.codecs.quantizers.vq import VQ

TABLES = pytest.mark.parametrize("member", [VQ, EMAVQ, IBQ])


def blobs(count, clusters=8, dim=3, spread=0.1, seed=0):
    """Latents around distinct centres far from zero ``[1, count, dim]``."""
    generator = torch.Generator().manual_seed(seed)
    centres = 5 + 3 * torch.randn(clusters, dim, generator=torch.Generator().manual_seed(99))
    chosen = torch.randint(clusters, (count,), generator=generator)
    return (centres[chosen] + spread * torch.randn(count, dim, generator=generator))[None]


def error(quantizer, latents):
    return float((quantizer.decode(quantizer.encode(latents)) - latents).detach().square().mean())


# -- the eight rules ---------------------------------------------------------------------------------------


def test_rule_1_the_step_after_k_means_does_not_shrink_the_codes():
    """Sums start as code times count: stored as the codes alone they would pull every code toward zero."""
    latents = blobs(640)
    quantizer = EMAVQ(8, 3, lifecycle=Lifecycle(start="kmeans", start_vectors=80)).train()
    quantizer(latents)
    started = quantizer.codebook.clone()
    for _ in range(20):
        quantizer(latents)
    torch.testing.assert_close(quantizer.codebook, started, rtol=1e-3, atol=1e-3)
    assert len(quantizer.encode(latents)[0].unique()) == 8


def test_rule_2_a_replaced_code_is_not_drawn_back():
    latents = blobs(400)
    quantizer = EMAVQ(8, 3, lifecycle=Lifecycle(start="kmeans", revive=0.1)).train()
    quantizer(latents)
    with torch.no_grad():
        quantizer.codebook[5], quantizer.counts[5] = -1e3, 1e-6
    quantizer(latents)
    revived = quantizer.codebook[5].clone()
    assert (revived - latents[0]).norm(dim=-1).amin() < 1
    for _ in range(3):
        quantizer(latents)
        assert (quantizer.codebook[5] - revived).norm() < 1


def test_rule_5_the_threshold_follows_the_batch():
    """A code of half the mean usage lives, whether that is a thousand hits or a hundredth of one."""
    for count in (20, 20_000):
        quantizer = EMAVQ(64, 3, lifecycle=Lifecycle(start="noise", revive=0.1)).train()
        quantizer(torch.randn(1, count, 3))
        with torch.no_grad():
            quantizer.counts.fill_(count / 64)
            quantizer.counts[:4] *= torch.tensor([0.5, 0.2, 0.09, 0.01])
            quantizer.codebook[:4] = 1e3  # far from all latents
        quantizer.prepare(torch.randn(count, 3))
        assert (quantizer.codebook[:4] == 1e3).all(-1).tolist() == [True, True, False, False]


def test_rule_6_a_second_forward_does_not_count_twice():
    latents = blobs(300)
    once, twice = (EMAVQ(8, 3, lifecycle=Lifecycle(start="kmeans")).train() for _ in range(2))
    for _ in range(5):
        once(latents)
        twice(latents)
        twice(latents, update=False)
        with torch.no_grad():
            twice.encode(latents)
    assert torch.equal(once.codebook, twice.codebook) and torch.equal(once.counts, twice.counts)


def test_rule_7_each_stage_starts_from_what_the_finished_stages_leave():
    """And from batches enough for its codes."""
    policy = Lifecycle(start="kmeans", start_vectors=10)
    quantizer = Residual([EMAVQ(32, 3, lifecycle=policy) for _ in range(3)]).train()
    fresh = (torch.randn(1, 100, 3, generator=torch.Generator().manual_seed(step)) for step in range(1000))
    begun = []
    for _ in range(15):
        latents = next(fresh)
        quantized = quantizer(latents)
        begun.append([stage.ready for stage in quantizer.stages])
        if not quantizer.ready:
            assert torch.equal(quantized.latents, latents), "latents go by unquantized until all have begun"
    first = [[row[stage] for row in begun].index(True) for stage in range(3)]
    assert first == [3, 7, 11], "4 batches of 100 are 10 vectors for each of 32 codes"
    latents = next(fresh)
    errors = [float((quantizer.decode(quantizer.encode(latents, q)) - latents).square().mean()) for q in (1, 2, 3)]
    assert errors[1] < 0.4 * errors[0] and errors[2] < 0.4 * errors[1]


def test_every_stage_starts_as_noise_like_what_it_reads():
    """Also where the stack asks whether stages are ready before their first pass."""
    quantizer = Residual([EMAVQ(64, 4), EMAVQ(64, 4)]).train()
    quantizer(1e-3 * torch.randn(2, 100, 4))
    assert all(float(stage.codebook.abs().amax()) < 0.02 for stage in quantizer.stages)


def test_codes_are_absent_while_latents_go_by():
    quantizer = VQ(16, 3, lifecycle=Lifecycle(start="kmeans")).train()
    latents = torch.randn(1, 100, 3, requires_grad=True)
    quantized = quantizer(latents)
    assert not quantizer.ready and torch.equal(quantized.latents, latents) and (quantized.streams[0] == -1).all()
    assert all(loss == 0 for loss in quantized.losses.values())
    quantized.latents.sum().backward()
    assert torch.equal(latents.grad, torch.ones_like(latents))
    quantizer(latents)
    assert quantizer.ready and int(quantizer.updates) == 1


# rules 3, 4 and 8 speak of several ranks and of averaged weights: test_ranks.py and tests/train/test_callbacks.py


# -- starts ------------------------------------------------------------------------------------------------


def test_k_means_lowers_the_error_and_ends_with_means():
    vectors = torch.randn(3000, 4)
    errors = []
    for iterations in (0, 1, 3, 10):
        centres, counts = kmeans(vectors, 50, iterations)
        errors.append(float((vectors - centres[nearest(vectors, centres)]).square().sum(-1).mean()))
        assert (counts > 0).all() and int(counts.sum()) == 3000
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.9 * errors[0]
    centres, _ = kmeans(vectors, 50, 200)
    codes = nearest(vectors, centres)
    means = torch.stack([vectors[codes == code].mean(0) for code in range(50)])
    torch.testing.assert_close(centres, means, rtol=0, atol=1e-4)


def test_k_means_gives_empty_centres_the_farthest_vectors():
    vectors = torch.cat((torch.zeros(500, 2) + 1e-3 * torch.randn(500, 2), torch.tensor([[50.0, 0.0], [0.0, 50.0]])))
    centres, counts = kmeans(vectors, 4)
    assert float((vectors - centres[nearest(vectors, centres)]).norm(dim=-1).amax()) < 0.1 and (counts > 0).all()


def test_fewer_vectors_than_centres_repeat_but_never_coincide():
    vectors = torch.randn(10, 3)
    rows = spread(vectors, 64)
    assert len(rows.unique(dim=0)) == 64
    assert torch.cdist(rows, vectors).amin(-1).amax() < 0.3
    assert torch.equal(rows, spread(vectors, 64))


@TABLES
@pytest.mark.parametrize("start", ["samples", "kmeans"])
def test_a_codebook_starts_where_the_latents_are(member, start):
    quantizer = member(32, 3, lifecycle=Lifecycle(start=start, start_vectors=10)).train()
    latents = blobs(320)
    quantizer(latents)
    drawn = member(32, 3)
    assert quantizer.ready and error(quantizer, latents) < 0.05 < error(drawn, latents)
    if start == "samples" and member is VQ:
        assert all((latents[0] == code).all(-1).any() for code in quantizer.codebook)


@TABLES
def test_a_start_waits_for_vectors_enough_and_a_checkpoint_remembers_it(member):
    policy = Lifecycle(start="samples", start_vectors=4)
    quantizer, other = member(32, 3, lifecycle=policy).train(), member(32, 3, lifecycle=policy).train()
    for count in (60, 60):
        quantizer(torch.randn(1, count, 3))
        assert not quantizer.ready and int(quantizer.updates) == 0
    quantizer(torch.randn(1, 8, 3))
    assert quantizer.ready and int(quantizer.updates) == 1
    other.load_state_dict(quantizer.state_dict())
    before = other.codebook.clone()
    other(torch.randn(1, 1, 3))
    assert other.ready and (other.codebook == before).all(-1).sum() >= 31


# -- revival -----------------------------------------------------------------------------------------------


@TABLES
def test_codes_that_nobody_uses_come_alive(member):
    """Half of the codes start where no latent is."""
    latents, alive = blobs(600, spread=1.0), []
    for revive in (0.0, 0.2):
        torch.manual_seed(0)
        quantizer = member(32, 3, lifecycle=Lifecycle(decay=0.8, revive=revive)).train()
        with torch.no_grad():
            quantizer.codebook.copy_(latents[0, :32])
            quantizer.codebook[16:] = -1e3
        for _ in range(40):
            quantizer(latents)
        alive.append(len(quantizer.encode(latents)[0].unique()))
    assert alive[0] == 16 and alive[1] >= 30


def test_every_vector_replaces_one_code():
    doomed = torch.tensor([True, False, True, True, False, True])
    replaced, place = places(doomed, 2)
    assert replaced.tolist() == [True, False, True, False, False, False] and place[replaced].tolist() == [0, 1]
    replaced, place = places(doomed, 9)
    assert torch.equal(replaced, doomed) and place[replaced].tolist() == [0, 1, 2, 3]


@TABLES
def test_renewed_codes_are_marked_for_the_optimizer(member):
    quantizer = member(16, 3, lifecycle=Lifecycle(revive=0.1)).train()
    quantizer(blobs(200))
    quantizer.counts.fill_(10.0)
    quantizer.counts[[2, 7]] = 0.0
    before = quantizer.codebook.detach().clone()
    quantizer.prepare(blobs(200)[0])
    assert quantizer.renewed.nonzero()[:, 0].tolist() == [2, 7]
    assert torch.equal((quantizer.codebook != before).any(-1), quantizer.renewed)


@TABLES
def test_a_watchdog_may_doom_codes_of_any_codebook(member):
    quantizer = member(16, 3).train()
    quantizer(blobs(200))
    doomed = torch.arange(16) >= 10
    quantizer.reseed(doomed)
    quantizer.prepare(blobs(200)[0])
    assert torch.cdist(quantizer.codebook.detach()[10:], blobs(200)[0]).amin(-1).amax() < 1e-3
    quantizer.renewed = None
    quantizer.prepare(blobs(200)[0])
    assert quantizer.renewed is None or not quantizer.renewed.any()


def test_doomed_codes_wait_until_there_are_latents_enough():
    quantizer = VQ(16, 3).train()
    quantizer.reseed(torch.ones(16, dtype=torch.bool))
    renewed = []
    for _ in range(4):
        quantizer.prepare(blobs(6)[0])
        renewed.append(int(quantizer.renewed.sum()))
    assert renewed == [6, 12, 16, 16]


# -- online clustering (I9) --------------------------------------------------------------------------------


def test_the_pull_falls_with_usage():
    decay, codes = 0.99, 256
    usage = torch.linspace(0, 3 / codes, codes)
    share = pull(usage * 1000, torch.tensor(1000.0), decay)
    assert (share.diff() <= 0).all() and float(share[0]) == pytest.approx(math.exp(-1e-3))
    assert (share[codes * usage >= 0.02] < 1e-6).all()


@TABLES
@pytest.mark.parametrize("kind", ["closest", "random", "similar"])
def test_the_first_step_takes_every_code_to_a_latent(member, kind):
    quantizer = member(64, 3, lifecycle=Lifecycle(cluster=kind)).train()
    latents = blobs(500)
    quantizer.prepare(latents[0])
    assert torch.cdist(quantizer.codebook.detach(), latents[0]).amin(-1).amax() < 0.05


@pytest.mark.parametrize("kind", ["random", "similar"])
def test_online_clustering_brings_all_codes_into_use(kind):
    latents = torch.randn(1, 2000, 4)
    quantizer = VQ(128, 4, lifecycle=Lifecycle(cluster=kind, decay=0.9)).train()
    with torch.no_grad():
        quantizer.codebook += 50
    for _ in range(60):
        quantizer(latents)
    assert len(quantizer.encode(latents)[0].unique()) >= 115


def test_anchors_are_what_they_are_called():
    codebook, vectors = torch.randn(40, 3), torch.randn(30, 3)
    closest = torch.cdist(codebook.double(), vectors.double()).argmin(-1)
    assert torch.equal(anchors("closest", codebook, vectors), vectors[closest])
    rows = anchors("random", codebook, vectors)
    assert len(rows.unique(dim=0)) == 30 and len(anchors("random", codebook[:20], vectors).unique(dim=0)) == 20
    ones, two = torch.tensor([[1.0, 0.0]]).expand(20_000, 2), torch.tensor([[3.0, 0.0], [-2.0, 0.0]])
    odds = (anchors("similar", ones, two) == two[0]).all(-1).float().mean()
    assert float(odds) == pytest.approx(math.exp(1) / (math.exp(1) + math.exp(-1)), abs=0.02)


# -- balance (I15) -----------------------------------------------------------------------------------------


def test_the_plan_of_transport_has_equal_margins():
    scores = torch.randn(1024, 32)
    plan = transport(scores, epsilon=0.1, iterations=10).exp()
    torch.testing.assert_close(plan.sum(1), torch.ones(1024))
    assert ((plan.sum(0) / (1024 / 32) - 1).abs() < 0.01).all()


def test_balanced_codes_come_in_like_numbers():
    vectors, codebook = torch.randn(8 * 128, 16), torch.randn(128, 16)
    scores = vectors @ codebook.t() - codebook.square().sum(-1) / 2
    counts = torch.bincount(balanced(scores, 0.05), minlength=128)
    plain = torch.bincount(scores.argmax(-1), minlength=128)
    assert int(counts.amax()) <= 2 * 8 < int(plain.amax())


def test_a_sharp_plan_is_the_reference_of_slow_sinkhorn():
    scores = torch.randn(40, 5, dtype=torch.float64)
    kernel = ((scores - (scores.max() + scores.min()) / 2) / ((scores.max() - scores.min()) / 2) / 0.2).exp()
    for _ in range(10):
        kernel = kernel / kernel.sum(0) * 8
        kernel = kernel / kernel.sum(1, keepdim=True)
    torch.testing.assert_close(transport(scores, 0.2, 10).exp(), kernel)


def test_training_deals_codes_evenly_and_inference_takes_the_nearest():
    latents = torch.randn(1, 1024, 16)
    quantizer = VQ(32, 16, lifecycle=Lifecycle(balance=0.05)).train()
    with torch.no_grad():
        quantizer.codebook[16:] *= 2.5
    far = torch.bincount(quantizer.encode(latents)[0].flatten(), minlength=32)[16:]
    dealt = torch.bincount(quantizer(latents).streams[0].flatten(), minlength=32)
    assert int(far.sum()) < 300 and int(dealt.amin()) > 8 and int(dealt.amax()) <= 64


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        ({"start": "zero"}, "a codebook starts as one of .*, got 'zero'"),
        ({"cluster": "far"}, "anchors are one of .*, got 'far'"),
        ({"start_vectors": 0}, "at least 1 vector, got start_vectors=0"),
        ({"decay": 1.0}, r"decay lies in \[0, 1\), got 1.0"),
        ({"revive": 1.0}, r"revive .* in \[0, 1\), got 1.0"),
        ({"balance": -0.1}, "balance .* at least 0, got -0.1"),
    ],
)
def test_policies_that_cannot_be_are_refused(options, says):
    values = Lifecycle().__dict__ | options
    with pytest.raises(ValueError, match=says):
        Lifecycle.__post_init__(SimpleNamespace(**values))  # the constructor's types are checked before, in tests


def test_codebooks_are_what_takes_policies():
    assert all(issubclass(member, Codebook) for member in (VQ, EMAVQ, IBQ))
