"""Small learners of the bridge to Stable-Baselines3, for its tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rlgym.agents.sb3.config import SB3A2CConfig, SB3DQNConfig, SB3PPOConfig, SB3SACConfig, SB3TD3Config
from rlgym.agents.sb3.learner import SB3
from rlgym.config.schema import EnvConfig, TrainConfig
from tests.agents.worlds import register

CONFIGS: dict[str, Any] = {
    "ppo": SB3PPOConfig,
    "a2c": SB3A2CConfig,
    "dqn": SB3DQNConfig,
    "sac": SB3SACConfig,
    "td3": SB3TD3Config,
}
SMALL: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "batch_size": 16, "n_epochs": 2},
    "a2c": {},
    "dqn": {"learning_starts": 20, "buffer_size": 50, "batch_size": 8, "target_update_interval": 30},
    "sac": {"learning_starts": 20, "buffer_size": 50, "batch_size": 8, "net_arch": [16]},
    "td3": {"learning_starts": 20, "buffer_size": 50, "batch_size": 8, "net_arch": [16]},
}
ENV = {"ppo": "CartPole-v1", "a2c": "CartPole-v1", "dqn": "CartPole-v1", "sac": "Pendulum-v1", "td3": "Pendulum-v1"}


def learner(
    algo: str,
    id: str = "",
    *,
    env: Mapping[str, Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    num_envs: int = 2,
    steps: int = 200,
    seed: int = 3,
    **knobs: Any,
) -> SB3:
    register()
    id = id or ENV[algo]
    config = TrainConfig(steps=steps, seed=seed, device="cpu", threads=1)
    config.agent = CONFIGS[algo](**{**SMALL[algo], **knobs})
    backend = "auto" if id in ENV.values() else "sync"
    config.env = EnvConfig(id=id, num_envs=num_envs, kwargs=dict(kwargs or {}), **{"backend": backend, **(env or {})})
    config.evaluate.episodes = 2
    return SB3(config)


def whole(sb3: SB3) -> dict[str, Any]:
    """The state with the replay as it lies in memory: segments may hold rows that were overwritten since."""
    state: dict[str, Any] = dict(sb3.state_dict())
    if sb3.replay is not None:
        buffer = sb3.replay.buffer
        state["replay"] = {"pos": buffer.pos, "full": buffer.full, "steps": sb3.venv.steps}
        state["replay"] |= {name: torch.from_numpy(array) for name, array in sb3.replay.arrays().items()}
    return state


def train(sb3: SB3, steps: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    while sb3.progress.step < steps:
        metrics |= sb3.update()
    return metrics
