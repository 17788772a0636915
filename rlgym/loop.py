"""The one loop that trains everything: budget, cadences, best model, early stopping, signals, and what ends a run.

It asks nothing of a learner but what `rlgym.learner.Learner` says, and never which kind it has.
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

from rlgym import checkpoint
from rlgym.budgets import Budget, budgets, leading
from rlgym.errors import TrainingError
from rlgym.files import to_json, write_atomic
from rlgym.learner import NON_FINITE
from rlgym.schedules import cut_short, ended

if TYPE_CHECKING:
    from types import FrameType

    from rlgym.config import RootConfig
    from rlgym.display import Display
    from rlgym.learner import Evaluation, Learner, Metrics
    from rlgym.run import Run
    from rlgym.tracking import Tracker

RATE_TAG = {"steps": "time/fps", "moves": "time/fps", "tokens": "time/tokens_per_second"}
UNREAD = 1_000
"""Updates whose metrics may wait on the device: a bound for runs that log rarely or never."""
FORESEEN = 0.1
"""Share of a budget after which the pace tells where the run will end."""
EXIT_CODE = {signal.SIGINT: 130, signal.SIGTERM: 143}


Watch = Callable[[int, float], "str | None"]
"""Told the step and the monitored metric of every evaluation; gives a reason to stop the run, or None."""


@dataclass
class LoopState:
    """What the loop itself must remember to continue exactly; JSON in every checkpoint."""

    next_log: int = 0
    next_evaluation: int = 0
    next_checkpoint: int = 0
    evaluated: int = -1
    """Step of the latest evaluation."""
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    """Wall-clock time spent so far, over all sittings."""
    pending: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the updates since the last log point."""


