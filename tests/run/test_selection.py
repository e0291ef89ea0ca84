"""Averages of weights, the weights of the lowest held-out loss, and the end of a training that gets no better."""

import math
import shutil

import pytest
import torch
from torch import nn

from limbeck.disk import read_json, read_lines
from limbeck.errors import BadFolder, BadSetting
from limbeck.models.language_model import whole
from limbeck.objectives import CrossEntropy, ForwardKL
from limbeck.run.average import Averaging, WeightAverage
from limbeck.run.lockstep import train_lockstep
from limbeck.run.save import best_step, checkpoints
from limbeck.run.selection import Limit, Rule, Selection
from limbeck.run.step import train_step
from limbeck.run.watch import Watch
from tests.helpers.ranks import on_ranks
from tests.run.test_run import STEPS, build, weights
from tests.run.test_watch import watch, without_time

_EVERY = 4


class Killed(BaseException):
    """What ends a run in the middle, without anything being saved."""


class Scripted(Watch):
    """Measures held-out losses that are given, by step."""

    losses: tuple[float, ...] = ()
    overlaps: tuple[float, ...] = ()

    def row(self, student, step, tokens, *, bf16):
        place = step // self.every
        own = {"overlap": self.overlaps[place]} if self.overlaps else {}
        return {
            "step": step,
            "tokens": tokens,
            "loss_nats": self.losses[place],
            "n": 3,
            "predictions": 9,
            "seconds": 0.0,
            **own,
        }


def scripted(*losses, overlaps=()):
    found = Scripted(list, 3, frozenset(), every=_EVERY).until(STEPS)
    object.__setattr__(found, "losses", losses)
    object.__setattr__(found, "overlaps", overlaps)
    return found


def run_of(folder, data, *, losses=None, rule=None, killed_at=None, **plan):
    run = build(folder, data, make=CrossEntropy, **plan)
    run.watch = scripted(*losses) if losses else watch(data)
    run.rule = rule
    steps = 0

    def update(*args, **how):
        nonlocal steps
        steps += 1
        if steps == killed_at:
            raise Killed
        return train_step(*args, **how)

    run.update = update
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def test_the_lowest_loss_and_the_measurements_since():
    selection = Selection(Rule(every=10, patience=2))
    seen = [(0, 5.0), (10, 4.0), (20, 4.0), (30, 3.5), (40, math.nan), (50, 3.6)]
    assert [selection.see(step, {"loss_nats": loss}) for step, loss in seen] == [True, True, False, True, False, False]
    assert (selection.step, selection.loss, selection.stale, selection.over) == (30, 3.5, 2, True)
    again = Selection(Rule(every=10, patience=3))
    again.restore(selection.state())
    assert (again.step, again.loss, again.stale, again.over) == (30, 3.5, 2, False)
    never = Selection(Rule(every=1))
    assert [never.see(step, {"loss_nats": math.inf}) for step in range(9)] == [False] * 9
    assert not never.over
    assert never.state() == {"step": None, "stale": 9}


_LIMIT = Limit("overlap", "the overlap was {}", 0.6, least=True)


def test_a_limit_is_passed_on_its_own_side():
    most = Limit("tokens_own_texts", "texts had {} tokens", 200, least=False)
    assert [_LIMIT.passed_by({"overlap": value}) for value in (0.7, 0.6)] == ["", ""]
    assert _LIMIT.passed_by({"overlap": 0.1234}) == "the overlap was 0.123, below 0.6"
    assert [most.passed_by({"tokens_own_texts": value}) for value in (100, 200)] == ["", ""]
    assert most.passed_by({"tokens_own_texts": 250.4}) == "texts had 250 tokens, above 200"
    assert _LIMIT.passed_by({"loss_nats": 1.0}) == ""  # a row without what is limited
    assert _LIMIT.passed_by({"overlap": math.nan})  # a comparison with NaN holds nothing
    selection = Selection(Rule(10, limits=(_LIMIT, most)))
    assert selection.see(0, {"loss_nats": 2.0, "overlap": 0.5, "tokens_own_texts": 300})
    assert selection.stopped_by == "the overlap was 0.5, below 0.6 and texts had 300 tokens, above 200"
    assert selection.over
    again = Selection(Rule(10, limits=(_LIMIT, most)))
    again.restore(selection.state())
    assert vars(again) == vars(selection)


