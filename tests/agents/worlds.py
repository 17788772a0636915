"""Small environments whose every number is known, and the learners that train in them, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from rlgym.agents.a2c import A2C
from rlgym.agents.configs.on_policy import A2CConfig, PPOConfig, ReinforceConfig
from rlgym.agents.on_policy.base import OnPolicy
from rlgym.agents.on_policy.rollout import Batch
from rlgym.agents.ppo import PPO, STATISTICS
from rlgym.agents.reinforce import Reinforce
from rlgym.config.schema import EnvConfig, TrainConfig
from rlgym.learner import Shared

BOX = spaces.Box(-2.0, 5.0, (3,), np.float32)
OBSERVATIONS: dict[str, gym.Space[Any]] = {
    "vector": BOX,
    "double": spaces.Box(-1.0, 1.0, (2, 2), np.float64),
    "bytes": spaces.Box(0, 255, (6,), np.uint8),
    "scalar": spaces.Box(-1.0, 1.0, (), np.float32),
    "discrete": spaces.Discrete(4, start=-2),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 4]),
    "multibinary": spaces.MultiBinary(5),
    "tuple": spaces.Tuple((BOX, spaces.Discrete(3, start=7))),
    "dict": spaces.Dict(
        {"a": BOX, "b": spaces.Dict({"c": spaces.MultiBinary(2), "d": spaces.Tuple((spaces.Discrete(3), BOX))})}
    ),
    "large": spaces.Dict(
        {
            "type": spaces.Discrete(1_100, start=-2),
            "a.b": spaces.MultiDiscrete([3, 1_200]),
            "a": spaces.Dict({"b": BOX, "none": spaces.Box(-1.0, 1.0, (0,), np.float32)}),
        }
    ),
    "image_hwc": spaces.Box(0, 255, (84, 84, 3), np.uint8),
    "image_chw": spaces.Box(0, 255, (1, 84, 84), np.uint8),
    "image_stacked": spaces.Box(0, 255, (4, 84, 84, 3), np.uint8),
    "image_grey": spaces.Box(0, 255, (84, 84), np.uint8),
    "image_and_vector": spaces.Dict({"eye": spaces.Box(0, 255, (36, 36, 1), np.uint8), "ear": BOX}),
}
ACTIONS: dict[str, gym.Space[Any]] = {
    "discrete": spaces.Discrete(3),
    "discrete_start": spaces.Discrete(3, start=-5),
    "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "box_asymmetric": spaces.Box(np.array([[-1, 3, 0]] * 2), np.array([[0, 3.5, 200]] * 2), dtype=np.float64),
    "box_unbounded": spaces.Box(-np.inf, np.inf, (1,), np.float32),
    "multidiscrete_matrix": spaces.MultiDiscrete(np.array([[2, 3], [4, 1]])),
    "multidiscrete": spaces.MultiDiscrete([2, 4]),
    "multidiscrete_start": spaces.MultiDiscrete([2, 4], start=[3, -1]),
    "multibinary": spaces.MultiBinary(3),
}
REFUSED: dict[str, gym.Space[Any]] = {"integers": spaces.Box(-5, 5, (2,), np.int64)}
"""Actions that no agent takes."""


class Anything(gym.Env[Any, Any]):
    """Observations drawn from its space; stops at the first action outside of its action space. Episodes of 5 steps."""

    def __init__(self, observation: str = "vector", action: str = "discrete", render_mode: str | None = None) -> None:
        self.observation_space = deepcopy(OBSERVATIONS[observation])  # its generators belong to this one alone
        self.action_space = deepcopy((ACTIONS | REFUSED)[action])
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def _observe(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        return self.observation_space.sample()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.t += 1
        return self._observe(), float(self.np_random.normal()), self.t == 5, False, {}


class Masked(gym.Env[Any, Any]):
    """Allows a few actions, drawn anew at each step and told by `info["action_mask"]` alone; raises on any other."""

    def __init__(self, parts: str = "discrete", image: bool = False, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8) if image else spaces.Box(0, 1, (1,))
        self.sizes = {"discrete": [6], "multidiscrete": [3, 4]}[parts]
        self.action_space: gym.Space[Any] = (
            spaces.Discrete(6, start=10) if parts == "discrete" else spaces.MultiDiscrete(self.sizes)
        )
        self.start = 10 if parts == "discrete" else 0
        self.render_mode = render_mode

    def _tell(self) -> tuple[Any, dict[str, Any]]:
        self.legal = [self.np_random.random(n) < 0.3 for n in self.sizes]
        for legal in self.legal:
            legal[self.np_random.integers(len(legal))] = True
        mask = tuple(legal.astype(np.int8) for legal in self.legal)
        zeros = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)
        return zeros, {"action_mask": mask[0] if len(mask) == 1 else mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._tell()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        for choice, legal in zip(np.ravel(action) - self.start, self.legal, strict=True):
            if not legal[choice]:
                raise ValueError(f"action {action} is illegal")
        self.t += 1
        obs, info = self._tell()
        return obs, 1.0, self.t == 7, False, info


class Clock(gym.Env[Any, Any]):
    """Observes [episode, t]; reward 1 a step and `last` in the last; cut off after `length` steps."""

    def __init__(self, length: int = 5, last: float = 1.0, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.length, self.last, self.render_mode = length, last, render_mode
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return np.array([self.episode, 0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        end = self.t == self.length
        return np.array([self.episode, self.t], np.float32), self.last if end else 1.0, False, end, {}


def clocks(num_envs: int = 1) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Clocks of lengths 3, 4, 5, ... in Gymnasium's default autoreset mode, NEXT_STEP."""
    return gym.vector.SyncVectorEnv([partial(Clock, 3 + n) for n in range(num_envs)])


