"""Steps that nobody computed, and a plain list of the transitions in them: what a replay is held against."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlgym.agents.off_policy.replay import Replay
from rlgym.envs.batch import Step
from rlgym.envs.spaces import Array, Obs, leaves

SPACES: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-1e6, 1e6, (3,), np.float32),
    "frame": spaces.Box(0, 255, (2, 2), np.uint8),
    "dict": spaces.Dict(
        {"a": spaces.Box(-1e6, 1e6, (2,), np.float64), "b": spaces.Tuple((spaces.Discrete(7), spaces.MultiBinary(2)))}
    ),
}


@dataclass
class Transition:
    obs: Obs  # leaf -> [*leaf]
    action: Any
    reward: float
    next_obs: Obs
    next_mask: Array | None
    terminated: bool
    truncated: bool


class Past:
    """Random steps of `envs` environments with episodes of 1 to 9 steps, in either autoreset mode. `replay` is told of
    them as a learner tells it; `lanes[i]` lists what environment i went through."""

    def __init__(
        self,
        envs: int,
        capacity: int,
        *,
        space: str = "vector",
        stack: int = 1,
        phantoms: bool = False,
        masks: bool = False,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        single = SPACES[space]
        self.single = leaves(single)
        stacked = [
            SimpleNamespace(name=leaf.name, dtype=leaf.dtype, shape=(stack, *leaf.shape) if stack > 1 else leaf.shape)
            for leaf in self.single
        ]
        self.env: Any = SimpleNamespace(num_envs=envs, leaves=stacked, phantoms=phantoms, id="Past-v0")
        self.envs, self.capacity, self.stack, self.phantoms, self.masks = envs, capacity, stack, phantoms, masks
        self.device = torch.device(device)
        self.rng = np.random.default_rng(seed)
        self.lanes: list[list[Transition]] = [[] for _ in range(envs)]
        self.frames = [deque[Obs](maxlen=stack) for _ in range(envs)]
        self.ended = np.zeros(envs, bool)
        for lane in range(envs):
            self._reset(lane)
        self.mask = self._draw_mask()
        self.replay = self.fresh()
        self.replay.start(self.obs(), self.mask)

    def fresh(self) -> Replay:
        """A replay as this one's was before the first step."""
        return Replay(self.capacity, self.env, (), torch.int64, self.device, self.stack)

    def _frame(self) -> Obs:
        drawn = {}
        for leaf in self.single:
            high = {"vector": 200, "onehot": 7}.get(leaf.kind, 200) if leaf.dtype != np.int8 else 2
            drawn[leaf.name] = self.rng.integers(high, size=leaf.shape).astype(leaf.dtype)
        return drawn

    def _reset(self, lane: int) -> None:
        first = self._frame()
        self.frames[lane].extend([first] * self.stack)

    def _stacked(self, lane: int) -> Obs:
        frames = self.frames[lane]
        if self.stack == 1:
            return frames[-1]
        return {name: np.stack([frame[name] for frame in frames]) for name in frames[-1]}

    def obs(self) -> Obs:
        each = [self._stacked(lane) for lane in range(self.envs)]
        return {name: np.stack([obs[name] for obs in each]) for name in each[0]}

    def _draw_mask(self) -> Array | None:
        return self.rng.random((self.envs, 5)) < 0.6 if self.masks else None

    def step(self) -> tuple[Array, Step]:
        """One step of all; returns what the replay was told."""
        before = [self._stacked(lane) for lane in range(self.envs)]
        action = self.rng.integers(5, size=self.envs)
        reward = self.rng.normal(size=self.envs)
        phantom = self.ended if self.phantoms else np.zeros(self.envs, bool)
        end = (self.rng.random(self.envs) < 0.3) & ~phantom
        which = self.rng.integers(3, size=self.envs)  # terminated, truncated, or both at once
        terminated, truncated = end & (which != 1), end & (which != 0)
        mask = self._draw_mask()
        for lane in range(self.envs):
            if phantom[lane]:
                self._reset(lane)
            else:
                self.frames[lane].append(self._frame())
        true_next = [self._stacked(lane) for lane in range(self.envs)]
        final = self.obs() if end.any() else None
        for lane in np.flatnonzero(~phantom).tolist():
            # of the state after an end nobody says what is legal
            legal = None if mask is None else np.ones(5, bool) if end[lane] else mask[lane]
            self.lanes[lane].append(
                Transition(
                    before[lane], action[lane], float(reward[lane]), true_next[lane], legal,
                    bool(terminated[lane]), bool(truncated[lane]),
                )
            )  # fmt: skip
        if not self.phantoms:
            for lane in np.flatnonzero(end).tolist():
                self._reset(lane)
        self.ended, self.mask = end, mask
        valid = ~phantom if self.phantoms and phantom.any() else None
        step = Step(self.obs(), reward, terminated, truncated, final, valid, mask)
        self.replay.add(action, step)
        return action, step

    def run(self, steps: int) -> Past:
        for _ in range(steps):
            self.step()
        return self

    def n_step(self, lane: int, at: int, n: int, gamma: float) -> dict[str, Any]:
        """What `Replay.gather` promises of transition `at` of a lane, by a plain loop."""
        reward, scale = 0.0, 1.0
        for used in range(n):
            last = self.lanes[lane][at + used]
            reward += scale * last.reward
            scale *= gamma
            if last.terminated or last.truncated:
                break
        begin = self.lanes[lane][at]
        return {
            "obs": begin.obs,
            "action": begin.action,
            "reward": reward,
            "discount": 0.0 if last.terminated else scale,
            "next_obs": None if last.terminated else last.next_obs,
            "next_mask": last.next_mask,
        }


def everything(replay: Replay, n_step: int = 1) -> tuple[list[tuple[int, int]], torch.Tensor]:
    """(lane, number) of each transition that can be drawn, and the places."""
    first, last = replay.window(n_step)
    numbers = [(i, a) for i in range(replay.envs) for a in range(int(first[i]), int(last[i]))]
    places = [i * replay.rows + a % replay.rows for i, a in numbers]
    return numbers, torch.tensor(places, dtype=torch.int64, device=replay.device)


def same_content(a: Replay, b: Replay) -> bool:
    """Whether two replays hold the same transitions and would draw and gather the same, bit for bit."""
    if (a.written != b.written).any() or a.size() != b.size():
        return False
    standing = a._observations(a._running_rows()), b._observations(b._running_rows())
    if any(not torch.equal(standing[0][name], standing[1][name]) for name in standing[0]):
        return False
    for n_step in (1, 3):
        _, places = everything(a, n_step)
        found, expected = a.gather(places, n_step, 0.9), b.gather(places, n_step, 0.9)
        for key, x in expected.items():
            parts = x if isinstance(x, dict) else {"": x}
            for name, part in parts.items():
                got = found[key][name] if isinstance(x, dict) else found[key]
                if (part is None) != (got is None) or (part is not None and not torch.equal(part, got)):
                    return False
        if len(places):
            one, other = (r.draw(50, torch.Generator(r.device).manual_seed(1), n_step) for r in (a, b))
            if not torch.equal(one, other):
                return False
    return True
