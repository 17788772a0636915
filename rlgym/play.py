"""`play RUN`: watch a finished policy, as a video in the run folder or in a window."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from rlgym.config import EnvConfig
from rlgym.config_file import load_config
from rlgym.envs.episodes import ENDLESS, Acts, evaluate_policy, fresh_seed
from rlgym.envs.game_ids import is_game
from rlgym.envs.video import drawn, record
from rlgym.errors import RequestError
from rlgym.loading import load
from rlgym.run import Run


def play(folder: Path, words: dict[str, Any]) -> dict[str, Any]:
    """Show `episodes` episodes with the run's `checkpoint`; prints and returns their returns and a video's file."""
    config = load_config(folder, trust=words["trust"])
    if is_game(config.env.id):
        from rlgym.games.playing import play as play_game  # imports torch

        if words["render"] == "window":
            raise RequestError("render=window: games are played in the terminal (render=terminal) or filmed (video)")
        return play_game(config, folder, words)
    if words["against"]:
        raise RequestError(
            f"against={words['against']} has no effect because env={config.env.id} is no game of rlgym's"
        )
    if words["render"] == "terminal":
        raise RequestError(f"render=terminal: env={config.env.id} is no game of rlgym's; video or window would do")
    policy = load(Run(folder), words["checkpoint"], trust=words["trust"])
    seed = fresh_seed(config.seed) if words["seed"] is None else words["seed"]
    render = "video" if words["render"] == "auto" else words["render"]
    return show(policy, config.env, folder, words["episodes"], seed, render)


def show(policy: Acts, config: EnvConfig, folder: Path, episodes: int, seed: int, render: str) -> dict[str, Any]:
    """`play` for any policy; a video goes into the `folder`'s videos/. A seed gives the same episodes in both."""
    if render == "window":
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise RequestError("render=window: there is no display here; render=video writes a file")
        with drawn(config, "human") as env:
            shown: dict[str, Any] = {"episodes": evaluate_policy(policy, env, episodes, seed).records["episodes"]}
    else:
        path = folder / "videos" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_seed_{seed}.mp4"
        video = record(config, policy, episodes, seed, path, max_frames=ENDLESS, thumbnails=False)
        shown = {"episodes": [{"return": e.ret, "length": e.length} for e in video.episodes], "video": str(path)}
        if video.running is not None:
            shown["episodes"].append({"return": video.running.ret, "length": video.running.length, "cut": True})
    for index, episode in enumerate(shown["episodes"], 1):
        end = ", cut off: it goes on" if episode.get("cut") else ""
        print(f"episode {index}: return {episode['return']:.4g}, {episode['length']} steps{end}")
    if "video" in shown:
        print(f"written to {shown['video']}")
    return shown
