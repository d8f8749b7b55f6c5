"""Laws of the balancer: shares, scales, silence, resumption, ranks. As a script this file is a rank."""

import subprocess
import sys

import pytest
import torch
from torch import distributed as dist

from sigtok.train.balancer import Balancer

WEIGHTS = {"mel": 2.0, "adversarial": 4.0, "l1": 0.1}
DECAY = 0.9


def reconstructed(step, items=3):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(items, 2, 50, generator=generator).requires_grad_()


def losses_of(signal, scales=(1.0, 1.0, 1.0)):
    """Of gradients of different sizes and directions, that change from step to step."""
    mel, adversarial, l1 = scales
    return {
        "l1": l1 * (signal - 1).abs().mean(),
        "adversarial": adversarial * 30 * signal.sin().mean(),
        "mel": mel * 7 * signal[..., ::2].square().sum(),
    }


def gradient(loss, signal):
    return torch.autograd.grad(loss, signal, retain_graph=True)[0]


def run(balancer, steps, scales=(1.0, 1.0, 1.0)):
    return [balancer(losses_of(signal, scales), signal) for signal in map(reconstructed, steps)]


def item_norm(values):
    """The norm of an item, averaged over the batch, one item at a time."""
    return sum(sum(v**2 for v in item.flatten().tolist()) ** 0.5 for item in values) / len(values)


def test_the_formula_written_out():
    balancer, total, debias = Balancer(WEIGHTS, norm=3.0, decay=DECAY), dict.fromkeys(WEIGHTS, 0.0), 0.0
    for step in range(5):
        signal = reconstructed(step)
        losses, debias = losses_of(signal), DECAY * debias + 1
        expected = torch.zeros_like(signal)
        for name, weight in WEIGHTS.items():
            part = gradient(losses[name], signal)
            total[name] = DECAY * total[name] + item_norm(part)
            expected += weight / sum(WEIGHTS.values()) * 3.0 * part / (total[name] / debias)
        torch.testing.assert_close(balancer(losses, signal), expected)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_share_of_a_loss_is_its_weight_share(name):
    signal = reconstructed(0)
    losses = {other: (1.0 if other == name else 0.0) * loss for other, loss in losses_of(signal).items()}
    alone = Balancer(WEIGHTS)(losses, signal)
    assert item_norm(alone) == pytest.approx(WEIGHTS[name] / sum(WEIGHTS.values()), rel=1e-4)


@pytest.mark.parametrize("scales", [(1000.0, 1.0, 1.0), (1.0, 1e-3, 1e3), (1e-4, 1e-4, 1e-4)])
def test_the_scale_of_a_loss_changes_nothing(scales):
    plain, scaled = run(Balancer(WEIGHTS), range(5)), run(Balancer(WEIGHTS), range(5), scales)
    for some, others in zip(plain, scaled, strict=True):
        torch.testing.assert_close(some, others, rtol=1e-4, atol=1e-7)


def test_the_gradient_runs_on_to_the_weights_and_touches_nothing_before():
    codec, judge = torch.nn.Linear(50, 50), torch.nn.Linear(50, 1)
    signal = codec(reconstructed(0).detach())
    combined = Balancer({"adversarial": 1.0})({"adversarial": judge(signal).mean()}, signal)
    assert codec.weight.grad is None and judge.weight.grad is None
    signal.backward(combined)
    assert codec.weight.grad.count_nonzero() and judge.weight.grad is None


def test_a_loss_without_gradient_is_harmless():
    """It takes nothing from the others, and when it comes back it comes back at its own scale."""
    balancer, silent = Balancer(WEIGHTS), (1.0, 0.0, 1.0)
    for quiet in run(balancer, range(20), silent):
        assert quiet.isfinite().all() and item_norm(quiet) < 1
    (back,) = run(balancer, [20])
    assert item_norm(back) < 1.2
    (fresh,) = run(Balancer(WEIGHTS), [20])
    assert item_norm(back) == pytest.approx(item_norm(fresh), rel=0.2)


def test_silence_everywhere_is_no_gradient():
    signal = reconstructed(0)
    combined = Balancer({"l1": 1.0})({"l1": 0 * signal.sum()}, signal)
    assert torch.equal(combined, torch.zeros_like(signal))


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_broken_step_is_not_remembered(bad):
    balancer, other = Balancer(WEIGHTS), Balancer(WEIGHTS)
    run(balancer, [0])
    run(balancer, [1], (bad, bad, bad))
    run(other, [0])
    assert torch.equal(*run(balancer, [2]), *run(other, [2]))


def test_a_loss_may_start_later():
    balancer, signal = Balancer(WEIGHTS), reconstructed(0)
    losses = losses_of(signal)
    assert item_norm(balancer({"mel": losses["mel"]}, signal)) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(balancer(losses, signal), Balancer(WEIGHTS)(losses, signal))


def test_averages_travel_with_a_checkpoint_whatever_the_order_of_weights():
    balancer, resumed = Balancer(WEIGHTS), Balancer(dict(reversed(WEIGHTS.items())))
    run(balancer, range(4))
    resumed.load_state_dict(balancer.state_dict())
    assert torch.equal(*run(balancer, [4]), *run(resumed, [4]))
    assert not torch.equal(*run(balancer, [5]), *run(Balancer(WEIGHTS), [5]))


def test_half_precision_reconstructions_have_half_precision_gradients():
    signal = reconstructed(0).detach().bfloat16().requires_grad_()
    combined = Balancer(WEIGHTS)(losses_of(signal), signal)
    assert combined.dtype == torch.bfloat16
    (full,) = [Balancer(WEIGHTS)(losses_of(wide), wide) for wide in [signal.detach().float().requires_grad_()]]
    torch.testing.assert_close(combined.float(), full, rtol=0.05, atol=1e-3)


def test_names_and_weights_are_checked():
    signal = reconstructed(0)
    with pytest.raises(ValueError, match=r"got none for \['stft'\]"):
        Balancer(WEIGHTS)({"stft": signal.sum()}, signal)
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"got another for \['l1'\]"):
            Balancer({"mel": 1.0, "l1": weight})


# -- ranks ---------------------------------------------------------------------------------------------------


def part(signal, rank):
    """Uneven batches: one item, and two."""
    return (signal[:1] if rank == 0 else signal[1:]).detach().requires_grad_()


def item_losses(signal):
    """Sums over items, so that a gradient does not depend on the size of the batch."""
    return {"l1": 3 * (signal**3).sum(), "mel": signal.cos().sum()}


def run_rank(rank, folder):
    """Balance this rank's share, and write down the gradients."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    balancer = Balancer({"l1": 1.0, "mel": 2.0}, decay=DECAY)
    signals = [part(reconstructed(step), rank) for step in range(4)]
    torch.save([balancer(item_losses(signal), signal) for signal in signals], f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_process_with_both_batches(tmp_path):
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    balancer = Balancer({"l1": 1.0, "mel": 2.0}, decay=DECAY)
    for step, shares in enumerate(zip(*parts, strict=True)):
        signal = reconstructed(step)
        torch.testing.assert_close(balancer(item_losses(signal), signal), torch.cat(shares))


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
