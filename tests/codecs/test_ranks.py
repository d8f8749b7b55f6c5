"""Codebooks that learn on two ranks are equal, and those of one process. As a script this file is a rank."""

import subprocess
import sys

import pytest
import torch
from torch import distributed as dist

from sigtok.codecs.quantizers.build import build
from sigtok.codecs.quantizers.ibq import IBQ

STEPS, CODES, DIM = 6, 16, 3


def table(name, **options):
    return {"name": name, "codebook_size": CODES, "dim": DIM, **options}


QUANTIZERS = {
    "ema": table("ema", lifecycle={"start": "noise", "decay": 0.8, "revive": 0.5}),
    "ema_kmeans": table("ema", lifecycle={"start": "kmeans", "start_vectors": 4, "decay": 0.8, "revive": 0.5}),
    "vq_revived": table("vq", lifecycle={"start": "samples", "start_vectors": 3, "decay": 0.8, "revive": 0.5}),
    "vq_closest": table("vq", lifecycle={"cluster": "closest", "decay": 0.8}),
    "vq_random": table("vq", lifecycle={"cluster": "random", "decay": 0.8}),
    "vq_similar": table("vq", lifecycle={"cluster": "similar", "decay": 0.8}),
    "vq_balanced": table("vq", lifecycle={"balance": 0.1, "revive": 0.2}),
    "ibq": table("ibq", lifecycle={"start": "samples", "start_vectors": 2, "decay": 0.5, "revive": 0.5}),
    "residual": {
        "name": "residual",
        "stages": {"copies": 2, **table("ema", lifecycle={"start": "kmeans", "start_vectors": 2})},
        "sample_dropout": 0.5,
    },
}


def share(rank, step):
    """The batch of one rank: uneven, of two kinds, and in one step nothing at all for rank 1."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(2, (20, 0 if step == 4 else 4)[rank], DIM, generator=generator) + 3 * rank


def snapshot(quantizer):
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def run_rank(rank, folder):
    """Train on this rank's share, and write down every state."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    states = {}
    for name, description in QUANTIZERS.items():
        torch.manual_seed(0)  # equal weights
        quantizer, states[name] = build(description).train(), []
        torch.manual_seed(100 + rank)  # random numbers of a step differ by rank
        for step in range(STEPS):
            quantizer(share(rank, step))
            states[name].append(snapshot(quantizer))
    states["entropy"] = entropy_gradient(share(rank, 0))
    torch.save(states, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def entropy_gradient(latents):
    torch.manual_seed(0)
    quantizer = IBQ(CODES, DIM, entropy_rows=None)
    loss = quantizer(latents).losses["entropy"]
    return loss.detach(), torch.autograd.grad(loss, quantizer.codebook)[0]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("ranks"))
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), folder]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    return [torch.load(f"{folder}/rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", QUANTIZERS)
def test_ranks_with_uneven_batches_stay_bit_equal(two_ranks, name):
    """Through starts, revivals and anchors; no rank waits for the other forever (rules 3 and 4)."""
    for some, others in zip(two_ranks[0][name], two_ranks[1][name], strict=True):
        assert all(torch.equal(some[key], others[key]) for key in some)


@pytest.mark.parametrize("name", [name for name in QUANTIZERS if name != "vq_balanced"])
def test_codebooks_do_move(two_ranks, name):
    first, last = two_ranks[0][name][0], two_ranks[0][name][-1]
    assert any(not torch.equal(first[key], last[key]) for key in first if key.endswith("codebook"))


def test_codes_come_from_both_ranks(two_ranks):
    for name in ("ema_kmeans", "vq_revived", "vq_random", "ibq"):
        codebook = two_ranks[0][name][-1]["codebook"]
        assert (codebook.mean(-1) < 1).any() and (codebook.mean(-1) > 2).any()


def test_two_ranks_are_one_process_with_both_batches(two_ranks):
    """But for the vectors that replace dead codes, which are drawn from both ranks in turn."""
    quantizer, states, replaced = build(QUANTIZERS["ema"]).train(), two_ranks[0]["ema"], 0
    for step, state in enumerate(states):
        if not step:
            continue
        quantizer.load_state_dict(states[step - 1])
        quantizer(torch.cat([share(rank, step).flatten(0, 1) for rank in range(2)])[None])
        same = torch.isclose(quantizer.codebook, state["codebook"], atol=1e-5).all(-1)
        doomed = states[step - 1]["counts"] < 0.5 * states[step - 1]["counts"].mean()
        replaced += int(doomed.sum())
        if not doomed.any():
            assert same.all()
            torch.testing.assert_close(quantizer.counts, state["counts"])
        torch.testing.assert_close(quantizer.counts.sum(), state["counts"].sum())
    assert 0 < replaced < STEPS * CODES


def test_the_entropy_and_its_gradient_are_those_of_all_ranks(two_ranks):
    """Averaged over ranks, as data-parallel training does: here of equal shares of rows."""
    losses, gradients = zip(*(rank["entropy"] for rank in two_ranks), strict=True)
    torch.manual_seed(0)
    quantizer = IBQ(CODES, DIM, entropy_rows=None)
    halves = [share(rank, 0).flatten(0, 1) for rank in range(2)]
    assignments = [quantizer._assignments(half, quantizer.values()) for half in halves]
    entropy = sum(total / len(half) for (total, _), half in zip(assignments, halves, strict=True)) / 2
    mean = sum(rows / len(half) for (_, rows), half in zip(assignments, halves, strict=True)) / 2
    joint = entropy + torch.special.xlogy(mean, mean).sum()
    torch.testing.assert_close(sum(losses) / 2, joint.detach())
    torch.testing.assert_close(sum(gradients) / 2, torch.autograd.grad(joint, quantizer.codebook)[0])


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
