"""The replay against a plain list of transitions, through episode ends of every kind and around its rings."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FrameStackObservation

from rlgym.agents.dqn import DQN
from rlgym.agents.off_policy.replay import Replay
from rlgym.envs.batch import BatchEnv, Step
from rlgym.envs.sync import SyncEnv
from rlgym.envs.vector import VectorEnv
from rlgym.errors import RequestError, TrainingError
from rlgym.learner import Shared
from rlgym.run_folder import checkpoint
from tests.agents.past import Past, everything, same_content
from tests.agents.q_worlds import q_learner
from tests.envs.toys import DiaryVector

CPU = torch.device("cpu")
CASES: dict[str, dict[str, Any]] = {
    "one": {"envs": 1},
    "three": {"envs": 3},
    "phantoms": {"envs": 3, "phantoms": True},
    "masks": {"envs": 2, "masks": True},
    "masks and phantoms": {"envs": 2, "masks": True, "phantoms": True},
    "dict": {"envs": 2, "space": "dict"},
    "stacked frames": {"envs": 2, "space": "frame", "stack": 4},
    "stacked frames and phantoms": {"envs": 2, "space": "frame", "stack": 4, "phantoms": True},
    "stacked dict": {"envs": 3, "space": "dict", "stack": 3, "phantoms": True, "masks": True},
}
MOMENTS = (1, 5, 18, 19, 20, 21, 40, 61)
"""A lane of one environment is full after 19 steps; it goes around several times."""


def check_against_list(past: Past, n_step: int, gamma: float = 0.9) -> int:
    """Everything that can be drawn is what the list says; returns how much that is."""
    numbers, places = everything(past.replay, n_step)
    assert len(numbers) == past.replay.size(n_step)
    batch = past.replay.gather(places, n_step, gamma)
    for row, (lane, at) in enumerate(numbers):
        expected = past.n_step(lane, at, n_step, gamma)
        for name, x in expected["obs"].items():
            assert np.array_equal(batch["obs"][name][row].numpy(), x), (lane, at, name)
        assert batch["action"][row] == expected["action"]
        assert float(batch["reward"][row]) == pytest.approx(expected["reward"], rel=1e-5, abs=1e-5)
        assert float(batch["discount"][row]) == pytest.approx(expected["discount"], rel=1e-6)
        if expected["next_obs"] is not None:
            for name, x in expected["next_obs"].items():
                assert np.array_equal(batch["next_obs"][name][row].numpy(), x), (lane, at, name)
        if past.masks:
            assert np.array_equal(batch["next_mask"][row].numpy(), expected["next_mask"])
    if not past.masks:
        assert batch["next_mask"] is None
    return len(numbers)


@pytest.mark.parametrize("n_step", [1, 3, 7])
@pytest.mark.parametrize("case", CASES)
def test_every_transition_is_what_happened(case: str, n_step: int) -> None:
    """rl.md, traps 1, 3, 5, 12: ends, cuts, phantom rows and the ring's seam, over one and several steps."""
    for seed in range(2):
        past = Past(capacity=19 * CASES[case]["envs"], seed=seed, **CASES[case])
        for step in range(1, MOMENTS[-1] + 1):
            past.step()
            if step in MOMENTS:
                check_against_list(past, n_step)
        for lane, (first, last) in enumerate(zip(*past.replay.window(n_step), strict=True)):
            done = len(past.lanes[lane])
            assert (first, last) == (done - 19, done - n_step + 1), "all that is kept and complete"


def test_phantom_rows_leave_no_trace() -> None:
    """rl.md, trap 1, with a real next-step environment: rows are real steps, and none leads into another episode."""
    env = VectorEnv("DiaryVector-v0", DiaryVector(3, AutoresetMode.NEXT_STEP))
    replay = Replay(3_000, env, (), torch.int64, CPU)
    replay.start(env.reset(0), None)
    real = 0
    for _ in range(200):
        step = env.step(np.zeros(3, np.int64))
        replay.add(np.zeros(3, np.int64), step)
        real += 3 if step.valid is None else int(step.valid.sum())
    assert replay.size() == real < 600 and len(set(replay.written)) > 1, "their lengths differ"
    batch = replay.gather(everything(replay)[1])
    episode, t = batch["obs"]["obs"].unbind(1)
    next_episode, next_t = batch["next_obs"]["obs"].unbind(1)
    lives = batch["discount"] > 0
    assert torch.equal(episode[lives], next_episode[lives]) and torch.equal(t[lives] + 1, next_t[lives])
    lengths = torch.cat([torch.full((replay.written[i],), 3.0 + i) for i in range(3)])
    even = episode % 2 == 0
    assert torch.equal(~lives, (t + 1 == lengths) & even), "Diary's even episodes terminate, the odd ones are cut off"


