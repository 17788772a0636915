"""A policy ready to act: network, action distribution and action space, without anything of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from rlgym.agents.common.distributions import MASKED, Distribution, NoisyTanh, SquashedGaussian, mask_logits
from rlgym.agents.common.networks import Network
from rlgym.agents.common.policy_numpy import NumpyActor
from rlgym.envs.episodes import Stateless
from rlgym.envs.spaces import Array, single

Observations = Mapping[str, "Array | Tensor"]
Sampler = np.random.Generator | torch.Generator
"""Source of randomness: NumPy's generator for the NumPy act step, torch's otherwise."""


Numbers = TypeVar("Numbers", Array, Tensor)


class Policy(Stateless):
    """`act(obs)` is all that evaluation, play and opponents need; training uses `choose`, before clipping."""

    heeds_masks = True

    def __init__(self, network: Network, distribution: Distribution, action_space: gym.Space[object]) -> None:
        self.network = network
        self.distribution = distribution
        self.action_space = action_space
        self.device = next(network.parameters()).device
        self.refresh()

    def refresh(self) -> None:
        """Re-read the network's storage after it has moved (flattened by an optimiser, another device)."""
        in_numpy = self.device.type == "cpu" and not self.network.encoder.images and self.network.actor is not None
        self.numpy_actor: Callable[[Mapping[str, Any]], Array] | None = NumpyActor(self.network) if in_numpy else None

    def sampler(self, seed: int) -> Sampler:
        """A generator of the kind this policy samples with, seeded."""
        if self.numpy_actor is not None:
            return np.random.default_rng(seed)
        return torch.Generator(self.device).manual_seed(seed)

    def tensors(self, obs: Observations) -> dict[str, Tensor]:
        """Observations `[envs, ...]` on the policy's device."""
        return {
            name: value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value)).to(self.device)
            for name, value in obs.items()
        }

    def compute(self, obs: Observations) -> Tensor:
        """The network's outputs `[envs, outputs]`."""
        return self.network.policy(self.tensors(obs))

    def outputs(self, obs: Observations, mask: Array | None) -> Array:
        """The distribution's parameters `[envs, outputs]` in host memory, illegal actions masked. `mask [envs, n]` is
        True where an action is legal. The next call may overwrite the result.
        """
        if self.numpy_actor is not None:
            outputs = self.numpy_actor(obs)
        else:
            with torch.inference_mode():
                outputs = self.compute(obs).cpu().numpy()
        return outputs if mask is None else np.where(mask, outputs, np.float32(MASKED))

    def choose(self, obs: Observations, mask: Array | None, sampler: Sampler | None) -> Array:
        """Raw actions `[envs, ...]`, before `to_env`; the distribution's mode without a `sampler`."""
        if self.numpy_actor is not None and not isinstance(sampler, torch.Generator):
            return self.distribution.sample_numpy(self.outputs(obs, mask), sampler)
        assert not isinstance(sampler, np.random.Generator)
        with torch.inference_mode():
            outputs = self.compute(obs)
            legal = None if mask is None else torch.from_numpy(mask).to(self.device)
            actions: Array = self.distribution.sample(mask_logits(outputs, legal), sampler).cpu().numpy()
        return actions

    def to_env(self, actions: Array) -> Array:
        """Convert actions for a `BatchEnv`: in a Box clipped to its bounds (squashed ones scaled to them) and cast to
        its dtype; others unchanged."""
        space = self.action_space
        if not isinstance(space, gym.spaces.Box):
            return actions
        return to_bounds(actions, space.low, space.high, self.squashed).astype(space.dtype, copy=False)

    @property
    def squashed(self) -> bool:
        """Whether a Box's actions are drawn in [-1, 1], whatever its bounds."""
        return isinstance(self.distribution, SquashedGaussian | NoisyTanh)

    def predict(self, observation: Any, mask: Array | None = None, sampler: Sampler | None = None) -> Any:
        """The action for a single observation of a Gymnasium environment, as its `step` takes it. `mask [n]`: True
        where an action is legal. Deterministic without a `sampler`.
        """
        obs = single(self.network.encoder.leaves, observation)
        action = self.act(obs, None if mask is None else np.asarray(mask, bool)[None], sampler)[0]
        if isinstance(self.action_space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            action = action + self.action_space.start
        return np.asarray(action) if isinstance(self.action_space, gym.spaces.Box) else action

    def act(self, obs: Observations, mask: Array | None = None, sampler: Sampler | None = None) -> Array:
        """Actions `[envs, ...]` for a `BatchEnv`; deterministic without a `sampler`."""
        return self.to_env(self.choose(obs, mask, sampler))


def to_bounds(actions: Numbers, low: Numbers, high: Numbers, squashed: bool) -> Numbers:
    """Actions `[batch, ...]` within a Box's bounds: those in [-1, 1] scaled to them if `squashed`, others clipped."""
    if squashed:
        actions = low + (actions + 1) * 0.5 * (high - low)
    return actions.clip(low, high)
