"""Atari 2600 games as published (Mnih et al. 2015, doi:10.1038/nature14236; Machado et al. 2018, arXiv:1709.06009).

An action is repeated for `frame_skip` frames; the observation is the maximum of the last two (sprites flicker), grey,
resized to a square and stacked: [stack, height, width] uint8, newest last. An episode begins with up to `noop_max`
no-op frames. Single games use Gymnasium's AtariPreprocessing, batches ale_py's own vector environment, which returns
the same frames for the same actions.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import AtariPreprocessing

from rlgym.config.schema import AtariConfig, EnvConfig
from rlgym.envs.batch import GOES_ON
from rlgym.envs.spaces import Array
from rlgym.errors import RequestError

STACK = 4
BATCHED_TAKES = {"obs_type", "repeat_action_probability", "full_action_space", "max_num_frames_per_episode"}


def is_game(id: str) -> bool:
    return str(gym.registry[id.split(":")[-1]].entry_point).startswith("ale_py")


def is_preprocessed(config: EnvConfig) -> bool:
    """Whether `env.atari` applies: to games observed by their screen, unless turned off."""
    return is_game(config.id) and config.atari.preprocess and arguments(config)["obs_type"] != "ram"


def check(config: EnvConfig) -> None:
    """RequestError where a key of `env.atari` would have no effect."""
    if is_preprocessed(config):
        if "frameskip" in config.kwargs:
            raise RequestError(f"env.kwargs.frameskip={config.kwargs['frameskip']}: say it as env.atari.frame_skip")
        return
    plain, why = asdict(AtariConfig()), f"env={config.id} is no Atari game"
    if is_game(config.id):
        plain["preprocess"], why = config.atari.preprocess, f"env={config.id} shows memory, no screen"
        why = why if config.atari.preprocess else "env.atari.preprocess=false"
    for key, value in asdict(config.atari).items():
        if value != plain[key]:
            shown = str(value).lower() if isinstance(value, bool) else value
            raise RequestError(f"env.atari.{key}={shown} has no effect because {why}")


def make_game(config: EnvConfig, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """One game, preprocessed and not yet stacked."""
    import cv2

    cv2.setNumThreads(1)  # threads do not pay off for one screen
    _be_quiet()
    obs_type, knobs = arguments(config)["obs_type"], config.atari
    env = gym.make(config.id, disable_env_checker=True, **{**kwargs, "obs_type": obs_type, "frameskip": 1})
    env = AtariPreprocessing(
        env,
        noop_max=knobs.noop_max,
        frame_skip=knobs.frame_skip,
        screen_size=knobs.screen_size,
        grayscale_obs=obs_type == "grayscale",
    )
    return LifeLoss(env) if knobs.terminal_on_life_loss else env


def why_not_batched(config: EnvConfig) -> str:
    """Why ale_py's vector environment cannot play this; empty if it can."""
    if gym.registry[config.id.split(":")[-1]].vector_entry_point is None:
        return f"ale_py has batched code for ids like ALE/Pong-v5 only, not for env={config.id}"
    if not is_preprocessed(config):
        return "ale_py's batched code plays preprocessed games only"
    if config.atari.terminal_on_life_loss:
        return "env.atari.terminal_on_life_loss: ale_py's batched code would begin a new game with each life"
    others = sorted(config.kwargs.keys() - BATCHED_TAKES)
    return f"ale_py's batched code takes no env.kwargs.{others[0]}" if others else ""


EMULATOR_BYTES = 0.9e6
"""Memory of one of ale_py's games, with a stack of four screens of 84 x 84."""


def make_batched(config: EnvConfig, num_envs: int) -> gym.vector.VectorEnv[Any, Any, Any]:
    """`num_envs` games in ale_py's own threads, with stacked frames."""
    _be_quiet()
    knobs = config.atari
    kwargs = {key: value for key, value in config.kwargs.items() if key != "obs_type"}
    env = gym.make_vec(
        config.id,
        num_envs,
        vectorization_mode="vector_entry_point",
        **kwargs,
        frameskip=knobs.frame_skip,
        maxpool=knobs.frame_skip > 1,
        grayscale=arguments(config)["obs_type"] == "grayscale",
        img_height=knobs.screen_size,
        img_width=knobs.screen_size,
        stack_num=config.frame_stack,
        noop_max=knobs.noop_max,
        use_fire_reset=False,
        reward_clipping=False,
        autoreset_mode=AutoresetMode.SAME_STEP,
    )
    return FirstFrameRepeated(env)


def arguments(config: EnvConfig) -> dict[str, Any]:
    """Constructor arguments of the game: grey, unless the id observes RAM or env.kwargs overrides it."""
    own = gym.registry[config.id.split(":")[-1]].kwargs
    obs_type = "ram" if own.get("obs_type") == "ram" else "grayscale"
    return {**own, "obs_type": obs_type, **config.kwargs}


def _be_quiet() -> None:
    import ale_py

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # else each process prints a banner on stderr


class LifeLoss(gym.Wrapper[Any, Any, Any, Any]):
    """Terminates the episode at a lost life while the game continues (Mnih et al. 2015): marked GOES_ON in the info,
    and the next reset does not restart the game."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.lives = 0
        self.now: tuple[Any, dict[str, Any]] | None = None  # info of a reset while the game continues

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        before, self.lives = self.lives, info["lives"]
        if terminated or truncated or not 0 < self.lives < before:
            return observation, reward, terminated, truncated, info
        self.now = observation, info
        return observation, reward, True, False, {**info, GOES_ON: True}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        now, self.now = self.now, None
        if now is not None and seed is None:
            return now
        observation, info = self.env.reset(seed=seed, options=options)
        self.lives = info["lives"]
        return observation, info


class FirstFrameRepeated(gym.vector.VectorWrapper[Any, Any, Any]):
    """Repeats an episode's first frame in its stack, as FrameStackObservation does and as a replay that stores each
    frame once requires; ale_py leaves these frames black."""

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.stack = (env.single_observation_space.shape or (1,))[0]
        self.ages = np.zeros(env.num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if isinstance(seed, int):
            seed %= 2**31 - self.num_envs  # ale_py adds the lane number to it as an int32
        obs, infos = self.env.reset(seed=seed, options=options)
        self.ages[:] = 0
        return self._repeat(obs), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, rewards, terminations, truncations, infos = self.env.step(actions)
        self.ages += 1
        ended = terminations | truncations
        if ended.any():
            infos["final_obs"] = self._repeat(infos["final_obs"])
            self.ages[ended] = 0
        return self._repeat(obs), rewards, terminations, truncations, infos

    def _repeat(self, obs: Array) -> Array:
        for lane in np.flatnonzero(self.ages < self.stack - 1):
            first = self.stack - 1 - self.ages[lane]
            obs[lane, :first] = obs[lane, first]
        return obs
