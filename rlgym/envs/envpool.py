"""EnvPool's environments (Weng et al. 2022, arXiv:2206.10558): C++ threads step a whole batch in one call. They reset
one step late (NEXT_STEP): the step after an episode's end ignores its action and shows the new episode's first
observation. An episode that terminates in its last allowed step is reported as truncated only. Seeds are fixed at
construction, so a seeded reset rebuilds the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rlgym.config.schema import EnvConfig
from rlgym.envs import atari
from rlgym.envs.spaces import Leaf, leaves
from rlgym.envs.vector import VectorEnv
from rlgym.envs.warnings import quiet
from rlgym.errors import RequestError

ATARI_TAKES = {"repeat_action_probability", "full_action_space", "max_num_frames_per_episode", "obs_type"}


class EnvPoolEnv(VectorEnv):
    backend = "envpool"


class Pool(gym.vector.VectorEnv[Any, Any, Any]):
    """EnvPool through Gymnasium's interface."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, make: Callable[[int], Any], num_envs: int) -> None:
        """`make(seed)` builds the pool; environment i is seeded with seed + i."""
        self.num_envs = num_envs
        self._make = make
        self._pool = make(0)
        self.single_observation_space = self._pool.spec.gymnasium_observation_space
        self.single_action_space = self._pool.spec.gymnasium_action_space

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with quiet():
            if isinstance(seed, int):
                self._pool.close()
                self._pool = self._make(seed % (2**31 - self.num_envs))  # must be an int32 for the last one, too
            return self._pool.reset()[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, rewards, terminations, truncations, _ = self._pool.step(actions)
        return observation, rewards, terminations, truncations, {}

    def close_extras(self, **kwargs: Any) -> None:
        self._pool.close()


def make_pool(config: EnvConfig, num_envs: int, reference: gym.Env[Any, Any]) -> EnvPoolEnv:
    """`num_envs` environments of `config` in EnvPool. RequestError where EnvPool lacks the environment, or its spaces
    differ from `reference`, Gymnasium's own."""
    import envpool

    name = config.id.split(":")[-1]
    game = atari.is_game(config.id)
    task = name.removeprefix("ALE/") if game else name
    if task not in envpool.list_all_envs():
        raise RequestError(f"env.backend=envpool: EnvPool has no {name}; use auto, sync or async")
    options = _game_options(config) if game else dict(config.kwargs)
    if not game and config.frame_stack > 1:
        raise RequestError("env.frame_stack > 1 needs env.backend=sync or async, not envpool")
    env = Pool(lambda seed: envpool.make_gymnasium(task, num_envs=num_envs, seed=seed, **options), num_envs)
    try:
        ours, theirs = leaves(reference.observation_space), leaves(env.single_observation_space)
        same = [_look(leaf) for leaf in ours] == [_look(leaf) for leaf in theirs]
        if not same or not _same_actions(reference.action_space, env.single_action_space):
            raise RequestError(
                f"env.backend=envpool: EnvPool's {task} is not Gymnasium's {name}: observations "
                f"{env.single_observation_space} and actions {env.single_action_space}, not "
                f"{reference.observation_space} and {reference.action_space}; use auto, sync or async"
            )
        return EnvPoolEnv(config.id, env, check=config.check)
    except BaseException:
        env.close()
        raise


def _look(leaf: Leaf) -> tuple[Any, ...]:
    return leaf.name, leaf.kind, leaf.shape, leaf.nvec


def _same_actions(ours: gym.Space[Any], theirs: gym.Space[Any]) -> bool:
    if isinstance(ours, gym.spaces.Box) and isinstance(theirs, gym.spaces.Box):
        return ours.shape == theirs.shape and np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high)
    return ours == theirs


def _game_options(config: EnvConfig) -> dict[str, Any]:
    """EnvPool's names for `env.atari` and the id's arguments."""
    knobs = config.atari
    if not atari.is_preprocessed(config):
        raise RequestError("env.backend=envpool: EnvPool preprocesses every Atari game; use auto, sync or async")
    if knobs.terminal_on_life_loss:
        raise RequestError("env.atari.terminal_on_life_loss needs env.backend=sync or async, not envpool")
    for key, least in (("noop_max", 1), ("frame_skip", 2)):  # its own code goes wrong below
        if getattr(knobs, key) < least:
            raise RequestError(f"env.atari.{key}={getattr(knobs, key)} needs env.backend=sync or async, not envpool")
    others = sorted(config.kwargs.keys() - ATARI_TAKES)
    if others:
        raise RequestError(f"env.backend=envpool: EnvPool's Atari takes no env.kwargs.{others[0]}; use sync or async")
    given = atari.arguments(config)
    frames = given.get("max_num_frames_per_episode") or 108_000
    return {
        "frame_skip": knobs.frame_skip,
        "noop_max": knobs.noop_max,
        "img_height": knobs.screen_size,
        "img_width": knobs.screen_size,
        "stack_num": config.frame_stack,
        "gray_scale": given["obs_type"] == "grayscale",
        "repeat_action_probability": given.get("repeat_action_probability", 0.25),
        "full_action_space": given.get("full_action_space", False),
        "max_episode_steps": -(-frames // knobs.frame_skip),
        "use_fire_reset": False,
        "episodic_life": False,
        "reward_clip": False,
    }
