"""The own stepping loops against Gymnasium's vector environments, step for step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlgym.config.schema import EnvConfig
from rlgym.envs.make import make_env
from rlgym.envs.spaces import flatten
from rlgym.envs.sync import SyncEnv
from tests.envs.toys import Diary


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("id", ["LunarLander-v3", "Blackjack-v1", "Pendulum-v1", "CliffWalking-v1", "Taxi-v4"])
def test_equals_gymnasium(id: str, backend: str) -> None:
    if id == "LunarLander-v3":
        pytest.importorskip("Box2D")

    def lane() -> gym.Env[Any, Any]:
        return gym.make(id, disable_env_checker=True)

    reference = SyncVectorEnv([lane] * 5, autoreset_mode=AutoresetMode.SAME_STEP)
    env = make_env(EnvConfig(id=id, num_envs=5, backend=backend))
    try:
        reference.action_space.seed(0)
        expected, infos = reference.reset(seed=9)
        obs = env.reset(9)
        ends = 0
        for _ in range(450):
            for name, batch in flatten(env.leaves, expected).items():
                assert obs[name].dtype == batch.dtype and (obs[name] == batch).all()
            if "action_mask" in infos:
                assert env.action_mask is not None and (env.action_mask == infos["action_mask"]).all()
            actions = reference.action_space.sample()
            expected, reward, terminated, truncated, infos = reference.step(actions)
            step = env.step(actions)
            obs = step.obs
            assert (step.reward == reward).all()
            assert (step.terminated == terminated).all() and (step.truncated == truncated).all()
            ended = np.flatnonzero(terminated | truncated)
            assert sorted(episode.env for episode in step.episodes) == ended.tolist()
            for i in ended:
                assert step.final_obs is not None
                one = (
                    tuple([part] for part in infos["final_obs"][i]) if id == "Blackjack-v1" else [infos["final_obs"][i]]
                )
                for name, batch in flatten(env.leaves, one).items():
                    assert (step.final_obs[name][i] == batch[0]).all()
            ends += len(ended)
        assert ends >= 1
    finally:
        env.close()


def test_actions_count_from_zero_whatever_their_start() -> None:
    class Shifted(gym.Env[Any, Any]):
        observation_space = gym.spaces.Discrete(9, start=-4)
        action_space = gym.spaces.MultiDiscrete([3, 4], start=[5, -1])

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return -4, {}

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action)
            return int(action[1]) + 1, float(action[0]), False, False, {}

    from rlgym.envs.sync import SyncEnv

    env = SyncEnv("Shifted-v0", Shifted, 2)
    assert env.reset(0)["obs"].tolist() == [[0], [0]]
    step = env.step(np.array([[0, 0], [2, 3]]))
    assert step.reward.tolist() == [5.0, 7.0]
    assert step.obs["obs"].tolist() == [[4], [7]]


def test_a_box_without_axes_gets_arrays_without_axes() -> None:
    class Scalar(Diary):
        def __init__(self) -> None:
            super().__init__()
            self.action_space: gym.Space[Any] = gym.spaces.Box(-1, 1, ())

        def step(self, action: Any) -> Any:
            assert type(action) is np.ndarray and action.shape == () and self.action_space.contains(action)
            return super().step(action)

    env = SyncEnv("Scalar-v0", Scalar, 2)
    env.reset(0)
    assert env.step(np.zeros(2, np.float32)).reward.tolist() == [1.0, 1.0]
    assert env.verify_restores()
