"""Ctrl-C and SIGTERM (experience.md, faults 7 and 8)."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from rlgym.run_folder import checkpoint
from tests.faults.helpers import command, start, wait_for

LONG = [
    "env=CartPole-v1",
    "steps=100_000_000",
    "checkpoint.every=4_000",
    "evaluate.every=0",
    "compile=off",
    "display=plain",
]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_saves_and_a_resume_goes_on(number: int, code: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(*LONG, f"run.dir={run}", cwd=tmp_path)
    wait_for(run / "checkpoints" / "latest", process)
    time.sleep(0.3)
    refused, _, why = command("resume", str(run), cwd=tmp_path)
    assert refused == 2 and f"process {process.pid}" in why, "two programs must not share a folder"
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "stopped"
    newest = checkpoint.newest(run, print)
    assert newest.name == f"step_{summary['steps']}", "the signal's checkpoint is the last update's"
    checkpoint.verify(newest)
    assert f"resume {run}" in out, "says how to go on"
    more = summary["steps"] + 5_000
    assert command("resume", str(run), f"steps={more}", "display=quiet", cwd=tmp_path)[0] == 0
    again = json.loads((run / "summary.json").read_text())
    assert again["status"] == "finished" and again["steps"] >= more


def test_two_ctrl_c_stop_at_once_and_corrupt_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    # one update takes a minute: a single Ctrl-C would wait for it
    slow = ["agent.n_steps=100_000", "agent.batch_size=64", "agent.n_epochs=100", "checkpoint.every=1"]
    process = start(
        *LONG[:2], "evaluate.every=0", "compile=off", *slow, f"run.dir={run}", "display=plain", cwd=tmp_path
    )
    wait_for(run / "manifest.json", process)
    time.sleep(2.0)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "the first one waits for the update"
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 10
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
    for step in checkpoint.steps(run):
        checkpoint.verify(run / "checkpoints" / f"step_{step}")
