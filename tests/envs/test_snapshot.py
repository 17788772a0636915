"""Environments brought back in mid-episode go on bit for bit (rl.md, trap 16; the environment's side of a resume)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from rlgym.config.schema import EnvConfig
from rlgym.envs.batch import BatchEnv
from rlgym.envs.make import make_env
from rlgym.envs.snapshot import History
from rlgym.envs.spaces import Array
from rlgym.envs.vector import VectorEnv
from rlgym.learner import Section
from tests.envs.toys import Diary

IDS = (
    "CartPole-v1",
    "Pendulum-v1",
    "Blackjack-v1",
    "LunarLander-v3",
    "BipedalWalker-v3",
    "Taxi-v4",
    "FrozenLake-v1",
    "Masked-v0",
    "Whimsical-v0",
)
BOX2D = ("LunarLander-v3", "BipedalWalker-v3")


def act(env: BatchEnv, rng: np.random.Generator) -> Array:
    shape = (env.num_envs, *(env.action_space.shape or ()))
    if env.action_mask is not None:
        return np.asarray((rng.random(env.action_mask.shape) * env.action_mask).argmax(1))
    if env.action_space.dtype == np.float32:
        return rng.uniform(-1, 1, shape).astype(np.float32)
    return rng.integers(0, env.action_space.n, shape)  # type: ignore[attr-defined]


def through_disk(section: Section) -> Section:
    """As a checkpoint keeps it: tensors apart, the rest through JSON."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else json.loads(json.dumps(v)) for k, v in section.items()}


def equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    if isinstance(a, dict):
        return all((a[name] == b[name]).all() for name in a)
    return bool((a == b).all())


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("id", IDS)
def test_goes_on_bit_for_bit(id: str, backend: str) -> None:
    if id in BOX2D:
        pytest.importorskip("Box2D")
    config = EnvConfig(id=id, num_envs=3, backend=backend)
    env, twin = make_env(config), make_env(config)
    try:
        env.reset(7)
        rng = np.random.default_rng(0)
        for steps in (2, 150):  # within the first, seeded episodes, and after many ends
            for _ in range(steps):
                step = env.step(act(env, rng))
            obs = twin.load_state_dict(through_disk(env.state_dict()))
            assert twin.restore_report == ""
            assert equal(obs, step.obs) and equal(env.action_mask, twin.action_mask)
            for _ in range(120):
                actions = act(env, rng)
                step, other = env.step(actions), twin.step(actions)
                assert equal(step.obs, other.obs) and equal(step.reward, other.reward)
                assert step.episodes == other.episodes  # running returns and lengths, too
                assert equal(step.action_mask, other.action_mask)
        assert env.verify_restores() and env.restores == "exact"
    finally:
        env.close()
        twin.close()


def test_the_number_of_workers_may_differ() -> None:
    one = make_env(EnvConfig(id="FrozenLake-v1", num_envs=4, backend="async"))
    two = make_env(EnvConfig(id="FrozenLake-v1", num_envs=4, backend="sync"))
    try:
        one.reset(0)
        rng = np.random.default_rng(0)
        for _ in range(30):
            step = one.step(act(one, rng))
        assert equal(two.load_state_dict(one.state_dict()), step.obs)
    finally:
        one.close()


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_what_cannot_be_replayed_is_reported(backend: str) -> None:
    config = EnvConfig(id="Whimsical-v0", num_envs=2, backend=backend, kwargs={"hidden": True})
    env, twin = make_env(config), make_env(config)
    try:
        env.reset(0)
        for _ in range(30):
            env.step(np.zeros((2, 1), np.float32))
        assert not env.verify_restores()
        assert env.restores.startswith("running episodes start over")
        twin.load_state_dict(env.state_dict())
        assert twin.restore_report == "Whimsical-v0: 2 of 2 running episodes could not be restored and start over"
        ended = [e for _ in range(7) for e in twin.step(np.zeros((2, 1), np.float32)).episodes]
        assert [e.length for e in ended] == [7, 7]  # new episodes, with tallies of their own
    finally:
        env.close()
        twin.close()


def test_a_third_party_vector_environment_says_that_episodes_restart() -> None:
    import gymnasium as gym

    env = VectorEnv("CartPole-v1", gym.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point"))
    first = env.reset(3)["obs"].copy()
    assert not env.verify_restores() and env.restores != "exact"
    again = env.load_state_dict(through_disk(env.state_dict()))["obs"]
    assert "start over" in env.restore_report
    assert (again != first).any()  # other episodes, not the first ones again


def test_same_seed_same_stream() -> None:
    streams = []
    for _ in range(2):
        env = make_env(EnvConfig(id="Whimsical-v0", num_envs=3, backend="sync"))
        streams.append([env.reset(5)["x"].copy()])
        streams[-1] += [env.step(np.ones((3, 1), np.float32)).obs["x"].copy() for _ in range(40)]
    assert all((a == b).all() for a, b in zip(*streams, strict=True))
    assert len({stream.tobytes() for stream in streams[0]}) > 30


def test_history_keeps_each_lanes_actions_since_its_beginning() -> None:
    history, rng = History(3, Diary().action_space), np.random.default_rng(0)
    lanes: list[list[int]] = [[], [], []]
    for t in range(5000):  # lane 2 never begins anew: the log must grow, and shrink to what is needed
        actions = rng.integers(0, 2, 3)
        history.append(actions)
        for i in range(3):
            lanes[i].append(int(actions[i]))
            if i < 2 and rng.random() < 0.02 or t == 4000:
                history.begin(i)
                lanes[i].clear()
    assert [history.of(i).tolist() for i in range(3)] == lanes
    copy = History(3, Diary().action_space)
    copy.load([history.of(i) for i in range(3)])
    assert [copy.of(i).tolist() for i in range(3)] == lanes
