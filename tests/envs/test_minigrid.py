"""MiniGrid as an agent sees it: one-hot cells, a direction, and words where they differ."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlgym.config.schema import EnvConfig
from rlgym.envs.make import make_env
from tests.envs.test_snapshot import act, equal, through_disk

pytest.importorskip("minigrid")
EMPTY = "MiniGrid-Empty-8x8-v0"


@pytest.mark.parametrize("id", [EMPTY, "MiniGrid-DoorKey-6x6-v0"])
def test_cells_are_one_hot_as_in_minigrids_own_wrapper(id: str) -> None:
    from minigrid.wrappers import OneHotPartialObsWrapper

    wrapper: Any = OneHotPartialObsWrapper
    reference = wrapper(gym.make(id))
    env = make_env(EnvConfig(id=id, num_envs=1, backend="sync"))
    assert [(leaf.name, leaf.kind, leaf.shape) for leaf in env.leaves if leaf.name != "direction"] == [
        ("image", "vector", (7 * 7 * 21,))
    ]
    expected, _ = reference.reset(seed=4)
    obs = env.reset(4)
    rng = np.random.default_rng(0)
    for _ in range(60):
        cells = obs["image"].reshape(7, 7, 21)
        assert (cells[..., :20] == expected["image"]).all() and (cells[..., 20] == 0).all()
        assert obs["direction"][0, 0] == expected["direction"]
        action = int(rng.integers(7))
        expected, _, terminated, truncated, _ = reference.step(action)
        if terminated or truncated:
            break
        obs = env.step(np.array([action])).obs


def test_success_is_told_by_the_reward() -> None:
    env = make_env(EnvConfig(id="MiniGrid-Empty-5x5-v0", num_envs=2, backend="sync"))
    env.reset(0)
    for action in (2, 2, 1, 2):
        assert env.step(np.array([action, 0])).episodes == []
    done = env.step(np.array([2, 0])).episodes  # two ahead, a turn right, two ahead; the other turns on the spot
    assert [(e.env, e.success) for e in done] == [(0, True)] and done[0].ret > 0.9
    lost: list[Any] = []
    while not lost:
        lost = [e for e in env.step(np.array([0, 0])).episodes if e.env == 1]
    assert (lost[0].success, lost[0].ret) == (False, 0.0)


def test_missions_are_read_where_there_are_several() -> None:
    id = "MiniGrid-GoToDoor-5x5-v0"
    env = make_env(EnvConfig(id=id, num_envs=6, backend="sync"))
    texts = [gym.make(id).reset(seed=seed)[0]["mission"] for seed in range(6)]
    read = env.reset(0)["mission"].reshape(6, 50, -1)
    for i, text in enumerate(texts):
        assert read[i].sum() == len(text.split())
        for j, other in enumerate(texts):
            assert ((read[i] == read[j]).all()) == (text == other)
    assert len(set(texts)) > 1


@pytest.mark.parametrize("id", [EMPTY, "MiniGrid-DoorKey-6x6-v0", "BabyAI-GoToRedBall-v0"])
def test_goes_on_bit_for_bit(id: str) -> None:
    config = EnvConfig(id=id, num_envs=2, backend="sync", kwargs={"max_steps": 40})
    env, twin = make_env(config), make_env(config)
    env.reset(7)
    rng = np.random.default_rng(0)
    for steps in (5, 100):
        for _ in range(steps):
            step = env.step(act(env, rng))
        assert equal(twin.load_state_dict(through_disk(env.state_dict())), step.obs)
        for _ in range(60):
            actions = act(env, rng)
            step, other = env.step(actions), twin.step(actions)
            assert equal(step.obs, other.obs) and step.episodes == other.episodes
    assert env.verify_restores()
