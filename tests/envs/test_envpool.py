"""EnvPool's environments against Gymnasium's, step by step and over the ends of episodes (rl.md, traps 1 to 5, 20)."""

from __future__ import annotations

import gc
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlgym.config.schema import AtariConfig, EnvConfig
from rlgym.envs.batch import BatchEnv, Episode
from rlgym.envs.make import make_env
from rlgym.envs.workers import AsyncEnv
from rlgym.errors import RequestError
from tests.envs.toys import Diary

pytest.importorskip("envpool")


def pool(id: str, num_envs: int = 4, **options: Any) -> BatchEnv:
    return make_env(EnvConfig(id=id, num_envs=num_envs, backend="envpool", **options))


def reference(id: str, observation: Any, action: Any) -> tuple[Any, float, bool]:
    """Gymnasium's own environment, put where this observation is, after one step."""
    env: Any = gym.make(id).unwrapped
    env.reset(seed=0)
    seen = np.asarray(observation, float)
    if id == "Pendulum-v1":
        env.state = np.array([math.atan2(seen[1], seen[0]), seen[2]])
    elif id == "Acrobot-v1":
        env.state = np.array([math.atan2(seen[1], seen[0]), math.atan2(seen[3], seen[2]), seen[4], seen[5]])
    else:
        env.state = seen.copy()
    after, reward, terminated, _, _ = env.step(action)
    return after, float(reward), bool(terminated)


@pytest.mark.parametrize(("id", "limit"), [("CartPole-v1", 15), ("Pendulum-v1", 7), ("MountainCar-v0", 9)])
def test_transitions_are_gymnasiums_and_stay_within_episodes(id: str, limit: int) -> None:
    env = pool(id, kwargs={"max_episode_steps": limit})
    try:
        assert env.backend == "envpool" and env.phantoms
        rng = np.random.default_rng(0)
        obs = env.reset(3)["obs"].copy()
        phantom, lengths, rows = np.zeros(4, bool), np.zeros(4, int), 0
        episodes: list[Episode] = []
        kinds = set()
        for _ in range(60):
            box = isinstance(env.action_space, gym.spaces.Box)
            actions = rng.uniform(-2, 2, (4, 1)).astype(np.float32) if box else rng.integers(0, 2, 4)
            step = env.step(actions)
            valid = np.ones(4, bool) if step.valid is None else step.valid
            assert (valid == ~phantom).all()
            ended = step.terminated | step.truncated
            assert not ended[phantom].any() and (step.reward[phantom] == 0).all()
            successor = step.obs["obs"].copy()
            if ended.any():
                assert step.final_obs is not None
                successor[ended] = step.final_obs["obs"][ended]
            lengths = np.where(phantom, 0, lengths + 1)
            for i in np.flatnonzero(valid):
                after, reward, terminated = reference(id, obs[i], actions[i])
                np.testing.assert_allclose(successor[i], after, atol=2e-4)
                assert step.reward[i] == pytest.approx(reward, abs=2e-3)
                # a truncation is no termination; EnvPool forgets a termination that comes with the last allowed step
                assert step.truncated[i] == (lengths[i] == limit)
                assert step.terminated[i] == (terminated and lengths[i] < limit)
                kinds |= {"terminated"} if step.terminated[i] else {"truncated"} if step.truncated[i] else set()
            told = sorted((e.env, e.length) for e in step.episodes)
            assert told == [(i, int(lengths[i])) for i in np.flatnonzero(ended).tolist()]
            episodes += step.episodes
            rows, phantom, obs = rows + int(valid.sum()), ended, step.obs["obs"].copy()
        assert rows == sum(e.length for e in episodes) + lengths[~phantom].sum()
        assert "truncated" in kinds and (id != "CartPole-v1" or "terminated" in kinds)
    finally:
        env.close()


def test_a_seed_gives_its_stream_again_and_another_another() -> None:
    def stream(env: BatchEnv, seed: int) -> bytes:
        seen = [env.reset(seed)["obs"].copy()]
        seen += [env.step(np.ones(4, int)).obs["obs"].copy() for _ in range(30)]
        return np.stack(seen).tobytes()

    one, two = pool("CartPole-v1"), pool("CartPole-v1")
    first = stream(one, 5)
    assert first == stream(two, 5) == stream(one, 5) != stream(one, 6)
    assert len({row.tobytes() for row in one.reset(0)["obs"]}) == 4
    one.reset(2**31 - 1)  # evaluations draw seeds up to here
    assert not one.verify_restores() and "start over" in one.restores


def test_what_envpool_has_otherwise_or_not_at_all_is_refused() -> None:
    with pytest.raises(RequestError, match="env.backend=envpool: EnvPool has no Diary-v0; use auto, sync or async"):
        pool("Diary-v0")
    with pytest.raises(RequestError, match="frame_stack > 1 needs env.backend=sync or async, not envpool"):
        pool("CartPole-v1", frame_stack=4)
    with pytest.raises(RequestError, match=r"^env\.kwargs=\{'zz': 1\}: env=CartPole-v1 refused"):
        pool("CartPole-v1", kwargs={"zz": 1})


def test_workers_leave_a_pool_of_this_process_alone() -> None:
    class Collecting(Diary):
        def step(self, action: Any) -> Any:
            gc.collect()
            return super().step(action)

    env = pool("CartPole-v1")
    env.reset(0)
    garbage: list[Any] = [env]
    garbage.append(garbage)
    gc.disable()
    try:
        del env, garbage
        workers = AsyncEnv("Diary-v0", Collecting, 2)
        workers.reset(0)
        assert workers.step(np.zeros(2, int)).reward.tolist() == [1.0, 1.0]
        workers.close()
    finally:
        gc.enable()


def test_grids_look_other_than_ours() -> None:
    pytest.importorskip("minigrid")
    with pytest.raises(RequestError, match="EnvPool's MiniGrid-Empty-8x8-v0 is not Gymnasium's"):
        pool("MiniGrid-Empty-8x8-v0")


def test_atari_is_stacked_and_cut_off_as_ours() -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    kwargs = {"repeat_action_probability": 0.0, "max_num_frames_per_episode": 28}
    env = pool("ALE/Pong-v5", 2, kwargs=kwargs)
    try:
        assert env.leaves[0].shape == (4, 84, 84)
        obs, lengths = env.reset(0)["obs"], []
        assert (obs == obs[:, :1]).all()  # the first frame stands in for those before it
        for t in range(1, 17):
            before = obs.copy()
            step = env.step(np.full(2, 2))
            obs = step.obs["obs"]
            if step.valid is None:
                assert (obs[:, :-1] == before[:, 1:]).all()
                assert step.truncated.all() == (t in (7, 15)) and not step.terminated.any()
            else:
                assert t in (8, 16) and (obs == obs[:, :1]).all()
            lengths += [e.length for e in step.episodes]
        assert lengths == [7] * 4
        for knobs in ({"terminal_on_life_loss": True}, {"noop_max": 0}, {"frame_skip": 1}, {"preprocess": False}):
            with pytest.raises(RequestError, match="envpool"):
                pool("ALE/Pong-v5", 2, atari=AtariConfig(**knobs))
    finally:
        env.close()
