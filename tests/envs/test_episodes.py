"""Evaluating a policy over parallel environments (rl.md, trap 19)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlgym.config.schema import EnvConfig
from rlgym.envs.batch import BatchEnv
from rlgym.envs.episodes import ENDLESS, Stateless, evaluate_policy
from rlgym.envs.make import episode_limit
from rlgym.envs.spaces import Array, Obs
from rlgym.envs.sync import SyncEnv
from rlgym.envs.vector import VectorEnv
from rlgym.errors import RequestError


class Lasting(gym.Env[Any, Any]):
    """Every episode lasts `length` steps; the k-th one (from 1) pays `length * k` in all. Even ones are a success."""

    def __init__(self, length: int) -> None:
        self.observation_space = spaces.Box(0, 1e6, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.length, self.k = length, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.k, self.t = 1 if seed is not None else self.k + 1, 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        end = self.t == self.length
        info = {"is_success": self.k % 2 == 0} if end else {}
        return np.full(1, self.t, np.float32), float(self.k), end, False, info


class Still(Stateless):
    """A policy that does nothing, and counts how often it was asked."""

    calls = 0

    def act(self, obs: Obs, mask: Array | None = None, sampler: Any = None) -> Array:
        self.calls += 1
        return np.zeros(len(obs["obs"]), int)


def lasting(backend: str, *lengths: int) -> BatchEnv:
    if backend == "sync":
        makers = iter(lengths)
        return SyncEnv("Lasting-v0", lambda: Lasting(next(makers)), len(lengths))
    return VectorEnv("Lasting-v0", gym.vector.SyncVectorEnv([partial(Lasting, n) for n in lengths]))


@pytest.mark.parametrize("backend", ["sync", "next-step"])
@pytest.mark.parametrize("count", [4, 10, 11])
def test_every_slot_plays_its_exact_share(backend: str, count: int) -> None:
    """Two lengths: the first `count` to finish would be nearly all short ones."""
    lengths = (3, 30, 3, 30)
    policy = Still()
    found = evaluate_policy(policy, lasting(backend, *lengths), count, seed=5)
    shares = {4: [1, 1, 1, 1], 10: [3, 3, 2, 2], 11: [3, 3, 3, 2]}[count]
    expected = [
        {"return": float(n * k), "length": n, "success": k % 2 == 0}
        for n, share in zip(lengths, shares, strict=True)
        for k in range(1, share + 1)
    ]
    assert found.records == {"seed": 5, "episodes": expected, "cut_episodes": 0}
    returns, long = [e["return"] for e in expected], [e["length"] for e in expected]
    assert found.metrics["eval/mean_reward"] == pytest.approx(np.mean(returns))
    assert found.metrics["eval/std_reward"] == pytest.approx(np.std(returns))
    assert found.metrics["eval/mean_ep_length"] == pytest.approx(np.mean(long))
    assert found.metrics["eval/success_rate"] == pytest.approx(np.mean([e["success"] for e in expected]))
    phantom = (max(shares) - 1) * (backend == "next-step")
    assert policy.calls == 30 * max(shares[1], shares[3]) + phantom, "no longer than the slowest slot needs"


def test_fewer_episodes_than_slots_are_the_first_slots() -> None:
    found = evaluate_policy(Still(), lasting("sync", 30, 3, 3, 3), 2, seed=0)
    assert [episode["length"] for episode in found.records["episodes"]] == [30, 3]


def test_no_success_is_reported_where_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Lasting.step

    def silent(self: Lasting, action: Any) -> Any:
        return *step(self, action)[:4], {}

    monkeypatch.setattr(Lasting, "step", silent)
    found = evaluate_policy(Still(), lasting("sync", 3, 4), 4, seed=0)
    assert "eval/success_rate" not in found.metrics
    assert all(set(episode) == {"return", "length"} for episode in found.records["episodes"])


def test_an_endless_episode_counts_as_it_stands_and_is_said() -> None:
    """A deterministic policy can walk in circles where no time limit ends it."""
    found = evaluate_policy(Still(), lasting("sync", 10**9, 4, 49), 7, seed=0, limit=50)
    endless = {"return": 50.0, "length": 50, "cut": True}
    assert found.records["episodes"][:3] == [endless] * 3 and found.records["cut_episodes"] == 3
    assert [e["return"] for e in found.records["episodes"][3:]] == [4, 8, 49, 98]
    assert found.metrics["eval/mean_ep_length"] == pytest.approx((150 + 8 + 98) / 7)
    (line,) = found.lines
    assert line.startswith("3 of 7 episodes were cut at 50 steps: nothing had ended them")


@pytest.mark.parametrize("backend", ["sync", "next-step"])
def test_an_episode_that_ends_at_the_limit_is_not_cut(backend: str) -> None:
    """Steps in which an environment is only reset do not count."""
    found = evaluate_policy(Still(), lasting(backend, 5, 5), 6, seed=0, limit=5)
    assert (found.records["cut_episodes"], found.lines) == (0, [])
    assert [episode["length"] for episode in found.records["episodes"]] == [5] * 6


@pytest.mark.parametrize(
    ("env", "wanted", "limit"),
    [
        (EnvConfig("CartPole-v1"), None, 500),
        (EnvConfig("CartPole-v1"), 60, 60),
        (EnvConfig("CartPole-v1", kwargs={"max_episode_steps": 40_000}), None, 40_000),
        (EnvConfig("CartPole-v1", kwargs={"max_episode_steps": -1}), None, ENDLESS),
        (EnvConfig("CliffWalking-v1"), None, ENDLESS),
        (EnvConfig("tic_tac_toe"), None, ENDLESS),
    ],
)
def test_the_limit_is_the_environments_own(env: EnvConfig, wanted: int | None, limit: int) -> None:
    assert episode_limit(env, wanted) == limit


def test_a_game_ends_by_its_rules() -> None:
    with pytest.raises(RequestError, match="max_episode_steps=9 has no effect: a game of env=tic_tac_toe ends by"):
        episode_limit(EnvConfig("tic_tac_toe"), 9)


def test_the_same_seed_is_the_same_episodes() -> None:
    env = SyncEnv("CartPole-v1", lambda: gym.make("CartPole-v1"), 3)
    first, second, other = (evaluate_policy(Still(), env, 9, seed).records["episodes"] for seed in (1, 1, 2))
    assert first == second != other


class Rememberer(Still):
    """Notes how many observations it has seen since it was told that an episode begins."""

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths

    def start(self, envs: int) -> None:
        self.seen = np.zeros(envs, int)

    def ended(self, rows: Sequence[int]) -> None:
        self.seen[list(rows)] = 0

    def act(self, obs: Obs, mask: Array | None = None, sampler: Any = None) -> Array:
        told = obs["obs"][:, 0]
        final = told == self.lengths  # shown once more in a next-step environment, and the action is ignored
        assert ((self.seen == told) | final).all(), "the time that the environment shows"
        self.seen += 1
        return super().act(obs, mask)


@pytest.mark.parametrize("backend", ["sync", "next-step"])
def test_a_policy_is_told_where_episodes_begin(backend: str) -> None:
    policy = Rememberer((3, 5, 3))
    env = lasting(backend, *policy.lengths)
    for seed in (0, 1):
        evaluate_policy(policy, env, 9, seed)
    assert policy.calls >= 2 * 15
