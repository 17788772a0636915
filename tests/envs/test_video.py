from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlgym.config.schema import EnvConfig
from rlgym.envs.episodes import Stateless
from rlgym.envs.spaces import Array, Obs
from rlgym.envs.video import record
from rlgym.errors import RequestError


class Screen(gym.Env[Any, Any]):
    """Shows its time as brightness, on a screen with odd sides; ends after four steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(0, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.full(1, self.t, np.float32), float(action), self.t == 4, False, {}

    def render(self) -> Any:
        return np.full((65, 99, 3), self.t * 50, np.uint8)


class Alternating(Stateless):
    """Acts by the parity of the time, and counts the episodes that it is told of."""

    episodes = 0

    def start(self, envs: int) -> None:
        assert envs == 1

    def ended(self, rows: Sequence[int]) -> None:
        self.episodes += len(rows)

    def act(self, obs: Obs, mask: Array | None = None, sampler: Any = None) -> Array:
        assert mask is None
        return (obs["obs"][:, 0] % 2).astype(int)


class Left(Stateless):
    def act(self, obs: Obs, mask: Array | None = None, sampler: Any = None) -> Array:
        return np.zeros(1, int)


def test_every_episode_is_in_the_film(tmp_path: Path) -> None:
    import imageio_ffmpeg

    if "Screen-v0" not in gym.registry:
        gym.register("Screen-v0", f"{__name__}:Screen")
    policy = Alternating()
    video = record(EnvConfig(id="Screen-v0"), policy, 2, 0, tmp_path / "new" / "film.mp4")
    assert policy.episodes == 2
    assert [(e.ret, e.length) for e in video.episodes] == [(2.0, 4), (2.0, 4)]
    assert (video.frames[:, 0, 0, 0] // 50).tolist() == [0, 1, 2, 3] * 2
    assert imageio_ffmpeg.count_frames_and_secs(str(video.path))[0] == len(video.frames)
    assert next(imageio_ffmpeg.read_frames(str(video.path)))["source_size"] == (98, 64)
    assert video.fps == 10


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot be filmed: it has no render mode rgb_array \(it has: none\)"):
        record(EnvConfig(id="Diary-v0"), Alternating(), 1, 0, tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_real_one(tmp_path: Path) -> None:
    pytest.importorskip("pygame")
    video = record(EnvConfig(id="CartPole-v1"), Left(), 1, 3, tmp_path / "film.mp4")
    (episode,) = video.episodes
    assert len(video.frames) == episode.length and video.frames.std() > 0
    assert video.path.stat().st_size > 500
