"""Shows episodes of a policy in a window, or as a video in a run folder."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from rlgym.config.schema import EnvConfig
from rlgym.envs.episodes import ENDLESS, Acts, evaluate_policy
from rlgym.envs.video import drawn, record
from rlgym.errors import RequestError


def show(policy: Acts, config: EnvConfig, folder: Path, episodes: int, seed: int, render: str) -> dict[str, Any]:
    """Print and return the returns of `episodes`; videos are written to videos/ in `folder`. A seed gives the same
    episodes either way."""
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
