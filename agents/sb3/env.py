"""An environment as Stable-Baselines3 sees it: its spaces, and a BatchEnv behind its VecEnv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rlgym.agents.common.networks import module_names
from rlgym.envs.batch import BatchEnv, Episode
from rlgym.envs.spaces import Array, Leaf, Obs

SeenObs = Array | dict[str, Array]
"""[envs, ...], or of a Dict space key -> [envs, ...]."""


class View:
    """Converts spaces and data to the library's form and back.

    A space that is one leaf is that leaf; Dict and Tuple, nested or not, are one flat Dict. Choices count from 0, and
    images are planes [channels, height, width] with values 0 to 255, stacked frames among the channels.
    """

    def __init__(self, leaves: tuple[Leaf, ...], action_space: spaces.Space[Any]) -> None:
        self.leaves = leaves
        names = module_names(leaves)  # the library makes a submodule of each key
        self.parts = {names[leaf.name]: (leaf, _observation_space(leaf)) for leaf in leaves}
        self.whole = not leaves[0].path
        """Whether observations are one array."""
        seen = {key: space for key, (_, space) in self.parts.items()}
        self.observation_space: spaces.Space[Any] = next(iter(seen.values())) if self.whole else spaces.Dict(seen)
        self.env_action_space = action_space
        self.action_space = _action_space(action_space)

    @property
    def policy(self) -> str:
        """The library's name for the kind of policy that reads these observations."""
        if not self.whole:
            return "MultiInputPolicy"
        return "CnnPolicy" if self.leaves[0].kind == "image" else "MlpPolicy"

    def obs(self, obs: Obs) -> SeenObs:
        """A copy of a BatchEnv's observations, which are valid until its next step only."""
        seen = {key: _seen(obs[leaf.name], leaf, space) for key, (leaf, space) in self.parts.items()}
        return next(iter(seen.values())) if self.whole else seen

    def actions(self, actions: Array) -> Array:
        """The library's actions `[envs, ...]` as a BatchEnv takes them."""
        space = self.env_action_space
        shaped: Array = np.asarray(actions).reshape(len(actions), *(space.shape or ()))
        return shaped.astype(space.dtype, copy=False)


class BatchVecEnv(VecEnv):
    """A BatchEnv as the library's VecEnv: an ended episode's last observation is `terminal_observation` of its info,
    `TimeLimit.truncated` is set where only time ended it, and the reset happens in the same step. Its creator resets
    it, with a seed; `reset` returns the current observations.
    """

    def __init__(self, env: BatchEnv, view: View) -> None:
        assert env.num_envs == 1 or not env.phantoms, "there is no way to step some environments and not the others"
        self.env, self.view = env, view
        self.obs: Obs = {}
        """The observations to act on next."""
        self.episodes: list[Episode] = []
        """Ended episodes, for the learner to read and clear."""
        self.steps = 0
        super().__init__(env.num_envs, view.observation_space, view.action_space)

    def reset(self) -> SeenObs:
        return self.view.obs(self.obs)

    def step_async(self, actions: Array) -> None:
        self.chosen = self.view.actions(actions)

    def step_wait(self) -> tuple[SeenObs, Array, Array, list[dict[str, Any]]]:
        step = self.env.step(self.chosen)
        done = step.terminated | step.truncated
        reward = step.reward.astype(np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if step.final_obs is not None:
            final = self.view.obs(step.final_obs)
            cut = step.truncated & ~step.terminated
            for i in np.flatnonzero(done).tolist():
                last = {key: x[i] for key, x in final.items()} if isinstance(final, dict) else final[i]
                infos[i] = {"terminal_observation": last, "TimeLimit.truncated": bool(cut[i])}
        self.episodes += step.episodes
        if self.env.phantoms and done.any():  # a step that only resets is no transition
            step = self.env.step(self.chosen)
        self.obs = step.obs
        self.steps += 1
        return self.view.obs(step.obs), reward, done, infos

    def close(self) -> None:
        self.env.close()

    # ---- what the library asks of single environments, which there are none of

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs

    def get_images(self) -> Sequence[Array | None]:
        return [None] * self.num_envs


def _observation_space(leaf: Leaf) -> spaces.Space[Any]:
    if leaf.kind == "image":
        return spaces.Box(0, 255, image_planes(np.zeros((1, *leaf.shape), np.uint8), leaf).shape[1:], np.uint8)
    if leaf.kind == "onehot":
        return spaces.Discrete(leaf.nvec[0]) if leaf.given == () else spaces.MultiDiscrete(list(leaf.nvec))
    assert leaf.low is not None and leaf.high is not None
    return spaces.Box(leaf.low, leaf.high, leaf.shape, leaf.dtype)


def _seen(obs: Array, leaf: Leaf, space: spaces.Space[Any]) -> Array:
    values = spread(image_planes(obs, leaf), *leaf.pixels) if leaf.kind == "image" else obs
    return np.array(values).reshape(len(obs), *(space.shape or ()))


def image_planes(image: Any, leaf: Leaf) -> Any:
    """Images `[envs, *leaf.shape]`, an array or a tensor, in the environment's own layout as `[envs, channels, height,
    width]`."""
    if leaf.layout.endswith("c"):
        image = image.swapaxes(-1, -2).swapaxes(-2, -3)
    return image.reshape(image.shape[0], -1, *image.shape[-2:])


def spread(image: Any, low: float, high: float) -> Any:
    """Bytes from `low` to `high`, an array or a tensor, spread over 0 to 255, which is what the library divides by."""
    if (low, high) == (0.0, 255.0):
        return image
    wide = (1.0 * image - low) * (255 / max(1.0, high - low))
    wide = wide.round().clip(0, 255)
    return wide.byte() if isinstance(wide, Tensor) else wide.astype(np.uint8)


def _action_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The same choices in the library's form, with a generator of its own."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.ravel())
    if isinstance(space, spaces.MultiBinary):
        return spaces.MultiBinary(math.prod(space.shape))
    assert isinstance(space, spaces.Box)
    return spaces.Box(space.low, space.high, space.shape, space.dtype)
