"""Running episodes as data: the start of each and the actions since. Replaying them restores an environment. Works for
environments whose randomness comes from NumPy generators of the environment, its wrappers or its spaces, and for
Atari's emulator, which has a generator of its own and can save its state. Environments with other state across episodes
are detected by comparing the replayed observation.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlgym.envs.spaces import Array
from rlgym.learner import Section

Generators = dict[str, Any]  # name -> state as plain data


@dataclass
class Beginning:
    """The start of an episode: reset(seed=seed), or a plain reset with the generators in these states."""

    seed: int | None = None
    generators: Generators | None = None


@dataclass
class Snapshot:
    """One lane in mid-episode. `last`: the bytes of its latest observation, compared after a replay."""

    beginning: Beginning
    actions: Array  # [time, *action]
    ret: float
    last: str


class History:
    """The actions of all lanes since their episodes began; one array write per step for any number of lanes."""

    def __init__(self, num_envs: int, action_space: spaces.Space[Any]) -> None:
        dtype = np.int64 if isinstance(action_space, spaces.Discrete) else action_space.dtype
        self._log = np.zeros((256, num_envs, *(action_space.shape or ())), dtype)
        self._now = 0
        self._starts = np.zeros(num_envs, np.int64)

    def append(self, actions: Array) -> None:
        if self._now == len(self._log):
            self._make_room()
        self._log[self._now] = actions
        self._now += 1

    def begin(self, lane: int) -> None:
        self._starts[lane] = self._now

    def of(self, lane: int) -> Array:
        return self._log[self._starts[lane] : self._now, lane].copy()

    def load(self, lanes: list[Array]) -> None:
        self._now = max((len(actions) for actions in lanes), default=0)
        size = max(256, 2 * self._now)
        self._log = np.zeros((size, *self._log.shape[1:]), self._log.dtype)
        for lane, actions in enumerate(lanes):
            self._starts[lane] = self._now - len(actions)
            self._log[self._starts[lane] : self._now, lane] = actions

    def _make_room(self) -> None:
        first = int(self._starts.min())
        live = self._log[first:]
        size = len(self._log) * (2 if first < len(self._log) // 2 else 1)
        self._log = np.zeros((size, *live.shape[1:]), live.dtype)
        self._log[: len(live)] = live
        self._now -= first
        self._starts -= first


def seed_spaces(env: gym.Env[Any, Any], seed: int) -> None:
    """Seed the environment's spaces, which it may sample from; unseeded, they use the operating system's entropy."""
    for layer in _layers(env):
        layer.action_space.seed(seed)
        layer.observation_space.seed(seed)


def save_generators(env: gym.Env[Any, Any]) -> Generators:
    return {name: _plain(_get(generator)) for name, generator in _generators(env)}


def load_generators(env: gym.Env[Any, Any], states: Generators) -> None:
    found = dict(_generators(env))
    for name, state in states.items():
        if name not in found:
            raise KeyError(f"the environment has no generator {name}")
        _set(found[name], _arrays(state))


def _layers(env: gym.Env[Any, Any]) -> Iterator[gym.Env[Any, Any]]:
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env
    yield env


def _generators(env: gym.Env[Any, Any]) -> Iterator[tuple[str, Any]]:
    for depth, layer in enumerate(_layers(env)):
        for attribute, value in vars(layer).items():
            yield from _generators_in(value, f"{depth}.{attribute}")


def _generators_in(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, np.random.Generator | np.random.RandomState) or _is_emulator(value):
        yield name, value
    elif isinstance(value, spaces.Space):
        if value._np_random is not None:
            yield name, value._np_random
        if isinstance(value, spaces.Dict):
            for key, part in value.spaces.items():
                yield from _generators_in(part, f"{name}.{key}")
        elif isinstance(value, spaces.Tuple):
            for index, part in enumerate(value.spaces):
                yield from _generators_in(part, f"{name}.{index}")


def _is_emulator(value: Any) -> bool:
    return type(value).__name__ == "ALEInterface"


def _get(generator: Any) -> Any:
    if _is_emulator(generator):
        return base64.b64encode(generator.cloneState(include_rng=True).serialize()).decode()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state(legacy=False)


def _set(generator: Any, state: Any) -> None:
    if _is_emulator(generator):
        import ale_py

        generator.restoreState(ale_py.ALEState(base64.b64decode(state)))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _plain(state: Any) -> Any:
    """A generator's state as JSON, with the dtypes of arrays."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": str(state.dtype), "array": state.tolist()}
    return state.item() if isinstance(state, np.generic) else state


def _arrays(state: Any) -> Any:
    if isinstance(state, dict):
        if set(state) == {"dtype", "array"}:
            return np.array(state["array"], state["dtype"])
        return {key: _arrays(value) for key, value in state.items()}
    return state


def pack(snapshots: list[Snapshot]) -> Section:
    """A checkpoint section: one tensor with the actions, lane after lane, and JSON."""
    import torch  # here and not above: environment workers stay free of torch

    actions = np.concatenate([snapshot.actions for snapshot in snapshots])
    lanes = [
        {
            "seed": snapshot.beginning.seed,
            "generators": snapshot.beginning.generators,
            "steps": len(snapshot.actions),
            "return": snapshot.ret,
            "last": snapshot.last,
        }
        for snapshot in snapshots
    ]
    return {"actions": torch.from_numpy(actions), "lanes": lanes}


def unpack(section: Section) -> list[Snapshot]:
    actions, snapshots, first = section["actions"].numpy(), [], 0
    for lane in section["lanes"]:
        last = first + lane["steps"]
        beginning = Beginning(lane["seed"], lane["generators"])
        snapshots.append(Snapshot(beginning, actions[first:last], lane["return"], lane["last"]))
        first = last
    return snapshots
