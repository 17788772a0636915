"""REINFORCE's returns against sums by hand, and its step against the gradient that Williams wrote down."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.worlds import on_policy


@pytest.mark.parametrize("id", ["CartPole-v1", "Clock-v0"])
def test_returns_are_whole(id: str) -> None:
    """Each target is the discounted sum of the rewards to the end of its episode; the baseline adds to it only where a
    time limit (Clock) or the rollout's end cut that short."""
    gamma, time, envs = 0.95, 60, 3
    agent = on_policy("reinforce", id, n_steps=time, num_envs=envs, gamma=gamma, kwargs={})
    agent.update()
    agent.rollout.collect(agent.env, agent.policy, agent.sampler, None)
    target = agent.batch()["target"].view(time, envs)
    rollout = agent.rollout
    cuts = {(t, int(env)): {n: x[i] for n, x in obs.items()} for t, at, obs in rollout.cuts for i, env in enumerate(at)}
    assert bool(cuts) == (id == "Clock-v0") and (rollout.done.sum() > envs)

    def baseline(obs: dict[str, Any]) -> float:
        with torch.no_grad():
            return float(agent.network.value({name: torch.as_tensor(x)[None] for name, x in obs.items()}))

    for env in range(envs):
        for t in range(time):
            expected, weight = 0.0, 1.0
            for k in range(t, time):
                expected += weight * float(rollout.reward[k, env])
                weight *= gamma
                if rollout.done[k, env]:
                    break
            if not rollout.done[k, env]:
                expected += weight * baseline({name: x[time, env] for name, x in rollout.obs.items()})
            elif not rollout.terminated[k, env]:
                expected += weight * baseline(cuts[k, env])
            assert float(target[t, env]) == pytest.approx(expected, rel=1e-4)


def test_the_step_follows_williams_gradient() -> None:
    """Without scaling and other losses, the policy's gradient is - mean of (return - baseline) grad log pi."""
    agent = on_policy("reinforce", "CartPole-v1", normalize_advantage=False, vf_coef=0.0, max_grad_norm=1e9)
    agent.rollout.collect(agent.env, agent.policy, agent.sampler, None)
    batch = agent.batch()
    expected = torch.zeros(sum(p.numel() for p in agent.network.actor.parameters()))
    for row in range(len(batch["action"])):
        log_pi = agent.network.policy({"obs": batch["obs"]["obs"][row : row + 1]}).log_softmax(-1)
        grads = torch.autograd.grad(log_pi[0, batch["action"][row]], list(agent.network.actor.parameters()))
        gain = batch["target"][row] - batch["old_value"][row]
        expected -= gain * torch.cat([g.flatten() for g in grads]) / len(batch["action"])
    loss, _ = agent.minibatch_loss(batch)
    agent.optimizer.step(loss, 0.0)
    found = torch.cat([p.grad.flatten() for p in agent.network.actor.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert all((p.grad == 0).all() for p in agent.network.critic.parameters())


def test_the_baseline_learns_the_mean_return() -> None:
    """Constant reward 1 for ever, cut off every 5 steps: V -> 1 / (1 - gamma) (rl.md, trap 3)."""
    agent = on_policy(
        "reinforce", "Clock-v0", {"normalize_observation": True}, n_steps=40, gamma=0.8, learning_rate=0.03,
        max_grad_norm=100.0, kwargs={"length": 5, "last": 1.0}, net_arch=[],
    )  # fmt: skip
    for _ in range(300):
        agent.update()
    np.testing.assert_allclose(agent.batch()["old_value"].mean(), 5.0, rtol=0.05)
