"""What is TD3's own: its noises, its delays, and Stable-Baselines3's step beside it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import TD3 as Theirs
from stable_baselines3.common.logger import Logger
from torch import nn
from torch.distributions import Normal

from rlgym.agents.common.distributions import NoisyTanh
from tests.agents.levers import alone, learner, random_batch
from tests.agents.test_sac import as_samples, check_critics, give_critics


@pytest.mark.parametrize("which", ["numpy", "torch"])
def test_exploration_is_normal_noise_behind_the_tanh_within_bounds(which: str) -> None:
    distribution = NoisyTanh((2,), 0.3)
    outputs = torch.tensor([0.5, -9.0]).repeat(30_000, 1)
    if which == "numpy":
        drawn = distribution.sample_numpy(outputs.numpy(), np.random.default_rng(0))
        mode = distribution.sample_numpy(outputs.numpy(), None)
    else:
        drawn = distribution.sample(outputs, torch.Generator().manual_seed(0)).numpy()
        mode = distribution.sample(outputs, None).numpy()
    assert drawn.dtype == np.float32 and drawn.shape == (30_000, 2)
    np.testing.assert_allclose(drawn[:, 0].mean(), np.tanh(0.5), atol=0.01)  # clipping costs 0.004
    assert drawn[:, 0].std() == pytest.approx(0.3, rel=0.05)
    assert drawn.min() == -1 and drawn.max() <= 1
    assert (drawn[:, 1] == -1).mean() == pytest.approx(0.5, abs=0.02)
    np.testing.assert_allclose(mode, np.tanh(outputs.numpy()), rtol=1e-6)


def test_its_density_is_that_of_the_noise() -> None:
    outputs, action = torch.randn(9, 2), torch.randn(9, 2).tanh()
    log_prob, entropy = NoisyTanh((2,), 0.3).log_prob_entropy(outputs, action)
    reference = Normal(outputs.tanh(), 0.3)
    torch.testing.assert_close(log_prob, reference.log_prob(action).sum(1))
    torch.testing.assert_close(entropy, reference.entropy().sum(1))


def test_noise_of_the_target_policy_is_clipped() -> None:
    td3 = learner("td3", target_policy_noise=0.4, target_noise_clip=0.5)
    noise = td3.noise(400)
    assert noise.shape == (400, 16, 2)
    assert noise.abs().max() == 0.5
    inside = noise[noise.abs() < 0.5]
    assert float(len(inside) / noise.numel()) == pytest.approx(0.7887, abs=0.02), "P(|0.4 z| < 0.5)"
    assert not learner("td3", target_policy_noise=0.0).noise(2).any()


def test_training_explores_and_evaluation_does_not() -> None:
    td3 = learner("td3", "Pendulum-v1", action_noise_std=0.2, num_envs=4)
    obs = td3.obs
    first, second = td3.explore(obs, None), td3.explore(obs, None)
    assert first.shape == (4, 1) and (first != second).all()
    np.testing.assert_array_equal(td3.policy.act(obs), td3.policy.act(obs))
    silent = learner("td3", "Pendulum-v1", action_noise_std=0.0)
    np.testing.assert_array_equal(silent.policy.to_env(silent.explore(silent.obs, None)), silent.policy.act(silent.obs))


def test_the_actor_climbs_the_first_critic_every_other_step() -> None:
    td3 = learner("td3", policy_delay=3, tau=0.25)
    batch = random_batch(td3, 16)
    for count in range(1, 7):
        actor, targets = td3.actor_adam.parameters.clone(), td3.critics_target.clone()
        td3.gradient_steps = count
        statistics, _ = td3.gradient_step(batch, td3.noise(1)[0], 1e-3)
        learns = count % 3 == 0
        assert (not torch.equal(actor, td3.actor_adam.parameters)) == learns
        assert (not torch.equal(targets, td3.critics_target)) == learns
        assert ("train/actor_loss" in statistics) == learns
    action = td3.actor.policy(batch["obs"]).tanh()
    x = torch.cat([batch["obs"]["obs"], action], 1).double()
    statistics, _ = td3.gradient_step(batch, td3.noise(1)[0], 0.0)
    assert float(statistics["train/actor_loss"]) == pytest.approx(
        -float(alone(td3.critics, 0)(x).detach().mean()), rel=1e-4
    )


def test_equals_stable_baselines3() -> None:
    """Six gradient steps, three of them the actor's, from the same weights, batches and noise. Adam's epsilon is large,
    so that rounding cannot turn the sign of a first step."""
    size, steps = 64, 6
    knobs: dict[str, Any] = {"gamma": 0.98, "tau": 0.1, "learning_rate": 1e-2, "policy_delay": 2}
    ours = learner("td3", "Pendulum-v1", batch_size=size, net_arch=[32, 24], adam_eps=1e-3, **knobs)
    theirs = Theirs(
        "MlpPolicy",
        gym.make("Pendulum-v1"),
        policy_kwargs={"net_arch": [32, 24], "optimizer_kwargs": {"eps": 1e-3}},
        buffer_size=10,
        device="cpu",
        **knobs,
    )
    theirs.set_logger(Logger(None, []))
    own = [layer for layer in ours.actor.actor if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for mine, other in zip(own, (m for m in theirs.actor.mu if isinstance(m, nn.Linear)), strict=True):
            other.weight.copy_(mine.weight)
            other.bias.copy_(mine.bias)
    give_critics(ours.critics, theirs.critic.q_networks)
    theirs.critic_target.load_state_dict(theirs.critic.state_dict())
    theirs.actor_target.load_state_dict(theirs.actor.state_dict())

    batches = [random_batch(ours, size, seed) for seed in range(steps)]
    samples = iter(batches)
    theirs.replay_buffer.sample = lambda *args, **kwargs: as_samples(next(samples), 0.98)  # type: ignore[union-attr,method-assign]
    torch.manual_seed(7)
    with torch.random.fork_rng(devices=[]):
        noise = torch.stack([torch.empty(size, 1).normal_(0, 0.2).clamp(-0.5, 0.5) for _ in range(steps)])
    theirs.train(steps, size)
    for batch, drawn in zip(batches, noise, strict=True):
        ours.gradient_steps += 1
        ours.gradient_step(batch, drawn, 1e-2)

    check_critics(ours.critics, theirs.critic.q_networks)
    check_critics(ours.target_critics, theirs.critic_target.q_networks)
    for actor, reference in ((ours.actor, theirs.actor), (ours.target_actor, theirs.actor_target)):
        layers = [layer for layer in actor.actor if isinstance(layer, nn.Linear)]
        for layer, other in zip(layers, (m for m in reference.mu if isinstance(m, nn.Linear)), strict=True):
            torch.testing.assert_close(layer.weight, other.weight, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(layer.bias, other.bias, rtol=1e-4, atol=1e-5)
