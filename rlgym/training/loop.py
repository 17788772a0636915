"""The training loop of all learners: budgets, cadences, best model, early stopping, signals, and the end of a run. It
uses a learner only through `rlgym.learner.Learner`.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from rlgym.common.atomic_io import read_rows, to_json, write_atomic
from rlgym.common.pool import heeded
from rlgym.config.sizes import too_large
from rlgym.errors import TrainingError
from rlgym.learner import NON_FINITE
from rlgym.run_folder import checkpoint
from rlgym.run_folder.manifest import promises
from rlgym.training.budgets import Budget, budgets, leading
from rlgym.training.schedules import cut_short, ended

if TYPE_CHECKING:
    from types import FrameType

    from rlgym.config.schema import RootConfig
    from rlgym.learner import Evaluation, Learner, Metrics
    from rlgym.run_folder.folder import Run
    from rlgym.training.progress import Display
    from rlgym.training.tracker import Tracker

RATE_TAG = {"steps": "time/fps", "moves": "time/fps", "tokens": "time/tokens_per_second"}
UNREAD = 1_000
"""Maximum number of updates whose metrics stay on the device, for runs that log rarely or never."""
FORESEEN = 0.1
"""Share of a budget after which the pace is used to predict the end of the run."""


Watch = Callable[[int, float], "str | None"]
"""Called with step and monitored metric of every evaluation; returns a reason to stop the run, or None."""


@dataclass
class LoopState:
    """The loop's own state for exact continuation, stored as JSON in every checkpoint."""

    next_log: int = 0
    next_evaluation: int = 0
    next_checkpoint: int = 0
    reported: int = 0
    """Step of the latest row of metrics.jsonl; later rows are discarded on resume."""
    evaluated: int = -1
    """Step of the latest evaluation."""
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    """Number of evaluations since the best one."""
    seconds: float = 0.0
    """Wall-clock time so far, over all sessions."""
    pending: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the updates since the last log point."""


@dataclass
class Outcome:
    """The end of a run: `status` is finished or stopped, `reason` a description."""

    status: str
    reason: str
    exit_code: int
    final: dict[str, float]
    state: LoopState


class Loop:
    """Trains `learner` until a budget is spent, a goal is reached or a signal arrives."""

    rank, world_size = 0, 1  # one process today

    def __init__(
        self,
        learner: Learner,
        config: RootConfig,
        run: Run,
        tracker: Tracker,
        display: Display,
        watch: Watch | None = None,
    ) -> None:
        self.learner, self.config, self.run, self.tracker, self.display = learner, config, run, tracker, display
        self.watch = watch
        self.unpromising: str | None = None
        """The reason given by `watch` for stopping."""
        self.state = LoopState(config.log.every, config.evaluate.every, config.checkpoint.every)
        self.signal: int | None = None
        self.saved = -1
        """Step of the latest checkpoint."""
        self.latest: dict[str, float] = {}
        self.lines: list[str] = []
        """Summary lines of the latest evaluation."""
        self._reported: set[str] = set()
        """Failures outside of training that were already reported."""
        self._updates: list[tuple[int, int, Metrics]] = []
        self._began = time.perf_counter()
        self._training_seconds = 0.0
        self._rate_from = learner.progress.step
        self.foreseen = False
        """Whether the check for unfinished schedules was made."""
        self._pace_from: tuple[dict[str, float], float] | None = None
        """Progress of each budget at this session's first log row, and its time; the start before it does not count for
        the pace."""

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from the `loop` part of a checkpoint."""
        step = self.saved = self._rate_from = self.learner.progress.step
        self.state = LoopState(**{"reported": step, **state})
        if step < self.config.budget and (line := ended(self.config, step)):
            self.learner.notices.append(line)
        self._began = time.perf_counter() - self.state.seconds
        for row in read_rows(self.run.dir / "metrics.jsonl"):
            self.latest |= {tag: math.nan if value is None else value for tag, value in row.items()}
        for key in ("step", "time"):
            self.latest.pop(key, None)
        if self.state.best is not None and self.state.best_step in checkpoint.steps(self.run.dir):
            checkpoint.mark_best(self.run.dir, self.state.best_step)  # the process may have died in between

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def budgets(self, seconds: float) -> list[Budget]:
        progress = self.learner.progress
        return budgets(self.config, self.learner.unit, progress.step, progress.update, seconds)

    # ---- the loop

    def __call__(self) -> Outcome:
        learner, progress = self.learner, self.learner.progress
        with self._signals():
            self._show_notices()
            self._report_and_save()  # the evaluation in which a run died
            verdict = self._verdict()
            while verdict is None:
                begin = time.perf_counter()
                try:
                    metrics = learner.update()
                except Exception as error:
                    if too_large(error):
                        raise TrainingError(f"training takes more memory than is free ({error})") from error
                    raise
                self._show_notices()
                self._training_seconds += time.perf_counter() - begin
                self._updates.append((progress.step, progress.update, metrics))
                if len(self._updates) >= UNREAD:
                    self._check_updates()
                self._report_and_save()
                verdict = self._verdict()
            status, reason, exit_code = verdict
            if status == "finished":
                self._report_and_save(last=True)
            elif self.saved != progress.step and progress.update > 0:
                self._save()
            self._show_notices()
        return Outcome(status, reason, exit_code, self.latest, self.state)

    def _report_and_save(self, last: bool = False) -> None:
        """Do the logging, evaluation and checkpoint due at this step; all of them at the `last` step of a run that
        ended by itself. A checkpoint precedes the evaluation of the same step and is updated after it, so that a
        failing evaluation loses nothing, and a resume starts with that evaluation.
        """
        config, state, step = self.config, self.state, self.learner.progress.step
        logs = due(config.log.every, step, state.next_log)
        evaluates = due(config.evaluate.every, step, state.next_evaluation) or (last and state.evaluated != step)
        saves = due(config.checkpoint.every, step, state.next_checkpoint)
        if saves:
            state.next_checkpoint = following(config.checkpoint.every, step)
        if last and self.saved != step and self.learner.progress.update > 0:
            saves = True
        if saves and evaluates:
            self._save()
        evaluation = self._evaluate() if evaluates else {}
        improved = evaluates and self._compare(evaluation)
        if due(config.evaluate.every, step, state.next_evaluation):
            state.next_evaluation = following(config.evaluate.every, step)
        row: dict[str, float] = {}
        if logs:
            state.next_log = following(config.log.every, step)
            row = self._flush()
            state.pending.clear()
        elif last and (
            self._updates or state.pending
        ):  # with a larger budget, logging continues as if the run had never ended
            row = self._flush()
        row |= evaluation
        self._report(row)
        if saves or improved or (row and self.saved == step):
            self._save(improved)

    def _verdict(self) -> tuple[str, str, int] | None:
        """Whether to end, and how: (status, reason, exit code). Several processes would have to agree here, since
        signals, clocks and losses differ between them."""
        config, state = self.config, self.state
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            return "stopped", f"stopped by {name}", 128 + self.signal
        spent = next((budget for budget in self.budgets(self.seconds) if budget.spent), None)
        if spent is not None and self.learner.progress.update > 0:  # something to resume from, even after a short run
            return "finished", f"spent its budget of {spent.words}", 0
        if self.unpromising is not None:
            return "stopped", self.unpromising, 0
        tag, direction = self.learner.monitor
        if config.stop.at is not None and state.best is not None and state.evaluated == self.learner.progress.step:
            reached = state.best >= config.stop.at if direction == "max" else state.best <= config.stop.at
            if reached:
                return "finished", f"reached {tag} {config.stop.at:g}", 0
        if config.stop.patience and state.since_best >= config.stop.patience:
            return "finished", f"{state.since_best} evaluations without a new best {tag}", 0
        return None

    # ---- metrics

    def _check_updates(self) -> None:
        """Copy the metrics of the latest updates to the host at once, and stop at the first non-finite one."""
        if not self._updates:
            return
        tensors = [
            value for _, _, metrics in self._updates for value in metrics.values() if isinstance(value, torch.Tensor)
        ]
        numbers = iter(torch.stack([t.detach().float() for t in tensors]).tolist() if tensors else [])
        for step, update, metrics in self._updates:
            row = {tag: next(numbers) if isinstance(value, torch.Tensor) else value for tag, value in metrics.items()}
            if row.pop(NON_FINITE, 0.0) > 0:
                raise TrainingError(
                    f"non-finite loss or gradient at step {step} (update {update}); the bad optimiser steps were not "
                    "taken; a lower learning_rate or max_grad_norm may help"
                )
            self.state.pending.append(row)
        self._updates.clear()
        if self.config.log.every == 0:  # the mean will not be needed
            del self.state.pending[:-1]

    def _flush(self) -> dict[str, float]:
        """One row from all `pending` metrics: `train/` tags averaged, the latest of others, and the rate."""
        self._check_updates()
        progress, pending = self.learner.progress, self.state.pending
        row: dict[str, float] = {}
        for tag in dict.fromkeys(tag for metrics in pending for tag in metrics):
            values = [metrics[tag] for metrics in pending if tag in metrics]
            row[tag] = sum(values) / len(values) if tag.startswith("train/") else values[-1]
        if self._training_seconds > 0:
            rate = RATE_TAG[self.learner.unit]
            row[rate] = (progress.step - self._rate_from) / self._training_seconds
            if self.learner.arithmetic is not None:  # model FLOPs utilisation (Chowdhery et al. 2022, appendix B)
                flops, peak = self.learner.arithmetic
                row["time/mfu"] = row[rate] * flops / peak
        row["time/total_timesteps"], row["time/iterations"] = progress.step, progress.update
        self._training_seconds, self._rate_from = 0.0, progress.step
        return row

    def _report(self, row: dict[str, float]) -> None:
        if not row:
            return
        step, seconds = self.learner.progress.step, self.seconds
        with self.beside("logging"):
            self.tracker.log(step, seconds, row)
        self.latest |= row
        self.state.reported = step
        found = self.budgets(seconds)
        lead, eta = leading(found), self._eta(found, seconds)
        self.display.update(step, self.latest, seconds, lead, eta)
        if eta and not self.foreseen and lead.unit != self.learner.unit and lead.share >= FORESEEN:
            self._foresee(step, seconds, eta)

    def _eta(self, found: list[Budget], seconds: float) -> float | None:
        """Estimated seconds left until the first budget ends, by the pace since this session's first row, including
        evaluations."""
        done = {budget.key: budget.done for budget in found}
        self._pace_from = self._pace_from or (done, seconds)
        began, then = self._pace_from
        left = []
        for key, _, now, total in found:
            if key == "minutes":
                left.append(60 * (total - now))
            elif now > began[key]:
                left.append((seconds - then) / (now - began[key]) * (total - now))
        return max(0.0, min(left)) if left else None

    def _foresee(self, step: int, seconds: float, eta: float) -> None:
        """Warn once about schedules that will not finish because updates or minutes end the run before its steps."""
        assert self._pace_from is not None
        began, then = self._pace_from
        if seconds > then:
            self.foreseen = True
            pace = (step - began[self.config.budget_key]) / (seconds - then)
            if line := cut_short(self.config, step + pace * eta):
                self.learner.notices.append(line)
                self._show_notices()

    def _show_notices(self) -> None:
        for line in self.learner.notices:
            self.display.message(line)
            self.run.log_line(line)
        self.learner.notices.clear()

    # ---- evaluation and checkpoints

    def _evaluate(self) -> dict[str, float]:
        """Evaluate the current model. A failure ends the run, with a checkpoint of this step."""
        self._check_updates()  # a model with a non-finite update must not become the best
        step = self.learner.progress.step
        try:
            evaluation = self.learner.evaluate()
        except Exception as error:
            if self.saved != step:
                self._save()
            if isinstance(error, TrainingError):
                raise
            said = f"the evaluation at step {step} raised {type(error).__name__}: {error}"
            raise TrainingError(f"{said}; a resume begins with it again") from error
        self._record(evaluation, step)
        return evaluation.metrics

    def _compare(self, evaluation: dict[str, float]) -> bool:
        """Whether the model is the best so far, by this step's evaluation."""
        step, state = self.learner.progress.step, self.state
        tag, direction = self.learner.monitor
        value = evaluation.get(tag, math.nan)
        state.evaluated = step
        state.since_best += 1
        self.latest.pop(tag, None)  # an evaluation without the metric does not keep an earlier value
        if self.watch is not None:
            self.unpromising = self.watch(step, value)
        if math.isnan(value):
            return False
        if state.best is None or (value > state.best if direction == "max" else value < state.best):
            state.best, state.best_step, state.since_best = value, step, 0
            return True
        if value == state.best:  # equally good, and trained for longer
            state.best_step = step
            return True
        return False

    def _record(self, evaluation: Evaluation, step: int) -> None:
        self.lines = evaluation.lines
        folder, beside = self.run.dir, self.beside
        with beside("recording the evaluation"):
            (folder / "evaluations").mkdir(exist_ok=True)
            record = {"step": step, **evaluation.metrics, **evaluation.records}
            write_atomic(folder / "evaluations" / f"step_{step}.json", to_json(record))
        for tag, film in evaluation.videos.items():
            with beside(f"filming {tag}"):
                frames, fps = film(folder / "videos" / f"{tag.replace('/', '_')}_step_{step}.mp4")
                self.tracker.video(tag, frames, fps, step)
        for tag, text in evaluation.texts.items():
            with beside(f"recording {tag}"):
                self.tracker.text(tag, text, step)
        for tag, draw in evaluation.figures.items():
            with beside(f"drawing {tag}"):
                picture = draw()
                (folder / "plots").mkdir(exist_ok=True)
                write_atomic(folder / "plots" / f"{tag.replace('/', '_')}.png", picture)
                self.tracker.image(tag, picture, step)
        for tag, (vectors, labels) in evaluation.embeddings.items():
            with beside(f"recording {tag}"):
                self.tracker.embedding(tag, vectors, labels)
        if self.config.log.histograms:
            with beside("recording histograms"):
                for tag, tensor in self.learner.histograms().items():
                    self.tracker.histogram(tag, tensor.detach().float().cpu().numpy(), step)

    @contextmanager
    def beside(self, what: str) -> Iterator[None]:
        """Context in which failures do not end training: they become a notice, with the traceback in log.txt."""
        try:
            yield
        except Exception as error:
            self.run.require()
            line = f"{what} failed and training goes on: {type(error).__name__}: {' '.join(str(error).split())}"
            if line not in self._reported:  # a full disk would be reported at every row
                self._reported.add(line)
                self.run.log_line(line)
                self.run.log_traceback(error)
                self.display.message(line)

    def _save(self, best: bool = False) -> None:
        """Write a checkpoint of this step, then delete old ones. A failed save deletes nothing."""
        self._check_updates()
        self.run.require()
        step = self.learner.progress.step
        self.state.seconds = self.seconds
        try:
            checkpoint.save(
                self.run.dir, step, self.learner.state_dict(), asdict(self.state), {"best": self.state.best}
            )
            self.saved = step
            recorded = self.run.manifest.get("resume")
            if recorded != (now := promises(recorded, self.learner.exactness)):
                self.run.update_manifest(resume=now)
            if best:
                checkpoint.mark_best(self.run.dir, step)
        except OSError as error:
            raise TrainingError(
                f"the checkpoint at step {step} could not be written ({error.strerror or error}); the earlier ones are "
                "intact: make room, then resume"
            ) from error
        checkpoint.prune(self.run.dir, self.config.checkpoint.keep)

    # ---- signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Handle signals: finish the update and save a checkpoint; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number
            self.display.message("stopping after this update; a second Ctrl-C stops at once, without a checkpoint")

        previous = {number: signal.signal(number, handle) for number in heeded()}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def due(every: int, step: int, threshold: int) -> bool:
    """Whether something with cadence `every` (0: never) is due at `step`."""
    return every > 0 and step >= threshold


def following(every: int, step: int) -> int:
    """The first multiple of `every` after `step`."""
    return (step // every + 1) * every
