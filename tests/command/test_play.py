"""`play RUN`: a film or a window of the policy, the same episodes in both, and one line where nothing can be shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import rlgym
from rlgym.config.schema import EnvConfig
from rlgym.envs import show as showing
from rlgym.envs.episodes import Stateless, evaluate_policy
from rlgym.envs.make import make_env
from rlgym.envs.show import show
from rlgym.envs.spaces import Array, Obs
from rlgym.errors import RequestError
from tests.command.conftest import Answer

SMALL = ["tuned=off", "steps=64", "agent.n_steps=32", "agent.batch_size=32", "env.num_envs=2", "evaluate.episodes=1"]


class Line(gym.Env[Any, Any]):
    """Ends after 12 steps; knows of no render modes."""

    observation_space = spaces.Box(-1, 1e6, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.full(1, self.t, np.float32), 1.0, self.t == 12, False, {}


class Screen(Line):
    """Gives pictures and opens no window."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}

    def render(self) -> Any:
        return np.full((32, 48, 3), 20 * self.t, np.uint8)


class Blind(Line):
    """Has never heard of render_mode."""

    def __init__(self) -> None:
        super().__init__()


class Still(Stateless):
    def act(self, obs: Obs, mask: Array | None = None, sampler: Any = None) -> Array:
        return np.zeros(1, np.int64)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for cls in (Line, Screen, Blind):
        gym.register(f"{cls.__name__}-v0", cls)  # type: ignore[arg-type]
    yield
    for cls in (Line, Screen, Blind):
        gym.registry.pop(f"{cls.__name__}-v0")


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "cartpole"
    rlgym.train("env=CartPole-v1", *SMALL, "display=quiet", f"run.dir={run}")
    return run


def told(answer: Answer) -> list[tuple[float, int]]:
    assert (answer.code, answer.err) == (0, ""), answer
    found = re.findall(r"^episode \d+: return (\S+), (\d+) steps$", answer.out, re.M)
    return [(float(score), int(length)) for score, length in found]


def test_a_seed_shows_the_episodes_that_it_plays(cartpole: Path, command: Callable[..., Answer]) -> None:
    """The film's are those of Gymnasium's environment and of the batched one, and others with another seed."""
    import imageio_ffmpeg

    episodes = told(command("play", str(cartpole), "episodes=3", "seed=11"))
    env = make_env(EnvConfig("CartPole-v1"), num_envs=1)
    records = evaluate_policy(rlgym.load(cartpole), env, 3, 11).records["episodes"]
    assert episodes == [(record["return"], record["length"]) for record in records]
    (film,) = (cartpole / "videos").glob("*_seed_11.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] == sum(length for _, length in episodes)
    assert told(command("play", str(cartpole), "episodes=3", "seed=12")) != episodes
    first, again = (told(command("play", str(cartpole), "episodes=2")) for _ in range(2))
    assert first == again != episodes[:2]


def test_a_window_shows_the_same_episodes(
    cartpole: Path, command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SDL's dummy driver stands in for the screen; an environment that only gives pictures gets Gymnasium's window."""
    pytest.importorskip("pygame")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    films = len(list((cartpole / "videos").glob("*.mp4")))
    shown = told(command("play", str(cartpole), "render=window", "seed=11"))
    assert len(list((cartpole / "videos").glob("*.mp4"))) == films
    assert shown == told(command("play", str(cartpole), "seed=11"))
    found = show(Still(), EnvConfig("Screen-v0"), tmp_path, 2, 0, "window")
    assert found == {"episodes": [{"return": 12.0, "length": 12}] * 2}
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_shown_is_one_line(
    cartpole: Path, command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for words in ("seat=second", "seat=first", "against=random"):
        answer = command("play", str(cartpole), words)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err == f"rlgym: {words} has no effect because env=CartPole-v1 is no game of rlgym's\n"
    if sys.platform.startswith("linux"):
        answer = command("play", str(cartpole), "render=window")
        assert (answer.code, answer.out) == (2, "") and len(answer.err.splitlines()) == 1
        assert "there is no display here; render=video writes a file" in answer.err
    monkeypatch.setenv("DISPLAY", ":0")
    for id, render, words in [
        ("Line-v0", "video", r"cannot be filmed: it has no render mode rgb_array \(it has: none\)"),
        ("Line-v0", "window", r"cannot be shown: it has no render mode human \(it has: none\)"),
        ("Blind-v0", "video", "cannot be filmed: its constructor takes no render_mode"),
        ("Blind-v0", "window", "cannot be shown: its constructor takes no render_mode"),
    ]:
        with pytest.raises(RequestError, match=f"^env={id} {words}$"):
            show(Still(), EnvConfig(id), tmp_path, 1, 0, render)
    assert list(tmp_path.iterdir()) == []


def test_an_episode_that_goes_on_is_cut_off_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(showing, "ENDLESS", 20)
    found = show(Still(), EnvConfig("Screen-v0"), tmp_path, 5, 0, "video")
    assert found["episodes"] == [{"return": 12.0, "length": 12}, {"return": 8.0, "length": 8, "cut": True}]
    told = capsys.readouterr().out
    assert "episode 1: return 12, 12 steps\nepisode 2: return 8, 8 steps, cut off: it goes on\n" in told
