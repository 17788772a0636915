"""PQN: its lambda-returns by hand, known values, and what it refuses. What it shares with DQN is in test_dqn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlgym.errors import RequestError
from tests.agents.q_worlds import STATES, known_values, q_learner


def returns_by_hand(learner: Any, lam: float, gamma: float) -> np.ndarray:
    """R[t] = r + gamma (lambda R[t + 1] + (1 - lambda) max Q), one environment and one step at a time."""
    rollout = learner.rollout
    time, envs = rollout.reward.shape
    finals = {(t, int(env)): obs["obs"][i] for t, cut, obs in rollout.cuts for i, env in enumerate(cut)}

    def best(obs: Any, mask: Any) -> float:
        with torch.no_grad():
            values = learner.network.policy({"obs": torch.as_tensor(np.asarray(obs))[None]})[0]
        return max(float(v) for a, v in enumerate(values) if mask is None or bool(mask[a]))

    found = np.zeros((time, envs))
    for env in range(envs):
        for t in reversed(range(time)):
            reward = float(rollout.reward[t, env])
            if rollout.terminated[t, env]:
                found[t, env] = reward
                continue
            if rollout.done[t, env]:
                found[t, env] = reward + gamma * best(finals[t, env], None)
                continue
            mask = None if rollout.mask is None else rollout.mask[t + 1, env]
            following = best(rollout.obs["obs"][t + 1, env], mask)
            later = following if t == time - 1 else lam * found[t + 1, env] + (1 - lam) * following
            found[t, env] = reward + gamma * later
    return found


@pytest.mark.parametrize("lam", [0.0, 0.65, 1.0])
@pytest.mark.parametrize("id", ["Clock-v0", "CartPole-v1", "AllowedOnly-v0"])
def test_lambda_returns_by_hand(id: str, lam: float) -> None:
    """Clocks are cut off, poles fall (terminated), and where masks are told only legal actions count."""
    learner = q_learner("pqn", id, num_envs=3, n_steps=30, batch_size=30, q_lambda=lam, gamma=0.9)
    learner.update()
    learner.rollout.collect(learner.env, learner.policy, learner.sampler, None)
    target = learner.batch()["target"].view(30, 3)
    assert learner.rollout.done.any()
    np.testing.assert_allclose(target, returns_by_hand(learner, lam, 0.9), rtol=1e-4, atol=1e-4)


def test_converges_to_known_values() -> None:
    """With lambda 0, whatever explores; time limits of 5 steps leave no trace in the values."""
    gamma, steps = 0.8, 12_000
    learner = q_learner(
        "pqn",
        "Corridor-v0",
        num_envs=8,
        steps=steps,
        n_steps=8,
        gamma=gamma,
        q_lambda=0.0,
        learning_rate=5e-3,
        net_arch=[32],
        exploration_initial_eps=1.0,
        exploration_final_eps=1.0,
    )
    while learner.progress.step < steps:
        learner.update()
    with torch.no_grad():
        found = learner.network.policy({"obs": torch.arange(STATES)[:, None]})
    np.testing.assert_allclose(found, known_values(gamma), atol=0.03)


def test_never_an_illegal_action() -> None:
    """The environment raises on one."""
    learner = q_learner("pqn", "AllowedOnly-v0", num_envs=4, exploration_final_eps=0.5, exploration_fraction=0.0)
    for _ in range(6):
        learner.update()
    learner.evaluate()


def test_learns_from_an_exact_number_of_steps() -> None:
    learner = q_learner("pqn", "CartPole-v1", num_envs=5, n_steps=8, batch_size=16, n_epochs=3)
    metrics = learner.update()
    assert int(learner.optimizer.steps) == 3 * 3, "three minibatches of at most 16 out of 40, three times"
    assert learner.progress.step == 40
    assert {"train/loss", "train/q_value_mean", "rollout/exploration_rate", "train/learning_rate"} <= set(metrics)


def test_a_minibatch_larger_than_a_rollout_is_refused() -> None:
    with pytest.raises(RequestError, match="agent.batch_size=64 is more than a rollout holds"):
        q_learner("pqn", "CartPole-v1", num_envs=2, n_steps=8, batch_size=64)
