"""Batched classic control against Gymnasium's own, lane by lane, through hundreds of episode ends."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from rlgym.envs.classic import NATIVE, knows, make_native
from rlgym.envs.spaces import Array

# Two sums of squares come from the C library's pow in the reference and from a product here: the last bit may differ.
# Acrobot's error then grows within an episode; Pendulum's stays in the reward (float32 torque squared).
TOLERANCE = {"Acrobot-v1": 1e-5, "Pendulum-v1": 2e-9}


def drive(id: str, obs: Array, rng: np.random.Generator, t: int) -> Array:
    """Random actions, mixed with ones that reach the goal; torques beyond their bounds, too."""
    envs = len(obs)
    if id == "MountainCarContinuous-v0":
        push = np.where(obs[:, 1] >= 0, 1.0, -1.0) * (1.3 if t % 2 else 0.9)
        return (push if t % 3 else rng.normal(size=envs)).astype(np.float32)[:, None]
    if id == "Pendulum-v1":
        return (2 * rng.normal(size=(envs, 1))).astype(np.float32)
    if id == "MountainCar-v0" and t % 3:
        return np.where(obs[:, 1] >= 0, 2, 0)
    if id == "Acrobot-v1" and t % 4:
        return np.where(obs[:, 4] >= 0, 2, 0)
    return rng.integers(0, 2 if "CartPole" in id else 3, envs)


@pytest.mark.parametrize("id", list(NATIVE))
@pytest.mark.parametrize("limit", [None, 37])
def test_equals_the_reference(id: str, limit: int | None) -> None:
    kwargs = {} if limit is None else {"max_episode_steps": limit}
    assert knows(id, kwargs)
    envs, seed, rng = 6, 11, np.random.default_rng(0)
    tolerance = TOLERANCE.get(id, 0.0)
    reference = SyncVectorEnv(
        [lambda: gym.make(id, disable_env_checker=True, **kwargs)] * envs, autoreset_mode=AutoresetMode.SAME_STEP
    )
    env = make_native(id, envs, kwargs)
    assert env.observation_space == reference.single_observation_space
    assert env.action_space == reference.single_action_space
    expected, _ = reference.reset(seed=seed)
    obs = env.reset(seed)["obs"]
    assert obs.dtype == expected.dtype and (obs == expected).all()
    returns, lengths, ends = np.zeros(envs), np.zeros(envs, int), 0
    for t in range(1000 if limit else 1600):
        actions = drive(id, expected, rng, t)
        expected, reward, terminated, truncated, infos = reference.step(actions)
        step = env.step(actions)
        np.testing.assert_allclose(step.obs["obs"], expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(step.reward, reward, rtol=0, atol=tolerance)
        assert step.reward.dtype == reward.dtype
        assert (step.terminated == terminated).all() and (step.truncated == truncated).all()
        returns += reward
        lengths += 1
        ended = np.flatnonzero(terminated | truncated)
        assert [episode.env for episode in step.episodes] == ended.tolist()
        assert (step.final_obs is not None) == bool(ended.size)
        for episode in step.episodes:
            i = episode.env
            assert step.final_obs is not None
            np.testing.assert_allclose(step.final_obs["obs"][i], infos["final_obs"][i], rtol=0, atol=tolerance)
            assert episode.length == lengths[i]
            assert episode.ret == pytest.approx(returns[i], rel=1e-6)
            returns[i] = lengths[i] = 0
            ends += 1
    assert ends >= 12


def test_more_resets_than_are_drawn_ahead() -> None:
    env = make_native("CartPole-v1", 3, {"max_episode_steps": 2})
    reference = SyncVectorEnv(
        [lambda: gym.make("CartPole-v1", max_episode_steps=2)] * 3, autoreset_mode=AutoresetMode.SAME_STEP
    )
    env.reset(4)
    reference.reset(seed=4)
    for _ in range(150):
        expected = reference.step(np.ones(3, int))[0]
        assert (env.step(np.ones(3, int)).obs["obs"] == expected).all()


@pytest.mark.parametrize("id", list(NATIVE))
def test_continues_bit_for_bit(id: str) -> None:
    rng = np.random.default_rng(1)
    env = make_native(id, 5, {})
    obs = env.reset(3)["obs"]
    for t in range(333):
        obs = env.step(drive(id, obs, rng, t)).obs["obs"]
    twin = make_native(id, 5, {})
    assert (twin.load_state_dict(env.state_dict())["obs"] == obs).all()
    for t in range(700):
        actions = drive(id, obs, rng, t)
        a, b = env.step(actions), twin.step(actions)
        obs = a.obs["obs"]
        assert (obs == b.obs["obs"]).all() and (a.reward == b.reward).all() and a.episodes == b.episodes
        assert (a.terminated == b.terminated).all() and (a.truncated == b.truncated).all()


def test_only_what_it_supports() -> None:
    assert not knows("CartPole-v1", {"sutton_barto_reward": True})
    assert not knows("Pendulum-v1", {"g": 9.81})
    assert not knows("LunarLander-v3", {})
    assert not knows("CartPole-v1", {"max_episode_steps": 0})
    endless = make_native("Pendulum-v1", 2, {"max_episode_steps": -1})
    endless.reset(0)
    assert not any(endless.step(np.zeros((2, 1), np.float32)).episodes for _ in range(300))
