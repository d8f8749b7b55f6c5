"""The watchdog: signs of a collapse, its steps, whose table it acts on, ranks, and the cases known to collapse."""

import json
import math
import threading
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from sigtok.codecs.audio.models import query_speech
from sigtok.codecs.metrics.codes import CodeCounts, Usage, usage
from sigtok.codecs.metrics.mel import log_mel, magnitudes, mel_filters
from sigtok.codecs.quantizers.additive import Additive
from sigtok.codecs.quantizers.base import Quantizer
from sigtok.codecs.quantizers.ema import EMAVQ
from sigtok.codecs.quantizers.fixed import FixedCodebook
from sigtok.codecs.quantizers.fsq import FSQ
from sigtok.codecs.quantizers.grouped import Grouped
from sigtok.codecs.quantizers.ibq import IBQ
from sigtok.codecs.quantizers.multirate import MultiRate
from sigtok.codecs.quantizers.multiscale import MultiScale
from sigtok.codecs.quantizers.projected import Projected
from sigtok.codecs.quantizers.residual import Residual
from sigtok.codecs.quantizers.split import Split
from sigtok.codecs.quantizers.vq import VQ
from sigtok.train.callbacks.usage import CodebookUsage
from sigtok.train.data.synthetic import Tones
from sigtok.train.losses.waveform import L1
from sigtok.train.task import CodecTask
from sigtok.train.watchdog import ACTIONS, Alarm, Watchdog, act, owners, tables


def counted(*histograms):
    """Counts of given histograms, one a codebook."""
    counts = CodeCounts([len(histogram) for histogram in histograms])
    counts.add([torch.repeat_interleave(torch.arange(len(h)), torch.tensor(h))[None] for h in histograms])
    return counts


EVEN, HALF, ONE, FEW = [200] * 8, [400] * 4 + [0] * 4, [1600] + [0] * 7, [0] * 7 + [1]


# -- measures --------------------------------------------------------------------------------------------------


def test_a_histogram_has_its_measures():
    seen = usage(torch.tensor([6, 2, 0, 0]))
    assert seen[:4] == (8, 4, 2, 0.75) and seen.share == 0.5
    assert seen.perplexity == pytest.approx(2 ** -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))
    assert usage(torch.zeros(4, dtype=torch.int64)) == Usage(0, 4, 0, 0.0, 1.0)
    assert counted([6, 2, 0, 0], [0, 1]).summary() == pytest.approx(
        {"usage_0": 0.5, "dead_0": 0.5, "perplexity_0": seen.perplexity, "top_0": 0.75}
        | {"usage_1": 0.5, "dead_1": 0.5, "perplexity_1": 1, "top_1": 1, "bits": math.log2(seen.perplexity)}
    )


@pytest.mark.parametrize("size, tokens", [(4096, 100), (4096, 4096), (500, 10_000), (2, 10)])
def test_even_draws_show_what_is_expected_of_them(size, tokens):
    seen = usage(torch.bincount(torch.randint(size, (tokens,)), minlength=size))
    assert seen.share == pytest.approx(seen.shown, rel=0.05)


