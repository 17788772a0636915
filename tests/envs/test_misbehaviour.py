"""An environment that breaks its word, raises or dies: one line that names it and what it did, and nothing hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest

from rlgym.config.schema import EnvConfig
from rlgym.envs.batch import BatchEnv
from rlgym.envs.make import make_env
from rlgym.envs.sync import SyncEnv
from rlgym.envs.vector import VectorEnv
from rlgym.envs.workers import AsyncEnv, WorkerTraceback
from rlgym.errors import TrainingError
from tests.envs.toys import Diary, DiaryVector, Masked, Misbehaving

WORDS = {
    "raise": "step of environment 0 raised ZeroDivisionError: the world ended",
    "nan": "observation obs[1] of environment 0 is nan",
    "reward": "environment 0 returned the reward nan",
    "shape": "observation obs has shape (3,), its space (2,)",
    "dtype": "observation obs has dtype <U1, its space float32",
    "bounds and nan": "observation obs[1] of environment 0 is nan",
    "exit": "step of environment 0 raised SystemExit: the world ended",
    "vector reward": "environment 0 returned a reward of shape (2,), and a reward is one number here; a wrapper that "
    "weighs them into one, as MO-Gymnasium's LinearReward does, would do",
    "no reward": "environment 0 returned the reward None, which is no number",
    "discrete": "observation obs[0] of environment 0 is 7 (counted from 0), its space has 3 values",
    "key": "the observation has no b, which its space declares",
    "final": "final observation obs[1] of environment 0 is inf",
}


def play(how: str, backend: str, check: bool = True) -> list[str]:
    """Four steps; the notices."""
    env = make_env(EnvConfig(id="Misbehaving-v0", num_envs=2, backend=backend, kwargs={"how": how}, check=check))
    try:
        env.reset(0)
        for _ in range(4):
            env.step(np.zeros(2, int))
        return env.notices
    finally:
        env.close()
        assert multiprocessing.active_children() == []


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("how", list(WORDS))
def test_one_line_names_it(how: str, backend: str) -> None:
    with pytest.raises(TrainingError) as caught:
        play(how, backend)
    assert str(caught.value) == f"Misbehaving-v0: {WORDS[how]}"


def test_the_traceback_is_chained() -> None:
    with pytest.raises(TrainingError) as caught:
        play("raise", "sync")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(TrainingError) as caught:
        play("raise", "async")
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in step" in str(caught.value.__cause__) and "ZeroDivisionError" in str(caught.value.__cause__)


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_bounds_that_are_left_are_said_once(backend: str) -> None:
    said = "Misbehaving-v0: observation obs[1] of environment 0 is 5.0, above its declared bound 1.0; said once, "
    assert play("bounds", backend) == [f"{said}training goes on"]


def test_check_off_is_silent_of_bounds_and_not_of_nan() -> None:
    assert play("bounds", "sync", check=False) == play("rounding", "sync") == []
    for how in ("nan", "final", "shape", "discrete"):
        with pytest.raises(TrainingError):
            play(how, "sync", check=False)


def test_the_same_over_another_vector_environment() -> None:
    for how in ("raise", "nan", "bounds and nan", "reward", "exit", "vector reward", "no reward"):
        vector = gym.vector.SyncVectorEnv([partial(Misbehaving, how)] * 2)
        env = VectorEnv("Misbehaving-v0", vector)
        env.reset(0)
        with pytest.raises(TrainingError, match="^Misbehaving-v0: "):
            for _ in range(4):
                env.step(np.zeros(2, int))


def test_gymnasiums_own_overshoot_is_said_once() -> None:
    pytest.importorskip("Box2D")
    env = make_env(EnvConfig(id="LunarLander-v3", num_envs=4, backend="sync"))
    env.reset(0)
    for _ in range(400):
        env.step(np.full(4, 2))  # thrust up and away: above the declared height in most episodes
    assert len(env.notices) == 1
    assert "above its declared bound 2.5; said once" in env.notices[0]


def test_a_worker_takes_a_keyboard_interrupt_for_the_environments() -> None:
    with pytest.raises(TrainingError, match=r"^Misbehaving-v0: step raised KeyboardInterrupt\(\)$"):
        play("interrupt", "async")


@pytest.mark.parametrize("backend", ["sync", "async", "vector"])
def test_no_info_and_a_reward_in_an_array(backend: str) -> None:
    class CasualVector(DiaryVector):
        def reset(self, **how: Any) -> Any:
            return super().reset(**how)[0], None

        def step(self, actions: Any) -> Any:
            obs, rewards, terminated, truncated, _ = super().step(actions)
            return obs, rewards[:, None], terminated, truncated, None

    if backend == "vector":
        env: BatchEnv = VectorEnv("Casual-v0", CasualVector(2))
    else:
        env = make_env(EnvConfig(id="Casual-v0", num_envs=2, backend=backend))
    try:
        env.reset(0)
        for _ in range(3):
            assert env.step(np.zeros(2, int)).reward.tolist() == [1.0, 1.0]
    finally:
        env.close()


def test_a_killed_worker_is_noticed_and_leaves_nobody() -> None:
    env = AsyncEnv("Diary-v0", Diary, 4)
    env.reset(0)
    pids = [worker.pid for worker in env._workers]
    os.kill(pids[0], signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(
        TrainingError, match=r"^Diary-v0: the worker process of environments 0-\d was killed by SIGKILL"
    ):
        env.step(np.zeros(4, int))
    env.close()
    assert time.monotonic() - started < 5
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_worker_that_dies_in_mid_step_is_noticed() -> None:
    with pytest.raises(TrainingError, match="was killed by SIGKILL"):
        play("die", "async")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_leave_signals_to_the_learner(number: int) -> None:
    """Ctrl-C, `timeout`, a scheduler, a closed terminal: they reach the whole group, and the learner saves first."""
    env = AsyncEnv("Diary-v0", Diary, 2)
    try:
        env.reset(0)
        for worker in env._workers:
            os.kill(worker.pid, number)
        time.sleep(0.1)
        assert env.step(np.zeros(2, int)).reward.tolist() == [1, 1]
    finally:
        env.close()


def test_workers_follow_a_learner_that_was_killed() -> None:
    def learner(pids: multiprocessing.Queue[int]) -> None:
        env = AsyncEnv("Diary-v0", Diary, 4)
        env.reset(0)
        for worker in env._workers:
            pids.put(worker.pid)
        time.sleep(60)

    context = multiprocessing.get_context("fork")
    pids: multiprocessing.Queue[int] = context.Queue()
    process = context.Process(target=learner, args=(pids,))
    process.start()
    orphans = [pids.get(timeout=20) for _ in range(min(4, os.cpu_count() or 1))]
    process.kill()
    process.join()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in orphans) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in orphans)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_mask_that_goes_missing_or_allows_nothing() -> None:
    class Forgetful(Masked):
        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward, terminated, truncated, {} if self.t == 2 else info

    class Forbidding(Masked):
        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward, terminated, truncated, {"action_mask": info["action_mask"] * (self.t != 2)}

    for kind, words in ((Forgetful, "is missing now"), (Forbidding, "allows no action")):
        env = SyncEnv("Masked-v0", kind, 2)
        env.reset(0)
        with pytest.raises(TrainingError, match=words):
            for _ in range(3):
                env.step(np.zeros(2, int))