@dataclass
class Outcome:
    """How a loop ended. `status` is finished or stopped; `reason` says why in words."""

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
        """Why `watch` wants this run to end."""
        self.state = LoopState(config.log.every, config.evaluate.every, config.checkpoint.every)
        self.signal: int | None = None
        self.saved = -1
        """Step of the latest checkpoint of this sitting."""
        self.latest: dict[str, float] = {}
        self.lines: list[str] = []
        """What the latest evaluation said in words."""
        self._updates: list[tuple[int, int, Metrics]] = []
        self._began = time.perf_counter()
        self._training_seconds = 0.0
        self._rate_from = learner.progress.step
        self.foreseen = False
        """Whether it was looked at whether schedules will come to their ends."""
        self._pace_from: tuple[dict[str, float], float] | None = None
        """What of each budget was done at this sitting's first row, and its seconds: what came before was a start, and
        tells no pace."""

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from the `loop` part of a checkpoint."""
        self.state = LoopState(**state)
        if self.learner.progress.step < self.config.budget and (line := ended(self.config, self.learner.progress.step)):
            self.learner.notices.append(line)
        self._rate_from = self.learner.progress.step
        self._began = time.perf_counter() - self.state.seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def budgets(self, seconds: float) -> list[Budget]:
        progress = self.learner.progress
        return budgets(self.config, self.learner.unit, progress.step, progress.update, seconds)

    # ---- the loop

    def __call__(self) -> Outcome:
        learner, config, state = self.learner, self.config, self.state
        progress = learner.progress
        with self._signals():
            self._show_notices()
            verdict = self._verdict()
            while verdict is None:
                begin = time.perf_counter()
                metrics = learner.update()
                self._show_notices()
                self._training_seconds += time.perf_counter() - begin
                self._updates.append((progress.step, progress.update, metrics))
                if len(self._updates) >= UNREAD:
                    self._settle_updates()

                row: dict[str, float] = {}
                if due(config.log.every, progress.step, state.next_log):
                    state.next_log = following(config.log.every, progress.step)
                    row |= self._flush()
                improved = False
                if due(config.evaluate.every, progress.step, state.next_evaluation):
                    state.next_evaluation = following(config.evaluate.every, progress.step)
                    improved = self._evaluate(row)
                self._report(row)
                if due(config.checkpoint.every, progress.step, state.next_checkpoint) or improved:
                    if due(config.checkpoint.every, progress.step, state.next_checkpoint):
                        state.next_checkpoint = following(config.checkpoint.every, progress.step)
                    self._save(improved)
                verdict = self._verdict()
            status, reason, exit_code = verdict
            if status == "finished":
                self._finish()
            if self.saved != progress.step and progress.update > 0:
                self._save(False)
            self._show_notices()
        return Outcome(status, reason, exit_code, self.latest, state)

    def _verdict(self) -> tuple[str, str, int] | None:
        """Whether to end, and how: (status, reason, exit code). The one place that several processes must agree in:
        signals, clocks and losses differ between them."""
        config, state = self.config, self.state
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            return "stopped", f"stopped by {name}", EXIT_CODE[signal.Signals(self.signal)]
        spent = next((budget for budget in self.budgets(self.seconds) if budget.spent), None)
        if spent is not None and self.learner.progress.update > 0:  # something to resume from, however short
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

    def _finish(self) -> None:
        """The last log point and evaluation of a run that ended by itself. The checkpoint of this step is written
        before the rest is flushed: a resume with a larger budget then logs as if the run had never ended."""
        progress, state = self.learner.progress, self.state
        if self.saved != progress.step and progress.update > 0:
            self._save(False)
        pending = list(state.pending)
        row = self._flush() if pending else {}
        improved = state.evaluated != progress.step and self._evaluate(row)
        self._report(row)
        if improved:
            state.pending = pending
            self._save(True)

    # ---- metrics

    def _settle_updates(self) -> None:
        """Bring the metrics of the latest updates to the host in one copy, and stop at the first non-finite one."""
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
        if self.config.log.every == 0:  # nobody will ask for the mean
            del self.state.pending[:-1]

    def _flush(self) -> dict[str, float]:
        """One row from all updates since the last: `train/` tags averaged, of others the latest, and the rate."""
        self._settle_updates()
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
        pending.clear()
        return row

    def _report(self, row: dict[str, float]) -> None:
        if not row:
            return
        step, seconds = self.learner.progress.step, self.seconds
        self.tracker.log(step, seconds, row)
        self.latest |= row
        found = self.budgets(seconds)
        lead, eta = leading(found), self._eta(found, seconds)
        self.display.update(step, self.latest, seconds, lead, eta)
        if eta and not self.foreseen and lead.unit != self.learner.unit and lead.share >= FORESEEN:
            self._foresee(step, seconds, eta)

    def _eta(self, found: list[Budget], seconds: float) -> float | None:
        """Seconds left by the budget that ends first, at the pace since this sitting's first row, evaluations too."""
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
        """Say, once, what schedules will come to where updates or minutes end the run long before its steps do."""
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

    def _evaluate(self, row: dict[str, float]) -> bool:
        """Judge the model, add what was found to `row`; True when it is the best so far."""
        self._settle_updates()  # a model with a bad update in it must not be called best
        step, state = self.learner.progress.step, self.state
        evaluation = self.learner.evaluate()
        row |= evaluation.metrics
        self._record(evaluation, step)
        tag, direction = self.learner.monitor
        value = evaluation.metrics.get(tag, math.nan)
        state.evaluated = step
        state.since_best += 1
        if self.watch is not None:
            self.unpromising = self.watch(step, value)
        if math.isnan(value):
            return False
        if state.best is None or (value > state.best if direction == "max" else value < state.best):
            state.best, state.best_step, state.since_best = value, step, 0
            return True
        if value == state.best:  # as good and trained for longer
            state.best_step = step
            return True
        return False

    def _record(self, evaluation: Evaluation, step: int) -> None:
        folder = self.run.dir / "evaluations"
        folder.mkdir(exist_ok=True)
        write_atomic(folder / f"step_{step}.json", to_json({"step": step, **evaluation.metrics, **evaluation.records}))
        for tag, film in evaluation.videos.items():
            frames, fps = film(self.run.dir / "videos" / f"{tag.replace('/', '_')}_step_{step}.mp4")
            self.tracker.video(tag, frames, fps, step)
        for tag, text in evaluation.texts.items():
            self.tracker.text(tag, text, step)
        for tag, draw in evaluation.figures.items():
            picture = draw()
            (self.run.dir / "plots").mkdir(exist_ok=True)
            write_atomic(self.run.dir / "plots" / f"{tag.replace('/', '_')}.png", picture)
            self.tracker.image(tag, picture, step)
        self.lines = evaluation.lines
        for tag, (vectors, labels) in evaluation.embeddings.items():
            self.tracker.embedding(tag, vectors, labels)
        if self.config.log.histograms:
            for tag, tensor in self.learner.histograms().items():
                self.tracker.histogram(tag, tensor.detach().float().cpu().numpy(), step)

    def _save(self, best: bool) -> None:
        """Write a checkpoint of this step, then drop what need not be kept. A failed save costs nothing older."""
        self._settle_updates()
        step = self.learner.progress.step
        self.state.seconds = self.seconds
        try:
            checkpoint.save(
                self.run.dir, step, self.learner.state_dict(), asdict(self.state), {"best": self.state.best}
            )
        except OSError as error:
            raise TrainingError(
                f"the checkpoint at step {step} could not be written ({error.strerror or error}); the earlier ones are "
                "intact: make room, then resume"
            ) from error
        if self.saved < 0:
            self.run.update_manifest(resume=self.learner.exactness)
        self.saved = step
        if best:
            checkpoint.mark_best(self.run.dir, step)
        checkpoint.prune(self.run.dir, self.config.checkpoint.keep)

    # ---- signals

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the update finish and a checkpoint be saved; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number
            self.display.message("stopping after this update; a second Ctrl-C stops at once, without a checkpoint")

        previous = {number: signal.signal(number, handle) for number in EXIT_CODE}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def due(every: int, step: int, threshold: int) -> bool:
    """Whether something with cadence `every` (0: never) has its turn at `step`."""
    return every > 0 and step >= threshold


def following(every: int, step: int) -> int:
    """The first multiple of `every` after `step`."""
    return (step // every + 1) * every