# -- signs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1000, 4000, 80_000])
def test_a_window_too_short_for_its_codebook_is_no_sign_of_collapse(tokens):
    alarm, size = Alarm(usage=0.5), 4096
    even = usage(torch.bincount(torch.randint(size, (tokens,)), minlength=size))
    assert alarm.judges(even) and not alarm.signs(even, None)
    assert (even.share < alarm.usage) == (tokens < size / 2)  # of plain usage a false alarm
    few = usage(torch.bincount(torch.randint(size // 40, (tokens,)), minlength=size))
    assert list(alarm.signs(few, None)) == ["usage"]


def test_every_sign_has_its_threshold():
    alarm = Alarm(usage=0.5, top=0.75, fall=2.0, tokens=100)
    fine = Usage(10_000, 100, 60, 0.7, 40.0)
    assert not alarm.signs(fine, 0.79)
    assert list(alarm.signs(fine, 0.81)) == ["fall"]
    assert list(alarm.signs(fine._replace(used=49), 0.4)) == ["usage"]
    assert list(alarm.signs(fine._replace(top=0.76), 0.4)) == ["top"]
    assert not Alarm(0.0, 1.0, math.inf).signs(Usage(10_000, 100, 1, 1.0, 1.0), 1.0)
    assert alarm.judges(fine) and not alarm.judges(fine._replace(tokens=99))
    assert not alarm.judges(Usage(1000, 1, 1, 1.0, 1.0))  # a single code cannot collapse


def test_a_shorter_window_is_no_fall():
    dog, long, short = Watchdog(Alarm(tokens=100)), counted_tokens(1000, 20_000), counted_tokens(1000, 400)
    assert not dog.judge(FSQ([1000]), long) and not dog.judge(FSQ([1000]), short)
    assert short.summary()["perplexity_0"] < long.summary()["perplexity_0"] / 2  # which alone would be one


def counted_tokens(size, tokens):
    counts = CodeCounts((size,))
    counts.add([torch.randint(size, (1, tokens))])
    return counts


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"usage": 1.0}, r"usage is a fraction in \[0, 1\), got 1.0"),
        ({"top": 0.0}, r"top share lies in \(0, 1\], got 0.0"),
        ({"fall": 1.0}, "more than 1, got 1.0"),
        ({"fall": math.nan}, "more than 1, got nan"),
        ({"tokens": 0}, "at least 1 token, got 0"),
    ],
)
def test_impossible_alarms_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Alarm(**setting)


def test_impossible_actions_are_refused():
    with pytest.raises(ValueError, match="actions are warn, reseed, soften, slow; got bark"):
        CodebookUsage(actions=["warn", "bark"])
    for setting in ({"window": 0}, {"warmer": 1.0}, {"slower": 1.0}):
        with pytest.raises(ValueError, match="got .*(0|1.0)$"):
            CodebookUsage(**setting)


# -- steps -----------------------------------------------------------------------------------------------------


def answers(dog, quantizer, *windows):
    return [[order.action for order in dog.judge(quantizer, counted(window))] for window in windows]


def test_an_alarm_that_lasts_is_answered_step_by_step_and_round_again():
    assert answers(Watchdog(), IBQ(8, 4), *[ONE] * 6) == [[*ACTIONS, *ACTIONS][i : i + 1] for i in range(6)]


def test_a_healthy_window_ends_the_alarm_and_one_of_few_tokens_changes_nothing():
    assert answers(Watchdog(), IBQ(8, 4), ONE, FEW, ONE, EVEN, ONE) == [["warn"], [], ["reseed"], [], ["warn"]]


@pytest.mark.parametrize(
    "quantizer, steps",
    [
        (EMAVQ(8, 4), ["warn", "reseed", "slow", "warn"]),
        (VQ(8, 4), ["warn", "reseed", "slow", "warn"]),
        (FSQ([8]), ["warn", "slow", "warn", "slow"]),
        (Projected(IBQ(8, 4), 6), ["warn", "reseed", "soften", "slow"]),
    ],
)
def test_a_step_without_means_is_left_out(quantizer, steps):
    assert answers(Watchdog(), quantizer, *[ONE] * 4) == [[step] for step in steps]


def test_nothing_is_re_seeded_where_every_code_was_seen():
    assert answers(Watchdog(), VQ(8, 4), *[[9993] + [1] * 7] * 3) == [["warn"], ["slow"], ["warn"]]


def test_actions_are_the_users_choice():
    assert answers(Watchdog(actions=["reseed"]), VQ(8, 4), ONE, ONE) == [["reseed"], ["reseed"]]
    assert answers(Watchdog(actions=["reseed"]), FSQ([8]), ONE, ONE) == [[], []]
    assert answers(Watchdog(actions=[]), VQ(8, 4), ONE) == [[]]


def test_codebooks_are_answered_each_for_itself():
    dog, quantizer = Watchdog(), Residual([VQ(8, 4), VQ(8, 4)])
    ordered = lambda *pair: [(o.codebooks, o.action) for o in dog.judge(quantizer, counted(*pair))]  # noqa: E731
    assert ordered(ONE, EVEN) == [((0,), "warn")]
    assert ordered(ONE, ONE) == [((0,), "reseed"), ((1,), "warn")]
    assert ordered(EVEN, ONE) == [((1,), "reseed")]


