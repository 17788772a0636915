"""Environments of continuous control whose every number is known, and the SAC and TD3 that act in them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from rlgym.agents.configs.continuous import SACConfig, TD3Config
from rlgym.agents.off_policy.continuous import Continuous
from rlgym.agents.off_policy.critics import Critics
from rlgym.agents.sac import SAC
from rlgym.agents.td3 import TD3
from rlgym.config.schema import EnvConfig, TrainConfig
from tests.agents import worlds

AGENTS: dict[str, tuple[type[Any], type[Continuous]]] = {"sac": (SACConfig, SAC), "td3": (TD3Config, TD3)}
LOW, HIGH = np.array([-1.0, 3.0], np.float32), np.array([1.0, 7.0], np.float32)


class Lever(gym.Env[Any, Any]):
    """Observes [episode, t] and pays the action's sum (where `steady`: [0, t], and 1), and `last` more in the last of
    `length` steps, after which it terminates (`end`: "terminated"), is cut off ("truncated"), or both by turns
    ("either")."""

    def __init__(
        self,
        length: int = 5,
        end: str = "truncated",
        last: float = 0.0,
        steady: bool = False,
        render_mode: str | None = None,
    ) -> None:
        self.observation_space = spaces.Box(-1, 1e6, (2,), np.float32)
        self.action_space = spaces.Box(LOW, HIGH)
        self.length, self.end, self.last, self.steady, self.render_mode = length, end, last, steady, render_mode
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._observe(), {}

    def _observe(self) -> Any:
        return np.array([0 if self.steady else self.episode, self.t], np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.t += 1
        over = self.t == self.length
        terminates = self.end == "terminated" or (self.end == "either" and self.episode % 2 == 0)
        reward = (1.0 if self.steady else float(action.sum())) + (self.last if over else 0.0)
        return self._observe(), reward, over and terminates, over and not terminates, {}


def levers(num_envs: int = 1, **kwargs: Any) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Levers of lengths 3, 4, 5, ... in Gymnasium's default autoreset mode, NEXT_STEP: with phantom rows."""
    return gym.vector.SyncVectorEnv([partial(Lever, 3 + n, **kwargs) for n in range(num_envs)])


def learner(
    agent: str,
    id: str = "Lever-v0",
    env: Mapping[str, Any] | None = None,
    *,
    seed: int = 1,
    steps: int = 100_000,
    num_envs: int = 1,
    compile: str = "off",
    episodes: int = 3,
    kwargs: Mapping[str, Any] | None = None,
    **knobs: Any,
) -> Any:
    """A SAC or TD3 on the CPU, with small networks and batches unless `knobs` say otherwise."""
    worlds.register()
    if "Lever-v0" not in gym.registry:
        gym.register("Lever-v0", f"{__name__}:Lever")
        gym.register("LeverVector-v0", vector_entry_point=f"{__name__}:levers")
    config_class, learner_class = AGENTS[agent]
    small = {"buffer_size": 400, "learning_starts": 8, "batch_size": 16, "net_arch": [16, 8]}
    chosen = config_class(**{**small, **knobs})
    config = TrainConfig(steps=steps, seed=seed, device="cpu", threads=1, compile=compile, agent=chosen)
    own = str(gym.spec(id).entry_point).startswith("tests.")
    backend = "sync" if own else "auto"  # auto measures, and on a busy machine may choose workers
    config.env = EnvConfig(id=id, num_envs=num_envs, kwargs=dict(kwargs or {}), **{"backend": backend, **(env or {})})
    config.evaluate.episodes = episodes
    return learner_class(config)


def stored(found: Any) -> Tensor:
    """The place of every transition in the replay that can be drawn, environment by environment, in order."""
    replay = found.replay
    first, last = replay.window(1)
    spans = zip(first, last, strict=True)
    lanes = [lane * replay.rows + torch.arange(a, b) % replay.rows for lane, (a, b) in enumerate(spans)]
    return torch.cat(lanes)


def alone(critics: Critics, which: int) -> nn.Sequential:
    """One of the critics as a plain network of float64 over `[obs, action]`, apart from the others."""
    layers: list[nn.Module] = []
    for weight, bias in zip(critics.weights, critics.biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2]).double()
        layer.weight.data, layer.bias.data = weight[which].T.double().clone(), bias[which, 0].double().clone()
        layers += [layer, nn.ReLU() if critics.activation is torch.relu_ else nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def random_batch(found: Any, size: int, seed: int = 0) -> dict[str, Any]:
    """Transitions as `gather` gives them, drawn from thin air, in an environment that observes one vector."""
    generator = torch.Generator().manual_seed(seed)
    (leaf,) = found.env.leaves

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    terminated = (torch.rand(size, generator=generator) < 0.2).float()
    return {
        "obs": {leaf.name: normal(size, *leaf.shape)},
        "action": normal(size, *found.distribution.action_shape).tanh(),
        "reward": normal(size),
        "next_obs": {leaf.name: normal(size, *leaf.shape)},
        "discount": found.knobs.gamma * (1 - terminated),
        "next_mask": None,
    }
