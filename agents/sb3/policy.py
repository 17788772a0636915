"""A policy of Stable-Baselines3 ready to act: in evaluation, in play, from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize

from rlgym.agents.sb3.env import View
from rlgym.envs.episodes import Stateless
from rlgym.envs.spaces import Array, Obs, single
from rlgym.envs.sync import action_start

if TYPE_CHECKING:
    from rlgym.agents.sb3.function import LibraryPolicy


class SB3Policy(Stateless):
    """`act` for a BatchEnv, `predict` for an ordinary Gymnasium environment. Action masks are not heeded."""

    def __init__(self, network: BasePolicy, view: View, normalizer: VecNormalize | None = None) -> None:
        """`normalizer`: running normalisation of observations, frozen."""
        self.network, self.view, self.normalizer = network, view, normalizer
        self.action_space = view.env_action_space
        self.device = network.device

    def sampler(self, seed: int) -> torch.Generator:
        """A generator of the kind that this policy samples with."""
        return torch.Generator().manual_seed(seed)

    def act(self, obs: Obs, mask: Array | None = None, sampler: torch.Generator | None = None) -> Array:
        """Actions `[envs, ...]` for a BatchEnv; deterministic without a `sampler`, which DQN is with one, too."""
        seen = self.view.obs(obs)
        if self.normalizer is not None:
            seen = self.normalizer.normalize_obs(seen)
        if sampler is None:
            actions, _ = self.network.predict(seen, deterministic=True)
        else:  # the library draws from torch's global generators
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(int(torch.randint(1 << 62, (), generator=sampler)))
                actions, _ = self.network.predict(seen, deterministic=False)
        return self.view.actions(actions)

    def function(self) -> LibraryPolicy:
        """As a network and a distribution, for export."""
        from rlgym.agents.sb3.function import LibraryPolicy

        return LibraryPolicy(self)

    def predict(self, observation: Any, mask: Array | None = None, sampler: torch.Generator | None = None) -> Any:
        """The action for one observation of an ordinary Gymnasium environment, as its `step` takes it."""
        action = self.act(single(self.view.leaves, observation), mask, sampler)[0]
        start = action_start(self.action_space)
        return action if start is None else np.asarray(action + start, self.action_space.dtype)