def test_shapes_cannot_broadcast() -> None:
    """rl.md, trap 11."""
    past = Past(3, 60, stack=2, space="frame").run(30)
    for n_step in (1, 4):
        batch = past.replay.gather(past.replay.draw(11, torch.Generator().manual_seed(0), n_step), n_step, 0.5)
        assert batch["reward"].shape == batch["discount"].shape == batch["action"].shape == (11,)
        assert batch["obs"]["obs"].shape == batch["next_obs"]["obs"].shape == (11, 2, 2, 2)
        assert batch["obs"]["obs"].dtype == torch.uint8 and batch["reward"].dtype == torch.float32


class Film(gym.Env[Any, Any]):
    """Frames that are all different; episodes of 1, 2, 3, ... steps, every third cut off."""

    observation_space = spaces.Box(0, 255, (3, 2), np.uint8)
    action_space = spaces.Discrete(2)
    render_mode = None
    episode = shown = 0

    def _frame(self) -> Any:
        self.shown += 1
        return np.array([self.shown // 250, self.shown % 250, self.episode % 250, self.t, 7, 9], np.uint8).reshape(3, 2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._frame(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        end, cut = self.t == 1 + self.episode % 9, self.episode % 3 == 0
        return self._frame(), 1.0, end and not cut, end and cut, {}


@pytest.mark.parametrize("envs", [1, 2])
def test_stacks_are_those_that_gymnasium_gave(envs: int) -> None:
    """Frames are stored once, and every stack of FrameStackObservation comes back, cut-off episodes' last included."""
    env = SyncEnv("Film", lambda: FrameStackObservation(Film(), 4), envs)
    replay = Replay(40 * envs, env, (), torch.int64, CPU, stack=4)
    obs = {"obs": env.reset(0)["obs"].copy()}
    replay.start(obs, None)
    given: list[deque[tuple[Any, Any]]] = [deque(maxlen=40) for _ in range(envs)]
    for _ in range(130):
        step = env.step(np.zeros(envs, np.int64))
        for i in range(envs):
            ended = step.terminated[i] or step.truncated[i]
            following = cast(Any, step.final_obs)["obs"][i] if ended else step.obs["obs"][i]
            given[i].append((obs["obs"][i].copy(), None if step.terminated[i] else following.copy()))
        replay.add(np.zeros(envs, np.int64), step)
        obs = {"obs": step.obs["obs"].copy()}
        batch = replay.gather(everything(replay)[1])
        for row, (before, after) in enumerate(pair for lane in given for pair in lane):
            assert np.array_equal(batch["obs"]["obs"][row], before)
            assert after is None or np.array_equal(batch["next_obs"]["obs"][row], after)
    assert replay.obs["obs"].shape == (envs, 44, 3, 2), "one frame a transition"


def test_an_environment_whose_first_stack_is_another_is_refused() -> None:
    past = Past(2, 20, space="frame", stack=3)
    step = Step(past.obs(), np.zeros(2), np.array([True, False]), np.zeros(2, bool), past.obs())
    step.obs["obs"][0, 0] = 9 - step.obs["obs"][0, 1] % 2  # the other environment may show what it likes
    with pytest.raises(TrainingError, match="Past-v0: the first 3 frames of an episode"):
        past.replay.add(np.zeros(2, np.int64), step)


def test_draws_are_uniform_over_the_window() -> None:
    """Also where environments have gathered different numbers of transitions, and where there is one, with its ring
    begun anew or not."""
    for envs, phantoms, steps in ((3, False, 47), (3, True, 47), (1, False, 47), (1, False, 95)):
        past = Past(envs, 20 * envs if envs > 1 else 60, phantoms=phantoms).run(steps)
        for n_step in (1, 5):
            numbers, places = everything(past.replay, n_step)
            drawn = past.replay.draw(200_000, torch.Generator().manual_seed(3), n_step)
            counts = torch.bincount(drawn, minlength=envs * past.replay.rows).double()
            assert counts.sum() == counts[places].sum(), "nothing outside the window"
            expected = 200_000 / len(numbers)
            assert (counts[places] - expected).abs().max() < 5 * math.sqrt(expected)
    again = [past.replay.draw(9, torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*again)


def test_the_last_frames_of_cut_off_episodes_are_forgotten_in_time() -> None:
    """The slots they lie in are used again: no more of them than cuts fit into the rings."""
    past = Past(2, 30).run(2_000)
    slots = len(past.replay.finals["obs"])
    cuts = sum(t.truncated and not t.terminated for lane in past.lanes for t in lane[-past.replay.rows :])
    assert slots <= 32 and slots - len(past.replay._free) <= cuts


# ---- memory


def atari(envs: int) -> Any:
    leaf = SimpleNamespace(name="obs", shape=(4, 84, 84), dtype=np.dtype(np.uint8))
    return SimpleNamespace(num_envs=envs, leaves=[leaf], phantoms=False, id="ALE/Pong-v5")


@pytest.mark.parametrize("envs", [1, 8])
def test_a_million_atari_frames_fit_in_8_gb(envs: int) -> None:
    replay = Replay(1_000_000, atari(envs), (), torch.int64, torch.device("meta"), stack=4)
    assert replay.kept * envs == 1_000_000 and 7e9 < replay.nbytes <= 8e9


def test_too_large_a_replay_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for capacity in (10**9, 10**16):
        with pytest.raises(RequestError, match=f"agent.buffer_size={capacity}: ") as error:
            Replay(capacity, atari(1), (), torch.int64, CPU, stack=4)
        assert "\n" not in str(error.value)
    # What the system gives on credit, to be taken while the replay fills:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**8))
    said = r"that many transitions of 7,\d+ bytes take 0\.7 GB, and 0\.1 GB are free; agent.buffer_size=11000 would do"
    with pytest.raises(RequestError, match=said):
        Replay(100_000, atari(1), (), torch.int64, CPU, stack=4)
    Replay(11_000, atari(1), (), torch.int64, CPU, stack=4)


def test_it_is_refused_before_networks_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of raw screens take forty seconds."""
    monkeypatch.setattr(DQN, "build", lambda self: pytest.fail("built"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9))
    said = "=100000000: that many transitions of 44 bytes take 4.4 GB, and 1.0 GB are free; agent.buffer_size=18181000"
    with pytest.raises(RequestError, match=said):
        q_learner("dqn", "CartPole-v1", buffer_size=10**8)


# ---- where the environments could not be brought back to


def test_an_interrupted_episode_is_cut_off() -> None:
    """As if a time limit had ended it where it stood, with the observation that it stood at."""
    for case in ({"envs": 2}, {"envs": 2, "phantoms": True}, {"envs": 2, "space": "frame", "stack": 3}):
        for steps in (1, 2, 3, 4, 5, 6, 14, 15, 16, 17, 23):
            past = Past(capacity=30, seed=steps, **case).run(steps)
            stood = past.obs()
            for lane in range(2):
                waiting = past.phantoms and past.ended[lane]
                if not waiting and past.lanes[lane]:
                    last = past.lanes[lane][-1]
                    if not (last.terminated or last.truncated):
                        last.truncated = True
                        assert all(np.array_equal(last.next_obs[name], stood[name][lane]) for name in stood)
                past._reset(lane)
            past.ended[:] = False
            past.replay.interrupt(past.obs(), past.mask)
            for n_step in (1, 3):
                check_against_list(past, n_step)
            past.run(9)
            for n_step in (1, 3):
                check_against_list(past, n_step)


def test_episodes_that_go_on_are_not_interrupted() -> None:
    past = Past(3, 30, space="frame", stack=4).run(20)
    before = past.replay.done.clone()
    past.replay.interrupt(past.obs(), past.mask)
    assert torch.equal(past.replay.done, before)
    past.run(5)
    check_against_list(past, 3)


def test_a_start_in_mid_episode_knows_its_stacks() -> None:
    """As after a resume without the replay: the environments go on, and their first stacks are not one frame."""
    past = Past(2, 30, space="frame", stack=4).run(30)
    past.replay = past.fresh()
    past.lanes = [[], []]
    past.replay.start(past.obs(), None)
    for _ in range(12):
        past.step()
        check_against_list(past, 1)
    assert past.run(40) and check_against_list(past, 3)


# ---- checkpoints


def restored(past: Past, folder: Path, step: int) -> Replay:
    """By way of the disk."""
    path = checkpoint.save(folder, step, {"replay": past.replay.state_dict()}, {}, {})
    replay = past.fresh()
    replay.load_state_dict(checkpoint.load(path)[0]["replay"])
    return replay


@pytest.mark.parametrize("case", CASES)
def test_a_restored_replay_is_the_same_and_goes_on_the_same(case: str, tmp_path: Path) -> None:
    past = Past(capacity=40 * CASES[case]["envs"], **CASES[case])
    for step in range(1, 83):
        action, given = past.step()
        if step in (1, 7, 43, 82):
            replay = restored(past, tmp_path, step)
            assert same_content(replay, past.replay)
            # both go on alike, and what they would save is equal
            ahead = [past.step() for _ in range(5)]
            for action, given in ahead:
                replay.add(action, given)
            assert same_content(replay, past.replay)
            saved, expected = replay.state_dict(), past.replay.state_dict()
            assert saved.keys() == expected.keys()
            for key, part in expected.items():
                one, other = (x.make() if isinstance(x, Shared) else {"": x} for x in (saved[key], part))
                assert one.keys() == other.keys()
                for name, x in other.items():
                    same = torch.equal(one[name], x) if isinstance(x, torch.Tensor) else one[name] == x
                    assert same, (key, name)


def test_interrupted_after_a_restore(tmp_path: Path) -> None:
    """Also when the transition that must be cut off was the last of a segment's steps."""
    for steps in (1, 2, 3, 4, 5, 34, 35, 36):
        past = Past(2, 64, seed=steps).run(steps)
        assert past.replay.segment_steps == 2
        path = checkpoint.save(tmp_path / str(steps), 1, {"replay": past.replay.state_dict()}, {}, {})
        replay = past.fresh()
        replay.load_state_dict(checkpoint.load(path)[0]["replay"])
        past.replay = replay
        for lane in range(2):
            last = past.lanes[lane][-1]
            last.truncated = last.truncated or not last.terminated
            past._reset(lane)
        replay.interrupt(past.obs(), None)
        past.run(3)
        check_against_list(past, 2)
        again = restored(past, tmp_path / str(steps), 2)
        assert same_content(again, replay), "no segment was written before the cut"


def test_another_size_is_refused(tmp_path: Path) -> None:
    past = Past(2, 64).run(10)
    other = Past(2, 80)
    with pytest.raises(RequestError, match="agent.buffer_size: the checkpoint's replay is for 64 transitions"):
        other.replay.load_state_dict(past.replay.state_dict())


def files(run: Path) -> dict[str, tuple[int, int, int]]:
    """Shared file -> inode, time of change, bytes."""
    found = {path.name: path.stat() for path in (run / "checkpoints" / "shared").iterdir()}
    return {name: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for name, stat in found.items()}


def test_a_checkpoint_writes_only_what_is_new(tmp_path: Path) -> None:
    """A million frames' layout, its frames small: the replay goes around, and each checkpoint adds what came since."""
    leaf = SimpleNamespace(name="obs", shape=(4, 4, 4), dtype=np.dtype(np.uint8))
    env = cast(BatchEnv, SimpleNamespace(num_envs=2_000, leaves=[leaf], phantoms=False, id="Small"))
    replay = Replay(1_000_000, env, (), torch.int64, CPU, stack=4)
    rng = np.random.default_rng(0)
    obs = {"obs": np.zeros((2_000, 4, 4, 4), np.uint8)}
    replay.start(obs, None)

    def gather(steps: int) -> None:
        for _ in range(steps):
            end = rng.random(2_000) < 0.01
            obs["obs"][:, :-1] = obs["obs"][:, 1:]
            obs["obs"][:, -1] = rng.integers(255, size=(2_000, 4, 4))
            final = {"obs": obs["obs"].copy()}
            obs["obs"][end] = obs["obs"][end, -1:]
            replay.add(rng.integers(5, size=2_000), Step(obs, rng.normal(size=2_000), end & False, end, final))

    def save(step: int) -> int:
        """Bytes of the checkpoint's own files."""
        path = checkpoint.save(tmp_path, step, {"replay": replay.state_dict()}, {}, {})
        checkpoint.prune(tmp_path, 2)
        return sum(file.stat().st_size for file in path.iterdir())

    per_transition = 16 + 8 + 3 * 4 + 4  # frame, action, three floats, age
    segment = replay.segment_steps * 2_000
    assert segment == 16_000
    gather(500)
    save(1)
    before = files(tmp_path)
    assert len(before) == 1_000_000 // segment
    gather(25)
    own = save(2)
    after = files(tmp_path)
    assert before.items() <= after.items(), "what was there is neither written again nor touched"
    new = sum(size for name, (_, _, size) in after.items() if name not in before) + own
    assert new < 1.5 * (50_000 + segment) * per_transition
    assert sum(size for _, _, size in after.values()) > 0.9 * 1_000_000 * per_transition
    gather(250)  # the first checkpoint goes now, and with it what only it needed
    save(3)
    assert not before.items() <= files(tmp_path).items()
    gather(750)  # right around, since the checkpoint before
    save(4), save(5)
    last = files(tmp_path)
    assert not last.keys() & after.keys() and len(last) <= 1_000_000 // segment + 1
    again = Replay(1_000_000, env, (), torch.int64, CPU, stack=4)
    again.load_state_dict(checkpoint.load(tmp_path / "checkpoints" / "step_5")[0]["replay"])
    places = replay.draw(20_000, torch.Generator().manual_seed(0), 3)
    one, other = replay.gather(places, 3, 0.9), again.gather(places, 3, 0.9)
    assert all(torch.equal(one[key], other[key]) for key in ("action", "reward", "discount"))
    assert all(torch.equal(one[key]["obs"], other[key]["obs"]) for key in ("obs", "next_obs"))
