"""The tuned files reach what docs/results.md says (slow: `make test-all`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlgym.evaluate import evaluate
from rlgym.training import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

LEAST = {
    "CartPole-v1": 475,
    "Acrobot-v1": -100,
    "MountainCar-v0": -130,
    "Pendulum-v1": -250,
    "LunarLander-v3": 200,
}
SEEDS = {"CartPole-v1": (1, 2, 3, 4, 5)}


def mean_reward(words: list[str], folder: Path) -> float:
    run = train(*words, f"run.dir='{folder}'", "display=quiet")
    judged = {"episodes": 100, "seed": None, "checkpoint": "best", "device": "cpu", "trust": False}
    return float(evaluate(run.dir, judged)["mean_reward"])


@pytest.mark.parametrize(("env", "seed"), [(env, seed) for env in LEAST for seed in SEEDS.get(env, (1, 2, 3))])
def test_tuned_values_solve(env: str, seed: int, tmp_path: Path) -> None:
    if env.startswith("LunarLander"):
        pytest.importorskip("Box2D")
    assert mean_reward([f"env={env}", f"seed={seed}"], tmp_path / "run") >= LEAST[env]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cartpole_fast_solves(seed: int, tmp_path: Path) -> None:
    assert mean_reward(["experiment=cartpole_fast", f"seed={seed}"], tmp_path / "run") >= 475
