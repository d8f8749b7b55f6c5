"""Codebooks that learn on two ranks are equal, and those of one process. As a script this file is a rank."""

import subprocess
import sys

import pytest
import torch
from torch import distributed as dist

from sigtok.codecs.quantizers.ema import EMAVQ, _sample
from sigtok.codecs.quantizers.ibq import IBQ

STEPS, CODES, DIM = 5, 16, 3


def share(rank, step):
    """The batch of one rank: uneven, and of two kinds."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(1, (40, 7)[rank], DIM, generator=generator) + 3 * rank


def averages():
    return EMAVQ(CODES, DIM, decay=0.8, revive=0.5).train()


def snapshot(quantizer):
    return {name: value.clone() for name, value in quantizer.state_dict().items()}


def run_rank(rank, folder):
    """Train on this rank's share, and write down every state."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    quantizers = {"ema": averages(), "ibq": IBQ(CODES, DIM, warmup=STEPS).train()}
    states = {"ema": [], "ibq": []}
    for step in range(STEPS):
        for name, quantizer in quantizers.items():
            quantizer(share(rank, step))
            states[name].append(snapshot(quantizer))
    torch.save(states, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


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


@pytest.mark.parametrize("name", ["ema", "ibq"])
def test_ranks_with_uneven_batches_stay_bit_equal(two_ranks, name):
    for some, others in zip(two_ranks[0][name], two_ranks[1][name], strict=True):
        assert all(torch.equal(some[key], others[key]) for key in some)


def test_warm_up_on_two_ranks_records_latents(two_ranks):
    recorded = two_ranks[0]["ibq"][-1]["codebook"]
    latents = torch.cat([share(rank, step)[0] for rank in range(2) for step in range(STEPS)])
    assert all((code == latents).all(-1).any() for code in recorded)


def test_two_ranks_are_one_process_with_both_batches(two_ranks):
    """But for the vectors that replace dead codes, which are drawn from both ranks in turn."""
    quantizer, states, replaced = averages(), two_ranks[0]["ema"], 0
    for step, state in enumerate(states):
        if step:
            quantizer.load_state_dict(states[step - 1])
        shares = [share(rank, step) for rank in range(2)]
        quantizer(torch.cat(shares, dim=1))
        torch.testing.assert_close(quantizer.counts, state["counts"])
        drawn = [_sample(part[0], CODES, step) for part in shares]
        candidates = torch.stack([drawn[code % 2][code] for code in range(CODES)])
        fresh = (state["codebook"] == candidates).all(-1)
        torch.testing.assert_close(quantizer.codebook[~fresh], state["codebook"][~fresh])
        replaced += int(fresh.sum())
    assert 0 < replaced < STEPS * CODES


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
