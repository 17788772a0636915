"""One-hot observations of MiniGrid and BabyAI. The view is a grid of cells coded as (object, colour, state), categories
that are encoded one-hot as in MiniGrid's OneHotPartialObsWrapper. The mission is a sentence: dropped where an
environment has only one, else encoded as one-hot words in order. Only reaching the goal is rewarded, so a reward means
success.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlgym.envs.spaces import Array

WORDS = 50
"""Words of the longest supported mission."""


def is_grid(env: gym.Env[Any, Any]) -> bool:
    """Whether this is a MiniGrid environment with MiniGrid's own observations (no other wrapper)."""
    space = env.observation_space
    if not isinstance(space, spaces.Dict) or set(space.spaces) != {"image", "direction", "mission"}:
        return False
    return any(base.__module__.startswith("minigrid.") for base in type(env.unwrapped).__mro__)


class GridObservation(gym.ObservationWrapper[Any, Any, Any]):
    """Leaves image [cells * 20] and mission [50 * words] as uint8 zeros and ones, and direction; `is_success` in the
    info of an episode's last step."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        from minigrid.core.constants import COLOR_TO_IDX, OBJECT_TO_IDX, STATE_TO_IDX
        from minigrid.core.mission import MissionSpace
        from minigrid.wrappers import DictObservationSpaceWrapper

        super().__init__(env)
        words: Callable[[], dict[str, int]] = DictObservationSpaceWrapper.get_minigrid_words
        given = env.observation_space
        assert isinstance(given, spaces.Dict)
        width, height, _ = given["image"].shape or (0, 0, 0)
        # "agent_dir" shares the third number of a cell with a door's state: in a full view it goes up to 3
        sizes = len(OBJECT_TO_IDX), len(COLOR_TO_IDX), max(len(STATE_TO_IDX), 4)
        self._starts = np.cumsum([0, *sizes[:2]])
        self._ones = np.eye(sum(sizes), dtype=np.uint8)
        self._vocabulary = {word: i for i, word in enumerate(words())}
        space: dict[str, spaces.Space[Any]] = {
            "image": spaces.Box(0, 1, (width * height * sum(sizes),), np.uint8),
            "direction": given["direction"],
        }
        mission = given["mission"]
        self._reads = type(mission) is not MissionSpace or mission.ordered_placeholders is not None
        if self._reads:
            space["mission"] = spaces.Box(0, 1, (WORDS * len(self._vocabulary),), np.uint8)
        self.observation_space = spaces.Dict(space)
        self._read: dict[str, Array] = {}  # missions seen so far

    def observation(self, observation: Any) -> dict[str, Any]:
        cells = observation["image"].reshape(-1, 3) + self._starts
        seen: dict[str, Any] = {
            "image": self._ones[cells].sum(axis=1, dtype=np.uint8).ravel(),
            "direction": observation["direction"],
        }
        if self._reads:
            text = observation["mission"]
            seen["mission"] = self._read[text] if text in self._read else self._remember(text)
        return seen

    def _remember(self, text: str) -> Array:
        words = text.lower().replace(",", " , ").split()
        unknown = [word for word in words if word not in self._vocabulary]
        if unknown or len(words) > WORDS:
            why = f"the word {unknown[0]!r}" if unknown else f"{len(words)} words"
            raise ValueError(f"the mission {text!r} has {why}: MiniGrid's own vocabulary and {WORDS} words are read")
        ones = np.zeros((WORDS, len(self._vocabulary)), np.uint8)
        ones[np.arange(len(words)), [self._vocabulary[word] for word in words]] = 1
        self._read[text] = ones.ravel()
        return self._read[text]

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if terminated or truncated:
            info = {**info, "is_success": float(reward) > 0}
        return observation, reward, terminated, truncated, info
