"""Builds a batched environment from a config, or raises a one-line RequestError."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import time
import traceback
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import gymnasium as gym
from gymnasium.error import DependencyNotInstalled
from gymnasium.wrappers import FrameStackObservation

from rlgym.config.memory import require_memory
from rlgym.config.registry import see_current_folder
from rlgym.config.schema import EnvConfig, TrainConfig
from rlgym.envs import atari, classic, game_ids
from rlgym.envs.batch import BatchEnv
from rlgym.envs.box2d_reset import FreshWorld, keeps_its_world
from rlgym.envs.episodes import ENDLESS
from rlgym.envs.minigrid import GridObservation, is_grid
from rlgym.envs.sync import MakeEnv, SyncEnv
from rlgym.envs.vector import VectorEnv
from rlgym.envs.warnings import quiet, quiet_mujoco
from rlgym.envs.workers import AsyncEnv
from rlgym.errors import RequestError

FAMILIES = {  # the package an environment's code lives in -> what installs it
    "gymnasium.envs.box2d": "rlgym-ssl[box2d]",
    "gymnasium.envs.mujoco": "rlgym-ssl[mujoco]",
    "gymnasium.envs.toy_text": "rlgym-ssl[toy-text]",
    "gymnasium.envs.phys2d": "gymnasium[jax]",
    "gymnasium.envs.tabular": "gymnasium[jax]",
    "ale_py": "rlgym-ssl[atari]",
    "minigrid": "rlgym-ssl[minigrid]",
    "envpool": "rlgym-ssl[envpool]",
}
REGISTERS = {
    "ALE/": "ale_py",
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
}  # prefix of ids -> the package that registers them

PROBE_STEPS = 32
WORTH_WORKERS = 1.5e-3  # seconds that workers must save in a step of all environments: their pipes cost about 0.5e-3


def make_env(config: EnvConfig, *, num_envs: int | None = None, render_mode: str | None = None) -> BatchEnv:
    """The environment of `config`; `num_envs` replaces its number of copies. RequestError where it cannot be built.
    Resolves what the config leaves to the id (`frame_stack`).
    """
    resolve_env(config)
    env = _stepped(config, num_envs or config.num_envs, render_mode)
    env.clip_reward = atari.is_preprocessed(config) and config.atari.clip_reward
    return env


def resolve_env(config: EnvConfig) -> None:
    """Resolve what the config leaves to its id. RequestError where the id is unknown or a key would have no effect."""
    check_id(config.id)
    atari.check(config)
    game_ids.check(config)
    if config.frame_stack == 0:
        config.frame_stack = atari.STACK if atari.is_preprocessed(config) else 1


def refuse(config: TrainConfig) -> None:
    """RequestError where the environment is unknown or a key would have no effect; changes nothing."""
    if ":" in config.env.id:
        see_current_folder()
    resolve_env(deepcopy(config.env))


def _stepped(config: EnvConfig, count: int, render_mode: str | None) -> BatchEnv:
    """Build with the requested backend, else with the fastest one that equals sequential stepping."""
    kwargs = dict(config.kwargs)
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    elif config.backend == "envpool":
        return _envpool(config, count, kwargs)
    elif config.backend in ("auto", "native"):
        native = _native(config, config.id.split(":")[-1], count, kwargs)
        if native is not None:
            return native

    def make() -> gym.Env[Any, Any]:
        return make_one(config, kwargs)

    if config.backend == "async" or (config.backend == "auto" and _repays_workers(make, count)):
        return AsyncEnv(config.id, make, count, check=config.check)
    return SyncEnv(config.id, make, count, check=config.check)


def make_one(config: EnvConfig, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """One environment with its wrappers."""
    resolve_env(config)  # here, too: a worker process only has its own imports
    with quiet(), _explained(config):
        if atari.is_preprocessed(config):
            env = atari.make_game(config, kwargs)
        elif game_ids.is_game(config.id):
            return gym.make(config.id, disable_env_checker=True, **game_ids.arguments(config), **kwargs)
        else:
            models = str(gym.registry[config.id.split(":")[-1]].entry_point).startswith("gymnasium.envs.mujoco")
            with quiet_mujoco() if models else contextlib.nullcontext():
                env = gym.make(config.id, disable_env_checker=True, **kwargs)
        if keeps_its_world(env):
            env = FreshWorld(env)
        elif is_grid(env):
            env = GridObservation(env)
        return FrameStackObservation(env, config.frame_stack) if config.frame_stack > 1 else env


def check_id(id: str) -> None:
    """RequestError unless Gymnasium knows this id."""
    module, _, name = id.rpartition(":")
    if module:
        _import(module, id)
        game_ids.register()  # the import may have added some
    elif name not in gym.registry:
        owner = next((owner for begin, owner in REGISTERS.items() if name.startswith(begin)), None)
        if owner is not None:
            if importlib.util.find_spec(owner) is None:
                raise RequestError(f"env={id} needs a package that is not installed: {_pip(owner)}")
            _import(owner, id)
    if name in gym.registry:
        return
    own = f"{module}:" if module else ""
    if any(spec.id.rpartition("-v")[0] == name for spec in gym.registry.values()):
        versions = sorted(key for key in gym.registry if key.rpartition("-v")[0] == name)
        raise RequestError(f"env={id} names no version - did you mean env={own}{versions[-1]}?")
    by_lower = {key.lower(): key for key in gym.registry}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    hint = f" - did you mean env={own}{by_lower[close[0]]}?" if close else ""
    other = "" if module else f"; one that another package registers is env=MODULE:{name}"
    raise RequestError(f"env={id} not found{hint}{other}")


def episode_limit(config: EnvConfig, wanted: int | None) -> int:
    """Step limit of evaluation episodes: `wanted`, else the environment's time limit, else ENDLESS. RequestError for
    games, which have no limit."""
    resolve_env(config)
    if game_ids.is_game(config.id) and wanted is not None:
        raise RequestError(f"max_episode_steps={wanted} has no effect: a game of env={config.id} ends by its rules")
    limit = config.kwargs.get("max_episode_steps", gym.registry[config.id.split(":")[-1]].max_episode_steps)
    return wanted or (limit if isinstance(limit, int) and limit > 0 else ENDLESS)


def _import(module: str, id: str) -> None:
    try:
        with quiet():
            importlib.import_module(module)
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        raise RequestError(f"env={id}: importing {module} failed: {type(error).__name__}: {words}") from error


def _native(config: EnvConfig, name: str, count: int, kwargs: dict[str, Any]) -> BatchEnv | None:
    """Batched code for this environment, ours or its own; None if there is none and the backend is auto."""
    if game_ids.is_game(name):
        from rlgym.envs.self_play import SelfPlay  # here and not above: worker processes stay free of torch

        return SelfPlay(name, count, config.self_play.opponent, config.self_play.seat)
    if config.frame_stack == 1 and classic.knows(name, kwargs):
        return classic.make_native(name, count, kwargs)
    spec = gym.registry[name]
    if atari.is_game(config.id):
        why = atari.why_not_batched(config)
        if not why:
            require_memory(count * atari.EMULATOR_BYTES)
            with quiet(), _explained(config):
                return VectorEnv(config.id, atari.make_batched(config, count), check=config.check)
        if config.backend == "native":
            raise RequestError(f"env.backend=native: {why}; use auto, sync or async")
    if config.backend == "auto" and spec.entry_point is not None:
        return None
    if config.frame_stack > 1:
        raise RequestError("env.frame_stack > 1 needs env.backend=sync or async, not native")
    if spec.vector_entry_point is None or spec.additional_wrappers:
        raise RequestError(f"env.backend=native: env={config.id} has no batched code; use auto, sync or async")
    with quiet(), _explained(config):
        env = gym.make_vec(config.id, count, vectorization_mode="vector_entry_point", **kwargs)
    return VectorEnv(config.id, env, check=config.check)


def _envpool(config: EnvConfig, count: int, kwargs: dict[str, Any]) -> BatchEnv:
    if importlib.util.find_spec("envpool") is None:
        raise RequestError(f"env.backend=envpool needs a package that is not installed: {_pip('envpool')}")
    from rlgym.envs.envpool import make_pool

    reference = make_one(config, kwargs)
    try:
        with quiet(), _explained(config):
            return make_pool(config, count, reference)
    finally:
        reference.close()


def _repays_workers(make: MakeEnv, count: int) -> bool:
    """Whether worker processes pay off, from timing a few steps of one environment."""
    workers = min(count, os.cpu_count() or 1)
    if workers == 1:
        return False
    env = make()
    try:
        env.reset(seed=0)
        env.action_space.seed(0)
        started = time.perf_counter()
        for _ in range(PROBE_STEPS):
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset()
        cost = (time.perf_counter() - started) / PROBE_STEPS
        return cost * count * (1 - 1 / workers) > WORTH_WORKERS
    except (Exception, SystemExit):  # the error will appear again when training resets it
        return False
    finally:
        env.close()


def _pip(family: str) -> str:
    return f'pip install "{FAMILIES[family]}"'


@contextlib.contextmanager
def _explained(config: EnvConfig) -> Iterator[None]:
    """Turn a constructor's exception into one line."""
    try:
        yield
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        spec = gym.registry.get(config.id.split(":")[-1])
        code = str(spec.entry_point or spec.vector_entry_point) if spec else ""
        words = " ".join(str(error).split()).split("was raised from the environment creator")[0].strip()
        if isinstance(error, DependencyNotInstalled | ImportError):
            family = next((f for f in FAMILIES if code.startswith(f)), None)
            remedy = _pip(family) if family else words
            raise RequestError(f"env={config.id} needs a package that is not installed: {remedy}") from error
        if config.kwargs and isinstance(error, TypeError) and "argument" in words:
            raise RequestError(f"env.kwargs={config.kwargs}: env={config.id} refused: {words}") from error
        given = f" with env.kwargs={config.kwargs}" if config.kwargs else ""
        frame = _raised_at(error)
        what = f"{type(error).__name__} ({frame.filename}:{frame.lineno}): {words or frame.line}"
        raise RequestError(f"env={config.id} could not be made{given}: {what}") from error


def _raised_at(error: BaseException) -> traceback.FrameSummary:
    """Where an error was first raised, since Gymnasium re-raises a constructor's."""
    while error.__cause__ is not None:
        error = error.__cause__
    return traceback.extract_tb(error.__traceback__)[-1]