def test_re_seeding_dooms_the_codes_that_nobody_used_and_the_next_pass_replaces_them():
    quantizer = VQ(8, 4).train()
    quantizer(torch.randn(1, 20, 4))
    dog, before = Watchdog(actions=["reseed"]), quantizer.codebook.detach().clone()
    [order] = dog.judge(quantizer, counted([1000, 0, 0, 200, 0, 0, 0, 0]))
    act(order)
    latents = torch.randn(1, 20, 4)
    quantizer(latents)
    kept = (quantizer.codebook == before).all(-1)
    assert kept.tolist() == [True, False, False, True, False, False, False, False]
    assert all((code == latents[0]).all(-1).any() for code in quantizer.codebook[~kept])


def test_softening_divides_the_scale():
    quantizer = IBQ(8, 4, "dot", scale=1.0, learned=False)
    [order] = Watchdog(actions=["soften"]).judge(quantizer, counted(ONE))
    act(order, warmer=4.0)
    assert quantizer.log_scale.exp().item() == pytest.approx(0.25)


# -- whose table it is -----------------------------------------------------------------------------------------

COMPOSED = {
    "one": lambda: VQ(8, 4),
    "residual": lambda: Residual([VQ(8, 4), EMAVQ(16, 4), VQ(8, 4)]),
    "grouped": lambda: Grouped([VQ(8, 2), FSQ([3]), VQ(8, 1)]),
    "split": lambda: Split(Projected(VQ(8, 2), 4), Projected(Residual([VQ(8, 3), FixedCodebook(8, 3)]), 4)),
    "projected": lambda: Projected(Residual([Projected(VQ(8, 2), 3), VQ(8, 3)]), 4),
    "multirate": lambda: MultiRate([VQ(8, 4), VQ(4, 4)], [2, 1]),
    "additive": lambda: Additive([VQ(8, 4), VQ(8, 4)]),
    "multiscale": lambda: MultiScale(VQ(8, 4), (2, 2), [1, 2]),
    "multiscale_inside": lambda: Projected(MultiScale(VQ(8, 2), (2, 2), [1, 2]), 4),
    "twice": lambda: Residual([(stage := VQ(8, 4)), stage]),
    "twice_beside": lambda: Split(VQ(8, 4), Residual([(stage := VQ(8, 4)), stage])),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_the_owner_of_a_codebook_has_its_table(name):
    """Of every codebook: its codes decode to something else exactly when the table of its owner changes."""
    quantizer = COMPOSED[name]().eval()
    streams, found = quantizer.encode(torch.randn(1, 8, 4)), owners(quantizer)
    assert len(found) == len(quantizer.codebook_sizes)

    def spoken():
        alone = [[s if q == p else torch.full_like(s, -1) for p, s in enumerate(streams)] for q in range(len(streams))]
        return [quantizer.decode(each).detach().clone() for each in alone]

    before = spoken()
    for owner in found:
        if not isinstance(owner, FSQ):
            kept = owner.codebook.detach().clone()
            owner.codebook.data += 1
            changed = [not torch.equal(*pair) for pair in zip(before, spoken(), strict=True)]
            assert changed == [other is owner for other in found]
            owner.codebook.data.copy_(kept)
    assert sum(isinstance(owner, FSQ) for owner in found) == (name == "grouped")


class Strange(Quantizer):
    """Two codebooks, and parts that are not theirs."""

    def __init__(self, parts):
        super().__init__()
        self.parts, self.dim, self.codebook_sizes = nn.ModuleList(parts), 4, (8, 8)

    def forward(self, latents, codebooks=None, *, update=True):
        raise NotImplementedError

    encode = decode = forward


@pytest.mark.parametrize("parts", [[VQ(8, 4), VQ(4, 4)], [VQ(4, 4)], [VQ(8, 4), VQ(8, 4), VQ(8, 4)], []])
def test_of_a_strange_quantizer_nothing_is_touched(parts):
    quantizer = Strange(parts)
    assert owners(quantizer) == (quantizer, quantizer)
    assert [books for _, books in tables(quantizer)] == [(0,), (1,)]
    dog = Watchdog()
    steps = [[order.action for order in dog.judge(quantizer, counted(ONE, EVEN))] for _ in range(3)]
    assert steps == [["warn"], ["slow"], ["warn"]]


def test_codebooks_that_share_a_table_are_judged_as_one():
    assert [books for _, books in tables(MultiScale(IBQ(8, 4), (2, 2), [1, 2]))] == [(0, 1)]
    quantizer = Split(VQ(8, 4), Residual([stage := IBQ(8, 4), stage]))
    assert [books for _, books in tables(quantizer)] == [(0,), (1, 2)]
    assert not Watchdog(Alarm(usage=0.9)).judge(quantizer, counted(EVEN, HALF, HALF[::-1]))
    first, second = [1600] + [0] * 7, [1500, 100] + [0] * 6
    [order] = Watchdog(actions=["reseed"]).judge(quantizer, counted(EVEN, first, second))
    assert order.codebooks == (1, 2) and order.owner is stage
    assert order.unseen.tolist() == [False] * 2 + [True] * 6


# -- the callback ----------------------------------------------------------------------------------------------


class Steps:
    """As much of a trainer as the callback sees: a step, a folder, and other ranks to join with."""

    def __init__(self, folder, joined=lambda value: value):
        self.folder, self.joined, self.global_step, self.loggers = folder, joined, 0, [self]
        self.strategy = SimpleNamespace(reduce=lambda value, reduce_op: joined(value))
        self.logged = []

    @property
    def log_dir(self):
        self.joined(torch.zeros(1))  # Lightning broadcasts it
        return str(self.folder)

    def log_metrics(self, values, step):
        self.logged.append(values)

    def fit(self, callback, module, windows):
        callback.on_train_start(self, module)
        for streams in windows:
            self.global_step += 1
            callback.on_train_batch_end(self, module, {"streams": streams}, None, self.global_step - 1)

    def lines(self):
        path = self.folder / "watchdog.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def module(quantizer, learning_rate=1.0, final_learning_rate=0.3):
    spec = SimpleNamespace(codebook_sizes=tuple(quantizer.codebook_sizes))
    codec = SimpleNamespace(quantizer=quantizer, spec=spec)
    return SimpleNamespace(codec=codec, learning_rate=learning_rate, final_learning_rate=final_learning_rate)


def streams(*histograms):
    return [torch.repeat_interleave(torch.arange(len(h)), torch.tensor(h))[None] for h in histograms]


@pytest.mark.filterwarnings("ignore:step")
def test_every_action_is_written_logged_and_done(tmp_path):
    run, task = Steps(tmp_path), module(Residual([IBQ(8, 4, scale=1.0), VQ(8, 4)]))
    run.fit(CodebookUsage(window=1, warmer=4.0), task, [streams(ONE, EVEN)] * 5 + [streams(EVEN, EVEN)])
    assert [values["codes/action_0"] for values in run.logged] == [1, 2, 3, 4, 1, 0]
    assert [values["codes/action_1"] for values in run.logged] == [0] * 6
    lines = run.lines()
    assert [line["action"] for line in lines] == [*ACTIONS, "warn"] and [line["step"] for line in lines] == [*range(5)]
    measured = {"tokens": 1600, "usage": 1 / 8, "shown": 1.0, "perplexity": 1.0, "top": 1.0, "dead": 7 / 8}
    assert all(line["codebooks"] == [0] and line["signs"] == ["top"] for line in lines)
    assert all(line[name] == pytest.approx(value) for line in lines for name, value in measured.items())
    assert [line["did"].split()[0] for line in lines] == ["look", "7", "the", "learning_rate", "look"]
    assert task.learning_rate == 0.5 and task.codec.quantizer.stages[0].log_scale.exp().item() == pytest.approx(0.25)


def test_every_action_is_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"step 0: codebook 0 says one code in 100\.0% of its tokens; look at its pol"):
        Steps(tmp_path).fit(CodebookUsage(window=1), module(VQ(8, 4)), [streams(ONE)])


