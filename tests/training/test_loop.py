"""The loop over a learner that learns nothing: when it logs, evaluates, saves and ends, to the step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

import rlgym.common.atomic_io
import rlgym.training.curves
import rlgym.training.progress
import rlgym.training.train
from rlgym.learner import NON_FINITE, Evaluation
from rlgym.run_folder import checkpoint
from rlgym.training.budgets import Budget
from tests.training.counting import Counter, Crash, configured, go, go_on, rows, steps_with

# ---- cadences


def test_cadences_to_the_step(tmp_path: Path) -> None:
    """Each has its turn at the first update that reaches a multiple of it; all of them once more at the end."""
    learner = Counter([5.0, 4.0])  # only the first evaluation is a new best
    run = go(learner, configured(tmp_path, steps=200, log__every=25, evaluate__every=40, checkpoint__every=60))
    assert steps_with(run, "train/loss") == [30, 50, 80, 100, 130, 150, 180, 200]
    assert steps_with(run, "eval/score") == learner.evaluated == [40, 80, 120, 160, 200]
    assert checkpoint.steps(run.dir) == [40, 60, 120, 180, 200], "40: the best"
    assert sorted(int(p.stem[5:]) for p in (run.dir / "evaluations").iterdir()) == learner.evaluated
    assert [row["step"] for row in rows(run)] == [30, 40, 50, 80, 100, 120, 130, 150, 160, 180, 200], "a step, one row"


class Estimates(rlgym.training.progress.Quiet):
    """A display that keeps what it is told of the time left."""

    def __init__(self) -> None:
        self.told: list[float | None] = []
        self.shares: list[float] = []

    def update(self, step: int, metrics: Mapping[str, float], seconds: float, lead: Budget, eta: float | None) -> None:
        self.told.append(eta)
        self.shares.append(lead.share)


@pytest.mark.parametrize("budget", [{"steps": 100}, {"updates": 10, "steps": 10_000}])
def test_a_slow_start_does_not_lengthen_the_time_left(
    budget: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first update compiles: the time left is told at the pace of those after it."""
    estimates, learner = Estimates(), Counter()
    monkeypatch.setattr(rlgym.training.train, "make_display", lambda *words: estimates)
    learner.during = lambda: time.sleep(0.5 if learner.progress.update == 1 else 0.01)
    go(learner, configured(tmp_path, log__every=10, **budget))
    first, second, *_, last = estimates.told
    assert first is None and second is not None and 0.05 < second < 0.5 and last == 0


def test_the_budget_that_ends_a_run_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress and the time left are those of the minutes, though a third of the steps are done."""
    estimates, learner, clock = Estimates(), Counter(), Clock(monkeypatch)
    monkeypatch.setattr(rlgym.training.train, "make_display", lambda *words: estimates)
    learner.during = lambda: clock.advance(15)
    run = go(learner, configured(tmp_path, log__every=10, steps=120, minutes=1.0))
    assert (run.dir / "log.txt").read_text().count("and the run ends at about 40: steps=40 would let it") == 1
    assert estimates.shares == [0.25, 0.5, 0.75, 1, 1] and estimates.told == [45, 30, 15, 0, 0]
    assert run.summary["steps"] == 40 and run.manifest["monitor"] == ["eval/score", "max"]


def test_what_the_last_evaluation_did_not_find_is_not_final(tmp_path: Path) -> None:
    """A collapsed policy has no diverse reward: the one before the collapse is the best, and no final value."""
    learner = Counter([3.0])
    evaluate = learner.evaluate
    learner.evaluate = lambda: evaluate() if learner.progress.step < 20 else Evaluation({})  # type: ignore[method-assign]
    run = go(learner, configured(tmp_path, steps=20, evaluate__every=10))
    assert run.summary["best"] == {"eval/score": 3.0, "step": 10} and "eval/score" not in run.summary["final"]


def test_never_more_often_than_each_update(tmp_path: Path) -> None:
    learner = Counter(per=100)
    run = go(learner, configured(tmp_path, steps=450, log__every=1, evaluate__every=30, checkpoint__every=99))
    expected = [100, 200, 300, 400, 500]
    assert steps_with(run, "train/loss") == learner.evaluated == checkpoint.steps(run.dir) == expected


def test_zero_is_only_at_the_end(tmp_path: Path) -> None:
    learner = Counter()
    run = go(learner, configured(tmp_path, steps=100))
    assert [row["step"] for row in rows(run)] == learner.evaluated == checkpoint.steps(run.dir) == [100]


def test_a_row_averages_train_tags_and_takes_the_latest_of_others(tmp_path: Path) -> None:
    run = go(Counter(), configured(tmp_path, steps=100, log__every=30))
    logged = rows(run, with_rate=True)
    assert [row["train/loss"] for row in logged] == [2, 5, 8, 10]
    assert [row["rollout/last"] for row in logged] == [3, 6, 9, 10]
    assert [row["time/total_timesteps"] for row in logged] == [30, 60, 90, 100]
    assert [row["time/iterations"] for row in logged] == [3, 6, 9, 10]
    assert all(row["time/fps"] > 0 for row in logged)
    assert not any(NON_FINITE in row for row in logged)


def test_the_rate_leaves_out_evaluations_and_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    learner = Counter()
    learner.during = lambda: clock.advance(2.0)
    evaluate = learner.evaluate

    def slow_evaluate() -> Evaluation:
        clock.advance(1000.0)
        return evaluate()

    learner.evaluate = slow_evaluate  # type: ignore[method-assign]
    run = go(learner, configured(tmp_path, steps=60, log__every=20, evaluate__every=30))
    assert [row["time/fps"] for row in rows(run, with_rate=True) if "time/fps" in row] == [5, 5, 5]
    assert run.summary["wall_time_s"] == 2012


# ---- the best model, and stopping early


@pytest.mark.parametrize(
    ("direction", "scores", "best_at"),
    [
        ("max", [1, 3, 2, 0, -1], 20),
        ("min", [1, 3, 2, 0, 4], 40),
        ("max", [1, 3, 2, 3, 0], 40),  # a tie: the one that was trained for longer
        ("min", [2, 2, 2, 2, 2], 50),
        ("max", [math.nan, -5, math.nan, -6, math.nan], 20),
        ("max", [math.nan] * 5, None),
        ("max", [-math.inf, -1, -math.inf, -2, -3], 20),
    ],
)
def test_the_best(direction: Literal["max", "min"], scores: list[float], best_at: int | None, tmp_path: Path) -> None:
    config = configured(tmp_path, steps=50, evaluate__every=10, checkpoint__every=10, checkpoint__keep=1)
    run = go(Counter(scores, direction), config)
    best = checkpoint.best(run.dir)
    if best_at is None:
        assert best is None and run.summary["best"] is None
        return
    assert best is not None and best.name == f"step_{best_at}"
    assert float(checkpoint.load(best)[0]["model"]["w"]) == best_at / 10, "its weights are those that were evaluated"
    assert run.summary["best"] == {"eval/score": scores[best_at // 10 - 1], "step": best_at}
    assert checkpoint.steps(run.dir) == sorted({best_at, 50}), "kept beside the last one"


@pytest.mark.parametrize(
    ("direction", "scores", "at", "ends"),
    [
        ("max", [1, 4.9, 5, 9], 5, 60),
        ("max", [1, 7, 5, 9], 5, 40),
        ("min", [9, 5.1, 5, 1], 5, 60),
        ("max", [1, 2, 3], 5, 100),
        ("max", [math.nan, 5], 5, 40),
    ],
)
def test_stop_at(direction: Literal["max", "min"], scores: list[float], at: float, ends: int, tmp_path: Path) -> None:
    run = go(Counter(scores, direction), configured(tmp_path, steps=100, evaluate__every=20, stop__at=at))
    assert (run.summary["steps"], run.summary["status"], run.exit_code) == (ends, "finished", 0)
    assert run.summary["reason"] == ("spent its budget of 100 steps" if ends == 100 else "reached eval/score 5")
    assert checkpoint.steps(run.dir)[-1] == ends


@pytest.mark.parametrize(
    ("scores", "patience", "ends"),
    [
        ([5, 4, 4, 4, 9], 3, 80),
        ([5, 4, 6, 4, 4, 4], 3, 120),
        ([5, 5, 5, 5], 3, 80),  # as good is not better
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 1, 200),
        ([math.nan] * 10, 2, 40),
        ([3, 2, 1, 0], 0, 200),  # never
    ],
)
def test_stop_patience(scores: list[float], patience: int, ends: int, tmp_path: Path) -> None:
    run = go(Counter(scores), configured(tmp_path, steps=200, evaluate__every=20, stop__patience=patience))
    assert run.summary["steps"] == ends
    if ends < 200:
        assert run.summary["reason"] == f"{patience} evaluations without a new best eval/score"


# ---- budgets


class Clock:
    """A perf_counter that only `advance` moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds


def test_budget_in_updates(tmp_path: Path) -> None:
    run = go(Counter(), configured(tmp_path, steps=1000, updates=7))
    assert (run.summary["updates"], run.summary["steps"]) == (7, 70)
    assert run.summary["reason"] == "spent its budget of 7 updates"


def test_budget_in_steps_ends_with_the_update_that_reaches_it(tmp_path: Path) -> None:
    assert go(Counter(), configured(tmp_path, steps=61)).summary["steps"] == 70


def test_budget_in_minutes_counts_every_sitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    config = configured(tmp_path, steps=10_000, minutes=1.0, checkpoint__every=10)
    learner = Counter()
    learner.during, learner.crash_update = lambda: clock.advance(10.0), 5
    with pytest.raises(Crash):
        go(learner, config)
    clock.advance(1e6)  # the time between two sittings is nobody's
    learner = Counter()
    learner.during = lambda: clock.advance(10.0)
    run = go_on(learner, config)
    assert run.summary["updates"] == 6 and run.summary["wall_time_s"] == 60
    assert run.summary["reason"] == "spent its budget of 1 minutes"


# ---- resume


@pytest.mark.parametrize("dies_in", [4, 7, 20])
def test_rows_after_a_crash_equal_the_uninterrupted_ones(dies_in: int, tmp_path: Path) -> None:
    """Checkpoints fall between log points: the metrics of the updates in between are in them."""
    every: dict[str, Any] = {"steps": 200, "log__every": 70, "evaluate__every": 50, "checkpoint__every": 30}
    scores = [1.0, 3.0, 3.0, 2.0]
    straight = go(Counter(scores), configured(tmp_path / "straight", **every))
    config = configured(tmp_path / "broken", **every)
    learner = Counter(scores)
    learner.crash_update = dies_in
    with pytest.raises(Crash):
        go(learner, config)
    broken = go_on(Counter(scores), config)
    assert rows(broken) == rows(straight)
    assert checkpoint.steps(broken.dir) == checkpoint.steps(straight.dir)
    drop = ("wall_time_s", "steps_per_second")
    summaries = [{k: v for k, v in run.summary.items() if k not in drop} for run in (straight, broken)]
    for summary in summaries:
        summary["final"].pop("time/fps")
    assert summaries[0] == summaries[1]
    loops = [checkpoint.load(run.dir / "checkpoints" / "step_200")[1] for run in (straight, broken)]
    assert [{**loop, "seconds": 0} for loop in loops][0] == {**loops[1], "seconds": 0}