def test_a_training_ends_where_a_limit_is_passed_and_stays_ended(data, tmp_path):
    """Overlaps after 0, 4, 8, 12 steps: the fourth is too low."""
    watch, rule = scripted(*[5.0] * 7, overlaps=(0.7, 0.6, 0.8, 0.5, 0.9, 0.9, 0.9)), Rule(_EVERY, limits=(_LIMIT,))
    for _ in range(2):
        run = build(tmp_path, data, make=CrossEntropy)
        run.watch, run.rule = watch, rule
        run.train()
        assert (run.done, run.complete, run.selection.stopped_by) == (12, True, "the overlap was 0.5, below 0.6")
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 12


def test_a_start_beyond_a_limit_is_said_before_a_step(data, tmp_path):
    run = build(tmp_path, data, make=CrossEntropy)
    run.watch, run.rule = scripted(5.0, overlaps=(0.5,)), Rule(_EVERY, limits=(_LIMIT,))
    with pytest.raises(
        BadSetting, match=r"--stop-when: before the first step of test the overlap was 0\.5, below 0\.6, so"
    ):
        run.train()


@pytest.mark.long
@pytest.mark.parametrize(("limits", "said"), [((_LIMIT,), "--stop-when"), ((), "trained")])
def test_two_processes_agree_before_the_first_step(data, tmp_path, limits, said):
    """A limit that is passed there is an error on both; a loss that is no number, with no patience left, is not."""

    def work(world):
        run = build(tmp_path / "two", data, make=CrossEntropy, world=world)
        world.place(run.student, train=True)
        run.watch = scripted(math.nan, *[5.0] * 6, overlaps=(0.5,) * 7) if world.first else None
        run.rule = Rule(_EVERY, 1, limits=limits)
        try:
            run.train()
        except BadSetting as error:
            return str(error)[:11]
        return "trained"

    assert on_ranks(2, work) == [said, said]


@pytest.mark.long
def test_two_processes_end_together_where_the_first_measures_a_limit(data, tmp_path):
    def work(world):
        run = build(tmp_path / "two", data, make=CrossEntropy, world=world)
        world.place(run.student, train=True)
        run.watch = scripted(*[5.0] * 7, overlaps=(0.7, 0.7, 0.5)) if world.first else None
        run.rule = Rule(_EVERY, limits=(_LIMIT,))
        run.train()
        return run.done, run.complete

    assert on_ranks(2, work) == [(8, True), (8, True)]


def test_the_share_of_each_step_in_an_average():
    ema = Averaging.of("ema:0.9")
    assert [ema.rate(step, 1000) for step in (1, 2)] == pytest.approx([1 - 2 / 11, 1 - 3 / 12])
    assert ema.rate(500, 1000) == pytest.approx(0.1)
    last = Averaging.of("last:0.3")
    assert [last.rate(step, 10) for step in range(1, 11)] == [0] * 7 + [1, 1 / 2, 1 / 3]


