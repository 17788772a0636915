"""No transition crosses episodes, whatever steps the environments (rl.md, traps 1, 2, 3, 20)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rlgym.config.schema import EnvConfig
from rlgym.envs.batch import BatchEnv, Episode
from rlgym.envs.make import make_env
from rlgym.envs.sync import SyncEnv
from rlgym.envs.vector import VectorEnv
from rlgym.envs.workers import AsyncEnv
from tests.envs.toys import Diary, DiaryVector, Masked


def diaries(backend: str, kind: str = "box") -> BatchEnv:
    def lane() -> gym.Env[Any, Any]:
        return Diary(4, kind)

    if backend == "sync":
        return SyncEnv("Diary-v0", lane, 3)
    if backend == "async":
        return AsyncEnv("Diary-v0", lane, 3)
    if backend.startswith("gymnasium"):
        mode = {"next": AutoresetMode.NEXT_STEP, "same": AutoresetMode.SAME_STEP}[backend.split("-")[1]]
        return VectorEnv("Diary-v0", gym.vector.SyncVectorEnv([lane] * 3, autoreset_mode=mode))
    return VectorEnv("Diary-v0", DiaryVector(3, AutoresetMode[backend]))


BACKENDS = ("sync", "async", "gymnasium-next", "gymnasium-same", "NEXT_STEP", "SAME_STEP", "DISABLED")


@pytest.mark.parametrize("backend", BACKENDS)
def test_transitions_stay_within_episodes(backend: str) -> None:
    env = diaries(backend)
    try:
        steps = 60
        obs = env.reset(0)["obs"].copy()
        first = obs[:, 0].copy()
        rows, episodes = 0, list[Episode]()
        for _ in range(steps):
            step = env.step(np.zeros(3, int))
            valid = np.ones(3, bool) if step.valid is None else step.valid
            ended = step.terminated | step.truncated
            successor = step.obs["obs"].copy()
            if ended.any():
                assert step.final_obs is not None
                successor[ended] = step.final_obs["obs"][ended]
            assert (successor[valid, 0] == obs[valid, 0]).all()  # the same episode
            assert (successor[valid, 1] == obs[valid, 1] + 1).all()  # the next moment
            assert (step.reward[valid] == 1).all() and (step.reward[~valid] == 0).all()
            assert not ended[~valid].any()
            even = successor[:, 0] % 2 == 0
            assert (step.terminated == ended & even).all() and (step.truncated == ended & ~even).all()
            if not env.phantoms:
                assert step.valid is None and (step.obs["obs"][ended, 1] == 0).all()
            rows += int(valid.sum())
            episodes += step.episodes
            obs = step.obs["obs"].copy()
        # every real step is in an ended episode or in the one that runs: none lost, none invented
        running = sum(obs[i, 1] for i in range(3) if not (env.phantoms and ended[i]))
        assert rows == sum(e.length for e in episodes) + running
        if not env.phantoms:
            assert rows == 3 * steps
        for i in range(3):
            mine = [e for e in episodes if e.env == i]
            length = 3 + i if backend.isupper() else 4
            assert all(e.length == length and e.ret == length for e in mine)
            assert len(mine) == steps // (length + env.phantoms)  # all were logged
            assert [e.success for e in mine] == [(first[i] + k) % 2 == 0 for k in range(len(mine))]
    finally:
        env.close()


@pytest.mark.parametrize("backend", ["sync", "async", "gymnasium-next", "gymnasium-same"])
@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_nested_observations(backend: str, kind: str) -> None:
    env = diaries(backend, kind)
    try:
        names = {"dict": ["when", "where.0", "where.1"], "tuple": ["0", "1"]}[kind]
        assert [leaf.name for leaf in env.leaves] == names
        env.reset(0)
        for t in range(1, 12):
            step = env.step(np.zeros(3, int))
            if step.final_obs is not None:
                assert (step.final_obs[names[0]][:, 1] == 4).all()
                assert (step.final_obs[names[1]] == ([[4]] if kind == "dict" else [[0, 1]])).all()
                assert t % (5 if env.phantoms else 4) in (4, 0)
            moment = step.obs[names[0]][:, 1]
            assert (step.obs[names[1]][:, 0] == (moment % 5 if kind == "dict" else moment % 2)).all()
    finally:
        env.close()


def test_gymnasiums_own_batched_cartpole_has_phantom_rows() -> None:
    env = VectorEnv("CartPole-v1", gym.make_vec("CartPole-v1", 4, vectorization_mode="vector_entry_point"))
    assert env.phantoms
    env.reset(0)
    rng = np.random.default_rng(0)
    phantom, ended, rows, episodes = np.zeros(4, bool), 0, 0, list[Episode]()
    for _ in range(300):
        step = env.step(rng.integers(0, 2, 4))
        valid = np.ones(4, bool) if step.valid is None else step.valid
        assert (valid == ~phantom).all()
        phantom = step.terminated | step.truncated
        ended += int(phantom.sum())
        rows += int(valid.sum())
        episodes += step.episodes
        assert (np.abs(step.obs["obs"][~valid]) <= 0.05).all()  # a phantom row shows a fresh start
    assert len(episodes) == ended > 20
    assert all(e.ret == e.length for e in episodes)
    assert rows < 4 * 300 and sum(e.length for e in episodes) <= rows


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_masks_belong_to_the_next_action(backend: str) -> None:
    env = make_env(EnvConfig(id="Masked-v0", num_envs=4, backend=backend))
    try:
        obs, mask = env.reset(5), env.action_mask
        for _ in range(40):
            assert mask is not None and (mask.sum(1) == 1).all()
            assert (mask.argmax(1) == obs["obs"][:, 0]).all()  # also across an autoreset
            step = env.step(mask.argmax(1))
            assert (step.reward == 1).all()
            obs, mask = step.obs, step.action_mask
    finally:
        env.close()


def test_masks_of_a_next_step_environment() -> None:
    env = VectorEnv("Masked-v0", gym.vector.SyncVectorEnv([Masked] * 3))
    obs, mask = env.reset(5), env.action_mask
    for _ in range(40):
        assert mask is not None
        choice = mask.argmax(1)
        live = mask.sum(1) == 1
        assert (choice[live] == obs["obs"][live, 0]).all()
        step = env.step(choice)
        assert (step.reward == (1 if step.valid is None else step.valid)).all()
        obs, mask = step.obs, step.action_mask
