"""The tuned files reach what docs/results.md says (slow: `make test-all`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlgym.api import train
from rlgym.cli.evaluate import evaluate
from rlgym.config.options import EvaluateOptions, read

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

FIVE = (1, 2, 3, 4, 5)
LEAST = {
    ("ppo", "CartPole-v1"): (475, FIVE),
    ("ppo", "Acrobot-v1"): (-100, (1, 2, 3)),
    ("ppo", "MountainCar-v0"): (-130, (1, 2, 3)),
    ("ppo", "Pendulum-v1"): (-250, (1, 2, 3)),
    ("ppo", "LunarLander-v3"): (200, (1, 2, 3)),
    ("ppo", "MiniGrid-Empty-8x8-v0"): (0.95, (1, 2, 3)),
    ("dqn", "CartPole-v1"): (475, FIVE),
    ("dqn", "Acrobot-v1"): (-85, (1, 2, 3)),
    ("dqn", "MountainCar-v0"): (-110, (1, 2, 3)),
    ("dqn", "LunarLander-v3"): (200, (1, 2, 3)),
    ("a2c", "CartPole-v1"): (475, (1, 2, 3)),
    ("reinforce", "CartPole-v1"): (475, (1, 2, 3)),
    ("sac", "Pendulum-v1"): (-160, (1, 2, 3)),
    ("td3", "Pendulum-v1"): (-160, (1, 2, 3)),
}
"""(agent, env) -> the least mean reward of 1,000 fresh episodes, by each of the seeds."""
NEEDS = {"LunarLander-v3": "Box2D", "MiniGrid-Empty-8x8-v0": "minigrid"}


def mean_reward(words: list[str], folder: Path) -> float:
    run = train(*words, f"run.dir='{folder}'", "display=quiet")
    evaluated = evaluate(run.dir, read(EvaluateOptions, ["episodes=1000", "device=cpu"]))
    return float(evaluated["mean_reward"])


@pytest.mark.parametrize(
    ("agent", "env", "seed"), [(*pair, seed) for pair, (_, seeds) in LEAST.items() for seed in seeds]
)
def test_tuned_values_solve(agent: str, env: str, seed: int, tmp_path: Path) -> None:
    if env in NEEDS:
        pytest.importorskip(NEEDS[env])
    words = [f"agent={agent}", f"env={env}", f"seed={seed}"]
    assert mean_reward(words, tmp_path / "run") >= LEAST[agent, env][0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cartpole_fast_solves(seed: int, tmp_path: Path) -> None:
    assert mean_reward(["experiment=cartpole_fast", f"seed={seed}"], tmp_path / "run") >= 475
