"""The NumPy act step is the torch policy, whatever happens to the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlgym.agents.common.distributions import distribution_for
from rlgym.agents.common.networks import ActorCritic
from rlgym.agents.common.policy_numpy import NumpyActor
from rlgym.agents.ppo import PPO
from rlgym.envs.spaces import Obs, leaves
from tests.agents.worlds import ACTIONS, OBSERVATIONS, learner


def some(space: Any, rows: int, rng: np.random.Generator) -> Obs:
    """Observations as a rollout stores them, the vectors among them far from scale and zero."""
    obs: Obs = {}
    for leaf in leaves(space):
        if leaf.kind == "onehot":
            obs[leaf.name] = rng.integers(0, leaf.nvec, (rows, *leaf.shape))
        elif leaf.dtype.kind == "f":
            obs[leaf.name] = (5 + 3 * rng.standard_normal((rows, *leaf.shape))).astype(leaf.dtype)
            obs[leaf.name][0] *= 100  # beyond the clip of scaled observations
        else:
            obs[leaf.name] = rng.integers(0, 2 if leaf.dtype == np.int8 else 255, (rows, *leaf.shape), leaf.dtype)
    return obs


def tensors(obs: Obs) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in obs.items()}


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("observation", [name for name in OBSERVATIONS if not name.startswith("image")])
def test_equals_the_torch_policy(observation: str, normalize: bool) -> None:
    space, rng, generator = OBSERVATIONS[observation], np.random.default_rng(0), torch.Generator().manual_seed(0)
    for action in ACTIONS:
        for activation, std, widths in (("tanh", "free", [32, 8]), ("relu", "state", [16]), ("relu", "free", [])):
            distribution = distribution_for(ACTIONS[action], "ppo")
            network = ActorCritic(leaves(space), distribution, widths, activation, std, -0.7, normalize)
            with torch.no_grad():
                for parameter in network.parameters():  # a last layer of size 0.01 would hide differences
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
            network.encoder.observe(tensors(some(space, 50, rng)))
            actor = NumpyActor(network)
            for rows in (7, 1, 7):  # its buffers change size
                obs = some(space, rows, rng)
                with torch.no_grad():
                    expected = network.policy(tensors(obs)).numpy()
                found = actor(obs)
                assert found.shape == expected.shape and found.dtype == np.float32
                # relative to the largest: unscaled bytes make outputs of hundreds
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


def check_follows(ppo: PPO) -> np.ndarray:
    obs = {name: rows[0].numpy() for name, rows in ppo.rollout.obs.items()}
    assert ppo.policy.numpy_actor is not None
    with torch.no_grad():
        expected = ppo.network.policy(tensors(obs)).numpy()
    found: np.ndarray = ppo.policy.numpy_actor(obs).copy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    return found


@pytest.mark.parametrize("id", ["Pendulum-v1", "CartPole-v1"])
def test_sees_what_the_optimiser_and_a_checkpoint_do_to_the_weights(id: str) -> None:
    first, second = (learner(id, {"normalize_observation": True}, seed=seed, learning_rate=0.02) for seed in (1, 2))
    before = check_follows(first)
    for _ in range(3):
        first.update()
        check_follows(first)
    assert np.abs(check_follows(first) - before).max() > 0.01
    state = first.state_dict()
    other = check_follows(second)
    second.load_state_dict(state)
    assert np.abs(check_follows(second) - other).max() > 0.01
    np.testing.assert_array_equal(check_follows(second), check_follows(first))


def test_a_loaded_policy_acts_with_the_loaded_weights() -> None:
    ppo = learner("CartPole-v1", learning_rate=0.02)
    for _ in range(3):
        ppo.update()
    policy = PPO.load(ppo.config, {"model": ppo.network.state_dict()}, torch.device("cpu"), Path("unused"))
    obs = {"obs": np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)}
    mine, theirs = (p.choose(obs, None, p.sampler(5)) for p in (ppo.policy, policy))
    np.testing.assert_array_equal(mine, theirs)
    fresh = learner("CartPole-v1").policy
    assert (fresh.choose(obs, None, fresh.sampler(5)) != mine).any()
    np.testing.assert_array_equal(ppo.policy.act(obs), policy.act(obs))