def register() -> None:
    if "Anything-v0" not in gym.registry:
        gym.register("Anything-v0", f"{__name__}:Anything")
        gym.register("AllowedOnly-v0", f"{__name__}:Masked")
        gym.register("Clock-v0", f"{__name__}:Clock")
        gym.register("ClockVector-v0", vector_entry_point=f"{__name__}:clocks")


SHORT: dict[str, Any] = {"n_steps": 16, "net_arch": [16]}
AGENTS: dict[str, tuple[type[OnPolicy], type[Any], dict[str, Any]]] = {
    "ppo": (PPO, PPOConfig, {"batch_size": 16, "n_epochs": 2}),
    "a2c": (A2C, A2CConfig, {}),
    "reinforce": (Reinforce, ReinforceConfig, {}),
    "ppo lstm": (PPO, PPOConfig, {"batch_size": 32, "n_epochs": 2, "recurrent": "lstm", "hidden_size": 8}),
    "ppo gru": (PPO, PPOConfig, {"batch_size": 16, "n_epochs": 2, "recurrent": "gru", "hidden_size": 8}),
    "a2c lstm": (A2C, A2CConfig, {"recurrent": "lstm", "hidden_size": 8}),
    "reinforce gru": (Reinforce, ReinforceConfig, {"recurrent": "gru", "hidden_size": 8}),
}
"""On-policy agents -> learner, config and knobs of a short rollout, besides `SHORT`."""


def learner(id: str, env: Mapping[str, Any] | None = None, **given: Any) -> PPO:
    """A PPO on the CPU, with short rollouts unless `given` says otherwise."""
    made = on_policy("ppo", id, env, **given)
    assert isinstance(made, PPO)
    return made


def on_policy(
    name: str,
    id: str,
    env: Mapping[str, Any] | None = None,
    *,
    seed: int = 1,
    steps: int = 100_000,
    num_envs: int = 4,
    compile: str = "off",
    episodes: int = 3,
    kwargs: Mapping[str, Any] | None = None,
    **knobs: Any,
) -> Any:
    """One of `AGENTS` on the CPU, with short rollouts unless `knobs` say otherwise."""
    register()
    cls, config_of, defaults = AGENTS[name]
    agent = config_of(**{**SHORT, **defaults, **knobs})
    config = TrainConfig(steps=steps, seed=seed, device="cpu", threads=1, compile=compile, agent=agent)
    own = str(gym.spec(id).entry_point).startswith(__name__)
    backend = "sync" if own else "auto"  # auto measures, and on a busy machine may choose workers
    config.env = EnvConfig(id=id, num_envs=num_envs, kwargs=dict(kwargs or {}), **{"backend": backend, **(env or {})})
    config.evaluate.episodes = episodes
    return cls(config)


def spy_on_batches(learner: Any) -> list[Batch]:
    """The whole batch of every update from now on, as `learn` is given it (a copy: the rollout moves on)."""
    seen: list[Batch] = []
    original = learner.learn

    def learn(batch: Batch) -> Any:
        seen.append(copied(batch))
        return original(batch)

    learner.learn = learn
    return seen


def spy_on_minibatches(learner: Any) -> list[Batch]:
    """Every minibatch from now on, with its `STATISTICS` and the log-probability of its actions by the policy of that
    moment, `log_prob`."""
    seen: list[Batch] = []
    original = learner.loss

    def loss(batch: Batch, *rest: Any) -> Any:
        with torch.no_grad():
            log_prob, _, _ = learner.evaluate_actions(batch)
        loss, statistics = original(batch, *rest)
        seen.append({**batch, "log_prob": log_prob, **dict(zip(STATISTICS, statistics.tolist(), strict=False))})
        return loss, statistics

    learner.loss = loss
    return seen


def same(a: Any, b: Any) -> bool:
    """Bitwise equality of two states: nested dicts and lists of tensors and JSON, a replay's segments made."""
    a, b = (x.make() if isinstance(x, Shared) else x for x in (a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def copied(state: Any) -> Any:
    """A deep copy of a state: `state_dict` gives views of what training goes on to change."""
    if isinstance(state, Shared):
        state = state.make()
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, Mapping):
        return {key: copied(part) for key, part in state.items()}
    return [copied(part) for part in state] if isinstance(state, list | tuple) else state
