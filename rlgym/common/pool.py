"""A pool of processes with one CPU thread each, for `-m jobs=2` and `sweep jobs=2`. A process that dies loses one task
and is replaced. Ctrl-C, SIGTERM and SIGHUP reach the processes once each, as the signals that their training saves a
checkpoint at; no new task starts then. A process whose parent is gone stops too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

GRACE = 30.0
"""Seconds that an orphaned process has to save a checkpoint."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def heeded() -> list[signal.Signals]:
    """The signals at which training saves a checkpoint and stops, with exit code 128 + number. A closed terminal sends
    SIGHUP; if ignored, as under nohup, it stays ignored."""
    hangup = getattr(signal, "SIGHUP", None)
    usual = [signal.SIGINT, signal.SIGTERM]
    return usual if hangup is None or signal.getsignal(hangup) == signal.SIG_IGN else [*usual, hangup]


class Died:
    """The result of a process that died."""

    def __init__(self, code: int | None) -> None:
        self.code = code

    def __str__(self) -> str:
        if self.code is not None and self.code < 0:
            return f"its process was ended by {signal.Signals(-self.code).name}"
        return f"its process ended with code {self.code}"


class Process:
    """One process that runs tasks one after another."""

    def __init__(self, function: Callable[[Any], Any], path: list[str]) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.pipe, theirs = context.Pipe()
        their_end, self._lifeline = context.Pipe(duplex=False)
        self._process = context.Process(target=_work, args=(theirs, their_end, function, path))
        self._process.start()
        theirs.close()
        their_end.close()
        self.task: Any = None
        self.busy = False

    def give(self, task: Any) -> None:
        self.task, self.busy = task, True
        with suppress(OSError):  # it has died: `answer` reports it
            self.pipe.send(task)

    def answer(self) -> Any:
        """The result of the task, or Died."""
        self.busy = False
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            return Died(self._process.exitcode)

    def signal(self, number: int) -> None:
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, number)

    def close(self) -> None:
        self.pipe.close()
        self._process.join()
        self._lifeline.close()


class Signals:
    """The first signal received, or None."""

    number: int | None = None


def in_processes(
    function: Callable[[Any], Any], tasks: Iterable[Any], count: int, signals: Signals
) -> Iterator[tuple[Any, Any]]:
    """Yield (task, result of `function` or Died) in order of completion, running `count` tasks at a time. No task
    starts after a signal. `function` and tasks must be importable and picklable."""
    left = iter(tasks)
    running: list[Process] = []
    with _one_thread(), _passed_on(running, signals):
        try:
            while True:
                while signals.number is None and sum(process.busy for process in running) < count:
                    try:
                        task = next(left)
                    except StopIteration:
                        break
                    idle = next((process for process in running if not process.busy), None)
                    if idle is None:
                        idle = Process(function, list(sys.path))
                        running.append(idle)
                    idle.give(task)
                busy = [process for process in running if process.busy]
                if not busy:
                    return
                ready = wait([process.pipe for process in busy])
                for process in [process for process in busy if process.pipe in ready]:
                    answer = process.answer()
                    if isinstance(answer, Died):
                        running.remove(process)
                        process.close()
                    yield process.task, answer
        finally:
            for process in running:
                if process.busy:  # the caller stopped iterating
                    process.signal(signal.SIGTERM)
                process.close()


def _work(pipe: Connection, lifeline: Connection, function: Callable[[Any], Any], path: list[str]) -> None:
    """The process's main function: run tasks until the pipe is closed."""
    sys.path[:] = path  # for `module:Name` in the current folder
    with suppress(OSError, AttributeError):
        os.setpgid(0, 0)  # only the parent handles a terminal's Ctrl-C, and passes it on
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        answer = function(task)
        with suppress(OSError):
            pipe.send(answer)


def _end_with_parent(lifeline: Connection) -> None:
    with suppress(EOFError, OSError):
        lifeline.recv()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Set the environment of processes started meanwhile: OpenMP and BLAS read these variables when loaded."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _passed_on(running: list[Process], signals: Signals) -> Iterator[None]:
    """Forward the signals that stop a run to the processes; an ignored SIGHUP stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if signals.number is None:
            signals.number = number
            print("rlgym: stopping after these updates; a second Ctrl-C stops at once", file=sys.stderr)
        for process in running:
            if process.busy:
                process.signal(number)

    previous = {number: signal.signal(number, handle) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
