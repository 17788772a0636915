"""A run killed with -9 and resumed equals the run that was never interrupted, bit for bit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.faults.helpers import command, rows, start, states, tensors, wait_for

SMALL = ["agent.n_steps=64", "log.every=1000", "evaluate.episodes=4", "tuned=off"]
PPO = ["agent.batch_size=128"]
CASES = {
    "CartPole-v1": [
        *PPO,
        "steps=24_000",
        "checkpoint.every=8_000",
        "evaluate.every=6_000",
        "env.normalize_reward=true",
    ],
    "Pendulum-v1": [
        *PPO,
        "steps=24_000",
        "checkpoint.every=8_000",
        "evaluate.every=9_000",
        "env.normalize_observation=true",
    ],
    "Blackjack-v1": [*PPO, "steps=12_000", "checkpoint.every=4_000", "evaluate.every=0", "agent.n_epochs=1"],
    "LunarLander-v3": [*PPO, "steps=10_000", "checkpoint.every=3_000", "evaluate.every=6_000"],
    "a2c": ["agent=a2c", "env=CartPole-v1", "steps=40_000", "checkpoint.every=8_000", "env.normalize_reward=true"],
    "reinforce": ["agent=reinforce", "env=Pendulum-v1", "steps=40_000", "checkpoint.every=8_000"],
    "pqn": ["agent=pqn", "env=CartPole-v1", "steps=32_000", "checkpoint.every=8_000", "evaluate.every=0"],
    "game": [
        *PPO,
        "env=connect_four",
        "env.self_play.pool.every=2_000",
        "steps=12_000",
        "checkpoint.every=4_000",
        "agent.n_epochs=4",
    ],
    "lstm": [
        *PPO,
        "agent.recurrent=lstm",
        "env=CartPole-v1",
        "steps=6_000",
        "checkpoint.every=2_000",
        "agent.n_epochs=4",
    ],
}


TWINS = ("Blackjack-v1", "a2c", "pqn", "reinforce")
"""Cases that share all but their beginning with another: for `make test-all`."""


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in TWINS)) for c in CASES])
def test_killed_and_resumed_equals_uninterrupted(case: str, tmp_path: Path) -> None:
    if case.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    env = [] if any(word.startswith("env=") for word in CASES[case]) else [f"env={case}"]
    words = [*env, *CASES[case], *SMALL, "display=quiet"]
    every = next(int(w.split("=")[1]) for w in CASES[case] if w.startswith("checkpoint.every"))
    # The update in which the checkpoint's threshold falls ends at the first multiple of 8 x 64 steps at or after it.
    killed_and_resumed(words, -(-every // 512) * 512, tmp_path)


# An update of 64 transitions takes 16 gradient steps; checkpoints share segments of a replay that has gone round.
OFF_POLICY = [
    "env.num_envs=2",
    "tuned=off",
    "steps=4_480",
    "checkpoint.every=1_280",
    "log.every=500",
]
OFF_POLICY += ["agent.train_freq=64", "agent.gradient_steps=16", "agent.learning_starts=200", "agent.buffer_size=2_000"]


def test_killed_and_resumed_with_a_replay_and_past_selves(tmp_path: Path) -> None:
    words = ["agent=dqn", "env=tic_tac_toe", "env.self_play.pool.every=500", "evaluate.every=1_000"]
    killed_and_resumed([*words, *OFF_POLICY, "evaluate.episodes=4", "display=quiet"], 1_280, tmp_path)


SELF_PLAY_CASES = {
    "alphazero": [
        *(
            "agent=alphazero",
            "env=tic_tac_toe",
            "agent.simulations=8",
            "agent.fast_simulations=4",
            "agent.width=16",
        ),
        *("agent.blocks=1", "agent.buffer_size=400", "agent.learning_starts=100", "agent.batch_size=32"),
        *("agent.opponents=random", "evaluate.every=1_280", "evaluate.episodes=4", "agent.evaluate_simulations=8"),
    ],
    "nfsp": [
        *("agent=nfsp", "env=kuhn_poker", "agent.train_freq=64", "agent.learning_starts=200", "agent.buffer_size=400"),
        *("agent.reservoir_size=300", "agent.net_arch=[16]", "evaluate.every=1_280"),
    ],
}


@pytest.mark.parametrize("case", SELF_PLAY_CASES)
def test_killed_and_resumed_in_games_against_itself(case: str, tmp_path: Path) -> None:
    words = ["agent.games=16", "agent.n_steps=4", "steps=5_120", "checkpoint.every=1_280", "log.every=500", "tuned=off"]
    killed_and_resumed([*SELF_PLAY_CASES[case], *words, "display=quiet"], 1_280, tmp_path)


def killed_and_resumed(words: list[str], at: int, tmp_path: Path) -> None:
    """A run of `words`, and one that is killed once its checkpoint of step `at` is there: in the end they are equal."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert command(*words, f"run.dir={straight}", cwd=tmp_path)[0] == 0

    killed = start(*words, f"run.dir={broken}", cwd=tmp_path)
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
