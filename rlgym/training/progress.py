"""Progress on the terminal: a live line, plain lines where there is no terminal, or nothing.

Progress goes to stderr, the final summary to stdout. There is no background thread: a display draws when the loop
updates it, with a minimum interval, so that it costs next to nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

    from rlgym.training.budgets import Budget

MOVING = {"rollout/ep_rew_mean": "return", "rollout/reward_mean": "reward", "train/loss": "loss"}
"""Training metric to show, the first that exists, and its label. Shown next to the monitored evaluation metric."""

DRAW_EVERY = 0.25  # seconds, on a terminal
LINE_EVERY = 2.0  # seconds, elsewhere
NARROW = 70  # columns below which a terminal gets plain lines
BAR = 16  # columns of the progress bar


class Display(Protocol):
    def start(self) -> None: ...
    def update(
        self, step: int, metrics: Mapping[str, float], seconds: float, lead: Budget, eta: float | None
    ) -> None: ...
    def message(self, line: str) -> None: ...
    def finish(self, lines: list[str]) -> None: ...
    def close(self) -> None: ...


def make_display(mode: str, title: str, unit: str, monitor: str) -> Display:
    """Choose a display. `mode`: rich, plain, quiet, or auto: rich on a wide enough terminal. `unit`: name of a step;
    `monitor`: tag of the monitored metric."""
    if mode == "quiet":
        return Quiet()
    terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if mode == "rich" or (mode == "auto" and terminal and _width() >= NARROW):
        return Rich(title, Status(unit, monitor))
    return Plain(title, Status(unit, monitor), _width() if terminal else None)


class Quiet:
    """No output; see log.txt and the exit code."""

    def start(self) -> None: ...
    def update(
        self, step: int, metrics: Mapping[str, float], seconds: float, lead: Budget, eta: float | None
    ) -> None: ...
    def message(self, line: str) -> None: ...
    def finish(self, lines: list[str]) -> None: ...
    def close(self) -> None: ...


class Status:
    """The latest state of the loop, as text."""

    def __init__(self, unit: str, monitor: str) -> None:
        self.unit, self.monitor = unit, monitor
        self.step = 0
        self.lead: Budget | None = None
        """The budget with the largest spent share."""
        self._metrics: dict[str, float] = {}
        self._eta: float | None = None
        self._began: tuple[int, float] | None = None
        self._speed: float | None = None

    def take(self, step: int, metrics: Mapping[str, float], seconds: float, lead: Budget, eta: float | None) -> None:
        self.step, self.lead, self._eta = step, lead, eta
        self._metrics.update(metrics)
        if self._began is None:
            self._began = (step, seconds)
        elif seconds > self._began[1]:
            self._speed = (step - self._began[0]) / (seconds - self._began[1])

    def line(self, width: int | None) -> str:
        """Progress, scores, time left, speed; parts that exceed `width` columns are dropped from the end."""
        line = f"{self.step:,} {self.unit}"
        if self.lead is not None:
            of = str(self.lead) if self.lead.unit == self.unit else f"{line}  {self.lead}"
            line = f"{self.lead.share:4.0%}  {of}"
        for part in (*self.scores(), self.eta(), self.speed()):
            if part and (width is None or len(line) + 2 + len(part) < width):
                line += f"  {part}"
        return line

    def scores(self) -> list[str]:
        """The training score and the latest evaluation."""
        moving = next((tag for tag in MOVING if tag in self._metrics), None)
        found = {} if moving is None else {moving: MOVING[moving]}
        if self.monitor in self._metrics:
            found[self.monitor] = self.monitor.replace("mean_reward", "return").replace("/", " ").replace("_", " ")
        return [f"{word} {self._metrics[tag]:.4g}" for tag, word in found.items()]

    def speed(self) -> str:
        speed = self._metrics.get("time/fps", self._metrics.get("time/tokens_per_second", self._speed))
        return "" if speed is None else f"{speed:,.0f} {self.unit}/s"

    def eta(self) -> str:
        return "" if self._eta is None else f"ETA {duration(self._eta)}"


def duration(seconds: float) -> str:
    """65 -> 1:05; 3665 -> 1:01:05."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Plain:
    """A plain line at intervals, without control characters: for logs, pipes and narrow terminals."""

    def __init__(self, title: str, status: Status, width: int | None) -> None:
        self._title, self._status = title, status
        self._width = width
        self._next = 0.0
        self._pending = False

    def start(self) -> None:
        self._print(self._title)

    def update(self, step: int, metrics: Mapping[str, float], seconds: float, lead: Budget, eta: float | None) -> None:
        self._status.take(step, metrics, seconds, lead, eta)
        self._pending = True
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_EVERY
            self._line()

    def message(self, line: str) -> None:
        self._print(line)

    def finish(self, lines: list[str]) -> None:
        self.close()
        _print(lines, sys.stdout)

    def close(self) -> None:
        """Always prints the last state."""
        if self._pending:
            self._line()

    def _line(self) -> None:
        self._pending = False
        self._print(self._status.line(self._width))

    def _print(self, line: str) -> None:
        _print([line], sys.stderr)


class Rich:
    """One live line: bar, steps, speed, time left, score."""

    def __init__(self, title: str, status: Status) -> None:
        self._title, self._status = title, status
        self._next = 0.0
        self._progress: Progress | None = None

    def start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, force_terminal=True, highlight=False)
        self._progress = Progress(
            BarColumn(bar_width=BAR),
            TextColumn("{task.description}", markup=False),
            console=console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),  # an environment's prints appear above the line
        )
        self._progress.add_task("", total=1.0)
        with suppress(OSError, ValueError):
            console.print(self._title, style="bold", markup=False)
            self._progress.start()

    def update(self, step: int, metrics: Mapping[str, float], seconds: float, lead: Budget, eta: float | None) -> None:
        self._status.take(step, metrics, seconds, lead, eta)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + DRAW_EVERY
            self._draw()

    def message(self, line: str) -> None:
        if self._progress is None:
            _print([line], sys.stderr)
            return
        with suppress(OSError, ValueError):
            self._progress.console.print(line, markup=False)

    def finish(self, lines: list[str]) -> None:
        self.close()
        _print(lines, sys.stdout)

    def close(self) -> None:
        """Leave the last state on the terminal, and the cursor visible."""
        if self._progress is None:
            return
        with suppress(OSError, ValueError):
            self._draw()
            self._progress.stop()
        self._progress = None

    def _draw(self) -> None:
        if self._progress is None:
            return
        line = self._status.line(self._progress.console.width - BAR - 1)
        share = self._status.lead.share if self._status.lead is not None else 0.0
        with suppress(OSError, ValueError):
            self._progress.update(self._progress.task_ids[0], completed=share, description=line)
            self._progress.refresh()


def _print(lines: list[str], stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # a closed terminal must not end training
        print("\n".join(lines), file=stream, flush=True)


def _width() -> int:
    """Columns of stderr's terminal; COLUMNS takes precedence."""
    if os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size().columns
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