def test_counts_of_a_window_are_forgotten_in_the_next(tmp_path):
    run = Steps(tmp_path)
    run.fit(CodebookUsage(window=2), module(VQ(8, 4)), [streams(ONE), streams(EVEN), streams(EVEN), streams(EVEN)])
    assert [values["codes/top_0"] for values in run.logged] == pytest.approx([(1600 + 200) / 3200, 1 / 8])
    assert not run.lines()


@pytest.mark.filterwarnings("ignore:step")
def test_the_learning_rate_falls_once_a_window_and_never_below_where_it_ends(tmp_path):
    task = module(Residual([VQ(8, 4), VQ(8, 4)]))
    run = Steps(tmp_path)
    rates = []
    for _ in range(3):
        run.fit(CodebookUsage(window=1, actions=["slow"]), task, [streams(ONE, ONE)])
        rates.append(task.learning_rate)
    assert rates == [0.5, 0.3, 0.3]
    assert all("learning_rate is now" in line["did"] for line in run.lines())
    higher = module(VQ(8, 4), learning_rate=0.1)
    run.fit(CodebookUsage(window=1, actions=["slow"]), higher, [streams(ONE)])
    assert higher.learning_rate == 0.1  # rising to its end


@pytest.mark.filterwarnings("ignore:step")
def test_a_resumed_run_goes_on_with_its_steps_and_its_learning_rate(tmp_path):
    windows = [streams(ONE)] * 7
    straight, task = Steps(tmp_path / "straight"), module(VQ(8, 4), final_learning_rate=0.0)
    straight.fit(CodebookUsage(window=1), task, windows)
    stopped, resumed = CodebookUsage(window=1), CodebookUsage(window=1)
    parts, first, second = (
        Steps(tmp_path / "parts"), *[module(VQ(8, 4), final_learning_rate=0.0) for _ in range(2)]
    )  # fmt: skip
    parts.fit(stopped, first, windows[:4])
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict()), object_hook=whole_keys))
    parts.fit(resumed, second, windows[4:])
    assert task.learning_rate == second.learning_rate == 0.25 and first.learning_rate == 0.5
    assert [line["action"] for line in parts.lines()] == [line["action"] for line in straight.lines()]
    assert resumed.state_dict()["slowed"] == 0.25