@pytest.mark.parametrize(
    ("how", "expected"),
    # by hand: decays 2/11, 1/4, 4/13 and 5/14 of the ramp
    [("last:0.5", 7 / 2), ("ema:0.99", 5 / 14 * (4 / 13 * (1 / 4 * 9 / 11 + 3 / 4 * 2) + 9 / 13 * 3) + 9 / 14 * 4)],
)
def test_an_average_of_known_weights(how, expected):
    """The weights are 0, 1, 2, 3 and 4 after 0 to 4 steps."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0)
    average = WeightAverage(model, Averaging.of(how), 4)
    for step in range(1, 5):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(step)
    with average.weights():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 4
    average.apply()
    assert model.weight.item() == pytest.approx(expected)


@pytest.mark.long
def test_a_training_ends_when_patience_runs_out_and_has_its_best_weights(data, tmp_path):
    """Losses after 0, 4, 8, 12, 16 steps: the lowest is after 8, and two measurements later it ends."""
    losses = (5.0, 4.0, 3.0, 3.5, 3.2, 1.0, 1.0)
    run = run_of(tmp_path / "run", data, losses=losses, rule=Rule(_EVERY, 2, best=True))
    run.train()
    assert (run.done, run.complete, run.selection.step) == (16, True, 8)
    without = build(tmp_path / "eight", data, make=CrossEntropy)  # the same steps without any rule
    turns = without.steps([])
    while next(turns) < 8:
        pass
    assert torch.equal(weights(run), weights(without))
    assert read_json(checkpoints(run.folder)[-1] / "state.json", dict)["selection"] == {
        "step": 8,
        "loss_nats": 3.0,
        "stale": 2,
    }
    rows = read_lines(run.folder / "metrics.jsonl")
    again = run_of(tmp_path / "run", data, losses=losses, rule=Rule(_EVERY, 2, best=True))
    again.train()
    assert torch.equal(weights(again), weights(run))
    assert read_lines(run.folder / "metrics.jsonl") == rows  # nothing was trained any more


@pytest.mark.long
def test_without_patience_all_steps_are_trained_and_the_best_are_kept(data, tmp_path):
    losses = (5.0, 4.0, 3.0, 3.5, 3.2, 3.1, 3.3)
    plain = build(tmp_path / "plain", data, make=CrossEntropy)
    plain.train()
    run = run_of(tmp_path / "run", data, losses=losses, rule=Rule(_EVERY))
    run.train()
    assert (run.done, run.selection.step, best_step(run.folder)) == (STEPS, 8, 8)
    assert torch.equal(weights(run), weights(plain))  # nothing of the training changed


@pytest.mark.long
@pytest.mark.parametrize(("average", "best"), [("ema:0.9", False), ("ema:0.9", True), ("last:0.5", False)])
@pytest.mark.parametrize("killed_at", [8, 20])
def test_a_killed_run_goes_on_to_the_same_average_and_the_same_best(data, tmp_path, average, best, killed_at):
    rule = Rule(_EVERY, best=best)
    whole = run_of(tmp_path / "whole", data, rule=rule, average=average)
    whole.train()
    with pytest.raises(Killed):
        run_of(tmp_path / "killed", data, rule=rule, average=average, killed_at=killed_at).train()
    run = run_of(tmp_path / "killed", data, rule=rule, average=average)
    run.train()
    assert torch.equal(weights(run), weights(whole))
    assert without_time(run.folder) == without_time(whole.folder)
    assert vars(run.selection) == vars(whole.selection)


def test_patience_that_was_used_up_in_part_is_continued(data, tmp_path):
    losses = (5.0, 3.0, 3.5, 3.2, 3.4, 1.0, 1.0)
    with pytest.raises(Killed):
        run_of(tmp_path, data, losses=losses, rule=Rule(_EVERY, 3, best=True), killed_at=12, save_every=10).train()
    run = run_of(tmp_path, data, losses=losses, rule=Rule(_EVERY, 3, best=True), save_every=10)
    run.train()
    assert (run.done, run.selection.step) == (16, 4)


@pytest.mark.long
def test_runs_in_lockstep_end_each_by_its_own_losses(data, tmp_path):
    runs = []
    for name, losses in (("a", (3.0, 2.0, 2.5, 2.5, 2.5, 2.5, 2.5)), ("b", (3.0, 2.9, 2.8, 2.7, 2.6, 2.5, 2.4))):
        run = build(tmp_path / name, data, make=ForwardKL)
        run.watch, run.rule = scripted(*losses), Rule(_EVERY, 2, best=True)
        runs.append(run)
    train_lockstep(runs, label="both")
    assert [(run.done, run.selection.step) for run in runs] == [(12, 4), (STEPS, 24)]


def test_missing_best_weights_are_named(data, tmp_path):
    rule = Rule(_EVERY, 2, best=True)
    run_of(tmp_path, data, losses=(5.0, 4.0, 4.5, 4.5), rule=rule).train()
    shutil.rmtree(tmp_path / "best-000004")
    with pytest.raises(BadFolder, match=r"best-000004.*the training then starts from the beginning"):
        run_of(tmp_path, data, losses=(5.0, 4.0, 4.5, 4.5), rule=rule).train()


@pytest.mark.long
@pytest.mark.parametrize("mesh", ["shard", "replicate"])
def test_two_processes_average_and_choose_as_one_does(data, tmp_path, mesh):
    """Of replicated processes the first alone measures; of sharded ones each averages its part."""
    losses, rule = (5.0, 4.0, 3.0, 3.5, 3.2, 1.0, 1.0), Rule(_EVERY, 2, best=True)
    one = run_of(tmp_path / "one", data, losses=losses, rule=rule, average="ema:0.9")
    one.train()

    def work(world):
        run = build(tmp_path / "two", data, make=CrossEntropy, world=world, average="ema:0.9")
        world.place(run.student, train=True)
        run.watch, run.rule = scripted(*losses) if world.first or world.sharded else None, rule
        run.train()
        found = [whole(p).detach().flatten() for p in run.student.model.parameters()]
        return run.done, run.selection.step, torch.cat(found).tolist()

    for done, step, found in on_ranks(2, work, mesh=mesh):
        assert (done, step) == (16, 8)
        torch.testing.assert_close(torch.tensor(found), weights(one), rtol=0, atol=1e-4)
    assert [folder.name for folder in (tmp_path / "two").glob("best-*")] == ["best-000008"]
