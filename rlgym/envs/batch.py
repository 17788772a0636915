"""The interface of batched environments, which all learners act in, whatever the backend."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
from gymnasium import spaces

from rlgym.envs.spaces import Array, Obs, leaves
from rlgym.errors import RequestError
from rlgym.learner import Section

ENV_BYTES = 256
"""Lower bound on the bytes per environment besides its observation (batched code)."""
GOES_ON = "episode_goes_on"
"""Key in the info of a terminated step: an end for learning only (a lost life), the episode continues."""


@dataclass(slots=True)
class Episode:
    """One finished episode of environment `env`: its undiscounted return, its length, and `info["is_success"]`."""

    env: int
    ret: float
    length: int
    success: bool | None = None


@dataclass(slots=True)
class Step:
    """Result of one step of all environments. Arrays belong to the environment and are valid until the next step."""

    obs: Obs  # [envs, ...] next observations: after the reset where an episode ended
    reward: Array  # [envs] float64
    terminated: Array  # [envs] bool
    truncated: Array  # [envs] bool
    final_obs: Obs | None = None  # [envs, ...] final observations, in rows that ended; None if none did
    valid: Array | None = None  # [envs] bool, False in the phantom rows of a NEXT_STEP environment; None: all real
    action_mask: Array | None = None  # [envs, n] bool for the next action; MultiDiscrete: n = sum(nvec)
    episodes: list[Episode] = field(default_factory=list)


class BatchEnv(ABC):
    """`num_envs` copies of one environment. Discrete and MultiDiscrete actions count from 0, whatever their start."""

    backend: str
    """The backend: native (batched code, own or the environment's), sync, async, or envpool."""
    restores: str = "exact"
    """"exact", or a description of what `load_state_dict` cannot restore."""
    restore_report: str = ""
    """One line on what the last `load_state_dict` could not restore; empty if nothing."""
    phantoms: bool = False
    """Whether steps may contain phantom rows (`Step.valid`)."""
    clip_reward: bool = False
    """Whether steps return only the sign of rewards (sync, async and third-party batches); episodes have full
    returns."""

    def __init__(
        self, id: str, num_envs: int, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        self.id = id
        self.num_envs = num_envs
        self.observation_space = observation_space
        self.action_space = action_space
        try:
            self.leaves = leaves(observation_space)
        except RequestError as error:
            raise RequestError(f"env={id}: {error}") from None
        each = sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in self.leaves) + ENV_BYTES
        if num_envs * each > 1 << 30 and num_envs * each > (free := psutil.virtual_memory().available):
            raise RequestError(
                f"env.num_envs={num_envs}: that many take {num_envs * each / 1e9:,.1f} GB at least, and "
                f"{free / 1e9:,.1f} GB are free; lower it"
            )
        self.action_mask: Array | None = None  # for the next action, also after a reset
        self.notices: list[str] = []  # notices for the user, to print and clear
        if not isinstance(action_space, spaces.Discrete | spaces.MultiDiscrete | spaces.Box | spaces.MultiBinary):
            raise RequestError(f"env={id}: {_unsupported(action_space, observation_space)}")
        if not math.prod(action_space.shape or ()):
            raise RequestError(f"env={id}: action space {action_space} holds no numbers: there is nothing to choose")

    @abstractmethod
    def reset(self, seed: int) -> Obs:
        """Reset all; environment i is seeded with seed + i."""

    @abstractmethod
    def step(self, actions: Array) -> Step:
        """Step with one action each: Discrete [envs], others [envs, *shape]. Ended episodes reset in the same call, or
        with `phantoms` in the next."""

    @abstractmethod
    def state_dict(self) -> Section:
        """The state needed for exact continuation, including running episodes."""

    @abstractmethod
    def load_state_dict(self, section: Section) -> Obs:
        """Continue from `state_dict`; returns the observations to act on. Sets `restore_report`."""

    def verify_restores(self) -> bool:
        """Check that a restored fresh copy returns the current observation; if not, set `restores`."""
        return self.restores == "exact"

    def close(self) -> None:  # noqa: B027  nothing to release is a fine default
        """Release processes and windows."""


def _unsupported(actions: spaces.Space[Any], observations: spaces.Space[Any]) -> str:
    """The error for an unsupported action space, with what would do."""
    why = (
        f"action space {type(actions).__name__} is not supported; it can be Discrete, MultiDiscrete, Box or MultiBinary"
    )
    if not isinstance(actions, spaces.Tuple):
        return f"{why}; wrap the environment so that it is"
    agents = isinstance(observations, spaces.Tuple) and len(observations.spaces) == len(actions.spaces)
    several = f"a Tuple of {len(actions.spaces)} "
    several += "actions and as many observations is a multi-agent environment" if agents else "actions"
    return f"{why}; {several}: a wrapper that shows one agent's part, or joins the actions into one space, would do"


class Tally:
    """Running returns and lengths of all environments, independent of wrappers that change rewards."""

    def __init__(self, num_envs: int) -> None:
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)

    def clear(self) -> None:
        self.returns[:] = 0.0
        self.lengths[:] = 0

    def finish(self, ended: Iterable[int], successes: dict[int, bool] | None = None) -> list[Episode]:
        """The ended episodes; resets their tallies."""
        episodes = []
        for i in ended:
            success = successes.get(i) if successes else None
            episodes.append(Episode(i, float(self.returns[i]), int(self.lengths[i]), success))
            self.returns[i] = 0.0
            self.lengths[i] = 0
        return episodes


def mask_size(action_space: spaces.Space[Any]) -> int:
    """Size of an action mask: n for Discrete, sum(nvec) for MultiDiscrete, else 0."""
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    return int(action_space.nvec.sum()) if isinstance(action_space, spaces.MultiDiscrete) else 0
