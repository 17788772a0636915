"""Small environments whose every number is known, for the tests of this folder."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode


class Diary(gym.Env[Any, Any]):
    """Observation [episode, t]; ends after `length` steps: terminated in even episodes, truncated in odd ones."""

    def __init__(self, length: int = 3, kind: str = "box", render_mode: str | None = None) -> None:
        self.length, self.kind, self.render_mode = length, kind, render_mode
        box = spaces.Box(-1, 1e6, (2,), np.float32)
        self.observation_space: gym.Space[Any] = {
            "box": box,
            "dict": spaces.Dict({"when": box, "where": spaces.Tuple((spaces.Discrete(5, start=3), box))}),
            "tuple": spaces.Tuple((box, spaces.MultiBinary(2))),
        }[kind]
        self.action_space = spaces.Discrete(2)
        self.episode = -1
        self.t = 0

    def _observation(self) -> Any:
        now = np.array([self.episode, self.t], np.float32)
        if self.kind == "dict":
            return {"when": now, "where": (3 + self.t % 5, now)}
        return now if self.kind == "box" else (now, np.array([self.t % 2, 1], np.int8))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        end = self.t == self.length
        info = {"is_success": self.episode % 2 == 0} if end else {}
        even = self.episode % 2 == 0
        return self._observation(), 1.0, end and even, end and not even, info


class Misbehaving(gym.Env[Any, Any]):
    """Does the wrong thing `how` in its third step."""

    def __init__(self, how: str = "", render_mode: str | None = None) -> None:
        self.how = how
        self.render_mode = render_mode
        assert how != "never made"
        if how == "exits":
            sys.exit(5)
        if how == "no license":
            raise ValueError("no\nlicense")
        self.observation_space: gym.Space[Any] = spaces.Box(-1, 1, (2,), np.float32)
        if how == "discrete":
            self.observation_space = spaces.Discrete(3)
        if how == "key":
            self.observation_space = spaces.Dict({"a": self.observation_space, "b": self.observation_space})
        self.action_space = spaces.Discrete(2)
        self.t = 0

    def _fine(self) -> Any:
        fine = np.zeros(2, np.float32)
        return {"discrete": 1, "key": {"a": fine, "b": fine}}.get(self.how, fine)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._fine(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        obs = self._fine()
        reward: Any = 0.0
        if self.t == 3:
            match self.how:
                case "raise":
                    raise ZeroDivisionError("the world\nended")
                case "nan":
                    obs = np.array([0.0, np.nan], np.float32)
                case "reward":
                    reward = float("nan")
                case "shape":
                    obs = np.zeros(3, np.float32)
                case "dtype":
                    obs = np.array(["a", "b"])
                case "bounds":
                    obs = np.array([0.0, 5.0], np.float32)
                case "bounds and nan":
                    obs = np.array([5.0, np.nan], np.float32)
                case "exit":
                    sys.exit("the world ended")
                case "interrupt":
                    raise KeyboardInterrupt
                case "vector reward":
                    reward = np.ones(2)
                case "no reward":
                    reward = None
                case "rounding":
                    obs = np.array([0.0, 1.00001], np.float32)
                case "discrete":
                    obs = 7
                case "key":
                    obs = {"a": obs["a"]}
                case "final":
                    return np.array([0.0, np.inf], np.float32), 0.0, True, False, {}
                case "die":
                    os.kill(os.getpid(), signal.SIGKILL)
        return obs, reward, False, False, {}


class Casual(Diary):
    """Gives no info, neither with reset nor with a step, and rewards as arrays of one number."""

    def reset(self, **how: Any) -> Any:
        return super().reset(**how)[0], None

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, _ = super().step(action)
        return obs, np.array([reward]), terminated, truncated, None


class OnlyOne(Diary):
    """Of which one copy may live at a time, as of a simulator on a port."""

    living = 0

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if OnlyOne.living:
            raise RuntimeError("port 2000 is taken")
        OnlyOne.living += 1

    def close(self) -> None:
        OnlyOne.living -= 1


class Masked(gym.Env[Any, Any]):
    """Allows one action, drawn anew at each reset and step and told only by the mask; ends the episode at t = 4."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Box(-1, 5, (1,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.render_mode = render_mode

    def _tell(self) -> tuple[Any, dict[str, Any]]:
        self.allowed = int(self.np_random.integers(3))
        mask = np.zeros(3, np.int8)
        mask[self.allowed] = 1
        return np.array([self.allowed], np.float32), {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._tell()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        reward = 1.0 if action == self.allowed else 0.0
        obs, info = self._tell()
        return obs, reward, self.t == 4, False, info


class Whimsical(gym.Env[Any, Any]):
    """Samples from its own spaces, and, if `hidden`, remembers across episodes what no generator tells."""

    def __init__(self, hidden: bool = False, render_mode: str | None = None) -> None:
        self.observation_space = spaces.Dict({"x": spaces.Box(0, 1, (2,), np.float32), "n": spaces.Discrete(9)})
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.hidden = hidden
        self.resets = 0
        self.render_mode = render_mode

    def _observe(self) -> Any:
        obs = self.observation_space.sample()
        obs["x"][0] = self.resets / 1000 if self.hidden else self.action_space.sample()[0] ** 2
        return obs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.resets = 0, self.resets + 1
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        action *= 0.5  # changes its action in place: the record of actions must not see it
        return self._observe(), float(action[0]), self.t == 7, False, {}


class DiaryVector(gym.vector.VectorEnv[Any, Any, Any]):
    """`Diary` as somebody's own vector environment, in any autoreset mode; lane i's episodes last 3 + i steps."""

    def __init__(self, num_envs: int = 3, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **_: Any) -> None:
        self.metadata = {"autoreset_mode": mode}
        self.mode, self.num_envs = mode, num_envs
        self.single_observation_space = spaces.Box(-1, 1e6, (2,), np.float32)
        self.single_action_space = spaces.Discrete(2)
        self.lanes = [Diary(3 + i) for i in range(num_envs)]
        self.ended = np.zeros(num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            self.lanes[i].reset()
        self.ended[mask] = False
        return self._observe(), {}

    def _observe(self) -> Any:
        return np.stack([lane._observation() for lane in self.lanes])

    def step(self, actions: Any) -> Any:
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        infos: dict[str, Any] = {}
        for i, lane in enumerate(self.lanes):
            if self.mode == AutoresetMode.NEXT_STEP and self.ended[i]:
                lane.reset()
                continue
            assert not (self.mode == AutoresetMode.DISABLED and self.ended[i])
            obs, rewards[i], terminated[i], truncated[i], info = lane.step(actions[i])
            if self.mode == AutoresetMode.SAME_STEP and (terminated[i] or truncated[i]):
                infos = self._add_info(infos, {"final_obs": obs, "final_info": info}, i)
                lane.reset()
            else:
                infos = self._add_info(infos, info, i)
        self.ended = terminated | truncated
        return self._observe(), rewards, terminated, truncated, infos


def register() -> None:
    if "Diary-v0" in gym.registry:
        return
    for kind in (Diary, Misbehaving, Casual, OnlyOne, Masked, Whimsical):
        gym.register(f"{kind.__name__}-v0", f"{__name__}:{kind.__name__}")
    gym.register("DiaryVector-v0", vector_entry_point=f"{__name__}:DiaryVector")