def whole_keys(entries):
    return {int(key) if key.isdigit() else key: value for key, value in entries.items()}


# -- ranks -----------------------------------------------------------------------------------------------------


class Meeting:
    """Ranks as threads: a value is the sum over all, and who misses a meeting breaks it up."""

    def __init__(self, ranks):
        self.barrier, self.values, self.held = threading.Barrier(ranks, timeout=20), [None] * ranks, 0

    def joined(self, rank):
        def join(value):
            self.values[rank] = value.clone()
            self.barrier.wait()
            total = torch.stack(self.values).sum(0)
            self.held += rank == 0
            self.barrier.wait()
            return total

        return join


@pytest.mark.filterwarnings("ignore:step")
def test_ranks_with_different_codes_act_alike_and_as_one_process(tmp_path):
    shares = [[ONE, HALF, EVEN, ONE], [ONE, ONE, EVEN, EVEN]]  # by rank and window
    alarm = Alarm(top=0.5)
    meeting, errors = Meeting(2), []
    tasks = [module(IBQ(8, 4)) for _ in range(2)]
    runs = [Steps(tmp_path / f"{rank}", meeting.joined(rank)) for rank in range(2)]

    def train(rank):
        try:
            windows = [streams(share) for share in shares[rank]]
            runs[rank].fit(CodebookUsage(window=1, alarm=alarm), tasks[rank], windows)
        except threading.BrokenBarrierError as error:
            errors.append(error)

    ranks = [threading.Thread(target=train, args=(rank,)) for rank in range(2)]
    [rank.start() for rank in ranks], [rank.join() for rank in ranks]
    assert not errors and meeting.held == 1 + 4  # the folder, and a window each
    alone = Steps(tmp_path / "alone")
    both = [
        [torch.cat(pair, -1) for pair in zip(*map(streams, each), strict=True)] for each in zip(*shares, strict=True)
    ]
    alone.fit(CodebookUsage(window=1, alarm=alarm), module(IBQ(8, 4)), both)
    assert runs[0].logged == runs[1].logged == alone.logged
    assert [values["codes/action_0"] for values in alone.logged] == [1, 2, 0, 1]
    assert runs[0].lines() == runs[1].lines() == alone.lines()
    doomed = [task.codec.quantizer._doomed for task in tasks]
    assert torch.equal(*doomed) and doomed[0].any()


