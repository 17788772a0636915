"""Environments with hidden state, which agents without memory cannot solve."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from rlgym.envs.spaces import Array

CARTPOLE = "rlgym/CartPoleNoVelocity-v0"


class CartPoleNoVelocity(CartPoleEnv):
    """CartPole-v1 that observes [cart position, pole angle] without velocities: two observations are needed to see
    where the pole falls (the masked task of Duan et al. 2016, arXiv:1604.06778, section 3.3)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        box = self.observation_space
        assert isinstance(box, spaces.Box)
        self.observation_space = spaces.Box(box.low[::2], box.high[::2], dtype=box.dtype.type)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation[::2], info

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation[::2], float(reward), terminated, truncated, info


if CARTPOLE not in gym.registry:
    gym.register(CARTPOLE, f"{__name__}:CartPoleNoVelocity", max_episode_steps=500, reward_threshold=475.0)
