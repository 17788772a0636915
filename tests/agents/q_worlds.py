"""A small decision process whose values are known, and the Q-learners that train, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlgym.agents.configs.q_learning import DQNConfig, PQNConfig, RainbowConfig
from rlgym.agents.dqn import DQN
from rlgym.agents.pqn import PQN
from rlgym.config.schema import EnvConfig, TrainConfig
from tests.agents import worlds

STATES = 4


def walk(state: int, action: int) -> tuple[int, float, bool]:
    """(next state, reward, terminated): left pays a little, the right end ends the episode and pays 1."""
    if action == 1:
        return state + 1, float(state + 1 == STATES), state + 1 == STATES
    return max(0, state - 1), 0.15, False


def known_values(gamma: float) -> np.ndarray:
    """Q* `[states, 2]`, by value iteration."""
    q = np.zeros((STATES + 1, 2))
    for _ in range(1000):
        for state in range(STATES):
            for action in (0, 1):
                following, reward, terminated = walk(state, action)
                q[state, action] = reward + gamma * (1 - terminated) * q[following].max()
    return q[:STATES]


class Corridor(gym.Env[Any, Any]):
    """`walk` from a random state; cut off after 5 steps, which its values know nothing of."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Discrete(STATES + 1)
        self.action_space = spaces.Discrete(2)
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.state = 0, int(self.np_random.integers(STATES))
        return self.state, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.state, reward, terminated = walk(self.state, int(action))
        return self.state, reward, terminated, self.t == 5, {}


SHORT: dict[str, Any] = {
    "buffer_size": 1000,
    "learning_starts": 32,
    "batch_size": 16,
    "train_freq": 8,
    "gradient_steps": 4,
    "target_update_interval": 24,
    "net_arch": [16],
}
AGENTS: dict[str, tuple[type[Any], type[Any], dict[str, Any]]] = {
    "dqn": (DQN, DQNConfig, SHORT),
    "rainbow": (DQN, RainbowConfig, SHORT),
    "pqn": (PQN, PQNConfig, {"n_steps": 8, "batch_size": 16, "net_arch": [16]}),
}


def q_learner(
    name: str,
    id: str,
    env: Mapping[str, Any] | None = None,
    *,
    seed: int = 1,
    steps: int = 10_000,
    num_envs: int = 1,
    compile: str = "off",
    kwargs: Mapping[str, Any] | None = None,
    **knobs: Any,
) -> Any:
    """One of `AGENTS` on the CPU, learning soon unless `knobs` say otherwise."""
    worlds.register()
    if "Corridor-v0" not in gym.registry:
        gym.register("Corridor-v0", f"{__name__}:Corridor")
    cls, config_of, defaults = AGENTS[name]
    agent = config_of(**{**defaults, **knobs})
    config = TrainConfig(steps=steps, seed=seed, device="cpu", threads=1, compile=compile, agent=agent)
    own = "tests." in str(gym.spec(id).entry_point)
    backend = "sync" if own else "auto"  # auto measures, and on a busy machine may choose workers
    config.env = EnvConfig(id=id, num_envs=num_envs, kwargs=dict(kwargs or {}), **{"backend": backend, **(env or {})})
    config.evaluate.episodes = 3
    return cls(config)
