"""Each family of environments trains through the command line: a few updates, an evaluation, the choices recorded."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.command.conftest import Answer

FAMILIES = {
    "FrozenLake-v1": "",
    "Taxi-v4": "",
    "rlgym/CartPoleNoVelocity-v0": "",
    "BipedalWalker-v3": "Box2D",
    "HalfCheetah-v5": "mujoco",
    "MiniGrid-Empty-5x5-v0": "minigrid",
    "ALE/Pong-v5": "ale_py",
}
SMALL = ["steps=64", "env.num_envs=2", "agent.n_steps=16", "agent.batch_size=16", "tuned=off", "threads=1"]
SHORT = ["evaluate.episodes=1", "evaluate.every=0", "display=quiet"]


@pytest.mark.parametrize("env", FAMILIES)
def test_trains(env: str, command: Callable[..., Answer], tmp_path: Path) -> None:
    package = FAMILIES[env]
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    atari = env.startswith("ALE/")
    limit = ["+env.kwargs.max_num_frames_per_episode=240"] if atari else ["+env.kwargs.max_episode_steps=30"]
    answer = command("agent=ppo", f"env={env}", *SMALL, *SHORT, *limit, f"run.dir={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "finished" and summary["steps"] >= 64
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["env"]
    assert config["backend"] in ("native", "sync", "async")  # auto's choice
    assert config["frame_stack"] == (4 if atari else 1)
    assert ("eval/success_rate" in summary["final"]) == env.startswith("MiniGrid")
