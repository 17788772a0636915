"""Progress of data preparation: reported through a callback, drawn on stderr as a bar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Report = Callable[[str, int, int], None]
"""(what, done, total): the current task and its progress; a total of 0 is unknown."""

DRAW_EVERY = 0.1  # seconds, on a terminal
LINE_EVERY = 5.0  # seconds, elsewhere


def silent(what: str, done: int, total: int) -> None:
    """A Report that shows nothing."""


@contextmanager
def bar() -> Iterator[Report]:
    """A Report on stderr: a bar on a terminal, plain lines elsewhere. Short tasks show nothing."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _drawn() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _drawn() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(24),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
    )
    progress = Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True, auto_refresh=False
    )
    tasks: dict[str, Any] = {}
    drawn = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal drawn
        now = time.monotonic()
        if now - drawn < DRAW_EVERY:
            return
        drawn = now
        if what not in tasks:
            for before in tasks.values():
                progress.remove_task(before)
            tasks.clear()
            tasks[what] = progress.add_task(what, total=total or None, amount="")
            progress.start()
        progress.update(tasks[what], completed=done, total=total or None, amount=_amount(done, total))
        progress.refresh()

    try:
        yield report
    finally:
        progress.stop()


def _lines() -> Report:
    reported = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal reported
        now = time.monotonic()
        if now - reported < LINE_EVERY:
            return
        reported = now
        share = f" {min(1.0, done / total):.0%}" if total else ""
        print(f"{what}:{share} {_amount(done, total)}", file=sys.stderr, flush=True)

    return report


def _amount(done: int, total: int) -> str:
    return f"{_short(done)}/{_short(total)}" if total else _short(done)


def _short(number: int) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(number)
