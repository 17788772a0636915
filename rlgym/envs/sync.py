"""Environments stepped one after the other in this process, with same-step autoreset.

Equal to Gymnasium's SyncVectorEnv(autoreset_mode=SAME_STEP) step for step; observations are written straight into one
array and infos are read where they arise, not merged.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlgym.config.memory import require_memory, resident_memory
from rlgym.envs.batch import GOES_ON, BatchEnv, Step, Tally, mask_size
from rlgym.envs.buffers import Buffers, allocate
from rlgym.envs.check import Checker
from rlgym.envs.snapshot import (
    Beginning,
    History,
    Snapshot,
    load_generators,
    pack,
    save_generators,
    seed_spaces,
    unpack,
)
from rlgym.envs.spaces import Array, Leaf, Obs, part
from rlgym.errors import TrainingError
from rlgym.learner import Section

NUMBERS = (float, int, np.number, np.bool_)  # of rewards
MakeEnv = Callable[[], "gym.Env[Any, Any]"]


class SyncEnv(BatchEnv):
    backend = "sync"

    def __init__(
        self,
        id: str,
        make: MakeEnv,
        num_envs: int,
        *,
        check: bool = True,
        buffers: Buffers | None = None,
        first: int = 0,
    ) -> None:
        """`buffers`: memory to write to instead of its own; `first`: number of the first environment."""
        self.envs = [make()]
        try:
            super().__init__(id, num_envs, self.envs[0].observation_space, self.envs[0].action_space)
            before = resident_memory()
            while (built := len(self.envs)) < num_envs:
                self.envs.append(make())
                if built >= 16 and built & (built - 1) == 0:  # at 16, 32, 64, ...: estimate the memory of the rest
                    require_memory((resident_memory() - before) / built * (num_envs - built))
        except BaseException:
            self.close()
            raise
        self._first = first
        self._make = make
        self._steps = [env.step for env in self.envs]
        self._buffers = buffers or allocate(self.leaves, num_envs, mask_size(self.action_space))
        self._checker = Checker(id, self.leaves, check=check, first=first)
        self.notices, self.said = self._checker.notices, self._checker.said
        self._tally = Tally(num_envs)
        self._history = History(num_envs, self.action_space)
        self._beginnings = [Beginning() for _ in range(num_envs)]
        self._action_start = action_start(self.action_space)
        self._mask_parts = mask_parts(self.action_space)
        # fast path for a space that is one plain array
        self._sole = self.leaves[0] if not self.leaves[0].path and self.leaves[0].kind != "onehot" else None

    def reset(self, seed: int) -> Obs:
        self._tally.clear()
        masks: list[Any] = []
        for i, env in enumerate(self.envs):
            seed_spaces(env, seed + i)
            self._beginnings[i] = Beginning(seed=seed + i)
            observation, info = self._guard("reset", i, env.reset, seed=seed + i)
            self._write(observation, self._buffers.obs, i)
            masks.append(_mask_in(info))
            self._history.begin(i)
        self._take_masks(masks)
        self._checker.obs(self._buffers.obs)
        return self._buffers.obs

    def step(self, actions: Array) -> Step:
        self._history.append(actions)
        buffers, masked = self._buffers, self.action_mask is not None
        reward, terminated, truncated = buffers.reward, buffers.terminated, buffers.truncated
        obs = buffers.obs
        array = obs[self.leaves[0].name]
        shape, dtype = (self._sole.shape, self._sole.dtype) if self._sole else (None, None)
        ended: list[int] = []
        over: list[int] = []  # whole episodes, not only the learner's
        successes: dict[int, bool] = {}
        doing = "step"
        i = 0
        try:
            for i, action in enumerate(self._given(actions)):
                observation, given, terminated[i], truncated[i], info = self._steps[i](action)
                reward[i] = given if isinstance(given, NUMBERS) else self._number(given, i)
                if terminated[i] or truncated[i]:
                    ended.append(i)
                    self._write(observation, buffers.final, i)
                    if info and "is_success" in info:
                        successes[i] = bool(info["is_success"])
                    doing = "reset"
                    if not info or GOES_ON not in info:
                        over.append(i)
                        self._beginnings[i] = Beginning(generators=save_generators(self.envs[i]))
                        self._history.begin(i)
                    observation, info = self.envs[i].reset()
                    doing = "step"
                if type(observation) is np.ndarray and observation.dtype is dtype and observation.shape == shape:
                    array[i] = observation
                else:
                    self._write(observation, obs, i)
                if masked:
                    self._write_mask(_mask_in(info), i)
                elif info and "action_mask" in info and self._mask_parts:
                    raise TrainingError(f"{self.id}: step gave info['action_mask'], the reset before it did not")
        except TrainingError:
            raise
        except (Exception, SystemExit) as error:
            raise self._fault(doing, i, error) from error
        self._tally.returns += reward
        self._tally.lengths += 1
        self._checker.obs(obs)
        self._checker.rewards(reward)
        if masked:
            self._checker.mask(buffers.mask, self._mask_parts)
        reward_given = np.sign(reward) if self.clip_reward else reward
        step = Step(obs, reward_given, terminated, truncated, action_mask=self.action_mask)
        if ended:
            self._checker.obs({name: final[ended] for name, final in buffers.final.items()}, "final observation")
            step.final_obs = buffers.final
            step.episodes = self._tally.finish(over, successes)
        return step

    # -- one lane ----------------------------------------------------------------------------------------------------

    def _guard(self, doing: str, i: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except (Exception, SystemExit) as error:
            raise self._fault(doing, i, error) from error

    def _fault(self, doing: str, i: int, error: BaseException) -> TrainingError:
        words = " ".join(str(error).split()) or "no message"
        where = f"{doing} of environment {self._first + i}"
        return TrainingError(f"{self.id}: {where} raised {type(error).__name__}: {words}")

    def _given(self, actions: Array) -> Any:
        """Convert `actions [n, ...]` for the single environments. Copies, since an environment may keep or change them;
        a 0-d Box takes 0-d arrays."""
        given = actions.copy() if self._action_start is None else actions + self._action_start
        scalars = given.ndim == 1 and isinstance(self.action_space, spaces.Box)
        return [np.array(action) for action in given] if scalars else given

    def _number(self, reward: Any, i: int) -> float:
        """Convert a reward that is no plain number, such as an array of one."""
        value = np.asarray(reward)
        if value.size == 1 and value.dtype.kind in "biuf":
            return float(value.item())
        raise no_number(f"{self.id}: environment {self._first + i}", reward, value.shape)

    def _write(self, observation: Any, into: Obs, i: int) -> None:
        for leaf in self.leaves:
            into[leaf.name][i] = self._array(observation, leaf)

    def _array(self, observation: Any, leaf: Leaf) -> Array:
        try:
            value = np.asarray(part(observation, leaf.path))
        except (KeyError, IndexError, TypeError) as error:
            raise TrainingError(f"{self.id}: the observation has no {leaf.name}, which its space declares") from error
        if value.shape != leaf.given:
            raise TrainingError(f"{self.id}: observation {leaf.name} has shape {value.shape}, its space {leaf.given}")
        if not np.can_cast(value.dtype, leaf.dtype, "same_kind"):
            raise TrainingError(f"{self.id}: observation {leaf.name} has dtype {value.dtype}, its space {leaf.dtype}")
        value = value.reshape(leaf.shape)
        return value if leaf.start is None else value - leaf.start

    # -- action masks ------------------------------------------------------------------------------------------------

    def _take_masks(self, masks: list[Any]) -> None:
        """After a reset: detect whether this environment has action masks, and store the first ones."""
        given = bool(self._mask_parts) and any(mask is not None for mask in masks)
        self.action_mask = self._buffers.mask if given else None
        if given:
            for i, mask in enumerate(masks):
                self._write_mask(mask, i)
            self._checker.mask(self._buffers.mask, self._mask_parts)

    def _write_mask(self, mask: Any, i: int) -> None:
        if mask is None:
            raise TrainingError(f"{self.id}: info['action_mask'] was given at first and is missing now")
        flat = flat_mask(mask)
        if flat.shape != self._buffers.mask[i].shape:
            want = self._buffers.mask.shape[1]
            raise TrainingError(f"{self.id}: info['action_mask'] has {flat.size} entries, the actions have {want}")
        self._buffers.mask[i] = flat

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def snapshots(self) -> list[Snapshot]:
        return [
            Snapshot(self._beginnings[i], self._history.of(i), float(self._tally.returns[i]), self._last(i))
            for i in range(self.num_envs)
        ]

    def restore(self, snapshots: list[Snapshot]) -> list[int]:
        """Restore every lane; returns the lanes that could not be restored, which start a new episode."""
        lost = []
        masks = []
        for i, (env, snapshot) in enumerate(zip(self.envs, snapshots, strict=True)):
            info = self._replay(env, snapshot, i)
            if info is None:
                lost.append(i)
                self._beginnings[i] = Beginning(seed=(snapshot.beginning.seed or 0) + 1_000_003 * (i + 1))
                observation, info = self._guard("reset", i, env.reset, seed=self._beginnings[i].seed)
                self._write(observation, self._buffers.obs, i)
            else:
                self._beginnings[i] = snapshot.beginning
            masks.append(_mask_in(info))
        actions = [s.actions[:0] if i in lost else s.actions for i, s in enumerate(snapshots)]
        self._history.load(actions)
        self._tally.lengths[:] = [len(lane) for lane in actions]
        self._tally.returns[:] = [0.0 if i in lost else s.ret for i, s in enumerate(snapshots)]
        self._take_masks(masks)
        return lost

    def _replay(self, env: gym.Env[Any, Any], snapshot: Snapshot, i: int) -> dict[str, Any] | None:
        """Replay into lane i; returns its info, or None if the replay ended in another observation."""
        beginning = snapshot.beginning
        try:
            seed_spaces(env, beginning.seed or 0)
            if beginning.generators is None:
                observation, info = env.reset(seed=beginning.seed)
            else:
                env.reset(seed=0)  # creates the generators
                load_generators(env, beginning.generators)
                observation, info = env.reset()
            for action in self._given(snapshot.actions):
                observation, _, terminated, truncated, info = env.step(action)
                if terminated or truncated:
                    if not info or GOES_ON not in info:
                        return None
                    observation, info = env.reset()
            self._write(observation, self._buffers.obs, i)
        except (Exception, SystemExit):
            return None
        return (info or {}) if self._last(i) == snapshot.last else None

    def _last(self, i: int) -> str:
        return base64.b64encode(b"".join(array[i].tobytes() for array in self._buffers.obs.values())).decode()

    def state_dict(self) -> Section:
        return pack(self.snapshots())

    def load_state_dict(self, section: Section) -> Obs:
        self.restore_report = lost_words(self.id, self.restore(unpack(section)), self.num_envs)
        return self._buffers.obs

    def verify_restores(self) -> bool:
        self.restores = self.try_restore()
        return self.restores == "exact"

    def try_restore(self) -> str:
        """Restore lane 0 into a fresh environment and compare; returns the value for `restores`."""
        snapshot = self.snapshots()[0]
        try:
            probe = SyncEnv(self.id, self._make, 1, check=False)
        except Exception as error:  # only one copy can exist, such as a simulator on a port
            return f"running episodes start over: no second environment could be made to try it on ({error})"
        try:
            restored = probe.restore([snapshot]) == []
        except TrainingError:
            restored = False
        finally:
            probe.close()
        return "exact" if restored else "running episodes start over: replaying one did not give its observation again"

    def close(self) -> None:
        for env in self.envs:
            with contextlib.suppress(Exception, SystemExit):  # errors on closing do not matter
                env.close()


def no_number(who: str, reward: Any, shape: tuple[int, ...]) -> TrainingError:
    """The error for rewards that are no single number."""
    if not shape:
        return TrainingError(f"{who} returned the reward {reward!r}, which is no number")
    return TrainingError(
        f"{who} returned a reward of shape {shape}, and a reward is one number here; a wrapper that weighs them into "
        "one, as MO-Gymnasium's LinearReward does, would do"
    )


def _mask_in(info: dict[str, Any] | None) -> Any:
    return info.get("action_mask") if info else None


def lost_words(id: str, lost: list[int], num_envs: int) -> str:
    if not lost:
        return ""
    return f"{id}: {len(lost)} of {num_envs} running episodes could not be restored and start over"


def action_start(space: spaces.Space[Any]) -> Array | None:
    """The start of a space's actions; None: 0."""
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        start = np.asarray(space.start)
        return start if start.any() else None
    return None


def mask_parts(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Sizes of the choices concatenated in an action mask."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    return tuple(int(n) for n in space.nvec.ravel()) if isinstance(space, spaces.MultiDiscrete) else ()


def flat_mask(mask: Any) -> Array:
    """Convert a mask to [n] bool; for MultiDiscrete it may be a tuple with one mask per part."""
    if isinstance(mask, tuple | list) and len(mask) and np.ndim(mask[0]):
        return np.concatenate([np.asarray(each, bool).ravel() for each in mask])
    return np.asarray(mask, bool).ravel()