# -- the optimizer forgets -------------------------------------------------------------------------------------

SPEECH = dict(
    sample_rate=8000, frame_hop=40, frame_size=120, stack=2, dim=16, heads=2, encoder_depth=1, decoder_depth=1,
    decoder_blocks=1,
)  # fmt: skip
WEIGHTS = {"l1": 1.0, "commitment": 0.25, "codebook": 1.0}


def speech(quantizer, latent_dim, callbacks, steps, folder, **settings):
    codec = query_speech(**SPEECH, latent_dim=latent_dim, quantizer=quantizer)
    task = CodecTask(codec, {"l1": L1()}, learning_rate=3e-3, **settings)
    trainer = Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(task, Tones(sample_rate=8000, seconds=0.4, batch_size=8))
    return task


class Doom(Callback):
    """Re-seeds every second code before the last step, and keeps what the optimizer then remembers."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            table = pl_module.codec.quantizer
            self.mask = torch.arange(16) % 2 == 0
            table.reseed(self.mask)
            state = trainer.optimizers[0].state[table.codebook]
            self.kept = {name: value.clone() for name, value in state.items()}


def test_the_first_step_of_a_renewed_code_follows_its_fresh_gradient_only(tmp_path):
    quantizer = {"name": "ibq", "codebook_size": 16, "dim": 8}
    weights = WEIGHTS | {"alignment": 1.0, "entropy": 0.1}
    doom = Doom()
    task = speech(quantizer, 8, [doom], 4, tmp_path, loss_weights=weights, betas=(0.9, 0.99))
    table = task.codec.quantizer
    state, gradient, mask = task.optimizers().state[table.codebook], table.codebook.grad, doom.mask
    assert (doom.kept["exp_avg"][mask] != 0).all() and (gradient[mask] != 0).any(-1).all()
    fresh = {"exp_avg": 0.1 * gradient, "exp_avg_sq": 0.01 * gradient.square()}
    for name, decay in (("exp_avg", 0.9), ("exp_avg_sq", 0.99)):
        torch.testing.assert_close(state[name][mask], fresh[name][mask])
        torch.testing.assert_close(state[name][~mask], (decay * doom.kept[name] + fresh[name])[~mask])
    assert table.renewed is None


def test_forgetting_moves_a_renewed_code_alone():
    def step(renewed):
        torch.manual_seed(0)
        codec = query_speech(**SPEECH, latent_dim=8, quantizer={"name": "vq", "codebook_size": 4, "dim": 8})
        task = CodecTask(codec, {"l1": L1()}, WEIGHTS, learning_rate=1.0)
        table, optimizer = codec.quantizer, task.configure_optimizers()
        table.codebook.grad = torch.ones(4, 8)
        optimizer.step()
        before = table.codebook.detach().clone()
        table.codebook.grad = -torch.ones(4, 8)
        table.renewed = renewed
        task.on_before_optimizer_step(optimizer)
        optimizer.step()
        assert table.renewed is None
        return table.codebook.detach() - before

    mask = torch.tensor([True, False, False, True])
    with_memory, without = step(None), step(mask)
    assert torch.equal(with_memory[~mask], without[~mask])
    assert (without[mask] > 0).all() and not torch.isclose(with_memory[mask], without[mask]).any()


def test_codes_that_no_optimizer_has_are_let_be(tmp_path):
    quantizer = {"name": "ema", "codebook_size": 16, "dim": 8, "lifecycle": {"start": "noise", "revive": 0.5}}
    task = speech(quantizer, 8, [], 2, tmp_path, loss_weights={"l1": 1.0, "commitment": 1.0})
    assert task.codec.quantizer.renewed is None


# -- cases that are known to collapse ---------------------------------------------------------------------------


def distinct(task):
    """Codes that fresh tones use."""
    fresh = Tones(sample_rate=8000, seconds=1.6, batch_size=16, seed=5)
    return task.codec.eval().encode(next(iter(fresh.train_dataloader()))).codes.unique().numel()


@pytest.mark.filterwarnings("ignore:step")
def test_vq_of_many_codes_without_policies_is_re_seeded_and_uses_more(tmp_path):
    quantizer = {"name": "vq", "codebook_size": 1024, "dim": 64}
    used = []
    for callbacks in ([], [CodebookUsage(window=6, alarm=Alarm(tokens=500))]):
        torch.manual_seed(0)
        used.append(distinct(speech(quantizer, 64, callbacks, 30, tmp_path, loss_weights=WEIGHTS)))
    assert used[1] > 1.5 * used[0]
    lines = [json.loads(line) for line in (tmp_path / "watchdog.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines][:2] == ["warn", "reseed"]


def voice(count, seconds=1.0, rate=16_000):
    """Something like speech ``[count, T]``: gliding harmonics under three formants, in syllables."""
    time, orders, voices = torch.arange(int(seconds * rate)) / rate, torch.arange(1, 25)[:, None], []
    for _ in range(count):
        pitch = 80 + 170 * torch.rand(1)
        phase = 2 * math.pi * torch.cumsum(pitch * (1 + 0.2 * torch.sin(9 * time)), 0) / rate
        formants = torch.tensor([300, 900, 2400]) + torch.tensor([500, 1300, 600]) * torch.rand(3)
        gains = (-((orders * pitch - formants) / 150).square() / 2).exp().sum(1, keepdim=True) + 0.02
        syllables = torch.sin(2 * math.pi * (2 + 3 * torch.rand(1)) * time).clamp(min=0)
        voices.append(0.1 * (gains * torch.sin(orders * phase)).sum(0) * syllables)
    return torch.stack(voices)


def watched(quantizer, features, windows):
    """Actions by window, while an autoencoder of one linear layer a side learns the features."""
    into, back = nn.Linear(features.shape[-1], quantizer.dim), nn.Linear(quantizer.dim, features.shape[-1])
    optimizer = torch.optim.Adam([*into.parameters(), *back.parameters(), *quantizer.parameters()], 1e-3)
    dog, answered = Watchdog(Alarm(usage=0.25)), []
    for _ in range(windows):
        counts = CodeCounts(quantizer.codebook_sizes)
        for _ in range(5):
            frames = features[:, torch.randint(features.shape[1], (512,))]
            coded = quantizer(into(frames))
            weights = {"alignment": 1.0, "codebook": 1.0, "commitment": 0.25, "entropy": 0.05}
            losses = [weights[name] * loss for name, loss in coded.losses.items()]
            optimizer.zero_grad()
            ((back(coded.latents) - frames).square().mean() + sum(losses)).backward()
            optimizer.step()
            counts.add(coded.streams)
        orders = dog.judge(quantizer, counts)
        answered.append([order.action for order in orders])
        [act(order) for order in orders]
    return answered, counts.summary()["usage_0"]


def test_ibq_with_unscaled_scores_on_speech_is_answered_in_order_and_a_scaled_one_recovers():
    features = log_mel(magnitudes(voice(16), 512), mel_filters(16_000, 512, 80)).transpose(1, 2).flatten(0, 1)[None]
    published = IBQ(256, 256, scores="dot", scale=1.0, learned=False).train()
    answered, used = watched(published, features, windows=4)
    assert answered == [["warn"], ["reseed"], ["soften"], ["slow"]]
    assert used < 0.1 and published.log_scale.exp().item() == pytest.approx(0.5)
    answered, used = watched(IBQ(256, 256).train(), features, windows=4)
    assert answered == [["warn"], ["reseed"], [], []] and used > 0.3
