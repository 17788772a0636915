"""A run killed with -9 and resumed equals the run that was never interrupted, bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.faults.helpers import command, rows, start, states, tensors, wait_for

SMALL = ["agent.n_steps=64", "agent.batch_size=128", "log.every=1000", "evaluate.episodes=4", "tuned=off"]
CASES = {
    "CartPole-v1": ["steps=24_000", "checkpoint.every=8_000", "evaluate.every=6_000", "env.normalize_reward=true"],
    "Pendulum-v1": ["steps=24_000", "checkpoint.every=8_000", "evaluate.every=9_000", "env.normalize_observation=true"],
    "Blackjack-v1": ["steps=12_000", "checkpoint.every=4_000", "evaluate.every=0", "agent.n_epochs=1"],
    "LunarLander-v3": ["steps=10_000", "checkpoint.every=3_000", "evaluate.every=6_000"],
}


@pytest.mark.parametrize("env", CASES)
def test_killed_and_resumed_equals_uninterrupted(env: str, tmp_path: Path) -> None:
    if env.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    words = [f"env={env}", *CASES[env], *SMALL, "display=quiet"]
    every = next(int(w.split("=")[1]) for w in CASES[env] if w.startswith("checkpoint.every"))
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert command(*words, f"run.dir={straight}", cwd=tmp_path)[0] == 0

    killed = start(*words, f"run.dir={broken}", cwd=tmp_path)
    # The update in which the checkpoint's threshold falls ends at the first multiple of 8 x 64 steps at or after it.
    at = -(-every // 512) * 512
    wait_for(broken / "checkpoints" / f"step_{at}", killed)
    os.killpg(killed.pid, signal.SIGKILL)  # wherever it is: in the middle of the next rollout, or of its epochs
    killed.wait()
    assert not (broken / "summary.json").exists(), "the run had ended before it was killed: make its budget larger"

    code, out, err = command("resume", str(broken), "display=quiet", cwd=tmp_path)
    assert code == 0, err
    last = sorted((straight / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))[-1].name
    expected, found = tensors(straight / "checkpoints" / last), tensors(broken / "checkpoints" / last)
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
    assert states(straight / "checkpoints" / last) == states(broken / "checkpoints" / last)
    assert rows(straight) == rows(broken)
