"""Atari as published: what an observation is, what a reward is, what an end is, and the same for each backend."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlgym.config.schema import AtariConfig, EnvConfig
from rlgym.envs.batch import BatchEnv, Episode
from rlgym.envs.make import make_env
from rlgym.envs.spaces import Array
from rlgym.errors import RequestError
from tests.envs.test_snapshot import equal, through_disk

pytest.importorskip("ale_py")
pytest.importorskip("cv2")

BACKENDS = ("native", "sync", "async")
PONG = "ALE/Pong-v5"


def game(id: str = PONG, backend: str = "sync", num_envs: int = 2, **options: Any) -> BatchEnv:
    knobs = {key: options.pop(key) for key in asdict(AtariConfig()) if key in options}
    kwargs = {"repeat_action_probability": 0.0, **options.pop("kwargs", {})}
    return make_env(
        EnvConfig(id=id, num_envs=num_envs, backend=backend, kwargs=kwargs, atari=AtariConfig(**knobs), **options)
    )


def by_hand(actions: list[int], frame_skip: int = 4) -> list[Array]:
    """The published observation from the bare emulator: [84, 84] for the first moment and after each action."""
    import ale_py
    import cv2

    gym.register_envs(ale_py)
    env: Any = gym.make(PONG, frameskip=1, repeat_action_probability=0.0, obs_type="grayscale").unwrapped
    screen, _ = env.reset(seed=0)
    seen = [cv2.resize(screen, (84, 84), interpolation=cv2.INTER_AREA)]
    for action in actions:
        screens = [env.step(action)[0] for _ in range(frame_skip)]
        both = np.maximum(screens[-1], screens[-2])
        seen.append(cv2.resize(both, (84, 84), interpolation=cv2.INTER_AREA))
    return seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_observations_are_the_published_ones(backend: str) -> None:
    actions = [2, 3, 0, 2, 2, 5, 4, 3, 1, 0, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3]
    frames = by_hand(actions)
    env = game(backend=backend, noop_max=0)
    try:
        leaf = env.leaves[0]
        assert (leaf.shape, leaf.kind, leaf.layout) == ((4, 84, 84), "image", "chw") and leaf.dtype == np.uint8
        obs = env.reset(3)["obs"]
        for t in range(len(actions) + 1):
            stack = [frames[max(0, t - back)] for back in (3, 2, 1, 0)]  # newest last; the first stands in before it
            assert (obs == np.stack(stack)).all(), t
            if t < len(actions):
                obs = env.step(np.full(2, actions[t])).obs["obs"]
    finally:
        env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_transitions_stay_within_episodes(backend: str) -> None:
    """Traps 1 to 5 and 20: cut off after 7 steps, each lane sees the same 8 frames over and over."""
    frames = by_hand([2] * 7)
    env = game(backend=backend, noop_max=0, kwargs={"max_num_frames_per_episode": 28}, num_envs=3)

    def stack(t: int) -> Array:
        return np.stack([frames[max(0, t - back)] for back in (3, 2, 1, 0)])

    try:
        assert not env.phantoms  # ale_py's own can reset in the same step
        obs, t = env.reset(0)["obs"], 0
        for _ in range(40):
            assert (obs == stack(t)).all()
            step = env.step(np.full(3, 2))
            t += 1
            assert step.valid is None and not step.terminated.any() and step.truncated.all() == (t == 7)
            assert (step.final_obs is not None) == (t == 7) == bool(step.episodes)
            if t == 7:
                assert step.final_obs is not None and (step.final_obs["obs"] == stack(7)).all()
                assert [(e.env, e.length) for e in step.episodes] == [(0, 7), (1, 7), (2, 7)]
                t = 0
            obs = step.obs["obs"]
    finally:
        env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rewards_are_clipped_and_returns_are_not(backend: str) -> None:
    for clip in (True, False) if backend == "native" else (True,):
        # SpaceInvaders pays 5 to 30 an invader
        env = game("ALE/SpaceInvaders-v5", backend, clip_reward=clip, kwargs={"max_num_frames_per_episode": 1600})
        try:
            env.reset(0)
            total, seen = np.zeros(2), set()
            episodes: list[Episode] = []
            while len(episodes) < 2:
                step = env.step(np.full(2, 1))
                seen |= set(step.reward.tolist())
                total += step.reward
                episodes += step.episodes
            assert seen > {0.0} and all(e.ret >= 5 and e.ret % 5 == 0 for e in episodes)
            assert (seen == {0.0, 1.0}) == clip
            assert (total.sum() == sum(e.ret for e in episodes)) != clip
        finally:
            env.close()


@pytest.mark.parametrize("backend", ["native", "sync"])
def test_no_ops_sticky_actions_and_seeds(backend: str) -> None:
    def stream(env: BatchEnv, seed: int) -> list[bytes]:
        seen = [env.reset(seed)["obs"].copy()]
        seen += [env.step(np.full(2, 2 + t % 2)).obs["obs"].copy() for t in range(30)]
        return [np.stack(seen)[:, lane].tobytes() for lane in range(2)]

    one, other = stream(game(backend=backend, noop_max=0), 0)
    assert one == other  # nothing is random
    one, other = stream(game(backend=backend), 0)
    assert one != other  # no-ops are
    env = game(backend=backend, noop_max=0, kwargs={"repeat_action_probability": 0.25})
    first = stream(env, 0)
    assert first[0] != first[1] and first == stream(env, 0) != stream(env, 9)
    env.reset(2**31 - 1)  # evaluations draw seeds up to here


def test_a_lost_life_is_an_end_for_learning_and_not_for_the_episode() -> None:
    plain, env = (game("ALE/Breakout-v5", num_envs=1, noop_max=0, terminal_on_life_loss=on) for on in (False, True))
    expected, obs = plain.reset(0), env.reset(0)
    ends, finals = 0, []
    for t in range(4000):
        newest = obs["obs"][0, -1].copy()
        assert (newest == expected["obs"][0, -1]).all()  # the same game, whatever is made of it
        action = np.array([1 if t % 10 == 0 else 2 + t // 7 % 2])
        step, reference = env.step(action), plain.step(action)
        assert (step.reward == reference.reward).all() and not step.truncated.any()
        if step.terminated[0] and not reference.terminated[0]:
            ends += 1
            assert step.final_obs is not None and step.episodes == []
            assert (step.final_obs["obs"] == reference.obs["obs"]).all()
            assert (step.obs["obs"] == reference.obs["obs"][:, -1:]).all()  # stacked anew
        assert step.episodes == reference.episodes
        finals += step.episodes
        obs, expected = step.obs, reference.obs
        if finals:
            break
    assert ends == 4 and len(finals) == 1 and finals[0].length == t + 1


@pytest.mark.parametrize(("backend", "lives"), [("sync", False), ("async", True)])
def test_goes_on_bit_for_bit(backend: str, lives: bool) -> None:
    """Sticky actions, no-ops and ends included (the environment's side of a resume)."""
    options: dict[str, Any] = {
        "kwargs": {"repeat_action_probability": 0.25, "max_num_frames_per_episode": 1000},
        "terminal_on_life_loss": lives,
    }
    env, twin = (game("ALE/Breakout-v5", backend, num_envs=1, **options) for _ in range(2))
    try:
        env.reset(7)
        rng = np.random.default_rng(0)
        ends = 0
        for steps in (20, 300):  # within the first, seeded episode, and after its end
            for _ in range(steps):
                step = env.step(rng.integers(0, 4, 1))
                ends += len(step.episodes)
            obs = twin.load_state_dict(through_disk(env.state_dict()))
            assert twin.restore_report == "" and equal(obs, step.obs)
            for _ in range(60):
                actions = rng.integers(0, 4, 1)
                step, other = env.step(actions), twin.step(actions)
                assert equal(step.obs, other.obs) and equal(step.reward, other.reward)
                assert equal(step.terminated, other.terminated) and step.episodes == other.episodes
        assert ends and env.verify_restores() and env.restores == "exact"
    finally:
        env.close()
        twin.close()


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    for backend in ("native", "sync"):
        game(backend=backend).close()
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_auto_takes_the_batched_games_where_they_are_the_same() -> None:
    def backend(**options: Any) -> str:
        env = game(backend="auto", **options)
        env.close()
        return env.backend

    assert backend() == "native"
    assert backend(num_envs=1, terminal_on_life_loss=True) == "sync"
    assert backend(num_envs=1, kwargs={"difficulty": 1}) == "sync"
    assert backend(num_envs=1, preprocess=False) == "sync"
    with pytest.raises(RequestError, match="env.backend=native: env.atari.terminal_on_life_loss: ale_py's batched"):
        game(backend="native", terminal_on_life_loss=True)


def test_ids_say_what_is_preprocessed() -> None:
    config = EnvConfig(id=PONG, num_envs=1, atari=AtariConfig(preprocess=False))
    env = make_env(config)
    assert env.leaves[0].shape == (210, 160, 3) and config.frame_stack == 1
    config = EnvConfig(id=PONG, num_envs=1, kwargs={"obs_type": "ram"})
    assert make_env(config).leaves[0].shape == (128,)
    config = EnvConfig(id=PONG, num_envs=1)
    make_env(config).close()
    assert config.frame_stack == 4  # for config.yaml
    config = EnvConfig(id="PongNoFrameskip-v4", num_envs=1, frame_stack=2, backend="sync")
    assert make_env(config).leaves[0].shape == (2, 84, 84)
    colour = make_env(EnvConfig(id=PONG, num_envs=1, backend="sync", kwargs={"obs_type": "rgb"}))
    assert colour.leaves[0].shape == (4, 84, 84, 3) and colour.leaves[0].layout == "shwc"


@pytest.mark.parametrize(
    ("id", "atari", "kwargs", "words"),
    [
        (
            "CartPole-v1",
            {"frame_skip": 2},
            {},
            "env.atari.frame_skip=2 has no effect because env=CartPole-v1 is no Atari",
        ),
        (
            "CartPole-v1",
            {"preprocess": False},
            {},
            "env.atari.preprocess=false has no effect because env=CartPole-v1 is no",
        ),
        (
            PONG,
            {"preprocess": False, "noop_max": 3},
            {},
            "env.atari.noop_max=3 has no effect because env.atari.preprocess=f",
        ),
        (
            PONG,
            {"noop_max": 3},
            {"obs_type": "ram"},
            f"env.atari.noop_max=3 has no effect because env={PONG} shows memory",
        ),
        (PONG, {}, {"frameskip": 2}, "env.kwargs.frameskip=2: say it as env.atari.frame_skip"),
    ],
)
def test_what_would_have_no_effect_is_refused(id: str, atari: Any, kwargs: Any, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        make_env(EnvConfig(id=id, atari=AtariConfig(**atari), kwargs=kwargs))
    assert str(caught.value).startswith(words)
