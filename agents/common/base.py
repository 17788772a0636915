"""The base of all agents: environments, device, evaluation, and their part of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from rlgym.agents.common.recent_episodes import RecentEpisodes
from rlgym.config.device import pick_device, resolve_auto
from rlgym.config.registry import resolve
from rlgym.envs.episodes import evaluate_policy, fresh_seed
from rlgym.envs.game_ids import is_game
from rlgym.envs.make import episode_limit, make_env
from rlgym.envs.video import record, require_frames
from rlgym.errors import RequestError, TrainingError
from rlgym.learner import Evaluation, Learner, Monitor, Section, weights_and_gradients
from rlgym.run_folder.manifest import NOT_EXACT
from rlgym.training.load_module import load_module

if TYPE_CHECKING:
    from rlgym.agents.common.policy import Policy
    from rlgym.config.schema import TrainConfig
    from rlgym.envs.batch import BatchEnv
    from rlgym.envs.spaces import Leaf


BY_TRAINING: Monitor = ("rollout/ep_rew_mean", "max")
"""The monitored metric where no second environment can be made for evaluations."""


ENCODING = 2
"""Version of the encoding of observations, in checkpoints; see `as_trained`."""


GAME_SIDE = "rlgym.agents.selfplay.elo:opponents_and_ratings"
"""Builds opponents and ratings of an agent in a game. By name, so that agents in other environments do not import
games."""


class Opponents(Protocol):
    def metrics(self) -> dict[str, float]: ...

    def state_dict(self) -> Section: ...

    def load_state_dict(self, section: Section) -> None: ...


class Ratings(Protocol):
    def evaluate(self, games: int, seed: int) -> Evaluation: ...

    def state_dict(self) -> Section: ...

    def load_state_dict(self, section: Section) -> None: ...


class Agent(Learner):
    """A learner without its algorithm. A subclass sets `policy` and lists the `modules` that it trains."""

    monitor: Monitor = ("eval/mean_reward", "max")
    policy: Policy
    keeps_past_selves = True
    """Whether copies of its policy can be its opponents in a game."""

    def __init__(self, config: TrainConfig, repays_compiling: bool | Callable[[torch.device], bool]) -> None:
        """Starts the environments and resolves the config's automatic choices (backend, device, threads, compile)."""
        self.config = config
        if config.evaluate.video:
            require_frames(config.env)
        self._limit = episode_limit(config.env, config.evaluate.max_episode_steps)
        self.env: BatchEnv = make_env(config.env)
        config.env.backend = self.env.backend
        images = any(leaf.kind == "image" for leaf in self.env.leaves)
        super().__init__(pick_device(config.device, heavy=images))
        self.notices = self.env.notices
        self.exactness = {"environment": self.env.restores, **self.exactness}
        # Two threads slow a small network down.
        repays = repays_compiling if isinstance(repays_compiling, bool) else repays_compiling(self.device)
        resolve_auto(config, self.device, repays, threads=(os.cpu_count() or 1) if images else 1)
        self.pool: Opponents | None = None
        """Past selves to play against; None outside of games."""
        self.ratings: Ratings | None = None
        """Elo ratings; None outside of games."""
        if is_game(config.env.id):
            self.pool, self.ratings = resolve(GAME_SIDE)(self)
            self.unit = "moves"
        self.recent = RecentEpisodes(None if self.pool is None else self.pool.metrics)
        self._evaluation_env: BatchEnv | None = None
        self._evaluated = self._verified = False

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The trained networks by the prefix of their parameters' names in histograms."""
        return {"": cast(nn.Module, self.policy.network)}

    def evaluate(self) -> Evaluation:
        config = self.config
        episodes, seed = config.evaluate.episodes, fresh_seed(config.seed, self.progress.step)
        if self.ratings is not None:
            found = self.ratings.evaluate(episodes, seed)
        elif self.monitor == BY_TRAINING:
            return Evaluation(self.recent.metrics())
        else:
            try:
                if self._evaluation_env is None:
                    self._evaluation_env = make_env(config.env, num_envs=min(episodes, config.env.num_envs))
                found = evaluate_policy(self.policy, self._evaluation_env, episodes, seed, limit=self._limit)
            except (RequestError, TrainingError) as error:
                if self._evaluated:
                    raise
                return self._evaluate_by_training(error)
            self.notices += [] if self._evaluated else found.lines  # later ones appear in the closing words
            self._evaluated = True
        if config.evaluate.video:

            def film(path: Path) -> tuple[np.ndarray, int]:
                video = record(config.env, self.policy, 1, seed, path)
                return video.frames, video.fps

            found.videos["eval/episode"] = film
        return found

    def _evaluate_by_training(self, error: Exception) -> Evaluation:
        """Fall back on training episodes where only one copy of the environment can exist, such as a simulator on a
        port."""
        if self._evaluation_env is not None:
            self._evaluation_env.close()
            self._evaluation_env = None
        self.monitor = BY_TRAINING
        self.notices.append(
            f"no second environment to evaluate in ({error}): the mean return of training's latest episodes, "
            f"{BY_TRAINING[0]}, stands in; once training is over, `evaluate` plays in one of its own"
        )
        return Evaluation(self.recent.metrics())

    def histograms(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for prefix, module in self.modules.items():
            found |= weights_and_gradients(module, prefix)
        return found

    def base_state(self) -> dict[str, Section]:
        """The checkpoint sections of environments and progress."""
        if not self._verified:  # once, on a real episode: check that a fresh environment can be restored to this state
            self._verified = True
            self.env.verify_restores()
            self.exactness["environment"] = self.env.restores
        state: dict[str, Section] = {
            "environment": self.env.state_dict(),
            "progress": {
                **self.progress_state(),
                "num_envs": self.env.num_envs,
                "encoding": ENCODING,
                "recent": [list(episode) for episode in self.recent.episodes],
            },
        }
        if self.pool is not None:
            state["pool"] = self.pool.state_dict()
        if self.ratings is not None:
            state["standings"] = self.ratings.state_dict()
        return state

    def check_base_state(self, state: Mapping[str, Section]) -> None:
        """Check, before anything is loaded, that the checkpoint has as many environments and the same encoding of
        observations."""
        if as_trained(self.env.leaves, state) != self.env.leaves:
            raise RequestError(
                f"this run of env={self.env.id} began when images were divided by 255 whatever their bounds, and large "
                "choices were one-hot: it can be evaluated, played and exported, not resumed; train it anew"
            )
        running = state["progress"]["num_envs"]
        if running != self.env.num_envs:
            raise RequestError(
                f"env.num_envs={self.env.num_envs}: the checkpoint holds {running} running environments, and a resume "
                "goes on with those"
            )

    def load_base_state(self, state: Mapping[str, Section]) -> dict[str, np.ndarray]:
        """Restore progress and environments; returns the observations to act on."""
        progress = self.load_progress(state)
        self.recent.restore(cast(list[Any], progress["recent"]))
        if self.pool is not None:
            self.pool.load_state_dict(state["pool"])
        if self.ratings is not None:
            self.ratings.load_state_dict(state["standings"])
        obs = self.env.load_state_dict(state["environment"])
        if self.env.restore_report:
            self.notices.append(self.env.restore_report)
            if self.env.restores == "exact":  # what happened outweighs the probe's finding
                self._verified = True
                self.exactness["environment"] = self.env.restores = f"{NOT_EXACT}: {self.env.restore_report}"
        return obs

    @classmethod
    def policy_for(cls, config: TrainConfig, env: BatchEnv, device: torch.device) -> Policy:
        """A freshly initialised policy for `env`, seeded by the run's seed; for `load`."""
        raise NotImplementedError

    @classmethod
    def load(cls, config: TrainConfig, state: Mapping[str, Section], device: torch.device, folder: Path) -> Any:
        """The policy of the finished run in `folder`, from its config and a checkpoint."""
        env = make_env(config.env, num_envs=1)
        env.leaves = as_trained(env.leaves, state)
        try:
            policy = cls.policy_for(config, env, device)
        finally:
            env.close()
        load_module(cast(nn.Module, policy.network), state["model"])
        return policy

    def close(self) -> None:
        self.env.close()
        if self._evaluation_env is not None:
            self._evaluation_env.close()


def as_trained(leaves: tuple[Leaf, ...], state: Mapping[str, Section]) -> tuple[Leaf, ...]:
    """The leaves as a checkpoint's network encodes them: early checkpoints divide all images by 255 and one-hot all
    choices."""
    if "encoding" in state.get("progress", {"encoding": ENCODING}):
        return leaves

    def before(leaf: Leaf) -> Leaf:
        if any(leaf.looked_up):
            return replace(leaf, one_hot_at_most=max(leaf.nvec))
        if leaf.kind == "image" and leaf.pixels != (0.0, 255.0):
            return replace(leaf, low=np.zeros(leaf.shape, leaf.dtype), high=np.full(leaf.shape, 255, leaf.dtype))
        return leaf

    return tuple(map(before, leaves))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator for initialising networks, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
