"""CartPole without velocities, on every backend."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from rlgym.config.schema import EnvConfig
from rlgym.envs.make import check_id, make_env
from rlgym.envs.partially_observable import CARTPOLE


@pytest.mark.parametrize("backend", ["auto", "sync", "async"])
def test_it_is_cartpole_without_velocities(backend: str) -> None:
    check_id(CARTPOLE)  # without a module: prefix
    env = make_env(EnvConfig(id=CARTPOLE, num_envs=3, backend=backend))
    whole = make_env(EnvConfig(id="CartPole-v1", num_envs=3, backend="sync"))
    try:
        assert env.backend == ("native" if backend == "auto" else backend)
        assert env.observation_space.shape == (2,)
        obs, expected = env.reset(5)["obs"].copy(), whole.reset(5)["obs"].copy()
        rng, ends = np.random.default_rng(0), 0
        for _ in range(200):
            assert (obs == expected[:, [0, 2]]).all()
            actions = rng.integers(0, 2, 3)
            step, reference = env.step(actions), whole.step(actions)
            assert (step.terminated == reference.terminated).all() and (step.reward == reference.reward).all()
            assert step.episodes == reference.episodes
            ended = np.flatnonzero(step.terminated)
            if ended.size:
                assert step.final_obs is not None and reference.final_obs is not None
                assert (step.final_obs["obs"][ended] == reference.final_obs["obs"][ended][:, [0, 2]]).all()
                ends += ended.size
            obs, expected = step.obs["obs"].copy(), reference.obs["obs"].copy()
        assert ends > 10
    finally:
        env.close()


def test_it_ends_after_500_steps() -> None:
    spec = gym.spec(CARTPOLE)
    assert spec.max_episode_steps == 500 and spec.reward_threshold == 475
