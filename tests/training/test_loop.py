"""The loop over a learner that learns nothing: when it logs, evaluates, saves and ends, to the step."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import rlgym.common.atomic_io
import rlgym.training.curves
import rlgym.training.progress
import rlgym.training.train
from rlgym.agents.configs.on_policy import PPOConfig
from rlgym.config.schema import TrainConfig
from rlgym.errors import TrainingError
from rlgym.learner import NON_FINITE, Evaluation, Learner, Metrics, Section
from rlgym.run_folder import checkpoint
from rlgym.run_folder.folder import Run, create_run
from rlgym.training.budgets import Budget
from rlgym.training.train import drive


class Crash(BaseException):
    """The process dies here."""


class Counter(Learner):
    """A learner that counts: update u reports u. `scores` are its evaluations in turn (the last one again after)."""

    def __init__(self, scores: list[float] | None = None, direction: Literal["max", "min"] = "max", per: int = 10):
        super().__init__(torch.device("cpu"))
        self.monitor = ("eval/score", direction)
        self.scores, self.per = scores or [0.0], per
        self.evaluated: list[int] = []
        self.bad_update = self.crash_update = 0
        self.during: Callable[[], None] = lambda: None

    def write_run_files(self, folder: Path) -> dict[str, str]:
        (folder / "card.md").write_text("card")
        return {"data/card": "card"}

    def update(self) -> Metrics:
        self.progress.step += self.per
        self.progress.update += 1
        u = self.progress.update
        if u == self.crash_update:
            raise Crash
        self.during()
        metrics: Metrics = {"train/loss": torch.tensor(float(u)), "rollout/last": float(u)}
        return metrics | {NON_FINITE: torch.tensor(float(u == self.bad_update))}

    def evaluate(self) -> Evaluation:
        self.evaluated.append(self.progress.step)
        value = self.scores[min(len(self.evaluated), len(self.scores)) - 1]
        return Evaluation({"eval/score": value}, {"episodes": []})

    def histograms(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Section]:
        return {
            "model": {"w": torch.tensor([float(self.progress.update)])},
            "progress": {**self.progress_state(), "evaluated": self.evaluated},
        }

    def load_state_dict(self, state: Mapping[str, Section]) -> None:
        progress: Any = self.load_progress(state)
        self.evaluated = list(progress["evaluated"])


def configured(folder: Path, **changes: Any) -> TrainConfig:
    """`log__every=30` sets log.every. All cadences are off unless given."""
    config = TrainConfig(display="quiet", device="cpu", threads=1, compile="off", agent=PPOConfig())
    config.run.dir, config.env.id = str(folder / "run"), "None-v0"
    config.log.every = config.evaluate.every = config.checkpoint.every = 0
    config.checkpoint.keep = 1000
    for key, value in changes.items():
        section, _, name = key.rpartition("__")
        setattr(getattr(config, section) if section else config, name, value)
    return config


def go(learner: Counter, config: TrainConfig) -> Run:
    return drive(learner, config, create_run(config, ["rlgym"]))


def go_on(learner: Counter, config: TrainConfig) -> Run:
    """What `resume` does, with this learner."""
    folder = Path(config.run.dir)
    state, loop = checkpoint.load(checkpoint.newest(folder, print))
    learner.load_state_dict(state)
    return drive(learner, config, Run(folder), loop)


def rows(run: Run, with_rate: bool = False) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run.dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if with_rate or k not in ("time", "time/fps")} for row in found]


def steps_with(run: Run, tag: str) -> list[int]:
    return [row["step"] for row in rows(run) if tag in row]


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


# ---- failures


def test_a_non_finite_update_ends_the_run_and_is_never_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Read at the next log point, evaluation or save, whichever comes first: here the evaluation at 80."""
    learner = Counter([1.0, 2.0, 3.0])
    learner.bad_update = 7
    run = go(learner, configured(tmp_path, steps=200, log__every=100, evaluate__every=40, checkpoint__every=30))
    assert run.exit_code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rlgym: non-finite loss or gradient at step 70 (update 7)")
    assert run.summary["status"] == run.manifest["status"] == "failed"
    assert "step 70" in run.summary["reason"] and "TrainingError" in (run.dir / "log.txt").read_text()
    assert learner.evaluated == [40] and checkpoint.steps(run.dir) == [30, 40, 60]
    best = checkpoint.best(run.dir)
    assert best is not None and best.name == "step_40"
    assert run.summary["best"] == {"eval/score": 1.0, "step": 40}
    for step in checkpoint.steps(run.dir):
        checkpoint.verify(run.dir / "checkpoints" / f"step_{step}")


