"""In place of `subprocess.Popen`: what a benchmark starts runs in a fork, where everything is imported already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import DEVNULL, CompletedProcess, Popen
from typing import Any, ClassVar, TextIO

from rlgym.cli.main import main as rlgym


def popen(command: Sequence[str], **options: Any) -> Any:
    """`subprocess.Popen` for anything but Python, which is asked for the processor."""
    return (Forked if command[0] == sys.executable else Popen)(command, **options)


def program(command: Sequence[str]) -> tuple[Callable[[Sequence[str]], int | None], list[str]]:
    """The `main` behind `python [-W ignore] -m rlgym ...` or `python [-W ignore] SCRIPT ...`, and its words."""
    words = list(command[1:])
    if words[0] == "-W":
        words = words[2:]
    if words[:2] == ["-m", "rlgym"]:
        return rlgym, words[2:]
    return sys.modules[Path(words[0]).stem].main, words[1:]


def inside(command: Sequence[str], **_: Any) -> CompletedProcess[str]:
    """In place of `subprocess.run`: in this process."""
    main, words = program(command)
    with redirect_stdout(StringIO()) as out:
        assert not main(words), words
    return CompletedProcess(command, 0, out.getvalue())


class Forked:
    """As much of it as benchmarks use. Standard error stays the test's, which shows it where the test fails."""

    running: ClassVar[list[Forked]] = []

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self.args = command
        self.returncode: int | None = None
        main, words = program(command)
        asks, tells = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.dup2(asks[0], 0)
                os.dup2(os.open(os.devnull, os.O_WRONLY) if options.get("stdout") == DEVNULL else tells[1], 1)
                for other in Forked.running:
                    other.stdin.close()  # a copy of it here would keep the other waiting for words for ever
                for end in (*asks, *tells):
                    os.close(end)
                sys.stdin, sys.stderr = os.fdopen(0), os.fdopen(2, "w", 1)
                sys.stdout = os.fdopen(1, "w")
                setattr(sys, "__stdout__", sys.stdout)  # noqa: B010  # which a program answers on
                setattr(subprocess, "Popen", Popen)  # noqa: B010  # what it starts itself, as a compiler, is no fork
                os.chdir(options.get("cwd") or ".")
                os.environ.update(options.get("env") or {})
                status = main(words) or 0
                sys.stdout.flush()
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else bool(end.code)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(asks[0])
        os.close(tells[1])
        self.stdin: TextIO = os.fdopen(asks[1], "w", 1)
        self.stdout: TextIO = os.fdopen(tells[0])
        Forked.running.append(self)

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.communicate()

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self in Forked.running:
            Forked.running.remove(self)
        self.stdin.close()
        self.stdout.close()
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def communicate(self, *_: object, **__: object) -> tuple[str, str]:
        text = "" if self.stdout.closed else self.stdout.read()
        self.wait()
        return text, ""
