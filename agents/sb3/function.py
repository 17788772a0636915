"""A Stable-Baselines3 policy as one network and one distribution, for `export`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from torch import Tensor, nn

from rlgym.agents.common.distributions import ClampedGaussian, Distribution, NoisyTanh, distribution_for
from rlgym.agents.common.policy import Observations, Policy
from rlgym.agents.q_learning.epsilon_greedy import EpsilonGreedy
from rlgym.agents.sb3.env import image_planes, spread
from rlgym.envs.spaces import Array


class LibraryNetwork(nn.Module):
    """The library's network as a `Network`: from leaf name -> `[batch, *leaf.shape]` to a distribution's outputs."""

    actor = log_std = None

    def __init__(self, policy: Any) -> None:
        """`policy`: an SB3Policy, as everywhere in this file."""
        super().__init__()
        self.network: Any = policy.network
        self.network.set_training_mode(False)
        self.view, normalizer = policy.view, policy.normalizer
        images = any(leaf.kind == "image" for leaf in self.view.leaves)
        self.encoder: Any = SimpleNamespace(leaves=self.view.leaves, images=images)
        self.scales: dict[str, int] = {}
        """Key of an observation that goes through running scales -> number of its buffers."""
        if normalizer is not None and normalizer.norm_obs:
            self.clip = float(normalizer.clip_obs)
            of_key = normalizer.obs_rms if isinstance(normalizer.obs_rms, dict) else {"": normalizer.obs_rms}
            for index, (key, moments) in enumerate(of_key.items()):
                self.scales[key or next(iter(self.view.parts))] = index
                self.register_buffer(f"mean_{index}", torch.as_tensor(np.array(moments.mean)))
                deviation = np.sqrt(moments.var + normalizer.epsilon)
                self.register_buffer(f"deviation_{index}", torch.as_tensor(np.array(deviation)))

    def __deepcopy__(self, memo: object) -> LibraryNetwork:
        return self  # not trained; the library's distributions hold tensors that cannot be copied

    def seen(self, obs: dict[str, Tensor]) -> Any:
        """Encode observations as `View.obs` and the library's normaliser do."""
        found = {}
        for key, (leaf, space) in self.view.parts.items():
            value = obs[leaf.name]
            if leaf.kind == "image":
                value = spread(image_planes(value, leaf), *leaf.pixels)
            value = value.reshape(value.shape[0], *(space.shape or ()))
            if key in self.scales:
                mean, deviation = (getattr(self, f"{name}_{self.scales[key]}") for name in ("mean", "deviation"))
                value = ((value - mean) / deviation).clamp(-self.clip, self.clip).float()
            found[key] = value
        return next(iter(found.values())) if self.view.whole else found

    def policy(self, obs: dict[str, Tensor]) -> Tensor:
        network, seen = self.network, self.seen(obs)
        if isinstance(network, DQNPolicy):
            values: Tensor = network.q_net(seen)
            return values
        if isinstance(network, ActorCriticPolicy):
            features = super(ActorCriticPolicy, network).extract_features(seen, network.pi_features_extractor)
            latent = network.mlp_extractor.forward_actor(features)
            outputs: Tensor = network.action_net(latent)
            space = network.action_space
            if isinstance(space, gym.spaces.MultiBinary):  # one logit each there; here one for 0 and one for 1
                return torch.stack([torch.zeros_like(outputs), outputs], -1).flatten(1)
            if not isinstance(space, gym.spaces.Box):
                return outputs
            return torch.cat([outputs, log_deviation(network, network.log_std, outputs, latent)], -1)
        features = network.actor.extract_features(seen, network.actor.features_extractor)
        if isinstance(network, SACPolicy):
            mean, log_std, _ = network.actor.get_action_dist_params(seen)
            return torch.cat([mean, log_deviation(network.actor, log_std, mean, network.actor.latent_pi(features))], -1)
        before_tanh: Tensor = network.actor.mu[:-1](features)
        return before_tanh


def log_deviation(network: Any, log_std: Tensor, mean: Tensor, latent: Tensor) -> Tensor:
    """Log deviations of independent noise, or of state-dependent exploration from the latent features `[batch,
    width]`."""
    noise = network.action_dist
    if not isinstance(noise, StateDependentNoiseDistribution):
        return log_std.expand_as(mean)
    return 0.5 * (latent.square() @ noise.get_std(log_std).square() + noise.epsilon).log()


class LibraryPolicy(Policy):
    """Acts by the library's own `predict`, the reference for the exported network."""

    heeds_masks = False

    def __init__(self, policy: Any) -> None:
        self.original = policy
        super().__init__(LibraryNetwork(policy), distribution_of(policy), policy.action_space)

    def act(self, obs: Observations, mask: Array | None = None, sampler: Any = None) -> Array:
        actions: Array = self.original.act(dict(obs), mask, sampler)
        return actions if isinstance(self.action_space, gym.spaces.Box) else actions.astype(np.int64)


def distribution_of(policy: Any) -> Distribution:
    network: Any = policy.network
    space: Any = policy.action_space
    if isinstance(network, DQNPolicy):
        return EpsilonGreedy(int(space.n), 0.0)
    if isinstance(network, ActorCriticPolicy):
        return distribution_for(space, "sb3")
    return ClampedGaussian(space.shape) if isinstance(network, SACPolicy) else NoisyTanh(space.shape, 0.0)
