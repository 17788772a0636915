"""Adapter for Gymnasium vector environments, in any autoreset mode.

NEXT_STEP (Gymnasium's default): the step after an episode's end ignores its action and returns the new episode's first
observation. Such rows are no transitions and are marked invalid. SAME_STEP: the final observation is in `final_obs`.
DISABLED: ended environments are reset here.
"""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rlgym.envs.batch import BatchEnv, Step, Tally, mask_size
from rlgym.envs.check import Checker
from rlgym.envs.spaces import Array, Obs, empty, flatten, part
from rlgym.envs.sync import action_start, flat_mask, mask_parts, no_number
from rlgym.errors import TrainingError
from rlgym.learner import Section

RESTART = "running episodes start over: a third-party vector environment does not tell its state"


class VectorEnv(BatchEnv):
    backend = "native"
    restores = RESTART

    def __init__(self, id: str, env: gym.vector.VectorEnv[Any, Any, Any], *, check: bool = True) -> None:
        super().__init__(id, env.num_envs, env.single_observation_space, env.single_action_space)
        self.env = env
        self.mode = AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.phantoms = self.mode == AutoresetMode.NEXT_STEP
        self._checker = Checker(id, self.leaves, check=check)
        self.notices = self._checker.notices
        self._tally = Tally(self.num_envs)
        self._ended = np.zeros(self.num_envs, bool)
        self._mask_parts = mask_parts(self.action_space)
        self._mask = np.ones((self.num_envs, mask_size(self.action_space)), bool)
        self._action_start = action_start(self.action_space)
        self._seed = self._resumes = 0

    def reset(self, seed: int) -> Obs:
        self._seed, self._resumes = seed, 0
        return self._reset(seed)

    def _reset(self, seed: int) -> Obs:
        observation, infos = self._try("reset", seed=seed)
        self._tally.clear()
        self._ended = np.zeros(self.num_envs, bool)
        self.action_mask = self._mask if "action_mask" in infos and self._mask_parts else None
        self._read_masks(infos)
        obs = self._flatten(observation)
        self._checker.obs(obs)
        return obs

    def step(self, actions: Array) -> Step:
        actions = actions if self._action_start is None else actions + self._action_start
        observation, rewards, terminations, truncations, infos = self._try("step", actions)
        obs = self._flatten(observation)
        reward = self._numbers(rewards)
        terminated, truncated = np.asarray(terminations, bool), np.asarray(truncations, bool)
        ended = terminated | truncated
        step = Step(obs, reward, terminated, truncated)
        if self.phantoms and self._ended.any():
            step.valid = ~self._ended
            step.reward = reward = np.where(step.valid, reward, 0.0)
            self._tally.lengths += step.valid
        else:
            self._tally.lengths += 1
        self._tally.returns += reward
        self._ended = ended
        if ended.any():
            rows = np.flatnonzero(ended)
            step.episodes = self._tally.finish(rows.tolist(), self._successes(infos, rows))
            step.final_obs, infos = self._final(obs, infos, rows)
            if self.mode == AutoresetMode.DISABLED:
                observation, infos = self._try("reset", options={"reset_mask": ended})
                step.obs = obs = self._flatten(observation)
            self._checker.obs({name: final[rows] for name, final in step.final_obs.items()}, "final observation")
        self._checker.obs(obs)
        self._checker.rewards(reward)
        self._read_masks(infos)
        step.action_mask = self.action_mask
        if self.clip_reward:
            step.reward = np.sign(reward)
        return step

    def _numbers(self, rewards: Any) -> Array:
        """Rewards `[envs]` float64."""
        values = np.asarray(rewards)
        if values.dtype.kind not in "biuf" or values.size != self.num_envs:
            raise no_number(f"{self.id}: the environments", rewards, values.shape[1:])
        return values.reshape(self.num_envs).astype(float)

    def _try(self, doing: str, *arguments: Any, **options: Any) -> Any:
        try:
            *given, infos = getattr(self.env, doing)(*arguments, **options)
            return *given, infos or {}
        except (Exception, SystemExit) as error:
            words = " ".join(str(error).split()) or "no message"
            raise TrainingError(f"{self.id}: {doing} raised {type(error).__name__}: {words}") from error

    def _flatten(self, observation: Any) -> Obs:
        try:
            return flatten(self.leaves, observation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise TrainingError(f"{self.id}: an observation does not fit its space: {error}") from error

    def _final(self, obs: Obs, infos: dict[str, Any], rows: Array) -> tuple[Obs, dict[str, Any]]:
        """Final observations where episodes ended."""
        if self.mode != AutoresetMode.SAME_STEP:
            return {name: batch.copy() for name, batch in obs.items()}, infos
        if "final_obs" not in infos:
            raise TrainingError(f"{self.id}: an episode ended and infos['final_obs'] is missing (autoreset SAME_STEP)")
        given = infos["final_obs"]
        if not (isinstance(given, np.ndarray) and given.dtype == object):  # batched like observations
            return self._flatten(given), infos
        final = empty(self.leaves, self.num_envs)
        for i in rows:
            for leaf in self.leaves:
                value = np.asarray(part(given[i], leaf.path)).reshape(leaf.shape)
                final[leaf.name][i] = value if leaf.start is None else value - leaf.start
        return final, infos

    def _successes(self, infos: dict[str, Any], rows: Array) -> dict[int, bool]:
        infos = infos.get("final_info", infos) if self.mode == AutoresetMode.SAME_STEP else infos
        if not isinstance(infos, dict) or "is_success" not in infos:
            return {}
        known = infos.get("_is_success", np.ones(self.num_envs, bool))
        return {int(i): bool(infos["is_success"][i]) for i in rows if known[i]}

    def _read_masks(self, infos: dict[str, Any]) -> None:
        if self.action_mask is None:
            return
        given, known = infos.get("action_mask"), infos.get("_action_mask", np.ones(self.num_envs, bool))
        for i in range(self.num_envs):
            if self.phantoms and self._ended[i]:
                self._mask[i] = True  # the next action is ignored, and an ended episode may have no legal one
            elif given is None or not known[i]:
                raise TrainingError(f"{self.id}: info['action_mask'] was given at first and is missing now")
            else:
                self._mask[i] = flat_mask(tuple(each[i] for each in given) if isinstance(given, tuple) else given[i])
        self._checker.mask(self._mask, self._mask_parts)

    def state_dict(self) -> Section:
        return {"seed": self._seed, "resumes": self._resumes}

    def load_state_dict(self, section: Section) -> Obs:
        self._seed, self._resumes = int(section["seed"]), int(section["resumes"]) + 1
        self.restore_report = f"{self.id}: {RESTART}"
        return self._reset(self._seed + 1_000_003 * self._resumes)  # do not repeat the first episodes

    def verify_restores(self) -> bool:
        return False

    def close(self) -> None:
        with contextlib.suppress(Exception, SystemExit):  # errors on closing do not matter
            self.env.close()