@pytest.mark.parametrize("settled_by", ["log", "evaluate", "checkpoint", "end"])
def test_wherever_it_is_read_nothing_is_saved_after_it(settled_by: str, tmp_path: Path) -> None:
    learner = Counter()
    learner.bad_update = 4
    every: dict[str, Any] = {} if settled_by == "end" else {f"{settled_by}__every": 50}
    run = go(learner, configured(tmp_path, steps=100, **every))
    assert run.exit_code == 3 and "step 40 (update 4)" in run.summary["reason"]
    assert checkpoint.steps(run.dir) == [] and checkpoint.best(run.dir) is None
    assert learner.evaluated == [] and rows(run) == []


def test_from_python_a_failure_is_raised_after_the_summary(tmp_path: Path) -> None:
    learner = Counter()
    learner.bad_update = 1
    config = configured(tmp_path, steps=100)

    def fail(error: TrainingError) -> None:
        raise error

    with pytest.raises(TrainingError, match="step 10"):
        drive(learner, config, create_run(config, ["rlgym"]), fail=fail)
    assert Run(Path(config.run.dir)).summary["status"] == "failed"


def test_fault_5_a_full_disk_during_a_save_costs_nothing_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = checkpoint.save
    pruned: list[int] = []

    def full(run_dir: Path, step: int, *rest: Any) -> Path:
        if step == 90:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(run_dir, step, *rest)

    monkeypatch.setattr(checkpoint, "save", full)
    prune = checkpoint.prune

    def counting(run_dir: Path, keep: int) -> None:
        pruned.append(keep)
        prune(run_dir, keep)

    monkeypatch.setattr(checkpoint, "prune", counting)
    config = configured(tmp_path, steps=200, log__every=1000, checkpoint__every=30, checkpoint__keep=1)
    run = go(Counter(), config)
    assert run.exit_code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "the checkpoint at step 90 could not be written (No space left on device)" in line
    assert checkpoint.steps(run.dir) == [60] and len(pruned) == 2, "a failed save prunes nothing"
    monkeypatch.setattr(checkpoint, "save", save)
    assert go_on(Counter(), config).summary["status"] == "finished"
    assert rows(run)[-1]["train/loss"] == sum(range(1, 21)) / 20, "and nothing was lost"


def test_an_unexpected_error_is_raised_and_recorded(tmp_path: Path) -> None:
    learner = Counter()

    def bug() -> None:
        raise ZeroDivisionError("a bug")

    learner.during = bug
    config = configured(tmp_path, steps=100)
    with pytest.raises(ZeroDivisionError):
        go(learner, config)
    run = Run(Path(config.run.dir))
    assert run.manifest["status"] == "failed" and "a bug" in (run.dir / "log.txt").read_text()


@pytest.mark.parametrize("scores", [[1.0], [1.0, 2.0]], ids=["the same", "a last best"])
def test_a_budget_that_is_extended_logs_on_as_if_it_had_never_ended(scores: list[float], tmp_path: Path) -> None:
    """The last row of the shorter run stays; after it come the rows of the longer one, each over all its updates."""
    every: dict[str, Any] = {"log__every": 70, "evaluate__every": 60}
    straight = go(Counter([1.0]), configured(tmp_path / "straight", steps=200, **every))
    go(Counter(scores), configured(tmp_path / "extended", steps=100, **every))
    extended = go_on(Counter(scores), configured(tmp_path / "extended", steps=200, **every))
    losses = [[(r["step"], r["train/loss"]) for r in rows(run) if "train/loss" in r] for run in (straight, extended)]
    assert losses[0] == [(70, 4.0), (140, 11.0), (200, 17.5)]
    assert losses[1] == [(70, 4.0), (100, 9.0), (140, 11.0), (200, 17.5)]


# ---- what an end may meet


