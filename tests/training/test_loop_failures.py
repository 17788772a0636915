"""What ends a run early: non-finite numbers, full disks, errors, signals."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import rlgym.common.atomic_io
import rlgym.training.curves
import rlgym.training.progress
import rlgym.training.train
from rlgym.errors import TrainingError
from rlgym.learner import Evaluation
from rlgym.run_folder import checkpoint
from rlgym.run_folder.folder import Run, create_run
from rlgym.training.train import drive
from tests.training.counting import Counter, Crash, configured, go, go_on, rows


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
