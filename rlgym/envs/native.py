"""Environments as array code over all lanes at once, with one generator per lane. A lane behaves as the reference
environment seeded with seed + lane under same-step autoreset. Each generator draws a block of initial states ahead,
which gives the same stream as drawing at every reset and makes resets array code.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar, cast

import numpy as np
from gymnasium import spaces
from gymnasium.utils.seeding import np_random

from rlgym.envs.batch import BatchEnv, Step, Tally
from rlgym.envs.spaces import Array, Obs
from rlgym.learner import Section

AHEAD = 32  # initial states a generator draws at once

LOW_64 = (1 << 64) - 1


class NativeEnv(BatchEnv):
    """Base class; subclasses define the spaces, the bounds of the uniform initial state, and the dynamics."""

    backend = "native"
    initial: ClassVar[tuple[Any, Any, int]]  # low, high, numbers drawn for one initial state
    state_rows: ClassVar[int]  # size of one lane's state

    def __init__(self, id: str, num_envs: int, max_steps: int | None) -> None:
        super().__init__(id, num_envs, self.make_observation_space(), self.make_action_space())
        self.max_steps = max_steps or sys.maxsize // 2
        self.state = np.zeros((self.state_rows, num_envs))
        self.obs = np.zeros((num_envs, *(self.observation_space.shape or ())), np.float32)
        self.reward = np.zeros(num_envs)
        self.terminated = np.zeros(num_envs, bool)
        self._leaf = {"obs": self.obs}
        self._tally = Tally(num_envs)
        self._not_truncated = np.zeros(num_envs, bool)
        self._not_truncated.flags.writeable = False
        self._now = 0  # vector steps so far; a lane's length is now - start, so that counting costs nothing
        self._starts = np.zeros(num_envs, np.int64)
        self._deadline = 0  # no lane reaches max_steps before this step
        self._generators: list[np.random.Generator] = []
        self._ahead = np.zeros((num_envs, AHEAD, self.initial[2]))
        self._used = np.zeros(num_envs, np.int64)
        self._lanes = np.arange(num_envs)

    @staticmethod
    def make_observation_space() -> spaces.Box:
        raise NotImplementedError

    @staticmethod
    def make_action_space() -> spaces.Space[Any]:
        raise NotImplementedError

    def advance(self, actions: Array) -> None:
        """Move all lanes one step: updates `state`, `obs`, `reward`, `terminated` in place."""
        raise NotImplementedError

    def begin(self, lanes: Array, drawn: Array) -> None:
        """Put `lanes` [k] in the initial states `drawn` [k, numbers]: updates `state` and `obs`."""
        raise NotImplementedError

    def reset(self, seed: int) -> Obs:
        self._generators = [np_random(seed + i)[0] for i in range(self.num_envs)]
        self._used[:] = AHEAD
        self._now = 0
        self._tally.clear()
        self._begin(self._lanes)
        self._set_deadline()
        return self._leaf

    def step(self, actions: Array) -> Step:
        self._now += 1
        self.advance(actions)
        self._tally.returns += self.reward
        truncated, ends = self._not_truncated, self.terminated
        if self._now >= self._deadline:
            truncated = self._now - self._starts >= self.max_steps
            ends = self.terminated | truncated
            self._set_deadline()  # otherwise its lane has already ended, or ends now
        if not np.count_nonzero(ends):
            return Step(self._leaf, self.reward, self.terminated, truncated)
        ended = ends.nonzero()[0]
        final = self.obs.copy()
        self._tally.lengths[ended] = self._now - self._starts[ended]
        episodes = self._tally.finish(ended.tolist())
        self._begin(ended)
        return Step(self._leaf, self.reward, self.terminated, truncated, {"obs": final}, episodes=episodes)

    def _begin(self, lanes: Array) -> None:
        used = self._used[lanes]
        exhausted = used == AHEAD
        if np.count_nonzero(exhausted):
            low, high, numbers = self.initial
            for i in lanes[exhausted].tolist():
                self._ahead[i] = self._generators[i].uniform(low, high, size=(AHEAD, numbers))
            used[exhausted] = 0
        self.begin(lanes, self._ahead[lanes, used])
        self._used[lanes] = used + 1
        self._starts[lanes] = self._now

    def _set_deadline(self) -> None:
        """The first step after this one at which some lane can reach max_steps."""
        running = self._starts[self._now - self._starts < self.max_steps]
        self._deadline = (int(running.min()) if running.size else self._now) + self.max_steps

    def state_dict(self) -> Section:
        import torch  # here and not above: --help and environment workers stay free of torch

        arrays = {
            "generators": pack_generators(self._generators),
            "ahead": self._ahead,
            "used": self._used,
            "state": self.state,
            "obs": self.obs,
            "returns": self._tally.returns,
            "lengths": self._now - self._starts,
        }
        return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}

    def load_state_dict(self, section: Section) -> Obs:
        self._generators = unpack_generators(saved(section, "generators", (self.num_envs, 4)))
        self._ahead[:] = saved(section, "ahead", self._ahead.shape)
        self._used[:] = saved(section, "used", self._used.shape, AHEAD)
        self.state[:] = saved(section, "state", self.state.shape)
        self.obs[:] = saved(section, "obs", self.obs.shape)
        self._tally.returns[:] = saved(section, "returns", self._tally.returns.shape)
        self._now = 0
        np.negative(saved(section, "lengths", self._starts.shape, self.max_steps), out=self._starts)
        self._set_deadline()
        return self._leaf


def saved(section: Section, name: str, shape: tuple[int, ...], most: int | None = None) -> Array:
    """An array of a checkpoint's section. ValueError for another shape, or numbers outside of 0 to `most`."""
    found: Array = section[name].numpy()
    if found.shape != shape:
        raise ValueError(f"{name} has shape {list(found.shape)} where the environment's is {list(shape)}")
    if most is not None and found.size and not 0 <= found.min() <= found.max() <= most:
        raise ValueError(f"{name} holds {found.min()} to {found.max()}, and must be 0 to {most}")
    return found


def pack_generators(generators: list[np.random.Generator]) -> Array:
    """The states of Gymnasium's generators (PCG64, nothing of 32 bits drawn), `[n, 4]` int64."""
    states = [cast(dict[str, Any], generator.bit_generator.state)["state"] for generator in generators]
    words = [[s["state"] >> 64, s["state"] & LOW_64, s["inc"] >> 64, s["inc"] & LOW_64] for s in states]
    return np.array(words, np.uint64).view(np.int64)


def unpack_generators(words: Array) -> list[np.random.Generator]:
    generators = []
    for high, low, inc_high, inc_low in words.view(np.uint64).tolist():
        bits = np.random.PCG64()
        state = {"state": high << 64 | low, "inc": inc_high << 64 | inc_low}
        bits.state = cast(Any, {"bit_generator": "PCG64", "state": state, "has_uint32": 0, "uinteger": 0})
        generators.append(np.random.Generator(bits))
    return generators