@pytest.mark.parametrize(
    ("how", "every"),
    [
        (Crash, {}),
        (Crash, {"evaluate__every": 40, "checkpoint__every": 40}),
        (ValueError, {}),
        (ValueError, {"evaluate__every": 40, "checkpoint__every": 40}),
        (ValueError, {"evaluate__every": 40}),
    ],
)
def test_a_run_that_ends_in_an_evaluation_begins_with_it_again(
    how: type[BaseException], every: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed or failed in the evaluation at step 40, or without `every` in the last: nothing that was trained is lost,
    and in the end all is as if it had not been."""
    last = 40 if every else 100
    straight = go(Counter([1.0, 2.0, 3.0]), configured(tmp_path / "straight", steps=100, log__every=20, **every))
    config = configured(tmp_path / "broken", steps=100, log__every=20, **every)
    learner = Counter([1.0, 2.0, 3.0])

    def fails() -> Evaluation:
        raise how("no evaluation")

    learner.evaluate = fails  # type: ignore[method-assign]
    if how is Crash:
        with pytest.raises(Crash):
            go(learner, config)
    else:
        assert go(learner, config).exit_code == 3
        said = capsys.readouterr().err
        assert said == (
            f"rlgym: the evaluation at step {last} raised ValueError: no evaluation; a resume begins with it again\n"
        )
    run = Run(Path(config.run.dir))
    assert checkpoint.steps(run.dir) == [last] and run.manifest["status"] == "failed"
    resumed = go_on(Counter([1.0, 2.0, 3.0]), config)
    assert rows(resumed) == rows(straight)
    assert checkpoint.best(resumed.dir) == resumed.dir / "checkpoints" / "step_100"
    for key in ("status", "steps", "best"):
        assert resumed.summary[key] == straight.summary[key]
    assert resumed.manifest["status"] == "finished"


def test_what_fails_beside_training_costs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Films, figures, histograms, a full disk under the rows: a notice each, once; the row comes with the next."""
    learner = Counter()

    def fails(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    learner.evaluate = lambda: Evaluation(  # type: ignore[method-assign]
        {"eval/score": 1.0}, videos={"eval/episode": fails}, figures={"eval/picture": fails}
    )
    learner.histograms = fails  # type: ignore[method-assign]
    write = rlgym.common.atomic_io.Appended.write

    def full_at_20(file: rlgym.common.atomic_io.Appended, data: bytes) -> None:
        if b'"step": 20' in data:
            file._left += data
            fails()
        write(file, data)

    monkeypatch.setattr(rlgym.common.atomic_io.Appended, "write", full_at_20)
    monkeypatch.setattr(rlgym.training.curves, "curves", fails)
    run = go(learner, configured(tmp_path, steps=60, log__every=10, evaluate__every=30, checkpoint__every=30))
    assert (run.exit_code, run.manifest["status"], run.summary["steps"]) == (0, "finished", 60)
    assert [row["step"] for row in rows(run)] == [10, 20, 30, 40, 50, 60]
    log = (run.dir / "log.txt").read_text()
    for what in ("logging", "filming eval/episode", "drawing eval/picture", "recording histograms", "drawing curves"):
        assert f"{what} failed and training goes on: OSError: [Errno 28] No space left on device" in log


@pytest.mark.parametrize("what", ["write_summary", "update_manifest"])
def test_an_end_that_cannot_be_written_is_no_running_run(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, steps=50)
    real = getattr(Run, what)

    def fails(run: Run, *words: Any, **fields: Any) -> None:
        if fields.get("status", "finished") == "finished" and checkpoint.steps(run.dir) and "resume" not in fields:
            raise UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed")
        real(run, *words, **fields)

    monkeypatch.setattr(Run, what, fails)
    with pytest.raises(TrainingError, match="UnicodeEncodeError"):
        go(Counter(), config)
    monkeypatch.setattr(Run, what, real)
    run = Run(Path(config.run.dir))
    assert run.manifest["status"] == "failed" and checkpoint.steps(run.dir) == [50]
    assert go_on(Counter(), config).summary["status"] == "finished"


def test_a_run_folder_that_is_gone_ends_the_run_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured(tmp_path, steps=100, log__every=10, checkpoint__every=30)
    learner = Counter()
    learner.during = lambda: shutil.rmtree(config.run.dir) if learner.progress.update == 4 else None
    assert go(learner, config).exit_code == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"rlgym: the run folder {config.run.dir} is gone: deleted or renamed while training"
    assert not Path(config.run.dir).exists()


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals")
@pytest.mark.parametrize("ignored", [False, True], ids=["terminal", "nohup"])
def test_a_closed_terminal_saves_and_stops(ignored: bool, tmp_path: Path) -> None:
    learner = Counter()
    learner.during = lambda: os.kill(os.getpid(), signal.SIGHUP) if learner.progress.update == 3 else None
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        run = go(learner, configured(tmp_path, steps=100))
        assert signal.getsignal(signal.SIGHUP) == (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)
    ended = (0, "finished", [100]) if ignored else (129, "stopped", [30])
    assert (run.exit_code, run.summary["status"], checkpoint.steps(run.dir)) == ended
