"""`evaluate model.zip` and `play model.zip`: evaluate or watch a model saved by Stable-Baselines3. Such an archive
holds pickled objects: reading it can run arbitrary code, so it requires trust=true.
"""

from __future__ import annotations

import random
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from rlgym.agents.sb3.env import View
from rlgym.agents.sb3.learner import algorithm_of, check_actions
from rlgym.agents.sb3.policy import SB3Policy
from rlgym.agents.sb3.state import GlobalRandom
from rlgym.config.compose import compose
from rlgym.config.device import pick_device
from rlgym.envs.episodes import fresh_seed
from rlgym.envs.evaluation import evaluate_in
from rlgym.envs.make import episode_limit, make_env
from rlgym.envs.show import show
from rlgym.errors import RequestError

if TYPE_CHECKING:
    from rlgym.config.schema import EnvConfig
    from rlgym.envs.batch import BatchEnv


def evaluate(path: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Play fresh episodes with the model in `path`; prints the results and writes them to a folder of the archive's
    name beside it."""
    policy, config = load_archive(path, words["env"], words["algo"], words["device"], words["trust"])
    config.num_envs = words["num_envs"]
    seed = fresh_seed(0) if words["seed"] is None else words["seed"]
    limit = episode_limit(config, words["max_episode_steps"])
    return evaluate_in(policy, config, path.with_suffix(""), words["episodes"], seed, {"archive": str(path)}, limit)


def play(path: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Show episodes with the model in `path`, in a window or as a video beside the archive."""
    policy, config = load_archive(path, words["env"], words["algo"], "cpu", words["trust"])
    seed = fresh_seed(0) if words["seed"] is None else words["seed"]
    return show(policy, config, path.with_suffix(""), words["episodes"], seed, words["render"])


def load_archive(path: Path, env_id: str, algo: str, device: str, trust: bool) -> tuple[SB3Policy, EnvConfig]:
    """The policy in an archive, and the environment given by `env=ID`."""
    if not path.is_file():
        raise RequestError(f"{path}: no such file")
    if not zipfile.is_zipfile(path):
        raise RequestError(f"{path} is no archive of Stable-Baselines3: not a zip file")
    for key, value in (("env", env_id), ("algo", algo)):
        if not value:
            example = "env=CartPole-v1" if key == "env" else "algo=ppo"
            raise RequestError(f"{key}= is missing: {path} does not say it; give it, as in {example}")
    if not trust:
        raise RequestError(
            f"{path} is a pickle: reading it can run any code that its maker put in; add trust=true if you trust it"
        )
    config: EnvConfig = compose([f"agent=sb3/{algo}", f"env={env_id}", "tuned=off"]).env
    env = make_env(config, num_envs=1)
    try:
        check_actions(f"sb3/{algo}", env)
        view = View(env.leaves, env.action_space)
        model = read_archive(path, algo, pick_device(device))
        _check_fits(path, model, view, env)
    finally:
        env.close()
    return SB3Policy(model.policy, view), config


def read_archive(path: Path, algo: str, device: torch.device) -> Any:
    """The library's model, without buffers. RequestError where the library cannot read it."""
    algorithm = algorithm_of(algo)
    # Only needed for training, and pickled functions often break between versions of Python.
    unused = {"learning_rate": 0.0, "lr_schedule": _zero, "clip_range": 0.2, "clip_range_vf": None}
    rows: Any = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {"n_steps": 2}
    own_random, kept = random.getstate(), GlobalRandom(device)
    try:
        with kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return algorithm.load(path, device=device, custom_objects=unused, **rows)
    except Exception as error:  # unpickling may raise anything
        words = " ".join(str(error).split())[:200]
        raise RequestError(
            f"{path} cannot be read as algo={algo}: {type(error).__name__}: {words}; is it that algorithm's?"
        ) from error
    finally:
        random.setstate(own_random)


def _zero(progress: float) -> float:
    return 0.0


def _check_fits(path: Path, model: Any, view: View, env: BatchEnv) -> None:
    """RequestError unless the archive's spaces have the shapes of the environment's."""
    for kind, theirs, ours in (
        ("observes", model.observation_space, view.observation_space),
        ("acts in", model.action_space, view.action_space),
    ):
        if _shapes(theirs) != _shapes(ours):
            raise RequestError(f"env={env.id}: the model in {path} {kind} {theirs}, and there it would be {ours}")


def _shapes(space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _shapes(part) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(n) for n in space.nvec.ravel())
    return space.shape
