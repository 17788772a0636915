"""Several processes: every task is answered once, a death costs one task, one thread each, no orphan."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlgym.common.pool import THREADS, Died, Signals, in_processes

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


def work(task: Any) -> Any:
    """Imported by name in the processes."""
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(task, float):
        time.sleep(task)
    return task, os.getpid(), [os.environ.get(name) for name in THREADS]


def test_every_task_is_answered_and_a_death_costs_one() -> None:
    answers = dict(in_processes(work, [1, "die", 2, 3, 4], 2, Signals()))
    assert isinstance(answers["die"], Died) and "SIGKILL" in str(answers["die"])
    assert {task: answers[task][0] for task in (1, 2, 3, 4)} == {1: 1, 2: 2, 3: 3, 4: 4}
    assert os.getpid() not in {answers[task][1] for task in (1, 2, 3, 4)}
    assert all(answers[task][2] == ["1"] * len(THREADS) for task in (1, 2, 3, 4))


def test_tasks_are_taken_when_a_process_is_free() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    for task, _ in in_processes(work, tasks(), 1, Signals()):
        assert taken[-1] == task
        if task == 2:
            break
    assert len(taken) <= 4


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from rlgym.common.pool import *\n"
        "from tests.common.test_pool import work\n"
        "for task, answer in in_processes(work, [0, 100.0], 1, Signals()):\n"
        "    print(answer[1], flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "parent.py"
    path.write_text(f"if __name__ == '__main__':\n    {program.replace(chr(10), chr(10) + '    ')}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
