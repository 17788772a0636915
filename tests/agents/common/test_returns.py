"""GAE against its closed form, against Stable-Baselines3's buffer, and through truncations (rl.md, traps 3-5)."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import RolloutBuffer

from rlgym.agents.common.returns import gae


def brute_force(
    reward: np.ndarray,
    value: np.ndarray,
    next_value: np.ndarray,
    terminated: np.ndarray,
    done: np.ndarray,
    gamma: float,
    lam: float,
) -> np.ndarray:
    """The definition: a sum of discounted deltas up to the end of the episode or of the rollout."""
    time, envs = reward.shape
    out = np.zeros_like(reward)
    for e in range(envs):
        for t in range(time):
            weight = 1.0
            for k in range(t, time):
                out[t, e] += weight * (reward[k, e] + gamma * (1 - terminated[k, e]) * next_value[k, e] - value[k, e])
                if done[k, e]:
                    break
                weight *= gamma * lam
    return out


def rollout(seed: int = 0, time: int = 12, envs: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    terminated = (rng.random((time, envs)) < 0.15).astype(float)
    truncated = (rng.random((time, envs)) < 0.15).astype(float)
    value = rng.normal(size=(time + 1, envs))
    done = np.maximum(terminated, truncated)
    next_value = value[1:].copy()
    next_value[done > 0] = rng.normal(size=int(done.sum()))  # V(final_obs), nothing of the next episode's first state
    return {
        "reward": rng.normal(size=(time, envs)),
        "value": value[:-1],
        "next_value": next_value,
        "terminated": terminated,
        "done": done,
    }


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_definition(seed: int) -> None:
    given = rollout(seed)
    found = gae(**given, gamma=0.97, lam=0.9, out=np.zeros_like(given["reward"]))
    np.testing.assert_allclose(found, brute_force(**given, gamma=0.97, lam=0.9), atol=1e-12)


def test_numpy_and_torch_agree() -> None:
    given = rollout()
    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    by_numpy = gae(**given, gamma=0.99, lam=0.95, out=np.zeros_like(given["reward"]))
    by_torch = gae(**tensors, gamma=0.99, lam=0.95, out=torch.zeros_like(tensors["reward"]))
    assert np.array_equal(by_numpy, by_torch.numpy())


def test_truncation_bootstraps_and_stops_the_recursion() -> None:
    """Two steps, the first truncated: its advantage knows V(final) and nothing of the second step."""
    reward = np.array([[1.0], [100.0]])
    value = np.array([[2.0], [3.0]])
    next_value = np.array([[5.0], [0.0]])
    terminated = np.array([[0.0], [1.0]])
    done = np.array([[1.0], [1.0]])
    found = gae(reward, value, next_value, terminated, done, np.zeros((2, 1)), 0.9, 0.8)
    np.testing.assert_allclose(found[:, 0], [1 + 0.9 * 5 - 2, 100 - 3])


def test_large_last_reward_is_not_replaced_by_the_state_before() -> None:
    """Trap 5: bootstrapping from V(s_t) instead of V(s_final) would miss what the last step led to."""
    reward = np.array([[0.0], [50.0]])
    value = np.zeros((2, 1))
    next_value = np.array([[0.0], [7.0]])  # V(final_obs) = 7 while V(s_t) = 0
    done = np.array([[0.0], [1.0]])
    found = gae(reward, value, next_value, np.zeros((2, 1)), done, np.zeros((2, 1)), 1.0, 1.0)
    np.testing.assert_allclose(found[:, 0], [57.0, 57.0])


def test_constant_reward_under_a_time_limit_is_worth_a_geometric_series() -> None:
    """Trap 3: with reward 1 for ever and truncations every 5 steps, V = 1 / (1 - gamma) is the fixed point."""
    gamma, time = 0.9, 20
    value = np.full((time, 1), 1 / (1 - gamma))
    done = np.zeros((time, 1))
    done[4::5] = 1
    found = gae(np.ones((time, 1)), value, value, np.zeros((time, 1)), done, np.zeros((time, 1)), gamma, 0.95)
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_equals_stable_baselines3() -> None:
    """SB3 has no final observations in its buffer; on terminations alone both must agree to 1e-6."""
    time, envs, gamma, lam = 32, 4, 0.98, 0.93
    rng = np.random.default_rng(3)
    reward = rng.normal(size=(time, envs)).astype(np.float32)
    value = rng.normal(size=(time + 1, envs)).astype(np.float32)
    done = (rng.random((time, envs)) < 0.1).astype(np.float32)
    box = gym.spaces.Box(-1, 1, (1,), np.float32)
    buffer = RolloutBuffer(time, box, box, gae_lambda=lam, gamma=gamma, n_envs=envs)
    start = np.ones(envs, np.float32)
    for t in range(time):
        zeros = np.zeros((envs, 1), np.float32)
        buffer.add(zeros, zeros, reward[t], start, torch.from_numpy(value[t]), torch.zeros(envs))
        start = done[t]
    buffer.compute_returns_and_advantage(torch.from_numpy(value[-1]), done[-1])
    found = gae(reward, value[:-1], value[1:], done, done, np.zeros((time, envs), np.float32), gamma, lam)
    np.testing.assert_allclose(found, buffer.advantages, atol=1e-6)
